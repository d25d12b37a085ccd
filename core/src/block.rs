//! What the collector decides: a block's task graph. Accept, fire, send ranges, retry, revoke, fail.
//!
//! Every function reads a node's row as it is *after* the accept-first write of whatever is in hand, and returns data; the drive loop
//! (`push0_runtime::drive::block`) performs it. What is to be sent is always a function of the row, so a redelivered message that
//! changes nothing still gets sent what a crash left unsent.

mod demote;
mod failure;
mod hedge;
mod ranges;
mod sketch;
mod soon;
mod task;
mod timer;
mod urgency;

pub use demote::waiting;
pub use failure::{Decision, Failure, Revocation, late_at, on_checked, on_dead_letter, on_failure, on_late, revoke};
pub use hedge::{
    COPIES, Harvest, HedgeLook, MOST_HEDGES, Part, Running, ask, copies, copy_of, first_look as first_hedge_look,
    hedge_is_overdue, next_look, out, pending, settled, stragglers, straggles, survey,
};
pub use ranges::{Piece, RangeStep, piece_of, pieces, range_step};
pub use sketch::Sketch;
pub use soon::{LOOKED_AT, soon, soon_layers};
pub use task::{Fire, Graph, check, fire, fire_again};
pub use timer::{Look, Open, Seen, first_look, is_overdue, look, open};

use crate::error_code::ErrorCode;
use crate::id::{BlockHash, Node, StageName};
use crate::message::FailureKind;
use crate::plan::Plan;
use crate::record::{ManifestSlot, Run};

/// Why a report changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("already accepted")]
    Settled,
    #[error("of an attempt that has been given up")]
    Stale,
    #[error("there is no such node")]
    Unknown,
}

/// Whether the result of `split` is this block's; the reason if not. Nothing else of a run is ever trusted to be about the right block.
pub fn check_split(run: &Run, slot: &ManifestSlot) -> Result<(), String> {
    if slot.hash != run.hash {
        let (found, wanted) = (slot.hash, run.hash);
        let what = format!("the witness holds block {found}, but {wanted} was submitted: replace the block");
        return Err(ErrorCode::HashDiffers.says(what));
    }
    if let (Some(found), Some(wanted)) = (slot.parent_hash, run.parent_hash)
        && found != wanted
    {
        return Err(parent_differs(found, wanted));
    }
    Plan::new(&run.pipeline, slot.segments).map(|_| ()).map_err(|error| ErrorCode::SegmentCount.says(error.to_string()))
}

fn parent_differs(found: BlockHash, wanted: BlockHash) -> String {
    let what =
        format!("the header names parent {found}, but the block was submitted with parent {wanted}: replace the block");
    ErrorCode::ParentDiffers.says(what)
}

/// A reason, with the place in the task graph that it is about.
pub fn at_node(stage: &StageName, node: Node, reason: &str) -> String {
    format!("stage {stage}, node {node}: {reason}")
}

/// The node that a reason made by [`at_node`] is about.
pub fn failed_node(reason: &str) -> Option<Node> {
    let (_, reason) = ErrorCode::split(reason);
    let (place, _) = reason.strip_prefix("stage ")?.split_once(": ")?;
    place.split_once(", node ")?.1.parse().ok()
}

/// How a failure is called where people read it.
pub fn kind_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Retryable => "retryable",
        FailureKind::Permanent => "permanent",
        FailureKind::BadInput => "bad input",
        FailureKind::OutOfMemory => "out of memory",
        FailureKind::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    pub(super) mod fixture;
    mod open;
    mod survey;

    use super::*;

    #[test]
    fn what_split_found_must_be_the_block_that_was_submitted() {
        let (own, parent, other) = (BlockHash([0; 32]), BlockHash([1; 32]), BlockHash([9; 32]));
        let check = |wanted: Option<BlockHash>, hash: BlockHash, found: Option<BlockHash>, segments: u32| {
            let run = Run { parent_hash: wanted, ..fixture::run("") };
            let slot = ManifestSlot { hash, parent_hash: found, ..fixture::manifest(segments) };
            check_split(&run, &slot).map_err(|reason| {
                let (code, _) = ErrorCode::split(&reason);
                assert!(code != Some(ErrorCode::HashDiffers) || reason.contains(&other.to_string()), "{reason}");
                assert!(code != Some(ErrorCode::ParentDiffers) || reason.contains(&other.to_string()), "{reason}");
                code
            })
        };
        assert_eq!(check(Some(parent), own, Some(parent), 4), Ok(()));
        assert_eq!(check(None, own, Some(other), 4), Ok(()), "the submission named no parent");
        assert_eq!(check(Some(parent), own, None, 4), Ok(()), "the header names none");
        assert_eq!(check(Some(parent), other, Some(parent), 4), Err(Some(ErrorCode::HashDiffers)));
        assert_eq!(check(Some(parent), own, Some(other), 4), Err(Some(ErrorCode::ParentDiffers)));
        assert_eq!(check(None, own, None, 0), Err(Some(ErrorCode::SegmentCount)));
    }

    #[test]
    fn the_node_a_reason_is_about_is_read_back() {
        let node = Node::new(1, 0, 3);
        let reason =
            ErrorCode::PermanentFailure.says(at_node(&"prove".parse().unwrap(), node, "no luck, node 9.9.9: x"));
        assert_eq!(failed_node(&reason), Some(node));
        assert_eq!(failed_node("bad block: stage prove, node 1.0.3: x"), None);
    }
}
