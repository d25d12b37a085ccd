//! Which blocks of a chain are being proven, through the drive loop: the window, the pause, and what is promoted.

use async_trait::async_trait;
use push0_core::chain::{Event, Outcome};
use push0_core::message::{Command, queue};
use push0_core::{Class, RunId};
use push0_runtime::drive;

use super::*;

/// The engine as SQS has it: no order within a queue.
struct Unranked(Engine);

#[async_trait]
impl Queue for Unranked {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        self.0.send(queue, messages).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        self.0.receive(queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.0.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.0.release(queue, receipt, delay).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.0.ack(queue, receipt).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.0.stats(queue).await
    }
}

impl Fixture {
    async fn submit(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let witness = self.put(&format!("witnesses/demo/{number}-w"), b"witness").await;
            self.announce(number, &format!("{number:064x}"), witness).await;
        }
    }

    async fn command(&self, command: Command) {
        let body = ChainMessage::Command(command).to_json();
        assert_eq!(self.dispatcher.handle(queue::SUBMISSIONS, &delivery(body, 1)).await, Ok(()));
    }

    async fn prove(&self, number: u64) {
        let chain = "demo".parse().unwrap();
        let block = self.block(number).await.unwrap();
        let blob = block.witness.clone().unwrap();
        let outcome = Outcome::Proven {
            pipeline: self.context.catalog.chains[&chain].pipeline,
            proof: blob.clone(),
            header: blob,
            parent_hash: None,
            outputs: None,
        };
        let event = Event::RunEnded { run: RunId::new(chain.clone(), number, block.epoch), outcome };
        drive::chain::drive(&self.context, &chain, &event).await.unwrap().unwrap();
    }

    /// The blocks whose first tasks were sent to the trusted pool's queue of this class since the last time.
    async fn begun(&self, class: Class) -> Vec<u64> {
        let work = push0_core::message::work_queue(&Pool::trusted(), class);
        let mut begun = Vec::new();
        for taken in self.engine.receive(&work, 10, Millis(0), Millis(60_000)).await.unwrap() {
            self.engine.ack(&work, &taken.receipt).await.unwrap();
            let task = TaskMessage::from_json(&taken.body).unwrap();
            assert_eq!(task.class, class, "{} lies where it says", task.id);
            begun.push(task.id.run.number);
        }
        begun
    }

    async fn finalized(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        for taken in self.engine.receive(queue::FINALIZED, 10, Millis(0), Millis(60_000)).await.unwrap() {
            self.engine.ack(queue::FINALIZED, &taken.receipt).await.unwrap();
            numbers.push(push0_core::record::OutboxRow::from_json(&taken.body).unwrap().number);
        }
        numbers
    }
}

fn window(window: u32) -> Command {
    Command::Window { chain: "demo".parse().unwrap(), window }
}

#[tokio::test]
async fn a_window_grows_at_once_and_shrinks_as_blocks_become_final() {
    let fixture = fixture();
    fixture.command(window(1)).await;
    fixture.submit(1..=9).await;
    assert_eq!(fixture.begun(Class::Standard).await, [1]);
    fixture.command(window(4)).await;
    assert_eq!(fixture.begun(Class::Standard).await, [2, 3, 4]);
    fixture.command(window(2)).await;
    for (number, begun) in [(1, vec![]), (3, vec![]), (2, vec![5])] {
        fixture.prove(number).await;
        assert_eq!(fixture.begun(Class::Standard).await, begun, "after block {number}");
    }
    assert_eq!(fixture.finalized().await, [1, 2, 3]);
}

#[tokio::test]
async fn a_pause_finalizes_what_is_being_proven_and_begins_nothing() {
    let fixture = fixture();
    fixture.command(window(2)).await;
    fixture.submit(1..=5).await;
    assert_eq!(fixture.begun(Class::Standard).await, [1, 2]);
    fixture.command(Command::Pause { chain: "demo".parse().unwrap() }).await;
    fixture.prove(2).await;
    fixture.prove(1).await;
    fixture.command(window(3)).await;
    assert_eq!((fixture.finalized().await, fixture.begun(Class::Standard).await), (vec![1, 2], vec![]));
    fixture.command(Command::Resume { chain: "demo".parse().unwrap(), acknowledged: None }).await;
    assert_eq!(fixture.begun(Class::Standard).await, [3, 4, 5]);
}

#[tokio::test]
async fn where_queues_do_not_rank_the_oldest_block_lies_one_class_higher() {
    let fixture = with_ports(|engine| Arc::new(engine.clone()), |engine| Arc::new(Unranked(engine.clone())));
    fixture.command(window(2)).await;
    fixture.submit(1..=3).await;
    assert_eq!(fixture.begun(Class::Realtime).await, [1]);
    assert_eq!(fixture.begun(Class::Standard).await, [2], "it was not the oldest when it was released");
    for number in 1..=3 {
        fixture.prove(number).await;
    }
    assert_eq!(fixture.begun(Class::Standard).await, [3]);
    // Of a chain that had nothing else to do.
    fixture.submit(4..=4).await;
    assert_eq!((fixture.begun(Class::Realtime).await, fixture.begun(Class::Standard).await), (vec![4], vec![]));
    fixture.command(window(1)).await;
    fixture.submit(5..=6).await;
    for number in 4..=5 {
        fixture.prove(number).await;
    }
    assert_eq!(fixture.begun(Class::Realtime).await, [5, 6], "with a window of 1 every block is the oldest");
    assert_eq!((fixture.begun(Class::Standard).await, fixture.begun(Class::Bulk).await), (vec![], vec![]));
}

#[tokio::test]
async fn a_run_keeps_the_class_it_was_released_with() {
    let fixture = with_ports(|engine| Arc::new(engine.clone()), |engine| Arc::new(Unranked(engine.clone())));
    fixture.submit(1..=2).await;
    fixture.prove(1).await;
    // Now the oldest, and its run says still what its tasks were sent with.
    let at = RowKey::run(&RunId::new("demo".parse().unwrap(), 2, push0_core::Epoch::FIRST));
    let row = Table::get(&fixture.engine, &Key::new(at.partition, at.sort)).await.unwrap().unwrap();
    let run = push0_core::record::RunView::read(&row.attributes).unwrap().run;
    assert_eq!(run.promotion, push0_core::record::Promotion::Late);
    assert_eq!((fixture.begun(Class::Realtime).await, fixture.begun(Class::Standard).await), (vec![1], vec![2]));
}
