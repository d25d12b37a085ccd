//! What `split` leaves: a root over pages of segments.

use serde::{Deserialize, Serialize};

use super::BlobRef;
use super::codec::versioned;
use crate::id::BlockHash;
use crate::pipeline::MAX_SEGMENTS;

/// Segments a page names, but for the last; also the size of a range piece, so that a piece reads one page.
pub const MANIFEST_PAGE: u32 = 256;

/// Bytes of a manifest, and of a page: twice what either has with keys as long as they may be.
pub const MAX_MANIFEST: usize = 512 * 1024;

/// Blob `artifacts/trusted/{task}/manifest`: the one artifact of `split`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub segments: u32,
    pub pages: Vec<BlobRef>,
    /// The block's header, in the prover's own format: `verify` reads it.
    pub header: BlobRef,
    /// Computed by the prover from the header.
    pub hash: BlockHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
}

/// Blob `artifacts/trusted/{task}/pages/{page:03}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPage {
    /// Number of the first segment named.
    pub first: u32,
    pub segments: Vec<BlobRef>,
}

impl Manifest {
    fn fits(&self) -> Result<(), String> {
        let (segments, pages) = (self.segments, self.pages.len());
        if !(1..=MAX_SEGMENTS).contains(&segments) {
            return Err(format!("a block has 1 to {MAX_SEGMENTS} segments, not {segments}"));
        }
        if pages as u32 != segments.div_ceil(MANIFEST_PAGE) {
            return Err(format!("{pages} pages cannot be those of {segments} segments"));
        }
        Ok(())
    }
}

versioned! {
    Manifest = 1, "manifest", MAX_MANIFEST, Manifest::fits;
    ManifestPage = 1, "manifest page", MAX_MANIFEST;
}
