//! The tool's output: data on stdout, as lines for people or as one JSON value.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Prints a value: as JSON, or an object's fields as lines.
pub(crate) fn value(value: &Value, json: bool) -> Result<()> {
    match value {
        Value::Object(fields) if !json => {
            let mut text = Vec::new();
            fields.iter().for_each(|(name, field)| lines(name, field, &mut text));
            line(&text.join("\n"))
        }
        other => line(&format!("{other:#}")),
    }
}

fn lines(name: &str, value: &Value, text: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(inner, field)| lines(&format!("{name}.{inner}"), field, text));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            text.extend(items.iter().map(|item| format!("{name:<24} {item}")));
        }
        Value::String(said) => text.push(format!("{name:<24} {said}")),
        other => text.push(format!("{name:<24} {other}")),
    }
}

/// Prints a line for people.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // Nobody reads any more (`push0-rollup keys | head -1`); what else there is to do is done.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}
