//! Benchmarks: what push0's orchestration costs. Through the real functions and the real worker protocol, on the real engine.
//!
//! - [`overhead`]: one task. [`scaling`]: many. [`floors`]: what the machine itself costs.
//! - [`system`]: a whole push0 in this process; [`prover`]: a prover that takes no time, or sleeps.
//! - [`fair`]: whether one chain's backlog delays another chain's blocks.
//! - `calls`: what a block asks of AWS, and its price (feature `aws`).
//! - [`tail`]: what hedging does where some runs are slow.
//! - [`baseline`]: the same by a dispatcher-collector on NATS JetStream, a program of its own.
//! - [`report`], [`aims`], [`machine`]: what is said about it.
//!
//! `push0 bench` and the program `push0-bench` are the same [`run`]. Definitions of all figures: `docs/performance.md`.

pub mod aims;
pub mod baseline;
#[cfg(feature = "aws")]
pub mod calls;
pub mod fair;
pub mod floors;
pub mod machine;
pub mod overhead;
pub mod prover;
pub mod report;
pub mod scaling;
pub mod system;
pub mod tail;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::fair::Contest;
use crate::machine::Machine;
use crate::report::Report;
use crate::scaling::Processes;
use crate::system::{Keeping, Setup};

/// Told what is being measured.
pub type Progress<'p> = &'p (dyn Fn(&str) + Send + Sync);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Cycle, release, the cost of a task by the size of its block; the machine's floors.
    Overhead,
    /// Tasks a second, whole blocks, efficiency with provers that take time.
    Scaling,
    /// Both.
    All,
    /// A chain's block time alone and beside another chain with a long backlog: of a less urgent class, and of the same.
    Fair,
    /// Blocks by workers some of whose runs are slow, with hedging and without it.
    Tail,
    /// What a block asks of AWS and what that costs, counted against an emulator.
    #[cfg(feature = "aws")]
    Calls,
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[arg(value_enum, default_value = "all")]
    pub part: Part,
    /// All repetitions and sizes: a quarter of an hour instead of a minute or two.
    #[arg(long)]
    pub full: bool,
    /// Everything once, at its smallest: shows that it works, its figures mean nothing.
    #[arg(long, conflicts_with = "full")]
    pub tiny: bool,
    /// Print the tables as docs/performance.md has them; --json goes before it.
    #[arg(long)]
    pub markdown: bool,
    /// Only what has this in its name, such as `cycle, process` or `8 workers`; no floors and no baseline then.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// The push0-echo whose processes are measured [default: the one beside this program, if it is there].
    #[arg(long, value_name = "PROGRAM")]
    pub echo: Option<PathBuf>,
    /// Where engines keep their files; on the disk that is to be measured [default: the system's temporary directory].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The JetStream baseline, if it is to be in the same run [default: push0-bench-jetstream beside this program, if it is there].
    #[arg(long, value_name = "PROGRAM")]
    pub baseline: Option<PathBuf>,
    /// The emulator of AWS that `calls` is counted against. The real AWS would take the credentials of an emulator for nobody's.
    #[arg(long, value_name = "URL", env = "PUSH0_MINISTACK")]
    pub endpoint: Option<String>,
    /// Segments of the block of `calls`.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub segments: u32,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Effort {
    pub mode: &'static str,
    pub repetitions: usize,
    pub cycles: usize,
    pub releases: usize,
    pub floors: usize,
    pub small_block: u32,
    pub large_block: u32,
    /// (segments, workers) of whole blocks.
    pub blocks: Vec<(u32, usize)>,
    /// The same with `power` durability, where every step waits for the disk.
    pub power_blocks: Vec<(u32, usize)>,
    pub sleeps: Vec<Sleep>,
    /// Provers that are processes, where there are any.
    pub processes: Option<Processes>,
    pub fair: Contest,
    /// Only what has this in its label.
    pub only: Option<String>,
}

/// Provers that take time.
#[derive(Debug, Clone)]
pub struct Sleep {
    pub millis: u64,
    pub workers: Vec<usize>,
    /// Leaves for each worker.
    pub rounds: u32,
    pub repetitions: usize,
}

impl Effort {
    pub fn tiny() -> Self {
        Self {
            mode: "tiny",
            repetitions: 1,
            cycles: 8,
            releases: 4,
            floors: 5,
            small_block: 8,
            large_block: 300,
            blocks: vec![(5, 2)],
            power_blocks: vec![(5, 2)],
            sleeps: vec![Sleep { millis: 1, workers: vec![2], rounds: 2, repetitions: 1 }],
            processes: None,
            fair: Contest { workers: 2, millis: 100, segments: 2, backlog: 40, blocks: 1 },
            only: None,
        }
    }

    pub fn short() -> Self {
        Self {
            mode: "short",
            repetitions: 3,
            cycles: 400,
            releases: 150,
            floors: 500,
            small_block: 64,
            large_block: 8_000,
            blocks: vec![(64, 8), (1_000, 1), (1_000, 8), (1_000, 32)],
            power_blocks: vec![(64, 8)],
            sleeps: vec![
                Sleep { millis: 1_000, workers: vec![32], rounds: 4, repetitions: 1 },
                Sleep { millis: 100, workers: vec![1, 8, 32], rounds: 10, repetitions: 1 },
            ],
            processes: None,
            fair: Contest { workers: 8, millis: 200, segments: 8, backlog: 10_000, blocks: 9 },
            only: None,
        }
    }

    pub fn full() -> Self {
        Self {
            mode: "full",
            repetitions: 5,
            cycles: 2_000,
            releases: 400,
            floors: 2_000,
            blocks: vec![(64, 32), (1_000, 1), (1_000, 8), (1_000, 32), (8_000, 32)],
            power_blocks: vec![(64, 32), (1_000, 32)],
            sleeps: vec![
                Sleep { millis: 1_000, workers: vec![1, 2, 4, 8, 16, 32], rounds: 8, repetitions: 1 },
                Sleep { millis: 100, workers: vec![1, 2, 4, 8, 16, 32], rounds: 20, repetitions: 3 },
            ],
            fair: Contest { workers: 8, millis: 1_000, segments: 8, backlog: 10_000, blocks: 25 },
            ..Self::short()
        }
    }

    /// Whether what has this label is to be measured; says so if it is.
    pub(crate) fn wants(&self, label: &str, progress: Progress<'_>) -> bool {
        let wanted = self.only.as_ref().is_none_or(|only| label.contains(only.as_str()));
        if wanted {
            progress(label);
        }
        wanted
    }

    pub(crate) fn blocks_of(&self, setup: Setup) -> &[(u32, usize)] {
        match setup.keeping {
            Keeping::Power => &self.power_blocks,
            Keeping::Memory | Keeping::Process => &self.blocks,
        }
    }
}

impl Options {
    fn effort(&self) -> Effort {
        let effort = match (self.tiny, self.full) {
            (true, _) => Effort::tiny(),
            (_, true) => Effort::full(),
            _ => Effort::short(),
        };
        let sleeps = match effort.mode {
            "tiny" => vec![(2, 10, 1)],
            "short" => vec![(32, 1_000, 4)],
            _ => vec![(8, 1_000, 8), (32, 1_000, 8), (32, 100, 20)],
        };
        let shim =
            std::env::current_exe().map(|program| vec![program.display().to_string(), "shim".into(), "--".into()]);
        let processes = beside(self.echo.as_deref(), "push0-echo").zip(shim.ok());
        let processes = processes.map(|(echo, shim)| Processes { echo, shim, sleeps });
        Effort { only: self.only.clone(), processes, ..effort }
    }
}

/// The program named, or the one of this name beside this program.
fn beside(named: Option<&Path>, name: &str) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let beside = std::env::current_exe().ok()?.with_file_name(name);
    beside.is_file().then_some(beside)
}

/// Counts the calls of a block.
#[cfg(feature = "aws")]
pub async fn count_calls(options: &Options, progress: Progress<'_>) -> anyhow::Result<calls::Report> {
    let endpoint = options.endpoint.clone();
    let endpoint = endpoint.context("calls are counted against an emulator: name it with --endpoint URL")?;
    let under = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let plan = calls::Plan { segments: options.segments, ..calls::Plan::new(endpoint) };
    calls::run(&plan, &under, progress).await
}

/// Measures hedging.
pub async fn measure_tail(options: &Options, progress: Progress<'_>) -> anyhow::Result<tail::Report> {
    use anyhow::Context as _;
    let echo = beside(options.echo.as_deref(), "push0-echo");
    let echo = echo.context("push0-echo is missing: build it beside this program, or name it with --echo")?;
    let shim = vec![std::env::current_exe()?.display().to_string(), "shim".to_owned(), "--".to_owned()];
    let plan = tail::Plan::new(echo, shim);
    let plan = match (options.tiny, options.full) {
        (true, _) => tail::Plan { blocks: 1, learning: 1, segments: 4, task_ms: 20, ..plan },
        (_, true) => plan,
        _ => tail::Plan { blocks: 15, ..plan },
    };
    let under = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&under)?;
    tail::run(&plan, &under, progress).await
}

/// Measures what is asked for; calls are counted by `count_calls`, hedging is measured by [`measure_tail`].
pub async fn run(options: &Options, progress: Progress<'_>) -> anyhow::Result<Report> {
    let (effort, part) = (options.effort(), options.part);
    let under = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&under)?;
    let files = tempfile::Builder::new().prefix("push0-bench-").tempdir_in(&under)?;
    let under = files.path().to_owned();
    let mut machine = Machine::look(&under);
    let date = jiff::Timestamp::now().strftime("%F %R UTC").to_string();
    let baseline = beside(options.baseline.as_deref(), baseline::PROGRAM).filter(|_| options.only.is_none());
    let (mut measures, mut notes) = (Vec::new(), Vec::new());
    if part == Part::Fair {
        let processes = effort.processes.as_ref();
        let processes =
            processes.context("workers run push0-echo: build it beside this program, or name it with --echo")?;
        measures.extend(fair::measure(&effort.fair, processes, &under, progress).await?);
    }
    let parts = [(Part::Overhead, "overhead"), (Part::Scaling, "scaling")];
    for (_, name) in parts.into_iter().filter(|(each, _)| part == *each || part == Part::All) {
        if name == "overhead" {
            if effort.only.is_none() {
                progress("floors");
                measures.extend(floors::measure(&under, effort.floors).await?);
            }
            measures.extend(overhead::measure(&effort, &under, progress).await?);
        } else {
            measures.extend(scaling::measure(&effort, &under, progress).await?);
        }
        if let Some(program) = &baseline {
            progress(&format!("{name} of the baseline"));
            match baseline::run(program, name, effort.mode, &under).await {
                Ok(theirs) => {
                    machine.nats_server = Some(theirs.nats_server);
                    measures.extend(theirs.measures);
                }
                // What was measured of push0 is not lost with it.
                Err(error) => notes.push(format!("{name} of the baseline failed: {error:#}")),
            }
        }
    }
    if baseline.is_none() && options.only.is_none() && part != Part::Fair {
        notes.push("the JetStream baseline was left out: see benches/jetstream/README.md".to_owned());
    }
    if effort.processes.is_none() && part != Part::Overhead {
        notes.push(
            "processes of push0-echo were left out: build it beside this program, or name it with --echo".to_owned(),
        );
    }
    if machine.build != "release" {
        notes.push("a debug build: its figures mean nothing; build with --release".to_owned());
    }
    if machine.load > 0.5 * machine.cores as f64 {
        notes.push(format!(
            "others were at work on this machine (load {:.1}): compare only within this run",
            machine.load
        ));
    }
    let aims = aims::judge(&measures);
    Ok(Report { date, mode: effort.mode.to_owned(), machine, measures, notes, aims })
}
