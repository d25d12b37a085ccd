//! Blobs: write-once objects under keys, with their SHA-256.
//!
//! Keys are `/`-separated, each part `[A-Za-z0-9._=-]{1,128}`, no part `.` or `..`, at most 512 bytes in all.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::{Millis, Sha256};
use serde::{Deserialize, Serialize};

use super::PortResult;

/// Largest blob where nothing else is configured, bytes: a witness, an artifact.
pub const BLOB_LIMIT: u64 = 1 << 30;

/// What is known of a stored blob without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    pub key: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Sha256,
    /// The identity of what wrote it, as given to `put_new`: a task id, mostly.
    pub writer: String,
}

/// Answer of a put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PutOutcome {
    Created(BlobInfo),
    /// Something is there already and stays: this is it. Compare `writer` to see whether it is the caller's own.
    Exists(BlobInfo),
}

impl PutOutcome {
    pub fn into_info(self) -> BlobInfo {
        match self {
            PutOutcome::Created(info) | PutOutcome::Exists(info) => info,
        }
    }
}

#[async_trait]
pub trait Blobs: Send + Sync {
    /// Stores the bytes unless the key exists. Never overwrites; a crash leaves the whole blob or nothing.
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome>;

    /// The same for a local file, streamed.
    async fn put_file(&self, key: &str, path: &Path, writer: &str) -> PortResult<PutOutcome>;

    /// The whole blob, checked against its SHA-256 (`Corrupt` if it differs; what others stored without a digest cannot be checked).
    /// `None`: no such key.
    async fn get(&self, key: &str) -> PortResult<Option<Bytes>>;

    /// The whole blob streamed into a new local file, checked against its SHA-256 (`Corrupt`, and no file is left). `None`: no such key.
    /// An error if the file is there already; it stays as it is.
    async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>>;

    /// `length` bytes from `offset` (fewer at the end), unchecked.
    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>>;

    /// Of a blob that others stored, without a digest, this is a `Permanent` error; see [`Blobs::pin`].
    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>>;

    /// What is there now, under a key that will go on meaning exactly these bytes: of an object that others can replace, the key of its
    /// version. Where nobody stored a digest, all of it is read, unless that takes longer than `within`: a `Permanent` error with
    /// `ErrorCode::UploadDigest`.
    async fn pin(&self, key: &str, within: Millis) -> PortResult<Option<BlobInfo>> {
        let _ = within;
        self.head(key).await
    }

    /// Keys starting with `prefix`, greater than `after`, in byte order, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>>;

    /// Deleting what is not there is fine.
    async fn delete(&self, key: &str) -> PortResult<()>;
}
