//! Batch chains through the real loops, on the engine in memory. No prover runs: blocks are told to be proven.

use std::sync::Arc;

use bytes::Bytes;
use push0_core::chain::{Batching, ChainConfig, Outcome};
use push0_core::message::{Command, Submission, TaskMessage, work_queue};
use push0_core::record::{BatchManifest, BlobRef, BlockRow, BlockStatus, ChainRow, RowKey};
use push0_core::retention::Retention;
use push0_core::topology::Topology;
use push0_core::{BlockHash, Class, Millis, Pool, RunId, pipeline};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::Catalog;
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::port::{Blobs as _, Key, Outgoing, Queue as _, Table};
use push0_runtime::wiring;

use super::*;
use crate::{Reaper, Sweeper};

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
"#;

const START: Millis = Millis(1_700_000_000_000);

struct Fixture {
    engine: Engine,
    clock: Arc<ManualClock>,
    context: Context,
    dispatcher: Dispatcher,
}

fn id(name: &str) -> ChainId {
    name.parse().unwrap()
}

/// Chain `payments`, and the batch chains derived from it: name, source, size, wait.
fn fixture(derived: &[(&str, &str, u32, Option<u64>)]) -> Fixture {
    let file = pipeline::parse(PIPELINE).unwrap();
    let digest = file.pipeline.digest();
    let mut catalog = Catalog { pipelines: [(digest, file)].into(), ..Catalog::default() };
    catalog.chains.insert(id("payments"), ChainConfig { window: 16, ..ChainConfig::new(id("payments"), digest) });
    for (chain, of, size, wait) in derived {
        let batching = Batching { of: id(of), size: *size, wait: wait.map(Millis) };
        catalog.chains.get_mut(&id(of)).unwrap().derived.insert(id(chain), batching.clone());
        let config = ChainConfig { batch: Some(batching), ..ChainConfig::new(id(chain), digest) };
        catalog.chains.insert(id(chain), config);
    }
    let clock = Arc::new(ManualClock::starting_at(START));
    let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
    let config = EngineConfig { clock: clock.clone(), ..EngineConfig::new(Location::Memory, queues) };
    let engine = Engine::open(config).unwrap();
    let ports = Arc::new(engine.clone());
    let context = Context::new(ports.clone(), ports.clone(), ports, clock.clone(), Arc::new(catalog));
    Fixture { dispatcher: Dispatcher::new(context.clone()), context, clock, engine }
}

fn hash(number: u64) -> BlockHash {
    BlockHash([number as u8; 32])
}

fn delivery(body: String) -> Delivery {
    let (id, receipt) = ("m".to_owned(), "r".to_owned());
    Delivery { id, receipt, body, group: None, receive_count: 1, sent_at: START }
}

impl Fixture {
    async fn blob(&self, key: String) -> BlobRef {
        let bytes = Bytes::from(key.clone());
        let info = self.engine.put_new(&key, bytes, "test").await.unwrap().into_info();
        BlobRef { key: info.key, sha256: info.sha256, size: info.size }
    }

    async fn tell(&self, message: ChainMessage) -> Result<(), Failure> {
        self.dispatcher.handle(queue::SUBMISSIONS, &delivery(message.to_json())).await
    }

    async fn skip(&self, chain: &str, number: u64) {
        let skip = Command::Skip { chain: id(chain), number, reason: "lost".to_owned() };
        assert_eq!(self.tell(ChainMessage::Command(skip)).await, Ok(()));
    }

    /// Submits block `number` and has it proven.
    async fn finalize(&self, number: u64) {
        let witness = self.blob(format!("witnesses/payments/{number}-w")).await;
        let submission = Submission {
            chain: id("payments"),
            number,
            hash: hash(number),
            parent_hash: Some(hash(number - 1)),
            witness,
            fork_seq: None,
            deadline: None,
        };
        assert_eq!(self.tell(ChainMessage::Submit(submission)).await, Ok(()));
        self.prove("payments", number).await;
    }

    async fn prove(&self, chain: &str, number: u64) {
        let block = self.block(chain, number).await.unwrap();
        assert_eq!(block.status, BlockStatus::Proving, "{chain} {number}");
        let run = RunId::new(id(chain), number, block.epoch);
        let proof = self.blob(format!("artifacts/cpu/{run}/proof")).await;
        let header = self.blob(format!("artifacts/trusted/{run}/header")).await;
        // What nobody needs once the block is final.
        self.blob(format!("artifacts/cpu/{run}/segment")).await;
        let pipeline = self.context.catalog.chains[&id(chain)].pipeline;
        let outcome = Outcome::Proven { pipeline, proof, header, parent_hash: block.parent_hash, outputs: None };
        let event = Event::RunEnded { run, outcome };
        assert_eq!(chain::drive(&self.context, &id(chain), &event).await.unwrap(), Ok(()));
    }

    /// Hands the dispatcher what push0 has told its own chains; returns how many messages that were.
    async fn deliver(&self) -> usize {
        let mut count = 0;
        loop {
            let messages = self.engine.receive(queue::SUBMISSIONS, 10, Millis(0), Millis(60_000)).await.unwrap();
            if messages.is_empty() {
                return count;
            }
            for message in messages {
                assert_eq!(self.dispatcher.handle(queue::SUBMISSIONS, &message).await, Ok(()));
                self.engine.ack(queue::SUBMISSIONS, &message.receipt).await.unwrap();
                count += 1;
            }
        }
    }

    async fn row<T: Versioned>(&self, at: RowKey) -> Option<T> {
        let row = Table::get(&self.engine, &Key::new(at.partition, at.sort)).await.unwrap()?;
        Some(T::from_value(row.doc().unwrap().clone()).unwrap())
    }

    async fn block(&self, chain: &str, number: u64) -> Option<BlockRow> {
        self.row(RowKey::block(&id(chain), number)).await
    }

    async fn manifest(&self, chain: &str, number: u64) -> BatchManifest {
        let witness = self.block(chain, number).await.unwrap().witness.unwrap();
        let bytes = push0_runtime::port::Blobs::get(&self.engine, &witness.key).await.unwrap().unwrap();
        assert_eq!(push0_core::Sha256::of(&bytes), witness.sha256);
        BatchManifest::from_json(std::str::from_utf8(&bytes).unwrap()).unwrap()
    }

    /// Split tasks of a chain that wait for a worker; they are taken.
    async fn splits(&self, chain: &str) -> Vec<TaskMessage> {
        let work = work_queue(&Pool::trusted(), Class::Standard);
        let mut tasks = Vec::new();
        loop {
            let taken = self.engine.receive(&work, 10, Millis(0), Millis(3_600_000)).await.unwrap();
            if taken.is_empty() {
                return tasks;
            }
            let taken = taken.iter().map(|task| TaskMessage::from_json(&task.body).unwrap());
            tasks.extend(taken.filter(|task| task.id.run.chain.as_str() == chain));
        }
    }
}

#[tokio::test]
async fn eight_final_blocks_become_one_batch_with_all_their_proofs_in_order() {
    let fixture = fixture(&[("batches", "payments", 8, None)]);
    for number in 1..=7 {
        fixture.finalize(number).await;
    }
    assert_eq!(fixture.deliver().await, 0);
    fixture.finalize(8).await;
    assert_eq!(fixture.deliver().await, 1);
    let block = fixture.block("batches", 1).await.unwrap();
    assert_eq!((block.hash, block.parent_hash), (Some(hash(8)), Some(hash(0))));
    assert_eq!(block.batch.as_ref().unwrap().to_string(), "payments 1..8");
    let manifest = fixture.manifest("batches", 1).await;
    assert_eq!(manifest.blocks.iter().map(|block| block.number).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let keys: Vec<String> = manifest.inputs().into_iter().map(|input| input.key).collect();
    let expected = (1..=8).flat_map(|number| {
        let run = format!("payments/{number}/e1");
        [format!("artifacts/cpu/{run}/proof"), format!("artifacts/trusted/{run}/header")]
    });
    assert_eq!(keys, expected.collect::<Vec<_>>());
    let [split] = &fixture.splits("batches").await[..] else { panic!("one split task") };
    assert!(split.expand && split.inputs == [block.witness.unwrap()]);
    fixture.prove("batches", 1).await;
    assert_eq!(fixture.block("batches", 1).await.unwrap().status, BlockStatus::Final);
}

#[tokio::test]
async fn told_twice_a_batch_is_the_same_and_starts_once() {
    let fixture = fixture(&[("batches", "payments", 2, None)]);
    fixture.finalize(1).await;
    fixture.finalize(2).await;
    let batch = ChainMessage::Batch { chain: id("batches"), number: 1 };
    assert_eq!(fixture.tell(batch.clone()).await, Ok(()));
    let before = fixture.block("batches", 1).await;
    assert_eq!(fixture.splits("batches").await.len(), 1);
    for again in 0..2 {
        if again == 1 {
            fixture.prove("batches", 1).await;
        }
        let block = fixture.block("batches", 1).await;
        assert_eq!(fixture.tell(batch.clone()).await, Ok(()));
        assert_eq!(fixture.block("batches", 1).await, block);
    }
    fixture.deliver().await;
    assert_eq!(fixture.splits("batches").await, []);
    assert_eq!(before.unwrap().witness, fixture.block("batches", 1).await.unwrap().witness);
    let witnesses = fixture.engine.list("witnesses/batches/", None, 10).await.unwrap();
    assert_eq!(witnesses.len(), 1, "whoever derives it writes the same bytes");
}

#[tokio::test]
async fn a_crash_after_the_range_was_fixed_or_told_loses_and_doubles_nothing() {
    let fixture = fixture(&[("batches", "payments", 2, None)]);
    for number in 1..=2 {
        fixture.finalize(number).await;
    }
    fixture.deliver().await;
    // As the row was before the mark of having told: the message was sent, its sender died.
    let at = RowKey::chain(&id("payments"));
    let at = Key::new(at.partition, at.sort);
    let row = Table::get(&fixture.engine, &at).await.unwrap().unwrap();
    let mut chain = ChainRow::from_value(row.doc().unwrap().clone()).unwrap();
    assert_eq!((chain.batches[0].told, chain.batches[0].number, chain.batches[0].next), (1, 2, 3));
    chain.batches[0].told = 0;
    let write = push0_runtime::port::Write::Put { key: at, doc: chain.to_value(), expected: Some(row.version) };
    fixture.engine.transact(vec![write]).await.unwrap();
    // Longer than the queue remembers what was sent.
    fixture.clock.advance(Millis::from_secs(600));
    Reaper::new(fixture.context.clone()).turn().await;
    assert_eq!(fixture.deliver().await, 1, "it is told again");
    assert_eq!(fixture.splits("batches").await.len(), 1);
    assert_eq!(fixture.block("batches", 2).await, None);
    let chain: ChainRow = fixture.row(RowKey::chain(&id("payments"))).await.unwrap();
    assert_eq!((chain.batches[0].told, chain.batches[0].number), (1, 2));
    Reaper::new(fixture.context.clone()).turn().await;
    assert_eq!(fixture.deliver().await, 0);
}

#[tokio::test]
async fn a_batch_whose_message_was_put_aside_is_admitted_by_the_reaper() {
    let fixture = fixture(&[("batches", "payments", 2, None)]);
    for number in 1..=4 {
        fixture.finalize(number).await;
    }
    // As a dispatcher does that does not know the batch chain yet.
    let messages = fixture.engine.receive(queue::SUBMISSIONS, 10, Millis(0), Millis(60_000)).await.unwrap();
    assert!(!messages.is_empty());
    for message in messages {
        fixture.engine.ack(queue::SUBMISSIONS, &message.receipt).await.unwrap();
    }
    assert_eq!(fixture.block("batches", 1).await, None);
    Reaper::new(fixture.context.clone()).turn().await;
    for (number, range) in [(1, "payments 1..2"), (2, "payments 3..4")] {
        assert_eq!(fixture.block("batches", number).await.unwrap().batch.unwrap().to_string(), range);
    }
    assert_eq!(fixture.splits("batches").await.len(), 2);
    Reaper::new(fixture.context.clone()).turn().await;
    assert_eq!((fixture.block("batches", 3).await, fixture.splits("batches").await.len()), (None, 0), "and once");
}

#[tokio::test]
async fn the_reaper_fixes_a_partial_batch_when_its_wait_is_over() {
    let fixture = fixture(&[("batches", "payments", 8, Some(5_000))]);
    let reaper = Reaper::new(fixture.context.clone());
    for number in 1..=3 {
        fixture.finalize(number).await;
    }
    fixture.clock.advance(Millis(4_999));
    reaper.turn().await;
    assert_eq!(fixture.deliver().await, 0);
    fixture.clock.advance(Millis(1));
    reaper.turn().await;
    assert_eq!(fixture.deliver().await, 1);
    assert_eq!(fixture.manifest("batches", 1).await.blocks.len(), 3);
    fixture.clock.advance(Millis(60_000));
    reaper.turn().await;
    assert_eq!(fixture.deliver().await, 0, "nothing waits");
    fixture.finalize(4).await;
    fixture.clock.advance(Millis(5_000));
    reaper.turn().await;
    fixture.deliver().await;
    assert_eq!(fixture.block("batches", 2).await.unwrap().batch.unwrap().to_string(), "payments 4..4");
}

#[tokio::test]
async fn a_hole_fails_the_batch_and_a_skip_lets_the_others_pass() {
    let fixture = fixture(&[("batches", "payments", 2, None)]);
    fixture.finalize(1).await;
    fixture.skip("payments", 2).await;
    for number in 3..=4 {
        fixture.finalize(number).await;
    }
    fixture.deliver().await;
    let holed = fixture.block("batches", 1).await.unwrap();
    let BlockStatus::Failed { reason } = &holed.status else { panic!("{holed:?}") };
    assert_eq!(ErrorCode::find(reason), Some(ErrorCode::BatchHole));
    assert!(reason.contains("block 2 of payments"), "{reason}");
    let splits = fixture.splits("batches").await;
    assert_eq!(splits.iter().map(|task| task.id.run.number).collect::<Vec<_>>(), [2], "the one behind it is proven");
    fixture.prove("batches", 2).await;
    assert_eq!(fixture.block("batches", 2).await.unwrap().final_seq, None);
    let retry = Command::Retry { chain: id("batches"), number: 1, epoch: Some(holed.epoch) };
    assert_eq!(fixture.tell(ChainMessage::Command(retry)).await, Ok(()));
    assert_eq!(fixture.block("batches", 1).await, Some(holed), "there is nothing to retry it from");
    fixture.skip("batches", 1).await;
    assert_eq!(fixture.block("batches", 1).await.unwrap().final_seq, Some(1));
    assert_eq!(fixture.block("batches", 2).await.unwrap().final_seq, Some(2));
}

#[tokio::test]
async fn a_batch_chain_is_a_source_itself_and_one_source_has_several() {
    let fixture = fixture(&[
        ("pairs", "payments", 2, None),
        ("singles", "payments", 1, None),
        ("pairs-of-pairs", "pairs", 2, None),
    ]);
    for number in 1..=4 {
        fixture.finalize(number).await;
        fixture.deliver().await;
    }
    for number in 1..=2 {
        fixture.prove("pairs", number).await;
    }
    assert_eq!(fixture.deliver().await, 1);
    let outer = fixture.block("pairs-of-pairs", 1).await.unwrap();
    assert_eq!((outer.hash, outer.parent_hash), (Some(hash(4)), Some(hash(0))));
    let inner = fixture.manifest("pairs-of-pairs", 1).await;
    assert_eq!((inner.chain.as_str(), inner.blocks.len()), ("pairs", 2));
    assert_eq!(inner.blocks[0].proof.key, "artifacts/cpu/pairs/1/e1/proof");
    for number in 1..=4 {
        assert_eq!(fixture.manifest("singles", number).await.blocks[0].hash, hash(number));
    }
}

#[tokio::test]
async fn what_comes_from_outside_is_put_aside_with_its_page() {
    let fixture = fixture(&[("batches", "payments", 2, None)]);
    let witness = fixture.blob("witnesses/batches/1-w".to_owned()).await;
    let chain = id("batches");
    let submission =
        Submission { chain, number: 1, hash: hash(1), parent_hash: None, witness, fork_seq: None, deadline: None };
    let code = |handled: Result<(), Failure>| match handled {
        Err(Failure::Poison { reason }) => ErrorCode::find(&reason),
        other => panic!("{other:?} is not put aside"),
    };
    for message in [ChainMessage::Submit(submission.clone()), ChainMessage::Command(Command::Replace(submission))] {
        assert_eq!(code(fixture.tell(message).await), Some(ErrorCode::DerivedChain));
    }
    // A batch that was never fixed, and one of a chain that has none.
    for (chain, wanted) in [("batches", ErrorCode::UnknownBlock), ("payments", ErrorCode::UnknownChain)] {
        let forged = ChainMessage::Batch { chain: id(chain), number: 1 };
        assert_eq!(code(fixture.tell(forged).await), Some(wanted));
    }
    let key = format!("witnesses/batches/1/{}/witness", "ab".repeat(32));
    fixture.blob(format!("{key}/version=v1")).await;
    let object = serde_json::json!({ "key": key, "versionId": "v1" });
    let record =
        serde_json::json!({ "eventVersion": "2.1", "eventName": "ObjectCreated:Put", "s3": { "object": object } });
    let event = delivery(serde_json::json!({ "Records": [record] }).to_string());
    assert_eq!(code(fixture.dispatcher.handle(queue::WITNESS_EVENTS, &event).await), Some(ErrorCode::DerivedChain));
    assert_eq!(fixture.block("batches", 1).await, None);
}

#[tokio::test]
async fn sweeping_the_source_takes_nothing_that_a_batch_needs() {
    let fixture = fixture(&[("batches", "payments", 3, None)]);
    for number in 1..=3 {
        fixture.finalize(number).await;
    }
    fixture.deliver().await;
    let policy = Retention { grace: Millis(0), keep_blocks: 0, witnesses: true };
    let sweeper = Sweeper::new(fixture.context.clone(), policy);
    for chain in ["payments", "batches"] {
        sweeper.sweep(&id(chain), 1_000).await.unwrap();
    }
    assert_eq!(fixture.engine.head("artifacts/cpu/payments/1/e1/segment").await.unwrap(), None, "it was swept");
    let manifest = fixture.manifest("batches", 1).await;
    for input in manifest.inputs() {
        let info = fixture.engine.head(&input.key).await.unwrap();
        assert_eq!(info.map(|info| info.sha256), Some(input.sha256), "{}", input.key);
    }
}

#[tokio::test]
async fn a_batch_with_the_most_blocks_still_makes_a_small_task() {
    let most = push0_core::record::MAX_BATCH;
    let fixture = fixture(&[("batches", "payments", most, None)]);
    for number in 1..=u64::from(most) {
        fixture.finalize(number).await;
    }
    assert_eq!(fixture.deliver().await, 1);
    let [task] = &fixture.splits("batches").await[..] else { panic!("one split task") };
    assert!(task.to_json().len() < 4_096);
    assert_eq!(fixture.manifest("batches", 1).await.inputs().len(), 2 * most as usize);
    // And so does its message: nothing is named there but the number.
    let sent =
        Outgoing { body: ChainMessage::Batch { chain: id("batches"), number: 1 }.to_json(), ..Outgoing::default() };
    assert!(sent.body.len() < 200);
}

#[tokio::test]
async fn a_batch_chain_that_is_added_to_an_old_source_catches_up_a_bounded_number_of_batches_at_a_time() {
    let mut fixture = fixture(&[("batches", "payments", 1, None)]);
    let with = fixture.context.catalog.clone();
    let mut before = (*with).clone();
    before.chains.remove(&id("batches"));
    before.chains.get_mut(&id("payments")).unwrap().derived.clear();
    fixture.context.catalog = Arc::new(before);
    fixture.dispatcher = Dispatcher::new(fixture.context.clone());
    let blocks = 3 * chain::BATCHES_AT_ONCE as u64 + 2;
    for number in 1..=blocks {
        fixture.finalize(number).await;
    }
    fixture.context.catalog = with;
    fixture.dispatcher = Dispatcher::new(fixture.context.clone());
    let told = async || {
        let source: ChainRow = fixture.row(RowKey::chain(&id("payments"))).await.unwrap();
        source.batches.iter().map(|cursor| cursor.told).sum::<u64>()
    };
    let _ = chain::drive(&fixture.context, &id("payments"), &Event::Tick).await.unwrap();
    assert_eq!(told().await, chain::BATCHES_AT_ONCE as u64, "one event, so many batches");
    // Whoever admits the last of them goes on, until all are there.
    assert_eq!(fixture.deliver().await as u64, blocks);
    assert_eq!(told().await, blocks);
    assert!(fixture.block("batches", blocks).await.is_some());
    let again = delivery(ChainMessage::Batch { chain: id("batches"), number: 3 }.to_json());
    assert_eq!(fixture.dispatcher.handle(queue::SUBMISSIONS, &again).await, Ok(()));
    assert_eq!(fixture.deliver().await, 0, "and nothing twice");
}
