//! `infra/topology.json`: the one list of queues, tables, buckets and functions, read by the embedded engine, the emulator bootstrap
//! and Terraform. The loader checks the relations between them, so that none of the three can be given a topology that loses messages.
//!
//! A name with `{pool}` or `{class}` in it stands for one queue for each pool and class.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Class, Pool};
use crate::pipeline::Mistakes;

/// The topology this build was made with.
pub const BUILT_IN: &str = include_str!("../../infra/topology.json");

/// The format this build reads.
const VERSION: u32 = 1;

/// A function's source must stay invisible for this many time-outs of the function (AWS's rule for SQS event sources).
const VISIBILITY_PER_TIMEOUT: u32 = 6;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    version: u32,
    pub queues: Vec<QueueSpec>,
    pub tables: Vec<TableSpec>,
    pub buckets: Vec<BucketSpec>,
    pub functions: Vec<FunctionSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSpec {
    pub name: String,
    pub kind: QueueKind,
    /// Length of a lease, seconds.
    pub visibility_s: u32,
    /// How long an unread message is kept, seconds. The embedded engine keeps messages until they are acknowledged.
    pub retention_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    Fifo,
    Standard,
}

/// Where a message goes that was handed out `max_receives` times in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    pub queue: String,
    pub max_receives: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    pub name: String,
    pub partition_key: String,
    pub sort_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSpec {
    pub name: String,
    pub prefixes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    pub name: String,
    pub timeout_s: u32,
    pub memory_mib: u32,
    /// Runs on a timer, this often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_s: Option<u32>,
    pub sources: Vec<SourceSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    pub queue: String,
    /// Most messages an invocation gets.
    pub batch: u32,
}

impl Topology {
    /// Reads and checks a topology; every mistake is listed.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let topology: Self = serde_json::from_str(text).map_err(|error| Mistakes(vec![error.to_string()]))?;
        let mistakes = topology.mistakes();
        if mistakes.is_empty() { Ok(topology) } else { Err(Mistakes(mistakes)) }
    }

    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in topology is checked by a test")
    }

    pub fn function(&self, name: &str) -> Option<&FunctionSpec> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// All queues, patterns written out.
    pub fn expanded_queues(&self, pools: &BTreeSet<Pool>) -> Vec<QueueSpec> {
        let mut queues = Vec::new();
        for spec in &self.queues {
            for fill in fills(&spec.name, pools) {
                let mut queue = spec.clone();
                queue.name = fill.apply(&spec.name);
                if let Some(dead_letter) = &mut queue.dead_letter {
                    dead_letter.queue = fill.apply(&dead_letter.queue);
                }
                queues.push(queue);
            }
        }
        queues
    }

    /// All sources of a function, patterns written out.
    pub fn expanded_sources(&self, function: &FunctionSpec, pools: &BTreeSet<Pool>) -> Vec<SourceSpec> {
        let expand = |source: &SourceSpec| -> Vec<SourceSpec> {
            let fills = fills(&source.queue, pools);
            fills.iter().map(|fill| SourceSpec { queue: fill.apply(&source.queue), ..source.clone() }).collect()
        };
        function.sources.iter().flat_map(expand).collect()
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.version != VERSION {
            mistakes.push(format!("version {} is not {VERSION}, the one this build reads", self.version));
        }
        let mut queues = BTreeMap::new();
        for queue in &self.queues {
            if queues.insert(queue.name.as_str(), queue).is_some() {
                mistakes.push(format!("queue {} is listed twice", queue.name));
            }
            if queue.name.ends_with(".fifo") != (queue.kind == QueueKind::Fifo) {
                mistakes.push(format!("queue {}: the names of FIFO queues, and only those, end in .fifo", queue.name));
            }
        }
        for queue in &self.queues {
            mistakes.extend(dead_letter_mistakes(queue, &queues));
        }
        for function in &self.functions {
            if function.sources.is_empty() == function.every_s.is_none() {
                mistakes.push(format!("function {}: it needs sources or a timer, not both", function.name));
            }
            for source in &function.sources {
                mistakes.extend(source_mistakes(function, source, &queues));
            }
        }
        mistakes
    }
}

fn dead_letter_mistakes(queue: &QueueSpec, queues: &BTreeMap<&str, &QueueSpec>) -> Vec<String> {
    let Some(dead_letter) = &queue.dead_letter else {
        return Vec::new();
    };
    let name = &queue.name;
    let Some(target) = queues.get(dead_letter.queue.as_str()) else {
        return vec![format!("queue {name}: its dead-letter queue {} is not listed", dead_letter.queue)];
    };
    let mut mistakes = Vec::new();
    if target.kind != queue.kind {
        mistakes
            .push(format!("queue {name}: the dead-letter queue of a FIFO queue is FIFO, of a standard one standard"));
    }
    // On a standard queue a message's age counts from when it was first sent.
    if target.retention_s < queue.retention_s {
        mistakes.push(format!("queue {name}: its dead-letter queue must keep messages at least as long as it does"));
    }
    if dead_letter.max_receives == 0 {
        mistakes.push(format!("queue {name}: max_receives must be at least 1"));
    }
    mistakes
}

fn source_mistakes(function: &FunctionSpec, source: &SourceSpec, queues: &BTreeMap<&str, &QueueSpec>) -> Vec<String> {
    let at = format!("function {}, source {}", function.name, source.queue);
    let Some(queue) = queues.get(source.queue.as_str()) else {
        return vec![format!("{at}: there is no such queue")];
    };
    let mut mistakes = Vec::new();
    if queue.visibility_s < VISIBILITY_PER_TIMEOUT * function.timeout_s {
        let wanted = VISIBILITY_PER_TIMEOUT * function.timeout_s;
        mistakes.push(format!("{at}: visibility must be at least 6 × the function's time-out, {wanted} s"));
    }
    if !(1..=10).contains(&source.batch) {
        mistakes.push(format!("{at}: a batch is 1 to 10 messages"));
    }
    mistakes
}

/// Values for the pattern of a name.
struct Fill {
    pool: String,
    class: &'static str,
}

impl Fill {
    fn apply(&self, pattern: &str) -> String {
        pattern.replace("{pool}", &self.pool).replace("{class}", self.class)
    }
}

fn fills(pattern: &str, pools: &BTreeSet<Pool>) -> Vec<Fill> {
    if !pattern.contains('{') {
        return vec![Fill { pool: String::new(), class: "" }];
    }
    let classes = Class::ALL.map(Class::as_str);
    pools.iter().flat_map(|pool| classes.map(|class| Fill { pool: pool.to_string(), class })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_topology_holds_its_relations_and_expands() {
        let topology = Topology::built_in();
        let pools = ["cpu".parse().unwrap(), Pool::trusted()].into();
        let names: Vec<String> = topology.expanded_queues(&pools).into_iter().map(|queue| queue.name).collect();
        for expected in ["submissions.fifo", "results", "work-cpu-bulk", "work-trusted-standard-dlq"] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not in {names:?}");
        }
        let collector = topology.function("collector").unwrap();
        assert_eq!(topology.expanded_sources(collector, &pools).len(), 6 + 6);
    }

    #[test]
    fn broken_relations_are_all_listed() {
        let broken = BUILT_IN
            .replacen("\"visibility_s\": 18", "\"visibility_s\": 17", 1)
            .replacen("\"queue\": \"results-dlq\"", "\"queue\": \"submissions-dlq.fifo\"", 1)
            .replacen("\"queue\": \"ranges\", \"batch\": 1", "\"queue\": \"rangez\", \"batch\": 1", 1)
            .replacen("\"queue\": \"verdicts\", \"batch\": 10", "\"queue\": \"verdicts\", \"batch\": 11", 1);
        let mistakes = Topology::parse(&broken).unwrap_err().0;
        for expected in ["6 × the function's time-out, 18 s", "of a FIFO queue is FIFO", "no such queue", "1 to 10"] {
            assert!(mistakes.iter().any(|m| m.contains(expected)), "{expected} is not among {mistakes:#?}");
        }
    }
}
