//! What a prover is to the worker: something that gets ready for a task and proves it.
//!
//! [`Prover`] is the seam. The real ones run child processes over files ([`Provers`]); a simulator or a test scripts its own, with
//! everything in memory. Dropping a future of either method kills what it drives: that is how the worker ends a hung prover.

mod answer;
mod exec;
mod executable;
mod memory;
mod onlooker;
mod process;
mod rig;
mod session;
mod warm;
#[doc(hidden)]
pub mod words;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::message::{FailureKind, TaskMessage};
use push0_core::record::{Verdict, clip_error};
use push0_core::{BlockHash, Millis, Sha256};
use push0_runtime::port::Clock;
use sha2::Digest as _;
use tokio::sync::watch;

use crate::lease::{End, Held, Leases};

pub use executable::{EXECUTABLE, digest as executable_digest};
pub use onlooker::{Onlooker, Seen};
pub(crate) use process::VISIBLE_DEVICES;
pub use process::{Launcher, find_program};
pub use rig::Rig;
pub use warm::Provers;

#[async_trait]
pub trait Prover: Send {
    /// Makes sure that the task can be started at once: a session is up and offers what the task wants. Bounded by the worker's start
    /// limit, not by the stage's.
    async fn ready(&mut self, _task: &TaskMessage) -> Result<(), Failure> {
        Ok(())
    }

    /// Proves the task. Returns soon after `watch` says that it was cancelled; what it returns then does not matter.
    async fn prove(&mut self, job: &Job, watch: &Watch) -> Outcome;

    /// Whether the prover of this task says that it is alive; the progress bound holds only for one that does.
    fn shows_progress(&self, _task: &TaskMessage) -> bool {
        true
    }

    /// The end of its log, for the message about a prover that was killed.
    fn last_words(&self) -> String {
        String::new()
    }
}

/// A task with its inputs at hand.
#[derive(Debug, Clone)]
pub struct Job {
    pub task: TaskMessage,
    /// In the order of `task.inputs`, each with the digest named there; of a batch's `split` also what its manifest names.
    pub inputs: Vec<Data>,
    /// Where the prover may write: absent where everything is in memory.
    pub dir: Option<PathBuf>,
}

/// Bytes, wherever they are.
#[derive(Debug, Clone)]
pub enum Data {
    File(PathBuf),
    Memory(Bytes),
}

impl Data {
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Data::File(path) => Some(path),
            Data::Memory(_) => None,
        }
    }

    /// SHA-256, read on a thread of its own where it is a file.
    pub(crate) async fn digest(&self) -> std::io::Result<Sha256> {
        match self {
            Data::Memory(bytes) => Ok(Sha256::of(bytes)),
            Data::File(path) => {
                let path = path.clone();
                let hashed = tokio::task::spawn_blocking(move || digest_of_file(&path));
                hashed.await.map_err(std::io::Error::other)?
            }
        }
    }
}

/// SHA-256 of a file, read in pieces.
pub(crate) fn digest_of_file(path: &Path) -> std::io::Result<Sha256> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Sha256(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// How a run of a prover ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    Done(Output),
    Failed(Failure),
}

/// What a prover made.
#[derive(Debug, Clone)]
pub enum Output {
    /// `map`, `join`, `single`.
    Artifact(Data),
    /// `split`: 1 to 100,000 segments, in order.
    Split { segments: Vec<Data>, header: Data, hash: BlockHash, parent_hash: Option<BlockHash> },
    /// `verify`.
    Verdict { verdict: Verdict, message: Option<String>, outputs: Option<Sha256> },
}

/// Why a task was not done, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// `bad_input`: positions among the task's inputs.
    pub children: Vec<u32>,
}

impl Failure {
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Retryable, message, Vec::new())
    }

    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Permanent, message, Vec::new())
    }

    pub fn out_of_memory(message: impl Into<String>) -> Self {
        Self::new(FailureKind::OutOfMemory, message, Vec::new())
    }

    pub fn bad_input(children: Vec<u32>, message: impl Into<String>) -> Self {
        Self::new(FailureKind::BadInput, message, children)
    }

    fn new(kind: FailureKind, message: impl Into<String>, children: Vec<u32>) -> Self {
        Self { kind, message: clip_error(&message.into()), children }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Outcome::Failed(failure)
    }
}

/// What a running prover is told and tells: whether it is to stop, and that it is alive.
pub struct Watch {
    pub(crate) held: Held,
    clock: Arc<dyn Clock>,
    begun: watch::Sender<Option<Begun>>,
    /// The last sign of life, milliseconds since the epoch.
    alive: AtomicU64,
    /// How much of the task the prover last said was done, and when.
    done: Mutex<Option<(f64, Millis)>>,
}

/// When the prover was given the task, and what bounds its run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) at: Millis,
    pub(crate) time_limit: Millis,
    pub(crate) progress_limit: Option<Millis>,
}

impl Watch {
    pub(crate) fn new(held: Held, clock: Arc<dyn Clock>) -> Self {
        Self { held, clock, begun: watch::Sender::new(None), alive: AtomicU64::new(0), done: Mutex::default() }
    }

    /// A watch for a run that no message stands behind; [`Watch::cancel`] is all that ends it.
    pub(crate) fn detached(clock: Arc<dyn Clock>) -> Self {
        Self::new(Leases::new(Millis::from_secs(60)).hold("", ""), clock)
    }

    /// Ends the run from outside: the prover is told to stop.
    pub(crate) fn cancel(&self) {
        self.held.end(End::Stopped);
    }

    /// Completes when the task is to stop.
    pub async fn cancelled(&self) {
        self.held.until_ended().await;
    }

    /// The prover made progress.
    pub fn progressed(&self) {
        self.alive.store(self.clock.now().0, Ordering::Relaxed);
    }

    /// The prover made progress, and says how much of the whole is done.
    pub(crate) fn progressed_to(&self, fraction: Option<f64>) {
        self.progressed();
        if let Some(fraction) = fraction {
            *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some((fraction, self.clock.now()));
        }
    }

    /// What the prover last said of the fraction that is done, and when it said so.
    pub(crate) fn done(&self) -> Option<(f64, Millis)> {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn begin(&self, time_limit: Millis, progress_limit: Option<Millis>) {
        self.progressed();
        self.begun.send_replace(Some(Begun { at: self.clock.now(), time_limit, progress_limit }));
    }

    pub(crate) fn begun(&self) -> Option<Begun> {
        *self.begun.borrow()
    }

    pub(crate) async fn until_begun(&self) {
        // The sender is borrowed: this cannot fail.
        let _ = self.begun.subscribe().wait_for(Option::is_some).await;
    }

    /// When the run ends by its limits divided by `part`: it moves with every sign of life. `None` before the run has begun.
    pub(crate) fn deadline(&self, part: u64) -> Option<Millis> {
        let begun = self.begun()?;
        let by_time = begun.at.plus(Millis(begun.time_limit.0 / part));
        let alive = Millis(self.alive.load(Ordering::Relaxed));
        let by_progress = begun.progress_limit.map(|limit| alive.plus(Millis(limit.0 / part)));
        Some(by_progress.map_or(by_time, |at| at.min(by_time)))
    }
}
