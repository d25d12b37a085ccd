//! An event meets the state of its chain.

use super::deadline::{self, is_abandoned};
use super::lanes::lane_ended;
use super::walk::look_from;
use super::{ChainConfig, Change, Event, Ignored, Now, Outcome, View, WINDOW, end_run, unfit};
use crate::error_code::ErrorCode;
use crate::id::{BlockId, Epoch, RunId};
use crate::message::{Command, Submission};
use crate::record::{
    BlockRow, BlockStatus, ChainRow, Contender, Disagreement, DroppedRange, Fork, Halt, MAX_ACKNOWLEDGED,
    MAX_CONTENDERS, MAX_SUSPECTS, PendingEffect, Suspect, Walk, clip_error,
};

/// What `event` changes. Equal inputs, equal outputs. No event meets a chain in the middle of a walk.
pub fn decide(view: &View, event: &Event, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    debug_assert_eq!(view.chain.walk, None, "a walk is finished first");
    let replaces = matches!(event, Event::Submitted(_) | Event::Command(Command::Replace(_) | Command::Reorg { .. }));
    if let Some(batching) = config.batch.as_ref().filter(|_| replaces) {
        return Err(Ignored::Derived { of: batching.of.clone() });
    }
    let mut change = decide_on(view, event, now, config)?;
    deadline::pin(view, &mut change, event, now, config);
    Ok(change)
}

fn decide_on(view: &View, event: &Event, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    match event {
        Event::Batched(batch) => super::batch::batched(view, batch, now),
        Event::Submitted(submission) => submitted(view, submission, now, config),
        Event::RunEnded { run, outcome } => run_ended(view, run, outcome, now, config),
        Event::Command(Command::Retry { number, epoch, .. }) => retry(view, *number, *epoch, now, config),
        Event::Command(Command::Replace(submission)) => replace(view, submission, now, config),
        Event::Command(Command::Skip { number, reason, .. }) => skip(view, *number, reason, now, config),
        Event::Command(Command::Reorg { number, reason, nth, .. }) => drop_from(view, *number, reason, *nth, now),
        Event::Command(Command::Pause { .. }) => pause(view),
        Event::Command(Command::Resume { acknowledged, .. }) => resume(view, *acknowledged),
        Event::Command(Command::Window { window, .. }) => set_window(view, *window),
        Event::DeadlinePassed { number } => deadline::passed(view, *number, now, config),
        Event::Tick => Err(Ignored::Settled),
    }
}

fn submitted(view: &View, submission: &Submission, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    let number = submission.number;
    within_reach(view, number, config)?;
    let Some(block) = view.blocks.get(&number) else {
        return Ok(Change { block: Some(admitted(submission, now)), ..Change::default() });
    };
    if block.hash == Some(submission.hash) {
        return told_again(view, block, submission);
    }
    if is_final(block) {
        return Err(Ignored::Final { number });
    }
    if supersedes(submission, block) {
        let mut change = run_anew(view, block, Some(submission), "superseded by a later fork", now, config);
        if let (Some(chain), Some(seq)) = (&mut change.chain, submission.fork_seq) {
            chain.fork = Some(match chain.fork {
                Some(fork) if fork.seq >= seq => Fork { from: fork.from.min(number), ..fork },
                _ => Fork { seq, from: number, at: now },
            });
        }
        return Ok(change);
    }
    let is_of_earlier_fork = submission.fork_seq.is_some() && submission.fork_seq < block.fork_seq;
    if is_of_earlier_fork || block.past.contains(&submission.hash) {
        return Err(Ignored::Stale);
    }
    if matches!(block.status, BlockStatus::Dropped { .. }) {
        return Ok(run_anew(view, block, Some(submission), "", now, config));
    }
    contender(block, submission, now)
}

/// The block that is there is submitted again: perhaps with its parent, which was not known, or as one of a later fork.
fn told_again(view: &View, block: &BlockRow, submission: &Submission) -> Result<Change, Ignored> {
    let mut after = block.clone();
    if supersedes(submission, block) {
        after.fork_seq = submission.fork_seq;
    }
    after.parent_hash = block.parent_hash.or(submission.parent_hash);
    if is_final(block) || after == *block {
        return Err(Ignored::Settled);
    }
    let mut chain = view.chain.clone();
    if after.parent_hash != block.parent_hash {
        look_from(&mut chain, block.number);
    }
    Ok(Change { chain: Some(chain), block: Some(after), ..Change::default() })
}

/// Arrival never chooses a fork: only the submitter's own count does, and only where the parent is known.
fn supersedes(submission: &Submission, block: &BlockRow) -> bool {
    submission.parent_hash.is_some() && submission.fork_seq > block.fork_seq
}

fn contender(block: &BlockRow, submission: &Submission, now: Now) -> Result<Change, Ignored> {
    if block.contenders.iter().any(|known| known.hash == submission.hash) {
        return Err(Ignored::Settled);
    }
    let mut block = block.clone();
    block.contenders_seen += 1;
    if block.contenders.len() < MAX_CONTENDERS {
        let contender = Contender { hash: submission.hash, witness: submission.witness.clone(), at: now };
        block.contenders.push(contender);
    }
    Ok(Change { block: Some(block), ..Change::default() })
}

fn run_ended(view: &View, run: &RunId, outcome: &Outcome, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    let block = view.blocks.get(&run.number).ok_or(Ignored::Unknown)?;
    let mut change = ended(view, block, run, outcome, now, config)?;
    // A parent that was not known before may be another than the block that stands there.
    let learned = change.block.as_ref().filter(|after| after.parent_hash != block.parent_hash);
    if learned.is_some_and(|after| unfit(&view.chain, view.before(run.number), after).is_some()) {
        look_from(change.chain.get_or_insert_with(|| view.chain.clone()), run.number);
    }
    Ok(change)
}

fn ended(
    view: &View,
    block: &BlockRow,
    run: &RunId,
    outcome: &Outcome,
    now: Now,
    config: &ChainConfig,
) -> Result<Change, Ignored> {
    if block.epoch != run.epoch {
        return Err(Ignored::Stale);
    }
    if !block.runs.is_empty() {
        return lane_ended(view, block, run.lane, outcome, now, config);
    }
    if run.lane > 0 || block.status != BlockStatus::Proving {
        return Err(Ignored::Stale);
    }
    match outcome {
        Outcome::Proven { pipeline, proof, header, parent_hash, outputs: _ } => {
            let mut block = block.clone();
            block.set_status(BlockStatus::Proven, now);
            // What `split` read counts more than what the submitter said.
            block.parent_hash = parent_hash.or(block.parent_hash);
            block.pipeline = Some(*pipeline);
            block.proof = Some(proof.clone());
            block.header = Some(header.clone());
            Ok(Change { block: Some(block), ..Change::default() })
        }
        Outcome::BadProof { message, suspects } if block.bad_proofs < config.bad_proof_limit => {
            let mut change =
                run_anew(view, block, None, &ErrorCode::BadProof.says(format!("bad proof: {message}")), now, config);
            if let Some(block) = &mut change.block {
                block.bad_proofs += 1;
                suspect(block, suspects);
            }
            Ok(change)
        }
        Outcome::Spoiled { message } if block.spoiled_runs < config.bad_proof_limit => {
            let mut change = run_anew(view, block, None, message, now, config);
            if let Some(block) = &mut change.block {
                block.spoiled_runs += 1;
            }
            Ok(change)
        }
        Outcome::Spoiled { message } => {
            let runs = block.spoiled_runs + 1;
            Ok(failed(view.chain.clone(), block, &format!("{message} ({runs} runs were spoiled)"), now))
        }
        Outcome::BadProof { message, .. } => {
            let runs = block.bad_proofs + 1;
            let reason = ErrorCode::BadProof.says(format!("{runs} runs ended in a bad proof; the last: {message}"));
            Ok(failed(view.chain.clone(), block, &reason, now))
        }
        Outcome::Failed { reason } => Ok(failed(view.chain.clone(), block, reason, now)),
    }
}

/// Remembers who had a hand in a bad proof, the newest last and each once.
pub(super) fn suspect(block: &mut BlockRow, suspects: &[Suspect]) {
    block.suspects.retain(|known| !suspects.contains(known));
    block.suspects.extend_from_slice(suspects);
    let surplus = block.suspects.len().saturating_sub(MAX_SUSPECTS);
    block.suspects.drain(..surplus);
}

pub(super) fn failed(mut chain: ChainRow, block: &BlockRow, reason: &str, now: Now) -> Change {
    chain.pending.push(PendingEffect::stop(block));
    let mut block = block.clone();
    block.set_status(BlockStatus::Failed { reason: clip_error(reason) }, now);
    Change { chain: Some(chain), block: Some(block), ..Change::default() }
}

fn retry(view: &View, number: u64, epoch: Option<Epoch>, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    let block = view.blocks.get(&number).ok_or(Ignored::Unknown)?;
    if epoch.is_some_and(|epoch| epoch != block.epoch) {
        return Err(Ignored::Stale);
    }
    // A run that is going on is given up, and a block that was abandoned taken up again, only when it is named: the command may come twice,
    // the second time when its own run has been abandoned.
    let is_abandoned = is_abandoned(block) && !is_final(block);
    let may_be_running = epoch.is_some() && (block.status == BlockStatus::Proving || is_abandoned);
    // Of two proofs that say different things neither is handed on.
    let is_disputed = !is_final(block) && block.disagreement().is_some();
    if !may_be_running && !is_disputed && !matches!(block.status, BlockStatus::Failed { .. }) {
        return Err(Ignored::NotFailed { number, status: block.status.name() });
    }
    if block.witness.is_none() {
        return Err(Ignored::Hole { number });
    }
    let mut change = run_anew(view, block, None, "retried by an operator", now, config);
    if let Some(block) = &mut change.block {
        block.bad_proofs = 0;
        block.spoiled_runs = 0;
    }
    Ok(change)
}

fn replace(view: &View, submission: &Submission, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    let number = submission.number;
    within_reach(view, number, config)?;
    let Some(block) = view.blocks.get(&number) else {
        return Ok(Change { block: Some(admitted(submission, now)), ..Change::default() });
    };
    if is_final(block) {
        return Err(Ignored::Final { number });
    }
    // A redelivered command must not start a second run of what it has put in place already.
    if block.hash == Some(submission.hash)
        && block.witness.as_ref() == Some(&submission.witness)
        && (submission.parent_hash.is_none() || submission.parent_hash == block.parent_hash)
        // Nor may it take up again what was abandoned since: that is a retry's, which names the run.
        && (is_abandoned(block) || !matches!(block.status, BlockStatus::Failed { .. } | BlockStatus::Skipped { .. }))
    {
        return Err(Ignored::Settled);
    }
    let mut change = run_anew(view, block, Some(submission), "replaced by an operator", now, config);
    if let Some(block) = &mut change.block {
        block.bad_proofs = 0;
        block.spoiled_runs = 0;
    }
    Ok(change)
}

fn skip(view: &View, number: u64, reason: &str, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    within_reach(view, number, config)?;
    let mut chain = view.chain.clone();
    lift_halt(&mut chain, number);
    let block = match view.blocks.get(&number) {
        // What a batch is made of comes from its source; before that there is nothing to leave out.
        None if config.batch.is_some() => return Err(Ignored::Unknown),
        None => BlockRow::new(chain.chain.clone(), number, BlockStatus::Parked, now),
        Some(block) if is_final(block) => return Err(Ignored::Final { number }),
        Some(BlockRow { status: BlockStatus::Skipped { .. }, .. }) => return Err(Ignored::Settled),
        Some(block) => {
            end_run(&mut chain, block);
            let mut block = block.clone();
            block.next_epoch("skipped by an operator", now);
            block
        }
    };
    let status = BlockStatus::Skipped { reason: clip_error(reason) };
    look_from(&mut chain, number);
    Ok(Change { chain: Some(chain), block: Some(BlockRow { status, ..block }), ..Change::default() })
}

/// Every block from a number on that is not final goes: the walk does it. Those that come instead are submitted like any other.
fn drop_from(view: &View, number: u64, reason: &str, nth: u64, now: Now) -> Result<Change, Ignored> {
    let mut chain = view.chain.clone();
    let done = chain.dropped.as_ref().map_or(0, |range| range.nth);
    if nth <= done {
        let is_that = chain.dropped.as_ref().is_some_and(|range| (range.nth, range.from) == (nth, number));
        return Err(if is_that || nth < done { Ignored::Settled } else { Ignored::OtherDrop });
    }
    if number < chain.first {
        return Err(Ignored::BelowFirst { number, first: chain.first });
    }
    if number < chain.next_final {
        return Err(Ignored::Final { number });
    }
    let reason = clip_error(reason);
    chain.dropped = Some(DroppedRange { nth: done + 1, from: number, reason, at: now, blocks: 0 });
    chain.walk = Some(Walk::Drop { at: number });
    chain.halt.take_if(|halt| halt.number() >= number);
    Ok(Change { chain: Some(chain), ..Change::default() })
}

fn pause(view: &View) -> Result<Change, Ignored> {
    if view.chain.paused {
        return Err(Ignored::Settled);
    }
    Ok(Change { chain: Some(ChainRow { paused: true, ..view.chain.clone() }), ..Change::default() })
}

/// Ends a pause, and with it a halt for what a late proof said about a final block: it is known now.
fn resume(view: &View, acknowledged: Option<BlockId>) -> Result<Change, Ignored> {
    let mut chain = view.chain.clone();
    chain.paused = false;
    if let Some(known) = acknowledged {
        acknowledge(&mut chain, known);
    }
    if chain == view.chain {
        return Err(Ignored::Settled);
    }
    Ok(Change { chain: Some(chain), ..Change::default() })
}

/// The disagreement about this final block is known; the next one, if there is any, halts the chain in its place.
fn acknowledge(chain: &mut ChainRow, known: BlockId) {
    let is_it = |found: &Disagreement| known.is_about(&found.block());
    let acknowledged = match chain.late_halt() {
        Some(halting) if is_it(halting) => {
            let block = halting.block();
            let next = (!chain.disputed.is_empty()).then(|| chain.disputed.remove(0));
            chain.halt = next.map(Halt::Disagreement);
            block
        }
        _ => match chain.disputed.iter().position(is_it) {
            Some(at) => chain.disputed.remove(at).block(),
            None => return,
        },
    };
    if chain.late_halt().is_none() {
        chain.disputed_more = false;
    }
    chain.acknowledged.push(acknowledged);
    let surplus = chain.acknowledged.len().saturating_sub(MAX_ACKNOWLEDGED);
    chain.acknowledged.drain(..surplus);
}

fn set_window(view: &View, window: u32) -> Result<Change, Ignored> {
    if !WINDOW.contains(&window) {
        return Err(Ignored::Window(window));
    }
    if view.chain.window == Some(window) {
        return Err(Ignored::Settled);
    }
    Ok(Change { chain: Some(ChainRow { window: Some(window), ..view.chain.clone() }), ..Change::default() })
}

fn within_reach(view: &View, number: u64, config: &ChainConfig) -> Result<(), Ignored> {
    let chain = &view.chain;
    if number < chain.first {
        return Err(Ignored::BelowFirst { number, first: chain.first });
    }
    if number < chain.next_final && !view.blocks.contains_key(&number) {
        return Err(Ignored::Final { number });
    }
    if number > chain.next_final.saturating_add(config.distance) {
        return Err(Ignored::TooFar { number, cursor: chain.next_final, distance: config.distance });
    }
    Ok(())
}

fn is_final(block: &BlockRow) -> bool {
    block.final_seq.is_some()
}

fn admitted(submission: &Submission, now: Now) -> BlockRow {
    BlockRow {
        hash: Some(submission.hash),
        parent_hash: submission.parent_hash,
        witness: Some(submission.witness.clone()),
        fork_seq: submission.fork_seq,
        ..BlockRow::new(submission.chain.clone(), submission.number, BlockStatus::Parked, now)
    }
}

/// Ends the block's current run and begins the next: at once where the number has been released, else when its turn comes. Another block
/// begins only where it fits.
fn run_anew(
    view: &View,
    block: &BlockRow,
    with: Option<&Submission>,
    reason: &str,
    now: Now,
    config: &ChainConfig,
) -> Change {
    let number = block.number;
    let mut chain = view.chain.clone();
    end_run(&mut chain, block);
    let mut block = block.clone();
    let reason = match &block.status {
        BlockStatus::Dropped { reason } => dropped(reason),
        _ => reason.to_owned(),
    };
    block.next_epoch(&clip_error(&reason), now);
    lift_halt(&mut chain, number);
    if let Some(submission) = with {
        // It keeps its place among the blocks that are being proven.
        let released_at = block.released_at;
        block.vacate();
        block.released_at = released_at;
        block.hash = Some(submission.hash);
        block.parent_hash = submission.parent_hash;
        block.witness = Some(submission.witness.clone());
        block.fork_seq = submission.fork_seq.max(block.fork_seq);
        block.contenders.retain(|contender| contender.hash != submission.hash);
        block.past.retain(|past| *past != submission.hash);
        block.submitted_at = now;
        block.status = BlockStatus::Parked;
        look_from(&mut chain, number);
    } else if number < chain.next_release {
        block.status = BlockStatus::Proving;
        // It keeps its place: a run begun again does not stand behind the blocks released since.
        block.released_at = block.released_at.or(Some(now));
        config.pin_runs(&mut block);
        chain.pending.push(PendingEffect::start(&block));
    } else {
        block.status = BlockStatus::Parked;
    }
    Change { chain: Some(chain), block: Some(block), ..Change::default() }
}

fn dropped(reason: &str) -> String {
    format!("dropped by an operator: {reason}")
}

/// What an operator does to the block that halts the chain ends the halt; `advance` finds out whether it was enough.
fn lift_halt(chain: &mut ChainRow, number: u64) {
    chain.halt.take_if(|halt| halt.number() == number);
}
