//! `push0 init`: a commented configuration to start from.

use std::path::PathBuf;

use push0_core::ErrorCode;
use serde::Serialize;

use crate::args::{self, Pipeline};
use crate::error::Trouble;
use crate::output::Output;
use crate::settings::FILE;

pub const EXAMPLE: &str = include_str!("../../examples/push0.toml");
pub const ROLLUP: &str = include_str!("../../examples/rollup.toml");
pub const ECHO: &str = include_str!("../../examples/echo.toml");

impl Pipeline {
    pub fn file_name(self) -> &'static str {
        match self {
            Pipeline::Rollup => "rollup.toml",
            Pipeline::Echo => "echo.toml",
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Pipeline::Rollup => ROLLUP,
            Pipeline::Echo => ECHO,
        }
    }
}

#[derive(Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

pub fn run(args: &args::Init, output: Output) -> anyhow::Result<()> {
    let config = EXAMPLE.replace("\"rollup.toml\"", &format!("{:?}", args.pipeline.file_name()));
    let files =
        [(args.dir.join(FILE), config.as_str()), (args.dir.join(args.pipeline.file_name()), args.pipeline.text())];
    if let Some((there, _)) = files.iter().find(|(path, _)| path.exists() && !args.force) {
        return Err(Trouble::usage(format!("{} is there already", there.display()))
            .next("use --force to write over it, or name another directory")
            .coded(ErrorCode::FileExists)
            .into());
    }
    let made = std::fs::create_dir_all(&args.dir);
    made.map_err(|error| Trouble::of_file(format!("cannot make {}", args.dir.display()), &error))?;
    for (path, text) in &files {
        std::fs::write(path, text)
            .map_err(|error| Trouble::of_file(format!("cannot write {}", path.display()), &error))?;
    }
    let written = Written { files: files.into_iter().map(|(path, _)| path).collect() };
    output.show(&written, || {
        let lines: Vec<String> = written.files.iter().map(|path| format!("wrote {}", path.display())).collect();
        lines.join("\n")
    });
    output.note(&format!("next: push0 up --config {}", written.files[0].display()));
    Ok(())
}
