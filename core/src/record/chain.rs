//! The row of a chain: its cursor and window; small and bounded.

use serde::{Deserialize, Serialize};

use super::BatchCursor;
use super::codec::versioned;
use crate::id::{BlockHash, ChainId, Epoch};

/// Versioned; key `chain/{chain}`, `chain`.
///
/// Invariants: `first <= next_final <= next_release`; `pending` is bounded by the window plus one an operator's command.
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
    /// Why the block at the cursor cannot become final although it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// Decided and not yet performed, oldest first. Performed before anything else is decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingEffect>,
    /// How far the chains derived from this one are, one entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<BatchCursor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Halt {
    /// The block at the cursor names another parent than the block that is final before it.
    ParentMismatch { number: u64, names: BlockHash, last: BlockHash },
    /// The block at the cursor names a parent that was skipped because it did not fit the chain itself.
    OrphanParent { number: u64, names: BlockHash },
}

/// What a decision of the chain plane asks for outside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum PendingEffect {
    /// Create the run's plan record and send its split task.
    Start { number: u64, epoch: Epoch },
    /// Tell workers and the collector to stop the run.
    Stop { number: u64, epoch: Epoch },
}

versioned! { ChainRow = 1, "chain row"; }
