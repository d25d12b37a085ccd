//! What becomes ready next: tasks that wait for nothing but what other pools have in hand, so that their own pool can have workers by then.
//! What a pool waits for of itself is not among them: it goes to the workers that its inputs set free.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Node, Pool};
use crate::plan::Children;
use crate::record::NodeView;

use super::Graph;

/// Nodes looked at a layer: more than any pool starts workers for.
pub const LOOKED_AT: u32 = 1_000;

/// The nodes that read something made in another pool, with all that they read.
fn crossings(graph: &Graph<'_>) -> Vec<(Node, Vec<Node>)> {
    let pool = |node: Node| &graph.run.policy.stage(node.stage).pool;
    let reads = |node: Node| match graph.plan.children(node) {
        Children::Nodes(children) => children,
        Children::Witness | Children::Segment(_) => Vec::new(),
    };
    let nodes = (1..=graph.plan.verify().stage).flat_map(|stage| graph.plan.nodes_of(stage));
    let looked_at = nodes.filter(|node| node.index < LOOKED_AT).map(|node| (node, reads(node)));
    looked_at.filter(|(node, children)| children.iter().any(|child| pool(*child) != pool(*node))).collect()
}

/// Layers (stage, layer) whose rows [`soon`] asks for.
pub fn soon_layers(graph: &Graph<'_>) -> BTreeSet<(u16, u8)> {
    let has_row = |node: &Node| graph.plan.slots(*node) > 0;
    let nodes = crossings(graph).into_iter().flat_map(|(node, children)| children.into_iter().chain([node]));
    nodes.filter(has_row).map(|node| (node.stage, node.layer)).collect()
}

/// How many tasks of each pool are ready as soon as what other pools have in hand is done.
pub fn soon<'r>(graph: &Graph<'_>, row: impl Fn(Node) -> Option<&'r NodeView>) -> BTreeMap<Pool, u32> {
    let is_sent = |node: Node| {
        let of_row = |view: &NodeView| view.fired.is_some_and(|fired| fired >= view.wanted.attempt);
        // Leaves are sent with their segments.
        graph.plan.slots(node) == 0 || row(node).is_some_and(of_row)
    };
    let mut soon = BTreeMap::new();
    for (node, children) in crossings(graph) {
        let unknown = NodeView::default();
        let view = row(node).unwrap_or(&unknown);
        let missing = (0..).zip(children).filter(|(slot, _)| !view.slots.contains_key(slot)).map(|(_, child)| child);
        let missing: Vec<Node> = missing.collect();
        let policy = graph.run.policy.stage(node.stage);
        let pool = view.pool(view.wanted.attempt, policy);
        let is_elsewhere = |child: &Node| graph.run.policy.stage(child.stage).pool != *pool;
        if !is_sent(node) && missing.iter().any(is_elsewhere) && missing.iter().all(|child| is_sent(*child)) {
            *soon.entry(pool.clone()).or_default() += 1;
        }
    }
    soon
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::tests::fixture::{self, manifest};
    use crate::id::Attempt;
    use crate::record::{Artifact, Run, Try};

    fn run(join: &str) -> Run {
        fixture::run(&format!("[policy.join]\npool = \"{join}\"\n"))
    }

    fn artifact() -> Artifact {
        fixture::artifact("blob", 0)
    }

    const SENT: Option<Attempt> = Some(Attempt::FIRST);

    /// What is soon ready, by the rows that there are.
    fn count(run: &Run, segments: u32, rows: &[(Node, NodeView)]) -> Vec<(String, u32)> {
        let manifest = manifest(segments);
        let graph = Graph::new(run, &manifest).unwrap();
        let rows: BTreeMap<Node, NodeView> = rows.iter().cloned().collect();
        soon(&graph, |node| rows.get(&node)).into_iter().map(|(pool, tasks)| (pool.to_string(), tasks)).collect()
    }

    fn join(layer: u8, index: u32) -> Node {
        Node::new(2, layer, index)
    }

    #[test]
    fn joins_of_another_pool_are_soon_ready_while_their_inputs_are_proven() {
        let run = run("large");
        // Five leaves: two joins of two, one of their results, and the last with the fifth.
        assert_eq!(count(&run, 5, &[]), [("large".to_owned(), 2)]);
        let half = NodeView { slots: [(0, artifact())].into(), ..NodeView::default() };
        assert_eq!(count(&run, 5, &[(join(0, 0), half.clone())]), [("large".to_owned(), 2)]);
        let sent = NodeView { fired: SENT, slots: [(0, artifact()), (1, artifact())].into(), ..NodeView::default() };
        assert_eq!(count(&run, 5, &[(join(0, 0), sent.clone())]), [("large".to_owned(), 1)]);
        // An input that was revoked is made anew, and the join is sent again then.
        let again = NodeView { wanted: Try { attempt: Attempt(2), ..Try::default() }, ..half };
        assert_eq!(count(&run, 5, &[(join(0, 0), NodeView { fired: SENT, ..again })]), [("large".to_owned(), 2)]);
        // The last join waits for the fifth leaf and for one of its own pool, which is in hand.
        let rows = [join(0, 0), join(0, 1), join(1, 0)].map(|node| (node, sent.clone()));
        assert_eq!(count(&run, 5, &rows), [("large".to_owned(), 1)]);
        let last = NodeView { slots: [(1, artifact())].into(), ..NodeView::default() };
        assert_eq!(count(&run, 5, &[rows.as_slice(), &[(join(2, 0), last)]].concat()), []);
    }

    #[test]
    fn what_a_pool_waits_for_of_itself_is_not_counted_but_the_trusted_pools_verdict_is() {
        let run = run("cpu");
        assert_eq!(count(&run, 2, &[]), []);
        let sent = NodeView { fired: SENT, ..NodeView::default() };
        assert_eq!(count(&run, 2, &[(join(0, 0), sent)]), [("trusted".to_owned(), 1)]);
        assert_eq!(count(&run, 1, &[]), [("trusted".to_owned(), 1)]);
    }

    #[test]
    fn only_rows_along_the_border_are_asked_for() {
        let layers = |join: &str| {
            let (run, manifest) = (run(join), manifest(5));
            soon_layers(&Graph::new(&run, &manifest).unwrap()).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(layers("cpu"), [(2, 2), (3, 0)]);
        assert_eq!(layers("large"), [(2, 0), (2, 1), (2, 2), (3, 0)]);
    }
}
