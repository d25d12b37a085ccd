//! Receipts that cannot be guessed, nor used by another. The engine's are names (`ID.RECEIVES`); what a worker gets over HTTP is
//!
//! `ID.RECEIVES~TASK~TAG`
//!
//! with the first half of the SHA-256 of the task's id, and an HMAC-SHA256 over whose token it was handed to, the queue, and the rest.
//! So a receipt shows two things, without the server keeping anything: that this caller holds (or held) this delivery, and which task it
//! is. Extending, releasing and acknowledging need the first, reports and artifacts the second: a worker can speak and write about
//! nothing but what was handed to it.
//!
//! The key is the owner's, for ever: a worker that outlives the owner keeps its tasks.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use push0_core::{Principal, Sha256};

use crate::port::{PortError, PortResult};

/// Bytes of a key.
const KEY: usize = 32;

/// Hex digits of a task's mark.
const MARK: usize = 32;

/// What receipts are sealed with.
#[derive(Clone)]
pub struct SealKey([u8; KEY]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

impl SealKey {
    pub fn random() -> PortResult<Self> {
        let mut key = [0; KEY];
        getrandom::fill(&mut key)
            .map_err(|error| PortError::permanent(format!("the system has no randomness: {error}")))?;
        Ok(Self(key))
    }

    /// The key in this file; one is made, for this user's eyes only, where there is none.
    pub fn load(path: &Path) -> PortResult<Self> {
        let failed = |error: std::io::Error| PortError::permanent(format!("{}: {error}", path.display()));
        match std::fs::read(path) {
            Ok(bytes) => bytes.try_into().map(Self).map_err(|_| {
                PortError::permanent(format!(
                    "{} is no key of {KEY} bytes: remove it, and tasks in hand come again",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = Self::random()?;
                let unfinished = path.with_extension("new");
                let _ = std::fs::remove_file(&unfinished);
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&unfinished)
                    .map_err(failed)?;
                file.write_all(&key.0).and_then(|()| file.sync_all()).map_err(failed)?;
                std::fs::rename(&unfinished, path).map_err(failed)?;
                Ok(key)
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn is_sealed(receipt: &str) -> bool {
        receipt.contains('~')
    }

    fn mac(&self, holder: &Principal, queue: &str, receipt: &str, mark: &str) -> Hmac<sha2::Sha256> {
        let mut mac = Hmac::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // Names and queues have no line feeds, marks are of one length: no two inputs look the same.
        for part in [holder.as_str(), queue, mark, receipt] {
            mac.update(part.as_bytes());
            mac.update(b"\n");
        }
        mac
    }

    /// The receipt as its holder gets it. `task`: the id of the task delivered, where it is one.
    pub(super) fn seal(&self, holder: &Principal, queue: &str, receipt: &str, task: Option<&str>) -> String {
        let mark = mark(task.unwrap_or_default());
        let tag = self.mac(holder, queue, receipt, &mark).finalize().into_bytes();
        format!("{receipt}~{mark}~{}", hex::encode(tag))
    }

    /// The engine's receipt in a sealed one of this holder; `Fenced` for any other.
    pub(super) fn open<'a>(&self, holder: &Principal, queue: &str, sealed: &'a str) -> PortResult<&'a str> {
        self.verify(holder, queue, sealed)
            .map(|(receipt, _)| receipt)
            .ok_or_else(|| PortError::fenced("this receipt was not given to the one who presents it"))
    }

    /// Whether the receipt, of one of these queues, is this holder's, and for this task.
    pub(super) fn is_of_task(&self, holder: &Principal, queues: &[String], sealed: &str, task: &str) -> bool {
        let shown = queues.iter().find_map(|queue| self.verify(holder, queue, sealed));
        shown.is_some_and(|(_, found)| found == mark(task))
    }

    fn verify<'a>(&self, holder: &Principal, queue: &str, sealed: &'a str) -> Option<(&'a str, &'a str)> {
        let (rest, tag) = sealed.rsplit_once('~')?;
        let (receipt, mark) = rest.rsplit_once('~')?;
        let tag = hex::decode(tag).ok()?;
        self.mac(holder, queue, receipt, mark).verify_slice(&tag).ok()?;
        Some((receipt, mark))
    }
}

fn mark(task: &str) -> String {
    let mut digest = Sha256::of(task.as_bytes()).to_string();
    digest.truncate(MARK);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ErrorKind;

    #[test]
    fn a_receipt_opens_for_its_holder_its_queue_and_its_task_only() {
        let key = SealKey::random().unwrap();
        let (one, other): (Principal, Principal) = ("rack1".parse().unwrap(), "rack2".parse().unwrap());
        let sealed = key.seal(&one, "work-gpu-bulk", "7.1", Some("task"));
        assert_eq!(key.open(&one, "work-gpu-bulk", &sealed), Ok("7.1"));
        let queues = ["work-gpu-realtime".to_owned(), "work-gpu-bulk".to_owned()];
        assert!(key.is_of_task(&one, &queues, &sealed, "task"));
        assert!(!key.is_of_task(&one, &queues, &sealed, "another"));
        assert!(!key.is_of_task(&other, &queues, &sealed, "task"));
        let changed = sealed.replacen("7.1", "7.2", 1);
        let elsewhere = SealKey::random().unwrap();
        let refused = [
            key.open(&other, "work-gpu-bulk", &sealed),
            key.open(&one, "work-gpu-standard", &sealed),
            key.open(&one, "work-gpu-bulk", &changed),
            key.open(&one, "work-gpu-bulk", "7.1"),
            key.open(&one, "work-gpu-bulk", "~~"),
            key.open(&one, "work-gpu-bulk", ""),
            elsewhere.open(&one, "work-gpu-bulk", &sealed),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced);
        }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_read_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("receipts.key");
        let holder: Principal = "rack1".parse().unwrap();
        let sealed = SealKey::load(&path).unwrap().seal(&holder, "q", "7.1", None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SealKey::load(&path).unwrap().open(&holder, "q", &sealed), Ok("7.1"));
        std::fs::write(&path, b"short").unwrap();
        assert!(SealKey::load(&path).unwrap_err().message().contains("remove it"));
    }
}
