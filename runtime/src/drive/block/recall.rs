//! A task as it was sent, put together again from the rows of its run: for people who want to run it once more. Reads only.
//!
//! Inputs are those accepted now, but for what the attempt itself accused: then it had in hand what has been revoked since, and that is
//! looked for among the artifacts of the child's earlier attempts.

use push0_core::block;
use push0_core::message::TaskMessage;
use push0_core::plan::Children;
use push0_core::record::{
    Artifact, BlobRef, FailureNote, Manifest, ManifestPage, ManifestSlot, NodeView, RowKey, RunView, VerdictSlot,
};
use push0_core::{Attempt, Node, RunId, Sha256, TaskId};

use super::{fan_out, graph, node_view};
use crate::drive::store::{key, read_blob};
use crate::drive::{Context, DriveError};

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    pub task: TaskMessage,
    /// The attempt the node is at.
    pub latest: Attempt,
    /// What the run has accepted from the node, whichever attempt made it.
    pub accepted: Option<Accepted>,
    /// How this attempt failed, where the node remembers it.
    pub failed: Option<FailureNote>,
    /// Why the run failed, if it did.
    pub run_failed: Option<String>,
    /// Positions of inputs that were revoked since, as this attempt had them.
    pub revoked: Vec<u32>,
}

/// What was accepted from a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    Artifact(Artifact),
    Split(ManifestSlot),
    Verdict(VerdictSlot),
}

#[derive(Debug, thiserror::Error)]
pub enum RecallError {
    /// There is no such task.
    #[error("{0}")]
    Unknown(String),
    /// It has not been sent: not all of its inputs are there.
    #[error("{0}")]
    NotSent(String),
    #[error(transparent)]
    Drive(#[from] DriveError),
}

/// The attempt wanted now at a node of a run: its task's identity. `Unknown` where there is no such run or node.
pub async fn latest(context: &Context, run: &RunId, node: Node) -> Result<TaskId, RecallError> {
    let view = run_view(context, run).await?;
    check_node(&view, node)?;
    let row = node_view(context, run, node).await?;
    Ok(TaskId { run: run.clone(), tag: view.run.digest.tag(), node, attempt: row.wanted.attempt, copy: 0 })
}

/// The task of this identity, as it is told to a worker.
pub async fn recall(context: &Context, id: &TaskId) -> Result<Recalled, RecallError> {
    let view = run_view(context, &id.run).await?;
    let tag = view.run.digest.tag();
    if id.tag != tag {
        return Err(RecallError::Unknown(format!("{} is proven with pipeline {tag}, not {}", id.run, id.tag)));
    }
    check_node(&view, id.node)?;
    let row = node_view(context, &id.run, id.node).await?;
    let latest = row.wanted.attempt;
    let policy = view.run.policy.stage(id.node.stage);
    let may_copy = if policy.may_copy() { block::COPIES } else { 1 };
    let copies = if id.attempt == latest { block::copies(&row, policy) } else { may_copy };
    if id.attempt > latest || id.attempt.0 == 0 || id.copy >= copies {
        let what = format!("{id} was never sent: node {} is at attempt {}, of {copies} copies", id.node, latest.0);
        return Err(RecallError::Unknown(what));
    }
    let failed = row.wanted.failures.iter().find(|note| (note.attempt, note.copy) == (id.attempt, id.copy)).cloned();
    let mut as_then = row.clone();
    as_then.wanted.attempt = id.attempt;
    let revoked = restore_accused(context, &view, id.node, &mut as_then, failed.as_ref()).await?;
    let task = if id.node == Node::SPLIT {
        view.run.split_again(&as_then)
    } else {
        let graph = graph(&view)?;
        let segment = match graph.segment_of(id.node) {
            Some(segment) => Some(fan_out::segment(context, graph.manifest, segment).await?),
            None => None,
        };
        block::fire_again(&graph, id.node, &as_then, segment.as_ref()).ok_or_else(|| {
            RecallError::NotSent(format!("{id} was not sent yet: not everything that node {} reads is proven", id.node))
        })?
    };
    let accepted = accepted(context, &view, id.node).await?;
    let task = task.as_copy(id.copy);
    Ok(Recalled { task, latest, accepted, failed, run_failed: view.failed, revoked })
}

/// The segments that a manifest names, in order.
pub async fn segments(context: &Context, slot: &ManifestSlot) -> Result<Vec<BlobRef>, DriveError> {
    let manifest: Manifest = read_blob(context, &slot.manifest).await?;
    let mut segments = Vec::with_capacity(slot.segments as usize);
    for page in &manifest.pages {
        let page: ManifestPage = read_blob(context, page).await?;
        segments.extend(page.segments);
    }
    Ok(segments)
}

async fn run_view(context: &Context, run: &RunId) -> Result<RunView, RecallError> {
    let row = context.table.get(&key(RowKey::run(run))).await.map_err(DriveError::from)?;
    let view = row.as_ref().and_then(|row| RunView::read(&row.attributes));
    view.ok_or_else(|| RecallError::Unknown(format!("there is no run {run}: it never began, or was removed since")))
}

fn check_node(view: &RunView, node: Node) -> Result<(), RecallError> {
    if node == Node::SPLIT {
        return Ok(());
    }
    if view.manifest.is_none() {
        return Err(RecallError::NotSent(format!(
            "{} has not been split: only node {} was sent",
            view.run.id,
            Node::SPLIT
        )));
    }
    let graph = graph(view)?;
    if graph.plan.contains(node) {
        return Ok(());
    }
    let what = format!("{} has no node {node}: it has {} segments", view.run.id, graph.plan.segments());
    Err(RecallError::Unknown(what))
}

/// Puts back what the attempt accused, where it is not what is accepted now; says which positions.
async fn restore_accused(
    context: &Context,
    view: &RunView,
    node: Node,
    row: &mut NodeView,
    failed: Option<&FailureNote>,
) -> Result<Vec<u32>, DriveError> {
    let mut restored = Vec::new();
    let accused = failed.map(|note| note.accused.as_slice()).unwrap_or_default();
    if accused.is_empty() || node == Node::SPLIT {
        return Ok(restored);
    }
    let graph = graph(view)?;
    let Children::Nodes(children) = graph.plan.children(node) else {
        return Ok(restored);
    };
    for (slot, digest) in accused {
        let is_there = row.slots.get(slot).is_some_and(|artifact| artifact.blob.sha256 == *digest);
        let Some(child) = children.get(*slot as usize).filter(|_| !is_there) else {
            continue;
        };
        if let Some(artifact) = made_earlier(context, view, *child, *digest).await? {
            row.slots.insert(*slot, artifact);
            restored.push(*slot);
        }
    }
    Ok(restored)
}

/// The artifact with this digest among those that the attempts at a node have left.
async fn made_earlier(
    context: &Context,
    view: &RunView,
    node: Node,
    digest: Sha256,
) -> Result<Option<Artifact>, DriveError> {
    let row = node_view(context, &view.run.id, node).await?;
    let policy = view.run.policy.stage(node.stage);
    let copies = if policy.may_copy() { block::COPIES } else { 1 };
    let attempts = (1..=row.wanted.attempt.0).map(Attempt);
    for (attempt, copy) in attempts.flat_map(|attempt| (0..copies).map(move |copy| (attempt, copy))) {
        let pool = row.pool(attempt, policy);
        let id = TaskId { run: view.run.id.clone(), tag: view.run.digest.tag(), node, attempt, copy };
        let found = context.blobs.head(&format!("artifacts/{pool}/{id}")).await?;
        if let Some(info) = found.filter(|info| info.sha256 == digest) {
            let blob = BlobRef { key: info.key, sha256: info.sha256, size: info.size };
            let nobody = "unknown".parse().expect("a worker id");
            return Ok(Some(Artifact { attempt, blob, worker: nobody, at: push0_core::Millis(0) }));
        }
    }
    Ok(None)
}

async fn accepted(context: &Context, view: &RunView, node: Node) -> Result<Option<Accepted>, DriveError> {
    if node == Node::SPLIT {
        return Ok(view.manifest.clone().map(Accepted::Split));
    }
    match graph(view)?.plan.parent(node) {
        None => Ok(view.verdict.clone().map(Accepted::Verdict)),
        Some(parent) => {
            let row = node_view(context, &view.run.id, parent.node).await?;
            Ok(row.slots.get(&parent.slot).cloned().map(Accepted::Artifact))
        }
    }
}
