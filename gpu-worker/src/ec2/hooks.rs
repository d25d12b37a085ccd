//! The two moments at which an Auto Scaling group waits for its instance: before it counts on it, and before it ends it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use push0_core::{ErrorCode, Millis};
use push0_runtime::port::{Clock, ErrorKind, PortResult};
use tracing::{debug, info, warn};

use crate::retry::Backoff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Into service, or into the warm pool.
    Launch,
    /// Out of service: to be ended, or back into the warm pool.
    Termination,
}

/// What a group is told at the end of its waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    Continue,
    /// At the launch: the instance is no good, and is replaced.
    Abandon,
}

/// Whether the group was waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Heard,
    /// There is no such hook, it was completed already, or the group is not so far yet: nothing changes.
    NotWaiting,
    /// There is no group.
    Alone,
}

/// The hooks of this instance's group.
#[async_trait]
pub trait LifecycleHooks: Send + Sync {
    async fn complete(&self, hook: Hook, completion: Completion) -> PortResult<Answer>;

    /// Starts the hook's time-out anew.
    async fn heartbeat(&self, hook: Hook) -> PortResult<Answer>;
}

/// No group waits for this instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGroup;

#[async_trait]
impl LifecycleHooks for NoGroup {
    async fn complete(&self, _: Hook, _: Completion) -> PortResult<Answer> {
        Ok(Answer::Alone)
    }

    async fn heartbeat(&self, _: Hook) -> PortResult<Answer> {
        Ok(Answer::Alone)
    }
}

/// Tells the group, within the patience. The metadata may be ahead of the group, so one that does not wait is told again: a completion
/// that comes too early is lost, and the hook's time-out would end the instance.
pub(crate) async fn complete(
    hooks: Arc<dyn LifecycleHooks>,
    hook: Hook,
    completion: Completion,
    patience: Millis,
    clock: Arc<dyn Clock>,
) {
    let limit = clock.now().plus(patience);
    let mut backoff = Backoff::new();
    loop {
        let answer = hooks.complete(hook, completion).await;
        match &answer {
            Ok(Answer::Heard) => return info!(?hook, ?completion, "lifecycle hook completed"),
            Ok(Answer::Alone) => return,
            Ok(Answer::NotWaiting) => debug!(?hook, "the group does not wait"),
            Err(error) => debug!(?hook, %error, "lifecycle hook"),
        }
        let pause = backoff.step();
        let is_final = answer.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Transient { .. }));
        if is_final || clock.now().plus(pause) > limit {
            if let Err(error) = answer {
                let code = ErrorCode::HookNotCompleted;
                warn!(%code, ?hook, ?completion, %error, "cannot complete the lifecycle hook: its time-out decides");
            }
            return;
        }
        clock.sleep_until(clock.now().plus(pause)).await;
    }
}

/// Has the group wait for as long as this lives.
pub(crate) async fn beat(hooks: Arc<dyn LifecycleHooks>, hook: Hook, every: Millis, clock: Arc<dyn Clock>) {
    let mut is_well = true;
    loop {
        match hooks.heartbeat(hook).await {
            Ok(answer) => {
                debug!(?hook, ?answer, "heartbeat");
                is_well = true;
            }
            Err(error) if is_well => {
                warn!(code = %ErrorCode::HookNotCompleted, ?hook, %error, "the group does not take the heartbeat");
                is_well = false;
            }
            Err(error) => debug!(?hook, %error, "heartbeat"),
        }
        clock.sleep_until(clock.now().plus(every)).await;
    }
}

/// Has the group wait while `work` goes on.
pub(crate) async fn while_beating<T>(beats: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    let (mut beats, mut work) = (pin!(beats), pin!(work));
    tokio::select! {
        biased;
        () = &mut beats => work.await,
        done = &mut work => done,
    }
}
