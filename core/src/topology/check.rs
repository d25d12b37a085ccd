//! The relations that a topology must hold, and AWS's limits. Every function here returns what is wrong, in sentences.
//!
//! Sources of the limits: the SQS developer guide (quotas), the Lambda developer guide (quotas; SQS event sources), the S3 user guide
//! (bucket names; event notifications), the DynamoDB developer guide (naming), the EventBridge user guide (rate expressions).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::{
    BucketSpec, Fill, FunctionSpec, LONGEST_PREFIX, NotificationSpec, QueueKind, QueueSpec, SourceSpec, TableSpec,
    Topology, VERSION,
};
use crate::id::Class;

/// A function's source must stay invisible for this many time-outs of the function (AWS's rule for SQS event sources).
const VISIBILITY_PER_TIMEOUT: u32 = 6;
/// What AWS asks of a function's source: a throttled function's attempts count as receives, too.
const FEWEST_RECEIVES_OF_A_SOURCE: u32 = 5;
/// More messages an invocation would need a batching window, which FIFO queues do not have and which costs a second.
const BATCH: RangeInclusive<u32> = 1..=10;
/// SQS: 12 hours.
const MOST_VISIBILITY_S: u32 = 12 * 60 * 60;
/// SQS: a minute to 14 days.
const RETENTION_S: RangeInclusive<u32> = 60..=14 * 24 * 60 * 60;
const MAX_RECEIVES: RangeInclusive<u32> = 1..=1000;
/// Lambda.
const TIMEOUT_S: RangeInclusive<u32> = 1..=900;
const MEMORY_MIB: RangeInclusive<u32> = 128..=10_240;
/// Characters of a name in an account.
const QUEUE_NAME: usize = 80;
const BUCKET_NAME: usize = 63;
const FUNCTION_NAME: usize = 64;
const TABLE_NAME: usize = 255;
const LONGEST_POOL: usize = 32;

type Queues<'a> = BTreeMap<&'a str, &'a QueueSpec>;

/// Everything that is wrong.
pub(super) fn mistakes(topology: &Topology) -> Vec<String> {
    let mut mistakes = Vec::new();
    if topology.version != VERSION {
        mistakes.push(format!("version {} is not {VERSION}, the one this build reads", topology.version));
    }
    mistakes.extend(twice("queue", topology.queues.iter().map(|queue| &queue.name)));
    mistakes.extend(twice("table", topology.tables.iter().map(|table| &table.name)));
    mistakes.extend(twice("bucket", topology.buckets.iter().map(|bucket| &bucket.name)));
    mistakes.extend(twice("function", topology.functions.iter().map(|function| &function.name)));
    let queues: Queues<'_> = topology.queues.iter().map(|queue| (queue.name.as_str(), queue)).collect();
    for queue in &topology.queues {
        mistakes.extend(of_queue(queue));
        mistakes.extend(of_dead_letters(queue, &queues));
    }
    mistakes.extend(topology.tables.iter().flat_map(of_table));
    mistakes.extend(topology.buckets.iter().flat_map(|bucket| of_bucket(bucket, &queues)));
    mistakes.extend(overlapping(topology));
    mistakes.extend(topology.functions.iter().flat_map(|function| of_function(function, &queues)));
    mistakes.extend(of_sources_together(topology));
    mistakes
}

fn twice<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).map(|name| format!("{what} {name} is listed twice")).collect()
}

/// What a name is called at most: with the longest prefix, pool and class.
fn longest(name: &str) -> String {
    let class = Class::ALL.map(Class::as_str).into_iter().max_by_key(|class| class.len()).unwrap_or_default();
    let fill = Fill { pool: "p".repeat(LONGEST_POOL), class };
    format!("{}-{}", "x".repeat(LONGEST_PREFIX), fill.apply(name))
}

/// Lower case, digits and dashes: what queues, tables, buckets and functions all take.
fn name_mistake(what: &str, name: &str, most: usize) -> Option<String> {
    let longest = longest(name);
    let text = longest.strip_suffix(".fifo").unwrap_or(&longest);
    if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') || text.ends_with('-') {
        return Some(format!("{what} {name}: names are of a-z, 0-9 and -"));
    }
    let length = longest.len();
    (length > most).then(|| format!("{what} {name}: with the longest prefix it has {length} characters, {most} may be"))
}

fn of_queue(queue: &QueueSpec) -> Vec<String> {
    let name = &queue.name;
    let is_fifo = queue.kind == QueueKind::Fifo;
    let mut mistakes: Vec<String> = name_mistake("queue", name, QUEUE_NAME).into_iter().collect();
    if name.ends_with(".fifo") != is_fifo {
        mistakes.push(format!("queue {name}: the names of FIFO queues, and only those, end in .fifo"));
    }
    if queue.fifo.is_some() != is_fifo {
        mistakes.push(format!("queue {name}: a FIFO queue, and only one, has its `fifo` attributes"));
    }
    if let Some(fifo) = &queue.fifo
        && (fifo.deduplication_scope != "messageGroup" || fifo.throughput_limit != "perMessageGroupId")
    {
        // Per queue, what one chain has said would swallow what another says.
        mistakes.push(format!("queue {name}: messageGroup and perMessageGroupId go together, and push0 needs both"));
    }
    if !(1..=MOST_VISIBILITY_S).contains(&queue.visibility_s) {
        mistakes.push(format!("queue {name}: visibility is 1 s to 12 h"));
    }
    if !RETENTION_S.contains(&queue.retention_s) {
        mistakes.push(format!("queue {name}: retention is 60 s to 14 days"));
    }
    if queue.visibility_s >= queue.retention_s {
        mistakes.push(format!("queue {name}: a message would expire while it is in hand"));
    }
    mistakes
}

fn of_dead_letters(queue: &QueueSpec, queues: &Queues<'_>) -> Vec<String> {
    let name = &queue.name;
    let mut mistakes = Vec::new();
    if let Some(source) = &queue.dead_letters_of {
        let names_it = queues.get(source.as_str()).and_then(|source| source.dead_letter.as_ref());
        if names_it.is_none_or(|letters| letters.queue != *name) {
            mistakes.push(format!("queue {name}: it takes the dead letters of {source}, which sends it none"));
        }
        if queue.dead_letter.is_some() {
            mistakes.push(format!("queue {name}: a dead-letter queue has no dead-letter queue"));
        }
    }
    let Some(dead_letter) = &queue.dead_letter else {
        return mistakes;
    };
    let Some(target) = queues.get(dead_letter.queue.as_str()) else {
        mistakes.push(format!("queue {name}: its dead-letter queue {} is not listed", dead_letter.queue));
        return mistakes;
    };
    if target.dead_letters_of.as_ref() != Some(name) {
        mistakes.push(format!("queue {name}: its dead-letter queue {} does not take its letters", target.name));
    }
    if target.kind != queue.kind {
        mistakes
            .push(format!("queue {name}: the dead-letter queue of a FIFO queue is FIFO, of a standard one standard"));
    }
    // On a standard queue a message's age counts from when it was first sent.
    if target.retention_s <= queue.retention_s {
        mistakes.push(format!("queue {name}: its dead-letter queue must keep messages longer than it does"));
    }
    if !MAX_RECEIVES.contains(&dead_letter.max_receives) {
        mistakes.push(format!("queue {name}: max_receives is 1 to 1000"));
    }
    mistakes
}

fn of_table(table: &TableSpec) -> Vec<String> {
    let mut mistakes: Vec<String> = name_mistake("table", &table.name, TABLE_NAME).into_iter().collect();
    if table.partition_key.is_empty() || table.sort_key.is_empty() || table.partition_key == table.sort_key {
        mistakes.push(format!("table {}: partition key and sort key are two attributes", table.name));
    }
    if let Some(ttl) = &table.ttl_attribute
        && (ttl.is_empty() || *ttl == table.partition_key || *ttl == table.sort_key)
    {
        mistakes.push(format!("table {}: the attribute that says when a row goes is not one of its keys", table.name));
    }
    mistakes
}

fn of_bucket(bucket: &BucketSpec, queues: &Queues<'_>) -> Vec<String> {
    let name = &bucket.name;
    let mut mistakes: Vec<String> = name_mistake("bucket", name, BUCKET_NAME).into_iter().collect();
    if bucket.prefixes.is_empty() {
        mistakes.push(format!("bucket {name}: no key could lie in it"));
    }
    for prefix in bucket.prefixes.iter().filter(|prefix| !prefix.ends_with('/') || prefix.len() < 2) {
        mistakes.push(format!("bucket {name}, prefix {prefix:?}: a prefix is a word and /"));
    }
    if bucket.abort_uploads_after_days == 0 {
        mistakes.push(format!("bucket {name}: an upload has at least a day"));
    }
    for notification in &bucket.notifications {
        mistakes.extend(of_notification(bucket, notification, queues));
    }
    mistakes
}

fn of_notification(bucket: &BucketSpec, notification: &NotificationSpec, queues: &Queues<'_>) -> Vec<String> {
    let at = format!("bucket {}, notification to {}", bucket.name, notification.queue);
    let mut mistakes = Vec::new();
    match queues.get(notification.queue.as_str()) {
        None => mistakes.push(format!("{at}: there is no such queue")),
        Some(queue) if queue.kind == QueueKind::Fifo => {
            mistakes.push(format!("{at}: S3 notifies no FIFO queue"));
        }
        Some(_) => {}
    }
    if !bucket.prefixes.iter().any(|prefix| notification.prefix.starts_with(prefix.as_str())) {
        mistakes.push(format!("{at}: no key of the bucket begins with {:?}", notification.prefix));
    }
    if notification.events.is_empty() || !notification.events.iter().all(|event| event.starts_with("s3:")) {
        mistakes.push(format!("{at}: events are called like s3:ObjectCreated:*"));
    }
    mistakes
}

/// A key must tell its bucket, and S3 takes no two notifications for one event.
fn overlapping(topology: &Topology) -> Vec<String> {
    let keys = topology.buckets.iter().flat_map(|bucket| bucket.prefixes.iter().map(|prefix| (&bucket.name, prefix)));
    let told = |bucket: &BucketSpec| -> Vec<String> {
        bucket.notifications.iter().map(|notification| notification.prefix.clone()).collect()
    };
    let mut mistakes = overlaps("prefixes", &keys.map(|(_, prefix)| prefix.clone()).collect::<Vec<_>>());
    mistakes.extend(topology.buckets.iter().flat_map(|bucket| overlaps("notifications", &told(bucket))));
    mistakes
}

fn overlaps(what: &str, prefixes: &[String]) -> Vec<String> {
    let mut mistakes = Vec::new();
    for (at, one) in prefixes.iter().enumerate() {
        for other in &prefixes[at + 1..] {
            if one.starts_with(other.as_str()) || other.starts_with(one.as_str()) {
                mistakes.push(format!("buckets: {what} overlap: {one:?} and {other:?}"));
            }
        }
    }
    mistakes
}

fn of_function(function: &FunctionSpec, queues: &Queues<'_>) -> Vec<String> {
    let name = &function.name;
    let mut mistakes: Vec<String> = name_mistake("function", name, FUNCTION_NAME).into_iter().collect();
    if function.sources.is_empty() == function.every_s.is_none() {
        mistakes.push(format!("function {name}: it needs sources or a timer, not both"));
    }
    if !TIMEOUT_S.contains(&function.timeout_s) {
        mistakes.push(format!("function {name}: a time-out is 1 to 900 s"));
    }
    if !MEMORY_MIB.contains(&function.memory_mib) {
        mistakes.push(format!("function {name}: memory is 128 to 10240 MiB"));
    }
    if function.every_s.is_some_and(|every| every == 0 || every % 60 != 0) {
        mistakes.push(format!("function {name}: EventBridge's timers count whole minutes"));
    }
    mistakes.extend(function.sources.iter().flat_map(|source| of_source(function, source, queues)));
    mistakes
}

fn of_source(function: &FunctionSpec, source: &SourceSpec, queues: &Queues<'_>) -> Vec<String> {
    let at = format!("function {}, source {}", function.name, source.queue);
    let Some(queue) = queues.get(source.queue.as_str()) else {
        return vec![format!("{at}: there is no such queue")];
    };
    let mut mistakes = Vec::new();
    let wanted = VISIBILITY_PER_TIMEOUT.saturating_mul(function.timeout_s);
    if queue.visibility_s < wanted {
        mistakes.push(format!("{at}: visibility must be at least 6 × the function's time-out, {wanted} s"));
    }
    if !BATCH.contains(&source.batch) {
        mistakes.push(format!("{at}: a batch is 1 to 10 messages"));
    }
    match &queue.dead_letter {
        None if queue.dead_letters_of.is_none() => {
            mistakes.push(format!("{at}: what the function cannot handle must have a dead-letter queue to go to"));
        }
        Some(letters) if letters.max_receives < FEWEST_RECEIVES_OF_A_SOURCE => {
            mistakes.push(format!("{at}: max_receives must be at least {FEWEST_RECEIVES_OF_A_SOURCE}"));
        }
        _ => {}
    }
    mistakes
}

/// Two functions would take each other's messages; a dead letter that no function reads waits unseen, and so does an event.
fn of_sources_together(topology: &Topology) -> Vec<String> {
    let mut readers: BTreeMap<&str, u32> = BTreeMap::new();
    for source in topology.functions.iter().flat_map(|function| &function.sources) {
        *readers.entry(source.queue.as_str()).or_default() += 1;
    }
    let notified = topology.buckets.iter().flat_map(|bucket| &bucket.notifications).map(|told| told.queue.as_str());
    let dead = topology.queues.iter().filter(|queue| queue.dead_letters_of.is_some()).map(|queue| queue.name.as_str());
    let must: BTreeSet<&str> = notified.chain(dead).collect();
    let twice = readers.iter().filter(|(_, count)| **count > 1);
    let mut mistakes: Vec<String> =
        twice.map(|(queue, _)| format!("queue {queue}: it is a source more than once")).collect();
    let unread = must.into_iter().filter(|queue| !readers.contains_key(queue));
    mistakes.extend(unread.map(|queue| format!("queue {queue}: no function reads it")));
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::BUILT_IN;

    /// What the built-in topology is told when `from`, which must be in it, becomes `to`.
    fn told(from: &str, to: &str) -> Vec<String> {
        assert!(BUILT_IN.contains(from), "{from} is not in the topology");
        Topology::parse(&BUILT_IN.replacen(from, to, 1)).unwrap_err().0
    }

    #[test]
    fn each_broken_relation_is_told() {
        let long = format!("\"name\": \"{}\"", "q".repeat(70));
        let cases: &[(&str, &str, &str)] = &[
            ("\"version\": 1", "\"version\": 2", "version 2 is not 1"),
            ("\"name\": \"poison\"", "\"name\": \"results\"", "queue results is listed twice"),
            ("\"name\": \"blobs\"", "\"name\": \"witnesses\"", "bucket witnesses is listed twice"),
            ("\"name\": \"poison\"", "\"name\": \"Poison\"", "names are of a-z, 0-9 and -"),
            ("\"name\": \"poison\"", &long, "91 characters, 80 may be"),
            ("\"name\": \"poison\"", "\"name\": \"poison.fifo\"", "and only those, end in .fifo"),
            ("messageGroup\"", "queue\"", "messageGroup and perMessageGroupId go together"),
            ("perMessageGroupId\"", "perQueue\"", "messageGroup and perMessageGroupId go together"),
            (
                "\"retention_s\": 1209600,\n      \"fifo\": { \"deduplication_scope\": \"messageGroup\", \"throughput_limit\": \"perMessageGroupId\" } }",
                "\"retention_s\": 1209600 }",
                "queue finalized.fifo: a FIFO queue, and only one, has",
            ),
            ("\"visibility_s\": 30", "\"visibility_s\": 43201", "visibility is 1 s to 12 h"),
            ("\"visibility_s\": 30", "\"visibility_s\": 0", "visibility is 1 s to 12 h"),
            ("\"retention_s\": 345600", "\"retention_s\": 59", "retention is 60 s to 14 days"),
            ("\"retention_s\": 345600", "\"retention_s\": 1209601", "retention is 60 s to 14 days"),
            ("\"retention_s\": 345600", "\"retention_s\": 18", "would expire while it is in hand"),
            ("\"retention_s\": 345600", "\"retention_s\": 1209600", "must keep messages longer than it does"),
            (
                "\"queue\": \"results-dlq\", \"max",
                "\"queue\": \"submissions-dlq.fifo\", \"max",
                "of a FIFO queue is FIFO",
            ),
            (
                "\"queue\": \"results-dlq\", \"max",
                "\"queue\": \"nothing\", \"max",
                "dead-letter queue nothing is not listed",
            ),
            (
                "\"queue\": \"results-dlq\", \"max",
                "\"queue\": \"ranges-dlq\", \"max",
                "ranges-dlq does not take its letters",
            ),
            ("\"dead_letters_of\": \"results\"", "\"dead_letters_of\": \"ranges\"", "ranges, which sends it none"),
            (
                "\"dead_letters_of\": \"results\"",
                "\"dead_letters_of\": \"results\", \"dead_letter\": { \"queue\": \"poison\", \"max_receives\": 9 }",
                "a dead-letter queue has no dead-letter queue",
            ),
            ("\"max_receives\": 20", "\"max_receives\": 1001", "max_receives is 1 to 1000"),
            ("\"max_receives\": 20", "\"max_receives\": 4", "max_receives must be at least 5"),
            ("\"sort_key\": \"sk\"", "\"sort_key\": \"pk\"", "are two attributes"),
            ("\"sort_key\": \"sk\"", "\"sort_key\": \"\"", "are two attributes"),
            ("\"partition_key\": \"pk\"", "\"partition_key\": \"\"", "are two attributes"),
            ("\"ttl_attribute\": null", "\"ttl_attribute\": \"sk\"", "is not one of its keys"),
            ("\"ttl_attribute\": null", "\"ttl_attribute\": \"pk\"", "is not one of its keys"),
            ("\"ttl_attribute\": null", "\"ttl_attribute\": \"\"", "is not one of its keys"),
            ("\"prefixes\": [\"witnesses/\"]", "\"prefixes\": []", "no key could lie in it"),
            ("\"control/\"", "\"control\"", "a prefix is a word and /"),
            ("\"control/\"", "\"/\"", "a prefix is a word and /"),
            ("\"control/\"", "\"artifacts/control/\"", "prefixes overlap: \"artifacts/\" and \"artifacts/control/\""),
            ("\"control/\"", "\"witnesses/\"", "prefixes overlap"),
            ("\"abort_uploads_after_days\": 1", "\"abort_uploads_after_days\": 0", "at least a day"),
            ("\"queue\": \"witness-events\" }", "\"queue\": \"submissions.fifo\" }", "S3 notifies no FIFO queue"),
            ("\"queue\": \"witness-events\" }", "\"queue\": \"elsewhere\" }", "to elsewhere: there is no such queue"),
            ("\"queue\": \"witness-events\" }", "\"queue\": \"poison\" }", "queue poison: no function reads it"),
            ("\"prefix\": \"witnesses/\"", "\"prefix\": \"proofs/\"", "no key of the bucket begins with \"proofs/\""),
            ("s3:ObjectCreated:*", "ObjectCreated", "events are called like s3:ObjectCreated:*"),
            (
                "\"notifications\": [\n",
                "\"notifications\": [ { \"events\": [\"s3:ObjectCreated:Put\"], \"prefix\": \"witnesses/a\", \"queue\": \"poison\" },\n",
                "notifications overlap",
            ),
            ("\"timeout_s\": 60", "\"timeout_s\": 901", "a time-out is 1 to 900 s"),
            ("\"memory_mib\": 512", "\"memory_mib\": 64", "memory is 128 to 10240 MiB"),
            ("\"every_s\": 60", "\"every_s\": 10", "whole minutes"),
            ("\"every_s\": 60", "\"every_s\": null", "function reaper: it needs sources or a timer"),
            ("\"visibility_s\": 18", "\"visibility_s\": 17", "6 × the function's time-out, 18 s"),
            ("\"timeout_s\": 6,", "\"timeout_s\": 7,", "6 × the function's time-out, 42 s"),
            (
                "\"queue\": \"ranges\", \"batch\": 1",
                "\"queue\": \"rangez\", \"batch\": 1",
                "rangez: there is no such queue",
            ),
            (
                "\"queue\": \"verdicts\", \"batch\": 10",
                "\"queue\": \"verdicts\", \"batch\": 11",
                "a batch is 1 to 10 messages",
            ),
            (
                "\"queue\": \"ranges\", \"batch\": 1",
                "\"queue\": \"poison\", \"batch\": 1",
                "must have a dead-letter queue to go to",
            ),
            ("{ \"queue\": \"timers-dlq\", \"batch\": 10 },", "", "queue timers-dlq: no function reads it"),
            (
                "\"queue\": \"timers\", \"batch\"",
                "\"queue\": \"results\", \"batch\"",
                "results: it is a source more than once",
            ),
        ];
        for (from, to, expected) in cases {
            let mistakes = told(from, to);
            assert!(mistakes.iter().any(|mistake| mistake.contains(expected)), "{expected} is not among {mistakes:#?}");
        }
    }

    #[test]
    fn mistakes_are_all_listed_and_unknown_keys_are_mistakes() {
        let text = BUILT_IN.replacen("\"visibility_s\": 18", "\"visibility_s\": 17", 1).replacen(
            "\"queue\": \"verdicts\", \"batch\": 10",
            "\"queue\": \"verdicts\", \"batch\": 11",
            1,
        );
        let mistakes = Topology::parse(&text).unwrap_err().0;
        assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
        assert!(told("\"versioned\": true", "\"versioned\": true, \"lifetime\": 1")[0].contains("lifetime"));
    }

    #[test]
    fn what_just_holds_is_no_mistake() {
        let longest = format!("\"name\": \"{}\"", "q".repeat(QUEUE_NAME - LONGEST_PREFIX - 1));
        let one_more = longest.replacen('q', "qq", 1);
        let cases: &[(&str, &str)] = &[
            ("\"name\": \"poison\"", &longest),
            ("\"visibility_s\": 30", "\"visibility_s\": 43200"),
            ("\"visibility_s\": 30", "\"visibility_s\": 1"),
            ("\"max_receives\": 20", "\"max_receives\": 5"),
            ("\"max_receives\": 20", "\"max_receives\": 1000"),
            ("\"ttl_attribute\": null", "\"ttl_attribute\": \"gone_at\""),
            ("\"control/\"", "\"c/\""),
        ];
        for (from, to) in cases {
            assert!(BUILT_IN.contains(from), "{from} is not in the topology");
            let parsed = Topology::parse(&BUILT_IN.replacen(from, to, 1));
            assert!(parsed.is_ok(), "{to}: {:#?}", parsed.unwrap_err().0);
        }
        assert!(told(cases[0].0, &one_more)[0].contains("it has 81 characters, 80 may be"));
    }
}
