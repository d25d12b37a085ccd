//! The prover protocol, both of its sides, and what provers leave.

use std::cell::RefCell;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use push0_core::message::TaskMessage;
use push0_core::pipeline::Kind;
use push0_core::{BlockHash, Millis};
use push0_gpu_worker::prover::words;
use push0_gpu_worker::{Data, Job, Outcome, Output};
use push0_prover::{BlockRef, Ctx, ExecTask, Failure, Hello, Prover, SessionError, Task, TaskResult, hello, serve_on};
use push0_prover_echo::Echo;

use super::{Target, parts, wait};

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("prover_echo", echo).within(200, 256 * 1024),
        Target::new("prover_exec", exec),
        Target::new("prover_result", result),
        Target::new("prover_session", session),
        Target::new("prover_tasks", tasks).within(200, 4 << 20),
    ]
}

/// What a worker reads of a session: each line, then what the answers in it come to for a task of each kind.
fn session(input: &[u8]) -> bool {
    let (messages, broken) = wait(words::session(&mut Cursor::new(input)));
    if let Some(what) = &broken {
        assert!(what.len() <= 4096, "a message of {} bytes", what.len());
    }
    for message in &messages {
        let written = serde_json::to_string(message).expect("a message is plain data");
        assert_eq!(serde_json::from_str(&written).ok().as_ref(), Some(message), "{written}");
    }
    for message in messages.iter().cloned() {
        use push0_prover::wire::FromProver;
        match message {
            FromProver::Done { result, .. } => answered(&Ok(result)),
            FromProver::Failed { failure, .. } => answered(&Err(failure)),
            FromProver::Hello(_) | FromProver::Progress { .. } => {}
        }
    }
    broken.is_none() && !messages.is_empty()
}

fn result(input: &[u8]) -> bool {
    match words::result(input) {
        Ok(said) => {
            answered(&said);
            true
        }
        Err(what) => {
            assert!(what.len() <= 4096, "a message of {} bytes", what.len());
            false
        }
    }
}

/// What an answer comes to, for a task of each kind whose output is not there, and with one and with three inputs.
fn answered(said: &Result<TaskResult, Failure>) {
    for kind in [Kind::Split, Kind::Map, Kind::Join, Kind::Single, Kind::Verify] {
        for inputs in [1, 3] {
            let job = job(kind, inputs);
            match words::outcome(&job, Path::new("/nonexistent/output"), said.clone()) {
                Outcome::Done(Output::Verdict { .. }) => assert!(kind == Kind::Verify),
                Outcome::Done(Output::Split { segments, .. }) => assert!(segments.is_empty(), "there is no segment"),
                Outcome::Done(Output::Artifact(_)) => panic!("there is no artifact"),
                Outcome::Failed(failure) => {
                    assert!(failure.message.len() <= push0_core::record::MAX_ERROR);
                    assert!(failure.children.iter().all(|child| (*child as usize) < inputs), "{failure:?}");
                }
            }
        }
    }
}

fn job(kind: Kind, inputs: usize) -> Job {
    let task = serde_json::json!({
        "v": 1, "id": "demo/1/e1/0123456789abcdef/1.0.0/a1c0", "stage": "any", "kind": kind, "prover": "p", "pool": "cpu",
        "class": "standard", "inputs": [], "params": null, "block_hash": BlockHash([7; 32]), "time_limit": Millis(1),
    });
    let task: TaskMessage = push0_core::record::Versioned::from_value(task).expect("a task");
    Job { task, inputs: (0..inputs).map(|_| Data::Memory(Default::default())).collect(), dir: None }
}

/// A prover that is glad of every task.
struct Glad;

impl Prover for Glad {
    fn hello(&self) -> Hello {
        hello("glad", "0")
    }

    fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        ctx.progress(0.5, &task.stage);
        Ok(TaskResult::split(1, task.block.hash.clone(), None))
    }

    fn check(&mut self, _: &Task, _: &Ctx) -> Result<TaskResult, Failure> {
        Ok(TaskResult::default())
    }
}

/// What a prover reads of its worker.
fn tasks(input: &[u8]) -> bool {
    match serve_on(Glad, Cursor::new(input.to_vec()), std::io::sink()) {
        Ok(()) => !input.trim_ascii().is_empty(),
        Err(SessionError::LineTooLong | SessionError::NotAMessage(..)) => false,
        Err(SessionError::Io(error)) => panic!("nothing failed, but {error}"),
    }
}

/// The exec form's command line, one argument a line.
fn exec(input: &[u8]) -> bool {
    use std::os::unix::ffi::OsStringExt as _;
    let arguments = input.split(|byte| *byte == b'\n').map(|line| std::ffi::OsString::from_vec(line.to_vec()));
    ExecTask::from_args(arguments).is_ok()
}

thread_local! {
    static ROOM: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A directory of this thread's own.
pub(super) fn room() -> PathBuf {
    ROOM.with(|room| {
        let mut room = room.borrow_mut();
        let room = room.get_or_insert_with(|| tempfile::tempdir().expect("a directory for files"));
        room.path().to_owned()
    })
}

/// A prover's tasks over files: the input's parts are what it is given. Every kind that takes so many is tried.
pub(super) fn over_files(
    input: &[u8],
    mut run: impl FnMut(&Task) -> Result<TaskResult, Failure>,
    stages: &[(&str, push0_prover::Kind)],
) -> bool {
    let room = room();
    let mut inputs = Vec::new();
    for (number, part) in parts(input).into_iter().take(16).enumerate() {
        let path = room.join(format!("in-{number}"));
        if std::fs::write(&path, part).is_err() {
            return false;
        }
        inputs.push(path);
    }
    let mut accepted = false;
    for (stage, kind) in stages {
        for check in [false, true] {
            let output = room.join("output");
            let _ = (std::fs::remove_dir_all(&output), std::fs::remove_file(&output));
            let block = BlockRef {
                chain: "demo".to_owned(),
                number: 1,
                hash: "ab".repeat(32),
                parent_hash: Some("cd".repeat(32)),
            };
            let task = Task {
                id: "demo/1/e1/0123456789abcdef/1.0.0/a1c0".to_owned(),
                stage: (*stage).to_owned(),
                kind: *kind,
                inputs: inputs.clone(),
                output,
                params: serde_json::Value::Null,
                check,
                deadline_ms: None,
                block,
            };
            accepted |= run(&task).is_ok();
        }
    }
    accepted
}

/// Witnesses may ask echo to take its time, and for as many segments as push0 takes: neither is tried here.
fn echo(input: &[u8]) -> bool {
    use push0_prover::Kind::{Join, Map, Single, Split, Verify};
    let asks = |name: &str| parts(input).iter().any(|part| String::from_utf8_lossy(part).contains(name));
    let is_batch = parts(input).len() > 1;
    let mut stages = vec![("prove", Map), ("join", Join), ("wrap", Single), ("verify", Verify)];
    if is_batch || !(asks("duration_ms") || asks("segments") || asks("\\u")) {
        stages.push(("split", Split));
    }
    let run = |task: &Task| match task.check {
        true => Echo.check(task, &Ctx::detached()),
        false => Echo.run(task, &Ctx::detached()),
    };
    over_files(input, run, &stages)
}
