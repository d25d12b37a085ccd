//! What a chain's write tells the metrics: once, since it was one transaction.

use push0_core::chain::{Change, View};
use push0_core::record::{BlockRow, BlockStatus, ChainRow, Finality, Halt, LaneState, OutboxRow};

use super::Context;
use super::chain::newly_disputed;
use crate::metrics::Metric;

/// `change` has been written over `before`.
pub(super) fn chain_written(context: &Context, before: &View, change: &Change) {
    let metrics = &context.metrics;
    let chain: &[&str] = &[before.chain.chain.as_str()];
    if let Some(after) = &change.chain {
        metrics.count(Metric::BlocksReleased, chain, after.next_release.saturating_sub(before.chain.next_release));
        // One that takes its turn, once another is settled, was counted when it was found.
        let halted = match &after.halt {
            Some(Halt::Disagreement(_)) | None => newly_disputed(&before.chain, after).is_some(),
            Some(Halt::ParentMismatch { .. } | Halt::OrphanParent { .. }) => after.halt != before.chain.halt,
        };
        metrics.count(Metric::Halts, chain, u64::from(halted));
        let was_fork = before.chain.fork.map(|fork| fork.seq) != after.fork.map(|fork| fork.seq);
        let drops = |row: &ChainRow| row.dropped.as_ref().map_or(0, |range| range.nth);
        let was_drop = drops(&before.chain) != drops(after);
        metrics.count(Metric::Reorgs, chain, u64::from(was_fork) + u64::from(was_drop));
    }
    if let Some(row) = &change.outbox {
        deadline(context, chain, row);
        match row.finality {
            Finality::Proof { .. } => {
                metrics.count(Metric::BlocksFinalized, chain, 1);
                if let Some(timings) = &row.timings {
                    let took = timings.finalized_at.since(timings.submitted_at);
                    metrics.observe(Metric::BlockTime, chain, took.0);
                }
            }
            Finality::Tombstone { .. } => metrics.count(Metric::BlocksSkipped, chain, 1),
        }
    }
    if let Some(row) = &change.batch {
        let chain: &[&str] = &[row.chain.as_str()];
        metrics.count(Metric::Batches, chain, 1);
        metrics.count(Metric::BatchedBlocks, chain, row.range.to - row.range.from + 1);
    }
    let gave_way = |block: &&BlockRow| {
        let earlier = before.blocks.get(&block.number).and_then(|earlier| earlier.hash);
        earlier.is_some() && earlier != block.hash
    };
    let superseded = change.block.iter().chain(&change.more).filter(gave_way).count();
    metrics.count(Metric::BlocksSuperseded, chain, superseded as u64);
    if let Some(block) = &change.block {
        let earlier = before.blocks.get(&block.number);
        let has_failed = |status: &BlockStatus| matches!(status, BlockStatus::Failed { .. });
        let was_failed = earlier.is_some_and(|earlier| has_failed(&earlier.status) && earlier.epoch == block.epoch);
        metrics.count(Metric::BlocksFailed, chain, u64::from(has_failed(&block.status) && !was_failed));
        let known = earlier.filter(|earlier| earlier.epoch == block.epoch);
        for (at, lane) in (0..).zip(&block.runs) {
            let outcome = match &lane.state {
                LaneState::Proving => continue,
                LaneState::Proven(_) => "proven",
                LaneState::Redone { .. } => "anew",
                LaneState::Failed { .. } => "failed",
                LaneState::Stopped => "stopped",
            };
            let was_so = known.and_then(|known| known.lane(at)).is_some_and(|known| known.state == lane.state);
            metrics.count(Metric::Runs, &[before.chain.chain.as_str(), outcome], u64::from(!was_so));
        }
        if let Some(missed) = block.missed.filter(|_| earlier.is_some_and(|earlier| earlier.missed.is_none())) {
            metrics.count(Metric::BlocksLate, &[chain[0], missed.then.as_str()], 1);
        }
        let contenders = earlier.map_or(0, |earlier| earlier.contenders_seen);
        metrics.count(Metric::Contenders, chain, u64::from(block.contenders_seen.saturating_sub(contenders)));
    }
}

fn deadline(context: &Context, chain: &[&str], row: &OutboxRow) {
    let metrics = &context.metrics;
    let Some(timings) = &row.timings else { return };
    let (Some(deadline), Some(met)) = (timings.deadline, timings.met) else { return };
    metrics.count(Metric::DeadlinesMet, chain, u64::from(met));
    metrics.count(Metric::DeadlinesMissed, chain, u64::from(!met));
    match row.finality {
        Finality::Proof { .. } if met => {
            metrics.observe(Metric::DeadlineSlack, chain, deadline.since(timings.finalized_at).0);
        }
        Finality::Proof { .. } => {
            metrics.observe(Metric::DeadlineOverrun, chain, timings.finalized_at.since(deadline).0);
        }
        Finality::Tombstone { .. } => {}
    }
}
