//! Clocks that differ from the true one.

use std::future::Future;
use std::pin::Pin;

use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::port::Clock;

/// Furthest that an actor's clock is from the true one, either way.
pub(super) const MOST: Millis = Millis(3_000);

/// A clock that is ahead of the true one by `offset`, or behind it. It runs as fast.
#[derive(Debug, Clone)]
pub(super) struct Skewed {
    pub(super) clock: ManualClock,
    pub(super) offset: i64,
}

impl Clock for Skewed {
    fn now(&self) -> Millis {
        Millis(self.clock.now().0.saturating_add_signed(self.offset))
    }

    fn sleep_until(&self, deadline: Millis) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.clock.sleep_until(Millis(deadline.0.saturating_add_signed(-self.offset)))
    }
}
