//! Timers: each part of a run (a piece of its fan-out, with what is made from it) has one that looks after it until the run is over.
//! What a look finds is decided in `push0_core::block`; see [`block::look`].
//!
//! A part's timer is a message of `timers` with the time it is due at. The part's row holds the same time and what was seen; whoever
//! looks sends the next message *before* the row moves on to it, so a crash in between leaves the old message, which comes again. A message
//! of a time that the row has passed is a copy, or of a look that was cut off, and is dropped; one of a later time than the row's is not:
//! whoever sent it may be held up before its write.
//!
//! The reaper looks where that chain broke: no process remembers anything between two looks.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::block::{self, Graph, Look, Open, Seen};
use push0_core::chain as chain_core;
use push0_core::message::{TimerKind, TimerMessage, queue};
use push0_core::record::{BlockRow, NodeView, RowKey, RunView, Versioned as _, Watch, attribute};
use push0_core::{ErrorCode, Millis, Node, RunId};

use super::{deadline, fail, fan_out, graph, hedge};
use crate::drive::store::{key, load};
use crate::drive::{Context, DriveError, chain};
use crate::port::{Key, Outgoing, Row, Value};

/// The longest a queue delays a message.
const LONGEST_DELAY: Millis = Millis::from_secs(15 * 60);

/// Rows asked for at a time.
const PAGE: usize = 256;

/// Most overdue parts of a run the reaper looks at in one turn.
const OVERDUE: usize = 16;

/// What a timer's message led to; for logs and metrics only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Not due yet: sent on.
    SentOn,
    /// Another message counts, or the run is over, or nobody looks here.
    Dropped,
    /// So many tasks were given up or sent again.
    Found(usize),
}

/// Arms the timer of a part that is just being sent.
pub(in crate::drive) async fn arm(context: &Context, run: &RunId, piece: u32, sent: Millis) -> Result<(), DriveError> {
    let Some(quiet) = context.quiet else { return Ok(()) };
    let due = block::first_look(sent, quiet);
    send(context, &TimerMessage { run: run.clone(), piece, due, kind: TimerKind::Lost }).await
}

pub(super) async fn send(context: &Context, timer: &TimerMessage) -> Result<(), DriveError> {
    let TimerMessage { run, piece, due, kind } = timer;
    let name = match kind {
        TimerKind::Lost => "timer",
        TimerKind::Hedge => "hedge",
        TimerKind::Deadline => "deadline",
    };
    let outgoing = Outgoing {
        body: timer.to_json(),
        group: Some(run.chain.to_string()),
        dedup: Some(format!("{run}/{name}/{piece}/{}", due.0)),
        delay: due.since(context.clock.now()).min(LONGEST_DELAY),
        ..Outgoing::default()
    };
    context.queue.send(queue::TIMERS, vec![outgoing]).await?;
    Ok(())
}

/// A message of `timers`.
pub async fn on_timer(context: &Context, timer: &TimerMessage) -> Result<Looked, DriveError> {
    if timer.kind == TimerKind::Deadline {
        return deadline::on_timer(context, timer).await;
    }
    if timer.kind == TimerKind::Hedge {
        return hedge::on_timer(context, timer).await;
    }
    let Some(quiet) = context.quiet else { return Ok(Looked::Dropped) };
    // The rows of a run that ended long ago may be gone, those of one that is to be looked after are not.
    let row = context.table.get(&key(RowKey::run(&timer.run))).await?;
    let view = row.and_then(|row| RunView::read(&row.attributes)).filter(|view| !view.is_over());
    let Some(view) = view else { return Ok(Looked::Dropped) };
    if is_left_over(context, &timer.run).await? {
        chain::stop(context, &timer.run).await?;
        tracing::info!(run = %timer.run, "stopped: its block has long been final with what others proved");
        return Ok(Looked::Dropped);
    }
    if context.clock.now() < timer.due {
        send(context, timer).await?;
        return Ok(Looked::SentOn);
    }
    let (watch, raw) = read(context, &key(RowKey::timer(&timer.run, timer.piece))).await?;
    if watch.as_ref().is_some_and(|watch| timer.due < watch.due) {
        return Ok(Looked::Dropped);
    }
    let ranges = context.table.get(&key(RowKey::ranges(&timer.run))).await?;
    let part = Part { view: &view, ranges: ranges.as_ref(), piece: timer.piece };
    look_after(context, &part, watch, raw, quiet).await.map(Looked::Found)
}

/// Whether a run is one of several whose block has been final for long enough.
async fn is_left_over(context: &Context, run: &RunId) -> Result<bool, DriveError> {
    // The row says whether the block has several runs: the chain may be configured to have one by now.
    let block = load::<BlockRow>(context, RowKey::block(&run.chain, run.number)).await?.map(|loaded| loaded.record);
    let Some(block) = block.filter(|block| block.epoch == run.epoch && !block.runs.is_empty()) else {
        return Ok(false);
    };
    let limit = chain_core::rest_limit(&block, context.catalog.chains.get(&run.chain));
    Ok(chain_core::is_left_over(&block, run.lane, context.clock.now(), limit))
}

/// For the reaper: looks after those parts of a run whose timers should have come long ago. Returns how many.
pub async fn look_after_overdue(context: &Context, view: &RunView) -> Result<usize, DriveError> {
    let Some(quiet) = context.quiet.filter(|_| !view.is_over()) else { return Ok(0) };
    let run = &view.run.id;
    let pieces = view.manifest.as_ref().map_or(1, |manifest| block::pieces(manifest.segments));
    let ranges = context.table.get(&key(RowKey::ranges(run))).await?;
    let timers = context.table.query(&RowKey::timer(run, 0).partition, "timer/", None, pieces as usize).await?;
    let mut timers: BTreeMap<String, Row> = timers.into_iter().map(|row| (row.key.sort.clone(), row)).collect();
    let mut looked = 0;
    for piece in 0..pieces {
        let part = Part { view, ranges: ranges.as_ref(), piece };
        // What was not sent has no timer.
        let sent = if piece == 0 { Some(view.run.released_at) } else { part.sent() };
        let Some(sent) = sent else { continue };
        let row = timers.remove(&RowKey::timer(run, piece).sort);
        let raw = row.and_then(|row| row.attribute(attribute::WATCH).cloned());
        let watch = raw.as_ref().and_then(parse);
        if !block::is_overdue(watch.as_ref(), sent, quiet, context.clock.now()) {
            continue;
        }
        look_after(context, &part, watch, raw, quiet).await?;
        looked += 1;
        if looked == OVERDUE {
            break;
        }
    }
    Ok(looked + hedge::look_after_overdue(context, view, ranges.as_ref(), quiet, OVERDUE).await?)
}

/// A piece of a run's fan-out with what is made from it.
struct Part<'p> {
    view: &'p RunView,
    ranges: Option<&'p Row>,
    piece: u32,
}

impl Part<'_> {
    /// When its leaves had been sent, if they have been.
    fn sent(&self) -> Option<Millis> {
        fan_out::sent_at(self.ranges, self.piece)
    }

    /// The first part looks after what was not sent at all.
    fn has_unsent(&self) -> bool {
        self.piece == 0 && !fan_out::unsent(self.view, self.ranges).is_empty()
    }
}

async fn read(context: &Context, at: &Key) -> Result<(Option<Watch>, Option<Value>), DriveError> {
    let row = context.table.get(at).await?;
    let raw = row.and_then(|row| row.attribute(attribute::WATCH).cloned());
    Ok((raw.as_ref().and_then(parse), raw))
}

fn parse(raw: &Value) -> Option<Watch> {
    serde_json::from_value(raw.clone()).ok()
}

/// One look: what there is, the next timer, the row, and then what is to be done. A part whose row somebody else moved meanwhile is theirs.
async fn look_after(
    context: &Context,
    part: &Part<'_>,
    watch: Option<Watch>,
    raw: Option<Value>,
    quiet: Millis,
) -> Result<usize, DriveError> {
    let run = &part.view.run.id;
    let look = look(context, part, watch.as_ref(), quiet).await?;
    let due = look.next.due;
    send(context, &TimerMessage { run: run.clone(), piece: part.piece, due, kind: TimerKind::Lost }).await?;
    let next = serde_json::to_value(&look.next).unwrap_or_default();
    let at = key(RowKey::timer(run, part.piece));
    if !context.table.set_if(&at, attribute::WATCH, raw, Some(next)).await?.done {
        return Ok(0);
    }
    act(context, part.view, &look).await?;
    Ok(look.late.len() + look.lost.len())
}

async fn look(context: &Context, part: &Part<'_>, watch: Option<&Watch>, quiet: Millis) -> Result<Look, DriveError> {
    let view = part.view;
    let graph = view.manifest.as_ref().map(|_| graph(view)).transpose()?;
    let rows = rows(context, &view.run.id, graph.as_ref(), part.piece).await?;
    let open = block::open(view, graph.as_ref(), part.piece, part.sent(), context.began, |node| rows.get(&node));
    let has_unsent = part.has_unsent();
    let (idle, taken) = quiet_queues(context, &open, has_unsent).await?;
    let seen = Seen { open: &open, has_unsent, idle: &idle, taken: &taken };
    Ok(block::look(watch, &seen, quiet, context.clock.now()))
}

/// The rows of a part's nodes, and of the nodes that read what these make.
pub(super) async fn rows(
    context: &Context,
    run: &RunId,
    graph: Option<&Graph<'_>>,
    piece: u32,
) -> Result<BTreeMap<Node, NodeView>, DriveError> {
    let nodes = graph.map_or(vec![Node::SPLIT], |graph| graph.part(piece));
    let readers = graph.iter().flat_map(|graph| nodes.iter().filter_map(|node| graph.plan.parent(*node)));
    let mut layers: BTreeMap<(u16, u8), (u32, u32)> = BTreeMap::new();
    for node in nodes.iter().copied().chain(readers.map(|parent| parent.node)) {
        let (first, last) = layers.entry((node.stage, node.layer)).or_insert((node.index, node.index));
        *first = node.index.min(*first);
        *last = node.index.max(*last);
    }
    let mut rows = BTreeMap::new();
    for ((stage, layer), (first, last)) in layers {
        for row in rows_between(context, run, Node::new(stage, layer, first), last).await? {
            if let Some(node) = RowKey::parse_node(&row.key.sort) {
                rows.insert(node, NodeView::read(&row.attributes));
            }
        }
    }
    Ok(rows)
}

/// The rows of a layer from one node to another: one read, or pages of those that there are.
async fn rows_between(context: &Context, run: &RunId, first: Node, last: u32) -> Result<Vec<Row>, DriveError> {
    if first.index == last {
        return Ok(context.table.get(&key(RowKey::node(run, first))).await?.into_iter().collect());
    }
    let at = |index: u32| RowKey::node(run, Node::new(first.stage, first.layer, index));
    let (partition, prefix) = (at(last).partition, RowKey::layer(first.stage, first.layer));
    let mut after = first.index.checked_sub(1).map(|before| at(before).sort);
    let mut rows = Vec::new();
    loop {
        let page = context.table.query(&partition, &prefix, after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE || page.last().is_some_and(|row| row.key.sort >= at(last).sort);
        after = page.last().map(|row| row.key.sort.clone());
        rows.extend(page.into_iter().filter(|row| row.key.sort <= at(last).sort));
        if is_last {
            return Ok(rows);
        }
    }
}

/// Those queues that matter to open tasks and are empty, and those in which nothing waits, each with its dead-letter queue. A task is looked
/// for before the report of it.
async fn quiet_queues(
    context: &Context,
    open: &[Open],
    has_unsent: bool,
) -> Result<(BTreeSet<String>, BTreeSet<String>), DriveError> {
    let (mut idle, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let work: BTreeSet<&str> = open.iter().map(|task| task.queue.as_str()).collect();
    for name in work.into_iter().chain(has_unsent.then_some(queue::RANGES)) {
        let (waiting, in_flight) = counts(context, name).await?;
        if waiting == 0 {
            taken.insert(name.to_owned());
        }
        if waiting + in_flight == 0 {
            idle.insert(name.to_owned());
        }
    }
    let sought = open.iter().filter(|task| idle.contains(&task.queue));
    let reports: BTreeSet<&str> = sought.map(|task| task.reports).collect();
    for name in reports {
        let (waiting, in_flight) = counts(context, name).await?;
        if waiting + in_flight == 0 {
            idle.insert(name.to_owned());
        }
    }
    Ok((idle, taken))
}

/// How many messages of a queue wait, and how many are in flight. What lies among its dead letters waits, whoever looks at it.
async fn counts(context: &Context, name: &str) -> Result<(u64, u64), DriveError> {
    let own = context.queue.stats(name).await?;
    if own.visible + own.delayed > 0 {
        return Ok((own.visible + own.delayed, own.in_flight));
    }
    let dead = context.queue.stats(&format!("{name}-dlq")).await?;
    Ok((dead.visible + dead.in_flight + dead.delayed, own.in_flight))
}

/// Does what a look asks for. What is cut off here is found again by later looks.
async fn act(context: &Context, view: &RunView, look: &Look) -> Result<(), DriveError> {
    if look.late.is_empty() && look.lost.is_empty() && !look.reopen {
        return Ok(());
    }
    // As the run is now: the look took a while.
    let row = context.table.get(&key(RowKey::run(&view.run.id))).await?;
    let view = row.and_then(|row| RunView::read(&row.attributes)).filter(|view| !view.is_over());
    let Some(view) = view else { return Ok(()) };
    match heal(context, &view, look).await {
        Err(DriveError::Damaged(what)) => fail::spoil_run(context, &view.run.id, &what).await.map(|_| ()),
        healed => healed,
    }
}

async fn heal(context: &Context, view: &RunView, look: &Look) -> Result<(), DriveError> {
    for node in &look.late {
        fail::give_up(context, view, *node, look.late_since).await?;
    }
    for (node, attempt) in &look.lost {
        fail::send_again(context, view, *node, *attempt).await?;
    }
    if look.reopen {
        let pieces = fan_out::reopen(context, view).await?;
        let (code, run) = (ErrorCode::LostTask, &view.run.id);
        tracing::warn!(%code, %run, pieces, "pieces sent again: their range message was lost");
    }
    Ok(())
}
