//! The real functions and the worker's real task protocol in this process, over the adapters for AWS, in an account of an emulator of their own.
//!
//! Nothing runs by itself but what a test starts: it decides which message is handled when, how often, and what the functions' clock says
//! then. SQS goes by its own clock all the same: a delayed message comes when its delay is over. What the functions ask of AWS is on record.

mod worker;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use push0_core::message::{ChainMessage, Submission, TimerMessage, queue};
use push0_core::record::{BlobRef, BlockRow, NodeView, OutboxRow, RowKey, Versioned};
use push0_core::topology::Topology;
use push0_core::{BlockHash, ChainId, Millis, Node, RunId, Sha256};
use push0_functions::{Collector, Dispatcher, Reaper};
use push0_runtime::aws::calls::{Call, Calls};
use push0_runtime::aws::{Connection, emulator, http_client, ports};
use push0_runtime::drive::Context;
use push0_runtime::host::{self, Function, Waiting};
use push0_runtime::http::Ports;
use push0_runtime::port::{Clock, Delivery, Key, Outgoing, Row};
use push0_runtime::settings::{Settings, Sources};
use push0_runtime::wiring;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::calls::Record;
use crate::pipelines::{NO_PROVER, four_stages};

pub use worker::{Script, Worker};

/// A pipeline of the simulator's prover, with a test's policies.
pub fn pipeline(policies: &str) -> String {
    four_stages("test", &format!("{NO_PROVER}{policies}"))
}

/// How long a message stays with whoever received it here.
const LEASE: Millis = Millis::from_secs(60);

/// Against a hung test, not a measure of anything.
const PATIENCE: u32 = 1_200;
const PAUSE: Duration = Duration::from_millis(100);

pub struct Emulated {
    pub context: Context,
    /// What functions and workers asked of the emulator.
    pub calls: Calls,
    connection: Connection,
    record: Record,
    /// Where the record is.
    _directory: tempfile::TempDir,
    running: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Emulated {
    /// An account with what the topology names and nothing else, for the configuration in these files, of which `push0.toml` is one. Lost tasks
    /// are not looked for.
    pub async fn new(clock: Arc<dyn Clock>, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, content) in files {
            fs::write(directory.path().join(name), content).expect("the directory is writable");
        }
        let sources = Sources { file: Some(directory.path().join("push0.toml")), ..Sources::default() };
        let settings = Settings::read(&sources).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let (catalog, topology, calls) = (Arc::new(settings.catalog), Topology::built_in(), Calls::default());
        let connection = emulator::connect(&emulator::ministack(), &emulator::account(), http_client()).await;
        emulator::install(&connection, &topology, &catalog.pools()).await.expect("the emulator has room");
        let connection = connection.intercepted(calls.interceptor());
        let Ports { queue, table, blobs } = ports(&connection, &topology);
        let context = Context::new(queue, table, blobs, clock, catalog).with_quiet(None);
        let (running, stop, record) = (JoinSet::new(), watch::Sender::new(false), Record::new(directory.path()));
        Self { context, calls, connection, record, _directory: directory, running, stop }
    }

    /// The ports as a role of the account has them.
    fn ports_of(&self, role: &str) -> Ports {
        ports(&self.connection.clone().recorded(self.record.file(), role), &Topology::built_in())
    }

    fn context_of(&self, function: &str) -> Context {
        self.context.clone().with_ports(self.ports_of(function))
    }

    pub fn dispatcher(&self) -> Dispatcher {
        Dispatcher::new(self.context_of("dispatcher"))
    }

    pub fn collector(&self) -> Collector {
        Collector::new(self.context_of("collector"))
    }

    pub fn reaper(&self) -> Reaper {
        Reaper::new(self.context_of("reaper"))
    }

    /// Runs dispatcher and collector as `push0 serve` does, each as `dress` makes of it, until the test is over.
    pub fn start_functions(&mut self, dress: impl Fn(Arc<dyn Function>) -> Arc<dyn Function>) {
        let functions: [(&str, Arc<dyn Function>); 2] =
            [("dispatcher", Arc::new(self.dispatcher())), ("collector", Arc::new(self.collector()))];
        for (name, function) in functions {
            let function = dress(function);
            for mapping in wiring::mappings(&Topology::built_in(), name, &self.context.catalog.pools()) {
                let (queue, stopped) = (self.context.queue.clone(), self.stop.subscribe());
                self.running.spawn(host::run(queue, function.clone(), mapping, Waiting::RunsOut, stopped));
            }
        }
    }

    /// Puts a witness of so many segments, and hands its submission to the dispatcher.
    pub async fn submit(&self, number: u64, segments: u32) {
        let (hash, parent) = (hash(number), hash(number - 1));
        let witness =
            json!({ "hash": hash, "parent_hash": parent, "number": number, "segments": segments }).to_string();
        let (key, sha256) = (format!("witnesses/demo/{number}"), Sha256::of(witness.as_bytes()));
        let witness_ref = BlobRef { key: key.clone(), sha256, size: witness.len() as u64 };
        self.context.blobs.put_new(&key, witness.into(), "test").await.expect("the emulator stores a witness");
        let submission = Submission {
            chain: chain(),
            number,
            hash,
            parent_hash: Some(parent),
            witness: witness_ref,
            fork_seq: None,
            deadline: None,
        };
        let message = Outgoing {
            body: ChainMessage::Submit(submission).to_json(),
            group: Some(chain().to_string()),
            dedup: Some(format!("{number}")),
            ..Outgoing::default()
        };
        self.context.queue.send(queue::SUBMISSIONS, vec![message]).await.expect("the emulator takes a message");
    }

    /// The next messages of a queue, as they come: each handled so often, and then acknowledged.
    pub async fn hand(&self, function: &dyn Function, queue: &str, count: usize, times: usize) -> Vec<Delivery> {
        let mut handled = Vec::new();
        for _ in 0..PATIENCE {
            for message in self.receive(queue, count - handled.len(), Millis(1_000)).await {
                for _ in 0..times {
                    assert_eq!(function.handle(queue, &message).await, Ok(()), "{}", message.body);
                }
                self.context.queue.ack(queue, &message.receipt).await.expect("it is leased for long enough");
                handled.push(message);
            }
            if handled.len() == count {
                return handled;
            }
        }
        panic!("{} of {count} messages came from {queue}", handled.len());
    }

    async fn receive(&self, queue: &str, most: usize, wait: Millis) -> Vec<Delivery> {
        self.context.queue.receive(queue, most.clamp(1, 10), wait, LEASE).await.expect("the emulator answers")
    }

    /// Functions handle what there is and the workers do what they are given, until there is nothing left but delayed messages.
    pub async fn work(&self, workers: &[&Worker]) {
        let (dispatcher, collector) = (self.dispatcher(), self.collector());
        let handled: [(&dyn Function, &str); 4] = [
            (&dispatcher, queue::SUBMISSIONS),
            (&collector, queue::RANGES),
            (&collector, queue::RESULTS),
            (&collector, queue::VERDICTS),
        ];
        loop {
            let mut is_quiet = true;
            for (function, name) in handled {
                let waiting = self.receive(name, 10, Millis(0)).await;
                is_quiet &= waiting.is_empty();
                for message in waiting {
                    assert_eq!(function.handle(name, &message).await, Ok(()), "{}", message.body);
                    self.context.queue.ack(name, &message.receipt).await.expect("it is leased for long enough");
                }
            }
            for worker in workers {
                is_quiet &= worker.step().await.is_none();
            }
            if is_quiet {
                return;
            }
        }
    }

    /// The next finalized blocks.
    pub async fn finalized(&self, count: usize) -> Vec<OutboxRow> {
        let mut rows: Vec<OutboxRow> = Vec::new();
        for _ in 0..PATIENCE {
            for message in self.receive(queue::FINALIZED, 10, Millis(1_000)).await {
                rows.push(OutboxRow::from_json(&message.body).expect("finalized messages are rows"));
                self.context.queue.ack(queue::FINALIZED, &message.receipt).await.expect("it is leased for long enough");
            }
            if rows.len() >= count {
                return rows;
            }
        }
        panic!("{} of {count} blocks are finalized", rows.len());
    }

    pub async fn block(&self, number: u64) -> BlockRow {
        let row = self.row(RowKey::block(&chain(), number)).await;
        let doc = row.and_then(|row| row.doc().cloned()).unwrap_or_else(|| panic!("there is no block {number}"));
        BlockRow::from_value(doc).expect("a block's row can be read")
    }

    pub async fn node(&self, number: u64, node: Node) -> NodeView {
        let row = self.row(RowKey::node(&run(number), node)).await;
        row.map(|row| NodeView::read(&row.attributes)).unwrap_or_default()
    }

    async fn row(&self, at: RowKey) -> Option<Row> {
        self.context.table.get(&Key::new(at.partition, at.sort)).await.expect("the emulator answers")
    }

    pub async fn is_stored(&self, key: &str) -> bool {
        self.context.blobs.head(key).await.expect("the emulator answers").is_some()
    }

    /// Forgets what was asked so far, and says what of it sent timers: each with its delay in seconds, as it went over the wire.
    pub fn timers_sent(&self) -> Vec<(TimerMessage, u64)> {
        let calls = self.calls.take();
        let sent = calls.iter().filter(|call| call.service == "SQS" && call.operation.starts_with("SendMessage"));
        sent.flat_map(timers_of).collect()
    }
}

fn timers_of(call: &Call) -> Vec<(TimerMessage, u64)> {
    let request: Value = serde_json::from_slice(&call.request).expect("requests of SQS are JSON");
    let is_to_timers = request["QueueUrl"].as_str().is_some_and(|url| url.ends_with("-timers"));
    let entries = request["Entries"].as_array().cloned().unwrap_or_default();
    let timer = |entry: &Value| {
        let body = entry["MessageBody"].as_str().expect("a message has a body");
        (TimerMessage::from_json(body).expect("a timer's message"), entry["DelaySeconds"].as_u64().unwrap_or_default())
    };
    entries.iter().filter(|_| is_to_timers).map(timer).collect()
}

pub fn chain() -> ChainId {
    "demo".parse().expect("a chain id")
}

/// The first run of a block.
pub fn run(number: u64) -> RunId {
    RunId::new(chain(), number, push0_core::Epoch::FIRST)
}

pub fn hash(number: u64) -> BlockHash {
    BlockHash(Sha256::of(format!("block {number}").as_bytes()).0)
}

/// Waits for what must happen in the end.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..PATIENCE {
        if is_so() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("gave up waiting until {what}");
}
