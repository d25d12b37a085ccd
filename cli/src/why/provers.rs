//! What several provers make of a block.

use std::collections::BTreeSet;

use push0_core::ErrorCode;
use push0_core::chain::rest_limit;
use push0_core::record::{Disagreement, LaneState};
use push0_runtime::snapshot::BlockSnapshot;

use super::{Facts, Why, at_fault, chain_of};

/// How each prover's run is, and what to do about those that failed.
pub(super) fn about(facts: &Facts, block: &BlockSnapshot, why: &mut Why) {
    let row = &block.block;
    if row.runs.is_empty() {
        return;
    }
    let verified = row.proofs().count();
    let all = row.latest_runs().count();
    why.facts.push(format!("{verified} of {all} pipelines have proven it; {} must", row.quorum));
    let silent: Vec<&str> = row.uncompared().into_iter().map(|lane| lane.name.as_str()).collect();
    if !silent.is_empty() {
        let who = silent.join(" and ");
        why.facts.push(format!("what {who} state was not compared: their provers give no `outputs`"));
    }
    let mut codes = BTreeSet::new();
    let limit = rest_limit(row, Some(&facts.config));
    for (lane, run) in row.latest_runs() {
        let how = crate::render::lane(block, lane, run, facts.now, limit);
        why.facts.push(format!("pipeline {}: {how}", run.name));
        let LaneState::Failed { reason } = &run.state else { continue };
        codes.extend(ErrorCode::find(reason));
        let seen = block.runs().find(|seen| seen.id.lane == lane);
        if let Some(task) = seen.and_then(at_fault) {
            why.next.push(format!("push0 replay {}   runs the failed task of {} here, to see why", task.id, run.name));
        }
    }
    why.next.extend(codes.into_iter().map(|code| format!("push0 explain {code}   {}", code.title())));
}

/// How far a block is that several provers are at.
pub(super) fn progress(block: &BlockSnapshot, held: usize, waiting: usize) -> String {
    let row = &block.block;
    let proving = row.latest_runs().filter(|(_, run)| run.is_proving()).count();
    let (verified, quorum) = (row.proofs().count(), row.quorum);
    format!(
        "it is being proven by {proving} provers, {verified} have a proof, {quorum} must: {held} tasks in hand, {waiting} waiting for a worker"
    )
}

/// Its proofs say different things.
pub(super) fn disagree(facts: &Facts, found: &Disagreement, why: &mut Why) {
    let (chain, number) = (chain_of(facts), found.number);
    let is_final = number < facts.chain.chain.next_final;
    let what = if is_final {
        "it is final, but a late proof says something else of it"
    } else {
        "it is proven to be different things"
    };
    why.answer = format!("{what}: nothing {} becomes final", if is_final { "more" } else { "from it on" });
    why.code = Some(ErrorCode::Disagreement);
    why.facts.extend(found.lines());
    if is_final {
        let before: Vec<String> = facts
            .chain
            .chain
            .disagreements()
            .map(|found| found.number)
            .take_while(|other| *other != number)
            .map(|other| other.to_string())
            .collect();
        if !before.is_empty() {
            why.facts.push(format!("the chain is halted for block {} first", before.join(", then for block ")));
            why.next.extend(
                before.iter().map(|other| format!("push0 why {chain} {other}   says who says what of that one")),
            );
        }
        why.next.push(format!(
            "push0 resume {chain}   once you know what was wrong: the chain goes on, this block stays as it is"
        ));
    } else {
        why.next.push(format!(
            "push0 retry {chain} {number}   proves it again, once the prover that is wrong is mended or taken out"
        ));
        why.next.push("push0 replace FILE.json   proves another block or witness under this number".to_owned());
        why.next.push(format!("push0 skip {chain} {number} --reason TEXT   leaves the number out"));
    }
    why.next.push(format!("push0 explain {}   {}", ErrorCode::Disagreement, ErrorCode::Disagreement.title()));
}

/// Another, final block is disputed.
pub(super) fn held_up(facts: &Facts, disputed: u64, why: &mut Why) {
    let chain = chain_of(facts);
    why.answer =
        format!("it is proven, but the chain has halted: provers disagree about block {disputed}, which is final");
    why.code = Some(ErrorCode::Disagreement);
    for found in facts.chain.chain.disagreements() {
        why.next.push(format!("push0 why {chain} {}   says who says what", found.number));
    }
    why.next.push(format!("push0 resume {chain}   once you know what was wrong"));
}
