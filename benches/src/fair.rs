//! Whether the backlog of one chain delays the blocks of another: a chain's block time alone, and beside a chain with thousands of tasks
//! waiting, in one system. Real workers, `push0-echo` processes that sleep, and the engine as `push0 up` has it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use push0_core::chain::ChainConfig;
use push0_core::message::work_queue;
use push0_core::{ChainId, Class, Pool};

use crate::Progress;
use crate::report::{Measure, Reading, Unit};
use crate::scaling::{Processes, echo_tree};
use crate::system::{Setup, System, Workers, catalog};

pub const ALONE: &str = "block, alone";
pub const BESIDE: &str = "block, beside a backlog";
pub const ONE_TASK: &str = "one task";

/// The two contests.
pub const CLASSES: &str = "realtime beside bulk";
pub const GROUPS: &str = "both standard";

/// Stages whose tasks take their time: the segments' and the joins'.
pub const STAGES: f64 = 2.0;

/// How long a backlog may take to be there.
const STUCK: Duration = Duration::from_secs(300);

/// Blocks that the backlog is spread over, all in the window.
const BACKLOG_BLOCKS: u32 = 4;

#[derive(Debug, Clone)]
pub struct Contest {
    pub workers: usize,
    pub millis: u64,
    /// Of the block that is timed.
    pub segments: u32,
    /// Tasks of the other chain that wait.
    pub backlog: u32,
    /// Blocks timed alone, and as many beside the backlog.
    pub blocks: usize,
}

impl Contest {
    fn label(&self, subject: &str) -> String {
        let Self { workers, millis, segments, backlog, .. } = self;
        format!(
            "fair, {subject}: blocks of {segments} segments, {workers} workers, tasks of {millis} ms, {backlog} waiting"
        )
    }
}

pub async fn measure(
    contest: &Contest,
    processes: &Processes,
    under: &Path,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Measure>> {
    let mut measures = Vec::new();
    let contests = [(CLASSES, Class::Realtime, Class::Bulk), (GROUPS, Class::Standard, Class::Standard)];
    for (subject, timed, waiting) in contests {
        progress(&contest.label(subject));
        let (alone, beside) = run(contest, (timed, waiting), processes, under).await?;
        measures.push(Measure::of(subject, ALONE, Unit::Seconds, &alone));
        measures.push(Measure::of(subject, BESIDE, Unit::Seconds, &beside));
        let task = Reading::single(Duration::from_millis(contest.millis).as_secs_f64());
        measures.push(Measure::of(subject, ONE_TASK, Unit::Seconds, &[task]));
    }
    Ok(measures)
}

/// Seconds of each block alone, and beside the backlog.
async fn run(
    contest: &Contest,
    (timed, waiting): (Class, Class),
    processes: &Processes,
    under: &Path,
) -> anyhow::Result<(Vec<Reading>, Vec<Reading>)> {
    let pipeline = echo_tree("bench-fair", contest.millis, contest.millis, 2, &processes.echo)?;
    let (mut catalog, config, pipeline) = catalog(&pipeline)?;
    let config = ChainConfig { class: timed, ..config };
    let backlog: ChainId = "backlog".parse()?;
    let other =
        ChainConfig { class: waiting, window: BACKLOG_BLOCKS, ..ChainConfig::new(backlog.clone(), config.pipeline) };
    catalog.chains.insert(config.chain.clone(), config.clone());
    catalog.chains.insert(backlog.clone(), other);
    let mut system = System::of(Setup::DEFAULT, catalog, config, pipeline, under).await?;
    system.start_processes(&Workers::one(contest.workers), &processes.shim, &Class::ALL)?;

    // Starts the provers of every slot.
    for _ in 0..2 {
        one(&mut system, contest.workers as u32).await?;
    }
    let mut alone = Vec::new();
    for _ in 0..contest.blocks {
        alone.push(Reading::single(one(&mut system, contest.segments).await?));
    }
    for _ in 0..BACKLOG_BLOCKS {
        // Half as many again: some are proven before the last is sent.
        system.submit_to(&backlog, (contest.backlog + contest.backlog / 2).div_ceil(BACKLOG_BLOCKS)).await?;
    }
    let pool: Pool = "cpu".parse()?;
    let queue = work_queue(&pool, waiting);
    let begun = Instant::now();
    while system.context.queue.stats(&queue).await?.visible < contest.backlog.into() {
        ensure!(begun.elapsed() < STUCK, "the backlog was not there within {} s", STUCK.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut beside = Vec::new();
    for block in 0..contest.blocks {
        // At another moment of the others' tasks each time.
        let moment = (block as u64 * 618) % 1_000;
        tokio::time::sleep(Duration::from_micros(contest.millis * moment)).await;
        beside.push(Reading::single(one(&mut system, contest.segments).await?));
    }
    let left = system.context.queue.stats(&queue).await?.visible;
    ensure!(left > u64::from(contest.backlog) / 2, "only {left} tasks of the backlog are left: more must wait");
    system.stop().await;
    Ok((alone, beside))
}

/// A block of the chain that is timed, from its submission until it is handed on in the finalized stream: seconds.
async fn one(system: &mut System, segments: u32) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let number = system.submit(segments).await?;
    Ok((system.until_final(number).await? - begun).as_secs_f64())
}
