//! Receiving: polls that nobody cancels.
//!
//! A poll is a task of its own. When its caller goes away it becomes an *orphan*: the next receive of the same queue, number and lease
//! adopts it instead of starting another. Only an orphan that is answered with messages has nobody to give them to: after a moment it
//! hands them back.
//!
//! Handing back is counted by SQS as a receive, and a message received too often becomes a dead letter. A message that meets the orphans of
//! a fleet that has just become busy could be handed from one to the next: so one that has come a few times already is handed back hidden
//! for [`REST`], by when those orphans have ended. Callers that drop receives as a habit (a worker that waits on several queues) should
//! wait no longer than `REST` in each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName as Attribute};
use push0_core::Millis;
use tokio::sync::Notify;

use super::super::dynamodb::random_hex;
use super::super::error::port_error;
use super::{Sqs, check_lease, seconds};
use crate::port::{Delivery, PortError, PortResult};

/// Messages a receive.
const MAX_RECEIVE: usize = 10;
/// SQS's longest wait.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// How long the messages of an orphan are kept for whoever may adopt it.
const MOMENT: Duration = Duration::from_millis(50);
/// Messages received more often than this are handed back with a rest.
const BOUNCES: u32 = 3;
/// That rest, in seconds.
const REST: i32 = 2;

/// Polls are alike that may stand for each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    queue: String,
    max: usize,
    lease_s: i32,
}

/// The polls nobody waits for.
#[derive(Default)]
pub(super) struct Orphans(Mutex<BTreeMap<Key, Vec<Arc<Poll>>>>);

struct Poll {
    state: Mutex<State>,
    /// For the owner: there is an answer.
    answered: Notify,
    /// For the poll's task: the answer was taken, or the owner has changed.
    moved: Notify,
}

struct State {
    has_owner: bool,
    answer: Answer,
}

enum Answer {
    Awaited,
    Here(PortResult<Vec<Delivery>>),
    Taken,
}

/// What the orphans of a queue say to somebody who does not want to wait.
enum Seen {
    Nothing,
    /// One is waiting: were there a message, it would have it.
    Waiting,
    Messages(Vec<Delivery>),
}

pub(super) async fn receive(
    sqs: &Sqs,
    queue: &str,
    max: usize,
    wait: Millis,
    lease: Millis,
) -> PortResult<Vec<Delivery>> {
    if !(1..=MAX_RECEIVE).contains(&max) {
        return Err(PortError::permanent(format!("a receive is of 1 to {MAX_RECEIVE} messages, not {max}")));
    }
    check_lease(lease)?;
    let url = sqs.url(queue).await?;
    let key = Key { queue: queue.to_owned(), max, lease_s: seconds(lease) };
    if wait == Millis(0) {
        match sqs.0.polls.look(&key) {
            Seen::Messages(deliveries) => return Ok(deliveries),
            Seen::Waiting => return Ok(Vec::new()),
            Seen::Nothing => {}
        }
    }
    let deadline = Instant::now() + Duration::from_millis(wait.0);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = match Owner::adopt(sqs, &key) {
            // It may wait longer than this caller.
            Some(adopted) => tokio::time::timeout(left, adopted.answer()).await.unwrap_or(Ok(Vec::new())),
            None => Owner::start(sqs, &key, &url, left.min(MAX_WAIT)).answer().await,
        };
        match answer {
            Ok(deliveries) if deliveries.is_empty() && Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

impl Orphans {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<Arc<Poll>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: &Key, poll: &Arc<Poll>) {
        self.lock().entry(key.clone()).or_default().push(Arc::clone(poll));
    }

    /// The oldest, which ends first.
    fn take(&self, key: &Key) -> Option<Arc<Poll>> {
        let mut orphans = self.lock();
        let polls = orphans.get_mut(key)?;
        let poll = (!polls.is_empty()).then(|| polls.remove(0));
        if polls.is_empty() {
            orphans.remove(key);
        }
        poll
    }

    fn remove(&self, key: &Key, poll: &Arc<Poll>) {
        let mut orphans = self.lock();
        if let Some(polls) = orphans.get_mut(key) {
            polls.retain(|other| !Arc::ptr_eq(other, poll));
            if polls.is_empty() {
                orphans.remove(key);
            }
        }
    }

    fn look(&self, key: &Key) -> Seen {
        let polls = self.lock().get(key).cloned().unwrap_or_default();
        let mut seen = Seen::Nothing;
        for poll in polls {
            let mut state = poll.lock();
            match &state.answer {
                Answer::Awaited => seen = Seen::Waiting,
                Answer::Here(Ok(deliveries)) if !deliveries.is_empty() => {
                    if let Answer::Here(Ok(deliveries)) = std::mem::replace(&mut state.answer, Answer::Taken) {
                        drop(state);
                        poll.moved.notify_one();
                        self.remove(key, &poll);
                        return Seen::Messages(deliveries);
                    }
                }
                Answer::Here(_) | Answer::Taken => {}
            }
        }
        seen
    }
}

impl Poll {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: it is over, its answer was taken.
    fn set_owner(&self, has_owner: bool) -> bool {
        let mut state = self.lock();
        if matches!(state.answer, Answer::Taken) {
            return false;
        }
        state.has_owner = has_owner;
        self.moved.notify_one();
        true
    }

    fn take(&self) -> Option<PortResult<Vec<Delivery>>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.answer, Answer::Taken) {
            Answer::Here(answer) => {
                self.moved.notify_one();
                Some(answer)
            }
            other => {
                state.answer = other;
                None
            }
        }
    }
}

/// Somebody who waits for a poll. Dropped before there is an answer, it leaves an orphan.
struct Owner<'a> {
    sqs: &'a Sqs,
    key: &'a Key,
    poll: Arc<Poll>,
}

impl<'a> Owner<'a> {
    fn start(sqs: &'a Sqs, key: &'a Key, url: &str, wait: Duration) -> Self {
        let state = State { has_owner: true, answer: Answer::Awaited };
        let poll = Arc::new(Poll { state: Mutex::new(state), answered: Notify::new(), moved: Notify::new() });
        let wait_s = seconds(Millis(wait.as_millis() as u64));
        let running = Running::new(sqs.clone());
        tokio::spawn(run(running, key.clone(), url.to_owned(), wait_s, Arc::clone(&poll)));
        Self { sqs, key, poll }
    }

    fn adopt(sqs: &'a Sqs, key: &'a Key) -> Option<Self> {
        while let Some(poll) = sqs.0.polls.take(key) {
            if poll.set_owner(true) {
                return Some(Self { sqs, key, poll });
            }
        }
        None
    }

    async fn answer(self) -> PortResult<Vec<Delivery>> {
        loop {
            if let Some(answer) = self.poll.take() {
                return answer;
            }
            self.poll.answered.notified().await;
        }
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        if matches!(self.poll.lock().answer, Answer::Taken) {
            return;
        }
        // Known as an orphan first: its task may hand back at once what it has.
        self.sqs.0.polls.add(self.key, &self.poll);
        if !self.poll.set_owner(false) {
            self.sqs.0.polls.remove(self.key, &self.poll);
        }
    }
}

/// Counts a poll's task while it lives.
struct Running(Sqs);

impl Running {
    fn new(sqs: Sqs) -> Self {
        sqs.0.running.send_modify(|polls| *polls += 1);
        Self(sqs)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.send_modify(|polls| *polls -= 1);
    }
}

/// The task of a poll: asks, gives the answer to whoever waits for it, and hands back what nobody waits for.
async fn run(running: Running, key: Key, url: String, wait_s: i32, poll: Arc<Poll>) {
    let sqs = &running.0;
    let answer = ask(sqs, &key, &url, wait_s).await;
    poll.lock().answer = Answer::Here(answer);
    poll.answered.notify_one();
    loop {
        let has_owner = {
            let state = poll.lock();
            if matches!(state.answer, Answer::Taken) {
                return;
            }
            state.has_owner
        };
        if has_owner {
            poll.moved.notified().await;
        } else if tokio::time::timeout(MOMENT, poll.moved.notified()).await.is_err() {
            let unwanted = {
                let mut state = poll.lock();
                match std::mem::replace(&mut state.answer, Answer::Taken) {
                    Answer::Here(answer) if !state.has_owner => answer,
                    other => {
                        state.answer = other;
                        continue;
                    }
                }
            };
            sqs.0.polls.remove(&key, &poll);
            let unwanted = unwanted.unwrap_or_default();
            let rest = |delivery: &Delivery| if delivery.receive_count > BOUNCES { REST } else { 0 };
            hand_back(sqs, &key.queue, &url, unwanted.iter().collect(), rest).await;
            return;
        }
    }
}

async fn ask(sqs: &Sqs, key: &Key, url: &str, wait_s: i32) -> PortResult<Vec<Delivery>> {
    let attributes = [Attribute::SentTimestamp, Attribute::ApproximateReceiveCount, Attribute::MessageGroupId];
    let ask = sqs.0.client.receive_message().queue_url(url).max_number_of_messages(key.max as i32);
    let ask = ask.wait_time_seconds(wait_s).visibility_timeout(key.lease_s);
    // Of a FIFO queue a repeated request is answered with the same messages: otherwise those of a lost answer would block their groups.
    let ask = if key.queue.ends_with(".fifo") { ask.receive_request_attempt_id(random_hex::<16>()?) } else { ask };
    let received = ask.set_message_system_attribute_names(Some(attributes.to_vec())).send().await;
    let received = received.map_err(|error| port_error(&format!("receive from queue {}", key.queue), &error))?;
    let (now, lease) = (Instant::now(), Duration::from_secs(key.lease_s as u64));
    let deliveries: PortResult<Vec<Delivery>> =
        received.messages.unwrap_or_default().into_iter().map(delivery).collect();
    let deliveries = deliveries?;
    for delivery in &deliveries {
        sqs.0.receipts.received(&delivery.receipt, now, lease);
    }
    Ok(deliveries)
}

fn delivery(message: Message) -> PortResult<Delivery> {
    let attributes = message.attributes.unwrap_or_default();
    let number = |name: Attribute| attributes.get(&name).and_then(|value| value.parse::<u64>().ok());
    let (Some(id), Some(receipt)) = (message.message_id, message.receipt_handle) else {
        return Err(PortError::unknown("a message arrived without id or receipt"));
    };
    Ok(Delivery {
        id,
        receipt,
        body: message.body.unwrap_or_default(),
        group: attributes.get(&Attribute::MessageGroupId).cloned(),
        receive_count: number(Attribute::ApproximateReceiveCount).unwrap_or(1) as u32,
        sent_at: Millis(number(Attribute::SentTimestamp).unwrap_or(0)),
    })
}

/// Makes messages visible again, after `rest` seconds. One that could not be handed back returns when its lease ends.
pub(super) async fn hand_back(
    sqs: &Sqs,
    queue: &str,
    url: &str,
    mut deliveries: Vec<&Delivery>,
    rest: impl Fn(&Delivery) -> i32,
) {
    // The last first, so that of a FIFO queue the rest of a group stays hidden until its head is back.
    deliveries.reverse();
    for batch in deliveries.chunks(MAX_RECEIVE) {
        let entry = |(position, delivery): (usize, &&Delivery)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(position.to_string());
            entry.receipt_handle(&delivery.receipt).visibility_timeout(rest(delivery)).build()
        };
        let entries = batch.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>();
        let entries = entries.expect("an entry needs an id and a receipt, and has them");
        let change = sqs.0.client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries));
        let failed = match change.send().await {
            Ok(back) => back.failed.len(),
            Err(_) => batch.len(),
        };
        batch.iter().for_each(|delivery| sqs.0.receipts.void(&delivery.receipt));
        tracing::debug!(queue, messages = batch.len(), failed, "handed back unread");
    }
}
