//! The operator's side of storage, on a system that works: backups.

use std::path::PathBuf;

use push0_runtime::port::Queue as _;
use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Installation, Judge, Options};
use serde_json::Value;

const SEGMENTS: u32 = 16;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

fn blocks(installation: &Installation, count: u64) -> (Vec<PathBuf>, Vec<String>) {
    (1..=count).map(|number| installation.block(number, SEGMENTS, "")).unzip()
}

fn start(installation: &mut Installation) {
    installation.start();
    let (runtime, client) = (runtime(), installation.client());
    wait_until("push0 is up", || runtime.block_on(client.health()).is_ok());
}

/// The finalized stream as the outbox has it.
fn stream(installation: &Installation) -> Vec<Value> {
    let lines = installation.cli_ok(&["finalized", "demo"]);
    lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}

/// Consumes until all blocks are finalized, and judges them.
fn finish(installation: &Installation, judge: &mut Judge, hashes: &[String]) {
    let (runtime, client) = (runtime(), installation.client());
    wait_until(&format!("all are finalized\n{}", installation.log()), || {
        runtime.block_on(judge.consume(&client));
        judge.stream.len() >= hashes.len()
    });
    runtime.block_on(judge.judge(&client, hashes, SEGMENTS));
}

#[test]
fn a_backup_from_the_middle_of_a_run_is_restored_and_the_run_goes_on() {
    const BLOCKS: u64 = 8;
    let options = Options { params: "duration_ms = 40".to_owned(), ..Options::default() };
    let mut installation = Installation::new(&options);
    let (files, hashes) = blocks(&installation, BLOCKS);
    start(&mut installation);
    installation.submit(&files[..6]);
    let (runtime, client) = (runtime(), installation.client());
    let in_flight = || runtime.block_on(client.stats("work-cpu-standard")).map_or(0, |stats| stats.in_flight);
    wait_until("two are final and more are being proven", || stream(&installation).len() >= 2 && in_flight() > 0);
    let mut judge = Judge::default();
    runtime.block_on(judge.consume(&client));

    let backup = installation.path("backup");
    let backup = backup.to_str().expect("temporary paths are text");
    let made: Value = serde_json::from_str(&installation.cli_ok(&["backup", backup, "--json"])).expect("a document");
    assert!(made["blobs"].as_u64() > Some(0) && made["damaged"] == serde_json::json!([]), "{made}");
    let at_backup = stream(&installation).len();
    assert!(at_backup < 6, "it was over before the backup: give it more to do");
    wait_until("the old system has gone on", || stream(&installation).len() > at_backup);
    // What somebody may have seen of the old system.
    let seen = stream(&installation);
    installation.kill_tree();
    std::fs::remove_dir_all(installation.path("data")).expect("the data directory can be lost");

    installation.cli_ok(&["backup", backup, "--verify"]);
    installation.cli_ok(&["restore", backup]);
    start(&mut installation);
    installation.submit(&files);
    finish(&installation, &mut judge, &hashes);
    let identity = |message: &Value| ["seq", "number", "hash"].map(|field| message[field].clone());
    for (before, after) in seen.iter().zip(&judge.stream) {
        assert_eq!(identity(before), identity(after), "the same number stands for the same block in both lives");
    }
    installation.cli_ok(&["verify", "demo"]);
}

#[test]
fn a_stopped_system_is_backed_up_too_and_a_backup_overwrites_nothing() {
    let mut installation = Installation::new(&Options::default());
    let (files, hashes) = blocks(&installation, 2);
    start(&mut installation);
    installation.submit(&files);
    wait_until("both are final", || stream(&installation).len() == 2);
    installation.kill_tree();
    let backup = installation.path("backup");
    let backup = backup.to_str().expect("temporary paths are text");
    installation.cli_ok(&["backup", backup]);
    for refused in [installation.cli(&["backup", backup]), installation.cli(&["restore", backup])] {
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("P0-208"), "{said}");
    }
    std::fs::remove_dir_all(installation.path("data")).expect("the data directory can be lost");
    installation.cli_ok(&["restore", backup]);
    start(&mut installation);
    finish(&installation, &mut Judge::default(), &hashes);
}
