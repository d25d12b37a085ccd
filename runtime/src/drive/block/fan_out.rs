//! Sending a block's leaves, in pieces: each message of `ranges` divides a range or sends one piece, never more.

use push0_core::block::{self, Piece, RangeStep};
use push0_core::message::{RangeMessage, queue, work_queue};
use push0_core::record::{
    BlobRef, DecodeError, MANIFEST_PAGE, Manifest, ManifestPage, ManifestSlot, RowKey, RunView, Versioned, attribute,
};
use push0_core::{ErrorCode, Millis, RunId};

use super::{demote, fail, hedge, load_run, timer};
use crate::drive::chain::task_message;
use crate::drive::store::{key, read_blob};
use crate::drive::{Context, DriveError};
use crate::port::{Outgoing, Row};

/// Sends the whole block's range on, unless that is marked as done.
pub(super) async fn open(context: &Context, run: &RunId, segments: u32) -> Result<(), DriveError> {
    let at = key(RowKey::ranges(run));
    let row = context.table.get(&at).await?;
    if is_marked(row.as_ref(), attribute::OPENED) {
        return Ok(());
    }
    send_ranges(context, run, &[(0, segments)], false).await?;
    context.table.set_if(&at, attribute::OPENED, None, Some(true.into())).await?;
    Ok(())
}

/// A message of `ranges`.
pub async fn on_range(context: &Context, message: &RangeMessage) -> Result<(), DriveError> {
    let view = load_run(context, &message.run).await?;
    if view.is_over() {
        return Ok(());
    }
    let Some(manifest) = &view.manifest else {
        return Err(DriveError::poison(ErrorCode::Poison, format!("{} has not been split yet", message.run)));
    };
    match block::range_step(message.from, message.to, manifest.segments) {
        Some(RangeStep::Divide(parts)) => send_ranges(context, &message.run, &parts, message.demote).await,
        Some(RangeStep::Send(piece)) => match send_or_demote(context, &view, manifest, piece, message.demote).await {
            // Its bytes are those that were accepted, so no time will mend it.
            Err(error @ DriveError::Stored { .. }) => {
                let reason = ErrorCode::SplitDamaged.says(error.to_string());
                fail::fail_run(context, &message.run, &reason).await.map(|_| ())
            }
            Err(DriveError::Damaged(what)) => fail::spoil_run(context, &message.run, &what).await.map(|_| ()),
            sent => sent,
        },
        None => {
            let (from, to, segments) = (message.from, message.to, manifest.segments);
            let why = format!("{from}..{to} is not a range of a block of {segments} segments");
            Err(DriveError::poison(ErrorCode::Poison, why))
        }
    }
}

async fn send_or_demote(
    context: &Context,
    view: &RunView,
    manifest: &ManifestSlot,
    piece: Piece,
    demote: bool,
) -> Result<(), DriveError> {
    let is_fresh = send_piece(context, view, manifest, piece).await?;
    if demote { demote::piece(context, view, piece.number, is_fresh).await } else { Ok(()) }
}

/// Sends the ranges of unmarked pieces again. Returns how many.
pub(super) async fn reopen(context: &Context, view: &RunView) -> Result<usize, DriveError> {
    let row = context.table.get(&key(RowKey::ranges(&view.run.id))).await?;
    let pieces = unsent(view, row.as_ref());
    let ranges: Vec<(u32, u32)> = pieces.iter().map(|piece| (piece.from, piece.to)).collect();
    send_ranges(context, &view.run.id, &ranges, false).await?;
    Ok(ranges.len())
}

/// The pieces that are not marked as sent in the run's row `ranges`.
pub(super) fn unsent(view: &RunView, ranges: Option<&Row>) -> Vec<Piece> {
    let segments = view.manifest.as_ref().map_or(0, |manifest| manifest.segments);
    let unmarked = (0..block::pieces(segments)).filter(|piece| !is_marked(ranges, &attribute::piece(*piece)));
    unmarked.map(|piece| block::piece_of(piece * MANIFEST_PAGE, segments)).collect()
}

/// When a piece had been sent, by its mark. Marks of before there were timers say no time: long ago.
pub(super) fn sent_at(ranges: Option<&Row>, piece: u32) -> Option<Millis> {
    let mark = ranges.and_then(|row| row.attribute(&attribute::piece(piece)))?;
    Some(Millis(mark.as_u64().unwrap_or(0)))
}

pub(super) fn is_marked(row: Option<&Row>, name: &str) -> bool {
    row.is_some_and(|row| row.attribute(name).is_some())
}

pub(super) async fn send_ranges(
    context: &Context,
    run: &RunId,
    ranges: &[(u32, u32)],
    demote: bool,
) -> Result<(), DriveError> {
    if ranges.is_empty() {
        return Ok(());
    }
    let message = |&(from, to): &(u32, u32)| Outgoing {
        body: RangeMessage { run: run.clone(), from, to, demote }.to_json(),
        group: Some(run.chain.to_string()),
        ..Outgoing::default()
    };
    context.queue.send(queue::RANGES, ranges.iter().map(message).collect()).await?;
    Ok(())
}

/// Sends a piece's leaves and marks it, unless it is marked. Returns whether it did.
async fn send_piece(
    context: &Context,
    view: &RunView,
    manifest: &ManifestSlot,
    piece: Piece,
) -> Result<bool, DriveError> {
    let at = key(RowKey::ranges(&view.run.id));
    let mark = attribute::piece(piece.number);
    if is_marked(context.table.get(&at).await?.as_ref(), &mark) {
        return Ok(false);
    }
    let page = page(context, manifest, piece.number).await?;
    let latest = demote::latest(context, &view.run).await?;
    let run = latest.as_ref().unwrap_or(&view.run);
    let tasks = (piece.from..piece.to).zip(page.segments);
    let tasks: Vec<_> = tasks.map(|(segment, blob)| run.leaf_task(segment, blob)).collect();
    let Some(first) = tasks.first() else { return Ok(false) };
    let queue = work_queue(&first.pool, first.class);
    let copies = run.policy.stage(first.id.node.stage).copies;
    let copied = tasks.iter().flat_map(|task| (0..copies).map(|copy| task.as_copy(copy)));
    let outgoing = copied.map(|task| task_message(&task, run, Millis(0))).collect();
    context.queue.send(&queue, outgoing).await?;
    let now = context.clock.now();
    // The first piece has a timer since the run began.
    if piece.number > 0 {
        timer::arm(context, &view.run.id, piece.number, now).await?;
    }
    hedge::arm(context, &view.run, piece.number, now).await?;
    context.table.set_if(&at, &mark, None, Some(now.0.into())).await?;
    Ok(true)
}

pub(super) async fn page(context: &Context, slot: &ManifestSlot, number: u32) -> Result<ManifestPage, DriveError> {
    let manifest: Manifest = read_blob(context, &slot.manifest).await?;
    let blob = manifest.pages.get(number as usize);
    let blob = blob.ok_or_else(|| not_whole(slot, number))?;
    let page: ManifestPage = read_blob(context, blob).await?;
    let expected = block::piece_of(number * MANIFEST_PAGE, slot.segments);
    if page.first != expected.from || page.segments.len() as u32 != expected.to - expected.from {
        return Err(not_whole(slot, number));
    }
    Ok(page)
}

fn not_whole(slot: &ManifestSlot, page: u32) -> DriveError {
    let why = format!("page {page} is missing or does not name its segments");
    DriveError::Stored { what: slot.manifest.key.clone(), error: DecodeError::Malformed { record: "manifest", why } }
}

/// The blob of one segment.
pub(super) async fn segment(context: &Context, slot: &ManifestSlot, segment: u32) -> Result<BlobRef, DriveError> {
    let mut page = page(context, slot, segment / MANIFEST_PAGE).await?;
    Ok(page.segments.swap_remove((segment % MANIFEST_PAGE) as usize))
}
