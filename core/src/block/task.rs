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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::tests::fixture::{self, artifact, blob, manifest, named};
    use crate::id::Millis;
    use crate::pipeline::Stage;
    use crate::record::{Suspect, Try};

    const LEAF: Node = Node { stage: 1, layer: 0, index: 3 };
    const JOIN: Node = Node { stage: 2, layer: 0, index: 1 };
    const VERIFY: Node = Node { stage: 3, layer: 0, index: 0 };

    fn at_attempt(attempt: u32) -> NodeView {
        NodeView { wanted: Try { attempt: Attempt(attempt), ..Try::default() }, ..NodeView::default() }
    }

    /// The row of a node that these children's artifacts are accepted at.
    fn reading(keys: &[&str]) -> NodeView {
        NodeView { slots: (0..).zip(keys).map(|(slot, key)| (slot, artifact(key, 0))).collect(), ..NodeView::default() }
    }

    fn keys(inputs: &[BlobRef]) -> Vec<&str> {
        inputs.iter().map(|blob| blob.key.as_str()).collect()
    }

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    #[test]
    fn a_task_reads_what_its_children_left_and_is_not_sent_before_all_of_it_is_there() {
        let (run, manifest) = (fixture::run(""), manifest(4));
        let graph = Graph::new(&run, &manifest).unwrap();
        let segment = named("segment 3");
        let read = |node: Node, view: &NodeView, segment: Option<&BlobRef>| -> Option<Vec<String>> {
            let fired = fire(&graph, node, view, segment)?.task;
            assert_eq!(
                Some(&fired),
                fire_again(&graph, node, view, segment).as_ref(),
                "what is sent again is the same"
            );
            Some(keys(&fired.inputs).into_iter().map(str::to_owned).collect())
        };
        let some = |keys: &[&str]| Some(keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(LEAF, &at_attempt(2), Some(&segment)), some(&["segment 3"]));
        assert_eq!(read(LEAF, &at_attempt(2), None), None);
        assert_eq!(read(JOIN, &reading(&["left", "right"]), None), some(&["left", "right"]));
        assert_eq!(read(JOIN, &reading(&["left"]), None), None);
        assert_eq!(read(VERIFY, &reading(&["root"]), None), some(&["root", "header"]));
        assert_eq!(read(VERIFY, &reading(&[]), None), None, "the header alone is nothing to verify");
    }

    #[test]
    fn only_leaves_read_segments() {
        let mut run = fixture::run("");
        let second = Stage { name: "shrink".parse().unwrap(), ..run.pipeline.stage(1).clone() };
        run.pipeline.stages.insert(2, second);
        run.policy.stages.insert(2, run.policy.stage(1).clone());
        let manifest = manifest(4);
        let graph = Graph::new(&run, &manifest).unwrap();
        let segments = [Node::SPLIT, LEAF, Node::new(2, 0, 3), Node::new(3, 0, 0), Node::new(4, 0, 0)];
        assert_eq!(segments.map(|node| graph.segment_of(node)), [None, Some(3), None, None, None]);
        let fired = fire(&graph, Node::new(2, 0, 3), &reading(&["proof 3"]), None).unwrap();
        assert_eq!(keys(&fired.task.inputs), ["proof 3"], "a second `map` reads what the first made");
    }

    #[test]
    fn the_wanted_attempt_is_sent_once_and_with_its_delay() {
        let (run, manifest) = (fixture::run(""), manifest(4));
        let graph = Graph::new(&run, &manifest).unwrap();
        let fired = |node: Node, view: &NodeView| {
            let fire = fire(&graph, node, view, Some(&blob()))?;
            assert_eq!((fire.node, fire.task.id.node, fire.task.id.attempt), (node, node, fire.to));
            assert_eq!(fire.delay, view.wanted.delay);
            Some((fire.from, fire.to))
        };
        assert_eq!(fired(LEAF, &at_attempt(1)), None, "its range has sent it");
        assert_eq!(fired(LEAF, &at_attempt(2)), Some((None, Attempt(2))));
        let whole = reading(&["left", "right"]);
        assert_eq!(fired(JOIN, &whole), Some((None, Attempt(1))));
        let wanted = Try { attempt: Attempt(3), delay: Millis(700), ..Try::default() };
        let mut row = NodeView { wanted, ..whole };
        for (sent, expected) in [(2, Some((Some(Attempt(2)), Attempt(3)))), (3, None), (4, None)] {
            row.fired = Some(Attempt(sent));
            assert_eq!(fired(JOIN, &row), expected, "{sent} was sent");
        }
        row.fired = None;
        row.wanted.checks = vec![(0, row.slots[&0].blob.sha256)];
        assert_eq!(fired(JOIN, &row), None, "what it reads is being checked");
    }

    #[test]
    fn split_is_sent_again_for_a_later_attempt_only() {
        let run = fixture::run("");
        let sent = |fired: Option<u32>, wanted: u32| {
            let view = NodeView { fired: fired.map(Attempt), ..at_attempt(wanted) };
            let fire = run.fire_split(&view)?;
            assert_eq!((fire.node, fire.task.id.attempt, fire.to), (Node::SPLIT, Attempt(wanted), Attempt(wanted)));
            assert_eq!(fire.task.inputs, std::slice::from_ref(&run.witness));
            Some(fire.from)
        };
        assert_eq!(sent(None, 1), None, "the dispatcher sends the first");
        assert_eq!(sent(None, 2), Some(None));
        assert_eq!(sent(Some(2), 2), None);
        assert_eq!(sent(Some(2), 3), Some(Some(Attempt(2))));
        assert_eq!(sent(Some(3), 2), None);
    }

    #[test]
    fn a_check_is_any_trusted_workers_and_is_done_by_one() {
        let mut run = fixture::run("[policy.prove]\ncopies = 2\n");
        run.suspects = vec![Suspect { stage: 1, worker: worker("w1") }];
        let manifest = manifest(4);
        let graph = Graph::new(&run, &manifest).unwrap();
        let reader = Check { reader: JOIN, slot: 1 };
        let asked = check(&graph, reader, &artifact("accused", 0), LEAF, [named("first"), named("last")]);
        assert_eq!((asked.id.node, asked.check), (LEAF, Some(reader)));
        assert_eq!(keys(&asked.inputs), ["accused", "header", "first", "last"]);
        assert_eq!((asked.pool, asked.copies), (Pool::trusted(), None));
        assert_eq!(asked.avoid, [], "suspects of proving are none of looking at it");
        let proved = run.leaf_task(3, blob());
        assert_eq!((proved.check, proved.copies, proved.avoid), (None, Some(2), vec![worker("w1")]));
    }

    #[test]
    fn only_the_split_of_a_batch_gets_what_its_witness_names() {
        let expands = |is_batch| {
            let run = Run { is_batch, ..fixture::run("") };
            [run.split_task().expand, run.leaf_task(0, blob()).expand]
        };
        assert_eq!((expands(true), expands(false)), ([true, false], [false, false]));
    }

    #[test]
    fn a_task_avoids_who_failed_at_it_and_the_latest_suspects_of_its_stage_each_once() {
        let mut run = fixture::run("");
        let suspects = [(1, "s1"), (1, "s2"), (1, "s3"), (2, "s4")];
        run.suspects = suspects.map(|(stage, name)| Suspect { stage, worker: worker(name) }).into();
        let manifest = manifest(4);
        let graph = Graph::new(&run, &manifest).unwrap();
        let avoided = |node: Node, avoid: &[&str], barred: &[&str]| -> Vec<String> {
            let named = |names: &[&str]| names.iter().map(|name| worker(name)).collect();
            let wanted = Try { attempt: Attempt(2), avoid: named(avoid), barred: named(barred), ..Try::default() };
            let view = NodeView { wanted, ..reading(&["left", "right"]) };
            let task = fire(&graph, node, &view, Some(&blob())).unwrap().task;
            assert_eq!(task.barred, view.wanted.barred);
            task.avoid.iter().map(|worker| worker.as_str().to_owned()).collect()
        };
        assert_eq!(avoided(LEAF, &[], &[]), ["s3", "s2"]);
        assert_eq!(avoided(JOIN, &[], &[]), ["s4"]);
        assert_eq!(avoided(JOIN, &["w1"], &["w2"]), ["w1", "w2", "s4"]);
        assert_eq!(avoided(LEAF, &["w1", "s3"], &["w2", "w1", "s2"]), ["w1", "s3", "w2", "s2"]);
    }
}
