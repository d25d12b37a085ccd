//! The kinds of faults, and how often each was injected.

use std::collections::BTreeMap;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What went wrong on purpose.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $kind,)*
        }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$kind,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// An actor died between two awaits, and everything it had in memory with it.
    Crash = "crashes",
    /// Many workers at once, without a word.
    Interruption = "interruptions",
    /// The same, told two minutes before.
    NoticedInterruption = "interruptions with notice",
    /// A task ended the worker that began it.
    PoisonDeath = "workers ended by a task",
    /// A call that took longer than any lease.
    Freeze = "freezes",
    /// A call that took up to two seconds.
    Delay = "slow calls",
    /// A call that failed, and nothing had happened.
    Refusal = "refused calls",
    /// Many calls in a row that were told to come later.
    Throttling = "throttled calls",
    /// A conditional write that failed as if somebody else had been first.
    Conflict = "conflicts",
    /// It had happened, and the answer was lost.
    LostResponse = "lost responses",
    /// A message of a standard queue that was stored twice.
    Duplicate = "duplicate deliveries",
    /// A message of a standard queue that came up to thirty seconds late.
    LateDelivery = "delayed deliveries",
    /// A message that was handed out after one of the same queue that was sent later.
    Reordering = "reordered deliveries",
    /// A lease that was shorter than asked for.
    ShortLease = "short leases",
    /// A receipt that was refused since its lease was over.
    ExpiredLease = "expired leases",
    /// Counts of a queue that were out of date.
    Blindness = "outdated counts",
    /// Bytes that were not what was stored, this time.
    CorruptRead = "corrupt reads",
    /// A blob that is not what was stored, whoever reads it.
    CorruptBlob = "corrupt blobs",
    /// An upload of which S3 never told.
    LostEvent = "lost S3 events",
    /// An upload of which S3 told late, or twice.
    LateEvent = "late S3 events",
    /// An actor whose clock was not the others'.
    Skew = "skewed clocks",
    /// A task that was acknowledged without a word.
    Silence = "silenced tasks",
    /// A proof of something else.
    Lie = "lies",
    /// A block that was split as another.
    Mistake = "mistaken splits",
    /// A verified proof that was said to state something else.
    Dispute = "disputed proofs",
    /// A report that its worker never sent.
    Forgery = "forged reports",
    /// A prover that failed.
    Failure = "failures of provers",
    OutOfMemory = "out of memory",
    /// A prover that took up to a minute.
    Straggler = "stragglers",
    /// What an operator told a chain on a whim.
    Retry = "retries",
    Replacement = "replacements",
    Skip = "skips",
    Reorg = "reorganisations",
    Pause = "pauses",
    Window = "window changes",
}

/// How often each kind was injected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Fault, u64>);

impl Tally {
    pub fn count(&mut self, fault: Fault) {
        self.add(fault, 1);
    }

    pub fn add(&mut self, fault: Fault, times: u64) {
        *self.0.entry(fault).or_default() += times;
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Tally) {
        other.0.iter().for_each(|(fault, times)| self.add(*fault, *times));
    }
}
