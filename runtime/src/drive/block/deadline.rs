//! The timer of a block's deadline: one message of `timers`, sent when the block is admitted, whether it is proven at once or waits.
//!
//! What is due follows from the block's row (`push0_core::chain`, deadlines): the message only brings somebody to look. One that is lost
//! is made up for by the reaper.

use push0_core::chain::Event;
use push0_core::message::{TimerKind, TimerMessage};
use push0_core::record::{BlockRow, RowKey};
use push0_core::{Millis, RunId};

use super::{Looked, timer};
use crate::drive::store::{Loaded, load};
use crate::drive::{Context, DriveError, chain};

/// Sends the message that comes back when the block's deadline has passed.
pub(in crate::drive) async fn arm(context: &Context, block: &BlockRow) -> Result<(), DriveError> {
    let Some(due) = due(block) else { return Ok(()) };
    let run = RunId::new(block.chain.clone(), block.number, block.epoch);
    timer::send(context, &TimerMessage { run, piece: 0, due, kind: TimerKind::Deadline }).await
}

/// The first millisecond at which a block that is not final is late.
fn due(block: &BlockRow) -> Option<Millis> {
    let is_open = block.final_seq.is_none() && block.missed.is_none();
    block.deadline.filter(|_| is_open).map(|deadline| deadline.plus(Millis(1)))
}

/// A message of `timers` about a deadline.
pub(super) async fn on_timer(context: &Context, timer: &TimerMessage) -> Result<Looked, DriveError> {
    let number = timer.run.number;
    let block: Option<Loaded<BlockRow>> = load(context, RowKey::block(&timer.run.chain, number)).await?;
    // Of another deadline than the block's is the message of a block that was replaced.
    if block.and_then(|block| due(&block.record)) != Some(timer.due) {
        return Ok(Looked::Dropped);
    }
    if context.clock.now() < timer.due {
        timer::send(context, timer).await?;
        return Ok(Looked::SentOn);
    }
    match chain::drive(context, &timer.run.chain, &Event::DeadlinePassed { number }).await? {
        Ok(()) => Ok(Looked::Found(1)),
        Err(_) => Ok(Looked::Dropped),
    }
}
