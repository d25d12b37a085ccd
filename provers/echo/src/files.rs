//! What echo's files hold: one line of JSON each, which tests may read.

use serde::{Deserialize, Serialize};

/// A segment, as `split` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentFile {
    pub block: String,
    pub segment: u32,
}

/// The block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub chain: String,
    pub number: u64,
    pub hash: String,
    pub parent_hash: Option<String>,
    pub segments: u32,
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

/// What every stage after `split` writes: which segments of which block it covers, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Artifact {
    /// SHA-256 over kind and stage and the SHA-256 of each input.
    pub digest: String,
    pub block: String,
    pub first: u32,
    pub last: u32,
}

/// A value as one line of JSON.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("echo's files are plain structs");
    bytes.push(b'\n');
    bytes
}

/// Block, first and last segment of an input: a segment or an artifact.
pub(crate) fn range(bytes: &[u8]) -> Result<(String, u32, u32), String> {
    if let Ok(segment) = serde_json::from_slice::<SegmentFile>(bytes) {
        return Ok((segment.block, segment.segment, segment.segment));
    }
    let artifact: Artifact =
        serde_json::from_slice(bytes).map_err(|error| format!("neither a segment nor an artifact of echo: {error}"))?;
    Ok((artifact.block, artifact.first, artifact.last))
}
