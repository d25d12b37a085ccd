//! The exec form: one process a task. Its answer is an exit code and, where the kind needs one, a `result.json`.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;
use push0_core::ErrorCode;
use push0_core::pipeline::ProverCommand;
use push0_core::record::clip_middle;
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
            Err(why) => Failure::retryable(why).into(),
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

pub(super) enum Answer {
    Result(wire::TaskResult),
    Failed(wire::Failure),
}

/// `None`: there is none.
fn read_result(path: &Path) -> Result<Option<Answer>, String> {
    let bad = |code: ErrorCode, why: String| Err(code.says(format!("result.json {why}")));
    // What a link leads to may be anybody's, and from a pipe or a device one might read for ever.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return bad(ErrorCode::OutputEscapes, "is a symbolic link".to_owned());
        }
        Err(error) => return bad(ErrorCode::ProverBrokeProtocol, format!("cannot be read: {error}")),
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return bad(ErrorCode::OutputEscapes, "is no plain file".to_owned());
    }
    let mut bytes = Vec::new();
    if let Err(error) = file.take(MAX_RESULT + 1).read_to_end(&mut bytes) {
        return bad(ErrorCode::ProverBrokeProtocol, format!("cannot be read: {error}"));
    }
    result(&bytes).map(Some)
}

/// What a `result.json` says.
pub(super) fn result(bytes: &[u8]) -> Result<Answer, String> {
    if bytes.len() as u64 > MAX_RESULT {
        let what = format!("result.json has more than {MAX_RESULT} bytes");
        return Err(ErrorCode::OutputTooLarge.says(what));
    }
    if let Ok(FromProver::Failed { failure, .. }) = serde_json::from_slice(bytes) {
        return Ok(Answer::Failed(failure));
    }
    let result = serde_json::from_slice(bytes).map_err(|error: serde_json::Error| {
        let why = clip_middle(&error.to_string(), 500);
        ErrorCode::ProverBrokeProtocol.says(format!("result.json is no result: {why}"))
    })?;
    Ok(Answer::Result(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_from_a_plain_file_of_bounded_size_and_from_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let code = |name: &str| read_result(&at(name)).err().map(|why| ErrorCode::find(&why));
        assert!(matches!(read_result(&at("nothing")), Ok(None)));
        let of = |bytes: u64| format!("{{\"message\":\"{}\"}}", "x".repeat(bytes as usize - 14));
        std::fs::write(at("largest"), of(MAX_RESULT)).unwrap();
        assert!(matches!(read_result(&at("largest")), Ok(Some(Answer::Result(_)))));
        std::fs::write(at("larger"), of(MAX_RESULT + 1)).unwrap();
        assert_eq!(code("larger"), Some(Some(ErrorCode::OutputTooLarge)));
        // Either would be read for ever.
        std::os::unix::fs::symlink("/dev/zero", at("link")).unwrap();
        assert_eq!(code("link"), Some(Some(ErrorCode::OutputEscapes)));
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(code("pipe"), Some(Some(ErrorCode::OutputEscapes)));
        std::fs::create_dir(at("directory")).unwrap();
        assert_eq!(code("directory"), Some(Some(ErrorCode::OutputEscapes)));
        std::fs::write(at("garbage"), [0xff, 0xfe]).unwrap();
        assert_eq!(code("garbage"), Some(Some(ErrorCode::ProverBrokeProtocol)));
    }
}
