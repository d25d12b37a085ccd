//! `infra/terraform` as it is in the repository, and with each fault of `faults.toml`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use push0_infra_check::{EXAMPLES, Finding, INSTALLATION, Schema, Tree, everything};
use serde::Deserialize;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What infra/terraform uses of the schema, for where the whole was not fetched.
const USED: &str = include_str!("../aws-schema.json");

/// The provider's whole schema, where `scripts/terraform-schema` has put it.
fn schema() -> Rc<Schema> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory has one");
    let whole = std::fs::read_to_string(target.join("terraform-schema/aws.json"));
    Rc::new(Schema::parse(whole.as_deref().unwrap_or(USED)).expect("the schema is one"))
}

#[test]
fn the_committed_schema_has_what_is_used() {
    let used = Rc::new(Schema::parse(USED).expect("the committed schema is one"));
    let findings = said(&everything(tree(), &used, &[EXAMPLES, INSTALLATION]));
    assert!(findings.is_empty(), "scripts/terraform-schema --used writes it anew:\n{}", findings.join("\n"));
}

fn tree() -> Tree {
    Tree::of_repository(&repository()).expect("the repository can be read")
}

fn said(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn terraform_fits_the_provider_the_topology_the_metrics_and_the_code() {
    let schema = schema();
    let findings = said(&everything(tree(), &schema, &[EXAMPLES, INSTALLATION]));
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
    let schema = schema();
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
        let found = said(&everything(tree, &schema, &[INSTALLATION]));
        if !found.iter().any(|finding| finding.contains(says)) {
            let found = found.iter().take(6).map(|finding| format!("\n    {finding}")).collect::<String>();
            missed.push(format!("{name}: nothing says `{says}`; {} findings:{found}", found.len()));
        }
    }
    assert!(missed.is_empty(), "{} of {} are missed:\n{}", missed.len(), faults.fault.len(), missed.join("\n"));
}

/// `terraform` with these arguments in a folder; none, and said so, where the program is not there.
fn terraform(args: &[&str], dir: &Path) -> Option<(bool, String)> {
    let done = match Command::new("terraform").args(args).current_dir(dir).env("CHECKPOINT_DISABLE", "1").output() {
        Ok(done) => done,
        Err(error) => {
            // Not in CI either: the program is no part of the toolchain.
            let _ = writeln!(std::io::stderr(), "not checked: terraform {} ({error})", args.join(" "));
            return None;
        }
    };
    let said = [done.stdout, done.stderr].concat();
    Some((done.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn terraform_is_formatted() {
    let Some((is_formatted, said)) = terraform(&["fmt", "-check", "-recursive", "-diff"], &repository().join("infra"))
    else {
        return;
    };
    assert!(is_formatted, "{said}");
}

/// Modules without a provider: `terraform test` needs nothing but the program.
#[test]
fn modules_of_pure_expressions_pass_their_own_tests() {
    for module in ["topology", "scaling"] {
        let dir = repository().join("infra/terraform/modules").join(module);
        let Some((passes, said)) = terraform(&["test", "-no-color"], &dir) else { return };
        assert!(passes, "{module}:\n{said}");
        assert!(said.contains("Success!") && !said.contains("Success! 0 passed"), "{module} tests nothing:\n{said}");
    }
}
