//! What echo can be told: the stage's parameters and the JSON witness.

use std::path::PathBuf;

use push0_prover::Failure;
use serde::Deserialize;

/// The stage's parameters; an unknown one fails the task, since a misspelt script would test nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Params {
    /// `split`: how many segments, where the witness does not say.
    pub segments: u32,
    /// `split`: segments, artifacts and the proof state the witness's SHA-256.
    pub state_witness: bool,
    /// How long each task of the stage takes.
    pub duration_ms: u64,
    /// Some runs take longer.
    pub slow: Option<Slow>,
    /// `map`, `join`, `single`: pads the output with newlines to this size.
    pub output_bytes: usize,
    /// The failure script: the first rule that matches and has times left is what happens.
    pub fail: Vec<Rule>,
    /// Where rules count; the environment variable `PUSH0_ECHO_STATE` goes before it.
    pub state_dir: Option<PathBuf>,
    /// `verify`: what the proof is said to state, where that is not the block's hash. Two pipelines with different ones disagree.
    pub states: Option<String>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            segments: 4,
            state_witness: false,
            duration_ms: 0,
            slow: None,
            output_bytes: 0,
            fail: Vec::new(),
            state_dir: None,
            states: None,
        }
    }
}

impl Params {
    pub(crate) fn of(params: &serde_json::Value) -> Result<Self, Failure> {
        if params.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(params.clone())
            .map_err(|error| Failure::permanent(format!("echo's parameters: {error}")))
    }
}

/// Which runs are slow follows from block, node, attempt and copy alone: the same in every pipeline, and another copy mostly is not.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slow {
    /// So many of a thousand runs.
    pub per_thousand: u64,
    /// They take so many times as long.
    pub factor: u64,
}

/// One rule of the failure script. What is left out matches everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// The stage's name.
    pub stage: Option<String>,
    /// A part of the task's id.
    pub id: Option<String>,
    /// The segment that a `map` task's input is, or begins with.
    pub index: Option<u32>,
    /// The block's number.
    pub number: Option<u64>,
    /// What happens.
    pub kind: RuleKind,
    #[serde(default)]
    pub message: String,
    /// `bad_input`: the inputs to accuse.
    #[serde(default)]
    pub children: Vec<u32>,
    /// How often, over all processes that share a state directory; without it always.
    pub times: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RuleKind {
    Retryable,
    Permanent,
    BadInput,
    /// Says that it ran out of memory.
    OutOfMemory,
    /// Ignores everything, for ever.
    Hang,
    /// Aborts the process.
    Crash,
    /// Writes a line that is no message, then goes on as if nothing had happened.
    Garbage,
    /// Answers `verify` with `bad_proof`.
    BadVerdict,
}

/// A witness for echo; every field is optional, and any other content counts as an empty one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Witness {
    pub segments: Option<u32>,
    pub hash: Option<String>,
    pub parent_hash: Option<String>,
    /// How long `split` takes.
    pub duration_ms: Option<u64>,
}
