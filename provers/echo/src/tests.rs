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
            block: BlockRef { chain: "demo".to_owned(), number: 1, hash: "ab".repeat(32) },
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
