//! What is stored: one file a record, each with its key layout. Keys are text; numbers in keys are zero-padded so that byte order is
//! number order.
//!
//! Table rows (partition, sort):
//!
//! | row | partition | sort | nature |
//! |---|---|---|---|
//! | [`ChainRow`] | `chain/{chain}` | `chain` | versioned |
//! | [`BlockRow`] | `chain/{chain}` | `block/{number:020}` | versioned |
//! | [`BatchRow`] | `chain/{source}` | `batch/{chain}/{number:020}` | versioned, written once |
//! | [`OutboxRow`] | `outbox/{chain}` | `seq/{seq:020}` | versioned, written once |
//! | published | `outbox/{chain}` | `published` | accept-first |
//! | swept | `outbox/{chain}` | `swept` | accept-first |
//! | run | `run/{run}` | `run` | accept-first |
//! | ranges | same | `ranges` | accept-first |
//! | node | same | `node/{stage:03}/{layer:02}/{index:06}` | accept-first |
//! | timer | same | `timer/{piece:03}` | accept-first |
//! | hedge timer | same | `hedge/{piece:03}` | accept-first |
//! | [`crate::block::Sketch`] | `sketch/{tag}` | `{stage:03}/{pool}` | accept-first |
//!
//! Blobs: `witnesses/…` (whatever the submitter chose), `artifacts/{pool}/{task}`, `control/{run}`, `control/{run}/demoted`,
//! `control/{run}/{stage}/{node}/a{attempt}`,
//! `proofs/{chain}/{number:020}`.

mod batch;
mod block;
mod chain;
pub(crate) mod codec;
mod deadline;
mod lane;
mod manifest;
mod outbox;
mod run;
#[cfg(test)]
mod tests;
mod watch;

pub use batch::{BatchCursor, BatchManifest, BatchRange, BatchRow, BatchedBlock, MAX_BATCH, MAX_BATCH_MANIFEST};
pub use block::{BlockRow, BlockStatus, Contender, EpochEnd, MAX_CONTENDERS, MAX_HISTORY, MAX_PAST, MAX_SUSPECTS};
pub use chain::{
    ChainRow, Disagreement, DroppedRange, Fork, Halt, MAX_ACKNOWLEDGED, MAX_DISPUTED, PendingEffect, Says, Walk,
};
pub use codec::{DecodeError, Versioned};
pub use deadline::{Late, Missed, OnTime};
pub use lane::{Lane, LaneProof, LaneState, MAX_LANES};
pub use manifest::{MANIFEST_PAGE, MAX_MANIFEST, Manifest, ManifestPage};
pub use outbox::{Finality, OtherProof, OutboxRow, Timings};
pub use run::{
    Artifact, Demoted, FailureNote, Hedges, ManifestSlot, NodeView, Promotion, Run, RunView, Started, Suspect, Try,
    Verdict, VerdictSlot, attribute,
};
pub use watch::{HedgeWatch, Watch};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::id::{ChainId, Node, Pool, RunId, Sha256, StageName, TaskId};

/// Longest error text kept, bytes.
pub const MAX_ERROR: usize = 4096;

/// Bytes of a row, as DynamoDB counts them at most.
pub const MAX_ROW: usize = 400 * 1024;

/// Bytes of a blob's key.
pub const MAX_BLOB_KEY: usize = 512;

fn blob_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let key = String::deserialize(deserializer)?;
    if key.len() > MAX_BLOB_KEY {
        let what = format!("a blob's key of {} bytes; at most {MAX_BLOB_KEY} are possible", key.len());
        return Err(de::Error::custom(what));
    }
    Ok(key)
}

/// A stored blob, pinned by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// At most [`MAX_BLOB_KEY`] bytes: rows and messages hold several.
    #[serde(deserialize_with = "blob_key")]
    pub key: String,
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
}

/// Where a table row lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    pub partition: String,
    pub sort: String,
}

impl RowKey {
    fn new(partition: String, sort: String) -> Self {
        Self { partition, sort }
    }

    pub fn chain(chain: &ChainId) -> Self {
        Self::new(format!("chain/{chain}"), "chain".to_owned())
    }

    pub fn block(chain: &ChainId, number: u64) -> Self {
        Self::new(format!("chain/{chain}"), format!("block/{number:020}"))
    }

    /// What block `number` of batch chain `chain` is made of, in the partition of its source.
    pub fn batch(of: &ChainId, chain: &ChainId, number: u64) -> Self {
        Self::new(format!("chain/{of}"), format!("batch/{chain}/{number:020}"))
    }

    pub fn outbox(chain: &ChainId, seq: u64) -> Self {
        Self::new(format!("outbox/{chain}"), format!("seq/{seq:020}"))
    }

    pub fn published(chain: &ChainId) -> Self {
        Self::new(format!("outbox/{chain}"), "published".to_owned())
    }

    /// Where the sweeper stands: the number below which nothing more is to be deleted.
    pub fn swept(chain: &ChainId) -> Self {
        Self::new(format!("outbox/{chain}"), "swept".to_owned())
    }

    pub fn run(run: &RunId) -> Self {
        Self::new(format!("run/{run}"), "run".to_owned())
    }

    pub fn ranges(run: &RunId) -> Self {
        Self::new(format!("run/{run}"), "ranges".to_owned())
    }

    pub fn node(run: &RunId, node: Node) -> Self {
        let layer = Self::layer(node.stage, node.layer);
        Self::new(format!("run/{run}"), format!("{layer}{:06}", node.index))
    }

    /// What the sort keys of a layer's nodes begin with.
    pub fn layer(stage: u16, layer: u8) -> String {
        format!("node/{stage:03}/{layer:02}/")
    }

    /// Where the timer of a piece stands.
    pub fn timer(run: &RunId, piece: u32) -> Self {
        Self::new(format!("run/{run}"), format!("timer/{piece:03}"))
    }

    /// Where the hedge timer of a piece stands.
    pub fn hedge(run: &RunId, piece: u32) -> Self {
        Self::new(format!("run/{run}"), format!("hedge/{piece:03}"))
    }

    /// How long the tasks of a stage take in a pool, by the tag of the pipeline's digest.
    pub fn sketch(tag: &str, stage: u16, pool: &Pool) -> Self {
        Self::new(format!("sketch/{tag}"), format!("{stage:03}/{pool}"))
    }

    /// The node a node row's sort key names.
    pub fn parse_node(sort: &str) -> Option<Node> {
        let mut parts = sort.strip_prefix("node/")?.split('/');
        Some(Node::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The blob that tells workers to stop a run.
pub fn control_key(run: &RunId) -> String {
    format!("control/{run}")
}

/// The blob that tells workers to stop what they do at a node for this attempt: a copy of it was accepted. A later attempt, after a
/// revocation, is not meant.
pub fn node_control_key(task: &TaskId, stage: &StageName) -> String {
    format!("{}/{stage}/{}/a{}", control_key(&task.run), task.node, task.attempt.0)
}

/// The blob that tells workers that the tasks of a run which still wait in a more urgent queue lie in that of `bulk`, too.
pub fn demoted_key(run: &RunId) -> String {
    format!("control/{run}/demoted")
}

/// The blob a finalized block is handed on as.
pub fn proof_key(chain: &ChainId, number: u64) -> String {
    format!("proofs/{chain}/{number:020}")
}

/// Cuts a text down to `most` bytes, out of its middle: an error says at its beginning what happened, and at its end (a traceback, a log) why.
pub fn clip_middle(text: &str, most: usize) -> String {
    const MARK: &str = " … ";
    if text.len() <= most {
        return text.to_owned();
    }
    let most = most.max(MARK.len());
    let (mut head, mut tail) = ((most - MARK.len()) / 3, text.len() - (most - MARK.len()) * 2 / 3);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{MARK}{}", &text[..head], &text[tail..])
}

/// Cuts a text for people down to [`MAX_ERROR`] bytes: see [`clip_middle`].
pub fn clip_error(text: &str) -> String {
    clip_middle(text, MAX_ERROR)
}
