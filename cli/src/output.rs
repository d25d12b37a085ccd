//! The one place that writes to stdout: data, as lines for people or as JSON for programs. Everything else goes to stderr.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::error::{Report, Trouble};

/// How a command shows what it has to say.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    /// Whether stdout is a terminal that may be coloured.
    pub color: bool,
    /// Whether stdout is a terminal: what is drawn may be drawn over.
    pub terminal: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, color: terminal && !plain && !json, terminal }
    }

    /// Text for people; ends in a newline whether the text does or not.
    pub fn text(&self, text: &str) {
        self.write_out(text.trim_end_matches('\n'));
    }

    /// One JSON document.
    pub fn json(&self, value: &impl Serialize) {
        let text = serde_json::to_string_pretty(value).expect("what is shown is plain data");
        self.write_out(&text);
    }

    /// One JSON document on one line: for streams.
    pub fn json_line(&self, value: &impl Serialize) {
        self.write_out(&serde_json::to_string(value).expect("what is shown is plain data"));
    }

    /// JSON where it was asked for, text otherwise.
    pub fn show(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json { self.json(value) } else { self.text(&text()) }
    }

    /// Draws a screen over the last one, on a terminal; below it elsewhere.
    pub fn screen(&self, text: &str) {
        if self.terminal {
            self.write_out(&format!("\x1b[H\x1b[2J{}", text.trim_end_matches('\n')));
        } else {
            self.text(text);
        }
    }

    /// Something to know that is not data.
    pub fn note(&self, text: &str) {
        eprintln!("{}", text.trim_end_matches('\n'));
    }

    fn write_out(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) else { return };
        // Nobody reads any more (`push0 status | head`).
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        let trouble =
            Trouble::failed(format!("cannot write to stdout: {error}")).next("make room there, then run it again");
        let report = Report::new(&trouble.into());
        eprintln!("{}", if self.json { report.json() } else { report.text() });
        std::process::exit(report.exit.into());
    }
}
