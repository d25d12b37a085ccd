//! The door: takes connections in, and no more of them than the process can bear. Each is a task of its own.
//!
//! What a client can hold by doing nothing is bounded: a connection without a whole request's head for [`Limits::head`], a call whose body
//! does not arrive, an upload that crawls (`transfer`), a peer that takes no bytes or is gone (TCP's own time-outs). One address has no
//! more than its share of connections.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use push0_core::ErrorCode;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tower_service::Service as _;

use super::auth::Source;

/// A peer that acknowledges nothing, or takes nothing, for so long is gone.
pub(super) const DEAD_PEER: Duration = Duration::from_secs(30);

/// Bytes of a request's head, and of what is read of a body at a time.
const MAX_HEAD: usize = 64 * 1024;

/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// How long a connection is silent before it is asked whether it is still there.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long calls in hand may take to finish after a shutdown was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Full houses are logged no more often than this.
const SAY_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, through each door.
    pub connections: usize,
    /// Of these, from one network address.
    pub per_source: usize,
    /// From a connection's first moment, or the last answer, to the end of the next request's head.
    pub head: Duration,
}

impl Default for Limits {
    /// 1,024, a quarter of them from one address; 20 s.
    fn default() -> Self {
        Self { connections: 1024, per_source: 256, head: Duration::from_secs(20) }
    }
}

/// Who is in.
#[derive(Default)]
struct House(Mutex<BTreeMap<Source, usize>>);

/// A connection's place, given back when dropped.
struct Place {
    house: Arc<House>,
    source: Source,
}

impl House {
    fn enter(self: &Arc<Self>, source: Source, limits: &Limits) -> Option<Place> {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = inside.get(&source).copied().unwrap_or_default();
        let most = if source == Source::Socket { limits.connections } else { limits.per_source };
        if of_source >= most || inside.values().sum::<usize>() >= limits.connections {
            return None;
        }
        inside.insert(source, of_source + 1);
        Some(Place { house: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.house.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inside.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.source);
            }
        }
    }
}

/// Asks TCP to find out about peers that are gone, and to send small answers at once.
pub(super) fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(Duration::from_secs(5)).with_retries(3);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(DEAD_PEER)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "setting a connection's options failed");
    }
}

/// Serves until `closed` completes, then lets calls in hand finish, for at most 5 s.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    source: impl Fn(&L::Addr) -> Source,
    closed: impl Future<Output = ()>,
) {
    let house = Arc::new(House::default());
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut last_said: Option<Instant> = None;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let mut closed = pin!(closed);
    loop {
        let (stream, address) = tokio::select! {
            biased;
            () = &mut closed => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let source = source(&address);
        let Some(place) = house.enter(source, &limits) else {
            if last_said.is_none_or(|last| last.elapsed() >= SAY_AGAIN) {
                last_said = Some(Instant::now());
                tracing::warn!(code = %ErrorCode::TooManyConnections, %source, "too many connections: one was turned away");
            }
            continue;
        };
        let router = router.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(source);
            let mut router = router.clone();
            async move { Ok::<Response, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        connections.spawn(async move {
            // Ends in an error where the client does: what it was doing has seen to itself.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("calls were still open at shutdown");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_and_gives_it_back() {
        let house = Arc::new(House::default());
        let limits = Limits { connections: 3, per_source: 2, ..Limits::default() };
        let (one, other) = (Source::Network([10, 0, 0, 1].into()), Source::Network([10, 0, 0, 2].into()));
        let first = house.enter(one, &limits).unwrap();
        let second = house.enter(one, &limits).unwrap();
        assert!(house.enter(one, &limits).is_none(), "its share is used up");
        let third = house.enter(other, &limits).unwrap();
        assert!(house.enter(other, &limits).is_none(), "the house is full");
        drop(first);
        assert!(house.enter(other, &limits).is_some());
        drop((second, third));
        assert!(house.0.lock().unwrap().is_empty());
    }
}
