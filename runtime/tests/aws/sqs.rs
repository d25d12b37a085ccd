//! Queues on SQS: the suites against both emulators, the failures SQS documents, and what becomes of polls nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::QueueAttributeName;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use push0_core::Millis;
use push0_runtime::aws::emulator::{account, connect, localstack, ministack};
use push0_runtime::aws::{Connection, Sqs, http_client};
use push0_runtime::conformance::{Passing, dead_letters_suite, queue_suite, queues};
use push0_runtime::engine::QueueSpec;
use push0_runtime::port::{DeadLetters, ErrorKind, Outgoing, PortResult, Queue};
use serde_json::json;

use super::support::{Fate, faulty, operation};

/// Checks left out on SQS, whatever the emulator, and why.
const NOT_ON_SQS: &[(&str, &str)] = &[
    ("a_lease_cannot_outlast_twelve_hours", "takes twelve hours; the adapter's own limit has a unit test"),
    ("fifo_forgets_a_dedup_id_after_five_minutes", "takes five minutes; has an ignored test of its own"),
    ("stats_tell_the_age_of_the_oldest", "the age is a metric of CloudWatch, no attribute of the queue"),
    ("a_look_counts_no_receive", "SQS cannot look without receiving"),
    ("a_letter_keeps_the_time_of_its_sending", "SQS sets the time of a message itself"),
    ("a_look_shows_what_somebody_has_in_hand", "SQS does not show what is in flight"),
];

/// Real time, slept through.
struct RealTime {
    /// One check alone, with its reason for being left out elsewhere ignored.
    only: Option<&'static str>,
    /// What this emulator does otherwise than AWS documents.
    differs: &'static [(&'static str, &'static str)],
}

#[async_trait]
impl Passing for RealTime {
    async fn advance(&self, by: Millis) {
        tokio::time::sleep(Duration::from_millis(by.0)).await;
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    fn lease(&self) -> Millis {
        Millis::from_secs(4)
    }

    fn patience(&self) -> Millis {
        Millis::from_secs(5)
    }

    fn brink(&self) -> Millis {
        Millis::from_secs(2)
    }

    fn leaves_out(&self, check: &str) -> Option<&'static str> {
        match self.only {
            Some(only) => (only != check).then_some("another check runs alone"),
            None => self.differs.iter().chain(NOT_ON_SQS).find(|(name, _)| *name == check).map(|(_, reason)| *reason),
        }
    }
}

const MINISTACK_DIFFERS: &[(&str, &str)] = &[];
const LOCALSTACK_DIFFERS: &[(&str, &str)] = &[];

/// Makes the queues in the account of the connection, over a client of its own.
async fn provide(connection: &Connection, queues: Vec<QueueSpec>) {
    let client = connection.sqs();
    for queue in queues {
        let name = connection.settings.name(&queue.name);
        let mut create = client.create_queue().queue_name(name);
        if queue.fifo {
            create = create.attributes(QueueAttributeName::FifoQueue, "true");
        }
        if let Some(dead) = queue.dead_letter {
            let url = client.get_queue_url().queue_name(connection.settings.name(&dead.queue)).send().await.unwrap();
            let ask = client.get_queue_attributes().queue_url(url.queue_url.unwrap());
            let told = ask.attribute_names(QueueAttributeName::QueueArn).send().await.unwrap();
            let arn = &told.attributes.unwrap()[&QueueAttributeName::QueueArn];
            let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": dead.max_receives });
            create = create.attributes(QueueAttributeName::RedrivePolicy, policy.to_string());
        }
        create.send().await.unwrap();
    }
}

/// An emulator, and what it does otherwise than AWS documents.
type Emulator = (String, RealTime);

fn on_ministack() -> Emulator {
    (ministack(), RealTime { only: None, differs: MINISTACK_DIFFERS })
}

fn on_localstack() -> Option<Emulator> {
    localstack().map(|endpoint| (endpoint, RealTime { only: None, differs: LOCALSTACK_DIFFERS }))
}

async fn queues_keep_their_promises((endpoint, time): Emulator) {
    let connection = connect(&endpoint, &account(), http_client()).await;
    provide(&connection, queues()).await;
    queue_suite(&Sqs::new(&connection), &time, "sqs").await;
}

async fn letters_keep_their_promises((endpoint, time): Emulator) {
    let connection = connect(&endpoint, &account(), http_client()).await;
    provide(&connection, queues()).await;
    let sqs = Sqs::new(&connection);
    dead_letters_suite(&sqs, &sqs, &time).await;
}

#[tokio::test]
async fn sqs_queue_suite_on_ministack() {
    queues_keep_their_promises(on_ministack()).await;
}

#[tokio::test]
async fn sqs_queue_suite_on_localstack() {
    if let Some(emulator) = on_localstack() {
        queues_keep_their_promises(emulator).await;
    }
}

#[tokio::test]
async fn sqs_dead_letters_suite_on_ministack() {
    letters_keep_their_promises(on_ministack()).await;
}

#[tokio::test]
async fn sqs_dead_letters_suite_on_localstack() {
    if let Some(emulator) = on_localstack() {
        letters_keep_their_promises(emulator).await;
    }
}

#[tokio::test]
#[ignore = "takes five minutes"]
async fn sqs_forgets_a_dedup_id_after_five_minutes() {
    let only = |(endpoint, time): Emulator| {
        let only = Some("fifo_forgets_a_dedup_id_after_five_minutes");
        queues_keep_their_promises((endpoint, RealTime { only, ..time }))
    };
    let on_localstack = async {
        if let Some(emulator) = on_localstack() {
            only(emulator).await;
        }
    };
    tokio::join!(only(on_ministack()), on_localstack);
}

const NOW: Millis = Millis(0);
const SHORT: Millis = Millis::from_secs(1);
const LEASE: Millis = Millis::from_secs(30);
const WORK: &str = "work";
const WORK_FIFO: &str = "work.fifo";
const DEAD: &str = "work-dlq";

/// One account of an emulator, seen over the plain network and over one where things happen.
struct Account {
    endpoint: String,
    name: String,
}

impl Account {
    async fn new(endpoint: String) -> Self {
        let account = Self { endpoint, name: account() };
        let work = QueueSpec::new(WORK).with_dead_letter(DEAD, 10);
        let queues = vec![QueueSpec::new(DEAD), work, QueueSpec::new(WORK_FIFO)];
        provide(&account.connection(http_client()).await, queues).await;
        account
    }

    async fn connection(&self, http: SharedHttpClient) -> Connection {
        connect(&self.endpoint, &self.name, http).await
    }

    /// As another process sees it.
    async fn plain(&self) -> Sqs {
        Sqs::new(&self.connection(http_client()).await)
    }

    /// `fate` of the n-th request, from 0, of one operation; all others pass. With how often it was asked.
    async fn with(
        &self,
        of: &'static str,
        fate: impl Fn(u64) -> Fate + Send + Sync + 'static,
    ) -> (Sqs, Arc<AtomicU64>) {
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        let decide = move |_, request: &HttpRequest| match operation(request) == of {
            true => fate(counted.fetch_add(1, Ordering::SeqCst)),
            false => Fate::Pass,
        };
        (Sqs::new(&self.connection(faulty(decide)).await), asked)
    }

    /// What is in a queue and can be had, as another process finds it.
    async fn content(&self, queue: &str) -> Vec<String> {
        let sqs = self.plain().await;
        let mut bodies = Vec::new();
        loop {
            let received = sqs.receive(queue, 10, SHORT, LEASE).await.unwrap();
            if received.is_empty() {
                bodies.sort();
                return bodies;
            }
            for delivery in received {
                sqs.ack(queue, &delivery.receipt).await.unwrap();
                bodies.push(delivery.body);
            }
        }
    }
}

fn message(body: &str) -> Outgoing {
    Outgoing {
        body: body.to_owned(),
        group: Some("demo".to_owned()),
        dedup: Some(body.to_owned()),
        ..Outgoing::default()
    }
}

fn failed<T: std::fmt::Debug>(result: PortResult<T>) -> (ErrorKind, bool) {
    let error = result.unwrap_err();
    (error.kind(), error.may_have_happened())
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Transient { .. })
}

fn error(status: u16, code: &str) -> Fate {
    Fate::json(status, &format!(r#"{{"__type":"com.amazonaws.sqs#{code}","message":"as asked"}}"#))
}

/// What a batch of two says: the first was taken, the second not.
fn half(code: &str, sender_fault: bool) -> Fate {
    let failed = json!({ "Id": "1", "Code": code, "Message": "as asked", "SenderFault": sender_fault });
    let taken = json!({ "Id": "0", "MessageId": "m", "MD5OfMessageBody": "d" });
    Fate::json(200, &json!({ "Successful": [taken], "Failed": [failed] }).to_string())
}

#[tokio::test]
async fn sqs_a_throttled_send_is_tried_again_and_then_says_that_nothing_happened() {
    let account = Account::new(ministack()).await;
    let once = |number| if number == 0 { error(400, "RequestThrottled") } else { Fate::Pass };
    let (sqs, asked) = account.with("SendMessageBatch", once).await;
    sqs.send(WORK, vec![message("at the second try")]).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(account.content(WORK).await, ["at the second try"]);

    let (sqs, _) = account.with("SendMessageBatch", |_| error(400, "RequestThrottled")).await;
    let (kind, may_have_happened) = failed(sqs.send(WORK, vec![message("never")]).await);
    assert!(is_transient(kind) && !may_have_happened);
    assert!(account.content(WORK).await.is_empty());
}

#[tokio::test]
async fn sqs_a_send_that_meets_a_server_error_may_have_happened() {
    let account = Account::new(ministack()).await;
    let (sqs, _) = account.with("SendMessageBatch", |_| error(500, "InternalFailure")).await;
    let (kind, may_have_happened) = failed(sqs.send(WORK, vec![message("never")]).await);
    assert!(is_transient(kind) && may_have_happened);
    assert!(account.content(WORK).await.is_empty());
}

#[tokio::test]
async fn sqs_nobody_there_means_that_nothing_happened() {
    let account = Account::new(ministack()).await;
    let (sqs, _) = account.with("SendMessageBatch", |_| Fate::Refused).await;
    let (kind, may_have_happened) = failed(sqs.send(WORK, vec![message("never")]).await);
    assert!(is_transient(kind) && !may_have_happened);
    let (sqs, _) = account.with("ReceiveMessage", |_| Fate::Refused).await;
    let (kind, may_have_happened) = failed(sqs.receive(WORK, 1, SHORT, LEASE).await);
    assert!(is_transient(kind) && !may_have_happened);
    assert!(account.content(WORK).await.is_empty());
}

#[tokio::test]
async fn sqs_a_send_whose_answer_was_lost_is_there_twice_on_a_standard_queue_and_once_on_a_fifo_queue() {
    let account = Account::new(ministack()).await;
    let once = |number| if number == 0 { Fate::Lost } else { Fate::Pass };
    for (queue, found) in [(WORK, vec!["x", "x"]), (WORK_FIFO, vec!["x"])] {
        let (sqs, _) = account.with("SendMessageBatch", once).await;
        sqs.send(queue, vec![message("x")]).await.unwrap();
        assert_eq!(account.content(queue).await, found);
    }
    let (sqs, _) = account.with("SendMessageBatch", |_| Fate::Lost).await;
    let (kind, may_have_happened) = failed(sqs.send(WORK_FIFO, vec![message("y")]).await);
    assert!(is_transient(kind) && may_have_happened);
    assert_eq!(account.content(WORK_FIFO).await, ["y"]);
}

#[tokio::test]
async fn sqs_of_a_batch_taken_in_part_only_the_rest_is_sent_again() {
    let account = Account::new(ministack()).await;
    let both = || vec![message("a"), message("b")];
    // The first answer is made up: what is in the queue afterwards was sent by the second call.
    let once = |number| if number == 0 { half("InternalError", false) } else { Fate::Pass };
    let (sqs, asked) = account.with("SendMessageBatch", once).await;
    sqs.send(WORK, both()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(account.content(WORK).await, ["b"]);

    let (sqs, asked) = account.with("SendMessageBatch", |_| half("InternalError", false)).await;
    let (kind, may_have_happened) = failed(sqs.send(WORK, both()).await);
    assert!(is_transient(kind) && may_have_happened);
    assert_eq!(asked.load(Ordering::SeqCst), 4, "not for ever");

    let (sqs, asked) = account.with("SendMessageBatch", |_| half("InvalidMessageContents", true)).await;
    let (kind, may_have_happened) = failed(sqs.send(WORK, both()).await);
    assert_eq!((kind, may_have_happened), (ErrorKind::Permanent, true));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(account.content(WORK).await.is_empty());
}

#[tokio::test]
async fn sqs_a_batch_that_fails_behind_others_says_that_something_was_sent() {
    let account = Account::new(ministack()).await;
    let second = |number| if number == 1 { error(400, "AccessDenied") } else { Fate::Pass };
    let (sqs, _) = account.with("SendMessageBatch", second).await;
    let sent = [message("1"), message("2"), message("3")];
    // One group: one message a call, and none behind the one that failed.
    let (kind, may_have_happened) = failed(sqs.send(WORK_FIFO, sent.to_vec()).await);
    assert_eq!((kind, may_have_happened), (ErrorKind::Permanent, true));
    assert_eq!(account.content(WORK_FIFO).await, ["1"]);
}

#[tokio::test]
async fn sqs_what_the_service_calls_an_expired_receipt_is_fenced_and_stays_so() {
    let account = Account::new(ministack()).await;
    let plain = account.plain().await;
    for (operation, code) in [
        ("DeleteMessage", "ReceiptHandleIsInvalid"),
        ("DeleteMessage", "InvalidParameterValue"),
        ("ChangeMessageVisibility", "MessageNotInflight"),
    ] {
        plain.send(WORK, vec![message("held")]).await.unwrap();
        let (sqs, asked) = account.with(operation, move |_| error(400, code)).await;
        let held = sqs.receive(WORK, 1, SHORT, SHORT).await.unwrap().remove(0);
        for _ in 0..2 {
            let refused = match operation {
                "DeleteMessage" => sqs.ack(WORK, &held.receipt).await,
                _ => sqs.extend(WORK, &held.receipt, LEASE).await,
            };
            assert_eq!(failed(refused), (ErrorKind::Fenced, false), "{operation} {code}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "known to be void, it is not asked for again");
        let again = plain.receive(WORK, 1, Millis::from_secs(5), LEASE).await.unwrap().remove(0);
        plain.ack(WORK, &again.receipt).await.unwrap();
    }
}

async fn a_message_delivered_twice_is_settled_by_the_second_reader(endpoint: String) {
    let account = Account::new(endpoint).await;
    let (first, second) = (account.plain().await, account.plain().await);
    for queue in [WORK, WORK_FIFO] {
        first.send(queue, vec![message("twice")]).await.unwrap();
        let here = first.receive(queue, 1, SHORT, SHORT).await.unwrap().remove(0);
        let there = second.receive(queue, 1, Millis::from_secs(10), LEASE).await.unwrap().remove(0);
        assert_eq!((there.id.as_str(), there.receive_count), (here.id.as_str(), 2));
        assert_eq!(failed(first.ack(queue, &here.receipt).await), (ErrorKind::Fenced, false));
        assert_eq!(failed(first.extend(queue, &here.receipt, LEASE).await), (ErrorKind::Fenced, false));
        second.extend(queue, &there.receipt, LEASE).await.unwrap();
        second.ack(queue, &there.receipt).await.unwrap();
        assert!(account.content(queue).await.is_empty());
    }
}

#[tokio::test]
async fn sqs_a_message_delivered_twice_is_settled_by_the_second_reader() {
    a_message_delivered_twice_is_settled_by_the_second_reader(ministack()).await;
    if let Some(endpoint) = localstack() {
        a_message_delivered_twice_is_settled_by_the_second_reader(endpoint).await;
    }
}

#[tokio::test]
async fn sqs_a_deletion_whose_answer_was_lost_has_happened_or_may_have() {
    let account = Account::new(ministack()).await;
    account.plain().await.send(WORK, vec![message("deleted")]).await.unwrap();
    let (sqs, _) = account.with("DeleteMessage", |number| if number == 0 { Fate::Lost } else { Fate::Pass }).await;
    let held = sqs.receive(WORK, 1, SHORT, SHORT).await.unwrap().remove(0);
    // AWS deletes what is deleted once more; ministack does not know the receipt any longer.
    if let Err(error) = sqs.ack(WORK, &held.receipt).await {
        assert_eq!((error.kind(), error.may_have_happened()), (ErrorKind::Fenced, true));
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(account.content(WORK).await.is_empty());
}

#[tokio::test]
async fn sqs_what_a_lost_answer_carried_comes_again_when_its_lease_ends() {
    let account = Account::new(ministack()).await;
    account.plain().await.send(WORK, vec![message("carried")]).await.unwrap();
    let (sqs, _) = account.with("ReceiveMessage", |number| if number == 0 { Fate::Lost } else { Fate::Pass }).await;
    let received = sqs.receive(WORK, 1, Millis::from_secs(10), SHORT).await.unwrap();
    assert_eq!((received[0].body.as_str(), received[0].receive_count), ("carried", 2));
    sqs.ack(WORK, &received[0].receipt).await.unwrap();
}

/// Begins a receive and goes away when its request is on the way.
async fn go_away(sqs: &Sqs, queue: &str, wait: Millis, lease: Millis) {
    let receive = sqs.receive(queue, 1, wait, lease);
    assert!(tokio::time::timeout(Duration::from_millis(500), receive).await.is_err(), "nothing was there");
}

#[tokio::test]
async fn sqs_a_poll_nobody_waits_for_is_adopted_by_the_next_receive() {
    let account = Account::new(ministack()).await;
    let (sqs, asked) = account.with("ReceiveMessage", |_| Fate::Pass).await;
    let wait = Millis::from_secs(20);
    go_away(&sqs, WORK, wait, LEASE).await;
    go_away(&sqs, WORK, wait, LEASE).await;
    assert_eq!(sqs.receive(WORK, 1, NOW, LEASE).await.unwrap(), [], "the poll would have it");
    account.plain().await.send(WORK, vec![message("for whoever comes")]).await.unwrap();
    let received = sqs.receive(WORK, 1, wait, LEASE).await.unwrap();
    assert_eq!((received[0].body.as_str(), received[0].receive_count), ("for whoever comes", 1));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    sqs.ack(WORK, &received[0].receipt).await.unwrap();
    // Another lease is another poll.
    assert_eq!(sqs.receive(WORK, 1, NOW, SHORT).await.unwrap(), []);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn sqs_an_adopted_poll_ends_with_its_adopters_wait() {
    let account = Account::new(ministack()).await;
    let (sqs, asked) = account.with("ReceiveMessage", |_| Fate::Pass).await;
    go_away(&sqs, WORK, Millis::from_secs(20), LEASE).await;
    assert_eq!(sqs.receive(WORK, 1, SHORT, LEASE).await.unwrap(), []);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "and goes on without it");
}

#[tokio::test]
async fn sqs_a_message_that_meets_nobody_is_handed_back_at_once() {
    let account = Account::new(ministack()).await;
    let gone = account.plain().await;
    go_away(&gone, WORK, Millis::from_secs(20), LEASE).await;
    account.plain().await.send(WORK, vec![message("unwanted")]).await.unwrap();
    gone.polls_ended().await;
    // Well within the lease of the poll that had it.
    let other = account.plain().await;
    let received = other.receive(WORK, 1, Millis::from_secs(10), LEASE).await.unwrap();
    assert_eq!(received[0].body, "unwanted");
    other.ack(WORK, &received[0].receipt).await.unwrap();
}

#[tokio::test]
async fn sqs_a_message_that_meets_a_fleet_of_abandoned_polls_does_not_become_a_dead_letter() {
    let account = Account::new(ministack()).await;
    let mut fleet = Vec::new();
    for _ in 0..16 {
        fleet.push(account.plain().await);
    }
    let wait = Millis::from_secs(2);
    futures::future::join_all(fleet.iter().map(|sqs| go_away(sqs, WORK, wait, LEASE))).await;
    let other = account.plain().await;
    other.send(WORK, vec![message("bounces")]).await.unwrap();
    // Past the ends of all of these polls.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let received = other.receive(WORK, 1, Millis::from_secs(10), LEASE).await.unwrap();
    assert_eq!(received[0].body, "bounces");
    assert!((2..=6).contains(&received[0].receive_count), "{}", received[0].receive_count);
    other.ack(WORK, &received[0].receipt).await.unwrap();
    assert!(account.content(DEAD).await.is_empty());
}

#[tokio::test]
async fn sqs_leases_extended_over_another_connection_are_known_to_the_first() {
    let account = Account::new(ministack()).await;
    let sqs = account.plain().await;
    let keeper = sqs.over(&account.connection(http_client()).await);
    sqs.send(WORK, vec![message("kept")]).await.unwrap();
    let held = sqs.receive(WORK, 1, SHORT, SHORT).await.unwrap().remove(0);
    keeper.extend(WORK, &held.receipt, LEASE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    sqs.ack(WORK, &held.receipt).await.unwrap();
    assert_eq!(failed(keeper.extend(WORK, &held.receipt, LEASE).await), (ErrorKind::Fenced, false));
    assert!(account.content(WORK).await.is_empty());
}

#[tokio::test]
async fn sqs_a_letter_sent_back_twice_into_a_fifo_queue_is_there_once() {
    let account = Account::new(ministack()).await;
    account.plain().await.send(DEAD, vec![message("letter")]).await.unwrap();
    // Sent, and its deletion refused: it is in both queues.
    let (sqs, _) = account.with("DeleteMessage", |_| error(400, "AccessDenied")).await;
    let id = sqs.peek(DEAD, None, 1).await.unwrap()[0].id.clone();
    let (kind, may_have_happened) = failed(sqs.redrive(DEAD, &id, WORK_FIFO, None).await);
    assert_eq!((kind, may_have_happened), (ErrorKind::Permanent, true));
    assert!(account.plain().await.redrive(DEAD, &id, WORK_FIFO, None).await.unwrap(), "it is here still");
    assert!(account.content(DEAD).await.is_empty());
    assert_eq!(account.content(WORK_FIFO).await, ["letter"]);
}
