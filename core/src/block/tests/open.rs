//! What the timer of a part finds open.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixture::{self, artifact, manifest, named, started};
use crate::block::{Graph, Open, open};
use crate::id::{Attempt, Class, Millis, Node};
use crate::message::{FailureKind, queue};
use crate::record::{Demoted, FailureNote, Hedges, NodeView, Promotion, Run, RunView, Try, Verdict, VerdictSlot};

fn leaf(index: u32) -> Node {
    Node::new(1, 0, index)
}

fn join(layer: u8, index: u32) -> Node {
    Node::new(2, layer, index)
}

const VERIFY: Node = Node { stage: 3, layer: 0, index: 0 };

fn view(run: Run) -> RunView {
    RunView::of(Arc::new(run), &BTreeMap::new())
}

/// The row of a node with these artifacts accepted: slot and when.
fn accepted(slots: &[(u32, u64)]) -> NodeView {
    let slots = slots.iter().map(|(slot, at)| (*slot, artifact("made", *at))).collect();
    NodeView { slots, ..NodeView::default() }
}

/// What is open of the first part of a block of four segments.
fn found(view: &RunView, rows: &[(Node, NodeView)], sent: Option<u64>, began: Option<u64>) -> Vec<Open> {
    let (rows, manifest) = (rows.iter().cloned().collect::<BTreeMap<_, _>>(), manifest(4));
    let graph = Graph::new(&view.run, &manifest).unwrap();
    open(view, Some(&graph), 0, sent.map(Millis), began.map(Millis), |node| rows.get(&node))
}

/// Which nodes, and since when.
fn since(open: &[Open]) -> Vec<(Node, u64)> {
    open.iter().map(|task| (task.node, task.since.0)).collect()
}

#[test]
fn before_there_is_a_manifest_split_is_all_that_is_open() {
    let view = view(Run { released_at: Millis(5), ..fixture::run("") });
    let split = open(&view, None, 0, None, None, |_| None);
    assert_eq!(since(&split), [(Node::SPLIT, 5)]);
    assert_eq!((split[0].queue.as_str(), split[0].reports), ("work-trusted-standard", queue::VERDICTS));
    assert_eq!(open(&view, None, 1, None, None, |_| None), [], "it belongs to the first part");
}

#[test]
fn parts_share_the_nodes_by_the_segments_they_begin_with() {
    let (run, manifest) = (fixture::run(""), manifest(300));
    let graph = Graph::new(&run, &manifest).unwrap();
    let parts = [0, 1, 2].map(|piece| graph.part(piece));
    assert!([Node::SPLIT, leaf(0), leaf(255), join(0, 127), VERIFY].iter().all(|node| parts[0].contains(node)));
    assert!([leaf(256), leaf(299), join(0, 149)].iter().all(|node| parts[1].contains(node)));
    assert!(!parts[1].contains(&Node::SPLIT) && !parts[1].contains(&VERIFY));
    assert_eq!(parts[2], [], "there are no such segments");
}

#[test]
fn a_task_is_open_from_when_it_is_sent_until_its_artifact_is_accepted() {
    let view = view(fixture::run(""));
    let rows = [(join(0, 0), accepted(&[(0, 2_000), (1, 3_000)])), (join(0, 1), accepted(&[(1, 2_500)]))];
    let open = found(&view, &rows, Some(1_000), None);
    assert_eq!(since(&open), [(leaf(2), 1_000), (join(0, 0), 3_000)], "one join has everything that it reads");
    assert!(open.iter().all(|task| task.queue == "work-cpu-standard" && task.reports == queue::RESULTS));
    assert_eq!(since(&found(&view, &rows, None, None)), [(join(0, 0), 3_000)], "the leaves were not sent yet");
}

#[test]
fn verify_is_open_until_there_is_a_verdict() {
    let joined = accepted(&[(0, 2_000), (1, 3_000)]);
    let rows = [(VERIFY, accepted(&[(0, 9_000)])), (join(1, 0), joined.clone()), (join(0, 0), joined.clone())];
    let rows = [rows.as_slice(), &[(join(0, 1), joined)]].concat();
    let view = view(fixture::run(""));
    let open = found(&view, &rows, Some(1_000), None);
    assert_eq!(since(&open), [(VERIFY, 9_000)]);
    assert_eq!((open[0].queue.as_str(), open[0].reports), ("work-trusted-standard", queue::VERDICTS));
    let root = named("made");
    let verdict = VerdictSlot { attempt: Attempt::FIRST, verdict: Verdict::Ok, root, message: None, outputs: None };
    assert_eq!(found(&RunView { verdict: Some(verdict), ..view }, &rows, Some(1_000), None), []);
}

#[test]
fn a_later_attempt_at_a_leaf_is_open_though_its_range_was_never_marked() {
    let view = view(fixture::run(""));
    let note = FailureNote {
        attempt: Attempt::FIRST,
        copy: 0,
        worker: None,
        by: None,
        kind: FailureKind::Retryable,
        message: String::new(),
        accused: vec![],
        at: Millis(2_000),
    };
    let wanted = Try { attempt: Attempt(2), delay: Millis(500), failures: vec![note], ..Try::default() };
    let again = NodeView { wanted: wanted.clone(), ..NodeView::default() };
    let half = NodeView { wanted, ..accepted(&[(1, 2_500)]) };
    let open = found(&view, &[(leaf(2), again), (join(0, 1), half)], None, None);
    assert_eq!(since(&open), [(leaf(2), 2_500)], "sent when it had failed, and handed out after its delay");
    assert_eq!(open[0].attempt, Attempt(2));
}

#[test]
fn while_an_input_is_checked_its_check_is_what_is_open() {
    let view = view(Run { class: Class::Bulk, ..fixture::run("") });
    let wanted = Try { attempt: Attempt(2), checks: vec![(0, named("made").sha256)], ..Try::default() };
    let started = Some(started(2, 2_500));
    let checked = NodeView { wanted, started, ..accepted(&[(0, 2_000)]) };
    let open = found(&view, &[(join(0, 0), checked)], None, None);
    assert_eq!(since(&open), [(join(0, 0), 2_500)], "also where the other input was revoked");
    assert_eq!((open[0].queue.as_str(), open[0].reports), ("work-trusted-bulk", queue::VERDICTS));
    assert_eq!(open[0].late, None, "its own start is not the check's");
}

#[test]
fn a_start_and_a_further_copy_begin_the_wait_anew_and_the_first_start_runs_late_first() {
    let run = fixture::run("");
    let limit = run.policy.stage(1).time_limit.0 + 60_000;
    let view = view(run);
    let hedges = Hedges { attempt: Attempt::FIRST, asked: 1, sent: 1, reserved: Millis(0), at: Millis(5_000) };
    let once = NodeView { started: Some(started(1, 4_000)), ..NodeView::default() };
    let asked = NodeView { hedges: Some(hedges), ..once.clone() };
    let twice = NodeView { copies_started: [(1, started(1, 6_000))].into(), ..asked.clone() };
    let rows = [(leaf(1), once), (leaf(2), asked), (leaf(3), twice)];
    let found = |began| -> Vec<(u64, Option<u64>)> {
        let open = found(&view, &rows, Some(1_000), began);
        open.iter().map(|task| (task.since.0, task.late.map(|late| late.0))).collect()
    };
    let late = Some(4_000 + limit);
    assert_eq!(found(None), [(1_000, None), (4_000, late), (5_000, late), (6_000, late)]);
    let late_copy = Some(6_000 + limit);
    let since_then = [(1_000, None), (4_000, None), (5_000, None), (6_000, late_copy)];
    assert_eq!(found(Some(5_500)), since_then, "earlier starts may have ended with the queues' process");
}

#[test]
fn what_was_started_before_its_run_was_demoted_is_still_in_its_queue() {
    let demoted = Demoted { at: Millis(5_000), from: Class::Realtime, promotion: Promotion::None };
    let view = RunView { demoted: Some(demoted), ..view(fixture::run("").demoted()) };
    let start = |at| NodeView { started: Some(started(1, at)), ..NodeView::default() };
    let rows = [(leaf(1), start(4_999)), (leaf(2), start(5_000)), (leaf(3), start(6_000))];
    let open = found(&view, &rows, Some(1_000), None);
    let queues: Vec<&str> = open.iter().map(|task| task.queue.as_str()).collect();
    assert_eq!(queues, ["work-cpu-bulk", "work-cpu-realtime", "work-cpu-bulk", "work-cpu-bulk"]);
}
