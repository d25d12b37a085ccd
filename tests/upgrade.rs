//! Stop, new binary, start: a data directory that an earlier push0 left in the middle of its work is taken up where it was.
//!
//! `fixtures/data-of-0.1` was written by the first version, killed while block 2 was being proven: block 1 is final, blocks 2 and 3 are
//! proving with tasks in hand and waiting, block 5 is parked, block 4 was never submitted. Keep it as it is: this and every later build
//! must read it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use push0_tests::chaos::Installation;
use push0_tests::chaos::installation::{program, wait_until};
use serde_json::Value;

const ENGINE: &str = include_str!("fixtures/data-of-0.1/engine.sql");
const BLOBS: &str = include_str!("fixtures/data-of-0.1/blobs.json");

const CONFIG: &str = "data = \"data\"\n[[chain]]\nid = \"demo\"\npipeline = \"echo.toml\"\nwindow = 2\n\
                      [workers]\ncount = 2\nlease_ms = 1000\n[functions]\nreaper_ms = 500\n";

fn pipeline() -> String {
    let stage = |name: &str, kind: &str| format!("[[stage]]\nname = \"{name}\"\nkind = \"{kind}\"\n");
    let stages = [stage("split", "split"), stage("prove", "map"), stage("join", "join"), stage("verify", "verify")];
    let prover = format!("[prover.echo]\nform = \"session\"\ncommand = [{:?}]\n", program("push0-echo"));
    format!("name = \"echo\"\n{}{prover}", stages.concat())
}

/// The old data directory, in place.
fn old_installation() -> Installation {
    let installation = Installation::of(&[("push0.toml", CONFIG), ("echo.toml", &pipeline())]);
    let data = installation.path("data");
    fs::create_dir(&data).unwrap();
    write_database(&data.join("engine.db"), ENGINE);
    let blobs: BTreeMap<String, String> = serde_json::from_str(BLOBS).unwrap();
    for (name, content) in blobs {
        let file = data.join("blobs").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    installation
}

fn write_database(file: &Path, sql: &str) {
    rusqlite::Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn what_an_earlier_version_left_half_done_is_finished() {
    let mut installation = old_installation();
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let (file, _) = installation.block(4, 2, "");
    installation.submit(&[file]);
    let stream = || -> Vec<Value> {
        let lines = installation.cli_ok(&["finalized", "demo"]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    wait_until("all five are final", || stream().len() == 5);
    for (at, message) in (1u64..).zip(stream()) {
        assert_eq!((message["seq"].as_u64(), message["number"].as_u64()), (Some(at), Some(at)), "{message}");
        assert_eq!(message["epoch"], 1, "nothing was begun anew: {message}");
        assert_eq!(message["finality"]["kind"], "proof", "{message}");
    }
    installation.cli_ok(&["verify", "demo"]);
    // What had been accepted was not proven again.
    let runs = installation.invocations();
    for done in ["demo/2/e1/bb8054a8f1b50d9e/0.0.0/", "demo/2/e1/bb8054a8f1b50d9e/1.0.0/", "demo/1/"] {
        assert!(!runs.iter().any(|task| task.starts_with(done)), "{done} was run again: {runs:?}");
    }
}

#[test]
fn a_data_directory_of_a_newer_version_is_left_alone() {
    let installation = old_installation();
    let database = installation.path("data/engine.db");
    write_database(&database, "PRAGMA user_version = 99");
    let before = fs::read(&database).unwrap();
    let output = Command::new(program("push0")).arg("up").current_dir(installation.directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("P0-209") && said.contains("99") && said.contains("next:"), "{said}");
    assert!(fs::read(&database).unwrap() == before, "something was written");
}
