//! `push0-chaos`: a storm on real processes, on disk and on an emulator, for as long as one likes. docs/chaos.md.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use push0_tests::chaos::ground::Ground;
use push0_tests::chaos::storm::{COLUMNS, Outcome, Settings, run};

#[derive(Parser)]
struct Args {
    /// How long the faults go on.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// And until there were so many kills and freezes, on each ground.
    #[arg(long, default_value_t = 0)]
    least: u64,
    /// Draws the faults and the blocks. Default: another one each time; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Where. Both: at the same time.
    #[arg(long, value_enum, default_value_t = On::Both)]
    on: On,
    /// Between two faults, in the mean.
    #[arg(long, default_value_t = 4_000)]
    gap_ms: u64,
    /// How long after the last fault everything has to be final.
    #[arg(long, default_value_t = 15.0)]
    patience_minutes: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    Disk,
    Emulator,
    Both,
}

#[allow(clippy::print_stdout, reason = "a tool for people at a terminal")]
fn tell(line: String) {
    println!("{line}");
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() % 1_000_000);
    let grounds = match args.on {
        On::Disk => vec![Ground::Disk],
        On::Emulator => vec![Ground::Emulator],
        On::Both => vec![Ground::Disk, Ground::Emulator],
    };
    let settings = Settings {
        seed,
        length: Duration::from_secs_f64(args.minutes * 60.0),
        least: args.least,
        gap: Duration::from_millis(args.gap_ms),
        patience: Duration::from_secs_f64(args.patience_minutes * 60.0),
    };
    static STOP: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| stop_on_signal(&STOP));
    tell(format!("seed {seed}, {} minutes, a fault every {} ms", args.minutes, args.gap_ms));
    tell(COLUMNS.to_owned());
    let outcomes: Vec<(Ground, Option<Outcome>)> = thread::scope(|scope| {
        let settings = &settings;
        let begin = |ground| (ground, scope.spawn(move || run(ground, settings, &STOP, &tell)));
        let running: Vec<_> = grounds.into_iter().map(begin).collect();
        running.into_iter().map(|(ground, storm)| (ground, storm.join().ok())).collect()
    });
    let mut is_good = true;
    for (ground, outcome) in outcomes {
        match outcome {
            Some(outcome) => {
                is_good &= outcome.is_good();
                summary(ground, &outcome);
            }
            None => {
                is_good = false;
                tell(format!("\n{}: the storm itself broke down", ground.name()));
            }
        }
    }
    tell(format!("\nseed {seed}: {}", if is_good { "nothing lost, nothing doubled, in order" } else { "FAILED" }));
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(ground: Ground, outcome: &Outcome) {
    let Outcome { tally, sums, again, losses, violations, endings, calm, kept } = outcome;
    let faults: Vec<String> = tally.lines().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    tell(format!("\n{}: {}", ground.name(), faults.join(", ")));
    tell(format!(
        "{} kills, {} freezes, {} cuts, {} restarts; {} blocks submitted, {} final and proven, {again} handed on again, {} lost, {} wrong; \
         all final {:.0} s after the last fault",
        tally.kills(),
        tally.freezes(),
        tally.cuts(),
        tally.restarts,
        sums.submitted,
        sums.proven,
        losses.len(),
        violations.len(),
        calm.as_secs_f64(),
    ));
    endings.iter().for_each(|(what, times)| tell(format!("ended by itself, {times} times: {what}")));
    losses.iter().take(20).for_each(|(chain, number)| tell(format!("LOST: {chain} {number}")));
    if let Some(kept) = kept {
        tell(format!("logs and rows are in {}", kept.display()));
    }
}

/// Ctrl-c and SIGTERM end the faults; what was submitted still has to become final.
fn stop_on_signal(stop: &AtomicBool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    });
    stop.store(true, Ordering::Relaxed);
}
