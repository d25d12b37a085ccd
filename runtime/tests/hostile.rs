//! Clients that mean ill or are broken: each gets a clear answer, nothing is lost or held up, the others are served.

#![allow(clippy::unwrap_used)]

mod serving;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use push0_core::message::{Report, TaskMessage};
use push0_core::record::Versioned as _;
use push0_core::{Millis, Sha256};
use push0_runtime::http::{Client, ClientConfig, Introduction, Limits, SealKey, ServerConfig};
use push0_runtime::port::{Blobs, Delivery, ErrorKind, Queue};
use serde_json::{Value, json};

use serving::{
    LEASE, OPERATOR, OTHER, Running, TRUSTED, WORKER, fenced, message, report, start, start_with, task, tokens,
};

const GPU: &str = "work-gpu-bulk";

impl Running {
    /// That the server does its work for others: a message goes through it.
    async fn serves_others(&self) {
        let operator = self.client(OPERATOR);
        operator.send("submissions.fifo", vec![fifo("fine")]).await.unwrap();
        let mut received = operator.receive("submissions.fifo", 1, Millis(0), LEASE).await.unwrap();
        operator.ack("submissions.fifo", &received.remove(0).receipt).await.unwrap();
    }

    async fn hand(&self, task: &TaskMessage, secret: &str) -> Delivery {
        self.engine.send(GPU, vec![message(&task.to_json())]).await.unwrap();
        self.client(secret).receive(GPU, 1, Millis(0), LEASE).await.unwrap().remove(0)
    }

    /// A call as a client of any language would make it.
    async fn call(&self, secret: &str, body: &str) -> (u16, String) {
        let request = self.client(secret).request(reqwest::Method::POST, "/v1/call").body(body.to_owned());
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

fn fifo(body: &str) -> push0_runtime::port::Outgoing {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let dedup = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
    push0_runtime::port::Outgoing { group: Some("g".to_owned()), dedup: Some(dedup), ..message(body) }
}

#[tokio::test]
async fn another_tokens_receipt_is_void_and_guessing_is_no_use() {
    let running = start().await;
    let (mine, theirs) = (running.client(WORKER), running.client(OTHER));
    let held = running.hand(&task(1, &[]), WORKER).await;
    let guessed = held.receipt.split('~').next().unwrap().to_owned();
    for receipt in [held.receipt.clone(), guessed.clone(), "1.1".to_owned(), String::new(), "~~".to_owned()] {
        fenced(theirs.ack(GPU, &receipt).await);
        fenced(theirs.extend(GPU, &receipt, LEASE).await);
        fenced(theirs.release(GPU, &receipt, Millis(0)).await);
    }
    fenced(mine.ack(GPU, &guessed).await);
    fenced(mine.ack("work-gpu-large-bulk", &held.receipt).await);
    assert_eq!(running.engine.stats(GPU).await.unwrap().in_flight, 1, "it is still in hand");
    mine.ack(GPU, &held.receipt).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_outlives_the_owner_keeps_its_task() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("receipts.key");
    let with_key = |config: ServerConfig| ServerConfig { seal: Some(SealKey::load(&key).unwrap()), ..config };
    let before = start_with(with_key).await;
    let held = before.hand(&task(1, &[]), WORKER).await;
    // Another server, the same queues' state: what matters here is that the receipt opens.
    let after = start_with(with_key).await;
    let again = after.hand(&task(1, &[]), WORKER).await;
    assert_eq!(held.receipt, again.receipt);
    after.client(WORKER).extend(GPU, &held.receipt, LEASE).await.unwrap();
    let stranger = start().await;
    stranger.hand(&task(1, &[]), WORKER).await;
    fenced(stranger.client(WORKER).extend(GPU, &held.receipt, LEASE).await);
}

#[tokio::test]
async fn a_worker_speaks_under_its_tokens_name_and_is_stamped_with_it() {
    let running = start().await;
    let worker = running.client(WORKER);
    let given = task(1, &[]);
    running.engine.send(GPU, vec![message(&given.to_json())]).await.unwrap();
    worker.receive(GPU, 1, Millis(0), LEASE).await.unwrap();
    for name in ["rack2", "rack", "rack10", "local-gpu-1"] {
        let error = fenced(worker.send("results", vec![report(&given, name)]).await);
        assert!(error.message().contains("P0-303") && error.message().contains("rack1"), "{error}");
    }
    let mut forged = Report::from_json(&report(&given, "rack1-gpu0").body).unwrap();
    forged.by = Some("rack2".parse().unwrap());
    worker.send("results", vec![message(&forged.to_json())]).await.unwrap();
    let stored = running.engine.receive("results", 10, Millis(0), LEASE).await.unwrap();
    assert_eq!(stored.len(), 1);
    let stored = Report::from_json(&stored[0].body).unwrap();
    assert_eq!(stored.by, Some("rack1".parse().unwrap()), "what the worker says of itself does not count");
}

#[tokio::test]
async fn a_local_worker_speaks_for_itself() {
    let local = |config: ServerConfig| {
        let mut tokens = tokens();
        tokens[1].is_local = true;
        ServerConfig { tokens, ..config }
    };
    let running = start_with(local).await;
    let (worker, given) = (running.client(WORKER), task(1, &[]));
    running.engine.send(GPU, vec![message(&given.to_json())]).await.unwrap();
    worker.receive(GPU, 1, Millis(0), LEASE).await.unwrap();
    worker.send("results", vec![report(&given, "rack1")]).await.unwrap();
    let stored = running.engine.receive("results", 1, Millis(0), LEASE).await.unwrap();
    assert_eq!(Report::from_json(&stored[0].body).unwrap().by, None);
}

#[tokio::test]
async fn nobody_reports_on_or_writes_for_a_task_that_was_not_handed_to_it() {
    let running = start().await;
    let (worker, given, other) = (running.client(WORKER), task(1, &[]), task(2, &[]));
    let held = running.hand(&given, WORKER).await;
    // Never received by this client object: no receipt goes with it.
    fenced_or_bad(worker.send("results", vec![report(&given, "rack1")]).await);
    let send = |task: &TaskMessage, receipts: Value| {
        let message = serde_json::to_value(report(task, "rack1")).unwrap();
        json!({"op": "queue_send", "queue": "results", "messages": [message], "receipts": receipts}).to_string()
    };
    let refused = [
        send(&other, json!([held.receipt])),
        send(&given, json!(["7.1"])),
        send(&given, json!([])),
        send(&given, json!([held.receipt, held.receipt])),
    ];
    for body in refused {
        let (status, text) = running.call(WORKER, &body).await;
        assert!(status == 403 || status == 400, "{status} {text}");
        assert!(text.contains("P0-30"), "{text}");
    }
    let (status, text) = running.call(OTHER, &send(&given, json!([held.receipt]))).await;
    assert_eq!(status, 403, "{text}");
    assert_eq!(running.engine.stats("results").await.unwrap().visible, 0);

    // Artifacts: poisoning another task's key would cost that task its attempt.
    let put = |key: String, writer: String, receipt: String| {
        let request = worker.request(reqwest::Method::PUT, "/v1/blob").query(&[("key", key), ("writer", writer)]);
        request
            .header("x-push0-sha256", Sha256::of(b"x").to_string())
            .header("x-push0-receipt", receipt)
            .body("x")
            .send()
    };
    let (key, id, receipt) = (given.artifact_key(), given.id.to_string(), held.receipt.clone());
    let refused = [
        (other.artifact_key(), other.id.to_string(), receipt.clone()),
        (other.artifact_key(), id.clone(), receipt.clone()),
        (format!("{key}x"), id.clone(), receipt.clone()),
        ("artifacts/gpu/x".to_owned(), id.clone(), receipt.clone()),
        (key.clone(), id.clone(), "7.1".to_owned()),
        (key.clone(), String::new(), receipt.clone()),
    ];
    for (key, writer, receipt) in refused {
        let response = put(key.clone(), writer, receipt).await.unwrap();
        assert_eq!(response.status(), 403, "{key}");
    }
    assert_eq!(running.engine.list("", None, 10).await.unwrap(), [] as [String; 0]);
    assert_eq!(put(key.clone(), id.clone(), receipt.clone()).await.unwrap().status(), 201);
    assert_eq!(put(format!("{key}/segments/000000"), id, receipt).await.unwrap().status(), 201);
}

#[track_caller]
fn fenced_or_bad<T: std::fmt::Debug>(result: push0_runtime::port::PortResult<T>) {
    let kind = result.unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::Fenced | ErrorKind::Permanent), "{kind:?}");
}

#[tokio::test]
async fn a_task_goes_to_whom_it_shall_avoid_only_when_nobody_else_takes_it() {
    let running = start().await;
    let avoided = task(2, &["rack1-gpu0"]);
    running.engine.send(GPU, vec![message(&avoided.to_json())]).await.unwrap();
    // However it names itself: the token is what counts.
    assert_eq!(running.client(WORKER).receive(GPU, 1, Millis(0), LEASE).await.unwrap(), []);
    running.clock.advance(Millis(300));
    let taken = running.client(OTHER).receive(GPU, 1, Millis(0), LEASE).await.unwrap();
    assert_eq!(taken.len(), 1);
    running.client(OTHER).release(GPU, &taken[0].receipt, Millis(0)).await.unwrap();
    assert_eq!(running.client(WORKER).receive(GPU, 1, Millis(0), LEASE).await.unwrap(), []);
    running.clock.advance(Millis(1_200));
    let taken = running.client(WORKER).receive(GPU, 1, Millis(0), LEASE).await.unwrap();
    assert_eq!(taken.len(), 1, "the fourth time it is better than nobody");
}

#[tokio::test]
async fn a_barred_worker_is_never_handed_its_task_another_of_its_token_is() {
    let running = start().await;
    let barred = TaskMessage { barred: vec!["rack1-gpu0".parse().unwrap()], ..task(2, &[]) };
    running.engine.send(GPU, vec![message(&barred.to_json())]).await.unwrap();
    let introduced = |name: &str| {
        let introduction = Introduction { worker: name.parse().unwrap(), since: Millis(1), within: Millis(60_000) };
        let config = ClientConfig::new(format!("http://{}", running.address)).with_token(WORKER);
        Client::new(ClientConfig { introduction: Some(introduction), ..config }).unwrap()
    };
    let (same, nameless) = (introduced("rack1-gpu0"), running.client(WORKER));
    for receive in 0..20 {
        let client = if receive % 2 == 0 { &same } else { &nameless };
        assert_eq!(client.receive(GPU, 1, Millis(0), LEASE).await.unwrap(), [], "receive {receive}");
        running.clock.advance(Millis(60_000));
    }
    // One that gives itself another token's name says nothing.
    assert_eq!(introduced("rack2-gpu0").receive(GPU, 1, Millis(0), LEASE).await.unwrap(), []);
    running.clock.advance(Millis(60_000));
    let taken = introduced("rack1-gpu1").receive(GPU, 1, Millis(0), LEASE).await.unwrap();
    assert_eq!(taken.len(), 1, "it was not lost");
}

/// Every role against every call: only what the table in `auth` allows gets past the door.
#[tokio::test]
async fn a_roles_forbidden_calls_are_forbidden() {
    let running = start().await;
    let key = json!({"partition": "p", "sort": "s"});
    // (call, whether the worker of gpu and the trusted pool may).
    let calls = [
        (json!({"op": "queue_send", "queue": "results", "messages": []}), true, true),
        (json!({"op": "queue_send", "queue": "verdicts", "messages": []}), false, true),
        (json!({"op": "queue_send", "queue": "submissions.fifo", "messages": []}), false, false),
        (json!({"op": "queue_send", "queue": "work-gpu-bulk", "messages": []}), false, false),
        (json!({"op": "queue_receive", "queue": "work-gpu-bulk", "max": 1, "wait": 0, "lease": 1000}), true, false),
        (json!({"op": "queue_receive", "queue": "work-trusted-bulk", "max": 1, "wait": 0, "lease": 1000}), false, true),
        (json!({"op": "queue_receive", "queue": "results", "max": 1, "wait": 0, "lease": 1000}), false, false),
        (json!({"op": "queue_receive", "queue": "work-gpu-large-bulk", "max": 1, "wait": 0, "lease": 1}), false, false),
        (json!({"op": "queue_extend", "queue": "results", "receipt": "1.1", "lease": 1000}), false, false),
        (json!({"op": "queue_release", "queue": "results", "receipt": "1.1", "delay": 0}), false, false),
        (json!({"op": "queue_ack", "queue": "results", "receipt": "1.1"}), false, false),
        (json!({"op": "queue_stats", "queue": "work-gpu-bulk"}), true, false),
        (json!({"op": "queue_stats", "queue": "submissions.fifo"}), false, false),
        (json!({"op": "table_get", "key": key}), false, false),
        (json!({"op": "table_put", "key": key, "doc": 1, "expected": null}), false, false),
        (
            json!({"op": "table_accept_first", "key": key, "slot": "a", "floor": "b", "attempt": 1, "value": 1}),
            false,
            false,
        ),
        (json!({"op": "table_set_if", "key": key, "attribute": "a", "expected": null, "new": 1}), false, false),
        (json!({"op": "table_query", "partition": "p", "prefix": "", "after": null, "limit": 10}), false, false),
        (json!({"op": "table_transact", "writes": []}), false, false),
        (json!({"op": "table_delete", "key": key}), false, false),
        (json!({"op": "blob_head", "key": "artifacts/gpu/x"}), true, true),
        (json!({"op": "blob_head", "key": "proofs/demo/1"}), false, false),
        (json!({"op": "blob_list", "prefix": "control/", "after": null, "limit": 10}), true, true),
        (json!({"op": "blob_list", "prefix": "", "after": null, "limit": 10}), false, false),
        (json!({"op": "blob_delete", "key": "artifacts/gpu/x"}), false, false),
    ];
    for (call, worker, trusted) in calls {
        for (secret, allowed) in [(WORKER, worker), (TRUSTED, trusted), (OPERATOR, true)] {
            let (status, text) = running.call(secret, &call.to_string()).await;
            let forbidden = status == 403 && text.contains("P0-303");
            assert_eq!(!forbidden, allowed, "{secret}: {call} answered {status} {text}");
        }
    }
    for key in ["proofs/demo/1", "witnesses/demo/1", "control/demo/1/1", "artifacts/cpu/x", "artifacts/trusted/x"] {
        fenced(running.client(WORKER).put_new(key, Bytes::from_static(b"x"), "w").await);
    }
    running.serves_others().await;
}

#[tokio::test]
async fn a_wrong_token_and_none_are_told_so_and_never_repeated_back() {
    let running = start().await;
    for authorization in
        [None, Some("Bearer not-a-token-of-this-place"), Some("Basic b3A6b3A="), Some("Bearer "), Some("")]
    {
        let client = reqwest::Client::new();
        let mut request = client.post(format!("http://{}/v1/call", running.address)).body("{}");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        let text = response.text().await.unwrap();
        assert!(text.contains("P0-302") && !text.contains("not-a-token"), "{text}");
    }
    let plain = reqwest::Client::new().post(format!("http://{}/v1/call", running.address));
    let answer = plain.bearer_auth(WORKER).header("x-push0-protocol", "99").body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("P0-304"));
    running.serves_others().await;
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_a_new_one_let_in() {
    let running = start().await;
    let held = running.hand(&task(1, &[]), WORKER).await;
    let mut left = tokens();
    left[1].secret = "the-new-token-of-rack1".to_owned();
    running.server.set_tokens(&left).unwrap();
    fenced(running.client(WORKER).extend(GPU, &held.receipt, LEASE).await);
    // The same name: its tasks stay its own.
    running.client("the-new-token-of-rack1").extend(GPU, &held.receipt, LEASE).await.unwrap();
    left[1].secret = "short".to_owned();
    assert!(running.server.set_tokens(&left).is_err());
    running.client("the-new-token-of-rack1").extend(GPU, &held.receipt, LEASE).await.unwrap();
}

#[tokio::test]
async fn path_tricks_in_blob_keys_are_refused_and_touch_nothing() {
    let running = start().await;
    let operator = running.client(OPERATOR);
    let long = "x".repeat(513);
    let wide = format!("a/{}", "x".repeat(129));
    let tricks = [
        "..",
        "../x",
        "a/../x",
        "a/..",
        "./x",
        "/etc/passwd",
        "//x",
        "a//b",
        "a/",
        "",
        "a/b\0c",
        "a\\..\\b",
        "%2e%2e/x",
        "a/%2e%2e/x",
        "a/b c",
        "ä/ö",
        "a/\u{202e}b",
        "a/\u{ff0e}\u{ff0e}/b",
        "a/b\nc",
        "a/*",
        "C:/x",
        &long,
        &wide,
    ];
    for key in tricks {
        let error = operator.put_new(key, Bytes::from_static(b"x"), "w").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent, "{key:?}: {error}");
        assert!(!matches!(Blobs::get(&operator, key).await, Ok(Some(_))), "{key:?}");
        for prefix in ["artifacts/gpu/", "witnesses/"] {
            let crafted = format!("{prefix}{key}");
            let found = Blobs::get(&running.client(WORKER), &crafted).await;
            assert!(!matches!(found, Ok(Some(_))), "{crafted:?}");
            // As they are in the address, not encoded once more.
            let raw =
                format!("GET /v1/blob?key={crafted} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {WORKER}\r\n\r\n");
            let answer = exchange(&running, &raw).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{crafted:?}: {answer}");
        }
    }
    assert_eq!(operator.list("", None, 10).await.unwrap(), [] as [String; 0]);
    assert!(!running.directory.path().parent().unwrap().join("x").exists());
    running.serves_others().await;
}

/// Sends these bytes, and reads the answer's beginning.
async fn exchange(running: &Running, bytes: &str) -> String {
    let (address, bytes) = (running.address.clone(), bytes.to_owned());
    let exchanged = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).into_owned()
    });
    exchanged.await.unwrap()
}

#[tokio::test]
async fn bodies_that_are_too_large_or_lie_are_refused() {
    let running = start().await;
    let operator = running.client(OPERATOR);
    let put = |digest: &str, body: Vec<u8>| {
        let request = operator.request(reqwest::Method::PUT, "/v1/blob?key=a/b&writer=w");
        request.header("x-push0-sha256", digest).body(body).send()
    };
    for digest in ["", "zz", &"0".repeat(63), &"0".repeat(65), "not hex at all"] {
        let response = put(digest, b"x".to_vec()).await.unwrap();
        assert_eq!(response.status(), 400, "{digest}");
    }
    assert_eq!(put(&Sha256::of(b"y").to_string(), b"x".to_vec()).await.unwrap().status(), 503);
    let announced = format!(
        "PUT /v1/blob?key=a/b&writer=w HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPERATOR}\r\nx-push0-sha256: {}\r\ncontent-length: 99999999999999\r\n\r\n",
        Sha256::of(b"x")
    );
    let answer = exchange(&running, &announced).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // A worker's call is held to what a worker needs.
    let (status, text) = running.call(WORKER, &"x".repeat(3 << 20)).await;
    assert!(status == 400 && text.contains("P0-306"), "{status} {text}");
    assert_eq!(operator.head("a/b").await, Ok(None));
    running.serves_others().await;
}

#[tokio::test]
async fn heads_and_lists_hold_at_their_bound_and_are_refused_beyond_it() {
    let running = start().await;
    let list =
        |limit: u64| json!({"op": "blob_list", "prefix": "artifacts/", "after": null, "limit": limit}).to_string();
    assert_eq!(running.call(WORKER, &list(1_000)).await, (200, "[]".to_owned()));
    for limit in [1_001, u64::MAX] {
        let (status, text) = running.call(WORKER, &list(limit)).await;
        assert!(status == 400 && text.contains("P0-306") && text.contains("at most 1000"), "{status} {text}");
    }
    let head = |padding: usize| format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(padding));
    assert!(exchange(&running, &head(16 << 10)).await.starts_with("HTTP/1.1 200"));
    // What was not read of it by then can end the connection before the answer is heard.
    let answer = exchange(&running, &head(128 << 10)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = |count: usize| format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(count));
    assert!(exchange(&running, &many(60)).await.starts_with("HTTP/1.1 200"));
    assert!(exchange(&running, &many(200)).await.starts_with("HTTP/1.1 431"));
    // A message and a worker's call, each at its bound.
    let send = |bytes: usize| {
        let sent = push0_runtime::port::Outgoing { body: "x".repeat(bytes), ..fifo("") };
        json!({"op": "queue_send", "queue": "submissions.fifo", "messages": [sent]}).to_string()
    };
    assert_eq!(running.call(OPERATOR, &send(64 << 10)).await.0, 200);
    let (status, text) = running.call(OPERATOR, &send((64 << 10) + 1)).await;
    assert!(status == 400 && text.contains("at most 65536"), "{status} {text}");
    let padded = |bytes: usize| format!("{}{}", list(1), " ".repeat(bytes - list(1).len()));
    assert_eq!(running.call(WORKER, &padded(2 << 20)).await.0, 200);
    let (status, text) = running.call(WORKER, &padded((2 << 20) + 1)).await;
    assert!(status == 400 && text.contains("P0-306"), "{status} {text}");
    running.serves_others().await;
}

#[tokio::test]
async fn calls_that_make_no_sense_are_answered_with_a_sentence() {
    let running = start().await;
    let receive = |max: &str, wait: &str, lease: &str| {
        format!(r#"{{"op": "queue_receive", "queue": "{GPU}", "max": {max}, "wait": {wait}, "lease": {lease}}}"#)
    };
    let nonsense = [
        "".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{".to_owned(),
        "\u{0}\u{1}".to_owned(),
        "[".repeat(100_000),
        r#"{"op": "fly"}"#.to_owned(),
        r#"{"op": "queue_stats"}"#.to_owned(),
        r#"{"op": "queue_stats", "queue": "work-gpu-bulk", "and": 1}"#.to_owned(),
        receive("-1", "0", "1000"),
        receive("1", "-1", "1000"),
        receive("1", "0", "-1"),
        receive("0", "0", "1000"),
        receive("1000000000", "0", "1000"),
        receive("1e3", "0", "1000"),
        receive("1", "0", "0"),
    ];
    for secret in [WORKER, OPERATOR] {
        for body in &nonsense {
            let (status, text) = running.call(secret, body).await;
            let shown: String = body.chars().take(80).collect();
            assert_eq!(status, 400, "{shown} answered {text}");
            let failure: Value = serde_json::from_str(&text).unwrap();
            assert!(failure["message"].as_str().is_some_and(|message| message.len() > 10), "{text}");
        }
    }
    // The longest lease and delay a worker gets.
    running.hand(&task(1, &[]), WORKER).await;
    running.serves_others().await;
}

#[tokio::test]
async fn half_a_request_holds_up_nobody_and_is_given_up() {
    let quick = |config: ServerConfig| ServerConfig {
        stalled_after: Duration::from_millis(300),
        limits: Limits { head: Duration::from_millis(300), ..Limits::default() },
        ..config
    };
    let running = start_with(quick).await;
    let digest = Sha256::of(b"whole");
    let auth = format!("host: x\r\nauthorization: Bearer {OPERATOR}\r\n");
    let halves = [
        String::new(),
        "POST".to_owned(),
        format!("POST /v1/call HTTP/1.1\r\n{auth}"),
        format!("POST /v1/call HTTP/1.1\r\n{auth}content-length: 100\r\n\r\n"),
        format!("POST /v1/call HTTP/1.1\r\n{auth}content-length: 100\r\n\r\n{{\"op\": "),
        format!(
            "PUT /v1/blob?key=a/b&writer=w HTTP/1.1\r\n{auth}x-push0-sha256: {digest}\r\ncontent-length: 5\r\n\r\nwho"
        ),
    ];
    let mut streams: Vec<TcpStream> = Vec::new();
    for half in &halves {
        let mut stream = TcpStream::connect(&running.address).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        streams.push(stream);
    }
    running.serves_others().await;
    // Each is ended by the server, with an answer where it asked something.
    let ended = tokio::task::spawn_blocking(move || {
        streams.iter_mut().for_each(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).map_err(|error| {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open");
            });
        });
    });
    ended.await.unwrap();
    assert_eq!(running.client(OPERATOR).head("a/b").await, Ok(None));
    running.serves_others().await;
}

#[tokio::test]
async fn a_flood_of_connections_from_one_address_leaves_room_for_others() {
    let few = |config: ServerConfig| ServerConfig {
        limits: Limits { connections: 64, per_source: 16, ..Limits::default() },
        ..config
    };
    let running = start_with(few).await;
    let address = running.address.clone();
    // Those beyond the share are closed at once.
    let (flood, closed) = tokio::task::spawn_blocking(move || {
        let mut flood: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&address).unwrap()).collect();
        let mut closed = 0;
        flood.iter_mut().skip(16).for_each(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            closed += usize::from(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
        });
        (flood, closed)
    })
    .await
    .unwrap();
    assert_eq!(closed, 200 - 16);
    // The socket is another door.
    let socket = push0_runtime::http::ClientConfig::new(format!("unix:{}", running.socket.display()));
    push0_runtime::http::Client::new(socket).unwrap().stats("results").await.unwrap();
    drop(flood);
    // A place is free again as soon as the server has seen one of them go.
    while running.client(OPERATOR).health().await.is_err() {
        tokio::task::yield_now().await;
    }
    running.serves_others().await;
}
