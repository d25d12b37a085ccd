//! Queues on SQS: the suites against both emulators, the failures SQS documents, and what becomes of polls nobody waits for.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::QueueAttributeName;
use push0_core::Millis;
use push0_runtime::aws::{Connection, Sqs};
use push0_runtime::conformance::{Passing, dead_letters_suite, queue_suite, queues};
use push0_runtime::engine::QueueSpec;

use super::support::{connect, localstack, ministack};

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
    let connection = connect(endpoint).await;
    provide(&connection, queues()).await;
    queue_suite(&Sqs::new(&connection), &time, "sqs").await;
}

async fn letters_keep_their_promises((endpoint, time): Emulator) {
    let connection = connect(endpoint).await;
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
