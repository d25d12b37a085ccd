//! The messages of the prover protocol, version 1 (`docs/prover-protocol.md`), as they stand on the wire.
//!
//! Shared by the worker, which speaks one side, and by provers, which speak the other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The protocol version a prover announces in its `hello`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Exit code of an exec-form prover that asks for another attempt (`EX_TEMPFAIL` of sysexits.h).
pub const EXIT_RETRYABLE: i32 = 75;

/// Exit code of an exec-form prover that ran out of memory: the first behind those of sysexits.h, which ends at 78.
pub const EXIT_OUT_OF_MEMORY: i32 = 79;

/// Environment variable naming the file that holds the task, for exec-form provers.
pub const TASK_ENV: &str = "PUSH0_TASK";

/// Environment variable with [`Task::deadline_ms`], for exec-form provers; absent where there is no deadline.
pub const DEADLINE_ENV: &str = "PUSH0_DEADLINE_MS";

/// From the prover to the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromProver {
    Hello(Hello),
    Progress {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fraction: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    Done {
        id: String,
        #[serde(default)]
        result: TaskResult,
    },
    Failed {
        id: String,
        #[serde(flatten)]
        failure: Failure,
    },
}

/// From the worker to the prover.
#[allow(clippy::large_enum_variant, reason = "one message at a time, on its way through: none is kept")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToProver {
    Task(Task),
    Cancel { id: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub name: String,
    pub version: String,
    pub stages: Vec<StageOffer>,
    /// Program or verifying-key name → SHA-256, 64 lower-case hex digits.
    #[serde(default)]
    pub programs: BTreeMap<String, String>,
    /// What it proves on, for people: `cpu`, `cuda:0`, …
    #[serde(default)]
    pub device: String,
}

/// One stage a prover can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageOffer {
    pub name: String,
    pub kind: Kind,
}

/// What a stage does to the block's task graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Split,
    Map,
    Join,
    Single,
    Verify,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Unique to this attempt; echoed in every answer.
    pub id: String,
    pub stage: String,
    pub kind: Kind,
    pub inputs: Vec<PathBuf>,
    pub output: PathBuf,
    #[serde(default)]
    pub params: serde_json::Value,
    /// Nothing is to be proven: the inputs are what the stage left, the header, and the first and the last segment that it covers (the same
    /// file twice where it covers one). Answer with a verdict.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Milliseconds until the block should be final, when the task is handed over; 0: that has passed. Nothing ends a task that is late; it
    /// is for provers that can trade something for time. None: the block has no deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    pub block: BlockRef,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    pub chain: String,
    pub number: u64,
    /// 64 lower-case hex digits.
    pub hash: String,
    /// The parent's, the same way, where it is known; of a batch its first block's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<String>,
}

/// What `done` carries; which fields are set depends on the kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// `split`: how many segments were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<u32>,
    /// `split`: the hash of the header, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// `split`: the parent's hash, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<String>,
    /// `verify`, and a check: `ok`, or `bad_proof` where the artifact is not what it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// `verify`: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `verify`: digest of what the proof states about the block, 64 hex digits; the same from every prover that states the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// The proof does not show what the header says.
    BadProof,
    /// No proof could: the header is not this block's, or contradicts itself.
    BadBlock,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// `bad_input`: positions in `inputs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    Retryable,
    Permanent,
    BadInput,
    /// Memory did not suffice, the host's or the device's: a larger machine may do.
    OutOfMemory,
}
