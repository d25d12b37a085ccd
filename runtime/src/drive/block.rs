//! Drives the block plane: a worker's report meets its node, then everything the node's row asks for is sent.
//!
//! The load is the row that the accept-first write returns; marks are set after the send. A report of a run that is over only makes
//! sure that the chain knows.

mod deadline;
mod demote;
mod fail;
mod fan_out;
mod hedge;
mod recall;
mod soon;
mod timer;

use push0_core::block::{self, Graph};
use push0_core::chain::{self as chain_core, Event, Outcome};
use push0_core::message::{FailureKind, Report, ReportEvent, queue, work_queue};
use push0_core::pipeline::Kind;
use push0_core::plan::{Children, Parent};
use push0_core::record::{
    Artifact, BlobRef, ManifestSlot, NodeView, RowKey, RunView, Started, Suspect, Verdict, VerdictSlot, attribute,
    clip_error,
};
use push0_core::transition::{Pair, TaskEvent, TaskState};
use push0_core::{Attempt, ErrorCode, Node, Pool, RunId, Sha256, invariant};

use super::chain::task_message;
use super::store::key;
use super::{Context, DriveError, chain, enforce};
use crate::metrics::Metric;
use crate::port::{BlobInfo, PortResult};

pub(super) use deadline::arm as arm_deadline;
pub(super) use demote::demote;
pub use fail::on_dead_letter;
pub use fan_out::on_range;
pub use recall::{Accepted, RecallError, Recalled, latest, recall, segments};
pub use soon::soon;
pub(super) use timer::arm;
pub use timer::{Looked, look_after_overdue, on_timer};

/// What a report led to; for logs and metrics only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    Accepted,
    /// Another attempt, a revocation, or the end of the block.
    Failed,
    Noted,
    Ignored(block::Ignored),
    /// The run is over; the chain has been told, again.
    Over,
}

/// A worker's report. `source` is the queue it came from: who may send to it decides what it can be about.
pub async fn on_report(context: &Context, source: &str, report: &Report) -> Result<Handled, DriveError> {
    match apply(context, source, report).await {
        Err(DriveError::Damaged(what)) => fail::spoil_run(context, &report.task.run, &what).await,
        handled => handled,
    }
}

async fn apply(context: &Context, source: &str, report: &Report) -> Result<Handled, DriveError> {
    // Neither waits for the other: a dependent's start waits for both.
    let (view, stored) = futures::join!(load_run(context, &report.task.run), look_up(context, report));
    let view = view?;
    if report.task.tag != view.run.digest.tag() {
        return Err(DriveError::poison(
            ErrorCode::FalseReport,
            format!("{} names another pipeline than its run has", report.task),
        ));
    }
    let node = report.task.node;
    let kind = kind_of(&view, node)?;
    let trusted = source == queue::VERDICTS;
    let is_check = matches!(report.event, ReportEvent::Checked { .. });
    if (kind.is_trusted() || is_check) != trusted {
        let kind = kind.as_str();
        return Err(DriveError::poison(
            ErrorCode::FalseReport,
            format!("a report about a `{kind}` task does not count from `{source}`"),
        ));
    }
    if view.is_over() {
        observe(context, report, TaskState::Over);
        tell_chain(context, &view).await?;
        return Ok(Handled::Over);
    }
    match &report.event {
        ReportEvent::Started => note_start(context, &view, report).await,
        ReportEvent::Split { manifest, segments, header, hash, parent_hash } => {
            let slot = ManifestSlot {
                attempt: report.task.attempt,
                manifest: manifest.clone(),
                segments: *segments,
                header: header.clone(),
                hash: *hash,
                parent_hash: *parent_hash,
            };
            expect_kind(kind, &[Kind::Split], report)?;
            on_split(context, &view, report, slot).await
        }
        ReportEvent::Done { artifact } => {
            expect_kind(kind, &[Kind::Map, Kind::Join, Kind::Single], report)?;
            on_done(context, &view, report, artifact, stored?.as_ref()).await
        }
        ReportEvent::Verified { verdict, root, message, outputs } => {
            expect_kind(kind, &[Kind::Verify], report)?;
            let found = Found { verdict: *verdict, message: message.clone(), outputs: *outputs };
            on_verdict(context, &view, report, *root, found).await
        }
        ReportEvent::Checked { reader, slot, artifact, finding, message } => {
            tracing::warn!(task = %report.task, %reader, ?finding, message, "accused artifact was checked");
            fail::on_checked(context, &view, *reader, *slot, *artifact, *finding).await
        }
        ReportEvent::Failed { kind, message, children } => {
            fail::on_failed(context, &view, report, *kind, message, children, trusted).await
        }
    }
}

/// A report meets its task in this state.
fn observe(context: &Context, report: &Report, state: TaskState) {
    context.observe(|| [Pair::Task(state, TaskEvent::of(&report.event))]);
}

fn expect_kind(kind: Kind, allowed: &[Kind], report: &Report) -> Result<(), DriveError> {
    if allowed.contains(&kind) {
        return Ok(());
    }
    Err(DriveError::poison(
        ErrorCode::FalseReport,
        format!("{} is a `{}` task; the report is about another kind", report.task, kind.as_str()),
    ))
}

fn kind_of(view: &RunView, node: Node) -> Result<Kind, DriveError> {
    let stage = view.run.pipeline.stages.get(usize::from(node.stage));
    stage
        .map(|stage| stage.kind)
        .ok_or_else(|| DriveError::poison(ErrorCode::FalseReport, format!("there is no stage {}", node.stage)))
}

pub(super) async fn load_run(context: &Context, run: &RunId) -> Result<RunView, DriveError> {
    let at = key(RowKey::run(run));
    let view = match context.plans.get(run) {
        Some(plan) => {
            let row = context.table.get_attributes(&at, &RunView::CHANGING).await?;
            row.map(|row| RunView::of(plan, &row.attributes))
        }
        None => context.table.get(&at).await?.and_then(|row| RunView::read(&row.attributes)),
    };
    let view = view.ok_or_else(|| DriveError::poison(ErrorCode::Poison, format!("there is no run {run}")))?;
    context.plans.keep(&view.run);
    Ok(view)
}

async fn node_view(context: &Context, run: &RunId, node: Node) -> Result<NodeView, DriveError> {
    let row = context.table.get(&key(RowKey::node(run, node))).await?;
    Ok(row.map(|row| NodeView::read(&row.attributes)).unwrap_or_default())
}

/// Who works on it since when: for people, and to tell a task that killed its workers from one that nobody took. Only of an attempt
/// that is wanted, at a node that exists: a worker's word makes no rows.
async fn note_start(context: &Context, view: &RunView, report: &Report) -> Result<Handled, DriveError> {
    let node = report.task.node;
    if node != Node::SPLIT {
        expect_node(&graph(view)?, node)?;
    }
    let at = key(RowKey::node(&view.run.id, node));
    let (attempt, copy) = (report.task.attempt, report.task.copy);
    expect_copy(view, report)?;
    let name = attribute::started(copy);
    let (worker, by) = (report.worker.clone(), report.by.clone());
    let started = Started { attempt, worker, by, at: context.clock.now(), handout: report.handout };
    let value = serde_json::to_value(started).unwrap_or_default();
    let row = if attempt == Attempt::FIRST {
        // Mostly the first word about the node. Were another attempt wanted by now, this one's start would count for nothing.
        let set = context.table.set_if(&at, &name, None, Some(value.clone())).await?;
        if set.done {
            observe(context, report, TaskState::Open);
            return Ok(Handled::Noted);
        }
        set.row
    } else {
        context.table.get(&at).await?
    };
    let known = row.as_ref().map(|row| NodeView::read(&row.attributes)).unwrap_or_default();
    let is_over = known.start_of(attempt, copy).is_some_and(|start| start.has_taken_over_from(report.handout));
    observe(context, report, if is_over { TaskState::Overtaken } else { TaskState::of(&known, attempt, copy) });
    // Who is barred and took it all the same shall not lose it once more.
    if attempt != known.wanted.attempt || is_over || known.wanted.barred.contains(&report.worker) {
        return Ok(Handled::Ignored(block::Ignored::Stale));
    }
    let before = row.as_ref().and_then(|row| row.attribute(&name)).cloned();
    context.table.set_if(&at, &name, before, Some(value)).await?;
    Ok(Handled::Noted)
}

async fn on_split(
    context: &Context,
    view: &RunView,
    report: &Report,
    slot: ManifestSlot,
) -> Result<Handled, DriveError> {
    if let Err(reason) = block::check_split(&view.run, &slot) {
        return fail::fail_run(context, &view.run.id, &reason).await;
    }
    let at = key(RowKey::run(&view.run.id));
    let value = serde_json::to_value(&slot).unwrap_or_default();
    let attempt = slot.attempt.0;
    let accepted = context.table.accept_first(&at, attribute::MANIFEST, attribute::NO_FLOOR, attempt, value).await?;
    observe(context, report, if accepted.won { TaskState::Open } else { TaskState::Accepted });
    let manifest = RunView::read(&accepted.row.attributes).and_then(|view| view.manifest);
    let segments = manifest.map_or(slot.segments, |manifest| manifest.segments);
    fan_out::open(context, &view.run.id, segments).await?;
    Ok(Handled::Accepted)
}

async fn on_done(
    context: &Context,
    view: &RunView,
    report: &Report,
    artifact: &BlobRef,
    stored: Option<&BlobInfo>,
) -> Result<Handled, DriveError> {
    let graph = graph(view)?;
    let parent = parent_of(&graph, report)?;
    let node = report.task.node;
    expect_copy(view, report)?;
    // No node wants less than the first attempt, and that one is in its stage's own pool.
    let mut row = NodeView::default();
    if report.task.attempt > Attempt::FIRST {
        row = node_view(context, &view.run.id, node).await?;
        let wanted = row.wanted.attempt;
        if report.task.attempt > wanted {
            return Err(DriveError::poison(
                ErrorCode::FalseReport,
                format!("{} was never sent: the node's attempt is {}", report.task, wanted.0),
            ));
        }
    }
    let pool = row.pool(report.task.attempt, view.run.policy.stage(node.stage));
    if let Some(lie) = what_is_wrong(pool, report, artifact, stored) {
        return fail::on_failed(context, view, report, FailureKind::Retryable, &lie, &[], false).await;
    }
    let value = Artifact {
        attempt: report.task.attempt,
        blob: artifact.clone(),
        worker: report.worker.clone(),
        at: context.clock.now(),
    };
    let value = serde_json::to_value(value).unwrap_or_default();
    let at = key(RowKey::node(&view.run.id, parent.node));
    let (slot, floor) = (attribute::slot(parent.slot), attribute::floor(parent.slot));
    let accepted = context.table.accept_first(&at, &slot, &floor, report.task.attempt.0, value).await?;
    let row = NodeView::read(&accepted.row.attributes);
    observe(
        context,
        report,
        match (accepted.won, row.slots.contains_key(&parent.slot)) {
            (true, _) => TaskState::Open,
            (false, true) => TaskState::Accepted,
            (false, false) => TaskState::Overtaken,
        },
    );
    let stopping = hedge::stop_others(context, &graph, node, &row, parent.slot);
    futures::try_join!(fire(context, &graph, parent.node, row.clone()), stopping)?;
    if accepted.won {
        hedge::count_won(context, &view.run, &report.task);
    }
    let settled = Handled::Ignored(block::Ignored::Settled);
    Ok(if accepted.won { Handled::Accepted } else { settled })
}

pub(super) fn graph(view: &RunView) -> Result<Graph<'_>, DriveError> {
    let manifest = view.manifest.as_ref();
    let graph = manifest.and_then(|manifest| Graph::new(&view.run, manifest));
    graph.ok_or_else(|| DriveError::poison(ErrorCode::Poison, format!("{} has not been split yet", view.run.id)))
}

/// A copy of this number can exist.
fn expect_copy(view: &RunView, report: &Report) -> Result<(), DriveError> {
    let policy = view.run.policy.stage(report.task.node.stage);
    let most = if policy.may_copy() { block::COPIES } else { 1 };
    if report.task.copy < most {
        return Ok(());
    }
    Err(DriveError::poison(ErrorCode::FalseReport, format!("{} was never sent: there is no such copy", report.task)))
}

fn expect_node(graph: &Graph<'_>, node: Node) -> Result<(), DriveError> {
    let missing = || DriveError::poison(ErrorCode::FalseReport, format!("{} has no node {node}", graph.run.id));
    graph.plan.contains(node).then_some(()).ok_or_else(missing)
}

fn parent_of(graph: &Graph<'_>, report: &Report) -> Result<Parent, DriveError> {
    let node = report.task.node;
    expect_node(graph, node)?;
    graph
        .plan
        .parent(node)
        .ok_or_else(|| DriveError::poison(ErrorCode::FalseReport, format!("{node} leaves no artifact")))
}

/// What is stored where a report says that its task's artifact is. A key that cannot be the task's is not looked for.
async fn look_up(context: &Context, report: &Report) -> PortResult<Option<BlobInfo>> {
    match &report.event {
        ReportEvent::Done { artifact } if artifact.key.ends_with(&format!("/{}", report.task)) => {
            context.blobs.head(&artifact.key).await
        }
        _ => Ok(None),
    }
}

/// A worker's artifact stands under its task's pool and the task's own identity, is stored, and is what the report says: what is
/// accepted will be read by others. `None`: all is well.
fn what_is_wrong(pool: &Pool, report: &Report, artifact: &BlobRef, stored: Option<&BlobInfo>) -> Option<String> {
    if artifact.key != format!("artifacts/{pool}/{}", report.task) {
        let what = format!("the worker reported {}, which is not the key of its task", clip_error(&artifact.key));
        return Some(ErrorCode::FalseReport.says(what));
    }
    let is_so = stored.is_some_and(|info| info.sha256 == artifact.sha256 && info.size == artifact.size);
    let lie = || format!("the worker reported {}, which is not stored as it says", artifact.key);
    (!is_so).then(|| ErrorCode::FalseReport.says(lie()))
}

/// What `verify` says of a root.
struct Found {
    verdict: Verdict,
    message: Option<String>,
    outputs: Option<Sha256>,
}

async fn on_verdict(
    context: &Context,
    view: &RunView,
    report: &Report,
    root: Sha256,
    found: Found,
) -> Result<Handled, DriveError> {
    let Found { verdict, message, outputs } = found;
    let row = node_view(context, &view.run.id, report.task.node).await?;
    let root = row.slots.get(&0).map(|artifact| artifact.blob.clone()).filter(|blob| blob.sha256 == root);
    let task = &report.task;
    let of_row = || TaskState::of(&row, task.attempt, task.copy);
    observe(context, report, if root.is_none() { TaskState::Overtaken } else { of_row() });
    let Some(root) = root else { return Ok(Handled::Ignored(block::Ignored::Stale)) };
    if verdict == Verdict::BadProof && fail::on_bad_proof(context, view, report, &row, message.as_deref()).await? {
        return Ok(Handled::Failed);
    }
    let slot = VerdictSlot { attempt: report.task.attempt, verdict, root, message, outputs };
    let value = serde_json::to_value(slot).unwrap_or_default();
    let at = key(RowKey::run(&view.run.id));
    let attempt = report.task.attempt.0;
    context.table.accept_first(&at, attribute::VERDICT, attribute::NO_FLOOR, attempt, value).await?;
    let view = load_run(context, &view.run.id).await?;
    tell_chain(context, &view).await?;
    Ok(Handled::Accepted)
}

/// Tells the chain how a run ended, if it has; the chain ignores what it knows.
pub async fn tell_chain(context: &Context, view: &RunView) -> Result<(), DriveError> {
    let Some(mut outcome) = outcome(view) else { return Ok(()) };
    if let Outcome::BadProof { suspects, .. } = &mut outcome {
        *suspects = on_leftmost_path(context, view).await?;
    }
    let event = Event::RunEnded { run: view.run.id.clone(), outcome };
    match chain::drive(context, &view.run.id.chain, &event).await? {
        Ok(()) => {}
        Err(ignored) => {
            let is_late = u64::from(ignored == chain_core::Ignored::Late);
            context.metrics.count(Metric::Runs, &[view.run.id.chain.as_str(), "late"], is_late);
            tracing::debug!(run = %view.run.id, %ignored, "the chain knows already");
        }
    }
    Ok(())
}

/// Who made the root, and what it was made from, down to the first segment. For a block of one segment that is everybody; for others
/// the root's maker is what counts, since honest joins refuse bad children.
async fn on_leftmost_path(context: &Context, view: &RunView) -> Result<Vec<Suspect>, DriveError> {
    let graph = graph(view)?;
    let mut suspects = Vec::new();
    let mut reader = graph.plan.verify();
    while let Children::Nodes(children) = graph.plan.children(reader) {
        let (Some(child), row) = (children.first().copied(), node_view(context, &view.run.id, reader).await?) else {
            break;
        };
        let worker = row.slots.get(&0).map(|artifact| artifact.worker.clone());
        suspects.extend(worker.map(|worker| Suspect { stage: child.stage, worker }));
        reader = child;
    }
    // The newest last: the root's maker.
    suspects.reverse();
    Ok(suspects)
}

fn outcome(view: &RunView) -> Option<Outcome> {
    // A proof that verified is one, whatever else was found meanwhile.
    let is_proven = view.verdict.as_ref().is_some_and(|verdict| verdict.verdict == Verdict::Ok);
    if let Some(reason) = view.failed.as_ref().filter(|_| !is_proven) {
        return Some(Outcome::Failed { reason: reason.clone() });
    }
    if let Some(message) = view.spoiled.as_ref().filter(|_| !is_proven) {
        return Some(Outcome::Spoiled { message: message.clone() });
    }
    let (verdict, manifest) = (view.verdict.as_ref()?, view.manifest.as_ref()?);
    let message = verdict.message.clone().unwrap_or_else(|| "the verifier gave no reason".to_owned());
    Some(match verdict.verdict {
        Verdict::BadBlock => Outcome::Failed { reason: ErrorCode::BadBlock.says(format!("bad block: {message}")) },
        Verdict::BadProof => Outcome::BadProof { message, suspects: Vec::new() },
        Verdict::Ok => Outcome::Proven {
            pipeline: view.run.digest,
            proof: verdict.root.clone(),
            header: manifest.header.clone(),
            parent_hash: manifest.parent_hash,
            outputs: verdict.outputs,
        },
    })
}

/// Sends what a node's row asks for, and marks it sent.
pub(super) async fn fire(context: &Context, graph: &Graph<'_>, node: Node, view: NodeView) -> Result<(), DriveError> {
    let segment = match graph.segment_of(node) {
        Some(segment) => Some(fan_out::segment(context, graph.manifest, segment).await?),
        None => None,
    };
    let mut view = view;
    // Again after the mark: a revocation may have raised the attempt meanwhile.
    while let Some(fire) = block::fire(graph, node, &view, segment.as_ref()) {
        enforce(context, invariant::sent(&view, graph.plan.slots(node)));
        view = send(context, graph.run, fire).await?;
    }
    Ok(())
}

/// Sends one task and moves the node's `fired`; returns the row as it is then.
pub(super) async fn send(
    context: &Context,
    run: &push0_core::record::Run,
    fire: block::Fire,
) -> Result<NodeView, DriveError> {
    let (mut task, mut run) = (fire.task, run);
    let latest = demote::latest(context, run).await?;
    if let Some(demoted) = &latest {
        (task, run) = (task.demoted(), demoted);
    }
    let copies = 0..run.policy.stage(fire.node.stage).copies;
    let outgoing = copies.map(|copy| task_message(&task.as_copy(copy), run, fire.delay)).collect();
    context.queue.send(&work_queue(&task.pool, task.class), outgoing).await?;
    let at = key(RowKey::node(&run.id, fire.node));
    let (from, to) = (fire.from.map(|attempt| attempt.0.into()), Some(fire.to.0.into()));
    let set = context.table.set_if(&at, attribute::FIRED, from, to).await?;
    Ok(set.row.map(|row| NodeView::read(&row.attributes)).unwrap_or_default())
}
