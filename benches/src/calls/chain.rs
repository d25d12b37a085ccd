//! The calls between one task's end and its dependent's start, one after the other.
//!
//! A dependent's message is followed back: the call that sent it, the calls made before for the message being handled then, the receive of
//! that message, who sent that, and so on until a worker's report; before that, the put of what it reports. Of calls that overlap one counts:
//! the length is that of the longest row of calls each of which began when the one before had ended.
//!
//! A receive counts, and the length without them is given too: it is the poller's call, which mostly waits already when the message is sent.

use std::collections::BTreeMap;
use std::time::Instant;

use push0_core::message::{Report, ReportEvent, TaskMessage};
use push0_core::record::Versioned as _;
use push0_runtime::aws::calls::Call;
use serde::Serialize;

use super::bill::{queue, received, sent};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `S3 PutObject`, …
    pub call: String,
    /// The queue, the row, the object.
    pub of: String,
    /// A long poll that waited already when the message was sent.
    pub waiting: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The task that ended, the task that depends on it.
    pub ended: String,
    pub dependent: String,
    pub steps: Vec<Step>,
}

impl Chain {
    pub fn length(&self) -> usize {
        self.steps.len()
    }

    pub fn without_receives(&self) -> usize {
        self.steps.iter().filter(|step| !step.call.ends_with("ReceiveMessage")).count()
    }
}

/// Those of all dependents that were started, of leaves and of others apart: what `split` stores goes another way.
#[derive(Debug, Clone, Default)]
pub(super) struct Chains {
    pub of_artifacts: Vec<Chain>,
    pub of_split: Vec<Chain>,
}

/// The tag of the calls made for a message.
pub(super) fn tag(source: &str, message: &str) -> String {
    format!("{source} {message}")
}

/// Where a message was sent and received.
struct Traffic<'c> {
    calls: &'c [Call],
    sent: BTreeMap<String, (&'c Call, String)>,
    received: BTreeMap<String, &'c Call>,
}

pub(super) fn find(calls: &[Call]) -> Chains {
    let mut traffic = Traffic { calls, sent: BTreeMap::new(), received: BTreeMap::new() };
    for call in calls.iter().filter(|call| call.service == "SQS") {
        for (id, body) in sent(call) {
            traffic.sent.insert(id, (call, body));
        }
        for (id, _) in received(call) {
            traffic.received.entry(id).or_insert(call);
        }
    }
    let mut chains = Chains::default();
    for (id, (_, body)) in &traffic.sent {
        let Ok(task) = TaskMessage::from_json(body) else { continue };
        let Some((ended, links)) = traffic.back(id) else { continue };
        let chain = Chain { ended, dependent: task.id.to_string(), steps: longest(links) };
        let of = if task.id.node.stage == 1 { &mut chains.of_split } else { &mut chains.of_artifacts };
        of.push(chain);
    }
    chains
}

/// A call with the part of its time that is on the way.
struct Link {
    from: Instant,
    until: Instant,
    step: Step,
}

impl Traffic<'_> {
    /// From the put of what was reported to the receive of this message; with the task that ended.
    fn back(&self, message: &str) -> Option<(String, Vec<Link>)> {
        let ((send, body), receive) = (self.sent.get(message)?, self.received.get(message)?);
        let handled = send.tag.as_ref().and_then(|tag| tag.split_once(' '));
        let (ended, mut links) = match handled {
            Some((_, cause)) => {
                let (ended, mut links) = self.back(cause)?;
                let before = self.calls.iter().filter(|call| call.tag == send.tag && call.ended <= send.began);
                links.extend(before.map(|call| link(call, call.ended)));
                (ended, links)
            }
            None => {
                let report = Report::from_json(body).ok()?;
                let key = match &report.event {
                    ReportEvent::Done { artifact } => &artifact.key,
                    ReportEvent::Split { manifest, .. } => &manifest.key,
                    _ => return None,
                };
                let is_it = |call: &&Call| call.operation == "PutObject" && call.path.ends_with(key.as_str());
                let put = self.calls.iter().find(is_it)?;
                (report.task.to_string(), vec![link(put, put.ended)])
            }
        };
        // The message may be there before its sender has the answer.
        let sent_by = send.ended.min(receive.ended);
        links.push(link(send, sent_by));
        let waiting = receive.began < sent_by;
        let mut last = link(receive, receive.ended);
        last.from = last.from.max(sent_by);
        last.step.waiting = waiting;
        links.push(last);
        Some((ended, links))
    }
}

fn link(call: &Call, until: Instant) -> Link {
    let of = match call.service.as_str() {
        "SQS" => queue(call),
        "DynamoDB" => {
            let request: serde_json::Value = serde_json::from_slice(&call.request).unwrap_or_default();
            request["Key"]["sk"]["S"].as_str().unwrap_or_default().to_owned()
        }
        _ => call.path.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    let step = Step { call: format!("{} {}", call.service, call.operation), of, waiting: false };
    Link { from: call.began, until, step }
}

/// Of those that do not overlap, as many as there can be: always the next to end.
fn longest(mut links: Vec<Link>) -> Vec<Step> {
    links.sort_by_key(|link| link.until);
    let mut last: Option<Instant> = None;
    let mut steps = Vec::new();
    for link in links {
        if last.is_none_or(|last| link.from >= last) {
            last = Some(link.until);
            steps.push(link.step);
        }
    }
    steps
}
