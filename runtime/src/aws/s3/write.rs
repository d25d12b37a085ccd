//! Writing: on condition that nothing is there.
//!
//! A put that meets 412 tells what is there. If the answer to an own put was lost, the next try of it, by the SDK or the caller, meets
//! itself there: it is told by its writer, as the port says. 409 means that another put of the same key is going on; it is waited for.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::stream::{FuturesOrdered, TryStreamExt as _};
use push0_core::{Millis, Sha256};
use sha2::Digest as _;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::S3Blobs;
use super::object::{At, SHA256, WRITER, checksum, written};
use super::trouble::{Said, said};
use crate::aws::error::left_open;
use crate::port::{BlobInfo, ErrorKind, PortError, PortResult, PutOutcome};

/// Larger files go in parts of this size, bytes.
const PART: u64 = 16 << 20;

/// Parts of a file that are on their way at a time: with the one being read, what of it is in memory.
const PARTS_AT_ONCE: usize = 4;

/// S3 takes no more parts than this.
const MOST_PARTS: u64 = 10_000;

/// Puts of a key that met others, before the caller is told.
const TURNS: u32 = 6;

/// What others were doing with the key when it was to be put.
enum Met {
    /// Somebody has put it.
    Blob(BlobInfo),
    /// Somebody is putting or deleting it.
    Somebody,
}

impl S3Blobs {
    pub(super) async fn put_bytes(&self, at: &At<'_>, bytes: Bytes, info: BlobInfo) -> PortResult<PutOutcome> {
        let (what, mut is_open) = (format!("storing {}", at.key), false);
        for turn in 0..TURNS {
            let put = self.client.put_object().bucket(at.bucket).key(at.object).if_none_match("*");
            let put = put.metadata(SHA256, info.sha256.to_string()).metadata(WRITER, written(&info.writer));
            let put = put.checksum_sha256(checksum(info.sha256)).body(bytes.clone().into());
            let Err(error) = put.send().await else {
                return Ok(PutOutcome::Created(info));
            };
            is_open |= left_open(&error);
            match self.met(at, said(&what, &error)).await.map_err(|error| judged(error, is_open))? {
                Met::Blob(found) => return Ok(PutOutcome::Exists(found)),
                Met::Somebody => rest(turn).await,
            }
        }
        Err(judged(taken(&what), is_open))
    }

    async fn met(&self, at: &At<'_>, said: Said) -> PortResult<Met> {
        match said {
            Said::Exists => Ok(self.known(at).await?.map_or(Met::Somebody, Met::Blob)),
            Said::Busy | Said::Absent => Ok(Met::Somebody),
            Said::Trouble(error) => Err(error),
        }
    }

    pub(super) async fn put_path(&self, at: &At<'_>, path: &Path, writer: &str) -> PortResult<PutOutcome> {
        let here = |error: std::io::Error| PortError::io(path.display(), &error);
        let size = tokio::fs::metadata(path).await.map_err(here)?.len();
        self.check_size(size)?;
        if size <= PART {
            let bytes: Bytes = tokio::fs::read(path).await.map_err(here)?.into();
            let info = at.info(bytes.len() as u64, Sha256::of(&bytes), writer);
            return self.put_bytes(at, bytes, info).await;
        }
        // Mostly a redelivered task: much is not sent that will not be used.
        if let Some(found) = self.known(at).await? {
            return Ok(PutOutcome::Exists(found));
        }
        let sha256 = digest(path).await?;
        self.put_parts(at, path, at.info(size, sha256, writer)).await
    }

    async fn put_parts(&self, at: &At<'_>, path: &Path, info: BlobInfo) -> PortResult<PutOutcome> {
        let (what, mut is_open) = (format!("storing {} in parts", at.key), false);
        for turn in 0..TURNS {
            let create = self.client.create_multipart_upload().bucket(at.bucket).key(at.object);
            let create = create.metadata(SHA256, info.sha256.to_string()).metadata(WRITER, written(&info.writer));
            let created = create.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await;
            let created = created.map_err(|error| said(&what, &error).into_trouble(&what))?;
            let upload = Upload { blobs: self, at, id: created.upload_id().unwrap_or_default() };
            let parts = match upload.send(path, &info).await {
                Ok(parts) => parts,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            };
            let complete =
                self.client.complete_multipart_upload().bucket(at.bucket).key(at.object).upload_id(upload.id);
            let complete = complete.if_none_match("*").multipart_upload(parts);
            let Err(error) = complete.send().await else {
                return Ok(PutOutcome::Created(info));
            };
            is_open |= left_open(&error);
            let said = match said(&what, &error) {
                // There is no such upload any more: a try before this one has completed it, and its answer was lost.
                Said::Absent => Said::Exists,
                other => other,
            };
            upload.abort().await;
            match self.met(at, said).await.map_err(|error| judged(error, is_open))? {
                Met::Blob(found) => return Ok(PutOutcome::Exists(found)),
                Met::Somebody => rest(turn).await,
            }
        }
        Err(judged(taken(&what), is_open))
    }
}

/// A multipart upload that is open.
struct Upload<'a> {
    blobs: &'a S3Blobs,
    at: &'a At<'a>,
    id: &'a str,
}

impl Upload<'_> {
    /// Sends all parts of a file that must be what `info` says to its last byte.
    async fn send(&self, path: &Path, info: &BlobInfo) -> PortResult<CompletedMultipartUpload> {
        let file = File::open(path).await.map_err(|error| PortError::io(path.display(), &error))?;
        let mut reader = Parts {
            path,
            file,
            size: PART.max(info.size.div_ceil(MOST_PARTS)),
            left: info.size,
            number: 0,
            hasher: sha2::Sha256::new(),
            expected: info.sha256,
        };
        let (mut sending, mut sent) = (FuturesOrdered::new(), Vec::new());
        while let Some((number, bytes)) = reader.next().await? {
            sending.push_back(self.part(number, bytes));
            if sending.len() == PARTS_AT_ONCE {
                sent.extend(sending.try_next().await?);
            }
        }
        while let Some(part) = sending.try_next().await? {
            sent.push(part);
        }
        Ok(CompletedMultipartUpload::builder().set_parts(Some(sent)).build())
    }

    async fn part(&self, number: i32, bytes: Bytes) -> PortResult<CompletedPart> {
        let what = format!("storing part {number} of {}", self.at.key);
        let sha256 = checksum(Sha256::of(&bytes));
        let part = self.blobs.client.upload_part().bucket(self.at.bucket).key(self.at.object).upload_id(self.id);
        let part = part.part_number(number).checksum_sha256(&sha256).body(bytes.into()).send().await;
        let part = part.map_err(|error| said(&what, &error).into_trouble(&what))?;
        let completed = CompletedPart::builder().part_number(number).checksum_sha256(sha256);
        Ok(completed.set_e_tag(part.e_tag().map(str::to_owned)).build())
    }

    /// Frees what was sent. If that fails, or if nobody is left to do it, the bucket's lifecycle does.
    async fn abort(&self) {
        let abort = self.blobs.client.abort_multipart_upload().bucket(self.at.bucket).key(self.at.object);
        if let Err(error) = abort.upload_id(self.id).send().await
            && let Said::Trouble(error) = said("aborting an upload", &error)
        {
            tracing::debug!(key = self.at.key, %error, "an upload in parts was not aborted");
        }
    }
}

/// Reads a file part by part, and tells at its end if it is not what it was.
struct Parts<'a> {
    path: &'a Path,
    file: File,
    /// Of a part, bytes.
    size: u64,
    left: u64,
    number: i32,
    hasher: sha2::Sha256,
    expected: Sha256,
}

impl Parts<'_> {
    async fn next(&mut self) -> PortResult<Option<(i32, Bytes)>> {
        let mut bytes = vec![0; self.size.min(self.left) as usize];
        if bytes.is_empty() {
            return self.end().await.map(|()| None);
        }
        self.file.read_exact(&mut bytes).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.changed(),
            _ => PortError::io(self.path.display(), &error),
        })?;
        self.hasher.update(&bytes);
        self.left -= bytes.len() as u64;
        self.number += 1;
        Ok(Some((self.number, bytes.into())))
    }

    async fn end(&mut self) -> PortResult<()> {
        let more = self.file.read(&mut [0]).await.map_err(|error| PortError::io(self.path.display(), &error))?;
        let found = Sha256(std::mem::take(&mut self.hasher).finalize().into());
        if more > 0 || found != self.expected { Err(self.changed()) } else { Ok(()) }
    }

    fn changed(&self) -> PortError {
        PortError::permanent(format!("{} changed while it was stored", self.path.display()))
    }
}

async fn digest(path: &Path) -> PortResult<Sha256> {
    let here = |error: std::io::Error| PortError::io(path.display(), &error);
    let mut file = File::open(path).await.map_err(here)?;
    let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).await.map_err(here)?;
        if read == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// 20 ms, doubling.
async fn rest(turn: u32) {
    tokio::time::sleep(Duration::from_millis(20 << turn)).await;
}

/// An error of a put, of which an earlier try may have been done.
fn judged(error: PortError, is_open: bool) -> PortError {
    PortError::new(error.kind(), error.may_have_happened() || is_open, error.message())
}

fn taken(what: &str) -> PortError {
    let text = format!("{what}: others kept putting or deleting the same key");
    PortError::new(ErrorKind::Transient { after: Millis(500) }, false, text)
}
