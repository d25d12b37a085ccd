//! A finalized block, as handed on: the outbox row and, word for word, the message on `finalized.fifo` and the blob under `proofs/`.

use serde::{Deserialize, Serialize};

use super::codec::versioned;
use super::{BatchRange, BlobRef};
use crate::id::{BlockHash, ChainId, Epoch, Millis, PipelineDigest};

/// Versioned, written once with the cursor's move; key `outbox/{chain}`, `seq/{seq:020}`.
///
/// Invariant: `seq` is dense from 1, `number` is dense from the chain's first. Delivered at least once: consumers drop `seq <= last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    pub seq: u64,
    pub chain: ChainId,
    pub number: u64,
    pub epoch: Epoch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<BlockHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    /// Of a batch chain: the blocks it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchRange>,
    pub finality: Finality,
    /// None in rows of versions that did not write them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// When what happened to the block, milliseconds since the Unix epoch, by the clock of the dispatcher that decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Admitted: the first submission of this block reached the chain.
    pub submitted_at: Millis,
    /// The run that was finalized began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Millis>,
    /// Its root was verified; or it was skipped.
    pub settled_at: Millis,
    /// Its predecessor was final, too.
    pub finalized_at: Millis,
    /// When it should have been final at the latest, where it had a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// Whether it was. None: it had no deadline, or was skipped by an operator before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finality {
    Proof {
        pipeline: PipelineDigest,
        proof: BlobRef,
        header: BlobRef,
        /// Where several provers prove a block: the other proofs there were when it became final.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<OtherProof>,
    },
    /// The block was left out: there is no proof, and no hole. The reason has code
    /// [`DeadlineMissed`](crate::ErrorCode::DeadlineMissed) where that was because its deadline had passed.
    Tombstone { reason: String },
}

/// Another pipeline's verified proof of the same block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherProof {
    pub pipeline: PipelineDigest,
    pub proof: BlobRef,
    pub header: BlobRef,
}

versioned! { OutboxRow = 1, "finalized block", crate::message::MAX_MESSAGE; }
