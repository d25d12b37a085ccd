//! `push0-liar RULE -- PROGRAM ARGS…`: a prover that does its work by another one, and lies about it.
//!
//! It stands between a worker and a real prover in the session form. Rules:
//!
//! - `stale:STAGE`: the first task of the stage is done honestly; whatever is asked after it is answered with that first artifact: a real
//!   proof, with a correct digest, of something else.
//! - `accuse:STAGE`: says `bad_input` about the first input of every task of the stage, whatever it is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(rule), Some(_)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: push0-liar RULE -- PROGRAM ARGS…");
        return ExitCode::from(64);
    };
    let (Some((what, stage)), Some(program)) = (rule.split_once(':'), arguments.next()) else {
        eprintln!("a rule is stale:STAGE or accuse:STAGE");
        return ExitCode::from(64);
    };
    match lie(what, stage, Command::new(program).args(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("liar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lie(what: &str, stage: &str, honest: &mut Command) -> std::io::Result<()> {
    let mut honest = honest.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(mut to), Some(from)) = (honest.stdin.take(), honest.stdout.take()) else {
        return Err(std::io::Error::other("no pipes"));
    };
    let mut from = BufReader::new(from).lines();
    let mut stdout = std::io::stdout();
    let mut tell = |line: &str| writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    tell(&from.next().ok_or_else(|| std::io::Error::other("no hello"))??)?;
    let mut kept: Option<Vec<u8>> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        let message: Value = serde_json::from_str(&line)?;
        let is_about = message["type"] == "task" && message["stage"] == stage && message["check"] != true;
        if is_about && what == "accuse" {
            let accusation = json!({
                "type": "failed", "id": message["id"], "kind": "bad_input", "message": "I do not like it", "children": [0],
            });
            tell(&accusation.to_string())?;
            continue;
        }
        writeln!(to, "{line}").and_then(|()| to.flush())?;
        if message["type"] != "task" {
            continue;
        }
        loop {
            let said = from.next().ok_or_else(|| std::io::Error::other("the honest prover ended"))??;
            let answer: Value = serde_json::from_str(&said)?;
            if answer["type"] == "done" && is_about {
                let output = message["output"].as_str().unwrap_or_default();
                match &kept {
                    Some(artifact) => std::fs::write(output, artifact)?,
                    None => kept = Some(std::fs::read(output)?),
                }
            }
            tell(&said)?;
            if answer["type"] != "progress" {
                break;
            }
        }
    }
    drop(to);
    honest.wait().map(|_| ())
}
