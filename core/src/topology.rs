//! `infra/topology.json`: the one list of queues, tables, buckets and functions, read by the embedded engine, `push0 bootstrap`
//! and `infra/terraform`. The loader checks the relations between them, and AWS's limits, so that none of the three can be given a topology
//! that loses messages or that AWS would refuse.
//!
//! A name with `{pool}` or `{class}` in it stands for one queue for each pool and class. In an account every name begins with the
//! installation's prefix and a dash.

mod check;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{Class, Pool};
use crate::pipeline::Mistakes;

/// The topology this build was made with.
pub const BUILT_IN: &str = include_str!("../../infra/topology.json");

/// Most characters of an installation's prefix: with it, and with the longest pool and class, every name must be one that AWS takes.
pub const LONGEST_PREFIX: usize = 20;

/// The format this build reads.
const VERSION: u32 = 1;

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
    /// Of a FIFO queue, and only of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fifo: Option<FifoSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// Of a dead-letter queue: the one queue that may send its dead letters here. Every other queue takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters_of: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    Fifo,
    Standard,
}

/// SQS's high-throughput mode wants both to be about the message group; `DeduplicationScope` and `FifoThroughputLimit` in SQS's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FifoSpec {
    pub deduplication_scope: String,
    pub throughput_limit: String,
}

/// Where a message goes that was handed out `max_receives` times in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    pub queue: String,
    pub max_receives: u32,
}

/// Both keys are strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    pub name: String,
    pub partition_key: String,
    pub sort_key: String,
    /// Rows are deleted some time after the moment this attribute names, in seconds. None: no row is ever deleted by age.
    pub ttl_attribute: Option<String>,
    pub point_in_time_recovery: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSpec {
    pub name: String,
    /// What keys in it begin with. No two of all buckets overlap: a key tells its bucket.
    pub prefixes: Vec<String>,
    /// What was overwritten can still be read, by its version.
    pub versioned: bool,
    /// The one thing that goes by age: parts of uploads that were never completed.
    pub abort_uploads_after_days: u32,
    pub notifications: Vec<NotificationSpec>,
}

/// Events of a bucket that go to a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotificationSpec {
    /// In S3's words, like `s3:ObjectCreated:*`.
    pub events: Vec<String>,
    /// Of keys that begin so.
    pub prefix: String,
    pub queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    pub name: String,
    pub timeout_s: u32,
    pub memory_mib: u32,
    /// Runs on a timer, this often. `push0 up` has a setting of its own (`functions.reaper_ms`).
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
        let mistakes = check::mistakes(&topology);
        if mistakes.is_empty() { Ok(topology) } else { Err(Mistakes(mistakes)) }
    }

    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in topology is checked by a test")
    }

    /// For tests that kill functions: what was in hand comes back after so many seconds instead of minutes. Shorter than a function's
    /// time-out, so that slow invocations meet their own message again; nothing may break because of that.
    pub fn with_visibility(mut self, seconds: Option<u32>) -> Self {
        for queue in &mut self.queues {
            queue.visibility_s = seconds.unwrap_or(queue.visibility_s);
        }
        self
    }

    pub fn function(&self, name: &str) -> Option<&FunctionSpec> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// The bucket that a blob with this key lies in.
    pub fn bucket_of(&self, key: &str) -> Option<&BucketSpec> {
        self.buckets.iter().find(|bucket| bucket.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())))
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
                if let Some(source) = &mut queue.dead_letters_of {
                    *source = fill.apply(source);
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
        let queues = topology.expanded_queues(&pools);
        let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
        for expected in ["submissions.fifo", "results", "work-cpu-bulk", "work-trusted-standard-dlq"] {
            assert!(names.contains(&expected), "{expected} is not in {names:?}");
        }
        let dead = queues.iter().find(|queue| queue.name == "work-cpu-bulk-dlq").unwrap();
        assert_eq!(dead.dead_letters_of.as_deref(), Some("work-cpu-bulk"));
        let collector = topology.function("collector").unwrap();
        assert_eq!(topology.expanded_sources(collector, &pools).len(), 8 + 6);
    }

    #[test]
    fn a_key_tells_its_bucket() {
        let topology = Topology::built_in();
        let bucket = |key: &str| topology.bucket_of(key).map(|bucket| bucket.name.as_str());
        assert_eq!(bucket("witnesses/demo/7/ab/witness"), Some("witnesses"));
        for key in ["artifacts/cpu/x", "control/demo/7/e0", "proofs/demo/7"] {
            assert_eq!(bucket(key), Some("blobs"), "{key}");
        }
        assert_eq!(bucket("elsewhere/x"), None);
    }

    #[test]
    fn visibility_can_be_overridden_for_tests_and_is_not_by_default() {
        let short = Topology::built_in().with_visibility(Some(1));
        assert!(short.queues.iter().all(|queue| queue.visibility_s == 1));
        assert_eq!(Topology::built_in().with_visibility(None), Topology::built_in());
    }

    #[test]
    fn the_sources_of_a_function_are_queues_one_for_each_pool_and_class() {
        let topology = Topology::built_in();
        let pools = ["cpu".parse().unwrap(), Pool::trusted()].into();
        let queues: BTreeSet<String> = topology.expanded_queues(&pools).into_iter().map(|queue| queue.name).collect();
        for function in &topology.functions {
            let sources = topology.expanded_sources(function, &pools);
            let names: BTreeSet<String> = sources.iter().map(|source| source.queue.clone()).collect();
            assert_eq!(names.len(), sources.len(), "{}: {names:?}", function.name);
            assert!(names.is_subset(&queues), "{}: {names:?}", function.name);
        }
        let collector = topology.function("collector").unwrap();
        let sources = topology.expanded_sources(collector, &pools);
        let batch = |name: &str| sources.iter().find(|source| source.queue == name).map(|source| source.batch);
        assert_eq!(batch("work-trusted-standard-dlq"), Some(10));
        assert_eq!(batch("work-gpu-standard-dlq"), None);
    }
}
