//! Every adapter of this crate against the suites of its ports.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::conformance::{Passing, blobs_suite, queue_suite, queues, table_suite};
use push0_runtime::engine::{Durability, Engine, EngineConfig, Location};
use push0_runtime::http::{Client, ClientConfig, Ports, Role, Server, ServerConfig, Token, bind_tcp, bind_unix};
use push0_runtime::port::{Delivery, Outgoing, PortResult, Queue, QueueStats};

fn engine(location: Location, durability: Durability, clock: &ManualClock) -> Engine {
    let config = EngineConfig { durability, clock: Arc::new(clock.clone()), ..EngineConfig::new(location, queues()) };
    Engine::open(config).unwrap()
}

fn clock() -> ManualClock {
    ManualClock::starting_at(Millis(1_700_000_000_000))
}

async fn all_suites(engine: &Engine, clock: &ManualClock) {
    let scratch = tempfile::tempdir().unwrap();
    queue_suite(engine, clock, "one").await;
    table_suite(engine, "one").await;
    blobs_suite(engine, "conformance/one", scratch.path()).await;
}

#[tokio::test]
async fn engine_in_memory() {
    let clock = clock();
    all_suites(&engine(Location::Memory, Durability::Process, &clock), &clock).await;
}

#[tokio::test]
async fn engine_on_disk() {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let location = Location::Directory(directory.path().join("data"));
    all_suites(&engine(location, Durability::Process, &clock), &clock).await;
}

#[tokio::test]
async fn engine_on_disk_power_safe() {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let location = Location::Directory(directory.path().join("data"));
    all_suites(&engine(location, Durability::Power, &clock), &clock).await;
}

/// A queue that counts the receives that have begun to wait (or are over).
struct Counted<Q> {
    queue: Q,
    receives: Arc<AtomicU64>,
}

#[async_trait]
impl<Q: Queue> Queue for Counted<Q> {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        self.queue.send(queue, messages).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        let mut receive = self.queue.receive(queue, max, wait, lease);
        let first = futures::poll!(&mut receive);
        self.receives.fetch_add(1, Ordering::SeqCst);
        match first {
            std::task::Poll::Ready(received) => received,
            std::task::Poll::Pending => receive.await,
        }
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.queue.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.queue.release(queue, receipt, delay).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.queue.ack(queue, receipt).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.queue.stats(queue).await
    }
}

/// The server's clock; a receive that was sent counts as settled when the server's engine has it.
struct TimeThere {
    clock: ManualClock,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
}

#[async_trait]
impl Passing for TimeThere {
    async fn advance(&self, by: Millis) {
        self.settle().await;
        self.clock.advance(by);
    }

    async fn settle(&self) {
        while self.arrived.load(Ordering::SeqCst) < self.sent.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }
}

const TOKEN: &str = "the-operators-token";

async fn all_suites_over_http<S>(serve: impl FnOnce(Server) -> S, client: ClientConfig)
where
    S: Future<Output = ()> + Send + 'static,
{
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let engine = engine(Location::Directory(directory.path().join("data")), Durability::Process, &clock);
    let (sent, arrived) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ports =
        Ports { queue: Arc::new(Counted { queue: engine.clone(), receives: arrived.clone() }), ..Ports::of(&engine) };
    let tokens = vec![Token::new(TOKEN, "operator".parse().unwrap(), Role::Operator)];
    let config = ServerConfig { tokens, ..ServerConfig::new(directory.path().join("spool")) };
    let serving = tokio::spawn(serve(Server::new(ports, config).unwrap()));

    let client = Client::new(client).unwrap();
    client.health().await.unwrap();
    let queue = Counted { queue: client.clone(), receives: sent.clone() };
    let time = TimeThere { clock, sent, arrived };
    queue_suite(&queue, &time, "http").await;
    table_suite(&client, "http").await;
    blobs_suite(&client, "conformance/http", directory.path()).await;
    serving.abort();
}

#[tokio::test]
async fn over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("push0.sock");
    let listener = bind_unix(&path).await.unwrap();
    let serve = |server: Server| async move { server.serve_unix(listener, std::future::pending()).await };
    let client = ClientConfig::new(format!("unix:{}", path.display()));
    all_suites_over_http(serve, client).await;
}

#[tokio::test]
async fn over_tcp_with_a_token() {
    let listener = bind_tcp("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = |server: Server| async move { server.serve_tcp(listener, std::future::pending()).await };
    let client = ClientConfig::new(format!("http://{address}")).with_token(TOKEN);
    all_suites_over_http(serve, client).await;
}
