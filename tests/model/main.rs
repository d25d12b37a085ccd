//! Explores the model: `push0-model` the small configurations, `push0-model --large` the large ones, `--only NAME` one of them.

use clap::Parser;
use push0_tests::model::{Bounds, Bug, LARGE, SMALL, check};

#[derive(Parser)]
struct Args {
    /// The large configurations.
    #[arg(long)]
    large: bool,
    /// Of all configurations the one of this name.
    #[arg(long)]
    only: Option<String>,
    /// Put a bug in, and stop at the first thing that it breaks.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Other budgets than the configuration's: `--with crashes=2 --with forks=0`, also blocks, segments, window, dispatchers and collectors.
    #[arg(long, value_name = "NAME=NUMBER")]
    with: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "a tool for people at a terminal")]
fn main() {
    let args = Args::parse();
    let all = SMALL.iter().chain(&LARGE);
    let meant: Vec<_> = match &args.only {
        Some(name) => all.filter(|bounds| bounds.name == name).collect(),
        None if args.large => LARGE.iter().collect(),
        None => SMALL.iter().collect(),
    };
    let mut holds = !meant.is_empty();
    for bounds in meant {
        let explored = args.with.iter().try_fold(*bounds, |bounds, change| changed(bounds, change));
        let tell = |states, depth| eprintln!("{}: {states} states, depth {depth} …", bounds.name);
        match explored.and_then(|bounds| check(bounds, args.bug, args.threads, tell)) {
            Ok(report) => {
                println!("{}", report.line());
                report.reached.iter().for_each(|name| println!("    reached: {name}"));
                report.unreached.iter().for_each(|name| println!("    NOT REACHED: {name}"));
                for (name, trace) in &report.broken {
                    println!("    BROKEN: {name}");
                    trace.iter().for_each(|line| println!("        {line}"));
                }
                holds &= report.holds();
            }
            Err(what) => {
                println!("{}: {what}", bounds.name);
                holds = false;
            }
        }
    }
    if !holds {
        std::process::exit(1);
    }
}

fn changed(mut bounds: Bounds, change: &str) -> Result<Bounds, String> {
    let (name, number) = change.split_once('=').ok_or_else(|| format!("{change}: not NAME=NUMBER"))?;
    let number: u8 = number.parse().map_err(|error| format!("{change}: {error}"))?;
    let faults = &mut bounds.faults;
    match name {
        "blocks" => bounds.blocks = number.into(),
        "segments" => bounds.segments = number.into(),
        "window" => bounds.window = number.into(),
        "dispatchers" => bounds.dispatchers = number.into(),
        "collectors" => bounds.collectors = number.into(),
        "crashes" => faults.crashes = number,
        "lapses" => faults.lapses = number,
        "repeats" => faults.repeats = number,
        "failures" => faults.failures = number,
        "deaths" => faults.deaths = number,
        "bad-blocks" => faults.bad_blocks = number,
        "retries" => faults.retries = number,
        "forks" => faults.forks = number,
        "forgets" => faults.forgets = number,
        other => return Err(format!("there is no budget of {other}")),
    }
    Ok(bounds)
}
