//! Which rows are read for what is next: no fewer than a decision looks at, and no more.

use super::*;

/// A chain whose cursor stands at 3 and whose release point at 6.
fn chain() -> ChainRow {
    ChainRow { next_final: 3, next_release: 6, next_seq: 3, ..World::new(4).chain }
}

fn numbers(chain: &ChainRow, event: Option<&Event>) -> Vec<u64> {
    match View::wants(chain, event) {
        Wants::Numbers(numbers) => numbers,
        Wants::From(number, most) => panic!("{most} rows from {number} on"),
    }
}

#[test]
fn cursor_release_point_event_and_first_effect_are_read_each_once() {
    let mut chain = chain();
    assert_eq!(numbers(&chain, None), [3, 6]);
    assert_eq!(numbers(&chain, Some(&Event::Submitted(submission(9)))), [3, 6, 9]);
    assert_eq!(numbers(&chain, Some(&Event::Submitted(submission(6)))), [3, 6]);
    chain.pending = vec![PendingEffect::Arm { number: 5 }, PendingEffect::Arm { number: 8 }];
    assert_eq!(numbers(&chain, Some(&Event::Tick)), [3, 5, 6]);
}

#[test]
fn a_walk_reads_what_it_stands_at_with_the_one_before_and_an_effects_block_first() {
    let at = |at: u64| ChainRow { walk: Some(Walk::Fit { at, through: 9 }), ..chain() };
    assert_eq!(numbers(&at(5), None), [4, 5]);
    assert_eq!(numbers(&at(4), None), [3, 4]);
    assert_eq!(numbers(&at(3), None), [3], "what is final decides about the block at the cursor");
    let pending = vec![PendingEffect::Arm { number: 7 }];
    assert_eq!(numbers(&ChainRow { pending, ..at(5) }, None), [7]);
    let drop = ChainRow { walk: Some(Walk::Drop { at: 4 }), ..chain() };
    assert!(matches!(View::wants(&drop, None), Wants::From(4, most) if most > 1));
}

/// A block at the release point, or elsewhere, and what is lacked with it.
fn lacks(chain: ChainRow, block: BlockRow, event: Option<&Event>) -> Option<u64> {
    let view = View { chain, blocks: [(block.number, block)].into(), published: 0 };
    view.lacks(event, &World::new(4).config)
}

fn block(number: u64, status: BlockStatus) -> BlockRow {
    let mut world = World::new(4);
    world.chain = ChainRow { next_release: number + 1, ..world.chain };
    world.on(Event::Submitted(submission(number))).unwrap();
    BlockRow { status, ..world.blocks[&number].clone() }
}

#[test]
fn the_row_before_is_read_where_a_block_may_be_released() {
    let parked = || block(6, BlockStatus::Parked);
    assert_eq!(lacks(chain(), parked(), None), Some(5));
    assert_eq!(lacks(ChainRow { paused: true, ..chain() }, parked(), None), None);
    // A window of 4 from 3 on ends with 6.
    let beyond = ChainRow { next_final: 2, ..chain() };
    assert_eq!(lacks(beyond.clone(), parked(), None), None);
    assert_eq!(lacks(beyond.clone(), block(6, BlockStatus::Skipped { reason: String::new() }), None), Some(5));
    assert_eq!(lacks(ChainRow { paused: true, ..beyond }, parked(), None), None);
    // What is final decides about the block at the cursor.
    assert_eq!(lacks(ChainRow { next_final: 6, ..chain() }, parked(), None), None);
    assert_eq!(lacks(ChainRow { walk: Some(Walk::Drop { at: 4 }), ..chain() }, parked(), None), None);
    assert_eq!(lacks(chain(), parked(), Some(&Event::Tick)), None);
}

#[test]
fn the_row_before_is_not_read_twice() {
    let (before, parked) = (block(5, BlockStatus::Proving), block(6, BlockStatus::Parked));
    let view = View { chain: chain(), blocks: [(5, before), (6, parked)].into(), published: 0 };
    assert_eq!(view.lacks(None, &World::new(4).config), None);
}

#[test]
fn the_row_before_is_read_where_a_proof_names_a_parent_that_nobody_knew() {
    let parent = Some(hash(4));
    let run = RunId::new(chain_id(), 5, Epoch::FIRST);
    let outcome = Outcome::Proven {
        pipeline: PipelineDigest([9; 32]),
        proof: blob("proof"),
        header: blob("header"),
        parent_hash: parent,
        outputs: None,
    };
    let event = Event::RunEnded { run, outcome };
    let known = block(5, BlockStatus::Proving);
    let unknown = BlockRow { parent_hash: None, ..known.clone() };
    assert_eq!(lacks(chain(), unknown, Some(&event)), Some(4));
    assert_eq!(lacks(chain(), known, Some(&event)), None);
}

#[test]
fn whoever_can_do_something_about_an_answer_is_told_its_page() {
    let pages = [
        (Ignored::Settled, None),
        (Ignored::Stale, None),
        (Ignored::Late, None),
        (Ignored::OtherDrop, None),
        (Ignored::Unknown, Some(ErrorCode::UnknownBlock)),
        (Ignored::Final { number: 1 }, Some(ErrorCode::AlreadyFinal)),
        (Ignored::Derived { of: chain_id() }, Some(ErrorCode::DerivedChain)),
        (Ignored::Hole { number: 1 }, Some(ErrorCode::BatchHole)),
        (Ignored::Window(0), Some(ErrorCode::BadRequest)),
    ];
    for (ignored, page) in pages {
        assert_eq!(ignored.code(), page, "{ignored}");
    }
}
