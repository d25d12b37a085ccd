//! How long a task in hand will still take, as far as anything is known: what its prover says, or how long such tasks took here before.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use push0_core::{Millis, ProverName, StageName};

use crate::prover::{Outcome, Watch};
use crate::task::{Proved, Ready};

/// Less than this fraction of a task says too little about the rest.
const TELLING: f64 = 0.01;

/// How long tasks take here, by prover and stage.
#[derive(Debug, Default)]
pub(crate) struct Paces(Mutex<BTreeMap<(ProverName, StageName), Millis>>);

impl Paces {
    /// Takes note of a task that was proven.
    pub(crate) fn learn(&self, ready: &Ready, proved: &Proved, now: Millis) {
        let (Proved::Outcome(Outcome::Done(_)), Some(begun)) = (proved, ready.watch.begun()) else { return };
        let took = now.since(begun.at);
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = paces.entry((ready.task().prover.clone(), ready.task().stage.clone())).or_insert(took);
        // The latest count most: what is proven changes from block to block.
        *usual = Millis((usual.0 + took.0) / 2);
    }

    /// How long the task will still take; `None` where nothing is known.
    pub(crate) fn remaining(&self, ready: &Ready, now: Millis) -> Option<Millis> {
        let task = ready.task();
        let usual = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(task.prover.clone(), task.stage.clone()))
            .copied();
        remaining(&ready.watch, usual, now)
    }
}

fn remaining(watch: &Watch, usual: Option<Millis>, now: Millis) -> Option<Millis> {
    let Some(begun) = watch.begun() else { return usual };
    let whole = match watch.done() {
        Some((fraction, at)) if (TELLING..=1.0).contains(&fraction) => {
            Millis((at.since(begun.at).0 as f64 / fraction) as u64)
        }
        _ => usual?,
    };
    // One that takes longer than such tasks do may be done at any moment.
    Some(whole.since(now.since(begun.at)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use push0_runtime::clock_manual::ManualClock;

    use super::*;

    #[test]
    fn what_the_prover_says_counts_more_than_what_was_usual() {
        let clock = ManualClock::starting_at(Millis(1_000_000));
        let watch = Watch::detached(Arc::new(clock.clone()));
        let left = |usual: Option<u64>| {
            let now = push0_runtime::port::Clock::now(&clock);
            remaining(&watch, usual.map(Millis), now).map(|left| left.0)
        };
        assert_eq!((left(None), left(Some(5_000))), (None, Some(5_000)), "not begun");
        watch.begin(Millis::from_secs(600), None);
        clock.advance(Millis(2_000));
        assert_eq!((left(None), left(Some(5_000)), left(Some(1_000))), (None, Some(3_000), Some(0)));
        watch.progressed_to(Some(0.001));
        assert_eq!(left(None), None, "too little to tell");
        watch.progressed_to(Some(0.1));
        assert_eq!((left(None), left(Some(5_000))), (Some(18_000), Some(18_000)));
        clock.advance(Millis(8_000));
        assert_eq!(left(Some(5_000)), Some(10_000), "as of when it was said");
        watch.progressed_to(Some(f64::NAN));
        assert_eq!(left(None), None);
    }
}
