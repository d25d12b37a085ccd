//! Echo end to end, through files.

use std::path::PathBuf;

use push0_prover::{BlockRef, FailureKind};
use serde_json::{Value, json};

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    params: Value,
}

impl Bench {
    fn new(params: Value) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), params }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, stage: &str, kind: Kind, inputs: &[&str], output: &str) -> Result<TaskResult, Failure> {
        let task = Task {
            id: format!("demo/1/{stage}/{output}"),
            stage: stage.to_owned(),
            kind,
            inputs: inputs.iter().map(|name| self.path(name)).collect(),
            output: self.path(output),
            params: self.params.clone(),
            check: false,
            deadline_ms: None,
            block: BlockRef { chain: "demo".to_owned(), number: 1, hash: "ab".repeat(32), parent_hash: None },
        };
        Echo.run(&task, &Ctx::detached())
    }

    fn split(&self, witness: &str) -> TaskResult {
        fs::write(self.path("witness"), witness).unwrap();
        self.run("split", Kind::Split, &["witness"], "split").unwrap()
    }
}

#[test]
fn a_block_of_three_segments_is_verified() {
    let bench = Bench::new(Value::Null);
    let split = bench.split(r#"{"segments":3,"parent_hash":"cd"}"#);
    assert_eq!((split.segments, split.parent_hash.as_deref()), (Some(3), Some("cd")));
    for n in 0..3 {
        bench.run("prove", Kind::Map, &[&format!("split/segments/00000{n}")], &format!("p{n}")).unwrap();
    }
    bench.run("join", Kind::Join, &["p0", "p1"], "j").unwrap();
    bench.run("join", Kind::Join, &["j", "p2"], "root").unwrap();
    bench.run("wrap", Kind::Single, &["root"], "wrapped").unwrap();
    let verdict = |root: &str| bench.run("verify", Kind::Verify, &[root, "split/header"], "none").unwrap().verdict;
    assert_eq!(verdict("wrapped"), Some(Verdict::Ok));
    assert_eq!(verdict("j"), Some(Verdict::BadProof));
    assert_eq!(verdict("split/header"), Some(Verdict::BadProof));
    assert_eq!(bench.run("verify", Kind::Verify, &["j", "j"], "none").unwrap().verdict, Some(Verdict::BadBlock));

    let gap = bench.run("join", Kind::Join, &["p0", "p2"], "gap").unwrap_err();
    assert_eq!((gap.kind, gap.children), (FailureKind::BadInput, vec![0, 1]));
    let junk = bench.run("join", Kind::Join, &["p0", "witness"], "junk").unwrap_err();
    assert_eq!((junk.kind, junk.children), (FailureKind::BadInput, vec![1]));
}

#[test]
fn a_proof_states_the_witness_and_one_of_another_witness_is_refused() {
    let bench = Bench::new(json!({ "state_witness": true }));
    let prove = |witness: &str, to: &str| {
        bench.split(witness);
        for n in 0..2 {
            let (segment, proof) = (format!("split/segments/00000{n}"), format!("{to}{n}"));
            bench.run("prove", Kind::Map, &[segment.as_str()], &proof).unwrap();
        }
    };
    prove(r#"{"segments":2,"salt":1}"#, "a");
    let witness = r#"{"segments":2,"salt":2}"#;
    prove(witness, "b");
    bench.run("join", Kind::Join, &["a0", "a1"], "a").unwrap();
    bench.run("join", Kind::Join, &["b0", "b1"], "b").unwrap();
    let proof: Value = serde_json::from_slice(&fs::read(bench.path("b")).unwrap()).unwrap();
    assert_eq!(proof["witness"], hex::encode(Sha256::digest(witness)));
    let verdict = |root: &str| bench.run("verify", Kind::Verify, &[root, "split/header"], "none").unwrap().verdict;
    assert_eq!((verdict("a"), verdict("b")), (Some(Verdict::BadProof), Some(Verdict::Ok)));
    let mixed = bench.run("join", Kind::Join, &["a0", "b1"], "mixed").unwrap_err();
    assert_eq!((mixed.kind, mixed.children), (FailureKind::BadInput, vec![1]));
}

#[test]
fn outputs_depend_on_stage_and_inputs_only() {
    let bench = Bench::new(json!({ "output_bytes": 500 }));
    assert_eq!(bench.split("not json").segments, Some(4));
    let run = |stage: &str, input: &str, output: &str| {
        bench.run(stage, Kind::Map, &[input], output).unwrap();
        fs::read(bench.path(output)).unwrap()
    };
    let first = run("prove", "split/segments/000000", "a");
    assert_eq!(first.len(), 500);
    assert_eq!(first, run("prove", "split/segments/000000", "b"));
    assert_ne!(first, run("prove", "split/segments/000001", "c"));
    assert_ne!(first, run("lift", "split/segments/000000", "d"));
}

#[test]
fn a_rule_fails_as_often_as_it_says_across_instances() {
    let mut bench = Bench::new(Value::Null);
    bench.split("");
    bench.params = json!({
        "state_dir": bench.path("state"),
        "fail": [{ "stage": "prove", "index": 1, "kind": "retryable", "message": "no luck", "times": 2 }],
    });
    let prove = |n: u32| bench.run("prove", Kind::Map, &[&format!("split/segments/00000{n}")], &format!("p{n}"));
    prove(0).unwrap();
    for _ in 0..2 {
        let failure = prove(1).unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Retryable, "no luck"));
    }
    prove(1).unwrap();
}

#[test]
fn rules_match_on_id_and_number_and_a_misspelt_one_is_refused() {
    let mut bench = Bench::new(Value::Null);
    bench.split("");
    bench.params = json!({ "fail": [
        { "number": 2, "kind": "permanent" },
        { "id": "/out7", "kind": "bad_input", "children": [0] },
    ] });
    bench.run("prove", Kind::Map, &["split/segments/000000"], "out1").unwrap();
    let failure = bench.run("prove", Kind::Map, &["split/segments/000000"], "out7").unwrap_err();
    assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0]));
    bench.params = json!({ "fial": [] });
    let failure = bench.run("prove", Kind::Map, &["split/segments/000000"], "out1").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
}

/// The proof and the header of block `number`, whose hash is its number, 64 times.
fn block(bench: &Bench, number: u64) -> (String, String, Value) {
    let (proof, header, hash) = (format!("proof{number}"), format!("header{number}"), number.to_string().repeat(64));
    let artifact = json!({ "digest": "d", "block": hash, "first": 0, "last": 2 });
    let parent = (number - 1).to_string().repeat(64);
    let written = json!({ "chain": "payments", "number": number, "hash": hash, "parent_hash": parent, "segments": 3 });
    fs::write(bench.path(&proof), artifact.to_string()).unwrap();
    fs::write(bench.path(&header), written.to_string()).unwrap();
    (proof, header, json!({ "number": number, "hash": hash, "parent_hash": parent }))
}

#[test]
fn a_batch_is_split_into_its_blocks_and_one_with_another_block_or_proof_is_refused() {
    let bench = Bench::new(Value::Null);
    let blocks: Vec<_> = (1..=4).map(|number| block(&bench, number)).collect();
    let split = |named: &[usize], given: &[usize]| {
        let named: Vec<&Value> = named.iter().map(|at| &blocks[*at].2).collect();
        fs::write(bench.path("manifest"), json!({ "v": 1, "chain": "payments", "blocks": named }).to_string()).unwrap();
        let files = given.iter().flat_map(|at| [blocks[*at].0.as_str(), blocks[*at].1.as_str()]);
        let inputs: Vec<&str> = ["manifest"].into_iter().chain(files).collect();
        bench.run("split", Kind::Split, &inputs, "batch")
    };
    let result = split(&[0, 1, 2], &[0, 1, 2]).unwrap();
    assert_eq!(
        (result.segments, result.hash, result.parent_hash),
        (Some(3), Some("3".repeat(64)), Some("0".repeat(64)))
    );
    let header: Header = serde_json::from_slice(&fs::read(bench.path("batch/header")).unwrap()).unwrap();
    assert_eq!(header.blocks, ["1", "2", "3"].map(|digit| digit.repeat(64)));
    for (named, given, why) in [
        (&[0, 2][..], &[0, 2][..], "block 3 of payments: it is not the next one"),
        (&[0, 1], &[1, 0], "block 1 of payments: its header is another block's"),
        (&[0, 1], &[0], "2 blocks come with 2 files"),
    ] {
        let failure = split(named, given).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent);
        assert!(failure.message.contains(why), "{failure:?}");
    }
    fs::write(
        bench.path("proof2"),
        json!({ "digest": "d", "block": "2".repeat(64), "first": 0, "last": 1 }).to_string(),
    )
    .unwrap();
    assert!(split(&[0, 1], &[0, 1]).unwrap_err().message.contains("not one of the whole block"));
}

#[test]
fn numbers_at_their_end_overflow_nothing_and_a_witness_cannot_ask_for_files_without_end() {
    let bench = Bench::new(Value::Null);
    fs::write(bench.path("witness"), r#"{"segments":4294967295}"#).unwrap();
    let failure = bench.run("split", Kind::Split, &["witness"], "split").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.message.contains("at most 100000"), "{failure:?}");
    assert!(!bench.path("split").exists());

    let hash = "ab".repeat(32);
    let whole = json!({ "digest": "d", "block": hash, "first": 0, "last": u32::MAX });
    fs::write(bench.path("whole"), whole.to_string()).unwrap();
    let header = json!({ "chain": "demo", "number": 1, "hash": hash, "parent_hash": null, "segments": 0 });
    fs::write(bench.path("header"), header.to_string()).unwrap();
    let found = bench.run("verify", Kind::Verify, &["whole", "header"], "none").unwrap();
    assert_eq!(found.verdict, Some(Verdict::BadProof));
    assert_eq!(bench.run("join", Kind::Join, &["whole", "whole"], "j").unwrap_err().children, [0, 1]);
    let blocks = [u64::MAX, 0].map(|number| json!({ "number": number, "hash": hash }));
    fs::write(bench.path("manifest"), json!({ "chain": "demo", "blocks": blocks }).to_string()).unwrap();
    let header = json!({ "chain": "demo", "number": u64::MAX, "hash": hash, "parent_hash": null, "segments": 1 });
    fs::write(bench.path("header"), header.to_string()).unwrap();
    let proof = json!({ "digest": "d", "block": hash, "first": 0, "last": 0 });
    fs::write(bench.path("proof"), proof.to_string()).unwrap();
    let inputs = ["manifest", "proof", "header", "proof", "header"];
    let failure = bench.run("split", Kind::Split, &inputs, "batch").unwrap_err();
    assert!(failure.message.contains("not the next one"), "{failure:?}");
}
