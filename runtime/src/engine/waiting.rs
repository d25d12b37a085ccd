//! Receives that wait, and how they get their messages.
//!
//! Every receive parks, and is served in the commit it parks in if there is something for it. A parked receive is leased its message in
//! the very commit that makes the message visible (handoff), in order of arrival. Nothing polls: what becomes visible by the passing
//! of time is noticed by the receive parked first, whose timer is set to the next such moment.
//!
//! Invariants:
//! - An outcome is set only after its commit, under the engine's lock: a dropped receive finds either itself still parked, or its
//!   deliveries, which it hands back.
//! - A parked receive whose batch failed stays parked, unless it parked in that batch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use futures::future::{Either, select};
use push0_core::Millis;
use rusqlite::Connection;

use super::commit::{Combiner, lock};
use super::fairness::Turns;
use super::queue;
use crate::port::{Delivery, PortError, PortResult};

/// How long the first parked receive waits before it looks again when a batch that should have served it failed.
const AFTER_FAILURE: Millis = Millis(1000);

/// A queue as the engine knows it while running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: i64,
    pub(super) fifo: bool,
    /// The queue's name and how many receives a message gets before it goes there.
    pub(super) dead_letter: Option<(String, u32)>,
}

struct Parked {
    wait: Arc<Wait>,
    max: usize,
    lease: Millis,
    until: Millis,
    /// Parked in the batch that is running.
    fresh: bool,
    /// What it gets once the batch is committed.
    outcome: Option<Vec<Delivery>>,
}

/// Whom to wake after a commit.
#[derive(Default)]
pub(super) struct Woken {
    /// Receives that waited and have an outcome now.
    pub(super) served: Vec<Waker>,
    pub(super) others: Vec<Waker>,
}

/// All queues with their parked receives, and which need a look before the running batch commits.
#[derive(Default)]
pub(super) struct Queues {
    lines: BTreeMap<String, Line>,
    parked: BTreeMap<String, VecDeque<Parked>>,
    touched: BTreeSet<String>,
    /// Of standard queues, by their ids: whose turn it was.
    turns: BTreeMap<i64, Turns>,
    /// Next moment at which something becomes visible, of queues that were served with somebody still parked.
    due: BTreeMap<String, Option<Millis>>,
}

impl Queues {
    pub(super) fn add(&mut self, name: String, line: Line) {
        self.lines.insert(name, line);
    }

    pub(super) fn line(&self, name: &str) -> PortResult<&Line> {
        self.lines.get(name).ok_or_else(|| PortError::permanent(format!("there is no queue {name:?}")))
    }

    /// Something in this queue changed that may serve somebody or change when that will be.
    pub(super) fn touch(&mut self, name: &str) {
        if self.parked.contains_key(name) {
            self.touched.insert(name.to_owned());
        }
    }

    fn park(&mut self, name: &str, parked: Parked) {
        self.parked.entry(name.to_owned()).or_default().push_back(parked);
        self.touch(name);
    }

    /// Whether it was still parked.
    fn unpark(&mut self, name: &str, wait: &Arc<Wait>) -> bool {
        let Some(line) = self.parked.get_mut(name) else {
            return false;
        };
        let before = line.len();
        line.retain(|parked| !Arc::ptr_eq(&parked.wait, wait));
        let found = line.len() < before;
        self.touch(name);
        found
    }

    /// Gives the parked receives of every touched queue what is visible now; takes effect with [`Self::deliver`].
    pub(super) fn serve(&mut self, db: &Connection, now: Millis) -> rusqlite::Result<()> {
        while let Some(name) = self.touched.pop_first() {
            let (Some(line), Some(parked)) = (self.lines.get(&name), self.parked.get_mut(&name)) else {
                continue;
            };
            let turns = self.turns.entry(line.id).or_default();
            let mut something_left = true;
            let mut dead_lettered = false;
            for receive in parked.iter_mut().filter(|receive| receive.outcome.is_none()) {
                if something_left {
                    let claimed = queue::claim(db, line, &self.lines, turns, now, receive.max, receive.lease)?;
                    dead_lettered |= claimed.dead_lettered;
                    something_left = !claimed.deliveries.is_empty();
                    receive.outcome = something_left.then_some(claimed.deliveries);
                }
                if receive.outcome.is_none() && receive.until <= now {
                    receive.outcome = Some(Vec::new());
                }
            }
            if parked.iter().any(|receive| receive.outcome.is_none()) {
                self.due.insert(name.clone(), queue::next_due(db, line, now)?);
            } else {
                self.due.insert(name.clone(), None);
            }
            if let (true, Some((dead_letters, _))) = (dead_lettered, &line.dead_letter) {
                let dead_letters = dead_letters.clone();
                self.touch(&dead_letters);
            }
        }
        Ok(())
    }

    /// After the commit: hands out the outcomes and sets the timers. Returns whom to wake.
    pub(super) fn deliver(&mut self) -> Woken {
        let mut woken = Woken::default();
        for (name, due) in std::mem::take(&mut self.due) {
            let Some(parked) = self.parked.get_mut(&name) else {
                continue;
            };
            parked.retain_mut(|receive| {
                receive.fresh = false;
                let Some(outcome) = receive.outcome.take() else {
                    return true;
                };
                woken.served.extend(receive.wait.finish(outcome));
                false
            });
            if let Some(first) = parked.front() {
                let at = due.map_or(first.until, |due| due.min(first.until));
                woken.others.extend(first.wait.set_timer(at));
            }
            if parked.is_empty() {
                self.parked.remove(&name);
            }
        }
        woken
    }

    /// After a rollback: as before the batch; the first of each line looks again soon.
    pub(super) fn undo(&mut self, now: Millis) -> Vec<Waker> {
        self.touched.clear();
        self.due.clear();
        let mut wakers = Vec::new();
        self.parked.retain(|_, parked| {
            parked.retain_mut(|receive| {
                receive.outcome = None;
                !receive.fresh
            });
            if let Some(first) = parked.front() {
                let at = now.plus(AFTER_FAILURE).min(first.until);
                wakers.extend(first.wait.set_timer(at));
            }
            !parked.is_empty()
        });
        wakers
    }
}

/// One receive's place to wait at.
struct Wait(Mutex<WaitState>);

struct WaitState {
    outcome: Option<Vec<Delivery>>,
    /// When it should look at its queue, if it hears nothing before.
    timer: Millis,
    waker: Option<Waker>,
}

impl Wait {
    fn new(timer: Millis) -> Self {
        Self(Mutex::new(WaitState { outcome: None, timer, waker: None }))
    }

    fn finish(&self, outcome: Vec<Delivery>) -> Option<Waker> {
        let mut state = lock(&self.0);
        state.outcome = Some(outcome);
        state.waker.take()
    }

    /// A later moment needs no waking: looking early does no harm.
    fn set_timer(&self, at: Millis) -> Option<Waker> {
        let mut state = lock(&self.0);
        let earlier = at < state.timer;
        state.timer = at;
        if earlier { state.waker.take() } else { None }
    }

    fn take_outcome(&self) -> Result<Vec<Delivery>, Millis> {
        let mut state = lock(&self.0);
        state.outcome.take().ok_or(state.timer)
    }

    /// Completes when there is an outcome or the timer has moved before `armed`.
    async fn changed(&self, armed: Millis) {
        poll_fn(|context| {
            let mut state = lock(&self.0);
            if state.outcome.is_some() || state.timer < armed {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Leaves the line when the receive is dropped, and hands back what it was leased but never took.
struct Place<'a> {
    combiner: &'a Arc<Combiner>,
    queue: &'a str,
    wait: Arc<Wait>,
    left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let (name, wait) = (self.queue.to_owned(), self.wait.clone());
        self.combiner.submit_detached(move |batch| {
            if batch.queues.unpark(&name, &wait) {
                return Ok(());
            }
            for delivery in wait.take_outcome().unwrap_or_default() {
                queue::give_back(batch, &name, &delivery.receipt)?;
            }
            Ok(())
        });
    }
}

/// See [`crate::port::Queue::receive`]; the arguments are valid.
pub(super) async fn receive(
    combiner: &Arc<Combiner>,
    queue: &str,
    max: usize,
    wait: Millis,
    lease: Millis,
) -> PortResult<Vec<Delivery>> {
    let until = combiner.now().plus(wait);
    let mut place = Place { combiner, queue, wait: Arc::new(Wait::new(until)), left: false };
    let (name, parking) = (queue.to_owned(), place.wait.clone());
    let parked = combiner.submit(move |batch| {
        batch.queues.line(&name)?;
        batch.queues.park(&name, Parked { wait: parking, max, lease, until, fresh: true, outcome: None });
        Ok(())
    });
    if let Err(error) = parked.await {
        place.left = true;
        return Err(error);
    }
    loop {
        let armed = match place.wait.take_outcome() {
            Ok(deliveries) => {
                place.left = true;
                return Ok(deliveries);
            }
            Err(timer) => timer,
        };
        let changed = std::pin::pin!(place.wait.changed(armed));
        match select(changed, combiner.clock().sleep_until(armed)).await {
            Either::Left(_) => {}
            Either::Right(_) => {
                let name = queue.to_owned();
                let look = combiner.submit(move |batch| {
                    batch.queues.touch(&name);
                    Ok(())
                });
                look.await?;
            }
        }
    }
}
