//! What the tests share: an engine in memory, tasks for it, and what was reported.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use push0_core::message::{Report, ReportEvent, TaskMessage, queue, work_queue};
use push0_core::pipeline::{Form, Kind, ProverCommand};
use push0_core::record::{BlobRef, Versioned as _};
use push0_core::{BlockHash, Class, Millis, Pool, Sha256};
use push0_gpu_worker::WorkerConfig;
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::port::{Blobs, Clock, Outgoing, Queue};

pub(crate) const POOL: &str = "cpu";

pub(crate) fn pool() -> Pool {
    POOL.parse().unwrap()
}

pub(crate) fn work() -> String {
    work_queue(&pool(), Class::Standard)
}

pub(crate) fn engine(clock: Arc<dyn Clock>) -> Engine {
    let mut queues: Vec<QueueSpec> =
        Class::ALL.iter().map(|class| QueueSpec::new(work_queue(&pool(), *class))).collect();
    queues.extend([queue::RESULTS, queue::VERDICTS].map(QueueSpec::new));
    Engine::open(EngineConfig { clock, ..EngineConfig::new(Location::Memory, queues) }).unwrap()
}

/// A task of a stage named after its kind.
pub(crate) fn task(kind: Kind, index: u32, inputs: Vec<BlobRef>) -> TaskMessage {
    let stage = kind.as_str();
    TaskMessage {
        id: format!("demo/7/e1/0123456789abcdef/1.0.{index}/a1c0").parse().unwrap(),
        stage: stage.parse().unwrap(),
        kind,
        prover: "scripted".parse().unwrap(),
        programs: Default::default(),
        pool: pool(),
        class: Class::Standard,
        inputs,
        expand: false,
        params: serde_json::json!({}),
        block_hash: BlockHash([7; 32]),
        parent_hash: None,
        time_limit: Millis::from_secs(300),
        progress_limit: None,
        avoid: Vec::new(),
        barred: Vec::new(),
        deadline: None,
        demoted: false,
        check: None,
        copies: None,
    }
}

pub(crate) async fn put(engine: &Engine, key: &str, text: &str) -> BlobRef {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let info = engine.put_new(key, bytes, "test").await.unwrap().into_info();
    BlobRef { key: info.key, sha256: info.sha256, size: info.size }
}

pub(crate) fn absent(key: &str) -> BlobRef {
    BlobRef { key: key.to_owned(), sha256: Sha256([0; 32]), size: 1 }
}

pub(crate) async fn send(engine: &Engine, task: &TaskMessage) {
    let message = Outgoing { body: task.to_json(), ..Outgoing::default() };
    engine.send(&work(), vec![message]).await.unwrap();
}

/// The next report that is not a start.
pub(crate) async fn next_report(engine: &Engine, queue: &str) -> Report {
    loop {
        let deliveries = engine.receive(queue, 1, Millis::from_secs(60), Millis::from_secs(60)).await.unwrap();
        let delivery = deliveries.into_iter().next().expect("a report within a minute");
        engine.ack(queue, &delivery.receipt).await.unwrap();
        let report = Report::from_json(&delivery.body).unwrap();
        if report.event != ReportEvent::Started {
            return report;
        }
    }
}

/// What is in the queue now, starts included.
pub(crate) async fn reports_now(engine: &Engine, queue: &str) -> Vec<ReportEvent> {
    let deliveries = engine.receive(queue, 10, Millis(0), Millis::from_secs(60)).await.unwrap();
    deliveries.iter().map(|delivery| Report::from_json(&delivery.body).unwrap().event).collect()
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provers").join(name)
}

/// The session prover is `scripted`, the exec prover `once`.
pub(crate) fn config(dir: &Path) -> WorkerConfig {
    let command = |form, command: Vec<String>| ProverCommand::new(form, command);
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let session = vec!["python3".to_owned(), text(script("session.py")), text(dir.join("invocations"))];
    let provers = [
        ("scripted".parse().unwrap(), command(Form::Session, session)),
        ("once".parse().unwrap(), command(Form::Exec, vec!["sh".to_owned(), text(script("exec.sh"))])),
    ];
    WorkerConfig::new("w1".parse().unwrap(), pool(), provers.into(), dir.join("scratch"))
}

/// How often the session prover was given a task.
pub(crate) fn invocations(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("invocations")).map_or(0, |text| text.lines().count())
}
