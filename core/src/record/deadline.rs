//! What the rows keep about deadlines: the policy, what was done when a block's passed, and how often a chain was on time.

use serde::{Deserialize, Serialize};

use crate::id::Millis;

/// What happens to a block whose deadline passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It is marked as missed, and goes on.
    #[default]
    Continue,
    /// All that is still to be done for it goes to the class `bulk`.
    Demote,
    /// It is left out: a tombstone takes its place.
    Abandon,
}

impl Late {
    pub const ALL: [Self; 3] = [Self::Continue, Self::Demote, Self::Abandon];

    pub fn as_str(self) -> &'static str {
        match self {
            Late::Continue => "continue",
            Late::Demote => "demote",
            Late::Abandon => "abandon",
        }
    }
}

/// A block's deadline passed before it was final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// When that was noticed: later than the deadline.
    pub at: Millis,
    /// What was done.
    pub then: Late,
}

/// Results remembered one by one.
const RECENT: usize = 64;

/// How a chain kept its deadlines: blocks that had one, counted when they became final. With a proof, a block met its deadline if it was
/// final at that time at the latest; a tombstone counts, as missed, only where the deadline had passed before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnTime {
    pub met: u64,
    pub missed: u64,
    /// The latest results, the newest last: `1` met, `0` missed. Text, since not every reader of JSON has numbers of 64 bits.
    pub recent: String,
}

impl OnTime {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn count(&mut self, met: bool) {
        *(if met { &mut self.met } else { &mut self.missed }) += 1;
        if self.recent.len() >= RECENT {
            self.recent.remove(0);
        }
        self.recent.push(if met { '1' } else { '0' });
    }

    pub fn total(&self) -> u64 {
        self.met.saturating_add(self.missed)
    }

    /// Share of all that were on time, 0 to 1. None: none had a deadline.
    pub fn share(&self) -> Option<f64> {
        (self.total() > 0).then(|| self.met as f64 / self.total() as f64)
    }

    /// How many of the latest are remembered, and the share of those that were on time.
    pub fn recent_share(&self) -> Option<(usize, f64)> {
        let (all, met) = (self.recent.len(), self.recent.matches('1').count());
        (all > 0).then(|| (all, met as f64 / all as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_go_on_and_the_latest_are_the_latest() {
        let mut kept = OnTime::default();
        assert_eq!((kept.share(), kept.recent_share()), (None, None));
        (0..10).for_each(|_| kept.count(false));
        (0..RECENT).for_each(|_| kept.count(true));
        assert_eq!((kept.met, kept.missed, kept.total()), (64, 10, 74));
        assert_eq!(kept.share(), Some(64.0 / 74.0));
        assert!(!kept.is_empty());
        assert_eq!(kept.recent_share(), Some((64, 1.0)), "the missed ones are further back");
        kept.count(false);
        assert_eq!(kept.recent_share(), Some((64, 63.0 / 64.0)));
        assert!(kept.recent.ends_with("10"), "the newest last: {}", kept.recent);
    }
}
