//! Batch chains on a real installation, and the examples of the collection strategies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Installation, Options};
use serde_json::Value;

/// Two batch chains of `demo`: fours, and whatever is there after a moment.
const BATCHES: &str = r#"
[[chain]]
id = "fours"
of = "demo"
batch = 4
pipeline = "echo.toml"
[[chain]]
id = "sweeps"
of = "demo"
batch = 1000
batch_wait_ms = 300
pipeline = "echo.toml"
"#;

fn stream(installation: &Installation, chain: &str) -> Vec<Value> {
    let lines = installation.cli_ok(&["finalized", chain]);
    lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}

/// First and last block of each batch, in order.
fn ranges(installation: &Installation, chain: &str) -> Vec<(u64, u64)> {
    let bound = |row: &Value, name: &str| row["batch"][name].as_u64().expect("a batch has a range");
    stream(installation, chain).iter().map(|row| (bound(row, "from"), bound(row, "to"))).collect()
}

fn blocks(installation: &Installation, numbers: impl IntoIterator<Item = u64>) -> Vec<PathBuf> {
    numbers.into_iter().map(|number| installation.block(number, 2, "").0).collect()
}

fn start(installation: &mut Installation) {
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
}

/// What a refused command says.
fn refused(installation: &Installation, args: &[&str]) -> String {
    let output = installation.cli(args);
    assert!(!output.status.success(), "{args:?} is not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn blocks_become_batches_across_a_crash_and_a_hole_is_skipped() {
    let options = Options { more: BATCHES.to_owned(), ..Options::default() };
    let mut installation = Installation::new(&options);
    start(&mut installation);
    installation.submit(&blocks(&installation, 1..=6));
    wait_until("a first batch is being proven", || installation.cli_ok(&["status", "fours"]).contains("= demo 1..4"));
    installation.kill_tree();
    start(&mut installation);
    let why = installation.cli_ok(&["why", "fours", "2"]);
    assert!(why.contains("it will be made of blocks 5..8 of demo"), "{why}");
    installation.submit(&blocks(&installation, 7..=8));
    wait_until("both fours are final", || stream(&installation, "fours").len() == 2);
    assert_eq!(ranges(&installation, "fours"), [(1, 4), (5, 8)]);
    wait_until("the sweeps have all of them", || {
        ranges(&installation, "sweeps").last().is_some_and(|(_, to)| *to == 8)
    });
    let sweeps = ranges(&installation, "sweeps");
    let dense =
        sweeps.iter().map(|(from, _)| *from).skip(1).eq(sweeps.iter().map(|(_, to)| to + 1).take(sweeps.len() - 1));
    assert!(sweeps[0].0 == 1 && dense, "{sweeps:?}");

    for chain in ["demo", "fours", "sweeps"] {
        let verified = installation.cli_ok(&["verify", chain]);
        assert!(verified.contains(" 0 bad, 0 not checked"), "{verified}");
    }
    let verified = installation.cli_ok(&["verify", "fours"]);
    assert!(verified.contains("block 2  = demo 5..8  proof verified"), "{verified}");
    assert!(installation.cli_ok(&["why", "fours", "2"]).contains("it is made of blocks 5..8 of demo"));
    assert!(installation.cli_ok(&["block", "fours", "2"]).contains("demo 5..8"));
    for node in ["0.0.0", "1.0.3"] {
        let replayed: Value =
            serde_json::from_str(&installation.cli_ok(&["--json", "replay", "fours", "2", node])).unwrap();
        assert_eq!(replayed["equals_accepted"], true, "{replayed}");
    }

    // Nobody submits to it.
    let (file, _) = installation.block(3, 2, "");
    let submission = fs::read_to_string(&file).unwrap().replace("\"demo\"", "\"fours\"");
    fs::write(installation.path("blocks/outside.json"), submission).unwrap();
    for command in ["submit", "replace"] {
        let said = refused(&installation, &[command, "blocks/outside.json"]);
        assert!(said.contains("P0-029") && said.contains("batches of demo"), "{said}");
    }

    // A hole.
    installation.submit(&blocks(&installation, [9, 11, 12]));
    installation.cli_ok(&["skip", "demo", "10", "--reason", "it was lost"]);
    wait_until("the batch has failed", || installation.cli_ok(&["status", "fours"]).contains("P0-030"));
    let why = installation.cli_ok(&["why", "fours", "3"]);
    assert!(why.contains("block 10 of demo was left out (it was lost)"), "{why}");
    assert!(
        why.contains("push0 skip fours 3") && !why.contains("push0 retry") && !why.contains("push0 replace"),
        "{why}"
    );
    assert!(refused(&installation, &["retry", "fours", "3"]).contains("P0-030"));
    installation.submit(&blocks(&installation, 13..=16));
    wait_until("the batch behind it is proven", || {
        installation.cli_ok(&["why", "fours", "4"]).contains("it becomes final after block 3")
    });
    installation.cli_ok(&["skip", "fours", "3", "--reason", "it has a hole"]);
    wait_until("they are final", || stream(&installation, "fours").len() == 4);
    assert_eq!(ranges(&installation, "fours")[2..], [(9, 12), (13, 16)]);
    let verified = installation.cli_ok(&["verify", "fours"]);
    assert!(verified.contains("3 proofs verified, 1 skipped, 0 bad, 0 not checked"), "{verified}");
}

#[test]
fn each_collection_strategy_has_an_example_that_runs() {
    let files = [
        ("push0.toml", include_str!("../examples/collection/push0.toml")),
        ("match.toml", include_str!("../examples/collection/match.toml")),
        ("sequential.toml", include_str!("../examples/collection/sequential.toml")),
        ("custom.toml", include_str!("../examples/collection/custom.toml")),
        ("custom.sh", include_str!("../examples/collection/custom.sh")),
    ];
    let mut installation = Installation::of(&files);
    fs::set_permissions(installation.path("custom.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    start(&mut installation);
    let segments = [10, 10, 3, 7];
    let files: Vec<_> =
        (1..).zip(segments).map(|(number, segments)| installation.block(number, segments, "").0).collect();
    installation.submit(&files);
    wait_until("all are final", || {
        stream(&installation, "demo-next").len() == 4 && stream(&installation, "demo-batch").len() == 1
    });
    let run = |chain: &str, number: u64| -> Value {
        let shown = installation.cli_ok(&["--json", "block", chain, &number.to_string()]);
        serde_json::from_str::<Value>(&shown).unwrap()["run"].clone()
    };
    // Match: ten steps, one collector with ten inputs.
    assert_eq!((&run("demo", 1)["segments"], &run("demo", 1)["stages"][2]["of"]), (&10.into(), &1.into()));
    // Sequential: four blocks in a row.
    assert_eq!(run("demo-batch", 1)["segments"], 4);
    assert_eq!(ranges(&installation, "demo-batch"), [(1, 4)]);
    // Custom: what comes next was named by a program that read the proof.
    let next: Vec<u64> = (1..=4).filter_map(|number| run("demo-next", number)["segments"].as_u64()).collect();
    assert_eq!(next, [5, 5, 2, 4]);
    for chain in ["demo", "demo-batch", "demo-next"] {
        installation.cli_ok(&["verify", chain]);
    }
}
