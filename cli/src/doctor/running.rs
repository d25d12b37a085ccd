//! What a running push0 shows of itself.

use push0_core::record::{BlockStatus, Halt};
use push0_core::{ErrorCode, Millis};
use push0_runtime::port::{Blobs, ErrorKind};
use push0_runtime::snapshot::ChainSnapshot;

use super::{Finding, Findings, State};
use crate::connect::Remote;
use crate::dlq;
use crate::render::duration;
use crate::view::{self, Overview};

/// A queue whose oldest message is older than this, with nobody at it, does not move.
const STUCK: Millis = Millis::from_secs(60);

/// Clocks may differ by this much.
const SKEW: Millis = Millis::from_secs(5);

/// Blobs listed at a time.
const PAGE: usize = 1000;

pub(super) async fn running(remote: &Remote, deep: bool, findings: &mut Findings) {
    let own = env!("CARGO_PKG_VERSION");
    let there = &remote.notice.version;
    if there == own {
        findings.ok("running push0", format!("version {there} at {}", remote.address));
    } else {
        let says = ErrorCode::OtherVersion.says(format!("version {there} runs, this is {own}"));
        findings.warn("running push0", says, "use the same version on both ends");
    }
    match view::overview(remote, None).await {
        Ok(overview) => look(remote, &overview, findings),
        Err(error) => {
            let report = crate::error::Report::new(&error);
            findings.problem("state", report.code.unwrap_or(ErrorCode::StorageTrouble), report.message, report.next);
        }
    }
    match dlq::letters(remote).await {
        Ok(letters) if letters.is_empty() => findings.ok("dead letters", "none"),
        Ok(letters) => {
            findings.warn("dead letters", format!("{} messages that nobody handles", letters.len()), "push0 dlq list");
        }
        Err(error) => {
            findings.warn("dead letters", format!("cannot be looked at: {error:#}"), "see the log of `push0 up`")
        }
    }
    if deep {
        blobs(&*remote.blobs, findings).await;
    }
}

fn look(remote: &Remote, overview: &Overview, findings: &mut Findings) {
    if remote.notice.started_at > overview.at.plus(SKEW) {
        let ahead = remote.notice.started_at.since(overview.at);
        let says = format!("the clock of the running push0 is {} ahead of this one", duration(ahead));
        findings.warn("clocks", says, "let NTP set both");
    }
    chains(overview, findings);
    workers(overview, remote.is_aws(), findings);
    let stuck = overview
        .queues
        .iter()
        .filter(|(_, stats)| stats.visible > 0 && stats.in_flight == 0 && stats.oldest.is_some_and(|age| age > STUCK));
    // Nobody of push0 reads these two.
    let unread = [push0_core::message::queue::POISON, push0_core::message::queue::FINALIZED];
    let stuck: Vec<&str> = stuck.map(|(name, _)| name.as_str()).filter(|name| !unread.contains(name)).collect();
    if stuck.is_empty() {
        findings.ok("queues", format!("{} queues, all moving or empty", overview.queues.len()));
    } else {
        let says = ErrorCode::NobodyTakesTasks.says(format!("nothing has moved for a minute in {}", stuck.join(", ")));
        findings.warn("queues", says, "start workers for work queues; for others look at the log of `push0 up`");
    }
}

fn chains(overview: &Overview, findings: &mut Findings) {
    for snapshot in &overview.chains {
        let row = &snapshot.chain;
        let what = format!("chain {}", row.chain);
        findings.0.extend(uncompared(snapshot));
        let at_cursor = snapshot.blocks.iter().find(|block| block.block.number == row.next_final);
        if let Some(halt) = &row.halt {
            let code = match halt {
                Halt::ParentMismatch { .. } => ErrorCode::ParentMismatch,
                Halt::OrphanParent { .. } => ErrorCode::OrphanParent,
                Halt::Disagreement(_) => ErrorCode::Disagreement,
            };
            let number = halt.number();
            findings.problem(
                what,
                code,
                format!("halted at block {number}"),
                format!("push0 why {} {number}", row.chain),
            );
            for found in &row.disputed {
                let (number, what) = (found.number, format!("chain {}", row.chain));
                let says = format!("then halted at block {number}");
                findings.problem(what, ErrorCode::Disagreement, says, format!("push0 why {} {number}", row.chain));
            }
        } else if let Some((number, reason)) = at_cursor.and_then(|block| match &block.block.status {
            BlockStatus::Failed { reason } => Some((block.block.number, reason)),
            _ => None,
        }) {
            let code = ErrorCode::find(reason).unwrap_or(ErrorCode::AttemptsUsedUp);
            let (_, reason) = ErrorCode::split(reason);
            let says = format!("nothing becomes final behind block {number}, which failed: {reason}");
            findings.problem(what, code, says, format!("push0 why {} {number}", row.chain));
        } else if row.paused {
            findings.warn(what, "paused", format!("push0 resume {}", row.chain));
        } else {
            findings.ok(what, format!("{} finalized, next is block {}", row.next_seq - 1, row.next_final));
        }
    }
}

/// A quorum was met by proofs that nobody could compare. Only a proof shows it: whether a prover gives `outputs` stands in no configuration.
fn uncompared(snapshot: &ChainSnapshot) -> Option<Finding> {
    let latest = snapshot.blocks.iter().rev().map(|block| &block.block).find(|block| block.proofs().count() > 1)?;
    let silent: Vec<&str> = latest.uncompared().into_iter().map(|lane| lane.name.as_str()).collect();
    (!silent.is_empty()).then(|| Finding {
        what: format!("chain {}", latest.chain),
        state: State::Warning,
        code: None,
        says: format!(
            "block {} was proven by several, but nothing that {} state was compared: their provers' `verify` gives no `outputs`",
            latest.number,
            silent.join(" and ")
        ),
        next: Some("have `verify` say `outputs` (docs/prover-protocol.md): without them a wrong proof is not noticed".to_owned()),
    })
}

fn workers(overview: &Overview, is_aws: bool, findings: &mut Findings) {
    let Some(here) = &overview.here else {
        if is_aws {
            findings.ok("workers", "on AWS nobody knows who is here; `push0 status` shows who has a task in hand");
        } else {
            findings.warn("workers", "the running push0 cannot say who is here", "use the same version on both ends");
        }
        return;
    };
    for worker in here.iter().filter(|worker| !worker.here) {
        let says = format!("worker {} last called {} ago", worker.worker, duration(worker.silent_for));
        findings.warn("workers", says, "look at its machine; nothing to do if it was stopped for good");
    }
    for pool in &overview.lonely {
        let says = ErrorCode::NobodyTakesTasks.says(format!("nobody here takes tasks of pool {pool}"));
        findings.warn("workers", says, format!("push0 worker --pool {pool}, or `workers.pools` of push0.toml"));
    }
    let names: Vec<&str> = here.iter().filter(|worker| worker.here).map(|worker| worker.worker.as_str()).collect();
    if overview.lonely.is_empty() {
        findings.ok("workers", format!("{} here: {}", names.len(), names.join(", ")));
    }
}

/// Reads every blob; whoever sends and receives it compares it with its digest.
async fn blobs(blobs: &dyn Blobs, findings: &mut Findings) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (mut read, mut after) = (0_u64, None::<String>);
    loop {
        let keys = match blobs.list("", after.as_deref(), PAGE).await {
            Ok(keys) => keys,
            Err(error) => {
                findings.problem("blobs", error.code(), error.to_string(), "see the log of `push0 up`");
                return;
            }
        };
        for key in &keys {
            let path = dir.path().join("blob");
            match blobs.get_file(key, &path).await {
                // Deleted meanwhile.
                Ok(None) => {}
                Ok(Some(_)) => read += 1,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let next = "`push0 explain P0-402` says what is made again by itself, and what is not";
                    findings.problem("blobs", ErrorCode::BlobDamaged, ErrorCode::split(error.message()).1, next);
                }
                Err(error) => findings.problem("blobs", error.code(), error.to_string(), "try again"),
            }
            let _ = std::fs::remove_file(&path);
        }
        after = keys.last().cloned();
        if keys.len() < PAGE {
            break;
        }
    }
    findings.ok("blobs", format!("{read} blobs are what was stored"));
}

#[cfg(test)]
mod tests {
    use push0_core::record::{BlobRef, Lane, LaneProof, LaneState};
    use push0_core::{PipelineDigest, Sha256};

    use super::*;
    use crate::why::fixtures::{NOW, block};

    #[test]
    fn a_quorum_of_proofs_that_nobody_could_compare_is_a_warning() {
        let blob = BlobRef { key: "k".to_owned(), sha256: Sha256([1; 32]), size: 9 };
        let lane = |name: &str, at: u8, outputs: Option<u8>| {
            let outputs = outputs.map(|outputs| Sha256([outputs; 32]));
            let proof = LaneProof { proof: blob.clone(), header: blob.clone(), outputs, parent_hash: None, at: NOW };
            let (name, pipeline) = (name.parse().unwrap(), PipelineDigest([at; 32]));
            Lane { name, pipeline, state: LaneState::Proven(proof) }
        };
        let found = |outputs: [Option<u8>; 2]| {
            let mut block = block(1, BlockStatus::Final);
            block.block.runs = vec![lane("k8", 1, outputs[0]), lane("k16", 2, outputs[1])];
            let config = push0_core::chain::ChainConfig::new("demo".parse().unwrap(), PipelineDigest([1; 32]));
            let (chain, class) = (config.new_row(), config.class);
            uncompared(&ChainSnapshot { chain, class, window: 4, published: 0, blocks: vec![block] })
        };
        assert!(found([Some(7), Some(7)]).is_none());
        let one = found([Some(7), None]).unwrap();
        assert!(one.state == State::Warning && one.says.contains("nothing that k16 state"), "{}", one.says);
        assert!(found([None, None]).unwrap().says.contains("k8 and k16"));
    }
}
