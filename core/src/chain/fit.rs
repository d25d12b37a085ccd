//! Who follows whom: a block *fits* when it names what stands before it as its parent, as far as hashes are known, and what stands before
//! it is itself in its place.
//!
//! Below the release point a block that does not fit is parked, and so are all that were built on it; each starts again when its
//! parent is there. [`super::walk`] brings the rows in line after one of them has changed.

use crate::id::BlockHash;
use crate::record::{BlockRow, BlockStatus, ChainRow};

/// Why a block does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It names `wants` as its parent, and `there` stands before it. `None`: it names a block that was skipped for being of another branch.
    OtherParent { wants: BlockHash, there: Option<BlockHash> },
    /// What stood before it, at number `before`, was dropped, or waits for its own parent, or was never submitted.
    NoPredecessor { wants: Option<BlockHash>, before: u64 },
}

/// Why `block` does not fit; `None`: it does. `before` is the row of the number before it; at the cursor what is final decides.
pub fn unfit(chain: &ChainRow, before: Option<&BlockRow>, block: &BlockRow) -> Option<Unfit> {
    if block.number <= chain.next_final {
        return misfit(chain, block);
    }
    let wants = block.parent_hash;
    let no_predecessor = Unfit::NoPredecessor { wants, before: block.number - 1 };
    let Some(before) = before else { return Some(no_predecessor) };
    match before.status {
        // A skipped block that does not fit itself is nobody's parent; another parent than it may have been meant.
        BlockStatus::Skipped { .. } if before.unfit => {
            (wants.is_some() && wants == before.hash).then_some(no_predecessor)
        }
        BlockStatus::Dropped { .. } => Some(no_predecessor),
        // Released and parked: it waits for its own parent.
        BlockStatus::Parked if before.number < chain.next_release => Some(no_predecessor),
        BlockStatus::Parked
        | BlockStatus::Proving
        | BlockStatus::Proven
        | BlockStatus::Failed { .. }
        | BlockStatus::Skipped { .. }
        | BlockStatus::Final => match (wants, before.hash) {
            (Some(wants), Some(there)) if wants != there => Some(Unfit::OtherParent { wants, there: Some(there) }),
            _ => None,
        },
    }
}

/// Why a block cannot follow what is final, as far as hashes are known.
pub(super) fn misfit(chain: &ChainRow, block: &BlockRow) -> Option<Unfit> {
    let wants = block.parent_hash?;
    if chain.orphans.contains(&wants) {
        return Some(Unfit::OtherParent { wants, there: None });
    }
    let there = chain.last_hash?;
    (wants != there).then_some(Unfit::OtherParent { wants, there: Some(there) })
}

/// A block that stands above the first of a later fork's and was submitted before that: its successor is on its way, so that it is there is
/// no alarm.
pub fn was_left_behind(chain: &ChainRow, block: &BlockRow) -> bool {
    chain.fork.is_some_and(|fork| {
        block.number > fork.from && block.fork_seq < Some(fork.seq) && block.submitted_at <= fork.at
    })
}
