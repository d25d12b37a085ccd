//! What goes wrong in a storm, and when: drawn from a seed, the same for the same seed. What it hits depends on the machine.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::ground::Ground;
use super::link::Cut;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// What decides: `push0 up`, `push0 serve`.
    Server,
    /// A server and everything it started.
    Tree,
    Worker,
    Prover,
    /// The consumer of the finalized stream.
    Consumer,
    Emulator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL.
    Kill(Victim),
    /// SIGSTOP, and SIGCONT after a while.
    Freeze(Victim),
    Cut(Cut),
    FullDisk,
    RestartEmulator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// How long after the one before.
    pub after: Duration,
    pub kind: Kind,
    /// Which one of those that there are.
    pub which: usize,
    /// How long it lasts, where it lasts.
    pub length: Duration,
}

/// How often each comes, of a hundred or so.
fn weights(ground: Ground) -> Vec<(u32, Kind)> {
    use Kind::{Cut as Cuts, Freeze, FullDisk, Kill, RestartEmulator};
    let mut weights = vec![
        (6, Kill(Victim::Server)),
        (6, Kill(Victim::Tree)),
        (20, Kill(Victim::Worker)),
        (16, Kill(Victim::Prover)),
        (2, Kill(Victim::Consumer)),
        (6, Freeze(Victim::Server)),
        (14, Freeze(Victim::Worker)),
        (6, Freeze(Victim::Prover)),
        (1, Freeze(Victim::Consumer)),
        (5, Cuts(Cut::Drop)),
        (5, Cuts(Cut::Stall)),
        (5, Cuts(Cut::Deaf)),
        (5, Cuts(Cut::HalfClose)),
    ];
    match ground {
        Ground::Disk => weights.push((3, FullDisk)),
        Ground::Emulator => weights.extend([(3, RestartEmulator), (3, Freeze(Victim::Emulator))]),
    }
    weights
}

/// All faults of a seed, without end.
pub struct Faults {
    dice: ChaCha8Rng,
    weights: Vec<(u32, Kind)>,
    /// Of a freeze or a cut: from a moment to some leases.
    lease: Duration,
    /// Between two faults, in the mean.
    gap: Duration,
}

impl Faults {
    pub fn new(seed: u64, ground: Ground, lease: Duration, gap: Duration) -> Self {
        let dice = ChaCha8Rng::seed_from_u64(seed ^ if ground == Ground::Disk { 0 } else { 1 << 63 });
        Self { dice, weights: weights(ground), lease, gap }
    }

    fn part(&mut self, of: Duration, from: f64, to: f64) -> Duration {
        of.mul_f64(self.dice.random_range(from..to))
    }
}

impl Iterator for Faults {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let all: u32 = self.weights.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.dice.random_range(0..all);
        let is_it = |(weight, _): &&(u32, Kind)| match drawn.checked_sub(*weight) {
            None => true,
            Some(left) => {
                drawn = left;
                false
            }
        };
        let kind = self.weights.iter().find(is_it).map(|(_, kind)| *kind)?;
        let (after, which) = (self.part(self.gap, 0.1, 1.9), self.dice.random_range(0..1_000_000));
        let length = match kind {
            // Longer than a lease, so that what was in hand is somebody else's when it goes on.
            Kind::Freeze(_) => self.part(self.lease, 1.2, 5.0),
            Kind::FullDisk => self.part(self.lease, 2.0, 10.0),
            Kind::Cut(_) => self.part(self.lease, 0.2, 6.0),
            Kind::Kill(_) | Kind::RestartEmulator => Duration::ZERO,
        };
        Some(Fault { after, kind, which, length })
    }
}

/// What was done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    done: BTreeMap<Kind, u64>,
    /// Processes that were started again, whatever they died of.
    pub restarts: u64,
}

impl Tally {
    pub fn count(&mut self, kind: Kind) {
        *self.done.entry(kind).or_default() += 1;
    }

    fn sum(&self, is_it: impl Fn(&Kind) -> bool) -> u64 {
        self.done.iter().filter(|(kind, _)| is_it(kind)).map(|(_, count)| count).sum()
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.sum(|other| *other == kind)
    }

    pub fn kills(&self) -> u64 {
        self.sum(|kind| matches!(kind, Kind::Kill(_)))
    }

    pub fn freezes(&self) -> u64 {
        self.sum(|kind| matches!(kind, Kind::Freeze(_)))
    }

    pub fn cuts(&self) -> u64 {
        self.sum(|kind| matches!(kind, Kind::Cut(_)))
    }

    /// `kind of fault: how often`, for all that there were.
    pub fn lines(&self) -> Vec<(String, u64)> {
        let name = |kind: &Kind| match kind {
            Kind::Kill(victim) => format!("kill {victim:?}").to_lowercase(),
            Kind::Freeze(victim) => format!("freeze {victim:?}").to_lowercase(),
            Kind::Cut(cut) => format!("cut {cut:?}").to_lowercase(),
            Kind::FullDisk => "full disk".to_owned(),
            Kind::RestartEmulator => "emulator restart".to_owned(),
        };
        self.done.iter().map(|(kind, count)| (name(kind), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_all_kinds_come() {
        let second = Duration::from_secs(1);
        for ground in [Ground::Disk, Ground::Emulator] {
            let faults = |seed| Faults::new(seed, ground, second, second).take(2_000).collect::<Vec<_>>();
            let drawn = faults(7);
            assert_eq!(drawn, faults(7));
            assert_ne!(drawn, faults(8));
            let mut tally = Tally::default();
            drawn.iter().for_each(|fault| tally.count(fault.kind));
            assert_eq!(tally.lines().len(), weights(ground).len());
            assert!(tally.kills() + tally.freezes() > 1_300, "most are kills and freezes");
            let mean = drawn.iter().map(|fault| fault.after).sum::<Duration>() / 2_000;
            assert!(mean > second.mul_f64(0.9) && mean < second.mul_f64(1.1), "{mean:?}");
            let is_short = |fault: &&Fault| matches!(fault.kind, Kind::Freeze(_)) && fault.length < second.mul_f64(1.2);
            assert_eq!(drawn.iter().find(is_short), None, "a freeze outlasts a lease");
        }
    }
}
