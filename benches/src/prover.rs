//! A prover that proves nothing: it sleeps as long as its stage says, or not at all, and leaves 256 bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::message::TaskMessage;
use push0_core::pipeline::Kind;
use push0_core::record::Verdict;
use push0_core::{BlockHash, Node};
use push0_gpu_worker::{Data, Failure, Job, Outcome, Output, Prover, Watch};
use serde::{Deserialize, Serialize};

/// Bytes of a segment, of an artifact, of a header.
pub const PAYLOAD: usize = 256;

/// What `split` reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Witness {
    pub hash: Option<BlockHash>,
    pub segments: u32,
}

/// One run of a prover.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub node: Node,
    pub begun: Instant,
    pub ended: Instant,
}

/// Every run of the provers that share it, in the order of their ends.
#[derive(Debug, Default)]
pub struct Marks(Mutex<Vec<Mark>>);

impl Marks {
    pub fn take(&self) -> Vec<Mark> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, mark: Mark) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    }
}

pub struct Bench {
    marks: Arc<Marks>,
}

impl Bench {
    pub fn new(marks: Arc<Marks>) -> Self {
        Self { marks }
    }
}

#[async_trait]
impl Prover for Bench {
    async fn prove(&mut self, job: &Job, _: &Watch) -> Outcome {
        let begun = Instant::now();
        if let Some(length) = job.task.params.get("sleep_ms").and_then(serde_json::Value::as_u64) {
            tokio::time::sleep(Duration::from_millis(length)).await;
        }
        let outcome = outcome(&job.task, &job.inputs);
        self.marks.add(Mark { node: job.task.id.node, begun, ended: Instant::now() });
        outcome
    }
}

fn outcome(task: &TaskMessage, inputs: &[Data]) -> Outcome {
    match task.kind {
        Kind::Split => split(task, inputs),
        Kind::Map | Kind::Join | Kind::Single => Outcome::Done(Output::Artifact(padded(task.id.to_string()))),
        Kind::Verify => Outcome::Done(Output::Verdict { verdict: Verdict::Ok, message: None, outputs: None }),
    }
}

fn split(task: &TaskMessage, inputs: &[Data]) -> Outcome {
    let Some(Data::Memory(witness)) = inputs.first() else {
        return Failure::permanent("the benchmark's witness is not in memory").into();
    };
    match serde_json::from_slice::<Witness>(witness) {
        Ok(witness) => Outcome::Done(Output::Split {
            segments: (0..witness.segments).map(|number| padded(format!("segment {number}"))).collect(),
            header: padded("header".to_owned()),
            hash: task.block_hash,
            parent_hash: None,
        }),
        Err(error) => Failure::permanent(format!("the benchmark's witness: {error}")).into(),
    }
}

/// The text, filled up to [`PAYLOAD`] bytes.
pub fn padded(mut text: String) -> Data {
    let missing = PAYLOAD.saturating_sub(text.len());
    text.extend(std::iter::repeat_n(' ', missing));
    Data::Memory(Bytes::from(text))
}
