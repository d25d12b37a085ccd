//! Demotion of a run: what is still to be done for it moves to the class `bulk`. In this order, each step again after a crash:
//!
//! 1. The run's row says so. From then on whoever loads it sends to `bulk`.
//! 2. Piece by piece, what was sent before and nobody has started is sent once more, as it is, to `bulk`.
//! 3. When every piece is marked, a control blob tells workers to drop what they then get from a more urgent queue for the first time: it
//!    lies in `bulk`, too. What was delivered before may have been started, so it is proven where it is.
//!
//! Who loaded the run before (1) may send after (2). So whoever is about to send a late block's task looks once more, after the write that
//! it follows from: where that look finds no demotion, (2) finds the write.

use std::collections::BTreeMap;

use push0_core::block;
use push0_core::message::{TaskMessage, work_queue};
use push0_core::record::{Demoted, Late, RowKey, Run, RunView, attribute, demoted_key};
use push0_core::{Class, Millis, Node, RunId};

use super::{fan_out, graph, node_view, timer};
use crate::drive::chain::task_message;
use crate::drive::store::{key, put_blob};
use crate::drive::{Context, DriveError};
use crate::port::Outgoing;

/// Begins it, or goes on with it.
pub(in crate::drive) async fn demote(context: &Context, id: &RunId) -> Result<(), DriveError> {
    let at = key(RowKey::run(id));
    let row = context.table.get(&at).await?;
    let Some(view) = row.and_then(|row| RunView::read(&row.attributes)) else { return Ok(()) };
    // Begun when its block was late already, it sends nothing to another class.
    let was_begun_so = view.run.demoted && view.demoted.is_none();
    if view.is_over() || was_begun_so {
        return Ok(());
    }
    let demoted = view.demoted.unwrap_or(Demoted {
        at: context.clock.now(),
        from: view.run.class,
        promotion: view.run.promotion,
    });
    let value = serde_json::to_value(demoted).unwrap_or_default();
    let set = context.table.set_if(&at, attribute::DEMOTED, None, Some(value)).await?;
    let Some(view) = set.row.and_then(|row| RunView::read(&row.attributes)) else { return Ok(()) };
    tracing::info!(run = %id, from = demoted.from.as_str(), "run demoted: what is still to be done goes to bulk");
    // Nothing of it lies elsewhere.
    if demoted.from == Class::Bulk && demoted.promotion.is_none() {
        return Ok(());
    }
    if let Some(manifest) = &view.manifest {
        return fan_out::send_ranges(context, id, &[(0, manifest.segments)], true).await;
    }
    // There is only `split`; its result meets a run that is demoted.
    let row = node_view(context, id, Node::SPLIT).await?;
    if row.first_start().is_none() {
        send(context, &view.run, vec![(view.run.split_again(&row), row.wanted.delay)]).await?;
    }
    put_marker(context, id).await
}

/// The part of one piece. `is_fresh`: its leaves have just been sent for the first time.
pub(super) async fn piece(context: &Context, view: &RunView, piece: u32, is_fresh: bool) -> Result<(), DriveError> {
    let (run, at) = (&view.run.id, key(RowKey::ranges(&view.run.id)));
    let Some(manifest) = &view.manifest else { return Ok(()) };
    let mark = attribute::demoted_piece(piece);
    let mut ranges = context.table.get(&at).await?;
    if !fan_out::is_marked(ranges.as_ref(), &mark) {
        let graph = graph(view)?;
        let rows = timer::rows(context, run, Some(&graph), piece).await?;
        let page = fan_out::page(context, manifest, piece).await?;
        let segment = |segment: u32| page.segments.get(segment.checked_sub(page.first)? as usize).cloned();
        let sent = fan_out::sent_at(ranges.as_ref(), piece).filter(|_| !is_fresh);
        let waiting = block::waiting(view, &graph, piece, sent, |node| rows.get(&node), segment);
        send(context, &view.run, waiting).await?;
        ranges = context.table.set_if(&at, &mark, None, Some(true.into())).await?.row;
    }
    let mut pieces = 0..block::pieces(manifest.segments);
    if pieces.all(|piece| fan_out::is_marked(ranges.as_ref(), &attribute::demoted_piece(piece))) {
        put_marker(context, run).await?;
    }
    Ok(())
}

async fn put_marker(context: &Context, run: &RunId) -> Result<(), DriveError> {
    put_blob(context, &demoted_key(run), "demoted".to_owned()).await
}

async fn send(context: &Context, run: &Run, tasks: Vec<(TaskMessage, Millis)>) -> Result<(), DriveError> {
    let mut queues: BTreeMap<String, Vec<Outgoing>> = BTreeMap::new();
    for (task, delay) in tasks {
        let copies = 0..run.policy.stage(task.id.node.stage).copies;
        let outgoing = copies.map(|copy| {
            let task = task.as_copy(copy);
            let dedup = Some(format!("{}/demoted", task.id));
            Outgoing { dedup, ..task_message(&task, run, delay) }
        });
        queues.entry(work_queue(&task.pool, task.class)).or_default().extend(outgoing);
    }
    for (queue, outgoing) in queues {
        context.queue.send(&queue, outgoing).await?;
    }
    Ok(())
}

/// The run as it is to be sent for now, by who may have loaded it before it was demoted.
pub(super) async fn latest(context: &Context, run: &Run) -> Result<Option<Run>, DriveError> {
    let demotes = context.catalog.chains.get(&run.id.chain).is_some_and(|chain| chain.late == Late::Demote);
    let is_late = run.deadline.is_some_and(|deadline| context.clock.now() > deadline);
    if run.demoted || !demotes || !is_late {
        return Ok(None);
    }
    let row = context.table.get_attributes(&key(RowKey::run(&run.id)), &[attribute::DEMOTED]).await?;
    let is_demoted = row.is_some_and(|row| row.attribute(attribute::DEMOTED).is_some());
    Ok(is_demoted.then(|| run.demoted()))
}
