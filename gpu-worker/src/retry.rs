//! Trying again: back-off, how long it is worth it, and one log line a change instead of one a failure.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use push0_core::Millis;
use push0_runtime::port::{Clock, ErrorKind, PortError, PortResult};
use tracing::{info, warn};

use crate::lease::{End, Hold};

/// First pause after a failure; each further one is twice as long.
pub(crate) const FIRST_PAUSE: Millis = Millis(100);

/// Longest pause between two tries.
pub(crate) const LONGEST_PAUSE: Millis = Millis(5_000);

/// Doubling pauses.
#[derive(Debug)]
pub(crate) struct Backoff(Millis);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// The next pause.
    pub(crate) fn step(&mut self) -> Millis {
        let pause = self.0;
        self.0 = Millis(self.0.0 * 2).min(LONGEST_PAUSE);
        pause
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Whether something answers; says so only when that changes.
#[derive(Debug)]
pub struct Health {
    what: &'static str,
    down: AtomicBool,
}

impl Health {
    pub fn new(what: &'static str) -> Self {
        Self { what, down: AtomicBool::new(false) }
    }

    pub(crate) fn well(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            info!(what = self.what, "backend answers again");
        }
    }

    pub(crate) fn trouble(&self, error: &PortError) {
        if !self.down.swap(true, Ordering::Relaxed) {
            warn!(code = %error.code(), what = self.what, %error, "backend does not answer, trying on");
        }
    }
}

/// Why something about a task in hand was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GaveUp {
    /// The task is no longer this worker's.
    Ended(End),
    /// It will not work however often it is tried.
    Failed(PortError),
}

/// Tries a call until it answers, with back-off, for as long as the task is this worker's.
pub(crate) async fn persist<T, F>(
    clock: &dyn Clock,
    health: &Health,
    hold: &Hold,
    mut call: impl FnMut() -> F,
) -> Result<T, GaveUp>
where
    F: Future<Output = PortResult<T>>,
{
    let mut backoff = Backoff::new();
    loop {
        let answer = tokio::select! {
            biased;
            end = hold.until_ended() => return Err(GaveUp::Ended(end)),
            answer = call() => answer,
        };
        match answer {
            Ok(value) => {
                health.well();
                return Ok(value);
            }
            Err(error) => match error.kind() {
                ErrorKind::Transient { after } => {
                    health.trouble(&error);
                    let pause = backoff.step().max(after);
                    tokio::select! {
                        biased;
                        end = hold.until_ended() => return Err(GaveUp::Ended(end)),
                        () = clock.sleep_until(clock.now().plus(pause)) => {}
                    }
                }
                ErrorKind::Conflict | ErrorKind::Fenced | ErrorKind::Permanent | ErrorKind::Corrupt => {
                    return Err(GaveUp::Failed(error));
                }
            },
        }
    }
}
