//! Blobs in S3.
//!
//! A blob's key is its object's key, in the bucket that holds keys of its prefix. What [`S3Blobs`] stores carries its SHA-256 and its
//! writer as metadata, and is put on condition that nothing is there (`If-None-Match: *`). Everything read is checked against that digest,
//! whatever checksums S3 and the SDK compare underneath.
//!
//! Witnesses may be uploaded by anybody with any tool, and so can be overwritten: their bucket keeps versions, and a key that ends in
//! `/version=ID` names exactly one (see [`push0_core::message::upload`]). What others stored has no writer but `upload`, and a digest only
//! where S3 has a SHA-256 of the whole object or they gave metadata `sha256`.

mod keys;
mod object;
mod read;
mod trouble;
mod write;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use bytes::Bytes;
use push0_core::message::upload::split_version;
use push0_core::topology::{BucketSpec, Topology};
use push0_core::{Millis, Sha256};

use self::object::At;
use super::Connection;
use crate::engine::check_blob_key;
use crate::port::{BLOB_LIMIT, BlobInfo, Blobs, PortError, PortResult, PutOutcome};

/// [`Blobs`] in S3. Clones share the connection.
#[derive(Debug, Clone)]
pub struct S3Blobs {
    client: Client,
    shelves: Arc<[Shelf]>,
    /// Largest blob, bytes.
    limit: u64,
}

/// Where keys of a prefix are.
#[derive(Debug)]
struct Shelf {
    prefix: String,
    bucket: String,
    is_versioned: bool,
}

impl S3Blobs {
    pub fn new(connection: &Connection, topology: &Topology) -> Self {
        // The digest of the whole is compared here; the SDK's own checks would say less of what is wrong.
        let config = connection.s3().config().to_builder();
        let config = config.response_checksum_validation(ResponseChecksumValidation::WhenRequired).build();
        let on = |bucket: &BucketSpec| -> Vec<Shelf> {
            let name = connection.settings.name(&bucket.name);
            let shelf = |prefix: &String| Shelf {
                prefix: prefix.clone(),
                bucket: name.clone(),
                is_versioned: bucket.versioned,
            };
            bucket.prefixes.iter().map(shelf).collect()
        };
        let shelves: Vec<Shelf> = topology.buckets.iter().flat_map(on).collect();
        Self { client: Client::from_conf(config), shelves: shelves.into(), limit: BLOB_LIMIT }
    }

    /// The object of a key.
    fn at<'a>(&'a self, key: &'a str) -> PortResult<At<'a>> {
        check_blob_key(key)?;
        let (object, version) = split_version(key).map_err(|error| PortError::permanent(error.to_string()))?;
        let shelf = self.shelves.iter().find(|shelf| object.starts_with(&shelf.prefix));
        let shelf = shelf.ok_or_else(|| PortError::permanent(format!("no bucket is for keys such as {key:?}")))?;
        Ok(At { key, bucket: &shelf.bucket, is_versioned: shelf.is_versioned, object, version })
    }

    /// The object of a key that is to be written.
    fn new_at<'a>(&'a self, key: &'a str) -> PortResult<At<'a>> {
        let at = self.at(key)?;
        match at.version {
            None => Ok(at),
            Some(_) => Err(PortError::permanent(format!("{key}: S3 gives versions, nobody else"))),
        }
    }

    fn check_size(&self, size: u64) -> PortResult<()> {
        if size > self.limit {
            return Err(PortError::permanent(format!("a blob is at most {} bytes", self.limit)));
        }
        Ok(())
    }
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        let at = self.new_at(key)?;
        self.check_size(bytes.len() as u64)?;
        let info = at.info(bytes.len() as u64, Sha256::of(&bytes), writer);
        self.put_bytes(&at, bytes, info).await
    }

    async fn put_file(&self, key: &str, path: &Path, writer: &str) -> PortResult<PutOutcome> {
        self.put_path(&self.new_at(key)?, path, writer).await
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        self.get_bytes(&self.at(key)?).await
    }

    async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>> {
        self.get_path(&self.at(key)?, path).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        self.get_part(&self.at(key)?, offset, length).await
    }

    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        self.known(&self.at(key)?).await
    }

    async fn pin(&self, key: &str, within: Millis) -> PortResult<Option<BlobInfo>> {
        self.pinned(&self.at(key)?, within).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        self.keys(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> PortResult<()> {
        self.remove(&self.at(key)?).await
    }
}
