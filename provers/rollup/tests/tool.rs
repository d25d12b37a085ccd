//! The binary as people and workers call it. No proofs here: those are in the library's tests.
#![allow(clippy::unwrap_used, reason = "a test; clippy sees only the functions marked so")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn tool(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_push0-rollup")).current_dir(dir).args(args).output().unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let output = tool(dir, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn random_blocks_are_a_chain_and_the_same_for_the_same_seed() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["random", "--seed", "5", "--blocks", "3", "--transfers", "9", "--json", "--out"];
    let made = json(dir.path(), &[&args[..], &["a"]].concat());
    json(dir.path(), &[&args[..], &["b"]].concat());
    let mut parent = made["genesis_hash"].clone();
    let mut root = made["state_root"].clone();
    for (number, block) in (1..).zip(made["blocks"].as_array().unwrap()) {
        assert_eq!((&block["parent_hash"], &block["state_before"]), (&parent, &root));
        let submission = read(dir.path().join(format!("a/{number}.json")));
        assert_eq!(submission["hash"], block["hash"]);
        assert_eq!((&submission["number"], &submission["chain"]), (&number.into(), &"demo".into()));
        let witness = submission["witness"].as_str().unwrap();
        let [a, b] = ["a", "b"].map(|side| std::fs::read(dir.path().join(side).join(witness)).unwrap());
        assert!(a == b);
        (parent, root) = (block["hash"].clone(), block["state_after"].clone());
    }
    let shown = json(dir.path(), &["show", "a/2.witness", "--json"]);
    assert_eq!(shown["header"], made["blocks"][1]);
    assert!(!shown.to_string().contains("key"), "keys are not shown");
}

#[test]
fn output_that_nobody_reads_is_no_failure_and_output_that_cannot_be_written_is() {
    let dir = tempfile::tempdir().unwrap();
    let run = |out: Stdio| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_push0-rollup"));
        tool.current_dir(dir.path()).args(["genesis", "--out", "g"]).stdout(out).stderr(Stdio::piped());
        let output = tool.spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()), (Some(0), String::new()));
    assert!(dir.path().join("g/genesis.json").exists());
    let (code, said) = run(std::fs::File::create("/dev/full").unwrap().into());
    assert!(code == Some(1) && said.starts_with("push0-rollup: cannot write to stdout: "), "{code:?} {said}");
}

#[test]
fn a_csv_file_becomes_blocks_or_says_which_line_cannot() {
    let dir = tempfile::tempdir().unwrap();
    json(dir.path(), &["genesis", "--accounts", "2", "--balance", "10", "--out", "g", "--json"]);
    let blocks = |csv: &str| {
        std::fs::write(dir.path().join("t.csv"), csv).unwrap();
        tool(dir.path(), &["from-csv", "t.csv", "--genesis", "g/genesis.json", "--out", "out", "--json"])
    };
    let good = blocks(
        "block,from,to,amount_gwei\n1,account-0,account-1,10\n1,account-1,account-0,20\n2,account-0,account-1,1\n",
    );
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(read(dir.path().join("out/2.json"))["parent_hash"], read(dir.path().join("out/1.json"))["hash"]);
    for (csv, why) in [
        ("from,to,amount_gwei\naccount-0,account-1,11\n", "has 10 gwei and cannot send 11"),
        ("from,to,amount_gwei\naccount-0,account-9,1\n", "no account account-9"),
        ("block,from,to,amount_gwei\n3,account-0,account-1,1\n", "where 1 continues"),
        ("from,to\naccount-0,account-1\n", "amount_gwei"),
        ("from,to,amount_gwei\n", "no transfers"),
    ] {
        let output = blocks(csv);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(why), "{message}");
    }
}

#[test]
fn one_task_runs_in_the_exec_form() {
    let dir = tempfile::tempdir().unwrap();
    json(dir.path(), &["random", "--blocks", "1", "--transfers", "17", "--out", ".", "--json"]);
    std::fs::create_dir(dir.path().join("task")).unwrap();
    let output = tool(dir.path(), &["--stage", "split", "--input-path", "1.witness", "--output-path", "task/split"]);
    assert!(output.status.success() && output.stdout.is_empty());
    let result = read(dir.path().join("task/result.json"));
    assert_eq!((&result["segments"], &result["hash"]), (&3.into(), &read(dir.path().join("1.json"))["hash"]));
    let shown = json(dir.path(), &["show", "task/split/segments/000002", "--json"]);
    assert_eq!(shown["transfers"].as_array().unwrap().len(), 1);

    let missing = tool(dir.path(), &["--stage", "split", "--input-path", "none", "--output-path", "task/split"]);
    assert_eq!(missing.status.code(), Some(75));
    let bad = tool(dir.path(), &["--stage", "split", "--input-path", "1.json", "--output-path", "task/split"]);
    assert_eq!(bad.status.code(), Some(1));
}
