//! What is sent: one file a message. Every message carries its version `v` and fits in 64 KiB.

mod chain;
mod range;
mod report;
mod task;
mod timer;
pub mod upload;

pub use chain::{ChainMessage, Command, Submission};
pub use range::RangeMessage;
pub use report::{FailureKind, Finding, Handout, Report, ReportEvent};
pub use task::{Check, TaskMessage};
pub use timer::{TimerKind, TimerMessage};

use crate::id::{Class, Pool};

/// Bytes of a message.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Names of queues; their attributes are in `infra/topology.json`.
pub mod queue {
    pub const SUBMISSIONS: &str = "submissions.fifo";
    pub const FINALIZED: &str = "finalized.fifo";
    pub const RESULTS: &str = "results";
    pub const VERDICTS: &str = "verdicts";
    pub const RANGES: &str = "ranges";
    /// Uploads, as S3 tells of them: see [`super::upload`].
    pub const WITNESS_EVENTS: &str = "witness-events";
    /// Messages that come back when something is due.
    pub const TIMERS: &str = "timers";
    /// Messages that can never be handled, each with its reason: for people.
    pub const POISON: &str = "poison";

    /// The queue that a dead-letter queue belongs to; any other queue is itself.
    pub fn origin(name: &str) -> &str {
        name.strip_suffix("-dlq").unwrap_or(name)
    }
}

/// The queue that workers of a pool take tasks of a class from.
pub fn work_queue(pool: &Pool, class: Class) -> String {
    format!("work-{pool}-{}", class.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_queue_belongs_to_the_queue_of_its_name() {
        for (name, origin) in [
            ("results-dlq", "results"),
            ("work-cpu-bulk-dlq", "work-cpu-bulk"),
            ("results", "results"),
            ("dlq", "dlq"),
            ("submissions.fifo", "submissions.fifo"),
            ("a-dlq-b", "a-dlq-b"),
        ] {
            assert_eq!(queue::origin(name), origin);
        }
        let work = work_queue(&"gpu-large".parse().unwrap(), Class::Bulk);
        assert_eq!(queue::origin(&format!("{work}-dlq")), "work-gpu-large-bulk");
    }
}
