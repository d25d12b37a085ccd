//! What must hold, and what must be reached.
//!
//! The predicates of `push0_core::invariant` are asked of every row as it is written, whoever writes it. The rest looks at what leaves push0:
//! tasks and the finalized stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use push0_core::chain::{View, advance};
use push0_core::message::{Report, TaskMessage, queue};
use push0_core::pipeline::Pipeline;
use push0_core::plan::Plan;
use push0_core::record::{
    BlockRow, BlockStatus, ChainRow, Finality, NodeView, OutboxRow, RowKey, RunView, Versioned, attribute,
};
use push0_core::{Attempt, ChainId, Millis, Node, RunId, TaskId, invariant};
use push0_runtime::port::{Key, Row, Write};
use stateright::Property;

use super::loops::Next;
use super::table::Rows;
use super::tape::{Call, Ended, PROVEN, UNPROVABLE};
use super::work;
use super::world::{State, World, all_rows};
use super::{Bounds, Plane};

// Names of what must hold.
pub const INVARIANT: &str = "the predicates of core/src/invariant.rs hold";
pub const STREAM: &str = "the finalized stream is 1, 2, 3, and each block's parent is the one before it";
pub const ONCE: &str = "a number becomes final once, and what is told of it again is the same";
pub const EARLY: &str = "no task is sent before everything it reads is accepted";
pub const GIVEN_UP: &str = "nothing of a run that was given up becomes final";
pub const REFUSED: &str = "no message is refused";
pub const LOST: &str = "nothing is lost: where nothing is under way, all is final or says why not";

/// What must always hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    Invariant,
    Stream,
    Once,
    Early,
    GivenUp,
    Refused,
}

/// That a rule was broken, and the number of the text that says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Breach {
    pub rule: Rule,
    pub what: u32,
}

type Ruling<T> = Result<T, (Rule, String)>;

#[derive(Debug)]
pub struct Judge {
    pub pipeline: Pipeline,
    pub segments: u32,
    pub chain: ChainId,
}

fn key(row: RowKey) -> Key {
    Key { partition: row.partition, sort: row.sort }
}

pub fn decode<T: Versioned>(row: &Row) -> Option<T> {
    T::from_value_ref(row.doc()?).ok()
}

fn find<T: Versioned>(rows: &Rows, at: RowKey) -> Option<T> {
    rows.get(&key(at)).and_then(decode)
}

fn hold(check: invariant::Check) -> Ruling<()> {
    check.map_err(|violation| (Rule::Invariant, violation.to_string()))
}

impl Judge {
    fn run_of(&self, row: &OutboxRow) -> RunId {
        RunId::new(self.chain.clone(), row.number, row.epoch)
    }

    /// Rows beside its own that a call is judged by.
    pub fn looks_at(&self, call: &Call) -> Vec<Key> {
        let chain = || key(RowKey::chain(&self.chain));
        match call {
            Call::SetIf { key: at, .. } if *at == key(RowKey::published(&self.chain)) => vec![chain()],
            Call::Transact(writes) => {
                let outbox = writes.iter().filter_map(|write| self.outbox_put(write));
                outbox.map(|row| key(RowKey::run(&self.run_of(&row)))).collect()
            }
            Call::Send { queue, messages } if queue == queue::FINALIZED => {
                let rows = messages.iter().filter_map(|message| OutboxRow::from_json(&message.body).ok());
                rows.map(|row| key(RowKey::outbox(&self.chain, row.seq))).chain([chain()]).collect()
            }
            Call::Send { messages, .. } => {
                let tasks = messages.iter().filter_map(|message| TaskMessage::from_json(&message.body).ok());
                tasks.map(|task| key(RowKey::node(&task.id.run, task.id.node))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn outbox_put(&self, write: &Write) -> Option<OutboxRow> {
        match write {
            Write::Put { key: at, doc, .. } if at.partition == RowKey::outbox(&self.chain, 0).partition => {
                OutboxRow::from_value_ref(doc).ok()
            }
            _ => None,
        }
    }

    /// What a call made of the rows it looked at.
    pub fn written(&self, before: &Rows, after: &Rows, call: &Call) -> Ruling<()> {
        match call {
            Call::SetIf { key: at, attribute, new: Some(seq), .. } if *at == key(RowKey::published(&self.chain)) => {
                let chain: Option<ChainRow> = find(after, RowKey::chain(&self.chain));
                let seq = seq.as_u64().filter(|_| attribute == attribute::SEQ).unwrap_or(0);
                let is_behind = |row: &Row| row.attribute(attribute).and_then(|seq| seq.as_u64()).unwrap_or(0) > seq;
                if before.get(at).is_some_and(is_behind) && after.get(at) != before.get(at) {
                    return Err((Rule::Once, format!("what is published moved back to {seq}")));
                }
                chain.map_or(Ok(()), |chain| hold(invariant::published(&chain, seq)))
            }
            Call::Send { queue, messages } if queue == queue::FINALIZED => {
                messages.iter().try_for_each(|message| self.publishes(after, &message.body))
            }
            Call::Send { messages, .. } => {
                let mut tasks = messages.iter().filter_map(|message| TaskMessage::from_json(&message.body).ok());
                tasks.try_for_each(|task| self.sends(after, &task))
            }
            Call::Transact(_) | Call::Put { .. } => self.rows(before, after),
            _ => Ok(()),
        }
    }

    fn rows(&self, before: &Rows, after: &Rows) -> Ruling<()> {
        for (at, row) in after.iter().filter(|(at, row)| before.get(*at) != Some(*row)) {
            let earlier = before.get(at);
            if *at == key(RowKey::chain(&self.chain)) {
                if let Some(after) = decode::<ChainRow>(row) {
                    hold(invariant::chain(earlier.and_then(decode::<ChainRow>).as_ref(), &after))?;
                }
            } else if at.sort.starts_with("block/") {
                if let Some(after) = decode::<BlockRow>(row) {
                    hold(invariant::block(earlier.and_then(decode::<BlockRow>).as_ref(), &after))?;
                }
            } else if let Some(outbox) = decode::<OutboxRow>(row).filter(|_| at.sort.starts_with("seq/")) {
                if earlier.is_some() {
                    return Err((Rule::Once, format!("{at:?} was written twice")));
                }
                if let Some(chain) = find::<ChainRow>(after, RowKey::chain(&self.chain)) {
                    hold(invariant::outbox(&chain, &outbox))?;
                }
                self.is_of_its_run(after, &outbox)?;
            }
        }
        Ok(())
    }

    /// The proof is the run's that the row names, and the run was about the block that the row names.
    fn is_of_its_run(&self, rows: &Rows, row: &OutboxRow) -> Ruling<()> {
        let Finality::Proof { proof, .. } = &row.finality else { return Ok(()) };
        let run = self.run_of(row);
        let begun = rows.get(&key(RowKey::run(&run))).and_then(|row| RunView::read(&row.attributes));
        let made_by: Option<TaskId> = proof.key.splitn(3, '/').nth(2).and_then(|task| task.parse().ok());
        let is_so =
            begun.is_some_and(|view| Some(view.run.hash) == row.hash) && made_by.is_some_and(|task| task.run == run);
        if is_so { Ok(()) } else { Err((Rule::GivenUp, format!("{run} is final with {}", proof.key))) }
    }

    fn publishes(&self, rows: &Rows, body: &str) -> Ruling<()> {
        let told = OutboxRow::from_json(body).map_err(|error| (Rule::Once, error.to_string()))?;
        let stored: Option<OutboxRow> = find(rows, RowKey::outbox(&self.chain, told.seq));
        if stored.as_ref() != Some(&told) {
            return Err((Rule::Once, format!("{told:?} is told, and {stored:?} is what is stored")));
        }
        match find::<ChainRow>(rows, RowKey::chain(&self.chain)) {
            Some(chain) => hold(invariant::published(&chain, told.seq)),
            None => Err((Rule::Invariant, "published without a chain".to_owned())),
        }
    }

    /// A task goes out with everything that was accepted for it, and not before that.
    fn sends(&self, rows: &Rows, task: &TaskMessage) -> Ruling<()> {
        let early = |what: String| Err((Rule::Early, format!("{} is sent: {what}", task.id)));
        let node = task.id.node;
        if node == Node::SPLIT {
            return Ok(());
        }
        let plan = Plan::new(&self.pipeline, self.segments).map_err(|error| (Rule::Early, error.to_string()))?;
        let slots = plan.slots(node);
        let row = rows.get(&key(RowKey::node(&task.id.run, node)));
        let view = row.map(|row| NodeView::read(&row.attributes)).unwrap_or_default();
        if let Err(violation) = invariant::sent(&view, slots) {
            return early(violation.to_string());
        }
        let accepted = (0..slots).filter_map(|slot| view.slots.get(&slot)).map(|artifact| &artifact.blob);
        if accepted.eq(task.inputs.iter().take(slots as usize)) { Ok(()) } else { early(format!("{:?}", task.inputs)) }
    }

    /// A message of the finalized stream: true if it is the next, false if it was there before.
    pub fn told(&self, stream: &[Arc<String>], body: &str) -> Ruling<bool> {
        let row = OutboxRow::from_json(body).map_err(|error| (Rule::Stream, error.to_string()))?;
        let last = stream.len() as u64;
        if row.seq <= last {
            let earlier = row.seq.checked_sub(1).and_then(|at| stream.get(at as usize));
            let is_same = earlier.is_some_and(|earlier| earlier.as_str() == body);
            return if is_same { Ok(false) } else { Err((Rule::Once, format!("{} is told otherwise now", row.seq))) };
        }
        let before = stream.last().and_then(|body| OutboxRow::from_json(body).ok());
        let hash = before.as_ref().map_or(Some(work::hash(0, 0)), |row| row.hash);
        let follows = row.seq == last + 1
            && row.number == before.map_or(1, |row| row.number + 1)
            && row.hash.and_then(work::parent) == hash;
        if follows { Ok(true) } else { Err((Rule::Stream, format!("{row:?} follows {last} others"))) }
    }
}

fn is_kept(state: &State, rule: Rule) -> bool {
    state.breach.is_none_or(|breach| breach.rule != rule)
}

fn chain_row(world: &World, state: &State) -> Option<ChainRow> {
    world.row(state, RowKey::chain(&world.config.chain)).and_then(|row| decode(&row))
}

/// What the rows say of the chain, whole.
fn view(world: &World, state: &State) -> Option<View> {
    let chain = chain_row(world, state)?;
    let numbers = 1..=world.bounds.blocks;
    let blocks: BTreeMap<u64, BlockRow> =
        numbers.filter_map(|number| Some((number, world.block(state, number)?))).collect();
    Some(View { chain, blocks, published: published(world, state) })
}

fn published(world: &World, state: &State) -> u64 {
    let row = world.row(state, RowKey::published(&world.config.chain));
    row.and_then(|row| row.attribute(attribute::SEQ)?.as_u64()).unwrap_or(0)
}

/// Where nothing is under way nothing is left to do: what was decided is performed, what is final is in the stream, no block waits for
/// anything but an operator or another block, and whatever stands at the cursor says why.
fn nothing_is_lost(world: &World, state: &State) -> bool {
    if !state.is_quiet() || state.breach.is_some() {
        return true;
    }
    let Some(view) = view(world, state) else { return false };
    let chain = &view.chain;
    let is_done = advance(&view, Millis(1_000_000), &world.config).is_none();
    let is_told = state.stream.len() as u64 == chain.next_seq - 1;
    let is_whole = view.blocks.len() as u64 == world.bounds.blocks;
    let is_proving = view.blocks.values().any(|block| block.status == BlockStatus::Proving);
    let waits_for_somebody = match view.blocks.get(&chain.next_final) {
        None => chain.next_final == world.bounds.blocks + 1,
        Some(block) => match &block.status {
            BlockStatus::Failed { reason } => !reason.is_empty(),
            BlockStatus::Parked | BlockStatus::Proven => {
                chain.halt.as_ref().is_some_and(|halt| halt.number() == block.number)
            }
            BlockStatus::Proving | BlockStatus::Skipped { .. } | BlockStatus::Dropped { .. } | BlockStatus::Final => {
                false
            }
        },
    };
    is_done && is_told && is_whole && !is_proving && waits_for_somebody
}

/// Whether a delivery has just been handled whose run was given up before.
fn something_late_is_dropped(world: &World, state: &State) -> bool {
    state.collectors.iter().any(|hand| {
        let (source, body) = world.loops.message(hand.delivery);
        let (source, body) = (world.loops.texts.get(source), world.loops.texts.get(body));
        let run = match source.as_str() {
            PROVEN | UNPROVABLE => serde_json::from_str(&body).ok().map(|ended: Ended| ended.run),
            queue::RESULTS | queue::VERDICTS => Report::from_json(&body).ok().map(|report| report.task.run),
            _ => None,
        };
        let is_handled = matches!(&world.loops.next(hand.delivery).next, Next::Handled);
        let given_up = |run: &RunId| world.block(state, run.number).is_some_and(|block| block.epoch > run.epoch);
        is_handled && run.as_ref().is_some_and(given_up)
    })
}

fn later_attempt_is_accepted(world: &World, state: &State) -> bool {
    all_rows(world, state).values().any(|row| {
        let view = NodeView::read(&row.attributes);
        view.slots.values().any(|artifact| artifact.attempt > Attempt::FIRST)
    })
}

fn of_branch(world: &World, state: &State, branch: u8) -> bool {
    let told = |body: &u32| OutboxRow::from_json(&world.loops.texts.get(*body)).ok();
    state.stream.iter().filter_map(told).any(|row| row.hash == Some(work::hash(row.number, branch)))
}

/// What must hold, and what must be reached within these bounds: a model in which little happens would keep every rule.
pub fn properties(bounds: &Bounds) -> Vec<Property<World>> {
    let faults = &bounds.faults;
    let mut properties = vec![
        Property::always(INVARIANT, |_, state: &State| is_kept(state, Rule::Invariant)),
        Property::always(STREAM, |_, state: &State| is_kept(state, Rule::Stream)),
        Property::always(ONCE, |_, state: &State| is_kept(state, Rule::Once)),
        Property::always(EARLY, |_, state: &State| is_kept(state, Rule::Early)),
        Property::always(GIVEN_UP, |_, state: &State| is_kept(state, Rule::GivenUp)),
        Property::always(REFUSED, |_, state: &State| is_kept(state, Rule::Refused)),
        Property::always(LOST, nothing_is_lost),
        Property::sometimes("every block is final", |world: &World, state: &State| {
            state.is_quiet() && state.stream.len() as u64 == world.bounds.blocks
        }),
    ];
    let mut reach = |may: bool, property: Property<World>| properties.extend(may.then_some(property));
    reach(
        faults.crashes > 0,
        Property::sometimes("a crash leaves what was decided and not performed", |world: &World, state: &State| {
            state.is_idle()
                && state.left.crashes < world.bounds.faults.crashes
                && chain_row(world, state).is_some_and(|chain| !chain.pending.is_empty())
        }),
    );
    reach(
        faults.crashes > 0,
        Property::sometimes("a crash leaves what was told and not marked", |world: &World, state: &State| {
            state.is_idle() && published(world, state) < state.stream.len() as u64
        }),
    );
    reach(
        bounds.dispatchers + bounds.collectors > 1,
        Property::sometimes("somebody's write meets another's", |world: &World, _| {
            world.conflicts.load(Ordering::Relaxed) > 0
        }),
    );
    reach(
        faults.lapses > 0 && bounds.dispatchers > 1,
        Property::sometimes("two dispatchers are at work on a chain", |_, state: &State| state.dispatchers.len() > 1),
    );
    reach(
        faults.retries > 0 || faults.forks > 0,
        Property::sometimes("what a run that was given up says is dropped", something_late_is_dropped),
    );
    reach(
        faults.retries > 0 && faults.bad_blocks > 0,
        Property::sometimes("a block that failed is proven again and becomes final", |world: &World, state: &State| {
            let is_again = |block: BlockRow| block.status == BlockStatus::Final && block.epoch.0 > 1;
            let all_used = state.left.bad_blocks == 0 && state.left.forks == world.bounds.faults.forks;
            all_used && (1..=world.bounds.blocks).any(|number| world.block(state, number).is_some_and(is_again))
        }),
    );
    reach(
        faults.bad_blocks > 0 && bounds.blocks > 1,
        Property::sometimes(
            "a block that failed holds back what is proven behind it",
            |world: &World, state: &State| {
                let status = |number| world.block(state, number).map(|block| block.status);
                let has_failed = matches!(status(1), Some(BlockStatus::Failed { .. }));
                state.is_quiet() && has_failed && status(2) == Some(BlockStatus::Proven)
            },
        ),
    );
    reach(
        faults.forks > 0,
        Property::sometimes("a fork's block becomes final", |world: &World, state: &State| of_branch(world, state, 1)),
    );
    reach(
        faults.forks > 0,
        Property::sometimes("a fork comes too late", |world: &World, state: &State| {
            state.is_quiet() && state.left.forks == 0 && !of_branch(world, state, 1) && !state.stream.is_empty()
        }),
    );
    reach(
        bounds.plane == Plane::Whole && (faults.failures > 0 || faults.deaths > 0),
        Property::sometimes("a later attempt is accepted", later_attempt_is_accepted),
    );
    properties
}
