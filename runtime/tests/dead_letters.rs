//! What operators do with messages where they lie, in process and over HTTP; and who is seen to be here.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::conformance::{dead_letters_suite, queues};
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::http::{
    Client, ClientConfig, Introduction, Ports, Role, Server, ServerConfig, Token, bind_unix, dead_letter_routes,
};
use push0_runtime::port::{DeadLetters, ErrorKind, Outgoing, Queue};

const LEASE: Millis = Millis::from_secs(30);
const WORKER: &str = "token-of-a-gpu-worker";

fn engine() -> Engine {
    let queues = vec![
        QueueSpec::new("poison"),
        QueueSpec::new("results-dlq"),
        QueueSpec::new("results").with_dead_letter("results-dlq", 3),
        QueueSpec::new("submissions.fifo"),
        QueueSpec::new("work-gpu-bulk"),
    ];
    Engine::in_memory(queues).unwrap()
}

/// The engine of the suite, and its clock.
fn conforming() -> (Engine, ManualClock) {
    let clock = ManualClock::starting_at(Millis(1_700_000_000_000));
    let config = EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, queues()) };
    (Engine::open(config).unwrap(), clock)
}

fn message(body: &str, group: Option<&str>) -> Outgoing {
    Outgoing { body: body.to_owned(), group: group.map(str::to_owned), ..Outgoing::default() }
}

#[tokio::test]
async fn in_process() {
    let (engine, clock) = conforming();
    dead_letters_suite(&engine, &engine, &clock).await;
}

#[tokio::test]
async fn a_waiting_receive_gets_what_is_sent_back() {
    let engine = engine();
    engine.send("results-dlq", vec![message("a", None)]).await.unwrap();
    let id = engine.peek("results-dlq", None, 1).await.unwrap()[0].id.clone();
    let moved = async { engine.redrive("results-dlq", &id, "results", None).await.unwrap() };
    let waiting = engine.receive("results", 1, Millis::from_secs(3_600), LEASE);
    let (received, moved) = futures::future::join(waiting, moved).await;
    assert!(moved);
    assert_eq!(received.unwrap()[0].body, "a");
}

struct Serving {
    _directory: tempfile::TempDir,
    address: String,
    task: tokio::task::JoinHandle<()>,
}

async fn serve(engine: &Engine) -> Serving {
    let directory = tempfile::tempdir().unwrap();
    let role = Role::Worker { pool: "gpu".parse().unwrap() };
    let tokens = vec![Token::new(WORKER, "gpu".parse().unwrap(), role)];
    let config = ServerConfig { tokens, ..ServerConfig::new(directory.path().join("spool")) };
    let server = Server::new(Ports::of(engine), config).unwrap();
    let server = server.with_routes(dead_letter_routes(Arc::new(engine.clone())));
    let socket = directory.path().join("push0.sock");
    let listener = bind_unix(&socket).await.unwrap();
    let task = tokio::spawn(async move { server.serve_unix(listener, std::future::pending()).await });
    Serving { _directory: directory, address: format!("unix:{}", socket.display()), task }
}

#[tokio::test]
async fn over_http_for_operators_only() {
    let (engine, clock) = conforming();
    let serving = serve(&engine).await;
    let operator = Client::new(ClientConfig::new(serving.address.clone())).unwrap();
    dead_letters_suite(&operator, &operator, &clock).await;
    let worker = Client::new(ClientConfig::new(serving.address.clone()).with_token(WORKER)).unwrap();
    let refused = [
        worker.peek("poison", None, 1).await.map(|_| ()),
        worker.redrive("poison", "1", "results", None).await.map(|_| ()),
        worker.discard("poison", "1", "r").await.map(|_| ()),
        worker.workers().await.map(|_| ()),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Fenced);
    }
    serving.task.abort();
}

#[tokio::test]
async fn a_worker_is_here_while_its_receive_waits_and_gone_when_its_connection_is() {
    let engine = engine();
    let serving = serve(&engine).await;
    let operator = Client::new(ClientConfig::new(serving.address.clone())).unwrap();
    assert_eq!(operator.workers().await.unwrap(), []);

    let introduction = Introduction { worker: "gpu-7".parse().unwrap(), since: Millis(5), within: Millis(0) };
    let config = ClientConfig::new(serving.address.clone()).with_token(WORKER);
    let worker = Client::new(ClientConfig { introduction: Some(introduction), ..config }).unwrap();
    let waiting = tokio::spawn(async move { worker.receive("work-gpu-bulk", 1, Millis(60_000), LEASE).await });
    let seen = loop {
        if let [seen] = &operator.workers().await.unwrap()[..] {
            break seen.clone();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((seen.worker.as_str(), seen.pool, seen.since), ("gpu-7", Some("gpu".parse().unwrap()), Millis(5)));
    assert!(seen.here);
    waiting.abort();
    let _ = waiting.await;
    while operator.workers().await.unwrap()[0].here {
        tokio::task::yield_now().await;
    }
    serving.task.abort();
}
