//! What the demo shows while it runs, and its timeline at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use push0_core::record::{Lane, NodeView, OutboxRow, RowKey};
use push0_core::{ChainId, Millis, RunId};
use push0_runtime::port::{Clock as _, SystemClock};
use push0_runtime::snapshot::{self, BlockSnapshot, ChainSnapshot};
use serde::Serialize;

use super::Summary;
use crate::connect::Remote;
use crate::render::{Paint, columns};

/// A block's moments, milliseconds since the demo began.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Line {
    number: u64,
    segments: u32,
    submitted_ms: Option<u64>,
    released_ms: Option<u64>,
    /// When it was seen, like `proven_ms`: a look later at most.
    split_ms: Option<u64>,
    proven_ms: Option<u64>,
    finalized_ms: Option<u64>,
    /// Artifacts accepted, `split` and `verify` included.
    tasks: u64,
    workers: Vec<String>,
    /// Where several provers prove the block: each one's run. The line's own tasks and workers are all of theirs, its segments the first's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    runs: Vec<RunLine>,
}

/// What came of one of a block's runs.
#[derive(Debug, Clone, Default, Serialize)]
struct RunLine {
    pipeline: String,
    state: &'static str,
    segments: u32,
    tasks: u64,
    workers: Vec<String>,
}

pub(super) struct Progress {
    begun: Instant,
    begun_at: Millis,
    lines: BTreeMap<u64, Line>,
    shown: BTreeMap<u64, String>,
    drawn: usize,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(numbers: &[u64], begun: Instant) -> Self {
        let line = |number: &u64| (*number, Line { number: *number, ..Line::default() });
        Self {
            begun,
            begun_at: Millis(SystemClock.now().0.saturating_sub(begun.elapsed().as_millis() as u64)),
            lines: numbers.iter().map(line).collect(),
            shown: BTreeMap::new(),
            drawn: 0,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Takes a look in: notes what is new, and shows it.
    pub(super) fn saw(&mut self, snapshot: &ChainSnapshot) {
        let now = self.begun.elapsed().as_millis() as u64;
        for block in &snapshot.blocks {
            self.note(block, now);
        }
        let numbers: Vec<u64> = self.lines.keys().copied().collect();
        let rows = numbers.iter().map(|number| {
            let block = snapshot.blocks.iter().find(|block| block.block.number == *number);
            let (status, stages) = block.map_or(("not submitted", String::new()), describe);
            vec![format!("block {number}"), status.to_owned(), stages]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        if self.terminal {
            self.redraw(&columns("  ", &rows), now);
            return;
        }
        for (number, row) in numbers.iter().zip(rows) {
            let text = row.join("  ");
            if self.shown.get(number) != Some(&text) {
                eprintln!("{:>7.1} s  {}", now as f64 / 1000.0, text.trim_end());
                self.shown.insert(*number, text);
            }
        }
    }

    fn note(&mut self, block: &BlockSnapshot, now: u64) {
        let begun = self.begun_at;
        let row = &block.block;
        let Some(line) = self.lines.get_mut(&row.number) else {
            return;
        };
        line.submitted_ms = Some(row.submitted_at.since(begun).0);
        line.released_ms = row.released_at.map(|at| at.since(begun).0);
        if let Some(segments) = block.runs().find_map(|run| run.segments) {
            line.segments = segments;
            line.split_ms.get_or_insert(now);
        }
        if row.proof.is_some() {
            line.proven_ms.get_or_insert(now);
        }
        if row.final_seq.is_some() {
            let finalized = row.changed_at.since(begun).0;
            line.finalized_ms = Some(finalized);
            // Seen only after the fact, where both happened between two looks.
            line.proven_ms = line.proven_ms.map(|proven| proven.min(finalized));
        }
    }

    /// Draws over the last picture.
    fn redraw(&mut self, text: &str, now: u64) {
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let body: String = text.lines().map(|line| format!("\x1b[2K{line}\n")).collect();
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "{up}{body}\x1b[2K  {:.1} s", now as f64 / 1000.0);
        self.drawn = text.lines().count() + 1;
    }

    pub(super) fn end(&self) {
        if !self.terminal {
            eprintln!("{:>7.1} s  all final", self.begun.elapsed().as_secs_f64());
        }
    }

    /// The moments noted, with what the node rows say of tasks and workers.
    pub(super) async fn timeline(
        mut self,
        remote: &Remote,
        chain: &ChainId,
        rows: &[OutboxRow],
    ) -> anyhow::Result<Vec<Line>> {
        for row in rows {
            let id = RunId::new(chain.clone(), row.number, row.epoch);
            let Some(line) = self.lines.get_mut(&row.number) else {
                continue;
            };
            let block = snapshot::block(&*remote.table, chain, row.number).await?;
            let lanes: Vec<(u16, Lane)> =
                block.iter().flat_map(|block| block.block.latest_runs()).map(|(at, lane)| (at, lane.clone())).collect();
            if lanes.is_empty() {
                let run = of_run(remote, &id).await?;
                (line.tasks, line.workers) = (run.tasks, run.workers);
                continue;
            }
            for (at, lane) in lanes {
                let id = id.clone().in_lane(at);
                let seen = block.iter().flat_map(BlockSnapshot::runs).find(|run| run.id == id);
                let segments = seen.and_then(|run| run.segments).unwrap_or_default();
                let (pipeline, state) = (lane.name.to_string(), lane.state.name());
                line.runs.push(RunLine { pipeline, state, segments, ..of_run(remote, &id).await? });
            }
            line.tasks = line.runs.iter().map(|run| run.tasks).sum();
            let workers: BTreeSet<&String> = line.runs.iter().flat_map(|run| &run.workers).collect();
            line.workers = workers.into_iter().cloned().collect();
        }
        Ok(self.lines.into_values().collect())
    }
}

/// Tasks and workers of a run, as its node rows say.
async fn of_run(remote: &Remote, id: &RunId) -> anyhow::Result<RunLine> {
    let nodes = remote.table.query(&RowKey::run(id).partition, "node/", None, 10_000).await?;
    let views: Vec<NodeView> = nodes.iter().map(|node| NodeView::read(&node.attributes)).collect();
    let artifacts = views.iter().flat_map(|view| view.slots.values());
    let started = views.iter().filter_map(|view| view.started.as_ref()).map(|started| started.worker.to_string());
    let workers: BTreeSet<String> =
        artifacts.clone().map(|artifact| artifact.worker.to_string()).chain(started).collect();
    // `split` and `verify` leave no artifact in a slot.
    Ok(RunLine { tasks: artifacts.count() as u64 + 2, workers: workers.into_iter().collect(), ..RunLine::default() })
}

fn describe(block: &BlockSnapshot) -> (&'static str, String) {
    let stages = crate::render::stages(block);
    (block.block.status.name(), stages)
}

/// The end of the demo, for people.
pub(super) fn text(summary: &Summary) -> String {
    let head = ["block", "submitted", "released", "split", "proven", "finalized", "segments", "tasks", "workers"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for line in &summary.blocks {
        let at = |moment: Option<u64>| moment.map_or("-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
        table.push(vec![
            line.number.to_string(),
            at(line.submitted_ms),
            at(line.released_ms),
            at(line.split_ms),
            at(line.proven_ms),
            at(line.finalized_ms),
            line.segments.to_string(),
            line.tasks.to_string(),
            line.workers.join(" "),
        ]);
        for run in &line.runs {
            let name = format!("  {} {}", run.pipeline, run.state);
            let (segments, tasks, workers) = (run.segments.to_string(), run.tasks.to_string(), run.workers.join(" "));
            let moments = std::iter::repeat_n(String::new(), 5);
            table.push([name].into_iter().chain(moments).chain([segments, tasks, workers]).collect());
        }
    }
    let mut text = format!("{}\n", Paint(false).bold("timeline, from the start of the demo"));
    text.push_str(&columns("  ", &table));
    text.push_str(
        "checked\n  the finalized stream: each block once, in order, each naming the one before as its parent\n",
    );
    summary.checked.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    text.push_str(&format!(
        "artifacts\n  {}  proofs and headers\n  {}  blobs and state (delete the directory to forget it all)\n  {}  the log\n",
        summary.proofs.display(),
        summary.directory.join("data").display(),
        summary.log.display()
    ));
    text.push_str(&format!("done in {:.1} s", summary.seconds));
    text
}
