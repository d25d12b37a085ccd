//! What echo's files hold: one line of JSON each, which tests may read.

use serde::{Deserialize, Serialize};

/// A segment, as `split` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentFile {
    pub block: String,
    pub segment: u32,
    /// SHA-256 of the witness, where `split` was told to state it; so on all the way to the proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// The block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub chain: String,
    pub number: u64,
    pub hash: String,
    pub parent_hash: Option<String>,
    pub segments: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
    /// Of a batch: the hashes of the blocks it is made of, one segment each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<String>,
}

/// What the witness of a batch names; the rest of it is push0's business.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Manifest {
    /// The source chain.
    pub chain: String,
    pub blocks: Vec<Batched>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Batched {
    pub number: u64,
    pub hash: String,
    #[serde(default)]
    pub parent_hash: Option<String>,
}

impl Header {
    /// What a proof of the block covers.
    pub(crate) fn whole(&self) -> Covers {
        let Self { hash, witness, segments, .. } = self;
        Covers { block: hash.clone(), witness: witness.clone(), first: 0, last: segments.saturating_sub(1) }
    }
}

/// What every stage after `split` writes: which segments of which block it covers, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Artifact {
    /// SHA-256 over kind and stage and the SHA-256 of each input.
    pub digest: String,
    pub block: String,
    pub first: u32,
    pub last: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// A value as one line of JSON.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("echo's files are plain structs");
    bytes.push(b'\n');
    bytes
}

/// What an input covers, be it a segment or an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Covers {
    pub block: String,
    pub witness: Option<String>,
    pub first: u32,
    pub last: u32,
}

pub(crate) fn covers(bytes: &[u8]) -> Result<Covers, String> {
    if let Ok(SegmentFile { block, segment, witness }) = serde_json::from_slice(bytes) {
        return Ok(Covers { block, witness, first: segment, last: segment });
    }
    let artifact: Artifact =
        serde_json::from_slice(bytes).map_err(|error| format!("neither a segment nor an artifact of echo: {error}"))?;
    let Artifact { block, first, last, witness, .. } = artifact;
    Ok(Covers { block, witness, first, last })
}
