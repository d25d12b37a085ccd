//! What a state of a chain asks for by itself: pending effects, publication, a walk, release, finality, batches, in this order.

use super::fit::misfit;
use super::walk::walk;
use super::{ChainConfig, Change, Now, Step, Unfit, View, batch, deadline, lanes, unfit, was_left_behind};
use crate::record::{BlockRow, BlockStatus, Finality, Halt, OtherProof, OutboxRow, PendingEffect, Timings};

/// The next thing to do, or `None`: all is done until something happens.
pub fn advance(view: &View, now: Now, config: &ChainConfig) -> Option<Step> {
    pending(view, now, config)
        .or_else(|| publish(view))
        .or_else(|| walk(view, now, config))
        .or_else(|| release(view, now, config))
        .or_else(|| finalize(view, now))
        .or_else(|| batch::advance(view, now, config))
}

/// Effects come before further decisions, so that the list stays short and none is ever overwritten.
fn pending(view: &View, now: Now, config: &ChainConfig) -> Option<Step> {
    let effect = *view.chain.pending.first()?;
    if let Some(change) = lanes::unknown_pipeline(view, effect, now, config) {
        return Some(Step::write(change));
    }
    let mut then = view.chain.clone();
    then.pending.remove(0);
    Some(Step::Perform { effect, then: Box::new(then) })
}

fn publish(view: &View) -> Option<Step> {
    let seq = view.published + 1;
    (seq < view.chain.next_seq).then_some(Step::Publish { seq })
}

fn release(view: &View, now: Now, config: &ChainConfig) -> Option<Step> {
    let number = view.chain.next_release;
    let block = view.blocks.get(&number)?;
    let mut chain = view.chain.clone();
    chain.next_release = number + 1;
    let in_window = number < view.chain.next_final + view.window(config);
    match block.status {
        // Nothing to prove: it passes whatever the window, so that the cursor can pass it too.
        BlockStatus::Skipped { .. } => {
            let is_unfit = unfit(&view.chain, view.before(number), block).is_some();
            let block = is_unfit.then(|| BlockRow { unfit: true, ..block.clone() });
            Some(Step::write(Change { chain: Some(chain), block, ..Change::default() }))
        }
        BlockStatus::Parked => {
            if view.chain.paused || !in_window || unfit(&view.chain, view.before(number), block).is_some() {
                return None;
            }
            let mut block = block.clone();
            block.set_status(BlockStatus::Proving, now);
            config.pin_runs(&mut block);
            chain.pending.push(PendingEffect::start(&block));
            block.released_at = Some(now);
            Some(Step::write(Change { chain: Some(chain), block: Some(block), ..Change::default() }))
        }
        // A batch with a hole is admitted so. Like any failed block it holds back finality alone.
        BlockStatus::Failed { .. } => {
            (!view.chain.paused && in_window).then(|| Step::write(Change { chain: Some(chain), ..Change::default() }))
        }
        // Another block is waited for.
        BlockStatus::Dropped { .. } => None,
        // The release point stands before a block until it is released: nothing else can have happened to it.
        BlockStatus::Proving | BlockStatus::Proven | BlockStatus::Final => None,
    }
}

fn finalize(view: &View, now: Now) -> Option<Step> {
    let number = view.chain.next_final;
    // Provers disagree about a block that is final: an operator has to say that it is known.
    let is_stopped = view.chain.late_halt().is_some();
    let block = view.blocks.get(&number).filter(|_| !is_stopped)?;
    if let Some(halt) = halt(view, block) {
        let is_known = view.chain.halt.as_ref() == Some(&halt);
        let chain = crate::record::ChainRow { halt: Some(halt), ..view.chain.clone() };
        return (!is_known).then_some(Step::write(Change { chain: Some(chain), ..Change::default() }));
    }
    if number >= view.chain.next_release {
        return None;
    }
    let finality = match &block.status {
        BlockStatus::Proven => {
            if misfit(&view.chain, block).is_some() {
                return None;
            }
            let (pipeline, proof, header) = (block.pipeline?, block.proof.clone()?, block.header.clone()?);
            Finality::Proof { pipeline, proof, header, others: others(block) }
        }
        BlockStatus::Skipped { reason } => Finality::Tombstone { reason: reason.clone() },
        BlockStatus::Parked
        | BlockStatus::Proving
        | BlockStatus::Failed { .. }
        | BlockStatus::Dropped { .. }
        | BlockStatus::Final => return None,
    };
    Some(Step::write(finalized(view, block, finality, now)))
}

/// Why the block at the cursor cannot become final until an operator or a later fork does something about it.
fn halt(view: &View, block: &BlockRow) -> Option<Halt> {
    let is_proven = block.status == BlockStatus::Proven;
    if !is_proven && block.status != BlockStatus::Parked {
        return None;
    }
    let disagreement = block.disagreement().filter(|_| is_proven).map(Halt::Disagreement);
    let number = block.number;
    disagreement.or_else(|| match misfit(&view.chain, block).filter(|_| !was_left_behind(&view.chain, block))? {
        Unfit::OtherParent { wants: names, there: Some(last) } => Some(Halt::ParentMismatch { number, names, last }),
        Unfit::OtherParent { wants: names, there: None } => Some(Halt::OrphanParent { number, names }),
        Unfit::NoPredecessor { .. } => None,
    })
}

/// The proofs beside the one that is handed on.
fn others(block: &BlockRow) -> Vec<OtherProof> {
    let others = block.proofs().filter(|(lane, _)| block.pipeline != Some(lane.pipeline));
    let other = |(lane, proof): (&crate::record::Lane, &crate::record::LaneProof)| OtherProof {
        pipeline: lane.pipeline,
        proof: proof.proof.clone(),
        header: proof.header.clone(),
    };
    others.map(other).collect()
}

/// Orphans remembered: skipping a longer branch block by block forgets its oldest, which no block to come names.
const MAX_ORPHANS: usize = 64;

/// The cursor's move and its outbox row. A skipped block's hash counts as a parent, unless the block did not fit the chain itself: then
/// what was built on it is not let through by skipping it.
fn finalized(view: &View, block: &BlockRow, finality: Finality, now: Now) -> Change {
    let mut chain = view.chain.clone();
    let met = deadline::met(block, now);
    met.into_iter().for_each(|met| chain.on_time.count(met));
    let seq = chain.next_seq;
    chain.next_seq = seq + 1;
    chain.next_final = block.number + 1;
    chain.halt = None;
    let is_orphan = misfit(&view.chain, block).is_some();
    chain.last_hash = block.hash.filter(|_| !is_orphan);
    match block.hash.filter(|_| is_orphan) {
        Some(orphan) => chain.orphans.push(orphan),
        None if chain.last_hash.is_some() => chain.orphans.clear(),
        None => {}
    }
    let surplus = chain.orphans.len().saturating_sub(MAX_ORPHANS);
    chain.orphans.drain(..surplus);
    let outbox = OutboxRow {
        seq,
        chain: block.chain.clone(),
        number: block.number,
        epoch: block.epoch,
        hash: block.hash,
        parent_hash: block.parent_hash,
        batch: block.batch.clone(),
        finality,
        timings: Some(Timings {
            submitted_at: block.submitted_at,
            released_at: block.released_at,
            settled_at: block.changed_at,
            finalized_at: now,
            deadline: block.deadline,
            met,
        }),
    };
    let mut block = block.clone();
    block.final_seq = Some(seq);
    if block.status == BlockStatus::Proven {
        block.set_status(BlockStatus::Final, now);
    }
    Change { chain: Some(chain), block: Some(block), outbox: Some(outbox), ..Change::default() }
}
