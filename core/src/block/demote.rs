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
