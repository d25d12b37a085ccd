//! What one task costs: cycle, release, and the cost of a task by the size of its block.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use push0_core::message::{Report, ReportEvent, TaskMessage, queue, work_queue};
use push0_core::record::{BlobRef, Versioned as _};
use push0_core::{Class, Millis, Pool};
use push0_gpu_worker::Data;
use push0_gpu_worker::task::{self, Env};
use push0_runtime::host::{self, Function, Mapping};
use push0_runtime::port::{Delivery, Outgoing};

use crate::prover::{Bench, Marks, padded};
use crate::report::{Measure, Reading, Samples, Unit};
use crate::system::{Manner, Setup, System, WorkerPorts, env};
use crate::{Effort, Progress};

pub const CYCLE: &str = "cycle";
pub const RELEASE: &str = "release";
pub const COST_OF_64: &str = "one task of a block of 64 segments";
pub const COST_OF_8000: &str = "one task of a block of 8000 segments";

/// A chain of tasks, each the only input of the next.
const CHAIN: &str = r#"
    name = "bench-chain"
    [prover.bench]
    form = "session"
    command = ["bench"]
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "wrap-1"
    kind = "single"
    [[stage]]
    name = "wrap-2"
    kind = "single"
    [[stage]]
    name = "wrap-3"
    kind = "single"
    [[stage]]
    name = "wrap-4"
    kind = "single"
    [[stage]]
    name = "wrap-5"
    kind = "single"
    [[stage]]
    name = "wrap-6"
    kind = "single"
    [[stage]]
    name = "wrap-7"
    kind = "single"
    [[stage]]
    name = "wrap-8"
    kind = "single"
    [[stage]]
    name = "verify"
    kind = "verify"
"#;

/// Cycles that one block of [`CHAIN`] has: from each of its tasks to the next.
const CYCLES_A_BLOCK: usize = 8;

/// Leaves and joins in pools of their own, so that an idle worker can wait for a join while leaves are waiting.
const JOINS: &str = r#"
    name = "bench-joins"
    [prover.bench]
    form = "session"
    command = ["bench"]
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "join"
    kind = "join"
    arity = 2
    [policy.join]
    pool = "join"
    [[stage]]
    name = "verify"
    kind = "verify"
"#;

/// Everything about single tasks, in every setup.
pub async fn measure(effort: &Effort, under: &Path, progress: Progress<'_>) -> anyhow::Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for setup in Setup::ALL {
        let label = setup.label();
        if effort.wants(&format!("{CYCLE}, {label}"), progress) {
            let one = async || cycle(setup, setup.samples(effort.cycles), under).await;
            measures.push(repeated(effort, &label, CYCLE, one).await?);
        }
    }
    for setup in Setup::ALL {
        let label = setup.label();
        if effort.wants(&format!("{RELEASE}, {label}"), progress) {
            let one = async || release(setup, setup.samples(effort.releases), under).await;
            measures.push(repeated(effort, &label, RELEASE, one).await?);
        }
    }
    if effort.wants("cost of a task by the size of its block", progress) {
        measures.extend(cost(effort, under).await?);
    }
    Ok(measures)
}

async fn repeated(
    effort: &Effort,
    subject: &str,
    name: &str,
    one: impl AsyncFn() -> anyhow::Result<Samples>,
) -> anyhow::Result<Measure> {
    let mut readings = Vec::new();
    for _ in 0..effort.repetitions {
        readings.push(one().await?.reading());
    }
    Ok(Measure::of(subject, name, Unit::Micros, &readings))
}

/// One worker proves a chain of tasks, one after the other: from the moment the prover is given a task to the moment it is given the
/// next. In between, all that makes the next: the artifact is stored, the report sent and accepted by the collector, the dependent
/// created; the old task acknowledged, the new one claimed, looked up and its input fetched.
pub async fn cycle(setup: Setup, samples: usize, under: &Path) -> anyhow::Result<Samples> {
    let marks = Arc::new(Marks::default());
    let mut system = System::start(setup, CHAIN, under, &marks).await?;
    system.spawn_workers(&"cpu".parse()?, 1, Manner::OneByOne, &marks)?;
    let mut cycles = Samples::new();
    // The first block only warms up.
    for block in 0..=samples.div_ceil(CYCLES_A_BLOCK) {
        let number = system.submit(1).await?;
        system.until_final(number).await?;
        let mut chain = marks.take();
        chain.retain(|mark| (1..=CYCLES_A_BLOCK as u16 + 1).contains(&mark.node.stage));
        ensure!(chain.len() == CYCLES_A_BLOCK + 1, "a chain of {} tasks", chain.len());
        if block > 0 {
            chain.windows(2).for_each(|pair| cycles.add(pair[1].begun - pair[0].begun));
        }
    }
    system.stop().await;
    Ok(cycles)
}

/// From the moment a worker begins to send the report that completes a join's inputs to the moment an idle worker, waiting elsewhere,
/// has the join in hand.
pub async fn release(setup: Setup, samples: usize, under: &Path) -> anyhow::Result<Samples> {
    const WARM_UP: usize = 10;
    let mut system = System::start(setup, JOINS, under, &Arc::default()).await?;
    let (leaves, joins): (Pool, Pool) = ("cpu".parse()?, "join".parse()?);
    let (leaf_worker, join_worker) = (system.worker_ports(&leaves)?, system.worker_ports(&joins)?);
    system.submit(2 * (samples + WARM_UP) as u32).await?;
    let mut releases = Samples::new();
    for sample in 0..samples + WARM_UP {
        let (first, second) = (take(&leaf_worker, &leaves).await?, take(&leaf_worker, &leaves).await?);
        complete(&leaf_worker, &leaves, &first).await?;
        until_quiet(&system).await?;
        let (idle, idle_pool) = (join_worker.clone(), joins.clone());
        let waiting = tokio::spawn(async move {
            let join = take(&idle, &idle_pool).await?;
            anyhow::Ok((Instant::now(), join))
        });
        // Time to park.
        tokio::time::sleep(Duration::from_millis(1)).await;
        // From a task of its own, as a worker's is.
        let (worker, pool) = (leaf_worker.clone(), leaves.clone());
        let completing = tokio::spawn(async move { complete(&worker, &pool, &second).await });
        let reported = completing.await??;
        let (held, join) = waiting.await??;
        join_worker.queue.ack(&work_queue(&joins, Class::Standard), &join.receipt).await?;
        if sample >= WARM_UP {
            releases.add(held.saturating_duration_since(reported));
        }
    }
    system.stop().await;
    Ok(releases)
}

async fn take(worker: &WorkerPorts, pool: &Pool) -> anyhow::Result<Delivery> {
    let queue = work_queue(pool, Class::Standard);
    let taken = worker.queue.receive(&queue, 1, Millis::from_secs(20), Millis::from_secs(60)).await?;
    taken.into_iter().next().with_context(|| format!("nothing came in {queue}"))
}

/// What a worker does at a task's end, with the instant at which it begins to report.
async fn complete(worker: &WorkerPorts, pool: &Pool, delivery: &Delivery) -> anyhow::Result<Instant> {
    let task = TaskMessage::from_json(&delivery.body)?;
    let Data::Memory(bytes) = padded(task.id.to_string()) else { anyhow::bail!("artifacts are in memory") };
    let info = worker.blobs.put_new(&task.artifact_key(), bytes, &task.id.to_string()).await?.into_info();
    let artifact = BlobRef { key: info.key, sha256: info.sha256, size: info.size };
    let event = ReportEvent::Done { artifact };
    let report = Report {
        task: task.id.clone(),
        worker: format!("{pool}-0").parse()?,
        by: None,
        at: Millis(0),
        handout: None,
        event,
    };
    let message =
        Outgoing { body: report.to_json(), group: Some(task.id.run.chain.to_string()), ..Outgoing::default() };
    let begun = Instant::now();
    worker.queue.send(queue::RESULTS, vec![message]).await?;
    worker.queue.ack(&work_queue(pool, Class::Standard), &delivery.receipt).await?;
    Ok(begun)
}

/// Until the collector has handled every report.
async fn until_quiet(system: &System) -> anyhow::Result<()> {
    loop {
        let stats = system.context.queue.stats(queue::RESULTS).await?;
        if stats.visible + stats.in_flight + stats.delayed == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Worker and collector by turns in one task, so that a figure is all the work of one leaf and none of another: a leaf taken, proven by
/// nothing, stored, reported, accepted (every second fires its join), acknowledged. Two blocks by turns, so that whatever disturbs
/// the one disturbs the other.
async fn cost(effort: &Effort, under: &Path) -> anyhow::Result<Vec<Measure>> {
    let sizes = [(effort.small_block, COST_OF_64), (effort.large_block, COST_OF_8000)];
    let mut readings: [Vec<Reading>; 2] = Default::default();
    for _ in 0..effort.repetitions {
        let mut blocks = [ByTurns::new(sizes[0].0, under).await?, ByTurns::new(sizes[1].0, under).await?];
        let mut samples = [Samples::new(), Samples::new()];
        let leaves = effort.small_block.min(effort.large_block);
        // The first few only warm up.
        for leaf in 0..leaves {
            for (block, samples) in blocks.iter_mut().zip(&mut samples) {
                let took = block.turn().await?;
                if leaf >= leaves / 8 {
                    samples.add(took);
                }
            }
        }
        for (readings, samples) in readings.iter_mut().zip(&samples) {
            readings.push(samples.reading());
        }
    }
    let measure = |(readings, (_, name)): (&Vec<Reading>, (u32, &str))| {
        Measure::of(&Setup::DEFAULT.label(), name, Unit::Micros, readings)
    };
    Ok(readings.iter().zip(sizes).map(measure).collect())
}

struct ByTurns {
    system: System,
    collector: Arc<dyn Function>,
    results: Mapping,
    env: Env,
    work: String,
    prover: Bench,
}

impl ByTurns {
    /// A block that has been split, and its leaves sent.
    async fn new(segments: u32, under: &Path) -> anyhow::Result<Self> {
        let mut system = System::new(Setup::DEFAULT, JOINS, under).await?;
        let [(_, dispatcher), (_, collector)] = system.functions();
        system.submit(segments).await?;
        let queue = system.context.queue.clone();
        host::poll_once(&*queue, &*dispatcher, &system.mapping("dispatcher", queue::SUBMISSIONS)?, Millis(0)).await?;
        let mut prover = Bench::new(Arc::default());
        let trusted = Pool::trusted();
        // The starts of these provers are announced to nobody: the collector would note them between two figures.
        let (splitter, _) = env("splitter", &trusted, &system.worker_ports(&trusted)?)?;
        let split = take(&system.worker_ports(&trusted)?, &trusted).await?;
        task::handle(&splitter, &work_queue(&trusted, Class::Standard), split, &mut prover).await;
        for (source, at_most) in [(queue::VERDICTS, 1), (queue::RANGES, usize::MAX)] {
            let mapping = system.mapping("collector", source)?;
            for _ in 0..at_most {
                if host::poll_once(&*queue, &*collector, &mapping, Millis(0)).await? == 0 {
                    break;
                }
            }
        }
        let pool: Pool = "cpu".parse()?;
        let (env, _) = env("worker", &pool, &system.worker_ports(&pool)?)?;
        let work = work_queue(&pool, Class::Standard);
        let waiting = queue.stats(&work).await?.visible;
        ensure!(waiting == u64::from(segments), "{waiting} leaves of {segments} were sent");
        let results = system.mapping("collector", queue::RESULTS)?;
        Ok(Self { system, collector, results, env, work, prover })
    }

    async fn turn(&mut self) -> anyhow::Result<Duration> {
        let queue = &*self.system.context.queue;
        let begun = Instant::now();
        let taken = queue.receive(&self.work, 1, Millis(0), Millis::from_secs(60)).await?;
        let leaf = taken.into_iter().next().context("the leaves are used up")?;
        task::handle(&self.env, &self.work, leaf, &mut self.prover).await;
        let handled = host::poll_once(queue, &*self.collector, &self.results, Millis(0)).await?;
        let took = begun.elapsed();
        ensure!(handled == 1, "{handled} reports of one leaf");
        Ok(took)
    }
}
