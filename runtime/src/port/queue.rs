//! Queues: the semantics of SQS, both natures.
//!
//! **Standard** queues deliver at least once, in any order, and never deduplicate. Where [`Queue::ranks`], the groups of a standard queue
//! take turns, and within a group the lowest `rank` goes first; correctness may not rely on either. **FIFO** queues (name ends in `.fifo`) keep order within a group: while a message of a group is in flight no
//! other of that group is handed out, except in the same `receive`; a message whose lease expires or that is released returns at the
//! *head* of its group; a dedup id seen within five minutes is swallowed (the send succeeds, nothing is stored).
//!
//! A queue may have a dead-letter queue: a message received so and so often goes there instead of being handed out once more, with its
//! id, body and group; its receive count starts again. A lease is more than 0 and ends at most 12 hours after the receive.

use async_trait::async_trait;
use push0_core::Millis;
use serde::{Deserialize, Serialize};

use super::PortResult;

/// A message to send. At most 64 KiB of body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outgoing {
    pub body: String,
    /// FIFO: required. Standard: whose it is. Groups share a queue fairly, however much each has waiting; those without one are a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// FIFO: required. Standard: ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<String>,
    /// Not handed out before this long. Standard queues only; at most 15 minutes.
    #[serde(default)]
    pub delay: Millis,
    /// Lower first within its group, where the queue ranks.
    #[serde(default)]
    pub rank: i64,
}

/// A message in hand, leased until its visibility ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The message's identity, the same at every delivery.
    pub id: String,
    /// This delivery's right to extend, release or acknowledge; void once the lease has expired *and* the message was handed out again
    /// or the lease merely expired: an expired receipt is refused as `Fenced`.
    pub receipt: String,
    pub body: String,
    pub group: Option<String>,
    /// How often it was handed out, this time included: 1 on first delivery.
    pub receive_count: u32,
    pub sent_at: Millis,
}

/// What a queue holds, for people and for scaling: exact in the engine, approximate and up to a minute old on SQS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    /// Can be handed out now (FIFO: counting those behind a message in flight).
    pub visible: u64,
    /// Handed out, lease running.
    pub in_flight: u64,
    /// Waiting for their delay.
    pub delayed: u64,
    /// Age of the oldest visible message, where the service tells.
    pub oldest: Option<Millis>,
}

#[async_trait]
pub trait Queue: Send + Sync {
    /// Stores the messages, in their order. What can be seen to be wrong with one (too large, without its group) refuses all of them before
    /// any is stored. After another error any of them may have been stored where `may_have_happened` says so (SQS takes ten at a time and
    /// may fail between): every message has a derived identity, so sending all of them again is right. Unknown queue: `Permanent`.
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()>;

    /// Up to `max` (1..=10) messages, leased for `lease`; fewer than there are is no sign of the end. Waits up to `wait` for the first; empty
    /// when there was none. Dropping the future before it completes loses nothing: a message leased to a caller that went away returns when
    /// its lease ends. SQS counts in seconds: waits, leases and delays are rounded up there.
    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>>;

    /// The lease now ends `lease` from now. `Fenced` if the receipt is void.
    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()>;

    /// Hands the message back, visible after `delay`. `Fenced` if the receipt is void.
    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()>;

    /// Deletes the message. `Fenced` if the receipt is void: somebody else may have it. (SQS's standard queues delete with a void receipt
    /// that another process received.)
    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()>;

    /// The same for several messages of a queue, each answered for itself, in their order: fewer calls where the queue can.
    async fn ack_all(&self, queue: &str, receipts: &[&str]) -> Vec<PortResult<()>> {
        let mut answers = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            answers.push(self.ack(queue, receipt).await);
        }
        answers
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats>;

    /// Whether standard queues hand out in an exact order: of the groups with something to hand out, the one with the fewest messages in
    /// flight from this queue, among equals the one whose last turn was longest ago; of that group the lowest rank, then the oldest.
    /// Otherwise groups are shared fairly at best (SQS's fair queues), and within one there is no order.
    fn ranks(&self) -> bool {
        false
    }
}
