//! What is said about a task: reports, starts, acknowledgements.

use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use push0_core::Millis;
use push0_core::message::{Report, ReportEvent, TaskMessage, queue};
use push0_core::record::Versioned as _;
use push0_runtime::port::{ErrorKind, Outgoing, Queue};
use tracing::{debug, error};

use super::{Env, Settled, settle_end};
use crate::lease::{End, Hold};
use crate::retry::{Backoff, GaveUp, persist};

/// The queue that reports on a task count from.
fn report_queue(task: &TaskMessage) -> &'static str {
    if task.is_trusted() { queue::VERDICTS } else { queue::RESULTS }
}

pub(super) fn report(env: &Env, task: &TaskMessage, event: ReportEvent) -> Report {
    Report { task: task.id.clone(), worker: env.worker.clone(), by: None, at: env.clock.now(), event }
}

fn outgoing(report: &Report) -> Outgoing {
    Outgoing { body: report.to_json(), group: Some(report.task.run.chain.to_string()), ..Outgoing::default() }
}

pub(super) async fn send_report(env: &Env, task: &TaskMessage, held: &Hold, event: ReportEvent) -> Settled {
    let message = outgoing(&report(env, task, event.clone()));
    let queue = report_queue(task);
    let sent = persist(&*env.clock, &env.health, held, || env.queue.send(queue, vec![message.clone()])).await;
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

/// That a prover was started, and where to say so.
#[derive(Debug)]
pub struct Start {
    queue: &'static str,
    report: Report,
}

impl Start {
    pub(super) fn new(env: &Env, task: &TaskMessage) -> Self {
        Self { queue: report_queue(task), report: report(env, task, ReportEvent::Started) }
    }
}

/// A channel for [`Env::starts`].
pub fn starts() -> (UnboundedSender<Start>, UnboundedReceiver<Start>) {
    unbounded()
}

/// Sends starts as they come, those that are waiting together, until every [`Env`] is gone. A start that cannot be sent is dropped:
/// without it a straggler is only noticed later.
pub async fn send_starts(mut starts: UnboundedReceiver<Start>, queue: &dyn Queue) {
    const MOST: usize = 10;
    while let Some(first) = starts.next().await {
        let mut waiting = vec![first];
        while waiting.len() < MOST {
            match starts.try_recv() {
                Ok(start) => waiting.push(start),
                Err(_) => break,
            }
        }
        for name in [queue::RESULTS, queue::VERDICTS] {
            let batch: Vec<Outgoing> =
                waiting.iter().filter(|start| start.queue == name).map(|start| outgoing(&start.report)).collect();
            if batch.is_empty() {
                continue;
            }
            if let Err(error) = queue.send(name, batch).await {
                debug!(%error, "starts were not announced");
            }
        }
    }
}
