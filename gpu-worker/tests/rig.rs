//! Provers run outside of any worker: pins, what an onlooker sees, cancelling.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use push0_core::message::TaskMessage;
use push0_core::pipeline::{Form, Kind, ProverCommand};
use push0_core::{ErrorCode, Sha256};
use push0_gpu_worker::prover::{EXECUTABLE, Onlooker, Seen};
use push0_gpu_worker::{Limits, Outcome, Proved, Rig};
use serde_json::{Map, Value, json};
use support::{script, task};

/// The test's provers as files of their own, `scripted` (session) and `once` (exec).
fn rig(dir: &Path) -> Rig {
    let install = |name: &str| {
        let path = dir.join(name);
        // By a process of its own: a file that is open for writing here is so for a moment in whatever another test starts, and cannot be executed then.
        let installed = std::process::Command::new("install").args(["-m", "755"]).args([&script(name), &path]).status();
        assert!(installed.unwrap().success());
        path.to_str().unwrap().to_owned()
    };
    let log = dir.join("invocations").to_str().unwrap().to_owned();
    let command = |form, command| ProverCommand::new(form, command);
    let provers: BTreeMap<_, _> = [
        ("scripted".parse().unwrap(), command(Form::Session, vec![install("session.py"), log])),
        ("once".parse().unwrap(), command(Form::Exec, vec![install("exec.sh")])),
    ]
    .into();
    Rig::new(provers, Vec::new(), &dir.join("scratch dir"), Limits::default()).unwrap()
}

fn input(dir: &Path) -> Vec<PathBuf> {
    let path = dir.join("input");
    std::fs::write(&path, "segment").unwrap();
    vec![path]
}

async fn outcome(rig: &mut Rig, task: TaskMessage, inputs: &[PathBuf]) -> Outcome {
    match rig.run(task, inputs, std::future::pending()).await.unwrap() {
        Proved::Outcome(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pinned_executable_is_compared_before_the_task_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (mut rig, inputs) = (rig(dir.path()), input(dir.path()));
    for (prover, file) in [("once", "exec.sh"), ("scripted", "session.py")] {
        let pinned = |digest| TaskMessage {
            prover: prover.parse().unwrap(),
            programs: [(EXECUTABLE.to_owned(), digest)].into(),
            ..task(Kind::Map, 0, Vec::new())
        };
        let right = Sha256::of(&std::fs::read(dir.path().join(file)).unwrap());
        assert!(matches!(outcome(&mut rig, pinned(right), &inputs).await, Outcome::Done(_)));
        let Outcome::Failed(failure) = outcome(&mut rig, pinned(Sha256([1; 32])), &inputs).await else {
            panic!("{prover} ran with another executable than the pipeline pins");
        };
        assert_eq!(ErrorCode::find(&failure.message), Some(ErrorCode::ProgramDiffers), "{}", failure.message);
    }
    let unknown = TaskMessage {
        prover: "once".parse().unwrap(),
        programs: [("leaf".to_owned(), Sha256([1; 32]))].into(),
        ..task(Kind::Map, 0, Vec::new())
    };
    assert!(matches!(outcome(&mut rig, unknown, &inputs).await, Outcome::Failed(_)), "nobody could compare it");
}

#[tokio::test]
async fn a_running_session_counts_as_the_file_it_was_started_from() {
    let dir = tempfile::tempdir().unwrap();
    let (mut rig, inputs) = (rig(dir.path()), input(dir.path()));
    let file = dir.path().join("session.py");
    let old = std::fs::read(&file).unwrap();
    let pinned =
        |digest| TaskMessage { programs: [(EXECUTABLE.to_owned(), digest)].into(), ..task(Kind::Map, 0, Vec::new()) };
    assert!(matches!(outcome(&mut rig, pinned(Sha256::of(&old)), &inputs).await, Outcome::Done(_)));
    let new = [&old[..], b"\n# new\n"].concat();
    std::fs::write(&file, &new).unwrap();
    assert!(matches!(outcome(&mut rig, pinned(Sha256::of(&new)), &inputs).await, Outcome::Failed(_)));
    assert!(matches!(outcome(&mut rig, pinned(Sha256::of(&old)), &inputs).await, Outcome::Done(_)));
}

#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Onlooker for Diary {
    fn sees(&self, seen: Seen<'_>) {
        let entry = match seen {
            Seen::Started(_) => "started".to_owned(),
            Seen::Told(_) => "told".to_owned(),
            Seen::Said(message) => serde_json::to_value(message).unwrap()["type"].as_str().unwrap().to_owned(),
            Seen::Garbage(_) => "garbage".to_owned(),
            Seen::Logged(line) => format!("logged {line}"),
            Seen::Ended(_, status) => format!("ended {:?}", status.and_then(|status| status.code())),
        };
        self.0.lock().unwrap().push(entry);
    }

    fn further_fields(&self) -> Map<String, Value> {
        [("since_version_2".to_owned(), json!({ "anything": [1] }))].into_iter().collect()
    }
}

#[tokio::test]
async fn an_onlooker_sees_a_session_from_its_start_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let diary = Arc::new(Diary::default());
    let (mut rig, inputs) = (rig(dir.path()).watched_by(diary.clone()), input(dir.path()));
    for _ in 0..2 {
        assert!(matches!(outcome(&mut rig, task(Kind::Map, 0, Vec::new()), &inputs).await, Outcome::Done(_)));
    }
    rig.close().await;
    let seen = diary.0.lock().unwrap().join(" ");
    assert_eq!(seen, "started hello told progress done told progress done ended Some(0)");
}

#[tokio::test]
async fn a_prover_that_is_told_to_stop_and_does_not_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let diary = Arc::new(Diary::default());
    let limits = Limits { cancel_grace: push0_core::Millis(50), ..Limits::default() };
    let command = [
        "sh",
        "-c",
        r#"echo '{"type":"hello","protocol":1,"name":"deaf","version":"0","stages":[{"name":"map","kind":"map"}]}'; while :; do sleep 1; done"#,
    ];
    let deaf = ProverCommand::new(Form::Session, command.map(str::to_owned).to_vec());
    let mut rig = Rig::new([("scripted".parse().unwrap(), deaf)].into(), Vec::new(), dir.path(), limits).unwrap();
    rig = rig.watched_by(diary.clone());
    let proved = rig.run(task(Kind::Map, 0, Vec::new()), &input(dir.path()), async {}).await.unwrap();
    assert!(matches!(proved, Proved::Ended(_)), "{proved:?}");
    assert!(matches!(rig.run(task(Kind::Map, 0, Vec::new()), &[], async {}).await.unwrap(), Proved::Ended(_)));
    drop(rig);
    let seen = diary.0.lock().unwrap().join(" ");
    assert!(seen.ends_with("ended None"), "{seen}");
}
