//! What a [`Queue`] promises.

use futures::FutureExt as _;
use push0_core::Millis;

use super::{Passing, both, refused, run_checks};
use crate::port::{Delivery, ErrorKind, Outgoing, Queue, QueueStats};

mod fifo;
mod ranking;

pub(super) const STANDARD: &str = "conformance";
pub(super) const FIFO: &str = "conformance.fifo";
pub(super) const REDRIVE: &str = "conformance-redrive";
pub(super) const REDRIVE_FIFO: &str = "conformance-redrive.fifo";
pub(super) const DEAD: &str = "conformance-dead";
pub(super) const DEAD_FIFO: &str = "conformance-dead.fifo";

const NOW: Millis = Millis(0);
const TWELVE_HOURS: Millis = Millis::from_secs(12 * 3600);

/// Runs every check on the queues of [`super::queues`], which must be there and empty, and leaves them empty. `salt` keeps the dedup ids
/// of one run apart from those of another.
pub async fn queue_suite(queue: &dyn Queue, time: &dyn Passing, salt: &str) {
    let suite = Suite { queue, time, salt };
    run_checks! { suite:
        a_sent_message_arrives_as_it_was_sent
        an_unknown_queue_is_permanent
        limits_are_checked_and_refuse_the_whole_send
        a_receive_takes_at_most_max
        a_receive_without_wait_answers_at_once
        a_waiting_receive_is_woken_by_a_send
        a_waiting_receive_ends_empty_when_its_wait_ends
        a_dropped_receive_loses_nothing
        a_leased_message_is_not_handed_out_again
        an_expired_lease_returns_the_message_and_voids_the_receipt
        a_waiting_receive_is_woken_by_an_expiry
        extending_keeps_the_message
        extending_may_shorten
        a_lease_of_more_than_twelve_hours_is_refused
        a_lease_cannot_outlast_twelve_hours
        releasing_hands_the_message_on
        releasing_with_delay_hides_the_message_meanwhile
        acknowledged_is_gone_and_its_receipt_void
        acknowledged_together_each_is_answered_for_itself
        a_delayed_message_arrives_after_its_delay
        a_standard_queue_does_not_deduplicate
        a_standard_queue_does_not_block_a_group
        too_many_receives_lead_to_the_dead_letter_queue
        fifo_needs_group_and_dedup_and_refuses_delay
        fifo_keeps_order_within_a_group
        fifo_blocks_a_group_in_flight_and_no_other
        fifo_wakes_who_waits_for_a_blocked_group
        fifo_returns_expired_and_released_at_the_head
        fifo_release_with_delay_keeps_the_group_blocked
        fifo_swallows_a_dedup_id_even_after_deletion
        fifo_forgets_a_dedup_id_after_five_minutes
        fifo_dead_letters_keep_group_and_order_and_free_the_group
        stats_count_what_is_there
        stats_tell_the_age_of_the_oldest
    }
    if queue.ranks() {
        run_checks! { suite:
            ranking_a_group_goes_by_rank_and_then_by_age
            ranking_a_backlog_delays_no_other_group
            ranking_groups_take_turns_also_in_one_receive
            ranking_counts_what_is_in_flight_now
        }
    }
}

struct Suite<'a> {
    queue: &'a dyn Queue,
    time: &'a dyn Passing,
    salt: &'a str,
}

fn plain(body: &str) -> Outgoing {
    Outgoing { body: body.to_owned(), ..Outgoing::default() }
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.body.as_str()).collect()
}

fn sorted(deliveries: &[Delivery]) -> Vec<&str> {
    let mut bodies = bodies(deliveries);
    bodies.sort_unstable();
    bodies
}

impl Suite<'_> {
    fn grouped(&self, group: &str, body: &str) -> Outgoing {
        self.deduped(group, body, body)
    }

    fn deduped(&self, group: &str, dedup: &str, body: &str) -> Outgoing {
        Outgoing {
            body: body.to_owned(),
            group: Some(group.to_owned()),
            dedup: Some(format!("{}-{dedup}", self.salt)),
            ..Outgoing::default()
        }
    }

    async fn send(&self, queue: &str, messages: Vec<Outgoing>) {
        self.queue.send(queue, messages).await.expect("sends");
    }

    fn lease(&self) -> Millis {
        self.time.lease()
    }

    fn half(&self) -> Millis {
        Millis(self.lease().0 / 2)
    }

    /// What must be there: `count` messages, or what there is besides.
    async fn take(&self, queue: &str, count: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let received = self.queue.receive(queue, 10, self.time.patience(), self.lease()).await.expect("receives");
            if received.is_empty() {
                break;
            }
            taken.extend(received);
        }
        taken
    }

    async fn one(&self, queue: &str) -> Delivery {
        let received = self.queue.receive(queue, 1, self.time.patience(), self.lease()).await;
        let mut deliveries = received.expect("receives");
        assert_eq!(deliveries.len(), 1, "one message from {queue}");
        deliveries.remove(0)
    }

    /// The stats, once they are what they should be, or what they are when patience ends.
    async fn stats(&self, (visible, in_flight, delayed): (u64, u64, u64)) -> QueueStats {
        const STEP: Millis = Millis(200);
        let mut waited = Millis(0);
        loop {
            let stats = self.queue.stats(STANDARD).await.expect("stats");
            let as_wanted = (stats.visible, stats.in_flight, stats.delayed) == (visible, in_flight, delayed);
            if as_wanted || waited >= self.time.patience() {
                assert_eq!((stats.visible, stats.in_flight, stats.delayed), (visible, in_flight, delayed));
                return stats;
            }
            self.time.advance(STEP).await;
            waited = waited.plus(STEP);
        }
    }

    async fn none(&self, queue: &str) {
        let deliveries = self.queue.receive(queue, 10, NOW, self.lease()).await.expect("receives");
        assert!(deliveries.is_empty(), "{queue} should have nothing to hand out: {deliveries:?}");
    }

    async fn ack(&self, queue: &str, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.queue.ack(queue, &delivery.receipt).await.expect("acknowledges");
        }
    }

    async fn void(&self, queue: &str, delivery: &Delivery) {
        refused(self.queue.extend(queue, &delivery.receipt, self.lease()).await, ErrorKind::Fenced);
        refused(self.queue.release(queue, &delivery.receipt, NOW).await, ErrorKind::Fenced);
        refused(self.queue.ack(queue, &delivery.receipt).await, ErrorKind::Fenced);
    }

    async fn a_sent_message_arrives_as_it_was_sent(&self) {
        let body = "{\"text\": \"\u{00e9}\u{1F980} \\n\"}\n";
        self.send(STANDARD, vec![Outgoing { group: Some("chain-a".to_owned()), ..plain(body) }]).await;
        let delivery = self.one(STANDARD).await;
        assert_eq!(delivery.body, body);
        assert_eq!(delivery.group.as_deref(), Some("chain-a"));
        assert_eq!(delivery.receive_count, 1);
        self.ack(STANDARD, &[delivery]).await;
    }

    async fn an_unknown_queue_is_permanent(&self) {
        let unknown = "no-such-queue";
        refused(self.queue.send(unknown, vec![plain("x")]).await, ErrorKind::Permanent);
        refused(self.queue.receive(unknown, 1, NOW, self.lease()).await, ErrorKind::Permanent);
        refused(self.queue.stats(unknown).await, ErrorKind::Permanent);
    }

    async fn limits_are_checked_and_refuse_the_whole_send(&self) {
        let large = "x".repeat(64 * 1024);
        let too_large = format!("{large}x");
        refused(self.queue.send(STANDARD, vec![plain("small"), plain(&too_large)]).await, ErrorKind::Permanent);
        let delayed = Outgoing { delay: Millis(15 * 60 * 1000 + 1), ..plain("late") };
        refused(self.queue.send(STANDARD, vec![plain("small"), delayed]).await, ErrorKind::Permanent);
        self.none(STANDARD).await;
        for max in [0, 11] {
            refused(self.queue.receive(STANDARD, max, NOW, self.lease()).await, ErrorKind::Permanent);
        }
        self.send(STANDARD, vec![plain(&large)]).await;
        let delivery = self.one(STANDARD).await;
        assert_eq!(delivery.body.len(), large.len());
        self.ack(STANDARD, &[delivery]).await;
    }

    async fn a_receive_takes_at_most_max(&self) {
        let sent: Vec<String> = (10..35).map(|i| format!("m{i}")).collect();
        self.send(STANDARD, sent.iter().map(|body| plain(body)).collect()).await;
        let mut got = Vec::new();
        for _ in 0..100 {
            let deliveries = self.queue.receive(STANDARD, 7, NOW, self.lease()).await.expect("receives");
            assert!(deliveries.len() <= 7);
            got.extend(deliveries);
            if got.len() == sent.len() {
                break;
            }
        }
        assert_eq!(sorted(&got), sent);
        self.ack(STANDARD, &got).await;
    }

    async fn a_receive_without_wait_answers_at_once(&self) {
        self.none(STANDARD).await;
        self.none(FIFO).await;
    }

    async fn a_waiting_receive_is_woken_by_a_send(&self) {
        let waiting = self.queue.receive(STANDARD, 10, Millis::from_secs(20), self.lease());
        let sending = async {
            self.time.settle().await;
            self.send(STANDARD, vec![plain("wake")]).await;
        };
        let (received, ()) = both(waiting, sending).await;
        let deliveries = received.expect("receives");
        assert_eq!(bodies(&deliveries), ["wake"]);
        self.ack(STANDARD, &deliveries).await;
    }

    async fn a_waiting_receive_ends_empty_when_its_wait_ends(&self) {
        let waiting = self.queue.receive(STANDARD, 10, Millis::from_secs(2), self.lease());
        let (received, ()) = both(waiting, self.time.advance(Millis::from_secs(2))).await;
        assert_eq!(received.expect("receives"), []);
    }

    async fn a_dropped_receive_loses_nothing(&self) {
        {
            let waiting = self.queue.receive(STANDARD, 10, Millis::from_secs(20), self.lease()).fuse();
            let settled = self.time.settle().fuse();
            futures::pin_mut!(waiting, settled);
            futures::select_biased! {
                received = waiting => panic!("nothing was sent: {received:?}"),
                () = settled => {}
            }
        }
        self.send(STANDARD, vec![plain("kept")]).await;
        self.time.settle().await;
        // At the latest when the lease of whoever went away ends.
        let mut deliveries = self.take(STANDARD, 1).await;
        if deliveries.is_empty() {
            self.time.advance(self.lease()).await;
            deliveries = self.take(STANDARD, 1).await;
        }
        assert_eq!(bodies(&deliveries), ["kept"]);
        self.ack(STANDARD, &deliveries).await;
    }

    async fn a_leased_message_is_not_handed_out_again(&self) {
        self.send(STANDARD, vec![plain("held")]).await;
        let delivery = self.one(STANDARD).await;
        self.time.advance(self.half()).await;
        self.none(STANDARD).await;
        self.ack(STANDARD, &[delivery]).await;
    }

    async fn an_expired_lease_returns_the_message_and_voids_the_receipt(&self) {
        self.send(STANDARD, vec![plain("again")]).await;
        let first = self.one(STANDARD).await;
        self.time.advance(self.lease()).await;
        // Although nobody else has it.
        self.void(STANDARD, &first).await;
        let second = self.one(STANDARD).await;
        assert_eq!((second.id.as_str(), second.receive_count), (first.id.as_str(), 2));
        assert_eq!(second.sent_at, first.sent_at);
        assert_ne!(second.receipt, first.receipt);
        self.void(STANDARD, &first).await;
        self.ack(STANDARD, &[second]).await;
    }

    async fn a_waiting_receive_is_woken_by_an_expiry(&self) {
        self.send(STANDARD, vec![plain("expires")]).await;
        let first = self.one(STANDARD).await;
        let waiting = self.queue.receive(STANDARD, 1, Millis::from_secs(60), self.lease());
        let (received, ()) = both(waiting, self.time.advance(self.lease())).await;
        let second = received.expect("receives");
        assert_eq!(bodies(&second), ["expires"]);
        self.void(STANDARD, &first).await;
        self.ack(STANDARD, &second).await;
    }

    async fn extending_keeps_the_message(&self) {
        self.send(STANDARD, vec![plain("long")]).await;
        let delivery = self.one(STANDARD).await;
        for _ in 0..3 {
            self.time.advance(self.half()).await;
            self.queue.extend(STANDARD, &delivery.receipt, self.lease()).await.expect("extends");
        }
        self.none(STANDARD).await;
        self.ack(STANDARD, &[delivery]).await;
    }

    async fn extending_may_shorten(&self) {
        self.send(STANDARD, vec![plain("short")]).await;
        let first = self.one(STANDARD).await;
        let waiting = self.queue.receive(STANDARD, 1, Millis::from_secs(20), self.lease());
        let shortening = async {
            self.time.settle().await;
            self.queue.extend(STANDARD, &first.receipt, Millis::from_secs(2)).await.expect("extends");
            self.time.advance(Millis::from_secs(2)).await;
        };
        let (received, ()) = both(waiting, shortening).await;
        let second = received.expect("receives");
        assert_eq!(bodies(&second), ["short"]);
        self.ack(STANDARD, &second).await;
    }

    async fn a_lease_of_more_than_twelve_hours_is_refused(&self) {
        let too_long = TWELVE_HOURS.plus(Millis(1));
        refused(self.queue.receive(STANDARD, 1, NOW, too_long).await, ErrorKind::Permanent);
        refused(self.queue.receive(STANDARD, 1, NOW, NOW).await, ErrorKind::Permanent);
        self.send(STANDARD, vec![plain("held for long")]).await;
        let delivery = self.one(STANDARD).await;
        refused(self.queue.extend(STANDARD, &delivery.receipt, too_long).await, ErrorKind::Permanent);
        // Clamped or refused.
        let _ = self.queue.extend(STANDARD, &delivery.receipt, TWELVE_HOURS).await;
        self.ack(STANDARD, &[delivery]).await;
    }

    async fn a_lease_cannot_outlast_twelve_hours(&self) {
        let hour = Millis::from_secs(3600);
        self.send(STANDARD, vec![plain("forever")]).await;
        let first = self.queue.receive(STANDARD, 1, NOW, TWELVE_HOURS).await.expect("receives");
        self.time.advance(hour).await;
        // Clamped or refused: in any case it does not outlast the limit.
        let _ = self.queue.extend(STANDARD, &first[0].receipt, TWELVE_HOURS).await;
        self.time.advance(TWELVE_HOURS.since(hour)).await;
        self.void(STANDARD, &first[0]).await;
        let second = self.take(STANDARD, 1).await;
        assert_eq!(bodies(&second), ["forever"]);
        self.ack(STANDARD, &second).await;
    }

    async fn releasing_hands_the_message_on(&self) {
        self.send(STANDARD, vec![plain("handed back")]).await;
        let first = self.one(STANDARD).await;
        let waiting = self.queue.receive(STANDARD, 1, Millis::from_secs(20), self.lease());
        let releasing = async {
            self.time.settle().await;
            self.queue.release(STANDARD, &first.receipt, NOW).await.expect("releases");
        };
        let (received, ()) = both(waiting, releasing).await;
        let second = received.expect("receives");
        assert_eq!(bodies(&second), ["handed back"]);
        assert_eq!(second[0].receive_count, 2);
        self.void(STANDARD, &first).await;
        self.ack(STANDARD, &second).await;
    }

    async fn releasing_with_delay_hides_the_message_meanwhile(&self) {
        self.send(STANDARD, vec![plain("later")]).await;
        let first = self.one(STANDARD).await;
        let delay = Millis::from_secs(5);
        self.queue.release(STANDARD, &first.receipt, delay).await.expect("releases");
        self.void(STANDARD, &first).await;
        self.time.advance(delay.since(self.time.brink())).await;
        self.none(STANDARD).await;
        self.time.advance(self.time.brink()).await;
        let second = self.one(STANDARD).await;
        self.ack(STANDARD, &[second]).await;
    }

    async fn acknowledged_is_gone_and_its_receipt_void(&self) {
        self.send(STANDARD, vec![plain("done")]).await;
        let delivery = self.one(STANDARD).await;
        self.ack(STANDARD, std::slice::from_ref(&delivery)).await;
        self.void(STANDARD, &delivery).await;
        self.send(STANDARD, vec![plain("another")]).await;
        let another = self.one(STANDARD).await;
        assert_ne!((&another.id, &another.receipt), (&delivery.id, &delivery.receipt));
        self.void(STANDARD, &delivery).await;
        self.ack(STANDARD, &[another]).await;
        self.time.advance(self.lease()).await;
        self.none(STANDARD).await;
    }

    async fn acknowledged_together_each_is_answered_for_itself(&self) {
        // More than SQS takes at once.
        let names: Vec<String> = (0..12).map(|number| format!("together {number}")).collect();
        self.send(STANDARD, names.iter().map(|name| plain(name)).collect()).await;
        let deliveries = self.take(STANDARD, names.len()).await;
        assert_eq!(deliveries.len(), names.len());
        self.ack(STANDARD, &deliveries[3..4]).await;
        let receipts: Vec<&str> = deliveries.iter().map(|delivery| delivery.receipt.as_str()).collect();
        let answers = self.queue.ack_all(STANDARD, &receipts).await;
        assert_eq!(answers.len(), receipts.len());
        for (position, answer) in answers.into_iter().enumerate() {
            match position {
                3 => refused(answer, ErrorKind::Fenced),
                _ => assert_eq!(answer, Ok(())),
            }
        }
        self.void(STANDARD, &deliveries[0]).await;
        assert_eq!(self.queue.ack_all(STANDARD, &[]).await, []);
        self.time.advance(self.lease()).await;
        self.none(STANDARD).await;
    }

    async fn a_delayed_message_arrives_after_its_delay(&self) {
        let delay = Millis::from_secs(5);
        self.send(STANDARD, vec![Outgoing { delay, ..plain("delayed") }]).await;
        self.time.advance(delay.since(self.time.brink())).await;
        self.none(STANDARD).await;
        let waiting = self.queue.receive(STANDARD, 1, Millis::from_secs(20), self.lease());
        let (received, ()) = both(waiting, self.time.advance(self.time.brink())).await;
        let deliveries = received.expect("receives");
        assert_eq!(bodies(&deliveries), ["delayed"]);
        self.ack(STANDARD, &deliveries).await;
    }

    async fn a_standard_queue_does_not_deduplicate(&self) {
        self.send(STANDARD, vec![self.deduped("g", "same", "copy"), self.deduped("g", "same", "copy")]).await;
        let deliveries = self.take(STANDARD, 2).await;
        assert_eq!(bodies(&deliveries), ["copy", "copy"]);
        assert_ne!(deliveries[0].id, deliveries[1].id);
        self.ack(STANDARD, &deliveries).await;
    }

    async fn a_standard_queue_does_not_block_a_group(&self) {
        self.send(STANDARD, vec![self.grouped("g", "one"), self.grouped("g", "two")]).await;
        let (first, second) = (self.one(STANDARD).await, self.one(STANDARD).await);
        assert_ne!(first.body, second.body);
        self.ack(STANDARD, &[first, second]).await;
    }

    async fn too_many_receives_lead_to_the_dead_letter_queue(&self) {
        self.send(REDRIVE, vec![plain("poison")]).await;
        for receive_count in 1..=2 {
            let delivery = self.one(REDRIVE).await;
            assert_eq!(delivery.receive_count, receive_count);
            self.none(DEAD).await;
            self.queue.release(REDRIVE, &delivery.receipt, NOW).await.expect("releases");
        }
        let waiting = self.queue.receive(DEAD, 10, Millis::from_secs(20), self.lease());
        let third = async {
            self.time.settle().await;
            self.none(REDRIVE).await;
        };
        let (received, ()) = both(waiting, third).await;
        let dead = received.expect("receives");
        assert_eq!(bodies(&dead), ["poison"]);
        self.ack(DEAD, &dead).await;
        self.time.advance(self.lease()).await;
        self.none(REDRIVE).await;
    }

    async fn stats_count_what_is_there(&self) {
        self.stats((0, 0, 0)).await;
        let delay = Millis(2 * self.lease().0);
        self.send(STANDARD, vec![Outgoing { delay, ..plain("counted-d") }]).await;
        self.send(STANDARD, vec![plain("counted-1"), plain("counted-2"), plain("counted-3")]).await;
        let held = self.one(STANDARD).await;
        self.stats((2, 1, 1)).await;
        // An expired lease counts as visible although nobody has looked.
        self.time.advance(self.lease()).await;
        self.stats((3, 0, 1)).await;
        self.void(STANDARD, &held).await;
        self.time.advance(delay).await;
        let deliveries = self.take(STANDARD, 4).await;
        assert_eq!(sorted(&deliveries), ["counted-1", "counted-2", "counted-3", "counted-d"]);
        self.ack(STANDARD, &deliveries).await;
    }

    async fn stats_tell_the_age_of_the_oldest(&self) {
        assert_eq!(self.stats((0, 0, 0)).await.oldest, None);
        let age = Millis::from_secs(3);
        self.send(STANDARD, vec![plain("old")]).await;
        self.time.advance(age).await;
        self.send(STANDARD, vec![plain("young")]).await;
        let oldest = self.stats((2, 0, 0)).await.oldest;
        assert!(oldest.is_some_and(|oldest| oldest >= age), "{oldest:?}");
        let deliveries = self.take(STANDARD, 2).await;
        self.ack(STANDARD, &deliveries).await;
    }
}
