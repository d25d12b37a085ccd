//! The reaper: on a timer, heals what a crash or a lost message left behind.
//!
//! It reads the chains' rows, the rows of the blocks being proven and, of those, the plan records and the rows of their timers. It looks at a
//! run's nodes only where a timer should have fired long ago: timers find lost tasks and pieces, the reaper finds lost timers. It
//! remembers nothing from one turn to the next, so it may run anywhere, and twice.

use push0_core::chain::Event;
use push0_core::record::{BlockRow, BlockStatus, ChainRow, RowKey, RunView, Versioned as _};
use push0_core::{ChainId, ErrorCode, RunId};
use push0_runtime::drive::{Context, DriveError, block, chain};
use push0_runtime::metrics::Metric;
use push0_runtime::port::Key;

/// Most blocks looked at a chain and turn: the widest window, and some.
const BLOCKS: usize = 300;

pub struct Reaper {
    context: Context,
    finds_lost_timers: bool,
}

impl Reaper {
    pub fn new(context: Context) -> Self {
        Self { context, finds_lost_timers: true }
    }

    /// A reaper that does not look for lost timers. Where messages are not lost there are none, and a simulator shall find the bug that
    /// loses one, not the cure.
    pub fn that_finds_no_lost_timers(context: Context) -> Self {
        Self { finds_lost_timers: false, ..Self::new(context) }
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
        let unfinished = self.unfinished(chain).await?;
        self.context.metrics.observe(Metric::BlocksUnfinished, &[chain.as_str()], unfinished.len() as u64);
        for block in unfinished {
            let run = RunId { chain: chain.clone(), number: block.number, epoch: block.epoch };
            let row = RowKey::run(&run);
            let row = self.context.table.get(&Key::new(row.partition, row.sort)).await?;
            let Some(view) = row.and_then(|row| RunView::read(&row.attributes)) else {
                continue;
            };
            // Ended, and the chain does not know.
            block::tell_chain(&self.context, &view).await?;
            if self.finds_lost_timers {
                let timers = block::look_after_overdue(&self.context, &view).await?;
                if timers > 0 {
                    tracing::debug!(%run, timers, "timers were overdue");
                }
            }
        }
        Ok(())
    }

    /// Blocks being proven: they lie between the cursor and the release point.
    async fn unfinished(&self, chain: &ChainId) -> Result<Vec<BlockRow>, DriveError> {
        let at = RowKey::chain(chain);
        let row = self.context.table.get(&Key::new(at.partition.clone(), at.sort)).await?;
        let Some(row) = row.and_then(|row| ChainRow::from_value(row.doc()?.clone()).ok()) else {
            return Ok(Vec::new());
        };
        let after = row.next_final.checked_sub(1).map(|before| RowKey::block(chain, before).sort);
        let rows = self.context.table.query(&at.partition, "block/", after.as_deref(), BLOCKS).await?;
        let blocks = rows.iter().filter_map(|row| BlockRow::from_value(row.doc()?.clone()).ok());
        Ok(blocks.filter(|block| block.status == BlockStatus::Proving).collect())
    }
}
