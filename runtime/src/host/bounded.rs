//! A function held to a deadline, and to its own panics: where the process is stopped at a time of somebody else's choosing, and
//! silence about a message would count as success.
//!
//! A message that cannot be begun in time is failed untouched, one whose handling runs out or panics is failed. Breaking a handler off
//! at any point is what a crash does to it, and what the drive loops are made for.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{Either, select};
use push0_core::{ErrorCode, Millis};

use super::{Failure, Function};
use crate::port::{Clock, Delivery};

pub struct Bounded {
    function: Arc<dyn Function>,
    clock: Arc<dyn Clock>,
    /// When everything must be over.
    until: Millis,
    /// With less time left than this nothing is begun.
    least: Millis,
}

impl Bounded {
    pub fn new(function: Arc<dyn Function>, clock: Arc<dyn Clock>, until: Millis, least: Millis) -> Self {
        Self { function, clock, until, least }
    }
}

#[async_trait]
impl Function for Bounded {
    async fn handle(&self, source: &str, message: &Delivery) -> Result<(), Failure> {
        if self.until.since(self.clock.now()) < self.least || self.until <= self.clock.now() {
            return Err(Failure::Retry { reason: ErrorCode::StorageTrouble.says("no time was left to begin it") });
        }
        let handling = AssertUnwindSafe(self.function.handle(source, message)).catch_unwind();
        match select(Box::pin(handling), self.clock.sleep_until(self.until)).await {
            Either::Left((Ok(handled), _)) => handled,
            Either::Left((Err(panic), _)) => {
                let what = format!("its handler panicked: {}", said(&*panic));
                Err(Failure::Retry { reason: ErrorCode::InvariantBroken.says(what) })
            }
            Either::Right(((), _)) => {
                let reason = ErrorCode::StorageTrouble.says("its handler was not done when the time was over");
                Err(Failure::Retry { reason })
            }
        }
    }
}

/// The text of a panic, where it has one.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_manual::ManualClock;

    /// Does what the body says.
    struct Scripted(ManualClock);

    #[async_trait]
    impl Function for Scripted {
        async fn handle(&self, _source: &str, message: &Delivery) -> Result<(), Failure> {
            match message.body.as_str() {
                "hang" => {
                    self.0.advance(Millis(60_000));
                    std::future::pending().await
                }
                "panic" => panic!("on purpose"),
                _ => Ok(()),
            }
        }
    }

    /// What comes of a message with `left` to the deadline; `None`: it was handled.
    fn reason(body: &str, left: u64) -> Option<String> {
        let clock = ManualClock::starting_at(Millis(1_000));
        let function = Arc::new(Scripted(clock.clone()));
        let bounded = Bounded::new(function, Arc::new(clock), Millis(1_000 + left), Millis(100));
        let message = Delivery {
            id: "1".to_owned(),
            receipt: "1".to_owned(),
            body: body.to_owned(),
            group: None,
            receive_count: 1,
            sent_at: Millis(0),
        };
        match futures::executor::block_on(bounded.handle("results", &message)) {
            Ok(()) => None,
            Err(Failure::Retry { reason }) => Some(reason),
            Err(Failure::Poison { reason }) => panic!("a bound makes no poison: {reason}"),
        }
    }

    #[test]
    fn a_message_is_handled_in_time_or_fails_with_what_was_in_its_way() {
        assert_eq!(reason("fine", 100), None);
        assert!(reason("fine", 99).unwrap().contains("no time was left"));
        assert!(reason("fine", 0).unwrap().contains("no time was left"));
        assert!(reason("hang", 2_000).unwrap().contains("when the time was over"));
        assert!(reason("panic", 2_000).unwrap().contains("panicked: on purpose"));
    }
}
