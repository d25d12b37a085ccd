//! What went wrong, for the person at the keyboard: a sentence, what to do next, and an exit code.

use std::fmt;

use push0_core::ErrorCode;
use push0_runtime::port::{ErrorKind, PortError};

/// Exit codes; `docs/cli.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// What was asked for did not work, or is not allowed in this state.
    Failed = 1,
    /// The command line, a file or a setting is not as it should be.
    Usage = 2,
    /// No running push0 answers.
    Unreachable = 3,
    /// There is no such chain, block or blob.
    Absent = 4,
    /// It did not happen in time; it may yet.
    Timeout = 5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub code: Code,
    pub what: String,
    pub next: Option<String>,
    /// Its page in the error catalogue.
    pub page: Option<ErrorCode>,
}

impl Trouble {
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), next: None, page: None }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Code::Failed, what)
    }

    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    pub fn absent(what: impl Into<String>) -> Self {
        Self::new(Code::Absent, what)
    }

    /// Says what to do about it.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl Trouble {
    /// Names its page in the error catalogue.
    pub fn coded(mut self, page: ErrorCode) -> Self {
        self.page = Some(page);
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Trouble {}

/// What to print on stderr, and the exit code.
pub fn report(error: &anyhow::Error) -> (String, u8) {
    let mut text = format!("push0: {error:#}");
    let trouble = error.downcast_ref::<Trouble>();
    let port = error.chain().find_map(|cause| cause.downcast_ref::<PortError>());
    let (code, next) = match (trouble, port) {
        (Some(trouble), _) => (trouble.code, trouble.next.clone()),
        (None, Some(port)) if matches!(port.kind(), ErrorKind::Transient { .. }) => {
            let next = "try again; if it stays so, look at the terminal where `push0 up` runs".to_owned();
            (Code::Unreachable, Some(next))
        }
        (None, Some(port)) if port.kind() == ErrorKind::Fenced => {
            (Code::Failed, Some("use --token with a token that may do this".to_owned()))
        }
        (None, _) => (Code::Failed, None),
    };
    if let Some(next) = next {
        text.push_str("\n  next: ");
        text.push_str(&next.replace('\n', "\n        "));
    }
    (text, code as u8)
}
