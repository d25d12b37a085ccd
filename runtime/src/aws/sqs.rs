//! Queues on SQS.
//!
//! What is SQS's own, and how it meets the port:
//! - **Seconds.** Leases, delays and waits are rounded up to whole seconds.
//! - **Receives are never cancelled**: a message handed to a connection that went away stays hidden for its whole lease. A poll runs on
//!   although its caller does not wait any longer ([`poll`]).
//! - **Receipts.** A standard queue accepts a receipt whose lease is over, silently. So the ends of the leases handed out in this process
//!   are kept, and such receipts refused here ([`receipt`]). Receipts that another process received (Lambda's poller) go to SQS as they are.
//! - **A send may be done in part** ([`send`]).
//! - **Receive counts** are those of SQS, which counts what nobody saw, too: a count is no attempt.
//!
//! One message costs four requests at most, and one where sends are batched: 1/10 to 1 for its send, one for the receive that finds it
//! (empty receives come on top: an idle reader of one queue makes three a minute), one for its deletion.

mod dead_letters;
mod delete;
mod poll;
mod receipt;
mod send;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use push0_core::Millis;
use tokio::sync::watch;

use self::receipt::Receipts;
use super::Connection;
use super::error::{left_open, port_error};
use crate::port::{Delivery, Outgoing, PortError, PortResult, Queue, QueueStats};
use crate::settings::AwsSettings;

/// Longest lease, counted from the receive.
const MAX_LEASE: Millis = Millis::from_secs(12 * 60 * 60);

/// What SQS says of a receipt that is no longer good. `InvalidParameterValue` is about the receipt too: a lease's length is checked here.
const VOID_RECEIPT: [&str; 4] = [
    "ReceiptHandleIsInvalid",
    "InvalidParameterValue",
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
];

/// Queues on SQS, named by the topology and found by name. Clones share everything.
#[derive(Clone)]
pub struct Sqs(Arc<Inner>);

struct Inner {
    client: Client,
    settings: AwsSettings,
    urls: Mutex<BTreeMap<String, String>>,
    receipts: Arc<Receipts>,
    polls: poll::Orphans,
    /// Polls whose tasks have not ended.
    running: watch::Sender<usize>,
}

impl Sqs {
    pub fn new(connection: &Connection) -> Self {
        Self::with(connection, Arc::default())
    }

    /// The same queues and the same leases over another connection: for a thread that must not depend on the first one's runtime, such as
    /// a worker's lease thread. A second [`Sqs::new`] would not know what the first has received, and the first not what it extended.
    pub fn over(&self, connection: &Connection) -> Self {
        Self::with(connection, Arc::clone(&self.0.receipts))
    }

    fn with(connection: &Connection, receipts: Arc<Receipts>) -> Self {
        Self(Arc::new(Inner {
            client: connection.sqs(),
            settings: connection.settings.clone(),
            urls: Mutex::default(),
            receipts,
            polls: poll::Orphans::default(),
            running: watch::Sender::new(0),
        }))
    }

    /// Completes when no poll is in flight any longer, at most 20 s after the last receive began. A process that ends before it may leave a
    /// message hidden until its lease is over.
    pub async fn polls_ended(&self) {
        let mut running = self.0.running.subscribe();
        // The sender is borrowed: it is there.
        let _ = running.wait_for(|polls| *polls == 0).await;
    }

    /// The queue's address, asked for once.
    async fn url(&self, queue: &str) -> PortResult<String> {
        let known = self.0.urls.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        if let Some(url) = known {
            return Ok(url);
        }
        let name = self.0.settings.name(queue);
        let found = self.0.client.get_queue_url().queue_name(&name).send().await;
        let found = found.map_err(|error| port_error(&format!("find queue {name}"), &error))?;
        let url = found.queue_url.ok_or_else(|| PortError::unknown(format!("queue {name} was found without a URL")))?;
        self.0.urls.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), url.clone());
        Ok(url)
    }

    async fn change_visibility(&self, queue: &str, receipt: &str, seconds: i32) -> PortResult<()> {
        let url = self.url(queue).await?;
        let change = self.0.client.change_message_visibility().queue_url(url).receipt_handle(receipt);
        let changed = change.visibility_timeout(seconds).send().await;
        changed.map_err(|error| self.receipt_error("change the lease of a message", queue, receipt, &error))?;
        Ok(())
    }

    /// The error of a call about a receipt; one that SQS calls void is so from here on.
    fn receipt_error<E>(&self, what: &str, queue: &str, receipt: &str, error: &SdkError<E, HttpResponse>) -> PortError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
        if code.is_some_and(|code| VOID_RECEIPT.contains(&code)) {
            self.0.receipts.void(receipt);
            // Its own first attempt, whose answer was lost, may have ended it.
            let over = receipt::over();
            return PortError::new(over.kind(), left_open(error), over.message());
        }
        port_error(&format!("{what} of queue {queue}"), error)
    }
}

/// Rounded up.
fn seconds(length: Millis) -> i32 {
    i32::try_from(length.0.div_ceil(1_000)).unwrap_or(i32::MAX)
}

fn check_lease(lease: Millis) -> PortResult<()> {
    if lease == Millis(0) || lease > MAX_LEASE {
        return Err(PortError::permanent("a lease is more than 0 and at most 12 hours"));
    }
    Ok(())
}

#[async_trait]
impl Queue for Sqs {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        send::send(self, queue, messages).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        poll::receive(self, queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        check_lease(lease)?;
        let now = Instant::now();
        let most = self.0.receipts.running(receipt, now)?;
        // The clock of the twelve hours does not start again; asked for more, SQS refuses.
        let lease = most.map_or(seconds(lease), |most| seconds(lease).min(most.as_secs() as i32));
        if lease == 0 {
            return Err(receipt::over());
        }
        self.change_visibility(queue, receipt, lease).await?;
        self.0.receipts.extended(receipt, now + Duration::from_secs(lease as u64));
        Ok(())
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.0.receipts.running(receipt, Instant::now())?;
        self.change_visibility(queue, receipt, seconds(delay.min(MAX_LEASE))).await?;
        self.0.receipts.void(receipt);
        Ok(())
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.0.receipts.running(receipt, Instant::now())?;
        let url = self.url(queue).await?;
        let deleted = self.0.client.delete_message().queue_url(url).receipt_handle(receipt).send().await;
        deleted.map_err(|error| self.receipt_error("delete a message", queue, receipt, &error))?;
        self.0.receipts.void(receipt);
        Ok(())
    }

    async fn ack_all(&self, queue: &str, receipts: &[&str]) -> Vec<PortResult<()>> {
        let mut answers = Vec::with_capacity(receipts.len());
        for batch in receipts.chunks(delete::BATCH) {
            match batch {
                [only] => answers.push(self.ack(queue, only).await),
                batch => answers.extend(delete::delete_batch(self, queue, batch).await),
            }
        }
        answers
    }

    /// SQS's approximations, which may lag by a minute. The age of the oldest message is a metric of CloudWatch, not an attribute.
    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        use QueueAttributeName as Name;
        let url = self.url(queue).await?;
        let names = [
            Name::ApproximateNumberOfMessages,
            Name::ApproximateNumberOfMessagesNotVisible,
            Name::ApproximateNumberOfMessagesDelayed,
        ];
        let ask = self.0.client.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec()));
        let told = ask.send().await.map_err(|error| port_error(&format!("look at queue {queue}"), &error))?;
        let attributes = told.attributes.unwrap_or_default();
        let [visible, in_flight, delayed] =
            names.map(|name| attributes.get(&name).and_then(|value| value.parse().ok()).unwrap_or(0));
        Ok(QueueStats { visible, in_flight, delayed, oldest: None })
    }
}
