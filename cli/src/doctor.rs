//! `push0 doctor`: looks at this machine and this installation, and says for each thing whether it is well, and what to do where it is not.
//!
//! [`machine`] looks at what is here: configuration, data directory, provers, limits. [`running`] looks at a push0 that runs, over its
//! ports. `aws` looks at an installation in an AWS account. Nothing is changed, but for the block that `--smoke` asks for.

#[cfg(feature = "aws")]
mod aws;
mod machine;
mod running;

use std::path::Path;

use push0_core::ErrorCode;
use serde::Serialize;

use crate::args::{self, Cli};
use crate::connect::Where;
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::render::{Paint, columns};
use crate::settings::{Settings, Sources};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// It works, but not as well or as safely as it could.
    Warning,
    /// It does not work, or will not.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    what: String,
    state: State,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
}

/// All that was found, in the order it was looked at.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: impl Into<String>, state: State, says: impl Into<String>, next: Option<String>) {
        let says = says.into();
        let code = ErrorCode::find(&says);
        let says = code.map_or(says.clone(), |code| says.replace(&format!("{code}: "), ""));
        self.0.push(Finding { what: what.into(), state, says, next, code });
    }

    fn ok(&mut self, what: impl Into<String>, says: impl Into<String>) {
        self.add(what, State::Ok, says, None);
    }

    fn warn(&mut self, what: impl Into<String>, says: impl Into<String>, next: impl Into<String>) {
        self.add(what, State::Warning, says, Some(next.into()));
    }

    fn problem(&mut self, what: impl Into<String>, code: ErrorCode, says: impl AsRef<str>, next: impl Into<String>) {
        self.add(what, State::Problem, code.says(says), Some(next.into()));
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|finding| finding.state == state).count()
    }
}

#[derive(Debug, Serialize)]
struct Diagnosis<'a> {
    problems: usize,
    warnings: usize,
    findings: &'a [Finding],
}

pub async fn run(args: &args::Doctor, cli: &Cli, output: Output) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    if args.aws {
        installation(args, output, &mut findings).await?;
    } else {
        here(args, cli, &mut findings).await;
    }
    let diagnosis = Diagnosis {
        problems: findings.count(State::Problem),
        warnings: findings.count(State::Warning),
        findings: &findings.0,
    };
    output.show(&diagnosis, || text(&findings.0, Paint(output.color)));
    match diagnosis.problems {
        0 => Ok(()),
        count => Err(Trouble::new(Code::Failed, format!("{count} problems found"))
            .next("each says above what to do about it")
            .into()),
    }
}

#[cfg(feature = "aws")]
async fn installation(args: &args::Doctor, output: Output, findings: &mut Findings) -> anyhow::Result<()> {
    if let Some(settings) = configuration(&Sources::new(args.config.clone()), findings) {
        aws::run(args, &settings, output, findings).await;
    }
    Ok(())
}

#[cfg(not(feature = "aws"))]
async fn installation(_: &args::Doctor, _: Output, _: &mut Findings) -> anyhow::Result<()> {
    Err(Trouble::without_aws("`push0 doctor --aws`").into())
}

/// This machine, and the push0 that runs.
async fn here(args: &args::Doctor, cli: &Cli, findings: &mut Findings) {
    let is_elsewhere = cli.connect.is_some();
    let mut location = cli.location();
    if !is_elsewhere || args.config.is_some() {
        let sources =
            Sources::new(args.config.clone()).flag("data", cli.data.as_ref().map(|path| path.display().to_string()));
        let settings = configuration(&sources, findings);
        if let Some(settings) = &settings {
            if location.data.is_none() {
                location.data = Some(settings.data.clone());
            }
            machine::settings(settings, findings).await;
        }
        machine::machine(settings.as_ref(), findings);
    }
    running(args, &location, is_elsewhere, findings).await;
}

fn configuration(sources: &Sources, findings: &mut Findings) -> Option<Settings> {
    match Settings::read(sources) {
        Ok(settings) => {
            let file = settings.file.as_ref().map_or("no file".to_owned(), |file| file.display().to_string());
            let chains = settings.catalog.chains.len();
            findings.ok(
                "configuration",
                format!("{file}: {chains} chains, {} pipelines", settings.catalog.pipelines.len()),
            );
            Some(settings)
        }
        Err(mistakes) => {
            let lines: Vec<&str> = mistakes.0.iter().map(|mistake| mistake.trim_end()).collect();
            let next = "examples/push0.toml has every key with its meaning; `push0 init` writes one to start from";
            findings.problem("configuration", ErrorCode::BadConfiguration, lines.join("\n"), next);
            None
        }
    }
}

async fn running(args: &args::Doctor, location: &Where, is_elsewhere: bool, findings: &mut Findings) {
    match location.open().await {
        Ok(remote) => running::running(&remote, args.deep, findings).await,
        Err(error) => {
            let report = crate::error::Report::new(&error);
            let socket = location.address().strip_prefix("unix:").map(str::to_owned);
            let listens =
                socket.as_deref().is_some_and(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok());
            let left = socket.as_deref().is_some_and(|socket| Path::new(socket).exists());
            if is_elsewhere || listens {
                let code = report.code.unwrap_or(ErrorCode::Unreachable);
                let says = if listens {
                    format!("{}; somebody listens there, but does not answer", report.message)
                } else {
                    report.message
                };
                findings.problem("running push0", code, says, report.next);
            } else if left {
                let says = format!("push0 is not running; it left {} behind", socket.unwrap_or_default());
                findings.ok("running push0", format!("{says}, which the next `push0 up` replaces"));
            } else {
                findings.ok(
                    "running push0",
                    "push0 is not running: what can only be seen of a running one was not checked",
                );
            }
            if args.deep {
                let next = "start push0, then run this again";
                findings.warn("blobs", "blobs were not read: that is done by a running push0", next);
            }
        }
    }
}

fn text(findings: &[Finding], paint: Paint) -> String {
    let mark = |state: State| match state {
        State::Ok => "ok".to_owned(),
        State::Warning => paint.bold("warning"),
        State::Problem => paint.alarm("problem"),
    };
    let mut rows = Vec::new();
    for finding in findings {
        let code = finding.code.map_or(String::new(), |code| format!("{code}: "));
        let mut lines = finding.says.lines();
        let first = format!("{code}{}", lines.next().unwrap_or_default());
        rows.push(vec![mark(finding.state), finding.what.clone(), first]);
        rows.extend(lines.map(|line| vec![String::new(), String::new(), line.trim().to_owned()]));
        rows.extend(finding.next.iter().map(|next| vec![String::new(), String::new(), format!("next: {next}")]));
    }
    let count = |state: State| findings.iter().filter(|finding| finding.state == state).count();
    format!("{}{} problems, {} warnings\n", columns("", &rows), count(State::Problem), count(State::Warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_with_its_code_and_its_way_out() {
        let mut findings = Findings::default();
        findings.ok("disk", "plenty");
        findings.warn("tokens", "old", "make new ones");
        findings.problem("data", ErrorCode::DataUnusable, "one\ntwo", "move it");
        let text = text(&findings.0, Paint(false));
        let wanted = "ok       disk    plenty\n\
                      warning  tokens  old\n                 next: make new ones\n\
                      problem  data    P0-205: one\n                 two\n                 next: move it\n\
                      1 problems, 1 warnings\n";
        assert_eq!(text, wanted);
    }
}
