//! The numbered invariants, as predicates. `docs/invariants.md` lists them; the drive loops, the simulator's auditor and the model
//! checker use these same functions.

use crate::block::Sketch;
use crate::chain::is_abandoned;
use crate::pipeline::Hedging;
use crate::record::{BatchRow, BlockRow, BlockStatus, ChainRow, FailureNote, NodeView, OutboxRow, Try};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{id}: {what}")]
pub struct Violation {
    pub id: &'static str,
    pub what: String,
}

pub type Check = Result<(), Violation>;

fn hold(holds: bool, id: &'static str, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation { id, what: what() }) }
}

/// I1: `first <= next_final <= next_release <= next_final + 256 + (numbers skipped ahead)`.
/// I2: one outbox row a number: `next_seq - 1 == next_final - first`.
/// I3: cursor, release point and sequence never move back, nor do batch cursors, which stay at or below the cursor.
pub fn chain(before: Option<&ChainRow>, after: &ChainRow) -> Check {
    hold(after.first <= after.next_final && after.next_final <= after.next_release, "I1", || format!("{after:?}"))?;
    hold(after.next_seq - 1 == after.next_final - after.first, "I2", || format!("{after:?}"))?;
    let batched = after.batches.iter().all(|batch| batch.next <= after.next_final && batch.told < batch.number);
    hold(batched, "I3", || format!("{after:?}"))?;
    let Some(before) = before else { return Ok(()) };
    let is_kept = |batch: &crate::record::BatchCursor| {
        let now = after.batches.iter().find(|now| now.chain == batch.chain);
        now.is_some_and(|now| now.next >= batch.next && now.number >= batch.number && now.told >= batch.told)
    };
    let forward = before.next_final <= after.next_final
        && before.next_release <= after.next_release
        && before.next_seq <= after.next_seq
        && before.batches.iter().all(is_kept);
    hold(forward, "I3", || format!("{before:?} became {after:?}"))
}

/// I4: an epoch never falls, and a run that ended is never taken up again: leaving `Failed`, `Skipped` or `Dropped` takes a new epoch.
/// I5: what is final never changes.
/// I6: a proven or final block has its proof and header.
/// I11: of several runs at least the quorum's have a verified root then.
/// I14: a block is marked as late only after its deadline, and abandoned for that only before it is proven.
pub fn block(before: Option<&BlockRow>, after: &BlockRow) -> Check {
    let proven = matches!(after.status, BlockStatus::Proven | BlockStatus::Final);
    hold(!proven || (after.proof.is_some() && after.header.is_some()), "I6", || format!("{after:?}"))?;
    let verified = after.proofs().count();
    hold(!proven || after.runs.is_empty() || verified >= usize::from(after.quorum), "I11", || format!("{after:?}"))?;
    let was_late = after.missed.is_none_or(|missed| after.deadline.is_some_and(|deadline| missed.at > deadline));
    hold(was_late, "I14", || format!("{after:?}"))?;
    let Some(before) = before else { return Ok(()) };
    let is_abandoned_now = is_abandoned(after) && !is_abandoned(before);
    let was_proven = matches!(before.status, BlockStatus::Proven | BlockStatus::Final);
    hold(!is_abandoned_now || !was_proven, "I14", || format!("{before:?} became {after:?}"))?;
    let ended =
        matches!(before.status, BlockStatus::Failed { .. } | BlockStatus::Skipped { .. } | BlockStatus::Dropped { .. });
    let is_over = matches!(after.status, BlockStatus::Dropped { .. });
    let revived = ended && !is_over && before.status.name() != after.status.name();
    hold(after.epoch >= before.epoch && (!revived || after.epoch > before.epoch), "I4", || {
        format!("{before:?} became {after:?}")
    })?;
    hold(before.final_seq.is_none() || before == after, "I5", || format!("{before:?} became {after:?}"))
}

/// I7: outbox row `seq` is about number `first + seq - 1`, and follows the row before it.
pub fn outbox(chain: &ChainRow, row: &OutboxRow) -> Check {
    hold(row.number == chain.first + row.seq - 1 && row.seq == chain.next_seq - 1, "I7", || {
        format!("{row:?} with {chain:?}")
    })
}

/// I8: nothing is published before the cursor has passed it.
pub fn published(chain: &ChainRow, seq: u64) -> Check {
    hold(seq < chain.next_seq, "I8", || format!("published {seq} with {chain:?}"))
}

/// I10: a batch's range is of final blocks, and ends where the next one begins.
pub fn batch(chain: &ChainRow, row: &BatchRow) -> Check {
    let range = &row.range;
    let cursor = chain.batches.iter().find(|cursor| cursor.chain == row.chain);
    let follows = cursor.is_some_and(|cursor| cursor.next == range.to + 1 && cursor.number == row.number + 1);
    let is_final = range.of == chain.chain && range.from <= range.to && range.to < chain.next_final;
    hold(follows && is_final, "I10", || format!("{row:?} with {chain:?}"))
}

/// I12: further copies are sent only within their stage's budget.
pub fn hedged(sketch: &Sketch, hedging: &Hedging, copies: usize) -> Check {
    let is_within = u128::from(sketch.extra.0) * 1_000 <= u128::from(sketch.work.0) * u128::from(hedging.budget);
    hold(copies == 0 || is_within, "I12", || format!("{copies} copies with {sketch:?}"))
}

/// I9: a node is sent only when every one of its slots is filled, each by an attempt at or above its floor.
pub fn sent(view: &NodeView, slots: u32) -> Check {
    let filled = (0..slots).all(|slot| {
        let floor = view.floors.get(&slot).map_or(0, |floor| floor.0);
        view.slots.get(&slot).is_some_and(|artifact| artifact.attempt.0 >= floor)
    });
    hold(filled, "I9", || format!("{view:?} of {slots} slots"))
}

/// I15: a failure counts against the attempt that was wanted, once; attempts and counts never fall.
pub fn tried(before: &Try, after: &Try) -> Check {
    let is_new = |note: &&FailureNote| !before.failures.contains(note);
    let is_current = after.failures.iter().filter(is_new).all(|note| note.attempt == before.attempt);
    let counted = (after.failed + after.lost).checked_sub(before.failed + before.lost);
    let is_forward = before.attempt <= after.attempt && counted.is_some_and(|counted| counted <= 1);
    hold(is_current && is_forward, "I15", || format!("{before:?} became {after:?}"))
}

/// I16: a block is released only within its chain's window.
pub fn released(before: &ChainRow, block: &BlockRow, window: u64) -> Check {
    let is_released_now = block.number == before.next_release && block.status == BlockStatus::Proving;
    hold(!is_released_now || block.number < before.next_final + window, "I16", || {
        format!("{block:?} with {before:?} and a window of {window}")
    })
}

#[cfg(test)]
mod tests;
