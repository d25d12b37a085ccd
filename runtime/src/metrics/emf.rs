//! CloudWatch's embedded metric format: metrics as JSON lines in the log, from which CloudWatch takes them.
//!
//! A line has the metrics that share their dimensions and labels. Limits of the format: 100 metrics a line, 100 values a metric.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::collections::BTreeMap;

use push0_core::Millis;
use serde_json::{Map, Value, json};

use super::Series;

/// Most values of a metric in a line.
const VALUES: usize = 100;

/// The lines for what was measured, without line ends. `namespace` is the installation's prefix: installations share an account.
pub fn lines(namespace: &str, now: Millis, measured: &[Series]) -> Vec<String> {
    let mut groups: BTreeMap<(&[&str], &[String]), Vec<&Series>> = BTreeMap::new();
    for series in measured {
        groups.entry((series.metric.dimensions(), &series.labels)).or_default().push(series);
    }
    let mut lines = Vec::new();
    for ((dimensions, labels), group) in groups {
        let most = group.iter().map(|series| series.values.len()).max().unwrap_or(0);
        for from in (0..most).step_by(VALUES) {
            lines.push(line(namespace, now, dimensions, labels, &group, from));
        }
    }
    lines
}

fn line(
    namespace: &str,
    now: Millis,
    dimensions: &[&str],
    labels: &[String],
    group: &[&Series],
    from: usize,
) -> String {
    let mut members = Map::new();
    let mut metrics = Vec::new();
    for (dimension, label) in dimensions.iter().zip(labels) {
        members.insert((*dimension).to_owned(), label.clone().into());
    }
    for series in group {
        let values: Vec<Value> = series.values.iter().skip(from).take(VALUES).map(|value| json!(value)).collect();
        let value = match values.len() {
            0 => continue,
            1 => values.into_iter().next().unwrap_or_default(),
            _ => Value::Array(values),
        };
        members.insert(series.metric.name().to_owned(), value);
        metrics.push(json!({ "Name": series.metric.name(), "Unit": series.metric.unit().as_str() }));
    }
    let directive = json!({ "Namespace": namespace, "Dimensions": [dimensions], "Metrics": metrics });
    members.insert("_aws".to_owned(), json!({ "Timestamp": now.0, "CloudWatchMetrics": [directive] }));
    Value::Object(members).to_string()
}
