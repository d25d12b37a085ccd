//! Getting a task's inputs, each checked against the digest the task names.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use push0_core::message::{Finding, TaskMessage};
use push0_core::pipeline::Kind;
use push0_core::record::{BatchManifest, BlobRef, MAX_BATCH_MANIFEST, Versioned as _};
use push0_core::{ErrorCode, Sha256};
use push0_runtime::port::{ErrorKind, PortError, PortResult};
use tracing::warn;

use super::{Env, Limits, Store, Turn, checked};
use crate::lease::Hold;
use crate::prover::{Data, Failure};
use crate::retry::{GaveUp, persist};

/// Inputs fetched at a time.
const DOWNLOADS: usize = 4;

/// A task's own directory: `in/0`, `in/1`, … and `out/`. Removed on drop.
pub(crate) struct TaskDir(PathBuf);

impl TaskDir {
    fn new(scratch: &Path) -> std::io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let dir = scratch.join(format!("task-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(dir.join("in"))?;
        std::fs::create_dir_all(dir.join("out"))?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TaskDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            warn!(code = %ErrorCode::ScratchUnusable, dir = %self.0.display(), %error, "could not remove a task's directory");
        }
    }
}

/// All inputs, in order.
pub(super) async fn inputs(env: &Env, task: &TaskMessage, held: &Hold) -> Result<(Vec<Data>, Option<TaskDir>), Turn> {
    let dir = match &env.store {
        Store::Memory => None,
        Store::Disk(scratch) => Some(TaskDir::new(scratch).map_err(|error| {
            let what = format!("cannot use the scratch directory {}: {error}", scratch.display());
            Turn::Failed(Failure::retryable(ErrorCode::ScratchUnusable.says(what)))
        })?),
    };
    let at = dir.as_ref().map(TaskDir::path);
    let mut fetched = all(env, task, held, 0, &task.inputs, at).await?;
    if task.expand {
        let named = named(env, task, &fetched).map_err(|why| {
            Turn::Failed(Failure::permanent(ErrorCode::WitnessDamaged.says(format!("the batch's manifest: {why}"))))
        })?;
        fetched.extend(all(env, task, held, fetched.len(), &named, at).await?);
    }
    Ok((fetched, dir))
}

/// These inputs, of which the first has position `first`.
async fn all(
    env: &Env,
    task: &TaskMessage,
    held: &Hold,
    first: usize,
    wanted: &[BlobRef],
    dir: Option<&Path>,
) -> Result<Vec<Data>, Turn> {
    stream::iter(0..wanted.len())
        .map(|position| input(env, task, held, first + position, &wanted[position], dir))
        .buffered(DOWNLOADS)
        .try_collect()
        .await
}

/// What a batch's manifest, the only input so far, names beside itself.
fn named(env: &Env, task: &TaskMessage, fetched: &[Data]) -> Result<Vec<BlobRef>, String> {
    let ([manifest], [wanted]) = (fetched, &task.inputs[..]) else {
        return Err("it should be the one input".to_owned());
    };
    if wanted.size > MAX_BATCH_MANIFEST as u64 {
        return Err(format!("it has {} bytes; at most {MAX_BATCH_MANIFEST} are possible", wanted.size));
    }
    let text = match manifest {
        Data::Memory(bytes) => String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?,
        Data::File(path) => std::fs::read_to_string(path).map_err(|error| error.to_string())?,
    };
    expand(&text, &env.limits)
}

/// The further inputs that a batch's manifest names, in order, if there are not too many.
pub fn expand(manifest: &str, limits: &Limits) -> Result<Vec<BlobRef>, String> {
    let manifest = BatchManifest::from_json(manifest).map_err(|error| error.to_string())?;
    if manifest.blocks.len() > limits.batch_blocks {
        return Err(format!("it has {} blocks; at most {} are possible", manifest.blocks.len(), limits.batch_blocks));
    }
    let inputs = manifest.inputs();
    let bytes = inputs.iter().fold(0u64, |sum, input| sum.saturating_add(input.size));
    if bytes > limits.batch_bytes {
        return Err(format!("its proofs and headers have {bytes} bytes; at most {} are possible", limits.batch_bytes));
    }
    Ok(inputs)
}

async fn input(
    env: &Env,
    task: &TaskMessage,
    held: &Hold,
    position: usize,
    wanted: &BlobRef,
    dir: Option<&Path>,
) -> Result<Data, Turn> {
    let path = dir.map(|dir| dir.join("in").join(position.to_string()));
    let fetched = match &path {
        Some(path) => persist(&*env.clock, &env.health, held, || to_file(env, &wanted.key, path)).await,
        None => persist(&*env.clock, &env.health, held, || to_memory(env, &wanted.key)).await,
    };
    let (data, found) = match fetched {
        Ok(Some(fetched)) => fetched,
        Ok(None) => {
            let message = format!("input {position} is not stored any more ({})", wanted.key);
            return Err(unusable(task, position, ErrorCode::InputMissing, message));
        }
        Err(GaveUp::Failed(error)) if error.kind() == ErrorKind::Corrupt => {
            return Err(not_what_was_pinned(task, position, wanted, ErrorCode::split(error.message()).1));
        }
        Err(gave_up) => return Err(gave_up.into()),
    };
    if found != wanted.sha256 {
        return Err(not_what_was_pinned(task, position, wanted, &format!("its SHA-256 is {found}")));
    }
    Ok(data)
}

async fn to_file(env: &Env, key: &str, path: &Path) -> PortResult<Option<(Data, Sha256)>> {
    // What a try before this one may have left.
    let _ = std::fs::remove_file(path);
    let info = match env.blobs.get_file(key, path).await {
        // Not worth holding on to the task: another worker may have room.
        Err(error) if env.scratch_is_full() => return Err(PortError::permanent(error.message())),
        fetched => fetched?,
    };
    Ok(info.map(|info| (Data::File(path.to_owned()), info.sha256)))
}

async fn to_memory(env: &Env, key: &str) -> PortResult<Option<(Data, Sha256)>> {
    let bytes = env.blobs.get(key).await?;
    Ok(bytes.map(|bytes| {
        let sha256 = Sha256::of(&bytes);
        (Data::Memory(bytes), sha256)
    }))
}

/// A child's artifact can be made again, so the child is accused; the witness cannot.
fn not_what_was_pinned(task: &TaskMessage, position: usize, wanted: &BlobRef, why: &str) -> Turn {
    let message = format!("input {position} ({}) is not the one pinned as {}: {why}", wanted.key, wanted.sha256);
    let code = match task.kind {
        Kind::Split if position > 0 => ErrorCode::ArtifactDamaged,
        Kind::Split => ErrorCode::WitnessDamaged,
        Kind::Map if wanted.key.contains("/segments/") => ErrorCode::SplitDamaged,
        Kind::Map | Kind::Join | Kind::Single | Kind::Verify => ErrorCode::ArtifactDamaged,
    };
    unusable(task, position, code, message)
}

fn unusable(task: &TaskMessage, position: usize, code: ErrorCode, message: String) -> Turn {
    let message = code.says(message);
    // What is accused in a check is its first input.
    if task.check.is_some() && position == 0 {
        return Turn::Report(checked(task, Finding::Unsound, Some(message)));
    }
    Turn::Failed(match task.kind {
        // It may be a bad read; if it is not, the attempts are soon used up.
        Kind::Split => Failure::retryable(message),
        Kind::Map | Kind::Join | Kind::Single | Kind::Verify => Failure::bad_input(vec![position as u32], message),
    })
}
