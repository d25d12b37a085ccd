//! `push0 replay`: one task's prover, run here on the task's own inputs, as a worker runs it. Nothing is written to push0.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use push0_core::block::kind_name;
use push0_core::message::TaskMessage;
use push0_core::pipeline::{Form, Kind, ProverCommand};
use push0_core::record::{BlobRef, FailureNote, Verdict};
use push0_core::{ChainId, ErrorCode, Node, Pool, ProverName, RunId, Sha256, StageName, TaskId};
use push0_gpu_worker::prover::{Onlooker, Seen};
use push0_gpu_worker::task::expand;
use push0_gpu_worker::{Data, Failure, Limits, Outcome, Output as Made, Proved};
use push0_runtime::drive::Context;
use push0_runtime::drive::block::{self, Accepted, RecallError, Recalled};
use push0_runtime::port::ErrorKind;
use serde::Serialize;
use sha2::Digest as _;

use crate::args;
use crate::connect::Remote;
use crate::error::Trouble;
use crate::output::Output;
use crate::prover;
use crate::view;

/// What came of it.
#[derive(Debug, Serialize)]
struct Replayed {
    task: TaskId,
    stage: StageName,
    kind: Kind,
    pool: Pool,
    prover: ProverName,
    command: Vec<String>,
    params: serde_json::Value,
    /// What the pipeline pins of the prover.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    programs: BTreeMap<String, Sha256>,
    inputs: Vec<Input>,
    /// `done`, `failed`, `killed` (by a limit), `stopped` (by ctrl-c).
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<Product>,
    /// What the run has accepted from this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<AcceptedEarlier>,
    /// Whether what was made here is what was accepted; absent where there is nothing to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    equals_accepted: Option<bool>,
    /// How this attempt failed when a worker ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_then: Option<String>,
    /// Where inputs and output are, if they were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Input {
    #[serde(flatten)]
    blob: BlobRef,
    /// Revoked since: this attempt had it, later ones have not.
    revoked: bool,
}

#[derive(Debug, Serialize)]
struct Failed {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accused: Vec<u32>,
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        let (code, message) = ErrorCode::split(&failure.message);
        Self {
            kind: kind_name(failure.kind),
            code: code.map(|code| code.to_string()),
            message: message.to_owned(),
            accused: failure.children.clone(),
        }
    }
}

/// What the prover made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "made", rename_all = "snake_case")]
enum Product {
    Artifact {
        file: PathBuf,
        size: u64,
        sha256: Sha256,
    },
    Split {
        header: Sha256,
        segments: Vec<Sha256>,
    },
    Verdict {
        verdict: Verdict,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct AcceptedEarlier {
    attempt: u32,
    /// Of the artifact or the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

pub async fn run(args: &args::Replay, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let context = remote.context();
    let id = task_id(args, remote, &context).await?;
    let recalled = block::recall(&context, &id).await.map_err(|error| explain(error, &id.run))?;
    let task = &recalled.task;
    let command = command(args, remote, task)?;
    let place = Place::new(args)?;
    output.note(&format!("task {id}: stage {} ({}), prover {}", task.stage, task.kind.as_str(), task.prover));
    let inputs = fetch(remote, task, &place.dir, output).await?;
    output.note(&format!("running {}", command.command.join(" ")));
    let proved = prove(task, &command, &inputs, &place.dir, output).await?;
    let mut replayed = Replayed {
        task: id,
        stage: task.stage.clone(),
        kind: task.kind,
        pool: task.pool.clone(),
        prover: task.prover.clone(),
        command: command.command.clone(),
        params: task.params.clone(),
        programs: task.programs.clone(),
        inputs: inputs_of(&recalled),
        outcome: "done",
        failure: None,
        made: None,
        accepted: recalled.accepted.as_ref().map(accepted),
        equals_accepted: None,
        failed_then: failed_then(&recalled),
        dir: place.kept(),
    };
    match &proved {
        Proved::Outcome(Outcome::Done(made)) => {
            let product = product(made)?;
            replayed.equals_accepted = equals(&context, &product, recalled.accepted.as_ref()).await?;
            replayed.made = Some(product);
        }
        Proved::Outcome(Outcome::Failed(failure)) => {
            (replayed.outcome, replayed.failure) = ("failed", Some(failure.into()));
        }
        Proved::Hung(failure) => (replayed.outcome, replayed.failure) = ("killed", Some(failure.into())),
        Proved::Ended(_) => replayed.outcome = "stopped",
    }
    output.show(&replayed, || text(&replayed));
    if replayed.outcome == "done" {
        return Ok(());
    }
    let next = match &replayed.dir {
        Some(dir) => {
            format!("its inputs are in {}; docs/prover-protocol.md says how to run it by hand on them", dir.display())
        }
        None => "--keep leaves its inputs here, to run the prover by hand on them".to_owned(),
    };
    let what = match replayed.outcome {
        "stopped" => "stopped before the prover had answered",
        "killed" => "the prover was killed here, too: it exceeded a limit of its stage",
        _ => "the prover failed on this task here",
    };
    Err(Trouble::failed(what).next(next).coded(ErrorCode::ProverReportedFailure).into())
}

/// `TASK`, or the last attempt at `CHAIN NUMBER NODE`.
async fn task_id(args: &args::Replay, remote: &Remote, context: &Context) -> anyhow::Result<TaskId> {
    let usage = |what: String| {
        Trouble::usage(what)
            .next("give a task as `push0 why CHAIN NUMBER` prints it, or a chain, a number and a node: push0 replay demo 7 1.0.3")
            .coded(ErrorCode::BadUsage)
    };
    match &args.task[..] {
        [task] => Ok(task.parse::<TaskId>().map_err(|error| usage(error.to_string()))?),
        [chain, number, node] => {
            let chain: ChainId = chain.parse().map_err(|error: push0_core::InvalidId| usage(error.to_string()))?;
            let number = number_and_lane(number).ok_or_else(|| usage(format!("{number:?} is not a block number")))?;
            let node: Node = node.parse().map_err(|error: push0_core::InvalidId| usage(error.to_string()))?;
            let (number, lane) = number;
            let block = view::find(remote, &chain, number).await?;
            let run = RunId::new(chain, number, block.block.epoch).in_lane(lane);
            Ok(block::latest(context, &run, node).await.map_err(|error| explain(error, &run))?)
        }
        _ => Err(usage("a task is one word, or three: CHAIN NUMBER NODE".to_owned()).into()),
    }
}

/// `7`, or of several provers' runs the one in a lane: `7.2`.
fn number_and_lane(text: &str) -> Option<(u64, u16)> {
    let (number, lane) = text.split_once('.').unwrap_or((text, "0"));
    Some((number.parse().ok()?, lane.parse().ok()?))
}

fn explain(error: RecallError, run: &RunId) -> Trouble {
    let RunId { chain, number, .. } = run;
    match error {
        RecallError::Unknown(what) => Trouble::absent(what)
            .next(format!("`push0 block {chain} {number}` and `push0 why {chain} {number}` print the tasks of the block's last run"))
            .coded(ErrorCode::UnknownTask),
        RecallError::NotSent(what) => Trouble::failed(what)
            .next(format!("`push0 why {chain} {number}` says what the block waits for"))
            .coded(ErrorCode::UnknownTask),
        RecallError::Drive(error) => Trouble::failed(format!("the task cannot be put together again: {error}"))
            .next(format!("`push0 why {chain} {number}` says how the block is"))
            .coded(error.code()),
    }
}

/// How its prover is started here.
fn command(args: &args::Replay, remote: &Remote, task: &TaskMessage) -> Result<ProverCommand, Trouble> {
    let configured = remote.prover(&task.id.tag, &task.prover);
    if args.prover_command.is_empty() {
        return configured.cloned().ok_or_else(|| {
            Trouble::failed(format!("prover {} is not configured any more", task.prover))
                .next("say how it is started: --prover-command PROGRAM ARGUMENTS")
                .coded(ErrorCode::ProverMissing)
        });
    }
    let form = configured.map_or(Form::Session, |command| command.form);
    let given = ProverCommand::new(form, args.prover_command.clone());
    Ok(match configured {
        Some(configured) => ProverCommand { command: given.command, ..configured.clone() },
        None => given,
    })
}

/// Where it happens; a temporary directory goes with this.
struct Place {
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn new(args: &args::Replay) -> anyhow::Result<Self> {
        if let Some(dir) = &args.dir {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            if dir.read_dir().with_context(|| format!("cannot read {}", dir.display()))?.next().is_some() {
                return Err(Trouble::usage(format!("{} is not empty", dir.display()))
                    .next("name another directory with --dir")
                    .coded(ErrorCode::FileExists)
                    .into());
            }
            return Ok(Self { dir: dir.canonicalize()?, temporary: None });
        }
        let made = tempfile::Builder::new().prefix("push0-replay-").tempdir().context("cannot make a directory")?;
        if args.keep {
            return Ok(Self { dir: made.keep(), temporary: None });
        }
        Ok(Self { dir: made.path().to_owned(), temporary: Some(made) })
    }

    fn kept(&self) -> Option<PathBuf> {
        self.temporary.is_none().then(|| self.dir.clone())
    }
}

/// Fetches the inputs, each checked against what the task pins.
async fn fetch(remote: &Remote, task: &TaskMessage, dir: &Path, output: Output) -> anyhow::Result<Vec<PathBuf>> {
    let at = dir.join("in");
    std::fs::create_dir_all(&at).with_context(|| format!("cannot make {}", at.display()))?;
    let mut paths = Vec::new();
    let mut inputs = task.inputs.clone();
    let mut position = 0;
    while let Some(wanted) = inputs.get(position) {
        let path = at.join(position.to_string());
        fetch_input(remote, task, position, wanted, &path).await?;
        output.note(&format!("input {position}  {} ({} bytes), as pinned", wanted.key, wanted.size));
        if task.expand && position == 0 {
            let manifest = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            inputs.extend(expand(&manifest, &Limits::default()).map_err(|why| {
                Trouble::failed(format!("the batch's manifest ({}) cannot be used: {why}", inputs[0].key))
                    .next("that is why the task fails; docs/errors/P0-007.md says what to do about it")
                    .coded(ErrorCode::WitnessDamaged)
            })?);
        }
        paths.push(path);
        position += 1;
    }
    let described = serde_json::to_vec_pretty(task).context("a task is plain data")?;
    std::fs::write(dir.join("task.json"), described).with_context(|| format!("cannot write to {}", dir.display()))?;
    Ok(paths)
}

async fn fetch_input(
    remote: &Remote,
    task: &TaskMessage,
    position: usize,
    wanted: &BlobRef,
    path: &Path,
) -> anyhow::Result<()> {
    let damaged = |why: String| {
        let code = match task.kind {
            Kind::Split if position > 0 => ErrorCode::ArtifactDamaged,
            Kind::Split => ErrorCode::WitnessDamaged,
            Kind::Map => ErrorCode::SplitDamaged,
            Kind::Join | Kind::Single | Kind::Verify => ErrorCode::ArtifactDamaged,
        };
        Trouble::failed(format!("input {position} ({}) is not the one pinned as {}: {why}", wanted.key, wanted.sha256))
            .next(format!("that is why the task fails; docs/errors/{code}.md says what to do about it"))
            .coded(code)
    };
    let info = match remote.blobs.get_file(&wanted.key, path).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Err(damaged(error.to_string()).into()),
        fetched => fetched?,
    };
    let Some(info) = info else {
        return Err(Trouble::failed(format!("input {position} is not stored any more ({})", wanted.key))
            .next("a task can be replayed as long as its block's blobs are kept")
            .coded(ErrorCode::InputMissing)
            .into());
    };
    if info.sha256 != wanted.sha256 {
        return Err(damaged(format!("its SHA-256 is {}", info.sha256)).into());
    }
    Ok(())
}

/// Shows a prover's log as it comes.
struct Show(Output);

impl Onlooker for Show {
    fn sees(&self, seen: Seen<'_>) {
        if let Seen::Logged(line) = seen {
            self.0.note(&format!("  | {line}"));
        }
    }
}

async fn prove(
    task: &TaskMessage,
    command: &ProverCommand,
    inputs: &[PathBuf],
    dir: &Path,
    output: Output,
) -> anyhow::Result<Proved> {
    let provers = BTreeMap::from([(task.prover.clone(), command.clone())]);
    let rig = prover::rig_of(provers, dir, Limits::default())?;
    let mut rig = rig.watched_by(Arc::new(Show(output)));
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let proved = rig.run(task.clone(), inputs, stop).await.context("cannot run the prover")?;
    rig.close().await;
    Ok(proved)
}

fn inputs_of(recalled: &Recalled) -> Vec<Input> {
    let inputs = recalled.task.inputs.iter().cloned().enumerate();
    inputs.map(|(position, blob)| Input { blob, revoked: recalled.revoked.contains(&(position as u32)) }).collect()
}

fn accepted(accepted: &Accepted) -> AcceptedEarlier {
    match accepted {
        Accepted::Artifact(artifact) => AcceptedEarlier {
            attempt: artifact.attempt.0,
            sha256: Some(artifact.blob.sha256),
            worker: Some(artifact.worker.to_string()),
            verdict: None,
        },
        Accepted::Split(slot) => {
            AcceptedEarlier { attempt: slot.attempt.0, sha256: Some(slot.manifest.sha256), worker: None, verdict: None }
        }
        Accepted::Verdict(slot) => {
            AcceptedEarlier { attempt: slot.attempt.0, sha256: None, worker: None, verdict: Some(slot.verdict) }
        }
    }
}

/// The node's note about the attempt; the run's own reason where it was this task that ended it.
fn failed_then(recalled: &Recalled) -> Option<String> {
    let note = recalled.failed.as_ref().map(|FailureNote { kind, message, worker, .. }| {
        let by = worker.as_ref().map_or(String::new(), |worker| format!(" on {worker}"));
        format!("{}{by}: {message}", kind_name(*kind))
    });
    let ended = recalled.run_failed.as_deref().filter(|reason| {
        push0_core::block::failed_node(reason) == Some(recalled.task.id.node)
            && recalled.latest == recalled.task.id.attempt
    });
    note.or_else(|| ended.map(str::to_owned))
}

fn product(made: &Made) -> anyhow::Result<Product> {
    Ok(match made {
        Made::Artifact(data) => {
            let (file, size, sha256) = digest(data)?;
            Product::Artifact { file, size, sha256 }
        }
        Made::Split { segments, header, .. } => Product::Split {
            header: digest(header)?.2,
            segments: segments.iter().map(|data| Ok(digest(data)?.2)).collect::<io::Result<_>>()?,
        },
        Made::Verdict { verdict, message, .. } => Product::Verdict { verdict: *verdict, message: message.clone() },
    })
}

fn digest(data: &Data) -> io::Result<(PathBuf, u64, Sha256)> {
    match data {
        Data::Memory(bytes) => Ok((PathBuf::new(), bytes.len() as u64, Sha256::of(bytes))),
        Data::File(path) => {
            let (mut file, mut hasher, mut size) = (File::open(path)?, sha2::Sha256::new(), 0);
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok((path.clone(), size, Sha256(hasher.finalize().into())));
                }
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// Whether what was made here is what was accepted; none where there is nothing to compare.
async fn equals(context: &Context, made: &Product, accepted: Option<&Accepted>) -> anyhow::Result<Option<bool>> {
    Ok(match (made, accepted) {
        (Product::Artifact { sha256, .. }, Some(Accepted::Artifact(artifact))) => Some(*sha256 == artifact.blob.sha256),
        (Product::Split { header, segments }, Some(Accepted::Split(slot))) => {
            let stored = block::segments(context, slot).await?;
            let same = stored.iter().map(|blob| blob.sha256).eq(segments.iter().copied());
            Some(same && *header == slot.header.sha256)
        }
        (Product::Verdict { verdict, .. }, Some(Accepted::Verdict(slot))) => Some(*verdict == slot.verdict),
        _ => None,
    })
}

fn text(replayed: &Replayed) -> String {
    let mut lines = Vec::new();
    match (&replayed.made, &replayed.failure) {
        (Some(Product::Artifact { file, size, sha256 }), _) => {
            let place = if replayed.dir.is_some() { file.display().to_string() } else { "an output".to_owned() };
            lines.push(format!("done: {place}, {size} bytes, sha256 {sha256}"));
        }
        (Some(Product::Split { header, segments }), _) => {
            lines.push(format!("done: {} segments, header sha256 {header}", segments.len()));
        }
        (Some(Product::Verdict { verdict, message }), _) => {
            let said = message.as_ref().map_or(String::new(), |message| format!(": {message}"));
            lines.push(format!("done: verdict {}{said}", verdict_name(*verdict)));
        }
        (None, Some(Failed { kind, code, message, accused })) => {
            let code = code.as_ref().map_or(String::new(), |code| format!(" {code}"));
            let message = message.replace('\n', "\n  ");
            lines.push(format!("{}, {kind}:{code} {message}", replayed.outcome));
            if !accused.is_empty() {
                let inputs: Vec<String> = accused.iter().map(u32::to_string).collect();
                lines.push(format!("  it accuses input {}", inputs.join(", ")));
            }
        }
        (None, None) => lines.push(replayed.outcome.to_owned()),
    }
    if let Some(accepted) = &replayed.accepted {
        let by = accepted.worker.as_ref().map_or(String::new(), |worker| format!(" by {worker}"));
        let what = format!("what was accepted (attempt {}{by})", accepted.attempt);
        lines.push(match replayed.equals_accepted {
            Some(true) => format!("  equal to {what}"),
            Some(false) => format!("  not equal to {what}: {}", accepted_as(accepted)),
            None => format!("  to compare: {what}: {}", accepted_as(accepted)),
        });
    } else if replayed.made.is_some() {
        lines.push("  nothing was accepted from this node yet".to_owned());
    }
    if let Some(then) = &replayed.failed_then {
        lines.push(format!("  when a worker ran it: {}", then.replace('\n', "\n    ")));
    }
    for input in replayed.inputs.iter().filter(|input| input.revoked) {
        lines.push(format!("  {} was revoked since: later attempts read another", input.blob.key));
    }
    if let Some(dir) = &replayed.dir {
        lines.push(format!("  kept in {}", dir.display()));
    }
    lines.join("\n")
}

fn accepted_as(accepted: &AcceptedEarlier) -> String {
    match (accepted.sha256, accepted.verdict) {
        (Some(sha256), _) => format!("sha256 {sha256}"),
        (None, Some(verdict)) => format!("verdict {}", verdict_name(verdict)),
        (None, None) => "nothing".to_owned(),
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::BadProof => "bad proof",
        Verdict::BadBlock => "bad block",
    }
}
