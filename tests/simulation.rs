//! The simulator's runs in CI.

use push0_core::ErrorCode;
use push0_tests::sim::faults::{Fault, Tally};
use push0_tests::sim::workers::LEASE;
use push0_tests::sim::{Bug, Healers, Scenario, death, poison, run};

/// Seeds that ever failed: kept, so that what they found stays found.
const ONCE_FAILED: &[u64] = &[901, 5_115, 50_963];

/// Where the random seeds of a run begin is in this variable, or else drawn.
const FROM: &str = "PUSH0_SIM_FROM";

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=8 {
        let once = run(&Scenario::of(seed)).unwrap();
        let twice = run(&Scenario::of(seed)).unwrap();
        assert_eq!((once.fingerprint, once.events), (twice.fingerprint, twice.events), "seed {seed}");
    }
}

/// Runs seeds on two threads; returns how many failed, with the first failure.
fn run_all(seeds: &[u64], bug: Option<Bug>) -> (usize, Option<String>) {
    let halves = seeds.split_at(seeds.len() / 2);
    let run_half = |half: &[u64]| {
        let scenario = |&seed: &u64| match bug {
            Some(_) => Scenario { bug, ..Scenario::plain(seed) },
            None => Scenario::of(seed),
        };
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
fn the_fixed_seeds_hold() {
    let seeds: Vec<u64> = ONCE_FAILED.iter().copied().chain(0..200).collect();
    let (failed, first) = run_all(&seeds, None);
    assert_eq!(failed, 0, "{}", first.unwrap_or_default());
}

#[test]
fn random_seeds_hold() {
    let from = match std::env::var(FROM) {
        Ok(given) => given.parse().unwrap(),
        Err(_) => rand::random_range(1 << 20..1 << 40),
    };
    eprintln!("random seeds from {from} on; {FROM}={from} runs the same again");
    let seeds: Vec<u64> = (from..from + 30).collect();
    let (failed, first) = run_all(&seeds, None);
    assert_eq!(failed, 0, "{FROM}={from}: {}", first.unwrap_or_default());
}

#[test]
fn chains_of_many_blocks_of_many_segments_hold_and_every_fault_comes_up() {
    let (mut faults, mut segments) = (Tally::default(), Vec::new());
    for seed in 0..2 {
        let everything = "silent,intruder,poison,deadlines,batches,provers,hedging,spot,skew,uploads,large";
        let names: Vec<String> = everything.split(',').map(str::to_owned).collect();
        let report = run(&Scenario::with(seed, &names).unwrap()).unwrap_or_else(|what| panic!("{what}"));
        faults.merge(&report.faults);
        segments.extend(report.segments);
    }
    segments.sort_unstable();
    assert!(segments[segments.len() / 2] >= 16, "{segments:?}");
    let lacking: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| faults.of(*fault) == 0).collect();
    assert_eq!(lacking, [], "{faults:?}");
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
        let scenario = |seed| Scenario { silent_workers: true, healers, ..Scenario::plain(seed) };
        let silenced: u64 = seeds.map(|seed| run(&scenario(seed)).unwrap().silenced).sum();
        assert!(silenced > 10, "{silenced} tasks were acknowledged in silence: {healers:?} had nothing to heal");
    }
}

#[test]
fn tasks_are_promoted_where_queues_do_not_rank_and_nowhere_else() {
    let promoted =
        |seeds: [u64; 6]| seeds.map(|seed| run(&Scenario::plain(seed)).unwrap().promoted).iter().sum::<u64>();
    assert_eq!(promoted([0, 2, 4, 6, 8, 10]), 0);
    assert!(promoted([1, 3, 5, 7, 9, 11]) > 20);
}

#[test]
fn blocks_with_deadlines_go_on_are_demoted_or_left_out_and_every_chain_gets_on() {
    let (mut abandoned, mut left_behind) = (0, 0);
    for seed in 0..100 {
        let silent_workers = seed % 4 == 3;
        let report = run(&Scenario { deadlines: true, silent_workers, ..Scenario::plain(seed) }).unwrap();
        abandoned += report.abandoned;
        left_behind += report.left_behind;
    }
    assert!(abandoned > 20 && left_behind > 5, "{abandoned} blocks were abandoned, {left_behind} tasks left behind");
}

#[test]
fn stragglers_are_hedged_and_their_copies_break_nothing() {
    let scenario = |seed| Scenario { hedging: true, ..Scenario::plain(seed) };
    let hedges: u64 = (0..60).map(|seed| run(&scenario(seed)).unwrap().hedges).sum();
    assert!(hedges > 30, "{hedges} copies of stragglers were proven");
    let silent = |seed| Scenario { silent_workers: true, ..scenario(seed) };
    (60..75).for_each(|seed| drop(run(&silent(seed)).unwrap()));
}

#[test]
fn reorganised_chains_end_as_the_last_fork_and_nothing_of_the_others_is_finalized() {
    let scenario = |seed| Scenario { reorgs: true, ..Scenario::plain(seed) };
    let kills: u64 = (0..60).map(|seed| run(&scenario(seed)).unwrap().kills).sum();
    assert!(kills > 100, "{kills} kills: the storm was a breeze");
}

#[test]
fn forged_reports_get_nothing_wrong_finalized_and_stop_no_chain_for_good() {
    for seed in 0..30 {
        run(&Scenario { intruder: true, ..Scenario::plain(seed) }).unwrap();
    }
}

#[test]
fn a_task_that_ends_its_workers_fails_its_block_and_no_worker_gets_it_twice() {
    for seed in 0..20 {
        let reason = poison::run(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!(ErrorCode::find(&reason), Some(ErrorCode::WorkersLost), "seed {seed}: {reason}");
        assert!(reason.contains("stage prove, node 1.0.0: ") && reason.contains("cpu-"), "seed {seed}: {reason}");
        assert!(reason.contains("(3 attempts were lost with their workers: "), "seed {seed}: {reason}");
    }
    let mut quarantined = 0;
    for seed in 0..60 {
        let report = run(&Scenario { poison: true, ..Scenario::plain(seed) });
        quarantined += report.unwrap_or_else(|what| panic!("{what}")).quarantined;
    }
    assert!(quarantined > 20, "{quarantined}");
}

#[test]
fn what_ends_together_with_everything_else_is_no_fault_of_its_task() {
    // A queue hands a task out ten times.
    for seed in 0..5 {
        let restarted = poison::restarts(seed, 25, true).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!((restarted.lost, restarted.barred), (0, 0), "seed {seed}: {restarted:?}");
        assert!(restarted.begun > 20, "seed {seed}: {restarted:?}");
    }
    let untold = poison::restarts(0, 25, false).unwrap();
    assert!(untold.lost > 0, "the test would not see it: {untold:?}");
}

#[test]
fn a_task_that_ran_out_of_memory_is_run_once_more_in_the_larger_pool_at_once() {
    for seed in 0..10 {
        let runs = poison::out_of_memory(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(runs.len() >= 5, "seed {seed}: {runs:?}");
        assert!(runs.values().all(|runs| *runs == (1, 1)), "seed {seed}: {runs:?}");
    }
}

#[test]
fn two_of_three_provers_carry_a_chain_whose_third_fails_or_states_something_else() {
    let scenario = |seed| Scenario { provers: true, ..Scenario::plain(seed) };
    let disputed: u64 = (0..60).map(|seed| run(&scenario(seed)).unwrap().disputed).sum();
    assert!(disputed > 10, "{disputed} proofs stated something else: there was nothing to halt for");
    for seed in 60..68 {
        run(&Scenario { silent_workers: true, ..scenario(seed) }).unwrap();
    }
}
