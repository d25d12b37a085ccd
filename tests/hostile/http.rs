//! The local protocol: whole requests against a server, as a client of any language could send them.

use std::cell::RefCell;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request};
use push0_core::message::queue;
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::http::{
    Ports, Role, Server, ServerConfig, Token, Transport, bind_tcp, dead_letter_routes, maintenance,
};
use push0_runtime::port::{Outgoing, Queue as _};
use tower_service::Service as _;

use super::{Target, wait};

pub(super) fn targets() -> Vec<Target> {
    vec![Target::new("http_request", request).within(200, 8 << 20)]
}

/// A server, and how many requests it may still be asked before another takes its place: what they store adds up.
struct Served {
    router: Router,
    left: u32,
    _spool: tempfile::TempDir,
}

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

fn served() -> Served {
    let spool = tempfile::tempdir().expect("a directory");
    let names = ["work-gpu-bulk", queue::RESULTS, queue::VERDICTS, queue::SUBMISSIONS];
    let queues = names.into_iter().map(QueueSpec::new).collect();
    let config = EngineConfig { blob_limit: 64 * 1024, ..EngineConfig::new(Location::Memory, queues) };
    let engine = Engine::open(config).expect("an engine in memory");
    let worker = Role::Worker { pool: "gpu".parse().expect("a pool") };
    let tokens = [("token-of-the-operator", "op", Role::Operator), ("token-of-a-gpu-worker", "rack1", worker)];
    let token = |(secret, name, role): (&str, &str, Role)| Token::new(secret, name.parse().expect("a name"), role);
    let config = ServerConfig {
        tokens: tokens.into_iter().map(token).collect(),
        blob_limit: 64 * 1024,
        ..ServerConfig::new(spool.path())
    };
    let server = Server::new(Ports::of(&engine), config).expect("a server");
    let server = server.with_routes(dead_letter_routes(Arc::new(engine.clone()))).with_routes(maintenance(&engine));
    let task = Outgoing { body: "{}".to_owned(), ..Outgoing::default() };
    wait(async {
        engine.send("work-gpu-bulk", vec![task]).await.expect("a task waits");
        // A server that is closing lets no receive wait.
        let listener = bind_tcp("127.0.0.1:0").await.expect("a port");
        server.serve_tcp(listener, async {}).await;
    });
    Served { router: server.router(Transport::Tcp), left: 500, _spool: spool }
}

/// `METHOD URI`, then headers, an empty line, and the body.
fn read(input: &[u8]) -> Option<Request<Body>> {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((input, &input[input.len()..]), |at| (&input[..at], &input[at + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, uri) = first.split_once(' ')?;
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).ok()?).uri(uri);
    for line in lines.filter(|line| !line.is_empty()) {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        request = request.header(name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?);
    }
    request.body(Body::from(body.to_vec())).ok()
}

/// Whether a request has a token elsewhere than where it belongs: an answer may repeat what it was asked.
fn names_token(input: &[u8]) -> bool {
    let mut lines = input.split(|byte| *byte == b'\n').map(<[u8]>::to_ascii_lowercase);
    lines.any(|line| !line.starts_with(b"authorization:") && line.windows(9).any(|part| part == b"token-of-"))
}

/// Every answer is whole and, where it refuses, says why in words and without the token.
fn request(input: &[u8]) -> bool {
    let Some(request) = read(input) else { return false };
    let mut served = SERVED.take().filter(|served| served.left > 0).unwrap_or_else(served);
    served.left -= 1;
    let mut router = served.router.clone();
    let (status, body) = wait(async {
        let call = tokio::time::timeout(std::time::Duration::from_secs(5), router.call(request));
        let answer = call.await.expect("nothing waits on a server that is closing");
        let answer = answer.unwrap_or_else(|never| match never {});
        let status = answer.status();
        (status, to_bytes(answer.into_body(), 16 << 20).await)
    });
    SERVED.set(Some(served));
    let body = body.expect("an answer is whole");
    let said = String::from_utf8_lossy(&body);
    assert!(names_token(input) || !said.contains("token-of-"), "{said}");
    assert!(!status.is_server_error() || status.as_u16() == 503, "{status}: {said}");
    status.is_success()
}
