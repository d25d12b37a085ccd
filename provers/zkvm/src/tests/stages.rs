//! The stages on files, as a worker runs them.

use std::path::PathBuf;

use push0_prover::{BlockRef, Ctx, Failure, FailureKind, Kind, Prover as _, Task, TaskResult, Verdict};
use push0_rollup::block::Witness;
use push0_rollup::statement::Statement;
use serde_json::{Value, json};

use super::block;
use super::native::{Claim, Native};
use crate::guest::Journal;
use crate::{Artifact, CHECKS_PARAM, Payload as _, SEGMENT_PO2_PARAM, Shape, Stages};

struct Bench {
    dir: tempfile::TempDir,
    zkvm: Native,
    block: BlockRef,
    params: Value,
}

impl Bench {
    fn new(witness: &Witness, params: Value) -> Self {
        let header = &witness.header;
        let (chain, number, hash) = (header.chain.clone(), header.number, hex::encode(header.hash()));
        let block = BlockRef { chain, number, hash, parent_hash: None };
        let bench = Self { dir: tempfile::tempdir().unwrap(), zkvm: Native::default(), block, params };
        bench.put("witness", &witness.to_bytes());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn run(&self, stage: &str, inputs: &[&str], output: &str) -> Result<TaskResult, Failure> {
        let task = Task {
            id: format!("{stage}/{output}"),
            stage: stage.to_owned(),
            kind: Kind::Single,
            inputs: inputs.iter().map(|name| self.path(name)).collect(),
            output: self.path(output),
            params: self.params.clone(),
            check: false,
            deadline_ms: None,
            block: self.block.clone(),
        };
        Stages(self.zkvm.clone()).run(&task, &Ctx::detached())
    }

    /// Splits, proves and lifts: `leaf{n}`, `lift{n}`. How many segments there are.
    fn prove(&self) -> u32 {
        let count = self.run("split", &["witness"], "split").unwrap().segments.unwrap();
        for n in 0..count {
            self.run("prove", &[&format!("split/segments/{n:06}")], &format!("leaf{n}")).unwrap();
            self.run("lift", &[&format!("leaf{n}")], &format!("lift{n}")).unwrap();
        }
        count
    }

    /// Joins all lifts, neighbours first, into `root`.
    fn join(&self, count: u32) {
        let mut layer: Vec<String> = (0..count).map(|n| format!("lift{n}")).collect();
        while layer.len() > 1 {
            let join = |pair: &[String]| match pair {
                [left, right] => {
                    let joined = format!("{left}+{right}");
                    self.run("join", &[left, right], &joined).unwrap();
                    joined
                }
                alone => alone[0].clone(),
            };
            layer = layer.chunks(2).map(join).collect();
        }
        std::fs::copy(self.path(&layer[0]), self.path("root")).unwrap();
    }

    fn verify(&self, root: &str) -> TaskResult {
        self.run("verify", &[root, "split/header"], "none").unwrap()
    }

    fn claim(&self, name: &str, shape: Shape) -> Artifact<Claim> {
        Artifact::from_bytes(&self.get(name), shape).unwrap()
    }
}

/// A block in several segments, to its root.
fn proven() -> (Bench, Witness) {
    let witness = block(9);
    let bench = Bench::new(&witness, json!({ SEGMENT_PO2_PARAM: 9 }));
    let count = bench.prove();
    assert!(count >= 5, "{count} segments");
    bench.join(count);
    (bench, witness)
}

#[test]
fn a_block_of_several_segments_is_verified_to_the_last_byte_of_its_header() {
    let (bench, witness) = proven();
    let result = bench.verify("root");
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:?}");
    let stated = TaskResult::verdict(Verdict::Ok, "").stating(Statement::of_block(&witness.header).outputs());
    assert_eq!(result.outputs, stated.outputs, "what the rollup's own prover states");

    let header = bench.get("split/header");
    for at in 0..header.len() {
        let mut flipped = header.clone();
        flipped[at] ^= 1;
        bench.put("flipped", &flipped);
        let result = bench.run("verify", &["root", "flipped"], "none").unwrap();
        assert_eq!(result.verdict, Some(Verdict::BadBlock), "byte {at}");
    }
}

#[test]
fn no_byte_of_a_root_can_be_another() {
    let (bench, _) = proven();
    let root = bench.get("root");
    for at in 0..root.len() {
        let mut flipped = root.clone();
        flipped[at] ^= 1;
        bench.put("flipped", &flipped);
        let result = bench.verify("flipped");
        assert_eq!(result.verdict, Some(Verdict::BadProof), "byte {at}");
        assert_eq!(result.outputs, None);
    }
    for other in ["lift0", "leaf0", "split/segments/000000", "split/header", "witness"] {
        assert_eq!(bench.verify(other).verdict, Some(Verdict::BadProof), "{other}");
    }
}

#[test]
fn a_root_of_another_program_or_run_or_of_less_is_a_bad_proof() {
    let (mut bench, witness) = proven();
    let root = bench.claim("root", Shape::Receipt);
    type Change = fn(&mut Artifact<Claim>);
    let others: [(Change, &str); 5] = [
        (|root| root.payload.program = [7; 32], "of another program"),
        (|root| root.payload.journal = [7; 32], "of another program or journal"),
        (|root| root.payload.first = 1, "a part of the execution"),
        (|root| root.payload.count += 1, "a part of the execution"),
        (|root| root.payload.wrong = true, "does not verify"),
    ];
    for (change, why) in others {
        let mut other = root.clone();
        change(&mut other);
        bench.put("other", &other.to_bytes().unwrap());
        let result = bench.verify("other");
        assert_eq!(result.verdict, Some(Verdict::BadProof), "{why}");
        assert!(result.message.as_deref().unwrap_or_default().contains(why), "{result:?}");
    }
    bench.zkvm.program = [7; 32];
    assert_eq!(bench.verify("root").verdict, Some(Verdict::BadProof), "the pinned program is another");

    // A proof that looked at the transfers alone, where the state is asked for.
    let less = Bench::new(&witness, json!({ SEGMENT_PO2_PARAM: 20, CHECKS_PARAM: "transfers" }));
    assert_eq!(less.prove(), 1);
    let result = less.verify("lift0");
    assert_eq!((result.verdict, result.outputs), (Some(Verdict::Ok), None), "it states nothing of the roots");
    let less = Bench { params: Value::Null, ..less };
    let result = less.verify("lift0");
    assert_eq!(result.verdict, Some(Verdict::BadProof));
    assert!(result.message.unwrap().contains("transfers was checked, not state"));
}

#[test]
fn a_join_names_the_children_that_are_at_fault() {
    let (bench, _) = proven();
    let mut damaged = bench.get("lift1");
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    bench.put("damaged", &damaged);
    let mut wrong = bench.claim("lift1", Shape::Receipt);
    wrong.payload.wrong = true;
    bench.put("wrong", &wrong.to_bytes().unwrap());
    let mut another = bench.claim("lift1", Shape::Receipt);
    another.journal[Journal::BYTES - 1] ^= 1;
    bench.put("another", &another.to_bytes().unwrap());
    for (left, right, children, why) in [
        ("lift1", "lift0", vec![0, 1], "wrong order"),
        ("lift0", "lift2", vec![0, 1], "gap"),
        ("lift0", "lift0", vec![0, 1], "gap"),
        ("lift0", "another", vec![0, 1], "gap"),
        ("lift0", "damaged", vec![1], "input 1: its lifted or joined receipt does not decode"),
        ("damaged", "lift2", vec![0], "input 0"),
        ("wrong", "lift2", vec![0], "input 0 does not verify"),
        ("damaged", "wrong", vec![0, 1], "input 1 does not verify"),
        ("leaf0", "lift1", vec![0], "a lifted or joined receipt is asked for"),
        ("lift0", "split/header", vec![1], "file of a zkVM's prover"),
    ] {
        let failure = bench.run("join", &[left, right], "none").unwrap_err();
        assert_eq!((failure.kind, &failure.children), (FailureKind::BadInput, &children), "{left} {right}");
        assert!(failure.message.contains(why), "{left} {right}: {}", failure.message);
    }
    for (stage, inputs) in [("prove", ["leaf0"]), ("lift", ["lift0"]), ("lift", ["split/segments/000000"])] {
        let failure = bench.run(stage, &inputs, "none").unwrap_err();
        assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0]), "{stage}");
    }
    assert_eq!(bench.run("join", &["lift0"], "none").unwrap_err().kind, FailureKind::Permanent);
    assert_eq!(bench.run("join", &["lift0", "missing"], "none").unwrap_err().kind, FailureKind::Retryable);
    assert!(!bench.path("none").exists(), "a task that fails leaves nothing");
}

#[test]
fn a_machine_that_miscalculates_writes_nothing() {
    let (mut bench, _) = proven();
    bench.zkvm.miscalculates = true;
    for (stage, inputs) in
        [("prove", &["split/segments/000000"][..]), ("lift", &["leaf0"]), ("join", &["lift0", "lift1"])]
    {
        let failure = bench.run(stage, inputs, "none").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Retryable, "{stage}");
        assert!(failure.message.contains("just made does not verify"), "{}", failure.message);
        assert!(!bench.path("none").exists());
    }
}

#[test]
fn a_split_is_of_the_tasks_block_and_says_what_the_guest_refuses() {
    let witness = block(3);
    let mut bench = Bench::new(&witness, Value::Null);
    let result = bench.run("split", &["witness"], "split").unwrap();
    assert_eq!(result.segments, Some(1));
    assert_eq!(result.hash, Some(bench.block.hash.clone()));
    assert_eq!(result.parent_hash, Some(hex::encode(witness.header.parent_hash)));
    assert_eq!(bench.get("split/header"), witness.header.to_bytes());

    let permanent = |bench: &Bench, why: &str| {
        let failure = bench.run("split", &["witness"], "none").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent, "{why}");
        assert!(failure.message.contains(why), "{}", failure.message);
        assert!(!bench.path("none").exists());
    };
    let mut wrong = witness.clone();
    wrong.accounts[0].1.balance += 1;
    bench.put("witness", &wrong.to_bytes());
    permanent(&bench, "the guest refuses the block: the accounts are not those of the state root before");
    bench.put("witness", b"no witness");
    permanent(&bench, "the witness: ");
    bench.put("witness", &witness.to_bytes());
    for (params, why) in [
        (json!({ SEGMENT_PO2_PARAM: 3 }), "segment_po2 is a whole number from 4 to 20"),
        (json!({ SEGMENT_PO2_PARAM: 21 }), "segment_po2 is"),
        (json!({ SEGMENT_PO2_PARAM: 4_294_967_300_u64 }), "segment_po2 is"),
        (json!({ SEGMENT_PO2_PARAM: "12" }), "segment_po2 is"),
        (json!({ CHECKS_PARAM: "everything" }), "it is \"transfers\" or \"state\""),
        (json!({ CHECKS_PARAM: 1 }), "it is \"transfers\" or \"state\""),
    ] {
        bench.params = params;
        permanent(&bench, why);
    }
    bench.params = Value::Null;
    bench.block.number += 1;
    permanent(&bench, "the witness is of block 3 of demo, not 4 of demo");
    bench.block.chain.clear();
    assert!(bench.run("split", &["witness"], "split").is_ok(), "the exec form may know no block");
    bench.zkvm.loses_journal = true;
    permanent(&bench, "what the guest left is no journal");
    let failure = bench.run("groth16", &["witness"], "none").unwrap_err();
    assert!(failure.message.contains("no stage groth16"), "{}", failure.message);
}

#[test]
fn fewer_cycles_a_segment_are_more_segments() {
    let witness = block(3);
    let count = |po2: u32| {
        let bench = Bench::new(&witness, json!({ SEGMENT_PO2_PARAM: po2 }));
        let count = bench.run("split", &["witness"], "split").unwrap().segments.unwrap();
        assert!(bench.path(&format!("split/segments/{:06}", count - 1)).exists());
        count
    };
    assert!(count(8) > count(9) && count(9) > count(12));
}

#[test]
fn a_payload_is_read_as_it_was_written() {
    let (bench, _) = proven();
    for (name, shape) in
        [("split/segments/000001", Shape::Segment), ("leaf1", Shape::SegmentReceipt), ("lift1", Shape::Receipt)]
    {
        let artifact = bench.claim(name, shape);
        assert_eq!((artifact.payload.first, artifact.payload.last), (1, 1));
        assert_eq!(artifact.to_bytes().unwrap(), bench.get(name));
        assert_eq!(Claim::decode(&artifact.payload.encode().unwrap()).unwrap(), artifact.payload);
    }
}
