//! A server on a Unix socket and on TCP, for tests of what clients may do to it.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::path::PathBuf;
use std::sync::Arc;

use axum::{Extension, Router, routing};
use push0_core::message::{Report, ReportEvent, TaskMessage};
use push0_core::pipeline::Kind;
use push0_core::record::Versioned as _;
use push0_core::{BlockHash, Millis};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::http::{Client, ClientConfig, Ports, Role, Server, ServerConfig, Token, bind_tcp, bind_unix};
use push0_runtime::port::{ErrorKind, Outgoing, PortError, PortResult};
use tokio::sync::oneshot;

pub(crate) const LEASE: Millis = Millis::from_secs(30);
pub(crate) const OPERATOR: &str = "token-of-the-operator";
pub(crate) const WORKER: &str = "token-of-a-gpu-worker";
/// Of the same pool.
pub(crate) const OTHER: &str = "token-of-another-gpu-worker";
pub(crate) const TRUSTED: &str = "token-of-the-trusted-pool";

pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) clock: ManualClock,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) socket: PathBuf,
    pub(crate) server: Server,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) serving: tokio::task::JoinHandle<()>,
}

fn token(secret: &str, name: &str, role: Role) -> Token {
    Token::new(secret, name.parse().unwrap(), role)
}

pub(crate) fn tokens() -> Vec<Token> {
    let gpu = || Role::Worker { pool: "gpu".parse().unwrap() };
    vec![
        token(OPERATOR, "op", Role::Operator),
        token(WORKER, "rack1", gpu()),
        token(OTHER, "rack2", gpu()),
        token(TRUSTED, "vault", Role::Trusted),
    ]
}

pub(crate) async fn start() -> Running {
    start_with(|config| config).await
}

pub(crate) async fn start_with(change: impl FnOnce(ServerConfig) -> ServerConfig) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::starting_at(Millis(1_700_000_000_000));
    let names =
        ["work-gpu-bulk", "work-gpu-large-bulk", "work-trusted-bulk", "results", "verdicts", "submissions.fifo"];
    let queues = names.into_iter().map(QueueSpec::new).collect();
    let location = Location::Directory(directory.path().join("data"));
    let config =
        EngineConfig { clock: Arc::new(clock.clone()), blob_limit: 8 << 20, ..EngineConfig::new(location, queues) };
    let engine = Engine::open(config).unwrap();
    let spool = directory.path().join("spool");
    let config = change(ServerConfig { tokens: tokens(), blob_limit: 8 << 20, ..ServerConfig::new(spool) });
    let whoami = routing::get(async |Extension(role): Extension<Role>| format!("{role:?}"));
    let server = Server::new(Ports::of(&engine), config).unwrap().with_routes(Router::new().route("/whoami", whoami));
    let socket = directory.path().join("push0.sock");
    let unix = bind_unix(&socket).await.unwrap();
    let tcp = bind_tcp("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel();
    let (on_unix, on_tcp) = (server.clone(), server.clone());
    let serving = tokio::spawn(async move {
        let unix = tokio::spawn(async move { on_unix.serve_unix(unix, std::future::pending()).await });
        let stopped = async {
            let _ = stopped.await;
        };
        on_tcp.serve_tcp(tcp, stopped).await;
        unix.abort();
    });
    Running { engine, clock, directory, address, socket, server, stop: Some(stop), serving }
}

impl Running {
    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(ClientConfig::new(format!("http://{}", self.address)).with_token(token)).unwrap()
    }

    /// Until the engine sees this; every turn lets the server get on.
    pub(crate) async fn until(&self, condition: impl AsyncFn(&Engine) -> bool) {
        while !condition(&self.engine).await {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn message(body: &str) -> Outgoing {
    Outgoing { body: body.to_owned(), ..Outgoing::default() }
}

#[track_caller]
pub(crate) fn fenced<T: std::fmt::Debug>(result: PortResult<T>) -> PortError {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(!error.may_have_happened());
    error
}

/// A task of pool gpu, as the collector sends it.
pub(crate) fn task(attempt: u32, avoid: &[&str]) -> TaskMessage {
    TaskMessage {
        id: format!("demo/1/e1/0123456789abcdef/1.0.0/a{attempt}c0").parse().unwrap(),
        stage: "prove".parse().unwrap(),
        kind: Kind::Map,
        prover: "p".parse().unwrap(),
        programs: Default::default(),
        pool: "gpu".parse().unwrap(),
        class: Default::default(),
        inputs: vec![],
        expand: false,
        params: serde_json::Value::Null,
        block_hash: BlockHash([0; 32]),
        parent_hash: None,
        time_limit: Millis(1),
        progress_limit: None,
        barred: Vec::new(),
        avoid: avoid.iter().map(|name| name.parse().unwrap()).collect(),
        deadline: None,
        demoted: false,
        check: None,
        copies: None,
    }
}

/// What a worker says of it.
pub(crate) fn report(task: &TaskMessage, worker: &str) -> Outgoing {
    let report = Report {
        task: task.id.clone(),
        worker: worker.parse().unwrap(),
        by: None,
        at: Millis(0),
        handout: None,
        event: ReportEvent::Started,
    };
    message(&report.to_json())
}
