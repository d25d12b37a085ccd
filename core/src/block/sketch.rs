//! How long the tasks of a stage take in a pool: a histogram of recent durations that can be merged, and what of the stage's work went into
//! further copies.
//!
//! Buckets are a fifth wide, so that what is read off is within 10 % of what was put in. What was learnt is halved whenever there is a lot of
//! it: durations change with the blocks and with the machines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::Millis;

/// With so many samples every count is halved.
const MANY: u64 = 512;

/// With fewer samples than this nothing is known.
pub(super) const FEW: u64 = 20;

/// Longer than any task may take, milliseconds.
const LONGEST: u64 = 48 * 60 * 60 * 1000;

/// Attribute `sketch` of row `sketch/{tag}`, `{stage:03}/{pool}`; changed as a whole, by set-if.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// Bucket → samples.
    counts: BTreeMap<u16, u64>,
    /// What provers worked, all copies together.
    pub work: Millis,
    /// What of that they worked on further copies, those that are out counted with what they are expected to take.
    pub extra: Millis,
}

/// Least whole number of milliseconds in a bucket.
fn start_of(bucket: u16) -> u64 {
    (0..bucket).fold(0, |start: u64, _| start.saturating_add(1).max(start.saturating_mul(6) / 5))
}

fn bucket_of(duration: Millis) -> u16 {
    let (mut bucket, mut next) = (0, 1);
    while next <= duration.0.min(LONGEST) {
        bucket += 1;
        next = (next + 1).max(next * 6 / 5);
    }
    bucket
}

impl Sketch {
    /// Takes a task's duration in.
    pub fn add(&mut self, duration: Millis) {
        let count = self.counts.entry(bucket_of(duration)).or_default();
        *count = count.saturating_add(1);
        if self.samples() >= MANY {
            self.counts.values_mut().for_each(|count| *count /= 2);
            self.counts.retain(|_, count| *count > 0);
            self.work.0 /= 2;
            self.extra.0 /= 2;
        }
    }

    pub fn samples(&self) -> u64 {
        self.counts.values().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// The duration that so many thousandths of the tasks do not exceed; none: too little is known.
    pub fn quantile(&self, thousandths: u32) -> Option<Millis> {
        let samples = self.samples();
        if samples < FEW {
            return None;
        }
        let rank = samples.saturating_mul(thousandths.into()).div_ceil(1_000).max(1);
        let mut seen: u64 = 0;
        let bucket = self.counts.iter().find_map(|(bucket, count)| {
            seen = seen.saturating_add(*count);
            (seen >= rank).then_some(*bucket)
        })?;
        // The middle of the bucket.
        let (start, end) = (start_of(bucket), start_of(bucket.saturating_add(1)));
        Some(Millis(start + (end - start).saturating_sub(1) / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: impl IntoIterator<Item = u64>) -> Sketch {
        let mut sketch = Sketch::default();
        durations.into_iter().for_each(|duration| sketch.add(Millis(duration)));
        sketch
    }

    #[test]
    fn what_is_read_off_is_within_a_tenth_of_what_was_put_in() {
        for duration in (0..200).chain([1_234, 59_999, 600_000, 43_200_000]) {
            let found = of([duration; 20]).quantile(500).unwrap().0;
            assert!(found.abs_diff(duration) * 10 <= duration, "{duration} is read as {found}");
        }
        assert!(of([u64::MAX; 20]).quantile(999).is_some());
    }

    #[test]
    fn quantiles_are_those_of_the_samples() {
        // 90 tasks of a second, 10 of ten.
        let sketch = of([1_000; 90].into_iter().chain([10_000; 10]));
        let near = |found: Option<Millis>, wanted: u64| found.unwrap().0.abs_diff(wanted) * 10 <= wanted;
        assert!(near(sketch.quantile(500), 1_000) && near(sketch.quantile(900), 1_000));
        assert!(near(sketch.quantile(910), 10_000) && near(sketch.quantile(999), 10_000));
    }

    #[test]
    fn of_a_few_samples_nothing_is_said() {
        assert_eq!(of([5; FEW as usize - 1]).quantile(500), None);
    }

    #[test]
    fn with_many_samples_all_that_was_learnt_is_halved_and_what_was_seen_once_is_forgotten() {
        let mut sketch = of([1_000; MANY as usize - 2]);
        sketch.add(Millis(9_000));
        (sketch.work, sketch.extra) = (Millis(8_001), Millis(400));
        assert_eq!((sketch.samples(), sketch.counts.len()), (MANY - 1, 2));
        sketch.add(Millis(1_000));
        assert_eq!((sketch.samples(), sketch.counts.len()), ((MANY - 1) / 2, 1));
        assert_eq!((sketch.work, sketch.extra), (Millis(4_000), Millis(200)), "the budget's share stays as it was");
    }

    #[test]
    fn it_stays_small_and_follows_what_changes() {
        let mut sketch = of((0..5_000).map(|sample| 100 + sample % 50));
        sketch.work = Millis(1_000);
        assert!(sketch.samples() < MANY);
        for _ in 0..6 * MANY {
            sketch.add(Millis(9_000));
        }
        assert!(sketch.quantile(500).unwrap().0 > 8_000);
        assert!(sketch.quantile(10).unwrap().0 > 8_000, "what was is forgotten");
        assert!(sketch.work.0 < 300);
        let text = serde_json::to_value(&sketch).unwrap();
        assert_eq!(serde_json::from_value::<Sketch>(text).unwrap(), sketch);
    }
}
