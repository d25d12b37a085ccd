//! The sweeper: deletes what finalized blocks no longer need, in order, a bounded number of things at a time. What may go stands in
//! `push0_core::retention`.
//!
//! Where it stands is a row of its own, moved when everything of a block is gone. Deleting twice is fine, so two sweepers only share
//! the work.

use std::collections::BTreeSet;

use push0_core::chain;
use push0_core::record::{BlockRow, ChainRow, RowKey, RunView, Versioned as _, attribute, control_key};
use push0_core::retention::{self, Disposal, Retention};
use push0_core::{ChainId, ErrorCode, Millis, Pool, RunId};
use push0_runtime::drive::{Context, DriveError, chain::published};
use push0_runtime::metrics::Metric;
use push0_runtime::port::Key;
use serde::Serialize;

/// Keys and rows asked for at a time.
const PAGE: usize = 256;

pub struct Sweeper {
    context: Context,
    policy: Retention,
    /// Only counts what would go.
    dry: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Blocks nothing more is to be deleted of.
    pub blocks: u64,
    pub blobs: u64,
    /// Of these blobs.
    pub bytes: u64,
    pub rows: u64,
    /// It stopped because it was enough for one turn.
    pub more: bool,
}

impl Sweeper {
    pub fn new(context: Context, policy: Retention) -> Self {
        Self { context, policy, dry: false }
    }

    /// One that deletes nothing.
    pub fn that_only_counts(context: Context, policy: Retention) -> Self {
        Self { context, policy, dry: true }
    }

    /// Sweeps a chain from where the last sweep ended, until `most` blobs and rows are gone.
    pub async fn sweep(&self, chain: &ChainId, most: u64) -> Result<Swept, DriveError> {
        let swept = self.sweep_chain(chain, most).await?;
        if !self.dry {
            self.context.metrics.count(Metric::BlobsDeleted, &[chain.as_str()], swept.blobs);
        }
        Ok(swept)
    }

    async fn sweep_chain(&self, chain: &ChainId, most: u64) -> Result<Swept, DriveError> {
        let mut swept = Swept::default();
        let table = &self.context.table;
        let Some(row) = table.get(&key(RowKey::chain(chain))).await? else { return Ok(swept) };
        let Some(row) = row.doc().and_then(|doc| ChainRow::from_value(doc.clone()).ok()) else { return Ok(swept) };
        let published = published(&self.context, chain).await?;
        let mark = table.get(&key(RowKey::swept(chain))).await?;
        let mut mark = mark.and_then(|row| row.attribute(attribute::NUMBER).cloned());
        let mut number = mark.as_ref().and_then(|mark| mark.as_u64()).unwrap_or(row.first).max(row.first);
        while number < row.next_final {
            let Some(block) = table.get(&key(RowKey::block(chain, number))).await? else { break };
            let block = block.doc().and_then(|doc| BlockRow::from_value(doc.clone()).ok());
            let now = self.context.clock.now();
            let Some(block) = block else { break };
            let policy = self.policy_for(chain, &block).await?;
            let Ok(disposal) = retention::of_block(&row, &block, published, now, &policy) else { break };
            self.dispose(&disposal, most, &mut swept).await?;
            if swept.more {
                return Ok(swept);
            }
            number += 1;
            swept.blocks += 1;
            if !self.dry {
                let next = Some(number.into());
                if !table.set_if(&key(RowKey::swept(chain)), attribute::NUMBER, mark, next.clone()).await?.done {
                    // Another sweeper is at it.
                    break;
                }
                mark = next;
            }
        }
        Ok(swept)
    }

    /// Runs that a final block did not need are left to finish for a while; until they have ended what they read stays, for as long and
    /// a little more at most. The block's row, being final, says for ever that they are going on; their own rows say how they ended.
    async fn policy_for(&self, chain: &ChainId, block: &BlockRow) -> Result<Retention, DriveError> {
        let limit = chain::rest_limit(block, self.context.catalog.chains.get(chain));
        let patient = Retention { grace: self.policy.grace.max(Millis(limit.0.saturating_mul(2))), ..self.policy };
        let run = RunId::new(block.chain.clone(), block.number, block.epoch);
        for (lane, _) in (0..).zip(&block.runs).filter(|(_, lane)| lane.is_proving()) {
            let row = self.context.table.get(&key(RowKey::run(&run.clone().in_lane(lane)))).await?;
            let view = row.and_then(|row| RunView::read(&row.attributes));
            if view.is_some_and(|view| !view.is_over()) {
                return Ok(patient);
            }
        }
        Ok(self.policy)
    }

    async fn dispose(&self, disposal: &Disposal, most: u64, swept: &mut Swept) -> Result<(), DriveError> {
        for run in &disposal.runs {
            for pool in self.pools(run).await? {
                self.blobs(&format!("artifacts/{pool}/{run}/"), &disposal.keep, most, swept).await?;
            }
            self.blobs(&format!("{}/", control_key(run)), &disposal.keep, most, swept).await?;
            if !swept.more {
                self.blob(&control_key(run), swept).await?;
            }
            self.rows(run, disposal.keep_plans.contains(run), most, swept).await?;
        }
        for prefix in &disposal.witnesses {
            self.blobs(prefix, &disposal.keep, most, swept).await?;
        }
        Ok(())
    }

    /// The pools that may have written for a run: those of its plan record, and those configured now.
    async fn pools(&self, run: &RunId) -> Result<BTreeSet<Pool>, DriveError> {
        let mut pools = self.context.catalog.pools();
        let row = self.context.table.get(&key(RowKey::run(run))).await?;
        if let Some(view) = row.and_then(|row| RunView::read(&row.attributes)) {
            pools.extend(view.run.policy.stages.iter().flat_map(|stage| stage.pools().cloned()));
        }
        Ok(pools)
    }

    async fn blobs(
        &self,
        prefix: &str,
        keep: &BTreeSet<String>,
        most: u64,
        swept: &mut Swept,
    ) -> Result<(), DriveError> {
        let mut after: Option<String> = None;
        loop {
            let keys = self.context.blobs.list(prefix, after.as_deref(), PAGE).await?;
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            after = Some(last);
            for key in keys.iter().filter(|key| !keep.contains(*key)) {
                if enough(swept, most) {
                    return Ok(());
                }
                self.blob(key, swept).await?;
            }
        }
    }

    async fn blob(&self, key: &str, swept: &mut Swept) -> Result<(), DriveError> {
        let size = match self.context.blobs.head(key).await {
            Ok(Some(info)) => info.size,
            Ok(None) => return Ok(()),
            // A plain upload whose digest nobody has noted is deleted like any other; only its size is not known without reading it.
            Err(error) if error.code() == ErrorCode::UploadDigest => 0,
            Err(error) => return Err(error.into()),
        };
        if !self.dry {
            self.context.blobs.delete(key).await?;
        }
        swept.blobs += 1;
        swept.bytes += size;
        Ok(())
    }

    /// A run's rows; the plan record of one that counted stays.
    async fn rows(&self, run: &RunId, keeps_plan: bool, most: u64, swept: &mut Swept) -> Result<(), DriveError> {
        let plan = key(RowKey::run(run));
        let mut after: Option<String> = None;
        loop {
            let rows = self.context.table.query(&plan.partition, "", after.as_deref(), PAGE).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.key.sort.clone());
            // The plan record goes last: it names the pools.
            for row in rows.iter().filter(|row| row.key != plan) {
                if enough(swept, most) {
                    return Ok(());
                }
                self.row(&row.key, swept).await?;
            }
            if rows.len() < PAGE {
                if !keeps_plan && rows.iter().any(|row| row.key == plan) && !swept.more {
                    self.row(&plan, swept).await?;
                }
                return Ok(());
            }
        }
    }

    async fn row(&self, at: &Key, swept: &mut Swept) -> Result<(), DriveError> {
        if !self.dry {
            self.context.table.delete(at).await?;
        }
        swept.rows += 1;
        Ok(())
    }
}

fn enough(swept: &mut Swept, most: u64) -> bool {
    swept.more |= swept.blobs + swept.rows >= most;
    swept.more
}

fn key(row: RowKey) -> Key {
    Key { partition: row.partition, sort: row.sort }
}
