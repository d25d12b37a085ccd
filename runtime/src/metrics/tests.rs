use std::path::Path;

use push0_core::Millis;
use serde_json::Value;

use super::*;

/// What the format's specification asks of a line; `Ok`: its metrics with their values.
pub(crate) fn check(line: &str) -> Result<Vec<(String, usize)>, String> {
    let root: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let aws = &root["_aws"];
    aws["Timestamp"].as_u64().ok_or("no whole Timestamp")?;
    let mut found = Vec::new();
    for directive in aws["CloudWatchMetrics"].as_array().ok_or("no CloudWatchMetrics")? {
        let namespace = directive["Namespace"].as_str().ok_or("no Namespace")?;
        if !(1..=1024).contains(&namespace.len()) || namespace.starts_with("AWS/") {
            return Err(format!("namespace {namespace}"));
        }
        for set in directive["Dimensions"].as_array().ok_or("no Dimensions")? {
            let set = set.as_array().ok_or("a dimension set is a list")?;
            if set.len() > 30 {
                return Err("more than 30 dimensions".to_owned());
            }
            for dimension in set {
                let name = dimension.as_str().ok_or("a dimension is text")?;
                let value = root[name].as_str().ok_or(format!("dimension {name} has no member"))?;
                if !(1..=1024).contains(&value.len()) {
                    return Err(format!("dimension {name} is {value:?}"));
                }
            }
        }
        let metrics = directive["Metrics"].as_array().ok_or("no Metrics")?;
        if !(1..=100).contains(&metrics.len()) {
            return Err(format!("{} metrics", metrics.len()));
        }
        for metric in metrics {
            let name = metric["Name"].as_str().ok_or("a metric has no Name")?;
            if !["Count", "Milliseconds"].contains(&metric["Unit"].as_str().unwrap_or("")) {
                return Err(format!("{name} has unit {}", metric["Unit"]));
            }
            let values = match &root[name] {
                Value::Number(_) => 1,
                Value::Array(values) if values.iter().all(Value::is_number) => values.len(),
                other => return Err(format!("{name} is {other}")),
            };
            if !(1..=100).contains(&values) {
                return Err(format!("{name} has {values} values"));
            }
            found.push((name.to_owned(), values));
        }
    }
    Ok(found)
}

#[test]
fn every_metric_makes_a_line_of_the_format_and_no_value_is_lost() {
    let metrics = Metrics::default();
    for metric in Metric::ALL {
        let labels = vec!["label"; metric.dimensions().len()];
        for value in 0..250 {
            metrics.observe(*metric, &labels, value);
        }
    }
    let lines = emf::lines("push0", Millis(1_700_000_000_000), &metrics.drain());
    let mut totals: BTreeMap<String, usize> = BTreeMap::new();
    for line in &lines {
        for (name, values) in check(line).unwrap() {
            *totals.entry(name).or_default() += values;
        }
    }
    assert_eq!(totals, Metric::ALL.iter().map(|metric| (metric.name().to_owned(), 250)).collect());
}

#[test]
fn counts_are_summed_series_kept_apart_and_nothing_handed_on_twice() {
    let metrics = Metrics::default();
    metrics.count(Metric::BlocksReleased, &["a"], 2);
    metrics.count(Metric::BlocksReleased, &["a"], 3);
    metrics.count(Metric::BlocksReleased, &["b"], 1);
    metrics.count(Metric::BlocksFailed, &["a"], 0);
    let series = |label: &str, value| Series {
        metric: Metric::BlocksReleased,
        labels: vec![label.to_owned()],
        values: vec![value],
    };
    assert_eq!(metrics.drain(), [series("a", 5.0), series("b", 1.0)]);
    assert_eq!(metrics.drain(), []);
}

#[test]
fn names_are_unique_and_end_in_their_unit() {
    let names: std::collections::BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    assert_eq!(names.len(), Metric::ALL.len());
    for metric in Metric::ALL {
        let unit = metric.unit().as_str().to_lowercase();
        assert!(metric.name().starts_with("push0_") && metric.name().ends_with(&unit), "{}", metric.name());
    }
}

/// Sources below a directory, without their tests.
fn sources(directory: &Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "metrics" {
            sources(&path, text);
        } else if name.ends_with(".rs") && name != "metrics.rs" && name != "tests.rs" {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_metric_of_the_list_is_measured_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = std::fs::read_to_string(root.join("runtime/src/metrics/metered.rs")).unwrap();
    sources(&root.join("runtime/src"), &mut text);
    sources(&root.join("functions/src"), &mut text);
    for metric in Metric::ALL {
        let used = format!("Metric::{metric:?},");
        assert!(text.contains(&used), "nothing measures {used}");
    }
}

#[test]
fn the_table_in_the_documentation_is_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let is_listed = |line: &&str| line.starts_with("| `push0_") && line.matches(" | ").count() == 3;
    let rows: Vec<&str> = page.lines().filter(is_listed).collect();
    let expected: Vec<String> = Metric::ALL
        .iter()
        .map(|metric| {
            let (name, unit, dimensions) = (metric.name(), metric.unit().as_str(), metric.dimensions().join(", "));
            format!("| `{name}` | {unit} | {dimensions} | {} |", metric.meaning())
        })
        .collect();
    assert_eq!(rows, expected, "docs/metrics.md");
}
