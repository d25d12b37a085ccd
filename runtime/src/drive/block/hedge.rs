//! Copies of tasks: one more for each straggler, and telling those that came too late to stop. What is a straggler is decided in
//! `push0_core::block`; see [`block::stragglers`].
//!
//! Each part of a run whose stages are hedged has a timer of its own, kept like the one that finds lost tasks (see [`super::timer`]): the next
//! message is sent *before* the part's row moves on to it, and the reaper looks where that chain broke. A look takes what was accepted since
//! the last one into the sketches of the stages, and reserves there what it sends. What is cut off behind the row's move costs some samples
//! or some budget; a copy that was asked for is sent by a later look.
//!
//! A copy is asked for in one transaction, on condition that nothing is accepted yet: the node's row then says how many copies there are, and
//! the reader's row that there are several, which whoever accepts one of them reads with the acceptance.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::block::{self, Graph, Harvest, HedgeLook, Sketch};
use push0_core::message::{TimerKind, TimerMessage, work_queue};
use push0_core::plan::Parent;
use push0_core::record::{HedgeWatch, NodeView, RowKey, Run, RunView, attribute, node_control_key};
use push0_core::{Attempt, Millis, Node, RunId, TaskId, invariant};

use super::{Looked, fan_out, graph, timer};
use crate::drive::chain::task_message;
use crate::drive::store::{key, put_blob};
use crate::drive::{Context, DriveError, enforce};
use crate::metrics::Metric;
use crate::port::{Key, Row, Value, Write};

/// The artifact of `node`, which `reader` has in `slot`, is accepted: whoever works on another copy is told to stop.
pub(super) async fn stop_others(
    context: &Context,
    graph: &Graph<'_>,
    node: Node,
    reader: &NodeView,
    slot: u32,
) -> Result<(), DriveError> {
    let run = graph.run;
    for attempt in block::settled(reader, slot, run.policy.stage(node.stage)) {
        let task = TaskId { run: run.id.clone(), tag: run.digest.tag(), node, attempt, copy: 0 };
        let at = node_control_key(&task, &run.pipeline.stage(node.stage).name);
        put_blob(context, &at, "stop".to_owned()).await?;
    }
    Ok(())
}

/// An artifact was accepted: counts it if a copy that was sent for a straggler made it.
pub(super) fn count_won(context: &Context, run: &Run, task: &TaskId) {
    let is_hedge = task.copy >= run.policy.stage(task.node.stage).copies;
    let stage = run.pipeline.stage(task.node.stage).name.as_str();
    context.metrics.count(Metric::HedgesWon, &[stage], u64::from(is_hedge));
}

/// Whether any stage of a run is hedged.
fn is_hedged(run: &Run) -> bool {
    run.policy.stages.iter().any(|policy| policy.hedge.is_some())
}

/// Arms the timer of a part that is just being sent, where anything in it may be sent once more.
pub(super) async fn arm(context: &Context, run: &Run, piece: u32, sent: Millis) -> Result<(), DriveError> {
    if !is_hedged(run) {
        return Ok(());
    }
    timer::send(context, &message(&run.id, piece, block::first_hedge_look(sent))).await
}

fn message(run: &RunId, piece: u32, due: Millis) -> TimerMessage {
    TimerMessage { run: run.clone(), piece, due, kind: TimerKind::Hedge }
}

/// A message of `timers` about stragglers.
pub(super) async fn on_timer(context: &Context, timer: &TimerMessage) -> Result<Looked, DriveError> {
    let row = context.table.get(&key(RowKey::run(&timer.run))).await?;
    let Some(view) = row.and_then(|row| RunView::read(&row.attributes)) else { return Ok(Looked::Dropped) };
    if context.clock.now() < timer.due && !view.is_over() {
        timer::send(context, timer).await?;
        return Ok(Looked::SentOn);
    }
    let row = context.table.get(&key(RowKey::hedge(&timer.run, timer.piece))).await?;
    let (watch, raw) = watch_of(row.as_ref());
    if watch.as_ref().is_some_and(|watch| watch.due.is_none_or(|due| timer.due < due)) {
        return Ok(Looked::Dropped);
    }
    look_after(context, &view, timer.piece, watch, raw).await.map(Looked::Found)
}

fn watch_of(row: Option<&Row>) -> (Option<HedgeWatch>, Option<Value>) {
    let raw = row.and_then(|row| row.attribute(attribute::HEDGE_WATCH).cloned());
    let watch = raw.as_ref().and_then(|raw| serde_json::from_value(raw.clone()).ok());
    (watch, raw)
}

/// For the reaper: looks at those parts of a run whose timers should have come long ago. Returns how many.
pub(super) async fn look_after_overdue(
    context: &Context,
    view: &RunView,
    ranges: Option<&Row>,
    quiet: Millis,
    most: usize,
) -> Result<usize, DriveError> {
    let (run, segments) = (&view.run.id, view.manifest.as_ref().map_or(0, |manifest| manifest.segments));
    if !is_hedged(&view.run) || segments == 0 {
        return Ok(0);
    }
    let pieces = block::pieces(segments);
    let rows = context.table.query(&RowKey::hedge(run, 0).partition, "hedge/", None, pieces as usize).await?;
    let mut rows: BTreeMap<String, Row> = rows.into_iter().map(|row| (row.key.sort.clone(), row)).collect();
    let mut looked = 0;
    for piece in (0..pieces).filter(|piece| fan_out::sent_at(ranges, *piece).is_some()) {
        let sent = fan_out::sent_at(ranges, piece).unwrap_or_default();
        let (watch, raw) = watch_of(rows.remove(&RowKey::hedge(run, piece).sort).as_ref());
        if looked == most || !block::hedge_is_overdue(watch.as_ref(), sent, quiet, context.clock.now()) {
            continue;
        }
        look_after(context, view, piece, watch, raw).await?;
        looked += 1;
    }
    Ok(looked)
}

/// One look: what there is, the next timer, the row, and then what is to be done. A part whose row somebody else moved meanwhile is theirs.
async fn look_after(
    context: &Context,
    view: &RunView,
    piece: u32,
    watch: Option<HedgeWatch>,
    raw: Option<Value>,
) -> Result<usize, DriveError> {
    let (run, graph) = (&view.run, graph(view)?);
    let (since, now) = (watch.as_ref().map(|watch| watch.looked).unwrap_or_default(), context.clock.now());
    let rows = timer::rows(context, &run.id, Some(&graph), piece).await?;
    let part = block::survey(&graph, piece, since, now, |node| rows.get(&node));

    let mut sketches = BTreeMap::new();
    let stages: BTreeSet<u16> = part.harvests.keys().chain(part.running.keys()).copied().collect();
    for stage in stages {
        let Some(hedging) = run.policy.stage(stage).hedge else { continue };
        let (mut sketch, _) = sketch(context, run, stage).await?;
        part.harvests.get(&stage).into_iter().for_each(|harvest| sketch.merge(harvest));
        sketches.insert(stage, (hedging, sketch));
    }
    let next = match view.is_over() {
        true => HedgeWatch { due: None, looked: now, pause: Millis(0) },
        false => block::next_look(watch.as_ref(), &part, &sketches, now),
    };
    if let Some(due) = next.due {
        timer::send(context, &message(&run.id, piece, due)).await?;
    }
    let at = key(RowKey::hedge(&run.id, piece));
    let next = serde_json::to_value(&next).unwrap_or_default();
    if !context.table.set_if(&at, attribute::HEDGE_WATCH, raw, Some(next)).await?.done {
        return Ok(0);
    }

    let mut found = 0;
    for (stage, (hedging, _)) in sketches {
        let harvest = part.harvests.get(&stage);
        let running = part.running.get(&stage).filter(|_| !view.is_over());
        let look = learn(context, run, stage, harvest, |sketch| {
            running.map(|running| block::stragglers(sketch, &hedging, running, now)).unwrap_or_default()
        });
        let (look, sketch) = look.await?;
        found += look.hedge.len();
        let Some(limit) = sketch.straggles_after(&hedging) else { continue };
        for (node, expected) in look.hedge {
            hedge(context, view, &graph, &rows, node, limit, expected).await?;
        }
        for node in look.pending {
            let row = super::node_view(context, &run.id, node).await?;
            send_pending(context, &graph, node, &row).await?;
        }
    }
    Ok(found)
}

async fn sketch(context: &Context, run: &Run, stage: u16) -> Result<(Sketch, Option<Value>), DriveError> {
    let row = context.table.get(&sketch_key(run, stage)).await?;
    let raw = row.and_then(|row| row.attribute(attribute::SKETCH).cloned());
    // One of another version is begun anew.
    let sketch = raw.as_ref().and_then(|raw| serde_json::from_value(raw.clone()).ok()).unwrap_or_default();
    Ok((sketch, raw))
}

fn sketch_key(run: &Run, stage: u16) -> Key {
    key(RowKey::sketch(&run.digest.tag(), stage, &run.policy.stage(stage).pool))
}

/// Takes what was found into the stage's sketch, and decides on what it says then; again, where somebody else changed it meanwhile.
async fn learn(
    context: &Context,
    run: &Run,
    stage: u16,
    harvest: Option<&Harvest>,
    decide: impl Fn(&mut Sketch) -> HedgeLook,
) -> Result<(HedgeLook, Sketch), DriveError> {
    loop {
        let (before, raw) = sketch(context, run, stage).await?;
        let mut after = before.clone();
        harvest.into_iter().for_each(|harvest| after.merge(harvest));
        let look = decide(&mut after);
        if after == before {
            return Ok((look, after));
        }
        let value = serde_json::to_value(&after).unwrap_or_default();
        if context.table.set_if(&sketch_key(run, stage), attribute::SKETCH, raw, Some(value)).await?.done {
            if let Some(hedging) = &run.policy.stage(stage).hedge {
                enforce(context, invariant::hedged(&after, hedging, look.hedge.len()));
            }
            let stage = &[run.pipeline.stage(stage).name.as_str()];
            if let Some(harvest) = harvest {
                context.metrics.count(Metric::WorkTime, stage, harvest.work.0);
                context.metrics.count(Metric::HedgeTime, stage, harvest.extra.0);
            }
            return Ok((look, after));
        }
    }
}

/// Asks for one more copy of a straggler, if it still is one, and sends it.
async fn hedge(
    context: &Context,
    view: &RunView,
    graph: &Graph<'_>,
    rows: &BTreeMap<Node, NodeView>,
    node: Node,
    limit: Millis,
    expected: Millis,
) -> Result<(), DriveError> {
    let (run, policy) = (&view.run, view.run.policy.stage(node.stage));
    let (at, now) = (key(RowKey::node(&run.id, node)), context.clock.now());
    let Some(row) = context.table.get(&at).await? else { return Ok(()) };
    let mut own = NodeView::read(&row.attributes);
    let Some(Parent { node: reader, slot }) = graph.plan.parent(node) else { return Ok(()) };
    if !block::straggles(&own, node, policy, limit, now) {
        return Ok(());
    }
    let hedges = block::ask(&own, expected, now);
    let number = |attempt: Attempt| Value::from(attempt.0);
    let raw = |name: &str| row.attribute(name).cloned();
    let before = rows.get(&reader).and_then(|row| row.hedged.get(&slot).copied().map(number));
    let reader_at = key(RowKey::node(&run.id, reader));
    let set = |key: &Key, name: String, expected: Option<Value>, new: Option<Value>| Write::SetIf {
        key: key.clone(),
        attribute: name,
        expected,
        new,
    };
    let writes = vec![
        set(&at, attribute::HEDGES.to_owned(), raw(attribute::HEDGES), serde_json::to_value(&hedges).ok()),
        set(&at, attribute::TRY.to_owned(), raw(attribute::TRY), raw(attribute::TRY)),
        set(&reader_at, attribute::hedged(slot), before, Some(number(hedges.attempt))),
        set(&reader_at, attribute::slot(slot), None, None),
    ];
    match context.table.transact(writes).await {
        Ok(()) => {}
        // It was accepted, or its attempt moved.
        Err(error) if error.is_conflict() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let ran = now.since(own.start_now(0).map_or(now, |started| started.at));
    tracing::info!(run = %run.id, %node, copy = policy.copies + hedges.asked - 1, ran_ms = ran.0, limit_ms = limit.0, "straggler sent once more");
    own.hedges = Some(hedges);
    send_pending(context, graph, node, &own).await
}

/// Sends the copies that were asked for, and marks them sent.
async fn send_pending(context: &Context, graph: &Graph<'_>, node: Node, row: &NodeView) -> Result<(), DriveError> {
    let segment = match graph.segment_of(node) {
        Some(segment) => Some(fan_out::segment(context, graph.manifest, segment).await?),
        None => None,
    };
    let Some(task) = block::fire_again(graph, node, row, segment.as_ref()) else { return Ok(()) };
    let tasks = block::pending(row, graph.run.policy.stage(node.stage), &task);
    let Some(hedges) = row.hedges_now().filter(|_| !tasks.is_empty()) else { return Ok(()) };
    let outgoing = tasks.iter().map(|task| task_message(task, graph.run, Millis(0)));
    context.queue.send(&work_queue(&task.pool, task.class), outgoing.collect()).await?;
    context.metrics.count(Metric::HedgesSent, &[task.stage.as_str()], tasks.len() as u64);
    let sent = push0_core::record::Hedges { sent: hedges.asked, ..hedges.clone() };
    let value = |hedges| serde_json::to_value(hedges).ok();
    let at = key(RowKey::node(&graph.run.id, node));
    context.table.set_if(&at, attribute::HEDGES, value(hedges), value(&sent)).await?;
    Ok(())
}
