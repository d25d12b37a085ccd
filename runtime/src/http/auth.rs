//! Who may do what. A token names its bearer and a role; a role is a fixed list of what it may touch, and everything else is refused
//! with 403.
//!
//! | role | queues | blobs | table |
//! |---|---|---|---|
//! | operator | all | all | all |
//! | worker of pool P | receive from `work-P-CLASS`, send to `results` | read `artifacts/`, `witnesses/`, `control/`; write `artifacts/P/` | none |
//! | trusted | receive from `work-trusted-CLASS`, send to `verdicts` and `results` | as a worker; write `artifacts/trusted/` | none |
//!
//! A worker speaks and writes about nothing but the tasks that were handed to it, see [`super::worker_call`].
//!
//! On the Unix socket a call without token is the operator's: the socket's file permissions (0600) have let it in. On TCP it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use push0_core::{Class, ErrorCode, Pool, Principal, Sha256, WorkerId};

use super::server::refusal;
use super::wire::{Call, PROTOCOL, PROTOCOL_HEADER};
use crate::port::{PortError, PortResult};

/// A token is at least this long, bytes.
pub const MIN_TOKEN: usize = 16;

/// Refused callers of one source are logged no more often than this.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Sources remembered for that.
const SOURCES: usize = 1024;

/// What a caller presents, and whom it stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub secret: String,
    /// A worker of this token has an id that is this name, or begins with it and a dash.
    pub name: Principal,
    pub role: Role,
    /// Whether it is a local worker's: that one speaks for itself, not for a token that several may share.
    pub is_local: bool,
}

impl Token {
    pub fn new(secret: impl Into<String>, name: Principal, role: Role) -> Self {
        Self { secret: secret.into(), name, role, is_local: false }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What is wrong with these tokens, each with its name.
pub fn token_mistakes(tokens: &[Token]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let (mut names, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for Token { secret, name, .. } in tokens {
        if secret.len() < MIN_TOKEN {
            mistakes.push(format!(
                "token {name}: it is shorter than {MIN_TOKEN} characters: make one with `push0 token new`"
            ));
        }
        if !names.insert(name.as_str()) {
            mistakes.push(format!("token {name}: the name is used twice"));
        }
        if !secrets.insert(secret) {
            mistakes.push(format!("token {name}: it is the same as another's"));
        }
    }
    let shared: BTreeSet<&str> =
        tokens.iter().filter(|token| !token.is_local).map(|token| token.name.as_str()).collect();
    for other in shared {
        let begins = |name: &&&str| name.strip_prefix(other).is_some_and(|rest| rest.starts_with('-'));
        for name in names.iter().filter(begins) {
            mistakes.push(format!(
                "token {name}: workers of token {other} could pass for its: choose a name that does not begin with {other}-"
            ));
        }
    }
    mistakes
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// None: the operator, by the socket.
    pub name: Option<Principal>,
    pub role: Role,
    pub is_local: bool,
}

impl Caller {
    /// Whether a worker of this id may be this caller's. A local worker is called exactly as its token.
    pub fn speaks_as(&self, worker: &WorkerId) -> bool {
        match &self.name {
            Some(name) if self.is_local => name.as_str() == worker.as_str(),
            Some(name) => name.speaks_as(worker),
            None => true,
        }
    }

    const SOCKET: Self = Self { name: None, role: Role::Operator, is_local: true };
}

/// Where a call comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Socket,
    Network(IpAddr),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Socket => f.write_str("the socket"),
            Source::Network(address) => address.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Operator,
    Worker {
        pool: Pool,
    },
    /// Runs `split` and `verify`.
    Trusted,
}

const READABLE: [&str; 3] = ["artifacts/", "witnesses/", "control/"];

impl Role {
    /// The pool a worker works for.
    pub(super) fn pool(&self) -> Option<&str> {
        match self {
            Role::Operator => None,
            Role::Worker { pool } => Some(pool.as_str()),
            Role::Trusted => Some(Pool::TRUSTED),
        }
    }

    /// The queues a worker of this role takes tasks from.
    pub(super) fn work_queues(&self) -> Vec<String> {
        self.pool()
            .into_iter()
            .flat_map(|pool| Class::ALL.map(|class| format!("work-{pool}-{}", class.as_str())))
            .collect()
    }

    fn describe(&self) -> String {
        match self {
            Role::Operator => "the operator".to_owned(),
            Role::Worker { pool } => format!("a worker of pool {pool}"),
            Role::Trusted => "the trusted pool".to_owned(),
        }
    }

    fn require(&self, allowed: bool, what: impl FnOnce() -> String) -> PortResult<()> {
        if allowed {
            return Ok(());
        }
        Err(PortError::fenced(ErrorCode::RoleForbids.says(format!("{} may not {}", self.describe(), what()))))
    }

    /// Whether the role may take messages from the queue. Class names have no `-`: pool `gpu` has no share in `work-gpu-large-bulk`.
    fn may_receive(&self, queue: &str) -> bool {
        let Some(pool) = self.pool() else { return true };
        let class = queue.strip_prefix("work-").and_then(|rest| rest.strip_prefix(pool)?.strip_prefix('-'));
        class.is_some_and(|class| {
            !class.is_empty() && class.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
    }

    fn may_send(&self, queue: &str) -> bool {
        match self {
            Role::Operator => true,
            Role::Worker { .. } => queue == "results",
            Role::Trusted => queue == "verdicts" || queue == "results",
        }
    }

    pub(super) fn may_read(&self, key: &str) -> PortResult<()> {
        let allowed = *self == Role::Operator || READABLE.iter().any(|prefix| key.starts_with(prefix));
        self.require(allowed, || format!("read blobs at {key:?}"))
    }

    pub(super) fn may_write(&self, key: &str) -> PortResult<()> {
        let own = |pool: &str| {
            let rest = key.strip_prefix("artifacts/").and_then(|rest| rest.strip_prefix(pool));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.require(self.pool().is_none_or(own), || format!("write a blob at {key:?}"))
    }

    pub(super) fn may_call(&self, call: &Call) -> PortResult<()> {
        match call {
            Call::QueueSend { queue, .. } => self.require(self.may_send(queue), || format!("send to {queue:?}")),
            Call::QueueReceive { queue, .. }
            | Call::QueueExtend { queue, .. }
            | Call::QueueRelease { queue, .. }
            | Call::QueueAck { queue, .. }
            | Call::QueueStats { queue } => self.require(self.may_receive(queue), || format!("use queue {queue:?}")),
            Call::TableGet { .. }
            | Call::TablePut { .. }
            | Call::TableAcceptFirst { .. }
            | Call::TableSetIf { .. }
            | Call::TableQuery { .. }
            | Call::TableTransact { .. }
            | Call::TableDelete { .. } => self.may_operate("use the state table"),
            Call::BlobHead { key } => self.may_read(key),
            Call::BlobList { prefix, .. } => self.may_read(prefix),
            Call::BlobDelete { key } => self.may_operate(&format!("delete blob {key:?}")),
        }
    }

    /// For what only an operator may do, routes of others included.
    pub fn may_operate(&self, what: &str) -> PortResult<()> {
        self.require(*self == Role::Operator, || what.to_owned())
    }
}

/// Tokens by their SHA-256: a look-up tells nothing about how nearly a guess was right.
#[derive(Default)]
pub(super) struct Tokens {
    known: RwLock<BTreeMap<Sha256, Caller>>,
    /// When a refusal of this source was last logged.
    refused: Mutex<BTreeMap<Source, Instant>>,
}

impl Tokens {
    /// Takes the place of all that were known; from here on they decide.
    pub(super) fn set(&self, tokens: &[Token]) -> PortResult<()> {
        let mistakes = token_mistakes(tokens);
        if !mistakes.is_empty() {
            return Err(PortError::permanent(mistakes.join("; ")));
        }
        let entry = |Token { secret, name, role, is_local }: &Token| {
            let caller = Caller { name: Some(name.clone()), role: role.clone(), is_local: *is_local };
            (Sha256::of(secret.as_bytes()), caller)
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = tokens.iter().map(entry).collect();
        Ok(())
    }

    fn caller(&self, token: &[u8]) -> Option<Caller> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&Sha256::of(token)).cloned()
    }

    /// Whether this refusal is worth a line: the first of a source, and one a minute.
    fn is_news(&self, source: Source, now: Instant) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.get(&source).is_some_and(|last| now.duration_since(*last) < SAY_AGAIN) {
            return false;
        }
        if refused.len() >= SOURCES {
            refused.retain(|_, last| now.duration_since(*last) < SAY_AGAIN);
        }
        if refused.len() >= SOURCES {
            return false;
        }
        refused.insert(source, now);
        true
    }
}

/// A door, and whom it lets in.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) tokens: Arc<Tokens>,
    pub(super) without_token: Option<Caller>,
}

impl Access {
    pub(super) fn new(tokens: Arc<Tokens>, is_socket: bool) -> Self {
        Self { tokens, without_token: is_socket.then_some(Caller::SOCKET) }
    }

    fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, &'static str> {
        let Some(authorization) = authorization else {
            return self.without_token.clone().ok_or("a token is needed here: authorization: Bearer TOKEN");
        };
        let token =
            authorization.strip_prefix(b"Bearer ").ok_or("the authorization is not of the form: Bearer TOKEN")?;
        self.tokens.caller(token).ok_or("this token is not known")
    }
}

/// Puts the [`Caller`] and its [`Role`] into the request's extensions, or answers 401; 400 to another protocol than this build's.
pub(super) async fn authenticate(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    if let Some(given) = request.headers().get(PROTOCOL_HEADER).filter(|given| *given != PROTOCOL.to_string().as_str())
    {
        let given: String = String::from_utf8_lossy(given.as_bytes()).chars().take(20).collect();
        let version = env!("CARGO_PKG_VERSION");
        let what = format!(
            "this push0 ({version}) speaks protocol {PROTOCOL}, the caller {given}: run the same version on both"
        );
        return refusal(PortError::permanent(ErrorCode::OtherVersion.says(what)));
    }
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    match access.caller(authorization) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.role.clone());
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            let source = request.extensions().get::<Source>().copied().unwrap_or(Source::Socket);
            if access.tokens.is_news(source, Instant::now()) {
                tracing::warn!(code = %ErrorCode::TokenRefused, %source, problem, "a caller was refused");
            }
            let mut response = refusal(PortError::fenced(ErrorCode::TokenRefused.says(problem))).into_response();
            *response.status_mut() = axum::http::StatusCode::UNAUTHORIZED;
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(pool: &str) -> Role {
        Role::Worker { pool: pool.parse().unwrap() }
    }

    #[test]
    fn a_worker_takes_from_its_own_pool_only() {
        let gpu = worker("gpu");
        assert!(gpu.may_receive("work-gpu-realtime"));
        for other in
            ["work-gpu-large-bulk", "work-gpu-", "work-cpu-bulk", "work-gpux-bulk", "results", "work-trusted-bulk"]
        {
            assert!(!gpu.may_receive(other), "{other}");
        }
        assert!(worker("gpu-large").may_receive("work-gpu-large-bulk"));
        assert!(Role::Trusted.may_receive("work-trusted-bulk"));
        assert!(Role::Operator.may_receive("submissions.fifo"));
    }

    #[test]
    fn only_the_trusted_pool_sends_verdicts() {
        assert!(Role::Trusted.may_send("verdicts"));
        assert!(worker("gpu").may_send("results"));
        for queue in ["verdicts", "submissions.fifo", "work-gpu-bulk", "finalized.fifo", "results-dead"] {
            assert!(!worker("gpu").may_send(queue), "{queue}");
        }
    }

    #[test]
    fn a_worker_writes_under_its_own_prefix_and_reads_what_tasks_need() {
        let gpu = worker("gpu");
        assert!(gpu.may_write("artifacts/gpu/demo/7").is_ok());
        for key in
            ["artifacts/gpu-large/x", "artifacts/gpu", "artifacts/cpu/x", "witnesses/x", "proofs/demo/7", "control/x"]
        {
            assert!(gpu.may_write(key).is_err(), "{key}");
        }
        assert!(gpu.may_read("artifacts/cpu/x").is_ok() && gpu.may_read("control/demo/7/").is_ok());
        for key in ["proofs/demo/7", "", "artifacts", "config"] {
            assert!(gpu.may_read(key).is_err(), "{key}");
        }
    }

    fn token(secret: &str, name: &str, pool: &str) -> Token {
        Token::new(secret, name.parse().unwrap(), worker(pool))
    }

    #[test]
    fn no_token_is_the_operator_only_where_the_door_says_so() {
        let tokens = Arc::new(Tokens::default());
        tokens.set(&[token("a-secret-of-some-length", "rack1", "gpu")]).unwrap();
        let (socket, network) = (Access::new(tokens.clone(), true), Access::new(tokens.clone(), false));
        assert_eq!(socket.caller(None), Ok(Caller::SOCKET));
        assert!(network.caller(None).is_err());
        for access in [&socket, &network] {
            let caller = access.caller(Some(b"Bearer a-secret-of-some-length")).unwrap();
            assert_eq!((caller.name, caller.role), (Some("rack1".parse().unwrap()), worker("gpu")));
            for bad in
                [&b"Bearer a-secret"[..], b"Bearer ", b"a-secret-of-some-length", b"Basic a-secret-of-some-length"]
            {
                assert!(access.caller(Some(bad)).is_err());
            }
        }
        tokens.set(&[token("another-secret-of-some-length", "rack1", "gpu")]).unwrap();
        assert!(network.caller(Some(b"Bearer a-secret-of-some-length")).is_err(), "revoked");
    }

    #[test]
    fn tokens_that_cannot_be_told_apart_are_all_named() {
        let mistakes = token_mistakes(&[
            token("0123456789abcdef", "rack", "gpu"),
            token("0123456789abcdef", "rack-1", "gpu"),
            token("fedcba9876543210", "rack", "cpu"),
            token("short", "rack2", "cpu"),
        ]);
        for expected in ["used twice", "same as another", "workers of token rack could pass", "shorter than 16"] {
            assert!(mistakes.iter().any(|mistake| mistake.contains(expected)), "{expected} is not in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
    }

    #[test]
    fn a_sources_refusals_are_news_once_a_minute() {
        let tokens = Tokens::default();
        let (now, other) = (Instant::now(), Source::Network([10, 0, 0, 1].into()));
        assert!(tokens.is_news(Source::Socket, now) && tokens.is_news(other, now));
        assert!(!tokens.is_news(other, now + Duration::from_secs(59)));
        assert!(tokens.is_news(other, now + Duration::from_secs(61)));
    }

    #[test]
    fn a_token_is_never_shown() {
        let shown = format!("{:?}", token("0123456789abcdef", "rack", "gpu"));
        assert!(shown.contains("rack") && !shown.contains("0123456789abcdef"), "{shown}");
    }
}
