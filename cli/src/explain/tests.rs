//! The catalogue's three parts, held together: the codes, their pages, and the pages' index.
//!
//! After adding a code, write its page, then run `PUSH0_BLESS=1 cargo test -p push0 explain`, which writes the index.

use std::path::{Path, PathBuf};

use push0_core::error_code::GROUPS;

use super::*;

/// What a page has, in this order.
const SECTIONS: [&str; 4] = ["## What it means", "## How to look", "## What to do", "## When it is over"];

/// Codes that no source need name, each with the reason it is kept.
const UNUSED: [(ErrorCode, &str); 2] = [
    (ErrorCode::UnknownTask, "for replaying a task outside of a run"),
    (ErrorCode::BadBackup, "for restoring a data directory"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_code_has_its_page_and_every_page_its_code() {
    for code in ErrorCode::ALL {
        assert!(page(*code).is_some(), "docs/errors/{code}.md is missing: {}", code.title());
    }
    for (name, _) in PAGES {
        let code = name.parse::<ErrorCode>();
        assert!(code.is_ok_and(|code| code.to_string() == *name), "docs/errors/{name}.md is about no code");
    }
}

#[test]
fn a_page_has_its_codes_title_and_all_sections_each_with_something_in_it() {
    for (name, text) in PAGES {
        let code: ErrorCode = name.parse().unwrap();
        assert_eq!(text.lines().next(), Some(format!("# {code}: {}", code.title()).as_str()));
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, SECTIONS, "{name}");
        let bodies: Vec<&str> =
            text.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap().1).collect();
        assert!(bodies.iter().all(|body| body.trim().len() > 20), "{name}: an empty section");
        assert!(text.lines().count() <= 45, "{name} is too long for 3 a.m.");
    }
}

#[test]
fn pages_name_commands_that_exist() {
    use clap::CommandFactory as _;
    let cli = crate::args::Cli::command();
    let known: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    for (name, text) in PAGES {
        // What stands in code: between backquotes, or indented by four.
        let quoted = text.split('`').skip(1).step_by(2);
        let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
        for command in quoted.chain(indented).filter_map(|code| code.trim().strip_prefix("push0 ")) {
            let word = command.split_whitespace().find(|word| !word.starts_with('-')).unwrap_or_default();
            let is_known = known.contains(&word) || word == "COMMAND" || command.starts_with("--");
            assert!(is_known, "{name}: there is no command `push0 {command}`");
        }
    }
}

#[test]
fn pages_refer_to_codes_that_exist() {
    for (name, text) in PAGES {
        for (at, _) in text.match_indices("P0-") {
            let named: String = text[at..].chars().take("P0-000".len()).collect();
            assert!(named.parse::<ErrorCode>().is_ok(), "{name} names {named}");
        }
    }
}

#[test]
fn the_index_lists_the_codes_by_group() {
    let mut index = "# Errors\n\n\
        What can go wrong and be acted on has a code. push0 names it where it tells of the trouble: in errors (`push0: P0-301: …`), in the\n\
        reasons that `push0 why` and `push0 block` show, and in its log (`code=P0-301`). `push0 explain P0-301` prints the page from here.\n"
        .to_owned();
    for (numbers, about) in GROUPS {
        index.push_str(&format!(
            "\n## {:03}–{:03}: {about}\n\n| code | what |\n|---|---|\n",
            numbers.start(),
            numbers.end()
        ));
        for code in ErrorCode::ALL.iter().filter(|code| numbers.contains(&code.number())) {
            index.push_str(&format!("| [{code}]({code}.md) | {} |\n", code.title()));
        }
    }
    let file = root().join("docs/errors/README.md");
    if std::env::var_os("PUSH0_BLESS").is_some() {
        std::fs::write(&file, &index).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == index,
        "docs/errors/README.md is not the list of the codes: PUSH0_BLESS=1 cargo test -p push0 explain writes it"
    );
}

#[test]
fn every_code_is_named_where_something_goes_wrong() {
    let mut sources = String::new();
    for package in ["core", "runtime", "functions", "gpu-worker", "provers/sdk", "cli"] {
        gather(&root().join(package).join("src"), &mut sources);
    }
    let uses = |code: &ErrorCode| {
        let name = format!("ErrorCode::{code:?}");
        let is_whole = |at: usize| !sources[at + name.len()..].starts_with(|next: char| next.is_ascii_alphanumeric());
        sources.match_indices(&name).any(|(at, _)| is_whole(at))
    };
    for code in ErrorCode::ALL {
        let is_excused = UNUSED.iter().any(|(unused, _)| unused == code);
        assert!(is_excused || uses(code), "{code} ({code:?}): nothing names it; remove it, or excuse it in UNUSED");
    }
}

/// Sources without tests and without the catalogue itself.
fn gather(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            gather(&path, sources);
        } else if name.ends_with(".rs") && !["tests.rs", "fixtures.rs", "error_code.rs"].contains(&name) {
            let text = std::fs::read_to_string(&path).unwrap();
            sources.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
}
