//! SDK for push0 provers: write one trait, get the prover protocol (`docs/prover-protocol.md`).
//!
//! [`main`] runs a [`Prover`] in either form: as a *session* (a long-lived child that speaks newline-delimited JSON
//! on stdin and stdout) or, when the command line has `--stage`, as one *exec* task. The SDK owns stdout, reads
//! stdin on a thread of its own so that a `cancel` is seen while a task runs, and turns a panic into a `failed`
//! answer, so that one bad task does not cost the session its warm keys.
//!
//! A whole prover:
//!
//! ```no_run
//! use push0_prover::{Ctx, Failure, Kind, Prover, Task, TaskResult};
//!
//! struct Doubler;
//!
//! impl Prover for Doubler {
//!     fn hello(&self) -> push0_prover::Hello {
//!         push0_prover::hello("doubler", env!("CARGO_PKG_VERSION")).stage("double", Kind::Map)
//!     }
//!
//!     fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
//!         let input = std::fs::read(&task.inputs[0]).map_err(Failure::retryable)?;
//!         ctx.progress(0.5, "read the input");
//!         ctx.check()?; // a `cancel` ends the task here
//!         std::fs::write(&task.output, [&input[..], &input[..]].concat()).map_err(Failure::retryable)?;
//!         Ok(TaskResult::default())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     push0_prover::main(Doubler)
//! }
//! ```
//!
//! Two rules for authors: **never print to stdout** (it is the protocol's; stderr is the log, and nothing secret
//! belongs there either), and write the output file before returning.

mod exec;
pub mod files;
mod session;
pub mod wire;

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use exec::{ExecTask, exec};
pub use session::{MAX_LINE_BYTES, SessionError, serve, serve_on};
pub use wire::{BlockRef, Failure, FailureKind, Hello, Kind, StageOffer, Task, TaskResult, Verdict};

/// What an author implements. One task is run at a time.
pub trait Prover {
    /// Who this is and which stages it runs. Asked once, before the first task; it is sent when this returns, so
    /// build here what every task needs and nothing more.
    fn hello(&self) -> Hello;

    /// Runs one task: reads `task.inputs`, writes `task.output`, and answers what the stage's kind needs.
    ///
    /// A panic is caught and reported as `retryable` with its message; the session goes on with `self` as the panic
    /// left it, so keep half-changed state out of fields.
    fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure>;

    /// Checks what a stage left. Inputs: an artifact of `task.stage`, the header, and the first and the last segment that the artifact
    /// covers. Is it a proof of just those segments? Asked in the trusted pool when another prover has accused the artifact, and only
    /// where the pipeline says `check = true` for the stage. Answers [`TaskResult::verdict`]: `Ok` or `BadProof`. Verify, do not prove.
    fn check(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        let _ = ctx;
        Err(Failure::permanent(format!("this prover cannot check what stage {} leaves", task.stage)))
    }
}

/// Sends one progress message: fraction and text, both optional.
type Report = dyn Fn(Option<f64>, Option<&str>) + Send + Sync;

/// What a running task can ask and tell.
pub struct Ctx {
    cancelled: Arc<AtomicBool>,
    report: Box<Report>,
}

impl Ctx {
    /// A context that goes nowhere: for tests of a prover's `run`.
    pub fn detached() -> Self {
        Self::new(Arc::default(), |_, _| {})
    }

    fn new(cancelled: Arc<AtomicBool>, report: impl Fn(Option<f64>, Option<&str>) + Send + Sync + 'static) -> Self {
        Self { cancelled, report: Box::new(report) }
    }

    /// Whether the worker asked for this task to stop. A prover that does not stop soon is killed.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// `Err(retryable, "cancelled")` once the task is cancelled: `ctx.check()?` between steps.
    pub fn check(&self) -> Result<(), Failure> {
        if self.cancelled() { Err(Failure::retryable("cancelled")) } else { Ok(()) }
    }

    /// Tells the worker that the task is alive: `fraction` from 0 to 1, and what it is doing (may be empty).
    pub fn progress(&self, fraction: f64, message: &str) {
        let fraction = fraction.is_finite().then(|| fraction.clamp(0.0, 1.0));
        (self.report)(fraction, (!message.is_empty()).then_some(message));
    }
}

/// Starts a [`Hello`] of this protocol version on device `cpu`; add stages with [`Hello::stage`].
pub fn hello(name: &str, version: &str) -> Hello {
    Hello {
        protocol: wire::PROTOCOL_VERSION,
        name: name.to_owned(),
        version: version.to_owned(),
        stages: Vec::new(),
        programs: Default::default(),
        device: "cpu".to_owned(),
    }
}

impl Hello {
    /// Offers a stage.
    pub fn stage(mut self, name: &str, kind: Kind) -> Self {
        self.stages.push(StageOffer { name: name.to_owned(), kind });
        self
    }

    /// Names a program or verifying key with its SHA-256 (64 lower-case hex digits), which a pipeline can pin.
    pub fn program(mut self, name: &str, sha256_hex: &str) -> Self {
        self.programs.insert(name.to_owned(), sha256_hex.to_owned());
        self
    }
}

impl Failure {
    /// Try again, perhaps elsewhere.
    pub fn retryable(message: impl Display) -> Self {
        Self { kind: FailureKind::Retryable, message: message.to_string(), children: Vec::new() }
    }

    /// No prover could do this.
    pub fn permanent(message: impl Display) -> Self {
        Self { kind: FailureKind::Permanent, message: message.to_string(), children: Vec::new() }
    }

    /// Memory did not suffice, the host's or the device's. Tried again in the stage's larger pool, where the pipeline names one.
    pub fn out_of_memory(message: impl Display) -> Self {
        Self { kind: FailureKind::OutOfMemory, message: message.to_string(), children: Vec::new() }
    }

    /// Inputs number `children` (positions in `task.inputs`) are not what they should be.
    pub fn bad_input(children: impl Into<Vec<u32>>, message: impl Display) -> Self {
        Self { kind: FailureKind::BadInput, message: message.to_string(), children: children.into() }
    }
}

impl TaskResult {
    /// The result of a `split`: how many segments it wrote and the hash its header has.
    pub fn split(segments: u32, hash: String, parent_hash: Option<String>) -> Self {
        Self { segments: Some(segments), hash: Some(hash), parent_hash, ..Self::default() }
    }

    /// The result of a `verify`; `message` says why, and may be empty.
    pub fn verdict(verdict: Verdict, message: impl Display) -> Self {
        let message = message.to_string();
        Self { verdict: Some(verdict), message: (!message.is_empty()).then_some(message), ..Self::default() }
    }

    /// With the SHA-256 (64 hex digits) of what the verified proof states about the block. Where several provers prove a block, two that
    /// give different ones stop the chain: so it covers only what other provers of the same block state in the same way.
    pub fn stating(self, outputs: impl Into<String>) -> Self {
        Self { outputs: Some(outputs.into()), ..self }
    }
}

/// A prover binary's whole `main`: the exec form if the command line has `--stage`, otherwise a session.
pub fn main(prover: impl Prover) -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--stage" || arg.to_string_lossy().starts_with("--stage=")) {
        return match ExecTask::from_args(args) {
            Ok(task) => exec(prover, task),
            Err(message) => {
                eprintln!("{message}");
                ExitCode::from(exec::EXIT_USAGE)
            }
        };
    }
    serve(prover)
}
