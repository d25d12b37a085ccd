//! The engine's queues against a model simple enough to be believed: a list of messages and the rules of the port's documentation.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt as _;
use proptest::prelude::*;
use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::port::{Clock as _, Delivery, ErrorKind, Outgoing, Queue, QueueStats};

const MAX_RECEIVES: u32 = 3;
const DEDUP: u64 = 300_000;

#[derive(Debug, Clone)]
enum Step {
    Send { group: u8, dedup: u8, delay: u64, rank: i64 },
    Receive { dead: bool, max: usize, lease: u64 },
    Extend { which: usize, lease: u64 },
    Release { which: usize, delay: u64 },
    Ack { which: usize },
    Advance { by: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4u8, 0..12u8, prop_oneof![Just(0), 1..5_000u64], -2..3i64)
            .prop_map(|(group, dedup, delay, rank)| Step::Send { group, dedup, delay, rank }),
        5 => (prop::bool::weighted(0.2), 1..=4usize, 1..20_000u64)
            .prop_map(|(dead, max, lease)| Step::Receive { dead, max, lease }),
        1 => (any::<usize>(), 1..40_000u64).prop_map(|(which, lease)| Step::Extend { which, lease }),
        2 => (any::<usize>(), prop_oneof![Just(0), 1..5_000u64]).prop_map(|(which, delay)| Step::Release { which, delay }),
        2 => any::<usize>().prop_map(|which| Step::Ack { which }),
        3 => prop_oneof![0..3_000u64, 0..30_000u64, Just(DEDUP - 1), Just(1)].prop_map(|by| Step::Advance { by }),
    ];
    prop::collection::vec(step, 1..80)
}

#[derive(Debug, Clone)]
struct Message {
    number: usize,
    group: String,
    rank: i64,
    sent_at: u64,
    receives: u32,
    /// Not handed out before.
    from: u64,
    leased: bool,
    in_dead_letters: bool,
}

#[derive(Default)]
struct Model {
    fifo: bool,
    now: u64,
    next: usize,
    messages: Vec<Message>,
    /// Dedup id → when stored.
    seen: BTreeMap<String, u64>,
    /// Standard, the queue and its dead letters: which group had which turn last.
    turns: [BTreeMap<String, u64>; 2],
    /// Messages handed out.
    handed_out: u64,
}

impl Model {
    fn send(&mut self, group: &str, dedup: &str, delay: u64, rank: i64) -> usize {
        let number = self.next;
        self.next += 1;
        if self.fifo {
            if self.seen.get(dedup).is_some_and(|at| self.now - at < DEDUP) {
                return number;
            }
            self.seen.insert(dedup.to_owned(), self.now);
        }
        self.messages.push(Message {
            number,
            group: group.to_owned(),
            rank: if self.fifo { 0 } else { rank },
            sent_at: self.now,
            receives: 0,
            from: self.now + delay,
            leased: false,
            in_dead_letters: false,
        });
        number
    }

    /// What a standard queue hands out next: of the group with the fewest in flight, then the one whose turn was longest ago, then by name
    /// (none first), the lowest rank.
    fn next_fair(&self, dead: bool) -> Option<usize> {
        let here = || self.messages.iter().enumerate().filter(|(_, message)| message.in_dead_letters == dead);
        let turn = |group: &String| {
            let is_held = |message: &Message| message.group == *group && message.leased && message.from > self.now;
            let in_flight = here().filter(|(_, message)| is_held(message)).count();
            (in_flight, self.turns[usize::from(dead)].get(group), group.clone())
        };
        let visible = here().filter(|(_, message)| message.from <= self.now);
        visible.min_by_key(|(_, message)| (turn(&message.group), message.rank, message.number)).map(|(index, _)| index)
    }

    /// What a FIFO queue hands out next: the head of the oldest free group.
    fn next_free(&self, dead: bool) -> Option<usize> {
        let here = || self.messages.iter().enumerate().filter(|(_, message)| message.in_dead_letters == dead);
        let blocked: BTreeSet<&String> =
            here().filter(|(_, message)| message.from > self.now).map(|(_, message)| &message.group).collect();
        let visible = here().filter(|(_, message)| message.from <= self.now && !blocked.contains(&message.group));
        visible.min_by_key(|(_, message)| message.number).map(|(index, _)| index)
    }

    fn receive(&mut self, dead: bool, max: usize, lease: u64) -> Vec<(usize, u32)> {
        let mut received = Vec::new();
        let mut last_group: Option<String> = None;
        while received.len() < max {
            // A FIFO receive takes all it can of one group before it goes to the next.
            let of_the_same = last_group.as_ref().and_then(|group| {
                let in_group = |message: &&Message| message.group == *group && message.in_dead_letters == dead;
                let head = self.messages.iter().filter(in_group).find(|message| message.from <= self.now)?;
                self.messages.iter().position(|message| message.number == head.number)
            });
            let next = match self.fifo {
                true => of_the_same.or_else(|| self.next_free(dead)),
                false => self.next_fair(dead),
            };
            let Some(index) = next else { break };
            let now = self.now;
            let message = &mut self.messages[index];
            if !dead && message.receives >= MAX_RECEIVES {
                (message.in_dead_letters, message.receives, message.from, message.leased) = (true, 0, now, false);
                continue;
            }
            message.receives += 1;
            (message.from, message.leased) = (now + lease, true);
            self.handed_out += 1;
            self.turns[usize::from(dead)].insert(message.group.clone(), self.handed_out);
            last_group = Some(message.group.clone());
            received.push((message.number, message.receives));
        }
        received
    }

    fn held(&mut self, number: usize, receives: u32, dead: bool) -> Option<&mut Message> {
        let now = self.now;
        self.messages.iter_mut().find(|message| {
            message.number == number
                && message.receives == receives
                && message.in_dead_letters == dead
                && message.leased
                && message.from > now
        })
    }

    fn stats(&self, dead: bool) -> QueueStats {
        let mut stats = QueueStats::default();
        for message in self.messages.iter().filter(|message| message.in_dead_letters == dead) {
            if message.from <= self.now {
                stats.visible += 1;
                let age = Millis(self.now - message.sent_at);
                stats.oldest = stats.oldest.max(Some(age));
            } else if message.leased {
                stats.in_flight += 1;
            } else {
                stats.delayed += 1;
            }
        }
        stats
    }
}

/// A delivery in hand: the engine's and the model's name for it.
struct Held {
    queue: usize,
    receipt: String,
    number: usize,
    receives: u32,
}

/// In memory every call completes at its first poll.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("completes at once")
}

fn check(fifo: bool, steps: &[Step]) {
    let suffix = if fifo { ".fifo" } else { "" };
    let names = [format!("q{suffix}"), format!("dead{suffix}")];
    let clock = ManualClock::starting_at(Millis(1_000_000));
    let specs = vec![QueueSpec::new(&names[0]).with_dead_letter(&names[1], MAX_RECEIVES), QueueSpec::new(&names[1])];
    let config = EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, specs) };
    let engine = Engine::open(config).unwrap();
    let mut model = Model { fifo, now: clock.now().0, ..Model::default() };
    let mut held: Vec<Held> = Vec::new();

    for step in steps {
        match step.clone() {
            Step::Send { group, dedup, delay, rank } => {
                // Messages of a standard queue need no group.
                let named = (fifo || group > 0).then(|| format!("g{group}"));
                let (group, dedup) = (named.clone().unwrap_or_default(), format!("d{dedup}"));
                let delay = if fifo { 0 } else { delay };
                let number = model.send(&group, &dedup, delay, rank);
                let message =
                    Outgoing { body: number.to_string(), group: named, dedup: Some(dedup), delay: Millis(delay), rank };
                now(engine.send(&names[0], vec![message])).unwrap();
            }
            Step::Receive { dead, max, lease } => {
                let queue = usize::from(dead);
                let expected = model.receive(dead, max, lease);
                let received = now(engine.receive(&names[queue], max, Millis(0), Millis(lease))).unwrap();
                let seen: Vec<(usize, u32)> =
                    received.iter().map(|d| (d.body.parse().unwrap(), d.receive_count)).collect();
                assert_eq!(seen, expected, "receive from {}", names[queue]);
                held.extend(received.into_iter().map(|Delivery { body, receipt, receive_count, .. }| Held {
                    queue,
                    receipt,
                    number: body.parse().unwrap(),
                    receives: receive_count,
                }));
            }
            Step::Extend { which, lease } => {
                let Some(of) = pick(&held, which) else { continue };
                let (at, expected) = (model.now, model.held(of.number, of.receives, of.queue == 1));
                let is_held = expected.is_some();
                if let Some(message) = expected {
                    message.from = at + lease;
                }
                same(now(engine.extend(&names[of.queue], &of.receipt, Millis(lease))), is_held);
            }
            Step::Release { which, delay } => {
                let Some(of) = pick(&held, which) else { continue };
                let (at, expected) = (model.now, model.held(of.number, of.receives, of.queue == 1));
                let is_held = expected.is_some();
                if let Some(message) = expected {
                    (message.from, message.leased) = (at + delay, false);
                }
                same(now(engine.release(&names[of.queue], &of.receipt, Millis(delay))), is_held);
            }
            Step::Ack { which } => {
                let Some(of) = pick(&held, which) else { continue };
                let is_held = model.held(of.number, of.receives, of.queue == 1).is_some();
                if is_held {
                    model.messages.retain(|message| message.number != of.number);
                }
                same(now(engine.ack(&names[of.queue], &of.receipt)), is_held);
            }
            Step::Advance { by } => {
                model.now += by;
                clock.advance(Millis(by));
            }
        }
        for (queue, name) in names.iter().enumerate() {
            assert_eq!(now(engine.stats(name)).unwrap(), model.stats(queue == 1), "stats of {name} after {step:?}");
        }
    }
}

fn pick(held: &[Held], which: usize) -> Option<&Held> {
    (!held.is_empty()).then(|| &held[which % held.len()])
}

fn same(result: Result<(), push0_runtime::port::PortError>, is_held: bool) {
    match result {
        Ok(()) => assert!(is_held, "a void receipt was honoured"),
        Err(error) => assert!(!is_held && error.kind() == ErrorKind::Fenced, "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_standard_queue_does_as_the_model(steps in steps()) {
        check(false, &steps);
    }

    #[test]
    fn a_fifo_queue_does_as_the_model(steps in steps()) {
        check(true, &steps);
    }
}
