//! Room on the disk: what is still written when it gets narrow, and what is said about it.
//!
//! Without room for the database nothing can be done, not even a deletion. So blobs stop first, in this order:
//!
//! | when | refused |
//! |---|---|
//! | less than [`Quota::reserve`] is free on the disk, or less than a tenth of [`Quota::limit`] is left | new witnesses |
//! | less than half the reserve is free, or the limit is reached | every blob but the small ones that finalize and stop runs |
//!
//! What is refused is `Transient` with [`ErrorCode::DiskFull`]: whoever asked tries again, and goes on when there is room.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use push0_core::{ErrorCode, Millis};

use super::commit::lock;
use crate::port::{ErrorKind, PortError, PortResult};

/// How much of a disk an engine may use. Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Kept free on the disk of the data directory.
    pub reserve: u64,
    /// For all blobs together; none: as much as there is.
    pub limit: Option<u64>,
}

/// How long a caller waits before it asks again.
pub(super) const AGAIN: Millis = Millis(1_000);

pub(super) struct Room {
    directory: PathBuf,
    quota: Quota,
    used: AtomicU64,
    trouble: Mutex<Trouble>,
}

impl Room {
    /// `used`: bytes of the blobs that are there.
    pub(super) fn new(directory: &Path, quota: Quota, used: u64) -> Self {
        Self { directory: directory.to_owned(), quota, used: AtomicU64::new(used), trouble: Mutex::default() }
    }

    /// Whether `more` bytes may be stored under this key.
    pub(super) fn check(&self, key: &str, more: u64) -> PortResult<()> {
        // Small, and what makes room: a stopped run needs no artifacts, a finalized block's can be deleted.
        if key.starts_with("control/") || key.starts_with("proofs/") {
            return Ok(());
        }
        let is_witness = key.starts_with("witnesses/");
        if self.quota.reserve > 0
            && let Ok(disk) = nix::sys::statvfs::statvfs(&self.directory)
        {
            let free = disk.blocks_available() * disk.fragment_size();
            let reserve = if is_witness { self.quota.reserve } else { self.quota.reserve / 2 };
            if free.saturating_sub(more) < reserve {
                let mib = |bytes: u64| bytes >> 20;
                return Err(full(format!("{} MiB are free, {} are to stay free", mib(free), mib(reserve))));
            }
        }
        if let Some(limit) = self.quota.limit {
            let allowed = if is_witness { limit - limit / 10 } else { limit };
            let used = self.used.load(Ordering::Relaxed);
            if used.saturating_add(more) > allowed {
                return Err(full(format!("blobs use {used} of {allowed} bytes, {more} more do not fit")));
            }
        }
        Ok(())
    }

    pub(super) fn taken(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn freed(&self, bytes: u64) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// Notes how storing a blob ended.
    pub(super) fn note(&self, error: Option<&PortError>, now: Millis) {
        let mut trouble = lock(&self.trouble);
        match error {
            Some(error) if matches!(error.kind(), ErrorKind::Transient { .. }) => trouble.note("blobs", error, now),
            Some(_) => {}
            None => trouble.over("blobs", now),
        }
    }
}

fn full(why: String) -> PortError {
    let what = ErrorCode::DiskFull.says(format!("there is no room for more blobs: {why}"));
    PortError::new(ErrorKind::Transient { after: AGAIN }, false, what)
}

/// Says what fails, once and then once a minute, and when it is over.
#[derive(Default)]
pub(super) struct Trouble {
    /// What was said last, and when.
    said: Option<(ErrorCode, Millis)>,
    last: Millis,
}

/// Between two lines about the same.
const SAY_AGAIN: Millis = Millis::from_secs(60);

/// Without a failure for so long, it is over. On a disk that is nearly full some writes succeed all the time.
const CALM: Millis = Millis::from_secs(5);

impl Trouble {
    pub(super) fn note(&mut self, what: &str, error: &PortError, now: Millis) {
        self.last = now;
        let code = error.code();
        let is_news = self.said.is_none_or(|(said, at)| said != code || now.since(at) >= SAY_AGAIN);
        if is_news {
            self.said = Some((code, now));
            tracing::warn!(%code, what, %error, "writing fails; whoever asked tries again");
        } else {
            tracing::debug!(%code, what, %error, "writing fails");
        }
    }

    /// A write succeeded.
    pub(super) fn over(&mut self, what: &str, now: Millis) {
        if self.said.is_some() && now.since(self.last) >= CALM {
            self.said = None;
            tracing::info!(what, "writing works again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witnesses_stop_before_artifacts_and_what_finalizes_never_does() {
        let room = Room::new(Path::new("/"), Quota { reserve: 0, limit: Some(1_000) }, 850);
        let says = |key: &str, more| room.check(key, more).map_err(|error| error.code());
        assert_eq!(says("witnesses/a", 50), Ok(()));
        assert_eq!(says("witnesses/a", 51), Err(ErrorCode::DiskFull));
        assert_eq!(says("artifacts/a", 150), Ok(()));
        assert_eq!(says("artifacts/a", 151), Err(ErrorCode::DiskFull));
        assert_eq!((says("proofs/a", 5_000), says("control/a", 5_000)), (Ok(()), Ok(())));
        room.taken(150);
        assert_eq!(says("artifacts/a", 1), Err(ErrorCode::DiskFull));
        room.freed(700);
        assert_eq!(says("witnesses/a", 600), Ok(()));
    }

    #[test]
    fn the_reserve_is_what_the_disk_has_left() {
        let room = |reserve| Room::new(Path::new("/"), Quota { reserve, limit: None }, 0);
        assert!(room(0).check("witnesses/a", 1).is_ok());
        let error = room(u64::MAX).check("artifacts/a", 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient { after: AGAIN });
    }
}
