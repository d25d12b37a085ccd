//! What has been met in the course of a check, each thing once and by its number: rows, calls, answers, messages, and deliveries in hand.
//!
//! A state of the model is made of these numbers, so that it is small, and cheap to compare. They are given in the order in which things are
//! met, which differs from run to run where several threads look; which things are equal does not, and so neither do the states counted.
//!
//! The chain's loop reads everything anew in every turn. So at the beginning of a turn nothing is left of earlier ones but whether the event has
//! been decided, and deliveries that agree in that are one: see [`Loops::settled`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use push0_core::transition::Pair;
use push0_runtime::drive::Catalog;
use push0_runtime::host::Failure;
use push0_runtime::port::Key;

use crate::transitions::Counter;

use super::tape::{Answer, Call, Course, play};

/// Things of a kind, by number.
#[derive(Debug)]
pub struct Met<T> {
    known: RwLock<Known<T>>,
}

/// Numbers by thing, things by number.
type Known<T> = (HashMap<Arc<T>, u32>, Vec<Arc<T>>);

impl<T> Default for Met<T> {
    fn default() -> Self {
        Self { known: RwLock::default() }
    }
}

impl<T: Eq + Hash> Met<T> {
    pub fn number(&self, thing: T) -> u32 {
        if let Some(number) = self.known.read().unwrap_or_else(PoisonError::into_inner).0.get(&thing) {
            return *number;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let (numbers, things) = &mut *known;
        // Somebody else may have met it meanwhile.
        if let Some(number) = numbers.get(&thing) {
            return *number;
        }
        let (thing, number) = (Arc::new(thing), things.len() as u32);
        numbers.insert(thing.clone(), number);
        things.push(thing);
        number
    }

    pub fn get(&self, number: u32) -> Arc<T> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).1[number as usize].clone()
    }

    pub fn count(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).1.len()
    }
}

/// A delivery in hand: its message, and what the ports have answered so far.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    Begin {
        source: u32,
        body: u32,
    },
    /// The delivery of this number, and the answer to one of its calls.
    Then {
        before: u32,
        call: u16,
        answer: u32,
    },
}

/// What a delivery in hand does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Calls, each with its number among the delivery's.
    Asks(Vec<(u16, u32)>),
    Handled,
    Failed(Failure),
    Panicked(String),
}

/// A delivery in hand that was run as far as it has got.
#[derive(Debug)]
pub struct Played {
    pub next: Next,
    met: BTreeMap<Pair, u64>,
    is_counted: AtomicBool,
}

/// Deliveries in hand, each run once as far as it has got.
#[derive(Debug)]
pub struct Loops {
    catalog: Arc<Catalog>,
    segments: u32,
    pub texts: Met<String>,
    pub calls: Met<Call>,
    pub answers: Met<Answer>,
    steps: Met<Step>,
    next: RwLock<HashMap<u32, Arc<Played>>>,
    /// Which states met which events, where that is no probe.
    reached: Mutex<BTreeSet<Pair>>,
    /// The row that a turn of the chain's loop reads first.
    chain: Key,
    /// By message: the delivery that stands for all whose event is decided and who begin a turn.
    decided: RwLock<HashMap<(u32, u32), u32>>,
}

impl Loops {
    pub fn new(catalog: Arc<Catalog>, segments: u32, chain: Key) -> Self {
        Self {
            chain,
            decided: RwLock::default(),
            catalog,
            segments,
            texts: Met::default(),
            calls: Met::default(),
            answers: Met::default(),
            steps: Met::default(),
            next: RwLock::default(),
            reached: Mutex::default(),
        }
    }

    pub fn begin(&self, source: u32, body: u32) -> u32 {
        self.steps.number(Step::Begin { source, body })
    }

    pub fn then(&self, before: u32, call: u16, answer: u32) -> u32 {
        self.steps.number(Step::Then { before, call, answer })
    }

    /// How many courses deliveries have taken, each as far as it got.
    pub fn met(&self) -> usize {
        self.steps.count()
    }

    /// The delivery's queue and message.
    pub fn message(&self, mut delivery: u32) -> (u32, u32) {
        loop {
            match *self.steps.get(delivery) {
                Step::Begin { source, body } => return (source, body),
                Step::Then { before, .. } => delivery = before,
            }
        }
    }

    /// Whether the delivery is at the beginning of a turn of the chain's loop.
    fn begins_turn(&self, delivery: u32) -> bool {
        let Next::Asks(calls) = &self.played(delivery).next else { return false };
        let begins = |(_, call): &(u16, u32)| matches!(&*self.calls.get(*call), Call::Get(key) if *key == self.chain);
        calls.first().is_some_and(begins)
    }

    /// The delivery that does from here on what this one does.
    ///
    /// At the beginning of a turn it is asked what it would do if there were nothing at all: one whose event is decided is done then; another
    /// would decide the event, and goes on as at its first turn.
    pub fn settled(&self, delivery: u32) -> u32 {
        if !self.begins_turn(delivery) {
            return delivery;
        }
        let nothing = self.answers.number(Answer::Row(None));
        let mut probe = delivery;
        let is_decided = loop {
            match &self.played(probe).next {
                Next::Handled => break true,
                Next::Failed(_) | Next::Panicked(_) => return delivery,
                Next::Asks(calls) => {
                    let Some((at, call)) = calls.first().copied() else { return delivery };
                    let is_again = probe != delivery && self.begins_turn(probe);
                    if is_again || !matches!(&*self.calls.get(call), Call::Get(_)) {
                        break false;
                    }
                    probe = self.then(probe, at, nothing);
                }
            }
        };
        if is_decided {
            let mut decided = self.decided.write().unwrap_or_else(PoisonError::into_inner);
            return *decided.entry(self.message(delivery)).or_insert(delivery);
        }
        let mut first = delivery;
        let mut at = delivery;
        while let Step::Then { before, .. } = *self.steps.get(at) {
            at = before;
            if self.begins_turn(at) {
                first = at;
            }
        }
        first
    }

    /// What a delivery in hand does next, of one that there is: what it has met counts.
    pub fn next(&self, delivery: u32) -> Arc<Played> {
        let played = self.played(delivery);
        if !played.is_counted.swap(true, Ordering::Relaxed) {
            self.reached.lock().unwrap_or_else(PoisonError::into_inner).extend(played.met.keys());
        }
        played
    }

    /// Which states met which events.
    pub fn reached(&self) -> BTreeSet<Pair> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn played(&self, delivery: u32) -> Arc<Played> {
        if let Some(played) = self.next.read().unwrap_or_else(PoisonError::into_inner).get(&delivery) {
            return played.clone();
        }
        let counter = Arc::new(Counter::default());
        let next = self.play(delivery, counter.clone());
        let played = Arc::new(Played { next, met: counter.counts(), is_counted: AtomicBool::new(false) });
        self.next.write().unwrap_or_else(PoisonError::into_inner).insert(delivery, played.clone());
        played
    }

    fn play(&self, delivery: u32, counter: Arc<Counter>) -> Next {
        let mut answers = Vec::new();
        let mut at = delivery;
        let (source, body) = loop {
            match *self.steps.get(at) {
                Step::Begin { source, body } => break (self.texts.get(source), self.texts.get(body)),
                Step::Then { before, call, answer } => {
                    answers.push((usize::from(call), Answer::clone(&self.answers.get(answer))));
                    at = before;
                }
            }
        };
        answers.reverse();
        match play(&self.catalog, self.segments, (&source, &body), &answers, counter) {
            Course::Asks(calls) => {
                Next::Asks(calls.into_iter().map(|(at, call)| (at as u16, self.calls.number(call))).collect())
            }
            Course::Handled => Next::Handled,
            Course::Failed(failure) => Next::Failed(failure),
            Course::Panicked(text) => Next::Panicked(text),
        }
    }
}
