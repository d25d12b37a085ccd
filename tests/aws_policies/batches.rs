//! Batch chains, by `push0 serve` and worker processes.
//!
//! The functions write a batch's manifest into the bucket of witnesses, which on AWS their role has to allow: ministack looks at no role.

use push0_tests::chaos::Cloud;
use push0_tests::chaos::installation::{echo_pipeline, wait_until};

/// Fours of `demo`, and whatever is there after a moment.
const CONFIG: &str = r#"
[aws]
prefix = "{prefix}"
[workers]
lease_ms = 1000
[functions]
reaper_ms = 1000
[[chain]]
id = "demo"
pipeline = "echo.toml"
window = 8
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

#[test]
fn blocks_become_batches_in_order_and_a_partial_one_after_its_time_on_an_emulator_too() {
    let mut cloud = Cloud::new(&[("push0.toml", CONFIG), ("echo.toml", &echo_pipeline("duration_ms = 1", 20))]);
    cloud.start_all();
    cloud.submit((1..=8).rev(), 2);

    // First and last block of each batch, in order.
    let ranges = |chain: &str| -> Vec<(u64, u64)> {
        let bound = |row: &serde_json::Value, name: &str| row["batch"][name].as_u64().unwrap();
        cloud.stream(chain).iter().map(|row| (bound(row, "from"), bound(row, "to"))).collect()
    };
    wait_until("both fours are final", || ranges("fours").len() == 2);
    assert_eq!(ranges("fours"), [(1, 4), (5, 8)]);
    wait_until("the sweeps have all of them", || ranges("sweeps").last().is_some_and(|(_, to)| *to == 8));
    let sweeps = ranges("sweeps");
    assert!(sweeps[0].0 == 1 && sweeps.windows(2).all(|pair| pair[1].0 == pair[0].1 + 1), "{sweeps:?}");

    // The queue has what the rows have, each chain's in its order.
    let rows = cloud.tail(8 + 2 + sweeps.len());
    for (chain, count) in [("demo", 8), ("fours", 2), ("sweeps", sweeps.len())] {
        let of_chain = rows.iter().filter(|row| row["chain"] == chain);
        let numbers: Vec<u64> = of_chain.filter_map(|row| row["number"].as_u64()).collect();
        assert_eq!(numbers, (1..=count as u64).collect::<Vec<_>>(), "{chain}");
        let verified = cloud.cli_ok(&["verify", chain]);
        assert!(verified.contains(&format!("{count} proofs verified, 0 skipped, 0 bad, 0 not checked")), "{verified}");
    }
    assert!(cloud.cli_ok(&["why", "fours", "2"]).contains("it is made of blocks 5..8 of demo"));
}
