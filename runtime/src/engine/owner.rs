//! One owner a data directory: a lock file held for as long as the engine lives, released by the kernel however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use push0_core::ErrorCode;

use crate::port::{PortError, PortResult};

/// Somebody has just made the data directory, perhaps: its name, and the names of those that it is in, have to outlast a power loss as what
/// is in it does. Where a directory above must not be read this is as far as it goes.
pub(super) fn sync_entry(directory: &Path) {
    let Ok(path) = directory.canonicalize() else { return };
    for folder in path.ancestors().skip(1) {
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            tracing::debug!(folder = %folder.display(), %error, "a directory above the data directory cannot be synced");
            return;
        }
    }
}

pub(super) struct Ownership {
    _locked: File,
}

impl Ownership {
    pub(super) fn take(directory: &Path) -> PortResult<Self> {
        let path = directory.join("owner.lock");
        let failed = |error: std::io::Error| {
            PortError::transient(ErrorCode::DataUnusable.says(format!("{}: {error}", path.display())))
        };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = if owner.trim().is_empty() { "unknown" } else { owner.trim() };
                let what = format!("the data directory {} is in use by process {owner}", directory.display());
                return Err(PortError::permanent(ErrorCode::DataInUse.says(what)));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _locked: file })
    }
}
