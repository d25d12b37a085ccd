//! Echo as a process: what only a process can show.
#![allow(clippy::unwrap_used, reason = "a test; clippy sees only the functions marked so")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use push0_prover::wire::{FromProver, ToProver};
use push0_prover::{BlockRef, FailureKind, Kind, Task};
use serde_json::{Value, json};

struct Session {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Session {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_push0-echo"))
            .env("PUSH0_ECHO_LOG", dir.join("log"))
            .env("PUSH0_ECHO_STATE", dir.join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut session = Self { child, said };
        assert!(matches!(session.hear(), Ok(FromProver::Hello(_))));
        session
    }

    fn tell(&mut self, message: &ToProver) {
        let line = serde_json::to_string(message).unwrap();
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line, or the text that is no message; an empty text is the end.
    fn hear(&mut self) -> Result<FromProver, String> {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).map_err(|_| line)
    }
}

fn task(dir: &Path, id: &str, params: Value) -> ToProver {
    std::fs::write(dir.join("segment"), r#"{"block":"b","segment":0}"#).unwrap();
    ToProver::Task(Task {
        id: id.to_owned(),
        stage: "anything".to_owned(),
        kind: Kind::Map,
        inputs: vec![dir.join("segment")],
        output: dir.join("out"),
        params,
        check: false,
        deadline_ms: None,
        block: BlockRef { chain: "c".to_owned(), number: 1, hash: "b".to_owned(), parent_hash: None },
    })
}

#[test]
fn a_crash_happens_as_often_as_the_script_says_and_every_start_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let params = json!({ "fail": [{ "kind": "crash", "times": 1 }] });
    let mut first = Session::start(dir.path());
    first.tell(&task(dir.path(), "t/1", params.clone()));
    assert_eq!(first.hear(), Err(String::new()));
    assert!(!first.child.wait().unwrap().success());

    let mut second = Session::start(dir.path());
    second.tell(&task(dir.path(), "t/2", params));
    assert!(matches!(second.hear(), Ok(FromProver::Done { id, .. }) if id == "t/2"));
    drop(second.child.stdin.take());
    assert!(second.child.wait().unwrap().success(), "the end of stdin means: exit");
    assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "t/1\nt/2\n");
}

#[test]
fn a_cancelled_task_answers_and_a_hanging_one_ends_with_its_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = Session::start(dir.path());
    session.tell(&task(dir.path(), "long", json!({ "duration_ms": 3_600_000 })));
    assert!(matches!(session.hear(), Ok(FromProver::Progress { fraction: Some(_), .. })));
    session.tell(&ToProver::Cancel { id: "long".to_owned() });
    let failure = loop {
        match session.hear().unwrap() {
            FromProver::Failed { failure, .. } => break failure,
            other => assert!(matches!(other, FromProver::Progress { .. }), "{other:?}"),
        }
    };
    assert_eq!(failure.kind, FailureKind::Retryable);
    session.tell(&task(dir.path(), "hang", json!({ "fail": [{ "kind": "hang" }] })));
    drop(session.child.stdin.take());
    assert!(session.child.wait().unwrap().success());
}

#[test]
fn garbage_is_a_line_that_is_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = Session::start(dir.path());
    session.tell(&task(dir.path(), "g", json!({ "fail": [{ "kind": "garbage", "id": "g" }] })));
    assert!(session.hear().unwrap_err().contains("not the prover protocol"));
    assert!(matches!(session.hear(), Ok(FromProver::Done { .. })));
    writeln!(session.child.stdin.as_mut().unwrap(), "garbage from the worker").unwrap();
    assert_eq!(session.child.wait().unwrap().code(), Some(2));
}
