//! That every test named in docs/incidents.md, and every bug of tests/mutants, is where it is said to be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").to_owned()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Names of the functions that `#[test]` or `#[tokio::test]` stands above.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    for of in ["benches", "cli", "core", "functions", "gpu-worker", "provers", "runtime", "tests"] {
        sources(&root().join(of), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test && !line.starts_with("//")) {
                names.extend(rest.split_once('(').map(|(name, _)| name.to_owned()));
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_incident_has_the_tests_that_its_row_names() {
    let text = fs::read_to_string(root().join("docs/incidents.md")).unwrap();
    let tests = tests();
    let mut rows = 0;
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| incident")) {
        let last = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).filter(|name| !name.contains(' ')).collect();
        assert!(!names.is_empty() || last.contains("push0 bench"), "no test is named: {line}");
        for name in names {
            assert!(tests.contains(name), "there is no test {name}");
        }
        rows += 1;
    }
    assert!(rows > 30, "{rows} incidents");
}

#[test]
fn every_mutant_still_has_its_place() {
    let text = fs::read_to_string(root().join("tests/mutants/mutants.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let mutants = table["mutant"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for mutant in mutants {
        let field = |of: &toml::Value, name: &str| of[name].as_str().unwrap().to_owned();
        let (name, file) = (field(mutant, "name"), field(mutant, "file"));
        let source = fs::read_to_string(root().join(&file)).unwrap();
        for edit in std::iter::once(mutant).chain(mutant.get("also")) {
            let old = field(edit, "old");
            let (times, is_change) = (source.matches(&old).count(), old != field(edit, "new"));
            assert_eq!(
                (times, is_change),
                (1, true),
                "{name}: the text to replace stands {times} times in {file}:\n{old}"
            );
        }
        assert!(!field(mutant, "bug").is_empty() && names.insert(name));
    }
    assert!(names.len() >= 20, "{} mutants", names.len());
}

#[test]
fn every_test_that_is_to_bring_a_transition_about_exists() {
    let tests = tests();
    let exceptions = push0_tests::transitions::exceptions().unwrap();
    for test in exceptions.values().filter_map(|exception| exception.test.as_ref()) {
        assert!(tests.contains(test), "there is no test {test}");
    }
    let text = fs::read_to_string(root().join("docs/transitions.md")).unwrap();
    for exception in exceptions.values() {
        let is_shown = text.contains(&exception.reason);
        assert!(
            is_shown || exception.when == push0_tests::transitions::When::Rarely,
            "docs/transitions.md lacks: {}",
            exception.reason
        );
    }
}
