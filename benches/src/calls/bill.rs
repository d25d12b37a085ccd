//! Requests by service and operation, and what they cost.

use std::collections::{BTreeMap, BTreeSet};

use push0_runtime::aws::calls::Call;
use serde::Serialize;
use serde_json::Value;

use super::REAPER;
use super::prices::{Prices, of};
use super::units::{Items, Units};

/// SQS counts each so many bytes of a request as one.
const CHUNK: u64 = 64 * 1024;

/// How long a function is assumed to work on one message.
pub(super) const HANDLING_MS: u64 = 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub service: String,
    pub operation: String,
    pub requests: u64,
}

/// What a block costs, part by part; US dollars.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Parts {
    pub s3_put: f64,
    pub s3_get: f64,
    pub sqs: f64,
    pub dynamodb_write: f64,
    pub dynamodb_read: f64,
    pub lambda: f64,
}

impl Parts {
    pub fn list(&self) -> [(&'static str, f64); 6] {
        [
            ("S3 PUT, LIST", self.s3_put),
            ("S3 GET, HEAD", self.s3_get),
            ("SQS", self.sqs),
            ("DynamoDB writes", self.dynamodb_write),
            ("DynamoDB reads", self.dynamodb_read),
            ("Lambda", self.lambda),
        ]
    }

    pub fn total(&self) -> f64 {
        self.list().iter().map(|(_, usd)| usd).sum()
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Bill {
    /// What the block took.
    pub requests: Vec<Line>,
    /// What there is without any block: pollers that find nothing, addresses asked for once a process, the reaper's turns.
    pub fixed: Vec<Line>,
    /// Batches that functions handled.
    pub invocations: u64,
    /// Messages in them.
    pub handled: u64,
    pub write_units: u64,
    pub read_units: u64,
    pub usd: Parts,
    pub total_usd: f64,
}

/// The functions' side of it.
#[derive(Debug, Clone)]
pub struct Functions {
    /// Queues that functions are invoked by, as they are named in the account.
    pub queues: BTreeSet<String>,
    pub memory_mib: u32,
}

impl Bill {
    /// Of all calls of one block. `items`: what is known of the rows from before.
    pub fn of(calls: &[Call], items: &mut Items, functions: &Functions, prices: &Prices) -> Self {
        let (mut requests, mut fixed) = (BTreeMap::new(), BTreeMap::new());
        let (mut invocations, mut handled, mut units) = (0, 0, Units::default());
        let mut usd = Parts::default();
        for call in calls {
            let used = items.units(call);
            let attempts = u64::from(call.attempts.max(1));
            let kind = (call.service.clone(), call.operation.clone());
            if is_idle(call) {
                *fixed.entry((kind.0, format!("{}{}", kind.1, remark(call)))).or_default() += attempts;
                continue;
            }
            *requests.entry(kind).or_default() += attempts;
            units = Units { read: units.read + used.read, write: units.write + used.write };
            match call.service.as_str() {
                "SQS" => {
                    usd.sqs += sqs(call, attempts, prices);
                    let messages = received(call).len() as u64;
                    if messages > 0 && functions.queues.contains(&queue(call)) {
                        (invocations, handled) = (invocations + 1, handled + messages);
                    }
                }
                "S3" if call.operation.starts_with("Delete") => {}
                "S3" if is_put(&call.operation) => usd.s3_put += of(attempts, &prices.s3_put_per_million),
                "S3" => usd.s3_get += of(attempts, &prices.s3_get_per_million),
                _ => {}
            }
        }
        usd.dynamodb_write = of(units.write, &prices.dynamodb_write_units_per_million);
        usd.dynamodb_read = of(units.read, &prices.dynamodb_read_units_per_million);
        let gb_seconds = (handled * HANDLING_MS) as f64 / 1e3 * f64::from(functions.memory_mib) / 1024.0;
        usd.lambda = of(invocations, &prices.lambda_per_million) + gb_seconds * prices.lambda_arm64_gb_second.usd;
        let total_usd = usd.total();
        let (requests, fixed) = (lines(requests), lines(fixed));
        let (write_units, read_units) = (units.write, units.read);
        Self { requests, fixed, invocations, handled, write_units, read_units, usd, total_usd }
    }

    pub fn count(&self) -> u64 {
        self.requests.iter().map(|line| line.requests).sum()
    }
}

fn lines(counts: BTreeMap<(String, String), u64>) -> Vec<Line> {
    let line = |((service, operation), requests)| Line { service, operation, requests };
    counts.into_iter().map(line).collect()
}

/// Whether the call is one that there is without any block.
pub(super) fn is_idle(call: &Call) -> bool {
    !remark(call).is_empty()
}

fn remark(call: &Call) -> &'static str {
    match call.operation.as_str() {
        _ if call.tag.as_deref() == Some(REAPER) => " (reaper)",
        "ReceiveMessage" if received(call).is_empty() => " (found nothing)",
        "GetQueueUrl" => " (once a process)",
        _ => "",
    }
}

fn sqs(call: &Call, attempts: u64, prices: &Prices) -> f64 {
    let bytes = call.request.len().max(call.response.len()) as u64;
    let chunks = bytes.div_ceil(CHUNK).max(1) * attempts;
    if queue(call).ends_with(".fifo") {
        return of(chunks, &prices.sqs_fifo_per_million);
    }
    // All of push0's messages name their chain as their group.
    of(chunks, &prices.sqs_standard_per_million) + of(chunks, &prices.sqs_fair_per_million)
}

fn is_put(operation: &str) -> bool {
    let puts = ["PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"];
    puts.contains(&operation) || operation.starts_with("List")
}

/// The queue's name in the account, of a call of SQS.
pub(super) fn queue(call: &Call) -> String {
    let request: Value = serde_json::from_slice(&call.request).unwrap_or_default();
    let url = request["QueueUrl"].as_str().unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The messages (id, body) that a receive found.
pub(super) fn received(call: &Call) -> Vec<(String, String)> {
    if call.operation != "ReceiveMessage" {
        return Vec::new();
    }
    let response: Value = serde_json::from_slice(&call.response).unwrap_or_default();
    let text = |message: &Value, name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let messages = response["Messages"].as_array().into_iter().flatten();
    messages.map(|message| (text(message, "MessageId"), text(message, "Body"))).collect()
}

/// The messages (id, body) that a send has sent.
pub(super) fn sent(call: &Call) -> Vec<(String, String)> {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let text = |message: &Value, name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let (request, response) = (json(&call.request), json(&call.response));
    match call.operation.as_str() {
        "SendMessage" => vec![(text(&response, "MessageId"), text(&request, "MessageBody"))],
        "SendMessageBatch" => {
            let bodies: BTreeMap<String, String> = (request["Entries"].as_array().into_iter().flatten())
                .map(|entry| (text(entry, "Id"), text(entry, "MessageBody")))
                .collect();
            let done = response["Successful"].as_array().into_iter().flatten();
            done.map(|entry| (text(entry, "MessageId"), bodies.get(&text(entry, "Id")).cloned().unwrap_or_default()))
                .collect()
        }
        _ => Vec::new(),
    }
}
