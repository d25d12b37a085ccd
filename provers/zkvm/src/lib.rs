//! Payments blocks (`docs/rollup.md`) in a zkVM: the stages of a prover, whatever zkVM runs the guest.
//!
//! Who has a zkVM implements [`Zkvm`] for it: execute, prove, lift, join, and what a receipt must satisfy. [`Stages`] makes of that the
//! stages `split`, `prove`, `lift`, `join` and `verify` of the prover protocol: it binds the witness and the header to the task's block,
//! verifies each receipt before anything is done with it, names bad inputs, and at the end believes only the journal. `provers/risc0` is
//! RISC Zero's; this crate's tests have one without proofs, whose guest is the same C, compiled for the host.

mod artifact;
pub mod guest;
mod stages;

use std::ops::RangeInclusive;

use push0_prover::{Failure, Hello, Task, TaskResult};

pub use artifact::{Artifact, Shape, Unreadable};
pub use stages::{CHECKS_PARAM, SEGMENT_PO2_PARAM, Stages, execute};

/// What is written to a file between stages, in the zkVM's own encoding.
pub trait Payload: Sized {
    fn encode(&self) -> Result<Vec<u8>, String>;

    /// Bytes may come from anybody: an error for what was not written by [`Payload::encode`], and no more memory than they are long.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// What executing the guest gave.
pub struct Execution<S> {
    /// The guest's exit code: 0 for a block that it accepts (`guest::refusal`).
    pub exit_code: u32,
    /// The trace, cut; there is at least one.
    pub segments: Vec<S>,
    pub journal: Vec<u8>,
    /// Instructions of the guest; each segment has some cycles more, for kernel, paging, and up to the next power of two.
    pub user_cycles: u64,
}

/// A zkVM with the guest in it. Errors that another try may not have are `retryable`, memory that did not suffice is `out_of_memory`.
pub trait Zkvm {
    /// A piece of an execution's trace, to be proven.
    type Segment: Payload;
    /// A proof of one segment.
    type SegmentReceipt: Payload;
    /// A recursive proof: of a lifted segment receipt, or of two neighbours joined.
    type Receipt: Payload;

    /// The binary logarithm of a segment's cycles: what the circuits can take.
    const SEGMENT_PO2: RangeInclusive<u32>;
    /// Where the pipeline does not say.
    const DEFAULT_SEGMENT_PO2: u32;

    /// Who this is, with the digests that pipelines pin. The stages are added by [`Stages`].
    fn hello(&self) -> Hello;

    /// Runs the guest on `input`, in segments of at most 2^`po2` cycles. An `Err` is an execution that did not come to its own end.
    fn execute(&self, input: &[u8], po2: u32) -> Result<Execution<Self::Segment>, Failure>;

    fn prove(&mut self, segment: &Self::Segment) -> Result<Self::SegmentReceipt, Failure>;

    fn lift(&mut self, receipt: &Self::SegmentReceipt) -> Result<Self::Receipt, Failure>;

    /// One proof of two neighbours; [`Zkvm::meet`] holds of them.
    fn join(&mut self, left: &Self::Receipt, right: &Self::Receipt) -> Result<Self::Receipt, Failure>;

    /// Whether the right one begins where the left one ends.
    fn meet(&self, left: &Self::Receipt, right: &Self::Receipt) -> bool;

    /// Verifies a segment's proof; why not, if so.
    fn verify_segment(&self, receipt: &Self::SegmentReceipt) -> Result<(), String>;

    /// Verifies a lifted or joined receipt, of whatever it states; why not, if so.
    fn verify(&self, receipt: &Self::Receipt) -> Result<(), String>;

    /// Whether a receipt states that the pinned program ran from its beginning to a normal end and left this journal.
    fn is_whole_run(&self, receipt: &Self::Receipt, journal: &[u8]) -> bool;

    /// Runs a stage of this zkVM alone; `None`: it has no such stage.
    fn other_stage(&mut self, task: &Task) -> Option<Result<TaskResult, Failure>> {
        let _ = task;
        None
    }
}

#[cfg(test)]
mod tests;
