//! Which task goes first: its rank among its chain's in a queue, and the class whose queue it lies in.
//!
//! Between chains the queue decides (fair groups, the group being the chain); between classes the worker does. Within a chain a task's
//! rank is a function of the task alone, fixed when it is sent and right for ever: the lower block number first, so that the oldest
//! unfinalized block outranks its successors, also one that became the oldest after its tasks were sent. Within a block what is under
//! way is finished first: another attempt before a first one, later stages before earlier ones. What is still equal goes by time.
//!
//! Where queues hand out in no order (SQS), the rank is lost. There the tasks that matter most lie one class higher: see [`Promotion`].

use crate::id::{Attempt, Class, Node};
use crate::message::TaskMessage;
use crate::record::{Demoted, Promotion, Run};

/// Bits of the stage and of the layer in a rank. More stages or layers than they count (127, 255) are equals.
const STAGE_BITS: u32 = 7;
const LAYER_BITS: u32 = 8;
/// The number fills the rest of 63 bits. Wrapping, after 10^14 blocks, costs order and not correctness.
const NUMBER_BITS: u32 = 63 - 1 - STAGE_BITS - LAYER_BITS;

impl TaskMessage {
    /// Lower goes first among the tasks of a chain in a queue. From the highest bit: 0, the block's number (47 bits), whether it is a
    /// first attempt (1), stages to come (7), layers to come (8).
    pub fn rank(&self) -> i64 {
        let to_come = |at: u64, bits: u32| ((1 << bits) - 1) - at.min((1 << bits) - 1);
        let node = self.id.node;
        let number = self.id.run.number & ((1 << NUMBER_BITS) - 1);
        let is_fresh = self.check.is_none() && self.id.attempt == Attempt::FIRST && self.id.copy == 0;
        let stages = to_come(node.stage.into(), STAGE_BITS);
        let layers = to_come(node.layer.into(), LAYER_BITS);
        let rank = (((number << 1 | u64::from(is_fresh)) << STAGE_BITS | stages) << LAYER_BITS) | layers;
        rank as i64
    }
}

impl Promotion {
    /// Of a run that is being released: `next_final` is the first number of its chain that is not final.
    pub fn at_release(number: u64, next_final: u64, queue_ranks: bool) -> Self {
        match (queue_ranks, number <= next_final) {
            (true, _) => Self::None,
            (false, true) => Self::All,
            (false, false) => Self::Late,
        }
    }

    fn raise(self, class: Class, is_under_way: bool) -> Class {
        let is_promoted = match self {
            Promotion::None => false,
            Promotion::Late => is_under_way,
            Promotion::All => true,
        };
        if is_promoted { class.more_urgent() } else { class }
    }
}

impl Run {
    /// The class whose queue a node's task lies in. From the run's record and the task's identity alone: whoever looks for a task later
    /// looks where it was sent.
    pub fn class_of(&self, node: Node, attempt: Attempt) -> Class {
        self.promotion.raise(self.class, is_under_way(node, attempt))
    }

    /// The class of looking at what was accused: somebody waits for it.
    pub fn class_of_checks(&self) -> Class {
        self.promotion.raise(self.class, true)
    }
}

impl Demoted {
    /// The class whose queue a node's task lay in before.
    pub fn class_before(&self, node: Node, attempt: Attempt) -> Class {
        self.promotion.raise(self.from, is_under_way(node, attempt))
    }
}

fn is_under_way(node: Node, attempt: Attempt) -> bool {
    attempt > Attempt::FIRST || node.stage > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::tests::fixture::{self, blob};
    use crate::block::{Graph, check};
    use crate::id::{Epoch, Millis, RunId};
    use crate::message::Check;

    fn run() -> Run {
        let run = fixture::run("");
        assert_eq!(run.promotion, Promotion::None, "as 0.1 wrote it");
        run
    }

    fn task(number: u64, node: (u16, u8, u32), attempt: u32) -> TaskMessage {
        let run = Run { id: RunId::new("demo".parse().unwrap(), number, Epoch::FIRST), ..run() };
        let mut task = run.split_task();
        (task.id.node, task.id.attempt) = (Node::new(node.0, node.1, node.2), Attempt(attempt));
        task
    }

    #[test]
    fn older_blocks_go_first_and_within_a_block_what_is_under_way() {
        let checked =
            TaskMessage { check: Some(Check { reader: Node::new(2, 0, 0), slot: 0 }), ..task(7, (1, 0, 0), 1) };
        let mut hedged = task(7, (1, 0, 5), 1);
        hedged.id.copy = 1;
        let in_order = [
            task(6, (0, 0, 0), 1),
            task(7, (3, 0, 0), 2),
            task(7, (2, 1, 0), 2),
            hedged,
            task(7, (3, 0, 0), 1),
            task(7, (2, 1, 0), 1),
            task(7, (2, 0, 3), 1),
            task(7, (1, 0, 0), 1),
            task(7, (0, 0, 0), 1),
            task(8, (3, 0, 0), 2),
            task(8, (0, 0, 0), 1),
            task((1 << 47) - 1, (0, 0, 0), 1),
        ];
        let ranks: Vec<i64> = in_order.iter().map(TaskMessage::rank).collect();
        assert!(ranks.is_sorted_by(|before, after| before < after), "{ranks:?}");
        assert_eq!(checked.rank(), in_order[3].rank(), "a check is no fresh task");
        let equals = [task(7, (1, 0, 0), 1), task(7, (1, 0, 9), 1)];
        assert_eq!(equals[0].rank(), equals[1].rank(), "by time");
    }

    #[test]
    fn numbers_and_stages_beyond_the_bits_are_ranks_too() {
        assert_eq!(task(1 << 47, (0, 0, 0), 1).rank(), task(0, (0, 0, 0), 1).rank());
        assert_eq!(task(1, (127, 255, 0), 1).rank(), task(1, (900, 255, 0), 1).rank());
        assert!(task(u64::MAX, (0, 0, 0), 1).rank() > 0);
    }

    #[test]
    fn the_oldest_block_and_what_is_under_way_lie_one_class_higher_where_queues_do_not_rank() {
        let leaf = (Node::new(1, 0, 0), Attempt::FIRST);
        let again = (Node::new(1, 0, 0), Attempt(2));
        let join = (Node::new(2, 0, 0), Attempt::FIRST);
        let join_again = (Node::new(2, 0, 0), Attempt(2));
        let class = |promotion: Promotion, class: Class| {
            let run = Run { promotion, class, ..run() };
            [leaf, again, join, join_again].map(|(node, attempt)| run.class_of(node, attempt))
        };
        use Class::{Bulk, Realtime, Standard};
        assert_eq!(class(Promotion::None, Bulk), [Bulk; 4]);
        assert_eq!(class(Promotion::Late, Bulk), [Bulk, Standard, Standard, Standard]);
        assert_eq!(class(Promotion::All, Bulk), [Standard; 4], "one class, however many the reasons");
        assert_eq!(class(Promotion::Late, Standard), [Standard, Realtime, Realtime, Realtime]);
        assert_eq!(class(Promotion::All, Realtime), [Realtime; 4]);
    }

    #[test]
    fn a_run_is_promoted_as_a_whole_if_it_is_the_oldest_when_it_is_released() {
        assert_eq!(Promotion::at_release(5, 5, false), Promotion::All);
        assert_eq!(Promotion::at_release(6, 5, false), Promotion::Late);
        assert_eq!(Promotion::at_release(5, 5, true), Promotion::None);
    }

    #[test]
    fn a_task_says_the_class_of_its_queue() {
        let run = Run { promotion: Promotion::Late, class: Class::Bulk, ..run() };
        assert_eq!(run.split_task().class, Class::Bulk);
        assert_eq!(run.leaf_task(0, blob()).class, Class::Bulk);
        let manifest = fixture::manifest(2);
        let graph = Graph::new(&run, &manifest).unwrap();
        let artifact = fixture::artifact("blob", 0);
        let reader = Check { reader: graph.plan.verify(), slot: 0 };
        let asked = check(&graph, reader, &artifact, Node::new(1, 0, 0), [blob(), blob()]);
        assert_eq!((asked.class, run.class_of_checks()), (Class::Standard, Class::Standard));
        let unpromoted = Run { promotion: Promotion::None, ..run };
        assert_eq!(unpromoted.class_of_checks(), Class::Bulk);
    }

    #[test]
    fn what_was_sent_before_a_demotion_lies_where_it_was_sent() {
        let leaf = Node::new(1, 0, 0);
        for (class, promotion) in [
            (Class::Realtime, Promotion::None),
            (Class::Standard, Promotion::None),
            (Class::Standard, Promotion::Late),
            (Class::Standard, Promotion::All),
        ] {
            let run = Run { class, promotion, ..run() };
            let demoted = Demoted { at: Millis(5), from: class, promotion };
            for attempt in [Attempt::FIRST, Attempt(2)] {
                assert_eq!(demoted.class_before(leaf, attempt), run.class_of(leaf, attempt), "{promotion:?}");
                assert_eq!(run.demoted().class_of(leaf, attempt), Class::Bulk);
            }
        }
    }
}
