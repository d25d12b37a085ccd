//! What people do with messages that nobody handles: look at them where they lie, send them back, take them out.
//!
//! Kept apart from [`super::Queue`]: only operators need it, and a queue service need not be able to look without receiving. An adapter
//! for one that is not (SQS) receives with a lease of a few seconds and releases; ids are the service's message ids, and what is in
//! flight with somebody else at that moment is not shown. There a look counts as a receive and hides the messages for that moment, and
//! a message sent back is sent anew: its time of sending is that of the move.

use async_trait::async_trait;
use push0_core::Millis;
use serde::{Deserialize, Serialize};

use super::PortResult;

/// A message as it lies in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    /// Names it within its queue until it leaves it.
    pub id: String,
    pub body: String,
    pub group: Option<String>,
    /// How often it was handed out from this queue.
    pub receive_count: u32,
    pub sent_at: Millis,
    /// Somebody has it in hand.
    pub in_flight: bool,
}

#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Up to `limit` (1 to 100) messages of a queue in the order of their ids, those behind `after`. Changes nothing where the service can
    /// look without receiving. Unknown queue: `Permanent`.
    async fn peek(&self, queue: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Peeked>>;

    /// Moves a message to the queue `to`, where it is new: its group stays, the time of its first sending where the service can do that, the body unless
    /// another is given. It is in one of the two queues at any moment where the service can do that, in both for a moment elsewhere. False: it
    /// is not there (any more). `Conflict`: somebody has it in hand.
    async fn redrive(&self, queue: &str, id: &str, to: &str, body: Option<String>) -> PortResult<bool>;

    /// Takes a message out for good; the reason goes to the log. False and `Conflict` as above.
    async fn discard(&self, queue: &str, id: &str, reason: &str) -> PortResult<bool>;
}
