//! Functions are those of the topology; what a source's message may take follows from the function's time-out.

use push0_core::topology::{FunctionSpec, SourceSpec};

use super::{Installation, number, text};
use crate::computed::computed;
use crate::module::Finding;
use crate::plan::Resource;
use crate::value::Value;

const SAID: &str = "infra/topology.json says";
/// AWS's rule for queues that invoke functions.
const VISIBILITY_PER_TIMEOUT: f64 = 6.0;

pub(super) fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for spec in &installation.topology.functions {
        match installation.function(&spec.name) {
            None => {
                findings.push(installation.remark(format!("there is no function {}", installation.named(&spec.name))))
            }
            Some(function) => findings.extend(of_function(installation, function, spec)),
        }
    }
    for mapping in installation.of_type("aws_lambda_event_source_mapping") {
        findings.extend(of_mapping(installation, mapping));
    }
    findings
}

fn of_function(installation: &Installation<'_>, function: &Resource, spec: &FunctionSpec) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(number(function, "timeout", spec.timeout_s, SAID));
    findings.extend(number(function, "memory_size", spec.memory_mib, SAID));
    findings.extend(text(function, "runtime", "provided.al2023", "the programs are for"));
    findings.extend(text(function, "handler", "bootstrap", "the packages hold"));
    for source in installation.topology.expanded_sources(spec, &installation.pools) {
        match mapping(installation, function, &source) {
            None => findings.push(function.finding(format!("no event-source mapping brings it {}", source.queue))),
            Some(mapping) => findings.extend(number(mapping, "batch_size", source.batch, SAID)),
        }
    }
    let reserved = function.number("reserved_concurrent_executions");
    if let Some(every) = spec.every_s {
        findings.extend(schedule(installation, function, every));
        // Two at a time do no harm, and no good.
        if reserved != Some(1.0) {
            findings.push(
                function.finding("a function on a timer runs one at a time: `reserved_concurrent_executions` is not 1"),
            );
        }
    }
    let group = format!("/aws/lambda/{}", installation.named(&spec.name));
    match installation.find("aws_cloudwatch_log_group", "name", &group) {
        None => findings.push(
            function.finding(format!("there is no log group {group}: Lambda would make one that keeps all for ever")),
        ),
        Some(group) if group.number("retention_in_days").is_none_or(|days| days < 1.0) => {
            findings.push(group.finding("it keeps what is logged for ever"));
        }
        Some(_) => {}
    }
    let role = function.text("role").unwrap_or_default();
    let shared =
        installation.of_type("aws_lambda_function").filter(|other| other.text("role").as_deref() == Some(&role));
    if shared.count() > 1 {
        findings.push(function.finding("another function has the same role"));
    }
    findings
}

fn mapping<'a>(installation: &'a Installation<'_>, function: &Resource, source: &SourceSpec) -> Option<&'a Resource> {
    let queue = computed(installation.queue(&source.queue)?, "arn")?;
    installation
        .of_type("aws_lambda_event_source_mapping")
        .find(|mapping| mapping.text("event_source_arn").as_ref() == Some(&queue) && is_of(mapping, function))
}

fn is_of(mapping: &Resource, function: &Resource) -> bool {
    let named = mapping.text("function_name");
    named.is_some() && (named == computed(function, "arn") || named == function.text("function_name"))
}

fn schedule(installation: &Installation<'_>, function: &Resource, every_s: u32) -> Option<Finding> {
    let wanted = match every_s / 60 {
        1 => "rate(1 minute)".to_owned(),
        minutes => format!("rate({minutes} minutes)"),
    };
    let arn = computed(function, "arn");
    let rules = installation.of_type("aws_cloudwatch_event_target").filter(|target| target.text("arn") == arn);
    let of_rule = rules.filter_map(|target| {
        installation.find("aws_cloudwatch_event_rule", "name", &target.text("rule")?)?.text("schedule_expression")
    });
    let schedules =
        installation.of_type("aws_scheduler_schedule").filter(|schedule| schedule.text("target.arn") == arn);
    let all: Vec<String> =
        of_rule.chain(schedules.filter_map(|schedule| schedule.text("schedule_expression"))).collect();
    (all != [wanted.clone()]).then(|| function.finding(format!("it is on the timers {all:?}, {SAID} {wanted}")))
}

fn of_mapping(installation: &Installation<'_>, mapping: &Resource) -> Vec<Finding> {
    let mut findings = Vec::new();
    let arn = mapping.text("event_source_arn").unwrap_or_default();
    let queue = installation.by_arn("aws_sqs_queue", &arn);
    let function = installation.of_type("aws_lambda_function").find(|function| is_of(mapping, function));
    let (Some(queue), Some(function)) = (queue, function) else {
        findings.push(mapping.finding("it is not from a queue here to a function here"));
        return findings;
    };
    let visibility = queue.number("visibility_timeout_seconds").unwrap_or_default();
    let timeout = function.number("timeout").unwrap_or_default();
    if visibility != VISIBILITY_PER_TIMEOUT * timeout {
        findings.push(queue.finding(format!(
            "its visibility is {visibility} s, and {VISIBILITY_PER_TIMEOUT} time-outs of {} are {} s",
            function.address,
            VISIBILITY_PER_TIMEOUT * timeout
        )));
    }
    let reports = mapping.argument("function_response_types").map(Value::elements).unwrap_or_default();
    if !reports.contains(&Value::string("ReportBatchItemFailures")) {
        findings
            .push(mapping.finding("without `ReportBatchItemFailures` what the function could not handle is deleted"));
    }
    if mapping.number("maximum_batching_window_in_seconds").is_some_and(|window| window > 0.0) {
        findings.push(mapping.finding("a batching window costs every block its length"));
    }
    let most = mapping.number("scaling_config.maximum_concurrency");
    let pollers = mapping.argument("provisioned_poller_config").map(Value::elements).unwrap_or_default();
    if most.is_some() && !pollers.is_empty() {
        findings.push(mapping.finding("`scaling_config` and `provisioned_poller_config` exclude each other"));
    }
    let reserved = function.number("reserved_concurrent_executions").filter(|reserved| *reserved >= 0.0);
    if let (Some(most), Some(reserved)) = (most, reserved)
        && most > reserved
    {
        findings.push(mapping.finding(format!(
            "it invokes up to {most} at a time, {} has {reserved}: what is throttled counts as received",
            function.address
        )));
    }
    findings
}
