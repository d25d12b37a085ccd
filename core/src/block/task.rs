//! When a node is to be sent to a worker, and what the worker is told.

use crate::id::{Attempt, Node, Pool, TaskId, WorkerId};
use crate::message::{Check, TaskMessage};
use crate::pipeline::Kind;
use crate::plan::{Children, Plan};
use crate::record::{Artifact, BlobRef, ManifestSlot, NodeView, Run};

/// A run's task graph, with what its tasks are made of.
#[derive(Debug, Clone, Copy)]
pub struct Graph<'r> {
    pub run: &'r Run,
    pub manifest: &'r ManifestSlot,
    pub plan: Plan<'r>,
}

/// A task to send; when it is sent, `fired` of the node's row moves from `from` to `to`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fire {
    pub node: Node,
    pub task: TaskMessage,
    pub delay: crate::id::Millis,
    pub from: Option<Attempt>,
    pub to: Attempt,
}

impl<'r> Graph<'r> {
    /// `None` where the manifest does not fit the pipeline, which accepting it has ruled out.
    pub fn new(run: &'r Run, manifest: &'r ManifestSlot) -> Option<Self> {
        let plan = Plan::new(&run.pipeline, manifest.segments).ok()?;
        Some(Self { run, manifest, plan })
    }

    /// The segment a leaf reads: its inputs come from the manifest, not from its row.
    pub fn segment_of(&self, node: Node) -> Option<u32> {
        match self.plan.children(node) {
            Children::Segment(segment) => Some(segment),
            Children::Witness | Children::Nodes(_) => None,
        }
    }

    /// What a node reads, once everything is there. `segment` is the leaf's, where it is one.
    fn inputs(&self, node: Node, view: &NodeView, segment: Option<&BlobRef>) -> Option<Vec<BlobRef>> {
        let stage = self.run.pipeline.stage(node.stage);
        match stage.kind {
            Kind::Split => Some(vec![self.run.witness.clone()]),
            Kind::Map if self.segment_of(node).is_some() => segment.map(|segment| vec![segment.clone()]),
            Kind::Map | Kind::Join | Kind::Single => self.accepted(node, view),
            Kind::Verify => {
                let mut inputs = self.accepted(node, view)?;
                inputs.push(self.manifest.header.clone());
                Some(inputs)
            }
        }
    }

    fn accepted(&self, node: Node, view: &NodeView) -> Option<Vec<BlobRef>> {
        (0..self.plan.slots(node)).map(|slot| view.slots.get(&slot).map(|artifact| artifact.blob.clone())).collect()
    }
}

/// What a node's row says is to be sent now: the wanted attempt, if it has not been and its inputs are there.
pub fn fire(graph: &Graph<'_>, node: Node, view: &NodeView, segment: Option<&BlobRef>) -> Option<Fire> {
    let wanted = view.wanted.attempt;
    if !view.wanted.checks.is_empty() {
        return None;
    }
    // The first attempt of what has no slots was sent by its range or by the dispatcher, without a mark on its own row.
    let implied = (graph.plan.slots(node) == 0).then_some(Attempt::FIRST);
    if view.fired.or(implied).is_some_and(|fired| fired >= wanted) {
        return None;
    }
    let inputs = graph.inputs(node, view, segment)?;
    let task = task(graph.run, node, wanted, inputs, view);
    Some(Fire { node, task, delay: view.wanted.delay, from: view.fired, to: wanted })
}

/// The wanted attempt of a node once more, as it is, where its inputs are there: it was sent, and nothing has been heard of it.
pub fn fire_again(graph: &Graph<'_>, node: Node, view: &NodeView, segment: Option<&BlobRef>) -> Option<TaskMessage> {
    let inputs = graph.inputs(node, view, segment)?;
    Some(task(graph.run, node, view.wanted.attempt, inputs, view))
}

/// The task that has the trusted pool check what `reader` accuses in `slot`: the artifact of `child`, beside the header and the `ends`:
/// the first and the last segment it covers.
pub fn check(graph: &Graph<'_>, check: Check, accused: &Artifact, child: Node, ends: [BlobRef; 2]) -> TaskMessage {
    let [first, last] = ends;
    let inputs = vec![accused.blob.clone(), graph.manifest.header.clone(), first, last];
    let prove = task(graph.run, child, accused.attempt, inputs, &NodeView::default());
    let class = graph.run.class_of_checks();
    TaskMessage { pool: Pool::trusted(), class, avoid: Vec::new(), check: Some(check), copies: None, ..prove }
}

/// The message of one attempt at a node.
fn task(run: &Run, node: Node, attempt: Attempt, inputs: Vec<BlobRef>, view: &NodeView) -> TaskMessage {
    let stage = run.pipeline.stage(node.stage);
    let policy = run.policy.stage(node.stage);
    TaskMessage {
        id: TaskId { run: run.id.clone(), tag: run.digest.tag(), node, attempt, copy: 0 },
        stage: stage.name.clone(),
        kind: stage.kind,
        prover: stage.prover.clone(),
        programs: run.pipeline.programs.get(&stage.prover).cloned().unwrap_or_default(),
        pool: view.pool(attempt, policy).clone(),
        class: run.class_of(node, attempt),
        inputs,
        expand: run.is_batch && stage.kind == Kind::Split,
        params: stage.params.clone(),
        block_hash: run.hash,
        parent_hash: run.parent_hash,
        time_limit: policy.time_limit,
        deadline: run.deadline,
        demoted: run.demoted,
        progress_limit: policy.progress_limit,
        avoid: avoid(run, node, view),
        barred: view.wanted.barred.clone(),
        check: None,
        copies: policy.may_copy().then_some(policy.copies),
    }
}

/// Most suspects of earlier runs avoided at a stage: with more, a small pool would have nobody left.
const MAX_SUSPECTS: usize = 2;

/// Who shall not get a node's task: who failed at it in this run, and the latest suspects of earlier runs at its stage.
fn avoid(run: &Run, node: Node, view: &NodeView) -> Vec<WorkerId> {
    let mut avoid = view.wanted.avoid.clone();
    avoid.extend(view.wanted.barred.iter().filter(|worker| !view.wanted.avoid.contains(worker)).cloned());
    let suspects = run.suspects.iter().rev().filter(|suspect| suspect.stage == node.stage).take(MAX_SUSPECTS);
    for suspect in suspects {
        if !avoid.contains(&suspect.worker) {
            avoid.push(suspect.worker.clone());
        }
    }
    avoid
}

impl Run {
    /// The first task of a run.
    pub fn split_task(&self) -> TaskMessage {
        task(self, Node::SPLIT, Attempt::FIRST, vec![self.witness.clone()], &NodeView::default())
    }

    /// Another attempt at `split`, where its row wants one that was not sent.
    pub fn fire_split(&self, view: &NodeView) -> Option<Fire> {
        let to = view.wanted.attempt;
        let fired = view.fired.unwrap_or(Attempt::FIRST);
        (fired < to).then(|| {
            let task = task(self, Node::SPLIT, to, vec![self.witness.clone()], view);
            Fire { node: Node::SPLIT, task, delay: view.wanted.delay, from: view.fired, to }
        })
    }

    /// The wanted attempt at `split`, once more.
    pub fn split_again(&self, view: &NodeView) -> TaskMessage {
        task(self, Node::SPLIT, view.wanted.attempt, vec![self.witness.clone()], view)
    }

    /// The first attempt at a leaf.
    pub fn leaf_task(&self, segment: u32, blob: BlobRef) -> TaskMessage {
        let node = Node::new(1, 0, segment);
        task(self, node, Attempt::FIRST, vec![blob], &NodeView::default())
    }
}
