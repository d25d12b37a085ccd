//! What is sent once more when a run is demoted.

use crate::id::{Attempt, Millis, Node};
use crate::message::TaskMessage;
use crate::record::{BlobRef, NodeView, RunView};

use super::{Graph, fire_again, open};

/// The open tasks of a part that nobody has started, as their nodes want them, each with its delay: those may wait in a queue of the class
/// that the run had. What was started stays where it was taken from. `sent`: when the piece's leaves had been sent; their first attempts
/// are left out where it is `None`.
pub fn waiting<'r>(
    view: &RunView,
    graph: &Graph<'_>,
    piece: u32,
    sent: Option<Millis>,
    row: impl Fn(Node) -> Option<&'r NodeView>,
    segment: impl Fn(u32) -> Option<BlobRef>,
) -> Vec<(TaskMessage, Millis)> {
    let open = open(view, Some(graph), piece, sent, None, &row);
    let again = |node: Node, attempt: Attempt| {
        let own = row(node).cloned().unwrap_or_default();
        // While an input of it is checked nothing of it is sent.
        let is_at_rest = own.first_start().is_none() && own.wanted.checks.is_empty();
        let blob = graph.segment_of(node).and_then(&segment);
        let task = fire_again(graph, node, &own, blob.as_ref()).filter(|_| is_at_rest && own.wanted.attempt == attempt);
        task.map(|task| (task, own.wanted.delay))
    };
    open.iter().filter_map(|task| again(task.node, task.attempt)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::block::tests::fixture::{self, artifact, manifest, named, started};
    use crate::id::Class;
    use crate::record::Try;

    fn leaf(index: u32) -> Node {
        Node::new(1, 0, index)
    }

    fn join(index: u32) -> Node {
        Node::new(2, 0, index)
    }

    #[test]
    fn what_is_open_and_nobody_has_started_is_sent_once_more_as_it_is_wanted() {
        let manifest = manifest(6);
        let run = Arc::new(fixture::run("").demoted());
        let graph = Graph::new(&run, &manifest).unwrap();
        let view = RunView::of(run.clone(), &BTreeMap::new());
        let again = Try { attempt: Attempt(2), delay: Millis(700), ..Try::default() };
        let checked = Try { checks: vec![(0, named("left").sha256)], ..again.clone() };
        let both = || BTreeMap::from([(0, artifact("left", 0)), (1, artifact("right", 0))]);
        let rows = BTreeMap::from([
            (leaf(0), NodeView { wanted: again, ..NodeView::default() }),
            (leaf(1), NodeView { started: Some(started(1, 5)), ..NodeView::default() }),
            // Leaves 2 to 5 are proven; one of the joins reads what is being checked.
            (join(1), NodeView { slots: both(), ..NodeView::default() }),
            (join(2), NodeView { slots: both(), wanted: checked, ..NodeView::default() }),
        ]);
        let sent = |sent: Option<Millis>| -> Vec<(Node, Attempt, Millis, Vec<String>)> {
            let segment = |segment: u32| Some(named(&format!("segment {segment}")));
            let waiting = waiting(&view, &graph, 0, sent, |node| rows.get(&node), segment);
            assert!(waiting.iter().all(|(task, _)| task.class == Class::Bulk && task.demoted));
            let keys = |task: &TaskMessage| task.inputs.iter().map(|blob| blob.key.clone()).collect();
            waiting.iter().map(|(task, delay)| (task.id.node, task.id.attempt, *delay, keys(task))).collect()
        };
        let first = (leaf(0), Attempt(2), Millis(700), vec!["segment 0".to_owned()]);
        let second = (join(1), Attempt(1), Millis(0), vec!["left".to_owned(), "right".to_owned()]);
        assert_eq!(sent(Some(Millis(1))), [first, second]);
    }

    #[test]
    fn first_attempts_of_leaves_that_were_not_sent_are_left_to_their_range() {
        let manifest = manifest(2);
        let run = Arc::new(fixture::run("").demoted());
        let graph = Graph::new(&run, &manifest).unwrap();
        let view = RunView::of(run.clone(), &BTreeMap::new());
        let count = |sent| waiting(&view, &graph, 0, sent, |_| None, |_| Some(named("segment"))).len();
        assert_eq!((count(None), count(Some(Millis(1)))), (0, 2));
    }
}
