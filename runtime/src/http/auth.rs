//! Who may do what. A token names a role; a role is a fixed list of what it may touch, and everything else is refused with 403.
//!
//! | role | queues | blobs | table |
//! |---|---|---|---|
//! | operator | all | all | all |
//! | worker of pool P | receive from `work-P-CLASS`, send to `results` | read `artifacts/`, `witnesses/`, `control/`; write `artifacts/P/` | none |
//! | trusted | receive from `work-trusted-CLASS`, send to `verdicts` and `results` | as a worker; write `artifacts/trusted/` | none |
//!
//! On the Unix socket a call without token is the operator's: the socket's file permissions (0600) have let it in. On TCP it is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use push0_core::{ErrorCode, Pool, Sha256};

use super::server::refusal;
use super::wire::Call;
use crate::port::{PortError, PortResult};

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
    fn pool(&self) -> Option<&str> {
        match self {
            Role::Operator => None,
            Role::Worker { pool } => Some(pool.as_str()),
            Role::Trusted => Some(Pool::TRUSTED),
        }
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
#[derive(Clone)]
pub(super) struct Access {
    roles: Arc<BTreeMap<Sha256, Role>>,
    without_token: Option<Role>,
}

impl Access {
    pub(super) fn new(tokens: &[(String, Role)], without_token: Option<Role>) -> Self {
        let roles = tokens.iter().map(|(token, role)| (Sha256::of(token.as_bytes()), role.clone())).collect();
        Self { roles: Arc::new(roles), without_token }
    }

    fn role(&self, authorization: Option<&[u8]>) -> Result<Role, &'static str> {
        let Some(authorization) = authorization else {
            return self.without_token.clone().ok_or("a token is needed here: authorization: Bearer TOKEN");
        };
        let token =
            authorization.strip_prefix(b"Bearer ").ok_or("the authorization is not of the form: Bearer TOKEN")?;
        self.roles.get(&Sha256::of(token)).cloned().ok_or("this token is not known")
    }
}

/// Puts the caller's [`Role`] into the request's extensions, or answers 401.
pub(super) async fn authenticate(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    match access.role(authorization) {
        Ok(role) => {
            request.extensions_mut().insert(role);
            next.run(request).await
        }
        Err(problem) => {
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

    #[test]
    fn no_token_is_the_operator_only_where_the_door_says_so() {
        let tokens = [("secret".to_owned(), worker("gpu"))];
        let (socket, network) = (Access::new(&tokens, Some(Role::Operator)), Access::new(&tokens, None));
        assert_eq!(socket.role(None), Ok(Role::Operator));
        assert!(network.role(None).is_err());
        for access in [socket, network] {
            assert_eq!(access.role(Some(b"Bearer secret")), Ok(worker("gpu")));
            for bad in [&b"Bearer secre"[..], b"Bearer ", b"secret", b"Basic secret"] {
                assert!(access.role(Some(bad)).is_err());
            }
        }
    }
}
