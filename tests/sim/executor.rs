//! One thread, one virtual clock, actors that can be killed wherever they wait.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::port::Clock as _;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Randomness shared by everything in a run: one seed, one stream, drawn in the order of events.
pub type Dice = Rc<RefCell<ChaCha8Rng>>;

type Actor = Pin<Box<dyn Future<Output = ()>>>;
type Birth = Rc<dyn Fn() -> Actor>;

/// Whose turn it may be.
#[derive(Default)]
struct Ready(Mutex<BTreeSet<usize>>);

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Wakeup {
    ready: Arc<Ready>,
    actor: usize,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.ready.lock().insert(self.actor);
    }
}

struct Seat {
    name: String,
    birth: Birth,
    /// `None`: dead, or finished.
    actor: Option<Actor>,
    waker: Waker,
    mortal: bool,
    /// Comes to life again then.
    reborn_at: Option<Millis>,
}

/// Runs actors until a condition holds or time is up.
pub struct Executor {
    clock: ManualClock,
    dice: Dice,
    ready: Arc<Ready>,
    seats: Vec<Seat>,
    /// Kills in a million polls of a mortal actor.
    pub kill_per_million: u32,
    pub kills: u64,
    pub polls: u64,
    /// Whether the actor of this name dies now, of what it just did.
    pub dies: Box<dyn Fn(&str) -> bool>,
    /// Who is to die by another's hand, and how long until they are born anew.
    pub sentenced: Sentenced,
}

pub type Sentenced = Rc<RefCell<Vec<(String, Millis)>>>;

impl Executor {
    pub fn new(clock: ManualClock, dice: Dice) -> Self {
        Self {
            clock,
            dice,
            ready: Arc::default(),
            seats: Vec::new(),
            kill_per_million: 0,
            kills: 0,
            polls: 0,
            dies: Box::new(|_| false),
            sentenced: Sentenced::default(),
        }
    }

    /// Adds an actor. A mortal one may be killed wherever it waits, and is born anew a little later.
    pub fn spawn(&mut self, name: &str, mortal: bool, birth: impl Fn() -> Actor + 'static) {
        let number = self.seats.len();
        let waker = Waker::from(Arc::new(Wakeup { ready: self.ready.clone(), actor: number }));
        let birth: Birth = Rc::new(birth);
        let actor = Some(birth());
        self.seats.push(Seat { name: name.to_owned(), birth, actor, waker, mortal, reborn_at: None });
        self.ready.lock().insert(number);
    }

    /// Runs until `done` (asked after every step) or until the clock passes `until`. Returns whether it was done; an error of `check`
    /// (asked after every step, too) ends the run.
    pub fn run<E>(
        &mut self,
        until: Millis,
        mut done: impl FnMut() -> bool,
        mut check: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        loop {
            check()?;
            if done() {
                return Ok(true);
            }
            self.execute();
            self.revive();
            let Some(number) = self.pick() else {
                let births = self.seats.iter().filter_map(|seat| seat.reborn_at).min();
                let Some(next) = self.clock.next_wake().into_iter().chain(births).min() else {
                    return Ok(false);
                };
                if next > until {
                    return Ok(false);
                }
                self.clock.advance_to(next);
                continue;
            };
            self.step(number);
        }
    }

    /// Kills an actor for good.
    pub fn kill(&mut self, name: &str) {
        for seat in self.seats.iter_mut().filter(|seat| seat.name == name) {
            seat.actor = None;
            self.kills += 1;
        }
    }

    fn execute(&mut self) {
        for (name, rest) in self.sentenced.borrow_mut().drain(..) {
            for seat in self.seats.iter_mut().filter(|seat| seat.name == name && seat.actor.is_some()) {
                (seat.actor, seat.reborn_at) = (None, Some(self.clock.now().plus(rest)));
            }
        }
    }

    /// Kills every mortal actor at once; all are born anew at once.
    pub fn restart(&mut self) {
        for seat in self.seats.iter_mut().filter(|seat| seat.mortal) {
            (seat.actor, seat.reborn_at) = (None, Some(self.clock.now()));
            self.kills += 1;
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let mut ready = self.ready.lock();
        if ready.is_empty() {
            return None;
        }
        let position = self.dice.borrow_mut().random_range(0..ready.len());
        let number = *ready.iter().nth(position)?;
        ready.remove(&number);
        Some(number)
    }

    fn step(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        let Some(actor) = seat.actor.as_mut() else { return };
        self.polls += 1;
        let polled = actor.as_mut().poll(&mut Context::from_waker(&seat.waker));
        if polled == Poll::Ready(()) {
            seat.actor = None;
            return;
        }
        let is_dying = (self.dies)(&seat.name);
        let mut dice = self.dice.borrow_mut();
        let is_struck = || seat.mortal && self.kill_per_million > 0;
        if is_dying || (is_struck() && dice.random_range(0..1_000_000) < self.kill_per_million) {
            let rest = dice.random_range(0..3_000);
            drop(dice);
            seat.actor = None;
            seat.reborn_at = Some(self.clock.now().plus(Millis(rest)));
            self.kills += 1;
        }
    }

    fn revive(&mut self) {
        let now = self.clock.now();
        for (number, seat) in self.seats.iter_mut().enumerate() {
            if seat.reborn_at.is_some_and(|at| at <= now) {
                seat.reborn_at = None;
                seat.actor = Some((seat.birth)());
                self.ready.lock().insert(number);
            }
        }
    }

    /// Who is alive and who is not, for a failure's message.
    pub fn roll_call(&self) -> String {
        let state = |seat: &Seat| if seat.actor.is_some() { "alive" } else { "gone" };
        let names: Vec<String> = self.seats.iter().map(|seat| format!("{} {}", seat.name, state(seat))).collect();
        names.join(", ")
    }
}
