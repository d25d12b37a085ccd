//! What an operator does to get a chain moving, by the CLI, on a system whose prover fails.

use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Installation, Options};
use serde_json::Value;

/// A system in which proving block 2 fails for good, so often, with blocks 1 to 3 submitted. Waits until block 2 has failed.
fn with_a_failed_block(times: &str) -> Installation {
    let fail =
        format!(r#"fail = [{{ stage = "prove", number = 2, kind = "permanent", message = "out of luck"{times} }}]"#);
    let mut installation =
        Installation::new(&Options { params: format!("duration_ms = 1, {fail}"), attempts: 2, ..Options::default() });
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let files: Vec<_> = (1..=3).map(|number| installation.block(number, 1, "").0).collect();
    installation.submit(&files);
    wait_until("block 2 has failed", || status_of(&installation, 2) == "failed");
    installation
}

fn status_of(installation: &Installation, number: u64) -> String {
    let output = installation.cli(&["block", "demo", &number.to_string(), "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    // The status is a tagged object wherever it stands in the output.
    find_status(&found).unwrap_or_default()
}

fn find_status(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => match fields.get("status") {
            Some(Value::String(status)) => Some(status.clone()),
            Some(inner @ Value::Object(_)) => find_status(inner),
            _ => fields.values().find_map(find_status),
        },
        _ => None,
    }
}

/// Numbers and kinds of the finalized stream.
fn stream(installation: &Installation) -> Vec<(u64, String)> {
    let lines = installation.cli_ok(&["finalized", "demo"]);
    let entry = |line: &str| {
        let message: Value = serde_json::from_str(line).expect("a line is a document");
        (message["number"].as_u64().unwrap_or(0), message["finality"]["kind"].as_str().unwrap_or_default().to_owned())
    };
    lines.lines().map(entry).collect()
}

fn all_final(installation: &Installation, second: &str) {
    wait_until("all three are final", || stream(installation).len() == 3);
    let proof = |number| (number, "proof".to_owned());
    assert_eq!(stream(installation), [proof(1), (2, second.to_owned()), proof(3)]);
}

#[test]
fn why_names_the_failure_and_the_way_out() {
    let installation = with_a_failed_block("");
    let said = installation.cli_ok(&["why", "demo", "2"]);
    for expected in ["out of luck", "push0 retry", "push0 skip"] {
        assert!(said.contains(expected), "`why` does not say {expected:?}:\n{said}");
    }
    assert_eq!(stream(&installation).len(), 1, "finalization stops before the failed block");
    let refused = installation.cli(&["retry", "demo", "3"]);
    assert!(!refused.status.success(), "a block that has not failed cannot be retried");
}

#[test]
fn a_retry_gets_the_chain_moving() {
    let installation = with_a_failed_block(", times = 2");
    installation.cli_ok(&["retry", "demo", "2"]);
    all_final(&installation, "proof");
}

#[test]
fn a_second_retry_within_five_minutes_is_not_swallowed() {
    let installation = with_a_failed_block(", times = 4");
    installation.cli_ok(&["retry", "demo", "2"]);
    wait_until("block 2 has failed again", || status_of(&installation, 2) == "failed");
    installation.cli_ok(&["retry", "demo", "2"]);
    all_final(&installation, "proof");
}

#[test]
fn a_replacement_gets_the_chain_moving() {
    let installation = with_a_failed_block(", times = 2");
    let (file, _) = installation.block(2, 3, "b");
    installation.cli_ok(&["replace", file.to_str().unwrap()]);
    all_final(&installation, "proof");
}

#[test]
fn a_skip_gets_the_chain_moving_and_leaves_a_tombstone() {
    let installation = with_a_failed_block("");
    installation.cli_ok(&["skip", "demo", "2", "--reason", "cannot be proven"]);
    all_final(&installation, "tombstone");
}

#[test]
fn a_consumer_of_finalized_blocks_gets_each_once_and_goes_on_where_it_was() {
    let mut installation = Installation::new(&Options::default());
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let files: Vec<_> = (1..=5).map(|number| installation.block(number, 2, "").0).collect();
    installation.submit(&files);
    let tail = |count: &str| {
        let lines = installation.cli_ok(&["finalized", "tail", "--state", "seen.json", "--count", count]);
        let row = |line: &str| serde_json::from_str::<Value>(line).expect("a line is a document");
        lines.lines().map(row).collect::<Vec<Value>>()
    };
    let seqs = |rows: &[Value]| rows.iter().filter_map(|row| row["seq"].as_u64()).collect::<Vec<u64>>();
    let first = tail("2");
    assert_eq!(seqs(&first), [1, 2]);
    let timings = &first[0]["timings"];
    let times = ["submitted_at", "released_at", "settled_at", "finalized_at"].map(|name| timings[name].as_u64());
    assert!(times.is_sorted() && times[0].is_some(), "{timings}");
    assert_eq!(seqs(&tail("3")), [3, 4, 5]);

    // As if a block had been taken by somebody else.
    let block = installation.block(6, 1, "").0;
    std::fs::write(installation.path("seen.json"), r#"{"demo":3}"#).expect("writable");
    installation.submit(&[block]);
    let refused = installation.cli(&["finalized", "tail", "--state", "seen.json", "--count", "1"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("seq 6 came after 3"), "{said}");
    assert_eq!(seqs(&tail_from(&installation, 5)), [6], "what was refused stays in the queue");
}

/// A consumer whose memory says that `last` was the last.
fn tail_from(installation: &Installation, last: u64) -> Vec<Value> {
    std::fs::write(installation.path("other.json"), format!(r#"{{"demo":{last}}}"#)).expect("writable");
    let lines = installation.cli_ok(&["finalized", "tail", "--state", "other.json", "--count", "1"]);
    lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}
