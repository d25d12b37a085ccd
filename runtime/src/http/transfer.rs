//! Blobs' bytes through the server. An upload is gathered (in memory if it is small, else in the spool), checked against the digest its
//! sender gave, and only then handed to the port; a download is read piece by piece as the client takes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Extension, Query, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use push0_core::Sha256;
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::auth::{Caller, Role};
use super::server::{Shared, failure, json, refusal};
use super::wire::{BlobQuery, Failure, RECEIPT, SHA256, SIZE, WRITER};
use super::worker_call::WorkerCall;
use crate::port::{BlobInfo, Blobs, PortError, PortResult, PutOutcome};

/// Larger uploads go through the spool, and are stored by a thread that may block.
const IN_MEMORY: u64 = 1 << 20;

/// Bytes of one piece of a download.
const PIECE: u64 = 1 << 20;

/// The slowest an upload may be, bytes a second, before it is given up.
const SLOWEST: u64 = 16 * 1024;

const SUFFIX: &str = "upload";

pub(super) fn prepare_spool(spool: &Path) -> PortResult<()> {
    let failed = |error: std::io::Error| PortError::io(spool.display(), &error);
    std::fs::create_dir_all(spool).map_err(failed)?;
    for entry in std::fs::read_dir(spool).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX) {
            std::fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

pub(super) async fn upload(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<BlobQuery>,
    request: Request,
) -> Response {
    match store_upload(&shared, &caller, query, request).await {
        Ok(outcome @ PutOutcome::Created(_)) => json(StatusCode::CREATED, &outcome),
        Ok(outcome @ PutOutcome::Exists(_)) => json(StatusCode::PRECONDITION_FAILED, &outcome),
        Err(error) => refusal(error),
    }
}

async fn store_upload(shared: &Shared, caller: &Caller, query: BlobQuery, request: Request) -> PortResult<PutOutcome> {
    let BlobQuery { key, writer, .. } = query;
    caller.role.may_write(&key)?;
    crate::engine::check_blob_key(&key)?;
    let writer = writer.ok_or_else(|| PortError::permanent("who writes this? a put needs a writer"))?;
    if let Some(worker) = WorkerCall::new(&*shared.ports.queue, &shared.seal, caller, None) {
        let receipt: String = header(request.headers(), RECEIPT).unwrap_or_default();
        worker.check_artifact(&key, &writer, &receipt)?;
    }
    let expected: Sha256 = header(request.headers(), SHA256)
        .ok_or_else(|| PortError::permanent(format!("a put needs the SHA-256 of its bytes in {SHA256}")))?;
    let announced: Option<u64> = header(request.headers(), CONTENT_LENGTH.as_str());
    let limit = shared.config.blob_limit;
    if announced.is_some_and(|size| size > limit) {
        return Err(too_large(limit));
    }
    let mut bytes = Incoming {
        stream: request.into_body().into_data_stream(),
        hasher: sha2::Sha256::new(),
        size: 0,
        limit,
        stalled_after: shared.config.stalled_after,
        until: Instant::now() + shared.config.stalled_after + Duration::from_secs(announced.unwrap_or(limit) / SLOWEST),
    };
    let blobs = shared.ports.blobs.clone();
    if announced.is_some_and(|size| size <= IN_MEMORY) {
        let mut whole = BytesMut::new();
        while let Some(piece) = bytes.next().await? {
            whole.extend_from_slice(&piece);
        }
        bytes.check(expected)?;
        return blobs.put_new(&key, whole.freeze(), &writer).await;
    }
    let spooled = Spooled::new(&shared.config.spool);
    spooled.fill(&mut bytes).await?;
    bytes.check(expected)?;
    let runtime = tokio::runtime::Handle::current();
    let storing = move || runtime.block_on(blobs.put_file(&key, &spooled.path, &writer));
    tokio::task::spawn_blocking(storing)
        .await
        .unwrap_or_else(|error| Err(PortError::unknown(format!("storing an upload: {error}"))))
}

fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: u64) -> PortError {
    PortError::permanent(format!("a blob is at most {limit} bytes"))
}

/// An upload as it arrives.
struct Incoming {
    stream: BodyDataStream,
    hasher: sha2::Sha256,
    size: u64,
    limit: u64,
    stalled_after: Duration,
    /// However steadily it crawls.
    until: Instant,
}

impl Incoming {
    async fn next(&mut self) -> PortResult<Option<Bytes>> {
        let until = self.until.min(Instant::now() + self.stalled_after);
        let piece = match tokio::time::timeout_at(until, self.stream.next()).await {
            Err(_) => return Err(PortError::transient("the upload stalled")),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(PortError::transient(format!("the upload broke off: {error}"))),
            Ok(Some(Ok(piece))) => piece,
        };
        self.size += piece.len() as u64;
        if self.size > self.limit {
            return Err(too_large(self.limit));
        }
        self.hasher.update(&piece);
        Ok(Some(piece))
    }

    fn check(self, expected: Sha256) -> PortResult<()> {
        let found = Sha256(self.hasher.finalize().into());
        if found != expected {
            return Err(PortError::transient(format!("the upload arrived with SHA-256 {found} instead of {expected}")));
        }
        Ok(())
    }
}

/// A file in the spool, gone when this is.
struct Spooled {
    path: PathBuf,
}

impl Spooled {
    fn new(spool: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { path: spool.join(format!("{}-{number}.{SUFFIX}", std::process::id())) }
    }

    async fn fill(&self, bytes: &mut Incoming) -> PortResult<()> {
        let failed = |error: std::io::Error| PortError::io(self.path.display(), &error);
        let mut file = tokio::fs::File::create_new(&self.path).await.map_err(failed)?;
        while let Some(piece) = bytes.next().await? {
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn download(
    State(shared): State<Arc<Shared>>,
    Extension(role): Extension<Role>,
    Query(query): Query<BlobQuery>,
) -> Response {
    let found = async {
        role.may_read(&query.key)?;
        shared.ports.blobs.head(&query.key).await
    };
    match found.await {
        Ok(Some(info)) => send_blob(shared.ports.blobs.clone(), info, query.offset, query.length),
        Ok(None) => failure(&Failure::absent(&query.key)),
        Err(error) => refusal(error),
    }
}

fn send_blob(blobs: Arc<dyn Blobs>, info: BlobInfo, offset: Option<u64>, length: Option<u64>) -> Response {
    let start = offset.unwrap_or(0).min(info.size);
    let end = start.saturating_add(length.unwrap_or(u64::MAX)).min(info.size);
    let key = info.key.clone();
    let pieces = stream::try_unfold(start, move |at| {
        let (blobs, key) = (blobs.clone(), key.clone());
        async move {
            if at >= end {
                return Ok(None);
            }
            let piece = blobs.get_range(&key, at, PIECE.min(end - at)).await.map_err(std::io::Error::other)?;
            match piece.filter(|piece| !piece.is_empty()) {
                Some(piece) => {
                    let next = at + piece.len() as u64;
                    Ok(Some((piece, next)))
                }
                None => Err(std::io::Error::other("the blob was deleted meanwhile")),
            }
        }
    });
    let response = Response::builder()
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, end - start)
        .header(SHA256, info.sha256.to_string())
        .header(SIZE, info.size)
        .header(WRITER, hex::encode(&info.writer))
        .body(Body::from_stream(pieces));
    response.unwrap_or_else(|error| refusal(PortError::permanent(format!("headers of {}: {error}", info.key))))
}
