//! The model checker: the real functions and drive loops, with the decisions of `push0_core` in them, against a small world in which
//! everything that may happen does, in every order. `docs/model-checking.md` says what is in it and what is not.
//!
//! - [`tape`]: runs a function as far as the answers to its calls reach, so that a delivery in hand is data.
//! - [`loops`]: numbers everything that is met, so that a state is small.
//! - [`table`]: the table. [`work`]: blocks, blobs and what workers say.
//! - [`world`]: states and what may happen in them. [`judge`]: what must hold.

pub mod judge;
pub mod loops;
pub mod table;
pub mod tape;
mod trace;
pub mod work;
pub mod world;

pub use judge::Rule;
pub use world::{Action, State, World};

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use push0_core::transition::Pair;
use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

/// How much of push0 is in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Dispatchers, cursor, finalization. What a run comes to is said at once.
    Chain,
    /// Everything from submission to the finalized stream.
    Whole,
}

/// Between which calls of one delivery others may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Between any two.
    Call,
    /// Between any two but reads that follow each other: what is loaded for a decision is loaded at one moment.
    Load,
}

/// What may go wrong, and how often in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A function stops between two calls; its message is delivered again.
    pub crashes: u8,
    /// A lease ends before its holder is done: the message is delivered to somebody else, too, now or later.
    pub lapses: u8,
    /// A worker does a task and dies before it acknowledges it.
    pub repeats: u8,
    /// A worker says that it did not succeed.
    pub failures: u8,
    /// A worker dies with a task, which comes to its dead-letter queue.
    pub deaths: u8,
    /// A block is said to be one that cannot be proven.
    pub bad_blocks: u8,
    /// An operator has a block that failed, or that is being proven, proven again.
    pub retries: u8,
    /// The submitter supersedes the blocks from some number on.
    pub forks: u8,
    /// Five minutes pass, and the FIFO queue has forgotten which messages it had.
    pub forgets: u8,
}

/// What is explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub name: &'static str,
    pub plane: Plane,
    pub grain: Grain,
    pub blocks: u64,
    pub segments: u32,
    /// Blocks proven at once.
    pub window: u32,
    pub dispatchers: usize,
    pub collectors: usize,
    pub faults: Faults,
}

const NONE: Faults = Faults {
    crashes: 0,
    lapses: 0,
    repeats: 0,
    failures: 0,
    deaths: 0,
    bad_blocks: 0,
    retries: 0,
    forks: 0,
    forgets: 0,
};

const CHAIN: Bounds = Bounds {
    name: "chain",
    plane: Plane::Chain,
    grain: Grain::Load,
    blocks: 2,
    segments: 2,
    window: 2,
    dispatchers: 2,
    collectors: 2,
    faults: NONE,
};

const WHOLE: Bounds = Bounds { name: "whole", plane: Plane::Whole, blocks: 1, ..CHAIN };

/// What CI goes through.
pub const SMALL: [Bounds; 8] = [
    Bounds { name: "chain-crash", ..with(CHAIN, Faults { crashes: 1, ..NONE }) },
    Bounds { name: "chain-lapse", blocks: 1, ..with(CHAIN, Faults { lapses: 1, forgets: 1, ..NONE }) },
    Bounds { name: "chain-retry", collectors: 1, ..with(CHAIN, Faults { bad_blocks: 1, retries: 1, ..NONE }) },
    Bounds { name: "chain-fork", collectors: 1, ..with(CHAIN, Faults { forks: 1, ..NONE }) },
    Bounds { name: "whole-crash", ..with(WHOLE, Faults { crashes: 1, ..NONE }) },
    Bounds { name: "whole-failure", ..with(WHOLE, Faults { failures: 1, ..NONE }) },
    Bounds { name: "whole-death", ..with(WHOLE, Faults { deaths: 1, ..NONE }) },
    Bounds { name: "whole-retry", collectors: 1, ..with(WHOLE, Faults { bad_blocks: 1, retries: 1, ..NONE }) },
];

/// What a command goes through, in minutes to hours.
pub const LARGE: [Bounds; 9] = [
    Bounds { name: "chain-lapse-2", collectors: 1, ..with(CHAIN, Faults { lapses: 1, ..NONE }) },
    Bounds { name: "chain-lapse-crash", collectors: 1, ..with(CHAIN, Faults { lapses: 1, crashes: 1, ..NONE }) },
    Bounds { name: "chain-retry-2", ..with(CHAIN, Faults { bad_blocks: 1, retries: 1, ..NONE }) },
    Bounds { name: "chain-fork-2", ..with(CHAIN, Faults { forks: 1, ..NONE }) },
    Bounds { name: "chain-call", grain: Grain::Call, collectors: 1, ..CHAIN },
    Bounds { name: "whole-2", blocks: 2, collectors: 1, ..WHOLE },
    Bounds { name: "whole-lapse", ..with(WHOLE, Faults { lapses: 1, ..NONE }) },
    Bounds { name: "whole-failure-death", ..with(WHOLE, Faults { failures: 1, deaths: 1, ..NONE }) },
    Bounds { name: "whole-crash-repeat", ..with(WHOLE, Faults { crashes: 1, repeats: 1, ..NONE }) },
];

/// A deliberate mistake of the world around the loops, to see that the checker finds what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Bug {
    /// A message is deleted when it is handed out, not when it is handled.
    AcknowledgedFirst,
    /// Conditions on versions are not looked at.
    VersionsUnchecked,
    /// Conditions on attributes are not looked at.
    MarksUnchecked,
    /// Of a transaction only the first write happens.
    TransactionsTorn,
    /// The last to fill a slot wins, not the first.
    LastIsAccepted,
    /// Whoever fills a slot is told that all are filled.
    SlotsTakenForFilled,
    /// What a delivery sends is sent when it is acknowledged, after the marks that it was.
    MarkedBeforeSent,
    /// All messages of a chain's finalized stream have one dedup id.
    DedupIdsReused,
    /// Whatever run a worker's word is about, it is taken for the block's latest.
    EpochsIgnored,
}

/// Each bug, where it is looked for, and what it may break first.
pub const BUGS: &[(Bug, Bounds, &[&str])] = &[
    (Bug::AcknowledgedFirst, with(CHAIN, Faults { crashes: 1, ..NONE }), &[judge::LOST]),
    (Bug::VersionsUnchecked, CHAIN, &[judge::INVARIANT]),
    (Bug::MarksUnchecked, CHAIN, &[judge::ONCE]),
    (Bug::TransactionsTorn, CHAIN, &[judge::INVARIANT, judge::LOST]),
    (Bug::LastIsAccepted, with(WHOLE, Faults { repeats: 1, failures: 1, ..NONE }), &[judge::EARLY, judge::LOST]),
    (Bug::SlotsTakenForFilled, WHOLE, &[judge::EARLY]),
    (Bug::MarkedBeforeSent, with(CHAIN, Faults { crashes: 1, ..NONE }), &[judge::LOST]),
    (Bug::DedupIdsReused, CHAIN, &[judge::LOST]),
    (Bug::EpochsIgnored, with(CHAIN, Faults { retries: 1, ..NONE }), &[judge::GIVEN_UP]),
];

const fn with(bounds: Bounds, faults: Faults) -> Bounds {
    Bounds { faults, ..bounds }
}

/// What a check came to.
#[derive(Debug)]
pub struct Report {
    pub bounds: Bounds,
    /// Different states.
    pub unique: usize,
    /// States reached, each as often as it was.
    pub total: usize,
    /// Steps of the longest way from the beginning that was gone.
    pub depth: usize,
    pub seconds: f64,
    /// Different courses of deliveries, each as far as it got: how often a function was run.
    pub courses: usize,
    /// Which states met which events.
    pub transitions: BTreeSet<Pair>,
    /// What must hold and does not, each with the way there.
    pub broken: Vec<(&'static str, Vec<String>)>,
    /// What should have been reached somewhere and was not.
    pub unreached: Vec<&'static str>,
    /// What was reached.
    pub reached: Vec<&'static str>,
}

impl Report {
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.unreached.is_empty()
    }

    /// A line for tables.
    pub fn line(&self) -> String {
        let Self { bounds, unique, total, depth, seconds, courses, .. } = self;
        format!("{}: {unique} states, {total} reached, depth {depth}, {courses} courses, {seconds:.1} s", bounds.name)
    }
}

/// How often somebody is told how far a check is.
const TOLD: Duration = Duration::from_secs(10);

/// Explores everything within the bounds; with a bug until the first thing that it breaks. `tell` hears now and then how many states there are
/// so far, and how deep.
pub fn check(bounds: Bounds, bug: Option<Bug>, threads: usize, tell: impl Fn(usize, usize)) -> Result<Report, String> {
    let world = World::new(bounds, bug)?;
    let started = Instant::now();
    // One thread finds a short way.
    let threads = if bug.is_some() { 1 } else { threads };
    let finish = if bug.is_some() { HasDiscoveries::AnyFailures } else { HasDiscoveries::All };
    let checker = world.checker().threads(threads).finish_when(finish).spawn_bfs();
    let mut told = started;
    while !checker.is_done() {
        std::thread::sleep(Duration::from_millis(20));
        if told.elapsed() > TOLD {
            told = Instant::now();
            tell(checker.unique_state_count(), checker.max_depth());
        }
    }
    let checker = checker.join();
    let world = checker.model();
    let mut report = Report {
        bounds,
        unique: checker.unique_state_count(),
        total: checker.state_count(),
        depth: checker.max_depth(),
        seconds: started.elapsed().as_secs_f64(),
        courses: world.courses(),
        transitions: world.transitions(),
        broken: Vec::new(),
        unreached: Vec::new(),
        reached: Vec::new(),
    };
    let mut found = checker.discoveries();
    for property in world.properties() {
        let path = found.remove(property.name);
        match (property.expectation, path) {
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                report.broken.push((property.name, world.trace(path)));
            }
            (Expectation::Always | Expectation::Eventually, None) => {}
            (Expectation::Sometimes, Some(_)) => report.reached.push(property.name),
            (Expectation::Sometimes, None) => report.unreached.push(property.name),
        }
    }
    Ok(report)
}
