//! Deadlines through the real loops: their timers, lost ones, and what each policy does.

use push0_core::message::{TimerKind, TimerMessage, work_queue};
use push0_core::record::{BlockStatus, Late, OutboxRow, demoted_key};
use push0_core::{Class, RunId};

use super::*;
use crate::{Collector, Reaper};

const START: u64 = 1_700_000_000_000;
const AFTER: u64 = 12_000;

fn chain_with(late: Late, after: u64) -> Fixture {
    let change = |chain: &mut ChainConfig| (chain.deadline, chain.late) = (Some(Millis(after)), late);
    fixture_of(|engine| Arc::new(engine.clone()), |engine| Arc::new(engine.clone()), change)
}

impl Fixture {
    async fn submit_one(&self, number: u64) {
        let witness = self.put(&format!("witnesses/demo/{number}-w"), b"witness").await;
        self.announce(number, &hash('a'), witness).await;
    }

    fn at(&self, after: u64) {
        self.clock.advance_to(Millis(START + after));
    }

    /// The messages of `timers` that have come; handled, as often as told.
    async fn timers(&self, times: usize) -> usize {
        let collector = Collector::new(self.context.clone());
        let taken = self.engine.receive(queue::TIMERS, 10, Millis(0), Millis(60_000)).await.unwrap();
        for message in &taken {
            for _ in 0..times {
                assert_eq!(collector.handle(queue::TIMERS, message).await, Ok(()));
            }
            self.engine.ack(queue::TIMERS, &message.receipt).await.unwrap();
        }
        taken
            .iter()
            .filter(|message| TimerMessage::from_json(&message.body).unwrap().kind == TimerKind::Deadline)
            .count()
    }

    async fn status(&self, number: u64) -> &'static str {
        self.block(number).await.unwrap().status.name()
    }

    async fn missed(&self, number: u64) -> Option<Late> {
        self.block(number).await.unwrap().missed.map(|missed| missed.then)
    }

    async fn work(&self, class: Class) -> Vec<TaskMessage> {
        let work = work_queue(&Pool::trusted(), class);
        let taken = self.engine.receive(&work, 10, Millis(0), Millis(1)).await.unwrap();
        taken.iter().map(|task| TaskMessage::from_json(&task.body).unwrap()).collect()
    }

    async fn finalized_rows(&self) -> Vec<OutboxRow> {
        let taken = self.engine.receive(queue::FINALIZED, 10, Millis(0), Millis(60_000)).await.unwrap();
        taken.iter().map(|message| OutboxRow::from_json(&message.body).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_deadlines_timer_comes_once_it_has_passed_and_abandons_what_is_late() {
    let fixture = chain_with(Late::Abandon, AFTER);
    fixture.submit_one(1).await;
    // A block that waits for one that was never submitted has a deadline, too.
    fixture.submit_one(3).await;
    assert_eq!(fixture.work(Class::Standard).await[0].deadline, Some(Millis(START + AFTER)), "tasks carry it");
    fixture.at(AFTER);
    assert_eq!(fixture.timers(1).await, 0, "at its deadline a block is not late");
    fixture.at(AFTER + 1);
    assert_eq!(fixture.timers(2).await, 2);
    assert_eq!((fixture.status(1).await, fixture.status(3).await), ("skipped", "skipped"));
    let rows = fixture.finalized_rows().await;
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [1], "block 3 comes after block 2");
    let timings = rows[0].timings.clone().unwrap();
    assert_eq!((timings.deadline, timings.met), (Some(Millis(START + AFTER)), Some(false)));
    // What is delivered again brings nothing back.
    let witness = fixture.block(1).await.unwrap().witness.unwrap();
    fixture.announce(1, &hash('a'), witness).await;
    assert_eq!(fixture.status(1).await, "skipped");
    let run = RunId::new("demo".parse().unwrap(), 1, push0_core::Epoch::FIRST);
    assert!(fixture.engine.head(&push0_core::record::control_key(&run)).await.unwrap().is_some(), "workers drop it");
}

#[tokio::test]
async fn a_lost_timer_is_made_up_for_by_the_reaper_and_not_before_the_deadline() {
    for late in Late::ALL {
        let fixture = chain_with(late, AFTER);
        let reaper = Reaper::new(fixture.context.clone());
        fixture.submit_one(1).await;
        fixture.submit_one(3).await;
        fixture.at(AFTER);
        reaper.turn().await;
        assert_eq!((fixture.missed(1).await, fixture.missed(3).await), (None, None));
        fixture.at(AFTER + 1);
        reaper.turn().await;
        assert_eq!((fixture.missed(1).await, fixture.missed(3).await), (Some(late), Some(late)));
        let (one, three) = (fixture.block(1).await, fixture.block(3).await);
        reaper.turn().await;
        assert_eq!((fixture.block(1).await, fixture.block(3).await), (one, three), "once");
        let is_left_out = late == Late::Abandon;
        assert_eq!(fixture.finalized_rows().await.len(), usize::from(is_left_out));
    }
}

#[tokio::test]
async fn a_deadline_further_off_than_a_queue_delays_is_sent_on() {
    let fixture = chain_with(Late::Continue, 40 * 60_000);
    fixture.submit_one(1).await;
    for (minutes, comes) in [(15, 1), (16, 0), (30, 1), (40, 0)] {
        fixture.at(minutes * 60_000);
        assert_eq!((fixture.timers(1).await, fixture.missed(1).await), (comes, None), "after {minutes} minutes");
    }
    fixture.at(40 * 60_000 + 1);
    assert_eq!((fixture.timers(1).await, fixture.missed(1).await), (1, Some(Late::Continue)));
    assert_eq!(fixture.status(1).await, "proving");
}

#[tokio::test]
async fn a_demoted_blocks_task_lies_in_bulk_before_workers_drop_the_other() {
    let fixture = chain_with(Late::Demote, AFTER);
    fixture.submit_one(1).await;
    let standard = fixture.work(Class::Standard).await;
    let [before] = &standard[..] else { panic!("one task") };
    fixture.at(AFTER + 1);
    fixture.timers(1).await;
    let after = fixture.work(Class::Bulk).await;
    assert_eq!(after.iter().map(|task| (&task.id, task.demoted)).collect::<Vec<_>>(), [(&before.id, true)]);
    assert!(fixture.engine.head(&demoted_key(&before.id.run)).await.unwrap().is_some());
    assert_eq!(fixture.block(1).await.unwrap().status, BlockStatus::Proving);
    // A block that was late before it was released begins there.
    fixture.submit_one(2).await;
    assert!(fixture.work(Class::Standard).await.iter().any(|task| task.id.run.number == 2), "block 2 is in time");
    let fixture = chain_with(Late::Demote, AFTER);
    fixture.submit_one(2).await;
    fixture.at(AFTER + 1);
    fixture.timers(1).await;
    fixture.submit_one(1).await;
    let bulk: Vec<_> = fixture.work(Class::Bulk).await.iter().map(|task| task.id.run.number).collect();
    let standard: Vec<_> = fixture.work(Class::Standard).await.iter().map(|task| task.id.run.number).collect();
    assert_eq!((standard, bulk), (vec![1], vec![2]));
    let run = RunId::new("demo".parse().unwrap(), 2, push0_core::Epoch::FIRST);
    assert!(fixture.engine.head(&demoted_key(&run)).await.unwrap().is_none(), "nothing was left behind");
}
