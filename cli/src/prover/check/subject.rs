//! What is to be checked: which provers, in which pipeline, on which block.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use push0_core::pipeline::{Arity, EXECUTABLE, Form, Kind, Pipeline, PipelineFile, Policy, ProverCommand, Stage};
use push0_core::{BlockHash, ErrorCode, Node, ProverName, StageName};
use push0_gpu_worker::prover::executable_digest;
use push0_gpu_worker::{Limits, find_program};
use push0_prover::wire::Hello;

use super::course::hand;
use crate::args;
use crate::error::Trouble;
use crate::prover::{Block, task};
use crate::settings::pipeline_file;
use crate::submit::Candidate;

pub(super) struct Subject {
    pub(super) file: PipelineFile,
    pub(super) judged: Vec<ProverName>,
    pub(super) given: Option<Given>,
    /// Provers whose own program file is pinned.
    pins_executable: BTreeSet<ProverName>,
}

/// A block with its witness.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) block: Block,
    pub(super) parent_hash: Option<BlockHash>,
    pub(super) witness: PathBuf,
}

impl Subject {
    pub(super) async fn new(args: &args::Check, dir: &Path, limits: &Limits) -> anyhow::Result<Self> {
        let mut file = match &args.pipeline {
            Some(path) => pipeline_file(path).map_err(|mistakes| {
                Trouble::usage(format!("{}:\n  {}", path.display(), mistakes.to_string().replace('\n', "\n  ")))
                    .next("examples/rollup.toml has every key with its meaning")
                    .coded(ErrorCode::BadConfiguration)
            })?,
            None => of_command(args, dir, limits).await?,
        };
        let judged = match &args.prover {
            Some(name) if file.provers.contains_key(name) => vec![name.clone()],
            Some(name) => {
                let known: Vec<&str> = file.provers.keys().map(ProverName::as_str).collect();
                let what = format!("the pipeline has no prover {name}");
                return Err(Trouble::usage(what)
                    .next(format!("it has {}", known.join(", ")))
                    .coded(ErrorCode::BadUsage)
                    .into());
            }
            None => file.provers.keys().cloned().collect(),
        };
        for command in file.provers.values() {
            let program = &command.command[0];
            if find_program(program).is_none() {
                return Err(Trouble::usage(format!("there is no program {program}, or it may not be executed"))
                    .next("name a file with its path and make it executable (chmod +x), or a program in PATH")
                    .coded(ErrorCode::ProverMissing)
                    .into());
            }
        }
        let pins = file.pipeline.programs.iter().filter(|(_, pinned)| pinned.contains_key(EXECUTABLE));
        let pins_executable = pins.map(|(name, _)| name.clone()).collect();
        if args.pin {
            // New pins are about to be written: the old ones do not count.
            judged.iter().for_each(|name| drop(file.pipeline.programs.remove(name)));
        }
        Ok(Self { file, judged, given: given(args)?, pins_executable })
    }

    /// What a pipeline can pin of a prover: what its `hello` names; its own file for an exec-form one, for one that names nothing, and
    /// where that is pinned already.
    pub(super) async fn pinnable(
        &self,
        name: &ProverName,
        hello: Option<&Hello>,
    ) -> Result<BTreeMap<String, String>, String> {
        let Some(command) = self.file.provers.get(name) else { return Ok(BTreeMap::new()) };
        let said = hello.map(|hello| hello.programs.clone()).unwrap_or_default();
        let mut programs: BTreeMap<String, String> =
            said.into_iter().map(|(program, digest)| (program, digest.to_ascii_lowercase())).collect();
        if command.form == Form::Exec || programs.is_empty() || self.pins_executable.contains(name) {
            programs.insert(EXECUTABLE.to_owned(), executable_digest(command).await?.to_string());
        }
        Ok(programs)
    }
}

fn given(args: &args::Check) -> anyhow::Result<Option<Given>> {
    let given = match (&args.block, &args.witness, args.hash) {
        (Some(path), _, _) => {
            let Candidate { chain, number, hash, parent_hash, witness, .. } = Candidate::read(path)?;
            Given { block: Block { chain, number, hash, parent_hash: None }, parent_hash, witness }
        }
        (None, Some(witness), Some(hash)) => {
            let block = Block { chain: args.chain.clone(), number: args.number, hash, parent_hash: None };
            Given { block, parent_hash: None, witness: witness.clone() }
        }
        _ => return Ok(None),
    };
    let witness = given.witness.canonicalize().ok().filter(|path| path.is_file());
    let Some(witness) = witness else {
        return Err(Trouble::usage(format!("there is no witness {}", given.witness.display()))
            .next("the path in a submission file is relative to that file")
            .coded(ErrorCode::BadWitness)
            .into());
    };
    Ok(Some(Given { witness, ..given }))
}

/// A pipeline for a bare command: of the stages named, of those its `hello` offers, or of the usual ones.
async fn of_command(args: &args::Check, dir: &Path, limits: &Limits) -> anyhow::Result<PipelineFile> {
    let form = args.form.unwrap_or(Form::Session);
    let mut command = args.command.clone();
    // As in a pipeline file: with a `/` it is a file, here relative to the working directory.
    if command[0].contains('/') {
        command[0] = std::path::absolute(&command[0])?.to_string_lossy().into_owned();
    }
    let usual = [("split", Kind::Split), ("prove", Kind::Map), ("join", Kind::Join), ("verify", Kind::Verify)];
    let usual: Vec<(StageName, Kind)> =
        usual.iter().map(|(name, kind)| Ok((name.parse()?, *kind))).collect::<anyhow::Result<_>>()?;
    let mut file = pipeline(&usual, form, command)?;
    let mut stages = args.stage.clone();
    if stages.is_empty() && form == Form::Session {
        stages = offered(&file, dir, limits).await?;
    }
    if !stages.is_empty() {
        stages.sort_by_key(|(_, kind)| *kind);
        file = pipeline(
            &stages,
            form,
            file.provers.into_values().next().map(|prover| prover.command).unwrap_or_default(),
        )?;
    }
    let kinds: Vec<Kind> = file.pipeline.stages.iter().map(|stage| stage.kind).collect();
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    let is_whole =
        count(Kind::Split) == 1 && count(Kind::Verify) == 1 && count(Kind::Map) > 0 && count(Kind::Join) <= 1;
    if !is_whole {
        let names: Vec<String> =
            file.pipeline.stages.iter().map(|stage| format!("{}={}", stage.name, stage.kind.as_str())).collect();
        let what = format!(
            "these stages make no pipeline: {} (wanted: one split, map…, at most one join, single…, one verify)",
            names.join(" ")
        );
        return Err(Trouble::usage(what)
            .next("choose with --stage NAME=KIND, or write a pipeline file, in which other provers run the other stages, and use --pipeline")
            .coded(ErrorCode::BadUsage)
            .into());
    }
    Ok(file)
}

fn pipeline(stages: &[(StageName, Kind)], form: Form, command: Vec<String>) -> anyhow::Result<PipelineFile> {
    let prover: ProverName = "prover".parse()?;
    let stages = stages.iter().map(|(name, kind)| Stage {
        name: name.clone(),
        kind: *kind,
        prover: prover.clone(),
        arity: (*kind == Kind::Join).then_some(Arity { first: 2, rest: 2 }),
        params: serde_json::json!({}),
    });
    let pipeline = Pipeline { name: "check".parse()?, stages: stages.collect(), programs: Default::default() };
    let policy = Policy::default_for(&pipeline);
    let provers = [(prover, ProverCommand::new(form, command))].into();
    Ok(PipelineFile { pipeline, policy, provers, self_tests: Default::default() })
}

/// What a session says it offers.
async fn offered(file: &PipelineFile, dir: &Path, limits: &Limits) -> anyhow::Result<Vec<(StageName, Kind)>> {
    let mut hand = hand(file, &dir.join("hello"), limits)?;
    let name = file.provers.keys().next().expect("the pipeline of a command has its prover");
    hand.greet(file, name).await?;
    hand.rig.close().await;
    let stages = hand.lookout.hello().map(|hello| hello.stages).unwrap_or_default();
    let kind = |kind| match kind {
        push0_prover::wire::Kind::Split => Kind::Split,
        push0_prover::wire::Kind::Map => Kind::Map,
        push0_prover::wire::Kind::Join => Kind::Join,
        push0_prover::wire::Kind::Single => Kind::Single,
        push0_prover::wire::Kind::Verify => Kind::Verify,
    };
    Ok(stages.into_iter().filter_map(|offer| Some((offer.name.parse().ok()?, kind(offer.kind)))).collect())
}

/// The name of a stage that no prover offers.
pub(super) const NO_STAGE: &str = "push0-check-no-such-stage";

impl super::course::Hand {
    /// Has a session say `hello`, without giving it a task. Why there is none, where there is none.
    pub(super) async fn greet(&mut self, file: &PipelineFile, prover: &ProverName) -> anyhow::Result<Option<String>> {
        let block = Block { chain: "check".parse()?, number: 1, hash: BlockHash([0; 32]), parent_hash: None };
        let mut task = task(file, Node::SPLIT, &block);
        (task.stage, task.prover) = (NO_STAGE.parse()?, prover.clone());
        let ran = self.run(task, &[]).await?;
        Ok(match (self.lookout.hello(), ran) {
            (Some(_), _) => None,
            (None, ran) => Some(ran.file().err().unwrap_or_else(|| "it said nothing".to_owned())),
        })
    }
}
