//! The functions as AWS Lambda runs them.
//!
//! One cold start builds the context ([`run`]); each invocation makes deliveries of an SQS event, handles them as every host does
//! ([`host::handle_batch`]) and answers with the ids that failed. What the answer leaves out Lambda deletes, so:
//!
//! - a record is left out only if it was handled, or put aside in the queue `poison`;
//! - an event that cannot be read is an error, which fails the whole batch, and never an empty answer;
//! - a panic fails its record, and what follows in its FIFO group;
//! - the time left is a budget: what cannot be begun in time is failed untouched, what is not done in time is failed;
//! - a record that failed is handed back first, to come again after its back-off: otherwise a chain would wait for a whole visibility
//!   time-out.

mod events;
mod reaping;
mod start;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use push0_core::Millis;
use push0_runtime::drive::Context;
use push0_runtime::host::{self, Bounded, Disposed, Failed, Failure, Function};
use push0_runtime::metrics::{Metric, emf};
use push0_runtime::port::{Clock, Delivery};
use push0_runtime::settings::AwsSettings;

pub use events::Unreadable;
use events::deliveries;
pub use reaping::Reaping;
pub use start::run;

/// Kept free at the end for what failed: to hand it back, to put it aside, to answer.
const RESERVE: Millis = Millis(500);

/// Of that, for the answer.
const ANSWER: Millis = Millis(100);

/// Nothing is begun with less time than this.
const LEAST: Millis = Millis(250);

/// SQS counts visibility in seconds, and 0 would be at once.
const SHORTEST_REST: Millis = Millis(1_000);

/// A function with sources, in Lambda.
pub struct Host {
    name: &'static str,
    function: Arc<dyn Function>,
    context: Context,
    names: AwsSettings,
}

impl Host {
    /// `name` is the function's in the topology; `names` says what its queues are called in the account.
    pub fn new(name: &'static str, function: Arc<dyn Function>, context: Context, names: AwsSettings) -> Self {
        Self { name, function, context, names }
    }

    /// Handles an event, to be answered before `deadline`.
    pub async fn handle(&self, event: SqsEvent, deadline: Millis) -> Result<SqsBatchResponse, Unreadable> {
        let began = self.context.clock.now();
        self.context.metrics.count(Metric::Invocations, &[self.name], 1);
        let mut answer = SqsBatchResponse::default();
        let Some((source, batch)) = deliveries(event, &self.names)? else { return Ok(answer) };
        self.arrived(&source, &batch, began);
        let until = deadline.since(RESERVE);
        let bounded = Bounded::new(self.function.clone(), self.context.clock.clone(), until, LEAST);
        let failed = host::handle_batch(&bounded, &source, &batch).await;
        let again = self.dispose(&source, &batch, &failed, deadline.since(ANSWER)).await;
        self.done(&source, batch.len(), &failed, &again, began);
        // In the batch's order.
        batch.iter().filter(|message| again.contains(&message.id)).for_each(|message| answer.add_failure(&message.id));
        Ok(answer)
    }

    /// Sees to what failed, as long as there is time. Returns what comes again: all that is not in `poison` now.
    async fn dispose(&self, source: &str, batch: &[Delivery], failed: &[Failed], until: Millis) -> BTreeSet<String> {
        let mut again: BTreeSet<String> = failed.iter().map(|failed| failed.id.clone()).collect();
        // In reverse, so that FIFO messages handed back stand in their old order.
        for message in batch.iter().rev() {
            let Some(failed) = failed.iter().find(|failed| failed.id == message.id) else { continue };
            let queue = &*self.context.queue;
            let disposing = host::dispose(queue, source, message, &failed.failure, SHORTEST_REST);
            match within(&*self.context.clock, until, disposing).await {
                Some(Ok(Disposed::Aside)) => {
                    again.remove(&message.id);
                }
                Some(Ok(Disposed::ComesAgain)) => {}
                Some(Err(error)) => tracing::warn!(code = %error.code(), queue = source, %error, "not handed back"),
                None => tracing::warn!(queue = source, "no time was left to hand a message back"),
            }
        }
        again
    }

    fn arrived(&self, source: &str, batch: &[Delivery], now: Millis) {
        let (metrics, labels) = (&self.context.metrics, [self.name, source]);
        for message in batch {
            if message.receive_count > 1 {
                metrics.count(Metric::RecordsAgain, &labels, 1);
            } else {
                metrics.observe(Metric::RecordAge, &labels, now.since(message.sent_at).0);
            }
        }
        if push0_core::message::queue::origin(source) != source {
            metrics.count(Metric::DeadLetters, &[source], batch.len() as u64);
        }
    }

    fn done(&self, source: &str, all: usize, failed: &[Failed], again: &BTreeSet<String>, began: Millis) {
        let (metrics, labels) = (&self.context.metrics, [self.name, source]);
        let aside = failed.iter().filter(|failed| !again.contains(&failed.id));
        let poisoned = aside.filter(|failed| matches!(failed.failure, Failure::Poison { .. })).count();
        metrics.count(Metric::RecordsHandled, &labels, (all - failed.len()) as u64);
        metrics.count(Metric::RecordsFailed, &labels, again.len() as u64);
        metrics.count(Metric::RecordsPoisoned, &labels, poisoned as u64);
        metrics.observe(Metric::InvocationTime, &[self.name], self.context.clock.now().since(began).0);
    }

    /// What was measured since the last time, as lines for the log.
    pub fn measured(&self) -> Vec<String> {
        emf::lines(&self.names.prefix, self.context.clock.now(), &self.context.metrics.drain())
    }
}

/// What comes of `work`; `None` if it is not done at `until`.
async fn within<T>(clock: &dyn Clock, until: Millis, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep_until(until) => None,
    }
}
