//! A finalized block, as handed on: the outbox row and, word for word, the message on `finalized.fifo` and the blob under `proofs/`.

use serde::{Deserialize, Serialize};

use super::BlobRef;
use super::codec::versioned;
use crate::id::{BlockHash, ChainId, Epoch, PipelineDigest};

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
    pub finality: Finality,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finality {
    Proof {
        pipeline: PipelineDigest,
        proof: BlobRef,
        header: BlobRef,
    },
    /// The block was skipped: there is no proof, and no hole.
    Tombstone {
        reason: String,
    },
}

versioned! { OutboxRow = 1, "finalized block"; }
