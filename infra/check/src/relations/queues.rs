//! Queues are those of the topology, with its attributes; dead letters go where it says; each queue has an alarm.

use push0_core::topology::{QueueKind, QueueSpec};
use serde_json::Value as Json;

use super::{Installation, number, text};
use crate::computed::computed;
use crate::module::Finding;
use crate::plan::Resource;
use crate::value::Value;

const SAID: &str = "infra/topology.json says";

/// Queues without a dead-letter queue, and why. Dead-letter queues themselves have none.
const LAST: &[(&str, &str)] = &[
    ("finalized.fifo", "its consumer is not push0, and decides for itself what to do with what it cannot handle"),
    ("poison", "what lies there has been given up: an operator reads it"),
];

pub(super) fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted = installation.topology.expanded_queues(&installation.pools);
    if installation.pools.is_empty() {
        findings.push(installation.remark("no pool has work queues"));
    }
    for spec in &wanted {
        match installation.queue(&spec.name) {
            None => findings.push(installation.remark(format!("there is no queue {}", installation.named(&spec.name)))),
            Some(queue) => {
                findings.extend(attributes(queue, spec));
                findings.extend(dead_letters(installation, queue, spec));
                findings.extend(alarm(installation, queue, spec));
            }
        }
    }
    for queue in installation.of_type("aws_sqs_queue") {
        let name = queue.text("name").unwrap_or_default();
        let known = |spec: &QueueSpec| installation.named(&spec.name) == name;
        if name.starts_with(&installation.named("")) && !wanted.iter().any(known) {
            findings.push(queue.finding(format!("{name} is not in infra/topology.json")));
        }
    }
    findings
}

fn attributes(queue: &Resource, spec: &QueueSpec) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(number(queue, "visibility_timeout_seconds", spec.visibility_s, SAID));
    findings.extend(number(queue, "message_retention_seconds", spec.retention_s, SAID));
    match (&spec.fifo, spec.kind) {
        (Some(fifo), _) => {
            findings.extend(text(queue, "fifo_queue", "true", SAID));
            findings.extend(text(queue, "deduplication_scope", &fifo.deduplication_scope, SAID));
            findings.extend(text(queue, "fifo_throughput_limit", &fifo.throughput_limit, SAID));
        }
        (None, QueueKind::Fifo) => {}
        (None, QueueKind::Standard) => {
            if queue.argument("fifo_queue").and_then(Value::as_bool) == Some(true) {
                findings.push(queue.finding("it is FIFO, infra/topology.json says standard"));
            }
        }
    }
    // The hash of a body says nothing of whether it was sent twice: messages carry ids of their own.
    if queue.argument("content_based_deduplication").and_then(Value::as_bool) == Some(true) {
        findings.push(queue.finding("`content_based_deduplication` is on"));
    }
    let encrypted = queue.argument("kms_master_key_id").is_some()
        || queue.argument("sqs_managed_sse_enabled").and_then(Value::as_bool) == Some(true);
    if !encrypted {
        findings.push(queue.finding("it is not encrypted at rest"));
    }
    findings
}

/// A policy of a queue, in it or in a resource of its own.
fn policy(installation: &Installation<'_>, queue: &Resource, argument: &str) -> Option<Json> {
    let beside = || {
        let url = computed(queue, "url")?;
        installation.find(&format!("aws_sqs_queue_{argument}"), "queue_url", &url)?.text(argument)
    };
    serde_json::from_str(&queue.text(argument).or_else(beside)?).ok()
}

fn dead_letters(installation: &Installation<'_>, queue: &Resource, spec: &QueueSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    let redrive = policy(installation, queue, "redrive_policy");
    match (&spec.dead_letter, redrive) {
        (Some(letters), Some(redrive)) => {
            let target = redrive["deadLetterTargetArn"].as_str().unwrap_or_default();
            match installation.by_arn("aws_sqs_queue", target) {
                None => {
                    findings.push(queue.finding(format!("its dead letters go to {target}, which there is none of")))
                }
                Some(target) => {
                    let fifo = |queue: &Resource| queue.argument("fifo_queue").and_then(Value::as_bool) == Some(true);
                    if fifo(target) != fifo(queue) {
                        findings.push(queue.finding(format!(
                            "{} takes its dead letters: of a FIFO queue it has to be FIFO, of a standard one standard",
                            target.address
                        )));
                    }
                    let wanted = installation.named(&letters.queue);
                    if target.text("name").as_deref() != Some(&wanted) {
                        findings
                            .push(queue.finding(format!("{} takes its dead letters, {SAID} {wanted}", target.address)));
                    }
                }
            }
            let most = redrive["maxReceiveCount"].as_f64();
            if most != Some(f64::from(letters.max_receives)) {
                findings.push(queue.finding(format!("`maxReceiveCount` is {most:?}, {SAID} {}", letters.max_receives)));
            }
        }
        (Some(_), None) => findings.push(queue.finding("it has no dead-letter queue")),
        (None, Some(_)) => findings.push(queue.finding(format!("it has a dead-letter queue, {SAID} none"))),
        (None, None) if spec.dead_letters_of.is_none() && !LAST.iter().any(|(name, _)| *name == spec.name) => {
            findings.push(queue.finding("it has no dead-letter queue, and no reason is stated (LAST, infra/check)"));
        }
        (None, None) => {}
    }
    if let Some(source) = &spec.dead_letters_of {
        let wanted = installation.queue(source).and_then(|source| computed(source, "arn"));
        let allowed = policy(installation, queue, "redrive_allow_policy");
        let sources: Vec<String> = allowed
            .iter()
            .filter(|allowed| allowed["redrivePermission"] == "byQueue")
            .flat_map(|allowed| allowed["sourceQueueArns"].as_array().cloned().unwrap_or_default())
            .filter_map(|arn| arn.as_str().map(str::to_owned))
            .collect();
        if sources != wanted.into_iter().collect::<Vec<_>>() {
            findings
                .push(queue.finding(format!("its `redrive_allow_policy` has to let in {source} and no other queue")));
        }
    }
    findings
}

/// Whatever the alarm is about: dead letters, age, depth.
fn alarm(installation: &Installation<'_>, queue: &Resource, spec: &QueueSpec) -> Option<Finding> {
    let name = queue.text("name")?;
    let about = |resource: &&Resource| {
        super::metrics::named(&resource.arguments)
            .iter()
            .any(|metric| metric.namespace == "AWS/SQS" && metric.dimensions.get("QueueName") == Some(&name))
    };
    let alarms: Vec<&Resource> = installation.of_type("aws_cloudwatch_metric_alarm").filter(about).collect();
    if alarms.is_empty() {
        return Some(queue.finding("no alarm watches it"));
    }
    // One dead letter is one too many.
    let first = |alarm: &&&Resource| match alarm.text("comparison_operator").as_deref() {
        Some("GreaterThanThreshold") => alarm.number("threshold").is_some_and(|threshold| threshold < 1.0),
        Some("GreaterThanOrEqualToThreshold") => alarm.number("threshold").is_some_and(|threshold| threshold <= 1.0),
        _ => false,
    };
    (spec.dead_letters_of.is_some() && !alarms.iter().any(|alarm| first(&alarm)))
        .then(|| queue.finding("no alarm goes off at its first message"))
}
