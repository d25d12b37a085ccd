//! What is said about a task: reports, starts, acknowledgements.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::Either;
use push0_core::message::{Report, ReportEvent, TaskMessage, queue};
use push0_core::record::Versioned as _;
use push0_core::{Millis, TaskId};
use push0_runtime::port::{Clock, ErrorKind, Outgoing, Queue};
use tracing::{debug, error};

use super::{Env, Settled, settle_end};
use crate::lease::{End, Hold};
use crate::retry::{Backoff, GaveUp, persist};

/// The queue that reports on a task count from.
fn report_queue(task: &TaskMessage) -> &'static str {
    if task.is_trusted() { queue::VERDICTS } else { queue::RESULTS }
}

pub(super) fn report(env: &Env, task: &TaskMessage, held: &Hold, event: ReportEvent) -> Report {
    let (task, worker, at) = (task.id.clone(), env.worker.clone(), env.clock.now());
    Report { task, worker, by: None, at, handout: held.handout(), event }
}

fn outgoing(report: &Report) -> Outgoing {
    Outgoing { body: report.to_json(), group: Some(report.task.run.chain.to_string()), ..Outgoing::default() }
}

pub(super) async fn send_report(env: &Env, task: &TaskMessage, held: &Hold, event: ReportEvent) -> Settled {
    let queue = report_queue(task);
    let mut messages = vec![outgoing(&report(env, task, held, event.clone()))];
    messages.extend(env.starts.ride_along(queue, &task.id).iter().map(|start| outgoing(&start.report)));
    let sent = persist(&*env.clock, &env.health, held, || env.queue.send(queue, messages.clone())).await;
    match sent {
        Ok(()) => {
            acknowledge(env, held).await;
            Settled::Reported(event)
        }
        Err(GaveUp::Ended(end)) => settle_end(env, task, held, end).await,
        Err(GaveUp::Failed(error)) => {
            error!(code = %error.code(), task = %task.id, queue, %error, "report was refused");
            Settled::Unreported(error.to_string())
        }
    }
}

/// A message that cannot be acknowledged comes again, and is recognised by its artifact or its stopped run.
pub(super) async fn acknowledge(env: &Env, held: &Hold) {
    let give_up = env.clock.now().plus(env.leases.lease());
    let mut backoff = Backoff::new();
    while let Err(error) = env.queue.ack(&held.queue, &held.receipt).await {
        let transient = matches!(error.kind(), ErrorKind::Transient { .. });
        if !transient || env.clock.now() >= give_up {
            debug!(queue = %held.queue, %error, "could not acknowledge");
            return;
        }
        env.clock.sleep_until(env.clock.now().plus(backoff.step())).await;
    }
}

/// A message that cannot be released returns when its lease ends.
pub(super) async fn release(env: &Env, held: &Hold, delay: Millis) {
    // No beat may extend it from here on: that would hide it from others.
    held.end(End::Lost);
    if let Err(error) = env.queue.release(&held.queue, &held.receipt, delay).await {
        debug!(queue = %held.queue, %error, "could not release");
    }
}

/// How long a start waits for a report to travel with, or for other starts: of a worker that is busy the next task starts while the one
/// before is being stored.
const HOLD: Millis = Millis(200);

/// Messages a call.
const MOST: usize = 10;

/// That a prover was started, and where to say so.
#[derive(Debug)]
struct Start {
    queue: &'static str,
    report: Report,
}

/// Starts to be announced, of all slots of a worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Starts {
    waiting: Arc<Mutex<Vec<Start>>>,
    wake: UnboundedSender<()>,
}

/// What [`send_starts`] works on.
#[derive(Debug)]
pub struct StartsToSend {
    waiting: Arc<Mutex<Vec<Start>>>,
    woken: UnboundedReceiver<()>,
}

/// For [`Env::starts`] and [`send_starts`].
pub fn starts() -> (Starts, StartsToSend) {
    let (waiting, (wake, woken)) = (Arc::default(), unbounded());
    (Starts { waiting: Arc::clone(&waiting), wake }, StartsToSend { waiting, woken })
}

fn lock(waiting: &Mutex<Vec<Start>>) -> MutexGuard<'_, Vec<Start>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Starts {
    pub(super) fn announce(&self, env: &Env, task: &TaskMessage, held: &Hold) {
        let start = Start { queue: report_queue(task), report: report(env, task, held, ReportEvent::Started) };
        lock(&self.waiting).push(start);
        let _ = self.wake.unbounded_send(());
    }

    /// Those that wait to be sent to this queue: they go with the report of `ended`, whose own start says nothing any more.
    fn ride_along(&self, queue: &str, ended: &TaskId) -> Vec<Start> {
        let mut waiting = lock(&self.waiting);
        waiting.retain(|start| start.report.task != *ended);
        let (mut riding, mut others) = (Vec::new(), Vec::new());
        for start in waiting.drain(..) {
            let is_one = start.queue == queue && riding.len() < MOST - 1;
            if is_one { riding.push(start) } else { others.push(start) }
        }
        *waiting = others;
        riding
    }
}

/// How long the announcement of a start is waited for.
const AT_ONCE: Millis = Millis(2_000);

/// Announces a start before it happens; one that cannot be sent in time is announced like any other.
pub(super) async fn announce_now(env: &Env, task: &TaskMessage, held: &Hold) {
    let start = outgoing(&report(env, task, held, ReportEvent::Started));
    let sending = env.queue.send(report_queue(task), vec![start]);
    let limit = env.clock.sleep_until(env.clock.now().plus(AT_ONCE));
    match futures::future::select(sending, limit).await {
        Either::Left((Ok(()), _)) => {}
        Either::Left((Err(error), _)) => debug!(%error, "start was not announced"),
        Either::Right(_) => debug!("start was not announced in time"),
    }
}

/// Sends the starts that nothing else has taken along after [`HOLD`], together, until every [`Starts`] is gone. A start that cannot be sent
/// is dropped: without it a straggler is only noticed later.
pub async fn send_starts(mut starts: StartsToSend, queue: &dyn Queue, clock: &dyn Clock) {
    while starts.woken.next().await.is_some() {
        if lock(&starts.waiting).is_empty() {
            continue;
        }
        clock.sleep_until(clock.now().plus(HOLD)).await;
        while starts.woken.try_recv().is_ok() {}
        let waiting = std::mem::take(&mut *lock(&starts.waiting));
        for name in [queue::RESULTS, queue::VERDICTS] {
            let messages: Vec<Outgoing> =
                waiting.iter().filter(|start| start.queue == name).map(|start| outgoing(&start.report)).collect();
            if messages.is_empty() {
                continue;
            }
            if let Err(error) = queue.send(name, messages).await {
                debug!(%error, "starts were not announced");
            }
        }
    }
}
