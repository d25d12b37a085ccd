//! What a Lambda function is made of: its program, and the part of the configuration that it needs.
//!
//! The archive holds `bootstrap`, `push0.toml` and the pipelines. Of the configuration it has the chains and what finalized blocks keep:
//! nothing of this machine, and no token.

use std::collections::BTreeMap;
use std::path::Path;

use aws_sdk_lambda::types::Architecture;
use push0_core::ErrorCode;
use push0_core::topology::{FunctionSpec, Topology};
use sha2::{Digest as _, Sha256};

use super::zip::{self, File};
use crate::error::Trouble;
use crate::settings::{FILE, Settings, Sources};

/// Tables of the configuration that functions read.
const TABLES: [&str; 2] = ["chain", "retention"];
/// Variables that overrule the file here, and have to there.
const VARIABLES: [&str; 6] = [
    "PUSH0_LOG",
    "PUSH0_GRACE_S",
    "PUSH0_KEEP_BLOCKS",
    "PUSH0_DELETE_WITNESSES",
    "PUSH0_FINALIZED_S",
    push0_runtime::aws::record::FILE,
];

pub(super) struct Package<'a> {
    pub(super) function: &'a FunctionSpec,
    pub(super) archive: Vec<u8>,
    /// Of the archive, as Lambda writes it.
    pub(super) sha256: String,
    pub(super) architecture: Architecture,
    /// What the function's environment has to say, without where it runs.
    pub(super) environment: BTreeMap<String, String>,
}

/// A package for each function, of the programs in `directory`: `NAME/bootstrap` as cargo-lambda leaves them, or `NAME` as cargo does.
pub(super) fn packages<'a>(
    directory: &Path,
    topology: &'a Topology,
    sources: &Sources,
    settings: &Settings,
) -> Result<Vec<Package<'a>>, Trouble> {
    let configuration = configuration(settings)?;
    let mut environment: BTreeMap<String, String> =
        VARIABLES.into_iter().filter_map(|name| Some((name.to_owned(), sources.env.get(name)?.clone()))).collect();
    environment.insert("PUSH0_CONFIG".to_owned(), FILE.to_owned());
    environment.insert("PUSH0_AWS_PREFIX".to_owned(), settings.aws.prefix.clone());
    let package = |function: &'a FunctionSpec| {
        let program = program(directory, &function.name)?;
        let architecture = architecture(&program).ok_or_else(|| {
            Trouble::usage(format!("the program of {} is none for Linux on x86-64 or arm64", function.name))
                .next("build it for Lambda: just package")
                .coded(ErrorCode::FileUnusable)
        })?;
        let mut files = vec![File { name: "bootstrap".to_owned(), bytes: program, mode: 0o755 }];
        files.extend(configuration.iter().map(|(name, text)| File {
            name: name.clone(),
            bytes: text.clone().into_bytes(),
            mode: 0o644,
        }));
        let archive = zip::archive(&files).ok_or_else(|| {
            Trouble::usage(format!("the program of {} is larger than Lambda takes", function.name))
                .next("build it for Lambda: just package")
                .coded(ErrorCode::FileUnusable)
        })?;
        let sha256 = base64(&Sha256::digest(&archive));
        Ok(Package { function, archive, sha256, architecture, environment: environment.clone() })
    };
    topology.functions.iter().map(package).collect()
}

fn program(directory: &Path, name: &str) -> Result<Vec<u8>, Trouble> {
    let paths = [directory.join(name).join("bootstrap"), directory.join(name)];
    let Some(path) = paths.iter().find(|path| path.is_file()) else {
        return Err(Trouble::usage(format!("there is no program of {name} in {}", directory.display()))
            .next(format!("--functions names a directory with {name}/bootstrap in it: `just package` makes one in target/package/build"))
            .coded(ErrorCode::FileUnusable));
    };
    std::fs::read(path).map_err(|error| Trouble::of_file(format!("cannot read {}", path.display()), &error))
}

/// What an ELF file is for: its machine (`e_machine`, ELF specification).
fn architecture(program: &[u8]) -> Option<Architecture> {
    if !program.starts_with(b"\x7fELF") {
        return None;
    }
    match u16::from_le_bytes([*program.get(18)?, *program.get(19)?]) {
        62 => Some(Architecture::X8664),
        183 => Some(Architecture::Arm64),
        _ => None,
    }
}

/// `push0.toml` and the pipelines it names, which lie beside it then.
fn configuration(settings: &Settings) -> Result<Vec<(String, String)>, Trouble> {
    let Some(file) = &settings.file else {
        return Err(Trouble::usage("functions need a configuration, and there is none here")
            .next("name one with --config FILE")
            .coded(ErrorCode::BadConfiguration));
    };
    let mut table: toml::Table = read(file)?.parse().map_err(|error| unusable(file, &error))?;
    table.retain(|name, _| TABLES.contains(&name));
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut pipelines: BTreeMap<String, String> = BTreeMap::new();
    let mut files = Vec::new();
    for chain in table.get_mut("chain").and_then(toml::Value::as_array_mut).into_iter().flatten() {
        let Some(pipeline) = chain.get_mut("pipeline") else { continue };
        let path = pipeline.as_str().unwrap_or_default().to_owned();
        let number = pipelines.len();
        if !pipelines.contains_key(&path) {
            let name = format!("pipelines/{number}.toml");
            files.push((name.clone(), read(&directory.join(&path))?));
            pipelines.insert(path.clone(), name);
        }
        *pipeline = pipelines[&path].clone().into();
    }
    let text = toml::to_string(&table).map_err(|error| unusable(file, &error))?;
    files.insert(0, (FILE.to_owned(), text));
    as_there(&files)?;
    Ok(files)
}

/// Reads it as a function will.
fn as_there(files: &[(String, String)]) -> Result<(), Trouble> {
    let unusable = |error: std::io::Error| Trouble::of_file("cannot write to the temporary directory", &error);
    let directory = tempfile::tempdir().map_err(unusable)?;
    std::fs::create_dir(directory.path().join("pipelines")).map_err(unusable)?;
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).map_err(unusable)?;
    }
    let sources = Sources { file: Some(directory.path().join(FILE)), ..Sources::default() };
    Settings::read(&sources).map(|_| ()).map_err(|mistakes| {
        Trouble::usage(format!("the configuration has mistakes where functions read it:\n{mistakes}"))
            .next("put push0.toml and its pipelines into one directory")
            .coded(ErrorCode::BadConfiguration)
    })
}

fn read(path: &Path) -> Result<String, Trouble> {
    std::fs::read_to_string(path).map_err(|error| Trouble::of_file(format!("cannot read {}", path.display()), &error))
}

fn unusable(file: &Path, error: &dyn std::error::Error) -> Trouble {
    Trouble::usage(format!("cannot read {}: {error}", file.display())).coded(ErrorCode::BadConfiguration)
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            text.push(if is_padding { '=' } else { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
data = "elsewhere"
listen = "127.0.0.1:7330"

[retention]
grace_s = 5

[[token]]
value = "0123456789abcdef0123456789abcdef"
name = "rack"
role = "worker"
pool = "cpu"

[[chain]]
id = "a"
pipeline = "../echo.toml"

[[chain]]
id = "b"
pipeline = "../echo.toml"
"#;

    #[test]
    fn functions_get_chains_pipelines_and_retention_and_no_token() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("etc");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(directory.path().join("echo.toml"), crate::init::ECHO).unwrap();
        let file = inner.join(FILE);
        std::fs::write(&file, CONFIG).unwrap();
        let settings = Settings::read(&Sources { file: Some(file), ..Sources::default() }).unwrap();

        let files = configuration(&settings).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["push0.toml", "pipelines/0.toml"]);
        let text = &files[0].1;
        assert!(text.contains("grace_s = 5") && text.matches("pipelines/0.toml").count() == 2, "{text}");
        for absent in ["token", "listen", "data", "0123456789abcdef"] {
            assert!(!text.contains(absent), "{absent} is in {text}");
        }
    }

    #[test]
    fn a_program_says_what_it_is_for() {
        let elf = |machine: u8| {
            let mut bytes = b"\x7fELF".to_vec();
            bytes.resize(64, 0);
            bytes[18] = machine;
            bytes
        };
        assert_eq!(architecture(&elf(62)), Some(Architecture::X8664));
        assert_eq!(architecture(&elf(183)), Some(Architecture::Arm64));
        assert_eq!(architecture(&elf(3)), None);
        assert_eq!(architecture(b"#!/bin/sh"), None);
        assert_eq!(architecture(b"\x7fELF"), None);
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}
