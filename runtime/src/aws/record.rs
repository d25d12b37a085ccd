//! Which calls are made of AWS, and as whom: a line of JSON each at the end of a file. For tests, which hold what a role may do
//! (`infra/terraform`) to what was done. Where nobody asks for it there is no interceptor.
//!
//! A line is one write, so that lines are whole whatever becomes of the process. A process says the same once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use serde::Serialize;
use serde_json::Value;

/// The variable that names the file.
pub const FILE: &str = "PUSH0_RECORD_CALLS";

/// A call, as its line says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Line {
    /// Whose rights it takes: a function's name, or `worker/POOL`.
    role: String,
    /// As the SDK calls it: `SQS`, `DynamoDB`, `S3`, `Auto Scaling`.
    service: String,
    operation: String,
    /// What else decides which right it takes: an item's kind in a transaction, `version` where a version of an object is named.
    part: Option<String>,
    /// The queue, the table, the group, or `BUCKET/KEY`: without the prefix of the installation. Empty where the request names none of them.
    on: String,
}

/// Records what connections call as one role. Clones write to the same file.
#[derive(Debug, Clone)]
pub struct Recorder {
    role: Arc<str>,
    /// Of all names, with its hyphen.
    prefix: Arc<str>,
    file: Arc<File>,
    said: Arc<Mutex<BTreeSet<Line>>>,
}

impl Recorder {
    /// At the end of this file, which is made where it is not there.
    pub fn new(file: &Path, role: &str, prefix: &str) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(file)?;
        Ok(Self { role: role.into(), prefix: format!("{prefix}-").into(), file: Arc::new(file), said: Arc::default() })
    }

    /// For [`super::Connection::intercepted`].
    pub fn interceptor(&self) -> SharedInterceptor {
        SharedInterceptor::new(self.clone())
    }

    fn say(&self, line: Line) -> Result<(), BoxError> {
        if !self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(line.clone()) {
            return Ok(());
        }
        let text = format!("{}\n", serde_json::to_string(&line)?);
        // A call that cannot be recorded fails: nothing may be missing.
        Ok((&*self.file).write_all(text.as_bytes())?)
    }
}

#[dyn_dispatch_hint]
impl Intercept for Recorder {
    fn name(&self) -> &'static str {
        "push0 recorder"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(metadata) = config.load::<Metadata>() else { return Ok(()) };
        let request = context.request();
        for (part, on) in targets(metadata.service(), request.uri(), request.body().bytes().unwrap_or_default()) {
            self.say(Line {
                role: self.role.to_string(),
                service: metadata.service().to_owned(),
                operation: metadata.name().to_owned(),
                part: part.map(str::to_owned),
                on: on.strip_prefix(&*self.prefix).unwrap_or(&on).to_owned(),
            })?;
        }
        Ok(())
    }
}

const ITEMS: [&str; 4] = ["Put", "Update", "Delete", "ConditionCheck"];

/// What a request is about, and the part it is of.
fn targets(service: &str, uri: &str, body: &[u8]) -> Vec<(Option<&'static str>, String)> {
    if service == "S3" {
        return vec![object(uri)];
    }
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        let form = String::from_utf8_lossy(body);
        let group = form.split('&').find_map(|field| field.strip_prefix("AutoScalingGroupName="));
        return vec![(None, group.unwrap_or_default().to_owned())];
    };
    if let Some(items) = request["TransactItems"].as_array() {
        let item = |item: &Value| {
            let kind = ITEMS.into_iter().find(|kind| item.get(kind).is_some());
            (kind, kind.and_then(|kind| item[kind]["TableName"].as_str()).unwrap_or_default().to_owned())
        };
        return items.iter().map(item).collect();
    }
    let url = request["QueueUrl"].as_str().and_then(|url| url.rsplit('/').next());
    let named = ["TableName", "QueueName"].into_iter().find_map(|field| request[field].as_str());
    vec![(None, url.or(named).unwrap_or_default().to_owned())]
}

/// Of an address with the bucket in its path, as emulators have it.
fn object(uri: &str) -> (Option<&'static str>, String) {
    let (address, query) = uri.split_once('?').unwrap_or((uri, ""));
    let path = address.split_once("://").map_or(address, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let has_version = query.split('&').any(|field| field.starts_with("versionId="));
    (has_version.then_some("version"), path.trim_start_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_is_about() {
        let of = |service: &str, uri: &str, body: &str| -> Vec<(Option<&'static str>, String)> {
            targets(service, uri, body.as_bytes())
        };
        for (service, uri, body, part, on) in [
            ("SQS", "http://h/", r#"{"QueueUrl": "http://h/1/p-timers", "Entries": []}"#, None, "p-timers"),
            ("SQS", "http://h/", r#"{"QueueName": "p-results"}"#, None, "p-results"),
            ("DynamoDB", "http://h/", r#"{"TableName": "p-state", "Key": {}}"#, None, "p-state"),
            ("S3", "http://h/p-blobs/proofs/demo/1?x-id=GetObject", "", None, "p-blobs/proofs/demo/1"),
            ("S3", "http://h:1/p-witnesses/w?versionId=7", r#"{"TableName": "x"}"#, Some("version"), "p-witnesses/w"),
            ("S3", "http://h/p-blobs?list-type=2&prefix=control", "", None, "p-blobs"),
            ("Auto Scaling", "http://h/", "Action=A&AutoScalingGroupName=p-gpu&Version=1", None, "p-gpu"),
            ("SQS", "http://h/", "{}", None, ""),
        ] {
            assert_eq!(of(service, uri, body), [(part, on.to_owned())], "{service} {uri} {body}");
        }
        let items =
            r#"{"TransactItems": [{"Put": {"TableName": "a"}}, {"ConditionCheck": {"TableName": "b"}}, {"New": {}}]}"#;
        let wanted = [(Some("Put"), "a".to_owned()), (Some("ConditionCheck"), "b".to_owned()), (None, String::new())];
        assert_eq!(of("DynamoDB", "http://h/", items), wanted);
    }
}
