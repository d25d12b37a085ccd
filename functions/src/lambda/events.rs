//! An SQS event of Lambda as deliveries of one queue.

use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use push0_core::{ErrorCode, Millis};
use push0_runtime::port::Delivery;
use push0_runtime::settings::AwsSettings;

/// An event that is not what an event-source mapping of push0 sends. None of it is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(String);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ErrorCode::BadConfiguration.says(&self.0))
    }
}

impl std::error::Error for Unreadable {}

/// The queue's name in the topology, and its messages. `None`: there are none.
pub(super) fn deliveries(event: SqsEvent, names: &AwsSettings) -> Result<Option<(String, Vec<Delivery>)>, Unreadable> {
    let Some(first) = event.records.first() else { return Ok(None) };
    let arn = first.event_source_arn.clone().unwrap_or_default();
    if event.records.iter().any(|record| record.event_source_arn.as_deref() != Some(&arn)) {
        return Err(Unreadable("the event's records do not all come from one queue".to_owned()));
    }
    let source = source(&arn, names)?;
    let batch: Result<Vec<Delivery>, Unreadable> = event.records.into_iter().map(delivery).collect();
    Ok(Some((source, batch?)))
}

/// `arn:aws:sqs:eu-west-1:111122223333:push0-results` → `results`.
fn source(arn: &str, names: &AwsSettings) -> Result<String, Unreadable> {
    let name = arn.rsplit(':').next().unwrap_or_default();
    let own = name.strip_prefix(&names.name("")).filter(|name| !name.is_empty());
    own.map(str::to_owned).ok_or_else(|| {
        Unreadable(format!("{arn:?} is no queue of this installation, whose names begin with {}", names.name("")))
    })
}

fn delivery(record: SqsMessage) -> Result<Delivery, Unreadable> {
    let lacks = |what: &str| Unreadable(format!("a record has no {what}"));
    let number = |name: &str| record.attributes.get(name).and_then(|text| text.parse::<u64>().ok());
    let receive_count = number("ApproximateReceiveCount").and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
    let sent_at = Millis(number("SentTimestamp").unwrap_or(0));
    let group = record.attributes.get("MessageGroupId").cloned();
    Ok(Delivery {
        id: record.message_id.filter(|id| !id.is_empty()).ok_or_else(|| lacks("messageId"))?,
        receipt: record.receipt_handle.ok_or_else(|| lacks("receiptHandle"))?,
        body: record.body.ok_or_else(|| lacks("body"))?,
        group,
        receive_count,
        sent_at,
    })
}
