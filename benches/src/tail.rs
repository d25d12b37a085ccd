//! What hedging does to the tail: the same blocks, by workers of which every tenth run is ten times slower, with hedging and without, block by
//! block in turns, so that whatever disturbs the one disturbs the other.
//!
//! Two systems with workers of their own, whose provers are `push0-echo` processes. Which run is slow follows from block, node, attempt and
//! copy, and is the same in both. Times are those that the provers wrote down themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use push0_core::pipeline::Hedging;
use push0_core::{Millis, Node, TaskId};
use serde::Serialize;

use crate::Progress;
use crate::machine::Machine;
use crate::system::{Setup, System, Workers};

/// What is run.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Blocks that count, for each of the two; others go before them, from which the durations are learnt.
    pub blocks: u32,
    pub learning: u32,
    pub segments: u32,
    pub workers: usize,
    /// How long a run takes that is not slow.
    pub task_ms: u64,
    pub slow_per_thousand: u32,
    pub slow_factor: u64,
    /// In thousandths.
    pub hedging: Hedging,
    /// A third of it is how late a worker may hear that another copy was first.
    pub lease_ms: u64,
    #[serde(skip)]
    pub echo: PathBuf,
    #[serde(skip)]
    pub shim: Vec<String>,
}

impl Plan {
    pub fn new(echo: PathBuf, shim: Vec<String>) -> Self {
        Self {
            blocks: 40,
            learning: 3,
            segments: 32,
            workers: 8,
            task_ms: 500,
            slow_per_thousand: 100,
            slow_factor: 10,
            hedging: Hedging { quantile: 750, factor: 1_500, budget: 120 },
            lease_ms: 1_500,
            echo,
            shim,
        }
    }

    fn pipeline(&self, hedging: bool, times: &Path) -> anyhow::Result<String> {
        let (times, echo) = (format!("PUSH0_ECHO_TIMES={}", times.display()), self.echo.display().to_string());
        let command = serde_json::to_string(&["env", times.as_str(), echo.as_str()])?;
        let (ms, share, factor) = (self.task_ms, self.slow_per_thousand, self.slow_factor);
        let params =
            format!("params = {{ duration_ms = {ms}, slow = {{ per_thousand = {share}, factor = {factor} }} }}");
        let thousandths = |value: u32| f64::from(value) / 1_000.0;
        let Hedging { quantile, factor, budget } = self.hedging;
        let [quantile, factor, budget] = [quantile, factor, budget].map(thousandths);
        let hedge = format!("hedge = {{ quantile = {quantile:?}, factor = {factor:?}, budget = {budget:?} }}");
        let hedge = if hedging { hedge } else { "hedge = false".to_owned() };
        Ok(format!(
            r#"
            name = "bench-tail"
            [prover.echo]
            form = "session"
            command = {command}
            [[stage]]
            name = "split"
            kind = "split"
            [[stage]]
            name = "prove"
            kind = "map"
            {params}
            [[stage]]
            name = "join"
            kind = "join"
            arity = 4
            {params}
            [[stage]]
            name = "verify"
            kind = "verify"
            [policy.default]
            {hedge}
        "#
        ))
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    pub p50: u64,
    pub p99: u64,
    pub longest: u64,
    pub samples: usize,
}

impl Times {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |quantile: f64| {
            let rank = (times.len() as f64 * quantile).ceil().max(1.0) as usize;
            times.get(rank - 1).copied().unwrap_or(0)
        };
        Self { p50: at(0.5), p99: at(0.99), longest: at(1.0), samples: times.len() }
    }
}

/// What came of the blocks of one system.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    pub hedging: bool,
    /// From a block's submission until it is handed on.
    pub block: Times,
    /// From the beginning of a task's first run to the end of the one that was first.
    pub task: Times,
    /// All runs of provers together.
    pub work_ms: u64,
    /// Of that, copies sent for stragglers.
    pub extra_ms: u64,
    pub copies: usize,
    /// Tasks whose copy was first.
    pub won: usize,
}

impl Side {
    fn extra_percent(&self) -> f64 {
        100.0 * self.extra_ms as f64 / self.work_ms.max(1) as f64
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub date: String,
    pub machine: Machine,
    pub plan: Plan,
    pub off: Side,
    pub on: Side,
    pub notes: Vec<String>,
}

/// One run of a prover, as it wrote it down.
#[derive(Debug, Clone)]
struct Run {
    task: TaskId,
    begun: u64,
    ended: u64,
    is_done: bool,
}

struct Contestant {
    system: System,
    times: PathBuf,
    blocks: Vec<Duration>,
    counted_from: u64,
}

impl Contestant {
    async fn new(plan: &Plan, hedging: bool, under: &Path) -> anyhow::Result<Self> {
        let times = under.join(if hedging { "times-on" } else { "times-off" });
        let workers = Workers { count: plan.workers, slots: 1, lease: Millis(plan.lease_ms) };
        let pipeline = plan.pipeline(hedging, &times)?;
        let system = System::start_with_processes(Setup::DEFAULT, &pipeline, under, &workers, &plan.shim).await?;
        Ok(Self { system, times, blocks: Vec::new(), counted_from: u64::from(plan.learning) + 1 })
    }

    async fn block(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let begun = Instant::now();
        let number = self.system.submit(plan.segments).await?;
        let ended = self.system.until_final(number).await?;
        if number >= self.counted_from {
            self.blocks.push(ended - begun);
        }
        // What came too late is given up, and sketches are kept, before the next begins.
        tokio::time::sleep(Duration::from_millis(plan.lease_ms)).await;
        Ok(())
    }

    async fn finish(self, plan: &Plan, hedging: bool) -> anyhow::Result<Side> {
        let text = std::fs::read_to_string(&self.times).context("the provers wrote no times")?;
        let runs: Vec<Run> = text.lines().map(parse).collect::<anyhow::Result<_>>()?;
        let tasks = self.system.tasks_of(plan.segments)? as usize - 2;
        self.system.stop().await;
        let counts = |run: &&Run| run.task.run.number >= self.counted_from && [1, 2].contains(&run.task.node.stage);
        let mut by_node: BTreeMap<(u64, Node), Vec<&Run>> = BTreeMap::new();
        for run in runs.iter().filter(counts) {
            by_node.entry((run.task.run.number, run.task.node)).or_default().push(run);
        }
        ensure!(by_node.len() == tasks * plan.blocks as usize, "{} tasks, not {tasks} a block", by_node.len());
        let mut side = Side {
            hedging,
            block: Times::of(self.blocks.iter().map(|block| block.as_millis() as u64).collect()),
            task: Times::of(Vec::new()),
            work_ms: 0,
            extra_ms: 0,
            copies: 0,
            won: 0,
        };
        let mut took = Vec::new();
        for runs in by_node.values() {
            let first = runs.iter().filter(|run| run.is_done).min_by_key(|run| run.ended);
            let first = first.context("a task of a finished block has no run that ended well")?;
            let begun = runs.iter().map(|run| run.begun).min().unwrap_or_default();
            took.push(first.ended - begun);
            side.won += usize::from(first.task.copy > 0);
            side.work_ms += runs.iter().map(|run| run.ended - run.begun).sum::<u64>();
            let copies = runs.iter().filter(|run| run.task.copy > 0);
            side.copies += copies.clone().count();
            side.extra_ms += copies.map(|run| run.ended - run.begun).sum::<u64>();
        }
        side.task = Times::of(took);
        Ok(side)
    }
}

fn parse(line: &str) -> anyhow::Result<Run> {
    let words: Vec<&str> = line.split(' ').collect();
    let [task, begun, ended, how] = words[..] else { anyhow::bail!("{line:?} is no run") };
    Ok(Run { task: task.parse()?, begun: begun.parse()?, ended: ended.parse()?, is_done: how == "done" })
}

pub async fn run(plan: &Plan, under: &Path, progress: Progress<'_>) -> anyhow::Result<Report> {
    let files = tempfile::Builder::new().prefix("push0-bench-").tempdir_in(under)?;
    let machine = Machine::look(files.path());
    let date = jiff::Timestamp::now().strftime("%F %R UTC").to_string();
    let mut off = Contestant::new(plan, false, files.path()).await?;
    let mut on = Contestant::new(plan, true, files.path()).await?;
    for block in 1..=plan.learning + plan.blocks {
        progress(&format!("block {block} of {}", plan.learning + plan.blocks));
        off.block(plan).await?;
        on.block(plan).await?;
    }
    let mut notes = Vec::new();
    if machine.build != "release" {
        notes.push("a debug build".to_owned());
    }
    if machine.load > 0.5 * machine.cores as f64 {
        let load = machine.load;
        notes.push(format!("others were at work on this machine (load {load:.1}): compare only within this run"));
    }
    Ok(Report {
        date,
        machine,
        off: off.finish(plan, false).await?,
        on: on.finish(plan, true).await?,
        plan: plan.clone(),
        notes,
    })
}

impl Report {
    /// Name, without hedging, with it, and the one as part of the other.
    fn rows(&self) -> Vec<[String; 4]> {
        let (off, on) = (&self.off, &self.on);
        let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1_000.0);
        let ratio = |off: u64, on: u64| format!("{:.2}", on as f64 / off.max(1) as f64);
        let time = |name: &str, off: u64, on: u64| [name.to_owned(), seconds(off), seconds(on), ratio(off, on)];
        vec![
            time("block, P50", off.block.p50, on.block.p50),
            time("block, P99", off.block.p99, on.block.p99),
            time("task, P50", off.task.p50, on.task.p50),
            time("task, P99", off.task.p99, on.task.p99),
            time("task, longest", off.task.longest, on.task.longest),
            time("provers' work", off.work_ms, on.work_ms),
            [
                "of that, copies".to_owned(),
                format!("{:.1} %", off.extra_percent()),
                format!("{:.1} %", on.extra_percent()),
                String::new(),
            ],
            ["copies, first of them".to_owned(), String::new(), format!("{}, {}", on.copies, on.won), String::new()],
        ]
    }

    fn title(&self) -> String {
        let plan = &self.plan;
        let Hedging { quantile, factor, budget } = plan.hedging;
        format!(
            "{} blocks of {} segments ({} tasks) each way, {} workers, tasks of {} ms, {} % of the runs {} times as slow; hedging after the {} % quantile × {}, budget {} %; lease {} ms. {}, {} cores, load {:.1}, {} build, {}",
            plan.blocks,
            plan.segments,
            self.on.task.samples,
            plan.workers,
            plan.task_ms,
            f64::from(plan.slow_per_thousand) / 10.0,
            plan.slow_factor,
            f64::from(quantile) / 10.0,
            f64::from(factor) / 1_000.0,
            f64::from(budget) / 10.0,
            plan.lease_ms,
            self.date,
            self.machine.cores,
            self.machine.load,
            self.machine.build,
            self.machine.processor,
        )
    }

    fn notes(&self) -> String {
        self.notes.iter().map(|note| format!("\n{note}")).collect()
    }

    pub fn table(&self) -> String {
        let line = |[name, off, on, ratio]: [String; 4]| format!("{name:<24}{off:>12}{on:>12}{ratio:>8}\n");
        let head = line(["", "off", "on", "on/off"].map(str::to_owned));
        let rows: String = self.rows().into_iter().map(line).collect();
        format!("{}\n\n{head}{rows}{}", self.title(), self.notes())
    }

    pub fn markdown(&self) -> String {
        let line = |row: [String; 4]| format!("| {} |\n", row.join(" | "));
        let rows: String = self.rows().into_iter().map(line).collect();
        format!("{}\n\n| | off | on | on/off |\n|---|---|---|---|\n{rows}{}", self.title(), self.notes())
    }
}
