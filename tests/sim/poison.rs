//! Tasks that end their workers, workers that end with everything else, and tasks that ran out of memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::FutureExt as _;
use push0_core::message::FailureKind;
use push0_core::record::{BlockRow, BlockStatus, NodeView, RowKey, RunView, Versioned as _};
use push0_core::{ChainId, Epoch, ErrorCode, Millis, Node, RunId};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::port::{Clock as _, Key, Table as _};

use super::chains::{CHAINS, PIPELINE, catalog};
use super::executor::Executor;
use super::faults::Fault;
use super::faulty::{Faults, START, Weather, dice};
use super::liar::Lie;
use super::prover::{Conduct, LARGE, Script};
use super::submitter::upload;
use super::world::{Shared, populate, shared};

/// Lets the first leaf of these blocks' first runs end every worker that begins it.
pub(super) fn plant(executor: &mut Executor, shared: &Shared, numbers: impl IntoIterator<Item = u64>) {
    numbers.into_iter().for_each(|number| shared.script.poison(RunId::new(chain(), number, Epoch::FIRST)));
    let script = shared.script.clone();
    let weather = shared.weather.clone();
    executor.dies = Box::new(move |name| {
        let dies = script.dies(name);
        if dies {
            weather.count(Fault::PoisonDeath);
        }
        dies
    });
}

fn chain() -> ChainId {
    CHAINS[0].parse().expect("a chain's id")
}

fn node_row(shared: &Shared, run: &RunId, node: Node) -> NodeView {
    let at = RowKey::node(run, node);
    let row = shared.engine.get(&Key::new(at.partition, at.sort)).now_or_never();
    let row = row.and_then(Result::ok).flatten();
    row.map(|row| NodeView::read(&row.attributes)).unwrap_or_default()
}

pub(super) fn block_row(shared: &Shared, number: u64) -> Option<BlockRow> {
    let at = RowKey::block(&chain(), number);
    let row = shared.engine.get(&Key::new(at.partition, at.sort)).now_or_never()?.ok()??;
    BlockRow::from_value(row.doc()?.clone()).ok()
}

/// No worker began an attempt at a task after one that was lost with it.
pub(super) fn no_barred_worker_ran(shared: &Shared) -> Result<(), String> {
    let runs = shared.script.runs();
    let tasks: BTreeSet<(RunId, Node)> = runs.iter().map(|run| (run.task.run.clone(), run.task.node)).collect();
    for (of, node) in tasks {
        for note in node_row(shared, &of, node).wanted.failures.iter().filter(|note| note.kind == FailureKind::Lost) {
            let worker = note.worker.as_ref().map_or("", |worker| worker.as_str());
            let again = runs.iter().find(|run| {
                run.worker == worker && run.task.run == of && run.task.node == node && run.task.attempt > note.attempt
            });
            if let Some(again) = again {
                return Err(format!("{worker} was lost with attempt {} and ran {}", note.attempt.0, again.task));
            }
        }
    }
    Ok(())
}

/// How many first runs ended because a task took its workers with it.
pub(super) fn quarantined(shared: &Shared) -> usize {
    let failed = |number: u64| {
        let at = RowKey::run(&RunId::new(chain(), number, Epoch::FIRST));
        let row = shared.engine.get(&Key::new(at.partition, at.sort)).now_or_never()?.ok()??;
        RunView::read(&row.attributes)?.failed
    };
    let reasons = (1..100).filter_map(failed);
    reasons.filter(|reason| ErrorCode::find(reason) == Some(ErrorCode::WorkersLost)).count()
}

/// A calm system with one block of so many segments.
fn calm(seed: u64, segments: u64, conduct: Conduct) -> Result<(Executor, Shared), String> {
    calm_but_for(seed, segments, conduct, None)
}

/// The same with a worker that lies.
pub(super) fn calm_but_for(
    seed: u64,
    segments: u64,
    conduct: Conduct,
    lie: Option<(Lie, Arc<AtomicU64>)>,
) -> Result<(Executor, Shared), String> {
    let clock = ManualClock::starting_at(START);
    let dice = dice(seed);
    let weather = Weather::new(seed, Faults::default(), clock.clone(), false);
    let script = Script::new(seed, conduct, weather.clone());
    let mut shared = shared(catalog(&dice, PIPELINE)?, weather, script, &clock, &dice)?;
    shared.lie = lie;
    *shared.storm.borrow_mut() = false;
    let upload = upload(&shared, &chain(), 1, segments, None, None, 0);
    shared.uploads.borrow_mut().push(upload);
    let mut executor = Executor::new(clock, dice);
    populate(&mut executor, &shared, None);
    Ok((executor, shared))
}

const NOBODY_COMPLAINS: fn() -> Result<(), String> = || Ok(());

/// A block fails at a task that ends its workers; returns the reason. Then the operator has it proven anew.
pub fn run(seed: u64) -> Result<String, String> {
    let (mut executor, shared) = calm(seed, 2, Conduct::default())?;
    plant(&mut executor, &shared, [1]);
    let until = START.plus(Millis::from_secs(3_600));
    let reason = || match block_row(&shared, 1)?.status {
        BlockStatus::Failed { reason } => Some(reason),
        _ => None,
    };
    if !executor.run(until, || reason().is_some(), NOBODY_COMPLAINS)? {
        return Err("the block did not fail".to_owned());
    }
    let reason = reason().ok_or("it was failed")?;
    no_barred_worker_ran(&shared)?;
    let is_done = || shared.auditor.borrow().finalized(CHAINS[0]) == 1;
    if !executor.run(until, is_done, NOBODY_COMPLAINS)? {
        return Err("the block was not proven anew".to_owned());
    }
    Ok(reason)
}

/// What came of workers that ended, again and again, together with everything else.
#[derive(Debug)]
pub struct Restarted {
    /// Attempts that were taken for lost, and workers that were barred.
    pub lost: u32,
    pub barred: usize,
    /// How often a worker began the task.
    pub begun: usize,
}

/// Everything is killed whenever a worker has the only leaf in hand, so many times; `says_so`: what begins anew says when.
pub fn restarts(seed: u64, times: usize, says_so: bool) -> Result<Restarted, String> {
    let (mut executor, shared) = calm(seed, 1, Conduct { slow: 1000, ..Conduct::default() })?;
    let clock = shared.clock.clone();
    let until = START.plus(Millis::from_secs(7_200));
    let leaf = Node::new(1, 0, 0);
    let begun = || shared.script.runs().iter().filter(|run| run.task.node == leaf).count();
    for time in 1..=times {
        executor.run(until, || begun() >= time, NOBODY_COMPLAINS)?;
        // Long enough for its start to be on record, less than the least it takes.
        let later = clock.now().plus(Millis(3_000));
        executor.run(later, || clock.now() >= later, NOBODY_COMPLAINS)?;
        executor.restart();
        shared.began.set(says_so.then(|| clock.now()));
    }
    shared.script.behave();
    let is_done = || shared.auditor.borrow().finalized(CHAINS[0]) == 1;
    if !executor.run(until, is_done, NOBODY_COMPLAINS)? {
        return Err("the block was not finalized".to_owned());
    }
    let run = RunId::new(chain(), 1, Epoch::FIRST);
    let wanted = node_row(&shared, &run, leaf).wanted;
    Ok(Restarted { lost: wanted.lost, barred: wanted.barred.len(), begun: begun() })
}

/// Every task runs out of memory in the small pool. Returns how often each node was run in the small pool and in the large one.
pub fn out_of_memory(seed: u64) -> Result<BTreeMap<Node, (usize, usize)>, String> {
    let (mut executor, shared) = calm(seed, 3, Conduct { out_of_memory: 1000, ..Conduct::default() })?;
    let is_done = || shared.auditor.borrow().finalized(CHAINS[0]) == 1;
    if !executor.run(START.plus(Millis::from_secs(600)), is_done, NOBODY_COMPLAINS)? {
        return Err("the block was not finalized".to_owned());
    }
    let mut runs: BTreeMap<Node, (usize, usize)> = BTreeMap::new();
    for run in shared.script.runs().iter().filter(|run| !run.worker.starts_with("trusted")) {
        let (small, large) = runs.entry(run.task.node).or_default();
        *(if run.worker.starts_with(LARGE) { large } else { small }) += 1;
        let wanted = node_row(&shared, &run.task.run, run.task.node).wanted;
        if wanted.failed > 0 || !wanted.avoid.is_empty() || wanted.delay > Millis(0) {
            return Err(format!("{} was held up: {wanted:?}", run.task));
        }
    }
    Ok(runs)
}
