//! Time, as something passed in: real in production, virtual in the simulator.

use std::future::Future;
use std::pin::Pin;

use push0_core::Millis;

pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> Millis;

    /// Completes when `now() >= deadline`.
    fn sleep_until(&self, deadline: Millis) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The machine's clock; sleeps on tokio's timer.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Millis(since_epoch.as_millis() as u64)
    }

    fn sleep_until(&self, deadline: Millis) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let left = std::time::Duration::from_millis(deadline.0.saturating_sub(self.now().0));
        Box::pin(tokio::time::sleep(left))
    }
}
