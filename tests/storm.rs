//! A short storm on real processes, on disk; `just chaos --minutes 60` is the long one, docs/chaos.md.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use push0_tests::chaos::ground::Ground;
use push0_tests::chaos::storm::{COLUMNS, Outcome, Settings, run};

fn short(ground: Ground, seed: u64) -> Outcome {
    let settings = Settings {
        seed,
        length: Duration::from_secs(10),
        // However long that takes on a busy machine.
        least: 15,
        gap: Duration::from_millis(500),
        patience: Duration::from_secs(300),
    };
    eprintln!("seed {seed}\n{COLUMNS}");
    let outcome = run(ground, &settings, &AtomicBool::new(false), &|line| eprintln!("{line}"));
    assert!(outcome.is_good(), "{outcome:#?}");
    assert!(outcome.sums.proven > 0, "nothing was proven: {outcome:#?}");
    outcome
}

#[test]
fn a_storm_on_disk_loses_and_doubles_nothing() {
    short(Ground::Disk, 1);
}

#[cfg(feature = "aws")]
#[test]
fn a_storm_on_an_emulator_loses_and_doubles_nothing() {
    short(Ground::Emulator, 2);
}
