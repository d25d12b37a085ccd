//! The measures, named and defined as in push0's own benchmarks (`benches/src`), so that both can stand in one table.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::pipeline::{JOINS, LEAVES, Node, Pipeline, Shape};

const SUBJECT: &str = "JetStream";

/// Tasks of a chain: as many as there are in push0's.
const CHAIN: u32 = 9;

#[derive(Debug, Serialize)]
pub struct Figures {
    pub nats_server: String,
    pub measures: Vec<Measure>,
}

#[derive(Debug, Serialize)]
pub struct Measure {
    name: String,
    subject: &'static str,
    unit: &'static str,
    value: f64,
    p99: Option<f64>,
    lowest: f64,
    highest: f64,
    repetitions: usize,
    samples: u64,
}

/// The sizes of push0's modes.
pub struct Effort {
    repetitions: usize,
    cycles: usize,
    releases: usize,
    blocks: &'static [(u32, usize)],
}

impl Effort {
    pub fn of(mode: &str) -> Option<Self> {
        match mode {
            "tiny" => Some(Self { repetitions: 1, cycles: 8, releases: 4, blocks: &[(5, 2)] }),
            "short" => Some(Self {
                repetitions: 3,
                cycles: 400,
                releases: 150,
                blocks: &[(64, 8), (1_000, 1), (1_000, 8), (1_000, 32)],
            }),
            "full" => Some(Self {
                repetitions: 5,
                cycles: 2_000,
                releases: 400,
                blocks: &[(64, 32), (1_000, 1), (1_000, 8), (1_000, 32), (8_000, 32)],
            }),
            _ => None,
        }
    }
}

/// (value, p99, samples) of one repetition.
type Reading = (f64, Option<f64>, u64);

fn measure(name: &str, unit: &'static str, readings: &[Reading]) -> Measure {
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let values = sorted(readings.iter().map(|reading| reading.0).collect());
    let p99s = sorted(readings.iter().filter_map(|reading| reading.1).collect());
    Measure {
        name: name.to_owned(),
        subject: SUBJECT,
        unit,
        value: median(&values).unwrap_or(f64::NAN),
        p99: median(&p99s),
        lowest: values.first().copied().unwrap_or(f64::NAN),
        highest: values.last().copied().unwrap_or(f64::NAN),
        repetitions: values.len(),
        samples: readings.iter().map(|reading| reading.2).sum(),
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn reading(samples: &[Duration]) -> anyhow::Result<Reading> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    samples.iter().for_each(|sample| histogram.saturating_record(sample.as_nanos() as u64));
    let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok((micros(0.5), Some(micros(0.99)), histogram.len()))
}

pub async fn overhead(effort: &Effort, under: &Path) -> anyhow::Result<Vec<Measure>> {
    let (mut cycles, mut releases) = (Vec::new(), Vec::new());
    for _ in 0..effort.repetitions {
        cycles.push(reading(&cycle(effort.cycles, under).await?)?);
        releases.push(reading(&release(effort.releases, under).await?)?);
    }
    Ok(vec![measure("cycle", "µs", &cycles), measure("release", "µs", &releases)])
}

/// One worker, a chain of tasks: from having a task to having the next.
async fn cycle(samples: usize, under: &Path) -> anyhow::Result<Vec<Duration>> {
    let shape = Shape::Chain(CHAIN);
    let begun = Arc::new(Mutex::new(Vec::new()));
    let mut pipeline = Pipeline::start(under, shape, false).await?;
    pipeline.spawn_workers(1, &begun).await?;
    let mut cycles = Vec::new();
    for block in 0..=samples.div_ceil(CHAIN as usize - 1) as u32 {
        pipeline.submit(block, shape).await?;
        pipeline.until_done().await?;
        let chain = take(&begun);
        ensure!(chain.len() == CHAIN as usize, "a chain of {} tasks", chain.len());
        if block > 0 {
            cycles.extend(chain.windows(2).map(|pair| pair[1].1 - pair[0].1));
        }
    }
    Ok(cycles)
}

fn take(begun: &Mutex<Vec<(Node, Instant)>>) -> Vec<(Node, Instant)> {
    std::mem::take(&mut begun.lock().unwrap_or_else(PoisonError::into_inner))
}

/// From the beginning of the report that completes a join's inputs to an idle worker having the join.
async fn release(samples: usize, under: &Path) -> anyhow::Result<Vec<Duration>> {
    const WARM_UP: usize = 10;
    let shape = Shape::Tree(2 * (samples + WARM_UP) as u32);
    let pipeline = Pipeline::start(under, shape, true).await?;
    let mut leaves = pipeline.worker(LEAVES).await?;
    let mut joins = pipeline.worker(JOINS).await?;
    pipeline.submit(1, shape).await?;
    let mut releases = Vec::new();
    for sample in 0..samples + WARM_UP {
        let (first, second) = (leaves.take().await?, leaves.take().await?);
        leaves.complete(first).await?;
        while !pipeline.is_quiet().await? {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waiting = tokio::spawn(async move {
            let held = joins.take().await?;
            anyhow::Ok((Instant::now(), held, joins))
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let completing = tokio::spawn(async move {
            let reported = leaves.complete(second).await?;
            anyhow::Ok((reported, leaves))
        });
        let (reported, leaf_worker) = completing.await??;
        let (at, held, join_worker) = waiting.await??;
        (leaves, joins) = (leaf_worker, join_worker);
        ensure!(held.task.node.layer == 1, "a join was waited for");
        joins.discard(held).await?;
        if sample >= WARM_UP {
            releases.push(at.saturating_duration_since(reported));
        }
    }
    Ok(releases)
}

pub async fn scaling(effort: &Effort, under: &Path) -> anyhow::Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for &(segments, workers) in effort.blocks {
        let (mut rates, mut wholes) = (Vec::new(), Vec::new());
        for _ in 0..effort.repetitions {
            let (rate, whole) = block(segments, workers, under).await?;
            rates.push((rate, None, 1));
            wholes.push((whole.as_secs_f64(), None, 1));
        }
        measures.push(measure(&format!("rate, block of {segments} segments, {workers} workers"), "tasks/s", &rates));
        measures.push(measure(&format!("block of {segments} segments, {workers} workers"), "s", &wholes));
    }
    Ok(measures)
}

/// Tasks a second from the first leaf's beginning, and the whole from the first leaf's dispatch, to the root's arrival.
async fn block(segments: u32, workers: usize, under: &Path) -> anyhow::Result<(f64, Duration)> {
    let shape = Shape::Tree(segments);
    let begun = Arc::new(Mutex::new(Vec::new()));
    let mut pipeline = Pipeline::start(under, shape, false).await?;
    pipeline.spawn_workers(workers, &begun).await?;
    let dispatched = Instant::now();
    pipeline.submit(1, shape).await?;
    let ended = pipeline.until_done().await?;
    let tasks = take(&begun);
    ensure!(tasks.len() == shape.tasks() as usize, "{} tasks of {}", tasks.len(), shape.tasks());
    let first = tasks.iter().map(|(_, at)| *at).min().unwrap_or(dispatched);
    Ok((f64::from(shape.tasks()) / (ended - first).as_secs_f64(), ended - dispatched))
}
