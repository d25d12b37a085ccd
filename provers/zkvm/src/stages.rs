//! The stages over a [`Zkvm`]: `split`, `prove`, `lift`, `join`, `verify`.

use std::path::Path;

use push0_prover::files::{inputs, read, write};
use push0_prover::{Ctx, Failure, Hello, Kind, Prover, Task, TaskResult, Verdict};
use push0_rollup::block::{Header, Witness};
use push0_rollup::prover::block;
use push0_rollup::statement::Statement;

use crate::guest::{self, Checks, Journal};
use crate::{Artifact, Execution, Payload, Shape, Zkvm};

/// `split`: the binary logarithm of a segment's cycles, [`Zkvm::SEGMENT_PO2`].
pub const SEGMENT_PO2_PARAM: &str = "segment_po2";
/// `split` and `verify`: how much of the block is checked, `state` if left out. `verify` refuses a proof of anything else.
pub const CHECKS_PARAM: &str = "checks";

/// A prover of payments blocks.
pub struct Stages<Z>(pub Z);

impl<Z: Zkvm> Prover for Stages<Z> {
    fn hello(&self) -> Hello {
        self.0
            .hello()
            .stage("split", Kind::Split)
            .stage("prove", Kind::Map)
            .stage("lift", Kind::Map)
            .stage("join", Kind::Join)
            .stage("verify", Kind::Verify)
    }

    fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        ctx.check()?;
        match task.stage.as_str() {
            "split" => self.split(task),
            "prove" => self.prove(task),
            "lift" => self.lift(task),
            "join" => self.join(task),
            "verify" => self.verify(task),
            other => self.0.other_stage(task).unwrap_or_else(|| {
                Err(Failure::permanent(format!("no stage {other}: there are split, prove, lift, join and verify")))
            }),
        }
    }
}

/// Executes a block. One that the guest refuses has no proof.
pub fn execute<Z: Zkvm>(
    zkvm: &Z,
    witness: &Witness,
    checks: Checks,
    po2: u32,
) -> Result<Execution<Z::Segment>, Failure> {
    let execution = zkvm.execute(&guest::input(witness, checks), po2)?;
    if execution.exit_code != 0 {
        let why = guest::refusal(execution.exit_code);
        return Err(Failure::permanent(format!("the guest refuses the block: {why}")));
    }
    match Journal::from_bytes(&execution.journal) {
        Ok(_) => Ok(execution),
        Err(error) => Err(Failure::permanent(format!("what the guest left is no journal: {error}"))),
    }
}

impl<Z: Zkvm> Stages<Z> {
    /// Executes the block and cuts the trace; how many segments there are is known only now.
    fn split(&self, task: &Task) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let (checks, po2) = (checks(task)?, segment_po2::<Z>(task)?);
        let witness = block::witness(&read(input)?, &task.block)?;
        let Execution { segments, journal, .. } = execute(&self.0, &witness, checks, po2)?;
        let files = segments.into_iter().map(|payload| {
            Artifact { shape: Shape::Segment, journal: journal.clone(), payload }.to_bytes().map_err(Failure::retryable)
        });
        block::write_split(task, files, &witness.header)
    }

    fn prove(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let Artifact { journal, payload: segment, .. } = artifact::<Z::Segment>(0, input, Shape::Segment)?;
        let receipt = self.0.prove(&segment)?;
        self.0.verify_segment(&receipt).map_err(miscalculated)?;
        deliver(task, Artifact { shape: Shape::SegmentReceipt, journal, payload: receipt })
    }

    fn lift(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let Artifact { journal, payload: receipt, .. } =
            artifact::<Z::SegmentReceipt>(0, input, Shape::SegmentReceipt)?;
        self.0
            .verify_segment(&receipt)
            .map_err(|error| Failure::bad_input([0], format!("input 0 does not verify: {error}")))?;
        let lifted = self.0.lift(&receipt)?;
        self.0.verify(&lifted).map_err(miscalculated)?;
        deliver(task, Artifact { shape: Shape::Receipt, journal, payload: lifted })
    }

    /// One proof of two neighbours, each of them lifted or joined.
    fn join(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let [left, right] = inputs(task)?;
        let (left, right) = match (self.receipt(0, left), self.receipt(1, right)) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(one), Err(two)) if !one.children.is_empty() && !two.children.is_empty() => {
                return Err(Failure::bad_input([0, 1], format!("{}; {}", one.message, two.message)));
            }
            (Err(failure), _) | (_, Err(failure)) => return Err(failure),
        };
        if left.journal != right.journal || !self.0.meet(&left.payload, &right.payload) {
            let message = "the right receipt does not begin where the left one ends: a gap, or the wrong order";
            return Err(Failure::bad_input([0, 1], message));
        }
        let joined = self.0.join(&left.payload, &right.payload)?;
        self.0.verify(&joined).map_err(miscalculated)?;
        deliver(task, Artifact { shape: Shape::Receipt, journal: left.journal, payload: joined })
    }

    fn verify(&self, task: &Task) -> Result<TaskResult, Failure> {
        let [root, header] = inputs(task)?;
        let checks = checks(task)?;
        let header = match block::header(&read(header)?, &task.block) {
            Ok(header) => header,
            Err(message) => return Ok(TaskResult::verdict(Verdict::BadBlock, message)),
        };
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
        let root =
            Artifact::<Z::Receipt>::from_bytes(root, Shape::Receipt).map_err(|error| format!("not a root: {error}"))?;
        let journal = Journal::from_bytes(&root.journal).map_err(|error| format!("the journal: {error}"))?;
        if let Some(difference) = journal.difference(header, checks) {
            return Err(difference);
        }
        if !self.0.is_whole_run(&root.payload, &root.journal) {
            return Err("the receipt is of another program or journal, or of a part of the execution".to_owned());
        }
        self.0.verify(&root.payload).map_err(|error| format!("the receipt does not verify: {error}"))
    }

    /// Reads and verifies the receipt at input `at`.
    fn receipt(&self, at: u32, path: &Path) -> Result<Artifact<Z::Receipt>, Failure> {
        let artifact = artifact::<Z::Receipt>(at, path, Shape::Receipt)?;
        self.0
            .verify(&artifact.payload)
            .map_err(|error| Failure::bad_input([at], format!("input {at} does not verify: {error}")))?;
        Ok(artifact)
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

fn segment_po2<Z: Zkvm>(task: &Task) -> Result<u32, Failure> {
    let po2 = match task.params.get(SEGMENT_PO2_PARAM) {
        None => Some(Z::DEFAULT_SEGMENT_PO2),
        Some(value) => {
            value.as_u64().and_then(|po2| u32::try_from(po2).ok()).filter(|po2| Z::SEGMENT_PO2.contains(po2))
        }
    };
    po2.ok_or_else(|| {
        let (least, most) = (Z::SEGMENT_PO2.start(), Z::SEGMENT_PO2.end());
        Failure::permanent(format!("{SEGMENT_PO2_PARAM} is a whole number from {least} to {most}"))
    })
}

fn artifact<P: Payload>(at: u32, path: &Path, shape: Shape) -> Result<Artifact<P>, Failure> {
    Artifact::from_bytes(&read(path)?, shape).map_err(|error| Failure::bad_input([at], format!("input {at}: {error}")))
}

/// Nothing is written that does not verify: a machine that miscalculates must not cost others their time.
fn miscalculated(error: String) -> Failure {
    Failure::retryable(format!("the receipt just made does not verify: {error}"))
}

fn deliver<P: Payload>(task: &Task, artifact: Artifact<P>) -> Result<TaskResult, Failure> {
    write(&task.output, &artifact.to_bytes().map_err(Failure::retryable)?)?;
    Ok(TaskResult::default())
}
