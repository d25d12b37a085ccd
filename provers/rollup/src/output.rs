//! The tool's output: data on stdout, as lines for people or as one JSON value.
#![allow(clippy::print_stdout, reason = "this is where the tool prints; the prover's session never comes here")]

use serde_json::Value;

/// Prints a value: as JSON, or an object's fields as lines.
pub(crate) fn value(value: &Value, json: bool) {
    match value {
        Value::Object(fields) if !json => fields.iter().for_each(|(name, field)| lines(name, field)),
        other => println!("{other:#}"),
    }
}

fn lines(name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(inner, field)| lines(&format!("{name}.{inner}"), field));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| println!("{name:<24} {item}"));
        }
        Value::String(text) => println!("{name:<24} {text}"),
        other => println!("{name:<24} {other}"),
    }
}

/// Prints a line for people.
pub(crate) fn line(text: &str) {
    println!("{text}");
}
