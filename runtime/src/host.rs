//! The function host: an event-source mapping in a process.
//!
//! A [`Function`] handles one message; [`handle_batch`] makes a batch of it the way Lambda's partial batch response wants it: the ids
//! that failed, and on a FIFO queue, from a group's first failure on, all that follow of that group. [`poll_once`] is one turn of a
//! mapping; [`run`] keeps turning until it is told to stop, then lets what is in hand finish.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use push0_core::Millis;

use crate::port::{Delivery, Outgoing, PortError, PortResult, Queue};

/// Why a message was not handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Deliver it again.
    Retry { reason: String },
    /// It can never be handled: to the dead-letter queue with it.
    Poison { reason: String },
}

#[async_trait]
pub trait Function: Send + Sync {
    /// Handles one message of the queue `source`. `Ok`: it is done with and may be deleted.
    async fn handle(&self, source: &str, message: &Delivery) -> Result<(), Failure>;
}

/// A message that failed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub id: String,
    pub failure: Failure,
}

/// Handles a batch in order. What is not in the answer is done with. On a FIFO queue nothing of a group is handled after the group's
/// first failure; it is in the answer as failed.
pub async fn handle_batch(function: &dyn Function, source: &str, batch: &[Delivery]) -> Vec<Failed> {
    let mut failed = Vec::new();
    let mut stopped_groups = BTreeSet::new();
    let is_fifo = source.ends_with(".fifo");
    for message in batch {
        if is_fifo && stopped_groups.contains(&message.group) {
            let reason = "a message before it in its group failed".to_owned();
            failed.push(Failed {
                id: message.id.clone(),
                failure: Failure::Retry { reason },
            });
            continue;
        }
        if let Err(failure) = function.handle(source, message).await {
            // A poison message leaves the queue; those behind it can be handled.
            if matches!(failure, Failure::Retry { .. }) {
                stopped_groups.insert(message.group.clone());
            }
            failed.push(Failed {
                id: message.id.clone(),
                failure,
            });
        }
    }
    failed
}

/// One source of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub queue: String,
    pub batch: usize,
    pub lease: Millis,
    /// Where poison goes.
    pub dead_letter: Option<String>,
}

/// How long a failed message rests before its next delivery: doubling from 100 ms to 10 s with each delivery.
fn back_off(receive_count: u32) -> Millis {
    Millis((100u64 << receive_count.saturating_sub(1).min(7)).min(10_000))
}

/// Receives one batch (waiting up to `wait`), handles it and settles every message of it. Returns how many there were.
pub async fn poll_once(
    queue: &dyn Queue,
    function: &dyn Function,
    mapping: &Mapping,
    wait: Millis,
) -> PortResult<usize> {
    let batch = queue
        .receive(&mapping.queue, mapping.batch, wait, mapping.lease)
        .await?;
    let failed = handle_batch(function, &mapping.queue, &batch).await;
    // In reverse, so that FIFO messages handed back stand in their old order.
    for message in batch.iter().rev() {
        let failure = failed
            .iter()
            .find(|failed| failed.id == message.id)
            .map(|failed| &failed.failure);
        let settled = settle(queue, mapping, message, failure).await;
        match settled {
            Ok(()) => {}
            // Its lease ran out: somebody else has it, or will.
            Err(error) => tracing::debug!(queue = mapping.queue, %error, "message not settled"),
        }
    }
    Ok(batch.len())
}

async fn settle(
    queue: &dyn Queue,
    mapping: &Mapping,
    message: &Delivery,
    failure: Option<&Failure>,
) -> Result<(), PortError> {
    match failure {
        None => queue.ack(&mapping.queue, &message.receipt).await,
        Some(Failure::Retry { reason }) => {
            tracing::warn!(
                queue = mapping.queue,
                receives = message.receive_count,
                reason,
                "message will come again"
            );
            queue
                .release(&mapping.queue, &message.receipt, back_off(message.receive_count))
                .await
        }
        Some(Failure::Poison { reason }) => {
            tracing::error!(queue = mapping.queue, reason, "message cannot be handled");
            let Some(dead_letter) = &mapping.dead_letter else {
                return queue
                    .release(&mapping.queue, &message.receipt, back_off(message.receive_count))
                    .await;
            };
            let body = serde_json::json!({ "poison": reason, "queue": mapping.queue, "body": message.body });
            let outgoing = Outgoing {
                body: body.to_string(),
                group: Some(message.group.clone().unwrap_or_else(|| "poison".to_owned())),
                dedup: Some(message.id.clone()),
                ..Outgoing::default()
            };
            queue.send(dead_letter, vec![outgoing]).await?;
            queue.ack(&mapping.queue, &message.receipt).await
        }
    }
}

/// Polls until `stop` says true; then lets the batch in hand finish and returns. A failing queue is asked again after a pause.
pub async fn run(
    queue: Arc<dyn Queue>,
    function: Arc<dyn Function>,
    mapping: Mapping,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let turn = poll_once(&*queue, &*function, &mapping, Millis::from_secs(20));
        tokio::pin!(turn);
        let outcome = tokio::select! {
            outcome = &mut turn => outcome,
            _ = stop.changed() => {
                return drain(turn).await;
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(queue = mapping.queue, %error, "cannot receive; trying again");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
}

/// Gives a turn that was interrupted a moment to finish the batch it may have in hand.
async fn drain(turn: impl Future<Output = PortResult<usize>>) {
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), turn).await;
}
