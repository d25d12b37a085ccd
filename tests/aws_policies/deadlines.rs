//! Deadlines: their timers as delayed messages of SQS, and what happens when they have passed. The functions' clock is the test's; the queue
//! delays by its own.

use std::sync::Arc;

use push0_core::message::{TimerKind, queue};
use push0_core::record::{Finality, Late, control_key, demoted_key};
use push0_core::{Class, Millis, Node};
use push0_gpu_worker::task::Settled;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::host::Function as _;
use push0_runtime::port::Delivery;
use push0_tests::emulated::{Emulated, Script, pipeline, run, until};

const START: Millis = Millis(1_700_000_000_000);
const MINUTE: u64 = 60_000;
const LEASE: u64 = 60_000;

/// A chain whose blocks have so long, and what becomes of those that are late.
async fn place(deadline_ms: u64, late: Late) -> (Emulated, ManualClock) {
    let clock = ManualClock::starting_at(START);
    let late = late.as_str();
    let config = format!(
        "[[chain]]\nid = \"demo\"\npipeline = \"test.toml\"\nwindow = 2\ndeadline_ms = {deadline_ms}\nlate = \"{late}\"\n"
    );
    let pipeline = pipeline("");
    let files = [("push0.toml", config.as_str()), ("test.toml", pipeline.as_str())];
    (Emulated::new(Arc::new(clock.clone()), &files).await, clock)
}

async fn submit(place: &Emulated, numbers: &[u64]) {
    for number in numbers {
        place.submit(*number, 3).await;
    }
    place.hand(&place.dispatcher(), queue::SUBMISSIONS, numbers.len(), 1).await;
}

/// Delays, in seconds, with which the deadlines' timers were sent since this was last asked.
fn delays(place: &Emulated) -> Vec<u64> {
    let sent = place.timers_sent();
    sent.iter().filter(|(timer, _)| timer.kind == TimerKind::Deadline).map(|(_, delay)| *delay).collect()
}

/// ministack delivers a standard queue's message once: the second time is the test's doing.
#[tokio::test]
async fn a_deadlines_timer_comes_back_delayed_and_what_is_late_leaves_a_tombstone_in_its_place() {
    let (mut place, clock) = place(2_000, Late::Abandon).await;
    submit(&place, &[1, 3]).await;
    assert_eq!(delays(&place), [3, 3], "a millisecond after the deadline, in whole seconds");

    // At its deadline a block is not late.
    clock.advance_to(START.plus(Millis(2_000)));
    place.hand(&place.collector(), queue::TIMERS, 2, 1).await;
    assert_eq!(delays(&place), [1, 1], "what comes too soon is sent on");
    for number in [1, 3] {
        assert_eq!(place.block(number).await.missed, None);
    }
    clock.advance(Millis(1));
    place.hand(&place.collector(), queue::TIMERS, 2, 2).await;
    for number in [1, 3] {
        assert_eq!(place.block(number).await.status.name(), "skipped");
    }
    assert!(place.is_stored(&control_key(&run(1))).await);

    // The chain goes on: block 2 is proven, and its neighbours' places are taken by tombstones.
    submit(&place, &[2]).await;
    let script = Script::new();
    let workers = ["trusted", "cpu"].map(|pool| place.worker(pool, pool, LEASE, &script));
    place.work(&workers.each_ref()).await;
    let rows = place.finalized(3).await;
    assert_eq!(rows.iter().map(|row| (row.seq, row.number)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
    for row in [&rows[0], &rows[2]] {
        let Finality::Tombstone { reason } = &row.finality else { panic!("{row:?} is no tombstone") };
        assert!(reason.contains("P0-037"), "{reason}");
        assert_eq!(row.timings.as_ref().and_then(|timings| timings.met), Some(false));
    }
    assert!(matches!(rows[1].finality, Finality::Proof { .. }), "{:?}", rows[1]);
    assert_eq!(rows[1].timings.as_ref().and_then(|timings| timings.met), Some(true));

    // The task of block 1 was in its queue, and was dropped there.
    let dropped: Vec<_> = script.settled().into_iter().filter(|(task, ..)| task.run == run(1)).collect();
    assert!(matches!(&dropped[..], [(_, _, Settled::Stopped)]), "{dropped:?}");
    assert!(script.runs().iter().all(|done| done.task.id.run == run(2)));
}

#[tokio::test]
async fn what_is_late_goes_on_in_the_queues_of_bulk_and_what_was_begun_is_finished_where_it_is() {
    let (mut place, clock) = place(1_000, Late::Demote).await;
    let script = Script::new();
    let (trusted, cpu) =
        (place.worker("trusted", "trusted", LEASE, &script), place.worker("cpu", "cpu", LEASE, &script));
    submit(&place, &[1, 2]).await;

    // SQS does not rank: the tasks of the chain's oldest block lie one class higher, and so come first.
    trusted.step().await;
    place.work(&[]).await;
    script.hold(Node::new(1, 0, 0), 0);
    let mut begun = cpu.begin().await;
    until("it is begun", || script.runs().len() == 2).await;
    // What one worker says of a task takes along that it has begun another.
    assert!(matches!(cpu.step().await, Some(Settled::Reported(_))));
    place.work(&[]).await;
    let before = script.runs();
    assert_eq!(before[1].task.id.node, Node::new(1, 0, 0), "ministack hands out in order");
    assert!(before.iter().all(|done| done.task.id.run == run(1) && done.task.class == Class::Realtime));

    clock.advance_to(START.plus(Millis(1_001)));
    place.hand(&place.collector(), queue::TIMERS, 2, 1).await;
    // What was fanned out is sent again piece by piece.
    place.work(&[]).await;
    for number in [1, 2] {
        let block = place.block(number).await;
        assert_eq!((block.missed.map(|missed| missed.then), block.status.name()), (Some(Late::Demote), "proving"));
        assert!(place.is_stored(&demoted_key(&run(number))).await);
    }

    script.let_go();
    assert!(matches!(begun.join_next().await, Some(Ok(Settled::Reported(_)))));
    place.work(&[&trusted, &cpu]).await;
    let rows = place.finalized(2).await;
    let met = rows.iter().map(|row| (row.number, row.timings.as_ref().and_then(|timings| timings.met)));
    assert_eq!(met.collect::<Vec<_>>(), [(1, Some(false)), (2, Some(false))]);

    // Everything else was proven from the queues of bulk, and once; what lay elsewhere was dropped.
    let runs = script.runs();
    let tasks: std::collections::BTreeSet<_> = runs.iter().map(|done| &done.task.id).collect();
    // A split, three leaves, two joins and a verification each.
    assert_eq!((runs.len(), tasks.len()), (14, 14));
    assert!(runs[before.len()..].iter().all(|done| done.task.class == Class::Bulk && done.task.demoted));
    let left: Vec<_> = script.settled().into_iter().filter(|(.., settled)| *settled == Settled::LeftBehind).collect();
    let left: Vec<_> = left.iter().map(|(task, ..)| (task.run.number, task.node)).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&(1, Node::new(1, 0, 2))) && left.contains(&(2, Node::SPLIT)), "{left:?}");
}

/// The quarters of an hour are not waited for: what SQS was asked is read off the wire, and each message is handed to the collector when the
/// functions' clock says so.
#[tokio::test]
async fn a_deadline_beyond_sqs_longest_delay_takes_several_messages_and_a_lost_one_is_made_up_for() {
    let (place, clock) = place(40 * MINUTE, Late::Continue).await;
    submit(&place, &[1, 2]).await;
    let (timer, delay) = place.timers_sent().swap_remove(0);
    assert_eq!((delay, timer.run.clone()), (900, run(1)));
    let collector = place.collector();
    let message = |minutes: u64| {
        let (id, receipt) = (format!("{minutes}"), String::new());
        let body = push0_core::record::Versioned::to_json(&timer);
        Delivery { id, receipt, body, group: None, receive_count: 1, sent_at: START }
    };
    for (minutes, wanted) in [(15, 900), (30, 601)] {
        clock.advance_to(START.plus(Millis(minutes * MINUTE)));
        assert_eq!(collector.handle(queue::TIMERS, &message(minutes)).await, Ok(()));
        assert_eq!(delays(&place), [wanted], "after {minutes} minutes");
    }
    // The emulator has taken all of them: two of the submissions, and those.
    let stats = place.context.queue.stats(queue::TIMERS).await.unwrap();
    assert_eq!((stats.visible, stats.in_flight, stats.delayed), (0, 0, 4));

    clock.advance_to(START.plus(Millis(40 * MINUTE + 1)));
    assert_eq!(collector.handle(queue::TIMERS, &message(40)).await, Ok(()));
    let missed = async |number| place.block(number).await.missed.map(|missed| missed.then);
    assert_eq!((missed(1).await, missed(2).await), (Some(Late::Continue), None));
    // Nobody was told of block 2.
    place.reaper().turn().await;
    assert_eq!(missed(2).await, Some(Late::Continue));
    assert_eq!(place.block(2).await.status.name(), "proving");
}
