//! Plan records that were read before. A run's is written once and its id never used again, so what was read stays true; whether the
//! run still goes on, and everything else of its row, is always read anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use push0_core::RunId;
use push0_core::record::Run;

/// More runs than are usually going on at a time, a few kilobytes each.
const MOST: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Counts uses.
    now: u64,
    /// With the last use.
    runs: BTreeMap<RunId, (u64, Arc<Run>)>,
}

impl Plans {
    pub(super) fn get(&self, run: &RunId) -> Option<Arc<Run>> {
        let mut kept = self.lock();
        kept.now += 1;
        let now = kept.now;
        let (used, run) = kept.runs.get_mut(run)?;
        *used = now;
        Some(run.clone())
    }

    /// Beyond the limit the one that was not used for longest goes.
    pub(super) fn keep(&self, run: &Arc<Run>) {
        let mut kept = self.lock();
        kept.now += 1;
        let now = kept.now;
        kept.runs.insert(run.id.clone(), (now, run.clone()));
        if kept.runs.len() > MOST
            && let Some(oldest) = kept.runs.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| id.clone())
        {
            kept.runs.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
