//! What each role called of AWS in the tests on an emulator: `recorded.toml`, and how a recording (`push0_runtime::aws::record`) becomes that.
//!
//! What an operation needs is in [`OPERATIONS`]; where it was is said in the words of `iam.toml`, so that it holds for every installation.
//! Pools are told apart as policies tell them apart: `trusted`, `{prover}` (any other) and, of a worker, `{pool}` (its own) and `{other}`.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::id::{Class, Pool};
use serde::{Deserialize, Serialize};

use crate::tree::Tree;

const FILE: &str = "infra/check/recorded.toml";

const HEADER: &str = "\
# What each role called of AWS in the tests on an emulator: actions of IAM, and where, in the words of iam.toml.
# scripts/record-calls writes it.

";

#[derive(Debug, Clone, Copy)]
enum On {
    Queue,
    Table,
    Object,
    Bucket,
    Group,
}

/// Operations of the SDKs, the part of a request where it matters, and the action of IAM that each takes.
///
/// From the Service Authorization Reference (<https://docs.aws.amazon.com/service-authorization/latest/reference/>: `list_amazonsqs.html`,
/// `list_amazondynamodb.html`, `list_amazons3.html`, `list_amazonec2autoscaling.html`) and, where operation and action have different names:
/// of a batch each entry is looked at as one call (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html>),
/// of a transaction each item (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html>), and of an object
/// its version where one is named, and uploads in parts as the object
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html>).
const OPERATIONS: &[(&str, &str, Option<&str>, &str, On)] = &[
    ("SQS", "ChangeMessageVisibility", None, "sqs:ChangeMessageVisibility", On::Queue),
    ("SQS", "ChangeMessageVisibilityBatch", None, "sqs:ChangeMessageVisibility", On::Queue),
    ("SQS", "DeleteMessage", None, "sqs:DeleteMessage", On::Queue),
    ("SQS", "DeleteMessageBatch", None, "sqs:DeleteMessage", On::Queue),
    ("SQS", "GetQueueAttributes", None, "sqs:GetQueueAttributes", On::Queue),
    ("SQS", "GetQueueUrl", None, "sqs:GetQueueUrl", On::Queue),
    ("SQS", "ReceiveMessage", None, "sqs:ReceiveMessage", On::Queue),
    ("SQS", "SendMessage", None, "sqs:SendMessage", On::Queue),
    ("SQS", "SendMessageBatch", None, "sqs:SendMessage", On::Queue),
    ("DynamoDB", "DeleteItem", None, "dynamodb:DeleteItem", On::Table),
    ("DynamoDB", "GetItem", None, "dynamodb:GetItem", On::Table),
    ("DynamoDB", "PutItem", None, "dynamodb:PutItem", On::Table),
    ("DynamoDB", "Query", None, "dynamodb:Query", On::Table),
    ("DynamoDB", "UpdateItem", None, "dynamodb:UpdateItem", On::Table),
    ("DynamoDB", "TransactWriteItems", Some("ConditionCheck"), "dynamodb:ConditionCheckItem", On::Table),
    ("DynamoDB", "TransactWriteItems", Some("Delete"), "dynamodb:DeleteItem", On::Table),
    ("DynamoDB", "TransactWriteItems", Some("Put"), "dynamodb:PutItem", On::Table),
    ("DynamoDB", "TransactWriteItems", Some("Update"), "dynamodb:UpdateItem", On::Table),
    ("S3", "AbortMultipartUpload", None, "s3:AbortMultipartUpload", On::Object),
    ("S3", "CompleteMultipartUpload", None, "s3:PutObject", On::Object),
    ("S3", "CreateMultipartUpload", None, "s3:PutObject", On::Object),
    ("S3", "DeleteObject", None, "s3:DeleteObject", On::Object),
    ("S3", "DeleteObject", Some("version"), "s3:DeleteObjectVersion", On::Object),
    ("S3", "GetObject", None, "s3:GetObject", On::Object),
    ("S3", "GetObject", Some("version"), "s3:GetObjectVersion", On::Object),
    ("S3", "HeadObject", None, "s3:GetObject", On::Object),
    ("S3", "HeadObject", Some("version"), "s3:GetObjectVersion", On::Object),
    ("S3", "ListObjectVersions", None, "s3:ListBucketVersions", On::Bucket),
    ("S3", "ListObjectsV2", None, "s3:ListBucket", On::Bucket),
    ("S3", "PutObject", None, "s3:PutObject", On::Object),
    ("S3", "UploadPart", None, "s3:PutObject", On::Object),
    ("Auto Scaling", "CompleteLifecycleAction", None, "autoscaling:CompleteLifecycleAction", On::Group),
    ("Auto Scaling", "RecordLifecycleActionHeartbeat", None, "autoscaling:RecordLifecycleActionHeartbeat", On::Group),
];

/// A line of a recording.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    role: String,
    service: String,
    operation: String,
    part: Option<String>,
    on: String,
}

/// Actions and places by role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recording(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Recording {
    /// Of a recording's lines; or what in them is not understood.
    pub fn of_lines(text: &str) -> Result<Self, Vec<String>> {
        let (mut recording, mut wrong) = (Self::default(), BTreeSet::new());
        for line in text.lines() {
            match serde_json::from_str(line).map_err(|error| format!("{line}: {error}")).and_then(|line| used(&line)) {
                Ok((role, action, on)) => {
                    recording.0.entry(role).or_default().entry(action.to_owned()).or_default().insert(on);
                }
                Err(why) => _ = wrong.insert(why),
            }
        }
        if wrong.is_empty() { Ok(recording) } else { Err(wrong.into_iter().collect()) }
    }

    /// `recorded.toml`.
    pub(crate) fn committed(tree: &Tree) -> Result<Self, String> {
        let text = tree.read(FILE).unwrap_or_default();
        toml::from_str(text).map_err(|error| format!("{FILE}: {error}"))
    }

    /// As `recorded.toml` has it.
    pub fn to_toml(&self) -> String {
        let mut text = HEADER.to_owned();
        for (position, (role, actions)) in self.0.iter().enumerate() {
            text += &format!("{}[{role}]\n", if position == 0 { "" } else { "\n" });
            for (action, places) in actions {
                let places: Vec<String> = places.iter().map(|place| format!("\"{place}\"")).collect();
                text += &format!("\"{action}\" = [{}]\n", places.join(", "));
            }
        }
        text
    }

    /// What a role called, and where.
    pub(crate) fn of_role(&self, role: &str) -> impl Iterator<Item = (&str, &str)> {
        let actions = self.0.get(role).into_iter().flatten();
        actions.flat_map(|(action, places)| places.iter().map(move |place| (action.as_str(), place.as_str())))
    }

    pub(crate) fn roles(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The role, the action and the place.
fn used(line: &Line) -> Result<(String, &'static str, String), String> {
    let Line { role, service, operation, part, on } = line;
    let is_it = |known: &&(&str, &str, Option<&str>, &str, On)| {
        (known.0, known.1, known.2) == (service.as_str(), operation.as_str(), part.as_deref())
    };
    let Some((.., action, kind)) = OPERATIONS.iter().find(is_it) else {
        let part = part.as_ref().map(|part| format!(" ({part})")).unwrap_or_default();
        return Err(format!(
            "{service} {operation}{part} is on no list: add it, with the action of IAM that it takes, to OPERATIONS in infra/check/src/recorded.rs"
        ));
    };
    if on.is_empty() {
        return Err(format!("{service} {operation} without a name of what it is about"));
    }
    let (role, own) = match role.strip_prefix("worker/") {
        Some("trusted") => ("trusted", Some("trusted")),
        Some(pool) => ("worker", Some(pool)),
        None => (role.as_str(), None),
    };
    let place = match kind {
        On::Queue => format!("queue {}", queue(on, own)),
        On::Table => format!("table {on}"),
        On::Bucket => format!("bucket {}", on.trim_end_matches('/')),
        On::Object => format!("blobs {}", prefix(on, own)),
        On::Group => "group".to_owned(),
    };
    Ok((role.to_owned(), action, place))
}

/// A queue's name with its pool and its class as placeholders.
fn queue(name: &str, own: Option<&str>) -> String {
    let (live, dead) = name.strip_suffix("-dlq").map_or((name, ""), |live| (live, "-dlq"));
    let of_class = |class: &Class| live.strip_prefix("work-")?.strip_suffix(class.as_str())?.strip_suffix('-');
    match Class::ALL.iter().find_map(of_class) {
        Some(pool) => format!("work-{}-{{class}}{dead}", placeholder(pool, own)),
        None => name.to_owned(),
    }
}

/// The prefix of an object's key, with the pool where a worker's rights depend on it.
fn prefix(object: &str, own: Option<&str>) -> String {
    let mut parts = object.split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    match (first, own, parts.next()) {
        ("artifacts", Some(own), Some(pool)) => format!("artifacts/{}/", placeholder(pool, Some(own))),
        _ => format!("{first}/"),
    }
}

fn placeholder(pool: &str, own: Option<&str>) -> &'static str {
    match own {
        Some(own) if own == pool => "{pool}",
        Some(_) => "{other}",
        None if pool == Pool::trusted().as_str() => "trusted",
        None => "{prover}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_actions_and_places() {
        let lines = r#"{"role":"collector","service":"SQS","operation":"SendMessageBatch","part":null,"on":"work-cpu-realtime"}
{"role":"collector","service":"SQS","operation":"SendMessageBatch","part":null,"on":"work-gpu-large-bulk"}
{"role":"collector","service":"SQS","operation":"SendMessage","part":null,"on":"work-trusted-bulk"}
{"role":"collector","service":"DynamoDB","operation":"TransactWriteItems","part":"Put","on":"state"}
{"role":"worker/cpu","service":"SQS","operation":"DeleteMessage","part":null,"on":"work-cpu-standard"}
{"role":"worker/cpu","service":"SQS","operation":"GetQueueUrl","part":null,"on":"work-gpu-standard-dlq"}
{"role":"worker/cpu","service":"S3","operation":"UploadPart","part":null,"on":"blobs/artifacts/cpu/x"}
{"role":"worker/cpu","service":"S3","operation":"HeadObject","part":null,"on":"blobs/artifacts/trusted/x"}
{"role":"worker/trusted","service":"S3","operation":"GetObject","part":"version","on":"witnesses/witnesses/demo/1"}
{"role":"reaper","service":"S3","operation":"ListObjectsV2","part":null,"on":"blobs/"}
{"role":"worker/trusted","service":"Auto Scaling","operation":"CompleteLifecycleAction","part":null,"on":"trusted"}"#;
        let recording = Recording::of_lines(lines).unwrap();
        let wanted = r#"
[collector]
"dynamodb:PutItem" = ["table state"]
"sqs:SendMessage" = ["queue work-trusted-{class}", "queue work-{prover}-{class}"]

[reaper]
"s3:ListBucket" = ["bucket blobs"]

[trusted]
"autoscaling:CompleteLifecycleAction" = ["group"]
"s3:GetObjectVersion" = ["blobs witnesses/"]

[worker]
"s3:GetObject" = ["blobs artifacts/{other}/"]
"s3:PutObject" = ["blobs artifacts/{pool}/"]
"sqs:DeleteMessage" = ["queue work-{pool}-{class}"]
"sqs:GetQueueUrl" = ["queue work-{other}-{class}-dlq"]
"#;
        let text = recording.to_toml();
        assert_eq!(text.strip_prefix(HEADER), wanted.strip_prefix('\n'));
        assert_eq!(toml::from_str::<Recording>(&text).unwrap(), recording);
    }

    #[test]
    fn what_nobody_has_looked_up_is_an_error() {
        for (line, wanted) in [
            (
                r#"{"role":"reaper","service":"SQS","operation":"PurgeQueue","part":null,"on":"results"}"#,
                "SQS PurgeQueue is on no list",
            ),
            (
                r#"{"role":"reaper","service":"DynamoDB","operation":"TransactWriteItems","part":null,"on":"state"}"#,
                "OPERATIONS in infra/check/src/recorded.rs",
            ),
            (r#"{"role":"reaper","service":"SQS","operation":"SendMessage","part":null,"on":""}"#, "without a name"),
            ("half a li", "half a li"),
        ] {
            let wrong = Recording::of_lines(line).unwrap_err();
            assert!(wrong.len() == 1 && wrong[0].contains(wanted), "{wrong:?}");
        }
    }
}
