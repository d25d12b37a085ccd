//! Reports and dead letters of one task through the real drive loops, on the engine in memory, and what can be recalled of it afterwards.

use std::sync::Arc;

use bytes::Bytes;
use push0_core::block::Ignored;
use push0_core::chain::{ChainConfig, Event};
use push0_core::message::{FailureKind, Handout, ReportEvent, Submission};
use push0_core::record::{BlobRef, BlockRow, BlockStatus, Manifest, ManifestPage, RowKey};
use push0_core::topology::Topology;
use push0_core::{Attempt, BlockHash, ChainId, Epoch, ErrorCode, Millis, Node, RunId, TaskId, pipeline};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::block::Recalled;
use push0_runtime::drive::{Catalog, chain};
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::metrics::Metric;
use push0_runtime::port::{Blobs as _, Key, Table};
use push0_runtime::wiring;

use super::*;

const PIPELINE: &str = r#"
    name = "test"
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "verify"
    kind = "verify"
    [prover.none]
    form = "session"
    command = ["none"]
    [policy.prove]
    pool = "gpu"
    larger_pool = "gpu-large"
    attempts = 1
    lost_attempts = 2
    time_limit_s = 60
"#;

/// Block 1, split into one segment. Everything happens to its only leaf.
struct Fixture {
    engine: Engine,
    clock: Arc<ManualClock>,
    context: Context,
    run: RunId,
}

async fn fixture() -> Fixture {
    let file = pipeline::parse(PIPELINE).unwrap();
    let digest = file.pipeline.digest();
    let chain: ChainId = "demo".parse().unwrap();
    let config = ChainConfig::new(chain.clone(), digest);
    let catalog = Catalog { chains: [(chain.clone(), config)].into(), pipelines: [(digest, file)].into() };
    let clock = Arc::new(ManualClock::starting_at(Millis(1_700_000_000_000)));
    let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
    let config = EngineConfig { clock: clock.clone(), ..EngineConfig::new(Location::Memory, queues) };
    let engine = Engine::open(config).unwrap();
    let ports = Arc::new(engine.clone());
    let context = Context::new(ports.clone(), ports.clone(), ports, clock.clone(), Arc::new(catalog));
    let fixture = Fixture { engine, clock, context, run: RunId::new(chain.clone(), 1, Epoch::FIRST) };
    let hash = BlockHash([1; 32]);
    let submission = Submission {
        chain: chain.clone(),
        number: 1,
        hash,
        parent_hash: None,
        witness: fixture.blob("witnesses/demo/1-w", "w").await,
        fork_seq: None,
        deadline: None,
    };
    chain::drive(&fixture.context, &chain, &Event::Submitted(submission)).await.unwrap().unwrap();
    let segment = fixture.blob("artifacts/trusted/segment", "s").await;
    let header = fixture.blob("artifacts/trusted/header", "h").await;
    let page = ManifestPage { first: 0, segments: vec![segment] };
    let page = fixture.blob("artifacts/trusted/page", &page.to_json()).await;
    let manifest = Manifest { segments: 1, pages: vec![page], header: header.clone(), hash, parent_hash: None };
    let manifest = fixture.blob("artifacts/trusted/manifest", &manifest.to_json()).await;
    let split = ReportEvent::Split { manifest, segments: 1, header, hash, parent_hash: None };
    let task = TaskId { node: Node::SPLIT, ..fixture.leaf(1) };
    assert_eq!(fixture.reports(queue::VERDICTS, task, "t", split).await, Handled::Accepted);
    fixture
}

impl Fixture {
    async fn blob(&self, key: &str, text: &str) -> BlobRef {
        let info = self.engine.put_new(key, Bytes::from(text.to_owned()), "test").await.unwrap().into_info();
        BlobRef { key: info.key, sha256: info.sha256, size: info.size }
    }

    fn leaf(&self, attempt: u32) -> TaskId {
        let tag = self.context.catalog.pipelines.keys().next().unwrap().tag();
        TaskId { run: self.run.clone(), tag, node: Node::new(1, 0, 0), attempt: Attempt(attempt), copy: 0 }
    }

    async fn reports(&self, queue: &str, task: TaskId, worker: &str, event: ReportEvent) -> Handled {
        self.reports_with(None, queue, task, worker, event).await
    }

    /// Of the first message about the task, handed out so often.
    async fn leaf_reports(&self, receives: u32, worker: &str, event: ReportEvent) -> Handled {
        let handout = Some(Handout { sent_at: Millis(1), receives });
        self.reports_with(handout, queue::RESULTS, self.leaf(1), worker, event).await
    }

    async fn reports_with(
        &self,
        handout: Option<Handout>,
        queue: &str,
        task: TaskId,
        worker: &str,
        event: ReportEvent,
    ) -> Handled {
        let report = Report { task, worker: worker.parse().unwrap(), by: None, at: Millis(0), handout, event };
        block::on_report(&self.context, queue, &report).await.unwrap()
    }

    async fn fails(&self, attempt: u32, worker: &str, kind: FailureKind) -> Handled {
        let event = ReportEvent::Failed { kind, message: "needs 96 GiB".to_owned(), children: vec![] };
        self.reports(queue::RESULTS, self.leaf(attempt), worker, event).await
    }

    async fn starts(&self, attempt: u32, worker: &str) {
        self.reports(queue::RESULTS, self.leaf(attempt), worker, ReportEvent::Started).await;
    }

    /// Its queue gave the attempt up.
    async fn comes_to_the_dead_letters(&self) -> Handled {
        let task = self.recalled().await.task;
        block::on_dead_letter(&self.context, &task).await.unwrap()
    }

    /// What `push0 replay` begins with.
    async fn recalled(&self) -> Recalled {
        let id = block::latest(&self.context, &self.run, Node::new(1, 0, 0)).await.unwrap();
        block::recall(&self.context, &id).await.unwrap()
    }

    async fn reason(&self) -> Option<String> {
        let at = RowKey::block(&self.run.chain, 1);
        let row = Table::get(&self.engine, &Key::new(at.partition, at.sort)).await.unwrap().unwrap();
        match BlockRow::from_value(row.doc().unwrap().clone()).unwrap().status {
            BlockStatus::Failed { reason } => Some(reason),
            _ => None,
        }
    }
}

#[tokio::test]
async fn what_ran_out_of_memory_in_the_larger_pool_too_is_recalled_as_it_was_there() {
    let fixture = fixture().await;
    fixture.fails(1, "w1", FailureKind::OutOfMemory).await;
    assert_eq!(fixture.reason().await, None);
    fixture.fails(2, "w2", FailureKind::OutOfMemory).await;
    assert!(fixture.reason().await.unwrap().starts_with("P0-001"));
    let recalled = fixture.recalled().await;
    assert_eq!((recalled.task.id.attempt.0, recalled.task.pool.as_str()), (2, "gpu-large"));
    assert_eq!(recalled.task.inputs[0].key, "artifacts/trusted/segment");
    assert_eq!(recalled.failed.unwrap().kind, FailureKind::OutOfMemory);
    assert!(recalled.run_failed.unwrap().contains("1.0.0"));
    let first = block::recall(&fixture.context, &fixture.leaf(1)).await.unwrap();
    assert_eq!(first.task.pool.as_str(), "gpu", "and the attempt before, as that was");
}

#[tokio::test]
async fn a_failed_device_is_counted_for_its_pool_and_costs_an_attempt_like_any_other_failure() {
    let fixture = fixture().await;
    let devices = |fixture: &Fixture| -> Vec<(Vec<String>, f64)> {
        let series = fixture.context.metrics.drain().into_iter();
        let of_devices = series.filter(|series| series.metric == Metric::DeviceFailures);
        of_devices.map(|series| (series.labels, series.values[0])).collect()
    };
    fixture.fails(1, "w1", FailureKind::OutOfMemory).await;
    assert_eq!(devices(&fixture), []);
    let message = ErrorCode::DeviceFailed.says("GPU-1: XID 79");
    let failed = || ReportEvent::Failed { kind: FailureKind::Retryable, message: message.clone(), children: vec![] };
    assert_eq!(fixture.reports(queue::RESULTS, fixture.leaf(2), "w2", failed()).await, Handled::Failed);
    assert_eq!(devices(&fixture), [(vec!["gpu-large".to_owned()], 1.0)]);
    fixture.reports(queue::RESULTS, fixture.leaf(2), "w2", failed()).await;
    assert_eq!(devices(&fixture), [], "delivered twice, counted once");
}

#[tokio::test]
async fn what_was_lost_with_its_workers_is_recalled_with_who_they_were() {
    let fixture = fixture().await;
    for (attempt, worker) in [(1, "w1"), (2, "w2")] {
        assert_eq!(fixture.reason().await, None);
        fixture.starts(attempt, worker).await;
        assert_eq!(fixture.comes_to_the_dead_letters().await, Handled::Failed);
    }
    assert!(fixture.reason().await.unwrap().starts_with("P0-031"));
    let recalled = fixture.recalled().await;
    assert_eq!((recalled.task.id.attempt.0, recalled.failed.unwrap().kind), (2, FailureKind::Lost));
    assert!(recalled.run_failed.unwrap().contains("w1, w2"));
}

#[tokio::test]
async fn what_nobody_but_barred_workers_would_take_is_recalled_although_its_last_attempt_never_began() {
    let fixture = fixture().await;
    fixture.starts(1, "w1").await;
    fixture.comes_to_the_dead_letters().await;
    fixture.clock.advance(Millis::from_secs(600));
    for _ in 0..3 {
        assert_eq!(fixture.reason().await, None);
        fixture.comes_to_the_dead_letters().await;
    }
    assert!(fixture.reason().await.unwrap().starts_with("P0-032"));
    let recalled = fixture.recalled().await;
    assert_eq!((recalled.task.id.attempt.0, recalled.failed), (2, None));
    assert_eq!(recalled.task.barred, ["w1".parse().unwrap()]);
    assert!(recalled.run_failed.unwrap().contains("start another worker there"));
}

#[tokio::test]
async fn a_late_failure_of_a_worker_whose_lease_ran_out_uses_up_no_attempt_of_the_one_that_has_the_task_now() {
    let fixture = fixture().await;
    let fails = || ReportEvent::Failed { kind: FailureKind::Retryable, message: "frozen".to_owned(), children: vec![] };
    assert_eq!(fixture.leaf_reports(1, "w1", ReportEvent::Started).await, Handled::Noted);
    assert_eq!(fixture.leaf_reports(2, "w2", ReportEvent::Started).await, Handled::Noted);
    // What the first one still says comes late, and in whatever order.
    for event in [ReportEvent::Started, fails()] {
        assert_eq!(fixture.leaf_reports(1, "w1", event).await, Handled::Ignored(Ignored::Stale));
    }
    assert_eq!((fixture.reason().await, fixture.recalled().await.latest), (None, Attempt(1)));
    assert_eq!(fixture.leaf_reports(2, "w2", fails()).await, Handled::Failed);
    assert!(fixture.reason().await.unwrap().starts_with("P0-001"), "that was its one attempt");
}
