//! Reading: streamed, and checked.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::{Bytes, BytesMut};
use push0_core::message::upload::versioned_key;
use push0_core::{ErrorCode, Millis, Sha256};
use sha2::Digest as _;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::S3Blobs;
use super::object::{At, Found};
use super::trouble::{Said, said};
use crate::port::{BlobInfo, PortError, PortResult};

/// No object of S3 is as large.
const FAR: u64 = i64::MAX as u64;

/// An object that is being read.
struct Opened {
    found: Found,
    body: ByteStream,
}

impl S3Blobs {
    pub(super) async fn look(&self, at: &At<'_>) -> PortResult<Option<Found>> {
        let head = self.client.head_object().bucket(at.bucket).key(at.object).set_version_id(at.version.clone());
        match head.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(head) => Ok(Some(Found::of_head(&head))),
            Err(error) => absent_or(said(&format!("looking at {}", at.key), &error)),
        }
    }

    pub(super) async fn known(&self, at: &At<'_>) -> PortResult<Option<BlobInfo>> {
        self.look(at).await?.map(|found| found.info(at)).transpose()
    }

    pub(super) async fn pinned(&self, at: &At<'_>, within: Millis) -> PortResult<Option<BlobInfo>> {
        let Some(mut found) = self.look(at).await? else { return Ok(None) };
        let version = at.version.clone().or(found.version.take());
        let key = match &version {
            Some(version) if at.is_versioned => versioned_key(at.object, version)
                .ok_or_else(|| PortError::permanent(format!("{}: its version {version} is too long", at.object)))?,
            _ => at.object.to_owned(),
        };
        let at = At { key: &key, version, ..*at };
        if found.sha256.is_none() {
            let reading = self.digest(&at);
            match tokio::time::timeout(Duration::from_millis(within.0), reading).await {
                Ok(Ok(Some(sha256))) => found.sha256 = Some(sha256),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let what = format!(
                        "{} ({} bytes) came without its SHA-256, and could not be read within {} ms: \
                         use `push0 submit`, or upload it with metadata sha256",
                        at.key, found.size, within.0
                    );
                    return Err(PortError::permanent(ErrorCode::UploadDigest.says(what)));
                }
            }
        }
        found.info(&at).map(Some)
    }

    async fn digest(&self, at: &At<'_>) -> PortResult<Option<Sha256>> {
        let Some(mut opened) = self.open(at).await? else { return Ok(None) };
        let mut hasher = sha2::Sha256::new();
        while let Some(piece) = opened.next(at).await? {
            hasher.update(&piece);
        }
        Ok(Some(Sha256(hasher.finalize().into())))
    }

    async fn open(&self, at: &At<'_>) -> PortResult<Option<Opened>> {
        let get = self.client.get_object().bucket(at.bucket).key(at.object).set_version_id(at.version.clone());
        // By hand: asked for in the SDK's way, it would compare the checksum itself.
        let get = get.customize().mutate_request(|request| {
            request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
        });
        match get.send().await {
            Ok(get) => Ok(Some(Opened { found: Found::of_get(&get), body: get.body })),
            Err(error) => absent_or(said(&format!("reading {}", at.key), &error)),
        }
    }

    pub(super) async fn get_bytes(&self, at: &At<'_>) -> PortResult<Option<Bytes>> {
        let Some(mut opened) = self.open(at).await? else { return Ok(None) };
        self.check_size(opened.found.size)?;
        let mut bytes = BytesMut::with_capacity(opened.found.size as usize);
        while let Some(piece) = opened.next(at).await? {
            bytes.extend_from_slice(&piece);
        }
        opened.check(at, Sha256::of(&bytes))?;
        Ok(Some(bytes.freeze()))
    }

    pub(super) async fn get_path(&self, at: &At<'_>, path: &Path) -> PortResult<Option<BlobInfo>> {
        let Some(mut opened) = self.open(at).await? else { return Ok(None) };
        self.check_size(opened.found.size)?;
        let here = |error: std::io::Error| PortError::io(path.display(), &error);
        let mut file = File::create_new(path).await.map_err(here)?;
        let copied = async {
            let (mut hasher, mut size) = (sha2::Sha256::new(), 0);
            while let Some(piece) = opened.next(at).await? {
                hasher.update(&piece);
                size += piece.len() as u64;
                file.write_all(&piece).await.map_err(here)?;
            }
            file.flush().await.map_err(here)?;
            let sha256 = Sha256(hasher.finalize().into());
            opened.check(at, sha256)?;
            Ok(at.info(size, sha256, &opened.found.writer))
        };
        match copied.await {
            Ok(info) => Ok(Some(info)),
            Err(error) => {
                drop(file);
                let _ = tokio::fs::remove_file(path).await;
                Err(error)
            }
        }
    }

    pub(super) async fn get_part(&self, at: &At<'_>, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        if length == 0 || offset >= FAR {
            return Ok(self.look(at).await?.map(|_| Bytes::new()));
        }
        let last = offset.saturating_add(length - 1).min(FAR);
        let get = self.client.get_object().bucket(at.bucket).key(at.object).set_version_id(at.version.clone());
        let what = format!("reading {}", at.key);
        match get.range(format!("bytes={offset}-{last}")).send().await {
            Ok(get) => {
                // HTTP lets a server leave the range out of account, and send all.
                let is_whole = get.content_range().is_none();
                let bytes = get.body.collect().await;
                let bytes = bytes.map_err(|error| PortError::transient(format!("{what}: {error}")))?.into_bytes();
                let size = bytes.len() as u64;
                let cut = |at: u64| at.min(size) as usize;
                Ok(Some(if is_whole { bytes.slice(cut(offset)..cut(last + 1)) } else { bytes }))
            }
            // It ends before the range begins.
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 416) => {
                Ok(Some(Bytes::new()))
            }
            Err(error) => absent_or(said(&what, &error)),
        }
    }
}

impl Opened {
    async fn next(&mut self, at: &At<'_>) -> PortResult<Option<Bytes>> {
        let piece = self.body.try_next().await;
        piece.map_err(|error| PortError::transient(format!("reading {}: it broke off: {error}", at.key)))
    }

    /// Of what nobody stored a digest nothing can be said.
    fn check(&self, at: &At<'_>, found: Sha256) -> PortResult<()> {
        match self.found.sha256 {
            Some(stored) if stored != found => Err(PortError::corrupt(format!(
                "blob {}: the stored bytes do not have the SHA-256 they were stored with",
                at.key
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

fn absent_or<T>(said: Said) -> PortResult<Option<T>> {
    match said {
        Said::Absent => Ok(None),
        other => Err(other.into_trouble("reading")),
    }
}
