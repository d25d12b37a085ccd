//! What operators do with messages where they lie, in process and over HTTP; and who is seen to be here.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use push0_core::Millis;
use push0_runtime::engine::{Engine, QueueSpec};
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

fn message(body: &str, group: Option<&str>) -> Outgoing {
    Outgoing { body: body.to_owned(), group: group.map(str::to_owned), ..Outgoing::default() }
}

/// Every promise of the port, on queues that are empty before and after.
async fn promises(letters: &dyn DeadLetters, queue: &dyn Queue) {
    let bodies = |seen: &[push0_runtime::port::Peeked]| seen.iter().map(|seen| seen.body.clone()).collect::<Vec<_>>();
    queue.send("results-dlq", ["a", "b", "c"].map(|body| message(body, Some("demo"))).to_vec()).await.unwrap();

    let seen = letters.peek("results-dlq", None, 2).await.unwrap();
    assert_eq!(bodies(&seen), ["a", "b"]);
    let rest = letters.peek("results-dlq", Some(&seen[1].id), 2).await.unwrap();
    assert_eq!(bodies(&rest), ["c"]);
    assert!(
        seen.iter().all(|seen| seen.receive_count == 0 && !seen.in_flight && seen.group.as_deref() == Some("demo"))
    );

    // Moved once, new there, with another body where one is given.
    let id = &seen[0].id;
    assert!(letters.redrive("results-dlq", id, "results", Some("a2".to_owned())).await.unwrap());
    assert!(!letters.redrive("results-dlq", id, "results", None).await.unwrap(), "it has left already");
    let received = queue.receive("results", 10, Millis(0), LEASE).await.unwrap();
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].body.as_str(), received[0].group.as_deref()), ("a2", Some("demo")));
    assert_eq!((received[0].receive_count, received[0].sent_at), (1, seen[0].sent_at));

    // What somebody has in hand is left alone, and is shown as such.
    let mine = letters.peek("results", None, 10).await.unwrap();
    assert!(mine[0].in_flight && mine[0].receive_count == 1);
    for refused in [
        letters.redrive("results", &mine[0].id, "results-dlq", None).await,
        letters.discard("results", &mine[0].id, "because").await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    }
    queue.ack("results", &received[0].receipt).await.unwrap();

    // Into a FIFO queue with its group only.
    queue.send("poison", vec![message("x", None), message("y", Some("demo"))]).await.unwrap();
    let poison = letters.peek("poison", None, 10).await.unwrap();
    let refused = letters.redrive("poison", &poison[0].id, "submissions.fifo", None).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Permanent);
    assert!(letters.redrive("poison", &poison[1].id, "submissions.fifo", None).await.unwrap());
    let received = queue.receive("submissions.fifo", 10, Millis(0), LEASE).await.unwrap();
    assert_eq!(received[0].body, "y");
    queue.ack("submissions.fifo", &received[0].receipt).await.unwrap();

    // Discarded once.
    assert!(letters.discard("poison", &poison[0].id, "of no use").await.unwrap());
    assert!(!letters.discard("poison", &poison[0].id, "of no use").await.unwrap());
    for seen in letters.peek("results-dlq", None, 100).await.unwrap() {
        assert!(letters.discard("results-dlq", &seen.id, "of no use").await.unwrap());
    }

    for (refused, what) in [
        (letters.peek("nowhere", None, 1).await.map(|_| ()), "unknown queue"),
        (letters.peek("poison", None, 0).await.map(|_| ()), "no limit"),
        (letters.peek("poison", None, 101).await.map(|_| ()), "too much"),
        (letters.peek("poison", Some("x"), 1).await.map(|_| ()), "no id"),
        (letters.redrive("poison", "1", "nowhere", None).await.map(|_| ()), "unknown target"),
        (letters.discard("poison", "../1", "r").await.map(|_| ()), "no id"),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Permanent, "{what}");
    }
}

#[tokio::test]
async fn in_process() {
    let engine = engine();
    promises(&engine, &engine).await;
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
    let engine = engine();
    let serving = serve(&engine).await;
    let operator = Client::new(ClientConfig::new(serving.address.clone())).unwrap();
    promises(&operator, &operator).await;
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
