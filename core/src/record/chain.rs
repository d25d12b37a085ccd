//! The row of a chain: its cursor and window; small and bounded.

use serde::{Deserialize, Serialize};

use super::codec::versioned;
use super::{BatchCursor, BlockRow, OnTime};
use crate::id::{BlockHash, BlockId, ChainId, Epoch, Millis, Sha256, StageName};

/// Versioned; key `chain/{chain}`, `chain`.
///
/// Invariants: `first <= next_final <= next_release`; `pending` is bounded by the window plus one a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRow {
    pub chain: ChainId,
    /// The number the chain starts with.
    pub first: u64,
    /// The oldest number that is not final: the cursor.
    pub next_final: u64,
    /// The oldest number that has not been released to be proven.
    pub next_release: u64,
    /// Sequence number of the next outbox row; the first is 1.
    pub next_seq: u64,
    /// Hash of block `next_final - 1`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_hash: Option<BlockHash>,
    /// Blocks skipped since the last proof because they did not fit the chain, newest last: nobody's parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<BlockHash>,
    /// Set by an operator: overrides the configured window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    #[serde(default)]
    pub paused: bool,
    /// Why the block at the cursor cannot become final although it is proven, or why nothing can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// How the chain's blocks kept their deadlines; moves with the cursor.
    #[serde(default, skip_serializing_if = "OnTime::is_empty")]
    pub on_time: OnTime,
    /// Numbers that are to be looked at again before any event is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<Walk>,
    /// The latest fork that superseded a block, by its submitter's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Fork>,
    /// The latest range that an operator dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<DroppedRange>,
    /// Decided and not yet performed, oldest first. Performed before anything else is decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingEffect>,
    /// How far the chains derived from this one are, one entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<BatchCursor>,
    /// Disagreements about further final blocks that were found while the chain was halted for one, oldest first: each halts it in its
    /// turn, once those before it are acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disputed: Vec<Disagreement>,
    /// `disputed` had no room for all that were found.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disputed_more: bool,
    /// Final blocks about which provers disagree, and an operator knows, the newest last: they halt the chain no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledged: Vec<BlockId>,
}

/// Acknowledged disagreements remembered a chain: the newest.
pub const MAX_ACKNOWLEDGED: usize = 16;

/// Disagreements that wait behind the one that halts the chain. Of further ones only that there are some is remembered.
pub const MAX_DISPUTED: usize = 16;

impl ChainRow {
    /// Disagreements of which nobody has said that they are known, the one that halts the chain first.
    pub fn disagreements(&self) -> impl Iterator<Item = &Disagreement> {
        let halting = match &self.halt {
            Some(Halt::Disagreement(found)) => Some(found),
            Some(Halt::ParentMismatch { .. } | Halt::OrphanParent { .. }) | None => None,
        };
        halting.into_iter().chain(&self.disputed)
    }

    /// The disagreement about a final block that halts the chain.
    pub fn late_halt(&self) -> Option<&Disagreement> {
        match &self.halt {
            Some(Halt::Disagreement(found)) => Some(found).filter(|found| found.number < self.next_final),
            Some(Halt::ParentMismatch { .. } | Halt::OrphanParent { .. }) | None => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Halt {
    /// The block at the cursor names another parent than the block that is final before it.
    ParentMismatch { number: u64, names: BlockHash, last: BlockHash },
    /// The block at the cursor names a parent that was skipped because it did not fit the chain itself.
    OrphanParent { number: u64, names: BlockHash },
    /// Provers say different things of the block. Of one below the cursor a late proof said so: nothing more becomes final until an operator
    /// says `resume`.
    Disagreement(Disagreement),
}

impl Halt {
    /// The block it is about.
    pub fn number(&self) -> u64 {
        match self {
            Halt::ParentMismatch { number, .. } | Halt::OrphanParent { number, .. } => *number,
            Halt::Disagreement(disagreement) => disagreement.number,
        }
    }
}

/// Verified proofs of one block that do not say the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    pub number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<BlockHash>,
    /// All of them.
    pub says: Vec<Says>,
}

/// What a pipeline's verified proof says of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Says {
    /// The pipeline's name.
    pub pipeline: StageName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Sha256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
}

impl Disagreement {
    /// None where all say the same, as far as they say anything.
    pub fn among(block: BlockId, says: Vec<Says>) -> Option<Self> {
        let differs = |one: &Says, other: &Says| {
            let outputs = one.outputs.zip(other.outputs).is_some_and(|(one, other)| one != other);
            outputs || one.parent_hash.zip(other.parent_hash).is_some_and(|(one, other)| one != other)
        };
        let differ = says.iter().enumerate().any(|(at, one)| says[..at].iter().any(|other| differs(one, other)));
        differ.then_some(Self { number: block.number, hash: block.hash, says })
    }

    /// The block it is about.
    pub fn block(&self) -> BlockId {
        BlockId { number: self.number, hash: self.hash }
    }

    /// Who says what, a line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.says.iter().map(|says| {
            let outputs = says.outputs.map(|outputs| format!("outputs {outputs}"));
            let parent = says.parent_hash.map(|parent| format!("parent {parent}"));
            let said: Vec<String> = outputs.into_iter().chain(parent).collect();
            let said = if said.is_empty() { "nothing that could be compared".to_owned() } else { said.join(", ") };
            format!("{} says {said}", says.pipeline)
        })
    }
}

/// A pass over the blocks of a chain, a bounded number of them a step: what one event would have to do to many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "walk", rename_all = "snake_case")]
pub enum Walk {
    /// Whether released blocks still follow those before them: all up to `through`, and beyond it up to the first that stays as it is.
    Fit { at: u64, through: u64 },
    /// Every block from `at` on is dropped.
    Drop { at: u64 },
}

/// A reorganisation that a submitter told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub seq: u64,
    /// The lowest number of which it has superseded a block so far.
    pub from: u64,
    /// When the first of its blocks superseded another.
    pub at: Millis,
}

/// A range of blocks that an operator dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRange {
    /// Which of the chain's drops it is, from 1. A command says which it wants to be, so that it does nothing when it comes again.
    pub nth: u64,
    pub from: u64,
    pub reason: String,
    pub at: Millis,
    /// Blocks dropped so far.
    pub blocks: u64,
}

/// What a decision of the chain plane asks for outside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum PendingEffect {
    /// Create the plan record of each of the epoch's runs from lane `from` on that is to be proven, and send its split task.
    Start {
        number: u64,
        epoch: Epoch,
        #[serde(default, skip_serializing_if = "is_zero")]
        from: u16,
    },
    /// Tell workers and the collector to stop the epoch's runs in `lanes` lanes from `from` on.
    Stop {
        number: u64,
        epoch: Epoch,
        #[serde(default, skip_serializing_if = "is_zero")]
        from: u16,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        lanes: u16,
    },
    /// Send the message that comes back when the block's deadline has passed.
    Arm { number: u64 },
    /// Move what is still to be done of the epoch's runs to the class `bulk`.
    Demote { number: u64, epoch: Epoch },
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

fn one() -> u16 {
    1
}

fn is_one(number: &u16) -> bool {
    *number == 1
}

impl PendingEffect {
    /// The block it is about.
    pub fn number(&self) -> u64 {
        match self {
            PendingEffect::Start { number, .. }
            | PendingEffect::Stop { number, .. }
            | PendingEffect::Arm { number }
            | PendingEffect::Demote { number, .. } => *number,
        }
    }

    /// All runs of the block's epoch are to begin.
    pub fn start(block: &BlockRow) -> Self {
        PendingEffect::Start { number: block.number, epoch: block.epoch, from: 0 }
    }

    /// All runs of the block's epoch are to stop.
    pub fn stop(block: &BlockRow) -> Self {
        PendingEffect::Stop { number: block.number, epoch: block.epoch, from: 0, lanes: block.lanes() }
    }
}

versioned! { ChainRow = 1, "chain row", super::MAX_ROW; }
