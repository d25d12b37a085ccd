//! Deadlines: pinned when a block is admitted, and what happens when one passes.
//!
//! A deadline is a time in the block's row, `submitted_at` and the duration that the submission or the chain's configuration gives.
//! Another block or witness under the number gets a new one; a run begun anew for the same submission does not. Whoever brings
//! [`Event::DeadlinePassed`](super::Event) only points at a number: what is due follows from the row and the clock, so a message that comes
//! early, late, twice or for a deadline that is no longer the block's does nothing.
//!
//! A block is on time if it is final at its deadline at the latest. It is marked as missed once, whatever the policy; what is final is
//! never touched, and a block that is proven and only waits for its predecessor goes on, since nothing is left to be saved.

use super::walk::look_from;
use super::{ChainConfig, Change, Event, Ignored, Now, View, end_run};
use crate::error_code::ErrorCode;
use crate::id::Millis;
use crate::message::Command;
use crate::record::{BlockRow, BlockStatus, Late, Missed, PendingEffect};

/// Pins the deadline of the block that `event` has just put in place, if it has, and asks for its timer.
pub(super) fn pin(view: &View, change: &mut Change, event: &Event, now: Now, config: &ChainConfig) {
    let own = match event {
        Event::Submitted(submission) | Event::Command(Command::Replace(submission)) => submission.deadline,
        Event::Batched(_) => None,
        Event::RunEnded { .. } | Event::Command(_) | Event::DeadlinePassed { .. } | Event::Tick => return,
    };
    let Some(block) = &mut change.block else { return };
    let before = view.blocks.get(&block.number);
    // A contender changes the row, and not the block that is in place.
    if before.is_some_and(|before| before.epoch == block.epoch) {
        return;
    }
    block.missed = None;
    block.deadline = own.or(config.deadline).map(|after| now.plus(after));
    if block.deadline.is_some() {
        let effect = PendingEffect::Arm { number: block.number };
        change.chain.get_or_insert_with(|| view.chain.clone()).pending.push(effect);
    }
}

/// Whether the deadline of a block has passed and nothing has been done about it.
pub fn is_overdue(block: &BlockRow, now: Millis) -> bool {
    let is_gone = matches!(block.status, BlockStatus::Skipped { .. } | BlockStatus::Dropped { .. });
    let is_settled = block.final_seq.is_some() || is_gone;
    !is_settled && block.missed.is_none() && block.deadline.is_some_and(|deadline| now > deadline)
}

/// Whether a block that becomes final now is on time. None: it had no deadline, or was left out before that passed.
pub(super) fn met(block: &BlockRow, now: Now) -> Option<bool> {
    let deadline = block.deadline?;
    match block.status {
        BlockStatus::Skipped { .. } => block.missed.map(|_| false),
        _ => Some(now <= deadline && block.missed.is_none()),
    }
}

/// Whether a block was left out because its deadline had passed.
pub fn is_abandoned(block: &BlockRow) -> bool {
    let BlockStatus::Skipped { reason } = &block.status else { return false };
    ErrorCode::split(reason).0 == Some(ErrorCode::DeadlineMissed)
}

/// Of a number somebody says that its deadline has passed.
pub(super) fn passed(view: &View, number: u64, now: Now, config: &ChainConfig) -> Result<Change, Ignored> {
    let block = view.blocks.get(&number).ok_or(Ignored::Unknown)?;
    let deadline = block.deadline.ok_or(Ignored::Settled)?;
    if now <= deadline {
        return Err(Ignored::Stale);
    }
    if !is_overdue(block, now) {
        return Err(Ignored::Settled);
    }
    // A block that halts its chain, or whose provers disagree, is an operator's: the alarm is not to vanish by itself.
    let halts = (view.chain.halt.is_some() && number == view.chain.next_final) || block.disagreement().is_some();
    let then = match block.status {
        BlockStatus::Proven => Late::Continue,
        _ if halts => Late::Continue,
        _ => config.late,
    };
    let mut late = block.clone();
    late.missed = Some(Missed { at: now, then });
    let mut change = Change::default();
    match (then, &block.status) {
        (Late::Demote, BlockStatus::Proving) => {
            let effect = PendingEffect::Demote { number, epoch: block.epoch };
            change.chain.get_or_insert_with(|| view.chain.clone()).pending.push(effect);
        }
        (Late::Abandon, _) => {
            let chain = change.chain.get_or_insert_with(|| view.chain.clone());
            end_run(chain, block);
            look_from(chain, number);
            let given = deadline.since(block.submitted_at).0;
            let was = block.status.name();
            late.next_epoch("abandoned: its deadline had passed", now);
            let what = format!("left out: not final {given} ms after its admission, but {was}");
            late.status = BlockStatus::Skipped { reason: ErrorCode::DeadlineMissed.says(what) };
        }
        (Late::Continue | Late::Demote, _) => {}
    }
    change.block = Some(late);
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, blob, chain_id, hash, submission};
    use super::super::{Outcome, is_current};
    use super::*;
    use crate::id::{Epoch, RunId};
    use crate::message::Submission;
    use crate::record::Finality;

    const AFTER: Millis = Millis(100);
    /// Blocks are admitted at 5.
    const DEADLINE: Millis = Millis(105);

    fn world(window: u32, late: Late) -> World {
        let mut world = World::new(window);
        (world.config.deadline, world.config.late) = (Some(AFTER), late);
        world
    }

    fn at(world: &mut World, now: u64) -> &mut World {
        world.now = Millis(now);
        world
    }

    fn pass(world: &mut World, number: u64) -> Result<(), Ignored> {
        world.on(Event::DeadlinePassed { number })
    }

    fn arms(world: &World) -> usize {
        world.performed.iter().filter(|effect| matches!(effect, PendingEffect::Arm { .. })).count()
    }

    fn missed(world: &World, number: u64) -> Option<(u64, Late)> {
        world.blocks[&number].missed.map(|missed| (missed.at.0, missed.then))
    }

    fn code(world: &World, seq: usize) -> Option<ErrorCode> {
        match &world.outbox[seq - 1].finality {
            Finality::Proof { .. } => None,
            Finality::Tombstone { reason } => ErrorCode::find(reason),
        }
    }

    #[test]
    fn a_deadline_is_the_submissions_or_the_chains_and_counts_from_admission() {
        let mut world = world(4, Late::Continue);
        world.submit(1);
        world.on(Event::Submitted(Submission { deadline: Some(Millis(7)), ..submission(2) })).unwrap();
        assert_eq!((world.blocks[&1].deadline, world.blocks[&2].deadline), (Some(DEADLINE), Some(Millis(12))));
        assert_eq!(arms(&world), 2);
        at(&mut world, 50).config.deadline = None;
        world.submit(3);
        assert_eq!((world.blocks[&3].deadline, arms(&world)), (None, 2), "no deadline, no timer");
        assert_eq!(world.on(Event::Submitted(submission(1))), Err(Ignored::Settled));
        assert_eq!(world.blocks[&1].deadline, Some(DEADLINE), "submitted again it keeps its own");
        let other = Submission { hash: hash(77), deadline: Some(Millis(1)), ..submission(1) };
        world.on(Event::Submitted(other)).unwrap();
        assert_eq!(world.blocks[&1].deadline, Some(DEADLINE), "a contender's is not the block's");
    }

    #[test]
    fn another_block_or_witness_gets_a_deadline_of_its_own_and_a_run_begun_anew_does_not() {
        let mut world = world(4, Late::Continue);
        world.submit(1);
        at(&mut world, 200);
        pass(&mut world, 1).unwrap();
        world.command(Command::Retry { chain: chain_id(), number: 1, epoch: Some(Epoch(1)) }).unwrap();
        assert_eq!((world.blocks[&1].deadline, missed(&world, 1)), (Some(DEADLINE), Some((200, Late::Continue))));
        let fork = Submission { hash: hash(77), fork_seq: Some(1), ..submission(1) };
        at(&mut world, 300).on(Event::Submitted(fork)).unwrap();
        assert_eq!((world.blocks[&1].deadline, missed(&world, 1)), (Some(Millis(400)), None));
        let better = Submission { witness: blob("better"), hash: hash(77), ..submission(1) };
        at(&mut world, 350).command(Command::Replace(better)).unwrap();
        assert_eq!((world.blocks[&1].deadline, arms(&world)), (Some(Millis(450)), 3));
        at(&mut world, 450);
        assert_eq!(pass(&mut world, 1), Err(Ignored::Stale), "the timers of the earlier two do nothing");
    }

    #[test]
    fn a_block_final_at_its_deadline_is_on_time_and_one_a_millisecond_later_is_not() {
        for (now, met) in [(105, true), (106, false)] {
            let mut world = world(4, Late::Continue);
            world.submit(1);
            at(&mut world, now).prove(1);
            let timings = world.outbox[0].timings.clone().unwrap();
            assert_eq!((timings.deadline, timings.met), (Some(DEADLINE), Some(met)));
            let on_time = &world.chain.on_time;
            assert_eq!((on_time.met, on_time.missed), (u64::from(met), u64::from(!met)), "without a timer's help");
        }
    }

    #[test]
    fn a_deadline_has_not_passed_while_it_is_reached_and_is_missed_once() {
        for late in Late::ALL {
            let mut world = world(4, late);
            world.submit(1);
            assert_eq!(pass(at(&mut world, 105), 1), Err(Ignored::Stale));
            assert_eq!(missed(&world, 1), None);
            at(&mut world, 106);
            pass(&mut world, 1).unwrap();
            assert_eq!(world.blocks[&1].missed, Some(Missed { at: Millis(106), then: late }));
            let (row, performed) = (world.blocks[&1].clone(), world.performed.len());
            at(&mut world, 500);
            assert_eq!(pass(&mut world, 1), Err(Ignored::Settled));
            assert_eq!(
                (&world.blocks[&1], world.performed.len()),
                (&row, performed),
                "{late:?}: nothing happens twice"
            );
        }
        assert_eq!(pass(&mut World::new(4), 1), Err(Ignored::Unknown));
    }

    #[test]
    fn a_late_block_goes_on_and_is_counted_when_it_is_final() {
        let mut world = world(4, Late::Continue);
        world.submit(1);
        pass(at(&mut world, 106), 1).unwrap();
        assert_eq!((world.status(1), world.chain.on_time.total()), ("proving", 0));
        world.prove(1);
        assert_eq!((world.status(1), world.chain.on_time.missed), ("final", 1));
        assert_eq!(world.performed.len(), 2, "armed and started, and nothing else");
    }

    #[test]
    fn a_late_block_is_demoted_while_it_is_proven_and_only_marked_while_it_waits() {
        let mut world = world(1, Late::Demote);
        world.submit(1);
        world.submit(2);
        at(&mut world, 106);
        pass(&mut world, 1).unwrap();
        pass(&mut world, 2).unwrap();
        let demoted: Vec<_> = world.performed.iter().filter(|it| matches!(it, PendingEffect::Demote { .. })).collect();
        assert_eq!(demoted, [&PendingEffect::Demote { number: 1, epoch: Epoch(1) }]);
        assert_eq!((world.status(1), world.status(2)), ("proving", "parked"));
        assert_eq!(missed(&world, 2), Some((106, Late::Demote)), "its run will be one of the class bulk");
        let overtaken = PendingEffect::Demote { number: 1, epoch: Epoch(1) };
        assert!(is_current(overtaken, world.blocks.get(&1)));
        world.prove(1);
        assert!(!is_current(overtaken, world.blocks.get(&1)));
    }

    #[test]
    fn a_late_block_is_abandoned_wherever_it_is_and_its_tombstone_comes_in_its_turn() {
        let mut world = world(2, Late::Abandon);
        (1..=4).for_each(|number| world.submit(number));
        world.fail(2);
        at(&mut world, 106);
        for number in [4, 2, 3] {
            pass(&mut world, number).unwrap();
            assert_eq!(world.status(number), "skipped");
        }
        assert_eq!(world.finalized(), [0u64; 0], "block 1 is not final");
        let on_time = &world.chain.on_time;
        assert_eq!(on_time.total(), 0);
        let stopped = |world: &World, number| {
            world.performed.contains(&PendingEffect::Stop { number, epoch: Epoch(1), from: 0, lanes: 1 })
        };
        assert!(!stopped(&world, 1) && !stopped(&world, 4), "what is not proven is not stopped");
        world.prove(1);
        assert_eq!(world.finalized(), [1, 2, 3, 4]);
        assert_eq!(code(&world, 1), None);
        for seq in [2, 3, 4] {
            assert_eq!(code(&world, seq), Some(ErrorCode::DeadlineMissed));
            let timings = world.outbox[seq - 1].timings.clone().unwrap();
            assert!(timings.settled_at > timings.deadline.unwrap() && timings.met == Some(false));
        }
        assert_eq!((world.chain.on_time.met, world.chain.on_time.missed), (0, 4), "block 1 was late, too");
        assert_eq!(world.started(), [(1, 1), (2, 1)], "what waited was never started");
        // The run of a block that was being proven is stopped, and its result is too late.
        let mut world = self::world(1, Late::Abandon);
        world.submit(1);
        pass(at(&mut world, 106), 1).unwrap();
        assert!(stopped(&world, 1));
        let old = RunId::new(chain_id(), 1, Epoch(1));
        let late = Outcome::Failed { reason: "late".to_owned() };
        assert_eq!(world.on(Event::RunEnded { run: old, outcome: late }), Err(Ignored::Stale));
    }

    #[test]
    fn what_is_proven_or_final_or_halts_the_chain_is_never_abandoned() {
        let mut world = world(4, Late::Abandon);
        world.on(Event::Submitted(Submission { deadline: Some(Millis(1000)), ..submission(1) })).unwrap();
        world.submit(2);
        world.prove(2);
        pass(at(&mut world, 106), 2).unwrap();
        assert_eq!((world.status(2), missed(&world, 2)), ("proven", Some((106, Late::Continue))));
        at(&mut world, 107).prove(1);
        assert_eq!(world.finalized(), [1, 2]);
        assert_eq!(pass(at(&mut world, 1900), 1), Err(Ignored::Settled), "it was final in time");
        world.on(Event::Submitted(Submission { parent_hash: Some(hash(55)), ..submission(3) })).unwrap();
        assert!(world.chain.halt.is_some());
        pass(at(&mut world, 2001), 3).unwrap();
        assert_eq!((world.status(3), world.chain.halt.is_some()), ("parked", true));
    }

    #[test]
    fn a_number_whose_block_was_dropped_stays_vacant_whatever_its_deadline_was() {
        let mut world = world(4, Late::Abandon);
        (1..=2).for_each(|number| world.submit(number));
        let reason = "another fork".to_owned();
        world.command(Command::Reorg { chain: chain_id(), number: 2, reason, nth: 1 }).unwrap();
        assert_eq!(pass(at(&mut world, 5_000), 2), Err(Ignored::Settled));
        assert_eq!(world.status(2), "dropped");
    }

    #[test]
    fn what_was_built_on_an_abandoned_block_that_did_not_fit_is_looked_at_again() {
        let mut world = world(4, Late::Abandon);
        world.submit(1);
        // Another block 2 than the one that 3 is built on: 3 waits for its parent.
        let other = Submission { hash: hash(55), deadline: Some(Millis(10)), ..submission(2) };
        world.on(Event::Submitted(other)).unwrap();
        world.submit(3);
        assert_eq!(world.status(3), "parked");
        pass(at(&mut world, 1_000), 2).unwrap();
        assert_eq!((world.status(2), world.chain.walk), ("skipped", None));
        world.prove(1);
        assert_eq!(world.status(3), "parked", "a block that was left out is a parent by its own hash only");
    }

    #[test]
    fn an_abandoned_block_comes_back_by_an_operators_word_and_by_no_redelivery() {
        let mut world = world(4, Late::Abandon);
        (1..=2).for_each(|number| world.submit(number));
        world.fail(2);
        let retry = |epoch| Command::Retry { chain: chain_id(), number: 2, epoch };
        let better = Submission { witness: blob("better"), ..submission(2) };
        world.command(Command::Replace(better.clone())).unwrap();
        pass(at(&mut world, 106), 2).unwrap();
        let abandoned = world.blocks[&2].epoch;
        // What is delivered again: the submission, the replacement, retries of before.
        assert_eq!(world.on(Event::Submitted(submission(2))), Err(Ignored::Settled));
        assert_eq!(world.command(Command::Replace(better)), Err(Ignored::Settled));
        assert_eq!(world.command(retry(None)), Err(Ignored::NotFailed { number: 2, status: "skipped" }));
        assert_eq!(world.command(retry(Some(Epoch(1)))), Err(Ignored::Stale));
        assert_eq!(world.status(2), "skipped");
        world.command(retry(Some(abandoned))).unwrap();
        assert_eq!((world.status(2), pass(&mut world, 2)), ("proving", Err(Ignored::Settled)));
        world.prove(2);
        world.prove(1);
        assert_eq!(world.finalized(), [1, 2]);
        assert_eq!((code(&world, 2), world.chain.on_time.missed), (None, 2), "proven, and late all the same");
        assert_eq!(world.command(retry(None)), Err(Ignored::NotFailed { number: 2, status: "final" }));
        // Nor by anybody once its tombstone is final.
        let mut world = self::world(4, Late::Abandon);
        world.submit(1);
        pass(at(&mut world, 106), 1).unwrap();
        let (abandoned, row) = (world.blocks[&1].epoch, world.blocks[&1].clone());
        let retry = Command::Retry { chain: chain_id(), number: 1, epoch: Some(abandoned) };
        assert_eq!(world.command(retry), Err(Ignored::NotFailed { number: 1, status: "skipped" }));
        assert_eq!((&world.blocks[&1], world.finalized()), (&row, vec![1]));
    }

    #[test]
    fn what_an_operator_skips_counts_only_where_it_was_late_before() {
        let mut world = world(4, Late::Continue);
        (1..=2).for_each(|number| world.submit(number));
        pass(at(&mut world, 106), 2).unwrap();
        for number in [1, 2] {
            world.command(Command::Skip { chain: chain_id(), number, reason: "lost".to_owned() }).unwrap();
        }
        let met: Vec<_> = world.outbox.iter().map(|row| row.timings.as_ref().unwrap().met).collect();
        assert_eq!((met, world.chain.on_time.missed), (vec![None, Some(false)], 1));
        assert_eq!(code(&world, 2), None, "its tombstone is the operator's");
    }
}
