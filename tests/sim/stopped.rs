//! A10: no run goes on for a block that it does not prove, unless to stop it is what its chain does next.

use futures::FutureExt as _;
use push0_core::Epoch;
use push0_core::RunId;
use push0_core::record::{BlockRow, BlockStatus, ChainRow, PendingEffect, RowKey, RunView};
use push0_runtime::port::{Key, Table as _};
use push0_runtime::snapshot;

use super::world::Shared;

/// Of every chain's blocks from so many before its cursor on. Nobody writes meanwhile.
pub(super) fn judge(shared: &Shared, before: u64) -> Result<(), String> {
    for config in shared.catalog.chains.values() {
        let found = snapshot::chain(&shared.engine, config, before).now_or_never().and_then(Result::ok);
        let found = found.ok_or("the chain cannot be read")?;
        for block in &found.blocks {
            of_block(shared, &found.chain, &block.block)?;
        }
    }
    Ok(())
}

fn of_block(shared: &Shared, chain: &ChainRow, block: &BlockRow) -> Result<(), String> {
    // Of a proven block's several runs those that are left may go on.
    let may_go_on = matches!(block.status, BlockStatus::Proving | BlockStatus::Proven | BlockStatus::Final);
    let ended = if may_go_on { Epoch::FIRST.0..block.epoch.0 } else { Epoch::FIRST.0..block.epoch.0 + 1 };
    for epoch in ended {
        let is_due = chain.pending.iter().any(|effect| {
            matches!(effect, PendingEffect::Stop { number, epoch: of, .. } if (*number, of.0) == (block.number, epoch))
        });
        for lane in 0..block.lanes_seen.max(block.lanes()) {
            let run = RunId::new(block.chain.clone(), block.number, Epoch(epoch)).in_lane(lane);
            let at = RowKey::run(&run);
            let row = shared.engine.get(&Key::new(at.partition, at.sort)).now_or_never().and_then(Result::ok).flatten();
            let goes_on = row.and_then(|row| RunView::read(&row.attributes)).is_some_and(|view| !view.is_over());
            if goes_on && !is_due {
                return Err(format!("A10: {run} was never told to stop; its block: {block:?}"));
            }
        }
    }
    Ok(())
}
