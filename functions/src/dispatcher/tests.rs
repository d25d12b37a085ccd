//! Blocks submitted by an upload, on the engine in memory. A version of an object is a blob of its own there.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use push0_core::chain::ChainConfig;
use push0_core::message::{Command, Submission, TaskMessage};
use push0_core::record::{BlobRef, BlockRow, RowKey};
use push0_core::topology::Topology;
use push0_core::{Millis, Pool, Sha256, pipeline};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::Catalog;
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::port::{
    BlobInfo, Blobs, ErrorKind, Key, Outgoing, PortError, PortResult, PutOutcome, Queue, QueueStats, Table,
};
use push0_runtime::wiring;

use super::*;

mod deadlines;
mod window;

const PIPELINE: &str = r#"
    name = "test"
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "join"
    kind = "join"
    arity = 2
    [[stage]]
    name = "verify"
    kind = "verify"
    [prover.none]
    form = "session"
    command = ["none"]
"#;

const SOURCE: &str = queue::WITNESS_EVENTS;

struct Fixture {
    engine: Engine,
    context: Context,
    dispatcher: Dispatcher,
    clock: Arc<ManualClock>,
}

fn fixture() -> Fixture {
    with_blobs(|engine| Arc::new(engine.clone()))
}

fn with_blobs(blobs: impl FnOnce(&Engine) -> Arc<dyn Blobs>) -> Fixture {
    with_ports(blobs, |engine| Arc::new(engine.clone()))
}

fn with_ports(blobs: impl FnOnce(&Engine) -> Arc<dyn Blobs>, queue: impl FnOnce(&Engine) -> Arc<dyn Queue>) -> Fixture {
    fixture_of(blobs, queue, |_| {})
}

fn fixture_of(
    blobs: impl FnOnce(&Engine) -> Arc<dyn Blobs>,
    queue: impl FnOnce(&Engine) -> Arc<dyn Queue>,
    change: impl FnOnce(&mut ChainConfig),
) -> Fixture {
    let file = pipeline::parse(PIPELINE).unwrap();
    let digest = file.pipeline.digest();
    let mut chain = ChainConfig { distance: 100, ..ChainConfig::new("demo".parse().unwrap(), digest) };
    change(&mut chain);
    let catalog = Catalog { chains: [(chain.chain.clone(), chain)].into(), pipelines: [(digest, file)].into() };
    let clock = Arc::new(ManualClock::starting_at(Millis(1_700_000_000_000)));
    let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
    let config = EngineConfig { clock: clock.clone(), ..EngineConfig::new(Location::Memory, queues) };
    let engine = Engine::open(config).unwrap();
    let ports = Arc::new(engine.clone());
    let context = Context::new(queue(&engine), ports, blobs(&engine), clock.clone(), Arc::new(catalog));
    Fixture { dispatcher: Dispatcher::new(context.clone()), context, engine, clock }
}

fn hash(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn key(number: u64, hash: &str) -> String {
    format!("witnesses/demo/{number}/{hash}/witness")
}

fn record(key: &str, version: &str) -> serde_json::Value {
    let object = serde_json::json!({ "key": key, "size": 7, "versionId": version, "sequencer": "0055AED6DCD90281E5" });
    let bucket = serde_json::json!({ "name": "push0-witnesses" });
    serde_json::json!({ "eventVersion": "2.1", "eventName": "ObjectCreated:Put", "s3": { "bucket": bucket, "object": object } })
}

fn notification(records: &[serde_json::Value]) -> String {
    serde_json::json!({ "Records": records }).to_string()
}

fn delivery(body: String, receive_count: u32) -> Delivery {
    let sent_at = Millis(1_700_000_000_000);
    Delivery { id: "m".to_owned(), receipt: "r".to_owned(), body, group: None, receive_count, sent_at }
}

fn code(handled: Result<(), Failure>) -> Option<ErrorCode> {
    match handled {
        Err(Failure::Poison { reason }) => {
            Some(ErrorCode::find(&reason).unwrap_or_else(|| panic!("no code: {reason}")))
        }
        other => panic!("{other:?} is not put aside"),
    }
}

impl Fixture {
    /// The upload of a version, without its event.
    async fn upload(&self, number: u64, hash: &str, version: &str, bytes: &'static [u8]) -> BlobRef {
        self.put(&format!("{}/version={version}", key(number, hash)), bytes).await
    }

    async fn put(&self, key: &str, bytes: &'static [u8]) -> BlobRef {
        let put = self.engine.put_new(key, Bytes::from_static(bytes), "upload").await.unwrap().into_info();
        BlobRef { key: put.key, sha256: put.sha256, size: put.size }
    }

    async fn event(&self, number: u64, hash: &str, version: &str) -> Result<(), Failure> {
        self.message(notification(&[record(&key(number, hash), version)])).await
    }

    async fn message(&self, body: String) -> Result<(), Failure> {
        self.dispatcher.handle(SOURCE, &delivery(body, 1)).await
    }

    /// What `push0 submit` does after its upload.
    async fn announce(&self, number: u64, hash: &str, witness: BlobRef) {
        let submission = Submission {
            chain: "demo".parse().unwrap(),
            number,
            hash: hash.parse().unwrap(),
            parent_hash: None,
            witness,
            fork_seq: None,
            deadline: None,
        };
        let body = ChainMessage::Submit(submission).to_json();
        assert_eq!(self.dispatcher.handle(queue::SUBMISSIONS, &delivery(body, 1)).await, Ok(()));
    }

    async fn block(&self, number: u64) -> Option<BlockRow> {
        let at = RowKey::block(&"demo".parse().unwrap(), number);
        let row = Table::get(&self.engine, &Key::new(at.partition, at.sort)).await.unwrap()?;
        Some(BlockRow::from_value(row.doc().unwrap().clone()).unwrap())
    }

    /// The witnesses that split tasks were sent for, in all.
    async fn tasks(&self) -> Vec<String> {
        let work = push0_core::message::work_queue(&Pool::trusted(), push0_core::Class::Standard);
        let taken = self.engine.receive(&work, 10, Millis(0), Millis(60_000)).await.unwrap();
        taken.iter().map(|task| TaskMessage::from_json(&task.body).unwrap().inputs[0].key.clone()).collect()
    }
}

#[tokio::test]
async fn an_upload_alone_gets_its_block_proven_at_the_version_of_its_event() {
    let (fixture, hash) = (fixture(), hash('a'));
    let witness = fixture.upload(1, &hash, "v1", b"witness").await;
    assert_eq!(fixture.event(1, &hash, "v1").await, Ok(()));
    let block = fixture.block(1).await.unwrap();
    assert_eq!((block.hash.unwrap().to_string(), block.witness), (hash, Some(witness.clone())));
    assert_eq!((block.parent_hash, block.fork_seq), (None, None));
    assert_eq!(fixture.tasks().await, [witness.key]);
}

#[tokio::test]
async fn the_same_event_again_changes_nothing_also_from_the_dead_letters() {
    let (fixture, hash) = (fixture(), hash('a'));
    fixture.upload(1, &hash, "v1", b"witness").await;
    assert_eq!(fixture.event(1, &hash, "v1").await, Ok(()));
    let before = fixture.block(1).await;
    assert_eq!(fixture.tasks().await.len(), 1);
    assert_eq!(fixture.event(1, &hash, "v1").await, Ok(()));
    let message = delivery(notification(&[record(&key(1, &hash), "v1")]), 1);
    assert_eq!(fixture.dispatcher.handle("witness-events-dlq", &message).await, Ok(()));
    assert_eq!(fixture.block(1).await, before);
    assert_eq!(fixture.tasks().await, [""; 0]);
}

#[tokio::test]
async fn an_event_and_an_announcement_make_one_proof_of_whichever_came_first() {
    for event_first in [true, false] {
        let (fixture, hash) = (fixture(), hash('a'));
        let uploaded = fixture.upload(1, &hash, "v1", b"witness").await;
        let stored = fixture.put(&format!("witnesses/demo/1-{}", Sha256::of(b"witness")), b"witness").await;
        // What S3 tells of the witness that `push0 submit` stored is no event of ours.
        let of_submit = notification(&[record(&stored.key, "v9")]);
        assert_eq!(fixture.message(of_submit).await, Ok(()));
        assert_eq!(fixture.block(1).await, None);
        if event_first {
            assert_eq!(fixture.event(1, &hash, "v1").await, Ok(()));
        }
        fixture.announce(1, &hash, stored.clone()).await;
        if !event_first {
            assert_eq!(fixture.event(1, &hash, "v1").await, Ok(()));
        }
        let first = if event_first { uploaded } else { stored };
        assert_eq!(fixture.tasks().await, std::slice::from_ref(&first.key));
        let block = fixture.block(1).await.unwrap();
        assert_eq!((block.witness, block.contenders_seen), (Some(first), 0), "event first: {event_first}");
    }
}

#[tokio::test]
async fn a_second_upload_under_the_same_key_changes_nothing() {
    for first in ["v1", "v2"] {
        let second = if first == "v1" { "v2" } else { "v1" };
        let (fixture, hash) = (fixture(), hash('a'));
        let pinned = fixture.upload(1, &hash, first, b"one").await;
        fixture.upload(1, &hash, second, b"another").await;
        // Events come in any order: the first to be handled is pinned.
        assert_eq!(fixture.event(1, &hash, first).await, Ok(()));
        assert_eq!(fixture.event(1, &hash, second).await, Ok(()));
        let block = fixture.block(1).await.unwrap();
        assert_eq!((block.witness, block.contenders_seen), (Some(pinned.clone()), 0));
        assert_eq!(fixture.tasks().await, [pinned.key]);
    }
}

#[tokio::test]
async fn an_upload_of_another_block_of_the_number_is_a_contender() {
    let fixture = fixture();
    let pinned = fixture.upload(1, &hash('a'), "v1", b"one").await;
    let other = fixture.upload(1, &hash('b'), "v1", b"another").await;
    assert_eq!(fixture.event(1, &hash('a'), "v1").await, Ok(()));
    for _ in 0..2 {
        assert_eq!(fixture.event(1, &hash('b'), "v1").await, Ok(()));
    }
    let block = fixture.block(1).await.unwrap();
    assert_eq!((block.witness, block.contenders_seen), (Some(pinned.clone()), 1));
    assert_eq!((block.contenders[0].hash.to_string(), &block.contenders[0].witness), (hash('b'), &other));
    assert_eq!(fixture.tasks().await, [pinned.key]);
}

#[tokio::test]
async fn an_event_for_an_object_that_is_gone_is_settled() {
    let (fixture, hash) = (fixture(), hash('a'));
    assert_eq!(fixture.event(1, &hash, "v1").await, Ok(()));
    assert_eq!(fixture.block(1).await, None);
    // Uploaded anew it is another version, with an event of its own.
    fixture.upload(1, &hash, "v2", b"witness").await;
    assert_eq!(fixture.event(1, &hash, "v2").await, Ok(()));
    assert!(fixture.block(1).await.is_some());
}

#[tokio::test]
async fn what_can_never_be_submitted_is_put_aside_with_its_page() {
    let fixture = fixture();
    fixture.upload(1, &hash('a'), "empty", b"").await;
    fixture.upload(500, &hash('a'), "v1", b"far").await;
    fixture.put(&format!("witnesses/other/1/{}/witness/version=v1", hash('a')), b"other").await;
    let other = record(&key(1, &hash('a')).replace("demo", "other"), "v1");
    assert_eq!(code(fixture.event(1, &hash('a'), "empty").await), Some(ErrorCode::BadWitness));
    assert_eq!(code(fixture.event(500, &hash('a'), "v1").await), Some(ErrorCode::OutOfReach));
    assert_eq!(code(fixture.message(notification(&[other])).await), Some(ErrorCode::UnknownChain));
    assert_eq!(code(fixture.event(1, "0x12", "v1").await), Some(ErrorCode::UploadKey));
    assert_eq!(code(fixture.message("{}".to_owned()).await), Some(ErrorCode::Poison));
    assert_eq!(fixture.message(r#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#.to_owned()).await, Ok(()));
    assert_eq!(fixture.tasks().await, [""; 0]);
}

#[tokio::test]
async fn a_bad_record_stops_no_good_one() {
    let (fixture, hash) = (fixture(), hash('a'));
    fixture.upload(1, &hash, "v1", b"witness").await;
    let records = [record("witnesses/demo/x/y/witness", "v1"), record(&key(1, &hash), "v1")];
    assert_eq!(code(fixture.message(notification(&records)).await), Some(ErrorCode::UploadKey));
    assert!(fixture.block(1).await.is_some());
}

/// Blobs whose digests are not known, or that cannot be asked.
struct Unpinnable {
    engine: Engine,
    error: PortError,
}

#[async_trait]
impl Blobs for Unpinnable {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        self.engine.put_new(key, bytes, writer).await
    }
    async fn put_file(&self, key: &str, path: &Path, writer: &str) -> PortResult<PutOutcome> {
        self.engine.put_file(key, path, writer).await
    }
    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        Blobs::get(&self.engine, key).await
    }
    async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>> {
        self.engine.get_file(key, path).await
    }
    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        self.engine.get_range(key, offset, length).await
    }
    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        self.engine.head(key).await
    }
    async fn pin(&self, _key: &str, _within: Millis) -> PortResult<Option<BlobInfo>> {
        Err(self.error.clone())
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        self.engine.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &str) -> PortResult<()> {
        Blobs::delete(&self.engine, key).await
    }
}

fn unpinnable(error: PortError) -> Fixture {
    with_blobs(|engine| Arc::new(Unpinnable { engine: engine.clone(), error }))
}

#[tokio::test]
async fn an_object_that_takes_too_long_to_read_is_tried_again_before_it_is_put_aside() {
    let slow = PortError::permanent(ErrorCode::UploadDigest.says("too slow"));
    let fixture = unpinnable(slow);
    let body = notification(&[record(&key(1, &hash('a')), "v1")]);
    for receive_count in 1..READS {
        let handled = fixture.dispatcher.handle(SOURCE, &delivery(body.clone(), receive_count)).await;
        assert!(matches!(handled, Err(Failure::Retry { .. })), "{handled:?}");
    }
    let handled = fixture.dispatcher.handle(SOURCE, &delivery(body, READS)).await;
    assert_eq!(code(handled), Some(ErrorCode::UploadDigest));
    assert_eq!(fixture.block(1).await, None);
}

#[tokio::test]
async fn trouble_of_the_storage_brings_the_event_again_however_often() {
    for error in [PortError::transient("slow down"), PortError::permanent("access denied"), PortError::unknown("lost")]
    {
        let fixture = unpinnable(error);
        let body = notification(&[record("witnesses/demo/x/y/witness", "v1"), record(&key(1, &hash('a')), "v1")]);
        let handled = fixture.dispatcher.handle(SOURCE, &delivery(body, 19)).await;
        assert!(matches!(handled, Err(Failure::Retry { .. })), "{handled:?}");
    }
}

#[tokio::test]
async fn uploads_whose_event_was_lost_are_found_by_their_number() {
    let fixture = fixture();
    let chain = "demo".parse().unwrap();
    let find = async |number| uploads::find(&fixture.context, &chain, number, uploads::READING).await;
    let one = fixture.put(&key(7, &hash('a')), b"one").await;
    let other = fixture.put(&key(7, &hash('b')), b"other").await;
    fixture.put(&key(70, &hash('c')), b"of another number").await;
    fixture.put(&key(7, &hash('d')), b"").await;
    fixture.put("witnesses/demo/7/nohash/witness", b"bad").await;
    fixture.put("witnesses/demo/7/notes", b"no witness").await;
    let found = find(7).await.unwrap();
    let witnesses: Vec<_> = found.iter().map(|submission| submission.witness.clone()).collect();
    assert_eq!(witnesses, [one.clone(), other]);
    assert_eq!((found[0].number, found[0].hash.to_string()), (7, hash('a')));
    assert_eq!(find(8).await, Ok(vec![]));
    // Handed to the chain it is what its event would have been.
    let event = Event::Submitted(found[0].clone());
    assert_eq!(chain::drive(&fixture.context, &chain, &event).await.unwrap(), Ok(()));
    assert_eq!(fixture.block(7).await.unwrap().witness, Some(one));
}

#[tokio::test]
async fn looking_for_uploads_fails_only_where_another_time_may_help() {
    let chain = "demo".parse().unwrap();
    let look = async |error: PortError| {
        let fixture = unpinnable(error);
        fixture.put(&key(7, &hash('a')), b"one").await;
        uploads::find(&fixture.context, &chain, 7, uploads::READING).await
    };
    let busy = look(PortError::transient("slow down")).await.unwrap_err();
    assert!(matches!(busy.kind(), ErrorKind::Transient { .. }));
    let slow = PortError::permanent(ErrorCode::UploadDigest.says("too slow"));
    assert_eq!(look(slow).await, Ok(vec![]));
}

#[tokio::test]
async fn uploads_that_are_told_of_again_bring_back_nothing_that_was_superseded_or_dropped() {
    let fixture = fixture();
    let tell = async |message: ChainMessage| {
        let handled = fixture.dispatcher.handle(queue::SUBMISSIONS, &delivery(message.to_json(), 1)).await;
        assert_eq!(handled, Ok(()));
    };
    let chain: ChainId = "demo".parse().unwrap();
    fixture.upload(1, &hash('a'), "v1", b"old").await;
    let witness = fixture.upload(1, &hash('b'), "v1", b"new").await;
    assert_eq!(fixture.event(1, &hash('a'), "v1").await, Ok(()));
    let fork = Submission {
        chain: chain.clone(),
        number: 1,
        hash: hash('b').parse().unwrap(),
        parent_hash: Some(hash('0').parse().unwrap()),
        witness,
        fork_seq: Some(1),
        deadline: None,
    };
    tell(ChainMessage::Submit(fork.clone())).await;
    let superseded = fixture.block(1).await.unwrap();
    assert_eq!((superseded.hash, superseded.epoch.0), (Some(fork.hash), 2));
    assert_eq!(fixture.event(1, &hash('a'), "v1").await, Ok(()));
    assert_eq!(fixture.block(1).await.unwrap(), superseded, "not even as a contender");

    let reorg = Command::Reorg { chain, number: 1, reason: "wrong fork".to_owned(), nth: 1 };
    tell(ChainMessage::Command(reorg.clone())).await;
    let dropped = fixture.block(1).await.unwrap();
    assert_eq!((dropped.status.name(), dropped.hash), ("dropped", None));
    for old in ['a', 'b'] {
        assert_eq!(fixture.event(1, &hash(old), "v1").await, Ok(()));
    }
    tell(ChainMessage::Submit(fork)).await;
    assert_eq!(fixture.block(1).await.unwrap(), dropped);
    fixture.upload(1, &hash('c'), "v1", b"right").await;
    assert_eq!(fixture.event(1, &hash('c'), "v1").await, Ok(()));
    tell(ChainMessage::Command(reorg)).await;
    let right = fixture.block(1).await.unwrap();
    assert_eq!((right.status.name(), right.hash.unwrap().to_string()), ("proving", hash('c')), "dropped once");
    assert_eq!(fixture.tasks().await.len(), 3, "each run was split once");
}
