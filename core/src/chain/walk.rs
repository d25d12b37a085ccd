//! What one event would have to do to many rows is done by a walk: a bounded number of rows a step, each written with the walk moved on. A
//! walk that a crash leaves behind goes on with whoever comes next, before any other event is decided.

use super::{ChainConfig, Change, Now, Step, View, end_run, unfit};
use crate::record::{BlockRow, BlockStatus, ChainRow, PendingEffect, Walk};

/// Rows dropped a step: with the chain's row they are one transaction.
pub const DROPPED_AT_ONCE: usize = 20;

/// The next step of a chain's walk.
pub(super) fn walk(view: &View, now: Now, config: &ChainConfig) -> Option<Step> {
    Some(Step::write(match view.chain.walk? {
        Walk::Fit { at, through } => look(view, at, through, now, config),
        Walk::Drop { at } => drop_some(view, at, now),
    }))
}

/// Lets every released block from `number` on be looked at: what stands there may be another block now, or one that fits no more.
pub(super) fn look_from(chain: &mut ChainRow, number: u64) {
    if number < chain.next_release {
        chain.walk = Some(Walk::Fit { at: number, through: number });
    }
}

/// One number is looked at: its block is parked where it does not fit, begins where it waited for that, or stays as it is. Then those
/// behind it have nothing to do either.
fn look(view: &View, at: u64, through: u64, now: Now, config: &ChainConfig) -> Change {
    let mut chain = view.chain.clone();
    let block = view.blocks.get(&at).filter(|_| at < chain.next_release);
    let after = block.and_then(|block| looked_at(view, block, &mut chain, now, config));
    let goes_on = block.is_some() && (after.is_some() || at <= through);
    chain.walk = goes_on.then_some(Walk::Fit { at: at + 1, through });
    Change { chain: Some(chain), block: after, ..Change::default() }
}

fn looked_at(view: &View, block: &BlockRow, chain: &mut ChainRow, now: Now, config: &ChainConfig) -> Option<BlockRow> {
    let fits = unfit(&view.chain, view.before(block.number), block).is_none();
    let mut after = block.clone();
    match (&block.status, fits) {
        (BlockStatus::Parked, true) => {
            after.unfit = false;
            after.set_status(BlockStatus::Proving, now);
            // It keeps its place: it does not stand behind the blocks released since.
            after.released_at = after.released_at.or(Some(now));
            config.pin_runs(&mut after);
            chain.pending.push(PendingEffect::start(&after));
        }
        // A batch with a hole has nothing to be proven from, wherever it stands.
        (BlockStatus::Failed { .. }, false) if block.witness.is_none() => return None,
        (BlockStatus::Proving | BlockStatus::Proven | BlockStatus::Failed { .. }, false) => {
            end_run(chain, block);
            after.next_epoch("parked: it does not follow the block before it", now);
            after.status = BlockStatus::Parked;
            after.unfit = true;
        }
        (BlockStatus::Parked, false) | (BlockStatus::Skipped { .. }, _) if block.unfit == fits => after.unfit = !fits,
        (BlockStatus::Parked, false)
        | (BlockStatus::Proving | BlockStatus::Proven | BlockStatus::Failed { .. }, true)
        | (BlockStatus::Skipped { .. } | BlockStatus::Dropped { .. } | BlockStatus::Final, _) => return None,
    }
    Some(after)
}

/// Drops the next rows; the view has them in order, from `at` on.
fn drop_some(view: &View, at: u64, now: Now) -> Change {
    let mut chain = view.chain.clone();
    let reason = chain.dropped.as_ref().map(|range| range.reason.clone()).unwrap_or_default();
    let mut dropped = Vec::new();
    let mut last = None;
    for block in view.blocks.range(at..).map(|(_, block)| block).take(DROPPED_AT_ONCE) {
        last = Some(block.number);
        if block.final_seq.is_some() || matches!(block.status, BlockStatus::Dropped { .. }) {
            continue;
        }
        end_run(&mut chain, block);
        let mut block = block.clone();
        // What else was told of for this number comes back no more than what stood there.
        let contenders: Vec<_> = block.contenders.drain(..).map(|contender| contender.hash).collect();
        block.past.retain(|past| !contenders.contains(past));
        block.past.extend(contenders);
        block.vacate();
        block.set_status(BlockStatus::Dropped { reason: reason.clone() }, now);
        dropped.push(block);
    }
    if let Some(range) = &mut chain.dropped {
        range.blocks += dropped.len() as u64;
    }
    chain.walk = last.map(|last| Walk::Drop { at: last + 1 });
    Change { chain: Some(chain), more: dropped, ..Change::default() }
}
