//! The actors and the course of a run.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::FutureExt as _;
use push0_core::message::queue;
use push0_core::record::Late;
use push0_core::topology::Topology;
use push0_core::{Millis, Pool};
use push0_functions::{Collector, Dispatcher};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::{Catalog, Context};
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::host::{Function, Mapping};
use push0_runtime::port::{Blobs as _, Clock as _, Queue as _};
use push0_runtime::{snapshot, wiring};
use rand::RngExt as _;
use tokio::sync::watch;

use crate::transitions::Counter;

use super::auditor::Auditor;
use super::chains::{self, BATCHES, CHAINS, PIPELINE, catalog, derive, set_deadlines};
use super::copies;
use super::executor::{Dice, Executor};
use super::faults::Fault;
use super::faulty::{Faults, Faulty, START, Weather, dice};
use super::functions::{consumer, poller, reaper};
use super::intruder::intruder;
use super::liar::Lie;
use super::operator::operator;
use super::poison;
use super::prover::{Conduct, LARGE, Script};
use super::provers;
use super::reorg;
use super::scenario::{Bug, Healers, Report, Scenario};
use super::skew::{self, Skewed};
use super::spot;
use super::stopped;
use super::submitter::{Upload, plan_uploads, submitter};
use super::workers::worker;

/// How long faults go on, and how long the system then has to finish.
const STORM: Millis = Millis(8 * 60_000);
const CALM: Millis = Millis(90 * 60_000);

/// Blocks of a chain that is reorganised.
const REORG_BLOCKS: u64 = 6;

/// How far apart two looks are that must see the same.
const QUIET: Millis = Millis(10_000);

/// What all actors share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) weather: Arc<Weather>,
    pub(super) clock: ManualClock,
    pub(super) dice: Dice,
    pub(super) script: Arc<Script>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) auditor: Rc<RefCell<Auditor>>,
    pub(super) uploads: Rc<RefCell<Vec<Upload>>>,
    pub(super) storm: Rc<RefCell<bool>>,
    pub(super) scenario: Rc<Scenario>,
    /// How many blocks a chain has.
    pub(super) blocks: Rc<Cell<u64>>,
    /// Workers that know that they will be taken away.
    pub(super) noticed: Rc<watch::Sender<BTreeSet<String>>>,
    /// When everything last began anew, where it says so.
    pub(super) began: Rc<Cell<Option<Millis>>>,
    /// One worker tells it, and nobody operates: what it breaks must mend without.
    pub(super) lie: Option<(Lie, Arc<AtomicU64>)>,
    pub(super) silenced: Rc<Cell<u64>>,
    /// Whether queues are said to rank; in every other run they are not, and tasks are promoted.
    pub(super) ranks: bool,
    /// Tasks that a worker took from the queue of a more urgent class than their chain's.
    pub(super) promoted: Rc<Cell<u64>>,
    /// Tasks of demoted blocks that a worker dropped where they were left behind.
    pub(super) left_behind: Rc<Cell<u64>>,
    /// Which states met which events.
    pub(super) met: Arc<Counter>,
    /// The first thing a consumer saw that it should not have.
    pub(super) complaint: Rc<RefCell<Option<String>>>,
}

/// Runs a scenario to its end; the error says what was wrong and how to see it again.
pub fn run(scenario: &Scenario) -> Result<Report, String> {
    let clock = ManualClock::starting_at(START);
    let dice = dice(scenario.seed);
    let (faults, conduct, kills) = severity(&dice, scenario.large);
    let faults = Faults { blind: if scenario.silent_workers { 200 } else { 0 }, ..faults };
    let weather = Weather::new(scenario.seed, faults, clock.clone(), scenario.keep_trace);
    // A broken invariant is a panic.
    let course = std::panic::AssertUnwindSafe(|| run_in(scenario, &clock, &dice, &weather, conduct, kills));
    let outcome = std::panic::catch_unwind(course).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    });
    outcome.map_err(|what| {
        let trace = weather.lines().join("\n");
        format!("{trace}\nseed {}: {what}\nreplay: {}", scenario.seed, scenario.replay())
    })
}

fn run_in(
    scenario: &Scenario,
    clock: &ManualClock,
    dice: &Dice,
    weather: &Arc<Weather>,
    conduct: Conduct,
    kills: u32,
) -> Result<Report, String> {
    let pipeline = if scenario.large { chains::wide() } else { PIPELINE.to_owned() };
    let mut catalog = catalog(dice, &pipeline)?;
    if scenario.deadlines {
        set_deadlines(scenario.seed, &mut catalog);
    }
    if scenario.batches {
        derive(&mut catalog, if scenario.large { 16 } else { 2 })?;
    }
    if scenario.provers {
        provers::several(&mut catalog, &pipeline, dice, scenario.large)?;
    }
    if scenario.reorgs {
        catalog.chains.values_mut().for_each(|config| config.window += 3);
    }
    let mut conduct = conduct;
    if scenario.large {
        conduct.dispute = 1_000;
    }
    if scenario.hedging {
        copies::allow(&mut catalog);
        conduct.slow = conduct.slow.max(100);
    }
    let script = Script::new(scenario.seed, conduct, weather.clone());
    let shared = Shared {
        scenario: Rc::new(scenario.clone()),
        ranks: scenario.seed.is_multiple_of(2),
        ..shared(catalog, weather.clone(), script, clock, dice)?
    };
    for config in shared.catalog.chains.values().filter(|config| config.late == Late::Abandon) {
        shared.auditor.borrow_mut().abandons(config.chain.as_str());
    }
    shared.auditor.borrow_mut().skew = if scenario.skew { 2 * skew::MOST.0 } else { 0 };
    let told = if scenario.large { 5 * REORG_BLOCKS } else { REORG_BLOCKS };
    let stories = if scenario.reorgs { reorg::plan(&shared, told) } else { Vec::new() };
    let blocks = if scenario.reorgs { told as usize } else { plan_uploads(&shared) };
    shared.blocks.set(blocks as u64);
    let mut executor = Executor::new(clock.clone(), dice.clone());
    executor.kill_per_million = kills;
    populate(&mut executor, &shared, scenario.bug);
    if scenario.spot {
        let (world, sentenced) = (shared.clone(), executor.sentenced.clone());
        let workers: Vec<String> = workers(scenario).map(|(_, name)| name).collect();
        executor
            .spawn("spot", false, move || spot::spot(world.clone(), sentenced.clone(), workers.clone()).boxed_local());
    }
    if scenario.poison {
        let numbers = 1..=blocks as u64;
        let is_bad = |number: &u64| match scenario.large {
            true => number.is_multiple_of(2),
            false => *number == 1 + scenario.seed % blocks as u64,
        };
        poison::plant(&mut executor, &shared, numbers.filter(is_bad));
    }
    if scenario.intruder {
        let world = shared.clone();
        executor.spawn("intruder", false, move || intruder(world.clone()).boxed_local());
    }
    for story in stories.clone() {
        let world = shared.clone();
        executor.spawn("narrator", false, move || reorg::narrator(world.clone(), story.clone()).boxed_local());
    }

    let (storm, calm) = if scenario.large { (Millis(6 * STORM.0), Millis(4 * CALM.0)) } else { (STORM, CALM) };
    let mut finished = course(&mut executor, &shared, blocks, START.plus(storm))?;
    if !finished {
        shared.weather.clear_up();
        shared.script.behave();
        *shared.storm.borrow_mut() = false;
        executor.kill_per_million = 0;
        finished = course(&mut executor, &shared, blocks, START.plus(storm).plus(calm))?;
    }
    if !finished {
        let states = describe(&shared);
        return Err(format!(
            "not every block was finalized after the faults stopped\n{states}\n{}",
            executor.roll_call()
        ));
    }
    let engine = &shared.engine;
    let blob = |key: &str| engine.get(key).now_or_never()?.ok()?.map(|bytes| bytes.to_vec());
    let segments = shared.auditor.borrow().judge(blob)?;
    poison::no_barred_worker_ran(&shared)?;
    stopped::judge(&shared, u64::MAX)?;
    for config in shared.catalog.chains.values() {
        let found = snapshot::chain(engine, config, 0).now_or_never().and_then(Result::ok);
        let kept = found.map(|found| found.chain.on_time).unwrap_or_default();
        shared.auditor.borrow().kept(config.chain.as_str(), kept.met, kept.missed)?;
    }
    if scenario.provers {
        let script = &shared.script;
        shared.auditor.borrow().quorums(provers::QUORUM.into(), |root| script.stated(root), blob)?;
    }
    stories.iter().try_for_each(|story| story.judge(&shared))?;
    let (fingerprint, events) = shared.weather.fingerprint();
    let runs = shared.script.runs();
    copies::judge(&runs, scenario.hedging)?;
    let invocations = runs.len() as u64;
    Ok(Report {
        fingerprint,
        events,
        steps: executor.polls,
        blocks: shared.auditor.borrow().blocks(),
        segments,
        faults: {
            let mut faults = shared.weather.tally();
            faults.add(Fault::Crash, executor.kills.saturating_sub(faults.of(Fault::PoisonDeath)));
            faults
        },
        kills: executor.kills,
        invocations,
        deliveries: shared.auditor.borrow().deliveries,
        silenced: shared.silenced.get(),
        promoted: shared.promoted.get(),
        quarantined: poison::quarantined(&shared),
        left_behind: shared.left_behind.get(),
        abandoned: shared.auditor.borrow().abandoned,
        disputed: shared.script.disputed(),
        hedges: if scenario.hedging { copies::hedges(&runs) } else { 0 },
        met: shared.met.counts(),
        virtual_ms: clock.now().since(START).0,
        trace: shared.weather.lines(),
    })
}

/// An empty system: its engine, and what its actors share.
pub(super) fn shared(
    catalog: Catalog,
    weather: Arc<Weather>,
    script: Arc<Script>,
    clock: &ManualClock,
    dice: &Dice,
) -> Result<Shared, String> {
    let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
    let config = EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, queues) };
    Ok(Shared {
        engine: Engine::open(config).map_err(|error| error.to_string())?,
        weather,
        clock: clock.clone(),
        dice: dice.clone(),
        script,
        catalog: Arc::new(catalog),
        auditor: Rc::default(),
        uploads: Rc::default(),
        storm: Rc::new(RefCell::new(true)),
        scenario: Rc::new(Scenario::plain(0)),
        blocks: Rc::default(),
        noticed: Rc::new(watch::Sender::default()),
        began: Rc::default(),
        lie: None,
        silenced: Rc::default(),
        ranks: true,
        promoted: Rc::default(),
        left_behind: Rc::default(),
        met: Arc::default(),
        complaint: Rc::default(),
    })
}

/// How bad it gets: drawn anew for each seed, so that some runs see one kind of fault and some all of them. Large ones see all.
fn severity(dice: &Dice, is_large: bool) -> (Faults, Conduct, u32) {
    let mut dice = dice.borrow_mut();
    let mut rate = |most: u32| match is_large {
        true => dice.random_range(1..=most),
        false if dice.random_range(0..3) == 0 => 0,
        false => dice.random_range(0..=most),
    };
    let faults = Faults {
        refused: rate(40),
        lost_response: rate(40),
        slow: rate(60),
        frozen: rate(6),
        duplicate: rate(150),
        late: rate(150),
        blind: 0,
        throttled: rate(3),
        conflict: rate(80),
        short_lease: rate(30),
        corrupt_read: rate(15),
        corrupt_blob: rate(20),
    };
    let conduct = Conduct {
        retryable: rate(80),
        permanent: rate(20),
        lie: rate(30),
        slow: rate(60),
        out_of_memory: rate(100),
        dispute: 150,
        mistake: 20,
    };
    (faults, conduct, rate(4_000))
}

/// Runs until every chain has all its blocks in the finalized stream. A consumer's complaint ends the run.
fn course(executor: &mut Executor, shared: &Shared, blocks: usize, until: Millis) -> Result<bool, String> {
    let has_batches = shared.catalog.chains.values().any(|config| config.batch.is_some());
    let is_told = || !shared.scenario.reorgs || shared.uploads.borrow().is_empty();
    let done = || {
        let auditor = shared.auditor.borrow();
        let are_batched = !has_batches || auditor.batched(BATCHES) >= blocks as u64;
        is_told() && are_batched && CHAINS.iter().all(|chain| auditor.finalized(chain) >= blocks)
    };
    let check = || match shared.complaint.borrow().clone().or_else(|| shared.weather.broken()) {
        Some(complaint) => Err(complaint),
        None => Ok(()),
    };
    executor.run(until, done, check)
}

pub(super) fn populate(executor: &mut Executor, shared: &Shared, bug: Option<Bug>) {
    let topology = Topology::built_in();
    let actor = |name: &str| (name.to_owned(), shared.clone());
    let (name, world) = actor("submitter");
    executor.spawn(&name, true, move || submitter(world.clone()).boxed_local());
    let (name, world) = actor("consumer");
    executor.spawn(&name, false, move || consumer(world.clone()).boxed_local());
    if shared.lie.is_none() {
        let (name, world) = actor("operator");
        executor.spawn(&name, true, move || operator(world.clone()).boxed_local());
    }
    let (name, world) = actor("reaper");
    executor.spawn(&name, true, move || reaper(world.clone()).boxed_local());

    for (function, copies) in [("dispatcher", 2), ("collector", 3)] {
        let mappings = wiring::mappings(&topology, function, &shared.catalog.pools());
        let is_wanted = |mapping: &Mapping| {
            shared.scenario.healers != Healers::Reaper || queue::origin(&mapping.queue) != queue::TIMERS
        };
        for mapping in mappings.into_iter().filter(is_wanted) {
            for copy in 0..copies {
                let name = format!("{function}-{copy}-{}", mapping.queue);
                let (mapping, world, who) = (mapping.clone(), shared.clone(), name.clone());
                executor.spawn(&name, true, move || {
                    let context = context(&world, &who);
                    let function: Arc<dyn Function> = match function {
                        "dispatcher" => Arc::new(Dispatcher::new(context)),
                        _ => Arc::new(Collector::new(context)),
                    };
                    poller(world.clone(), who.clone(), function, mapping.clone(), bug).boxed_local()
                });
            }
        }
    }
    for (pool, name) in workers(&shared.scenario) {
        let (world, who) = (shared.clone(), name.clone());
        executor.spawn(&name, true, move || worker(world.clone(), who.clone(), pool).boxed_local());
    }
}

/// The workers of a run, each with its pool.
fn workers(scenario: &Scenario) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let pools = if scenario.large { [8, 3, 3] } else { [3, 2, 2] };
    let pools = ["cpu", LARGE, Pool::TRUSTED].into_iter().zip(pools);
    pools.flat_map(|(pool, copies)| (0..copies).map(move |copy| (pool, format!("{pool}-{copy}"))))
}

impl Shared {
    /// The clock of an actor that has just been born, which may be ahead of the true one or behind it.
    pub(super) fn clock_of_its_own(&self) -> Skewed {
        let most = skew::MOST.0 as i64;
        let offset = match self.scenario.skew {
            true => self.dice.borrow_mut().random_range(-most..=most),
            false => 0,
        };
        if offset != 0 {
            self.weather.count(Fault::Skew);
        }
        Skewed { clock: self.clock.clone(), offset }
    }

    /// How many segments a block has.
    pub(super) fn segments(&self) -> u64 {
        self.dice.borrow_mut().random_range(if self.scenario.large { 11..24 } else { 1..8 })
    }
}

pub(super) fn faulty(shared: &Shared, who: &str) -> Faulty {
    Faulty::new(shared.engine.clone(), shared.weather.clone(), who).ranking(shared.ranks)
}

pub(super) fn context(shared: &Shared, who: &str) -> Context {
    let port = Arc::new(faulty(shared, who));
    let clock = Arc::new(shared.clock_of_its_own());
    let context = Context::new(port.clone(), port.clone(), port, clock, shared.catalog.clone());
    let context = context.with_observer(shared.met.clone());
    let looks = shared.scenario.silent_workers || shared.lie.is_some();
    context.with_quiet(looks.then_some(QUIET)).with_began(shared.began.get())
}

pub(super) async fn pause(shared: &Shared, length: Millis) {
    shared.clock.sleep_until(shared.clock.now().plus(length)).await;
}

/// Where every chain stands, for a failure's message.
pub(super) fn describe(shared: &Shared) -> String {
    let mut text = String::new();
    for config in shared.catalog.chains.values() {
        let Some(Ok(found)) = snapshot::chain(&shared.engine, config, 1000).now_or_never() else { continue };
        text.push_str(&format!("{:?}\n", found.chain));
        for block in found.blocks.iter().filter(|block| block.block.final_seq.is_none()) {
            let number = block.block.number;
            let block = snapshot::block(&shared.engine, &config.chain, number).now_or_never();
            text.push_str(&format!("{block:?}\n"));
        }
    }
    for spec in shared.engine.queues() {
        let stats = shared.engine.stats(&spec.name).now_or_never();
        if let Some(Ok(stats)) = stats
            && stats != Default::default()
        {
            text.push_str(&format!("{} {stats:?}\n", spec.name));
        }
    }
    text
}
