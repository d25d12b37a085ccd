//! What a prover says, without its process: for tests of provers that mean ill.

use std::path::Path;

use push0_prover::wire::{Failure, FromProver, TaskResult};
use tokio::io::AsyncBufRead;

use super::session::{self, Said};
use super::{Job, Outcome, answer, exec};

/// Every message of a session's stdout, up to its end or the first thing that is none: then what is wrong with it.
pub async fn session(stdout: &mut (impl AsyncBufRead + Unpin)) -> (Vec<FromProver>, Option<String>) {
    let (mut messages, mut line) = (Vec::new(), Vec::new());
    loop {
        match session::next(stdout, &mut line).await {
            None => return (messages, None),
            Some(Said::Message(message)) => messages.push(message),
            Some(Said::Garbage(what)) => return (messages, Some(what)),
        }
    }
}

/// A `result.json`: what `done` or `failed` would have carried.
pub fn result(bytes: &[u8]) -> Result<Result<TaskResult, Failure>, String> {
    exec::result(bytes).map(|answer| match answer {
        exec::Answer::Result(result) => Ok(result),
        exec::Answer::Failed(failure) => Err(failure),
    })
}

/// What an answer to a job comes to, its output being there or not.
pub fn outcome(job: &Job, output: &Path, said: Result<TaskResult, Failure>) -> Outcome {
    match said {
        Ok(result) => answer::done(job, output, result),
        Err(failure) => answer::failed(job, failure),
    }
}
