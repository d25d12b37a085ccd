//! The last number that is, and the first that is not: bounds, counts, and what is left as it was.

use super::super::fit::{Unfit, unfit, was_left_behind};
use super::super::walk::look_from;
use super::super::{batch as of_batch, deadline};
use super::*;
use crate::record::{BatchCursor, Fork, MAX_CONTENDERS, Walk};

fn fork(number: u64, byte: u8, seq: u64) -> Submission {
    Submission { hash: hash(byte), fork_seq: Some(seq), ..submission(number) }
}

#[test]
fn a_number_is_in_reach_up_to_the_distance_and_a_final_one_whose_row_is_gone_is_final() {
    let mut world = World::new(4);
    world.config.distance = 10;
    let at = |number: u64| Submission { number, ..submission(1) };
    world.on(Event::Submitted(at(11))).unwrap();
    assert!(matches!(world.on(Event::Submitted(at(12))), Err(Ignored::TooFar { number: 12, cursor: 1, distance: 10 })));
    world.submit(1);
    world.prove(1);
    world.blocks.remove(&1);
    let gone = Err(Ignored::Final { number: 1 });
    assert_eq!(world.on(Event::Submitted(submission(1))), gone);
    assert_eq!(world.command(Command::Replace(submission(1))), gone);
    assert_eq!(world.command(Command::Skip { chain: chain_id(), number: 1, reason: "lost".to_owned() }), gone);
    assert!(!world.blocks.contains_key(&1));
}

#[test]
fn a_replacement_of_nothing_is_admitted_and_what_is_skipped_is_told_to_stop() {
    let mut world = World::new(4);
    world.command(Command::Replace(submission(1))).unwrap();
    assert_eq!(world.started(), [(1, 1)]);
    world.submit(2);
    world.command(Command::Skip { chain: chain_id(), number: 2, reason: "lost".to_owned() }).unwrap();
    assert!(world.performed.contains(&PendingEffect::Stop { number: 2, epoch: Epoch(1), from: 0, lanes: 1 }));
}

#[test]
fn contenders_are_remembered_up_to_a_bound_and_counted_beyond_it() {
    let mut world = World::new(4);
    world.submit(1);
    let other = |at: usize| Submission { hash: hash(100 + at as u8), ..submission(1) };
    for at in 0..=MAX_CONTENDERS {
        world.on(Event::Submitted(other(at))).unwrap();
    }
    let block = &world.blocks[&1];
    assert_eq!((block.contenders.len(), block.contenders_seen), (MAX_CONTENDERS, MAX_CONTENDERS as u32 + 1));
    // The one that takes the block's place contends no more; the others do.
    world.command(Command::Replace(other(3))).unwrap();
    let left: Vec<_> = world.blocks[&1].contenders.iter().map(|contender| contender.hash).collect();
    assert_eq!(left, [0, 1, 2, 4, 5, 6, 7].map(|at| hash(100 + at)));
}

#[test]
fn another_block_of_the_same_fork_contends_and_one_of_an_earlier_is_stale() {
    let mut world = World::new(4);
    world.on(Event::Submitted(fork(1, 50, 3))).unwrap();
    world.on(Event::Submitted(fork(1, 51, 3))).unwrap();
    assert_eq!(world.blocks[&1].contenders_seen, 1);
    assert_eq!(world.on(Event::Submitted(fork(1, 52, 2))), Err(Ignored::Stale));
}

#[test]
fn the_latest_fork_is_remembered_with_the_first_number_it_changed() {
    let mut world = World::new(8);
    (1..=4).for_each(|number| world.submit(number));
    let known = |world: &World| world.chain.fork.map(|fork| (fork.seq, fork.from, fork.at.0));
    world.now = Millis(10);
    world.on(Event::Submitted(fork(3, 103, 2))).unwrap();
    assert_eq!(known(&world), Some((2, 3, 10)));
    world.now = Millis(20);
    world.on(Event::Submitted(fork(2, 102, 1))).unwrap();
    assert_eq!(known(&world), Some((2, 2, 10)), "an earlier fork's number, of the later one");
    world.on(Event::Submitted(fork(4, 104, 2))).unwrap();
    assert_eq!(known(&world), Some((2, 2, 10)));
    world.on(Event::Submitted(fork(4, 105, 3))).unwrap();
    assert_eq!(known(&world), Some((3, 4, 20)));
}

#[test]
fn a_parent_that_is_told_later_is_looked_at() {
    let mut world = World::new(8);
    world.submit(1);
    world.on(Event::Submitted(Submission { parent_hash: None, ..submission(2) })).unwrap();
    assert_eq!(world.status(2), "proving");
    world.on(Event::Submitted(Submission { parent_hash: Some(hash(55)), ..submission(2) })).unwrap();
    assert_eq!((world.status(2), world.blocks[&2].unfit), ("parked", true));

    // Told of again as a later fork's it stays where it is, and nobody's parent has changed.
    let later = Event::Submitted(Submission { fork_seq: Some(1), ..submission(1) });
    let change = decide(&world.view(Some(&later)), &later, world.now, &world.config).unwrap();
    assert_eq!(change.chain.unwrap().walk, None);
}

#[test]
fn a_lane_that_a_block_of_one_run_does_not_have_changes_nothing() {
    let mut world = World::new(4);
    world.submit(1);
    let stray = RunId::new(chain_id(), 1, Epoch(1)).in_lane(1);
    let outcome = Outcome::Failed { reason: "broken".to_owned() };
    assert_eq!(world.on(Event::RunEnded { run: stray, outcome }), Err(Ignored::Stale));
    assert_eq!(world.status(1), "proving");
}

#[test]
fn a_block_that_fails_for_its_runs_says_how_many_there_were() {
    let reason = |world: &World| match &world.blocks[&1].status {
        BlockStatus::Failed { reason } => reason.clone(),
        other => panic!("{other:?}"),
    };
    let mut world = World::new(4);
    world.submit(1);
    let runs = world.config.bad_proof_limit + 1;
    for _ in 0..runs {
        world.end(1, Outcome::BadProof { message: "wrong root".to_owned(), suspects: vec![] }).unwrap();
    }
    assert!(reason(&world).contains(&format!("{runs} runs ended in a bad proof")), "{}", reason(&world));
    let mut world = World::new(4);
    world.submit(1);
    for _ in 0..runs {
        world.end(1, Outcome::Spoiled { message: "damaged".to_owned() }).unwrap();
    }
    assert!(reason(&world).contains(&format!("({runs} runs were spoiled)")), "{}", reason(&world));
}

#[test]
fn a_drop_may_begin_with_the_first_number_and_ends_the_halt_of_what_it_drops() {
    let drop = |number: u64, nth: u64| {
        let reason = "wrong fork".to_owned();
        Command::Reorg { chain: chain_id(), number, reason, nth }
    };
    let mut world = World::new(4);
    (1..=2).for_each(|number| world.submit(number));
    world.command(drop(1, 1)).unwrap();
    assert_eq!((world.status(1), world.status(2)), ("dropped", "dropped"));
    world.command(drop(1, 2)).unwrap();
    assert_eq!(world.chain.dropped.as_ref().unwrap().blocks, 0, "what was dropped is not dropped again");

    let mut world = World::new(4);
    world.submit(1);
    world.on(Event::Submitted(Submission { parent_hash: Some(hash(55)), ..submission(2) })).unwrap();
    world.prove(1);
    assert_eq!(world.chain.halt.as_ref().map(Halt::number), Some(2));
    world.submit(3);
    world.command(drop(3, 1)).unwrap();
    assert!(world.chain.halt.is_some(), "what is below goes on halting");
    world.command(drop(2, 2)).unwrap();
    assert_eq!(world.chain.halt, None);
}

#[test]
fn what_was_superseded_before_a_drop_does_not_come_back_after_it() {
    let mut world = World::new(4);
    (1..=2).for_each(|number| world.submit(number));
    world.on(Event::Submitted(fork(2, 102, 1))).unwrap();
    world.command(Command::Reorg { chain: chain_id(), number: 2, reason: "wrong".to_owned(), nth: 1 }).unwrap();
    for old in [submission(2), Submission { fork_seq: None, ..fork(2, 102, 1) }] {
        assert_eq!(world.on(Event::Submitted(old)), Err(Ignored::Stale));
    }
}

#[test]
fn a_skipped_number_that_nothing_is_known_of_forgets_no_orphan() {
    let mut world = World::new(8);
    world.submit(1);
    let branch = Submission { hash: hash(102), parent_hash: Some(hash(101)), ..submission(2) };
    world.on(Event::Submitted(branch)).unwrap();
    world.prove(1);
    let skip = |number: u64| Command::Skip { chain: chain_id(), number, reason: "wrong branch".to_owned() };
    world.command(skip(2)).unwrap();
    world.command(skip(3)).unwrap();
    assert_eq!(world.finalized(), [1, 2, 3]);
    assert_eq!(world.chain.orphans, [hash(102)]);
}

fn row(number: u64, status: BlockStatus) -> BlockRow {
    let (hash, parent_hash) = (Some(hash(number as u8)), Some(hash(number as u8 - 1)));
    BlockRow { hash, parent_hash, ..BlockRow::new(chain_id(), number, status, Millis(5)) }
}

fn skipped() -> BlockStatus {
    BlockStatus::Skipped { reason: "lost".to_owned() }
}

#[test]
fn what_stands_before_a_block_decides_whether_it_fits() {
    // The cursor at 3, the release point at 6.
    let chain = ChainRow { next_final: 3, next_release: 6, ..World::new(4).chain };
    let fits = |before: &BlockRow, block: &BlockRow| unfit(&chain, Some(before), block);
    let missing = |number: u64| Some(Unfit::NoPredecessor { wants: Some(hash(number as u8 - 1)), before: number - 1 });
    assert_eq!(unfit(&chain, None, &row(5, BlockStatus::Parked)), missing(5));
    assert_eq!(fits(&row(5, BlockStatus::Parked), &row(6, BlockStatus::Parked)), missing(6), "it waits itself");
    assert_eq!(fits(&row(6, BlockStatus::Parked), &row(7, BlockStatus::Parked)), None, "it only has its turn to come");
    assert_eq!(fits(&row(7, BlockStatus::Parked), &row(8, BlockStatus::Parked)), None);

    // Of another branch, and skipped: nobody's parent, but another may have been meant.
    let orphan = BlockRow { unfit: true, ..row(4, skipped()) };
    assert_eq!(fits(&orphan, &row(5, BlockStatus::Parked)), missing(5));
    let of_another = BlockRow { parent_hash: Some(hash(77)), ..row(5, BlockStatus::Parked) };
    assert_eq!(fits(&orphan, &of_another), None);
    assert_eq!(fits(&BlockRow { hash: None, ..orphan.clone() }, &of_another), None);
    let of_nobody = BlockRow { parent_hash: None, ..of_another };
    assert_eq!(fits(&orphan, &of_nobody), None);
    assert_eq!(fits(&BlockRow { hash: None, ..orphan }, &of_nobody), None);
}

#[test]
fn a_later_fork_leaves_behind_what_stood_above_its_first_number_before_it_came() {
    let fork = Some(Fork { seq: 2, from: 4, at: Millis(5) });
    let chain = ChainRow { fork, ..World::new(4).chain };
    let block = row(5, BlockStatus::Parked);
    assert!(was_left_behind(&chain, &block), "submitted in the same millisecond");
    for other in [
        BlockRow { number: 4, ..block.clone() },
        BlockRow { fork_seq: Some(2), ..block.clone() },
        BlockRow { submitted_at: Millis(6), ..block.clone() },
    ] {
        assert!(!was_left_behind(&chain, &other), "{other:?}");
    }
    assert!(was_left_behind(&chain, &BlockRow { fork_seq: Some(1), ..block.clone() }));
    assert!(!was_left_behind(&World::new(4).chain, &block));
}

/// Blocks 1 to 5, released, with 1 final; a walk looks at `at`.
fn walking(at: u64, through: u64, change: impl Fn(&mut BTreeMap<u64, BlockRow>)) -> World {
    let mut world = World::new(8);
    (1..=5).for_each(|number| world.submit(number));
    world.prove(1);
    change(&mut world.blocks);
    world.chain.walk = Some(Walk::Fit { at, through });
    world
}

#[test]
fn a_walk_looks_as_far_as_it_was_told_and_on_while_something_changes() {
    let of_another = |number: u64| {
        move |blocks: &mut BTreeMap<u64, BlockRow>| blocks.get_mut(&number).unwrap().parent_hash = Some(hash(77))
    };
    // 2 stays as it is, and 3 has to go.
    let mut world = walking(2, 2, of_another(3));
    assert!(world.step());
    assert_eq!(world.chain.walk, Some(Walk::Fit { at: 3, through: 2 }));
    while world.step() {}
    let statuses: Vec<_> = (2..=5).map(|number| world.status(number)).collect();
    assert_eq!(statuses, ["proving", "parked", "parked", "parked"]);

    // 3 stays as it is beyond what was asked: nobody behind it is looked at.
    let mut world = walking(3, 2, of_another(5));
    assert!(world.step());
    assert_eq!((world.chain.walk, world.status(5)), (None, "proving"));
    let waits = |blocks: &mut BTreeMap<u64, BlockRow>| {
        let block = blocks.get_mut(&3).unwrap();
        (block.status, block.unfit, block.parent_hash) = (BlockStatus::Parked, true, Some(hash(77)));
    };
    let mut world = walking(3, 2, waits);
    assert!(world.step());
    assert_eq!(world.chain.walk, None, "it waits as it did");
}

#[test]
fn a_failed_block_that_does_not_fit_waits_for_its_parent_unless_it_is_a_hole() {
    let failed = |witness: Option<BlobRef>| {
        move |blocks: &mut BTreeMap<u64, BlockRow>| {
            let block = blocks.get_mut(&3).unwrap();
            block.status = BlockStatus::Failed { reason: "broken".to_owned() };
            (block.parent_hash, block.witness) = (Some(hash(77)), witness.clone());
        }
    };
    for (witness, status) in [(Some(blob("witness")), "parked"), (None, "failed")] {
        let mut world = walking(3, 3, failed(witness));
        while world.chain.walk.is_some() {
            assert!(world.step());
        }
        assert_eq!(world.status(3), status);
    }
}

#[test]
fn what_has_not_been_released_is_not_walked_to() {
    let mut chain = ChainRow { next_release: 6, ..World::new(4).chain };
    look_from(&mut chain, 6);
    assert_eq!(chain.walk, None);
    look_from(&mut chain, 5);
    assert_eq!(chain.walk, Some(Walk::Fit { at: 5, through: 5 }));
}

#[test]
fn a_block_is_overdue_when_its_deadline_has_passed_and_not_with_it() {
    let block = BlockRow { deadline: Some(Millis(9)), ..row(1, BlockStatus::Proving) };
    assert!(!deadline::is_overdue(&block, Millis(9)));
    assert!(deadline::is_overdue(&block, Millis(10)));
    assert!(!deadline::is_overdue(&BlockRow { final_seq: Some(1), ..block.clone() }, Millis(10)));
    assert!(!deadline::is_overdue(&BlockRow { status: skipped(), ..block }, Millis(10)));
}

#[test]
fn runs_that_a_block_does_not_need_have_an_hour_unless_it_is_said() {
    assert_eq!(super::super::Provers::REST_LIMIT, Millis(3_600_000));
}

#[test]
fn a_batch_is_admitted_with_what_it_is_made_of() {
    let mut world = batch_chain();
    world.on(batch(1, Content::Witness(blob("manifest")))).unwrap();
    let block = &world.blocks[&1];
    assert_eq!((block.hash, block.parent_hash), (Some(hash(1)), Some(hash(0))));
    assert_eq!(block.witness, Some(blob("manifest")));
    assert_eq!(block.batch.as_ref().unwrap().to_string(), "source 1..2");
}

#[test]
fn there_is_more_for_a_batch_chain_while_a_full_batch_waits_behind_the_last_it_was_told_of() {
    let chain: ChainId = "batches".parse().unwrap();
    let batching = Batching { of: chain_id(), size: 3, wait: None };
    let cursor = BatchCursor { next: 4, number: 2, told: 1, ..BatchCursor::new(chain.clone(), 1) };
    let source = |next_final: u64| ChainRow { next_final, batches: vec![cursor.clone()], ..World::new(4).chain };
    let more =
        |next_final: u64, chain: &ChainId, told: u64| of_batch::has_more(&source(next_final), chain, &batching, told);
    assert!(more(7, &chain, 1));
    assert!(more(8, &chain, 1));
    assert!(!more(6, &chain, 1), "two of three");
    assert!(!more(7, &chain, 0) && !more(6, &chain, 0), "it is told of another first");
    assert!(!more(7, &"others".parse().unwrap(), 1));
}
