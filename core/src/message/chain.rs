//! `submissions.fifo`, group = chain: what a chain is told from outside.

use serde::{Deserialize, Serialize};

use crate::id::{BlockHash, BlockId, ChainId, Epoch, Millis};
use crate::record::BlobRef;
use crate::record::codec::versioned;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ChainMessage {
    Submit(Submission),
    Command(Command),
    /// A batch of this chain has been fixed in its source's row; everything about it follows from there.
    Batch {
        chain: ChainId,
        number: u64,
    },
}

/// A block whose witness is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    pub chain: ChainId,
    pub number: u64,
    pub hash: BlockHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    /// Its digest is pinned when the block is admitted.
    pub witness: BlobRef,
    /// With `parent_hash`, and higher than that of the block already there: this one supersedes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_seq: Option<u64>,
    /// How long after its admission it shall be final at the latest; the chain's default where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
}

/// What an operator tells a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Prove a block again, from the same witness: a failed one, or with `epoch` the run of that epoch, failed or not.
    Retry {
        chain: ChainId,
        number: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
    },
    /// Prove this instead of what is there under the number.
    Replace(Submission),
    /// Leave the number out: a tombstone takes its place.
    Skip { chain: ChainId, number: u64, reason: String },
    /// Drop every block from `number` on that is not final: another fork's blocks will be submitted.
    Reorg {
        chain: ChainId,
        number: u64,
        reason: String,
        /// Which of the chain's drops this is to be, from 1: not carried out twice, nor after another that came between.
        nth: u64,
    },
    /// Release no more blocks; those being proven go on.
    Pause { chain: ChainId },
    /// Ends a pause; with `acknowledged` also the halt for what a late proof said about that final block. It is named, so that the
    /// command, when it comes twice, ends no halt that nobody has seen.
    Resume {
        chain: ChainId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acknowledged: Option<BlockId>,
    },
    /// Blocks that may be proven at once, 1 to 256.
    Window { chain: ChainId, window: u32 },
}

impl ChainMessage {
    pub fn chain(&self) -> &ChainId {
        match self {
            ChainMessage::Submit(submission) => &submission.chain,
            ChainMessage::Command(command) => command.chain(),
            ChainMessage::Batch { chain, .. } => chain,
        }
    }
}

impl Command {
    pub fn chain(&self) -> &ChainId {
        match self {
            Command::Replace(submission) => &submission.chain,
            Command::Retry { chain, .. }
            | Command::Skip { chain, .. }
            | Command::Reorg { chain, .. }
            | Command::Pause { chain }
            | Command::Resume { chain, .. }
            | Command::Window { chain, .. } => chain,
        }
    }

    /// The block it is about, where it is about one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Command::Replace(submission) => Some(submission.number),
            Command::Retry { number, .. } | Command::Skip { number, .. } | Command::Reorg { number, .. } => {
                Some(*number)
            }
            Command::Pause { .. } | Command::Resume { .. } | Command::Window { .. } => None,
        }
    }
}

versioned! { ChainMessage = 1, "chain message", super::MAX_MESSAGE; }
