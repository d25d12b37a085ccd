//! `push0 prover new`: a directory to begin a prover in. Its files are those of `examples/`, so what is tested there is what is written
//! here.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use push0_core::pipeline::Form;
use push0_core::{ErrorCode, ProverName};
use serde::Serialize;

use crate::args::{self, Language};
use crate::error::Trouble;
use crate::output::Output;

const SESSION_PY: &str = include_str!("../../../examples/python/session.py");
const EXEC_PY: &str = include_str!("../../../examples/python/exec.py");
const EXEC_SH: &str = include_str!("../../../examples/sh/exec.sh");
const BLOCKS_PY: &str = include_str!("../../../examples/python/blocks.py");
const PIPELINE: &str = include_str!("../../../examples/python/session.toml");
const README: &str = include_str!("template/README.md");
const CONFIG: &str = include_str!("template/push0.toml");

#[derive(Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

pub fn run(args: &args::New, output: Output) -> anyhow::Result<()> {
    let name = name_of(&args.dir)?;
    let files = files(&name, args.form, args.language)?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let there = args.dir.read_dir().with_context(|| format!("cannot read {}", args.dir.display()))?.next();
    if there.is_some() {
        return Err(Trouble::usage(format!("{} is there already, and not empty", args.dir.display()))
            .next("name another directory")
            .coded(ErrorCode::FileExists)
            .into());
    }
    let mut written = Written { files: Vec::new() };
    for File { name, text, is_program } in files {
        let path = args.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        if is_program {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        written.files.push(path);
    }
    output.show(&written, || {
        let lines: Vec<String> = written.files.iter().map(|path| format!("wrote {}", path.display())).collect();
        lines.join("\n")
    });
    output.note(&format!("next: cd {}; README.md has three commands to try it", args.dir.display()));
    Ok(())
}

/// The directory's own name, if a prover can have it.
fn name_of(dir: &Path) -> Result<ProverName, Trouble> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse().map_err(|error| {
        Trouble::usage(format!("the directory's name is the prover's: {error}"))
            .next("push0 prover new my-prover")
            .coded(ErrorCode::BadUsage)
    })
}

struct File {
    name: &'static str,
    text: String,
    is_program: bool,
}

fn files(prover: &ProverName, form: Form, language: Language) -> Result<Vec<File>, Trouble> {
    let (program, text, form) = match (language, form) {
        (Language::Python, Form::Session) => ("prover.py", SESSION_PY, "session"),
        (Language::Python, Form::Exec) => ("prover.py", EXEC_PY, "exec"),
        (Language::Sh, Form::Exec) => ("prover.sh", EXEC_SH, "exec"),
        (Language::Sh, Form::Session) => {
            return Err(Trouble::usage("sh has the exec form only: a session is a program that keeps something warm")
                .next("use --form exec, or --language python; in Rust, provers/sdk has the session form")
                .coded(ErrorCode::BadUsage));
        }
    };
    let checks = "# The prover can tell whether an accused artifact is bad.\ncheck = true\n";
    let pipeline = if form == "exec" { PIPELINE.replace(checks, "") } else { PIPELINE.to_owned() };
    let pipeline = pipeline
        .replace(
            "# The pipeline of session.py. Every key is explained in ../rollup.toml.",
            "# Every key with its meaning: examples/rollup.toml in push0's repository.",
        )
        .replace("name = \"session\"", &format!("name = \"{prover}\""))
        .replace("[prover.example]", &format!("[prover.{prover}]"))
        .replace("form = \"session\"", &format!("form = \"{form}\""))
        .replace("./session.py", &format!("./{program}"));
    let own = |text: &str| {
        // The examples speak of one another; alone, each is what it is.
        let text = text.replace("(session.py says why)", "(its \"proof\" is the segments' digests)");
        let text = text.replace("(../python/session.py says why)", "(its \"proof\" is the segments' digests)");
        text.replace("exec.sh --stage", "prover.sh --stage")
            .replace("for exec.py and session.py", "to try the prover with")
    };
    let readme = README.replace("NAME", prover.as_str()).replace("FORM", form).replace("PROGRAM", program);
    let file = |name, text: String, is_program| File { name, text, is_program };
    Ok(vec![
        file(program, own(text), true),
        file("pipeline.toml", pipeline, false),
        file("push0.toml", CONFIG.to_owned(), false),
        file("blocks.py", own(BLOCKS_PY), true),
        file("README.md", readme, false),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_a_good_pipeline_of_the_prover_s_own_name() {
        let name: ProverName = "mine".parse().unwrap();
        for (language, form) in
            [(Language::Python, Form::Session), (Language::Python, Form::Exec), (Language::Sh, Form::Exec)]
        {
            let files = files(&name, form, language).unwrap();
            let text = |wanted: &str| &files.iter().find(|file| file.name == wanted).unwrap().text;
            let pipeline = push0_core::pipeline::parse(text("pipeline.toml")).unwrap();
            let prover = &pipeline.provers[&name];
            assert_eq!((pipeline.pipeline.name.as_str(), prover.form), ("mine", form));
            assert_eq!(prover.command, [format!("./{}", files[0].name)]);
            assert_eq!(pipeline.policy.stage(1).check, form == Form::Session, "what the program can do");
            let mentions = |word: &str| files.iter().any(|file| file.text.contains(word));
            assert!(!mentions("session.py") && !mentions("exec.py") && !mentions("exec.sh") && !mentions("NAME"));
            assert!(text("README.md").contains(files[0].name));
        }
        assert!(files(&name, Form::Session, Language::Sh).is_err());
    }

    #[test]
    fn a_directory_that_no_prover_can_be_named_after_is_refused() {
        assert!(name_of(Path::new("/a/my-prover")).is_ok());
        for bad in ["My_Prover", "..", "/"] {
            assert!(name_of(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
