//! The order in which a standard queue hands out, where it says that it has one.

use super::{NOW, STANDARD, Suite, bodies};
use crate::port::{Delivery, Outgoing};

impl Suite<'_> {
    fn ranked(&self, group: &str, body: &str, rank: i64) -> Outgoing {
        Outgoing { rank, ..self.grouped(group, body) }
    }

    /// So many messages of a group, one after the other.
    async fn backlog(&self, group: &str, count: usize) {
        let messages = (0..count).map(|i| self.grouped(group, &format!("{group}{i:02}"))).collect();
        self.send(STANDARD, messages).await;
    }

    /// The next one, which stays in flight.
    async fn next(&self, held: &mut Vec<Delivery>) -> String {
        let delivery = self.one(STANDARD).await;
        let body = delivery.body.clone();
        held.push(delivery);
        body
    }

    pub(super) async fn ranking_a_group_goes_by_rank_and_then_by_age(&self) {
        let ranks = [("third", 5), ("first", -1), ("fourth", 5), ("second", 0)];
        self.send(STANDARD, ranks.map(|(body, rank)| self.ranked("a", body, rank)).into()).await;
        let taken = self.take(STANDARD, 4).await;
        assert_eq!(bodies(&taken), ["first", "second", "third", "fourth"]);
        // What comes back has its place, not the last one.
        self.queue.release(STANDARD, &taken[1].receipt, NOW).await.expect("releases");
        self.queue.release(STANDARD, &taken[0].receipt, NOW).await.expect("releases");
        let again = self.take(STANDARD, 2).await;
        assert_eq!(bodies(&again), ["first", "second"]);
        self.ack(STANDARD, &again).await;
        self.ack(STANDARD, &taken[2..]).await;
    }

    pub(super) async fn ranking_a_backlog_delays_no_other_group(&self) {
        self.backlog("a", 30).await;
        let mut held = Vec::new();
        for i in 0..3 {
            assert_eq!(self.next(&mut held).await, format!("a{i:02}"));
        }
        // Whatever its rank says: that is a matter within a group.
        let late = ["b0", "b1", "b2", "b3"].map(|body| self.ranked("b", body, 1_000));
        self.send(STANDARD, late.into()).await;
        let mut order = Vec::new();
        for _ in 0..5 {
            order.push(self.next(&mut held).await);
        }
        // Three each in flight; then the one whose turn was longer ago.
        assert_eq!(order, ["b0", "b1", "b2", "a03", "b3"]);
        self.ack(STANDARD, &held).await;
        let rest = self.take(STANDARD, 26).await;
        assert_eq!(rest.len(), 26);
        self.ack(STANDARD, &rest).await;
    }

    pub(super) async fn ranking_groups_take_turns_also_in_one_receive(&self) {
        self.backlog("a", 6).await;
        self.backlog("b", 2).await;
        self.send(STANDARD, vec![Outgoing { body: "nobody's".to_owned(), ..Outgoing::default() }]).await;
        let taken = self.take(STANDARD, 9).await;
        let first: Vec<&str> = bodies(&taken)[..5].iter().map(|body| &body[..1]).collect();
        let count = |of: &str| first.iter().filter(|group| **group == of).count();
        assert_eq!((count("a"), count("b"), count("n")), (2, 2, 1), "{first:?}");
        assert_eq!(bodies(&taken)[5..], ["a02", "a03", "a04", "a05"]);
        self.ack(STANDARD, &taken).await;
    }

    pub(super) async fn ranking_counts_what_is_in_flight_now(&self) {
        self.backlog("a", 4).await;
        self.backlog("b", 4).await;
        let mut held = Vec::new();
        for _ in 0..4 {
            self.next(&mut held).await;
        }
        // Of two each in flight, one group's are done, given back or over.
        let of_a: Vec<Delivery> = held.extract_if(.., |delivery| delivery.body.starts_with('a')).collect();
        self.ack(STANDARD, &of_a[..1]).await;
        self.queue.release(STANDARD, &of_a[1].receipt, NOW).await.expect("releases");
        let released = of_a[1].body.clone();
        assert_eq!(self.next(&mut held).await, released);
        assert_eq!(self.next(&mut held).await, "a02");
        self.time.advance(self.lease()).await;
        self.time.advance(self.half()).await;
        // All leases are over; nothing is in flight, and everything comes again in turn.
        let rest = self.take(STANDARD, 7).await;
        assert_eq!(rest.len(), 7);
        let first: Vec<&str> = bodies(&rest)[..6].iter().map(|body| &body[..1]).collect();
        assert_eq!(first.iter().filter(|group| **group == "a").count(), 3, "{first:?}");
        self.ack(STANDARD, &rest).await;
    }
}
