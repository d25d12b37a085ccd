//! The worker with real prover processes, over the engine in memory. Waits are for events, bounded only against a hang of the test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use push0_core::message::{FailureKind, Report, ReportEvent, TaskMessage, queue, work_queue};
use push0_core::pipeline::Kind;
use push0_core::record::{BlobRef, Verdict};
use push0_core::{Class, ErrorCode, Millis, Sha256};
use push0_gpu_worker::task::Limits;
use push0_gpu_worker::{WorkerConfig, WorkerError, run};
use push0_runtime::engine::Engine;
use push0_runtime::port::{Blobs, Delivery, Outgoing, PortResult, Queue, QueueStats, SystemClock};
use serde_json::json;
use support::*;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Worker {
    engine: Engine,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    fn start(change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(Arc::new(SystemClock));
        let mut config = config(dir.path());
        change(&mut config);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let (queue, blobs) = (Arc::new(engine.clone()), Arc::new(engine.clone()));
        let running = tokio::spawn(run(config, queue, blobs, Arc::new(SystemClock), shutdown));
        Self { engine, dir, stop: Some(stop), running }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn put(&self, text: &str) -> BlobRef {
        put(&self.engine, &format!("in/{}", Sha256::of(text.as_bytes())), text).await
    }

    /// Sends the task and waits for what comes of it.
    async fn run(&self, task: &TaskMessage) -> Report {
        send(&self.engine, task).await;
        let queue = if task.kind.is_trusted() { queue::VERDICTS } else { queue::RESULTS };
        next_report(&self.engine, queue).await
    }

    async fn map(&self, index: u32, params: serde_json::Value) -> TaskMessage {
        TaskMessage { params, ..task(Kind::Map, index, vec![self.put("segment").await]) }
    }

    async fn exec(&self, index: u32, stage: &str, inputs: Vec<BlobRef>) -> TaskMessage {
        let kind = match stage {
            "split" => Kind::Split,
            "verify" => Kind::Verify,
            _ => Kind::Join,
        };
        TaskMessage { stage: stage.parse().unwrap(), prover: "once".parse().unwrap(), ..task(kind, index, inputs) }
    }

    fn shut_down(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn end(mut self) {
        self.shut_down();
        self.running.await.unwrap().unwrap();
        let left = self.dir.path().join("scratch/w1").read_dir().unwrap().count();
        assert_eq!(left, 0, "nothing is left in the scratch directory");
    }

    async fn until(&self, condition: impl Fn(QueueStats) -> bool) {
        while !condition(self.engine.stats(&work()).await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn failed(report: Report) -> (FailureKind, String, Vec<u32>) {
    let ReportEvent::Failed { kind, message, children } = report.event else { panic!("{report:?}") };
    (kind, message, children)
}

#[tokio::test]
async fn a_session_proves_all_kinds_and_stays_warm() {
    let worker = Worker::start(|_| {});
    let inputs = vec![worker.put("left").await, worker.put("right").await];
    let join = task(Kind::Join, 0, inputs.clone());
    let ReportEvent::Done { artifact } = worker.run(&join).await.event else { panic!() };
    assert_eq!((artifact.key, artifact.sha256), (join.artifact_key(), Sha256::of(b"left+right")));

    let split = TaskMessage { params: json!({ "segments": 5 }), ..task(Kind::Split, 1, vec![inputs[0].clone()]) };
    let ReportEvent::Split { segments, hash, parent_hash, header, .. } = worker.run(&split).await.event else {
        panic!()
    };
    assert_eq!((segments, hash, parent_hash.is_some()), (5, split.block_hash, true));
    assert_eq!(header.sha256, Sha256::of(b"header of left"));

    let verify = task(Kind::Verify, 2, inputs.clone());
    let ReportEvent::Verified { verdict, root, message, .. } = worker.run(&verify).await.event else { panic!() };
    assert_eq!((verdict, root, message), (Verdict::Ok, inputs[0].sha256, Some(inputs[0].sha256.to_string())));

    worker.until(|stats| stats == QueueStats::default()).await;
    assert_eq!(invocations(worker.path()), 3);
    worker.end().await;
}

#[tokio::test]
async fn many_tasks_are_each_proven_once_and_starts_are_announced() {
    let worker = Worker::start(|config| config.slots = 2);
    for index in 0..20 {
        send(&worker.engine, &worker.map(index, json!({})).await).await;
    }
    let mut done = BTreeSet::new();
    for _ in 0..20 {
        let report = next_report(&worker.engine, queue::RESULTS).await;
        assert!(matches!(report.event, ReportEvent::Done { .. }), "{report:?}");
        done.insert(report.task);
    }
    assert_eq!((done.len(), invocations(worker.path())), (20, 20));
    worker.end().await;
}

#[tokio::test]
async fn a_start_is_announced_while_the_task_is_proven() {
    let mut worker = Worker::start(|config| config.drain_grace = Millis(0));
    let never = worker.path().join("never");
    send(&worker.engine, &worker.map(0, json!({ "do": "wait", "for": never })).await).await;
    let wait = Millis::from_secs(60);
    let first = worker.engine.receive(queue::RESULTS, 1, wait, wait).await.unwrap().remove(0);
    assert!(first.body.contains("started"), "{}", first.body);

    // Without a grace, what is being proven is handed back at once, and can be had by others.
    worker.shut_down();
    let again = worker.engine.receive(&work(), 1, wait, wait).await.unwrap();
    assert_eq!(again[0].receive_count, 2);
    worker.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn whatever_a_session_does_wrong_is_retryable_and_the_next_task_is_proven() {
    let worker = Worker::start(|_| {});
    let cases = [
        ("crash", ErrorCode::ProverCrashed, "ended with exit code 3\nout of luck"),
        ("garbage", ErrorCode::ProverBrokeProtocol, "not in the protocol"),
        ("hang", ErrorCode::ProverTooSlow, "time limit"),
        ("nothing", ErrorCode::OutputMissing, "wrote no output"),
    ];
    for (index, (what, code, says)) in (0..).step_by(2).zip(cases) {
        let mut bad = worker.map(index, json!({ "do": what })).await;
        if what == "hang" {
            bad.time_limit = Millis(300);
        }
        let (kind, message, _) = failed(worker.run(&bad).await);
        assert_eq!(kind, FailureKind::Retryable, "{what}: {message}");
        assert!(message.contains(says), "{what}: {message}");
        assert_eq!(ErrorCode::split(&message).0, Some(code), "{what}: {message}");
        let good = worker.run(&worker.map(index + 1, json!({})).await).await;
        assert!(matches!(good.event, ReportEvent::Done { .. }), "after {what}: {good:?}");
    }
    worker.end().await;
}

#[tokio::test]
async fn a_silent_session_is_killed_at_its_progress_limit() {
    let worker = Worker::start(|_| {});
    let silent = TaskMessage { progress_limit: Some(Millis(200)), ..worker.map(0, json!({ "do": "hang" })).await };
    let (kind, message, _) = failed(worker.run(&silent).await);
    assert_eq!(kind, FailureKind::Retryable);
    assert!(message.contains("progress limit"), "{message}");
    worker.end().await;
}

#[tokio::test]
async fn failures_keep_their_kind_and_name_only_inputs_that_exist() {
    let worker = Worker::start(|_| {});
    let inputs = vec![worker.put("a").await, worker.put("b").await];
    let cases = [
        ("retryable", json!([]), FailureKind::Retryable, vec![]),
        ("permanent", json!([]), FailureKind::Permanent, vec![]),
        ("bad_input", json!([9, 1, 1]), FailureKind::BadInput, vec![1]),
        ("bad_input", json!([9]), FailureKind::Retryable, vec![]),
    ];
    for (index, (kind, children, wanted, accused)) in (0..).zip(cases) {
        let params = json!({ "do": "fail", "kind": kind, "children": children });
        let (kind, message, children) =
            failed(worker.run(&TaskMessage { params, ..task(Kind::Join, index, inputs.clone()) }).await);
        assert_eq!((kind, children), (wanted, accused), "{message}");
        assert!(message.contains("as asked"), "{message}");
    }
    worker.end().await;
}

#[tokio::test]
async fn a_prover_that_is_not_the_pinned_one_proves_nothing() {
    let worker = Worker::start(|_| {});
    let good = worker.map(0, json!({})).await;
    let pinned = |byte| [("leaf".to_owned(), Sha256([byte; 32]))].into();
    let cases = [
        (TaskMessage { programs: pinned(0x22), ..good.clone() }, ErrorCode::ProgramDiffers, "another program leaf"),
        (
            TaskMessage { stage: "dance".parse().unwrap(), ..good.clone() },
            ErrorCode::StageNotOffered,
            "does not offer stage dance",
        ),
        (
            TaskMessage { prover: "unknown".parse().unwrap(), ..good.clone() },
            ErrorCode::StageNotOffered,
            "no prover named unknown",
        ),
    ];
    for (task, code, says) in cases {
        let (kind, message, _) = failed(worker.run(&task).await);
        assert_eq!((kind, ErrorCode::split(&message).0), (FailureKind::Retryable, Some(code)), "{message}");
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(invocations(worker.path()), 0);
    let report = worker.run(&TaskMessage { programs: pinned(0x11), ..good }).await;
    assert!(matches!(report.event, ReportEvent::Done { .. }), "{report:?}");
    worker.end().await;
}

#[tokio::test]
async fn the_exec_form_says_the_same_by_exit_code_and_result_file() {
    let worker = Worker::start(|_| {});
    let inputs = vec![worker.put("a").await, worker.put("b").await];
    let run = async |index, stage: &str| worker.run(&worker.exec(index, stage, inputs.clone()).await).await;

    let ReportEvent::Done { artifact } = run(0, "join").await.event else { panic!() };
    assert_eq!(artifact.sha256, Sha256::of(b"ab"));
    let ReportEvent::Split { segments: 2, header, .. } = run(1, "split").await.event else { panic!() };
    assert_eq!(header.sha256, Sha256::of(b"head"));
    let ReportEvent::Verified { verdict: Verdict::BadProof, .. } = run(2, "verify").await.event else { panic!() };
    assert_eq!(failed(run(3, "accuse").await), (FailureKind::BadInput, "P0-010: rotten".to_owned(), vec![1]));
    for (index, stage, wanted, says) in [
        (4, "retry", FailureKind::Retryable, "exit code 75\nbusy"),
        (5, "refuse", FailureKind::Permanent, "exit code 2\nnever"),
        (6, "signal", FailureKind::Retryable, "signal 9"),
        (8, "large", FailureKind::OutOfMemory, "exit code 79\nneeds 96 GiB"),
        (9, "greedy", FailureKind::OutOfMemory, "MemoryError"),
    ] {
        let (kind, message, _) = failed(run(index, stage).await);
        assert_eq!(kind, wanted, "{stage}: {message}");
        assert!(message.contains(says), "{stage}: {message}");
    }
    let hang = TaskMessage { time_limit: Millis(200), ..worker.exec(7, "hang", inputs.clone()).await };
    assert_eq!(failed(worker.run(&hang).await).0, FailureKind::Retryable);
    worker.end().await;
}

#[tokio::test]
async fn a_session_that_runs_out_of_memory_is_known_by_its_word_and_by_its_end() {
    let worker = Worker::start(|_| {});
    let said = worker.map(0, json!({ "do": "fail", "kind": "out_of_memory" })).await;
    let wanted = (FailureKind::OutOfMemory, "P0-121: as asked".to_owned(), vec![]);
    assert_eq!(failed(worker.run(&said).await), wanted);
    let (kind, message, _) = failed(worker.run(&worker.map(1, json!({ "do": "greedy" })).await).await);
    assert_eq!((kind, ErrorCode::find(&message)), (FailureKind::OutOfMemory, Some(ErrorCode::ProverOutOfMemory)));
    assert!(message.contains("MemoryError"), "what it printed last is reported: {message}");
    let report = worker.run(&worker.map(2, json!({})).await).await;
    assert!(matches!(report.event, ReportEvent::Done { .. }), "and the next task is proven: {report:?}");
    worker.end().await;
}

#[tokio::test]
async fn draining_gives_the_waiting_task_back_and_finishes_the_running_one() {
    let mut worker = Worker::start(|_| {});
    let go = worker.path().join("go");
    let waiting = json!({ "do": "wait", "for": go });
    send(&worker.engine, &worker.map(0, waiting.clone()).await).await;
    send(&worker.engine, &worker.map(1, waiting).await).await;
    worker.until(|stats| stats.in_flight == 2).await;
    worker.shut_down();
    let wait = Millis::from_secs(60);
    let back = worker.engine.receive(&work(), 1, wait, wait).await.unwrap().remove(0);
    assert_eq!(back.receive_count, 2, "the one that waited");

    std::fs::write(go, "").unwrap();
    let report = next_report(&worker.engine, queue::RESULTS).await;
    assert!(matches!(report.event, ReportEvent::Done { .. }), "{report:?}");
    worker.running.await.unwrap().unwrap();
    assert_eq!(invocations(worker.dir.path()), 1);
}

#[tokio::test]
async fn nothing_is_kept_waiting_behind_a_prover_that_looks_hung() {
    let mut worker = Worker::start(|config| config.drain_grace = Millis(0));
    let hang = json!({ "do": "hang" });
    let slow = TaskMessage { time_limit: Millis(4_000), ..worker.map(0, hang).await };
    send(&worker.engine, &slow).await;
    send(&worker.engine, &worker.map(1, json!({})).await).await;
    worker.until(|stats| stats.in_flight == 2).await;
    let wait = Millis::from_secs(60);
    let back = worker.engine.receive(&work(), 1, wait, wait).await.unwrap().remove(0);
    assert!(back.receive_count == 2 && back.body.contains("1.0.1/a1c0"), "{back:?}");
    worker.shut_down();
    worker.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn realtime_comes_before_bulk() {
    let worker = Worker::start(|config| config.prefetch = false);
    let go = worker.path().join("go");
    send(&worker.engine, &worker.map(0, json!({ "do": "wait", "for": go })).await).await;
    worker.until(|stats| stats.in_flight == 1).await;
    for (index, class) in [(1, push0_core::Class::Bulk), (2, push0_core::Class::Realtime)] {
        let task = TaskMessage { class, ..worker.map(index, json!({})).await };
        let message =
            push0_runtime::port::Outgoing { body: push0_core::record::Versioned::to_json(&task), ..Default::default() };
        worker.engine.send(&push0_core::message::work_queue(&pool(), class), vec![message]).await.unwrap();
    }
    std::fs::write(go, "").unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(next_report(&worker.engine, queue::RESULTS).await.task.node.index);
    }
    order.retain(|index| *index != 0);
    assert_eq!(order, [2, 1]);
    worker.end().await;
}

#[tokio::test]
async fn realtime_comes_before_a_bulk_task_that_was_fetched_ahead() {
    let worker = Worker::start(|_| {});
    let go = worker.path().join("go");
    send(&worker.engine, &worker.map(0, json!({ "do": "wait", "for": go })).await).await;
    worker.until(|stats| stats.in_flight == 1).await;
    let bulk = work_queue(&pool(), Class::Bulk);
    for (index, class) in [(1, Class::Bulk), (2, Class::Realtime), (3, Class::Realtime)] {
        let task = TaskMessage { class, ..worker.map(index, json!({})).await };
        let message = Outgoing { body: push0_core::record::Versioned::to_json(&task), ..Outgoing::default() };
        worker.engine.send(&work_queue(&pool(), class), vec![message]).await.unwrap();
        while worker.engine.stats(&bulk).await.unwrap().in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    std::fs::write(go, "").unwrap();
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(next_report(&worker.engine, queue::RESULTS).await.task.node.index);
    }
    order.retain(|index| *index != 0);
    assert_eq!(order, [2, 3, 1]);
    assert_eq!(invocations(worker.path()), 4, "and each once");
    worker.end().await;
}

#[tokio::test]
async fn two_workers_of_one_name_do_not_share_a_scratch_directory() {
    let worker = Worker::start(|_| {});
    let report = worker.run(&worker.map(0, json!({})).await).await;
    assert!(matches!(report.event, ReportEvent::Done { .. }));
    let (queue, blobs) = (Arc::new(worker.engine.clone()), Arc::new(worker.engine.clone()));
    let second = run(config(worker.path()), queue, blobs, Arc::new(SystemClock), std::future::pending()).await;
    assert!(matches!(second, Err(WorkerError::Taken { .. })), "{second:?}");
    assert!(worker.engine.head("artifacts/none").await.unwrap().is_none());
    worker.end().await;
}

/// What was received from which queue with which wait.
struct Asked {
    engine: Engine,
    receives: Mutex<Vec<(String, Millis)>>,
}

#[async_trait]
impl Queue for Asked {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        self.engine.send(queue, messages).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        self.receives.lock().unwrap().push((queue.to_owned(), wait));
        self.engine.receive(queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.engine.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.engine.release(queue, receipt, delay).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.engine.ack(queue, receipt).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.engine.stats(queue).await
    }
}

#[tokio::test]
async fn all_queues_are_asked_in_the_order_of_urgency_and_then_waited_on_together_for_the_poll_of_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(Arc::new(SystemClock));
    let asked = Arc::new(Asked { engine: engine.clone(), receives: Mutex::default() });
    let mut config = config(dir.path());
    config.limits.poll = Limits::poll_on_sqs(Class::ALL.len());
    let (stop, stopped) = oneshot::channel::<()>();
    let queue: Arc<dyn Queue> = asked.clone();
    let running = tokio::spawn(run(config, queue, Arc::new(engine), Arc::new(SystemClock), async {
        let _ = stopped.await;
    }));
    while asked.receives.lock().unwrap().len() < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let receives = asked.receives.lock().unwrap().clone();
    let queues: Vec<String> = Class::ALL.iter().map(|class| work_queue(&pool(), *class)).collect();
    let at_once: Vec<_> = queues.iter().map(|queue| (queue.clone(), Millis(0))).collect();
    assert_eq!(receives[..3], at_once);
    let mut waiting = receives[3..6].to_vec();
    waiting.sort_by_key(|(queue, _)| queues.iter().position(|other| other == queue));
    assert_eq!(waiting, queues.into_iter().map(|queue| (queue, Millis::from_secs(2))).collect::<Vec<_>>());
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
