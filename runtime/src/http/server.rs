//! The server: any three ports behind one router.
//!
//! A connection is a task of its own, and a call holds nothing of the engine while it reads from or writes to the network.

use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::serve::{Listener, ListenerExt as _};
use axum::{Router, middleware};
use bytes::Bytes;
use push0_core::{ErrorCode, Millis};
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;

use super::auth::{Access, Role, authenticate};
use super::transfer;
use super::wire::{Call, Failure};
use crate::port::{BLOB_LIMIT, Blobs, PortError, PortResult, Queue, Table};

/// A call's JSON: a send of a few hundred messages fits.
const MAX_CALL: usize = 32 << 20;

/// A receive waits no longer than this in one call; the client asks again.
const MAX_WAIT: Millis = Millis::from_secs(60);

/// How long calls in hand may take to finish after a shutdown was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

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
    /// Who presents which token. A token is at least 16 bytes.
    pub tokens: Vec<(String, Role)>,
    /// Directory for uploads on their way; made if need be. What an earlier server left there is removed.
    pub spool: PathBuf,
    /// Largest blob, bytes.
    pub blob_limit: u64,
    /// An upload or download that makes no progress for so long is given up.
    pub stalled_after: Duration,
}

impl ServerConfig {
    /// No tokens; blobs to 1 GiB; a minute without progress.
    pub fn new(spool: impl Into<PathBuf>) -> Self {
        Self { tokens: Vec::new(), spool: spool.into(), blob_limit: BLOB_LIMIT, stalled_after: Duration::from_secs(60) }
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
    closing: watch::Sender<bool>,
}

/// See the module. Clones are handles to the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    extra: Router,
}

impl Server {
    pub fn new(ports: Ports, config: ServerConfig) -> PortResult<Self> {
        if config.tokens.iter().any(|(token, _)| token.len() < 16) {
            let what = "a token is at least 16 bytes: make one with `openssl rand -hex 16`";
            return Err(PortError::permanent(ErrorCode::BadConfiguration.says(what)));
        }
        transfer::prepare_spool(&config.spool)?;
        let (closing, _) = watch::channel(false);
        Ok(Self { shared: Arc::new(Shared { ports, config, closing }), extra: Router::new() })
    }

    /// More routes behind the same door; their handlers find the caller's [`Role`] in an `Extension`.
    pub fn with_routes(mut self, routes: Router) -> Self {
        self.extra = self.extra.merge(routes);
        self
    }

    pub fn router(&self, transport: Transport) -> Router {
        let without_token = (transport == Transport::Unix).then_some(Role::Operator);
        let access = Access::new(&self.shared.config.tokens, without_token);
        let blob = put(transfer::upload).get(transfer::download).layer(DefaultBodyLimit::disable());
        Router::new()
            .route("/v1/call", post(call).layer(DefaultBodyLimit::max(MAX_CALL)))
            .route("/v1/blob", blob)
            .with_state(self.shared.clone())
            .merge(self.extra.clone())
            .layer(middleware::from_fn_with_state(access, authenticate))
            .route("/health", get(async || "ok"))
    }

    /// Serves a listener of [`bind_unix`] until `shutdown` completes, then lets calls in hand finish, for at most 5 s; waiting receives
    /// end empty.
    pub async fn serve_unix(&self, listener: UnixListener, shutdown: impl Future<Output = ()> + Send + 'static) {
        self.serve(listener, Transport::Unix, shutdown).await;
    }

    /// The same for [`bind_tcp`].
    pub async fn serve_tcp(&self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) {
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "setting TCP_NODELAY failed");
            }
        });
        self.serve(listener, Transport::Tcp, shutdown).await;
    }

    async fn serve<L>(&self, listener: L, transport: Transport, shutdown: impl Future<Output = ()> + Send + 'static)
    where
        L: Listener,
        L::Addr: std::fmt::Debug,
    {
        let closing = self.shared.closing.clone();
        let mut closed = closing.subscribe();
        let shutdown = async move {
            shutdown.await;
            closing.send_replace(true);
        };
        let serving = axum::serve(listener, self.router(transport)).with_graceful_shutdown(shutdown).into_future();
        let overdue = async {
            let _ = closed.wait_for(|closing| *closing).await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            served = serving => {
                if let Err(error) = served {
                    tracing::error!(code = %ErrorCode::CannotListen, %error, "serving failed");
                }
            }
            () = overdue => tracing::warn!("calls were still open at shutdown"),
        }
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

fn answer<T: Serialize>(result: PortResult<T>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => refusal(error),
    }
}

async fn call(
    State(shared): State<Arc<Shared>>,
    Extension(role): Extension<Role>,
    body: Bytes,
) -> Result<Response, Infallible> {
    let call: Call = match serde_json::from_slice(&body) {
        Ok(call) => call,
        Err(error) => return Ok(refusal(PortError::permanent(format!("not a call: {error}")))),
    };
    drop(body);
    Ok(match role.may_call(&call) {
        Ok(()) => perform(&shared, call).await,
        Err(error) => refusal(error),
    })
}

async fn perform(shared: &Shared, call: Call) -> Response {
    let Ports { queue: queues, table, blobs } = &shared.ports;
    match call {
        Call::QueueSend { queue, messages } => answer(queues.send(&queue, messages).await),
        Call::QueueReceive { queue, max, wait, lease } => {
            let receive = queues.receive(&queue, max, wait.min(MAX_WAIT), lease);
            let mut closing = shared.closing.subscribe();
            tokio::select! {
                biased;
                received = receive => answer(received),
                _ = closing.wait_for(|closing| *closing) => answer(Ok(Vec::<()>::new())),
            }
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
