//! Between the prover protocol's words and the worker's: the task as it is told, the answer as it is understood.

use std::path::{Path, PathBuf};

use push0_core::message::{FailureKind, TaskMessage};
use push0_core::pipeline::{Kind, MAX_SEGMENTS};
use push0_core::record::Verdict;
use push0_core::{ErrorCode, Millis};
use push0_prover::wire;
use serde_json::{Map, Value};

use super::{Data, Failure, Job, Outcome, Output};

/// Where a job's prover writes: a file, or for `split` a directory.
pub(super) fn output_path(dir: &Path) -> PathBuf {
    dir.join("out").join("output")
}

/// The task as the prover is told it.
/// What is told of its deadline counts from `now`.
pub(super) fn task(job: &Job, now: Millis) -> Result<(wire::Task, PathBuf), Failure> {
    let in_files: Option<Vec<PathBuf>> = job.inputs.iter().map(|data| data.path().map(Path::to_owned)).collect();
    let (Some(inputs), Some(dir)) = (in_files, &job.dir) else {
        let what = "this prover reads and writes files, and the task's inputs are in memory";
        return Err(Failure::retryable(ErrorCode::InvariantBroken.says(what)));
    };
    let TaskMessage { id, stage, kind, params, block_hash, parent_hash, .. } = &job.task;
    let output = output_path(dir);
    let task = wire::Task {
        id: id.to_string(),
        stage: stage.to_string(),
        kind: wire_kind(*kind),
        inputs,
        output: output.clone(),
        params: params.clone(),
        check: job.task.check.is_some(),
        deadline_ms: job.task.deadline.map(|deadline| deadline.since(now).0),
        block: wire::BlockRef {
            chain: id.run.chain.to_string(),
            number: id.run.number,
            hash: block_hash.to_string(),
            parent_hash: parent_hash.map(|parent| parent.to_string()),
        },
    };
    Ok((task, output))
}

/// The task as a message, with fields that are not the protocol's.
pub(super) fn message(task: wire::Task, further: Map<String, Value>) -> Value {
    let mut message = serde_json::to_value(wire::ToProver::Task(task)).expect("a task is plain data");
    if let Value::Object(fields) = &mut message {
        fields.extend(further);
    }
    message
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
        _ if job.task.check.is_some() => verdict(result),
        Kind::Map | Kind::Join | Kind::Single => artifact(output),
        Kind::Split => split(output, result),
        Kind::Verify => verdict(result),
    };
    match understood {
        Ok(output) => Outcome::Done(output),
        Err(Unusable { code, why }) => Failure::retryable(code.says(format!("the prover said done, but {why}"))).into(),
    }
}

/// Why what a prover left cannot be taken.
struct Unusable {
    code: ErrorCode,
    why: String,
}

/// An answer that lacks what its kind needs.
fn untold(why: impl std::fmt::Display) -> Unusable {
    Unusable { code: ErrorCode::ProverBrokeProtocol, why: why.to_string() }
}

/// A plain file of the task's own directory: what a link leads to may be anybody's.
fn plain_file(path: &Path, what: &str) -> Result<Data, Unusable> {
    let escapes = |why: String| Unusable { code: ErrorCode::OutputEscapes, why };
    match path.symlink_metadata() {
        Err(_) => Err(Unusable { code: ErrorCode::OutputMissing, why: format!("wrote no {what}") }),
        Ok(found) if found.is_file() => Ok(Data::File(path.to_owned())),
        Ok(found) if found.is_symlink() => Err(escapes(format!("its {what} is a symbolic link"))),
        Ok(_) => Err(escapes(format!("its {what} is no plain file"))),
    }
}

/// A directory of the task's own.
fn own_directory(path: &Path, what: &str) -> Result<(), Unusable> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_dir() => {
            Err(Unusable { code: ErrorCode::OutputEscapes, why: format!("its {what} is no directory of its own") })
        }
        _ => Ok(()),
    }
}

fn artifact(output: &Path) -> Result<Output, Unusable> {
    plain_file(output, "output file").map(Output::Artifact)
}

fn split(output: &Path, result: wire::TaskResult) -> Result<Output, Unusable> {
    let count = result.segments.ok_or_else(|| untold("did not say how many segments"))?;
    if count > MAX_SEGMENTS {
        let why = format!("made {count} segments, more than {MAX_SEGMENTS}");
        return Err(Unusable { code: ErrorCode::SegmentCount, why });
    }
    let hash = result.hash.ok_or_else(|| untold("did not say the header's hash"))?.parse().map_err(untold)?;
    let parent_hash = result.parent_hash.map(|hash| hash.parse()).transpose().map_err(untold)?;
    own_directory(output, "output directory")?;
    own_directory(&output.join("segments"), "directory segments")?;
    let file = |name: String| plain_file(&output.join(&name), &name);
    let segments = (0..count).map(|number| file(format!("segments/{number:06}"))).collect::<Result<_, _>>()?;
    let header = file("header".to_owned())?;
    Ok(Output::Split { segments, header, hash, parent_hash })
}

fn verdict(result: wire::TaskResult) -> Result<Output, Unusable> {
    let verdict = match result.verdict.ok_or_else(|| untold("gave no verdict"))? {
        wire::Verdict::Ok => Verdict::Ok,
        wire::Verdict::BadProof => Verdict::BadProof,
        wire::Verdict::BadBlock => Verdict::BadBlock,
    };
    let outputs = result.outputs.map(|outputs| outputs.parse()).transpose().map_err(untold)?;
    Ok(Output::Verdict { verdict, message: result.message, outputs })
}

/// What `failed` comes to. An accusation names inputs that exist; where there is only one, it needs no naming.
pub(super) fn failed(job: &Job, failure: wire::Failure) -> Outcome {
    let wire::Failure { kind, message, mut children } = failure;
    let code = match kind {
        wire::FailureKind::BadInput => ErrorCode::ArtifactAccused,
        wire::FailureKind::OutOfMemory => ErrorCode::ProverOutOfMemory,
        wire::FailureKind::Retryable | wire::FailureKind::Permanent => ErrorCode::ProverReportedFailure,
    };
    let message = code.says(message);
    match kind {
        wire::FailureKind::Retryable => Failure::retryable(message).into(),
        wire::FailureKind::Permanent => Failure::permanent(message).into(),
        wire::FailureKind::OutOfMemory => Failure::out_of_memory(message).into(),
        wire::FailureKind::BadInput => {
            children.retain(|child| (*child as usize) < job.inputs.len());
            children.sort_unstable();
            children.dedup();
            if children.is_empty() && job.inputs.len() == 1 {
                children.push(0);
            }
            if children.is_empty() {
                let what = format!("bad input, but no input is named: {}", ErrorCode::split(&message).1);
                return Failure::retryable(ErrorCode::ProverReportedFailure.says(what)).into();
            }
            Failure::new(FailureKind::BadInput, message, children).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_its_own_directory_are_taken_from_a_prover() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let code = |output: PathBuf| artifact(&output).err().map(|unusable| unusable.code);
        std::fs::write(at("file"), "proof").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(code(at("file")), None);
        assert_eq!(code(at("link")), Some(ErrorCode::OutputEscapes));
        assert_eq!(code(dir.path().to_owned()), Some(ErrorCode::OutputEscapes));
        assert_eq!(code(at("nothing")), Some(ErrorCode::OutputMissing));

        let said = || wire::TaskResult { segments: Some(1), hash: Some("ab".repeat(32)), ..Default::default() };
        let code = |output: PathBuf| split(&output, said()).err().map(|unusable| unusable.code);
        std::fs::create_dir_all(at("out/segments")).unwrap();
        std::fs::write(at("out/segments/000000"), "segment").unwrap();
        assert_eq!(code(at("out")), Some(ErrorCode::OutputMissing), "no header");
        std::fs::write(at("out/header"), "header").unwrap();
        assert_eq!(code(at("out")), None);
        std::fs::create_dir(at("other")).unwrap();
        std::fs::write(at("other/header"), "header").unwrap();
        std::os::unix::fs::symlink(at("out/segments"), at("other/segments")).unwrap();
        assert_eq!(code(at("other")), Some(ErrorCode::OutputEscapes));
        std::os::unix::fs::symlink(at("out"), at("elsewhere")).unwrap();
        assert_eq!(code(at("elsewhere")), Some(ErrorCode::OutputEscapes));
    }
}
