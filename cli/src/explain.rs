//! `push0 explain`: the error catalogue, compiled in, so that it can be read where nothing else answers.

use std::str::FromStr as _;

use push0_core::ErrorCode;
use serde::Serialize;

use crate::args;
use crate::error::Trouble;
use crate::output::Output;
use crate::render::columns;

/// The pages in `docs/errors`, by name (`P0-012`).
pub const PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// The page about a code.
pub fn page(code: ErrorCode) -> Option<&'static str> {
    let name = code.to_string();
    PAGES.iter().find(|(page, _)| *page == name).map(|(_, text)| *text)
}

#[derive(Debug, Serialize)]
struct Entry {
    code: ErrorCode,
    title: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'static str>,
}

pub fn run(args: &args::Explain, output: Output) -> anyhow::Result<()> {
    let Some(asked) = &args.code else {
        let entry = |code: &ErrorCode| Entry { code: *code, title: code.title(), text: None };
        let list: Vec<Entry> = ErrorCode::ALL.iter().map(entry).collect();
        output.show(&list, || {
            let rows = list.iter().map(|entry| vec![entry.code.to_string(), entry.title.to_owned()]);
            columns("", &rows.collect::<Vec<_>>())
        });
        return Ok(());
    };
    let unknown = || {
        Trouble::absent(format!("there is no error code {asked}"))
            .next("`push0 explain` lists them all")
            .coded(ErrorCode::BadUsage)
    };
    // As it is copied from a message.
    let code = ErrorCode::from_str(asked.trim_end_matches([':', '.', ','])).map_err(|_| unknown())?;
    let text = page(code).ok_or_else(unknown)?;
    output.show(&Entry { code, title: code.title(), text: Some(text) }, || text.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests;
