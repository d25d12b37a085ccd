//! What operators do with messages, where looking is receiving.
//!
//! Every look receives what there is for [`HOLD`] and hands it back: nobody else gets these messages for that moment, and SQS counts a
//! receive. That does no harm in a dead-letter queue, which has none itself. Of a FIFO queue the first ten of each group are seen: SQS
//! hands out no more of a group while some of it are in hand.

use std::collections::BTreeMap;

use async_trait::async_trait;
use push0_core::Millis;

use super::send::MAX_BODY;
use super::{Sqs, poll};
use crate::port::{DeadLetters, Delivery, Outgoing, Peeked, PortError, PortResult, Queue as _};

/// Messages shown by one look.
const MAX_PEEK: usize = 100;
/// Messages received by one look at most: those beyond are seen when these are gone.
const MOST: usize = 1_000;
/// How long a look may take before its messages return by themselves.
const HOLD: Millis = Millis::from_secs(30);
/// An answer to a receive that does not wait may leave messages out; one that waits asks everywhere.
const WAIT: Millis = Millis::from_secs(1);

#[async_trait]
impl DeadLetters for Sqs {
    async fn peek(&self, queue: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Peeked>> {
        if !(1..=MAX_PEEK).contains(&limit) {
            return Err(PortError::permanent(format!("a look is at 1 to {MAX_PEEK} messages, not {limit}")));
        }
        after.map_or(Ok(()), check_id)?;
        let mut held = BTreeMap::new();
        let looked = collect(self, queue, &mut held, |_| false).await;
        hand_back(self, queue, held.values()).await?;
        looked?;
        let behind = held.into_values().filter(|delivery| after.is_none_or(|after| delivery.id.as_str() > after));
        Ok(behind.take(limit).map(peeked).collect())
    }

    async fn redrive(&self, queue: &str, id: &str, to: &str, body: Option<String>) -> PortResult<bool> {
        if body.as_ref().is_some_and(|body| body.len() > MAX_BODY) {
            return Err(PortError::permanent(format!("a message has at most {MAX_BODY} bytes")));
        }
        self.url(to).await?;
        let Some(delivery) = find(self, queue, id).await? else { return Ok(false) };
        let message = Outgoing {
            body: body.unwrap_or_else(|| delivery.body.clone()),
            group: delivery.group.clone(),
            // The id of its first sending may be remembered still. This one is the same when the move is tried again.
            dedup: Some(format!("redrive:{id}")),
            ..Outgoing::default()
        };
        if let Err(error) = self.send(to, vec![message]).await {
            hand_back(self, queue, [&delivery]).await?;
            return Err(error);
        }
        if let Err(error) = self.ack(queue, &delivery.receipt).await {
            // It is there now, and perhaps here, too: for whoever tries again.
            hand_back(self, queue, [&delivery]).await?;
            return Err(PortError::new(error.kind(), true, error.message()));
        }
        tracing::info!(queue, id, to, "message sent back by an operator");
        Ok(true)
    }

    async fn discard(&self, queue: &str, id: &str, reason: &str) -> PortResult<bool> {
        let Some(delivery) = find(self, queue, id).await? else { return Ok(false) };
        self.ack(queue, &delivery.receipt).await?;
        tracing::warn!(queue, id, reason, "message discarded by an operator");
        Ok(true)
    }
}

/// SQS's ids are UUIDs.
fn check_id(id: &str) -> PortResult<()> {
    let is_id = id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if is_id { Ok(()) } else { Err(PortError::permanent(format!("{id:?} is no message id: a UUID"))) }
}

fn peeked(delivery: Delivery) -> Peeked {
    Peeked {
        id: delivery.id,
        body: delivery.body,
        group: delivery.group,
        // Not this time.
        receive_count: delivery.receive_count.saturating_sub(1),
        sent_at: delivery.sent_at,
        in_flight: false,
    }
}

/// Receives until nothing more comes, `enough` says so, or there are too many. What was received is in `held`, by id, whatever happens.
async fn collect(
    sqs: &Sqs,
    queue: &str,
    held: &mut BTreeMap<String, Delivery>,
    enough: impl Fn(&Delivery) -> bool,
) -> PortResult<()> {
    while held.len() < MOST {
        let deliveries = sqs.receive(queue, 10, WAIT, HOLD).await?;
        let is_over = deliveries.is_empty() || deliveries.iter().any(&enough);
        held.extend(deliveries.into_iter().map(|delivery| (delivery.id.clone(), delivery)));
        if is_over {
            break;
        }
    }
    Ok(())
}

/// The message, in hand; the others are handed back. None where it is not there; `Conflict` where somebody may have it in hand.
async fn find(sqs: &Sqs, queue: &str, id: &str) -> PortResult<Option<Delivery>> {
    check_id(id)?;
    let mut held = BTreeMap::new();
    let looked = collect(sqs, queue, &mut held, |delivery| delivery.id == id).await;
    let found = held.remove(id);
    let with_us = held.len() as u64;
    let stats = if found.is_none() && looked.is_ok() { Some(sqs.stats(queue).await) } else { None };
    hand_back(sqs, queue, held.values()).await?;
    if found.is_some() {
        return Ok(found);
    }
    looked?;
    match stats.transpose()? {
        // Not every message was seen.
        Some(stats) if stats.in_flight > with_us || stats.visible > 0 => Err(PortError::conflict(format!(
            "message {id} was not seen in queue {queue}: {} are in somebody's hand, {} could not be looked at",
            stats.in_flight.saturating_sub(with_us),
            stats.visible
        ))),
        _ => Ok(None),
    }
}

async fn hand_back(sqs: &Sqs, queue: &str, deliveries: impl IntoIterator<Item = &Delivery>) -> PortResult<()> {
    let url = sqs.url(queue).await?;
    poll::hand_back(sqs, queue, &url, deliveries.into_iter().collect(), |_| 0).await;
    Ok(())
}
