//! The digest of a prover's own program file, for pipelines that pin it.
//!
//! A pipeline pins it under the name `executable`. It is the file that `command` begins with: for a script run by an interpreter that the
//! command names, it is the interpreter. It guards against a wrong or forgotten upgrade, not against a lying host: the file is read, then
//! executed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use push0_core::message::TaskMessage;
use push0_core::pipeline::ProverCommand;
use push0_core::{ErrorCode, ProverName, Sha256};

use super::{Failure, digest_of_file, find_program};

/// The name under which `programs` pins a prover's own program file.
pub const EXECUTABLE: &str = push0_core::pipeline::EXECUTABLE;

/// A file as it was when it was read: device, inode, size, and when it and its entry were changed, nanoseconds included.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State([i128; 5]);

static KNOWN: Mutex<BTreeMap<PathBuf, (State, Sha256)>> = Mutex::new(BTreeMap::new());

/// SHA-256 of the program that the command starts; read again only where the file has changed. Says what is wrong for people.
pub async fn digest(prover: &ProverCommand) -> Result<Sha256, String> {
    let program = prover.command.first().map(String::as_str).unwrap_or_default();
    let path = find_program(program)
        .ok_or_else(|| ErrorCode::ProverMissing.says(format!("no program {program} on this worker")))?;
    let at = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || of_file(&path)).await.map_err(std::io::Error::other);
    read.flatten().map_err(|error| ErrorCode::ProverMissing.says(format!("cannot read the program {at}: {error}")))
}

/// Whether an exec-form prover is what the task's pipeline pins. It says no hello: only its program file can be compared.
pub(super) async fn suits(name: &ProverName, prover: &ProverCommand, task: &TaskMessage) -> Result<(), Failure> {
    for (program, pinned) in &task.programs {
        if program != EXECUTABLE {
            return Err(differs(name, program, None, pinned));
        }
        let found = digest(prover).await.map_err(|why| Failure::retryable(ErrorCode::ProverMissing.says(why)))?;
        if found != *pinned {
            return Err(differs(name, program, Some(&found.to_string()), pinned));
        }
    }
    Ok(())
}

pub(super) fn differs(name: &ProverName, program: &str, offered: Option<&str>, pinned: &Sha256) -> Failure {
    let offered = offered.unwrap_or("none of that name");
    Failure::retryable(ErrorCode::ProgramDiffers.says(format!(
        "prover {name} on this worker has another program {program} than the pipeline pins: {offered}, not {pinned}"
    )))
}

fn of_file(path: &Path) -> std::io::Result<Sha256> {
    let before = state(path)?;
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
    if let Some((_, digest)) = known.filter(|(state, _)| *state == before) {
        return Ok(digest);
    }
    let digest = digest_of_file(path)?;
    // What changed while it was read is not remembered.
    if state(path)? == before {
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (before, digest));
    }
    Ok(digest)
}

fn state(path: &Path) -> std::io::Result<State> {
    let found = path.metadata()?;
    let nanoseconds = |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
    Ok(State([
        found.dev().into(),
        found.ino().into(),
        found.size().into(),
        nanoseconds(found.mtime(), found.mtime_nsec()),
        nanoseconds(found.ctime(), found.ctime_nsec()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_was_replaced_or_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prover");
        for content in ["one", "two", "three"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(of_file(&path).unwrap(), Sha256::of(content.as_bytes()));
            assert_eq!(of_file(&path).unwrap(), Sha256::of(content.as_bytes()));
        }
        let other = dir.path().join("other");
        std::fs::write(&other, "other").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(of_file(&path).unwrap(), Sha256::of(b"other"));
    }
}
