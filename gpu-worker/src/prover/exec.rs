//! The exec form: one process a task. Its answer is an exit code and, where the kind needs one, a `result.json`.

use std::path::Path;

use push0_core::ErrorCode;
use push0_core::pipeline::ProverCommand;
use push0_prover::wire::{self, DEADLINE_ENV, EXIT_OUT_OF_MEMORY, EXIT_RETRYABLE, FromProver, TASK_ENV};

use super::memory::{self, Kills};
use super::process::{Log, describe};
use super::{Failure, Job, Launcher, Outcome, Watch, answer};

/// Never reported: the task has ended.
const CANCELLED: &str = "cancelled";

/// Largest `result.json` read, bytes.
const MAX_RESULT: u64 = 1 << 20;

/// Runs the prover for one task. It is killed when the task is cancelled.
pub(super) async fn prove(
    launcher: &Launcher,
    prover: &ProverCommand,
    job: &Job,
    watch: &Watch,
    started: impl FnOnce(Log),
) -> Outcome {
    let told = answer::task(job, watch.clock().now()).and_then(|(task, output)| {
        let described = output.with_file_name("task.json");
        let further = launcher.onlooker().map(|onlooker| onlooker.further_fields()).unwrap_or_default();
        std::fs::write(&described, answer::message(task.clone(), further).to_string()).map_err(|error| {
            let what = format!("cannot write {}: {error}", described.display());
            Failure::retryable(ErrorCode::ScratchUnusable.says(what))
        })?;
        Ok((task, output, described))
    });
    let (task, output, described) = match told {
        Ok(told) => told,
        Err(failure) => return failure.into(),
    };
    let arguments = |command: &mut tokio::process::Command| {
        command.arg("--stage").arg(&task.stage);
        task.inputs.iter().for_each(|input| {
            command.arg("--input-path").arg(input);
        });
        command.arg("--output-path").arg(&output).env(TASK_ENV, &described);
        match task.deadline_ms {
            Some(left) => command.env(DEADLINE_ENV, left.to_string()),
            None => command.env_remove(DEADLINE_ENV),
        };
        if task.check {
            command.arg("--check");
        }
        // Its stdout is not read: nothing it prints there may block it.
        command.stdout(std::process::Stdio::null());
    };
    let kills = Kills::now();
    let mut process = match launcher.launch(&job.task.prover, prover, arguments).await {
        Ok(process) => process,
        Err(why) => return Failure::retryable(why).into(),
    };
    started(process.log());
    tokio::select! {
        biased;
        status = process.wait() => if let Err(error) = status {
            let what = format!("cannot wait for prover {}: {error}", job.task.prover);
            return Failure::retryable(ErrorCode::ProverCrashed.says(what)).into();
        },
        () = watch.cancelled() => return Failure::retryable(CANCELLED).into(),
    }
    let (status, last_words) = process.end(watch.clock()).await;
    let result = read_result(&output.with_file_name("result.json"));
    match status.and_then(|status| status.code()) {
        Some(0) => match result {
            Ok(Some(Answer::Result(result))) => answer::done(job, &output, result),
            Ok(None) => answer::done(job, &output, wire::TaskResult::default()),
            Ok(Some(Answer::Failed(failure))) => answer::failed(job, failure),
            Err(why) => Failure::retryable(ErrorCode::ProverBrokeProtocol.says(why)).into(),
        },
        code => {
            if let Ok(Some(Answer::Failed(failure))) = result {
                return answer::failed(job, failure);
            }
            let how = format!("prover {} {}\n{last_words}", job.task.prover, describe(status));
            let (how, crashed) = (how.trim_end(), ErrorCode::ProverCrashed);
            let ran_out = memory::ran_out(status, &last_words, kills, Kills::now());
            match code {
                // It asks for more memory, or would have.
                Some(EXIT_OUT_OF_MEMORY) => Failure::out_of_memory(ErrorCode::ProverOutOfMemory.says(how)).into(),
                code if ran_out && code != Some(EXIT_RETRYABLE) => {
                    Failure::out_of_memory(ErrorCode::ProverOutOfMemory.says(how)).into()
                }
                None => Failure::retryable(crashed.says(how)).into(),
                // It asks for another try: its way of saying that it failed.
                Some(EXIT_RETRYABLE) => Failure::retryable(ErrorCode::ProverReportedFailure.says(how)).into(),
                Some(_) => Failure::permanent(crashed.says(how)).into(),
            }
        }
    }
}

enum Answer {
    Result(wire::TaskResult),
    Failed(wire::Failure),
}

/// `None`: there is none.
fn read_result(path: &Path) -> Result<Option<Answer>, String> {
    let size = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read result.json: {error}")),
    };
    if size > MAX_RESULT {
        return Err(format!("result.json has {size} bytes, more than {MAX_RESULT}"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read result.json: {error}"))?;
    if let Ok(FromProver::Failed { failure, .. }) = serde_json::from_slice(&bytes) {
        return Ok(Some(Answer::Failed(failure)));
    }
    let result = serde_json::from_slice(&bytes).map_err(|error| format!("result.json is no result: {error}"))?;
    Ok(Some(Answer::Result(result)))
}
