//! What [`DeadLetters`] promises.

use push0_core::Millis;

use super::{Passing, refused, run_checks};
use crate::port::{DeadLetters, Delivery, ErrorKind, Outgoing, Peeked, Queue};

pub(super) const DEAD: &str = "conformance-letters-dead";
pub(super) const SOURCE: &str = "conformance-letters";
pub(super) const SOURCE_FIFO: &str = "conformance-letters.fifo";

/// Runs every check on queues of [`super::queues`], which must be there and empty, and leaves them empty. `queue` and `letters` are of one
/// adapter.
pub async fn dead_letters_suite(letters: &dyn DeadLetters, queue: &dyn Queue, time: &dyn Passing) {
    let suite = Suite { letters, queue, time };
    run_checks! { suite:
        a_look_shows_what_lies_there_page_by_page
        a_look_counts_no_receive
        a_letter_is_sent_back_once_and_is_new_there
        a_letter_keeps_the_time_of_its_sending
        what_somebody_has_in_hand_is_left_alone
        a_look_shows_what_somebody_has_in_hand
        a_letter_goes_into_a_fifo_queue_with_its_group_only
        a_letter_is_discarded_once
        mistakes_are_refused
    }
}

struct Suite<'a> {
    letters: &'a dyn DeadLetters,
    queue: &'a dyn Queue,
    time: &'a dyn Passing,
}

fn bodies(seen: &[Peeked]) -> Vec<&str> {
    let mut bodies: Vec<&str> = seen.iter().map(|seen| seen.body.as_str()).collect();
    bodies.sort_unstable();
    bodies
}

impl Suite<'_> {
    async fn dead(&self, bodies: &[&str], group: Option<&str>) -> Vec<Peeked> {
        let message =
            |body: &&str| Outgoing { body: (*body).to_owned(), group: group.map(str::to_owned), ..Outgoing::default() };
        self.queue.send(DEAD, bodies.iter().map(message).collect()).await.expect("sends");
        let seen = self.look().await;
        assert_eq!(seen.len(), bodies.len());
        seen
    }

    async fn look(&self) -> Vec<Peeked> {
        self.letters.peek(DEAD, None, 100).await.expect("looks")
    }

    async fn one(&self, queue: &str) -> Delivery {
        let received = self.queue.receive(queue, 10, self.time.patience(), self.time.lease()).await;
        let mut received = received.expect("receives");
        assert_eq!(received.len(), 1, "one message from {queue}: {received:?}");
        received.remove(0)
    }

    async fn redrive(&self, id: &str, to: &str, body: Option<&str>) -> bool {
        self.letters.redrive(DEAD, id, to, body.map(str::to_owned)).await.expect("sends back")
    }

    async fn clear(&self) {
        for seen in self.look().await {
            assert!(self.letters.discard(DEAD, &seen.id, "the check is over").await.expect("discards"));
        }
        assert_eq!(self.look().await, []);
    }

    async fn a_look_shows_what_lies_there_page_by_page(&self) {
        let all = self.dead(&["a", "b", "c"], Some("demo")).await;
        assert_eq!(bodies(&all), ["a", "b", "c"]);
        assert!(all.is_sorted_by_key(|seen| seen.id.clone()));
        let as_sent =
            |seen: &Peeked| seen.receive_count == 0 && !seen.in_flight && seen.group.as_deref() == Some("demo");
        assert!(all.iter().all(as_sent), "{all:?}");
        let ids = |seen: &[Peeked]| seen.iter().map(|seen| seen.id.clone()).collect::<Vec<_>>();
        let first = self.letters.peek(DEAD, None, 2).await.expect("looks");
        assert_eq!(ids(&first), ids(&all[..2]));
        let rest = self.letters.peek(DEAD, Some(&first[1].id), 2).await.expect("looks");
        assert_eq!(ids(&rest), ids(&all[2..]));
        self.clear().await;
    }

    async fn a_look_counts_no_receive(&self) {
        let seen = self.dead(&["seen twice"], None).await;
        assert_eq!(self.look().await, seen);
        self.clear().await;
    }

    async fn a_letter_is_sent_back_once_and_is_new_there(&self) {
        let seen = self.dead(&["a", "b"], Some("demo")).await;
        let [first, second] = [&seen[0], &seen[1]];
        assert!(self.redrive(&first.id, SOURCE, Some("another body")).await);
        assert!(!self.redrive(&first.id, SOURCE, None).await, "it has left already");
        let received = self.one(SOURCE).await;
        assert_eq!((received.body.as_str(), received.group.as_deref()), ("another body", Some("demo")));
        assert_eq!(received.receive_count, 1);
        self.queue.ack(SOURCE, &received.receipt).await.expect("acknowledges");
        assert_eq!(bodies(&self.look().await), [second.body.as_str()], "the other one stays");

        assert!(self.redrive(&second.id, SOURCE, None).await);
        let received = self.one(SOURCE).await;
        assert_eq!(received.body, second.body);
        self.queue.ack(SOURCE, &received.receipt).await.expect("acknowledges");
        assert_eq!(self.look().await, []);
    }

    async fn a_letter_keeps_the_time_of_its_sending(&self) {
        let seen = self.dead(&["dated"], None).await;
        self.time.advance(Millis::from_secs(5)).await;
        assert!(self.redrive(&seen[0].id, SOURCE, None).await);
        let received = self.one(SOURCE).await;
        assert_eq!(received.sent_at, seen[0].sent_at);
        self.queue.ack(SOURCE, &received.receipt).await.expect("acknowledges");
    }

    async fn what_somebody_has_in_hand_is_left_alone(&self) {
        self.dead(&["in hand"], None).await;
        let held = self.one(DEAD).await;
        for what_is_done in [
            self.letters.redrive(DEAD, &held.id, SOURCE, None).await,
            self.letters.discard(DEAD, &held.id, "because").await,
        ] {
            refused(what_is_done, ErrorKind::Conflict);
        }
        self.queue.extend(DEAD, &held.receipt, self.time.lease()).await.expect("it is in hand still");
        self.queue.ack(DEAD, &held.receipt).await.expect("acknowledges");
        assert!(self.queue.receive(SOURCE, 1, Millis(0), self.time.lease()).await.expect("receives").is_empty());
    }

    async fn a_look_shows_what_somebody_has_in_hand(&self) {
        self.dead(&["in hand"], None).await;
        let held = self.one(DEAD).await;
        let seen = self.look().await;
        assert!(seen[0].in_flight && seen[0].receive_count == 1 && seen[0].id == held.id, "{seen:?}");
        self.queue.ack(DEAD, &held.receipt).await.expect("acknowledges");
    }

    async fn a_letter_goes_into_a_fifo_queue_with_its_group_only(&self) {
        let without = self.dead(&["x"], None).await;
        refused(self.letters.redrive(DEAD, &without[0].id, SOURCE_FIFO, None).await, ErrorKind::Permanent);
        assert_eq!(bodies(&self.look().await), ["x"], "it stays");
        self.clear().await;
        let with = self.dead(&["y"], Some("demo")).await;
        assert!(self.redrive(&with[0].id, SOURCE_FIFO, None).await);
        let received = self.one(SOURCE_FIFO).await;
        assert_eq!((received.body.as_str(), received.group.as_deref()), ("y", Some("demo")));
        self.queue.ack(SOURCE_FIFO, &received.receipt).await.expect("acknowledges");
    }

    async fn a_letter_is_discarded_once(&self) {
        let seen = self.dead(&["waste"], None).await;
        assert!(self.letters.discard(DEAD, &seen[0].id, "of no use").await.expect("discards"));
        assert!(!self.letters.discard(DEAD, &seen[0].id, "of no use").await.expect("says so"));
        assert_eq!(self.look().await, []);
    }

    async fn mistakes_are_refused(&self) {
        let seen = self.dead(&["kept"], None).await;
        let too_large = "x".repeat(64 * 1024 + 1);
        refused(self.letters.peek("no-such-queue", None, 1).await, ErrorKind::Permanent);
        refused(self.letters.peek(DEAD, None, 0).await, ErrorKind::Permanent);
        refused(self.letters.peek(DEAD, None, 101).await, ErrorKind::Permanent);
        refused(self.letters.peek(DEAD, Some("no id"), 1).await, ErrorKind::Permanent);
        refused(self.letters.redrive(DEAD, &seen[0].id, "no-such-queue", None).await, ErrorKind::Permanent);
        refused(self.letters.redrive(DEAD, &seen[0].id, SOURCE, Some(too_large)).await, ErrorKind::Permanent);
        refused(self.letters.discard(DEAD, "../1", "because").await, ErrorKind::Permanent);
        assert_eq!(bodies(&self.look().await), ["kept"]);
        self.clear().await;
    }
}
