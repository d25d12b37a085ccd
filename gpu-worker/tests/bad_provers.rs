//! Provers that misbehave, with real processes: each gets a clear report, the worker lives on, and the next task is proven.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "the support is shared with other tests")]

mod support;

use std::path::Path;
use std::sync::Arc;

use push0_core::message::{FailureKind, Report, ReportEvent, TaskMessage, queue};
use push0_core::pipeline::{Form, Kind, ProverCommand};
use push0_core::record::MAX_ERROR;
use push0_core::{Millis, Sha256};
use push0_gpu_worker::{WorkerError, run};
use push0_runtime::engine::Engine;
use push0_runtime::port::{Blobs as _, SystemClock};
use serde_json::{Value, json};
use support::*;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A worker whose one prover is `bad.py`, kept warm.
struct Bench {
    engine: Engine,
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), WorkerError>>,
    tasks: u32,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(Arc::new(SystemClock));
        let mut config = config(dir.path());
        let command = ["python3", script("bad.py").to_str().unwrap()].map(str::to_owned).to_vec();
        let bad = ProverCommand::new(Form::Session, command);
        config.provers.insert("scripted".parse().unwrap(), bad);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let (queue, blobs) = (Arc::new(engine.clone()), Arc::new(engine.clone()));
        let running = tokio::spawn(run(config, queue, blobs, Arc::new(SystemClock), shutdown));
        Self { engine, dir, stop, running, tasks: 0 }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn run(&mut self, params: Value) -> Report {
        self.tasks += 1;
        let input = put(&self.engine, "in/segment", "segment").await;
        let task = TaskMessage { time_limit: Millis(20_000), params, ..task(Kind::Map, self.tasks, vec![input]) };
        send(&self.engine, &task).await;
        next_report(&self.engine, queue::RESULTS).await
    }

    /// Runs a task that must fail, retryably and saying `says`; then one that must not.
    async fn fails(&mut self, params: Value, says: &str) -> String {
        let ReportEvent::Failed { kind, message, .. } = self.run(params.clone()).await.event else {
            panic!("{params} did not fail")
        };
        assert_eq!(kind, FailureKind::Retryable, "{params}: {message}");
        assert!(message.contains(says) && message.len() <= MAX_ERROR, "{params}: {message}");
        self.proves(json!({}), &format!("after {params}")).await;
        message
    }

    async fn proves(&mut self, params: Value, what: &str) {
        let report = self.run(params).await;
        let ReportEvent::Done { artifact } = report.event else { panic!("{what}: {report:?}") };
        assert_eq!(artifact.sha256, Sha256::of(b"segment"), "{what}");
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
        let left = self.dir.path().join("scratch/w1").read_dir().unwrap().count();
        assert_eq!(left, 0, "nothing is left in the scratch directory");
    }
}

#[tokio::test]
async fn rubbish_and_floods_on_stdout_end_the_session_and_not_the_worker() {
    let mut bench = Bench::new();
    bench.fails(json!({ "do": "binary" }), "not in the protocol").await;
    bench.fails(json!({ "do": "endless-line" }), "a line of more than").await;
    bench.fails(json!({ "do": "endless-stdout" }), "not in the protocol").await;
    bench.fails(json!({ "do": "other-id" }), "what it was not asked").await;
    bench.proves(json!({ "do": "chatter" }), "twenty thousand signs of life").await;
    bench.end().await;
}

#[tokio::test]
async fn an_answer_given_twice_is_not_taken_for_the_next_tasks() {
    let mut bench = Bench::new();
    // It is said before the output is there, and again behind it: which of them is met is a matter of moments, as is what becomes of the
    // task behind it. What counts is that no answer is taken for another task's, and that the session is replaced.
    for _ in 0..2 {
        match &bench.run(json!({ "do": "twice" })).await.event {
            ReportEvent::Failed { kind, message, .. } => assert_eq!(*kind, FailureKind::Retryable, "{message}"),
            // Its own output, or the beginning of it: the prover said that it was there.
            ReportEvent::Done { artifact } => {
                let is_own = [&b""[..], b"segment"].iter().any(|bytes| artifact.sha256 == Sha256::of(bytes));
                assert!(is_own, "{artifact:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    let mut tries = 0;
    while !matches!(bench.run(json!({})).await.event, ReportEvent::Done { .. }) {
        tries += 1;
        assert!(tries < 3, "the session was not replaced");
    }
    bench.proves(json!({}), "afterwards").await;
    bench.end().await;
}

#[tokio::test]
async fn a_flood_on_stderr_blocks_nobody_and_its_end_is_reported() {
    let mut bench = Bench::new();
    bench.proves(json!({ "do": "stderr" }), "16 MiB of log").await;
    let message = bench.fails(json!({ "do": "stderr", "then": "exit" }), "exit code 7").await;
    assert!(message.ends_with("the last words"), "{message}");
    bench.end().await;
}

#[tokio::test]
async fn what_a_prover_forks_goes_with_it_also_where_it_holds_the_pipes() {
    let mut bench = Bench::new();
    let pid = bench.path().join("pid");
    bench.fails(json!({ "do": "fork", "pid": pid }), "exit code 9").await;
    let pid = std::fs::read_to_string(pid).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_gone = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
    assert!(is_gone, "{stat}");
    bench.end().await;
}

#[tokio::test]
async fn an_output_outside_of_its_directory_is_not_taken() {
    let mut bench = Bench::new();
    let secret = bench.path().join("secret");
    std::fs::write(&secret, "not for anybody").unwrap();
    bench.fails(json!({ "do": "link", "to": secret }), "P0-108").await;
    bench.fails(json!({ "do": "link", "to": "/proc/self/environ" }), "P0-108").await;
    bench.fails(json!({ "do": "directory" }), "P0-108").await;
    let keys = bench.engine.list("artifacts/", None, 100).await.unwrap();
    for key in keys {
        assert_eq!(bench.engine.get(&key).await.unwrap().unwrap(), "segment", "{key}");
    }
    bench.end().await;
}

#[tokio::test]
async fn an_output_that_is_too_large_is_named_and_a_long_message_is_cut() {
    let mut bench = Bench::new();
    bench.fails(json!({ "do": "long-message" }), "wwww").await;
    let ReportEvent::Failed { kind, message, .. } = bench.run(json!({ "do": "huge" })).await.event else { panic!() };
    assert_eq!(kind, FailureKind::Permanent, "{message}");
    assert!(message.contains("2147483648 bytes"), "{message}");
    bench.proves(json!({}), "afterwards").await;
    bench.end().await;
}
