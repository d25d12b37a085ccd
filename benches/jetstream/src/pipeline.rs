//! Tasks, results, and the collector that joins them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{AckKind, Context, Message};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::server::Server;

/// Bytes of an artifact, as push0's benchmarks have them.
const PAYLOAD: usize = 256;

/// Results handled at a time.
const HANDLING: usize = 64;

/// A hundred times what it usually takes.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(250);

pub const LEAVES: &str = "leaves";
pub const JOINS: &str = "joins";
const RESULTS: &str = "results";

/// How tasks depend on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each the only input of the next: so many.
    Chain(u32),
    /// A binary tree over so many leaves; a lone one is promoted.
    Tree(u32),
}

/// A place in the graph: layer 0 are the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    pub block: u32,
    pub layer: u32,
    pub index: u32,
}

impl Shape {
    /// The node that reads this one's artifact, and how many inputs it has; `None` for the root.
    fn parent(self, node: Node) -> Option<(Node, u32)> {
        match self {
            Shape::Chain(length) => {
                let next = Node { layer: node.layer + 1, ..node };
                (next.layer < length).then_some((next, 1))
            }
            Shape::Tree(leaves) => {
                let (mut layer, mut index) = (node.layer, node.index);
                loop {
                    let width = width(leaves, layer);
                    if width == 1 {
                        return None;
                    }
                    let is_lone = index == width - 1 && width % 2 == 1;
                    (layer, index) = (layer + 1, index / 2);
                    if !is_lone {
                        return Some((Node { block: node.block, layer, index }, 2));
                    }
                }
            }
        }
    }

    pub fn leaves(self) -> u32 {
        match self {
            Shape::Chain(_) => 1,
            Shape::Tree(leaves) => leaves,
        }
    }

    pub fn tasks(self) -> u32 {
        match self {
            Shape::Chain(length) => length,
            Shape::Tree(leaves) => 2 * leaves - 1,
        }
    }
}

fn width(leaves: u32, layer: u32) -> u32 {
    (0..layer).fold(leaves, |width, _| width.div_ceil(2))
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    pub node: Node,
    pub inputs: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {
    node: Node,
    artifact: String,
}

fn artifact(node: Node) -> String {
    format!("{:PAYLOAD$}", format!("{node:?}"))
}

/// The streams on a fresh server, and a collector at work.
pub struct Pipeline {
    pub server: Server,
    js: Context,
    separate_joins: bool,
    roots: mpsc::UnboundedReceiver<Instant>,
    tasks: JoinSet<()>,
}

/// A task in hand.
pub struct Held {
    pub task: Task,
    message: Message,
}

/// The worker's side: a connection and an open pull request.
pub struct Worker {
    js: Context,
    messages: pull::Stream,
}

impl Pipeline {
    /// `separate_joins`: leaves and joins in queues of their own.
    pub async fn start(under: &std::path::Path, shape: Shape, separate_joins: bool) -> anyhow::Result<Self> {
        let server = Server::start(under).await?;
        let js = server.connect().await?;
        for name in [LEAVES, JOINS, RESULTS] {
            let config = Config {
                name: name.to_owned(),
                subjects: vec![name.to_owned()],
                retention: RetentionPolicy::WorkQueue,
                storage: StorageType::File,
                ..Config::default()
            };
            let stream = js.create_stream(config).await?;
            let consumer = pull::Config {
                durable_name: Some(name.to_owned()),
                ack_policy: AckPolicy::Explicit,
                max_ack_pending: 100_000,
                ..pull::Config::default()
            };
            stream.create_consumer(consumer).await?;
        }
        let (root, roots) = mpsc::unbounded_channel();
        let collector = Collector {
            js: server.connect().await?,
            shape,
            joins: if separate_joins { JOINS } else { LEAVES },
            waiting: Mutex::default(),
            root,
        };
        let mut tasks = JoinSet::new();
        let results = open(&collector.js, RESULTS, 100).await?;
        tasks.spawn(collect(Arc::new(collector), results));
        Ok(Self { server, js, separate_joins, roots, tasks })
    }

    pub async fn worker(&self, queue: &str) -> anyhow::Result<Worker> {
        let js = self.server.connect().await?;
        let queue = if self.separate_joins { queue } else { LEAVES };
        let messages = open(&js, queue, 1).await?;
        Ok(Worker { js, messages })
    }

    /// Dispatches a block's leaves: all published, then all confirmed.
    pub async fn submit(&self, block: u32, shape: Shape) -> anyhow::Result<()> {
        let mut confirmations = Vec::new();
        for index in 0..shape.leaves() {
            let node = Node { block, layer: 0, index };
            let task = Task { node, inputs: vec![artifact(node)] };
            confirmations.push(self.js.publish(LEAVES, serde_json::to_vec(&task)?.into()).await?);
        }
        for confirmation in confirmations {
            confirmation.await?;
        }
        Ok(())
    }

    /// When the collector had the root's artifact.
    pub async fn until_done(&mut self) -> anyhow::Result<Instant> {
        let waiting = tokio::time::timeout(std::time::Duration::from_secs(300), self.roots.recv());
        waiting.await.context("the block is stuck")?.ok_or_else(|| anyhow!("the collector ended"))
    }

    /// Whether every result has been handled.
    pub async fn is_quiet(&self) -> anyhow::Result<bool> {
        let mut stream = self.js.get_stream(RESULTS).await?;
        Ok(stream.info().await?.state.messages == 0)
    }

    /// Workers that go on until the pipeline is dropped; each says when it was given a task.
    pub async fn spawn_workers(
        &mut self,
        count: usize,
        begun: &Arc<Mutex<Vec<(Node, Instant)>>>,
    ) -> anyhow::Result<()> {
        for _ in 0..count {
            let mut worker = self.worker(LEAVES).await?;
            let begun = begun.clone();
            self.tasks.spawn(async move {
                while let Ok(held) = worker.take().await {
                    begun.lock().unwrap_or_else(PoisonError::into_inner).push((held.task.node, Instant::now()));
                    if let Err(error) = worker.complete(held).await {
                        eprintln!("baseline: a task was not completed: {error}");
                    }
                }
            });
        }
        Ok(())
    }
}

async fn open(js: &Context, queue: &str, batch: usize) -> anyhow::Result<pull::Stream> {
    let consumer: PullConsumer =
        js.get_stream(queue).await?.get_consumer(queue).await.map_err(|error| anyhow!("{error}"))?;
    Ok(consumer.stream().max_messages_per_batch(batch).messages().await?)
}

impl Worker {
    pub async fn take(&mut self) -> anyhow::Result<Held> {
        let message = self.messages.next().await.context("the pull request ended")??;
        Ok(Held { task: serde_json::from_slice(&message.payload)?, message })
    }

    /// Result first, confirmed; then the task's acknowledgement, confirmed. Returns when the result began to be sent.
    pub async fn complete(&self, held: Held) -> anyhow::Result<Instant> {
        let node = held.task.node;
        let done = serde_json::to_vec(&Done { node, artifact: artifact(node) })?;
        let begun = Instant::now();
        self.js.publish(RESULTS, done.into()).await?.await?;
        confirm(&held.message).await?;
        Ok(begun)
    }
}

impl Worker {
    /// Acknowledges a task without doing it.
    pub async fn discard(&self, held: Held) -> anyhow::Result<()> {
        confirm(&held.message).await
    }
}

/// Now and then nats-server 2.9 confirms nothing, and the client would wait for it without end: then once more.
async fn confirm(message: &Message) -> anyhow::Result<()> {
    for _ in 0..20 {
        match tokio::time::timeout(CONFIRMED_WITHIN, message.double_ack_with(AckKind::Ack)).await {
            Ok(confirmed) => return confirmed.map_err(|error| anyhow!("{error}")),
            Err(_) => eprintln!("baseline: an acknowledgement was not confirmed in time; once more"),
        }
    }
    Err(anyhow!("an acknowledgement is not confirmed"))
}

struct Collector {
    js: Context,
    shape: Shape,
    joins: &'static str,
    waiting: Mutex<HashMap<Node, Vec<(u32, String)>>>,
    root: mpsc::UnboundedSender<Instant>,
}

async fn collect(collector: Arc<Collector>, mut results: pull::Stream) {
    let places = Arc::new(Semaphore::new(HANDLING));
    while let Some(Ok(message)) = results.next().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let collector = collector.clone();
        tokio::spawn(async move {
            if let Err(error) = collector.handle(message).await {
                eprintln!("baseline: a result was not handled: {error}");
            }
            drop(place);
        });
    }
}

impl Collector {
    async fn handle(&self, message: Message) -> anyhow::Result<()> {
        let done: Done = serde_json::from_slice(&message.payload)?;
        match self.shape.parent(done.node) {
            None => {
                // Nobody is there to hear it when the measure is over.
                let _ = self.root.send(Instant::now());
            }
            Some((parent, wanted)) => {
                if let Some(inputs) = self.join(parent, wanted, done) {
                    let task = serde_json::to_vec(&Task { node: parent, inputs })?;
                    self.js.publish(self.joins, task.into()).await?.await?;
                }
            }
        }
        confirm(&message).await
    }

    /// The inputs, in order, when this was the last of them. A result that comes twice counts once.
    fn join(&self, parent: Node, wanted: u32, done: Done) -> Option<Vec<String>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = waiting.entry(parent).or_default();
        // In the order of the tree: a lower layer (a promoted leaf) is always the last of its row.
        let place = done.node.index | if done.node.layer + 1 < parent.layer { 1 << 31 } else { 0 };
        if inputs.iter().all(|(other, _)| *other != place) {
            inputs.push((place, done.artifact));
        }
        if inputs.len() < wanted as usize {
            return None;
        }
        let mut inputs = waiting.remove(&parent)?;
        inputs.sort();
        Some(inputs.into_iter().map(|(_, artifact)| artifact).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_of_a_tree_has_one_parent_and_all_lead_to_the_root() {
        for leaves in [1, 2, 3, 5, 8, 64, 1000] {
            let shape = Shape::Tree(leaves);
            let mut row: Vec<Node> = (0..leaves).map(|index| Node { block: 1, layer: 0, index }).collect();
            let mut tasks = 0;
            let mut inputs: HashMap<Node, u32> = HashMap::new();
            let mut roots = 0;
            while let Some(node) = row.pop() {
                tasks += 1;
                match shape.parent(node) {
                    None => roots += 1,
                    Some((parent, wanted)) => {
                        let found = inputs.entry(parent).or_default();
                        *found += 1;
                        assert!(*found <= wanted);
                        if *found == wanted {
                            row.push(parent);
                        }
                    }
                }
            }
            assert_eq!((tasks, roots), (shape.tasks(), 1), "{leaves} leaves");
        }
    }
}
