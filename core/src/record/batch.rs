//! Batch chains: which blocks of a source chain are which block of a batch chain, and the manifest that names their proofs.

use serde::{Deserialize, Serialize};

use super::BlobRef;
use super::codec::versioned;
use crate::id::{BlockHash, ChainId, Millis, PipelineDigest};

/// Most blocks of a batch.
pub const MAX_BATCH: u32 = 1_000;

/// Bytes of a batch's manifest: of [`MAX_BATCH`] blocks, each with two keys as long as keys may be, and some.
pub const MAX_BATCH_MANIFEST: usize = 8 << 20;

/// Blocks `from` to `to` of chain `of`, both included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRange {
    pub of: ChainId,
    pub from: u64,
    pub to: u64,
}

impl std::fmt::Display for BatchRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}..{}", self.of, self.from, self.to)
    }
}

/// What a block of a batch chain is made of. Versioned, written once, with the batch cursor's move; key `chain/{of}`,
/// `batch/{chain}/{number:020}`.
///
/// Invariant: the ranges of a batch chain are dense: each begins where the one before ended, the first with the source's first block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRow {
    /// The batch chain.
    pub chain: ChainId,
    /// The batch's number there, from 1.
    pub number: u64,
    pub range: BatchRange,
    pub at: Millis,
}

/// How far a batch chain has got in its source: part of the source's [`super::ChainRow`].
///
/// Invariant: `told < number`, and `next` is at most the source's cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCursor {
    /// The batch chain.
    pub chain: ChainId,
    /// The oldest block of the source that is in no batch yet.
    pub next: u64,
    /// The number of the batch it will be in.
    pub number: u64,
    /// The last batch that the batch chain has been told of; 0: none. Those after it are pending.
    #[serde(default)]
    pub told: u64,
    /// When block `next` was seen to be final: what a wait for the rest is counted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
}

impl BatchCursor {
    pub fn new(chain: ChainId, first: u64) -> Self {
        Self { chain, next: first, number: 1, told: 0, since: None }
    }
}

/// The witness of a block of a batch chain. Blob `witnesses/{chain}/{number}-{sha256}` of the batch chain.
///
/// Its bytes are pinned when the batch is admitted, and `push0 verify` makes them anew from the source's stream to compare them.
///
/// `split` is given this, then of each block in order its proof and its header: `2n` more files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchManifest {
    /// The source chain.
    pub chain: ChainId,
    pub from: u64,
    pub to: u64,
    pub blocks: Vec<BatchedBlock>,
}

/// A final block of the source, as its finalized stream has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchedBlock {
    pub number: u64,
    pub hash: BlockHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    pub proof: BlobRef,
    pub header: BlobRef,
    /// What it was proven with.
    pub pipeline: PipelineDigest,
}

impl BatchManifest {
    /// What `split` reads beside the manifest, in order.
    pub fn inputs(&self) -> Vec<BlobRef> {
        self.blocks.iter().flat_map(|block| [block.proof.clone(), block.header.clone()]).collect()
    }
}

versioned! {
    BatchRow = 1, "batch row", super::MAX_ROW;
    BatchManifest = 1, "batch manifest", MAX_BATCH_MANIFEST;
}
