//! Running a prover from the command line, outside of any worker: for checking what was finalized.
//!
//! Both forms of `docs/prover-protocol.md`. A session stays up for further tasks. Dropping a [`Runner`] kills its prover.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use push0_core::pipeline::{Form, ProverCommand};
use push0_core::{ErrorCode, Sha256};
use push0_prover::wire::{self, FromProver, Hello, TASK_ENV, TaskResult, ToProver};
use std::collections::BTreeMap;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::error::Trouble;

/// A prover, started when it is first needed.
pub struct Runner {
    command: ProverCommand,
    program: PathBuf,
    /// What its `hello` must say.
    programs: BTreeMap<String, Sha256>,
    limit: Duration,
    session: Option<Session>,
}

struct Session {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Runner {
    pub fn new(command: &ProverCommand, programs: BTreeMap<String, Sha256>, limit: Duration) -> Result<Self, Trouble> {
        let program = find(&command.command[0]).ok_or_else(|| missing(&command.command[0]))?;
        Ok(Self { command: command.clone(), program, programs, limit, session: None })
    }

    /// Runs one task; says what is wrong where there is no answer.
    pub async fn run(&mut self, task: wire::Task) -> Result<TaskResult, String> {
        let limit = self.limit;
        let running = async {
            match self.command.form {
                Form::Session => self.in_session(task).await,
                Form::Exec => self.execute(task).await,
            }
        };
        let answer = match tokio::time::timeout(limit, running).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        };
        if answer.is_err() {
            self.session = None;
        }
        answer
    }

    fn start(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.command.command[1..]).env_remove("PUSH0_TOKEN").kill_on_drop(true);
        command
    }

    async fn in_session(&mut self, task: wire::Task) -> Result<TaskResult, String> {
        if self.session.is_none() {
            self.session = Some(self.open().await?);
        }
        let session = self.session.as_mut().expect("it was just opened");
        let id = task.id.clone();
        session.tell(&ToProver::Task(task)).await?;
        loop {
            match session.listen().await? {
                FromProver::Progress { .. } => {}
                FromProver::Done { id: about, result } if about == id => return Ok(result),
                FromProver::Failed { id: about, failure } if about == id => return Err(failure.message),
                FromProver::Hello(_) | FromProver::Done { .. } | FromProver::Failed { .. } => {
                    return Err("the prover answered what it was not asked".to_owned());
                }
            }
        }
    }

    async fn open(&self) -> Result<Session, String> {
        let mut command = self.start();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the prover has no stdin or stdout".to_owned());
        };
        let mut session = Session { _child: child, stdin, stdout: BufReader::new(stdout).lines() };
        match session.listen().await? {
            FromProver::Hello(hello) => self.suits(&hello)?,
            _ => return Err("the prover did not begin with hello".to_owned()),
        }
        Ok(session)
    }

    /// Whether it is the prover that the pipeline pins.
    fn suits(&self, hello: &Hello) -> Result<(), String> {
        for (name, pinned) in &self.programs {
            let offered = hello.programs.get(name).map(|digest| digest.to_ascii_lowercase());
            if offered.as_deref() != Some(&pinned.to_string()) {
                let offered = offered.as_deref().unwrap_or("none of that name");
                return Err(format!(
                    "the prover here has another program {name} than the pipeline pins: {offered}, not {pinned}"
                ));
            }
        }
        Ok(())
    }

    async fn execute(&self, task: wire::Task) -> Result<TaskResult, String> {
        let io = |error: std::io::Error| error.to_string();
        let told = task.output.with_file_name("task.json");
        let result = task.output.with_file_name("result.json");
        let _ = std::fs::remove_file(&result);
        std::fs::write(&told, serde_json::to_vec(&ToProver::Task(task.clone())).map_err(|error| error.to_string())?)
            .map_err(io)?;
        let mut command = self.start();
        command.arg("--stage").arg(&task.stage);
        task.inputs.iter().for_each(|input| {
            command.arg("--input-path").arg(input);
        });
        command.arg("--output-path").arg(&task.output).env(TASK_ENV, &told);
        let ended = command.stdin(Stdio::null()).output().await.map_err(io)?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            return Err(format!("the prover ended with {}: {}", ended.status, said.trim()));
        }
        let bytes = std::fs::read(&result).map_err(|error| format!("the prover left no result.json: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("its result.json is no result: {error}"))
    }
}

impl Session {
    async fn tell(&mut self, message: &ToProver) -> Result<(), String> {
        let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.stdin.write_all(&line).await.map_err(|error| format!("the prover does not listen: {error}"))
    }

    async fn listen(&mut self) -> Result<FromProver, String> {
        let line = self.stdout.next_line().await.map_err(|error| error.to_string())?;
        let line = line.ok_or("the prover ended without an answer")?;
        serde_json::from_str(&line).map_err(|error| format!("the prover said what is not in the protocol: {error}"))
    }
}

/// A program with a `/` as it is; another is looked up beside this executable, then in `PATH`, as the worker does.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join(program));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(program));
    beside.into_iter().chain(on_path).find(|candidate| candidate.is_file())
}

pub fn missing(program: &str) -> Trouble {
    Trouble::failed(format!("the program {program} is neither beside push0 nor in PATH"))
        .next("build it: `cargo build` in the repository builds all of push0's own provers")
        .coded(ErrorCode::ProverMissing)
}
