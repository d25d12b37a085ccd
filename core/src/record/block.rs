//! The row of a block number: its current run, and what came before.

use serde::{Deserialize, Serialize};

use super::codec::versioned;
use super::{BatchRange, BlobRef, Lane, Missed, Suspect};
use crate::id::{BlockHash, BlockId, ChainId, Epoch, Millis, PipelineDigest};

/// Contenders remembered a number; further ones are dropped, the count goes on.
pub const MAX_CONTENDERS: usize = 8;

/// Suspects remembered a number: the newest.
pub const MAX_SUSPECTS: usize = 16;

/// Ended epochs remembered a number: the newest.
pub const MAX_HISTORY: usize = 16;

/// Hashes remembered of blocks that stood under a number before: the newest.
pub const MAX_PAST: usize = 16;

/// Versioned; key `chain/{chain}`, `block/{number:020}`.
///
/// Invariant: `epoch` never falls, and rises whenever a run ends without finality. What is `Final` or a finalized tombstone
/// (`final_seq` set) never changes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    pub chain: ChainId,
    pub number: u64,
    pub epoch: Epoch,
    pub status: BlockStatus,
    /// Unknown only where nothing stands under the number: it was skipped before anything was submitted, or its block was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<BlockHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<BlobRef>,
    /// Of a batch chain: what it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchRange>,
    /// The submitter's count of its own reorganisations; a higher one supersedes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_seq: Option<u64>,
    pub submitted_at: Millis,
    /// When it should be final at the latest: fixed when this block (or witness) was admitted under the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// The deadline passed before the block was final: set once, and with the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Millis>,
    /// When the block was proven, failed, skipped: the status is as it is since then.
    pub changed_at: Millis,
    /// What it was proven with, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineDigest>,
    /// The root's artifact, once proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<BlobRef>,
    /// The header that proof was verified against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<BlobRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_seq: Option<u64>,
    /// Runs that ended in `bad_proof`.
    #[serde(default)]
    pub bad_proofs: u32,
    /// Runs that ended because what `split` had stored was damaged.
    #[serde(default)]
    pub spoiled_runs: u32,
    /// Who had a hand in bad proofs, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Suspect>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contenders: Vec<Contender>,
    #[serde(default)]
    pub contenders_seen: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<EpochEnd>,
    /// The epoch's runs by lane, where several provers prove the block; as configured when the epoch began. Empty: one run, in lane 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Lane>,
    /// So many pipelines must have a verified root. 0 where there is one run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quorum: u16,
    /// How long after the block is final a run may go on that the quorum did not need; as configured when the epoch began. Rows of before
    /// say nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_limit: Option<Millis>,
    /// Most lanes that any epoch of this number had. 0: never more than one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lanes_seen: u16,
    /// Of a released number: its block does not follow what stands before it, and waits until it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfit: bool,
    /// Blocks that stood here and were superseded, replaced or dropped, the newest last: they do not come back by being told of again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<BlockHash>,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum BlockStatus {
    /// Admitted; waits for its turn, or below the release point for its parent.
    Parked,
    /// Being proven.
    Proving,
    /// Verified; waits for its predecessor to become final.
    Proven,
    /// Will not be proven without an operator.
    Failed {
        reason: String,
    },
    /// Left out: by an operator, or because its deadline had passed ([`crate::chain::is_abandoned`]).
    Skipped {
        reason: String,
    },
    /// An operator dropped what stood here; another block is waited for.
    Dropped {
        reason: String,
    },
    Final,
}

impl BlockStatus {
    pub fn name(&self) -> &'static str {
        match self {
            BlockStatus::Parked => "parked",
            BlockStatus::Proving => "proving",
            BlockStatus::Proven => "proven",
            BlockStatus::Failed { .. } => "failed",
            BlockStatus::Skipped { .. } => "skipped",
            BlockStatus::Dropped { .. } => "dropped",
            BlockStatus::Final => "final",
        }
    }
}

/// Another block of the same number that did not get in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    pub hash: BlockHash,
    pub witness: BlobRef,
    pub at: Millis,
}

/// How an epoch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    pub epoch: Epoch,
    pub reason: String,
    pub at: Millis,
}

impl BlockRow {
    /// The first row of a number: nothing is known of it but how it stands since `at`.
    pub fn new(chain: ChainId, number: u64, status: BlockStatus, at: Millis) -> Self {
        Self {
            chain,
            number,
            epoch: Epoch::FIRST,
            status,
            hash: None,
            parent_hash: None,
            witness: None,
            batch: None,
            fork_seq: None,
            submitted_at: at,
            deadline: None,
            missed: None,
            released_at: None,
            changed_at: at,
            pipeline: None,
            proof: None,
            header: None,
            final_seq: None,
            bad_proofs: 0,
            spoiled_runs: 0,
            suspects: Vec::new(),
            contenders: Vec::new(),
            contenders_seen: 0,
            history: Vec::new(),
            runs: Vec::new(),
            quorum: 0,
            rest_limit: None,
            lanes_seen: 0,
            unfit: false,
            past: Vec::new(),
        }
    }

    /// What stands under the number.
    pub fn id(&self) -> BlockId {
        BlockId { number: self.number, hash: self.hash }
    }

    /// Ends the current epoch for `reason` and begins the next.
    pub fn next_epoch(&mut self, reason: &str, at: Millis) {
        self.history.push(EpochEnd { epoch: self.epoch, reason: reason.to_owned(), at });
        let surplus = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..surplus);
        self.epoch = self.epoch.next();
        self.pipeline = None;
        self.proof = None;
        self.header = None;
        self.runs.clear();
        self.quorum = 0;
        self.rest_limit = None;
        self.changed_at = at;
    }

    /// What stands here stands here no more: its hash is remembered, and the number is nobody's.
    pub fn vacate(&mut self) {
        if let Some(hash) = self.hash.take() {
            self.past.retain(|past| *past != hash);
            self.past.push(hash);
        }
        let surplus = self.past.len().saturating_sub(MAX_PAST);
        self.past.drain(..surplus);
        self.parent_hash = None;
        self.witness = None;
        self.released_at = None;
        self.pipeline = None;
        self.proof = None;
        self.header = None;
        self.runs.clear();
        self.quorum = 0;
        self.rest_limit = None;
        self.unfit = false;
        // What was counted was the other block's.
        self.bad_proofs = 0;
        self.spoiled_runs = 0;
        self.suspects.clear();
    }

    pub fn set_status(&mut self, status: BlockStatus, at: Millis) {
        self.status = status;
        self.changed_at = at;
    }
}

versioned! { BlockRow = 1, "block row", super::MAX_ROW; }
