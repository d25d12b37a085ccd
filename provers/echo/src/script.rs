//! The failure script: which rule applies to a task, counted across processes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use push0_prover::{Failure, Task};
use sha2::{Digest, Sha256};

use crate::content;
use crate::params::{Params, Rule, RuleKind};

/// Environment variable naming the directory in which rules count.
const STATE_ENV: &str = "PUSH0_ECHO_STATE";

/// What the script says happens to a task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Fail(Failure),
    Hang,
    Crash,
    Garbage,
    BadVerdict,
}

/// The first rule that matches the task and has times left; that uses one of them up.
pub(crate) fn action(params: &Params, task: &Task) -> Result<Option<Action>, Failure> {
    let state = std::env::var_os(STATE_ENV).map(PathBuf::from).or_else(|| params.state_dir.clone());
    for (at, rule) in params.fail.iter().enumerate() {
        if matches(rule, task) && claim(rule, at, state.as_deref())? {
            return Ok(Some(act(rule)));
        }
    }
    Ok(None)
}

fn act(rule: &Rule) -> Action {
    let message = if rule.message.is_empty() { "the failure script says so" } else { &rule.message };
    match rule.kind {
        RuleKind::Retryable => Action::Fail(Failure::retryable(message)),
        RuleKind::Permanent => Action::Fail(Failure::permanent(message)),
        RuleKind::BadInput => Action::Fail(Failure::bad_input(rule.children.clone(), message)),
        RuleKind::OutOfMemory => Action::Fail(Failure::out_of_memory(message)),
        RuleKind::Hang => Action::Hang,
        RuleKind::Crash => Action::Crash,
        RuleKind::Garbage => Action::Garbage,
        RuleKind::BadVerdict => Action::BadVerdict,
    }
}

fn matches(rule: &Rule, task: &Task) -> bool {
    let first_segment = || {
        let bytes = task.inputs.first().and_then(|input| fs::read(input).ok())?;
        content::covers(&bytes).ok().map(|covers| covers.first)
    };
    rule.stage.as_ref().is_none_or(|stage| *stage == task.stage)
        && rule.id.as_ref().is_none_or(|part| task.id.contains(part))
        && rule.number.is_none_or(|number| number == task.block.number)
        && rule.index.is_none_or(|index| first_segment() == Some(index))
}

/// Takes one of a rule's times: the first file `rule-{key}-{n}` that does not exist yet, made atomically.
///
/// The key covers the rule and its place, so that two equal rules count apart.
fn claim(rule: &Rule, at: usize, state: Option<&Path>) -> Result<bool, Failure> {
    let Some(times) = rule.times else { return Ok(true) };
    let Some(state) = state else {
        return Err(Failure::permanent(format!("a rule with `times` needs {STATE_ENV} or the parameter state_dir")));
    };
    fs::create_dir_all(state).map_err(Failure::retryable)?;
    let key = hex::encode(&Sha256::digest(format!("{at} {rule:?}"))[..8]);
    for time in 0..times {
        match fs::OpenOptions::new().write(true).create_new(true).open(state.join(format!("rule-{key}-{time}"))) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::retryable(error)),
        }
    }
    Ok(false)
}
