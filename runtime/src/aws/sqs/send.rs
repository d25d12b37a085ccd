//! Sending: all is checked first, then sent ten at a time.
//!
//! A batch may be taken in part. What SQS failed to take for reasons of its own is sent again, by its id, a few times. On a FIFO queue a
//! batch has one message of a group at most, so that what is sent again cannot fall behind what follows it in its group.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchRequestEntry as Entry};
use futures::StreamExt as _;
use push0_core::{Millis, Sha256};

use super::super::error::{THROTTLES, port_error};
use super::{Sqs, seconds};
use crate::port::{Outgoing, PortError, PortResult};

/// Body bytes.
pub(super) use push0_core::message::MAX_MESSAGE as MAX_BODY;
const MAX_DELAY: Millis = Millis::from_secs(15 * 60);
/// Characters of a group or a dedup id.
const MAX_NAME: usize = 128;
/// Messages a call.
const BATCH: usize = 10;
/// SQS takes 1 MiB a call, all bodies together.
const _: () = assert!(BATCH * MAX_BODY <= 1024 * 1024);
/// Calls in flight for one send to a standard queue.
const CALLS: usize = 8;
/// Tries of what a batch left undone; pauses of 100, 200, 400 ms between them.
const TRIES: u32 = 4;

pub(super) async fn send(sqs: &Sqs, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
    let url = sqs.url(queue).await?;
    let is_fifo = queue.ends_with(".fifo");
    for message in &messages {
        check(is_fifo, message)?;
    }
    let batches = batches(is_fifo, messages);
    // One after the other where order is the point.
    let at_once = if is_fifo { 1 } else { CALLS };
    let mut calls = futures::stream::iter(batches).map(|batch| send_batch(sqs, &url, queue, batch)).buffered(at_once);
    let (mut any, mut failed) = (false, None);
    while let Some(sent) = calls.next().await {
        match sent {
            Ok(()) => any = true,
            Err(error) => {
                failed.get_or_insert(error);
                if is_fifo {
                    break;
                }
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(PortError::new(error.kind(), error.may_have_happened() || any, error.message())))
}

/// Everything SQS would refuse, so that nothing is sent of a send that cannot be sent whole.
fn check(is_fifo: bool, message: &Outgoing) -> PortResult<()> {
    let refuse = |problem: String| Err(PortError::permanent(problem));
    if message.body.len() > MAX_BODY {
        return refuse(format!("a message of {} bytes: at most {MAX_BODY} are allowed", message.body.len()));
    }
    if message.body.is_empty() || !message.body.chars().all(is_allowed) {
        return refuse("SQS takes no empty message and no control character in one but tab and line ends".to_owned());
    }
    let named = |name: &str| (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic());
    match (&message.group, &message.dedup) {
        (Some(group), _) if !named(group) => {
            refuse(format!("group {group:?} is not of 1 to {MAX_NAME} letters, digits and punctuation marks"))
        }
        (Some(_), Some(dedup)) if is_fifo && !dedup.is_empty() && message.delay == Millis(0) => Ok(()),
        _ if is_fifo => {
            refuse("a FIFO queue needs a group and a dedup id, and does not delay single messages".to_owned())
        }
        _ if message.delay > MAX_DELAY => refuse("a delay is at most 15 minutes".to_owned()),
        _ => Ok(()),
    }
}

/// What XML 1.0 allows.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// In their order; of a FIFO queue with no group twice in a batch.
fn batches(is_fifo: bool, messages: Vec<Outgoing>) -> Vec<Vec<Entry>> {
    let mut batches: Vec<Vec<Entry>> = Vec::new();
    let mut groups = BTreeSet::new();
    for message in messages {
        let repeats = is_fifo && groups.contains(&message.group);
        if repeats || batches.last().is_none_or(|batch| batch.len() == BATCH) {
            batches.push(Vec::new());
            groups.clear();
        }
        groups.insert(message.group.clone());
        let batch = batches.last_mut().expect("one was pushed at the first message");
        batch.push(entry(is_fifo, batch.len(), message));
    }
    batches
}

fn entry(is_fifo: bool, position: usize, message: Outgoing) -> Entry {
    // A standard queue refuses a dedup id; delay is the queue's matter on a FIFO one.
    let dedup = message.dedup.filter(|_| is_fifo).map(|dedup| match dedup {
        dedup if dedup.len() <= MAX_NAME && dedup.chars().all(|c| c.is_ascii_graphic()) => dedup,
        dedup => Sha256::of(dedup.as_bytes()).to_string(),
    });
    let delay = (message.delay > Millis(0)).then(|| seconds(message.delay));
    let entry = Entry::builder().id(position.to_string()).message_body(message.body);
    let entry = entry.set_message_group_id(message.group).set_message_deduplication_id(dedup);
    entry.set_delay_seconds(delay).build().expect("an entry needs an id and a body, and has them")
}

async fn send_batch(sqs: &Sqs, url: &str, queue: &str, mut batch: Vec<Entry>) -> PortResult<()> {
    let what = format!("send to queue {queue}");
    let whole = batch.len();
    let mut reason = String::new();
    for step in 0..TRIES {
        if step > 0 {
            tokio::time::sleep(Duration::from_millis(50 << step)).await;
        }
        let some_sent = batch.len() < whole;
        let sent = sqs.0.client.send_message_batch().queue_url(url).set_entries(Some(batch.clone())).send().await;
        let sent = sent.map_err(|error| {
            let error = port_error(&what, &error);
            PortError::new(error.kind(), error.may_have_happened() || some_sent, error.message())
        })?;
        let Some(first) = sent.failed.first() else { return Ok(()) };
        reason = format!("{what}: {} of {whole} messages were not taken: {}", sent.failed.len(), told(first));
        let may_have_happened = sent.failed.len() < whole;
        if let Some(refused) = sent.failed.iter().find(|failed| is_refusal(failed)) {
            let reason = format!("{what}: a message was refused: {}", told(refused));
            return Err(PortError::new(crate::port::ErrorKind::Permanent, may_have_happened, reason));
        }
        batch.retain(|entry| sent.failed.iter().any(|failed| failed.id == entry.id));
    }
    Err(PortError::new(PortError::transient("").kind(), batch.len() < whole, reason))
}

/// Whether it would be refused again.
fn is_refusal(failed: &BatchResultErrorEntry) -> bool {
    failed.sender_fault && !THROTTLES.contains(&failed.code.as_str())
}

fn told(failed: &BatchResultErrorEntry) -> String {
    format!("{} {}", failed.code, failed.message.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(group: Option<&str>, body: &str) -> Outgoing {
        Outgoing {
            body: body.to_owned(),
            group: group.map(str::to_owned),
            dedup: group.map(|_| body.to_owned()),
            ..Outgoing::default()
        }
    }

    fn bodies(batches: &[Vec<Entry>]) -> Vec<Vec<&str>> {
        batches.iter().map(|batch| batch.iter().map(|entry| entry.message_body.as_str()).collect()).collect()
    }

    #[test]
    fn a_standard_queue_gets_ten_a_call() {
        let sent = batches(false, (0..25).map(|i| message(None, &i.to_string())).collect());
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
        assert!(batches(false, Vec::new()).is_empty());
    }

    #[test]
    fn a_fifo_queue_gets_no_group_twice_in_a_call() {
        let sent = batches(
            true,
            [("a", "a1"), ("b", "b1"), ("a", "a2"), ("a", "a3"), ("c", "c1")]
                .map(|(group, body)| message(Some(group), body))
                .to_vec(),
        );
        assert_eq!(bodies(&sent), [vec!["a1", "b1"], vec!["a2"], vec!["a3", "c1"]]);
    }

    #[test]
    fn a_dedup_id_that_sqs_would_refuse_is_sent_as_its_digest() {
        let long = "x".repeat(129);
        let digest = Sha256::of(long.as_bytes()).to_string();
        for (dedup, wanted) in [("short", "short"), ("a b", Sha256::of(b"a b").to_string().as_str()), (&long, &digest)]
        {
            let entry = entry(true, 0, Outgoing { dedup: Some(dedup.to_owned()), ..message(Some("g"), "x") });
            assert_eq!(entry.message_deduplication_id.as_deref(), Some(wanted));
        }
        let standard = entry(false, 0, message(Some("chain"), "x"));
        assert_eq!(standard.message_deduplication_id, None, "a standard queue takes none");
        assert_eq!(standard.message_group_id.as_deref(), Some("chain"), "which makes it a fair queue");
    }

    #[test]
    fn what_sqs_would_refuse_is_refused_before_anything_is_sent() {
        let bad = [
            Outgoing { body: String::new(), ..message(None, "x") },
            message(None, "bell \u{7}"),
            message(None, "not a character \u{FFFE}"),
            message(Some("two words"), "x"),
            message(Some(&"g".repeat(129)), "x"),
        ];
        for message in bad {
            assert!(check(false, &message).is_err(), "{message:?}");
            assert!(check(true, &message).is_err(), "{message:?}");
        }
        assert!(check(false, &message(Some("chain-a"), "tab\t, line\r\n, é, \u{1F980}")).is_ok());
    }
}
