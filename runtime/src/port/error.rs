//! What went wrong at a port, in the two terms a caller acts on: what kind it is, and whether the effect may have happened.

use std::fmt;

use push0_core::{ErrorCode, Millis};

pub type PortResult<T> = Result<T, PortError>;

/// What the caller should do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Passing trouble; try again after this long.
    Transient { after: Millis },
    /// The condition of a conditional write did not hold: read again and decide anew.
    Conflict,
    /// The caller has lost the right to do this: its lease is over, its token is for something else.
    Fenced,
    /// It will not work however often it is tried.
    Permanent,
    /// Stored bytes are not what was stored.
    Corrupt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortError {
    kind: ErrorKind,
    may_have_happened: bool,
    message: String,
}

impl PortError {
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient { after: Millis(100) }, false, message)
    }

    /// A time-out, a lost response: nobody knows whether it happened.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient { after: Millis(100) }, true, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, false, message)
    }

    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fenced, false, message)
    }

    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Permanent, false, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, false, message)
    }

    /// A file that could not be read or written for now; `what` says which.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
            _ => ErrorCode::StorageTrouble,
        };
        // Room is not made within a moment.
        let after = if code == ErrorCode::DiskFull { Millis(1_000) } else { Millis(100) };
        Self::new(ErrorKind::Transient { after }, false, code.says(format!("{what}: {error}")))
    }

    pub fn new(kind: ErrorKind, may_have_happened: bool, message: impl Into<String>) -> Self {
        Self { kind, may_have_happened, message: message.into() }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the operation may have taken effect although it failed (a lost response: yes; a refused connection: no).
    pub fn may_have_happened(&self) -> bool {
        self.may_have_happened
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The page about it: the one its message names, which the wire carries along, or else its kind's.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::split(&self.message).0.unwrap_or(match self.kind {
            ErrorKind::Transient { .. } => ErrorCode::StorageTrouble,
            ErrorKind::Conflict | ErrorKind::Permanent => ErrorCode::BadRequest,
            ErrorKind::Fenced => ErrorCode::RoleForbids,
            ErrorKind::Corrupt => ErrorCode::BlobDamaged,
        })
    }

    pub fn is_conflict(&self) -> bool {
        self.kind == ErrorKind::Conflict
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for PortError {}
