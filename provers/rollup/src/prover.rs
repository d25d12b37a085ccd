//! The prover's stages: `split`, `prove`, `lift`, `join`, `verify` for blocks; `range-split` and so on for ranges of
//! proven blocks (`range`).
//!
//! A stage builds the one circuit it needs when it first needs it, checks it against its pinned key and keeps it for
//! the session. Every proof that comes in is verified before anything is done with it, so that a bad one is named
//! (`bad_input`) instead of failing a join that had no fault.

pub mod block;
mod range;

use std::collections::BTreeMap;
use std::path::Path;

use push0_prover::files::{inputs, read, write};
use push0_prover::{Ctx, Failure, Hello, Kind, Prover, Task, TaskResult, Verdict, hello};

use crate::circuit::{JoinCircuit, LeafCircuit, LiftCircuit, RangeLiftCircuit};
use crate::keys::{self, Shape};
use crate::proof::{ProofFile, VerifiedProof, Verifier};
use crate::range::RangeSegment;
use crate::segment::{DEFAULT_SIZE, SIZES, Segment, cut};

/// The stage parameter of `split` that says how many transfers a segment holds.
pub const SIZE_PARAM: &str = "transfers_per_segment";

/// The rollup's prover, with the circuits it has built so far.
#[derive(Default)]
pub struct Rollup {
    verifier: Verifier,
    leaves: BTreeMap<u16, LeafCircuit>,
    lifts: BTreeMap<u16, LiftCircuit>,
    range_lifts: BTreeMap<u16, RangeLiftCircuit>,
    /// Of blocks and of ranges.
    joins: BTreeMap<(Shape, u16), JoinCircuit>,
}

impl Prover for Rollup {
    fn hello(&self) -> Hello {
        let offer = hello("push0-rollup", env!("CARGO_PKG_VERSION"))
            .stage("split", Kind::Split)
            .stage("prove", Kind::Map)
            .stage("lift", Kind::Map)
            .stage("join", Kind::Join)
            .stage("verify", Kind::Verify)
            .stage("range-split", Kind::Split)
            .stage("range-lift", Kind::Map)
            .stage("range-join", Kind::Join)
            .stage("range-verify", Kind::Verify);
        keys::digests().iter().fold(offer, |offer, (name, sha256)| offer.program(name, sha256))
    }

    fn check(&mut self, task: &Task, _ctx: &Ctx) -> Result<TaskResult, Failure> {
        let [artifact, _header, first, last] = inputs(task)?;
        let of_range = task.stage.starts_with("range-");
        let says = |at: u32, path: &Path| {
            let bytes = read(path)?;
            let statement = match of_range {
                true => RangeSegment::from_bytes(&bytes).map(|segment| segment.statement),
                false => Segment::from_bytes(&bytes).map(|segment| segment.statement),
            };
            statement.map_err(|error| Failure::bad_input([at], format!("input {at}: {error}")))
        };
        let (first, last) = (says(2, first)?, says(3, last)?);
        let bad = |message: String| Ok(TaskResult::verdict(Verdict::BadProof, message));
        let proof = match self.verifier.verify(&read(artifact)?) {
            Ok(proof) => proof,
            Err(error) => return bad(error.to_string()),
        };
        let is_shape = matches!(
            (task.stage.as_str(), proof.file().shape),
            ("prove", Shape::Leaf)
                | ("lift", Shape::Lift)
                | ("join", Shape::Join)
                | ("range-lift", Shape::RangeLift)
                | ("range-join", Shape::RangeJoin)
        );
        if !is_shape {
            return bad(format!("{} leaves no {}", task.stage, proof.file().shape.name()));
        }
        match proof.statement().runs(&first, &last) {
            true => Ok(TaskResult::verdict(Verdict::Ok, "")),
            false => bad("it is a proof of something else than its segments".to_owned()),
        }
    }

    fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        ctx.check()?;
        match task.stage.as_str() {
            "split" => split(task),
            "prove" => self.prove(task, ctx),
            "lift" => self.lift(task, ctx),
            "join" => self.join(task, ctx, Shape::Lift, Shape::Join),
            "verify" => self.verify(task),
            "range-split" => self.range_split(task, ctx),
            "range-lift" => self.range_lift(task, ctx),
            "range-join" => self.join(task, ctx, Shape::RangeLift, Shape::RangeJoin),
            "range-verify" => self.range_verify(task),
            other => Err(Failure::permanent(format!(
                "no stage {other}: there are split, prove, lift, join and verify, and all but prove with range- in front"
            ))),
        }
    }
}

fn split(task: &Task) -> Result<TaskResult, Failure> {
    let [input] = inputs(task)?;
    let size = segment_size(&task.params)?;
    let witness = block::witness(&read(input)?, &task.block)?;
    let segments = cut(&witness, size).map_err(Failure::permanent)?;
    block::write_split(task, segments.iter().map(|segment| Ok(segment.to_bytes())), &witness.header)
}

/// The stage's segment size: a parameter, or the default.
fn segment_size(params: &serde_json::Value) -> Result<u16, Failure> {
    let Some(value) = params.get(SIZE_PARAM) else {
        return Ok(DEFAULT_SIZE);
    };
    SIZES
        .into_iter()
        .find(|size| value.as_u64() == Some(u64::from(*size)))
        .ok_or_else(|| Failure::permanent(format!("{SIZE_PARAM} is {value}; there are circuits for {SIZES:?}")))
}

impl Rollup {
    fn prove(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let segment = Segment::from_bytes(&read(input)?).map_err(|error| Failure::bad_input([0], error))?;
        let size = u16::try_from(segment.steps.len()).unwrap_or(u16::MAX);
        if !SIZES.contains(&size) {
            return Err(Failure::bad_input(
                [0],
                format!("the segment has {size} steps; there are circuits for {SIZES:?}"),
            ));
        }
        let circuit = self.leaves.entry(size).or_insert_with(|| {
            ctx.progress(0.0, "building the leaf circuit");
            let circuit = LeafCircuit::build(size);
            keys::check(Shape::Leaf, size, &circuit.data.verifier_data());
            circuit
        });
        ctx.check()?;
        ctx.progress(0.2, "proving the segment");
        let proof = circuit
            .prove(&segment)
            .map_err(|error| Failure::bad_input([0], format!("the segment cannot be proven: {error}")))?;
        self.deliver(task, ProofFile { shape: Shape::Leaf, size, proof })
    }

    fn lift(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let leaf = self.checked(0, input)?;
        let ProofFile { shape: Shape::Leaf, size, proof } = leaf.file() else {
            return Err(Failure::bad_input(
                [0],
                format!("lift takes a leaf proof, not a {}", leaf.file().shape.name()),
            ));
        };
        let (size, keys) = (*size, &self.verifier);
        let key = |shape| keys.key(shape, size).expect("a verified proof is of a size with keys");
        let circuit = self.lifts.entry(size).or_insert_with(|| {
            ctx.progress(0.0, "building the lift circuit");
            let circuit = LiftCircuit::build(key(Shape::Leaf), &key(Shape::Lift).common);
            keys::check(Shape::Lift, size, &circuit.data.verifier_data());
            circuit
        });
        ctx.check()?;
        ctx.progress(0.2, "lifting the proof");
        let proof = circuit.prove(proof, &key(Shape::Join).verifier_only).map_err(Failure::retryable)?;
        self.deliver(task, ProofFile { shape: Shape::Lift, size, proof })
    }

    /// Joins two proofs, each a `lift` or a `join`: those of a block's segments, or those of a range's blocks.
    fn join(&mut self, task: &Task, ctx: &Ctx, lift: Shape, join: Shape) -> Result<TaskResult, Failure> {
        let [left, right] = inputs(task)?;
        let (left, right) = match (self.checked(0, left), self.checked(1, right)) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(one), Err(two)) if !one.children.is_empty() && !two.children.is_empty() => {
                return Err(Failure::bad_input([0, 1], format!("{}; {}", one.message, two.message)));
            }
            (Err(failure), _) | (_, Err(failure)) => return Err(failure),
        };
        for (at, child) in (0..).zip([&left, &right]) {
            let shape = child.file().shape;
            if shape != lift && shape != join {
                let (stage, lift, join, shape) = (&task.stage, lift.name(), join.name(), shape.name());
                return Err(Failure::bad_input(
                    [at],
                    format!("{stage} takes {lift}s and {join}s, not a {shape} proof"),
                ));
            }
        }
        let size = left.file().size;
        if right.file().size != size {
            return Err(Failure::bad_input([0, 1], "the proofs are of different segment sizes"));
        }
        if !left.statement().meets(right.statement()) {
            let message = "the right proof does not begin where the left one ends: a gap, or the wrong order";
            return Err(Failure::bad_input([0, 1], message));
        }
        let lift = self.verifier.key(lift, size).expect("a verified proof is of a size with keys");
        let circuit = self.joins.entry((join, size)).or_insert_with(|| {
            ctx.progress(0.0, "building the join circuit");
            let circuit = JoinCircuit::build(lift);
            keys::check(join, size, &circuit.data.verifier_data());
            circuit
        });
        ctx.check()?;
        ctx.progress(0.2, "joining the proofs");
        let children = [&left, &right].map(|child| (&child.file().proof, child.file().shape == join));
        let proof = circuit.prove(children).map_err(Failure::retryable)?;
        self.deliver(task, ProofFile { shape: join, size, proof })
    }

    fn verify(&self, task: &Task) -> Result<TaskResult, Failure> {
        let [proof, header] = inputs(task)?;
        let header = match block::header(&read(header)?, &task.block) {
            Ok(header) => header,
            Err(message) => return Ok(TaskResult::verdict(Verdict::BadBlock, message)),
        };
        match self.verifier.verify_block(&read(proof)?, &header) {
            Ok(proof) => Ok(TaskResult::verdict(Verdict::Ok, "").stating(proof.statement().outputs())),
            Err(error) => Ok(TaskResult::verdict(Verdict::BadProof, error)),
        }
    }

    /// Reads and verifies the proof at input `at`.
    fn checked(&self, at: u32, path: &Path) -> Result<VerifiedProof, Failure> {
        self.verifier.verify(&read(path)?).map_err(|error| Failure::bad_input([at], format!("input {at}: {error}")))
    }

    /// Writes a proof, if it verifies: a machine that miscalculates must not cost others their time.
    fn deliver(&self, task: &Task, file: ProofFile) -> Result<TaskResult, Failure> {
        let bytes = file.to_bytes();
        self.verifier
            .verify(&bytes)
            .map_err(|error| Failure::retryable(format!("the proof just made does not verify: {error}")))?;
        write(&task.output, &bytes)?;
        Ok(TaskResult::default())
    }
}
