//! What of a finalized block may be deleted, and when.
//!
//! Never by age alone: only of a block that is final (proven, or skipped), whose finalized row has been handed on, and that the policy
//! keeps no longer. What is parked, being proven, proven, failed, or skipped and not yet passed by the cursor keeps everything: an operator
//! may want it tried again.
//!
//! Always kept: the rows of chain, block and outbox, the last run's plan record, the proof, the header it was verified against, and the
//! document under `proofs/`. `verify`, `finalized` and `get` need no more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Millis, RunId};
use crate::record::{BlockRow, ChainRow};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How long everything of a block is kept after it was settled.
    pub grace: Millis,
    /// So many of the newest final blocks keep everything, whatever their age.
    pub keep_blocks: u64,
    /// Whether witnesses go, too.
    pub witnesses: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self { grace: Millis::from_secs(24 * 60 * 60), keep_blocks: 0, witnesses: false }
    }
}

/// Why nothing of a block may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is not final.
    Live,
    /// Its finalized row has not been handed on.
    Unpublished,
    /// It is too new for the policy.
    Recent,
}

/// What may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disposal {
    /// Every run of the block number, oldest first.
    pub runs: Vec<RunId>,
    /// Those of them whose plan records stay: the ones that counted.
    pub keep_plans: BTreeSet<RunId>,
    /// Blobs of these runs that stay.
    pub keep: BTreeSet<String>,
    /// Witnesses of this number, and of nothing else, begin with these.
    pub witnesses: Vec<String>,
}

/// Decides about one block. `published` is the chain's last published sequence number.
pub fn of_block(
    chain: &ChainRow,
    block: &BlockRow,
    published: u64,
    now: Millis,
    policy: &Retention,
) -> Result<Disposal, Kept> {
    let Some(seq) = block.final_seq.filter(|_| block.number < chain.next_final) else {
        return Err(Kept::Live);
    };
    if seq > published {
        return Err(Kept::Unpublished);
    }
    let newer = chain.next_final - block.number - 1;
    if newer < policy.keep_blocks || now < block.changed_at.plus(policy.grace) {
        return Err(Kept::Recent);
    }
    let lanes = block.lanes_seen.max(block.lanes());
    let run = |epoch, lane| RunId::new(block.chain.clone(), block.number, Epoch(epoch)).in_lane(lane);
    let epochs = Epoch::FIRST.0..=block.epoch.0;
    // Of several runs those that are handed on; else the one there is.
    let handed_on = (0..).zip(&block.runs).filter(|(_, lane)| lane.proof().is_some()).map(|(at, _)| at);
    let counted: Vec<u16> = if block.runs.is_empty() { vec![0] } else { handed_on.collect() };
    let others = block.proofs().flat_map(|(_, proof)| [&proof.proof, &proof.header]);
    let keep = [&block.proof, &block.header].into_iter().flatten().chain(others).map(|blob| blob.key.clone());
    Ok(Disposal {
        runs: epochs.flat_map(|epoch| (0..lanes).map(move |lane| run(epoch, lane))).collect(),
        keep_plans: counted.into_iter().map(|lane| run(block.epoch.0, lane)).collect(),
        keep: keep.collect(),
        // As `push0 submit` names them, and plain uploads; under another name a witness may be shared.
        witnesses: if policy.witnesses {
            ["-", "/"].map(|end| format!("witnesses/{}/{}{end}", block.chain, block.number)).to_vec()
        } else {
            Vec::new()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Sha256;
    use crate::record::{BlobRef, BlockStatus};

    const DAY: u64 = 24 * 60 * 60 * 1000;

    fn chain(next_final: u64) -> ChainRow {
        let next_release = next_final;
        ChainRow {
            chain: "demo".parse().unwrap(),
            first: 1,
            next_final,
            next_release,
            next_seq: next_final,
            last_hash: None,
            orphans: Vec::new(),
            window: None,
            paused: false,
            halt: None,
            on_time: Default::default(),
            walk: None,
            fork: None,
            dropped: None,
            pending: Vec::new(),
            batches: Vec::new(),
            disputed: Vec::new(),
            disputed_more: false,
            acknowledged: Vec::new(),
        }
    }

    fn block(status: BlockStatus, final_seq: Option<u64>) -> BlockRow {
        let blob = |key: &str| Some(BlobRef { key: key.to_owned(), sha256: Sha256([0; 32]), size: 1 });
        BlockRow {
            epoch: Epoch(3),
            changed_at: Millis(1_000),
            proof: blob("artifacts/cpu/proof"),
            header: blob("artifacts/trusted/header"),
            final_seq,
            ..BlockRow::new("demo".parse().unwrap(), 4, status, Millis(0))
        }
    }

    fn decide(block: &BlockRow, next_final: u64, published: u64, now: u64) -> Result<Disposal, Kept> {
        of_block(&chain(next_final), block, published, Millis(now), &Retention::default())
    }

    #[test]
    fn what_is_not_final_keeps_everything_however_old_it_is() {
        let reason = || "r".to_owned();
        let live = [
            BlockStatus::Parked,
            BlockStatus::Proving,
            BlockStatus::Proven,
            BlockStatus::Failed { reason: reason() },
            BlockStatus::Skipped { reason: reason() },
            BlockStatus::Dropped { reason: reason() },
        ];
        for status in live {
            assert_eq!(decide(&block(status, None), 4, 100, u64::MAX), Err(Kept::Live));
        }
        assert_eq!(decide(&block(BlockStatus::Final, Some(4)), 4, 100, u64::MAX), Err(Kept::Live), "not passed yet");
    }

    #[test]
    fn a_final_block_goes_when_it_was_handed_on_and_its_grace_is_over() {
        let found = block(BlockStatus::Final, Some(4));
        assert_eq!(decide(&found, 5, 3, u64::MAX), Err(Kept::Unpublished));
        assert_eq!(decide(&found, 5, 4, DAY + 999), Err(Kept::Recent));
        let disposal = decide(&found, 5, 4, DAY + 1_000).unwrap();
        let runs: Vec<String> = disposal.runs.iter().map(ToString::to_string).collect();
        assert_eq!(runs, ["demo/4/e1", "demo/4/e2", "demo/4/e3"]);
        assert_eq!(disposal.keep_plans.len(), 1);
        assert!(disposal.keep_plans.contains(disposal.runs.last().unwrap()));
        assert!(disposal.keep.contains("artifacts/cpu/proof") && disposal.keep.contains("artifacts/trusted/header"));
        assert!(disposal.witnesses.is_empty());
        let tombstone = block(BlockStatus::Skipped { reason: "r".to_owned() }, Some(4));
        assert!(decide(&tombstone, 5, 4, DAY + 1_000).is_ok());
    }

    #[test]
    fn the_newest_blocks_are_kept_and_witnesses_go_only_where_that_is_wanted() {
        let policy = Retention { grace: Millis(0), keep_blocks: 2, witnesses: true };
        let found = block(BlockStatus::Final, Some(4));
        let decide = |next_final| of_block(&chain(next_final), &found, 100, Millis(u64::MAX), &policy);
        assert_eq!(decide(6), Err(Kept::Recent), "only block 5 is newer");
        assert_eq!(decide(7).unwrap().witnesses, ["witnesses/demo/4-", "witnesses/demo/4/"]);
    }
}
