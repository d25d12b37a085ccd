//! Each invariant with what just holds and what just does not: they watch over everything else, and nothing watches over them.

use super::*;
use crate::chain::ChainConfig;
use crate::id::{Attempt, BlockHash, ChainId, Epoch, Millis, PipelineDigest, Sha256};
use crate::message::FailureKind;
use crate::record::{Artifact, BatchCursor, BatchRange, BlobRef, Finality, Lane, LaneProof, LaneState, Late, Missed};

fn chain_id() -> ChainId {
    "demo".parse().unwrap()
}

fn blob(name: &str) -> BlobRef {
    BlobRef { key: name.to_owned(), sha256: Sha256::of(name.as_bytes()), size: 1 }
}

#[track_caller]
fn holds(check: Check) {
    check.unwrap();
}

#[track_caller]
fn breaks(id: &str, check: Check) {
    assert_eq!(check.unwrap_err().id, id);
}

/// Begins with 3; cursor 5, release point 7; a batch chain that has taken blocks 3 and 4.
fn chain_row() -> ChainRow {
    let batches = vec![BatchCursor { chain: "batches".parse().unwrap(), next: 5, number: 2, told: 1, since: None }];
    let row = ChainConfig::new(chain_id(), PipelineDigest([9; 32])).new_row();
    ChainRow { first: 3, next_final: 5, next_release: 7, next_seq: 3, batches, ..row }
}

#[test]
fn cursor_release_point_and_sequence_are_in_order_and_never_move_back() {
    let row = chain_row();
    holds(chain(None, &row));
    holds(chain(Some(&row), &row));
    breaks("I1", chain(None, &ChainRow { first: 6, ..row.clone() }));
    breaks("I1", chain(None, &ChainRow { next_release: 4, ..row.clone() }));
    holds(chain(None, &ChainRow { next_release: 5, ..row.clone() }));
    breaks("I2", chain(None, &ChainRow { next_seq: 4, ..row.clone() }));
    breaks("I2", chain(None, &ChainRow { next_seq: 2, ..row.clone() }));

    let further = ChainRow { next_final: 6, next_release: 8, next_seq: 4, ..row.clone() };
    holds(chain(Some(&row), &further));
    breaks("I3", chain(Some(&further), &row));
    breaks("I3", chain(Some(&row), &ChainRow { next_release: 6, ..row.clone() }));
    // Cursor and sequence move together, unless the first number does, too.
    let from = |first: u64| ChainRow { first, batches: Vec::new(), ..row.clone() };
    breaks("I3", chain(Some(&from(3)), &ChainRow { next_seq: 2, ..from(4) }));
    breaks("I3", chain(Some(&from(3)), &ChainRow { next_final: 4, ..from(2) }));
}

#[test]
fn batch_cursors_stay_at_or_below_the_cursor_and_never_move_back() {
    let with = |change: &dyn Fn(&mut BatchCursor)| {
        let mut row = chain_row();
        change(&mut row.batches[0]);
        row
    };
    let row = chain_row();
    breaks("I3", chain(None, &with(&|batch| batch.next = 6)));
    breaks("I3", chain(None, &with(&|batch| batch.told = 2)));
    let further = with(&|batch| (batch.number, batch.told) = (3, 2));
    holds(chain(Some(&row), &further));
    breaks("I3", chain(Some(&row), &with(&|batch| batch.next = 4)));
    breaks("I3", chain(Some(&further), &with(&|batch| batch.told = 1)));
    breaks("I3", chain(Some(&further), &with(&|batch| (batch.number, batch.told) = (3, 1))));
    breaks("I3", chain(Some(&with(&|batch| batch.number = 3)), &row));
    breaks("I3", chain(Some(&row), &ChainRow { batches: Vec::new(), ..row.clone() }));
    // Another chain's cursor takes nobody's place.
    breaks("I3", chain(Some(&row), &with(&|batch| batch.chain = "others".parse().unwrap())));
    let mut joined = row.clone();
    joined.batches.push(BatchCursor::new("others".parse().unwrap(), 3));
    holds(chain(Some(&row), &joined));
}

fn row(status: BlockStatus) -> BlockRow {
    let (proof, header) = (Some(blob("proof")), Some(blob("header")));
    BlockRow { hash: Some(BlockHash([4; 32])), proof, header, ..BlockRow::new(chain_id(), 4, status, Millis(5)) }
}

fn reason() -> String {
    "for a reason".to_owned()
}

#[test]
fn a_proven_block_has_proof_header_and_its_quorum_of_roots() {
    for status in [BlockStatus::Proven, BlockStatus::Final] {
        let row = row(status);
        holds(block(None, &row));
        breaks("I6", block(None, &BlockRow { proof: None, ..row.clone() }));
        breaks("I6", block(None, &BlockRow { header: None, ..row.clone() }));

        let proof = LaneProof { proof: blob("p"), header: blob("h"), outputs: None, parent_hash: None, at: Millis(5) };
        let lane = |byte: u8, state: LaneState| Lane {
            state,
            ..Lane::new("rollup".parse().unwrap(), PipelineDigest([byte; 32]))
        };
        let runs = |proven: u8| {
            let proven = (0..proven).map(|byte| lane(byte, LaneState::Proven(proof.clone())));
            proven.chain([lane(9, LaneState::Proving)]).collect::<Vec<_>>()
        };
        for (quorum, proven, is_enough) in [(2, 1, false), (2, 2, true), (2, 3, true), (1, 0, false), (1, 1, true)] {
            let check = block(None, &BlockRow { runs: runs(proven), quorum, ..row.clone() });
            if is_enough { holds(check) } else { breaks("I11", check) }
        }
        holds(block(None, &BlockRow { quorum: 1, ..row }));
    }
    let proving = BlockRow { proof: None, header: None, ..row(BlockStatus::Proving) };
    holds(block(None, &proving));
}

#[test]
fn a_block_is_late_after_its_deadline_and_abandoned_for_that_before_it_is_proven() {
    let missed = |at: u64| Some(Missed { at: Millis(at), then: Late::Abandon });
    let proving = BlockRow { deadline: Some(Millis(8)), ..row(BlockStatus::Proving) };
    holds(block(None, &BlockRow { missed: missed(9), ..proving.clone() }));
    breaks("I14", block(None, &BlockRow { missed: missed(8), ..proving.clone() }));
    breaks("I14", block(None, &BlockRow { missed: missed(9), deadline: None, ..proving.clone() }));

    let abandoned = BlockStatus::Skipped { reason: "P0-037: too late".to_owned() };
    let abandoned = BlockRow { status: abandoned, ..proving.clone() };
    assert!(is_abandoned(&abandoned));
    holds(block(Some(&proving), &abandoned));
    holds(block(Some(&abandoned), &abandoned));
    for was in [BlockStatus::Proven, BlockStatus::Final] {
        breaks("I14", block(Some(&BlockRow { status: was, ..proving.clone() }), &abandoned));
    }
    let by_hand = BlockRow { status: BlockStatus::Skipped { reason: reason() }, ..proving.clone() };
    holds(block(Some(&BlockRow { status: BlockStatus::Proven, ..proving }), &by_hand));
}

#[test]
fn an_epoch_never_falls_and_what_ended_begins_again_only_in_a_new_one() {
    let of = |status: BlockStatus, epoch: u32| BlockRow { epoch: Epoch(epoch), ..row(status) };
    breaks("I4", block(Some(&of(BlockStatus::Proving, 2)), &of(BlockStatus::Proving, 1)));
    holds(block(Some(&of(BlockStatus::Proving, 2)), &of(BlockStatus::Proving, 3)));
    let ended = [
        BlockStatus::Failed { reason: reason() },
        BlockStatus::Skipped { reason: reason() },
        BlockStatus::Dropped { reason: reason() },
    ];
    for was in ended {
        for now in [BlockStatus::Parked, BlockStatus::Proving, BlockStatus::Proven] {
            breaks("I4", block(Some(&of(was.clone(), 2)), &of(now.clone(), 2)));
            holds(block(Some(&of(was.clone(), 2)), &of(now, 3)));
        }
        holds(block(Some(&of(was.clone(), 2)), &of(was.clone(), 2)));
        holds(block(Some(&of(was, 2)), &of(BlockStatus::Dropped { reason: reason() }, 2)));
    }
    holds(block(Some(&of(BlockStatus::Proving, 2)), &of(BlockStatus::Proven, 2)));
}

#[test]
fn what_is_final_never_changes() {
    let before = BlockRow { final_seq: Some(2), ..row(BlockStatus::Final) };
    holds(block(Some(&before), &before));
    breaks("I5", block(Some(&before), &BlockRow { bad_proofs: 1, ..before.clone() }));
    holds(block(Some(&BlockRow { final_seq: None, ..before.clone() }), &before));
}

#[test]
fn an_outbox_row_is_of_the_number_that_its_place_says_and_published_once_it_is_there() {
    let chain = chain_row();
    let finality = Finality::Tombstone { reason: reason() };
    let row = OutboxRow {
        seq: 2,
        chain: chain_id(),
        number: 4,
        epoch: Epoch(1),
        hash: None,
        parent_hash: None,
        batch: None,
        finality,
        timings: None,
    };
    holds(outbox(&chain, &row));
    breaks("I7", outbox(&chain, &OutboxRow { number: 5, ..row.clone() }));
    breaks("I7", outbox(&chain, &OutboxRow { seq: 1, number: 3, ..row.clone() }));
    breaks("I7", outbox(&chain, &OutboxRow { seq: 3, number: 5, ..row }));
    holds(published(&chain, 2));
    breaks("I8", published(&chain, 3));
}

#[test]
fn a_batch_is_of_final_blocks_and_ends_where_the_next_begins() {
    let chain = chain_row();
    let range = |from, to| BatchRange { of: chain_id(), from, to };
    let of = |number, range| BatchRow { chain: "batches".parse().unwrap(), number, range, at: Millis(5) };
    holds(batch(&chain, &of(1, range(3, 4))));
    holds(batch(&chain, &of(1, range(4, 4))));
    for wrong in [
        of(1, range(3, 3)),
        of(2, range(3, 4)),
        of(1, range(5, 4)),
        of(1, BatchRange { of: "other".parse().unwrap(), ..range(3, 4) }),
        BatchRow { chain: "others".parse().unwrap(), ..of(1, range(3, 4)) },
    ] {
        breaks("I10", batch(&chain, &wrong));
    }
    // Its blocks are below the cursor, wherever the next batch is said to begin.
    let mut ahead = chain.clone();
    ahead.batches[0].next = 6;
    breaks("I10", batch(&ahead, &of(1, range(3, 5))));
}

#[test]
fn further_copies_stay_within_their_budget() {
    let sketch = |work: u64, extra: u64| {
        let mut sketch = Sketch::default();
        (sketch.work, sketch.extra) = (Millis(work), Millis(extra));
        sketch
    };
    let hedging = Hedging { budget: 50, ..Hedging::default() };
    holds(hedged(&sketch(1_000, 50), &hedging, 1));
    breaks("I12", hedged(&sketch(1_000, 51), &hedging, 1));
    holds(hedged(&sketch(1_000, 51), &hedging, 0));
    holds(hedged(&sketch(u64::MAX, u64::MAX / 20), &hedging, 1));
}

#[test]
fn a_node_is_sent_with_every_slot_filled_at_or_above_its_floor() {
    let artifact = |attempt: u32| Artifact {
        attempt: Attempt(attempt),
        blob: blob("a"),
        worker: "w-1".parse().unwrap(),
        at: Millis(5),
    };
    let view = |attempts: &[(u32, u32)], floors: &[(u32, u32)]| NodeView {
        slots: attempts.iter().map(|(slot, attempt)| (*slot, artifact(*attempt))).collect(),
        floors: floors.iter().map(|(slot, attempt)| (*slot, Attempt(*attempt))).collect(),
        ..NodeView::default()
    };
    holds(sent(&view(&[(0, 1), (1, 1)], &[]), 2));
    breaks("I9", sent(&view(&[(0, 1)], &[]), 2));
    breaks("I9", sent(&view(&[(0, 1), (2, 1)], &[]), 2));
    holds(sent(&view(&[(0, 2), (1, 1)], &[(0, 2)]), 2));
    holds(sent(&view(&[(0, 3), (1, 1)], &[(0, 2)]), 2));
    breaks("I9", sent(&view(&[(0, 1), (1, 1)], &[(0, 2)]), 2));
}

#[test]
fn a_failure_counts_against_the_attempt_that_was_wanted_and_once() {
    let note = |attempt: u32| FailureNote {
        attempt: Attempt(attempt),
        copy: 0,
        worker: None,
        by: None,
        kind: FailureKind::Retryable,
        message: reason(),
        accused: Vec::new(),
        at: Millis(5),
    };
    let before = Try { attempt: Attempt(2), failed: 1, lost: 1, failures: vec![note(1)], ..Try::default() };
    let next = Try { attempt: Attempt(3), ..before.clone() };
    holds(tried(&before, &before));
    holds(tried(&before, &next));
    holds(tried(&before, &Try { failed: 2, failures: vec![note(1), note(2)], ..next.clone() }));
    holds(tried(&before, &Try { lost: 2, ..next.clone() }));
    breaks("I15", tried(&before, &Try { failed: 3, ..next.clone() }));
    breaks("I15", tried(&before, &Try { failed: 2, lost: 2, ..next.clone() }));
    breaks("I15", tried(&before, &Try { failed: 0, ..next.clone() }));
    breaks("I15", tried(&before, &Try { lost: 0, ..next.clone() }));
    breaks("I15", tried(&before, &Try { attempt: Attempt(1), ..before.clone() }));
    for stale in [1, 3] {
        let mut other = note(stale);
        other.at = Millis(6);
        breaks("I15", tried(&before, &Try { failed: 2, failures: vec![note(1), other], ..next.clone() }));
    }
}

#[test]
fn a_block_is_released_within_the_window() {
    let chain = chain_row();
    let at = |number: u64| BlockRow { number, ..row(BlockStatus::Proving) };
    holds(released(&chain, &at(7), 3));
    breaks("I16", released(&chain, &at(7), 2));
    // It was released before, or is not now.
    holds(released(&chain, &at(6), 1));
    holds(released(&chain, &BlockRow { status: BlockStatus::Parked, ..at(7) }, 2));
}
