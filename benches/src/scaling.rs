//! What many workers get done: tasks a second, whole blocks, and how much of the workers' time is the provers'.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use push0_core::{Pool, pipeline::Kind};

use crate::prover::{Mark, Marks};
use crate::report::{Measure, Reading, Unit};
use crate::system::{Keeping, Manner, Reach, Setup, System, Workers, tree};
use crate::{Effort, Progress};

/// Leaves that take their time, under joins that take none.
fn sleeping(millis: u64) -> String {
    tree("bench-sleeping", millis, 0, 16)
}

pub fn rate_name(segments: u32, workers: usize) -> String {
    format!("rate, block of {segments} segments, {workers} workers")
}

pub fn block_name(segments: u32, workers: usize) -> String {
    format!("block of {segments} segments, {workers} workers")
}

pub fn efficiency_name(workers: usize, millis: u64) -> String {
    format!("efficiency, {workers} workers, tasks of {millis} ms")
}

pub fn processes_name(workers: usize, millis: u64) -> String {
    format!("efficiency, {workers} push0-echo processes, tasks of {millis} ms")
}

/// Real provers as processes.
#[derive(Debug, Clone)]
pub struct Processes {
    pub echo: PathBuf,
    /// What runs the shim.
    pub shim: Vec<String>,
    /// (workers, milliseconds, leaves for each)
    pub sleeps: Vec<(usize, u64, u32)>,
}

/// The setups that whole blocks are measured in.
const SETUPS: [Setup; 4] = [
    Setup { keeping: Keeping::Memory, reach: Reach::InProcess },
    Setup::DEFAULT,
    Setup { keeping: Keeping::Power, reach: Reach::InProcess },
    Setup { keeping: Keeping::Process, reach: Reach::Tcp },
];

pub async fn measure(effort: &Effort, under: &Path, progress: Progress<'_>) -> anyhow::Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for setup in SETUPS {
        for &(segments, workers) in effort.blocks_of(setup) {
            let label = setup.label();
            if !effort.wants(&format!("block of {segments} segments, {workers} workers, {label}"), progress) {
                continue;
            }
            let mut blocks = Vec::new();
            for _ in 0..effort.repetitions {
                blocks.push(block(setup, segments, workers, under).await?);
            }
            let rates: Vec<Reading> = blocks.iter().map(|block| Reading::single(block.rate())).collect();
            let whole: Vec<Reading> = blocks.iter().map(|block| Reading::single(block.whole.as_secs_f64())).collect();
            measures.push(Measure::of(&label, &rate_name(segments, workers), Unit::Rate, &rates));
            measures.push(Measure::of(&label, &block_name(segments, workers), Unit::Seconds, &whole));
        }
    }
    for sleep in &effort.sleeps {
        for &workers in &sleep.workers {
            if !effort.wants(&efficiency_name(workers, sleep.millis), progress) {
                continue;
            }
            let mut readings = Vec::new();
            for _ in 0..sleep.repetitions {
                readings.push(Reading::single(100.0 * efficiency(workers, sleep.millis, sleep.rounds, under).await?));
            }
            let name = efficiency_name(workers, sleep.millis);
            measures.push(Measure::of(&Setup::DEFAULT.label(), &name, Unit::Percent, &readings));
        }
    }
    if let Some(processes) = &effort.processes {
        for &(workers, millis, rounds) in &processes.sleeps {
            let name = processes_name(workers, millis);
            if effort.wants(&name, progress) {
                let found = efficiency_of_processes(processes, workers, millis, rounds, under).await?;
                let reading = Reading::single(100.0 * found);
                measures.push(Measure::of(&Setup::DEFAULT.label(), &name, Unit::Percent, &[reading]));
            }
        }
    }
    Ok(measures)
}

/// How one block went.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Tasks after `split`.
    pub tasks: u32,
    /// From its submission until it is handed on in the finalized stream.
    pub whole: Duration,
    /// The same from the moment its first leaf is given to a prover: without `split`, which stores every segment.
    pub proving: Duration,
}

impl Block {
    pub fn rate(&self) -> f64 {
        f64::from(self.tasks) / self.proving.as_secs_f64()
    }
}

/// One block by so many workers in a fresh system, after a small one that warms it up.
pub async fn block(setup: Setup, segments: u32, workers: usize, under: &Path) -> anyhow::Result<Block> {
    let marks = Arc::new(Marks::default());
    let mut system = System::start(setup, &tree("bench-tree", 0, 0, 2), under, &marks).await?;
    system.spawn_workers(&"cpu".parse()?, workers, Manner::Ahead, &marks)?;
    let mut found = None;
    for segments in [8, segments] {
        let begun = Instant::now();
        let number = system.submit(segments).await?;
        let ended = system.until_final(number).await?;
        let tasks = system.tasks_of(segments)?;
        let runs = marks.take();
        ensure!(runs.len() == tasks as usize, "{} runs of provers for {tasks} tasks", runs.len());
        found = Some(Block { tasks: tasks - 1, whole: ended - begun, proving: ended - first_leaf(&runs)? });
    }
    system.stop().await;
    found.ok_or_else(|| anyhow::anyhow!("no block was proven"))
}

fn first_leaf(runs: &[Mark]) -> anyhow::Result<Instant> {
    let leaves = runs.iter().filter(|mark| mark.node.stage == 1);
    leaves.map(|mark| mark.begun).min().ok_or_else(|| anyhow::anyhow!("no leaf was proven"))
}

/// The part of the workers' time that the leaves were to take, from the first leaf's beginning until the block is handed on: 1 if
/// there were nothing but sleeping in it. Joins, verification and finalization count as lost time.
pub async fn efficiency(workers: usize, millis: u64, rounds: u32, under: &Path) -> anyhow::Result<f64> {
    let marks = Arc::new(Marks::default());
    let pipeline = sleeping(millis);
    let mut system = System::start(Setup::DEFAULT, &pipeline, under, &marks).await?;
    let pool: Pool = "cpu".parse()?;
    system.spawn_workers(&pool, workers, Manner::Ahead, &marks)?;
    let segments = workers as u32 * rounds;
    let number = system.submit(segments).await?;
    let ended = system.until_final(number).await?;
    let runs = marks.take();
    let leaves = runs.iter().filter(|mark| mark.node.stage == 1).count();
    ensure!(leaves == segments as usize, "{leaves} leaves of {segments} ({})", Kind::Map.as_str());
    let elapsed = ended - first_leaf(&runs)?;
    system.stop().await;
    let wanted = Duration::from_millis(millis).as_secs_f64() * f64::from(rounds);
    Ok(wanted / elapsed.as_secs_f64())
}

/// The pipeline of [`tree`] with `push0-echo` for its prover.
pub(crate) fn echo_tree(name: &str, prove_ms: u64, join_ms: u64, arity: u32, echo: &Path) -> anyhow::Result<String> {
    let command = serde_json::to_string(echo)?;
    let pipeline = tree(name, prove_ms, join_ms, arity);
    let pipeline = pipeline.replace(r#"["bench"]"#, &format!("[{command}]")).replace("sleep_ms", "duration_ms");
    Ok(pipeline.replace("prover.bench", "prover.echo"))
}

/// The same with a real worker, whose slots run `push0-echo` processes: a block that starts them all, then the one that counts, from its
/// submission.
pub async fn efficiency_of_processes(
    processes: &Processes,
    workers: usize,
    millis: u64,
    rounds: u32,
    under: &Path,
) -> anyhow::Result<f64> {
    let pipeline = echo_tree("bench-sleeping", millis, 0, 16, &processes.echo)?;
    let mut system =
        System::start_with_processes(Setup::DEFAULT, &pipeline, under, &Workers::one(workers), &processes.shim).await?;
    let first = system.submit(workers as u32).await?;
    system.until_final(first).await?;
    let begun = Instant::now();
    let number = system.submit(workers as u32 * rounds).await?;
    let elapsed = system.until_final(number).await? - begun;
    system.stop().await;
    let wanted = Duration::from_millis(millis).as_secs_f64() * f64::from(rounds);
    Ok(wanted / elapsed.as_secs_f64())
}
