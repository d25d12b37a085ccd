//! What a run is to be like, from its seed or by name, and what came of it.

use std::collections::BTreeMap;

use push0_core::transition::Pair;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::faults::Tally;

/// A deliberate bug, to see that the simulator finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The function host acknowledges a batch before it handles it.
    AcknowledgeBeforeEffects,
}

/// Who looks for lost tasks where workers are silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Healers {
    Both,
    /// The reaper does not look after overdue timers.
    Timers,
    /// No timer is ever delivered.
    Reaper,
}

/// A run. Whatever is switched on goes with everything else.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub bug: Option<Bug>,
    /// Workers that now and then acknowledge a task and say nothing: what a worker must not do, and an untrusted one can.
    ///
    /// Without them nobody looks for lost tasks: the simulator shall find the bug that loses one, not the cure.
    pub silent_workers: bool,
    pub healers: Healers,
    /// Somebody sends forged reports, as a hostile worker could.
    pub intruder: bool,
    /// A task of one block ends every worker that begins it.
    pub poison: bool,
    /// Chains have deadlines, each its own policy.
    pub deadlines: bool,
    /// A batch chain is derived from the first chain: two of its blocks are one there, or one that has waited for long.
    pub batches: bool,
    /// Three pipelines prove each block, and two of them must.
    pub provers: bool,
    /// Chains are reorganised, by their submitters and by an operator, and the operator does nothing else to blocks than retry them.
    pub reorgs: bool,
    /// Workers are often slow, and tasks have copies.
    pub hedging: bool,
    /// Many workers are taken away at once, with notice or without.
    pub spot: bool,
    /// Actors' clocks differ.
    pub skew: bool,
    /// Some blocks are only uploaded; S3 tells of them late, twice or never.
    pub uploads: bool,
    /// Many blocks of many segments each, and more workers.
    pub large: bool,
    /// Whether the trace is kept line by line, and printed when the run fails.
    pub keep_trace: bool,
}

impl Scenario {
    /// Nothing but two chains and the faults of the seed.
    pub fn plain(seed: u64) -> Self {
        Self {
            seed,
            bug: None,
            silent_workers: false,
            healers: Healers::Both,
            intruder: false,
            poison: false,
            deadlines: false,
            batches: false,
            provers: false,
            reorgs: false,
            hedging: false,
            spot: false,
            skew: false,
            uploads: false,
            large: false,
            keep_trace: false,
        }
    }

    /// What the seed says: each of the things above now and then, so that every combination comes up.
    pub fn of(seed: u64) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x005c_e4a1);
        let mut one_in = |so_many: u32| dice.random_range(0..so_many) == 0;
        Self {
            silent_workers: one_in(6),
            intruder: one_in(6),
            poison: one_in(6),
            deadlines: one_in(3),
            batches: one_in(3),
            provers: one_in(4),
            reorgs: one_in(3),
            hedging: one_in(3),
            spot: one_in(3),
            skew: one_in(2),
            uploads: one_in(2),
            ..Self::plain(seed)
        }
    }

    /// The same on a large scale. Of several provers, whose disagreements are rare, there are more.
    pub fn large(seed: u64) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x1a_26e5);
        Self { large: true, provers: dice.random_range(0..4) > 0, ..Self::of(seed) }
    }

    /// A plain run with just these things, by the names that [`Self::names`] gives.
    pub fn with(seed: u64, names: &[String]) -> Result<Self, String> {
        let mut scenario = Self::plain(seed);
        for name in names {
            let switch = scenario.switches().into_iter().find(|(known, _)| known == name);
            *switch.ok_or_else(|| format!("there is no {name:?} to be switched on"))?.1 = true;
        }
        Ok(scenario)
    }

    /// What is switched on.
    pub fn names(&self) -> Vec<&'static str> {
        let mut copy = self.clone();
        copy.switches().into_iter().filter(|(_, on)| **on).map(|(name, _)| name).collect()
    }

    fn switches(&mut self) -> [(&'static str, &mut bool); 12] {
        [
            ("silent", &mut self.silent_workers),
            ("intruder", &mut self.intruder),
            ("poison", &mut self.poison),
            ("deadlines", &mut self.deadlines),
            ("batches", &mut self.batches),
            ("provers", &mut self.provers),
            ("reorgs", &mut self.reorgs),
            ("hedging", &mut self.hedging),
            ("spot", &mut self.spot),
            ("skew", &mut self.skew),
            ("uploads", &mut self.uploads),
            ("large", &mut self.large),
        ]
    }

    /// The command that runs it again, with its trace.
    pub fn replay(&self) -> String {
        let with = self.names().join(",");
        let with = if with.is_empty() { "--plain".to_owned() } else { format!("--with {with}") };
        let healers = match self.healers {
            Healers::Both => "",
            Healers::Timers => " --healers timers",
            Healers::Reaper => " --healers reaper",
        };
        let bug = if self.bug.is_some() { " --bug" } else { "" };
        let seed = self.seed;
        format!("cargo run -p push0-tests --bin push0-sim -- --seed {seed} {with}{healers}{bug} --trace")
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Digest of the trace: equal for equal seeds.
    pub fingerprint: String,
    pub events: u64,
    /// Steps of actors.
    pub steps: u64,
    /// Finalized blocks.
    pub blocks: usize,
    /// Segments of each that has a proof.
    pub segments: Vec<u64>,
    /// What was injected.
    pub faults: Tally,
    pub kills: u64,
    /// Runs of a prover, and the least that would have done.
    pub invocations: u64,
    pub deliveries: u64,
    /// Tasks that a worker acknowledged and said nothing of.
    pub silenced: u64,
    /// Tasks that were taken from the queue of a more urgent class.
    pub promoted: u64,
    /// Runs that ended because a task took its workers with it.
    pub quarantined: usize,
    /// Tasks of demoted blocks that a worker dropped where they were left behind.
    pub left_behind: u64,
    /// Blocks left out because they were late.
    pub abandoned: u64,
    /// Proofs that were said to state something else.
    pub disputed: u64,
    /// Copies of stragglers that were proven.
    pub hedges: u64,
    /// Which states met which events.
    pub met: BTreeMap<Pair, u64>,
    pub virtual_ms: u64,
    pub trace: Vec<String>,
}
