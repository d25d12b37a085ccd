//! Forks: who stands where after one, whatever came first; and the drop of a range.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Block `number` of a fork that left the chain of `submission` at `from`.
fn of_fork(number: u64, from: u64, seq: u64) -> Submission {
    let hash_of = |number: u64| hash(if number < from { number } else { 100 * seq + number } as u8);
    Submission {
        hash: hash_of(number),
        parent_hash: Some(hash_of(number - 1)),
        fork_seq: Some(seq),
        ..submission(number)
    }
}

fn reorg(number: u64, nth: u64) -> Command {
    Command::Reorg { chain: chain_id(), number, reason: "wrong fork".to_owned(), nth }
}

impl World {
    fn told(&mut self, submission: Submission) -> Result<(), Ignored> {
        self.on(Event::Submitted(submission))
    }

    fn statuses(&self) -> Vec<(u64, &'static str, bool)> {
        self.blocks.values().map(|block| (block.number, block.status.name(), block.unfit)).collect()
    }

    fn stopped_runs(&self) -> Vec<(u64, u32)> {
        let stops = self.performed.iter().filter_map(|effect| match effect {
            PendingEffect::Stop { number, epoch, .. } => Some((*number, epoch.0)),
            PendingEffect::Start { .. } | PendingEffect::Arm { .. } | PendingEffect::Demote { .. } => None,
        });
        stops.collect()
    }
}

#[test]
fn what_was_built_on_a_superseded_block_is_stopped_and_parked_until_its_parent_is_there() {
    let mut world = World::new(8);
    (1..=4).for_each(|number| world.submit(number));
    world.prove(3);
    world.told(of_fork(2, 2, 1)).unwrap();
    assert_eq!(
        world.statuses(),
        [(1, "proving", false), (2, "proving", false), (3, "parked", true), (4, "parked", true)]
    );
    assert_eq!(world.stopped_runs(), [(2, 1), (4, 1)], "3 had ended by itself");
    let late = Outcome::Failed { reason: "late".to_owned() };
    for number in [3, 4] {
        let old = RunId::new(chain_id(), number, Epoch(1));
        assert_eq!(world.on(Event::RunEnded { run: old, outcome: late.clone() }), Err(Ignored::Stale));
    }
    // The new 4 comes before the new 3.
    world.told(of_fork(4, 2, 1)).unwrap();
    assert_eq!(world.statuses()[2..], [(3, "parked", true), (4, "parked", true)]);
    world.told(of_fork(3, 2, 1)).unwrap();
    let started: Vec<_> = world.started().split_off(4);
    assert_eq!(started, [(2, 2), (3, 3), (4, 3)], "each once");
    (1..=4).for_each(|number| world.prove(number));
    let hashes: Vec<_> = world.outbox.iter().map(|row| row.hash).collect();
    assert_eq!(hashes, [1, 102, 103, 104].map(|byte| Some(hash(byte))));
    assert_eq!(world.chain.halt, None);
    assert_eq!(world.chain.fork.map(|fork| (fork.seq, fork.from)), Some((1, 2)));
}

#[test]
fn blocks_of_the_old_fork_start_again_when_it_comes_back() {
    let mut world = World::new(8);
    (1..=3).for_each(|number| world.submit(number));
    world.told(of_fork(2, 2, 1)).unwrap();
    assert_eq!(world.status(3), "parked");
    // Told of again it stays away; as a later fork it is the one.
    assert_eq!(world.told(submission(2)), Err(Ignored::Stale));
    assert_eq!(world.told(Submission { fork_seq: Some(1), ..submission(2) }), Err(Ignored::Stale));
    world.told(Submission { fork_seq: Some(2), ..submission(2) }).unwrap();
    assert_eq!(world.statuses()[1..], [(2, "proving", false), (3, "proving", false)]);
    assert_eq!(world.told(of_fork(2, 2, 1)), Err(Ignored::Stale));
    (1..=3).for_each(|number| world.prove(number));
    assert_eq!(world.finalized(), [1, 2, 3]);
    assert_eq!(world.chain.last_hash, Some(hash(3)));
}

#[test]
fn a_block_that_does_not_fit_is_not_released_and_neither_is_what_stands_behind_it() {
    let mut world = World::new(8);
    world.submit(1);
    world.told(of_fork(3, 2, 1)).unwrap();
    world.told(of_fork(4, 2, 1)).unwrap();
    world.submit(2);
    assert_eq!((world.chain.next_release, world.started()), (3, vec![(1, 1), (2, 1)]));
    world.told(of_fork(2, 2, 1)).unwrap();
    assert_eq!(world.started(), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)]);
}

#[test]
fn a_parent_that_is_only_known_once_a_block_is_proven_parks_it_too() {
    let mut world = World::new(8);
    world.submit(1);
    world.told(Submission { parent_hash: None, ..submission(2) }).unwrap();
    world.submit(3);
    let learned = |parent: u8| Outcome::Proven {
        pipeline: PipelineDigest([9; 32]),
        proof: blob("proof"),
        header: blob("header"),
        parent_hash: Some(hash(parent)),
        outputs: None,
    };
    world.end(2, learned(55)).unwrap();
    assert_eq!(world.statuses()[1..], [(2, "parked", true), (3, "parked", true)]);
    world.prove(1);
    assert!(matches!(world.chain.halt, Some(Halt::ParentMismatch { number: 2, .. })), "nobody else's fork: an alarm");
}

#[test]
fn what_a_later_fork_left_behind_waits_without_an_alarm() {
    let mut world = World::new(8);
    (1..=3).for_each(|number| world.submit(number));
    world.told(of_fork(2, 2, 1)).unwrap();
    (1..=2).for_each(|number| world.prove(number));
    assert_eq!((world.finalized(), world.status(3)), (vec![1, 2], "parked"));
    assert_eq!(world.chain.halt, None);
    world.told(of_fork(3, 2, 1)).unwrap();
    world.prove(3);
    assert_eq!(world.finalized(), [1, 2, 3]);
}

#[test]
fn what_stands_below_a_fork_and_does_not_fit_is_an_alarm() {
    let mut world = World::new(8);
    world.told(Submission { hash: hash(77), ..submission(1) }).unwrap();
    (2..=3).for_each(|number| world.submit(number));
    world.told(of_fork(3, 3, 1)).unwrap();
    world.prove(1);
    assert!(matches!(world.chain.halt, Some(Halt::ParentMismatch { number: 2, .. })), "no fork brings another 2");
}

#[test]
fn what_is_final_is_no_longer_superseded_nor_dropped() {
    let mut world = World::new(8);
    (1..=3).for_each(|number| world.submit(number));
    world.prove(1);
    assert_eq!(world.told(of_fork(1, 1, 9)), Err(Ignored::Final { number: 1 }));
    assert_eq!(world.command(reorg(1, 1)), Err(Ignored::Final { number: 1 }));
    assert_eq!(world.command(reorg(0, 1)), Err(Ignored::BelowFirst { number: 0, first: 1 }));
    assert_eq!(world.status(2), "proving");
}

#[test]
fn a_dropped_range_is_vacant_and_the_old_blocks_do_not_come_back_by_themselves() {
    let mut world = World::new(2);
    (1..=4).for_each(|number| world.submit(number));
    world.submit(90);
    world.command(reorg(2, 1)).unwrap();
    let dropped = |number| (number, "dropped", false);
    assert_eq!(world.statuses(), [(1, "proving", false), dropped(2), dropped(3), dropped(4), dropped(90)]);
    assert_eq!(world.stopped_runs(), [(2, 1)]);
    assert_eq!(world.chain.dropped.as_ref().map(|range| (range.nth, range.from, range.blocks)), Some((1, 2, 4)));
    for number in [2, 3, 90] {
        assert_eq!(world.told(submission(number)), Err(Ignored::Stale), "an old event");
        assert_eq!(world.told(Submission { parent_hash: None, ..submission(number) }), Err(Ignored::Stale));
    }
    let old = RunId::new(chain_id(), 2, Epoch(1));
    let late = Outcome::Failed { reason: "late".to_owned() };
    assert_eq!(world.on(Event::RunEnded { run: old, outcome: late }), Err(Ignored::Stale));
    // New blocks need no fork sequence, and come in any order.
    let new = |number| Submission { fork_seq: None, ..of_fork(number, 2, 1) };
    world.told(new(3)).unwrap();
    assert_eq!(world.statuses()[2], (3, "parked", false), "not released yet");
    world.told(new(2)).unwrap();
    assert_eq!(world.started(), [(1, 1), (2, 1), (2, 2)], "the window holds 3 back");
    (1..=3).for_each(|number| world.prove(number));
    assert_eq!(world.finalized(), [1, 2, 3]);
    assert_eq!(world.blocks[&2].history[0].reason, "dropped by an operator: wrong fork");
    // The old 4 comes back only on purpose.
    world.command(Command::Replace(Submission { parent_hash: Some(hash(103)), ..submission(4) })).unwrap();
    world.prove(4);
    assert_eq!(world.finalized(), [1, 2, 3, 4]);
}

#[test]
fn a_drop_that_comes_again_drops_nothing_new_and_neither_does_one_that_another_came_before() {
    let mut world = World::new(8);
    (1..=3).for_each(|number| world.submit(number));
    world.command(reorg(3, 1)).unwrap();
    world.told(of_fork(3, 3, 1)).unwrap();
    assert_eq!(world.command(reorg(3, 1)), Err(Ignored::Settled));
    assert_eq!(world.command(reorg(2, 1)), Err(Ignored::OtherDrop));
    assert_eq!(world.status(3), "proving");
    world.command(reorg(2, 2)).unwrap();
    assert_eq!(world.statuses()[1..], [(2, "dropped", false), (3, "dropped", false)]);
    assert_eq!(world.command(reorg(3, 1)), Err(Ignored::Settled));
}

#[test]
fn many_rows_are_dropped_a_few_a_step_and_what_a_crash_leaves_is_finished_before_the_next_event() {
    let mut world = World::new(8);
    world.submit(1);
    let far: Vec<u64> = (2..=200).map(|number| number * 7).collect();
    for number in &far {
        world.told(Submission { number: *number, ..submission(9) }).unwrap();
    }
    let command = Event::Command(reorg(2, 1));
    let change = decide(&world.view(Some(&command)), &command, Millis(5), &world.config).unwrap();
    world.write(change);
    // Two steps, and whoever did them is gone.
    assert!(world.step() && world.step());
    let is_dropped = |world: &World| world.statuses().iter().filter(|(_, status, _)| *status == "dropped").count();
    assert_eq!(is_dropped(&world), 2 * DROPPED_AT_ONCE);
    world.told(of_fork(14, 14, 1)).unwrap();
    assert_eq!((is_dropped(&world), world.status(14)), (far.len() - 1, "parked"));
    assert_eq!(world.chain.dropped.as_ref().unwrap().blocks, far.len() as u64);
}

#[test]
fn a_dropped_number_can_be_skipped_and_what_stands_behind_it_goes_on() {
    let mut world = World::new(8);
    (1..=2).for_each(|number| world.submit(number));
    world.command(reorg(2, 1)).unwrap();
    world.told(of_fork(3, 2, 1)).unwrap();
    assert_eq!(world.status(3), "parked");
    world.command(Command::Skip { chain: chain_id(), number: 2, reason: "lost".to_owned() }).unwrap();
    assert_eq!(world.status(3), "proving", "nothing is known of its parent");
    world.prove(1);
    world.prove(3);
    assert_eq!(world.finalized(), [1, 2, 3]);
}

#[test]
fn the_same_block_of_a_later_fork_keeps_its_run_and_counts_as_of_that_fork() {
    let mut world = World::new(8);
    world.submit(1);
    world.told(Submission { fork_seq: Some(3), ..submission(1) }).unwrap();
    assert_eq!(world.told(of_fork(1, 1, 2)), Err(Ignored::Stale));
    assert_eq!((world.blocks[&1].epoch, world.blocks[&1].fork_seq), (Epoch(1), Some(3)));
    assert_eq!(world.started(), [(1, 1)]);
}

/// What a submitter tells in the course of some reorganisations, and the chain it holds for the right one in the end.
#[derive(Debug, Clone)]
struct Story {
    told: Vec<Submission>,
    right: Vec<BlockHash>,
    /// The lowest number that ever changed.
    contested: u64,
}

/// Each fork leaves the chain before it somewhere, or goes back to the one before that.
fn story(length: usize, turns: &[(Index, usize, bool)]) -> Story {
    let mut chains: Vec<Vec<u8>> = vec![(1..=length as u8).collect()];
    let mut told = Vec::new();
    let mut tell = |chain: &[u8], from: usize, seq: Option<u64>| {
        for (position, own) in chain.iter().enumerate().skip(from) {
            let parent = if position == 0 { 0 } else { chain[position - 1] };
            let number = position as u64 + 1;
            let (hash, parent_hash) = (hash(*own), Some(hash(parent)));
            told.push(Submission { hash, parent_hash, fork_seq: seq, ..submission(number) });
        }
    };
    tell(&chains[0], 0, None);
    let (mut contested, mut next_hash) = (u64::MAX, 50);
    for (seq, (branch, longer, goes_back)) in turns.iter().enumerate() {
        let current = &chains[chains.len() - 1];
        let back = chains.len().checked_sub(2).map(|before| {
            let same = chains[before].iter().zip(current).take_while(|(one, other)| one == other).count();
            (chains[before].clone(), same)
        });
        // Without a block that tells of it nobody learns that it went back.
        let (chain, from) = match back.filter(|(back, same)| *goes_back && same < &back.len().min(current.len())) {
            Some(back) => back,
            None => {
                let from = branch.index(current.len());
                let fresh = (0..=*longer).map(|_| {
                    next_hash += 1;
                    next_hash
                });
                (current[..from].iter().copied().chain(fresh).collect(), from)
            }
        };
        contested = contested.min(from as u64 + 1);
        tell(&chain, from, Some(seq as u64 + 1));
        chains.push(chain);
    }
    let right = chains[chains.len() - 1].iter().map(|own| hash(*own)).collect();
    Story { told, right, contested }
}

/// Proves whatever is being proven until nothing more happens.
fn prove_all(world: &mut World) {
    loop {
        let is_proving = |block: &&BlockRow| block.status == BlockStatus::Proving;
        let Some(number) = world.blocks.values().find(is_proving).map(|block| block.number) else { return };
        world.prove(number);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_first_the_latest_fork_stands_and_nothing_else_is_finalized(
        length in 1usize..7,
        turns in prop::collection::vec((any::<Index>(), 0usize..6, prop::bool::weighted(0.2)), 1..5),
        window in 1u32..8,
        order in prop::collection::vec((any::<Index>(), 0u8..6), 0..80),
    ) {
        let story = story(length, &turns);
        let mut world = World::new(window);
        let mut left = story.told.clone();
        let mut order = order.into_iter();
        while !left.is_empty() {
            let (pick, deed) = order.next().map_or((None, 5), |(pick, deed)| (Some(pick), deed));
            match (pick, deed) {
                // Redelivered, or early and then once more.
                (Some(pick), 0) => {
                    let _ = world.told(story.told[pick.index(story.told.len())].clone());
                }
                // What runs is proven, but for the number that keeps the contested ones from being final.
                (Some(pick), 1) => {
                    let proving: Vec<u64> = world.blocks.values()
                        .filter(|block| block.status == BlockStatus::Proving && block.number != story.contested)
                        .map(|block| block.number).collect();
                    if !proving.is_empty() {
                        world.prove(proving[pick.index(proving.len())]);
                    }
                }
                // Somebody's run of before has something to say.
                (Some(pick), 2) if !world.started().is_empty() => {
                    let started = world.started();
                    let (number, epoch) = started[pick.index(started.len())];
                    if world.blocks[&number].epoch > Epoch(epoch) {
                        let run = RunId::new(chain_id(), number, Epoch(epoch));
                        let outcome = Outcome::Failed { reason: "late".to_owned() };
                        prop_assert_eq!(world.on(Event::RunEnded { run, outcome }), Err(Ignored::Stale));
                    }
                }
                (pick, _) => {
                    let position = pick.map_or(0, |pick| pick.index(left.len()));
                    let _ = world.told(left.remove(position));
                }
            }
        }
        // Everything was said; old things are said once more.
        let before = (world.chain.clone(), world.blocks.clone());
        for submission in &story.told {
            let _ = world.told(submission.clone());
        }
        let without_contenders = |blocks: &BTreeMap<u64, BlockRow>| -> Vec<BlockRow> {
            let plain = |block: &BlockRow| BlockRow { contenders: Vec::new(), contenders_seen: 0, ..block.clone() };
            blocks.values().map(plain).collect()
        };
        prop_assert_eq!((&before.0, without_contenders(&before.1)), (&world.chain, without_contenders(&world.blocks)));
        for (position, right) in story.right.iter().enumerate() {
            let block = &world.blocks[&(position as u64 + 1)];
            prop_assert!(block.hash == Some(*right) && !block.unfit, "{:?}", block);
        }
        prove_all(&mut world);
        let finalized: Vec<BlockHash> = world.outbox.iter().filter_map(|row| row.hash).collect();
        prop_assert_eq!(&finalized, &story.right);
        let runs: BTreeSet<(u64, u32)> = world.started().into_iter().collect();
        prop_assert_eq!(runs.len(), world.started().len(), "no run begins twice");
        for (number, epoch) in world.started() {
            let block = &world.blocks[&number];
            let is_last = block.epoch == Epoch(epoch) && block.status == BlockStatus::Final;
            let has_ended = is_last || world.stopped_runs().contains(&(number, epoch)) || block.epoch > Epoch(epoch);
            prop_assert!(has_ended, "run {}/e{} goes on: {:?}", number, epoch, block);
        }
    }
}
