//! Replays a seed, or runs many and says what they came to: `push0-sim --seed 7 --trace`, `push0-sim --seeds 1000 --from 0`,
//! `push0-sim --large --blocks 100000`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use push0_tests::sim::faults::{Fault, Tally};
use push0_tests::sim::{Bug, Healers, Report, Scenario, fixed, run};
use push0_tests::{model, transitions};

#[derive(Parser)]
struct Args {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Or as many as it takes until so many blocks are final.
    #[arg(long, conflicts_with = "seeds")]
    blocks: Option<u64>,
    /// Begin no further seed after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Chains of 30 to 50 blocks, blocks of 11 to 23 segments.
    #[arg(long)]
    large: bool,
    /// So many seeds at a time; else one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Print everything that happened.
    #[arg(long)]
    trace: bool,
    /// Just these things, whatever the seeds say: silent, intruder, poison, deadlines, batches, provers, reorgs, hedging,
    /// spot, skew, uploads, large.
    #[arg(long, value_delimiter = ',')]
    with: Vec<String>,
    /// None of them.
    #[arg(long, conflicts_with = "with")]
    plain: bool,
    /// Of silent workers' tasks: only timers find them, or only the reaper.
    #[arg(long, value_parser = ["timers", "reaper"])]
    healers: Option<String>,
    /// Which states met which events, in the runs of CI and in the model checker's small bounds: the tables of docs/transitions.md.
    #[arg(long, conflicts_with_all = ["seed", "blocks", "with"])]
    transitions: bool,
    /// Put the bug "acknowledge before effects" in.
    #[arg(long)]
    bug: bool,
}

fn scenario(args: &Args, seed: u64) -> Result<Scenario, String> {
    let scenario = match args.plain || !args.with.is_empty() {
        true => Scenario::with(seed, &args.with)?,
        false if args.large => Scenario::large(seed),
        false => Scenario::of(seed),
    };
    Ok(Scenario {
        bug: args.bug.then_some(Bug::AcknowledgeBeforeEffects),
        healers: match args.healers.as_deref() {
            Some("timers") => Healers::Timers,
            Some("reaper") => Healers::Reaper,
            _ => Healers::Both,
        },
        large: args.large || scenario.large,
        keep_trace: args.trace,
        ..scenario
    })
}

/// What all seeds came to.
#[derive(Default)]
struct Totals {
    seeds: u64,
    failed: u64,
    blocks: u64,
    steps: u64,
    events: u64,
    invocations: u64,
    virtual_ms: u64,
    faults: Tally,
    /// How many blocks have so many segments.
    segments: BTreeMap<u64, u64>,
    /// In how many seeds something was switched on.
    with: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn count(&mut self, scenario: &Scenario, outcome: &Result<Report, String>) {
        self.seeds += 1;
        scenario.names().into_iter().for_each(|name| *self.with.entry(name).or_default() += 1);
        let Ok(report) = outcome else {
            self.failed += 1;
            return;
        };
        self.blocks += report.blocks as u64;
        self.steps += report.steps;
        self.events += report.events;
        self.invocations += report.invocations;
        self.virtual_ms += report.virtual_ms;
        self.faults.merge(&report.faults);
        report.segments.iter().for_each(|segments| *self.segments.entry(*segments).or_default() += 1);
    }

    fn median_segments(&self) -> u64 {
        let half = self.segments.values().sum::<u64>() / 2;
        let mut seen = 0;
        let mut reaches_half = |blocks: &u64| {
            seen += blocks;
            seen > half
        };
        self.segments.iter().find(|(_, blocks)| reaches_half(blocks)).map_or(0, |(segments, _)| *segments)
    }

    fn lines(&self, took: std::time::Duration) -> Vec<String> {
        let mut lines = vec![
            format!("{} seeds, {} failed", self.seeds, self.failed),
            format!("{} blocks final, {} segments in the median", self.blocks, self.median_segments()),
            format!("{} steps, {} calls, {} runs of provers", self.steps, self.events, self.invocations),
            format!("{} s of virtual time in {:.1} s", self.virtual_ms / 1000, took.as_secs_f64()),
        ];
        lines.extend(self.with.iter().map(|(name, seeds)| format!("{seeds:>12} seeds with {name}")));
        lines.extend(Fault::ALL.iter().map(|fault| format!("{:>12} {}", self.faults.of(*fault), fault.name())));
        lines
    }
}

#[allow(clippy::print_stdout, reason = "a tool for people at a terminal")]
fn print(line: &str) {
    println!("{line}");
}

fn one(args: &Args, seed: u64) -> ExitCode {
    let outcome = scenario(args, seed).and_then(|scenario| run(&scenario));
    match outcome {
        Ok(report) => {
            report.trace.iter().for_each(|line| print(line));
            let Report { blocks, steps, events, kills, invocations, deliveries, virtual_ms, .. } = &report;
            print(&format!(
                "seed {seed}: {blocks} blocks, {steps} steps, {events} calls, {kills} kills, {invocations} prover runs, \
                 {deliveries} deliveries, {} s virtual, {}",
                virtual_ms / 1000,
                &report.fingerprint[..16]
            ));
            ExitCode::SUCCESS
        }
        Err(what) => {
            print(&what);
            ExitCode::FAILURE
        }
    }
}

fn transitions() -> Result<Vec<String>, String> {
    let mut simulated = BTreeMap::new();
    for scenario in fixed::ALL.into_iter().flat_map(|scenarios| scenarios()) {
        transitions::merge(&mut simulated, &run(&scenario)?.met);
    }
    let mut checked = BTreeSet::new();
    for bounds in model::SMALL {
        checked.extend(model::check(bounds, None, 2, |_, _| ())?.transitions);
    }
    transitions::tables(&simulated, &checked)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.transitions {
        return match transitions() {
            Ok(lines) => {
                lines.iter().for_each(|line| print(line));
                ExitCode::SUCCESS
            }
            Err(what) => {
                print(&what);
                ExitCode::FAILURE
            }
        };
    }
    if let Some(seed) = args.seed {
        return one(&args, seed);
    }
    if let Err(what) = scenario(&args, 0) {
        print(&what);
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let (next, totals) = (AtomicU64::new(args.from), Mutex::new(Totals::default()));
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let is_late = || args.minutes.is_some_and(|minutes| began.elapsed().as_secs() >= 60 * minutes);
    let is_enough = |seed: u64, blocks: u64| match args.blocks {
        _ if is_late() => true,
        Some(wanted) => blocks >= wanted,
        None => seed >= args.from + args.seeds,
    };
    let lock = || totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if is_enough(seed, lock().blocks) {
            return;
        }
        let Ok(scenario) = scenario(&args, seed) else { return };
        let outcome = run(&scenario);
        let mut totals = lock();
        totals.count(&scenario, &outcome);
        match outcome {
            Err(what) => print(&what),
            Ok(_) if totals.seeds.is_multiple_of(100) => {
                print(&format!("{} seeds, {} blocks, {:.0?}", totals.seeds, totals.blocks, began.elapsed()));
            }
            Ok(_) => {}
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let totals = totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    totals.lines(began.elapsed()).iter().for_each(|line| print(line));
    if totals.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
