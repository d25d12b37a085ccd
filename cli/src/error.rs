//! What went wrong, for the person at the keyboard: a sentence, what to do next, the page about it, and an exit code.

use std::fmt;

use push0_core::ErrorCode;
use push0_core::pipeline::Mistakes;
use push0_runtime::port::{ErrorKind, PortError};
use serde::Serialize;

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
    /// `verify`: nothing is known to be wrong, but not everything could be checked here.
    Unchecked = 6,
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

    /// Names its page in the error catalogue.
    pub fn coded(mut self, page: ErrorCode) -> Self {
        self.page = Some(page);
        self
    }

    /// A port's answer, with what was being done; its page is the port error's.
    pub fn of_port(what: impl fmt::Display, error: &PortError) -> Self {
        let (_, message) = ErrorCode::split(error.message());
        Self::new(exit_of(error), format!("{what}: {message}")).next(next_of(error.code())).coded(error.code())
    }

    /// All mistakes of a configuration.
    pub fn of_mistakes(mistakes: &Mistakes) -> Self {
        let line = |mistake: &String| format!("  {}", mistake.trim_end().replace('\n', "\n  "));
        let lines: Vec<String> = mistakes.0.iter().map(line).collect();
        Self::usage(format!("the configuration has mistakes:\n{}", lines.join("\n")))
            .next("examples/push0.toml has every key with its meaning; `push0 init` writes one to start from")
            .coded(ErrorCode::BadConfiguration)
    }

    /// What AWS is needed for, in a build that has none.
    pub fn without_aws(what: impl fmt::Display) -> Self {
        Self::usage(format!("{what} needs a push0 that was built with AWS; this one was not"))
            .next("build it with `cargo build --workspace --bins --features push0/aws`")
            .coded(ErrorCode::BadUsage)
    }

    /// A file that cannot be read or written.
    pub fn of_file(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let page = page_of(error);
        Self::failed(format!("{what}: {error}")).next(next_of(page)).coded(page)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Trouble {}

/// An error as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub code: Option<ErrorCode>,
    pub title: Option<&'static str>,
    pub message: String,
    pub next: String,
    pub exit: u8,
}

impl Report {
    pub fn new(error: &anyhow::Error) -> Self {
        let trouble = error.downcast_ref::<Trouble>();
        let port = error.chain().find_map(|cause| cause.downcast_ref::<PortError>());
        let file = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        let text = format!("{error:#}");
        let (code, exit, next) = match (trouble, port, file) {
            (Some(trouble), _, _) => (trouble.page.or(ErrorCode::find(&text)), trouble.code, trouble.next.clone()),
            (None, Some(port), _) => (Some(port.code()), exit_of(port), None),
            (None, None, Some(file)) => (Some(page_of(file)), Code::Failed, None),
            (None, None, None) => (ErrorCode::find(&text), Code::Failed, None),
        };
        let next = next.unwrap_or_else(|| match code {
            Some(code) => next_of(code),
            None => {
                "run it again with PUSH0_LOG=debug, and report what it says: push0 has no page about this".to_owned()
            }
        });
        // The code is told once, in front.
        let message = code.map_or(text.clone(), |code| text.replace(&format!("{code}: "), ""));
        Self { code, title: code.map(ErrorCode::title), message, next, exit: exit as u8 }
    }

    /// For people.
    pub fn text(&self) -> String {
        let message = self.code.map_or(self.message.clone(), |code| format!("{code}: {}", self.message));
        let mut text = format!("push0: {message}\n  next: {}", self.next.replace('\n', "\n        "));
        if let Some(code) = self.code {
            text.push_str(&format!("\n  more: push0 explain {code}"));
        }
        text
    }

    /// For programs: one object on one line.
    pub fn json(&self) -> String {
        serde_json::json!({ "error": self }).to_string()
    }
}

fn exit_of(error: &PortError) -> Code {
    match error.kind() {
        ErrorKind::Transient { .. } => Code::Unreachable,
        ErrorKind::Conflict | ErrorKind::Fenced | ErrorKind::Permanent | ErrorKind::Corrupt => Code::Failed,
    }
}

fn page_of(error: &std::io::Error) -> ErrorCode {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
        _ => ErrorCode::FileUnusable,
    }
}

/// What to do where the place that failed knew no better.
fn next_of(code: ErrorCode) -> String {
    match code {
        ErrorCode::Unreachable | ErrorCode::StorageTrouble => {
            "try again; if it stays so, look at the log of `push0 up`".to_owned()
        }
        ErrorCode::TokenRefused => {
            "use --token (or PUSH0_TOKEN) with a token that [[token]] of push0.toml there names".to_owned()
        }
        ErrorCode::RoleForbids => "use --token (or PUSH0_TOKEN) with a token whose role may do this".to_owned(),
        ErrorCode::OtherVersion => "compare `push0 --version` here and there".to_owned(),
        ErrorCode::DiskFull => "make room on that disk, then try again: nothing acknowledged is lost".to_owned(),
        ErrorCode::FileUnusable => "look whether the path exists and this user may use it (`ls -ld`)".to_owned(),
        ErrorCode::DataUnusable => {
            "look whether this user may write there (`ls -ld`), or name another directory with --data".to_owned()
        }
        ErrorCode::BlobDamaged | ErrorCode::DatabaseDamaged => {
            "keep the data directory as it is, and read the page about it before anything else".to_owned()
        }
        code => format!("`push0 explain {code}` says what to do"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_names_its_code_once_its_next_step_and_its_page() {
        let trouble = Trouble::absent("there is no chain x").next("push0 status").coded(ErrorCode::UnknownChain);
        let report = Report::new(&trouble.into());
        let told = "push0: P0-022: there is no chain x\n  next: push0 status\n  more: push0 explain P0-022";
        assert_eq!((report.text().as_str(), report.exit), (told, 4));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["error"]["code"], "P0-022");
        assert_eq!(json["error"]["exit"], 4);
        assert_eq!(json["error"]["title"], ErrorCode::UnknownChain.title());
        assert_eq!(json["error"]["next"], "push0 status");
    }

    #[test]
    fn what_no_place_explained_gets_code_and_next_step_from_its_kind() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let refused = PortError::fenced(ErrorCode::TokenRefused.says("this token is not known"));
        let cases: [(anyhow::Error, Option<ErrorCode>, u8); 6] = [
            (PortError::unknown("lost").into(), Some(ErrorCode::StorageTrouble), 3),
            (PortError::corrupt("torn").into(), Some(ErrorCode::BlobDamaged), 1),
            (anyhow::Error::from(refused).context("looking"), Some(ErrorCode::TokenRefused), 1),
            (Err::<(), _>(full).context("writing x").unwrap_err(), Some(ErrorCode::DiskFull), 1),
            (denied.into(), Some(ErrorCode::FileUnusable), 1),
            (anyhow::anyhow!("odd"), None, 1),
        ];
        for (error, code, exit) in cases {
            let report = Report::new(&error);
            assert_eq!((report.code, report.exit), (code, exit), "{error:?}");
            assert!(!report.next.is_empty() && !report.message.contains("P0-"), "{report:?}");
        }
    }
}
