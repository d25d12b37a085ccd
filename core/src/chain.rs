//! What the dispatcher decides: the order of a chain. Admit, park, release within the window, finalize in order, and the operator's
//! commands.
//!
//! [`decide`] answers an event; [`advance`] says what is to be done next in a state, whatever event is in hand. Both read a [`View`] and
//! return data: a [`Change`] to be written in one transaction on condition that nothing in the view has changed. The drive loop
//! (`push0_runtime::drive::chain`) writes it, performs what the rows then say is pending, and asks again until nothing is left.

mod advance;
mod batch;
mod deadline;
mod decide;
mod fit;
mod lanes;
mod provers;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error_code::ErrorCode;
use crate::id::{BlockHash, ChainId, Class, Epoch, Millis, PipelineDigest, RunId, Sha256};
use crate::message::{Command, Submission};
use crate::record::{
    BatchRow, BlobRef, BlockRow, BlockStatus, ChainRow, Late, OnTime, OutboxRow, PendingEffect, Suspect, Walk,
};

pub use advance::advance;
pub use batch::{Batch, Batching, Content, derive, has_more, hashes};
pub use deadline::{is_abandoned, is_overdue};
pub use decide::decide;
pub use fit::{Unfit, unfit, was_left_behind};
pub use provers::{MAX_PIPELINES, Mode, NamedPipeline, Provers, Rest, is_left_over, rest_limit};
pub use walk::DROPPED_AT_ONCE;

/// Bounds of the window.
pub const WINDOW: std::ops::RangeInclusive<u32> = 1..=256;

/// How a chain is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainConfig {
    pub chain: ChainId,
    /// The number of its first block.
    pub first: u64,
    /// That block's parent; unknown: anything goes.
    pub first_parent: Option<BlockHash>,
    /// What its blocks are proven with; where that is several pipelines, the first.
    pub pipeline: PipelineDigest,
    /// None: with `pipeline` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provers: Option<Provers>,
    /// A block is released when its number is less than the cursor plus this: at most so many are being proven at once.
    pub window: u32,
    /// Submissions further ahead of the cursor than this are refused.
    pub distance: u64,
    pub class: Class,
    /// New runs after a `bad_proof`, and as many after a spoiled run, before the block fails.
    pub bad_proof_limit: u32,
    /// Its blocks are batches of another chain's: nobody submits any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
    /// The chains whose blocks are batches of this one's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub derived: BTreeMap<ChainId, Batching>,
    /// How long after its admission a block shall be final at the latest, where its submission says nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// What happens to a block whose deadline passes.
    #[serde(default)]
    pub late: Late,
}

impl ChainConfig {
    pub fn new(chain: ChainId, pipeline: PipelineDigest) -> Self {
        Self {
            chain,
            first: 1,
            first_parent: None,
            pipeline,
            provers: None,
            window: 4,
            distance: 100_000,
            class: Class::Standard,
            bad_proof_limit: 2,
            batch: None,
            derived: BTreeMap::new(),
            deadline: None,
            late: Late::Continue,
        }
    }

    /// The row of a chain that has not been heard of yet.
    pub fn new_row(&self) -> ChainRow {
        ChainRow {
            chain: self.chain.clone(),
            first: self.first,
            next_final: self.first,
            next_release: self.first,
            next_seq: 1,
            last_hash: self.first_parent,
            orphans: Vec::new(),
            window: None,
            paused: false,
            halt: None,
            on_time: OnTime::default(),
            walk: None,
            fork: None,
            dropped: None,
            pending: Vec::new(),
            batches: Vec::new(),
            disputed: Vec::new(),
            disputed_more: false,
            acknowledged: Vec::new(),
        }
    }
}

/// What a decision reads: the chain's row, and the rows of the blocks that it [wants](View::wants).
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub chain: ChainRow,
    pub blocks: BTreeMap<u64, BlockRow>,
    /// Sequence number of the last published outbox row; 0: none.
    pub published: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Submitted(Submission),
    RunEnded {
        run: RunId,
        outcome: Outcome,
    },
    Command(Command),
    /// A batch that was fixed in the source.
    Batched(Batch),
    /// It is time to look whether the block's deadline has passed.
    DeadlinePassed {
        number: u64,
    },
    /// Nothing happened; somebody wants to be sure that nothing is left to do.
    Tick,
}

impl Event {
    /// The block the event is about.
    pub fn number(&self) -> Option<u64> {
        match self {
            Event::Submitted(submission) => Some(submission.number),
            Event::RunEnded { run, .. } => Some(run.number),
            Event::Command(command) => command.number(),
            Event::Batched(batch) => Some(batch.number),
            Event::DeadlinePassed { number } => Some(*number),
            Event::Tick => None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Verified. `parent_hash` is the header's, as `split` read it.
    Proven {
        pipeline: PipelineDigest,
        proof: BlobRef,
        header: BlobRef,
        parent_hash: Option<BlockHash>,
        /// Digest of what the proof states, where its prover says it.
        outputs: Option<Sha256>,
    },
    /// The proof does not show what the header says: run again, a bounded number of times.
    /// `suspects` had a hand in it.
    BadProof { message: String, suspects: Vec<Suspect> },
    /// What `split` stored is damaged: run again, a bounded number of times.
    Spoiled { message: String },
    /// The block itself cannot be proven.
    Failed { reason: String },
}

/// Rows to write, in one transaction, if the view still holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    pub chain: Option<ChainRow>,
    pub block: Option<BlockRow>,
    /// Further rows, where a walk changes several at once; each of another number.
    pub more: Vec<BlockRow>,
    pub outbox: Option<OutboxRow>,
    pub batch: Option<BatchRow>,
}

/// What is to be done next in a state.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Perform the oldest pending effect, then write the chain row without it.
    Perform {
        effect: PendingEffect,
        then: Box<ChainRow>,
    },
    /// Send outbox row `seq` to `finalized.fifo`, write its proof blob, then move `published` from `seq - 1` to `seq`.
    Publish {
        seq: u64,
    },
    /// Tell the batch chain of a batch that was fixed, then write this chain's row.
    TellBatch {
        chain: ChainId,
        number: u64,
        then: Box<ChainRow>,
    },
    Write(Box<Change>),
}

impl Step {
    fn write(change: Change) -> Self {
        Self::Write(Box::new(change))
    }
}

/// Why an event changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("already so")]
    Settled,
    #[error("what it is about has been overtaken by a later run or a later decision")]
    Stale,
    #[error("the block is final without it")]
    Late,
    #[error("there is no such block")]
    Unknown,
    #[error("block {number} is below the chain's first, {first}")]
    BelowFirst { number: u64, first: u64 },
    #[error("block {number} is more than {distance} ahead of the cursor {cursor}: submit it later")]
    TooFar { number: u64, cursor: u64, distance: u64 },
    #[error("block {number} is final: what is final stays final")]
    Final { number: u64 },
    #[error("block {number} is {status}; only a failed block can be retried (replace or skip it instead)")]
    NotFailed { number: u64, status: &'static str },
    #[error("its blocks are batches of {of}'s: nobody submits or replaces any")]
    Derived { of: ChainId },
    #[error("block {number} has no witness to be proven from, being a batch with a hole: skip it")]
    Hole { number: u64 },
    #[error("another drop came between: look at what stands there now, and drop again if it is still wanted")]
    OtherDrop,
    #[error("a window is 1 to 256 blocks, not {0}")]
    Window(u32),
}

impl Ignored {
    /// Its page, where its sender has something to do about it.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Ignored::Settled | Ignored::Stale | Ignored::Late | Ignored::OtherDrop => None,
            Ignored::Unknown => Some(ErrorCode::UnknownBlock),
            Ignored::BelowFirst { .. } | Ignored::TooFar { .. } => Some(ErrorCode::OutOfReach),
            Ignored::Final { .. } => Some(ErrorCode::AlreadyFinal),
            Ignored::NotFailed { .. } => Some(ErrorCode::NotFailed),
            Ignored::Derived { .. } => Some(ErrorCode::DerivedChain),
            Ignored::Hole { .. } => Some(ErrorCode::BatchHole),
            Ignored::Window(_) => Some(ErrorCode::BadRequest),
        }
    }
}

/// Rows of blocks that are to be in a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wants {
    /// These numbers, where there are such rows.
    Numbers(Vec<u64>),
    /// So many rows, the first from this number on.
    From(u64, usize),
}

impl View {
    /// The rows to be read for whatever is next: `event`, or once that is decided (`None`) what the state asks for by itself.
    ///
    /// While a walk is under way it is what is next.
    pub fn wants(chain: &ChainRow, event: Option<&Event>) -> Wants {
        let pending = chain.pending.first().map(PendingEffect::number);
        match chain.walk {
            Some(_) if pending.is_some() => Wants::Numbers(pending.into_iter().collect()),
            Some(Walk::Fit { at, .. }) if at > chain.next_final => Wants::Numbers(vec![at - 1, at]),
            Some(Walk::Fit { at, .. }) => Wants::Numbers(vec![at]),
            Some(Walk::Drop { at }) => Wants::From(at, DROPPED_AT_ONCE),
            None => {
                let numbers = [chain.next_final, chain.next_release].into_iter();
                let numbers = numbers.chain(event.and_then(Event::number)).chain(pending);
                let mut numbers: Vec<u64> = numbers.collect();
                numbers.sort_unstable();
                numbers.dedup();
                Wants::Numbers(numbers)
            }
        }
    }

    /// A further row that is to be read, since what has been read so far depends on it: the one before a block that may be released or is
    /// found to name its parent.
    pub fn lacks(&self, event: Option<&Event>, config: &ChainConfig) -> Option<u64> {
        let chain = &self.chain;
        if chain.walk.is_some() {
            return None;
        }
        let number = match event {
            Some(Event::RunEnded { run, outcome: Outcome::Proven { parent_hash: Some(_), .. } }) => {
                self.blocks.get(&run.number).filter(|block| block.parent_hash.is_none())?.number
            }
            Some(_) => return None,
            None => {
                let next = self.blocks.get(&chain.next_release)?;
                let may_be_released = match next.status {
                    BlockStatus::Parked => !chain.paused && next.number < chain.next_final + self.window(config),
                    _ => true,
                };
                may_be_released.then_some(next.number)?
            }
        };
        let before = number.checked_sub(1)?;
        (number > chain.next_final && !self.blocks.contains_key(&before)).then_some(before)
    }

    /// The row of the number before.
    fn before(&self, number: u64) -> Option<&BlockRow> {
        self.blocks.get(&number.checked_sub(1)?)
    }

    /// The window in force.
    pub fn window(&self, config: &ChainConfig) -> u64 {
        u64::from(self.chain.window.unwrap_or(config.window).clamp(*WINDOW.start(), *WINDOW.end()))
    }

    pub fn run_id(&self, number: u64, epoch: Epoch) -> RunId {
        RunId::new(self.chain.chain.clone(), number, epoch)
    }
}

/// Ends the block's run, if it has one, outside the table: every run of its epoch is told to stop.
fn end_run(chain: &mut ChainRow, block: &BlockRow) {
    if block.is_being_proven() {
        chain.pending.push(PendingEffect::stop(block));
    }
}

/// An effect that a run of an older epoch asked for is no longer to be performed.
pub fn is_current(effect: PendingEffect, block: Option<&BlockRow>) -> bool {
    match effect {
        PendingEffect::Start { epoch, .. } => {
            block.is_some_and(|block| block.epoch == epoch && block.final_seq.is_none() && block.is_being_proven())
        }
        PendingEffect::Demote { epoch, .. } => block
            .is_some_and(|block| block.epoch == epoch && matches!(block.status, crate::record::BlockStatus::Proving)),
        PendingEffect::Stop { .. } => true,
        PendingEffect::Arm { .. } => {
            block.is_some_and(|block| block.deadline.is_some() && block.final_seq.is_none() && block.missed.is_none())
        }
    }
}

/// Time is passed in; this only keeps signatures short.
type Now = Millis;
