//! The reaper: on a timer, heals what a crash or a lost message left behind.
//!
//! It reads the chains' rows, the rows of the blocks being proven and, of those, the plan records and the rows of their timers. It looks at a
//! run's nodes only where a timer should have fired long ago: timers find lost tasks and pieces, the reaper finds lost timers. It
//! remembers nothing from one turn to the next, so it may run anywhere, and twice; but where uploads alone submit blocks, the number each
//! chain waits for, and forgetting that costs a turn.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use push0_core::chain::{Event, is_overdue};
use push0_core::record::{BlockRow, BlockStatus, ChainRow, RowKey, RunView, Versioned as _};
use push0_core::{ChainId, ErrorCode, Millis, Pool, RunId};
use push0_runtime::drive::{Context, DriveError, batch, block, chain};
use push0_runtime::metrics::Metric;
use push0_runtime::port::Key;

use crate::uploads;

/// Most blocks looked at a chain and turn: the widest window, and some.
const BLOCKS: usize = 300;

/// Uploads looked for a chain and turn.
const UPLOADS: u64 = 100;

/// Latest final blocks looked at for runs that their quorum did not wait for.
const LEFT_BEHIND: usize = 16;

pub struct Reaper {
    context: Context,
    finds_lost_timers: bool,
    /// The number each chain waited for at the last turn; looked for among what was uploaded if it still does. None: nobody looks.
    waited_for: Option<Mutex<BTreeMap<ChainId, u64>>>,
}

/// Tasks of each pool that are ready as soon as what other pools have in hand is done, of all chains of a turn.
#[derive(Debug, Default)]
pub struct Soon(BTreeMap<Pool, u64>);

/// How long reading an upload may take that came without a digest.
const READING: Millis = Millis::from_secs(10);

impl Reaper {
    pub fn new(context: Context) -> Self {
        Self { context, finds_lost_timers: true, waited_for: None }
    }

    /// A reaper that does not look for lost timers. Where messages are not lost there are none, and a simulator shall find the bug that
    /// loses one, not the cure.
    pub fn that_finds_no_lost_timers(context: Context) -> Self {
        Self { finds_lost_timers: false, ..Self::new(context) }
    }

    /// A reaper that looks for uploads nobody announced: where any tool may put a witness under its key, and the event that tells of it
    /// may be lost.
    pub fn that_finds_uploads(context: Context) -> Self {
        Self { waited_for: Some(Mutex::default()), ..Self::new(context) }
    }

    /// One turn over all configured chains. A chain that fails is reported and does not stop the others.
    pub async fn turn(&self) {
        let mut soon = Soon::default();
        for chain in self.context.catalog.chains.keys() {
            self.look_after(chain, &mut soon).await;
        }
        self.tell(&soon);
    }

    /// A turn's part for one chain; what it will have ready is added to `soon`.
    pub async fn look_after(&self, chain: &ChainId, soon: &mut Soon) {
        if let Err(error) = self.chain(chain, soon).await {
            let code = error.code();
            // Of a full disk the engine itself tells, once.
            if code == ErrorCode::DiskFull {
                tracing::debug!(%code, %chain, %error, "reaper could not look after this chain");
            } else {
                tracing::warn!(%code, %chain, %error, "reaper could not look after this chain; it will try again");
            }
        }
    }

    /// Ends a turn: every pool's number is told, that of one with nothing ahead, too.
    pub fn tell(&self, soon: &Soon) {
        for pool in self.context.catalog.pools() {
            let tasks = soon.0.get(&pool).copied().unwrap_or(0);
            self.context.metrics.observe(Metric::TasksSoon, &[pool.as_str()], tasks);
        }
    }

    async fn chain(&self, chain: &ChainId, soon: &mut Soon) -> Result<(), DriveError> {
        // Pending effects, an unpublished outbox row, a cursor that could move.
        let _ = chain::drive(&self.context, chain, &Event::Tick).await?;
        let is_derived = self.context.catalog.chains.get(chain).is_some_and(|config| config.batch.is_some());
        if let Some(waited_for) = self.waited_for.as_ref().filter(|_| !is_derived) {
            self.find_upload(chain, waited_for).await?;
        }
        if is_derived {
            self.find_batches(chain).await?;
        }
        let Some(row) = self.row(chain).await? else { return Ok(()) };
        let blocks = self.blocks(chain, &row).await?;
        let now = self.context.clock.now();
        for block in blocks.iter().filter(|block| is_overdue(block, now)) {
            let _ = chain::drive(&self.context, chain, &Event::DeadlinePassed { number: block.number }).await?;
        }
        let is_going_on = |block: &&BlockRow| block.final_seq.is_none() && block.is_being_proven();
        let unfinished: Vec<&BlockRow> = blocks.iter().filter(is_going_on).collect();
        let lag = row.next_release.saturating_sub(row.next_final);
        self.context.metrics.observe(Metric::BlocksUnfinished, &[chain.as_str()], lag);
        let parentless = blocks.iter().filter(|block| block.status == BlockStatus::Parked && block.unfit).count();
        self.context.metrics.observe(Metric::BlocksParentless, &[chain.as_str()], parentless as u64);
        let left_behind = self.left_behind(chain, &row).await?;
        for run in unfinished.into_iter().chain(&left_behind).flat_map(runs) {
            let row = RowKey::run(&run);
            let row = self.context.table.get(&Key::new(row.partition, row.sort)).await?;
            let Some(view) = row.and_then(|row| RunView::read(&row.attributes)) else {
                continue;
            };
            // Ended, and the chain does not know.
            block::tell_chain(&self.context, &view).await?;
            for (pool, tasks) in block::soon(&self.context, &view).await? {
                *soon.0.entry(pool).or_default() += u64::from(tasks);
            }
            if self.finds_lost_timers {
                let timers = block::look_after_overdue(&self.context, &view).await?;
                if timers > 0 {
                    tracing::debug!(%run, timers, "timers were overdue");
                }
            }
        }
        Ok(())
    }

    /// Submits what lies uploaded under the number that the chain waits for, if it waited for it at the last turn, too: an upload on whose
    /// heels its announcement follows is its announcement's.
    async fn find_upload(&self, chain: &ChainId, waited_for: &Mutex<BTreeMap<ChainId, u64>>) -> Result<(), DriveError> {
        let number = self.waits_for(chain).await?;
        let is_known = !self.is_vacant(chain, number).await?;
        let before = {
            let mut waited_for = waited_for.lock().unwrap_or_else(PoisonError::into_inner);
            if is_known { waited_for.remove(chain) } else { waited_for.insert(chain.clone(), number) }
        };
        if is_known || before != Some(number) {
            return Ok(());
        }
        // Where one was lost those after it may be, too: they are looked for at once.
        for number in number..number.saturating_add(UPLOADS) {
            if !self.is_vacant(chain, number).await? {
                continue;
            }
            let found = uploads::find(&self.context, chain, number, READING).await?;
            if found.is_empty() {
                break;
            }
            for submission in found {
                tracing::warn!(%chain, number, key = submission.witness.key, "an upload was found that nobody announced");
                let _ = chain::drive(&self.context, chain, &Event::Submitted(submission)).await?;
            }
        }
        Ok(())
    }

    /// Admits what a batch chain's source has fixed and nobody has told it of: a message that came before its chain was configured
    /// everywhere, or that was lost.
    async fn find_batches(&self, chain: &ChainId) -> Result<(), DriveError> {
        let first = self.waits_for(chain).await?;
        for number in first..first.saturating_add(UPLOADS) {
            if !self.is_vacant(chain, number).await? || !batch::is_fixed(&self.context, chain, number).await? {
                break;
            }
            let found = batch::derive(&self.context, chain, number).await?;
            let _ = chain::drive(&self.context, chain, &Event::Batched(found)).await?;
        }
        Ok(())
    }

    /// Of the latest final blocks of several provers those with runs that their quorum did not wait for: what these come to is still
    /// compared, and their time is limited.
    async fn left_behind(&self, chain: &ChainId, row: &ChainRow) -> Result<Vec<BlockRow>, DriveError> {
        // Also where the chain has one pipeline by now: the rows say whose blocks had several.
        let partition = RowKey::chain(chain).partition;
        let from = row.next_final.saturating_sub(LEFT_BEHIND as u64).max(row.first);
        let after = from.checked_sub(1).map(|before| RowKey::block(chain, before).sort);
        let rows = self.context.table.query(&partition, "block/", after.as_deref(), LEFT_BEHIND).await?;
        let blocks = rows.iter().filter_map(|row| BlockRow::from_value(row.doc()?.clone()).ok());
        Ok(blocks.filter(|block| block.final_seq.is_some() && block.is_being_proven()).collect())
    }

    /// The number that a chain waits for: the first whose block was dropped, or the one to be released next.
    async fn waits_for(&self, chain: &ChainId) -> Result<u64, DriveError> {
        let Some(row) = self.row(chain).await? else {
            return Ok(self.context.catalog.chains.get(chain).map_or(0, |config| config.first));
        };
        let is_dropped = |block: &&BlockRow| matches!(block.status, BlockStatus::Dropped { .. });
        let blocks = self.blocks(chain, &row).await?;
        let dropped = blocks.iter().find(is_dropped).map(|block| block.number);
        Ok(dropped.map_or(row.next_release, |dropped| dropped.min(row.next_release)))
    }

    async fn is_vacant(&self, chain: &ChainId, number: u64) -> Result<bool, DriveError> {
        let at = RowKey::block(chain, number);
        let row = self.context.table.get(&Key::new(at.partition, at.sort)).await?;
        let block = row.and_then(|row| BlockRow::from_value(row.doc()?.clone()).ok());
        Ok(block.is_none_or(|block| matches!(block.status, BlockStatus::Dropped { .. })))
    }

    async fn row(&self, chain: &ChainId) -> Result<Option<ChainRow>, DriveError> {
        let at = RowKey::chain(chain);
        let row = self.context.table.get(&Key::new(at.partition, at.sort)).await?;
        Ok(row.and_then(|row| ChainRow::from_value(row.doc()?.clone()).ok()))
    }

    /// Blocks that are not final, from the cursor on: those being proven, proven or failed, and of those that wait the first. What was
    /// released and waits for its parent lies between the cursor and the release point.
    async fn blocks(&self, chain: &ChainId, row: &ChainRow) -> Result<Vec<BlockRow>, DriveError> {
        let partition = RowKey::chain(chain).partition;
        let after = row.next_final.checked_sub(1).map(|before| RowKey::block(chain, before).sort);
        let rows = self.context.table.query(&partition, "block/", after.as_deref(), BLOCKS).await?;
        Ok(rows.iter().filter_map(|row| BlockRow::from_value(row.doc()?.clone()).ok()).collect())
    }
}

/// The runs of a block that are going on.
fn runs(block: &BlockRow) -> Vec<RunId> {
    let run = RunId::new(block.chain.clone(), block.number, block.epoch);
    if block.runs.is_empty() {
        return vec![run];
    }
    let going_on = (0..).zip(&block.runs).filter(|(_, lane)| lane.is_proving());
    going_on.map(|(lane, _)| run.clone().in_lane(lane)).collect()
}

#[cfg(test)]
mod tests;
