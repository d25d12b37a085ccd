//! `push0 token`: makes tokens for other hosts, and has a running `up` read them again.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use push0_core::ErrorCode;
use serde::Serialize;

use crate::args::{NewToken, TokenRole};
use crate::connect::Where;
use crate::error::Trouble;
use crate::output::Output;
use crate::up::{RELOAD, Reloaded};
use crate::welcome;

/// Bytes of randomness in a token.
const BYTES: usize = 32;

/// A new token; good for what only this process and its children must know, too.
pub fn random() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).context("the system has no randomness")?;
    Ok(hex::encode(bytes))
}

#[derive(Serialize)]
struct Made {
    name: String,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    file: PathBuf,
    /// What goes into push0.toml.
    table: String,
}

pub fn new(args: &NewToken, output: Output) -> anyhow::Result<()> {
    let name = &args.name;
    if name.as_str() == "local" || name.as_str().starts_with("local-") {
        return Err(Trouble::usage(format!("the name {name} is a local worker's"))
            .next("choose another, such as the host's")
            .coded(ErrorCode::BadUsage)
            .into());
    }
    let pool = match (args.role, &args.pool) {
        (TokenRole::Worker, Some(pool)) if !pool.is_trusted() => Some(pool.to_string()),
        (TokenRole::Worker, _) => {
            return Err(Trouble::usage("a worker's token is of one pool")
                .next("add --pool POOL; for split and verify use --role trusted")
                .coded(ErrorCode::BadUsage)
                .into());
        }
        (TokenRole::Trusted | TokenRole::Operator, None) => None,
        (TokenRole::Trusted | TokenRole::Operator, Some(_)) => {
            return Err(Trouble::usage("only a worker's token has a pool")
                .next("leave --pool out, or use --role worker")
                .coded(ErrorCode::BadUsage)
                .into());
        }
    };
    let file = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.token")));
    write(&file, &random()?)?;
    let role = args.role.as_str();
    let pool_line = pool.as_ref().map(|pool| format!("pool = \"{pool}\"\n")).unwrap_or_default();
    let table = format!(
        "[[token]]\nname = \"{name}\"\nrole = \"{role}\"\n{pool_line}file = {}\n",
        toml::Value::String(file.display().to_string())
    );
    let made = Made { name: name.to_string(), role, pool, file: file.clone(), table };
    output.show(&made, || made.table.clone());
    let next = match args.role {
        TokenRole::Worker | TokenRole::Trusted => {
            let pool = made.pool.as_deref().unwrap_or("trusted");
            format!(
                "copy the file to the worker's host (scp -p), and run there:\n  push0 worker --connect http://HOST:PORT --pool {pool} \
                 --token-file {}",
                file.file_name().map_or_else(|| file.display(), |name| Path::new(name).display())
            )
        }
        TokenRole::Operator => format!("with --token-file {} a command may do everything", file.display()),
    };
    output.note(&format!(
        "wrote {} (only you can read it)\nadd the table to push0.toml (`file` is relative to it), then `push0 token reload`; {next}",
        file.display()
    ));
    Ok(())
}

fn write(file: &Path, token: &str) -> anyhow::Result<()> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = match made {
        Ok(made) => made,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Trouble::usage(format!("{} is there already", file.display()))
                .next("name another with --file; to replace a token, remove its file first")
                .coded(ErrorCode::FileExists)
                .into());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write {}", file.display())),
    };
    made.write_all(format!("{token}\n").as_bytes()).with_context(|| format!("cannot write {}", file.display()))
}

pub async fn reload(location: &Where, output: Output) -> anyhow::Result<()> {
    let client = location.client()?;
    let request = client.request(reqwest::Method::POST, RELOAD);
    let reloaded: Reloaded =
        welcome::answer_of(request).await.map_err(|error| match ErrorCode::split(error.message()) {
            (Some(page @ ErrorCode::BadConfiguration), mistakes) => {
                Trouble::usage(format!("the tokens stay as they were: {mistakes}"))
                    .next("correct push0.toml, then `push0 token reload` again")
                    .coded(page)
            }
            _ => location.explain(&error),
        })?;
    output.show(&reloaded, || match reloaded.tokens.as_slice() {
        [] => "no tokens: only the socket lets anybody in".to_owned(),
        names => format!("tokens: {}", names.join(", ")),
    });
    Ok(())
}

/// Files with tokens that anybody can read; a group may be meant to.
pub fn readable_by_others(files: &[PathBuf]) -> Vec<&Path> {
    let is_open = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o007 != 0);
    files.iter().filter(is_open).map(PathBuf::as_path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(role: TokenRole, pool: Option<&str>, name: &str, file: PathBuf) -> NewToken {
        NewToken { role, pool: pool.map(|pool| pool.parse().unwrap()), name: name.parse().unwrap(), file: Some(file) }
    }

    #[test]
    fn a_token_is_random_for_its_owners_eyes_and_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for file in [&one, &two] {
            new(&args(TokenRole::Worker, Some("gpu"), "rack1", file.clone()), Output::new(false)).unwrap();
        }
        let read = |file: &PathBuf| std::fs::read_to_string(file).unwrap();
        assert_ne!(read(&one), read(&two));
        assert_eq!(read(&one).trim().len(), 2 * BYTES);
        assert_eq!(readable_by_others(&[one.clone(), two.clone()]), [] as [&Path; 0]);
        std::fs::set_permissions(&two, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(readable_by_others(&[one.clone(), two.clone()]), [two.as_path()]);
        let before = read(&one);
        let error = new(&args(TokenRole::Operator, None, "op", one.clone()), Output::new(false)).unwrap_err();
        assert!(error.to_string().contains("there already"), "{error}");
        assert_eq!(read(&one), before);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = || dir.path().join("t");
        for bad in [
            args(TokenRole::Worker, None, "rack1", file()),
            args(TokenRole::Worker, Some("trusted"), "rack1", file()),
            args(TokenRole::Operator, Some("gpu"), "op", file()),
            args(TokenRole::Worker, Some("gpu"), "local-gpu-1", file()),
        ] {
            assert!(new(&bad, Output::new(false)).is_err(), "{bad:?}");
            assert!(!file().exists());
        }
    }
}
