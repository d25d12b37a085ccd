//! Queues in SQL: what SQS does, one statement group an operation.
//!
//! Ids are row ids that are never used twice (AUTOINCREMENT), a receipt is `ID.RECEIVES`: which delivery of which message. It is a name,
//! not a secret: over HTTP it is the caller's role that protects a queue.

use std::collections::BTreeMap;

use push0_core::Millis;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::commit::{Batch, Failure};
use super::fairness::{self, Turns};
use super::waiting::Line;
use crate::port::{Delivery, Outgoing, PortError, PortResult, QueueStats};

pub(super) use push0_core::message::MAX_MESSAGE as MAX_BODY;
/// Messages a receive.
pub(super) const MAX_RECEIVE: usize = 10;
/// A dedup id is remembered this long after the send that stored it, whatever became of the message.
pub(super) const DEDUP_WINDOW: Millis = Millis::from_secs(5 * 60);
pub(super) const MAX_DELAY: Millis = Millis::from_secs(15 * 60);
/// From the receive on, however often the lease is extended.
pub(super) const MAX_LEASE: Millis = Millis::from_secs(12 * 60 * 60);

pub(super) fn check_outgoing(fifo: bool, message: &Outgoing) -> PortResult<()> {
    if message.body.len() > MAX_BODY {
        let problem = format!("a message of {} bytes: at most {MAX_BODY} are allowed", message.body.len());
        return Err(PortError::permanent(problem));
    }
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty() && name.len() <= 256);
    match fifo {
        true if !named(&message.group) || !named(&message.dedup) => {
            Err(PortError::permanent("a FIFO queue needs a group and a dedup id of 1 to 256 bytes"))
        }
        true if message.delay != Millis(0) => Err(PortError::permanent("a FIFO queue does not delay single messages")),
        false if message.delay > MAX_DELAY => Err(PortError::permanent("a delay is at most 15 minutes")),
        _ => Ok(()),
    }
}

pub(super) fn check_lease(lease: Millis) -> PortResult<()> {
    if lease == Millis(0) || lease > MAX_LEASE {
        return Err(PortError::permanent("a lease is more than 0 and at most 12 hours"));
    }
    Ok(())
}

pub(super) fn send(batch: &mut Batch<'_>, queue: &str, messages: &[Outgoing]) -> Result<(), Failure> {
    let line = batch.queues.line(queue)?;
    for message in messages {
        check_outgoing(line.fifo, message)?;
    }
    let (db, now) = (batch.db, batch.now);
    if line.fifo {
        let forgotten = now.since(DEDUP_WINDOW);
        db.prepare_cached("DELETE FROM dedup WHERE queue = ? AND at <= ?")?.execute(params![line.id, forgotten.0])?;
    }
    let mut remember =
        db.prepare_cached("INSERT INTO dedup (queue, id, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?;
    let mut insert = db.prepare_cached(
        "INSERT INTO messages (queue, fifo, grp, rank, waiting, visible_at, sent_at, body)
         VALUES (:queue, :fifo, :grp, :rank, :waiting, :visible_at, :sent_at, :body)",
    )?;
    for message in messages {
        if line.fifo && remember.execute(params![line.id, message.dedup, now.0])? == 0 {
            continue;
        }
        insert.execute(named_params! {
            ":queue": line.id,
            ":fifo": line.fifo,
            ":grp": message.group,
            // FIFO is by order of arrival alone.
            ":rank": if line.fifo { 0 } else { message.rank },
            ":waiting": message.delay > Millis(0),
            ":visible_at": now.plus(message.delay).0,
            ":sent_at": now.0,
            ":body": message.body,
        })?;
    }
    batch.queues.touch(queue);
    Ok(())
}

#[derive(Default)]
pub(super) struct Claimed {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) dead_lettered: bool,
}

struct Candidate {
    id: i64,
    receives: u32,
    delivery: Delivery,
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    let (id, receives) = (row.get::<_, i64>("id")?, row.get::<_, u32>("receives")?);
    let delivery = Delivery {
        id: id.to_string(),
        receipt: format!("{id}.{}", receives.saturating_add(1)),
        body: row.get("body")?,
        group: row.get("grp")?,
        receive_count: receives.saturating_add(1),
        sent_at: Millis(row.get("sent_at")?),
    };
    Ok(Candidate { id, receives, delivery })
}

/// Leases up to `max` messages that are visible now; those received too often go to the dead-letter queue instead.
pub(super) fn claim(
    db: &Connection,
    line: &Line,
    lines: &BTreeMap<String, Line>,
    turns: &mut Turns,
    now: Millis,
    max: usize,
    lease: Millis,
) -> rusqlite::Result<Claimed> {
    db.prepare_cached(
        "UPDATE messages SET waiting = 0, leased = 0 WHERE queue = ? AND waiting = 1 AND visible_at <= ?",
    )?
    .execute(params![line.id, now.0])?;
    let mut claim = Claim { db, line, lines, now, max, lease, claimed: Claimed::default() };
    if line.fifo {
        claim.fifo()?
    } else {
        claim.standard(turns)?
    }
    Ok(claim.claimed)
}

struct Claim<'c> {
    db: &'c Connection,
    line: &'c Line,
    lines: &'c BTreeMap<String, Line>,
    now: Millis,
    max: usize,
    lease: Millis,
    claimed: Claimed,
}

impl Claim<'_> {
    fn room(&self) -> usize {
        self.max - self.claimed.deliveries.len()
    }

    /// Leases a candidate, or moves it to the dead letters: then false.
    fn take(&mut self, candidate: Candidate) -> rusqlite::Result<bool> {
        if let Some(to) = dead_letters(self.line, self.lines, candidate.receives) {
            move_to(self.db, candidate.id, to)?;
            self.claimed.dead_lettered = true;
            return Ok(false);
        }
        lease_out(self.db, candidate.id, self.now, self.lease)?;
        self.claimed.deliveries.push(candidate.delivery);
        Ok(true)
    }

    /// Each message from the group whose turn it is; of a group that is the only one, as many as there is room for.
    fn standard(&mut self, turns: &mut Turns) -> rusqlite::Result<()> {
        let mut groups = fairness::waiting(self.db, self.line.id)?;
        while self.room() > 0 {
            let Some(next) = turns.next(&groups) else { return Ok(()) };
            let at_once = if groups.len() == 1 { self.room() } else { 1 };
            let candidates = fairness::ready(self.db, self.line.id, &groups[next].name, at_once, candidate)?;
            if candidates.is_empty() {
                groups.swap_remove(next);
                continue;
            }
            for candidate in candidates {
                if self.take(candidate)? {
                    groups[next].in_flight += 1;
                    turns.took(&groups[next].name);
                }
            }
        }
        Ok(())
    }

    fn fifo(&mut self) -> rusqlite::Result<()> {
        // The group this claim is taking from; no longer free, but its own.
        let mut current: Option<String> = None;
        while self.room() > 0 {
            let resumed = current.is_some();
            let group = match current.take() {
                None => first_free_group(self.db, self.line.id)?,
                group => group,
            };
            let Some(group) = group else { return Ok(()) };
            for candidate in ready_of_group(self.db, self.line.id, &group, self.room())? {
                let is_leased = self.take(candidate)?;
                if is_leased || resumed {
                    current = Some(group.clone());
                }
                if !is_leased {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn dead_letters<'a>(line: &Line, lines: &'a BTreeMap<String, Line>, receives: u32) -> Option<&'a Line> {
    let (name, max_receives) = line.dead_letter.as_ref()?;
    if receives >= *max_receives { lines.get(name) } else { None }
}

fn ready_of_group(db: &Connection, queue: i64, group: &str, room: usize) -> rusqlite::Result<Vec<Candidate>> {
    db.prepare_cached(
        "SELECT id, receives, body, grp, sent_at FROM messages
         WHERE fifo = 1 AND queue = ? AND grp = ? AND waiting = 0 ORDER BY id LIMIT ?",
    )?
    .query_map(params![queue, group, room], candidate)?
    .collect()
}

/// The group whose first message is the oldest, of those with nothing in flight; steps from group to group in the index, so that a long
/// backlog behind a blocked group costs nothing.
fn first_free_group(db: &Connection, queue: i64) -> rusqlite::Result<Option<String>> {
    let mut next =
        db.prepare_cached("SELECT grp FROM messages WHERE fifo = 1 AND queue = ? AND grp > ? ORDER BY grp LIMIT 1")?;
    let mut blocked =
        db.prepare_cached("SELECT 1 FROM messages WHERE fifo = 1 AND queue = ? AND grp = ? AND waiting = 1 LIMIT 1")?;
    let mut head = db.prepare_cached(
        "SELECT id FROM messages WHERE fifo = 1 AND queue = ? AND grp = ? AND waiting = 0 ORDER BY id LIMIT 1",
    )?;
    let mut best: Option<(i64, String)> = None;
    let mut group = String::new();
    while let Some(found) = next.query_row(params![queue, group], |row| row.get(0)).optional()? {
        group = found;
        if blocked.exists(params![queue, group])? {
            continue;
        }
        let first: Option<i64> = head.query_row(params![queue, group], |row| row.get(0)).optional()?;
        if let Some(first) = first
            && best.as_ref().is_none_or(|(best, _)| first < *best)
        {
            best = Some((first, group.clone()));
        }
    }
    Ok(best.map(|(_, group)| group))
}

fn lease_out(db: &Connection, id: i64, now: Millis, lease: Millis) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE messages SET waiting = 1, leased = 1, leased_at = :now, lease = :lease, visible_at = :until,
             receives = receives + 1
         WHERE id = :id",
    )?
    .execute(named_params! { ":id": id, ":now": now.0, ":lease": lease.0, ":until": now.plus(lease).0 })?;
    Ok(())
}

/// The message keeps its id, body, group and time; its receives start again.
fn move_to(db: &Connection, id: i64, to: &Line) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE messages SET queue = ?, fifo = ?, waiting = 0, leased = 0, visible_at = 0, receives = 0 WHERE id = ?",
    )?
    .execute(params![to.id, to.fifo, id])?;
    Ok(())
}

/// The next moment after `now` at which a message of the queue becomes visible by itself.
pub(super) fn next_due(db: &Connection, line: &Line, now: Millis) -> rusqlite::Result<Option<Millis>> {
    db.prepare_cached("SELECT min(visible_at) FROM messages WHERE queue = ? AND waiting = 1 AND visible_at > ?")?
        .query_row(params![line.id, now.0], |row| Ok(row.get::<_, Option<u64>>(0)?.map(Millis)))
}

struct Held {
    id: i64,
    leased_at: Millis,
}

/// The message the receipt stands for, if its lease is running.
fn held(batch: &Batch<'_>, queue: &str, receipt: &str) -> Result<Held, Failure> {
    let line = batch.queues.line(queue)?;
    let parsed = receipt
        .split_once('.')
        .and_then(|(id, receives)| Some((id.parse::<i64>().ok()?, receives.parse::<u32>().ok()?)));
    let Some((id, receives)) = parsed else {
        return Err(PortError::permanent("not a receipt of this queue").into());
    };
    let leased_at: Option<u64> = batch
        .db
        .prepare_cached(
            "SELECT leased_at FROM messages
             WHERE id = ? AND queue = ? AND receives = ? AND waiting = 1 AND leased = 1 AND visible_at > ?",
        )?
        .query_row(params![id, line.id, receives, batch.now.0], |row| row.get(0))
        .optional()?;
    match leased_at {
        Some(leased_at) => Ok(Held { id, leased_at: Millis(leased_at) }),
        None => Err(PortError::fenced("the lease of this receipt is over").into()),
    }
}

pub(super) fn extend(batch: &mut Batch<'_>, queue: &str, receipt: &str, lease: Millis) -> Result<(), Failure> {
    let held = held(batch, queue, receipt)?;
    let until = batch.now.plus(lease).min(held.leased_at.plus(MAX_LEASE));
    batch
        .db
        .prepare_cached("UPDATE messages SET visible_at = ?, lease = ? WHERE id = ?")?
        .execute(params![until.0, lease.0, held.id])?;
    batch.queues.touch(queue);
    Ok(())
}

pub(super) fn release(batch: &mut Batch<'_>, queue: &str, receipt: &str, delay: Millis) -> Result<(), Failure> {
    let held = held(batch, queue, receipt)?;
    batch
        .db
        .prepare_cached("UPDATE messages SET leased = 0, waiting = ?, visible_at = ? WHERE id = ?")?
        .execute(params![delay > Millis(0), batch.now.plus(delay).0, held.id])?;
    batch.queues.touch(queue);
    Ok(())
}

/// Takes back a delivery that nobody saw: as if it had not been handed out.
pub(super) fn give_back(batch: &mut Batch<'_>, queue: &str, receipt: &str) -> Result<(), Failure> {
    let held = match held(batch, queue, receipt) {
        Ok(held) => held,
        Err(Failure::Refused(_)) => return Ok(()),
        Err(storage) => return Err(storage),
    };
    batch
        .db
        .prepare_cached("UPDATE messages SET leased = 0, waiting = 0, visible_at = ? WHERE id = ?")?
        .execute(params![batch.now.0, held.id])?;
    batch.queues.touch(queue);
    Ok(())
}

/// Ends all leases of a queue at once.
pub(super) fn reclaim(batch: &mut Batch<'_>, queue: &str) -> Result<usize, Failure> {
    let line = batch.queues.line(queue)?;
    let reclaimed = batch
        .db
        .prepare_cached(
            "UPDATE messages SET leased = 0, waiting = 0, visible_at = ? WHERE queue = ? AND waiting = 1 AND leased = 1",
        )?
        .execute(params![batch.now.0, line.id])?;
    batch.queues.touch(queue);
    Ok(reclaimed)
}

pub(super) fn ack(batch: &mut Batch<'_>, queue: &str, receipt: &str) -> Result<(), Failure> {
    let held = held(batch, queue, receipt)?;
    batch.db.prepare_cached("DELETE FROM messages WHERE id = ?")?.execute(params![held.id])?;
    if batch.queues.line(queue)?.fifo {
        // The rest of its group may be free now.
        batch.queues.touch(queue);
    }
    Ok(())
}

pub(super) fn stats(batch: &Batch<'_>, queue: &str) -> Result<QueueStats, Failure> {
    let line = batch.queues.line(queue)?;
    let stats = batch
        .db
        .prepare_cached(
            "SELECT
                 count(*) FILTER (WHERE waiting = 0 OR visible_at <= :now) AS visible,
                 count(*) FILTER (WHERE waiting = 1 AND visible_at > :now AND leased = 1) AS in_flight,
                 count(*) FILTER (WHERE waiting = 1 AND visible_at > :now AND leased = 0) AS delayed,
                 min(sent_at) FILTER (WHERE waiting = 0 OR visible_at <= :now) AS oldest
             FROM messages WHERE queue = :queue AND waiting IN (0, 1)",
        )?
        .query_row(named_params! { ":queue": line.id, ":now": batch.now.0 }, |row| {
            Ok(QueueStats {
                visible: row.get("visible")?,
                in_flight: row.get("in_flight")?,
                delayed: row.get("delayed")?,
                oldest: row.get::<_, Option<u64>>("oldest")?.map(|sent_at| batch.now.since(Millis(sent_at))),
            })
        })?;
    Ok(stats)
}

/// Leases that ran when the engine's last owner ended: their holders could not extend them meanwhile, so they end no sooner than their own
/// length, at most `grace`, from now.
pub(super) fn grant_grace(db: &Connection, now: Millis, grace: Millis) -> rusqlite::Result<usize> {
    db.execute(
        "UPDATE messages SET visible_at = max(visible_at, :now + min(lease, :grace)) WHERE waiting = 1 AND leased = 1",
        named_params! { ":now": now.0, ":grace": grace.0 },
    )
}

/// The queue's number, given on first sight.
pub(super) fn register(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    db.execute("INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING", [name])?;
    db.query_row("SELECT id FROM queues WHERE name = ?", [name], |row| row.get(0))
}
