//! A chain of three pipelines through the real drive loops, on the engine in memory.

use std::sync::Arc;

use push0_core::chain::{ChainConfig, Mode, NamedPipeline, Outcome, Provers, Rest};
use push0_core::message::{Report, ReportEvent, Submission, TaskMessage, TimerKind, TimerMessage, queue, work_queue};
use push0_core::record::{BlobRef, LaneState, attribute, control_key};
use push0_core::retention::Retention;
use push0_core::topology::Topology;
use push0_core::{Attempt, BlockHash, Class, Epoch, Node, Sha256, TaskId, pipeline};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::Catalog;
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::port::{Blobs, Clock as _, Queue as _, Table};
use push0_runtime::wiring;

use super::*;

const PIPELINE: &str = r#"
    name = "NAME"
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    params = { of = "NAME" }
    [[stage]]
    name = "verify"
    kind = "verify"
    [prover.none]
    form = "session"
    command = ["none"]
"#;

const LIMIT: Millis = Millis::from_secs(300);

struct Fixture {
    engine: Engine,
    context: Context,
    clock: Arc<ManualClock>,
    chain: ChainId,
}

/// Three pipelines, two of which must prove a block; block 1 is submitted.
async fn fixture() -> Fixture {
    let files = ["one", "two", "three"].map(|name| pipeline::parse(&PIPELINE.replace("NAME", name)).unwrap());
    let pipelines: Vec<NamedPipeline> = files
        .iter()
        .map(|file| NamedPipeline { name: file.pipeline.name.clone(), digest: file.pipeline.digest() })
        .collect();
    let chain: ChainId = "demo".parse().unwrap();
    let mut config = ChainConfig::new(chain.clone(), pipelines[0].digest);
    let (mode, rest) = (Mode::Every, Rest::Finish);
    config.provers = Some(Provers { pipelines, quorum: 2, mode, rest, rest_limit: LIMIT });
    let catalog = Catalog {
        chains: [(chain.clone(), config)].into(),
        pipelines: files.into_iter().map(|file| (file.pipeline.digest(), file)).collect(),
    };
    let clock = Arc::new(ManualClock::starting_at(Millis(1_700_000_000_000)));
    let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
    let config = EngineConfig { clock: clock.clone(), ..EngineConfig::new(Location::Memory, queues) };
    let engine = Engine::open(config).unwrap();
    let ports = Arc::new(engine.clone());
    let context = Context::new(ports.clone(), ports.clone(), ports, clock.clone(), Arc::new(catalog));
    let fixture = Fixture { engine, context: context.with_quiet(Some(Millis::from_secs(60))), clock, chain };
    let submission = Submission {
        chain: fixture.chain.clone(),
        number: 1,
        hash: BlockHash([1; 32]),
        parent_hash: None,
        witness: blob("witness"),
        fork_seq: None,
        deadline: None,
    };
    chain::drive(&fixture.context, &fixture.chain, &Event::Submitted(submission)).await.unwrap().unwrap();
    fixture
}

fn blob(key: &str) -> BlobRef {
    BlobRef { key: key.to_owned(), sha256: Sha256::of(key.as_bytes()), size: 1 }
}

impl Fixture {
    fn run(&self, lane: u16) -> RunId {
        RunId::new(self.chain.clone(), 1, Epoch(1)).in_lane(lane)
    }

    async fn proven(&self, lane: u16) {
        let pipeline = self.block().await.runs[usize::from(lane)].pipeline;
        let (proof, header) = (blob("proof"), blob("header"));
        let outcome = Outcome::Proven { pipeline, proof, header, parent_hash: None, outputs: None };
        let event = Event::RunEnded { run: self.run(lane), outcome };
        chain::drive(&self.context, &self.chain, &event).await.unwrap().unwrap();
    }

    /// A lane's block is split into so many segments.
    async fn split(&self, lane: u16, segments: u32) {
        let tag = self.block().await.runs[usize::from(lane)].pipeline.tag();
        let task = TaskId { run: self.run(lane), tag, node: Node::SPLIT, attempt: Attempt::FIRST, copy: 0 };
        let (manifest, header) = (blob("manifest"), blob("header"));
        let event = ReportEvent::Split { manifest, segments, header, hash: BlockHash([1; 32]), parent_hash: None };
        let worker = "trusted-0".parse().unwrap();
        let report = Report { task, worker, by: None, at: self.clock.now(), handout: None, event };
        block::on_report(&self.context, queue::VERDICTS, &report).await.unwrap();
    }

    async fn block(&self) -> BlockRow {
        let at = RowKey::block(&self.chain, 1);
        let row = Table::get(&self.engine, &Key::new(at.partition, at.sort)).await.unwrap().unwrap();
        BlockRow::from_value(row.doc().unwrap().clone()).unwrap()
    }

    fn run_key(&self, lane: u16) -> Key {
        let at = RowKey::run(&self.run(lane));
        Key::new(at.partition, at.sort)
    }

    async fn is_stopped(&self, lane: u16) -> bool {
        let row = Table::get(&self.engine, &self.run_key(lane)).await.unwrap().unwrap();
        let has_mark = row.attribute(attribute::STOPPED).is_some();
        let has_blob = Blobs::get(&self.engine, &control_key(&self.run(lane))).await.unwrap().is_some();
        assert_eq!(has_mark, has_blob, "workers and the collector are told the same");
        has_mark
    }
}

#[tokio::test]
async fn every_prover_gets_a_run_of_its_own_pipeline() {
    let fixture = fixture().await;
    let work = work_queue(&Pool::trusted(), Class::Standard);
    let taken = fixture.engine.receive(&work, 10, Millis(0), Millis(60_000)).await.unwrap();
    let mut tasks: Vec<TaskMessage> =
        taken.iter().map(|delivery| TaskMessage::from_json(&delivery.body).unwrap()).collect();
    tasks.sort_by_key(|task| task.id.run.lane);
    let runs: Vec<RunId> = tasks.iter().map(|task| task.id.run.clone()).collect();
    assert_eq!(runs, [0, 1, 2].map(|lane| fixture.run(lane)));
    let block = fixture.block().await;
    for (task, lane) in tasks.iter().zip(&block.runs) {
        assert_eq!(task.id.tag, lane.pipeline.tag());
    }
    let _ = chain::drive(&fixture.context, &fixture.chain, &Event::Tick).await.unwrap();
    let again = fixture.engine.receive(&work, 10, Millis(0), Millis(60_000)).await.unwrap();
    assert_eq!(again.len(), 0, "and each once");
}

#[tokio::test]
async fn the_reaper_tells_each_pool_what_others_will_have_ready_for_it() {
    let fixture = fixture().await;
    let soon = async || -> Vec<(String, Vec<f64>)> {
        Reaper::new(fixture.context.clone()).turn().await;
        let told = fixture.context.metrics.drain().into_iter().filter(|series| series.metric == Metric::TasksSoon);
        told.map(|series| (series.labels[0].clone(), series.values)).collect()
    };
    let told = |trusted: f64| [("cpu".to_owned(), vec![0.0]), ("trusted".to_owned(), vec![trusted])];
    assert_eq!(soon().await, told(0.0), "nothing is known before the block is split, and that is told");
    fixture.split(0, 1).await;
    fixture.split(2, 1).await;
    assert_eq!(soon().await, told(2.0), "two verdicts wait for a leaf each");
    fixture.engine.set_if(&fixture.run_key(2), attribute::FAILED, None, Some("no luck".into())).await.unwrap();
    assert_eq!(soon().await, told(1.0));
}

#[tokio::test]
async fn the_reaper_tells_the_chain_of_every_lane_that_ended_untold() {
    let fixture = fixture().await;
    let reason = Some("no luck".into());
    fixture.engine.set_if(&fixture.run_key(1), attribute::FAILED, None, reason).await.unwrap();
    let reaper = Reaper::new(fixture.context.clone());
    reaper.turn().await;
    let block = fixture.block().await;
    assert_eq!(block.runs[1].state, LaneState::Failed { reason: "no luck".to_owned() });
    assert!(block.runs[0].is_proving() && block.runs[2].is_proving() && block.status == BlockStatus::Proving);
    assert_eq!(
        [fixture.is_stopped(0).await, fixture.is_stopped(1).await, fixture.is_stopped(2).await],
        [false, true, false]
    );
}

#[tokio::test]
async fn a_run_that_its_final_block_did_not_need_is_stopped_by_its_timer_after_the_limit() {
    let fixture = fixture().await;
    fixture.proven(0).await;
    fixture.proven(1).await;
    let before = fixture.block().await;
    assert_eq!(before.status, BlockStatus::Final);
    let look = async |lane| {
        let due = fixture.clock.now();
        let timer = TimerMessage { run: fixture.run(lane), piece: 0, due, kind: TimerKind::default() };
        block::on_timer(&fixture.context, &timer).await.unwrap()
    };
    look(2).await;
    assert!(!fixture.is_stopped(2).await, "it may finish");
    fixture.clock.advance(LIMIT);
    look(2).await;
    assert!(fixture.is_stopped(2).await);
    assert_eq!(fixture.block().await, before, "what is final stays as it is");
}

#[tokio::test]
async fn a_chain_that_went_back_to_one_pipeline_still_limits_the_runs_of_blocks_that_had_several() {
    let mut fixture = fixture().await;
    fixture.proven(0).await;
    fixture.proven(1).await;
    let mut catalog = (*fixture.context.catalog).clone();
    catalog.chains.get_mut(&fixture.chain).unwrap().provers = None;
    fixture.context.catalog = Arc::new(catalog);
    let look = async || {
        let due = fixture.clock.now();
        let timer = TimerMessage { run: fixture.run(2), piece: 0, due, kind: TimerKind::default() };
        block::on_timer(&fixture.context, &timer).await.unwrap()
    };
    look().await;
    assert!(!fixture.is_stopped(2).await, "it may finish, as long as was said when it began");
    fixture.clock.advance(LIMIT);
    look().await;
    assert!(fixture.is_stopped(2).await);
}

#[tokio::test]
async fn what_a_late_run_says_is_compared_also_when_its_chain_went_back_to_one_pipeline() {
    let mut fixture = fixture().await;
    fixture.proven(0).await;
    fixture.proven(1).await;
    let mut catalog = (*fixture.context.catalog).clone();
    catalog.chains.get_mut(&fixture.chain).unwrap().provers = None;
    fixture.context.catalog = Arc::new(catalog);
    let reaper = Reaper::new(fixture.context.clone());
    let row = reaper.row(&fixture.chain).await.unwrap().unwrap();
    let left_behind = reaper.left_behind(&fixture.chain, &row).await.unwrap();
    assert_eq!(left_behind.iter().map(|block| block.number).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_final_block_keeps_what_its_late_runs_read_until_these_have_ended_and_no_longer() {
    let fixture = fixture().await;
    fixture.proven(0).await;
    fixture.proven(1).await;
    let _ = chain::drive(&fixture.context, &fixture.chain, &Event::Tick).await.unwrap();
    let policy = Retention { grace: Millis(0), keep_blocks: 0, witnesses: false };
    let sweeper = crate::Sweeper::new(fixture.context.clone(), policy);
    fixture.clock.advance(LIMIT);
    assert_eq!(sweeper.sweep(&fixture.chain, 1_000).await.unwrap().blocks, 0, "one is still at it");
    // It fails. The block's row, being final, goes on saying that it is being proven.
    fixture.engine.set_if(&fixture.run_key(2), attribute::FAILED, None, Some("no luck".into())).await.unwrap();
    let before = fixture.block().await;
    assert!(before.runs[2].is_proving());
    assert_eq!(sweeper.sweep(&fixture.chain, 1_000).await.unwrap().blocks, 1);
    assert_eq!(fixture.block().await, before);
}
