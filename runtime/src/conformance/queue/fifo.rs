//! What a FIFO queue promises beyond a standard one.

use push0_core::Millis;

use super::{DEAD_FIFO, FIFO, NOW, REDRIVE_FIFO, Suite, bodies};
use crate::conformance::{both, refused};
use crate::port::{ErrorKind, Outgoing};

impl Suite<'_> {
    pub(super) async fn fifo_needs_group_and_dedup_and_refuses_delay(&self) {
        let good = || self.grouped("g", "needs");
        let without = [
            Outgoing { group: None, ..good() },
            Outgoing { dedup: None, ..good() },
            Outgoing { delay: Millis(1), ..good() },
        ];
        for message in without {
            refused(self.queue.send(FIFO, vec![good(), message]).await, ErrorKind::Permanent);
        }
        // Nothing was stored, the dedup id of the good one neither.
        self.send(FIFO, vec![good()]).await;
        let deliveries = self.take(FIFO, 1).await;
        assert_eq!(bodies(&deliveries), ["needs"]);
        self.ack(FIFO, &deliveries).await;
    }

    pub(super) async fn fifo_keeps_order_within_a_group(&self) {
        let message = |group: &str, i: usize| {
            // Rank must not matter here.
            Outgoing { rank: -(i as i64), ..self.grouped(group, &format!("order-{group}{i:02}")) }
        };
        let sent = (0..12).flat_map(|i| [message("a", i), message("b", i)]).collect();
        self.send(FIFO, sent).await;
        let mut seen: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for _ in 0..100 {
            if seen.values().map(Vec::len).sum::<usize>() == 24 {
                break;
            }
            let deliveries = self.queue.receive(FIFO, 5, NOW, self.lease()).await.expect("receives");
            for delivery in &deliveries {
                seen.entry(delivery.group.clone().expect("a group")).or_default().push(delivery.body.clone());
            }
            self.ack(FIFO, &deliveries).await;
        }
        for group in ["a", "b"] {
            let expected: Vec<String> = (0..12).map(|i| format!("order-{group}{i:02}")).collect();
            assert_eq!(seen[group], expected);
        }
        self.none(FIFO).await;
    }

    pub(super) async fn fifo_blocks_a_group_in_flight_and_no_other(&self) {
        self.send(FIFO, vec![self.grouped("a", "block-a1"), self.grouped("a", "block-a2")]).await;
        let first = self.one(FIFO).await;
        assert_eq!(first.body, "block-a1");
        self.none(FIFO).await;
        self.send(FIFO, vec![self.grouped("a", "block-a3"), self.grouped("b", "block-b1")]).await;
        let other = self.take(FIFO, 1).await;
        assert_eq!(bodies(&other), ["block-b1"]);
        self.ack(FIFO, &[first]).await;
        let rest = self.take(FIFO, 2).await;
        assert_eq!(bodies(&rest), ["block-a2", "block-a3"]);
        // A group is blocked until the last of several is done.
        self.send(FIFO, vec![self.grouped("a", "block-a4")]).await;
        self.ack(FIFO, &rest[..1]).await;
        self.none(FIFO).await;
        self.ack(FIFO, &rest[1..]).await;
        let last = self.one(FIFO).await;
        self.ack(FIFO, &[last]).await;
        self.ack(FIFO, &other).await;
    }

    pub(super) async fn fifo_wakes_who_waits_for_a_blocked_group(&self) {
        self.send(FIFO, vec![self.grouped("a", "free-1"), self.grouped("a", "free-2")]).await;
        let first = self.one(FIFO).await;
        let waiting = self.queue.receive(FIFO, 10, Millis::from_secs(20), self.lease());
        let acknowledging = async {
            self.time.settle().await;
            self.ack(FIFO, &[first]).await;
        };
        let (received, ()) = both(waiting, acknowledging).await;
        let second = received.expect("receives");
        assert_eq!(bodies(&second), ["free-2"]);
        self.ack(FIFO, &second).await;
    }

    pub(super) async fn fifo_returns_expired_and_released_at_the_head(&self) {
        self.send(FIFO, (1..=3).map(|i| self.grouped("a", &format!("head-{i}"))).collect()).await;
        let first = self.one(FIFO).await;
        self.time.advance(self.lease()).await;
        self.void(FIFO, &first).await;
        let again = self.one(FIFO).await;
        assert_eq!((again.body.as_str(), again.receive_count), ("head-1", 2));
        self.queue.release(FIFO, &again.receipt, NOW).await.expect("releases");
        let all = self.take(FIFO, 3).await;
        assert_eq!(bodies(&all), ["head-1", "head-2", "head-3"]);
        // One of several comes back before those sent later.
        self.send(FIFO, vec![self.grouped("a", "head-4")]).await;
        self.queue.release(FIFO, &all[1].receipt, NOW).await.expect("releases");
        self.ack(FIFO, &[all[0].clone(), all[2].clone()]).await;
        let rest = self.take(FIFO, 2).await;
        assert_eq!(bodies(&rest), ["head-2", "head-4"]);
        self.ack(FIFO, &rest).await;
    }

    pub(super) async fn fifo_release_with_delay_keeps_the_group_blocked(&self) {
        self.send(FIFO, vec![self.grouped("a", "pause-1"), self.grouped("a", "pause-2")]).await;
        let first = self.one(FIFO).await;
        let delay = Millis::from_secs(5);
        self.queue.release(FIFO, &first.receipt, delay).await.expect("releases");
        self.time.advance(delay.since(self.time.brink())).await;
        self.none(FIFO).await;
        let waiting = self.queue.receive(FIFO, 10, Millis::from_secs(20), self.lease());
        let (received, ()) = both(waiting, self.time.advance(self.time.brink())).await;
        let both_of_them = received.expect("receives");
        assert_eq!(bodies(&both_of_them), ["pause-1", "pause-2"]);
        self.ack(FIFO, &both_of_them).await;
    }

    pub(super) async fn fifo_swallows_a_dedup_id_even_after_deletion(&self) {
        let message = |body: &str| self.deduped("a", "dup", body);
        // Within one send, across groups, while stored and after deletion.
        self.send(FIFO, vec![message("dup-1"), message("dup-2")]).await;
        self.send(FIFO, vec![self.deduped("b", "dup", "dup-3")]).await;
        let deliveries = self.take(FIFO, 1).await;
        assert_eq!(bodies(&deliveries), ["dup-1"]);
        self.ack(FIFO, &deliveries).await;
        self.send(FIFO, vec![message("dup-4")]).await;
        self.none(FIFO).await;
    }

    pub(super) async fn fifo_forgets_a_dedup_id_after_five_minutes(&self) {
        let message = |body: &str| self.deduped("a", "forget", body);
        self.send(FIFO, vec![message("forget-1")]).await;
        let deliveries = self.take(FIFO, 1).await;
        self.ack(FIFO, &deliveries).await;
        self.time.advance(Millis::from_secs(300).since(self.time.brink())).await;
        self.send(FIFO, vec![message("forget-2")]).await;
        self.none(FIFO).await;
        // Counted from the send that was stored, not from those that were swallowed.
        self.time.advance(self.time.brink()).await;
        self.send(FIFO, vec![message("forget-3")]).await;
        let deliveries = self.take(FIFO, 1).await;
        assert_eq!(bodies(&deliveries), ["forget-3"]);
        self.ack(FIFO, &deliveries).await;
    }

    pub(super) async fn fifo_dead_letters_keep_group_and_order_and_free_the_group(&self) {
        self.send(REDRIVE_FIFO, (1..=3).map(|i| self.grouped("a", &format!("bad-{i}"))).collect()).await;
        for _ in 0..2 {
            let received = self.queue.receive(REDRIVE_FIFO, 2, self.time.patience(), self.lease()).await;
            let deliveries = received.expect("receives");
            assert_eq!(bodies(&deliveries), ["bad-1", "bad-2"]);
            self.time.advance(self.lease()).await;
        }
        let next = self.take(REDRIVE_FIFO, 1).await;
        assert_eq!(bodies(&next), ["bad-3"]);
        let dead = self.take(DEAD_FIFO, 2).await;
        assert_eq!(bodies(&dead), ["bad-1", "bad-2"]);
        assert!(dead.iter().all(|delivery| delivery.group.as_deref() == Some("a")));
        self.ack(REDRIVE_FIFO, &next).await;
        self.ack(DEAD_FIFO, &dead).await;
    }
}
