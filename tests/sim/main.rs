//! Replays a seed, or runs many: `push0-sim --seed 7 --trace`, `push0-sim --seeds 1000 --from 0`.

use clap::Parser;
use push0_tests::sim::{Bug, Healers, Scenario, run};

#[derive(Parser)]
struct Args {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print everything that happened.
    #[arg(long)]
    trace: bool,
    /// Workers that now and then acknowledge a task and say nothing.
    #[arg(long)]
    silent: bool,
    /// Then only timers find their tasks, or only the reaper.
    #[arg(long, value_parser = ["timers", "reaper"])]
    healers: Option<String>,
    /// Chains with deadlines; without this every third seed has them.
    #[arg(long)]
    deadlines: bool,
    /// Somebody who sends forged reports.
    #[arg(long)]
    intruder: bool,
    /// A task of one block that ends every worker that begins it.
    #[arg(long)]
    poison: bool,
    /// A chain of batches of another, whatever the seed says.
    #[arg(long)]
    batches: bool,
    /// Three pipelines prove each block, and two of them must.
    #[arg(long)]
    provers: bool,
    /// Chains are reorganised.
    #[arg(long)]
    reorgs: bool,
    /// Slow workers, and copies of tasks, whatever the seed says.
    #[arg(long)]
    hedging: bool,
    /// Put the bug "acknowledge before effects" in.
    #[arg(long)]
    bug: bool,
}

#[allow(clippy::print_stdout, reason = "a tool for people at a terminal")]
fn main() {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let mut failed = 0;
    for seed in seeds {
        let bug = args.bug.then_some(Bug::AcknowledgeBeforeEffects);
        match run(&Scenario {
            bug,
            silent_workers: args.silent,
            healers: match args.healers.as_deref() {
                Some("timers") => Healers::Timers,
                Some("reaper") => Healers::Reaper,
                _ => Healers::Both,
            },
            intruder: args.intruder,
            poison: args.poison,
            deadlines: args.deadlines || Scenario::of(seed).deadlines,
            provers: args.provers,
            reorgs: args.reorgs,
            hedging: args.hedging || Scenario::of(seed).hedging,
            keep_trace: args.trace,
            batches: args.batches || Scenario::of(seed).batches,
            ..Scenario::of(seed)
        }) {
            Ok(report) => {
                report.trace.iter().for_each(|line| println!("{line}"));
                println!(
                    "seed {seed}: {} blocks, {} events, {} kills, {} prover runs, {} deliveries, {} silenced, {} s virtual, {}",
                    report.blocks,
                    report.events,
                    report.kills,
                    report.invocations,
                    report.deliveries,
                    report.silenced,
                    report.virtual_ms / 1000,
                    &report.fingerprint[..16]
                );
            }
            Err(what) => {
                failed += 1;
                println!("{what}");
            }
        }
    }
    if failed > 0 {
        std::process::exit(1);
    }
}
