//! The stages: `split`, `prove`, `lift`, `join`, `verify`. `groth16` is known by name and refused: see [`Risc0::groth16`].

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;

use push0_prover::{Ctx, Failure, Hello, Kind, Prover, Task, TaskResult, Verdict, hello};
use push0_rollup::block::{Header, Witness};
use push0_rollup::statement::Statement;
use risc0_binfmt::Digestible;
use risc0_zkvm::sha::Impl;
use risc0_zkvm::{
    Digest, ExecutorEnv, ExecutorImpl, ExitCode, NullSegmentRef, ProverOpts, ProverServer, ReceiptClaim, Segment,
    SegmentReceipt, SuccinctReceipt, VerifierContext, get_prover_server,
};
use sha2::{Digest as _, Sha256};

use crate::artifact::{Artifact, Payload};
use crate::guest::{self, Checks, Journal};

/// `split`: the binary logarithm of a segment's cycles, [`SEGMENT_PO2`].
pub const SEGMENT_PO2_PARAM: &str = "segment_po2";
/// `split` and `verify`: how much of the block is checked, `state` if left out. `verify` refuses a proof of anything else.
pub const CHECKS_PARAM: &str = "checks";

/// Cycles of a segment that the circuits have lift programs for, 2^14 to 2^22; below 2^16 kernel and paging leave no room for the program.
const SEGMENT_PO2: std::ops::RangeInclusive<u64> = 16..=22;
const DEFAULT_SEGMENT_PO2: u64 = 20;

type Lifted = SuccinctReceipt<ReceiptClaim>;

/// The prover, with what it needs from the first task on.
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

impl Prover for Risc0 {
    fn hello(&self) -> Hello {
        let mut offer = hello("push0-prover-risc0", env!("CARGO_PKG_VERSION"))
            .stage("split", Kind::Split)
            .stage("prove", Kind::Map)
            .stage("lift", Kind::Map)
            .stage("join", Kind::Join)
            .stage("verify", Kind::Verify)
            .program("guest-elf", &hex::encode(Sha256::digest(guest::ELF)))
            .program("image-id", &self.image_id.to_string());
        if cfg!(feature = "cuda") {
            offer.device = "cuda".to_owned();
        }
        offer
    }

    fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        ctx.check()?;
        match task.stage.as_str() {
            "split" => split(task),
            "prove" => self.prove(task),
            "lift" => self.lift(task),
            "join" => self.join(task),
            "verify" => self.verify(task),
            "groth16" => Err(Self::groth16()),
            other => {
                Err(Failure::permanent(format!("no stage {other}: there are split, prove, lift, join and verify")))
            }
        }
    }
}

/// Executes the block and cuts the trace; how many segments there are is known only now.
fn split(task: &Task) -> Result<TaskResult, Failure> {
    let [input] = inputs(task)?;
    let (checks, po2) = (checks(task)?, segment_po2(task)?);
    let witness =
        Witness::from_bytes(&read(input)?).map_err(|error| Failure::permanent(format!("the witness: {error}")))?;
    let header = &witness.header;
    let (chain, number) = (&task.block.chain, task.block.number);
    if !chain.is_empty() && (*chain != header.chain || number != header.number) {
        let message = format!("the witness is of block {} of {}, not {number} of {chain}", header.number, header.chain);
        return Err(Failure::permanent(message));
    }
    let Execution { segments, journal, .. } = execute(&guest::input(&witness, checks), po2)?;
    let directory = task.output.join("segments");
    fs::create_dir_all(&directory).map_err(|error| io_failure(&directory, &error))?;
    let count = segments.len() as u32;
    for (at, payload) in segments.into_iter().enumerate() {
        write(&directory.join(format!("{at:06}")), &Artifact { journal: journal.clone(), payload })?;
    }
    let path = task.output.join("header");
    fs::write(&path, header.to_bytes()).map_err(|error| io_failure(&path, &error))?;
    Ok(TaskResult::split(count, hex::encode(header.hash()), Some(hex::encode(header.parent_hash))))
}

/// What executing a block gives.
pub struct Execution {
    pub segments: Vec<Segment>,
    pub journal: Vec<u8>,
    /// Instructions of the guest; each segment has some cycles more, for the kernel, paging, and up to the next power of two.
    pub user_cycles: u64,
}

/// Runs the guest on `input`, in segments of at most 2^`po2` cycles. A block that the guest refuses has no proof.
pub fn execute(input: &[u8], po2: u32) -> Result<Execution, Failure> {
    let failed = |error: anyhow::Error| Failure::permanent(format!("the execution failed: {error:#}"));
    let env = ExecutorEnv::builder().write_slice(input).segment_limit_po2(po2).build().map_err(failed)?;
    let mut segments = Vec::new();
    let session = ExecutorImpl::from_elf(env, &guest::program())
        .and_then(|mut executor| {
            executor.run_with_callback(|segment| {
                segments.push(segment);
                Ok(Box::new(NullSegmentRef))
            })
        })
        .map_err(failed)?;
    match (session.exit_code, session.journal) {
        (ExitCode::Halted(0), Some(journal)) => {
            Ok(Execution { segments, journal: journal.bytes, user_cycles: session.user_cycles })
        }
        (ExitCode::Halted(code), _) => {
            Err(Failure::permanent(format!("the guest refuses the block: {}", guest::refusal(code))))
        }
        (other, _) => Err(Failure::permanent(format!("the execution ended with {other:?}"))),
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

    fn prove(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let Artifact { journal, payload: segment } = artifact::<Segment>(0, input)?;
        // The receipt is verified there, too.
        let receipt = self.server()?.prove_segment(&self.verifier, &segment).map_err(failure)?;
        write(&task.output, &Artifact { journal, payload: receipt })?;
        Ok(TaskResult::default())
    }

    fn lift(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let Artifact { journal, payload: receipt } = artifact::<SegmentReceipt>(0, input)?;
        receipt
            .verify_integrity_with_context(&self.verifier)
            .map_err(|error| Failure::bad_input([0], format!("input 0 does not verify: {error}")))?;
        let lifted = self.server()?.lift(&receipt).map_err(failure)?;
        self.deliver(task, journal, lifted)
    }

    /// One proof of two neighbours, each of them lifted or joined.
    fn join(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let [left, right] = inputs(task)?;
        let (left, right) = match (self.succinct(0, left), self.succinct(1, right)) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(one), Err(two)) if !one.children.is_empty() && !two.children.is_empty() => {
                return Err(Failure::bad_input([0, 1], format!("{}; {}", one.message, two.message)));
            }
            (Err(failure), _) | (_, Err(failure)) => return Err(failure),
        };
        let ends = left.payload.claim.as_value().map(|claim| claim.post.digest::<Impl>());
        let begins = right.payload.claim.as_value().map(|claim| claim.pre.digest::<Impl>());
        match (ends, begins) {
            (Ok(ends), Ok(begins)) if ends == begins && left.journal == right.journal => {}
            _ => {
                let message = "the right receipt does not begin where the left one ends: a gap, or the wrong order";
                return Err(Failure::bad_input([0, 1], message));
            }
        }
        let joined = self.server()?.join(&left.payload, &right.payload).map_err(failure)?;
        self.deliver(task, left.journal, joined)
    }

    fn verify(&self, task: &Task) -> Result<TaskResult, Failure> {
        let [root, header] = inputs(task)?;
        let checks = checks(task)?;
        let bad_block = |message: String| Ok(TaskResult::verdict(Verdict::BadBlock, message));
        let header = match Header::from_bytes(&read(header)?) {
            Ok(header) => header,
            Err(error) => return bad_block(format!("the header: {error}")),
        };
        let (block, hash) = (&task.block, hex::encode(header.hash()));
        if hash != block.hash || header.chain != block.chain || header.number != block.number {
            return bad_block(format!(
                "the header is of block {} of {} with hash {hash}, not {} of {} with hash {}",
                header.number, header.chain, block.number, block.chain, block.hash
            ));
        }
        if let Some(contradiction) = header.contradiction() {
            return bad_block(contradiction.to_owned());
        }
        match self.verify_root(&read(root)?, &header, checks) {
            // The rollup's prover states the same, where the roots were checked: a quorum of both compares them.
            Ok(()) if checks == Checks::State => {
                Ok(TaskResult::verdict(Verdict::Ok, "").stating(Statement::of_block(&header).outputs()))
            }
            Ok(()) => Ok(TaskResult::verdict(Verdict::Ok, "")),
            Err(message) => Ok(TaskResult::verdict(Verdict::BadProof, message)),
        }
    }

    /// Why a root does not prove the block, if so: it must be of the pinned program, run from its beginning to its end, with a journal that
    /// is of this header.
    pub fn verify_root(&self, root: &[u8], header: &Header, checks: Checks) -> Result<(), String> {
        let root = Artifact::<Lifted>::from_bytes(root).map_err(|error| format!("not a root: {error}"))?;
        let journal = Journal::from_bytes(&root.journal).map_err(|error| format!("the journal: {error}"))?;
        if let Some(difference) = journal.difference(header, checks) {
            return Err(difference);
        }
        // Believed is only what is computed here: the pinned image, this journal, a normal end.
        let claim = ReceiptClaim::ok(self.image_id, root.journal).digest::<Impl>();
        if root.payload.claim.digest::<Impl>() != claim {
            return Err("the receipt is of another program or journal, or of a part of the execution".to_owned());
        }
        root.payload
            .verify_integrity_with_context(&self.verifier)
            .map_err(|error| format!("the receipt does not verify: {error}"))
    }

    /// Wrapping the root for an Ethereum contract takes RISC Zero's `stark_verify` witness generator and a Groth16 prover, which come as a
    /// container image or with CUDA: neither has been tried with push0.
    fn groth16() -> Failure {
        Failure::permanent("groth16 is unavailable: this prover has no tools for it (docs/risc0.md)")
    }

    /// Reads and verifies the receipt at input `at`.
    fn succinct(&self, at: u32, path: &Path) -> Result<Artifact<Lifted>, Failure> {
        let artifact = artifact::<Lifted>(at, path)?;
        artifact
            .payload
            .verify_integrity_with_context(&self.verifier)
            .map_err(|error| Failure::bad_input([at], format!("input {at} does not verify: {error}")))?;
        Ok(artifact)
    }

    /// Writes a receipt, if it verifies: a machine that miscalculates must not cost others their time.
    fn deliver(&self, task: &Task, journal: Vec<u8>, payload: Lifted) -> Result<TaskResult, Failure> {
        payload
            .verify_integrity_with_context(&self.verifier)
            .map_err(|error| Failure::retryable(format!("the receipt just made does not verify: {error}")))?;
        write(&task.output, &Artifact { journal, payload })?;
        Ok(TaskResult::default())
    }
}

fn checks(task: &Task) -> Result<Checks, Failure> {
    match task.params.get(CHECKS_PARAM) {
        None => Ok(Checks::State),
        Some(value) => value
            .as_str()
            .and_then(Checks::named)
            .ok_or_else(|| Failure::permanent(format!("{CHECKS_PARAM} = {value}: it is \"transfers\" or \"state\""))),
    }
}

fn segment_po2(task: &Task) -> Result<u32, Failure> {
    let po2 = match task.params.get(SEGMENT_PO2_PARAM) {
        None => Some(DEFAULT_SEGMENT_PO2),
        Some(value) => value.as_u64().filter(|po2| SEGMENT_PO2.contains(po2)),
    };
    po2.map(|po2| po2 as u32).ok_or_else(|| {
        let (least, most) = (SEGMENT_PO2.start(), SEGMENT_PO2.end());
        Failure::permanent(format!("{SEGMENT_PO2_PARAM} is a whole number from {least} to {most}"))
    })
}

/// The task's inputs, if there are as many as the stage takes.
fn inputs<const N: usize>(task: &Task) -> Result<[&Path; N], Failure> {
    let inputs: Vec<&Path> = task.inputs.iter().map(AsRef::as_ref).collect();
    let given = inputs.len();
    inputs.try_into().map_err(|_| Failure::permanent(format!("{} takes {N} inputs, not {given}", task.stage)))
}

fn artifact<P: Payload>(at: u32, path: &Path) -> Result<Artifact<P>, Failure> {
    Artifact::from_bytes(&read(path)?).map_err(|error| Failure::bad_input([at], format!("input {at}: {error}")))
}

/// RISC Zero's errors do not say whether another try would do, but a device's say that memory did not suffice.
fn failure(error: anyhow::Error) -> Failure {
    let message = format!("{error:#}");
    match message.to_lowercase().contains("out of memory") {
        true => Failure::out_of_memory(message),
        false => Failure::retryable(message),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| io_failure(path, &error))
}

fn write<P: Payload>(path: &Path, artifact: &Artifact<P>) -> Result<(), Failure> {
    let bytes = artifact.to_bytes().map_err(Failure::retryable)?;
    fs::write(path, bytes).map_err(|error| io_failure(path, &error))
}

fn io_failure(path: &Path, error: &std::io::Error) -> Failure {
    let hint = if error.kind() == ErrorKind::StorageFull { " (the disk is full)" } else { "" };
    Failure::retryable(format!("{}: {error}{hint}", path.display()))
}
