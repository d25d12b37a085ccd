//! One of several runs of a block's epoch ended: what that makes of the block.
//!
//! The block is proven when the quorum's pipelines have a verified root, and fails when too few are left that can. A pipeline whose run
//! ended in a bad proof, or was spoiled, begins anew in another lane of the same epoch; the others are not disturbed.

use super::decide::{failed, suspect};
use super::{ChainConfig, Change, Ignored, Now, Outcome, Rest, View, is_current};
use crate::error_code::ErrorCode;
use crate::record::{
    BlockRow, BlockStatus, ChainRow, Disagreement, Halt, Lane, LaneProof, LaneState, MAX_DISPUTED, MAX_ERROR,
    MAX_LANES, PendingEffect, clip_middle,
};

/// Longest reason kept with a lane, bytes: all lanes of a block must stay well within a row.
const REASON: usize = MAX_ERROR / 8;

pub(super) fn lane_ended(
    view: &View,
    block: &BlockRow,
    lane: u16,
    outcome: &Outcome,
    now: Now,
    config: &ChainConfig,
) -> Result<Change, Ignored> {
    let Some(run) = block.lane(lane) else { return Err(Ignored::Stale) };
    match (&run.state, outcome) {
        (LaneState::Proving, _) | (LaneState::Stopped, Outcome::Proven { .. }) => {}
        (LaneState::Stopped, _) => return Err(Ignored::Stale),
        (LaneState::Proven(_) | LaneState::Redone { .. } | LaneState::Failed { .. }, _) => {
            return Err(Ignored::Settled);
        }
    }
    match block.status {
        BlockStatus::Proving | BlockStatus::Proven => {}
        BlockStatus::Final => return late(view, block, run, outcome, now),
        BlockStatus::Parked
        | BlockStatus::Failed { .. }
        | BlockStatus::Skipped { .. }
        | BlockStatus::Dropped { .. } => return Err(Ignored::Stale),
    }
    let (mut chain, mut block) = (view.chain.clone(), block.clone());
    let state = match outcome {
        Outcome::Proven { .. } => proven(outcome, now),
        Outcome::BadProof { message, suspects } => {
            block.bad_proofs += 1;
            suspect(&mut block, suspects);
            let reason = ErrorCode::BadProof.says(format!("bad proof: {message}"));
            redone_or_failed(&block, run, false, &reason, config)
        }
        Outcome::Spoiled { message } => {
            block.spoiled_runs += 1;
            redone_or_failed(&block, run, true, message, config)
        }
        Outcome::Failed { reason } => LaneState::Failed { reason: clip_middle(reason, REASON) },
    };
    if !matches!(state, LaneState::Proven(_)) {
        let (number, epoch) = (block.number, block.epoch);
        chain.pending.push(PendingEffect::Stop { number, epoch, from: lane, lanes: 1 });
    }
    if matches!(state, LaneState::Redone { .. }) {
        let from = block.lanes();
        block.runs.push(Lane::new(run.name.clone(), run.pipeline));
        block.lanes_seen = block.lanes_seen.max(block.lanes());
        chain.pending.push(PendingEffect::Start { number: block.number, epoch: block.epoch, from });
    }
    block.runs[usize::from(lane)].state = state;
    Ok(settled(chain, block, now, config))
}

fn proven(outcome: &Outcome, now: Now) -> LaneState {
    match outcome {
        Outcome::Proven { proof, header, parent_hash, outputs, .. } => LaneState::Proven(LaneProof {
            proof: proof.clone(),
            header: header.clone(),
            outputs: *outputs,
            parent_hash: *parent_hash,
            at: now,
        }),
        Outcome::BadProof { .. } | Outcome::Spoiled { .. } | Outcome::Failed { .. } => LaneState::Stopped,
    }
}

/// A pipeline begins anew as often as a block of one pipeline would; not for a block that is proven without it.
fn redone_or_failed(block: &BlockRow, run: &Lane, spoiled: bool, reason: &str, config: &ChainConfig) -> LaneState {
    let is_such = |lane: &&Lane| {
        let why = matches!(lane.state, LaneState::Redone { spoiled: was_spoiled, .. } if was_spoiled == spoiled);
        why && lane.pipeline == run.pipeline
    };
    let before = block.runs.iter().filter(is_such).count();
    let may_begin = block.status == BlockStatus::Proving && block.runs.len() < MAX_LANES;
    if may_begin && before < config.bad_proof_limit as usize {
        return LaneState::Redone { spoiled, reason: clip_middle(reason, REASON) };
    }
    let runs = before + 1;
    LaneState::Failed { reason: clip_middle(&format!("{reason} ({runs} runs ended so)"), REASON) }
}

/// What the block is, now that one of its lanes has ended.
fn settled(mut chain: ChainRow, mut block: BlockRow, now: Now, config: &ChainConfig) -> Change {
    let verified = block.proofs().count();
    let proving = block.runs.iter().filter(|lane| lane.is_proving()).count();
    let quorum = usize::from(block.quorum);
    if block.status == BlockStatus::Proving && verified >= quorum {
        block.set_status(BlockStatus::Proven, now);
        if config.provers.as_ref().is_some_and(|provers| provers.rest == Rest::Stop) {
            let (number, epoch) = (block.number, block.epoch);
            let stop = |from| PendingEffect::Stop { number, epoch, from, lanes: 1 };
            chain.pending.extend(stop_rest(&mut block).into_iter().map(stop));
        }
    } else if block.status == BlockStatus::Proving && verified + proving < quorum {
        let reason = too_few(&block, verified, proving);
        stop_rest(&mut block);
        return failed(chain, &block, &reason, now);
    }
    if block.status == BlockStatus::Proven {
        // The one that stands first in the chain's list, of those that there are.
        let first = block.proofs().next().map(|(lane, proof)| (lane.pipeline, proof.clone()));
        if let Some((pipeline, proof)) = first {
            block.pipeline = Some(pipeline);
            block.parent_hash = proof.parent_hash.or(block.parent_hash);
            block.proof = Some(proof.proof);
            block.header = Some(proof.header);
        }
    }
    Change { chain: Some(chain), block: Some(block), ..Change::default() }
}

/// Nobody waits any more for what is still being proven. Returns these lanes.
fn stop_rest(block: &mut BlockRow) -> Vec<u16> {
    let mut stopped = Vec::new();
    for (at, lane) in (0..).zip(&mut block.runs).filter(|(_, lane)| lane.is_proving()) {
        lane.state = LaneState::Stopped;
        stopped.push(at);
    }
    stopped
}

/// Why a block failed: every pipeline that cannot prove it, with its reason.
fn too_few(block: &BlockRow, verified: usize, proving: usize) -> String {
    let failed = block.latest_runs().filter_map(|(_, lane)| match &lane.state {
        LaneState::Failed { reason } => Some(format!("{}: {reason}", lane.name)),
        LaneState::Proving | LaneState::Proven(_) | LaneState::Redone { .. } | LaneState::Stopped => None,
    });
    let failed: Vec<String> = failed.collect();
    let (all, left, quorum) = (block.latest_runs().count(), verified + proving, block.quorum);
    let what = format!("{left} of {all} pipelines can prove it, and {quorum} must; {}", failed.join("; "));
    ErrorCode::QuorumLost.says(what)
}

/// What is final stays so; a late proof that says something else stops the chain.
fn late(view: &View, block: &BlockRow, run: &Lane, outcome: &Outcome, now: Now) -> Result<Change, Ignored> {
    let LaneState::Proven(proof) = proven(outcome, now) else { return Err(Ignored::Late) };
    let says = block.proofs().map(|(lane, proof)| lane.says(proof)).chain([run.says(&proof)]).collect();
    let Some(found) = Disagreement::among(block.id(), says) else { return Err(Ignored::Late) };
    let mut chain = view.chain.clone();
    if !dispute(&mut chain, found) {
        return Err(Ignored::Settled);
    }
    Ok(Change { chain: Some(chain), ..Change::default() })
}

/// A disagreement about a final block halts the chain, or waits behind the one that does; none takes another's place. False: it is known.
fn dispute(chain: &mut ChainRow, found: Disagreement) -> bool {
    if chain.acknowledged.iter().any(|known| known.is_about(&found.block())) {
        return false;
    }
    let is_halted = chain.late_halt().is_some();
    let halting = match &mut chain.halt {
        Some(Halt::Disagreement(halting)) if is_halted => Some(halting),
        Some(Halt::Disagreement(_) | Halt::ParentMismatch { .. } | Halt::OrphanParent { .. }) | None => None,
    };
    let mut known = halting.into_iter().chain(&mut chain.disputed);
    if let Some(known) = known.find(|known| known.block() == found.block()) {
        // Another late run of the same block.
        let more = found.says.into_iter().filter(|says| !known.says.contains(says)).collect::<Vec<_>>();
        let is_new = !more.is_empty();
        known.says.extend(more);
        return is_new;
    }
    match is_halted {
        // What halts the block at the cursor is found again when its turn comes.
        false => chain.halt = Some(Halt::Disagreement(found)),
        true if chain.disputed.len() < MAX_DISPUTED => chain.disputed.push(found),
        true => return !std::mem::replace(&mut chain.disputed_more, true),
    }
    true
}

/// A run that is about to begin with a pipeline that the chain does not list any more has failed: what it would compute is not known here.
pub(super) fn unknown_pipeline(view: &View, effect: PendingEffect, now: Now, config: &ChainConfig) -> Option<Change> {
    let PendingEffect::Start { number, from, .. } = effect else { return None };
    let block = view.blocks.get(&number).filter(|block| is_current(effect, Some(*block)))?;
    let known = config.pipelines();
    let is_unknown = |(at, lane): &(u16, &Lane)| *at >= from && lane.is_proving() && !known.contains(&lane.pipeline);
    let (lane, run) = (0..).zip(&block.runs).find(is_unknown)?;
    let what = format!("pipeline {} ({}) is not configured any more", run.name, run.pipeline.tag());
    let outcome = Outcome::Failed { reason: ErrorCode::BadConfiguration.says(what) };
    lane_ended(view, block, lane, &outcome, now, config).ok()
}
