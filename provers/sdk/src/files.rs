//! A task's files, read and written with the answers that a worker expects where that fails.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::{Failure, Task};

/// The task's inputs, if there are as many as the stage takes.
pub fn inputs<const N: usize>(task: &Task) -> Result<[&Path; N], Failure> {
    let inputs: Vec<&Path> = task.inputs.iter().map(AsRef::as_ref).collect();
    let given = inputs.len();
    inputs.try_into().map_err(|_| Failure::permanent(format!("{} takes {N} inputs, not {given}", task.stage)))
}

/// A whole file. Files are local: one that cannot be read may be readable elsewhere.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| failure(path, &error))
}

/// Writes a whole file. A full disk is this machine's, so the task may go elsewhere.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|error| failure(path, &error))
}

/// Writes what a split leaves: the segments, in order, and the header. Returns how many segments there were; the first `Err` ends it.
pub fn write_split<B: AsRef<[u8]>>(
    task: &Task,
    segments: impl IntoIterator<Item = Result<B, Failure>>,
    header: &[u8],
) -> Result<u32, Failure> {
    let directory = task.output.join("segments");
    fs::create_dir_all(&directory).map_err(|error| failure(&directory, &error))?;
    let mut count = 0;
    for bytes in segments {
        write(&directory.join(format!("{count:06}")), bytes?.as_ref())?;
        count += 1;
    }
    write(&task.output.join("header"), header)?;
    Ok(count)
}

fn failure(path: &Path, error: &std::io::Error) -> Failure {
    let hint = if error.kind() == ErrorKind::StorageFull { " (the disk is full)" } else { "" };
    Failure::retryable(format!("{}: {error}{hint}", path.display()))
}
