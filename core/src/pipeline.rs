//! The workflow: what is computed (stages, arities, parameters, programs: [`Pipeline`], covered by its digest) and how it is run
//! (pools, limits, attempts: [`Policy`], outside the digest).
//!
//! Invariants of a parsed pipeline: exactly one `split`, first; exactly one `verify`, last; between them at least one `map`, then at
//! most one `join`, then any number of `single`, in this order of kinds; stage names are unique. So there is one root whatever n is.

mod parse;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Digest as _;

use crate::id::{Millis, PipelineDigest, Pool, ProverName, Sha256, StageName};

pub use parse::{Mistakes, PipelineFile, parse};

/// Most segments a block may be split into.
pub const MAX_SEGMENTS: u32 = 100_000;

/// Most stages of a pipeline.
pub const MAX_STAGES: usize = 64;

/// Bytes of a stage's parameters as JSON: every task message of the stage carries them.
pub const MAX_PARAMS: usize = 16 * 1024;

/// Most programs of a prover that are pinned, and bytes of the name of one: every task message of the prover carries them.
pub const MAX_PROGRAMS: usize = 64;
pub const MAX_PROGRAM_NAME: usize = 128;

/// Bytes of a pipeline as JSON: every run's plan record, one row, carries it.
pub const MAX_PIPELINE: usize = 128 * 1024;

/// Bytes of a pipeline file.
pub const MAX_FILE: usize = 1 << 20;

/// Bounds of a join's arity.
pub const ARITY: std::ops::RangeInclusive<u32> = 2..=16;

/// What a stage does to the block's task graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 1 → n; n is known only when it has run.
    Split,
    /// n → n.
    Map,
    /// n → 1, as a tree.
    Join,
    /// 1 → 1.
    Single,
    /// 1 → verdict.
    Verify,
}

impl Kind {
    /// Whether only the trusted pool may run it.
    pub fn is_trusted(self) -> bool {
        matches!(self, Kind::Split | Kind::Verify)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Split => "split",
            Kind::Map => "map",
            Kind::Join => "join",
            Kind::Single => "single",
            Kind::Verify => "verify",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: StageName,
    pub kind: Kind,
    /// Which prover of the file runs it.
    pub prover: ProverName,
    /// `join`: inputs of a join; of a join of the first layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arity: Option<Arity>,
    /// Handed to the prover as they are.
    #[serde(default)]
    pub params: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arity {
    pub first: u32,
    pub rest: u32,
}

/// What a block is proven with. Its digest names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub name: StageName,
    pub stages: Vec<Stage>,
    /// Prover → program or verifying-key name → SHA-256: a prover's `hello` must say the same.
    #[serde(default)]
    pub programs: BTreeMap<ProverName, BTreeMap<String, Sha256>>,
}

impl Pipeline {
    /// Everything that keeps it from being one; what the file's reader says, and what a stored one is held to.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let kinds: Vec<Kind> = self.stages.iter().map(|stage| stage.kind).collect();
        let count = |kind| kinds.iter().filter(|&&k| k == kind).count();
        if count(Kind::Split) != 1 || kinds.first() != Some(&Kind::Split) {
            mistakes.push("there must be exactly one `split` stage, the first".to_owned());
        }
        if count(Kind::Verify) != 1 || kinds.last() != Some(&Kind::Verify) {
            mistakes.push("there must be exactly one `verify` stage, the last".to_owned());
        }
        if count(Kind::Map) == 0 {
            mistakes.push("there must be at least one `map` stage: it proves the segments".to_owned());
        }
        if count(Kind::Join) > 1 {
            mistakes.push("there can be one `join` stage: after it nothing is left to join".to_owned());
        }
        if !kinds.is_sorted() {
            let order: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            let wanted = "split, map…, join, single…, verify";
            mistakes.push(format!("stages are out of order: {} (wanted: {wanted})", order.join(", ")));
        }
        if self.stages.len() > MAX_STAGES {
            mistakes.push(format!("there can be at most {MAX_STAGES} stages"));
        }
        for stage in &self.stages {
            let at = format!("stage {:?}", stage.name.as_str());
            if stage.arity.is_some_and(|arity| !ARITY.contains(&arity.first) || !ARITY.contains(&arity.rest)) {
                mistakes.push(format!("{at}: an arity is from {} to {}", ARITY.start(), ARITY.end()));
            }
            let params = stage.params.to_string().len();
            if params > MAX_PARAMS {
                mistakes.push(format!(
                    "{at}: `params` has {params} bytes as JSON; at most {MAX_PARAMS} are possible: put more into a file that the prover reads"
                ));
            }
        }
        for (prover, programs) in &self.programs {
            if programs.len() > MAX_PROGRAMS || programs.keys().any(|name| name.len() > MAX_PROGRAM_NAME) {
                mistakes.push(format!(
                    "[prover.{prover}] programs: at most {MAX_PROGRAMS} can be pinned, each under a name of at most {MAX_PROGRAM_NAME} bytes"
                ));
            }
        }
        let bytes = serde_json::to_vec(self).map_or(0, |text| text.len());
        if bytes > MAX_PIPELINE {
            mistakes.push(format!("the pipeline has {bytes} bytes as JSON; at most {MAX_PIPELINE} are possible"));
        }
        mistakes
    }

    pub fn stage(&self, position: u16) -> &Stage {
        &self.stages[position as usize]
    }

    pub fn verify_position(&self) -> u16 {
        self.stages.len() as u16 - 1
    }

    pub fn stage_named(&self, name: &str) -> Option<(u16, &Stage)> {
        let position = self.stages.iter().position(|stage| stage.name.as_str() == name)?;
        Some((position as u16, &self.stages[position]))
    }

    /// SHA-256 of the canonical JSON (keys sorted, no white space) of stages and programs, prefixed with the format's version.
    pub fn digest(&self) -> PipelineDigest {
        let mut canonical = String::from("push0-pipeline-1\n");
        let stages = serde_json::to_value(&self.stages).expect("stages are plain data");
        let programs = serde_json::to_value(&self.programs).expect("programs are plain data");
        write_canonical(&mut canonical, &stages);
        write_canonical(&mut canonical, &programs);
        PipelineDigest(sha2::Sha256::digest(canonical.as_bytes()).into())
    }
}

/// JSON with sorted keys: independent of how the map type in use orders them.
fn write_canonical(out: &mut String, value: &Value) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (position, (key, value)) in sorted.into_iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(out, value);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_canonical(out, item);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

/// How a stage is run. Changing it changes no digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePolicy {
    pub pool: Pool,
    /// A run of the prover that takes longer is killed and counts as a retryable failure.
    pub time_limit: Millis,
    /// Where set: a prover silent for longer (no `progress`) is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_limit: Option<Millis>,
    /// Where a task goes once its prover ran out of memory in `pool`; none: that counts like any other failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub larger_pool: Option<Pool>,
    /// Attempts at one node that may be reported to have failed before the block fails.
    pub attempts: u32,
    /// Attempts at one node that may be lost with their workers before the block fails.
    #[serde(default = "lost_attempts", skip_serializing_if = "is_usual")]
    pub lost_attempts: u32,
    /// Delay before the second attempt; doubles with each further one, up to a minute. Each task waits between half of it and the whole.
    pub backoff: Millis,
    /// Whether this stage's prover can check an artifact against the segments it covers: then an accused artifact is checked by the trusted
    /// pool before it is made again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Copies of each task sent from the start; the first artifact counts.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub copies: u8,
    /// Where set: a task that runs for long is sent once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedging>,
}

fn one() -> u8 {
    1
}

fn is_one(copies: &u8) -> bool {
    *copies == 1
}

/// Most copies of a task sent from the start.
pub const MOST_COPIES: u8 = 3;

/// When a running task is sent once more, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedging {
    /// Of the stage's recent durations.
    pub quantile: u32,
    /// A task is a straggler when it has run for so many times that.
    pub factor: u32,
    /// Part of the stage's work that may be spent on further copies.
    pub budget: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { quantile: 950, factor: 1_500, budget: 50 }
    }
}

/// Where nothing is configured.
const LOST_ATTEMPTS: u32 = 3;

fn lost_attempts() -> u32 {
    LOST_ATTEMPTS
}

fn is_usual(lost_attempts: &u32) -> bool {
    *lost_attempts == LOST_ATTEMPTS
}

impl StagePolicy {
    /// Whether an attempt may have more than one copy.
    pub fn may_copy(&self) -> bool {
        self.copies > 1 || self.hedge.is_some()
    }

    pub fn default_for(kind: Kind) -> Self {
        let pool = if kind.is_trusted() { Pool::trusted() } else { "cpu".parse().expect("a pool name") };
        Self {
            pool,
            time_limit: Millis::from_secs(600),
            progress_limit: None,
            larger_pool: None,
            attempts: 4,
            lost_attempts: LOST_ATTEMPTS,
            backoff: Millis(500),
            check: false,
            copies: 1,
            hedge: None,
        }
    }

    /// Every pool that its tasks may go to.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        [&self.pool].into_iter().chain(&self.larger_pool)
    }

    /// Longest delay before attempt number `attempt`.
    pub fn backoff_before(&self, attempt: u32) -> Millis {
        let doublings = attempt.saturating_sub(2).min(16);
        Millis((self.backoff.0 << doublings).min(60_000))
    }
}

/// How the stages of a pipeline are run, by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub stages: Vec<StagePolicy>,
}

impl Policy {
    pub fn default_for(pipeline: &Pipeline) -> Self {
        Self { stages: pipeline.stages.iter().map(|stage| StagePolicy::default_for(stage.kind)).collect() }
    }

    pub fn stage(&self, position: u16) -> &StagePolicy {
        &self.stages[position as usize]
    }
}

/// The name in `programs` under which a prover's own program file is pinned, whatever its form.
pub const EXECUTABLE: &str = "executable";

/// How a worker starts a prover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProverCommand {
    pub form: Form,
    /// Program and arguments. A program without `/` is looked up beside the `push0` binary, then in `PATH`.
    pub command: Vec<String>,
    /// Address-space limit of the prover's process, in MiB; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mib: Option<u64>,
    /// Device memory that each of its tasks needs, in MiB: on a GPU that has less none is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_mib: Option<u64>,
    /// Whether the prover's process may use the network; it may by default. Without it there is not even a loopback of its own.
    #[serde(default = "granted", skip_serializing_if = "is_granted")]
    pub network: bool,
}

fn granted() -> bool {
    true
}

fn is_granted(network: &bool) -> bool {
    *network
}

impl ProverCommand {
    /// Without limits.
    pub fn new(form: Form, command: Vec<String>) -> Self {
        Self { form, command, memory_limit_mib: None, gpu_memory_mib: None, network: true }
    }
}

/// A task that a prover must do before its worker takes any: one that a good machine does in moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    /// A stage of the pipeline that this prover runs.
    pub stage: StageName,
    /// What it is given: files beside the pipeline's.
    pub inputs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    Session,
    Exec,
}

#[cfg(test)]
mod tests;
