//! Three pipelines prove each block, and one of them always fails: `examples/quorum`, with real processes and real proofs.

use std::path::{Path, PathBuf};
use std::process::Command;

use push0_tests::chaos::Installation;
use push0_tests::chaos::installation::{one_of_several, program, wait_until};
use serde_json::Value;

const FILES: [&str; 5] = ["push0.toml", "rollup-k8.toml", "rollup-k16.toml", "broken.toml", "broken.sh"];

fn example() -> Installation {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quorum");
    let installation = Installation::of(&[]);
    for file in FILES {
        // A copy keeps the script's mode.
        std::fs::copy(from.join(file), installation.path(file)).expect("the example is copied");
    }
    installation
}

fn blocks(installation: &Installation, count: usize) -> Vec<PathBuf> {
    let blocks = installation.path("blocks");
    let mut rollup = Command::new(program("push0-rollup"));
    rollup.args(["random", "--chain", "demo", "--blocks", &count.to_string(), "--transfers", "20", "--out"]);
    let made = rollup.arg(&blocks).output().expect("the tool runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (1..=count).map(|number| blocks.join(format!("{number}.json"))).collect()
}

fn json(installation: &Installation, args: &[&str]) -> Value {
    let output = installation.cli(&[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn two_of_three_provers_carry_the_chain_and_why_names_the_one_that_fails() {
    let mut installation = example();
    let files = blocks(&installation, 2);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&files);
    // Proving takes as long as the machine takes.
    let stream = loop {
        let stream = installation.cli_ok(&["finalized", "demo"]);
        if stream.lines().count() == files.len() {
            break stream;
        }
        let halted = json(&installation, &["status", "demo"])["chains"][0]["chain"]["halt"].clone();
        assert!(halted.is_null(), "{halted}");
        let failed = json(&installation, &["block", "demo", "1"])["block"]["status"].clone();
        assert_ne!(failed["status"], "failed", "{failed}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    let rows: Vec<Value> = stream.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (row, number) in rows.iter().zip(1..) {
        let finality = &row["finality"];
        assert_eq!((&row["number"], &finality["kind"]), (&Value::from(number), &"proof".into()));
        let others = finality["others"].as_array().unwrap();
        assert!(others.len() == 1 && others[0]["pipeline"] != finality["pipeline"], "{finality}");

        // Both circuits state the same, and the third pipeline is named with its reason.
        let block = json(&installation, &["block", "demo", &number.to_string()])["block"].clone();
        let runs = block["runs"].as_array().unwrap();
        let state = |at: usize| (runs[at]["name"].as_str().unwrap(), runs[at]["state"]["is"].as_str().unwrap());
        assert_eq!(
            [state(0), state(1), state(2)],
            [("rollup-k8", "proven"), ("rollup-k16", "proven"), ("broken", "failed")]
        );
        assert!(runs[0]["state"]["outputs"].is_string());
        assert_eq!(runs[0]["state"]["outputs"], runs[1]["state"]["outputs"]);
        let why = installation.cli_ok(&["why", "demo", &number.to_string()]);
        let named = why.lines().find(|line| line.contains("pipeline broken")).unwrap_or_else(|| panic!("{why}"));
        assert!(named.contains("failed: P0-") && named.contains("this prover is broken"), "{why}");
        assert!(!why.contains("rollup-k8: failed") && why.contains("2 of 3 pipelines have proven it; 2 must"), "{why}");
    }
    // Every proof is checked, those of both circuits.
    let verified = json(&installation, &["verify", "demo"]);
    assert_eq!((&verified["verified"], &verified["bad"], &verified["unchecked"]), (&2.into(), &0.into(), &0.into()));
}

/// Two echo pipelines whose proofs state different things from block 2 on.
#[test]
fn provers_that_state_different_things_stop_the_chain_until_one_is_taken_out() {
    let config = |pipelines: &str| {
        format!("data = \"data\"\n[[chain]]\nid = \"demo\"\n{pipelines}\n[functions]\nreaper_ms = 500\n")
    };
    let mut installation = Installation::of(&[
        ("push0.toml", &config("pipelines = [\"one.toml\", \"two.toml\"]")),
        ("one.toml", &one_of_several("one", 2, "")),
        ("two.toml", &one_of_several("two", 3, "states = \"something else\"")),
    ]);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&[installation.block(1, 2, "").0]);
    let halt = || json(&installation, &["status", "demo"])["chains"][0]["chain"]["halt"]["why"].clone();
    wait_until("the chain has halted", || halt() == "disagreement");
    assert_eq!(installation.cli_ok(&["finalized", "demo"]), "", "nothing is handed on");
    let why = installation.cli_ok(&["why", "demo", "1"]);
    for wanted in
        ["nothing from it on becomes final", "one says outputs", "two says outputs", "push0 retry demo 1", "P0-035"]
    {
        assert!(why.contains(wanted), "{wanted:?} is not in\n{why}");
    }
    assert!(installation.log().contains("P0-035"), "the log has the alarm");

    // The wrong one is taken out, and the block proven with what is left.
    installation.kill_tree();
    std::fs::write(installation.path("push0.toml"), config("pipeline = \"one.toml\"")).unwrap();
    installation.start();
    wait_until("push0 is up again", || installation.status().is_some());
    assert_eq!(installation.cli_ok(&["finalized", "demo"]), "", "a restart hands nothing on either");
    installation.cli_ok(&["retry", "demo", "1"]);
    wait_until("block 1 is final", || installation.cli_ok(&["finalized", "demo"]).lines().count() == 1);
    assert_eq!(json(&installation, &["verify", "demo"])["verified"], 1);
}
