//! A block's task graph, never stored: a pure function of (pipeline, n) that names every node, its children and its parent.
//!
//! Answers cost O(layers of the join tree), at most 17, however many segments there are.
//!
//! A join tree over m inputs has layers: layer 0 joins groups of `arity.first` inputs, each further layer groups of `arity.rest`
//! results, until one is left. A group with a single member is not a node: the member is *promoted* to the layer above as it is.

use crate::id::Node;
use crate::pipeline::{Arity, Kind, MAX_SEGMENTS, Pipeline};

/// Where a node's artifact goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub node: Node,
    /// Position among the parent's children.
    pub slot: u32,
}

/// What a node reads, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Children {
    /// The block's witness.
    Witness,
    /// Segment number `n` of the manifest.
    Segment(u32),
    Nodes(Vec<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("a block has 1 to 100000 segments, not {0}")]
    Segments(u32),
    #[error("the block was split into {0} segments, but the pipeline has no join stage")]
    NoJoin(u32),
}

#[derive(Debug, Clone, Copy)]
pub struct Plan<'p> {
    pipeline: &'p Pipeline,
    segments: u32,
}

impl<'p> Plan<'p> {
    pub fn new(pipeline: &'p Pipeline, segments: u32) -> Result<Self, PlanError> {
        if segments == 0 || segments > MAX_SEGMENTS {
            return Err(PlanError::Segments(segments));
        }
        let plan = Self { pipeline, segments };
        if segments > 1 && plan.join_position().is_none() {
            return Err(PlanError::NoJoin(segments));
        }
        Ok(plan)
    }

    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// The node whose verdict ends the run.
    pub fn verify(&self) -> Node {
        Node::new(self.pipeline.verify_position(), 0, 0)
    }

    /// Whether the graph has this node at all: what a message names need not exist.
    pub fn contains(&self, node: Node) -> bool {
        if usize::from(node.stage) >= self.pipeline.stages.len() {
            return false;
        }
        match self.pipeline.stage(node.stage).kind {
            Kind::Split | Kind::Single | Kind::Verify => node.layer == 0 && node.index == 0,
            Kind::Map => node.layer == 0 && node.index < self.segments,
            Kind::Join => {
                usize::from(node.layer) < self.layers()
                    && node.index < self.width(node.layer)
                    && self.group_size(node.layer, node.index) > 1
            }
        }
    }

    /// Where the artifact of `node` goes; `None` for `split` (to the manifest) and `verify` (to the verdict).
    pub fn parent(&self, node: Node) -> Option<Parent> {
        match self.pipeline.stage(node.stage).kind {
            Kind::Split | Kind::Verify => None,
            Kind::Single => Some(Parent { node: Node::new(node.stage + 1, 0, 0), slot: 0 }),
            Kind::Map => {
                let next = node.stage + 1;
                match self.pipeline.stage(next).kind {
                    Kind::Map => Some(Parent { node: Node::new(next, 0, node.index), slot: 0 }),
                    Kind::Join => Some(self.climb(next, 0, node.index)),
                    Kind::Split | Kind::Single | Kind::Verify => Some(Parent { node: Node::new(next, 0, 0), slot: 0 }),
                }
            }
            Kind::Join => Some(self.climb(node.stage, node.layer + 1, node.index)),
        }
    }

    /// What `node` reads. Verify's second input, the header, is not a child: it comes from the manifest.
    pub fn children(&self, node: Node) -> Children {
        if node.stage == 0 {
            return Children::Witness;
        }
        let below = node.stage - 1;
        match self.pipeline.stage(node.stage).kind {
            Kind::Split => Children::Witness,
            Kind::Map if below == 0 => Children::Segment(node.index),
            Kind::Map => Children::Nodes(vec![Node::new(below, 0, node.index)]),
            Kind::Join => {
                let first = node.index * self.group(node.layer);
                let members = first..first + self.group_size(node.layer, node.index);
                Children::Nodes(members.map(|member| self.descend(node.stage, node.layer, member)).collect())
            }
            Kind::Single | Kind::Verify => Children::Nodes(vec![self.root_of(below)]),
        }
    }

    /// The first and the last segment that `node`'s artifact covers. `split` and `verify` cover all.
    pub fn covers(&self, node: Node) -> (u32, u32) {
        let edge = |pick: fn(&[Node]) -> Option<&Node>, witness: u32| {
            let mut at = node;
            loop {
                match self.children(at) {
                    Children::Segment(segment) => return segment,
                    Children::Witness => return witness,
                    Children::Nodes(children) => match pick(&children) {
                        Some(child) => at = *child,
                        None => return witness,
                    },
                }
            }
        };
        (edge(<[Node]>::first, 0), edge(<[Node]>::last, self.segments - 1))
    }

    /// How many children's artifacts `node` waits for: the slots of its row. 0 for leaves and `split`.
    pub fn slots(&self, node: Node) -> u32 {
        match self.pipeline.stage(node.stage).kind {
            Kind::Split => 0,
            Kind::Map => u32::from(node.stage > 1),
            Kind::Join => self.group_size(node.layer, node.index),
            Kind::Single | Kind::Verify => 1,
        }
    }

    /// Nodes of a stage; promoted members are not counted.
    pub fn stage_nodes(&self, stage: u16) -> u32 {
        match self.pipeline.stage(stage).kind {
            Kind::Split | Kind::Single | Kind::Verify => 1,
            Kind::Map => self.segments,
            Kind::Join => (0..self.layers() as u8)
                .map(|layer| {
                    let width = self.width(layer);
                    width - u32::from(self.group_size(layer, width - 1) == 1)
                })
                .sum(),
        }
    }

    /// All nodes of a stage, in order; O(result).
    pub fn nodes_of(&self, stage: u16) -> Vec<Node> {
        match self.pipeline.stage(stage).kind {
            Kind::Split | Kind::Single | Kind::Verify => vec![Node::new(stage, 0, 0)],
            Kind::Map => (0..self.segments).map(|index| Node::new(stage, 0, index)).collect(),
            Kind::Join => (0..self.layers() as u8)
                .flat_map(|layer| (0..self.width(layer)).map(move |index| Node::new(stage, layer, index)))
                .filter(|node| self.contains(*node))
                .collect(),
        }
    }

    /// The nodes whose artifacts begin with one of the segments `from..to`, in order; `split`, `verify` and every `single` belong to the
    /// first segment. Ranges that part the segments part the nodes. O(result).
    pub fn rooted_in(&self, from: u32, to: u32) -> Vec<Node> {
        let mut nodes = Vec::new();
        for stage in 0..=self.pipeline.verify_position() {
            match self.pipeline.stage(stage).kind {
                Kind::Split | Kind::Single | Kind::Verify => nodes.extend((from == 0).then(|| Node::new(stage, 0, 0))),
                Kind::Map => nodes.extend((from..to).map(|index| Node::new(stage, 0, index))),
                Kind::Join => {
                    let mut stride = 1u32;
                    for layer in 0..self.layers() as u8 {
                        stride = stride.saturating_mul(self.group(layer));
                        let joins = (from.div_ceil(stride)..to.div_ceil(stride)).map(|at| Node::new(stage, layer, at));
                        nodes.extend(joins.filter(|node| self.contains(*node)));
                    }
                }
            }
        }
        nodes
    }

    fn join_position(&self) -> Option<u16> {
        self.pipeline.stages.iter().position(|stage| stage.kind == Kind::Join).map(|position| position as u16)
    }

    fn arity(&self) -> Arity {
        self.join_position()
            .and_then(|position| self.pipeline.stage(position).arity)
            .unwrap_or(Arity { first: 2, rest: 2 })
    }

    /// Members of a full group of a layer.
    fn group(&self, layer: u8) -> u32 {
        if layer == 0 { self.arity().first } else { self.arity().rest }
    }

    /// What the join layer `layer` reads: segments for 0, the width of the layer below otherwise.
    fn inputs(&self, layer: u8) -> u32 {
        (0..layer).fold(self.segments, |width, below| width.div_ceil(self.group(below)))
    }

    /// Groups in a join layer.
    fn width(&self, layer: u8) -> u32 {
        self.inputs(layer).div_ceil(self.group(layer))
    }

    /// Join layers; 0 when there is nothing to join.
    fn layers(&self) -> usize {
        let mut width = self.segments;
        let mut layers = 0;
        while width > 1 {
            width = width.div_ceil(self.group(layers));
            layers += 1;
        }
        usize::from(layers)
    }

    fn group_size(&self, layer: u8, index: u32) -> u32 {
        let group = self.group(layer);
        group.min(self.inputs(layer) - index * group)
    }

    /// The parent of member `index` of what join layer `layer` reads: past groups in which it is alone, and past the tree's top.
    fn climb(&self, stage: u16, mut layer: u8, mut index: u32) -> Parent {
        while usize::from(layer) < self.layers() {
            let group = self.group(layer);
            let slot = index % group;
            index /= group;
            if self.group_size(layer, index) > 1 {
                return Parent { node: Node::new(stage, layer, index), slot };
            }
            layer += 1;
        }
        Parent { node: Node::new(stage + 1, 0, 0), slot: 0 }
    }

    /// The node behind member `index` of what join layer `layer` reads: down through promotions.
    fn descend(&self, stage: u16, mut layer: u8, mut index: u32) -> Node {
        while layer > 0 {
            layer -= 1;
            if self.group_size(layer, index) > 1 {
                return Node::new(stage, layer, index);
            }
            index *= self.group(layer);
        }
        Node::new(stage - 1, 0, index)
    }

    /// The one node whose artifact leaves stage `stage`, all of which but `map` with n > 1 have just one.
    fn root_of(&self, stage: u16) -> Node {
        match self.pipeline.stage(stage).kind {
            Kind::Join => self.descend(stage, self.layers() as u8, 0),
            Kind::Split | Kind::Map | Kind::Single | Kind::Verify => Node::new(stage, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::Stage;

    fn pipeline(kinds: &[Kind], first: u32, rest: u32) -> Pipeline {
        let stages = kinds.iter().enumerate().map(|(position, &kind)| Stage {
            name: format!("s{position}").parse().unwrap(),
            kind,
            prover: "p".parse().unwrap(),
            arity: (kind == Kind::Join).then_some(Arity { first, rest }),
            params: serde_json::Value::Null,
        });
        Pipeline { name: "p".parse().unwrap(), stages: stages.collect(), programs: Default::default() }
    }

    const FULL: [Kind; 6] = [Kind::Split, Kind::Map, Kind::Map, Kind::Join, Kind::Single, Kind::Verify];

    #[test]
    fn five_segments_promote_the_lone_child_twice() {
        let pipeline = pipeline(&FULL, 2, 2);
        let plan = Plan::new(&pipeline, 5).unwrap();
        let leaf = |index| Node::new(2, 0, index);
        let join = |layer, index| Node::new(3, layer, index);
        assert_eq!(plan.parent(leaf(1)), Some(Parent { node: join(0, 0), slot: 1 }));
        assert_eq!(plan.parent(leaf(4)), Some(Parent { node: join(2, 0), slot: 1 }));
        assert_eq!(plan.children(join(2, 0)), Children::Nodes(vec![join(1, 0), leaf(4)]));
        assert_eq!(plan.parent(join(2, 0)), Some(Parent { node: Node::new(4, 0, 0), slot: 0 }));
        assert_eq!(plan.stage_nodes(3), 4);
        assert!(!plan.contains(join(0, 2)), "a promoted member is not a node");
    }

    #[test]
    fn a_single_segment_skips_the_joins() {
        let pipeline = pipeline(&FULL, 2, 2);
        let plan = Plan::new(&pipeline, 1).unwrap();
        assert_eq!(plan.parent(Node::new(2, 0, 0)), Some(Parent { node: Node::new(4, 0, 0), slot: 0 }));
        assert_eq!(plan.children(Node::new(4, 0, 0)), Children::Nodes(vec![Node::new(2, 0, 0)]));
        assert_eq!(plan.stage_nodes(3), 0);
    }

    #[test]
    fn counts_outside_the_limits_are_refused() {
        let with_join = pipeline(&FULL, 2, 2);
        assert_eq!(Plan::new(&with_join, 0).unwrap_err(), PlanError::Segments(0));
        assert_eq!(Plan::new(&with_join, 100_001).unwrap_err(), PlanError::Segments(100_001));
        let without = pipeline(&[Kind::Split, Kind::Map, Kind::Verify], 2, 2);
        assert!(Plan::new(&without, 1).is_ok());
        assert_eq!(Plan::new(&without, 2).unwrap_err(), PlanError::NoJoin(2));
    }

    #[test]
    fn only_nodes_of_the_graph_are_in_it() {
        let pipeline = pipeline(&FULL, 2, 2);
        let plan = Plan::new(&pipeline, 5).unwrap();
        assert_eq!(plan.segments(), 5);
        let all: BTreeSet<Node> = (0..6).flat_map(|stage| plan.nodes_of(stage)).collect();
        assert_eq!(all.len(), 1 + 5 + 5 + 4 + 1 + 1);
        let asked = (0..8).flat_map(|stage| (0..6).map(move |layer| (stage, layer)));
        let asked = asked.flat_map(|(stage, layer)| (0..8).map(move |index| Node::new(stage, layer, index)));
        let found: BTreeSet<Node> = asked.filter(|node| plan.contains(*node)).collect();
        assert_eq!(found, all, "whatever a message names");
    }

    #[test]
    fn joins_of_segments_and_joins_of_joins_have_arities_of_their_own() {
        let pipeline = pipeline(&FULL, 3, 2);
        let plan = Plan::new(&pipeline, 9).unwrap();
        let nodes = |stage, layer, indices: std::ops::Range<u32>| {
            Children::Nodes(indices.map(|index| Node::new(stage, layer, index)).collect())
        };
        assert_eq!(plan.children(Node::new(3, 0, 1)), nodes(2, 0, 3..6));
        assert_eq!(plan.children(Node::new(3, 1, 0)), nodes(3, 0, 0..2));
    }

    #[test]
    fn split_and_verify_cover_the_whole_block() {
        let pipeline = pipeline(&FULL, 2, 2);
        for segments in [1, 2, 5] {
            let plan = Plan::new(&pipeline, segments).unwrap();
            let whole = (0, segments - 1);
            assert_eq!((plan.covers(Node::SPLIT), plan.covers(plan.verify())), (whole, whole));
        }
    }

    /// Every node but `split` and `verify` has one parent, whose children name it at that slot, and everything reaches `verify`.
    fn check_whole_graph(plan: &Plan<'_>, stages: u16) {
        let all: BTreeSet<Node> = (0..stages).flat_map(|stage| plan.nodes_of(stage)).collect();
        let mut slots_filled = BTreeSet::new();
        for &node in &all {
            assert!(plan.contains(node));
            let Some(parent) = plan.parent(node) else { continue };
            assert!(all.contains(&parent.node), "{node} has a parent {} that does not exist", parent.node);
            assert!(parent.slot < plan.slots(parent.node));
            assert!(slots_filled.insert((parent.node, parent.slot)), "two children in one slot");
            match plan.children(parent.node) {
                Children::Nodes(children) => assert_eq!(children[parent.slot as usize], node),
                other => panic!("{} reads {other:?}", parent.node),
            }
        }
        let slots: u32 = all.iter().map(|&node| plan.slots(node)).sum();
        assert_eq!(slots as usize, slots_filled.len(), "every slot has a child");
    }

    proptest! {
        #[test]
        fn parents_and_children_agree(segments in 1u32..600, first in 2u32..=16, rest in 2u32..=16) {
            let pipeline = pipeline(&FULL, first, rest);
            let plan = Plan::new(&pipeline, segments).unwrap();
            check_whole_graph(&plan, 6);
            for stage in 0..6 {
                prop_assert_eq!(plan.stage_nodes(stage) as usize, plan.nodes_of(stage).len());
            }
        }

        #[test]
        fn leaves_of_a_join_are_in_segment_order(segments in 2u32..300, first in 2u32..=5, rest in 2u32..=5) {
            let pipeline = pipeline(&FULL, first, rest);
            let plan = Plan::new(&pipeline, segments).unwrap();
            fn leaves(plan: &Plan<'_>, node: Node, out: &mut Vec<u32>) {
                match plan.children(node) {
                    Children::Segment(index) => out.push(index),
                    Children::Nodes(children) => children.into_iter().for_each(|child| leaves(plan, child, out)),
                    Children::Witness => panic!("split is nobody's child"),
                }
            }
            for stage in 1..6 {
                for node in plan.nodes_of(stage) {
                    let mut covered = Vec::new();
                    leaves(&plan, node, &mut covered);
                    prop_assert_eq!(Some(&plan.covers(node).0), covered.first());
                    prop_assert_eq!(Some(&plan.covers(node).1), covered.last());
                }
            }
            let mut out = Vec::new();
            leaves(&plan, plan.verify(), &mut out);
            prop_assert_eq!(out, (0..segments).collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn ranges_of_segments_part_the_nodes(segments in 1u32..600, first in 2u32..=16, rest in 2u32..=16, at in 1u32..300) {
            let pipeline = pipeline(&FULL, first, rest);
            let plan = Plan::new(&pipeline, segments).unwrap();
            let mut found = Vec::new();
            for from in (0..segments).step_by(at as usize) {
                let to = segments.min(from + at);
                let nodes = plan.rooted_in(from, to);
                prop_assert!(nodes.iter().all(|node| (from..to).contains(&plan.covers(*node).0)), "{from}..{to}: {nodes:?}");
                found.extend(nodes);
            }
            found.sort();
            let all: Vec<Node> = (0..6).flat_map(|stage| plan.nodes_of(stage)).collect();
            prop_assert_eq!(found, all);
        }
    }

    #[test]
    fn the_largest_block_is_whole() {
        let pipeline = pipeline(&FULL, 2, 2);
        check_whole_graph(&Plan::new(&pipeline, MAX_SEGMENTS).unwrap(), 6);
    }
}
