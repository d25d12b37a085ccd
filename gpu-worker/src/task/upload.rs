//! Storing what a prover made, and saying so as an event.
//!
//! A task's keys are its own, and never overwritten. Two deliveries of one task may both upload. For a single artifact the stored one
//! counts, whoever of them wrote it. `split` writes many blobs that must fit together, and a splitter need not be deterministic: if a
//! part stored earlier differs from this run's, the attempt fails, and the next has keys of its own.

use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use push0_core::ErrorCode;
use push0_core::message::{ReportEvent, TaskMessage};
use push0_core::pipeline::{Kind, MAX_SEGMENTS};
use push0_core::record::{BlobRef, MANIFEST_PAGE, Manifest, ManifestPage, Versioned as _, clip_error};
use push0_runtime::port::{PortResult, PutOutcome};

use super::{Env, Turn, blob_ref, own};
use crate::lease::Hold;
use crate::prover::{Data, Failure, Output};
use crate::retry::persist;

/// Largest header, bytes.
const MAX_HEADER: u64 = 64 * 1024;

pub(super) fn manifest_key(task: &TaskMessage) -> String {
    format!("{}/manifest", task.artifact_key())
}

pub(super) fn split_event(manifest_ref: BlobRef, manifest: Manifest) -> ReportEvent {
    ReportEvent::Split {
        manifest: manifest_ref,
        segments: manifest.segments,
        header: manifest.header,
        hash: manifest.hash,
        parent_hash: manifest.parent_hash,
    }
}

/// Stores the output; the event says what is stored.
pub(super) async fn output(env: &Env, task: &TaskMessage, held: &Hold, output: Output) -> Result<ReportEvent, Turn> {
    match (output, task.kind) {
        (Output::Artifact(data), Kind::Map | Kind::Join | Kind::Single) => {
            let uploader = Uploader { env, task, held };
            uploader.check_size(&data, env.limits.max_artifact, "artifact")?;
            let (info, _) = uploader.put(&task.artifact_key(), &data).await?;
            Ok(ReportEvent::Done { artifact: info })
        }
        (Output::Split { segments, header, hash, parent_hash }, Kind::Split) => {
            let uploader = Uploader { env, task, held };
            uploader.check_size(&header, MAX_HEADER, "header")?;
            if segments.is_empty() || segments.len() > MAX_SEGMENTS as usize {
                let message = format!("split into {} segments; 1 to {MAX_SEGMENTS} are possible", segments.len());
                return Err(Turn::Failed(Failure::permanent(ErrorCode::SegmentCount.says(message))));
            }
            let key = task.artifact_key();
            let segment_refs: Vec<BlobRef> = stream::iter(0..segments.len())
                .map(|number| uploader.part(format!("{key}/segments/{number:06}"), &segments[number]))
                .buffered(env.limits.uploads.max(1))
                .try_collect()
                .await?;
            let header = uploader.part(format!("{key}/header"), &header).await?;
            let pages = uploader.pages(&key, &segment_refs).await?;
            let manifest = Manifest { segments: segments.len() as u32, pages, header, hash, parent_hash };
            let bytes = Data::Memory(Bytes::from(manifest.to_json()));
            let manifest_ref = uploader.part(manifest_key(task), &bytes).await?;
            Ok(split_event(manifest_ref, manifest))
        }
        (Output::Verdict { verdict, message, outputs }, Kind::Verify) => match task.inputs.first() {
            Some(root) => {
                let message = message.map(|message| clip_error(&message));
                Ok(ReportEvent::Verified { verdict, root: root.sha256, message, outputs })
            }
            None => {
                let what = ErrorCode::InvariantBroken.says("a verify task without a root to verify");
                Err(Turn::Failed(Failure::permanent(what)))
            }
        },
        (_, kind) => {
            let message = format!("the prover's result is none of a {} stage", kind.as_str());
            Err(Turn::Failed(Failure::retryable(ErrorCode::ProverBrokeProtocol.says(message))))
        }
    }
}

struct Uploader<'a> {
    env: &'a Env,
    task: &'a TaskMessage,
    held: &'a Hold,
}

impl Uploader<'_> {
    /// Stores the data, or finds what an earlier delivery of this task stored; says which (true: found).
    async fn put(&self, key: &str, data: &Data) -> Result<(BlobRef, bool), Turn> {
        let writer = self.task.id.to_string();
        let put = persist(&*self.env.clock, &self.env.health, self.held, || self.put_once(key, data, &writer)).await?;
        match put {
            PutOutcome::Created(info) => Ok((blob_ref(info), false)),
            PutOutcome::Exists(info) => {
                own(self.task, &info)?;
                Ok((blob_ref(info), true))
            }
        }
    }

    async fn put_once(&self, key: &str, data: &Data, writer: &str) -> PortResult<PutOutcome> {
        match data {
            Data::File(path) => self.env.blobs.put_file(key, path, writer).await,
            Data::Memory(bytes) => self.env.blobs.put_new(key, bytes.clone(), writer).await,
        }
    }

    /// Stores one of several blobs that must fit together.
    async fn part(&self, key: String, data: &Data) -> Result<BlobRef, Turn> {
        let (stored, found) = self.put(&key, data).await?;
        if found {
            let unreadable = |error| {
                let what = ErrorCode::OutputMissing.says(format!("cannot read the output again: {error}"));
                Turn::Failed(Failure::retryable(what))
            };
            let ours = data.digest().await.map_err(unreadable)?;
            if stored.sha256 != ours {
                let message =
                    format!("an earlier run of this attempt left another {key}: the next attempt starts afresh");
                return Err(Turn::Failed(Failure::retryable(ErrorCode::SplitDiffers.says(message))));
            }
        }
        Ok(stored)
    }

    async fn pages(&self, key: &str, segments: &[BlobRef]) -> Result<Vec<BlobRef>, Turn> {
        let pages: Vec<&[BlobRef]> = segments.chunks(MANIFEST_PAGE as usize).collect();
        stream::iter(0..pages.len())
            .map(|number| self.page(key, number as u32, pages[number]))
            .buffered(self.env.limits.uploads.max(1))
            .try_collect()
            .await
    }

    async fn page(&self, key: &str, number: u32, segments: &[BlobRef]) -> Result<BlobRef, Turn> {
        let page = ManifestPage { first: number * MANIFEST_PAGE, segments: segments.to_vec() };
        let bytes = Data::Memory(Bytes::from(page.to_json()));
        self.part(format!("{key}/pages/{number:03}"), &bytes).await
    }

    fn check_size(&self, data: &Data, most: u64, what: &str) -> Result<(), Failure> {
        let size = match data {
            Data::Memory(bytes) => bytes.len() as u64,
            Data::File(path) => file_size(path)?,
        };
        if size > most {
            let message = format!("the {what} has {size} bytes; at most {most} are possible");
            return Err(Failure::permanent(ErrorCode::OutputTooLarge.says(message)));
        }
        Ok(())
    }
}

fn file_size(path: &Path) -> Result<u64, Failure> {
    let missing = |error| {
        let what = format!("the prover said done but {} is not there: {error}", path.display());
        Failure::retryable(ErrorCode::OutputMissing.says(what))
    };
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(missing)
}
