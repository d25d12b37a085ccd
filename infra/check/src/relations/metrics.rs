//! Alarms, scaling policies and dashboards name metrics that somebody writes, with the dimensions they are written with; an alarm says what to do.
//!
//! An alarm on a metric that nobody writes never goes off, and nothing else would tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex_lite::Regex;
use serde_json::Value as Json;

use super::Installation;
use crate::module::Finding;
use crate::plan::Resource;
use crate::value::Value;

/// Metrics of AWS that are worth watching here, with their dimensions; from the services' documentation of their CloudWatch metrics.
const OF_AWS: &[(&str, &[&str], &[&str])] = &[
    (
        "AWS/SQS",
        &["QueueName"],
        &[
            "ApproximateAgeOfOldestMessage",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesVisible",
            "NumberOfEmptyReceives",
            "NumberOfMessagesDeleted",
            "NumberOfMessagesReceived",
            "NumberOfMessagesSent",
            "SentMessageSize",
        ],
    ),
    (
        "AWS/Lambda",
        &["FunctionName", "Resource"],
        &[
            "AsyncEventAge",
            "AsyncEventsDropped",
            "AsyncEventsReceived",
            "ConcurrentExecutions",
            "DeadLetterErrors",
            "Duration",
            "Errors",
            "Invocations",
            "RecursiveInvocationsDropped",
            "Throttles",
        ],
    ),
    (
        "AWS/DynamoDB",
        &["TableName", "Operation"],
        &[
            "ConditionalCheckFailedRequests",
            "ConsumedReadCapacityUnits",
            "ConsumedWriteCapacityUnits",
            "ReadThrottleEvents",
            "SuccessfulRequestLatency",
            "SystemErrors",
            "ThrottledRequests",
            "TransactionConflict",
            "UserErrors",
            "WriteThrottleEvents",
        ],
    ),
    (
        AUTO_SCALING,
        &["AutoScalingGroupName"],
        &[
            "GroupDesiredCapacity",
            "GroupInServiceInstances",
            "GroupMaxSize",
            "GroupMinSize",
            "GroupPendingInstances",
            "GroupStandbyInstances",
            "GroupTerminatingInstances",
            "GroupTotalInstances",
        ],
    ),
    (
        "AWS/EC2",
        &["AutoScalingGroupName", "InstanceId"],
        &["CPUUtilization", "StatusCheckFailed", "NetworkIn", "NetworkOut"],
    ),
    ("AWS/Events", &["RuleName"], &["FailedInvocations", "Invocations", "ThrottledRules", "TriggeredRules"]),
    (
        "AWS/Scheduler",
        &["ScheduleGroup"],
        &["InvocationAttemptCount", "InvocationDroppedCount", "TargetErrorCount", "TargetErrorThrottledCount"],
    ),
    (
        "AWS/S3",
        &["BucketName", "StorageType", "FilterId"],
        &["4xxErrors", "5xxErrors", "BucketSizeBytes", "NumberOfObjects"],
    ),
];
const AUTO_SCALING: &str = "AWS/AutoScaling";

/// A metric as something names it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) dimensions: BTreeMap<String, String>,
}

/// All metrics that a resource's arguments name by namespace and name, at any depth.
pub(super) fn named(arguments: &Value) -> Vec<Named> {
    let mut found = Vec::new();
    match arguments {
        Value::Map(fields) => {
            if let (Some(name), Some(namespace)) = (arguments.at("metric_name"), arguments.at("namespace")) {
                found.push(Named {
                    namespace: namespace.text().unwrap_or_default(),
                    name: name.text().unwrap_or_default(),
                    dimensions: dimensions(arguments),
                });
            }
            found.extend(fields.values().flat_map(named));
        }
        Value::List(values) | Value::Set(values) => found.extend(values.iter().flat_map(named)),
        _ => {}
    }
    found
}

/// A map in alarms, blocks of name and value in scaling policies.
fn dimensions(arguments: &Value) -> BTreeMap<String, String> {
    if let Some(Value::Map(fields)) = arguments.at("dimensions") {
        return fields.iter().map(|(name, value)| (name.clone(), value.text().unwrap_or_default())).collect();
    }
    let blocks =
        ["dimensions", "metric_dimension"].into_iter().filter_map(|name| arguments.at(name)).flat_map(Value::elements);
    let pair = |block: &Value| Some((block.at("name")?.text()?, block.at("value")?.text()?));
    blocks.filter_map(pair).collect()
}

/// The code's metrics and their dimensions: `docs/metrics.md`, which a test of the runtime holds to its list.
fn exported(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?.to_owned();
        let dimensions = cells.nth(1)?.split(',').map(|dimension| dimension.trim().to_owned()).collect();
        name.starts_with("push0_").then_some((name, dimensions))
    };
    text.lines().take_while(|line| !line.starts_with("## ")).filter_map(row).collect()
}

pub(super) fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let exported = exported(installation.tree.read("docs/metrics.md").unwrap_or_default());
    let mut findings = Vec::new();
    if exported.is_empty() {
        findings.push(installation.remark("docs/metrics.md lists no metric"));
    }
    for resource in &installation.resources {
        let watches =
            resource.type_name.starts_with("aws_cloudwatch_") || resource.type_name.starts_with("aws_autoscaling_");
        if !watches {
            continue;
        }
        let mut metrics = named(&resource.arguments);
        let mut texts = vec![resource.arguments.to_json().to_string()];
        if let Some(body) = resource.text("dashboard_body") {
            match serde_json::from_str::<Json>(&body) {
                Ok(body) => metrics.extend(of_dashboard(&body)),
                Err(error) => findings.push(resource.finding(format!("its body is no JSON: {error}"))),
            }
            texts.push(body);
        }
        for metric in &metrics {
            findings.extend(of_metric(installation, resource, metric, &exported));
        }
        // Also in expressions (SEARCH, SELECT) and in texts.
        static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new("push0_[a-z0-9_]+").expect("the pattern is one"));
        for found in texts.iter().flat_map(|text| WORD.find_iter(text)) {
            if !exported.contains_key(found.as_str()) {
                findings.push(resource.finding(format!("{}: the code has no such metric", found.as_str())));
            }
        }
    }
    for alarm in installation.of_type("aws_cloudwatch_metric_alarm") {
        findings.extend(of_alarm(installation, alarm));
    }
    findings.extend(of_invariants(installation));
    findings
}

/// Each numbered invariant of `docs/invariants.md` has its alarm.
fn of_invariants(installation: &Installation<'_>) -> Vec<Finding> {
    let number = |line: &str| {
        let name = line.strip_prefix("| I")?.split_once(" |")?.0;
        name.parse::<u32>().ok().map(|number| format!("I{number}"))
    };
    let wanted: BTreeSet<String> =
        installation.tree.read("docs/invariants.md").unwrap_or_default().lines().filter_map(number).collect();
    let alarms = installation.of_type("aws_cloudwatch_metric_alarm");
    let watched: BTreeSet<String> = alarms.filter_map(|alarm| alarm.text("dimensions.invariant")).collect();
    wanted
        .difference(&watched)
        .map(|invariant| installation.remark(format!("invariant {invariant} of docs/invariants.md has no alarm")))
        .collect()
}

fn of_metric(
    installation: &Installation<'_>,
    resource: &Resource,
    metric: &Named,
    exported: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let given: BTreeSet<&str> = metric.dimensions.keys().map(String::as_str).collect();
    let Named { namespace, name, .. } = metric;
    if *namespace == installation.prefix {
        match exported.get(name) {
            None => findings.push(resource.finding(format!("{name}: the code has no such metric"))),
            Some(wanted) => {
                let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
                if given != wanted {
                    let wanted = Vec::from_iter(wanted).join(", ");
                    findings.push(resource.finding(format!("{name}: its dimensions are {wanted}, here {given:?}")));
                }
            }
        }
        return findings;
    }
    let Some((_, dimensions, names)) = OF_AWS.iter().find(|(known, ..)| known == namespace) else {
        findings.push(resource.finding(format!("{name}: nothing here writes metrics to {namespace}")));
        return findings;
    };
    if !names.contains(&name.as_str()) {
        findings.push(resource.finding(format!("{namespace} has no metric {name} (OF_AWS, infra/check)")));
    }
    if let Some(odd) = given.iter().find(|dimension| !dimensions.contains(dimension)) {
        findings.push(resource.finding(format!("{namespace} {name} has no dimension {odd}")));
    }
    findings.extend(about(installation, resource, metric));
    findings
}

/// What a metric of AWS is about must be there, and an Auto Scaling group must be told to write it.
fn about(installation: &Installation<'_>, resource: &Resource, metric: &Named) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (dimension, type_name, argument) in [
        ("QueueName", "aws_sqs_queue", "name"),
        ("FunctionName", "aws_lambda_function", "function_name"),
        ("TableName", "aws_dynamodb_table", "name"),
        ("AutoScalingGroupName", "aws_autoscaling_group", "name"),
    ] {
        let Some(value) = metric.dimensions.get(dimension) else { continue };
        let Some(found) = installation.find(type_name, argument, value) else {
            findings.push(resource.finding(format!("{}: there is no {dimension} {value}", metric.name)));
            continue;
        };
        let enabled = found.argument("enabled_metrics").map(Value::elements).unwrap_or_default();
        if metric.namespace == AUTO_SCALING && !enabled.contains(&Value::string(metric.name.as_str())) {
            findings.push(
                found.finding(format!(
                    "{} reads {}, which is not among `enabled_metrics`",
                    resource.address, metric.name
                )),
            );
        }
    }
    findings
}

/// Metrics of a dashboard's widgets: `[namespace, name, dimension, value, ..., {options}]`, where `.` repeats what stands above.
fn of_dashboard(body: &Json) -> Vec<Named> {
    let mut found = Vec::new();
    for widget in body["widgets"].as_array().into_iter().flatten() {
        let mut above: Vec<String> = Vec::new();
        for row in widget["properties"]["metrics"].as_array().into_iter().flatten() {
            let cells = row.as_array().into_iter().flatten().filter_map(Json::as_str);
            let cell = |(at, cell): (usize, &str)| match cell {
                "." => above.get(at).cloned().unwrap_or_default(),
                cell => cell.to_owned(),
            };
            let cells: Vec<String> = cells.enumerate().map(cell).collect();
            if let [namespace, name, rest @ ..] = cells.as_slice() {
                let pairs = rest.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
                found.push(Named { namespace: namespace.clone(), name: name.clone(), dimensions: pairs.collect() });
            }
            above = cells;
        }
    }
    found
}

/// It says where to read on, and what no data means.
fn of_alarm(installation: &Installation<'_>, alarm: &Resource) -> Vec<Finding> {
    let mut findings = Vec::new();
    let says = alarm.text("alarm_description").unwrap_or_default();
    // One that only starts instances wakes nobody.
    let actions = alarm.argument("alarm_actions").map(Value::elements).unwrap_or_default();
    let scales = |action: &Value| action.text().is_some_and(|action| action.contains("aws_autoscaling_policy."));
    let wakes_nobody = !actions.is_empty() && actions.iter().all(scales);
    static PAGE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"docs/runbook/[\w-]+\.md").expect("the pattern is one"));
    match PAGE.find(&says) {
        None if wakes_nobody => {}
        None => findings.push(alarm.finding("its description does not name its page in docs/runbook")),
        Some(page) if installation.tree.read(page.as_str()).is_none() => {
            let what = format!("an alarm's page {} is not there", page.as_str());
            findings.push(Finding { file: alarm.file.clone(), line: alarm.line, what });
        }
        Some(_) => {}
    }
    if alarm.argument("treat_missing_data").is_none() {
        findings.push(alarm.finding("nothing is said of `treat_missing_data`"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_from_dashboards_and_the_list() {
        let body = serde_json::json!({"widgets": [{"properties": {"metrics": [
            ["AWS/SQS", "NumberOfMessagesSent", "QueueName", "a", {"label": "x"}], [".", "NumberOfMessagesDeleted", ".", "b"],
            [{"expression": "SUM(METRICS())"}]]}}]});
        let found = of_dashboard(&body);
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].namespace.as_str(), found[1].name.as_str()), ("AWS/SQS", "NumberOfMessagesDeleted"));
        assert_eq!(found[1].dimensions["QueueName"], "b");
        let list = "| metric | unit | dimensions | meaning |\n|---|---|---|---|\n| `push0_a_count` | Count | chain, outcome | x |\n\n## More\n\n| `push0_b` | x | y | z |\n";
        let exported = exported(list);
        assert_eq!(exported.len(), 1);
        assert_eq!(exported["push0_a_count"].iter().map(String::as_str).collect::<Vec<_>>(), ["chain", "outcome"]);
    }
}
