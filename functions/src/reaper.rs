//! The reaper: on a timer, heals what a crash or a lost message left behind.
//!
//! It reads the chains' rows, the rows of the blocks being proven and, of those, the plan records. It looks at a run's nodes only where
//! nothing is going on: when every queue that could hold a task or a report of it was empty on two turns, what was sent and not answered
//! is lost (a worker acknowledged it and said nothing), and is sent again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use push0_core::chain::Event;
use push0_core::message::{queue, work_queue};
use push0_core::record::{BlockRow, BlockStatus, RowKey, RunView, Versioned};
use push0_core::{ChainId, ErrorCode, RunId};
use push0_runtime::drive::{Context, DriveError, block, chain};
use push0_runtime::metrics::Metric;
use push0_runtime::port::Key;
use push0_runtime::snapshot;

/// Most blocks looked at a chain and turn: the widest window, and some.
const BLOCKS: usize = 300;

pub struct Reaper {
    context: Context,
    /// Runs that nothing was going on for at the last turn.
    quiet: Mutex<BTreeSet<RunId>>,
    finds_lost_tasks: bool,
}

impl Reaper {
    pub fn new(context: Context) -> Self {
        Self { context, quiet: Mutex::default(), finds_lost_tasks: true }
    }

    /// A reaper that does not look for lost tasks. Without workers that acknowledge and say nothing there are none, and a simulator
    /// shall find the bug that loses one, not the cure.
    pub fn that_finds_no_lost_tasks(context: Context) -> Self {
        Self { finds_lost_tasks: false, ..Self::new(context) }
    }

    /// One turn over all configured chains. A chain that fails is reported and does not stop the others.
    pub async fn turn(&self) {
        for chain in self.context.catalog.chains.keys() {
            self.look_after(chain).await;
        }
    }

    /// A turn's part for one chain.
    pub async fn look_after(&self, chain: &ChainId) {
        if let Err(error) = self.chain(chain).await {
            let code = error.code();
            // Of a full disk the engine itself tells, once.
            if code == ErrorCode::DiskFull {
                tracing::debug!(%code, %chain, %error, "reaper could not look after this chain");
            } else {
                tracing::warn!(%code, %chain, %error, "reaper could not look after this chain; it will try again");
            }
        }
    }

    async fn chain(&self, chain: &ChainId) -> Result<(), DriveError> {
        // Pending effects, an unpublished outbox row, a cursor that could move.
        let _ = chain::drive(&self.context, chain, &Event::Tick).await?;
        let ranges = self.context.queue.stats(queue::RANGES).await?;
        let ranges_idle = ranges.visible + ranges.in_flight + ranges.delayed == 0;
        let unfinished = self.unfinished(chain).await?;
        self.context.metrics.observe(Metric::BlocksUnfinished, &[chain.as_str()], unfinished.len() as u64);
        for block in unfinished {
            let run = push0_core::RunId { chain: chain.clone(), number: block.number, epoch: block.epoch };
            let row = RowKey::run(&run);
            let row = self.context.table.get(&Key::new(row.partition, row.sort)).await?;
            let Some(view) = row.and_then(|row| RunView::read(&row.attributes)) else {
                continue;
            };
            // Ended, and the chain does not know.
            block::tell_chain(&self.context, &view).await?;
            if self.finds_lost_tasks {
                self.look_for_lost_tasks(&view).await?;
            }
            if ranges_idle {
                let reopened = block::reopen(&self.context, &view).await?;
                if reopened > 0 {
                    let code = ErrorCode::LostTask;
                    tracing::warn!(%code, %run, pieces = reopened, "pieces sent again: their range message was lost");
                }
            }
        }
        Ok(())
    }

    async fn look_for_lost_tasks(&self, view: &RunView) -> Result<(), DriveError> {
        let run = &view.run.id;
        let is_quiet = !view.is_over() && self.is_quiet(view).await?;
        let was_quiet = {
            let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
            let was_quiet = quiet.remove(run);
            if is_quiet {
                quiet.insert(run.clone());
            }
            is_quiet && was_quiet
        };
        if !was_quiet {
            return Ok(());
        }
        let found = snapshot::block(&*self.context.table, &run.chain, run.number).await?;
        let tasks = found.and_then(|block| block.run).filter(|found| found.id == *run).map(|found| found.tasks);
        for task in tasks.unwrap_or_default() {
            block::send_again(&self.context, view, task.node).await?;
        }
        Ok(())
    }

    /// Whether no queue holds anything that could move the run.
    async fn is_quiet(&self, view: &RunView) -> Result<bool, DriveError> {
        let stages = view.run.policy.stages.iter();
        let work: BTreeSet<String> = stages.map(|stage| work_queue(&stage.pool, view.run.class)).collect();
        let dead = work.iter().map(|queue| format!("{queue}-dlq"));
        let reports = [queue::RESULTS, queue::VERDICTS, queue::RANGES].map(str::to_owned);
        let dead_reports = reports.clone().map(|queue| format!("{queue}-dlq"));
        for name in work.iter().cloned().chain(dead).chain(reports).chain(dead_reports) {
            let stats = self.context.queue.stats(&name).await?;
            if stats.visible + stats.in_flight + stats.delayed > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Blocks being proven: they lie between the cursor and the release point.
    async fn unfinished(&self, chain: &ChainId) -> Result<Vec<BlockRow>, DriveError> {
        let at = RowKey::chain(chain);
        let row = self.context.table.get(&Key::new(at.partition.clone(), at.sort)).await?;
        let Some(row) = row.and_then(|row| push0_core::record::ChainRow::from_value(row.doc()?.clone()).ok()) else {
            return Ok(Vec::new());
        };
        let after = row.next_final.checked_sub(1).map(|before| RowKey::block(chain, before).sort);
        let rows = self.context.table.query(&at.partition, "block/", after.as_deref(), BLOCKS).await?;
        let blocks = rows.iter().filter_map(|row| BlockRow::from_value(row.doc()?.clone()).ok());
        Ok(blocks.filter(|block| block.status == BlockStatus::Proving).collect())
    }
}
