//! What operators do with messages that lie in a queue.

use async_trait::async_trait;
use push0_core::Millis;
use rusqlite::{OptionalExtension as _, named_params, params};

use super::Engine;
use super::commit::{Batch, Failure};
use super::queue::MAX_BODY;
use crate::port::{DeadLetters, Peeked, PortError, PortResult};

/// Messages looked at in one call.
const MAX_PEEK: usize = 100;

#[async_trait]
impl DeadLetters for Engine {
    async fn peek(&self, queue: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Peeked>> {
        if !(1..=MAX_PEEK).contains(&limit) {
            return Err(PortError::permanent(format!("a look is at 1 to {MAX_PEEK} messages, not {limit}")));
        }
        let after = after.map_or(Ok(0), number)?;
        let queue = queue.to_owned();
        self.0.combiner.submit(move |batch| peek(batch, &queue, after, limit)).await
    }

    async fn redrive(&self, queue: &str, id: &str, to: &str, body: Option<String>) -> PortResult<bool> {
        if body.as_ref().is_some_and(|body| body.len() > MAX_BODY) {
            return Err(PortError::permanent(format!("a message has at most {MAX_BODY} bytes")));
        }
        let (from, to, id) = (queue.to_owned(), to.to_owned(), number(id)?);
        let moved = self.0.combiner.submit(move |batch| redrive(batch, &from, id, &to, body)).await?;
        tracing::info!(queue, id, moved, "message sent back by an operator");
        Ok(moved)
    }

    async fn discard(&self, queue: &str, id: &str, reason: &str) -> PortResult<bool> {
        let (from, number) = (queue.to_owned(), number(id)?);
        let gone = self.0.combiner.submit(move |batch| discard(batch, &from, number)).await?;
        if gone {
            tracing::warn!(queue, id, reason, "message discarded by an operator");
        }
        Ok(gone)
    }
}

fn number(id: &str) -> PortResult<i64> {
    id.parse().map_err(|_| PortError::permanent(format!("{id:?} is no message id: a number")))
}

fn peek(batch: &Batch<'_>, queue: &str, after: i64, limit: usize) -> Result<Vec<Peeked>, Failure> {
    let line = batch.queues.line(queue)?;
    let now = batch.now;
    let mut look = batch.db.prepare_cached(
        "SELECT id, body, grp, receives, sent_at, waiting = 1 AND leased = 1 AND visible_at > :now AS in_flight
         FROM messages WHERE queue = :queue AND waiting IN (0, 1) AND id > :after ORDER BY id LIMIT :limit",
    )?;
    let found =
        look.query_map(named_params! { ":now": now.0, ":queue": line.id, ":after": after, ":limit": limit }, |row| {
            Ok(Peeked {
                id: row.get::<_, i64>("id")?.to_string(),
                body: row.get("body")?,
                group: row.get("grp")?,
                receive_count: row.get("receives")?,
                sent_at: Millis(row.get("sent_at")?),
                in_flight: row.get("in_flight")?,
            })
        })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Whether the message is in the queue; an error while somebody has it in hand. With its group.
fn at_rest(batch: &Batch<'_>, queue: i64, id: i64) -> Result<Option<Option<String>>, Failure> {
    let found: Option<(bool, Option<String>)> = batch
        .db
        .prepare_cached(
            "SELECT waiting = 1 AND leased = 1 AND visible_at > ?, grp FROM messages WHERE id = ? AND queue = ?",
        )?
        .query_row(params![batch.now.0, id, queue], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((true, _)) => Err(PortError::conflict(format!("somebody has message {id} in hand")).into()),
        Some((false, group)) => Ok(Some(group)),
        None => Ok(None),
    }
}

/// As a new message: a receipt of its time here cannot be taken for one of its time there.
fn redrive(batch: &mut Batch<'_>, from: &str, id: i64, to: &str, body: Option<String>) -> Result<bool, Failure> {
    let source = batch.queues.line(from)?.id;
    let target = batch.queues.line(to)?.clone();
    let Some(group) = at_rest(batch, source, id)? else {
        return Ok(false);
    };
    if target.fifo && group.is_none() {
        return Err(PortError::permanent(format!("message {id} has no group, which queue {to} needs")).into());
    }
    batch
        .db
        .prepare_cached(
            "INSERT INTO messages (queue, fifo, grp, rank, waiting, visible_at, sent_at, body)
             SELECT :queue, :fifo, grp, iif(:fifo, 0, rank), 0, :now, sent_at, coalesce(:body, body)
             FROM messages WHERE id = :id",
        )?
        .execute(named_params! {
            ":queue": target.id, ":fifo": target.fifo, ":now": batch.now.0, ":body": body, ":id": id,
        })?;
    batch.db.prepare_cached("DELETE FROM messages WHERE id = ?")?.execute(params![id])?;
    batch.queues.touch(to);
    batch.queues.touch(from);
    Ok(true)
}

fn discard(batch: &mut Batch<'_>, queue: &str, id: i64) -> Result<bool, Failure> {
    let line = batch.queues.line(queue)?.id;
    if at_rest(batch, line, id)?.is_none() {
        return Ok(false);
    }
    batch.db.prepare_cached("DELETE FROM messages WHERE id = ?")?.execute(params![id])?;
    batch.queues.touch(queue);
    Ok(true)
}
