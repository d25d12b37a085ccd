//! RISC Zero below the stages that every zkVM has (`push0_zkvm`). `groth16` is known by name and refused: see [`Risc0::groth16`].

use std::ops::RangeInclusive;
use std::rc::Rc;

use push0_prover::{Failure, Hello, Task, TaskResult, hello};
use push0_zkvm::{Execution, Payload, Zkvm};
use risc0_binfmt::Digestible;
use risc0_zkvm::sha::Impl;
use risc0_zkvm::{
    Digest, ExecutorEnv, ExecutorImpl, ExitCode, NullSegmentRef, ProverOpts, ProverServer, ReceiptClaim, Segment,
    SegmentReceipt, SuccinctReceipt, VerifierContext, get_prover_server,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::guest;

/// The zkVM, with what it needs from the first proof on.
pub struct Risc0 {
    image_id: Digest,
    server: Option<Rc<dyn ProverServer>>,
    verifier: VerifierContext,
}

impl Default for Risc0 {
    fn default() -> Self {
        Self { image_id: guest::image_id(), server: None, verifier: VerifierContext::default() }
    }
}

/// One of RISC Zero's own types, as bincode.
pub struct Bincode<T>(pub T);

impl<T: Serialize + DeserializeOwned> Payload for Bincode<T> {
    fn encode(&self) -> Result<Vec<u8>, String> {
        bincode::serialize(&self.0).map_err(|error| error.to_string())
    }

    /// Lengths inside are believed only as far as there are bytes: a damaged one must not reserve memory for its claim.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let options = bincode::Options::with_fixint_encoding(bincode::DefaultOptions::new());
        let options = bincode::Options::with_limit(options, bytes.len() as u64);
        bincode::Options::deserialize(options, bytes).map(Self).map_err(|error| error.to_string())
    }
}

impl Zkvm for Risc0 {
    type Segment = Bincode<Segment>;
    type SegmentReceipt = Bincode<SegmentReceipt>;
    type Receipt = Bincode<SuccinctReceipt<ReceiptClaim>>;

    /// There are lift programs for 2^14 to 2^22 cycles; below 2^16 kernel and paging leave no room for the program.
    const SEGMENT_PO2: RangeInclusive<u32> = 16..=22;
    const DEFAULT_SEGMENT_PO2: u32 = 20;

    fn hello(&self) -> Hello {
        let mut offer = hello("push0-prover-risc0", env!("CARGO_PKG_VERSION"))
            .program("guest-elf", &hex::encode(Sha256::digest(guest::ELF)))
            .program("image-id", &self.image_id.to_string());
        if cfg!(feature = "cuda") {
            offer.device = "cuda".to_owned();
        }
        offer
    }

    fn execute(&self, input: &[u8], po2: u32) -> Result<Execution<Self::Segment>, Failure> {
        let failed = |error: anyhow::Error| Failure::permanent(format!("the execution failed: {error:#}"));
        let env = ExecutorEnv::builder().write_slice(input).segment_limit_po2(po2).build().map_err(failed)?;
        let mut segments = Vec::new();
        let session = ExecutorImpl::from_elf(env, &guest::program())
            .and_then(|mut executor| {
                executor.run_with_callback(|segment| {
                    segments.push(Bincode(segment));
                    Ok(Box::new(NullSegmentRef))
                })
            })
            .map_err(failed)?;
        let ExitCode::Halted(exit_code) = session.exit_code else {
            return Err(Failure::permanent(format!("the execution ended with {:?}", session.exit_code)));
        };
        let journal = session.journal.map(|journal| journal.bytes).unwrap_or_default();
        Ok(Execution { exit_code, segments, journal, user_cycles: session.user_cycles })
    }

    fn prove(&mut self, segment: &Self::Segment) -> Result<Self::SegmentReceipt, Failure> {
        let server = self.server()?;
        server.prove_segment(&self.verifier, &segment.0).map(Bincode).map_err(failure)
    }

    fn lift(&mut self, receipt: &Self::SegmentReceipt) -> Result<Self::Receipt, Failure> {
        self.server()?.lift(&receipt.0).map(Bincode).map_err(failure)
    }

    fn join(&mut self, left: &Self::Receipt, right: &Self::Receipt) -> Result<Self::Receipt, Failure> {
        self.server()?.join(&left.0, &right.0).map(Bincode).map_err(failure)
    }

    fn meet(&self, left: &Self::Receipt, right: &Self::Receipt) -> bool {
        let ends = left.0.claim.as_value().map(|claim| claim.post.digest::<Impl>());
        let begins = right.0.claim.as_value().map(|claim| claim.pre.digest::<Impl>());
        matches!((ends, begins), (Ok(ends), Ok(begins)) if ends == begins)
    }

    fn verify_segment(&self, receipt: &Self::SegmentReceipt) -> Result<(), String> {
        receipt.0.verify_integrity_with_context(&self.verifier).map_err(|error| error.to_string())
    }

    fn verify(&self, receipt: &Self::Receipt) -> Result<(), String> {
        receipt.0.verify_integrity_with_context(&self.verifier).map_err(|error| error.to_string())
    }

    /// Believed is only what is computed here: the pinned image, this journal, a normal end.
    fn is_whole_run(&self, receipt: &Self::Receipt, journal: &[u8]) -> bool {
        let claim = ReceiptClaim::ok(self.image_id, journal.to_vec()).digest::<Impl>();
        receipt.0.claim.digest::<Impl>() == claim
    }

    fn other_stage(&mut self, task: &Task) -> Option<Result<TaskResult, Failure>> {
        (task.stage == "groth16").then(|| Err(Self::groth16()))
    }
}

impl Risc0 {
    /// One that verifies another program's proofs.
    pub fn with_image_id(image_id: Digest) -> Self {
        Self { image_id, ..Self::default() }
    }

    fn server(&mut self) -> Result<Rc<dyn ProverServer>, Failure> {
        if self.server.is_none() {
            self.server = Some(get_prover_server(&ProverOpts::succinct()).map_err(failure)?);
        }
        Ok(self.server.clone().expect("it was made just now"))
    }

    /// Wrapping the root for an Ethereum contract takes RISC Zero's `stark_verify` witness generator and a Groth16 prover, which come as a
    /// container image or with CUDA: neither has been tried with push0.
    fn groth16() -> Failure {
        Failure::permanent("groth16 is unavailable: this prover has no tools for it (docs/risc0.md)")
    }
}

/// RISC Zero's errors do not say whether another try would do, but a device's say that memory did not suffice.
fn failure(error: anyhow::Error) -> Failure {
    let message = format!("{error:#}");
    match message.to_lowercase().contains("out of memory") {
        true => Failure::out_of_memory(message),
        false => Failure::retryable(message),
    }
}
