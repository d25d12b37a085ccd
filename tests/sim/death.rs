//! One worker dies in the middle of a task, in a system where nothing else goes wrong: how long until the task is done elsewhere?

use push0_core::{Millis, Pool};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::port::Clock as _;

use super::chains::{CHAINS, PIPELINE, catalog};
use super::executor::Executor;
use super::faulty::{Faults, START, Weather, dice};
use super::prover::{Conduct, Script};
use super::submitter::upload;
use super::world::{populate, shared};

/// What it came to.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    pub killed: Millis,
    /// When another worker's prover was done with the task.
    pub finished: Millis,
    /// How long that took it.
    pub own_time: Millis,
}

/// One block of one segment, three idle workers; whichever takes the task dies while it proves.
pub fn run(seed: u64) -> Result<Death, String> {
    let clock = ManualClock::starting_at(START);
    let dice = dice(seed);
    let weather = Weather::new(seed, Faults::default(), clock.clone(), false);
    let script = Script::new(seed, Conduct::default(), weather.clone());
    let shared = shared(catalog(&dice, PIPELINE)?, weather, script, &clock, &dice)?;
    *shared.storm.borrow_mut() = false;
    for chain in shared.catalog.chains.keys().filter(|chain| chain.as_str() == CHAINS[0]) {
        let upload = upload(&shared, chain, 1, 1, None, None, 0);
        shared.uploads.borrow_mut().push(upload);
    }
    let mut executor = Executor::new(clock.clone(), dice);
    populate(&mut executor, &shared, None);

    let until = START.plus(Millis::from_secs(600));
    let victim = || {
        let runs = shared.script.runs();
        runs.into_iter().find(|run| !run.worker.starts_with(Pool::TRUSTED) && run.ended.is_none())
    };
    let no_complaint = || Ok::<(), String>(());
    if !executor.run(until, || victim().is_some(), no_complaint)? {
        return Err("no worker took the task".to_owned());
    }
    let victim = victim().ok_or("the task is done already")?;
    // Somewhere in the middle, between two beats of its lease.
    let later = clock.now().plus(Millis(seed % 9));
    executor.run(later, || clock.now() >= later, no_complaint)?;
    executor.kill(&victim.worker);
    let killed = clock.now();

    let is_done = || shared.auditor.borrow().finalized(CHAINS[0]) >= 1;
    if !executor.run(until, is_done, no_complaint)? {
        return Err("the block was not finalized".to_owned());
    }
    let runs = shared.script.runs();
    let again = runs.iter().find(|run| run.task == victim.task && run.worker != victim.worker);
    let again = again.ok_or("the task was not run again, and yet the block is final")?;
    let finished = again.ended.ok_or("the second run did not end, and yet the block is final")?;
    Ok(Death { killed, finished, own_time: finished.since(again.begun) })
}
