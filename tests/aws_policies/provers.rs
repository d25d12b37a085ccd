//! Several provers a block, by `push0 serve` and worker processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use push0_tests::chaos::Cloud;
use push0_tests::chaos::installation::{one_of_several, wait_until};

fn config(prefix: &str, pipelines: &str) -> String {
    format!(
        "[aws]\nprefix = \"{prefix}\"\n[workers]\nlease_ms = 1000\n[functions]\nreaper_ms = 1000\n[[chain]]\nid = \"demo\"\n{pipelines}\n"
    )
}

#[test]
fn two_of_three_provers_carry_the_chain_on_an_emulator_too() {
    let mut cloud = Cloud::new(&[
        ("push0.toml", &config("{prefix}", "pipelines = [\"one.toml\", \"two.toml\", \"broken.toml\"]\nquorum = 2")),
        ("one.toml", &one_of_several("one", 2, "")),
        ("two.toml", &one_of_several("two", 3, "")),
        ("broken.toml", include_str!("../../examples/quorum/broken.toml")),
        ("broken.sh", include_str!("../../examples/quorum/broken.sh")),
    ]);
    fs::set_permissions(cloud.path("broken.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    cloud.start_all();
    cloud.submit([2, 1], 2);

    let rows = cloud.tail(2);
    for (row, number) in rows.iter().zip(1..) {
        assert_eq!((row["seq"].as_u64(), row["number"].as_u64()), (Some(number), Some(number)), "{row}");
        let finality = &row["finality"];
        let others = finality["others"].as_array().unwrap();
        assert!(finality["kind"] == "proof" && others.len() == 1, "{row}");
        assert_ne!(others[0]["pipeline"], finality["pipeline"], "{row}");
        let number = number.to_string();
        let why = || cloud.cli_ok(&["why", "demo", &number]);
        wait_until("the third has failed", || why().contains("failed: P0-"));
        let why = why();
        let named = why.lines().find(|line| line.contains("pipeline broken")).unwrap_or_else(|| panic!("{why}"));
        assert!(named.contains("failed: P0-") && named.contains("this prover is broken"), "{why}");
        assert!(why.contains("2 of 3 pipelines have proven it; 2 must"), "{why}");
    }
    let verified = cloud.json(&["verify", "demo"]);
    assert_eq!((&verified["verified"], &verified["bad"], &verified["unchecked"]), (&2.into(), &0.into(), &0.into()));
}

#[test]
fn provers_that_state_different_things_stop_the_chain_on_an_emulator_too() {
    let mut cloud = Cloud::new(&[
        ("push0.toml", &config("{prefix}", "pipelines = [\"one.toml\", \"two.toml\"]")),
        ("one.toml", &one_of_several("one", 2, "")),
        ("two.toml", &one_of_several("two", 3, "states = \"something else\"")),
    ]);
    cloud.start_all();
    cloud.submit([1, 2], 2);
    let halt = || cloud.json(&["status", "demo"])["chains"][0]["chain"]["halt"]["why"].clone();
    wait_until("the chain has halted", || halt() == "disagreement");
    let why = cloud.cli_ok(&["why", "demo", "1"]);
    for wanted in ["nothing from it on becomes final", "one says outputs", "two says outputs", "P0-035"] {
        assert!(why.contains(wanted), "{wanted:?} is not in\n{why}");
    }
    assert_eq!(cloud.stream("demo").len(), 0, "nothing is handed on");
    assert!(fs::read_to_string(cloud.path("serve.log")).unwrap().contains("P0-035"), "the log has the alarm");

    // The wrong one is taken out, and the blocks proven with what is left.
    fs::write(cloud.path("push0.toml"), config(&cloud.prefix, "pipeline = \"one.toml\"")).unwrap();
    cloud.kill_and_start_again(0);
    for number in ["1", "2"] {
        cloud.cli_ok(&["retry", "demo", number]);
    }
    let rows = cloud.tail(2);
    assert_eq!(rows.iter().map(|row| row["number"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(cloud.json(&["verify", "demo"])["verified"], 2);
}
