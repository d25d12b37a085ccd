//! Taking the next task: realtime before standard before bulk, waiting on all at once, without polling.
//!
//! First each queue is asked for what is there, in the order of urgency; then all are waited on together, so that no class is behind the
//! wait for another. The receives that lose are dropped. An engine withdraws them. SQS cannot: the adapter lets the next receive of the same
//! queue adopt them and hands back what they get meanwhile; [`Limits::poll`](crate::task::Limits::poll) bounds how long they can get
//! anything.
//!
//! A task fetched ahead was the most urgent when it was taken, not when its turn comes: then the more urgent queues are asked once more
//! ([`Intake::instead_of`]), and what they have goes first. Who has just done an urgent task lingers a moment over this: the tasks that
//! its result makes possible are on their way.
//!
//! A less urgent class does not starve: when so many tasks of others were begun that its [`Turns`] says so, its queue is asked first, and
//! what it gives is not put off again.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use push0_core::Millis;
use push0_runtime::port::{Delivery, PortResult};
use tracing::debug;

use crate::retry::{Backoff, LONGEST_PAUSE};
use crate::task::Env;

/// An empty answer sooner than this is no waiting: whoever answers so is not asked again at once.
const TOO_SOON: Millis = Millis(10);

/// A message and the queue it came from.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) queue: String,
    pub(crate) delivery: Delivery,
    pub(crate) place: Place,
}

/// Where a task in hand stands among the worker's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// In the order of urgency.
    at: usize,
    /// It was taken because its class had waited long enough.
    in_turn: bool,
}

impl Place {
    pub(crate) fn is_more_urgent_than(self, other: Place) -> bool {
        self.at < other.at
    }
}

/// The queues a worker takes from, for all of its slots.
pub(crate) struct Intake {
    /// The most urgent first.
    queues: Vec<String>,
    turns: Mutex<Turns>,
}

impl Intake {
    /// `turn_every`: see [`crate::WorkerConfig::turn_every`].
    pub(crate) fn new(queues: Vec<String>, turn_every: u32) -> Self {
        let turns = Mutex::new(Turns::new(queues.len(), turn_every));
        Self { queues, turns }
    }

    pub(crate) fn queues(&self) -> &[String] {
        &self.queues
    }

    /// The next message, the most urgent first. Tries until there is one. What it has in hand when it is dropped is handed back.
    pub(crate) async fn next(&self, env: &Arc<Env>) -> Taken {
        if let Some(taken) = self.waiting(env).await {
            return taken;
        }
        // Nothing was there, so that nothing was passed over.
        let places = 0..self.queues.len();
        let wait = env.limits.poll;
        let mut polls: FuturesUnordered<_> = places.map(|at| self.poll(env, at, Millis(0), wait)).collect();
        let mut backoff = Backoff::new();
        while let Some((at, asked, answer)) = polls.next().await {
            let pause = match answer {
                Ok(deliveries) => {
                    env.health.well();
                    if let Some(delivery) = deliveries.into_iter().next() {
                        return self.choose(env, (at, delivery), polls);
                    }
                    let waited = env.clock.now().since(asked);
                    if waited >= TOO_SOON {
                        backoff.reset();
                        Millis(0)
                    } else {
                        backoff.step()
                    }
                }
                Err(error) => {
                    env.health.trouble(&error);
                    backoff.step().min(LONGEST_PAUSE)
                }
            };
            polls.push(self.poll(env, at, pause, wait));
        }
        // No queues: nothing will ever come.
        std::future::pending().await
    }

    /// What is there already, asked in the order of urgency, but for the class whose turn it is. One queue needs no order.
    async fn waiting(&self, env: &Env) -> Option<Taken> {
        if self.queues.len() < 2 {
            return None;
        }
        let (order, due) = self.turns().order();
        for at in order {
            if let Some(delivery) = self.ask(env, at).await {
                return Some(self.taken(Place { at, in_turn: due == Some(at) }, delivery));
            }
        }
        None
    }

    /// What is there now. A failure is as good as nothing: the waiting receives deal with it.
    async fn ask(&self, env: &Env, at: usize) -> Option<Delivery> {
        let answer = env.queue.receive(&self.queues[at], 1, Millis(0), env.leases.lease()).await;
        answer.ok().and_then(|deliveries| deliveries.into_iter().next())
    }

    /// A message of a more urgent queue than that of a task in hand that is not begun yet, if there is one, or one comes within `linger`,
    /// and the task can be put off.
    pub(crate) async fn instead_of(&self, env: &Arc<Env>, place: Place, linger: Millis) -> Option<Taken> {
        if place.in_turn || self.turns().is_due(place.at) {
            return None;
        }
        for at in 0..place.at {
            if let Some(delivery) = self.ask(env, at).await {
                return Some(self.taken(Place { at, in_turn: false }, delivery));
            }
        }
        if linger == Millis(0) {
            return None;
        }
        let mut polls: FuturesUnordered<_> = (0..place.at).map(|at| self.poll(env, at, Millis(0), linger)).collect();
        // SQS counts waits in seconds.
        let mut over = pin!(env.clock.sleep_until(env.clock.now().plus(linger)));
        loop {
            let answered = tokio::select! {
                biased;
                answered = polls.next() => answered,
                () = &mut over => None,
            };
            let (at, _, answer) = answered?;
            if let Some(delivery) = answer.ok().and_then(|deliveries| deliveries.into_iter().next()) {
                return Some(self.choose(env, (at, delivery), polls));
            }
        }
    }

    /// A task is begun: that is what turns are counted by.
    pub(crate) fn begins(&self, place: Place) {
        self.turns().begins(place.at);
    }

    async fn poll(&self, env: &Env, at: usize, pause: Millis, wait: Millis) -> Poll {
        if pause > Millis(0) {
            env.clock.sleep_until(env.clock.now().plus(pause)).await;
        }
        let asked = env.clock.now();
        let answer = env.queue.receive(&self.queues[at], 1, wait, env.leases.lease()).await;
        (at, asked, answer)
    }

    /// Several receives may have been answered together: the most urgent is taken, the others go back. Nothing is waited for meanwhile,
    /// so that nobody can be dropped with one of them in hand.
    fn choose<F: Future<Output = Poll>>(
        &self,
        env: &Arc<Env>,
        first: (usize, Delivery),
        mut polls: FuturesUnordered<F>,
    ) -> Taken {
        let mut answered = vec![first];
        while let Some(Some((at, _, answer))) = polls.next().now_or_never() {
            answered.extend(answer.into_iter().flatten().map(|delivery| (at, delivery)));
        }
        answered.sort_by_key(|(at, _)| *at);
        let (at, delivery) = answered.remove(0);
        if !answered.is_empty() {
            let surplus: Vec<_> =
                answered.into_iter().map(|(at, delivery)| (self.queues[at].clone(), delivery)).collect();
            tokio::spawn(give_back(Arc::clone(env), surplus));
        }
        self.taken(Place { at, in_turn: false }, delivery)
    }

    fn taken(&self, place: Place, delivery: Delivery) -> Taken {
        Taken { queue: self.queues[place.at].clone(), delivery, place }
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which queue was asked when, and what it said.
type Poll = (usize, Millis, PortResult<Vec<Delivery>>);

async fn give_back(env: Arc<Env>, surplus: Vec<(String, Delivery)>) {
    for (queue, delivery) in surplus {
        if let Err(error) = env.queue.release(&queue, &delivery.receipt, Millis(0)).await {
            debug!(queue, %error, "could not release");
        }
    }
}

/// Whose turn it is among the classes of a worker: of any `every` tasks it begins one at least is of each less urgent class that waits.
#[derive(Debug)]
struct Turns {
    /// So many tasks of others make it a class's turn; none: never.
    limit: Option<u32>,
    /// By place in the order of urgency: tasks of others begun since its queue had its turn, or one of its own was.
    passed: Vec<u32>,
}

impl Turns {
    fn new(queues: usize, every: u32) -> Self {
        // Another class may have its turn first, and each turn is one of the others' tasks.
        let others = queues.saturating_sub(1) as u32;
        let limit = (every > 0).then(|| every.saturating_sub(others).max(1));
        Self { limit, passed: vec![0; queues] }
    }

    fn is_due(&self, at: usize) -> bool {
        at > 0 && self.limit.is_some_and(|limit| self.passed[at] >= limit)
    }

    /// The places in the order they are to be asked, and whose turn it is. It has had it with that, also if nothing is there.
    fn order(&mut self) -> (Vec<usize>, Option<usize>) {
        let mut order: Vec<usize> = (0..self.passed.len()).collect();
        let due = (0..self.passed.len()).filter(|at| self.is_due(*at)).max_by_key(|at| self.passed[*at]);
        if let Some(due) = due {
            self.passed[due] = 0;
            order[..=due].rotate_right(1);
        }
        (order, due)
    }

    fn begins(&mut self, at: usize) {
        for passed in &mut self.passed {
            *passed = passed.saturating_add(1);
        }
        self.passed[at] = 0;
    }
}

#[cfg(test)]
mod tests {
    use push0_core::message::work_queue;
    use push0_core::{Class, Pool};
    use push0_runtime::clock_manual::ManualClock;
    use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
    use push0_runtime::port::{Outgoing, Queue as _};

    use super::*;
    use crate::lease::Leases;
    use crate::retry::Health;
    use crate::task::{Limits, Store, starts};

    /// What is taken, by place, while these have something waiting.
    fn takings(turns: &mut Turns, waiting: &[usize], count: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let place = turns.order().0.into_iter().find(|place| waiting.contains(place)).unwrap();
            turns.begins(place);
            taken.push(place);
        }
        taken
    }

    #[test]
    fn a_waiting_class_gets_one_of_so_many_takings_and_not_more() {
        for (every, waiting) in [(16, &[0, 2][..]), (16, &[0, 1, 2]), (4, &[0, 1, 2]), (3, &[0, 1]), (16, &[1, 2])] {
            let taken = takings(&mut Turns::new(3, every), waiting, 500);
            for place in waiting {
                let has = |window: &[usize]| window.contains(place);
                let every = every as usize;
                assert!(taken.windows(every).all(has), "place {place} of {waiting:?} in {every}: {taken:?}");
            }
            let most = 500 / (every as usize - 2) + 1;
            for place in &waiting[1..] {
                let count = taken.iter().filter(|taken| *taken == place).count();
                assert!(count <= most, "place {place} of {waiting:?} in {every}: {count}");
            }
        }
    }

    #[test]
    fn without_turns_the_most_urgent_always_goes_first() {
        assert_eq!(takings(&mut Turns::new(3, 0), &[0, 1, 2], 100), [0; 100]);
        assert_eq!(takings(&mut Turns::new(1, 16), &[0], 40), [0; 40]);
    }

    #[test]
    fn a_turn_that_finds_nothing_costs_the_others_none() {
        let mut turns = Turns::new(3, 8);
        assert_eq!(takings(&mut turns, &[0], 100), [0; 100]);
        // What comes then waits no longer than any other.
        assert!(takings(&mut turns, &[0, 2], 8).contains(&2));
    }

    fn env(engine: &Engine, clock: &ManualClock) -> Arc<Env> {
        let ports = Arc::new(engine.clone());
        Arc::new(Env {
            worker: "w".parse().unwrap(),
            pool: pool(),
            queue: ports.clone(),
            blobs: ports,
            clock: Arc::new(clock.clone()),
            leases: Leases::new(Millis(10_000)),
            store: Store::Memory,
            starts: starts().0,
            limits: Limits::default(),
            health: Health::new("test"),
        })
    }

    fn pool() -> Pool {
        "gpu".parse().unwrap()
    }

    fn queues() -> Vec<String> {
        Class::ALL.iter().map(|class| work_queue(&pool(), *class)).collect()
    }

    fn engine(clock: &ManualClock) -> Engine {
        let specs = queues().into_iter().map(QueueSpec::new).collect();
        let config = EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, specs) };
        Engine::open(config).unwrap()
    }

    async fn send(engine: &Engine, queue: &str, count: usize) {
        let message = |number: usize| Outgoing { body: format!("{queue} {number}"), ..Outgoing::default() };
        engine.send(queue, (0..count).map(message).collect()).await.unwrap();
    }

    #[tokio::test]
    async fn bulk_is_taken_beside_an_endless_line_of_urgent_tasks() {
        let clock = ManualClock::starting_at(Millis(1_000));
        let engine = engine(&clock);
        let (env, queues) = (env(&engine, &clock), queues());
        send(&engine, &queues[0], 60).await;
        send(&engine, &queues[2], 10).await;
        let intake = Intake::new(queues.clone(), 16);
        let mut bulk_at = Vec::new();
        for taking in 1..=48 {
            let taken = intake.next(&env).await;
            intake.begins(taken.place);
            engine.ack(&taken.queue, &taken.delivery.receipt).await.unwrap();
            bulk_at.extend((taken.queue == queues[2]).then_some(taking));
        }
        assert_eq!(bulk_at, [15, 30, 45], "and nothing but that");
    }

    #[tokio::test]
    async fn a_task_in_hand_is_put_off_for_more_urgent_ones_but_not_for_ever() {
        let clock = ManualClock::starting_at(Millis(1_000));
        let engine = engine(&clock);
        let (env, queues, intake) = (env(&engine, &clock), queues(), Intake::new(queues(), 5));
        send(&engine, &queues[2], 1).await;
        let bulk = intake.next(&env).await;
        assert!(intake.instead_of(&env, bulk.place, Millis(0)).await.is_none(), "nothing more urgent is there");
        send(&engine, &queues[1], 1).await;
        send(&engine, &queues[0], 9).await;
        let mut before = Vec::new();
        while let Some(urgent) = intake.instead_of(&env, bulk.place, Millis(0)).await {
            intake.begins(urgent.place);
            before.push(urgent.queue);
        }
        assert_eq!(before, [queues[0].as_str(); 3]);
        let standard = Place { at: 1, in_turn: true };
        assert!(intake.instead_of(&env, standard, Millis(50)).await.is_none(), "it has waited for its turn once");
        assert!(intake.instead_of(&env, Place { at: 0, in_turn: false }, Millis(50)).await.is_none());
    }

    #[tokio::test]
    async fn what_comes_while_it_lingers_goes_first_and_what_comes_after_does_not() {
        let clock = ManualClock::starting_at(Millis(1_000));
        let engine = engine(&clock);
        let (env, queues, intake) = (env(&engine, &clock), queues(), Intake::new(queues(), 16));
        let bulk = Place { at: 2, in_turn: false };
        let mut lingering = Box::pin(intake.instead_of(&env, bulk, Millis(50)));
        assert!((&mut lingering).now_or_never().is_none());
        clock.advance(Millis(49));
        send(&engine, &queues[0], 1).await;
        assert_eq!(lingering.await.unwrap().queue, queues[0]);
        let mut lingering = Box::pin(intake.instead_of(&env, bulk, Millis(50)));
        assert!((&mut lingering).now_or_never().is_none());
        clock.advance(Millis(50));
        assert!(lingering.await.is_none());
        send(&engine, &queues[0], 1).await;
        assert_eq!(engine.stats(&queues[0]).await.unwrap().visible, 1, "nobody waits for it");
    }

    async fn held(engine: &Engine) -> Vec<(u64, u64)> {
        let mut held = Vec::new();
        for queue in queues() {
            let stats = engine.stats(&queue).await.unwrap();
            held.push((stats.visible, stats.in_flight));
        }
        held
    }

    #[tokio::test]
    async fn what_was_not_chosen_is_back_at_once_and_so_is_all_when_nobody_waits_any_longer() {
        let clock = ManualClock::starting_at(Millis(1_000));
        let engine = engine(&clock);
        let (env, intake) = (env(&engine, &clock), Intake::new(queues(), 16));
        let waiting = || {
            let mut next = Box::pin(intake.next(&env));
            assert!((&mut next).now_or_never().is_none(), "there is nothing yet");
            next
        };
        // All three are answered before anybody looks.
        let next = waiting();
        for queue in queues() {
            send(&engine, &queue, 1).await;
        }
        assert_eq!(held(&engine).await, [(0, 1); 3]);
        drop(next);
        assert_eq!(held(&engine).await, [(1, 0); 3]);
        for queue in queues() {
            let there = engine.receive(&queue, 1, Millis(0), Millis(5_000)).await.unwrap();
            engine.ack(&queue, &there[0].receipt).await.unwrap();
        }

        let mut next = waiting();
        for queue in queues() {
            send(&engine, &queue, 1).await;
        }
        let taken = (&mut next).now_or_never().expect("chosen without waiting for anything");
        assert_eq!(taken.queue, queues()[0], "the most urgent");
        tokio::task::yield_now().await;
        assert_eq!(held(&engine).await, [(0, 1), (1, 0), (1, 0)]);
    }
}
