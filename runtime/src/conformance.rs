//! What the ports promise, as checks that every adapter passes: the embedded engine on disk, in memory and over HTTP, later SQS,
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
mod imds;
mod queue;
mod table;

pub use blobs::blobs_suite;
pub use imds::{FakeImds, Fault, imds_suite};
pub use queue::queue_suite;
pub use table::table_suite;

/// How time passes for an adapter under test: a virtual clock jumps, a real one is slept through.
#[async_trait]
pub trait Passing: Send + Sync {
    async fn advance(&self, by: Millis);

    /// Completes when everything that waits on the adapter has got as far as it can without time passing.
    async fn settle(&self);
}

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

/// The queues [`queue_suite`] works on.
pub fn queues() -> Vec<QueueSpec> {
    vec![
        QueueSpec::new(queue::DEAD),
        QueueSpec::new(queue::DEAD_FIFO),
        QueueSpec::new(queue::STANDARD),
        QueueSpec::new(queue::FIFO),
        QueueSpec::new(queue::REDRIVE).with_dead_letter(queue::DEAD, 2),
        QueueSpec::new(queue::REDRIVE_FIFO).with_dead_letter(queue::DEAD_FIFO, 2),
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
