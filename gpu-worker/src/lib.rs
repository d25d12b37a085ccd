//! The worker: takes tasks from its pool's queues, runs provers on them, stores what they write, and reports.
//!
//! [`run`] is the process: slots, leases, draining. [`task`] is what happens to one task, over ports and the [`Prover`] trait alone: the
//! seam for simulators. [`shim_main`] is what a prover's process runs before it becomes the prover. See `docs/worker.md`.
//!
//! A worker trusts nothing but the task message: inputs are checked against the digests there. It is not trusted either: it cannot
//! write but under its pool's prefix, and what it reports is checked by the trusted pool.

mod config;
pub mod ec2;
pub mod gpu;
mod intake;
pub mod lease;
mod pace;
pub mod prover;
mod retry;
mod shim;
mod slot;
pub mod task;
mod worker;

pub use config::WorkerConfig;
pub use prover::{Data, Failure, Job, Outcome, Output, Prover, Rig, Watch, find_program};
pub use retry::Health;
pub use shim::shim_main;
pub use task::{Env, Limits, Proved, Settled, Store};
pub use worker::{WorkerError, run};
