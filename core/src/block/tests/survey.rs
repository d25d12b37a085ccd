//! What a look for stragglers counts of a part, and what it finds at work.

use std::collections::BTreeMap;

use super::fixture::{self, artifact, manifest, started};
use crate::block::{Graph, Harvest, Part, Running, survey};
use crate::id::{Attempt, Millis, Node};
use crate::record::{Artifact, NodeView, Try};

const HEDGED: &str = "[policy.prove]\nhedge = true\nlarger_pool = \"large\"\n";

fn leaf(index: u32) -> Node {
    Node::new(1, 0, index)
}

fn join(index: u32) -> Node {
    Node::new(2, 0, index)
}

fn proof(attempt: u32, at: u64) -> Artifact {
    Artifact { attempt: Attempt(attempt), ..artifact(&format!("proof/a{attempt}c0"), at) }
}

/// The row of a join with these proofs accepted: slot, attempt, when.
fn reading(proofs: &[(u32, u32, u64)]) -> NodeView {
    let slots = proofs.iter().map(|(slot, attempt, at)| (*slot, proof(*attempt, *at))).collect();
    NodeView { slots, ..NodeView::default() }
}

/// The row of a leaf whose wanted attempt was started at 1000.
fn at_work(attempt: u32, larger_from: Option<u32>) -> NodeView {
    let wanted = Try { attempt: Attempt(attempt), larger_from: larger_from.map(Attempt), ..Try::default() };
    NodeView { wanted, started: Some(started(attempt, 1_000)), ..NodeView::default() }
}

/// A look at a block of six segments that counts what was accepted after 2000 and not after 3000.
fn look(policy: &str, rows: &[(Node, NodeView)]) -> Part {
    let (run, manifest) = (fixture::run(policy), manifest(6));
    let graph = Graph::new(&run, &manifest).unwrap();
    let rows: BTreeMap<Node, NodeView> = rows.iter().cloned().collect();
    survey(&graph, 0, Millis(2_000), Millis(3_000), |node| rows.get(&node))
}

fn running(index: u32, since: Option<u64>) -> Running {
    Running { node: leaf(index), since: since.map(Millis), may_hedge: true, is_pending: false }
}

#[test]
fn what_was_accepted_between_two_looks_is_counted_once_and_the_rest_is_at_work() {
    let rows = [
        (join(0), reading(&[(0, 1, 2_000), (1, 1, 2_001)])),
        (join(1), reading(&[(0, 1, 3_000), (1, 1, 3_001)])),
        (leaf(0), at_work(1, None)),
        (leaf(1), at_work(1, None)),
        (leaf(2), at_work(1, None)),
        (leaf(3), at_work(1, None)),
        (leaf(4), at_work(1, None)),
    ];
    let part = look(HEDGED, &rows);
    let durations = vec![Millis(1_001), Millis(2_000)];
    let harvest = Harvest { durations, work: Millis(3_001), ..Harvest::default() };
    assert_eq!(part.harvests, [(1, harvest)].into());
    assert_eq!(part.running, [(1, vec![running(4, Some(1_000)), running(5, None)])].into());
    assert_eq!(look("", &rows), Part::default(), "no stage is hedged");
}

#[test]
fn what_moved_to_the_larger_pool_is_left_out() {
    let rows = [
        // Of one the attempt there was accepted, of the other the one before it after all.
        (join(0), reading(&[(0, 2, 2_500), (1, 1, 2_500)])),
        (leaf(0), at_work(2, Some(2))),
        (leaf(1), NodeView { started: Some(started(1, 1_000)), ..at_work(2, Some(2)) }),
        (leaf(2), at_work(2, Some(2))),
        (leaf(3), at_work(2, None)),
    ];
    let part = look(HEDGED, &rows);
    let harvest = Harvest { durations: vec![Millis(1_500)], work: Millis(1_500), ..Harvest::default() };
    assert_eq!(part.harvests, [(1, harvest)].into());
    let at_work = vec![running(3, Some(1_000)), running(4, None), running(5, None)];
    assert_eq!(part.running, [(1, at_work)].into());
}
