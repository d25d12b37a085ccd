//! Eight blocks of the demonstration rollup and one proof over their proofs. Minutes of proving, so it runs when it is asked for:
//! `cargo test -p push0-tests --test range_proof -- --ignored`.

use std::path::Path;
use std::process::Command;

use push0_tests::chaos::Installation;
use push0_tests::chaos::installation::{program, wait_until};
use serde_json::Value;

const CONFIG: &str = r#"
data = "data"
[[chain]]
id = "demo"
pipeline = "rollup.toml"
window = 8
[[chain]]
id = "demo-range"
of = "demo"
batch = 8
pipeline = "rollup-range.toml"
[workers]
count = 2
threads = 1
"#;

fn rollup(at: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new(program("push0-rollup")).current_dir(at).args(args).output().expect("it is built");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[test]
#[ignore = "minutes of proving"]
fn a_range_proof_over_eight_blocks_verifies_and_for_other_blocks_it_does_not() {
    let mut installation = Installation::of(&[
        ("push0.toml", CONFIG),
        ("rollup.toml", include_str!("../examples/rollup.toml")),
        ("rollup-range.toml", include_str!("../examples/rollup-range.toml")),
    ]);
    let at = installation.directory.path().to_owned();
    let (made, said) = rollup(&at, &["random", "--seed", "1", "--blocks", "8", "--transfers", "4", "--out", "blocks"]);
    assert!(made, "{said}");
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&(1..=8).map(|number| at.join(format!("blocks/{number}.json"))).collect::<Vec<_>>());
    let stream = |chain: &str| -> Vec<Value> {
        let lines = installation.cli_ok(&["finalized", chain]);
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
    };
    // Proving takes as long as the machine takes.
    while stream("demo-range").is_empty() {
        let why = installation.cli(&["status", "demo-range"]);
        let why = String::from_utf8_lossy(&why.stdout).into_owned();
        assert!(!why.contains("failed"), "{why}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let verified = installation.cli_ok(&["verify", "demo-range"]);
    assert!(
        verified.contains("= demo 1..8  proof verified") && verified.contains(" 0 bad, 0 not checked"),
        "{verified}"
    );

    // The proof and the header alone are enough, and the header of other blocks is not this proof's.
    let range = stream("demo-range").remove(0);
    let fetch = |row: &Value, what: &str, file: &str| {
        let key = row["finality"][what]["key"].as_str().expect("it has one");
        installation.cli_ok(&["get", key, "--output", file]);
    };
    fetch(&range, "proof", "range.proof");
    fetch(&range, "header", "range.header");
    let check = |header: &str| rollup(&at, &["verify", "--proof", "range.proof", "--header", header]);
    let (good, said) = check("range.header");
    assert!(good, "{said}");
    for number in [1, 8] {
        let header = format!("{number}.header");
        fetch(&stream("demo")[number - 1], "header", &header);
        assert!(!check(&header).0, "it is no proof of block {number}");
    }
    // One byte of what is said of a block in the middle.
    let mut header = std::fs::read(at.join("range.header")).expect("it was fetched");
    let middle = header.len() / 2;
    header[middle] ^= 1;
    std::fs::write(at.join("swapped.header"), header).expect("writable");
    assert!(!check("swapped.header").0, "another block in the range");
}
