//! `infra/terraform` as it is in the repository, and with each fault of `faults.toml`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use push0_infra_check::{Schema, Tree, everything};
use serde::Deserialize;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What was not checked is said where it is seen, also of a test that passes; in CI it is a failure.
fn not_checked(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "not checked: {what}");
    let _ = writeln!(std::io::stderr(), "not checked: {what}");
}

/// The provider's schema; none, and said so, where it cannot be had.
fn schema() -> Option<Rc<Schema>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory has one");
    let path = target.join("terraform-schema/aws.json");
    if !path.exists() {
        let fetched =
            Command::new(repository().join("scripts/terraform-schema")).env("CARGO_TARGET_DIR", target).status();
        if !fetched.is_ok_and(|status| status.success()) {
            not_checked("infra/terraform against the provider's schema (scripts/terraform-schema could not fetch it)");
            return None;
        }
    }
    let text = std::fs::read_to_string(path).expect("the schema can be read");
    Some(Rc::new(Schema::parse(&text).expect("the schema is one")))
}

fn tree() -> Tree {
    Tree::of_repository(&repository()).expect("the repository can be read")
}

#[test]
fn terraform_fits_the_provider_the_topology_the_metrics_and_the_code() {
    let Some(schema) = schema() else { return };
    let findings: Vec<String> = everything(tree(), &schema).iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[derive(Deserialize)]
struct Faults {
    fault: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    file: String,
    old: String,
    new: String,
    says: String,
}

#[test]
fn each_fault_is_found_for_what_it_is() {
    let Some(schema) = schema() else { return };
    let list = include_str!("../faults.toml");
    let faults: Faults = toml::from_str(list).expect("faults.toml can be read");
    assert!(faults.fault.len() >= 20, "{} faults", faults.fault.len());
    let mut missed = Vec::new();
    for Fault { name, file, old, new, says } in &faults.fault {
        let mut tree = tree();
        if let Err(why) = tree.replace(file, old, new) {
            missed.push(format!("{name}: {why}"));
            continue;
        }
        let found: Vec<String> = everything(tree, &schema).iter().map(ToString::to_string).collect();
        if !found.iter().any(|finding| finding.contains(says)) {
            let found = found.iter().take(6).map(|finding| format!("\n    {finding}")).collect::<String>();
            missed.push(format!("{name}: nothing says `{says}`; {} findings:{found}", found.len()));
        }
    }
    assert!(missed.is_empty(), "{} of {} are missed:\n{}", missed.len(), faults.fault.len(), missed.join("\n"));
}
