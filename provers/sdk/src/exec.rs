//! The exec form: one process a task, its answer an exit code and, where needed, a `result.json`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::session::run_caught;
use crate::wire::{self, FromProver, ToProver};
use crate::{BlockRef, Ctx, FailureKind, Kind, Prover, Task, TaskResult};

/// Exit code for a command line that is no task (`EX_USAGE`).
pub(crate) const EXIT_USAGE: u8 = 64;

/// The exec form's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecTask {
    pub stage: String,
    pub inputs: Vec<PathBuf>,
    pub output: PathBuf,
    /// Nothing is to be proven: see [`Task::check`].
    pub check: bool,
}

impl ExecTask {
    /// Reads `--stage S --input-path P… --output-path P` (also `--flag=value`); says what is wrong otherwise.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let (mut stage, mut inputs, mut output, mut check) = (None, Vec::new(), None, false);
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy().into_owned();
            let (flag, inline) = match text.split_once('=') {
                Some((flag, value)) if text.starts_with("--") => (flag.to_owned(), Some(OsString::from(value))),
                _ => (text, None),
            };
            let mut value = || inline.clone().or_else(|| args.next()).ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--stage" => stage = Some(value()?.to_string_lossy().into_owned()),
                "--input-path" => inputs.push(PathBuf::from(value()?)),
                "--check" => check = true,
                "--output-path" => output = Some(PathBuf::from(value()?)),
                other => {
                    return Err(format!(
                        "unknown argument {other}; the exec form takes --stage, --input-path, --output-path and --check"
                    ));
                }
            }
        }
        Ok(Self {
            stage: stage.ok_or("--stage is missing")?,
            inputs,
            output: output.ok_or("--output-path is missing")?,
            check,
        })
    }
}

/// Runs one task and says how it went by exit code: 0, 75 (retryable), 79 (out of memory) or 1 (permanent, bad input).
///
/// Parameters, block and kind come from the file that `PUSH0_TASK` names; without it parameters are null, the kind
/// is the first that `hello` offers for the stage, and the block is nameless.
pub fn exec(mut prover: impl Prover, args: ExecTask) -> ExitCode {
    let task = match describe(&prover, args) {
        Ok(task) => task,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let ctx = Ctx::new(Default::default(), |fraction, message| {
        let percent = fraction.map(|fraction| format!("{:.0}% ", fraction * 100.0)).unwrap_or_default();
        eprintln!("{percent}{}", message.unwrap_or_default());
    });
    let (code, answer) = match run_caught(&mut prover, &task, &ctx) {
        Ok(result) => {
            let needed = result != TaskResult::default();
            (0, needed.then(|| serde_json::to_vec(&result)))
        }
        Err(failure) => {
            eprintln!("{}", failure.message);
            let code = match failure.kind {
                FailureKind::Retryable => wire::EXIT_RETRYABLE as u8,
                FailureKind::OutOfMemory => wire::EXIT_OUT_OF_MEMORY as u8,
                FailureKind::Permanent | FailureKind::BadInput => 1,
            };
            let named = failure.kind == FailureKind::BadInput;
            (code, named.then(|| serde_json::to_vec(&FromProver::Failed { id: task.id.clone(), failure })))
        }
    };
    if let Some(answer) = answer {
        let written = answer.map_err(std::io::Error::from).and_then(|bytes| std::fs::write(result_path(&task), bytes));
        if let Err(error) = written {
            eprintln!("could not write result.json: {error}");
            return ExitCode::from(wire::EXIT_RETRYABLE as u8);
        }
    }
    ExitCode::from(code)
}

/// `result.json` lies in the directory that holds the output path.
fn result_path(task: &Task) -> PathBuf {
    task.output.with_file_name("result.json")
}

fn describe(prover: &impl Prover, args: ExecTask) -> Result<Task, String> {
    let told = match std::env::var_os(wire::TASK_ENV) {
        None => None,
        Some(path) => {
            let bytes = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", wire::TASK_ENV))?;
            match serde_json::from_slice(&bytes) {
                Ok(ToProver::Task(task)) => Some(task),
                Ok(_) => return Err(format!("{} does not hold a task", wire::TASK_ENV)),
                Err(error) => return Err(format!("{} does not hold a task: {error}", wire::TASK_ENV)),
            }
        }
    };
    let ExecTask { stage, inputs, output, check } = args;
    if let Some(task) = told {
        return Ok(Task { stage, inputs, output, check, ..task });
    }
    let offers = prover.hello().stages;
    let kind = offers.iter().find(|offer| offer.name == stage).map_or(Kind::Single, |offer| offer.kind);
    let deadline_ms = std::env::var(wire::DEADLINE_ENV).ok().and_then(|left| left.parse().ok());
    let block = BlockRef { chain: String::new(), number: 0, hash: String::new(), parent_hash: None };
    Ok(Task {
        id: "exec".to_owned(),
        stage,
        kind,
        inputs,
        output,
        params: serde_json::Value::Null,
        check,
        deadline_ms,
        block,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<ExecTask, String> {
        ExecTask::from_args(args.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_read_in_both_spellings() {
        let task =
            parse(&["--stage", "join", "--input-path=/a", "--input-path", "/b=c", "--output-path", "/o"]).unwrap();
        assert_eq!(task.inputs, [PathBuf::from("/a"), PathBuf::from("/b=c")]);
        assert_eq!((task.stage.as_str(), task.output), ("join", PathBuf::from("/o")));
    }

    #[test]
    fn a_command_line_that_is_no_task_says_what_is_missing() {
        assert!(parse(&["--stage", "x"]).unwrap_err().contains("--output-path"));
        assert!(parse(&["--output-path", "x"]).unwrap_err().contains("--stage"));
        assert!(parse(&["--stage"]).unwrap_err().contains("needs a value"));
        assert!(parse(&["--speed", "9"]).unwrap_err().contains("--speed"));
    }
}
