//! Snapshots for tests of screens.

use push0_core::message::FailureKind;
use push0_core::record::{BlockRow, BlockStatus, FailureNote, Promotion, Started};
use push0_core::{Attempt, BlockHash, Class, Epoch, Millis, Node, RunId};
use push0_runtime::snapshot::{BlockSnapshot, RunSnapshot, StageSnapshot, TaskSnapshot, Tried};

pub(crate) const NOW: Millis = Millis(1_000_000);

pub(crate) fn block(number: u64, status: BlockStatus) -> BlockSnapshot {
    let block = BlockRow {
        hash: Some(BlockHash([number as u8; 32])),
        changed_at: Millis(995_000),
        ..BlockRow::new("demo".parse().unwrap(), number, status, Millis(990_000))
    };
    BlockSnapshot { block, run: None, further: Vec::new() }
}

/// Of three segments one is proven, one is with a worker, one waits for its second attempt.
pub(crate) fn proving(number: u64) -> BlockSnapshot {
    let stage = |name: &str, kind: &str, done, of| StageSnapshot {
        name: name.to_owned(),
        kind: kind.to_owned(),
        done,
        of: Some(of),
    };
    let started =
        Started { attempt: Attempt(1), worker: "gpu-7".parse().unwrap(), by: None, at: Millis(997_000), handout: None };
    let failure = FailureNote {
        attempt: Attempt(1),
        copy: 0,
        worker: Some("gpu-8".parse().unwrap()),
        by: None,
        kind: FailureKind::Retryable,
        message: "P0-102: out of memory\nat line 7".to_owned(),
        accused: Vec::new(),
        at: Millis(996_000),
    };
    let task = |index, attempt, started, failures| TaskSnapshot {
        id: format!("demo/{number}/e1/0123456789abcdef/1.0.{index}/a{attempt}c0").parse().unwrap(),
        stage: "prove".to_owned(),
        node: Node::new(1, 0, index),
        attempt: Attempt(attempt),
        class: Class::Standard,
        started,
        failures,
        tried: Tried::default(),
        copies: Vec::new(),
        usual: None,
    };
    let run = RunSnapshot {
        id: RunId::new("demo".parse().unwrap(), number, Epoch::FIRST),
        pipeline: "rollup".to_owned(),
        segments: Some(3),
        class: Class::Standard,
        promotion: Promotion::None,
        stages: vec![
            stage("split", "split", 1, 1),
            stage("prove", "map", 1, 3),
            stage("join", "join", 0, 2),
            stage("verify", "verify", 0, 1),
        ],
        tasks: vec![task(1, 1, Some(started), Vec::new()), task(2, 2, None, vec![failure])],
        failed: None,
        verdict: None,
        stopped: false,
        at_fault: None,
    };
    BlockSnapshot { run: Some(run), ..block(number, BlockStatus::Proving) }
}
