//! States of the model, and what may happen in them.
//!
//! Functions are many, and none remembers anything between deliveries: those that are at work are a multiset of deliveries in hand. Workers
//! act at once when a task is sent: a slow worker is the same as a slow report, and reports lie in a queue without order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use push0_core::chain::ChainConfig;
use push0_core::message::{ChainMessage, Command, Report, TaskMessage, queue};
use push0_core::pipeline::{self, Kind};
use push0_core::record::{BlockRow, BlockStatus, RowKey, Versioned as _};
use push0_core::transition::Pair;
use push0_core::{ChainId, RunId};
use push0_runtime::drive::Catalog;
use push0_runtime::port::{Key, Outgoing, Row};
use stateright::{Model, Property};

use crate::pipelines::{NO_PROVER, four_stages};

use super::judge::{self, Breach, Rule};
use super::loops::{Loops, Met, Next};
use super::table::{self, Rows};
use super::tape::{Answer, Call, Ended, PROVEN, UNPROVABLE};
use super::work::{self, Work};
use super::{Bounds, Bug, Faults, Grain, Plane};

/// Numbers are those of [`Loops`] and of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Keys and rows, by key.
    pub(super) rows: Vec<(u32, u32)>,
    /// `submissions.fifo`, of the one chain there is.
    pub(super) submissions: Vec<u32>,
    /// Whether somebody has the first of them in hand and the lease goes on.
    pub(super) is_leased: bool,
    /// Standard queues: queue and message, each as often as it is there, in order.
    pub(super) bag: Vec<(u32, u32)>,
    /// `finalized.fifo` without what came again: what is to be seen there first for each sequence number.
    pub(super) stream: Vec<u32>,
    /// Dedup ids that it remembers, in order.
    pub(super) remembered: Vec<u32>,
    pub(super) dispatchers: Vec<Hand>,
    pub(super) collectors: Vec<Hand>,
    pub(super) left: Faults,
    pub(super) breach: Option<Breach>,
}

/// A delivery in hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hand {
    pub(super) delivery: u32,
    /// Whether the message is its own to acknowledge.
    pub(super) is_leased: bool,
    /// Calls that send and are put off: see [`Bug::MarkedBeforeSent`].
    pub(super) unsent: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Dispatcher,
    Collector,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A message is handed to a function. The dispatchers' is the first there is.
    Take {
        who: Who,
        source: u32,
        body: u32,
    },
    /// A call of a delivery in hand happens and is answered.
    Call {
        who: Who,
        hand: usize,
        call: u16,
    },
    Acknowledge {
        who: Who,
        hand: usize,
    },
    Crash {
        who: Who,
        hand: usize,
    },
    Lapse {
        who: Who,
        hand: usize,
    },
    Work {
        source: u32,
        body: u32,
        work: Work,
    },
    Retry {
        number: u64,
    },
    /// The submitter supersedes the blocks from this number on.
    Fork {
        from: u64,
    },
    Forget,
}

/// What a call does to the rows it looks at.
#[derive(Debug)]
struct Effect {
    answer: u32,
    /// Rows afterwards; `None`: none.
    rows: Vec<(u32, Option<u32>)>,
    breach: Option<Breach>,
}

/// What is looked at by a call.
#[derive(Debug)]
struct Scope {
    keys: Vec<u32>,
    /// All rows of this partition, too.
    partition: Option<String>,
    is_read: bool,
}

type Memo<K, V> = RwLock<HashMap<K, Arc<V>>>;

#[derive(Debug)]
pub struct World {
    pub(super) bounds: Bounds,
    pub(super) bug: Option<Bug>,
    pub(super) config: ChainConfig,
    pub(super) loops: Loops,
    pub(super) keys: Met<Key>,
    pub(super) rows: Met<Row>,
    pub(super) judge: judge::Judge,
    /// Writes that met another's, wherever that was.
    pub(super) conflicts: AtomicU64,
    scopes: Memo<u32, Scope>,
    effects: Memo<(u32, Vec<Option<u32>>), Effect>,
    blocks: Memo<u32, Option<BlockRow>>,
}

fn remembered<K: std::hash::Hash + Eq, V>(memo: &Memo<K, V>, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
    if let Some(value) = memo.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return value.clone();
    }
    let value = Arc::new(make(&key));
    memo.write().unwrap_or_else(PoisonError::into_inner).insert(key, value.clone());
    value
}

impl World {
    pub fn new(bounds: Bounds, bug: Option<Bug>) -> Result<Self, String> {
        let file = pipeline::parse(&four_stages("model", NO_PROVER)).map_err(|mistakes| mistakes.to_string())?;
        let digest = file.pipeline.digest();
        let chain: ChainId = "demo".parse().map_err(|error: push0_core::InvalidId| error.to_string())?;
        let first_parent = Some(work::hash(0, 0));
        let config = ChainConfig { window: bounds.window, first_parent, ..ChainConfig::new(chain.clone(), digest) };
        let judge = judge::Judge { pipeline: file.pipeline.clone(), segments: bounds.segments, chain: chain.clone() };
        let row = RowKey::chain(&chain);
        let row = Key { partition: row.partition, sort: row.sort };
        let chains = [(chain, config.clone())].into();
        let catalog = Arc::new(Catalog { chains, pipelines: [(digest, file)].into() });
        Ok(Self {
            bounds,
            bug,
            config,
            loops: Loops::new(catalog, bounds.segments, row),
            keys: Met::default(),
            rows: Met::default(),
            judge,
            conflicts: AtomicU64::new(0),
            scopes: Memo::default(),
            effects: Memo::default(),
            blocks: Memo::default(),
        })
    }

    /// Which states met which events.
    pub fn transitions(&self) -> BTreeSet<Pair> {
        self.loops.reached()
    }

    pub fn courses(&self) -> usize {
        self.loops.met()
    }

    fn submit(&self, number: u64, branch: u8) -> u32 {
        let submission = work::submission(&self.config.chain, number, branch);
        self.loops.texts.number(ChainMessage::Submit(submission).to_json())
    }

    pub(super) fn row(&self, state: &State, key: RowKey) -> Option<Arc<Row>> {
        let key = self.keys.number(Key { partition: key.partition, sort: key.sort });
        state.rows.iter().find(|(at, _)| *at == key).map(|(_, row)| self.rows.get(*row))
    }

    pub(super) fn block(&self, state: &State, number: u64) -> Option<BlockRow> {
        let at = RowKey::block(&self.config.chain, number);
        let key = self.keys.number(Key { partition: at.partition, sort: at.sort });
        let (_, row) = state.rows.iter().find(|(at, _)| *at == key)?;
        let block = remembered(&self.blocks, *row, |row| judge::decode(&self.rows.get(*row)));
        Option::clone(&block)
    }

    fn scope(&self, call: u32) -> Arc<Scope> {
        remembered(&self.scopes, call, |call| {
            let call = self.loops.calls.get(*call);
            let keys = self.judge.looks_at(&call).into_iter();
            let mut keys: Vec<u32> =
                keys.chain(table::keys(&call).into_iter().cloned()).map(|key| self.keys.number(key)).collect();
            keys.sort_unstable();
            keys.dedup();
            let partition = match &*call {
                Call::Query { partition, .. } => Some(partition.clone()),
                _ => None,
            };
            Scope { keys, partition, is_read: call.is_read() }
        })
    }

    /// What a call does in a state, and whether it only reads.
    fn effect(&self, state: &State, call: u32) -> (Arc<Effect>, bool) {
        let scope = self.scope(call);
        let mut keys = scope.keys.clone();
        if let Some(partition) = &scope.partition {
            let of_it = |(key, _): &&(u32, u32)| self.keys.get(*key).partition == *partition;
            keys.extend(state.rows.iter().filter(of_it).map(|(key, _)| *key));
            keys.sort_unstable();
            keys.dedup();
        }
        let at = |key: &u32| state.rows.binary_search_by_key(key, |(key, _)| *key).ok().map(|at| state.rows[at].1);
        let before: Vec<Option<u32>> = keys.iter().map(at).collect();
        let effect = remembered(&self.effects, (call, before), |(call, before)| {
            let call = self.loops.calls.get(*call);
            let there = before.iter().flatten().map(|row| Row::clone(&self.rows.get(*row)));
            let before: Rows = there.map(|row| (row.key.clone(), row)).collect();
            let mut after = before.clone();
            let answer = table::perform(&mut after, &call, self.bug);
            let breach = self.judge.written(&before, &after, &call).err().map(|breach| self.breach(breach));
            let answer = self.loops.answers.number(answer);
            let changed = keys.iter().map(|key| (*key, self.keys.get(*key)));
            let changed = changed.filter(|(_, key)| before.get(&**key) != after.get(&**key));
            let rows =
                changed.map(|(at, key)| (at, after.get(&*key).map(|row| self.rows.number(row.clone())))).collect();
            Effect { answer, rows, breach }
        });
        (effect, scope.is_read)
    }

    pub(super) fn meets_another(&self, state: &State, call: u32) -> bool {
        *self.loops.answers.get(self.effect(state, call).0.answer) == Answer::Conflict
    }

    fn breach(&self, (rule, what): (Rule, String)) -> Breach {
        Breach { rule, what: self.loops.texts.number(what) }
    }

    /// Puts what a call sends into its queues.
    fn send(&self, state: &mut State, call: u32) {
        let call = self.loops.calls.get(call);
        let Call::Send { queue, messages } = &*call else { return };
        for message in messages {
            if queue == queue::FINALIZED {
                self.finalized(state, message);
            } else {
                let item = (self.loops.texts.number(queue.clone()), self.loops.texts.number(message.body.clone()));
                put(&mut state.bag, item);
            }
        }
    }

    fn finalized(&self, state: &mut State, message: &Outgoing) {
        let reused = self.bug == Some(Bug::DedupIdsReused);
        let dedup = if reused { message.group.clone() } else { message.dedup.clone() };
        let dedup = self.loops.texts.number(dedup.unwrap_or_default());
        if state.remembered.contains(&dedup) {
            return;
        }
        put(&mut state.remembered, dedup);
        let stream: Vec<Arc<String>> = state.stream.iter().map(|body| self.loops.texts.get(*body)).collect();
        match self.judge.told(&stream, &message.body) {
            Ok(true) => state.stream.push(self.loops.texts.number(message.body.clone())),
            Ok(false) => {}
            Err(breach) => state.breach = state.breach.or(Some(self.breach(breach))),
        }
    }

    fn call(&self, state: &mut State, who: Who, mut hand: Hand, mut call: u16) {
        loop {
            let next = self.loops.next(hand.delivery);
            let Next::Asks(calls) = &next.next else { break };
            let Some((_, asked)) = calls.iter().find(|(at, _)| *at == call) else { break };
            let (effect, is_read) = self.effect(state, *asked);
            for (key, row) in &effect.rows {
                let at = state.rows.binary_search_by_key(key, |(key, _)| *key);
                match (at, row) {
                    (Ok(at), Some(row)) => state.rows[at].1 = *row,
                    (Ok(at), None) => {
                        state.rows.remove(at);
                    }
                    (Err(at), Some(row)) => state.rows.insert(at, (*key, *row)),
                    (Err(_), None) => {}
                }
            }
            state.breach = state.breach.or(effect.breach);
            if self.bug == Some(Bug::MarkedBeforeSent) && matches!(&*self.loops.calls.get(*asked), Call::Send { .. }) {
                hand.unsent.push(*asked);
            } else {
                self.send(state, *asked);
            }
            if *self.loops.answers.get(effect.answer) == Answer::Conflict {
                self.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            hand.delivery = self.loops.settled(self.loops.then(hand.delivery, call, effect.answer));
            // Reads that follow are one step with this one, where the grain says so.
            let goes_on = is_read && self.bounds.grain == Grain::Load;
            match &self.loops.next(hand.delivery).next {
                Next::Asks(calls) => match calls.first().filter(|(_, call)| goes_on && self.scope(*call).is_read) {
                    Some((next, _)) => call = *next,
                    None => break,
                },
                Next::Handled => break,
                Next::Failed(failure) => {
                    let breach = self.breach((Rule::Refused, format!("{failure:?}")));
                    state.breach = state.breach.or(Some(breach));
                    break;
                }
                Next::Panicked(what) => {
                    let breach = self.breach((Rule::Invariant, what.clone()));
                    state.breach = state.breach.or(Some(breach));
                    break;
                }
            }
        }
        put(hands(state, who), hand);
    }

    /// Gives a message back to its queue.
    fn give_back(&self, state: &mut State, who: Who, hand: &Hand) {
        if self.bug == Some(Bug::AcknowledgedFirst) {
            return;
        }
        match who {
            Who::Dispatcher => state.is_leased = false,
            Who::Collector => {
                let message = self.loops.message(hand.delivery);
                put(&mut state.bag, message);
            }
        }
    }

    /// With [`Bug::EpochsIgnored`] a worker's word about a run is about the latest run of its block.
    fn as_taken(&self, state: &State, source: u32, body: u32) -> u32 {
        if self.bug != Some(Bug::EpochsIgnored) {
            return body;
        }
        let text = self.loops.texts.get(body);
        let latest = |run: &RunId| self.block(state, run.number).map(|block| block.epoch);
        let source = self.loops.texts.get(source);
        let altered = match source.as_str() {
            queue::RESULTS | queue::VERDICTS => Report::from_json(&text).ok().map(|mut report| {
                report.task.run.epoch = latest(&report.task.run).unwrap_or(report.task.run.epoch);
                report.to_json()
            }),
            PROVEN | UNPROVABLE => serde_json::from_str(&text).ok().and_then(|mut ended: Ended| {
                ended.run.epoch = latest(&ended.run).unwrap_or(ended.run.epoch);
                serde_json::to_string(&ended).ok()
            }),
            _ => None,
        };
        altered.map_or(body, |text| self.loops.texts.number(text))
    }

    fn work(&self, state: &mut State, (source, body): (u32, u32), work: Work) {
        let text = self.loops.texts.get(body);
        let Ok(task) = TaskMessage::from_json(&text) else {
            state.breach = Some(self.breach((Rule::Refused, format!("not a task: {text}"))));
            return;
        };
        take(&mut state.bag, (source, body));
        let left = &mut state.left;
        match work {
            Work::Done => {}
            Work::DoneTwice => {
                left.repeats -= 1;
                put(&mut state.bag, (source, body));
            }
            Work::Fails => left.failures -= 1,
            Work::Dies => {
                left.deaths -= 1;
                let dead = format!("{}-dlq", self.loops.texts.get(source));
                put(&mut state.bag, (self.loops.texts.number(dead), body));
            }
            Work::BadBlock => left.bad_blocks -= 1,
        }
        if self.bounds.plane == Plane::Chain {
            let said = if work == Work::BadBlock { UNPROVABLE } else { PROVEN };
            let ended = serde_json::to_string(&Ended { run: task.id.run.clone(), task }).unwrap_or_default();
            put(&mut state.bag, (self.loops.texts.number(said.to_owned()), self.loops.texts.number(ended)));
            return;
        }
        match work::report(self.bounds.segments, &task, work) {
            Ok((queue, report)) => {
                let item = (self.loops.texts.number(queue.to_owned()), self.loops.texts.number(report.to_json()));
                put(&mut state.bag, item);
            }
            Err(error) => state.breach = Some(self.breach((Rule::Refused, error.to_string()))),
        }
    }

    /// What a worker may make of a task.
    fn works(&self, state: &State, body: u32) -> Vec<Work> {
        let left = &state.left;
        let kind = TaskMessage::from_json(&self.loops.texts.get(body)).map(|task| task.kind);
        let is_whole = self.bounds.plane == Plane::Whole;
        let may_be_bad = !is_whole || matches!(kind, Ok(Kind::Verify));
        let choices = [
            (Work::Done, true),
            (Work::DoneTwice, left.repeats > 0),
            (Work::Fails, is_whole && left.failures > 0),
            (Work::Dies, is_whole && left.deaths > 0),
            (Work::BadBlock, may_be_bad && left.bad_blocks > 0),
        ];
        choices.into_iter().filter(|(_, may)| *may).map(|(work, _)| work).collect()
    }

    fn is_work(&self, source: u32) -> bool {
        let source = self.loops.texts.get(source);
        source.starts_with("work-") && !source.ends_with("-dlq")
    }
}

/// Adds to what is kept in order.
fn put<T: Ord>(items: &mut Vec<T>, item: T) {
    let at = items.binary_search(&item).unwrap_or_else(|at| at);
    items.insert(at, item);
}

fn take<T: Ord>(items: &mut Vec<T>, item: T) {
    if let Ok(at) = items.binary_search(&item) {
        items.remove(at);
    }
}

pub(super) fn hands(state: &mut State, who: Who) -> &mut Vec<Hand> {
    match who {
        Who::Dispatcher => &mut state.dispatchers,
        Who::Collector => &mut state.collectors,
    }
}

impl State {
    /// Nothing is under way, and nothing will be by itself.
    pub(super) fn is_quiet(&self) -> bool {
        self.submissions.is_empty() && self.bag.is_empty() && self.is_idle()
    }

    /// No function is at work.
    pub(super) fn is_idle(&self) -> bool {
        self.dispatchers.is_empty() && self.collectors.is_empty()
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let orders: Vec<Vec<u64>> = match self.bounds.blocks {
            1 => vec![vec![1]],
            blocks => vec![(1..=blocks).collect(), (1..=blocks).rev().collect()],
        };
        let begin = |order: Vec<u64>| State {
            rows: Vec::new(),
            submissions: order.into_iter().map(|number| self.submit(number, 0)).collect(),
            is_leased: false,
            bag: Vec::new(),
            stream: Vec::new(),
            remembered: Vec::new(),
            dispatchers: Vec::new(),
            collectors: Vec::new(),
            left: self.bounds.faults,
            breach: None,
        };
        orders.into_iter().map(begin).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.breach.is_some() {
            return;
        }
        // Workers go first: see the module.
        if let Some((source, body)) = state.bag.iter().copied().find(|(source, _)| self.is_work(*source)) {
            actions.extend(self.works(state, body).into_iter().map(|work| Action::Work { source, body, work }));
            return;
        }
        for (who, hands) in [(Who::Dispatcher, &state.dispatchers), (Who::Collector, &state.collectors)] {
            for (hand, held) in hands.iter().enumerate().filter(|(at, held)| *at == 0 || hands[at - 1] != **held) {
                match &self.loops.next(held.delivery).next {
                    Next::Asks(calls) => {
                        actions.extend(calls.iter().map(|(call, _)| Action::Call { who, hand, call: *call }));
                    }
                    Next::Handled => actions.push(Action::Acknowledge { who, hand }),
                    Next::Failed(_) | Next::Panicked(_) => {}
                }
                if state.left.crashes > 0 {
                    actions.push(Action::Crash { who, hand });
                }
                if state.left.lapses > 0 && held.is_leased {
                    actions.push(Action::Lapse { who, hand });
                }
            }
        }
        let waiting = state.submissions.first().filter(|_| !state.is_leased);
        if let Some(body) = waiting.filter(|_| state.dispatchers.len() < self.bounds.dispatchers) {
            let source = self.loops.texts.number(queue::SUBMISSIONS.to_owned());
            actions.push(Action::Take { who: Who::Dispatcher, source, body: *body });
        }
        if state.collectors.len() < self.bounds.collectors {
            let mut before = None;
            for item @ (source, body) in state.bag.iter().copied() {
                if before.replace(item) != Some(item) {
                    actions.push(Action::Take { who: Who::Collector, source, body });
                }
            }
        }
        let numbers = 1..=self.bounds.blocks;
        if state.left.retries > 0 {
            let may = |number: &u64| {
                let status = self.block(state, *number).map(|block| block.status);
                matches!(status, Some(BlockStatus::Failed { .. } | BlockStatus::Proving))
            };
            actions.extend(numbers.clone().filter(may).map(|number| Action::Retry { number }));
        }
        if state.left.forks > 0 {
            actions.extend(numbers.map(|from| Action::Fork { from }));
        }
        if state.left.forgets > 0 && !state.remembered.is_empty() {
            actions.push(Action::Forget);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Take { who, source, body } => {
                let taken = self.as_taken(last, source, body);
                let delivery = self.loops.begin(source, taken);
                put(hands(&mut state, who), Hand { delivery, is_leased: true, unsent: Vec::new() });
                let is_gone = self.bug == Some(Bug::AcknowledgedFirst);
                match who {
                    Who::Dispatcher if is_gone => {
                        state.submissions.remove(0);
                    }
                    Who::Dispatcher => state.is_leased = true,
                    Who::Collector => take(&mut state.bag, (source, body)),
                }
            }
            Action::Call { who, hand, call } => {
                let hand = hands(&mut state, who).remove(hand);
                self.call(&mut state, who, hand, call);
            }
            Action::Acknowledge { who, hand } => {
                let hand = hands(&mut state, who).remove(hand);
                hand.unsent.iter().for_each(|call| self.send(&mut state, *call));
                if who == Who::Dispatcher && hand.is_leased && self.bug != Some(Bug::AcknowledgedFirst) {
                    state.submissions.remove(0);
                    state.is_leased = false;
                }
            }
            Action::Crash { who, hand } => {
                state.left.crashes -= 1;
                let hand = hands(&mut state, who).remove(hand);
                if hand.is_leased {
                    self.give_back(&mut state, who, &hand);
                }
            }
            Action::Lapse { who, hand } => {
                state.left.lapses -= 1;
                let mut hand = hands(&mut state, who).remove(hand);
                self.give_back(&mut state, who, &hand);
                hand.is_leased = false;
                put(hands(&mut state, who), hand);
            }
            Action::Work { source, body, work } => self.work(&mut state, (source, body), work),
            Action::Retry { number } => {
                state.left.retries -= 1;
                let epoch = self.block(last, number).map(|block| block.epoch);
                let retry = Command::Retry { chain: self.config.chain.clone(), number, epoch };
                state.submissions.push(self.loops.texts.number(ChainMessage::Command(retry).to_json()));
            }
            Action::Fork { from } => {
                state.left.forks -= 1;
                state.submissions.extend((from..=self.bounds.blocks).map(|number| self.submit(number, 1)));
            }
            Action::Forget => {
                state.left.forgets -= 1;
                state.remembered.clear();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        judge::properties(&self.bounds)
    }
}

/// All rows of a state, by key.
pub(super) fn all_rows(world: &World, state: &State) -> BTreeMap<Key, Arc<Row>> {
    state.rows.iter().map(|(key, row)| (Key::clone(&world.keys.get(*key)), world.rows.get(*row))).collect()
}
