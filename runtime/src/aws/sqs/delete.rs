//! Deleting what was received together: a call for ten.

use std::time::Instant;

use aws_sdk_sqs::types::{BatchResultErrorEntry, DeleteMessageBatchRequestEntry as Entry};

use super::super::error::{THROTTLES, port_error};
use super::{Sqs, VOID_RECEIPT, receipt};
use crate::port::{PortError, PortResult};

/// Messages a call.
pub(super) const BATCH: usize = 10;

/// Of one queue, [`BATCH`] receipts at most; each is answered for itself, in their order.
pub(super) async fn delete_batch(sqs: &Sqs, queue: &str, receipts: &[&str]) -> Vec<PortResult<()>> {
    let now = Instant::now();
    let mut answers: Vec<PortResult<()>> =
        receipts.iter().map(|receipt| sqs.0.receipts.running(receipt, now).map(|_| ())).collect();
    let entries: Vec<Entry> = (0..receipts.len())
        .filter(|position| answers[*position].is_ok())
        .map(|position| {
            let entry = Entry::builder().id(position.to_string()).receipt_handle(receipts[position]);
            entry.build().expect("an entry needs an id and a receipt, and has them")
        })
        .collect();
    if entries.is_empty() {
        return answers;
    }
    let asked: Vec<usize> = entries.iter().filter_map(|entry| entry.id.parse().ok()).collect();
    let refused = match call(sqs, queue, entries).await {
        Ok(refused) => refused,
        Err(error) => {
            asked.iter().for_each(|position| answers[*position] = Err(error.clone()));
            return answers;
        }
    };
    for position in asked {
        let id = position.to_string();
        if let Some(failed) = refused.iter().find(|failed| failed.id == id) {
            answers[position] = Err(error(queue, failed));
        }
        let is_transient = answers[position].as_ref().is_err_and(|error| error.kind() != receipt::over().kind());
        if !is_transient {
            sqs.0.receipts.void(receipts[position]);
        }
    }
    answers
}

/// Those that were not deleted.
async fn call(sqs: &Sqs, queue: &str, entries: Vec<Entry>) -> PortResult<Vec<BatchResultErrorEntry>> {
    let url = sqs.url(queue).await?;
    let deleted = sqs.0.client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await;
    let deleted = deleted.map_err(|error| port_error(&format!("delete messages of queue {queue}"), &error))?;
    Ok(deleted.failed)
}

fn error(queue: &str, failed: &BatchResultErrorEntry) -> PortError {
    let code = failed.code.as_str();
    if VOID_RECEIPT.contains(&code) {
        return receipt::over();
    }
    let message = failed.message.as_deref().unwrap_or_default();
    let text = format!("delete a message of queue {queue}: {code} {message}");
    if failed.sender_fault && !THROTTLES.contains(&code) {
        return PortError::permanent(text);
    }
    PortError::transient(text)
}
