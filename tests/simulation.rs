//! The simulator's runs in CI.

use push0_tests::sim::world::LEASE;
use push0_tests::sim::{Bug, Healers, Scenario, death, run};

/// Seeds that ever failed: kept, so that what they found stays found.
const ONCE_FAILED: &[u64] = &[901, 50_963];

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let once = run(&Scenario::of(seed)).unwrap();
        let twice = run(&Scenario::of(seed)).unwrap();
        assert_eq!((once.fingerprint, once.events), (twice.fingerprint, twice.events), "seed {seed}");
    }
}

/// Runs seeds on two threads; returns how many failed, with the first failure.
fn run_all(seeds: &[u64], bug: Option<Bug>) -> (usize, Option<String>) {
    let halves = seeds.split_at(seeds.len() / 2);
    let run_half = |half: &[u64]| {
        let scenario = |&seed: &u64| Scenario { bug, ..Scenario::of(seed) };
        half.iter().filter_map(|seed| run(&scenario(seed)).err()).collect::<Vec<_>>()
    };
    let failures = std::thread::scope(|scope| {
        let first = scope.spawn(|| run_half(halves.0));
        let mut second = run_half(halves.1);
        let mut all = first.join().expect("a run does not panic");
        all.append(&mut second);
        all
    });
    (failures.len(), failures.into_iter().next())
}

#[test]
fn a_thousand_seeds_hold() {
    let seeds: Vec<u64> = ONCE_FAILED.iter().copied().chain(0..1000).collect();
    let (failed, first) = run_all(&seeds, None);
    assert_eq!(failed, 0, "{}", first.unwrap_or_default());
}

#[test]
fn acknowledging_before_effects_is_found() {
    let seeds: Vec<u64> = (0..40).collect();
    let (failed, _) = run_all(&seeds, Some(Bug::AcknowledgeBeforeEffects));
    assert!(failed > 0, "the simulator does not find the bug it was given");
}

#[test]
fn a_dead_workers_task_is_done_elsewhere_within_a_lease_and_its_own_time() {
    for seed in 0..50 {
        let death = death::run(seed).unwrap();
        let bound = death.killed.plus(LEASE).plus(death.own_time);
        assert!(death.finished <= bound, "seed {seed}: {death:?}");
        assert!(death.finished > death.killed, "seed {seed}: {death:?}");
    }
}

#[test]
fn tasks_that_workers_acknowledged_in_silence_are_found_and_sent_again() {
    for (healers, seeds) in [(Healers::Both, 0..10), (Healers::Timers, 10..25), (Healers::Reaper, 25..35)] {
        let scenario = |seed| Scenario { silent_workers: true, healers, ..Scenario::of(seed) };
        let silenced: u64 = seeds.map(|seed| run(&scenario(seed)).unwrap().silenced).sum();
        assert!(silenced > 10, "{silenced} tasks were acknowledged in silence: {healers:?} had nothing to heal");
    }
}

#[test]
fn tasks_are_promoted_where_queues_do_not_rank_and_nowhere_else() {
    let promoted = |seeds: [u64; 6]| seeds.map(|seed| run(&Scenario::of(seed)).unwrap().promoted).iter().sum::<u64>();
    assert_eq!(promoted([0, 2, 4, 6, 8, 10]), 0);
    assert!(promoted([1, 3, 5, 7, 9, 11]) > 20);
}

#[test]
fn forged_reports_get_nothing_wrong_finalized_and_stop_no_chain_for_good() {
    for seed in 0..30 {
        run(&Scenario { intruder: true, ..Scenario::of(seed) }).unwrap();
    }
}
