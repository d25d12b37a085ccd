//! What a worker's calls are held to, beyond its role: it speaks, writes and decides about nothing but the tasks that were handed to it,
//! and it is not handed what it shall avoid while others may take it.
//!
//! - Receipts are sealed ([`super::seal`]): another's are void.
//! - A report names the worker as its token is named (`NAME` or `NAME-…`), comes with the receipt of its task, and is stamped with the
//!   token's name: whatever several workers of one token say is one voice.
//! - An artifact is written under the key of a task whose receipt comes with it.
//! - A task that names a worker of this token in `avoid` goes back to the queue, a few times; one that names the calling worker in `barred`,
//!   each time. A worker is who it says it is with its call, among those that its token speaks as; one that does not say is all of them.

use push0_core::message::{Report, TaskMessage};
use push0_core::record::Versioned as _;
use push0_core::{ErrorCode, Millis, Principal, WorkerId};
use tokio::time::Instant;

use super::auth::Caller;
use super::seal::SealKey;
use crate::port::{Delivery, Outgoing, PortError, PortResult, Queue};

/// A worker's lease or delay is at most this: it hides a task from the others.
const LONGEST_HOLD: Millis = Millis::from_secs(3_600);

/// From this receive on a task goes to whom it shall avoid, too: nobody else has taken it.
const AVOID_BOUND: u32 = 4;

/// How long it stays hidden after the first refusal; after each further one twice as long, up to so many times.
const AVOID_DELAY: Millis = Millis(300);
const AVOID_DOUBLINGS: u32 = 6;

/// A worker's view of the queues. Operators have the queues themselves.
pub(super) struct WorkerCall<'a> {
    queue: &'a dyn Queue,
    seal: &'a SealKey,
    caller: &'a Caller,
    name: &'a Principal,
    /// As it introduced itself.
    worker: Option<WorkerId>,
}

impl<'a> WorkerCall<'a> {
    /// `None`: the caller is no worker.
    pub(super) fn new(
        queue: &'a dyn Queue,
        seal: &'a SealKey,
        caller: &'a Caller,
        worker: Option<WorkerId>,
    ) -> Option<Self> {
        let name = caller.name.as_ref()?;
        let is_worker = caller.role != super::Role::Operator;
        is_worker.then_some(Self { queue, seal, caller, name, worker })
    }

    pub(super) async fn send(&self, queue: &str, messages: Vec<Outgoing>, receipts: &[String]) -> PortResult<()> {
        if messages.len() != receipts.len() {
            let what = format!("{} reports with {} receipts: each needs its task's", messages.len(), receipts.len());
            return Err(PortError::permanent(ErrorCode::BadRequest.says(what)));
        }
        let stamped: PortResult<Vec<Outgoing>> =
            messages.into_iter().zip(receipts).map(|(message, receipt)| self.stamp(message, receipt)).collect();
        self.queue.send(queue, stamped?).await
    }

    fn stamp(&self, message: Outgoing, receipt: &str) -> PortResult<Outgoing> {
        let mut report = Report::from_json(&message.body)
            .map_err(|error| PortError::permanent(ErrorCode::BadRequest.says(error.to_string())))?;
        let name = self.name;
        if !self.caller.speaks_as(&report.worker) {
            let what = format!(
                "token {name} may not speak as worker {}: its workers are {name}, or {name}- and more",
                report.worker
            );
            return Err(forbidden(what));
        }
        self.check_holds(&report.task.to_string(), receipt)?;
        report.by = (!self.caller.is_local).then(|| name.clone());
        Ok(Outgoing { body: report.to_json(), ..message })
    }

    /// Whether the receipt shows that this task was handed to the caller.
    pub(super) fn check_holds(&self, task: &str, receipt: &str) -> PortResult<()> {
        if self.seal.is_of_task(self.name, &self.caller.role.work_queues(), receipt, task) {
            return Ok(());
        }
        Err(forbidden(format!("task {task} was not handed to token {}", self.name)))
    }

    /// An artifact's key is its task's, and so is its writer.
    pub(super) fn check_artifact(&self, key: &str, writer: &str, receipt: &str) -> PortResult<()> {
        let own = key.split_once('/').and_then(|(_, rest)| Some(rest.split_once('/')?.1));
        let is_own =
            own.and_then(|rest| rest.strip_prefix(writer)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !is_own {
            return Err(forbidden(format!("blob {key} does not belong to {writer}")));
        }
        self.check_holds(writer, receipt)
    }

    /// Tasks, but for those that this caller shall avoid.
    pub(super) async fn receive(
        &self,
        queue: &str,
        max: usize,
        wait: Millis,
        lease: Millis,
    ) -> PortResult<Vec<Delivery>> {
        let until = Instant::now() + std::time::Duration::from_millis(wait.0);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = Millis(left.as_millis() as u64);
            let received = self.queue.receive(queue, max, wait, lease.min(LONGEST_HOLD)).await?;
            let is_over = received.is_empty() || wait == Millis(0);
            let mut handed = Vec::with_capacity(received.len());
            for delivery in received {
                handed.extend(self.hand_out(queue, delivery).await);
            }
            if is_over || !handed.is_empty() {
                return Ok(handed);
            }
        }
    }

    fn is(&self, worker: &WorkerId) -> bool {
        self.worker.as_ref().map_or_else(|| self.caller.speaks_as(worker), |own| own == worker)
    }

    async fn hand_out(&self, queue: &str, delivery: Delivery) -> Option<Delivery> {
        let task = TaskMessage::from_json(&delivery.body).ok();
        let shall_avoid =
            task.as_ref().is_some_and(|task| task.avoid.iter().any(|worker| self.caller.speaks_as(worker)));
        let is_barred = task.as_ref().is_some_and(|task| task.barred.iter().any(|worker| self.is(worker)));
        if is_barred || (shall_avoid && delivery.receive_count < AVOID_BOUND) {
            let doublings = delivery.receive_count.saturating_sub(1).min(AVOID_DOUBLINGS);
            let delay = Millis(AVOID_DELAY.0 << doublings);
            // One that cannot be released comes again when its lease ends.
            if let Err(error) = self.queue.release(queue, &delivery.receipt, delay).await {
                tracing::debug!(queue, %error, "could not release");
            }
            return None;
        }
        let id = task.map(|task| task.id.to_string());
        let receipt = self.seal.seal(self.name, queue, &delivery.receipt, id.as_deref());
        Some(Delivery { receipt, ..delivery })
    }

    pub(super) async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.queue.extend(queue, self.seal.open(self.name, queue, receipt)?, lease.min(LONGEST_HOLD)).await
    }

    pub(super) async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.queue.release(queue, self.seal.open(self.name, queue, receipt)?, delay.min(LONGEST_HOLD)).await
    }

    pub(super) async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.queue.ack(queue, self.seal.open(self.name, queue, receipt)?).await
    }
}

fn forbidden(what: String) -> PortError {
    PortError::fenced(ErrorCode::RoleForbids.says(what))
}
