//! Failures: another attempt, a revocation, or the end of the run.

use std::collections::BTreeSet;

use push0_core::block::{self, Decision, Failure, Graph, Ignored};
use push0_core::message::{Check, FailureKind, Finding, Report, TaskMessage, work_queue};
use push0_core::pipeline::StagePolicy;
use push0_core::plan::Children;
use push0_core::record::{FailureNote, NodeView, RowKey, RunView, Try, attribute, clip_error};
use push0_core::transition::{Pair, TaskEvent, TaskState};
use push0_core::{Attempt, ErrorCode, Millis, Node, Pool, RunId, Sha256, TaskId, invariant};

use super::{Handled, fan_out, fire, graph, load_run, node_view, send, tell_chain};
use crate::drive::chain::task_message;
use crate::drive::store::key;
use crate::drive::{Context, DriveError, enforce};
use crate::metrics::Metric;
use crate::port::{PortError, Value, Write};

/// A worker reports that an attempt failed.
pub(super) async fn on_failed(
    context: &Context,
    view: &RunView,
    report: &Report,
    kind: FailureKind,
    message: &str,
    children: &[u32],
    trusted: bool,
) -> Result<Handled, DriveError> {
    // `split` reads the witness alone, checked on the way: what it calls bad is the block, and no other attempt makes it better.
    let is_bad_witness = report.task.node == Node::SPLIT && kind == FailureKind::BadInput;
    let kind = if is_bad_witness { FailureKind::Permanent } else { kind };
    let failure = Failure {
        task: report.task.clone(),
        worker: Some(report.worker.clone()),
        by: report.by.clone(),
        kind,
        message: message.to_owned(),
        children: children.to_vec(),
        trusted,
        can_check: can_check(view, report.task.node),
        handout: report.handout,
        at: context.clock.now(),
    };
    let code = ErrorCode::find(message).unwrap_or(ErrorCode::ProverReportedFailure);
    let kind_name = block::kind_name(kind);
    tracing::warn!(%code, task = %report.task, worker = %report.worker, kind = kind_name, message, "task failed");
    let met = Met { event: TaskEvent::of_failure(kind), attempt: Some(report.task.attempt), copy: report.task.copy };
    apply(context, view, report.task.node, Some(met), |node, policy| block::on_failure(node, &failure, policy)).await
}

/// Slots of `node` whose artifacts the trusted pool can check.
fn can_check(view: &RunView, node: Node) -> BTreeSet<u32> {
    let Ok(graph) = graph(view) else {
        return BTreeSet::new();
    };
    if !graph.plan.contains(node) {
        return BTreeSet::new();
    }
    let Children::Nodes(children) = graph.plan.children(node) else {
        return BTreeSet::new();
    };
    let can = |(_, child): &(u32, &Node)| view.run.policy.stage(child.stage).check;
    (0..).zip(&children).filter(can).map(|(slot, _)| slot).collect()
}

/// The root does not show what the header says. Where it can be checked it is, and so is what it was made from, down to who lied; false:
/// it cannot be, or has been and was found sound.
pub(super) async fn on_bad_proof(
    context: &Context,
    view: &RunView,
    report: &Report,
    row: &NodeView,
    message: Option<&str>,
) -> Result<bool, DriveError> {
    let node = report.task.node;
    let Some(root) = row.slots.get(&0).map(|artifact| artifact.blob.sha256) else {
        return Ok(false);
    };
    // Not by this very report, delivered before.
    let earlier = || row.wanted.failures.iter().filter(|note| note.attempt < report.task.attempt);
    let was_accused = earlier().any(|note| note.accused.contains(&(0, root)));
    let bad_roots = earlier().filter(|note| !note.accused.is_empty()).count() as u32;
    let is_last = bad_roots + 1 >= view.run.policy.stage(node.stage).attempts;
    let can_check = can_check(view, node);
    if was_accused || is_last || !can_check.contains(&0) {
        return Ok(false);
    }
    let failure = Failure {
        task: TaskId { copy: 0, ..report.task.clone() },
        // Nobody to avoid: the trusted pool is not doubted.
        worker: None,
        by: None,
        kind: FailureKind::BadInput,
        message: ErrorCode::BadProof.says(format!("bad proof: {}", message.unwrap_or("the verifier gave no reason"))),
        children: vec![0],
        trusted: false,
        can_check,
        handout: None,
        at: context.clock.now(),
    };
    tracing::warn!(code = %ErrorCode::BadProof, task = %report.task, message = failure.message, "root is checked");
    apply(context, view, node, None, |node, policy| block::on_failure(node, &failure, policy)).await?;
    Ok(true)
}

/// The trusted pool has looked at an accused artifact.
pub(super) async fn on_checked(
    context: &Context,
    view: &RunView,
    reader: Node,
    slot: u32,
    artifact: Sha256,
    finding: Finding,
) -> Result<Handled, DriveError> {
    let graph = graph(view)?;
    super::expect_node(&graph, reader)?;
    let run = &view.run.id;
    loop {
        let observe = |state| context.observe(|| [Pair::Task(state, TaskEvent::of_finding(finding))]);
        if is_accepted(context, view, reader).await? {
            observe(TaskState::Accepted);
            return Ok(Handled::Ignored(Ignored::Settled));
        }
        let row = node_view(context, run, reader).await?;
        let is_asked = row.wanted.checks.contains(&(slot, artifact));
        observe(if is_asked { TaskState::Checking } else { TaskState::Overtaken });
        let (wrote, cleared) = match block::on_checked(&row, slot, artifact, finding) {
            // An earlier delivery may have been cut off behind its write.
            Err(ignored) => {
                settle_checked(context, &graph, reader, None).await?;
                return Ok(Handled::Ignored(ignored));
            }
            Ok(Decision::Revoke { children, then }) => {
                match revoke(context, &graph, reader, &row, &children, then).await {
                    Ok(()) => (true, Some(slot)),
                    Err(DriveError::Port(error)) if error.is_conflict() => (false, None),
                    Err(error) => return Err(error),
                }
            }
            Ok(
                Decision::Again(then) | Decision::Check(then) | Decision::Return(then) | Decision::Fail { then, .. },
            ) => (set_try(context, run, reader, &row.wanted, then).await?, Some(u32::MAX)),
            Ok(Decision::Spoil(_) | Decision::Resend) => (true, Some(u32::MAX)),
        };
        if wrote {
            settle_checked(context, &graph, reader, cleared).await?;
            return Ok(Handled::Failed);
        }
    }
}

/// After a check: sends what the child in the slot that it cleared asks for (none named: every cleared one), and the reader's task once
/// nothing is left to check. What is still being checked is not sent again.
async fn settle_checked(
    context: &Context,
    graph: &Graph<'_>,
    reader: Node,
    only: Option<u32>,
) -> Result<(), DriveError> {
    let row = node_view(context, &graph.run.id, reader).await?;
    proceed_cleared(context, graph, reader, &row, only).await?;
    if row.wanted.checks.is_empty() { fire(context, graph, reader, row).await } else { Ok(()) }
}

/// Sends what children ask for whose slots were cleared.
async fn proceed_cleared(
    context: &Context,
    graph: &Graph<'_>,
    node: Node,
    row: &NodeView,
    only: Option<u32>,
) -> Result<(), DriveError> {
    let Children::Nodes(children) = graph.plan.children(node) else {
        return Ok(());
    };
    for (slot, child) in (0..).zip(children) {
        let was_cleared = row.floors.contains_key(&slot) && !row.slots.contains_key(&slot);
        if was_cleared && only.is_none_or(|only| only == slot) {
            let child_row = node_view(context, &graph.run.id, child).await?;
            proceed(context, graph, child, child_row).await?;
        }
    }
    Ok(())
}

/// A task came to its dead-letter queue.
pub async fn on_dead_letter(context: &Context, task: &TaskMessage) -> Result<Handled, DriveError> {
    match handle_dead_letter(context, task).await {
        Err(DriveError::Damaged(what)) => spoil_run(context, &task.id.run, &what).await,
        handled => handled,
    }
}

async fn handle_dead_letter(context: &Context, task: &TaskMessage) -> Result<Handled, DriveError> {
    let view = load_run(context, &task.id.run).await?;
    let met = Met { event: TaskEvent::DeadLetter, attempt: Some(task.id.attempt), copy: task.id.copy };
    if view.is_over() {
        met.observe(context, TaskState::Over);
        tell_chain(context, &view).await?;
        return Ok(Handled::Over);
    }
    if let (Some(Check { reader, slot }), Some(accused)) = (task.check, task.inputs.first()) {
        return on_checked(context, &view, reader, slot, accused.sha256, Finding::Unknown).await;
    }
    let now = context.clock.now();
    let decide = |node: &NodeView, policy: &_| block::on_dead_letter(node, task, policy, context.began, now);
    let handled = apply(context, &view, task.id.node, Some(met), decide).await?;
    if handled == Handled::Noted {
        // As a message of its own it could be taken for one that was left behind.
        let task = if view.run.demoted { task.clone().demoted() } else { task.clone() };
        let outgoing = task_message(&task, &view.run, Millis(0));
        context.queue.send(&work_queue(&task.pool, task.class), vec![outgoing]).await?;
    }
    Ok(handled)
}

/// The attempt that started and was past its limit at `since` has failed, if nothing was heard of it meanwhile.
pub(super) async fn give_up(context: &Context, view: &RunView, node: Node, since: Millis) -> Result<(), DriveError> {
    let now = context.clock.now();
    let task = |attempt| TaskId { run: view.run.id.clone(), tag: view.run.digest.tag(), node, attempt, copy: 0 };
    let decide =
        |row: &NodeView, policy: &_| block::on_late(row, &task(row.wanted.attempt), policy, context.began, since, now);
    // Each copy that is late for itself.
    let met = Met { event: TaskEvent::Late, attempt: None, copy: 0 };
    while apply(context, view, node, Some(met), decide).await? == Handled::Failed {
        tracing::warn!(code = %ErrorCode::LostTask, run = %view.run.id, %node, "task given up: it started, and nothing more was heard");
    }
    Ok(())
}

/// Sends a task again as it is, if it is still at this attempt and its artifact is not accepted. Nothing counts twice, so at worst a prover
/// runs twice.
pub(super) async fn send_again(
    context: &Context,
    view: &RunView,
    node: Node,
    attempt: Attempt,
) -> Result<(), DriveError> {
    let met = Met { event: TaskEvent::Lost, attempt: Some(attempt), copy: 0 };
    if is_accepted(context, view, node).await? {
        met.observe(context, TaskState::Accepted);
        return Ok(());
    }
    let row = node_view(context, &view.run.id, node).await?;
    met.observe(context, met.state(&row));
    if row.wanted.attempt != attempt {
        return Ok(());
    }
    let graph = if node == Node::SPLIT { None } else { Some(graph(view)?) };
    // What has no slots was sent the first time without a mark.
    let has_slots = graph.is_some_and(|graph| graph.plan.slots(node) > 0);
    let sent = row.fired.unwrap_or(if has_slots { Attempt(0) } else { Attempt::FIRST });
    if !row.wanted.checks.is_empty() || sent < attempt {
        return settle(context, view, node).await;
    }
    let task = if let Some(graph) = graph {
        let segment = match graph.segment_of(node) {
            Some(segment) => Some(fan_out::segment(context, graph.manifest, segment).await?),
            None => None,
        };
        block::fire_again(&graph, node, &row, segment.as_ref())
    } else {
        Some(view.run.split_again(&row))
    };
    let Some(task) = task else { return Ok(()) };
    tracing::warn!(code = %ErrorCode::LostTask, task = %task.id, "task sent again: nothing was heard of it");
    let out = block::out(&row, view.run.policy.stage(node.stage));
    let outgoing = out.map(|copy| task_message(&task.as_copy(copy), &view.run, Millis(0))).collect();
    context.queue.send(&work_queue(&task.pool, task.class), outgoing).await?;
    Ok(())
}

/// Decides on a node's row as it is now, writes the decision, and sends what the rows then ask for. `Noted`: only a resend is due.
async fn apply(
    context: &Context,
    view: &RunView,
    node: Node,
    met: Option<Met>,
    decide: impl Fn(&NodeView, &StagePolicy) -> Result<Decision, Ignored>,
) -> Result<Handled, DriveError> {
    let run = &view.run.id;
    loop {
        if is_accepted(context, view, node).await? {
            met.iter().for_each(|met| met.observe(context, TaskState::Accepted));
            return Ok(Handled::Ignored(Ignored::Settled));
        }
        let row = node_view(context, run, node).await?;
        met.iter().for_each(|met| met.observe(context, met.state(&row)));
        match decide(&row, view.run.policy.stage(node.stage)) {
            // What an earlier delivery decided may still be unsent.
            Err(ignored) => {
                settle(context, view, node).await?;
                return Ok(Handled::Ignored(ignored));
            }
            Ok(Decision::Resend) => return Ok(Handled::Noted),
            Ok(Decision::Return(then)) => {
                if set_try(context, run, node, &row.wanted, then).await? {
                    return Ok(Handled::Noted);
                }
            }
            Ok(Decision::Spoil(reason)) => {
                let stage = &view.run.pipeline.stage(node.stage).name;
                let (_, reason) = ErrorCode::split(&reason);
                return spoil_run(context, run, &block::at_node(stage, node, reason)).await;
            }
            Ok(Decision::Fail { reason, then }) => {
                let counted = Counted::of(&row, &then, view.run.policy.stage(node.stage));
                if !set_try(context, run, node, &row.wanted, then).await? {
                    continue;
                }
                counted.count(context, run);
                let stage = &view.run.pipeline.stage(node.stage).name;
                let (code, reason) = ErrorCode::split(&reason);
                let code = code.unwrap_or(ErrorCode::AttemptsUsedUp);
                context.metrics.count(Metric::Quarantined, &[quarantine(code)], 1);
                return fail_run(context, run, &code.says(block::at_node(stage, node, reason))).await;
            }
            Ok(Decision::Again(then) | Decision::Check(then)) => {
                let counted = Counted::of(&row, &then, view.run.policy.stage(node.stage));
                if set_try(context, run, node, &row.wanted, then).await? {
                    counted.count(context, run);
                    settle(context, view, node).await?;
                    return Ok(Handled::Failed);
                }
            }
            Ok(Decision::Revoke { children, then }) => {
                let graph = graph(view)?;
                let counted = Counted::of(&row, &then, view.run.policy.stage(node.stage));
                match revoke(context, &graph, node, &row, &children, then).await {
                    Ok(()) => {
                        counted.count(context, run);
                        settle(context, view, node).await?;
                        return Ok(Handled::Failed);
                    }
                    Err(DriveError::Port(error)) if error.is_conflict() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// What is said about a copy of a task; of no attempt: of whichever is wanted.
#[derive(Clone, Copy)]
struct Met {
    event: TaskEvent,
    attempt: Option<Attempt>,
    copy: u8,
}

impl Met {
    fn state(&self, row: &NodeView) -> TaskState {
        TaskState::of(row, self.attempt.unwrap_or(row.wanted.attempt), self.copy)
    }

    fn observe(&self, context: &Context, state: TaskState) {
        context.observe(|| [Pair::Task(state, self.event)]);
    }
}

/// What a written decision tells the metrics.
struct Counted {
    kind: Option<FailureKind>,
    /// The pool whose device failed.
    device_of: Option<Pool>,
    is_moved: bool,
}

impl Counted {
    fn of(row: &NodeView, then: &Try, policy: &StagePolicy) -> Self {
        let before = &row.wanted;
        let is_known = |note: &&FailureNote| before.failures.contains(note);
        let new = then.failures.last().filter(|note| !is_known(note));
        let is_device = |note: &&FailureNote| ErrorCode::find(&note.message) == Some(ErrorCode::DeviceFailed);
        let device_of = new.filter(is_device).map(|note| row.pool(note.attempt, policy).clone());
        Self { kind: new.map(|note| note.kind), device_of, is_moved: before.larger_from != then.larger_from }
    }

    fn count(&self, context: &Context, run: &RunId) {
        if let Some(kind) = self.kind {
            context.metrics.count(Metric::Failures, &[kind.as_str()], 1);
        }
        if let Some(pool) = &self.device_of {
            context.metrics.count(Metric::DeviceFailures, &[pool.as_str()], 1);
        }
        context.metrics.count(Metric::TasksMoved, &[run.chain.as_str()], u64::from(self.is_moved));
    }
}

/// Why a task ended its block, for the metrics.
fn quarantine(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::AttemptsUsedUp => "attempts",
        ErrorCode::PermanentFailure => "permanent",
        ErrorCode::WorkersLost => "lost",
        ErrorCode::NobodyMayTake => "barred",
        _ => "other",
    }
}

/// Whether the node's artifact is accepted already: then no failure of it matters.
async fn is_accepted(context: &Context, view: &RunView, node: Node) -> Result<bool, DriveError> {
    if node == Node::SPLIT {
        return Ok(view.manifest.is_some());
    }
    let graph = graph(view)?;
    if !graph.plan.contains(node) {
        return Err(DriveError::poison(ErrorCode::FalseReport, format!("{} has no node {node}", view.run.id)));
    }
    let Some(parent) = graph.plan.parent(node) else {
        return Ok(false);
    };
    let row = node_view(context, &view.run.id, parent.node).await?;
    Ok(row.slots.contains_key(&parent.slot))
}

/// Sends what the node's row, and those of children whose slots were cleared, ask for.
async fn settle(context: &Context, view: &RunView, node: Node) -> Result<(), DriveError> {
    let run = &view.run;
    if node == Node::SPLIT {
        let mut row = node_view(context, &run.id, node).await?;
        while let Some(fire) = run.fire_split(&row) {
            row = send(context, run, fire).await?;
        }
        return Ok(());
    }
    let graph = graph(view)?;
    let row = node_view(context, &run.id, node).await?;
    proceed_cleared(context, &graph, node, &row, None).await?;
    proceed(context, &graph, node, row).await
}

/// Has the trusted pool look at what the node's row says is to be checked. Asking twice does no harm.
async fn send_checks(context: &Context, graph: &Graph<'_>, node: Node, row: &NodeView) -> Result<(), DriveError> {
    let Children::Nodes(children) = graph.plan.children(node) else {
        return Ok(());
    };
    for (slot, _) in &row.wanted.checks {
        let (Some(child), Some(accused)) = (children.get(*slot as usize).copied(), row.slots.get(slot)) else {
            continue;
        };
        let (first, last) = graph.plan.covers(child);
        let first = fan_out::segment(context, graph.manifest, first).await?;
        let last = fan_out::segment(context, graph.manifest, last).await?;
        let task = block::check(graph, Check { reader: node, slot: *slot }, accused, child, [first, last]);
        let outgoing = task_message(&task, graph.run, Millis(0));
        context.queue.send(&work_queue(&task.pool, task.class), vec![outgoing]).await?;
    }
    Ok(())
}

/// Sends what a node's row asks for: checks of what it reads, or its task.
async fn proceed(context: &Context, graph: &Graph<'_>, node: Node, row: NodeView) -> Result<(), DriveError> {
    if row.wanted.checks.is_empty() {
        fire(context, graph, node, row).await
    } else {
        send_checks(context, graph, node, &row).await
    }
}

/// Sets a node's `try`, if it still is what was decided on.
async fn set_try(context: &Context, run: &RunId, node: Node, from: &Try, then: Try) -> Result<bool, DriveError> {
    let at = key(RowKey::node(run, node));
    let before = raw_try(context, run, node).await?;
    if wanted(before.as_ref()) != *from {
        return Ok(false);
    }
    enforce(context, invariant::tried(from, &then));
    let set = context.table.set_if(&at, attribute::TRY, before, Some(to_value(&then))).await?;
    Ok(set.done)
}

async fn raw_try(context: &Context, run: &RunId, node: Node) -> Result<Option<Value>, DriveError> {
    let row = context.table.get(&key(RowKey::node(run, node))).await?;
    Ok(row.and_then(|row| row.attribute(attribute::TRY).cloned()))
}

fn wanted(raw: Option<&Value>) -> Try {
    raw.and_then(|raw| serde_json::from_value(raw.clone()).ok()).unwrap_or_default()
}

fn to_value(record: &impl serde::Serialize) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

/// One transaction: the accused slots are cleared if they still hold the accused bytes, their floors raised, the children's attempts
/// raised to them, the reader's attempt raised.
async fn revoke(
    context: &Context,
    graph: &Graph<'_>,
    node: Node,
    reader: &NodeView,
    accused: &[(u32, Sha256)],
    then: Try,
) -> Result<(), DriveError> {
    let run = &graph.run.id;
    let at = key(RowKey::node(run, node));
    let Children::Nodes(children) = graph.plan.children(node) else {
        return Err(DriveError::poison(ErrorCode::FalseReport, format!("{node} reads no artifacts of other tasks")));
    };
    let before = raw_try(context, run, node).await?;
    if wanted(before.as_ref()) != reader.wanted {
        return Err(PortError::conflict("the node's attempt moved").into());
    }
    enforce(context, invariant::tried(&reader.wanted, &then));
    let mut writes = vec![set(&at, attribute::TRY, before, Some(to_value(&then)))];
    for (slot, digest) in accused {
        let Some(child) = children.get(*slot as usize).copied() else {
            continue;
        };
        let child_row = node_view(context, run, child).await?;
        let below = graph.plan.children(child);
        let can_check = |slot: u32| match &below {
            Children::Nodes(nodes) => {
                nodes.get(slot as usize).is_some_and(|node| graph.run.policy.stage(node.stage).check)
            }
            Children::Segment(_) | Children::Witness => false,
        };
        let Some(revocation) = block::revoke(reader, *slot, *digest, &child_row, can_check) else {
            continue;
        };
        let (slot_name, floor_name) = (attribute::slot(*slot), attribute::floor(*slot));
        let floor_before = reader.floors.get(slot).map(to_value);
        writes.push(set(&at, &slot_name, reader.slots.get(slot).map(to_value), None));
        writes.push(set(&at, &floor_name, floor_before, Some(to_value(&revocation.floor))));
        let child_at = key(RowKey::node(run, child));
        let child_before = raw_try(context, run, child).await?;
        if wanted(child_before.as_ref()) != child_row.wanted {
            return Err(PortError::conflict("the child's attempt moved").into());
        }
        enforce(context, invariant::tried(&child_row.wanted, &revocation.child));
        writes.push(set(&child_at, attribute::TRY, child_before, Some(to_value(&revocation.child))));
        tracing::warn!(code = %ErrorCode::ArtifactAccused, run = %run, %node, %child, "artifact revoked");
    }
    context.table.transact(writes).await?;
    Ok(())
}

fn set(at: &crate::port::Key, attribute: &str, expected: Option<Value>, new: Option<Value>) -> Write {
    Write::SetIf { key: at.clone(), attribute: attribute.to_owned(), expected, new }
}

/// Ends the run because what `split` stored for it cannot be used; the chain begins another.
pub(super) async fn spoil_run(context: &Context, run: &RunId, reason: &str) -> Result<Handled, DriveError> {
    tracing::warn!(%run, code = %ErrorCode::SplitDamaged, reason, "run is spoiled, another one begins");
    let at = key(RowKey::run(run));
    let reason = clip_error(&ErrorCode::SplitDamaged.says(reason));
    context.table.set_if(&at, attribute::SPOILED, None, Some(reason.into())).await?;
    let view = load_run(context, run).await?;
    tell_chain(context, &view).await?;
    Ok(Handled::Failed)
}

/// Ends the run; the first reason stays.
pub(super) async fn fail_run(context: &Context, run: &RunId, reason: &str) -> Result<Handled, DriveError> {
    let at = key(RowKey::run(run));
    context.table.set_if(&at, attribute::FAILED, None, Some(clip_error(reason).into())).await?;
    let view = load_run(context, run).await?;
    tell_chain(context, &view).await?;
    Ok(Handled::Failed)
}
