//! The function host: an event-source mapping in a process.
//!
//! A [`Function`] handles one message; [`handle_batch`] makes a batch of it the way Lambda's partial batch response wants it: the ids
//! that failed, and on a FIFO queue, from a group's first failure on, all that follow of that group. [`dispose`] says what becomes of
//! one that failed. [`poll_once`] is one turn of a mapping; [`run`] keeps turning until it is told to stop, then lets what is in hand
//! finish. [`Bounded`] holds a function to a deadline, and to its own panics.

mod bounded;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use push0_core::message::queue::POISON;
use push0_core::record::clip_middle;
use push0_core::{ErrorCode, Millis};

use crate::port::{Delivery, Outgoing, PortResult, Queue};

pub use bounded::Bounded;

/// Why a message was not handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Deliver it again.
    Retry { reason: String },
    /// It can never be handled: it goes to the queue `poison` with its reason, where people see it.
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
            failed.push(Failed { id: message.id.clone(), failure: Failure::Retry { reason } });
            continue;
        }
        if let Err(failure) = function.handle(source, message).await {
            // A poison message leaves the queue; those behind it can be handled.
            if matches!(failure, Failure::Retry { .. }) {
                stopped_groups.insert(message.group.clone());
            }
            failed.push(Failed { id: message.id.clone(), failure });
        }
    }
    failed
}

/// How long a receive waits for a first message: the longest SQS allows.
const LONG_POLL: Millis = Millis::from_secs(20);

/// One source of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub queue: String,
    pub batch: usize,
    pub lease: Millis,
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
    let batch = queue.receive(&mapping.queue, mapping.batch, wait, mapping.lease).await?;
    invoke(queue, function, mapping, &batch).await;
    Ok(batch.len())
}

/// Handles a batch and settles every message of it: deleted, handed back, or moved to `poison`.
async fn invoke(queue: &dyn Queue, function: &dyn Function, mapping: &Mapping, batch: &[Delivery]) {
    let failed = handle_batch(function, &mapping.queue, batch).await;
    let mut done = Vec::with_capacity(batch.len());
    // In reverse, so that FIFO messages handed back stand in their old order.
    for message in batch.iter().rev() {
        let failed = failed.iter().find(|failed| failed.id == message.id);
        let disposed = match failed {
            None => Ok(Disposed::Aside),
            Some(failed) => dispose(queue, &mapping.queue, message, &failed.failure, Millis(0)).await,
        };
        match disposed {
            Ok(Disposed::Aside) => done.push(message.receipt.as_str()),
            Ok(Disposed::ComesAgain) => {}
            // Its lease ran out: somebody else has it, or will.
            Err(error) => tracing::debug!(queue = mapping.queue, %error, "message not settled"),
        }
    }
    for error in queue.ack_all(&mapping.queue, &done).await.into_iter().filter_map(Result::err) {
        tracing::debug!(queue = mapping.queue, %error, "message not settled");
    }
}

/// What has become of a message that was not handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposed {
    /// It has been handed back and will come again.
    ComesAgain,
    /// It is in the queue `poison`; here it is to be deleted.
    Aside,
}

/// Sees to a message that was not handled: poison is put aside, anything else is handed back to rest for its back-off, at least for
/// `least`. After an error it comes again when its lease ends, as if nothing had been done.
pub async fn dispose(
    queue: &dyn Queue,
    source: &str,
    message: &Delivery,
    failure: &Failure,
    least: Millis,
) -> PortResult<Disposed> {
    match failure {
        Failure::Retry { reason } => {
            let code = ErrorCode::find(reason).unwrap_or(ErrorCode::StorageTrouble);
            let receives = message.receive_count;
            // Of a full disk the engine itself tells, once.
            if code == ErrorCode::DiskFull {
                tracing::debug!(%code, queue = source, receives, reason, "message will come again");
            } else {
                tracing::warn!(%code, queue = source, receives, reason, "message will come again");
            }
            queue.release(source, &message.receipt, back_off(message.receive_count).max(least)).await?;
            Ok(Disposed::ComesAgain)
        }
        Failure::Poison { reason } => {
            let code = ErrorCode::find(reason).unwrap_or(ErrorCode::Poison);
            tracing::error!(%code, queue = source, reason, "message cannot be handled");
            let outgoing = Outgoing {
                body: envelope(reason, source, &message.body),
                group: message.group.clone(),
                ..Outgoing::default()
            };
            queue.send(POISON, vec![outgoing]).await?;
            Ok(Disposed::Aside)
        }
    }
}

/// What is put aside: the message with its reason. A body that does not fit, escaped once more, is cut: what cannot be put aside would come
/// again for ever.
fn envelope(reason: &str, queue: &str, body: &str) -> String {
    const MOST: usize = 60 * 1024;
    let whole = serde_json::json!({ "reason": reason, "queue": queue, "body": body }).to_string();
    if whole.len() <= MOST {
        return whole;
    }
    let digest = push0_core::Sha256::of(body.as_bytes());
    // Escaping makes six bytes of one at most.
    let (reason, cut) = (clip_middle(reason, MOST / 24), clip_middle(body, MOST / 12));
    serde_json::json!({ "reason": reason, "queue": queue, "body": cut, "cut": { "bytes": body.len(), "sha256": digest } }).to_string()
}

/// What becomes of a receive that waits when a host is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It is given up: who holds the queue sees the caller go.
    GivenUp,
    /// It runs to its end, and what it brings is handled: nobody would see the caller go, and a message on its way would stay hidden for a
    /// whole lease.
    RunsOut,
}

impl Waiting {
    /// How long a receive waits for a first message. A host that must let it run out is not kept from stopping for longer than a lease.
    fn poll(self, lease: Millis) -> Millis {
        match self {
            Waiting::GivenUp => LONG_POLL,
            Waiting::RunsOut => LONG_POLL.min(lease),
        }
    }
}

/// Polls until `stop` says true. A batch in hand is finished first. A failing queue is asked again after a pause, and a handler that
/// panics costs its batch a lease, not the queue its poller.
pub async fn run(
    queue: Arc<dyn Queue>,
    function: Arc<dyn Function>,
    mapping: Mapping,
    waiting: Waiting,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let mut is_failing = false;
    while !*stop.borrow() {
        let receive = queue.receive(&mapping.queue, mapping.batch, waiting.poll(mapping.lease), mapping.lease);
        let received = match waiting {
            Waiting::RunsOut => receive.await,
            Waiting::GivenUp => tokio::select! {
                received = receive => received,
                _ = stop.changed() => return,
            },
        };
        match received {
            Ok(batch) => {
                is_failing = false;
                let invoked = AssertUnwindSafe(invoke(&*queue, &*function, &mapping, &batch)).catch_unwind().await;
                if invoked.is_err() {
                    let code = ErrorCode::InvariantBroken;
                    tracing::error!(%code, queue = mapping.queue, "a handler panicked; its messages come again");
                }
            }
            Err(error) => {
                let code = error.code();
                if is_failing || code == ErrorCode::DiskFull {
                    tracing::debug!(%code, queue = mapping.queue, %error, "still cannot receive");
                } else {
                    tracing::warn!(%code, queue = mapping.queue, %error, "cannot receive; trying again");
                }
                is_failing = true;
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails the messages whose bodies begin with `retry` or `poison`.
    struct Picky;

    #[async_trait]
    impl Function for Picky {
        async fn handle(&self, _source: &str, message: &Delivery) -> Result<(), Failure> {
            let reason = "picky".to_owned();
            match message.body.as_str() {
                body if body.starts_with("retry") => Err(Failure::Retry { reason }),
                body if body.starts_with("poison") => Err(Failure::Poison { reason }),
                _ => Ok(()),
            }
        }
    }

    fn batch(messages: &[(&str, &str)]) -> Vec<Delivery> {
        let delivery = |(position, (group, body)): (usize, &(&str, &str))| Delivery {
            id: position.to_string(),
            receipt: position.to_string(),
            body: (*body).to_owned(),
            group: Some((*group).to_owned()),
            receive_count: 1,
            sent_at: Millis(0),
        };
        messages.iter().enumerate().map(delivery).collect()
    }

    fn failed_of(source: &str, messages: &[(&str, &str)]) -> Vec<String> {
        let failed = futures::executor::block_on(handle_batch(&Picky, source, &batch(messages)));
        failed.into_iter().map(|failed| failed.id).collect()
    }

    #[test]
    fn on_a_standard_queue_only_what_failed_comes_again() {
        assert_eq!(failed_of("results", &[("a", "retry"), ("a", "fine"), ("b", "fine")]), ["0"]);
    }

    #[test]
    fn on_a_fifo_queue_a_group_stops_at_its_first_failure_and_other_groups_go_on() {
        let messages = [("a", "fine"), ("a", "retry"), ("b", "fine"), ("a", "fine")];
        assert_eq!(failed_of("x.fifo", &messages), ["1", "3"]);
    }

    #[test]
    fn poison_does_not_hold_up_what_follows_in_its_group() {
        assert_eq!(failed_of("x.fifo", &[("a", "poison"), ("a", "fine")]), ["0"]);
    }

    #[test]
    fn poison_is_put_aside_with_its_reason_and_leaves_the_source() {
        use crate::engine::{Engine, QueueSpec};
        let engine = Engine::in_memory(vec![QueueSpec::new("in.fifo"), QueueSpec::new(POISON)]).unwrap();
        let mapping = Mapping { queue: "in.fifo".to_owned(), batch: 10, lease: Millis(1_000) };
        let message = |body: &str| Outgoing {
            body: body.to_owned(),
            group: Some("a".to_owned()),
            dedup: Some(body.to_owned()),
            ..Outgoing::default()
        };
        futures::executor::block_on(async {
            engine.send("in.fifo", vec![message("poison one"), message("fine")]).await.unwrap();
            assert_eq!(poll_once(&engine, &Picky, &mapping, Millis(0)).await, Ok(2));
            assert_eq!(engine.stats("in.fifo").await.unwrap(), Default::default(), "both have left");
            let dead = engine.receive(POISON, 10, Millis(0), Millis(1_000)).await.unwrap();
            assert_eq!(dead.len(), 1);
            assert!(dead[0].body.contains("picky") && dead[0].body.contains("poison one"), "{}", dead[0].body);
        });
    }

    #[test]
    fn poison_that_does_not_fit_in_its_envelope_is_cut_and_leaves_the_source_all_the_same() {
        use crate::engine::{Engine, QueueSpec};
        let engine = Engine::in_memory(vec![QueueSpec::new("results"), QueueSpec::new(POISON)]).unwrap();
        let mapping = Mapping { queue: "results".to_owned(), batch: 10, lease: Millis(1_000) };
        futures::executor::block_on(async {
            for filling in ["\"", "\u{1}"] {
                let body = format!("poison {}", filling.repeat(60 * 1024));
                engine.send("results", vec![Outgoing { body, ..Outgoing::default() }]).await.unwrap();
                poll_once(&engine, &Picky, &mapping, Millis(0)).await.unwrap();
                assert_eq!(engine.stats("results").await.unwrap(), Default::default());
                let dead = engine.receive(POISON, 1, Millis(0), Millis(1_000)).await.unwrap().remove(0);
                assert!(dead.body.contains("picky") && dead.body.contains("61447"), "{}", dead.body);
                engine.ack(POISON, &dead.receipt).await.unwrap();
            }
        });
    }
}
