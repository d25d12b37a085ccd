//! Messages that are kept for a time only. A queue of SQS forgets by itself; here its owner says when. For queues that are a copy of
//! what stands elsewhere: what a block needs is never deleted by age.

use push0_core::Millis;
use rusqlite::params;

use super::commit::{Batch, Failure};

/// Deletes up to `most` messages sent before `before` that nobody has in hand, and says how many went.
pub(super) fn expire(batch: &mut Batch<'_>, queue: &str, before: Millis, most: u32) -> Result<usize, Failure> {
    let id = batch.queues.line(queue)?.id;
    let gone = batch
        .db
        .prepare_cached(
            "DELETE FROM messages WHERE id IN
             (SELECT id FROM messages WHERE queue = ?1 AND waiting = 0 AND sent_at < ?2 ORDER BY grp, rank, id LIMIT ?3)",
        )?
        .execute(params![id, before.0, most])?;
    batch.queues.touch(queue);
    Ok(gone)
}
