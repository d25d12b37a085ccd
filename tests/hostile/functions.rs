//! Messages as the functions handle them: each is told to a system in the middle of its work, which must be able to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use push0_core::chain::ChainConfig;
use push0_core::message::{ChainMessage, RangeMessage, Report, Submission, TaskMessage, TimerMessage, queue};
use push0_core::record::{BlobRef, Versioned as _};
use push0_core::topology::Topology;
use push0_core::{BlockHash, Millis, Sha256, pipeline};
use push0_functions::{Collector, Dispatcher, Reaper};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::{Catalog, Context};
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::host::{self, Failure, Function};
use push0_runtime::port::{Blobs as _, Delivery, Key, Table as _};
use push0_runtime::wiring;
use serde_json::Value;

use super::{Target, wait};
use crate::pipelines::four_stages;

/// A data directory of the first version: block 1 is final, blocks 2 and 3 are being proven, 5 is parked, 4 was never submitted.
pub(super) const ENGINE: &str = include_str!("../fixtures/data-of-0.1/engine.sql");
pub(super) const BLOBS: &str = include_str!("../fixtures/data-of-0.1/blobs.json");

pub(super) const NOW: Millis = Millis(1_795_537_400_000);

/// As it was in the first version's fixture.
const PROVER: &str = r#"
[prover.echo]
form = "session"
command = ["push0-echo"]
"#;

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("function_collector", collector)
            .reads(&[Report::NAME, RangeMessage::NAME, TimerMessage::NAME, TaskMessage::NAME])
            .within(400, 16 << 20)
            .slow(),
        Target::new("function_dispatcher", dispatcher).reads(&[ChainMessage::NAME]).within(400, 16 << 20).slow(),
    ]
}

/// What is configured: a chain and what it is proven with.
pub(super) fn catalog() -> Catalog {
    let file = pipeline::parse(&four_stages("echo", PROVER)).expect("it parses");
    let digest = file.pipeline.digest();
    let chain: push0_core::ChainId = "demo".parse().expect("a chain id");
    let config = ChainConfig { window: 4, ..ChainConfig::new(chain.clone(), digest) };
    Catalog { chains: BTreeMap::from([(chain, config)]), pipelines: BTreeMap::from([(digest, file)]) }
}

/// The system, in memory.
struct World {
    engine: Engine,
    context: Context,
}

/// Key and bytes of every blob of the fixture.
pub(super) fn blobs() -> Vec<(String, String)> {
    let blobs: BTreeMap<String, String> = serde_json::from_str(BLOBS).expect("the fixture's blobs");
    let key = |file: &str| {
        let (folder, name) = file.rsplit_once('/').expect("a file in a folder");
        format!("{folder}/{}", name.split_once('@').expect("a number in front").1)
    };
    blobs.into_iter().map(|(file, bytes)| (key(&file), bytes)).collect()
}

/// Partition, sort key, version and attributes of every row of the fixture.
fn rows() -> &'static [(String, String, u64, BTreeMap<String, Value>)] {
    type Rows = Vec<(String, String, u64, BTreeMap<String, Value>)>;
    static ROWS: std::sync::OnceLock<Rows> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let db = rusqlite::Connection::open_in_memory().expect("a database in memory");
        db.execute_batch(ENGINE).expect("the fixture's database");
        let mut select =
            db.prepare("SELECT partition, sort, version, attributes FROM rows").expect("the fixture's rows");
        let found = select.query_map([], |row| {
            let attributes: String = row.get(3)?;
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, serde_json::from_str(&attributes).unwrap_or_default()))
        });
        found.expect("the fixture's rows").collect::<Result<_, _>>().expect("the fixture's rows")
    })
}

impl World {
    fn new() -> Self {
        let (catalog, clock) = (Arc::new(catalog()), ManualClock::starting_at(NOW));
        let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
        let config = EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, queues) };
        let engine = Engine::open(config).expect("an engine in memory");
        let fill = async {
            for (partition, sort, version, attributes) in rows() {
                let key = Key::new(partition.clone(), sort.clone());
                if *version > 0 {
                    let doc = attributes.values().next().cloned().unwrap_or_default();
                    engine.put_if_version(&key, doc, None).await?;
                    continue;
                }
                for (name, value) in attributes {
                    engine.set_if(&key, name, None, Some(value.clone())).await?;
                }
            }
            for (key, bytes) in blobs() {
                engine.put_new(&key, bytes.into(), "fixture").await?;
            }
            push0_runtime::port::PortResult::Ok(())
        };
        wait(fill).expect("the fixture is stored");
        let port = Arc::new(engine.clone());
        let context = Context::new(port.clone(), port.clone(), port, Arc::new(clock), catalog);
        Self { engine, context }
    }

    /// Tells a function, lets everything inside go on that follows, and submits a block as if nothing had been. Whether the message was
    /// done with.
    fn told(&self, function: &dyn Function, source: &str, body: &str) -> bool {
        let delivery = |body: &str| Delivery {
            id: "1".to_owned(),
            receipt: "1.1".to_owned(),
            body: body.to_owned(),
            group: Some("demo".to_owned()),
            receive_count: 1,
            sent_at: NOW,
        };
        let handled = wait(function.handle(source, &delivery(body)));
        // Nothing fails here but what is wrong with the message: it would come again for ever, and change nothing.
        if let Err(Failure::Retry { reason }) = &handled {
            panic!("it would be tried again: {reason}");
        }
        self.settle();
        let dispatcher = Dispatcher::new(self.context.clone());
        let (chain, witness) = ("demo".parse().expect("a chain id"), Sha256::of(b"witness"));
        let submission = Submission {
            chain,
            number: 4,
            hash: BlockHash([4; 32]),
            parent_hash: None,
            witness: BlobRef { key: format!("witnesses/demo/4-{witness}"), sha256: witness, size: 7 },
            fork_seq: None,
            deadline: None,
        };
        let body = ChainMessage::Submit(submission).to_json();
        if let Err(Failure::Retry { reason }) = wait(dispatcher.handle(queue::SUBMISSIONS, &delivery(&body))) {
            panic!("then a block cannot be submitted: {reason}");
        }
        self.settle();
        handled.is_ok()
    }

    fn settle(&self) {
        let (dispatcher, collector) = (Dispatcher::new(self.context.clone()), Collector::new(self.context.clone()));
        let functions: [(&str, &dyn Function); 2] = [("dispatcher", &dispatcher), ("collector", &collector)];
        for (name, function) in functions {
            for mapping in wiring::mappings(&Topology::built_in(), name, &self.context.catalog.pools()) {
                for _ in 0..4 {
                    let polled = wait(host::poll_once(&self.engine, function, &mapping, Millis(0)));
                    if polled.is_err() {
                        break;
                    }
                    let left = wait(push0_runtime::port::Queue::stats(&self.engine, &mapping.queue));
                    if left.is_ok_and(|left| left.visible == 0) {
                        break;
                    }
                }
            }
        }
        wait(Reaper::new(self.context.clone()).turn());
    }
}

/// The first line names the queue that the message comes from: `submissions.fifo` or `witness-events`.
fn dispatcher(input: &[u8]) -> bool {
    let Some((source, body)) = from(input, &[queue::SUBMISSIONS, queue::WITNESS_EVENTS]) else { return false };
    let world = World::new();
    world.told(&Dispatcher::new(world.context.clone()), source, body)
}

fn collector(input: &[u8]) -> bool {
    let sources = [queue::RESULTS, queue::VERDICTS, queue::RANGES, queue::TIMERS, "work-cpu-standard-dlq"];
    let Some((source, body)) = from(input, &sources) else { return false };
    let world = World::new();
    world.told(&Collector::new(world.context.clone()), source, body)
}

fn from<'i>(input: &'i [u8], sources: &[&'static str]) -> Option<(&'static str, &'i str)> {
    let (source, body) = std::str::from_utf8(input).ok()?.split_once('\n')?;
    sources.iter().find(|known| **known == source).map(|source| (*source, body))
}
