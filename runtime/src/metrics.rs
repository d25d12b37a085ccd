//! Every metric of push0: the one list, and where values gather until a host hands them on.
//!
//! [`Metric::ALL`] is the list; `docs/metrics.md` has it as a table, which a test holds to it. Names read `push0_NOUN_UNIT`, dimensions
//! have few values (functions, queues, chains), never an id. Values gather in the [`Metrics`] of a [`crate::drive::Context`]; the Lambda
//! host writes them out after each invocation ([`emf`]). Counts say what happened at least once: a message delivered twice is counted
//! twice, what is counted by a transaction is not.

pub mod emf;
mod metered;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

pub use metered::Metered;

/// In CloudWatch's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Count,
    Milliseconds,
}

impl Unit {
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Count => "Count",
            Unit::Milliseconds => "Milliseconds",
        }
    }
}

macro_rules! metrics {
    ($($metric:ident = $name:literal, $unit:ident, [$($dimension:literal),+], $meaning:literal;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $meaning] $metric,)+
        }

        impl Metric {
            pub const ALL: &'static [Self] = &[$(Self::$metric,)+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$metric => $name,)+ }
            }

            pub fn unit(self) -> Unit {
                match self { $(Self::$metric => Unit::$unit,)+ }
            }

            /// What its values are told apart by.
            pub fn dimensions(self) -> &'static [&'static str] {
                match self { $(Self::$metric => &[$($dimension),+],)+ }
            }

            pub fn meaning(self) -> &'static str {
                match self { $(Self::$metric => $meaning,)+ }
            }
        }
    };
}

metrics! {
    ColdStart = "push0_cold_start_milliseconds", Milliseconds, ["function"],
        "from the process's first instruction in `main` to its first request for an event";
    Invocations = "push0_invocations_count", Count, ["function"], "events a function was invoked with";
    InvocationTime = "push0_invocation_milliseconds", Milliseconds, ["function"], "from an event in hand to its answer";
    RecordsHandled = "push0_records_handled_count", Count, ["function", "queue"], "messages done with";
    RecordsFailed = "push0_records_failed_count", Count, ["function", "queue"], "messages that will come again";
    RecordsPoisoned = "push0_records_poisoned_count", Count, ["function", "queue"],
        "messages that can never be handled, put aside in the queue `poison`";
    RecordsAgain = "push0_records_again_count", Count, ["function", "queue"], "messages that had been delivered before";
    RecordAge = "push0_record_age_milliseconds", Milliseconds, ["function", "queue"],
        "from a message's sending to its first delivery: the hop";
    DeadLetters = "push0_dead_letters_count", Count, ["queue"],
        "messages that came to a function from a dead-letter queue";
    MessagesSent = "push0_messages_sent_count", Count, ["queue"],
        "messages the functions sent; to `work-POOL-CLASS`: tasks dispatched";
    Reports = "push0_reports_count", Count, ["outcome"],
        "workers' reports by what they led to: accepted, failed (another attempt, a revocation, the end of the block), noted, ignored, over";
    Failures = "push0_failures_count", Count, ["kind"],
        "failed attempts that led to another or to the block's end: retryable, permanent, bad_input, out_of_memory, lost";
    DeviceFailures = "push0_device_failures_count", Count, ["pool"],
        "failed attempts that led to another or to the block's end because a worker's GPU failed (P0-122), by the pool of the attempt";
    TasksMoved = "push0_tasks_moved_count", Count, ["chain"], "tasks moved to their stage's larger pool after out-of-memory";
    Quarantined = "push0_quarantined_count", Count, ["reason"],
        "blocks that failed at a task: attempts (used up), permanent, lost (with their workers), barred (nobody is left to take it), other";
    BlocksReleased = "push0_blocks_released_count", Count, ["chain"], "blocks whose proving began";
    BlocksFinalized = "push0_blocks_finalized_count", Count, ["chain"], "blocks final with a proof";
    BlocksSkipped = "push0_blocks_skipped_count", Count, ["chain"], "numbers final as a tombstone";
    BlocksFailed = "push0_blocks_failed_count", Count, ["chain"], "blocks that failed: an operator retries, replaces or skips them";
    BlockTime = "push0_block_milliseconds", Milliseconds, ["chain"], "from a block's submission to its being final with a proof";
    DeadlinesMet = "push0_deadlines_met_count", Count, ["chain"], "blocks with a deadline that were final in time";
    DeadlinesMissed = "push0_deadlines_missed_count", Count, ["chain"],
        "blocks with a deadline that were final later, or left out because it had passed";
    DeadlineSlack = "push0_deadline_slack_milliseconds", Milliseconds, ["chain"],
        "from a block's being final in time to its deadline";
    DeadlineOverrun = "push0_deadline_overrun_milliseconds", Milliseconds, ["chain"],
        "from a block's deadline to its being final with a proof, where that was later";
    BlocksLate = "push0_blocks_late_count", Count, ["chain", "policy"],
        "blocks whose deadline passed before they were final, by what was done: continue, demote, abandon";
    BlocksUnfinished = "push0_blocks_unfinished_count", Count, ["chain"],
        "blocks released and not final, as the reaper found them: the lag of finalization";
    TasksSoon = "push0_tasks_soon_count", Count, ["pool"],
        "tasks that are ready as soon as what other pools have in hand is done, as the reaper found them: their pool can have workers by then";
    Runs = "push0_runs_count", Count, ["chain", "outcome"],
        "where several provers prove a block, runs by how they ended: proven, failed, anew (another run of the pipeline begins), stopped, late (the block was final)";
    Contenders = "push0_contenders_count", Count, ["chain"], "blocks that wanted a number another block has";
    Halts = "push0_halts_count", Count, ["chain"], "chains that halted because a block names another parent than the last final block, or because provers disagree about one";
    Batches = "push0_batches_count", Count, ["chain"], "ranges of a source's final blocks that were fixed as blocks of this batch chain";
    BatchedBlocks = "push0_batched_blocks_count", Count, ["chain"], "blocks of the source in them: divided by the batches, how full they are";
    Reorgs = "push0_reorgs_count", Count, ["chain"],
        "reorganisations: a fork sequence higher than any before superseded a block, or an operator dropped a range";
    BlocksSuperseded = "push0_blocks_superseded_count", Count, ["chain"],
        "blocks that gave their number to another (a later fork's, or an operator's replacement) or were dropped";
    BlocksParentless = "push0_blocks_parentless_count", Count, ["chain"],
        "blocks stopped and parked until their parent is there, as the reaper found them";
    HedgesSent = "push0_hedges_sent_count", Count, ["stage"], "copies of stragglers sent";
    HedgesWon = "push0_hedges_won_count", Count, ["stage"], "stragglers whose copy was first";
    WorkTime = "push0_work_milliseconds", Milliseconds, ["stage"],
        "what provers worked on accepted tasks of a hedged stage, all copies together; a sum";
    HedgeTime = "push0_hedge_work_milliseconds", Milliseconds, ["stage"], "of that, copies of stragglers; a sum";
    InvariantsBroken = "push0_invariants_broken_count", Count, ["invariant"],
        "writes and sends that broke an invariant (I1 and on, `docs/invariants.md`): a bug in push0";
    BlobsDeleted = "push0_blobs_deleted_count", Count, ["chain"], "blobs of finalized blocks that nothing needs any more, deleted";
}

/// Values kept of one series until they are handed on; where nobody asks for them, the first so many.
const KEPT: usize = 1_000;

/// Values of one metric under one set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub metric: Metric,
    /// One for each of the metric's dimensions, in their order.
    pub labels: Vec<String>,
    /// A count has one value, its sum.
    pub values: Vec<f64>,
}

/// Values by metric and labels.
type Gathered = BTreeMap<(Metric, Vec<String>), Vec<f64>>;

/// What has been measured and not been handed on yet.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Gathered>);

impl Metrics {
    /// So many more.
    pub fn count(&self, metric: Metric, labels: &[&str], more: u64) {
        if more > 0 {
            self.with(metric, labels, |values| match values.first_mut() {
                Some(sum) => *sum += more as f64,
                None => values.push(more as f64),
            });
        }
    }

    /// One more value of a distribution, or of something that goes up and down.
    pub fn observe(&self, metric: Metric, labels: &[&str], value: u64) {
        self.with(metric, labels, |values| {
            if values.len() < KEPT {
                values.push(value as f64);
            }
        });
    }

    fn with(&self, metric: Metric, labels: &[&str], change: impl FnOnce(&mut Vec<f64>)) {
        debug_assert_eq!(labels.len(), metric.dimensions().len(), "{} has other dimensions", metric.name());
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((metric, labels)).or_default());
    }

    /// Hands on everything and begins anew.
    pub fn drain(&self) -> Vec<Series> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_iter().map(|((metric, labels), values)| Series { metric, labels, values }).collect()
    }
}

#[cfg(test)]
mod tests;
