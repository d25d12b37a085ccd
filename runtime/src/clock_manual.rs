//! A clock that stands still until it is told to move: for tests and the simulator. Needs no runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use push0_core::Millis;

use crate::port::Clock;

/// Clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: Millis,
    /// By deadline, then by who slept first.
    sleepers: BTreeMap<(Millis, u64), Waker>,
    next: u64,
}

impl ManualClock {
    pub fn starting_at(now: Millis) -> Self {
        Self(Arc::new(Mutex::new(State { now, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on and wakes those whose time has come, earliest first.
    pub fn advance(&self, by: Millis) {
        let to = self.now().plus(by);
        self.advance_to(to);
    }

    /// The same, to a moment; one that has passed changes nothing.
    pub fn advance_to(&self, to: Millis) {
        let woken = {
            let mut state = self.state();
            state.now = state.now.max(to);
            let after_now = (Millis(state.now.0.saturating_add(1)), 0);
            let rest = state.sleepers.split_off(&after_now);
            std::mem::replace(&mut state.sleepers, rest)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// When the next sleeper wakes, if anybody sleeps.
    pub fn next_wake(&self) -> Option<Millis> {
        self.state().sleepers.keys().next().map(|(deadline, _)| *deadline)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        self.state().now
    }

    fn sleep_until(&self, deadline: Millis) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Sleep { clock: self.clone(), deadline, place: None })
    }
}

struct Sleep {
    clock: ManualClock,
    deadline: Millis,
    place: Option<(Millis, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (clock, deadline) = (self.clock.clone(), self.deadline);
        let mut state = clock.state();
        if state.now >= deadline {
            return Poll::Ready(());
        }
        let place = *self.place.get_or_insert_with(|| {
            state.next += 1;
            (deadline, state.next)
        });
        state.sleepers.insert(place, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.clock.state().sleepers.remove(&place);
        }
    }
}
