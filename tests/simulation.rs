//! The simulator's runs in CI.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use push0_core::ErrorCode;
use push0_tests::sim::faults::{Fault, Tally};
use push0_tests::sim::workers::LEASE;
use push0_tests::sim::{Bug, Healers, Report, Scenario, death, fixed, poison, run};
use push0_tests::transitions;

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

/// Runs scenarios on two threads, each to its end or to what was wrong.
fn run_all(scenarios: &[Scenario]) -> Vec<Result<Report, String>> {
    let halves = scenarios.split_at(scenarios.len() / 2);
    let run_half = |half: &[Scenario]| half.iter().map(run).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| run_half(halves.0));
        let second = run_half(halves.1);
        let mut all = first.join().expect("a run does not panic");
        all.extend(second);
        all
    })
}

/// Runs of [`fixed`], made once for all tests that look at them.
struct Runs {
    scenarios: fn() -> Vec<Scenario>,
    outcomes: OnceLock<Vec<Result<Report, String>>>,
}

impl Runs {
    const fn of(scenarios: fn() -> Vec<Scenario>) -> Self {
        Self { scenarios, outcomes: OnceLock::new() }
    }

    /// What they came to; all have to hold.
    fn reports(&self) -> Vec<&Report> {
        let outcomes = self.outcomes.get_or_init(|| run_all(&(self.scenarios)()));
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        let reports = outcomes.iter().map(|outcome| match outcome {
            Ok(report) => report,
            Err(what) => panic!("{failed} failed; the first: {what}"),
        });
        reports.collect()
    }

    fn sum(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.reports().into_iter().map(of).sum()
    }
}

static MIXED: Runs = Runs::of(fixed::mixed);
static LARGE: Runs = Runs::of(fixed::large);
static DEADLINES: Runs = Runs::of(fixed::deadlines);
static HEDGING: Runs = Runs::of(fixed::hedging);
static REORGS: Runs = Runs::of(fixed::reorgs);
static INTRUDER: Runs = Runs::of(fixed::intruder);
static POISON: Runs = Runs::of(fixed::poison);
static PROVERS: Runs = Runs::of(fixed::provers);

#[test]
fn the_fixed_seeds_hold() {
    assert!(MIXED.reports().len() > 200);
}

#[test]
fn random_seeds_hold() {
    let from = match std::env::var(FROM) {
        Ok(given) => given.parse().unwrap(),
        Err(_) => rand::random_range(1 << 20..1 << 40),
    };
    eprintln!("random seeds from {from} on; {FROM}={from} runs the same again");
    let scenarios: Vec<Scenario> = (from..from + 30).map(Scenario::of).collect();
    for outcome in run_all(&scenarios) {
        let report = outcome.unwrap_or_else(|what| panic!("{FROM}={from}: {what}"));
        assert_eq!(transitions::impossible(&report.met).unwrap(), [], "{FROM}={from}");
    }
}

#[test]
fn chains_of_many_blocks_of_many_segments_hold_and_every_fault_comes_up() {
    let (mut faults, mut segments) = (Tally::default(), Vec::new());
    for report in LARGE.reports() {
        faults.merge(&report.faults);
        segments.extend(report.segments.iter().copied());
    }
    segments.sort_unstable();
    assert!(segments[segments.len() / 2] >= 16, "{segments:?}");
    let lacking: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| faults.of(*fault) == 0).collect();
    assert_eq!(lacking, [], "{faults:?}");
}

#[test]
fn acknowledging_before_effects_is_found() {
    let with_bug = |seed| Scenario { bug: Some(Bug::AcknowledgeBeforeEffects), ..Scenario::plain(seed) };
    let outcomes = run_all(&(0..40).map(with_bug).collect::<Vec<_>>());
    assert!(outcomes.iter().any(Result::is_err), "the simulator does not find the bug it was given");
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
    let abandoned = DEADLINES.sum(|report| report.abandoned);
    let left_behind = DEADLINES.sum(|report| report.left_behind);
    assert!(abandoned > 20 && left_behind > 5, "{abandoned} blocks were abandoned, {left_behind} tasks left behind");
}

#[test]
fn stragglers_are_hedged_and_their_copies_break_nothing() {
    let hedges = HEDGING.sum(|report| report.hedges);
    assert!(hedges > 30, "{hedges} copies of stragglers were proven");
}

#[test]
fn reorganised_chains_end_as_the_last_fork_and_nothing_of_the_others_is_finalized() {
    let kills = REORGS.sum(|report| report.kills);
    assert!(kills > 100, "{kills} kills: the storm was a breeze");
}

#[test]
fn forged_reports_get_nothing_wrong_finalized_and_stop_no_chain_for_good() {
    assert!(INTRUDER.sum(|report| report.faults.of(Fault::Forgery)) > 100);
}

#[test]
fn a_task_that_ends_its_workers_fails_its_block_and_no_worker_gets_it_twice() {
    for seed in 0..20 {
        let reason = poison::run(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!(ErrorCode::find(&reason), Some(ErrorCode::WorkersLost), "seed {seed}: {reason}");
        assert!(reason.contains("stage prove, node 1.0.0: ") && reason.contains("cpu-"), "seed {seed}: {reason}");
        assert!(reason.contains("(3 attempts were lost with their workers: "), "seed {seed}: {reason}");
    }
    let quarantined = POISON.sum(|report| report.quarantined as u64);
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
    let disputed = PROVERS.sum(|report| report.disputed);
    assert!(disputed > 10, "{disputed} proofs stated something else: there was nothing to halt for");
}

#[test]
fn which_states_meet_which_events_is_as_listed() {
    let mut met = BTreeMap::new();
    for runs in [&MIXED, &LARGE, &DEADLINES, &HEDGING, &REORGS, &INTRUDER, &POISON, &PROVERS] {
        runs.reports().iter().for_each(|report| transitions::merge(&mut met, &report.met));
    }
    let names =
        |pairs: Vec<push0_core::transition::Pair>| pairs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let impossible = names(transitions::impossible(&met).unwrap());
    assert_eq!(impossible, "", "came up: what tests/transitions.toml says of it is wrong");
    let missing = names(transitions::missing(&met).unwrap());
    assert_eq!(missing, "", "did not come up, and tests/transitions.toml does not say why");
}
