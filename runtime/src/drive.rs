//! The two drive loops: load → decide → write → effects → mark → (the caller acknowledges).
//!
//! [`chain`] drives the chain plane, [`block`] the block plane. The unacknowledged message is only the alarm clock: what is to be done
//! follows from the rows, so a message delivered twice, late or after a crash does what is left to do, and nothing twice that counts.
//!
//! An error from a loop means: not finished, deliver the message again.

pub mod batch;
pub mod block;
pub mod chain;
mod context;
mod meter;
mod plans;
mod store;

pub use context::{Catalog, Context};

use push0_core::ErrorCode;
use push0_core::invariant::Violation;
use push0_core::record::DecodeError;

use crate::metrics::Metric;
use crate::port::PortError;

/// Why a drive loop stopped before everything was done.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error(transparent)]
    Port(#[from] PortError),
    /// What is stored cannot be read: an operator's matter.
    #[error("stored {what} cannot be read: {error}")]
    Stored { what: String, error: DecodeError },
    /// What `split` stored for a run is damaged or gone: the run is over, and another one makes it anew.
    #[error("{0}")]
    Damaged(String),
    /// The message can never be handled; it belongs in the dead-letter queue with this reason.
    #[error("{0}")]
    Poison(String),
}

impl DriveError {
    /// A message that can never be handled, and the page about it.
    fn poison(code: ErrorCode, why: impl AsRef<str>) -> Self {
        DriveError::Poison(code.says(why))
    }

    /// The page about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            DriveError::Port(error) => error.code(),
            DriveError::Stored { error, .. } => match error {
                DecodeError::Version { .. } => ErrorCode::NewerData,
                DecodeError::Malformed { .. } | DecodeError::TooLong { .. } => ErrorCode::DatabaseDamaged,
            },
            DriveError::Damaged(why) => ErrorCode::find(why).unwrap_or(ErrorCode::SplitDamaged),
            DriveError::Poison(why) => ErrorCode::find(why).unwrap_or(ErrorCode::Poison),
        }
    }

    /// Whether delivering the message again can never help. A port's permanent error is not the message's fault: a queue that is not
    /// there, a limit; it comes again, and at last to the dead-letter queue, from where it is tried on.
    pub fn is_poison(&self) -> bool {
        match self {
            DriveError::Poison(_) => true,
            DriveError::Stored { .. } | DriveError::Damaged(_) | DriveError::Port(_) => false,
        }
    }
}

/// A broken invariant stops a debug build at once; a release build counts it, says so loudly and goes on.
fn enforce(context: &Context, check: Result<(), Violation>) {
    if let Err(violation) = check {
        let code = ErrorCode::InvariantBroken;
        context.metrics.count(Metric::InvariantsBroken, &[violation.id], 1);
        tracing::error!(%code, invariant = violation.id, what = %violation.what, "invariant broken: this is a bug in push0");
        debug_assert!(false, "invariant broken: {violation}");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use super::*;
    use crate::clock_manual::ManualClock;
    use crate::engine::Engine;

    #[test]
    fn a_broken_invariant_is_counted_and_stops_debug_builds_only() {
        let engine = Arc::new(Engine::in_memory(Vec::new()).unwrap());
        let clock = Arc::new(ManualClock::starting_at(push0_core::Millis(0)));
        let context = Context::new(engine.clone(), engine.clone(), engine, clock, Arc::default());
        enforce(&context, Ok(()));
        assert!(context.metrics.drain().is_empty());
        let violation = Violation { id: "I5", what: "block 7 changed".to_owned() };
        let caught = catch_unwind(AssertUnwindSafe(|| enforce(&context, Err(violation))));
        assert_eq!(caught.is_err(), cfg!(debug_assertions));
        let counted = context.metrics.drain();
        assert_eq!((counted[0].metric, &counted[0].labels[..]), (Metric::InvariantsBroken, &["I5".to_owned()][..]));
        assert_eq!(counted[0].values, [1.0]);
    }
}
