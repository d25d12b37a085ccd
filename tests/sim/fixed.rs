//! The runs that CI makes with the same seeds each time, by what they are for.

use super::Scenario;

/// Seeds that ever failed: kept, so that what they found stays found.
const ONCE_FAILED: &[u64] = &[901, 5_115, 50_963];

pub fn mixed() -> Vec<Scenario> {
    ONCE_FAILED.iter().copied().chain(0..200).map(Scenario::of).collect()
}

pub fn large() -> Vec<Scenario> {
    let everything = "silent,intruder,poison,deadlines,batches,provers,hedging,spot,skew,uploads,large";
    let names: Vec<String> = everything.split(',').map(str::to_owned).collect();
    (0..2).map(|seed| Scenario::with(seed, &names).expect("these are names of things")).collect()
}

pub fn deadlines() -> Vec<Scenario> {
    let of = |seed| Scenario { deadlines: true, silent_workers: seed % 4 == 3, ..Scenario::plain(seed) };
    (0..100).map(of).collect()
}

pub fn hedging() -> Vec<Scenario> {
    (0..75).map(|seed| Scenario { hedging: true, silent_workers: seed >= 60, ..Scenario::plain(seed) }).collect()
}

pub fn reorgs() -> Vec<Scenario> {
    (0..60).map(|seed| Scenario { reorgs: true, ..Scenario::plain(seed) }).collect()
}

pub fn intruder() -> Vec<Scenario> {
    (0..30).map(|seed| Scenario { intruder: true, ..Scenario::plain(seed) }).collect()
}

pub fn poison() -> Vec<Scenario> {
    (0..60).map(|seed| Scenario { poison: true, ..Scenario::plain(seed) }).collect()
}

pub fn provers() -> Vec<Scenario> {
    (0..68).map(|seed| Scenario { provers: true, silent_workers: seed >= 60, ..Scenario::plain(seed) }).collect()
}

/// All of them.
pub const ALL: [fn() -> Vec<Scenario>; 8] = [mixed, large, deadlines, hedging, reorgs, intruder, poison, provers];
