//! The actors and the course of a run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt as _;
use push0_core::chain::{Batching, ChainConfig};
use push0_core::message::{ChainMessage, Command, FailureKind, Submission, TaskMessage, queue};
use push0_core::message::{Report as WorkerReport, ReportEvent};
use push0_core::record::{BlobRef, BlockStatus, Halt, Late, Verdict, Versioned as _};
use push0_core::topology::Topology;
use push0_core::{Attempt, BlockHash, ChainId, Class, Epoch, Millis, Node, Pool, RunId, Sha256, TaskId, pipeline};
use push0_functions::{Collector, Dispatcher, Reaper};
use push0_gpu_worker::Health;
use push0_gpu_worker::lease::Leases;
use push0_gpu_worker::task::{self, Env, Limits, Settled, Store};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::{Catalog, Context};
use push0_runtime::engine::{Engine, EngineConfig, Location};
use push0_runtime::host::{self, Function, Mapping};
use push0_runtime::port::{Blobs as _, Clock as _, Delivery, Outgoing, Queue};
use push0_runtime::{snapshot, wiring};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::auditor::Auditor;
use super::copies;
use super::executor::{Dice, Executor};
use super::faulty::{Faults, Faulty, START, Weather, dice};
use super::poison;
use super::prover::{Conduct, LARGE, Script, Scripted};
use super::provers;
use super::reorg;

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
    /// Whether the trace is kept line by line, and printed when the run fails.
    pub keep_trace: bool,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            bug: None,
            silent_workers: false,
            healers: Healers::Both,
            intruder: false,
            poison: false,
            deadlines: seed.is_multiple_of(3),
            batches: seed % 3 == 1,
            provers: false,
            reorgs: false,
            hedging: seed % 3 == 2,
            keep_trace: false,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Digest of the trace: equal for equal seeds.
    pub fingerprint: String,
    pub events: u64,
    pub blocks: usize,
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
    pub virtual_ms: u64,
    pub trace: Vec<String>,
}

/// How long faults go on, and how long the system then has to finish.
const STORM: Millis = Millis(8 * 60_000);
const CALM: Millis = Millis(90 * 60_000);

/// Blocks of a chain that is reorganised.
const REORG_BLOCKS: u64 = 6;

/// How far apart two looks are that must see the same.
const QUIET: Millis = Millis(10_000);

/// How long a task stays a worker's without a sign of life.
pub const LEASE: Millis = Millis(15_000);

pub(super) const CHAINS: [&str; 2] = ["alpha", "beta"];

/// Derived from the first of them, in runs that have it.
const BATCHES: &str = "alpha-batch";

const PIPELINE: &str = r#"
    name = "sim"
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "lift"
    kind = "map"
    [[stage]]
    name = "join"
    kind = "join"
    arity = 2
    first_arity = 3
    [[stage]]
    name = "wrap"
    kind = "single"
    [[stage]]
    name = "verify"
    kind = "verify"
    [prover.scripted]
    form = "session"
    command = ["scripted"]
    [policy.default]
    larger_pool = "large"
    attempts = 8
    backoff_ms = 200
    time_limit_s = 120
"#;

/// A block to be submitted.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) submission: Submission,
    witness: String,
    as_replacement: bool,
    /// Tells one telling of it from another.
    pub(super) again: u64,
}

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
    /// Whether workers now and then acknowledge a task and say nothing.
    pub(super) silent_workers: bool,
    pub(super) healers: Healers,
    /// When everything last began anew, where it says so.
    pub(super) began: Rc<Cell<Option<Millis>>>,
    reorgs: bool,
    pub(super) silenced: Rc<Cell<u64>>,
    /// Whether queues are said to rank; in every other run they are not, and tasks are promoted.
    pub(super) ranks: bool,
    /// Tasks that a worker took from the queue of a more urgent class than their chain's.
    pub(super) promoted: Rc<Cell<u64>>,
    /// Tasks of demoted blocks that a worker dropped where they were left behind.
    pub(super) left_behind: Rc<Cell<u64>>,
    /// The first thing a consumer saw that it should not have.
    pub(super) complaint: Rc<RefCell<Option<String>>>,
}

/// Runs a scenario to its end; the error says what was wrong and how to see it again.
pub fn run(scenario: &Scenario) -> Result<Report, String> {
    let clock = ManualClock::starting_at(START);
    let dice = dice(scenario.seed);
    let (faults, conduct, kills) = severity(&dice);
    let faults = Faults { blind: if scenario.silent_workers { 100 } else { 0 }, ..faults };
    let weather = Weather::new(scenario.seed, faults, clock.clone(), scenario.keep_trace);
    let outcome = run_in(scenario, &clock, &dice, &weather, conduct, kills);
    outcome.map_err(|what| {
        let trace = weather.lines().join("\n");
        let seed = scenario.seed;
        format!(
            "{trace}\nseed {seed}: {what}\nreplay: cargo run -p push0-tests --bin push0-sim -- --seed {seed} --trace"
        )
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
    let mut catalog = catalog(dice)?;
    // What is abandoned for being late is not quarantined, and no fork's block.
    if scenario.deadlines && !scenario.poison && !scenario.reorgs {
        set_deadlines(scenario.seed, &mut catalog);
    }
    if scenario.batches && !scenario.reorgs {
        derive(&mut catalog)?;
    }
    if scenario.provers {
        provers::several(&mut catalog, PIPELINE, dice)?;
    }
    if scenario.reorgs {
        catalog.chains.values_mut().for_each(|config| config.window += 3);
    }
    let mut conduct = conduct;
    if scenario.hedging {
        copies::allow(&mut catalog);
        conduct.slow = conduct.slow.max(100);
    }
    let script = Script::new(scenario.seed, conduct, clock.clone());
    let shared = Shared {
        silent_workers: scenario.silent_workers,
        healers: scenario.healers,
        ranks: scenario.seed.is_multiple_of(2),
        reorgs: scenario.reorgs,
        ..shared(catalog, weather.clone(), script, clock, dice)?
    };
    for config in shared.catalog.chains.values().filter(|config| config.late == Late::Abandon) {
        shared.auditor.borrow_mut().abandons(config.chain.as_str());
    }
    let stories = if scenario.reorgs { reorg::plan(&shared, REORG_BLOCKS) } else { Vec::new() };
    let blocks = if scenario.reorgs { REORG_BLOCKS as usize } else { plan_uploads(&shared) };
    let mut executor = Executor::new(clock.clone(), dice.clone());
    executor.kill_per_million = kills;
    populate(&mut executor, &shared, scenario.bug);
    if scenario.poison {
        poison::plant(&mut executor, &shared, 1 + scenario.seed % blocks as u64);
    }
    if scenario.intruder {
        let world = shared.clone();
        executor.spawn("intruder", false, move || intruder(world.clone()).boxed_local());
    }
    for story in stories.clone() {
        let world = shared.clone();
        executor.spawn("narrator", false, move || reorg::narrator(world.clone(), story.clone()).boxed_local());
    }

    let mut finished = course(&mut executor, &shared, blocks, START.plus(STORM))?;
    if !finished {
        shared.weather.clear_up();
        shared.script.behave();
        *shared.storm.borrow_mut() = false;
        executor.kill_per_million = 0;
        finished = course(&mut executor, &shared, blocks, START.plus(STORM).plus(CALM))?;
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
    shared.auditor.borrow().judge(blob)?;
    poison::no_barred_worker_ran(&shared)?;
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
        blocks: blocks * CHAINS.len(),
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
        silent_workers: false,
        healers: Healers::Both,
        began: Rc::default(),
        reorgs: false,
        silenced: Rc::default(),
        ranks: true,
        promoted: Rc::default(),
        left_behind: Rc::default(),
        complaint: Rc::default(),
    })
}

/// How bad it gets: drawn anew for each seed, so that some runs see one kind of fault and some all of them.
fn severity(dice: &Dice) -> (Faults, Conduct, u32) {
    let mut dice = dice.borrow_mut();
    let mut rate = |most: u32| {
        if dice.random_range(0..3) == 0 { 0 } else { dice.random_range(0..=most) }
    };
    let faults = Faults {
        refused: rate(40),
        lost_response: rate(40),
        slow: rate(60),
        frozen: rate(6),
        duplicate: rate(150),
        late: rate(150),
        blind: 0,
    };
    let conduct = Conduct {
        retryable: rate(80),
        permanent: rate(20),
        lie: rate(30),
        slow: rate(60),
        out_of_memory: rate(100),
        dispute: 150,
    };
    (faults, conduct, rate(4_000))
}

pub(super) fn catalog(dice: &Dice) -> Result<Catalog, String> {
    let mut file = pipeline::parse(PIPELINE).map_err(|mistakes| mistakes.to_string())?;
    // In every other run the trusted pool checks what is accused.
    let can_check = dice.borrow_mut().random_range(0..2) == 1;
    for (stage, policy) in file.pipeline.stages.iter().zip(&mut file.policy.stages) {
        policy.check = can_check && !stage.kind.is_trusted();
    }
    let digest = file.pipeline.digest();
    let mut catalog = Catalog::default();
    for chain in CHAINS {
        let chain: ChainId = chain.parse().map_err(|error: push0_core::InvalidId| error.to_string())?;
        let mut dice = dice.borrow_mut();
        let window = dice.random_range(1..5);
        let class = Class::ALL[dice.random_range(0..3)];
        let config = ChainConfig { window, class, bad_proof_limit: 50, ..ChainConfig::new(chain.clone(), digest) };
        catalog.chains.insert(chain, config);
    }
    catalog.pipelines.insert(digest, file);
    Ok(catalog)
}

/// From hopelessly short to longer than most blocks take. Of dice of their own: whatever else happens is as without them.
fn set_deadlines(seed: u64, catalog: &mut Catalog) {
    let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x0dea_d11e);
    for chain in catalog.chains.values_mut() {
        let longest = [3_000, 20_000, 200_000][dice.random_range(0..3)];
        chain.deadline = Some(Millis(dice.random_range(500..longest)));
        chain.late = Late::ALL[dice.random_range(0..3)];
    }
}

/// Adds the batch chain. Its blocks are proven with the same pipeline.
fn derive(catalog: &mut Catalog) -> Result<(), String> {
    let id = |name: &str| name.parse().map_err(|error: push0_core::InvalidId| error.to_string());
    let (of, chain): (ChainId, ChainId) = (id(CHAINS[0])?, id(BATCHES)?);
    let source = catalog.chains.get_mut(&of).ok_or("the source is there")?;
    let batching = Batching { of, size: 2, wait: Some(Millis(60_000)) };
    source.derived.insert(chain.clone(), batching.clone());
    let config =
        ChainConfig { batch: Some(batching), chain: chain.clone(), derived: Default::default(), ..source.clone() };
    catalog.chains.insert(chain, config);
    Ok(())
}

/// Witnesses of all blocks, in random order; some numbers get a competing block, and some chains a fork. Returns how many blocks a chain has.
fn plan_uploads(shared: &Shared) -> usize {
    let blocks = shared.dice.borrow_mut().random_range(2..6);
    let mut uploads = Vec::new();
    for config in shared.catalog.chains.values().filter(|config| config.batch.is_none()) {
        let chain = &config.chain;
        let mut parent = None;
        let mut fork_of_parent: Option<BlockHash> = None;
        for number in 1..=blocks as u64 {
            let segments = shared.dice.borrow_mut().random_range(1..8);
            let own = upload(shared, chain, number, segments, parent, None, 0);
            // A fork that its submitter counts goes on to the end; another block of the number that nobody counts stands alone.
            if fork_of_parent.is_some() || shared.dice.borrow_mut().random_range(0..6) == 0 {
                let mut fork = upload(shared, chain, number, segments, fork_of_parent.or(parent), None, 1);
                let counts = fork_of_parent.is_some() || shared.dice.borrow_mut().random_range(0..2) == 1;
                fork.submission.fork_seq = counts.then_some(1);
                fork_of_parent = counts.then_some(fork.submission.hash);
                insert(&mut uploads, &shared.dice, fork);
            }
            parent = Some(own.submission.hash);
            insert(&mut uploads, &shared.dice, own);
        }
    }
    *shared.uploads.borrow_mut() = uploads;
    blocks
}

pub(super) fn insert(uploads: &mut Vec<Upload>, dice: &Dice, upload: Upload) {
    let position = dice.borrow_mut().random_range(0..=uploads.len());
    uploads.insert(position, upload);
}

pub(super) fn upload(
    shared: &Shared,
    chain: &ChainId,
    number: u64,
    segments: u64,
    parent: Option<BlockHash>,
    hash: Option<BlockHash>,
    salt: u64,
) -> Upload {
    let hash = hash.unwrap_or_else(|| BlockHash(Sha256::of(format!("{chain}/{number}/{salt}").as_bytes()).0));
    let witness = json!({
        "hash": hash.to_string(),
        "parent_hash": parent.map(|parent| parent.to_string()),
        "number": number,
        "segments": segments,
        "salt": salt,
    });
    shared.auditor.borrow_mut().allow(chain.as_str(), number, witness.clone());
    let text = witness.to_string();
    let sha256 = Sha256::of(text.as_bytes());
    let blob = BlobRef { key: format!("witnesses/{chain}/{number}-{sha256}"), sha256, size: text.len() as u64 };
    let submission = Submission {
        chain: chain.clone(),
        number,
        hash,
        parent_hash: parent,
        witness: blob,
        fork_seq: None,
        deadline: None,
    };
    Upload { submission, witness: text, as_replacement: false, again: 0 }
}

/// Runs until every chain has all its blocks in the finalized stream. A consumer's complaint ends the run.
fn course(executor: &mut Executor, shared: &Shared, blocks: usize, until: Millis) -> Result<bool, String> {
    let has_batches = shared.catalog.chains.values().any(|config| config.batch.is_some());
    let is_told = || !shared.reorgs || shared.uploads.borrow().is_empty();
    let done = || {
        let auditor = shared.auditor.borrow();
        let are_batched = !has_batches || auditor.batched(BATCHES) >= blocks as u64;
        is_told() && are_batched && CHAINS.iter().all(|chain| auditor.finalized(chain) >= blocks)
    };
    let check = || shared.complaint.borrow().clone().map_or(Ok(()), Err);
    executor.run(until, done, check)
}

pub(super) fn populate(executor: &mut Executor, shared: &Shared, bug: Option<Bug>) {
    let topology = Topology::built_in();
    let actor = |name: &str| (name.to_owned(), shared.clone());
    let (name, world) = actor("submitter");
    executor.spawn(&name, true, move || submitter(world.clone()).boxed_local());
    let (name, world) = actor("consumer");
    executor.spawn(&name, false, move || consumer(world.clone()).boxed_local());
    let (name, world) = actor("operator");
    executor.spawn(&name, true, move || operator(world.clone()).boxed_local());
    let (name, world) = actor("reaper");
    executor.spawn(&name, true, move || reaper(world.clone()).boxed_local());

    for (function, copies) in [("dispatcher", 2), ("collector", 2)] {
        let mappings = wiring::mappings(&topology, function, &shared.catalog.pools());
        let is_wanted =
            |mapping: &Mapping| shared.healers != Healers::Reaper || queue::origin(&mapping.queue) != queue::TIMERS;
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
    for (pool, copies) in [("cpu", 3), (LARGE, 2), (Pool::TRUSTED, 2)] {
        for copy in 0..copies {
            let name = format!("{pool}-{copy}");
            let (world, who) = (shared.clone(), name.clone());
            executor.spawn(&name, true, move || worker(world.clone(), who.clone(), pool).boxed_local());
        }
    }
}

pub(super) fn faulty(shared: &Shared, who: &str) -> Faulty {
    Faulty::new(shared.engine.clone(), shared.weather.clone(), who).ranking(shared.ranks)
}

fn context(shared: &Shared, who: &str) -> Context {
    let port = Arc::new(faulty(shared, who));
    let clock = Arc::new(shared.clock.clone());
    let context = Context::new(port.clone(), port.clone(), port, clock, shared.catalog.clone());
    context.with_quiet(shared.silent_workers.then_some(QUIET)).with_began(shared.began.get())
}

pub(super) async fn pause(shared: &Shared, length: Millis) {
    shared.clock.sleep_until(shared.clock.now().plus(length)).await;
}

async fn submitter(shared: Shared) {
    let port = faulty(&shared, "submitter");
    loop {
        let next = shared.uploads.borrow().first().cloned();
        let Some(upload) = next else {
            pause(&shared, Millis(1_000)).await;
            continue;
        };
        if submit(&port, &upload).await.is_ok() {
            let mut uploads = shared.uploads.borrow_mut();
            uploads.retain(|other| (&other.submission, other.again) != (&upload.submission, upload.again));
        }
        let rest = shared.dice.borrow_mut().random_range(0..3_000);
        pause(&shared, Millis(rest)).await;
    }
}

async fn submit(port: &Faulty, upload: &Upload) -> Result<(), push0_runtime::port::PortError> {
    let submission = upload.submission.clone();
    port.put_new(&submission.witness.key, upload.witness.clone().into(), "submitter").await?;
    let again = upload.again;
    let id = format!("{}/{}/{}/{again}", submission.chain, submission.number, submission.witness.sha256);
    let message = match upload.as_replacement {
        true => ChainMessage::Command(Command::Replace(submission)),
        false => ChainMessage::Submit(submission),
    };
    tell(port, &message, id).await
}

pub(super) async fn tell(
    port: &Faulty,
    message: &ChainMessage,
    dedup: String,
) -> Result<(), push0_runtime::port::PortError> {
    let outgoing = Outgoing {
        body: message.to_json(),
        group: Some(message.chain().to_string()),
        dedup: Some(dedup),
        ..Outgoing::default()
    };
    port.send(queue::SUBMISSIONS, vec![outgoing]).await
}

async fn consumer(shared: Shared) {
    let engine = &shared.engine;
    loop {
        let received = engine.receive(queue::FINALIZED, 10, Millis(20_000), Millis(30_000)).await;
        for message in received.unwrap_or_default() {
            shared.weather.note(&format!("consumer {}", message.id));
            if let Err(complaint) = shared.auditor.borrow_mut().consume(&message.body) {
                shared.complaint.borrow_mut().get_or_insert(complaint);
            }
            let _ = engine.ack(queue::FINALIZED, &message.receipt).await;
        }
    }
}

/// Gets chains moving whose block failed, and in the storm does what operators do on a bad day.
async fn operator(shared: Shared) {
    let port = faulty(&shared, "operator");
    loop {
        let rest = shared.dice.borrow_mut().random_range(5_000..40_000);
        pause(&shared, Millis(rest)).await;
        let configs: Vec<ChainConfig> = shared.catalog.chains.values().cloned().collect();
        for config in configs {
            let Ok(found) = snapshot::chain(&port, &config, 0).await else {
                continue;
            };
            let chain = &config.chain;
            let nonce = shared.clock.now().0;
            let mut commands = Vec::new();
            if found.chain.paused {
                commands.push(Command::Resume { chain: chain.clone(), acknowledged: None });
            }
            // Batches are bound to their source, which has them in order: nothing is to be mended there.
            if let (Some(halt), true) = (&found.chain.halt, config.batch.is_some()) {
                shared.complaint.borrow_mut().get_or_insert(format!("a batch chain halted: {halt:?}"));
                continue;
            }
            // A block that was built on a fork that is not: another one in its place, built on what is final.
            match &found.chain.halt {
                _ if shared.reorgs => {}
                Some(Halt::ParentMismatch { number, last, .. }) => {
                    replace(&shared, chain, *number, 3, Some(*last), None, nonce);
                }
                Some(Halt::OrphanParent { number, .. }) => replace(&shared, chain, *number, 3, None, None, nonce),
                Some(Halt::Disagreement(disputed)) if disputed.number < found.chain.next_final => {
                    commands.push(Command::Resume { chain: chain.clone(), acknowledged: Some(disputed.block()) });
                }
                Some(Halt::Disagreement(disputed)) => {
                    commands.push(Command::Retry { chain: chain.clone(), number: disputed.number, epoch: None });
                }
                None => {}
            }
            for block in &found.blocks {
                if let BlockStatus::Failed { .. } = block.block.status {
                    commands.extend(remedy(&shared, chain, block));
                }
            }
            if *shared.storm.borrow() && shared.dice.borrow_mut().random_range(0..8) == 0 {
                commands.push(whim(&shared, chain, found.chain.next_final));
            }
            for (position, command) in commands.into_iter().enumerate() {
                let _ = tell(&port, &ChainMessage::Command(command), format!("op-{nonce}-{position}")).await;
            }
        }
    }
}

/// For a failed block: retry, replace by another witness of the same block, or skip.
fn remedy(shared: &Shared, chain: &ChainId, block: &snapshot::BlockSnapshot) -> Option<Command> {
    let number = block.block.number;
    if block.block.witness.is_none() {
        return Some(Command::Skip { chain: chain.clone(), number, reason: "it has a hole".to_owned() });
    }
    let choice = shared.dice.borrow_mut().random_range(0..6);
    match choice {
        _ if shared.reorgs => Some(Command::Retry { chain: chain.clone(), number, epoch: None }),
        0 => Some(Command::Skip { chain: chain.clone(), number, reason: "given up".to_owned() }),
        1 if block.block.batch.is_none() => {
            let salt = shared.dice.borrow_mut().random_range(1..1 << 30);
            let segments = shared.dice.borrow_mut().random_range(1..8);
            let (parent, hash) = (block.block.parent_hash, block.block.hash);
            replace(shared, chain, number, segments, parent, hash, salt);
            None
        }
        _ => Some(Command::Retry { chain: chain.clone(), number, epoch: None }),
    }
}

fn replace(
    shared: &Shared,
    chain: &ChainId,
    number: u64,
    segments: u64,
    parent: Option<BlockHash>,
    hash: Option<BlockHash>,
    salt: u64,
) {
    let upload = Upload { as_replacement: true, ..upload(shared, chain, number, segments, parent, hash, salt) };
    shared.uploads.borrow_mut().push(upload);
}

fn whim(shared: &Shared, chain: &ChainId, cursor: u64) -> Command {
    let mut dice = shared.dice.borrow_mut();
    let chain = chain.clone();
    match dice.random_range(0..if shared.reorgs { 3 } else { 4 }) {
        0 => Command::Pause { chain },
        1 => Command::Window { chain, window: dice.random_range(1..6) },
        2 => Command::Retry { chain, number: cursor, epoch: Some(Epoch(dice.random_range(1..4))) },
        // Ahead of the cursor, perhaps of what was submitted: within the blocks of the run.
        _ => Command::Skip { chain, number: cursor.min(2), reason: "a whim".to_owned() },
    }
}

/// While the storm lasts, tells the collector what is not so.
async fn intruder(shared: Shared) {
    let chains: Vec<ChainId> = shared.catalog.chains.keys().cloned().collect();
    let tag = shared.catalog.pipelines.keys().next().map(|digest| digest.tag()).unwrap_or_default();
    while *shared.storm.borrow() {
        let body = {
            let mut dice = shared.dice.borrow_mut();
            let chain = chains[dice.random_range(0..chains.len())].clone();
            let run = RunId::new(chain, dice.random_range(1..5), Epoch(dice.random_range(1..4)));
            let node = Node::new(dice.random_range(0..7), dice.random_range(0..3), dice.random_range(0..8));
            let attempt = Attempt([1, 2, u32::MAX][dice.random_range(0..3)]);
            let task = TaskId { run, tag: tag.clone(), node, attempt, copy: 0 };
            let key = format!("artifacts/cpu/{task}");
            let artifact = BlobRef { key, sha256: Sha256([9; 32]), size: 9 };
            let event = match dice.random_range(0..5) {
                0 => ReportEvent::Started,
                1 => ReportEvent::Done { artifact },
                2 => {
                    ReportEvent::Verified { verdict: Verdict::Ok, root: artifact.sha256, message: None, outputs: None }
                }
                3 => ReportEvent::Split {
                    manifest: artifact.clone(),
                    segments: 1,
                    header: artifact,
                    hash: BlockHash([9; 32]),
                    parent_hash: None,
                },
                _ => ReportEvent::Failed {
                    kind: FailureKind::BadInput,
                    message: "not so".to_owned(),
                    children: vec![0, 0, 1, 7, u32::MAX],
                },
            };
            let worker = if dice.random_range(0..2) == 0 { "cpu-0" } else { "nobody" };
            let report = worker
                .parse()
                .map(|worker| WorkerReport { task, worker, by: None, at: Millis(0), handout: None, event }.to_json());
            if dice.random_range(0..10) == 0 { "no report".to_owned() } else { report.unwrap_or_default() }
        };
        let _ = shared.engine.send(queue::RESULTS, vec![Outgoing { body, ..Outgoing::default() }]).await;
        pause(&shared, Millis(700)).await;
    }
}

async fn reaper(shared: Shared) {
    let context = context(&shared, "reaper");
    let reaper = match shared.healers {
        Healers::Timers => Reaper::that_finds_no_lost_timers(context),
        Healers::Both | Healers::Reaper => Reaper::new(context),
    };
    loop {
        reaper.turn().await;
        pause(&shared, Millis(10_000)).await;
    }
}

async fn poller(shared: Shared, who: String, function: Arc<dyn Function>, mapping: Mapping, bug: Option<Bug>) {
    let port = faulty(&shared, &who);
    loop {
        let polled = match bug {
            None => host::poll_once(&port, &*function, &mapping, Millis(20_000)).await.map(|_| ()),
            Some(Bug::AcknowledgeBeforeEffects) => acknowledge_first(&port, &*function, &mapping).await,
        };
        if polled.is_err() {
            pause(&shared, Millis(500)).await;
        }
    }
}

/// The bug: what fails or crashes after the acknowledgement is lost.
async fn acknowledge_first(
    port: &Faulty,
    function: &dyn Function,
    mapping: &Mapping,
) -> Result<(), push0_runtime::port::PortError> {
    let batch = port.receive(&mapping.queue, mapping.batch, Millis(20_000), mapping.lease).await?;
    for message in &batch {
        port.ack(&mapping.queue, &message.receipt).await?;
    }
    host::handle_batch(function, &mapping.queue, &batch).await;
    Ok(())
}

/// A worker of one slot: leases are kept while tasks are handled, one after the other.
async fn worker(shared: Shared, who: String, pool: &'static str) {
    let port: Arc<Faulty> = Arc::new(faulty(&shared, &who));
    let leases = Leases::new(LEASE);
    let (starts, started) = task::starts();
    let (Ok(worker), Ok(pool)) = (who.parse(), pool.parse::<Pool>()) else {
        return;
    };
    let env = Env {
        worker,
        pool: pool.clone(),
        queue: port.clone(),
        blobs: port.clone(),
        clock: Arc::new(shared.clock.clone()),
        leases: leases.clone(),
        store: Store::Memory,
        starts,
        limits: Limits::default(),
        health: Health::new("simulated"),
    };
    let mut prover = Scripted { worker: who.clone(), script: shared.script.clone() };
    let queues = Class::ALL.map(|class| push0_core::message::work_queue(&pool, class));
    let handle = async {
        loop {
            // Of all three at once; who has waited longer has it, the others withdraw.
            let receives = queues.iter().map(|work| port.receive(work, 1, Millis(20_000), LEASE));
            let (answer, place, _) = futures::future::select_all(receives).await;
            let work = &queues[place];
            match answer {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        lies_where_it_should(&shared, work, &delivery);
                        if shared.silent_workers
                            && *shared.storm.borrow()
                            && shared.dice.borrow_mut().random_range(0..50) == 0
                        {
                            keep_silent(&shared, &port, &who, work, &delivery).await;
                            continue;
                        }
                        if task::handle(&env, work, delivery, &mut prover).await == Settled::LeftBehind {
                            shared.left_behind.set(shared.left_behind.get() + 1);
                        }
                    }
                }
                Err(_) => pause(&shared, Millis(500)).await,
            }
        }
    };
    let keep = leases.keep(&*port, &*port, &shared.clock);
    let announce = task::send_starts(started, &*port, &shared.clock);
    futures::join!(handle, keep, announce);
}

/// A task says which queue it lies in, which is its chain's or, where queues do not rank, a more urgent one.
fn lies_where_it_should(shared: &Shared, work: &str, delivery: &Delivery) {
    let Ok(task) = TaskMessage::from_json(&delivery.body) else { return };
    let class = shared.catalog.chains.get(&task.id.run.chain).map_or(task.class, |chain| chain.class);
    // What was demoted is exactly there.
    let class = if task.demoted { Class::Bulk } else { class };
    let is_promoted = task.class < class;
    shared.promoted.set(shared.promoted.get() + u64::from(is_promoted));
    let lies = push0_core::message::work_queue(&task.pool, task.class);
    if lies != work || task.class > class || (is_promoted && shared.ranks) {
        let what = format!("{} of a {} chain lies in {work}", task.id, class.as_str());
        shared.complaint.borrow_mut().get_or_insert(what);
    }
}

/// Acknowledges a task, perhaps as if it had been started.
async fn keep_silent(shared: &Shared, port: &Faulty, who: &str, work: &str, delivery: &Delivery) {
    let starts = shared.dice.borrow_mut().random_range(0..2) == 1;
    if let (true, Ok(task), Ok(worker)) = (starts, TaskMessage::from_json(&delivery.body), who.parse()) {
        let reports = if task.is_trusted() { queue::VERDICTS } else { queue::RESULTS };
        let event = ReportEvent::Started;
        let report = WorkerReport { task: task.id, worker, by: None, at: shared.clock.now(), handout: None, event };
        let _ = port.send(reports, vec![Outgoing { body: report.to_json(), ..Outgoing::default() }]).await;
    }
    if port.ack(work, &delivery.receipt).await.is_ok() {
        shared.silenced.set(shared.silenced.get() + 1);
    }
}

/// Where every chain stands, for a failure's message.
fn describe(shared: &Shared) -> String {
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
