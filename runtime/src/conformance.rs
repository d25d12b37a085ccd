//! What the ports promise, as checks that every adapter passes: the embedded engine on disk, in memory and over HTTP, SQS,
//! DynamoDB and S3.
//!
//! A suite is a function that panics at the first broken promise, with the check's name in the backtrace. Each check works on names of
//! its own, so a suite leaves what it found alone and can run again on the same adapter with another `salt`. Suites also check what is
//! *not* promised where callers are tempted to rely on it: a standard queue swallows no duplicate.

use std::future::Future;

use async_trait::async_trait;
use push0_core::Millis;

use crate::clock_manual::ManualClock;
use crate::engine::QueueSpec;
use crate::port::{Clock as _, ErrorKind, PortResult};

mod blobs;
mod dead_letters;
mod imds;
mod queue;
mod table;

pub use blobs::blobs_suite;
pub use dead_letters::dead_letters_suite;
pub use imds::{FakeImds, Fault, imds_suite};
pub use queue::queue_suite;
pub use table::table_suite;

/// How time passes for an adapter under test: a virtual clock jumps, a real one is slept through. With it goes what a real service needs:
/// shorter lengths, so that sleeping through them takes no hours, and patience.
#[async_trait]
pub trait Passing: Send + Sync {
    async fn advance(&self, by: Millis);

    /// Completes when everything that waits on the adapter has got as far as it can without time passing.
    async fn settle(&self);

    /// Length of the leases the checks work with; at least 4 s where the service counts in seconds.
    fn lease(&self) -> Millis {
        Millis::from_secs(30)
    }

    /// How long a receive may wait for what must be there. A service spread over many machines needs it; the engine knows.
    fn patience(&self) -> Millis {
        Millis(0)
    }

    /// How closely before an end a check may look whether it has come: calls take time.
    fn brink(&self) -> Millis {
        Millis(1)
    }

    /// Why a check is left out, by its name: the service does not promise that, or an emulator is known to differ from it.
    fn leaves_out(&self, check: &str) -> Option<&'static str> {
        let _ = check;
        None
    }
}

/// Whether the check runs; says so when it does not.
fn runs(time: &dyn Passing, check: &str) -> bool {
    let left_out = time.leaves_out(check);
    if let Some(reason) = left_out {
        eprintln!("left out: {check}: {reason}");
    }
    left_out.is_none()
}

/// Runs the checks of a suite one after the other, but for those that are left out.
macro_rules! run_checks {
    ($suite:ident: $($check:ident)*) => {
        $(if $crate::conformance::runs($suite.time, stringify!($check)) {
            $suite.$check().await;
        })*
    };
}
use run_checks;

/// Time of an adapter in this process that reads a [`ManualClock`].
#[async_trait]
impl Passing for ManualClock {
    async fn advance(&self, by: Millis) {
        self.settle().await;
        ManualClock::advance(self, by);
        self.settle().await;
    }

    async fn settle(&self) {
        // Gives every task that was woken its turn; enough for the hops of an HTTP request inside one runtime.
        let _ = self.now();
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}

/// The queues [`queue_suite`] and [`dead_letters_suite`] work on.
pub fn queues() -> Vec<QueueSpec> {
    vec![
        QueueSpec::new(queue::DEAD),
        QueueSpec::new(queue::DEAD_FIFO),
        QueueSpec::new(queue::STANDARD),
        QueueSpec::new(queue::FIFO),
        QueueSpec::new(queue::REDRIVE).with_dead_letter(queue::DEAD, 2),
        QueueSpec::new(queue::REDRIVE_FIFO).with_dead_letter(queue::DEAD_FIFO, 2),
        QueueSpec::new(dead_letters::DEAD),
        QueueSpec::new(dead_letters::SOURCE),
        QueueSpec::new(dead_letters::SOURCE_FIFO),
    ]
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: PortResult<T>, kind: ErrorKind) {
    match result {
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
        Ok(value) => panic!("{value:?} instead of {kind:?}"),
    }
}

async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    futures::future::join(first, second).await
}
