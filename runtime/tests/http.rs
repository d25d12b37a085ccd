//! The HTTP protocol beyond the ports' conformance: roles, broken connections, frozen clients.

#![allow(clippy::unwrap_used)]

mod serving;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use push0_core::record::Versioned as _;
use push0_core::{Millis, Sha256};
use push0_runtime::http::{Client, ClientConfig, Ports, Role, Server, ServerConfig, Token, bind_unix};
use push0_runtime::port::{Blobs, ErrorKind, Key, PutOutcome, Queue, Table};
use serde_json::json;

use serving::{LEASE, OPERATOR, TRUSTED, WORKER, fenced, message, report, start, task};

#[tokio::test]
async fn a_worker_is_held_to_its_pool() {
    let running = start().await;
    let worker = running.client(WORKER);
    let given = task(1, &[]);
    running.engine.send("work-gpu-bulk", vec![message(&given.to_json())]).await.unwrap();
    let task = worker.receive("work-gpu-bulk", 1, Millis(0), LEASE).await.unwrap().remove(0);
    worker.extend("work-gpu-bulk", &task.receipt, LEASE).await.unwrap();
    worker.send("results", vec![report(&given, "rack1")]).await.unwrap();
    let (key, writer) = (given.artifact_key(), given.id.to_string());
    worker.put_new(&key, Bytes::from_static(b"proof"), &writer).await.unwrap();
    worker.head(&key).await.unwrap().unwrap();
    worker.list("control/demo/", None, 10).await.unwrap();
    worker.ack("work-gpu-bulk", &task.receipt).await.unwrap();

    let error = fenced(worker.send("verdicts", vec![message("ok")]).await);
    assert_eq!(error.message(), "P0-303: a worker of pool gpu may not send to \"verdicts\"");
    fenced(worker.receive("results", 1, Millis(0), LEASE).await);
    fenced(worker.receive("work-gpu-large-bulk", 1, Millis(0), LEASE).await);
    fenced(worker.put_new("artifacts/cpu/x", Bytes::new(), "w").await);
    fenced(worker.put_new("control/demo/7/1", Bytes::new(), "w").await);
    fenced(Blobs::get(&worker, "proofs/demo/7").await);
    fenced(worker.list("", None, 10).await);
    fenced(Blobs::delete(&worker, &key).await);
    let key = Key::new("p", "s");
    fenced(Table::get(&worker, &key).await);
    fenced(worker.put_if_version(&key, json!(1), None).await);
    assert_eq!(Table::get(&running.engine, &key).await, Ok(None));
    assert_eq!(running.engine.stats("verdicts").await.unwrap().visible, 0);

    let trusted = running.client(TRUSTED);
    running.engine.send("work-trusted-bulk", vec![message(&given.to_json())]).await.unwrap();
    trusted.receive("work-trusted-bulk", 1, Millis(0), LEASE).await.unwrap();
    trusted.send("verdicts", vec![report(&given, "vault-1")]).await.unwrap();
    trusted.put_new(&given.artifact_key().replace("/gpu/", "/trusted/"), Bytes::new(), &writer).await.unwrap();
    fenced(trusted.receive("work-gpu-bulk", 1, Millis(0), LEASE).await);
}

#[tokio::test]
async fn a_token_is_needed_on_tcp_and_none_on_the_socket() {
    let running = start().await;
    let without = Client::new(ClientConfig::new(format!("http://{}", running.address))).unwrap();
    without.health().await.unwrap();
    fenced(without.stats("results").await);
    fenced(running.client("token-of-nobody-at-all").stats("results").await);
    let socket = ClientConfig::new(format!("unix:{}", running.socket.display()));
    Client::new(socket.clone()).unwrap().stats("results").await.unwrap();
    fenced(Client::new(socket.clone().with_token(WORKER)).unwrap().stats("results").await);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&running.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A socket somebody listens on is not taken away.
    assert!(bind_unix(&running.socket).await.is_err());

    let whoami = running.client(TRUSTED).request(reqwest::Method::GET, "/whoami").send().await.unwrap();
    assert_eq!(whoami.text().await.unwrap(), "Trusted");
    let nobody = without.request(reqwest::Method::GET, "/whoami").send().await.unwrap();
    assert_eq!(nobody.status(), 401);
}

#[tokio::test]
async fn a_refused_connection_cannot_have_happened_and_a_lost_answer_may_have() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::new(ClientConfig::new(format!("http://{address}"))).unwrap();
    // Takes the call and hangs up.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 16];
        stream.read_exact(&mut buffer).unwrap();
    });
    let error = client.send("q", vec![message("x")]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient { .. }) && error.may_have_happened(), "{error}");
    server.join().unwrap();
    let error = client.send("q", vec![message("x")]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient { .. }) && !error.may_have_happened(), "{error}");
    assert!(Client::new(ClientConfig::new("ftp://x")).is_err());
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_takes_nothing_with_it() {
    let running = start().await;
    let call = json!({"op": "queue_receive", "queue": "results", "max": 1, "wait": 60_000, "lease": 3_600_000});
    let mut gone = raw_call(&running.socket, &call.to_string());
    let client = Client::new(ClientConfig::new(format!("unix:{}", running.socket.display()))).unwrap();
    // Each round lets the server read what there is.
    for _ in 0..20 {
        client.health().await.unwrap();
    }
    gone.flush().unwrap();
    drop(gone);
    for _ in 0..20 {
        client.health().await.unwrap();
    }
    running.engine.send("results", vec![message("kept")]).await.unwrap();
    let deliveries = client.receive("results", 1, Millis(0), LEASE).await.unwrap();
    assert_eq!(deliveries[0].body, "kept");
}

fn raw_call(socket: &PathBuf, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "POST /v1/call HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

#[tokio::test]
async fn a_client_frozen_in_the_middle_of_an_upload_delays_nobody_and_publishes_nothing() {
    let running = start().await;
    let bytes = vec![7u8; 4 << 20];
    let digest = Sha256::of(&bytes);
    let mut frozen = UnixStream::connect(&running.socket).unwrap();
    write!(
        frozen,
        "PUT /v1/blob?key=artifacts/gpu/x&writer=frozen HTTP/1.1\r\nhost: x\r\nx-push0-sha256: {digest}\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    )
    .unwrap();
    frozen.write_all(&bytes[..1000]).unwrap();
    let spool = running.directory.path().join("spool");
    let uploads = || std::fs::read_dir(&spool).unwrap().count();
    running.until(async |_| uploads() == 1).await;

    let client = running.client(OPERATOR);
    assert_eq!(client.head("artifacts/gpu/x").await, Ok(None));
    let outcome = client.put_new("artifacts/gpu/x", Bytes::from_static(b"other"), "quick").await.unwrap();
    assert!(matches!(outcome, PutOutcome::Created(_)));

    // Thawed: its put finds the other's.
    let rest = tokio::task::spawn_blocking(move || {
        frozen.write_all(&bytes[1000..]).unwrap();
        let mut answer = [0; 12];
        frozen.read_exact(&mut answer).unwrap();
        (frozen, answer)
    });
    let (_frozen, answer) = rest.await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 412");
    assert_eq!(Blobs::get(&client, "artifacts/gpu/x").await.unwrap().unwrap(), "other");
    running.until(async |_| uploads() == 0).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_arrives_changed_is_not_stored() {
    let running = start().await;
    let client = running.client(OPERATOR);
    let put = |digest: Sha256, body: &'static [u8]| {
        let request = client.request(reqwest::Method::PUT, "/v1/blob?key=a/b&writer=w");
        request.header("x-push0-sha256", digest.to_string()).body(body).send()
    };
    let changed = put(Sha256::of(b"sent"), b"came").await.unwrap();
    assert_eq!(changed.status(), 503);
    let mut broken = UnixStream::connect(&running.socket).unwrap();
    let digest = Sha256::of(b"whole");
    write!(
        broken,
        "PUT /v1/blob?key=a/b&writer=w HTTP/1.1\r\nhost: x\r\nx-push0-sha256: {digest}\r\ncontent-length: 5\r\n\r\nwho"
    )
    .unwrap();
    drop(broken);
    for _ in 0..20 {
        client.health().await.unwrap();
    }
    assert_eq!(client.head("a/b").await, Ok(None));
    assert_eq!(put(Sha256::of(b"whole"), b"whole").await.unwrap().status(), 201);
    let large = Bytes::from(vec![0; (8 << 20) + 1]);
    assert_eq!(client.put_new("a/large", large, "w").await.unwrap_err().kind(), ErrorKind::Permanent);
    let bad_key = client.put_new("../x", Bytes::new(), "w").await.unwrap_err();
    assert_eq!(bad_key.kind(), ErrorKind::Permanent);
}

#[tokio::test]
async fn a_damaged_blob_is_corrupt_at_the_client_too() {
    let running = start().await;
    let client = running.client(OPERATOR);
    client.put_new("a/b", Bytes::from_static(b"bytes"), "w").await.unwrap();
    let folder = running.directory.path().join("data/blobs/a");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    std::fs::write(file, b"bytez").unwrap();
    assert_eq!(Blobs::get(&client, "a/b").await.unwrap_err().kind(), ErrorKind::Corrupt);
    let target = running.directory.path().join("target");
    assert_eq!(client.get_file("a/b", &target).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!target.exists());
}

#[tokio::test]
async fn a_lost_answer_to_a_put_is_told_from_a_rival_by_the_writer() {
    let running = start().await;
    let client = running.client(OPERATOR);
    let put = || client.put_new("artifacts/gpu/x", Bytes::from_static(b"proof"), "task-1");
    assert!(matches!(put().await.unwrap(), PutOutcome::Created(_)));
    match put().await.unwrap() {
        PutOutcome::Exists(info) => assert_eq!(info.writer, "task-1"),
        created => panic!("{created:?}"),
    }
}

#[tokio::test]
async fn nonsense_is_answered_with_a_sentence() {
    let running = start().await;
    let client = running.client(OPERATOR);
    for body in ["", "{}", "{\"op\": \"fly\"}", "{\"op\": \"queue_stats\", \"queue\": \"results\", \"more\": 1}"] {
        let response = client.request(reqwest::Method::POST, "/v1/call").body(body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
        let text = response.text().await.unwrap();
        assert!(text.contains("not a call"), "{text}");
    }
    let config = ServerConfig {
        tokens: vec![Token::new("short", "op".parse().unwrap(), Role::Operator)],
        ..ServerConfig::new(running.directory.path().join("spool2"))
    };
    assert!(Server::new(Ports::of(&running.engine), config).is_err());
}

#[tokio::test]
async fn at_shutdown_waiting_receives_end_empty() {
    let mut running = start().await;
    let client = running.client(OPERATOR);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.receive("results", 1, Millis::from_secs(20), LEASE).await }
    });
    for _ in 0..20 {
        client.health().await.unwrap();
    }
    running.stop.take().unwrap().send(()).unwrap();
    match waiting.await.unwrap() {
        Ok(deliveries) => assert_eq!(deliveries, []),
        // It had not arrived yet.
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Transient { .. }), "{error}"),
    }
    tokio::time::timeout(Duration::from_secs(60), &mut running.serving).await.expect("serving ends").unwrap();
}
