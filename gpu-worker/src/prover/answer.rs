//! Between the prover protocol's words and the worker's: the task as it is told, the answer as it is understood.

use std::path::{Path, PathBuf};

use push0_core::message::{FailureKind, TaskMessage};
use push0_core::pipeline::{Kind, MAX_SEGMENTS};
use push0_core::record::Verdict;
use push0_prover::wire;

use super::{Data, Failure, Job, Outcome, Output};

/// Where a job's prover writes: a file, or for `split` a directory.
pub(super) fn output_path(dir: &Path) -> PathBuf {
    dir.join("out").join("output")
}

/// The task as the prover is told it.
pub(super) fn task(job: &Job) -> Result<(wire::Task, PathBuf), Failure> {
    let in_files: Option<Vec<PathBuf>> = job.inputs.iter().map(|data| data.path().map(Path::to_owned)).collect();
    let (Some(inputs), Some(dir)) = (in_files, &job.dir) else {
        return Err(Failure::retryable("this prover reads and writes files, and the task's inputs are in memory"));
    };
    let TaskMessage { id, stage, kind, params, block_hash, .. } = &job.task;
    let output = output_path(dir);
    let task = wire::Task {
        id: id.to_string(),
        stage: stage.to_string(),
        kind: wire_kind(*kind),
        inputs,
        output: output.clone(),
        params: params.clone(),
        block: wire::BlockRef { chain: id.run.chain.to_string(), number: id.run.number, hash: block_hash.to_string() },
    };
    Ok((task, output))
}

pub(super) fn wire_kind(kind: Kind) -> wire::Kind {
    match kind {
        Kind::Split => wire::Kind::Split,
        Kind::Map => wire::Kind::Map,
        Kind::Join => wire::Kind::Join,
        Kind::Single => wire::Kind::Single,
        Kind::Verify => wire::Kind::Verify,
    }
}

/// What `done` comes to: the output must be there, the result must be what the kind needs.
pub(super) fn done(job: &Job, output: &Path, result: wire::TaskResult) -> Outcome {
    let understood = match job.task.kind {
        Kind::Map | Kind::Join | Kind::Single => artifact(output),
        Kind::Split => split(output, result),
        Kind::Verify => verdict(result),
    };
    match understood {
        Ok(output) => Outcome::Done(output),
        Err(why) => Failure::retryable(format!("the prover said done, but {why}")).into(),
    }
}

fn artifact(output: &Path) -> Result<Output, String> {
    if output.is_file() {
        Ok(Output::Artifact(Data::File(output.to_owned())))
    } else {
        Err("wrote no output file".to_owned())
    }
}

fn split(output: &Path, result: wire::TaskResult) -> Result<Output, String> {
    let count = result.segments.ok_or("did not say how many segments")?;
    if count > MAX_SEGMENTS {
        return Err(format!("made {count} segments, more than {MAX_SEGMENTS}"));
    }
    let hash = result.hash.ok_or("did not say the header's hash")?.parse().map_err(|error| format!("{error}"))?;
    let parent_hash = result.parent_hash.map(|hash| hash.parse()).transpose().map_err(|error| format!("{error}"))?;
    let file = |name: String| {
        let path = output.join(&name);
        if path.is_file() { Ok(Data::File(path)) } else { Err(format!("wrote no {name}")) }
    };
    let segments = (0..count).map(|number| file(format!("segments/{number:06}"))).collect::<Result<_, _>>()?;
    let header = file("header".to_owned())?;
    Ok(Output::Split { segments, header, hash, parent_hash })
}

fn verdict(result: wire::TaskResult) -> Result<Output, String> {
    let verdict = match result.verdict.ok_or("gave no verdict")? {
        wire::Verdict::Ok => Verdict::Ok,
        wire::Verdict::BadProof => Verdict::BadProof,
        wire::Verdict::BadBlock => Verdict::BadBlock,
    };
    Ok(Output::Verdict { verdict, message: result.message })
}

/// What `failed` comes to. An accusation names inputs that exist; where there is only one, it needs no naming.
pub(super) fn failed(job: &Job, failure: wire::Failure) -> Outcome {
    let wire::Failure { kind, message, mut children } = failure;
    match kind {
        wire::FailureKind::Retryable => Failure::retryable(message).into(),
        wire::FailureKind::Permanent => Failure::permanent(message).into(),
        wire::FailureKind::BadInput => {
            children.retain(|child| (*child as usize) < job.task.inputs.len());
            children.sort_unstable();
            children.dedup();
            if children.is_empty() && job.task.inputs.len() == 1 {
                children.push(0);
            }
            if children.is_empty() {
                return Failure::retryable(format!("bad input, but no input is named: {message}")).into();
            }
            Failure::new(FailureKind::BadInput, message, children).into()
        }
    }
}
