//! Running provers from the command line, outside of any worker and just as a worker does; `push0 prover check` and `push0 prover new`.

pub mod check;
pub mod new;
mod pin;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use push0_core::message::TaskMessage;
use push0_core::pipeline::{PipelineFile, ProverCommand};
use push0_core::{Attempt, BlockHash, ChainId, Class, Epoch, ErrorCode, Node, ProverName, RunId, TaskId};
use push0_gpu_worker::{Limits, Rig};

use crate::args;
use crate::error::Trouble;
use crate::output::Output;

pub async fn run(args: &args::Prover, output: Output) -> anyhow::Result<()> {
    match args {
        args::Prover::Check(args) => check::run(args, output).await,
        args::Prover::New(args) => new::run(args, output),
    }
}

/// A block that tasks are about.
#[derive(Debug, Clone)]
pub struct Block {
    pub chain: ChainId,
    pub number: u64,
    pub hash: BlockHash,
    pub parent_hash: Option<BlockHash>,
}

/// The provers of a pipeline, to be run here; outputs go below `scratch`.
pub fn rig(file: &PipelineFile, scratch: &Path, limits: Limits) -> anyhow::Result<Rig> {
    rig_of(file.provers.clone(), scratch, limits)
}

/// The same for provers described otherwise.
pub fn rig_of(provers: BTreeMap<ProverName, ProverCommand>, scratch: &Path, limits: Limits) -> anyhow::Result<Rig> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let program = program.to_str().context("the path of this program is not UTF-8")?;
    let shim = [program, "shim", "--"].map(str::to_owned).to_vec();
    Rig::new(provers, shim, scratch, limits).context("cannot run provers here")
}

/// The task at a node of the block's graph, as a worker would be sent it, but for its inputs.
pub fn task(file: &PipelineFile, node: Node, block: &Block) -> TaskMessage {
    let stage = file.pipeline.stage(node.stage);
    let policy = file.policy.stage(node.stage);
    let run = RunId::new(block.chain.clone(), block.number, Epoch::FIRST);
    TaskMessage {
        id: TaskId { run, tag: file.pipeline.digest().tag(), node, attempt: Attempt::FIRST, copy: 0 },
        stage: stage.name.clone(),
        kind: stage.kind,
        prover: stage.prover.clone(),
        programs: file.pipeline.programs.get(&stage.prover).cloned().unwrap_or_default(),
        pool: policy.pool.clone(),
        class: Class::default(),
        inputs: Vec::new(),
        expand: false,
        params: stage.params.clone(),
        block_hash: block.hash,
        parent_hash: block.parent_hash,
        time_limit: policy.time_limit,
        progress_limit: policy.progress_limit,
        avoid: Vec::new(),
        barred: Vec::new(),
        deadline: None,
        demoted: false,
        check: None,
        copies: None,
    }
}

/// Where a program is that must be there.
pub fn missing(program: &str) -> Trouble {
    Trouble::failed(format!("the program {program} is neither beside push0 nor in PATH"))
        .next("build it: `cargo build` in the repository builds all of push0's own provers")
        .coded(ErrorCode::ProverMissing)
}
