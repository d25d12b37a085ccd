//! The server: any three ports behind one router.
//!
//! A connection is a task of its own, and a call holds nothing of the engine while it reads from or writes to the network.

use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::serve::Listener;
use axum::{Router, middleware};
use push0_core::{ErrorCode, Millis};
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;

use super::auth::{Access, Caller, Role, Source, Token, Tokens, authenticate};
use super::door::{self, Limits};
use super::presence::{self, Presence};
use super::seal::SealKey;
use super::transfer;
use super::wire::{Call, Failure};
use super::worker_call::WorkerCall;
use crate::port::{BLOB_LIMIT, Blobs, PortError, PortResult, Queue, Table};

/// A call's JSON: a send of a few hundred messages fits.
const MAX_CALL: usize = 32 << 20;

/// A worker's: ten reports fit.
const MAX_WORKER_CALL: usize = 2 << 20;

/// Keys a worker gets in one list: it looks for a handful.
const MAX_WORKER_LIST: usize = 1_000;

/// A receive waits no longer than this in one call; the client asks again.
const MAX_WAIT: Millis = Millis::from_secs(60);

/// What the server serves.
#[derive(Clone)]
pub struct Ports {
    pub queue: Arc<dyn Queue>,
    pub table: Arc<dyn Table>,
    pub blobs: Arc<dyn Blobs>,
}

impl Ports {
    /// The three ports of one thing, such as an engine.
    pub fn of<T: Queue + Table + Blobs + Clone + 'static>(all: &T) -> Self {
        Self { queue: Arc::new(all.clone()), table: Arc::new(all.clone()), blobs: Arc::new(all.clone()) }
    }
}

#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Who presents which token.
    pub tokens: Vec<Token>,
    /// What workers' receipts are sealed with. None: a key of this server's own, so that none is good after a restart.
    pub seal: Option<SealKey>,
    /// Directory for uploads on their way; made if need be. What an earlier server left there is removed.
    pub spool: PathBuf,
    /// Largest blob, bytes.
    pub blob_limit: u64,
    /// An upload that makes no progress for so long is given up, and so is a call that has not arrived.
    pub stalled_after: Duration,
    pub limits: Limits,
}

impl ServerConfig {
    /// No tokens; blobs to 1 GiB; a minute without progress.
    pub fn new(spool: impl Into<PathBuf>) -> Self {
        Self {
            tokens: Vec::new(),
            seal: None,
            spool: spool.into(),
            blob_limit: BLOB_LIMIT,
            stalled_after: Duration::from_secs(60),
            limits: Limits::default(),
        }
    }
}

/// By which door a call comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// File permissions guard it: without a token, the operator.
    Unix,
    /// Nothing without a token.
    Tcp,
}

pub(super) struct Shared {
    pub(super) ports: Ports,
    pub(super) config: ServerConfig,
    pub(super) seal: SealKey,
    tokens: Arc<Tokens>,
    closing: watch::Sender<bool>,
}

/// See the module. Clones are handles to the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    extra: Router,
    presence: Presence,
}

impl Server {
    pub fn new(ports: Ports, config: ServerConfig) -> PortResult<Self> {
        let tokens = Arc::new(Tokens::default());
        tokens.set(&config.tokens)?;
        let seal = config.seal.clone().map_or_else(SealKey::random, Ok)?;
        transfer::prepare_spool(&config.spool)?;
        let (closing, _) = watch::channel(false);
        let shared = Arc::new(Shared { ports, config, seal, tokens, closing });
        Ok(Self { shared, extra: Router::new(), presence: Presence::default() })
    }

    /// From here on these are let in, and no others; an error changes nothing.
    pub fn set_tokens(&self, tokens: &[Token]) -> PortResult<()> {
        self.shared.tokens.set(tokens)
    }

    /// More routes behind the same door; their handlers find the [`Caller`] and its [`Role`] in an `Extension`.
    pub fn with_routes(mut self, routes: Router) -> Self {
        self.extra = self.extra.merge(routes);
        self
    }

    pub fn router(&self, transport: Transport) -> Router {
        let access = Access::new(self.shared.tokens.clone(), transport == Transport::Unix);
        let blob = put(transfer::upload).get(transfer::download).layer(DefaultBodyLimit::disable());
        Router::new()
            .route("/v1/call", post(call).layer(DefaultBodyLimit::disable()))
            .route("/v1/blob", blob)
            .with_state(self.shared.clone())
            .merge(self.extra.clone())
            .merge(self.presence.routes())
            .layer(middleware::from_fn_with_state(self.presence.clone(), presence::observe))
            .layer(middleware::from_fn_with_state(access, authenticate))
            .route("/health", get(async || "ok"))
    }

    /// Serves a listener of [`bind_unix`] until `shutdown` completes, then lets calls in hand finish, for at most 5 s; waiting receives
    /// end empty.
    pub async fn serve_unix(&self, listener: UnixListener, shutdown: impl Future<Output = ()> + Send + 'static) {
        self.serve(listener, Transport::Unix, |_| Source::Socket, shutdown).await;
    }

    /// The same for [`bind_tcp`].
    pub async fn serve_tcp(&self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) {
        self.serve(Tuned(listener), Transport::Tcp, |address| Source::Network(address.ip()), shutdown).await;
    }

    async fn serve<L: Listener>(
        &self,
        listener: L,
        transport: Transport,
        source: impl Fn(&L::Addr) -> Source,
        shutdown: impl Future<Output = ()>,
    ) {
        let closing = &self.shared.closing;
        let closed = async {
            shutdown.await;
            closing.send_replace(true);
        };
        door::serve(listener, self.router(transport), self.shared.config.limits, source, closed).await;
    }
}

/// A listener whose connections are tuned.
struct Tuned(TcpListener);

impl Listener for Tuned {
    type Io = tokio::net::TcpStream;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        door::tune(&stream);
        (stream, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A socket only this user can open. Replaces one that nobody listens on any more.
pub async fn bind_unix(path: &Path) -> PortResult<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| {
        PortError::permanent(ErrorCode::CannotListen.says(format!("listening on {}: {error}", path.display())))
    };
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            let what = format!("somebody listens on {} already", path.display());
            return Err(PortError::permanent(ErrorCode::CannotListen.says(what)));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// `address` is `HOST:PORT`; port 0 takes a free one.
pub async fn bind_tcp(address: &str) -> PortResult<TcpListener> {
    let failed = |error| PortError::permanent(ErrorCode::CannotListen.says(format!("listening on {address}: {error}")));
    TcpListener::bind(address).await.map_err(failed)
}

/// An error as an answer.
pub(super) fn refusal(error: PortError) -> Response {
    failure(&Failure::from(error))
}

pub(super) fn failure(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, failure)
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (status, headers, body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub(super) fn answer<T: Serialize>(result: PortResult<T>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => refusal(error),
    }
}

async fn call(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Infallible> {
    let worker = presence::introduced(request.headers(), &caller);
    let call = match read_call(&shared, &caller.role, request).await {
        Ok(call) => call,
        Err(error) => return Ok(refusal(error)),
    };
    Ok(match (caller.role.may_call(&call), WorkerCall::new(&*shared.ports.queue, &shared.seal, &caller, worker)) {
        (Err(error), _) => refusal(error),
        (Ok(()), Some(worker)) => perform_for_worker(&shared, &worker, call).await,
        (Ok(()), None) => perform(&shared, call).await,
    })
}

async fn read_call(shared: &Shared, role: &Role, request: Request) -> PortResult<Call> {
    let most = if *role == Role::Operator { MAX_CALL } else { MAX_WORKER_CALL };
    let reading = axum::body::to_bytes(request.into_body(), most);
    let body = match tokio::time::timeout(shared.config.stalled_after, reading).await {
        Err(_) => return Err(PortError::transient("the call did not arrive in time")),
        Ok(Err(error)) => {
            let what = format!("a call that breaks off, or has more than {most} bytes: {error}");
            return Err(PortError::permanent(ErrorCode::BadRequest.says(what)));
        }
        Ok(Ok(body)) => body,
    };
    serde_json::from_slice(&body)
        .map_err(|error| PortError::permanent(ErrorCode::BadRequest.says(format!("not a call: {error}"))))
}

/// A receive ends empty when the server closes.
async fn receive<T: Serialize>(shared: &Shared, receiving: impl Future<Output = PortResult<Vec<T>>>) -> Response {
    let mut closing = shared.closing.subscribe();
    tokio::select! {
        biased;
        received = receiving => answer(received),
        _ = closing.wait_for(|closing| *closing) => answer(Ok(Vec::<()>::new())),
    }
}

/// What a worker may call at all its role has said.
async fn perform_for_worker(shared: &Shared, worker: &WorkerCall<'_>, call: Call) -> Response {
    match call {
        Call::QueueSend { queue, messages, receipts } => answer(worker.send(&queue, messages, &receipts).await),
        Call::QueueReceive { queue, max, wait, lease } => {
            receive(shared, worker.receive(&queue, max, wait.min(MAX_WAIT), lease)).await
        }
        Call::QueueExtend { queue, receipt, lease } => answer(worker.extend(&queue, &receipt, lease).await),
        Call::QueueRelease { queue, receipt, delay } => answer(worker.release(&queue, &receipt, delay).await),
        Call::QueueAck { queue, receipt } => answer(worker.ack(&queue, &receipt).await),
        Call::BlobList { limit, .. } if limit > MAX_WORKER_LIST => {
            let what = format!("a list of {limit} keys; a worker gets at most {MAX_WORKER_LIST} in one");
            refusal(PortError::permanent(ErrorCode::BadRequest.says(what)))
        }
        other => perform(shared, other).await,
    }
}

async fn perform(shared: &Shared, call: Call) -> Response {
    let Ports { queue: queues, table, blobs } = &shared.ports;
    match call {
        Call::QueueSend { queue, messages, receipts: _ } => answer(queues.send(&queue, messages).await),
        Call::QueueReceive { queue, max, wait, lease } => {
            receive(shared, queues.receive(&queue, max, wait.min(MAX_WAIT), lease)).await
        }
        Call::QueueExtend { queue, receipt, lease } => answer(queues.extend(&queue, &receipt, lease).await),
        Call::QueueRelease { queue, receipt, delay } => answer(queues.release(&queue, &receipt, delay).await),
        Call::QueueAck { queue, receipt } => answer(queues.ack(&queue, &receipt).await),
        Call::QueueStats { queue } => answer(queues.stats(&queue).await),
        Call::TableGet { key } => answer(table.get(&key).await),
        Call::TablePut { key, doc, expected } => answer(table.put_if_version(&key, doc, expected).await),
        Call::TableAcceptFirst { key, slot, floor, attempt, value } => {
            answer(table.accept_first(&key, &slot, &floor, attempt, value).await)
        }
        Call::TableSetIf { key, attribute, expected, new } => {
            answer(table.set_if(&key, &attribute, expected, new).await)
        }
        Call::TableQuery { partition, prefix, after, limit } => {
            answer(table.query(&partition, &prefix, after.as_deref(), limit).await)
        }
        Call::TableTransact { writes } => answer(table.transact(writes).await),
        Call::TableDelete { key } => answer(table.delete(&key).await),
        Call::BlobHead { key } => answer(blobs.head(&key).await),
        Call::BlobList { prefix, after, limit } => answer(blobs.list(&prefix, after.as_deref(), limit).await),
        Call::BlobDelete { key } => answer(blobs.delete(&key).await),
    }
}
