//! The table and the buckets are those of the topology; nothing in them can be lost or read by others; uploads reach their queue.

use push0_core::topology::BucketSpec;

use super::{Installation, text};
use crate::computed::{ACCOUNT, computed};
use crate::module::Finding;
use crate::plan::Resource;
use crate::policy::{self, Statement};
use crate::value::Value;

const SAID: &str = "infra/topology.json says";

pub(super) fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for spec in &installation.topology.tables {
        let name = installation.named(&spec.name);
        let Some(table) = installation.find("aws_dynamodb_table", "name", &name) else {
            findings.push(installation.remark(format!("there is no table {name}")));
            continue;
        };
        findings.extend(text(table, "billing_mode", "PAY_PER_REQUEST", "push0 wants"));
        findings.extend(text(table, "hash_key", &spec.partition_key, SAID));
        findings.extend(text(table, "range_key", &spec.sort_key, SAID));
        findings.extend(text(table, "point_in_time_recovery.enabled", &spec.point_in_time_recovery.to_string(), SAID));
        if table.argument("deletion_protection_enabled").is_none() {
            findings.push(table.finding("nothing is said of `deletion_protection_enabled`"));
        }
        let ttl = table.argument("ttl").map(Value::elements).unwrap_or_default();
        if spec.ttl_attribute.is_none() && !ttl.is_empty() {
            findings.push(table.finding(format!("rows would go by age, {SAID} that none does")));
        }
    }
    for spec in &installation.topology.buckets {
        let name = installation.named(&spec.name);
        match installation.find("aws_s3_bucket", "bucket", &name) {
            Some(bucket) => findings.extend(of_bucket(installation, bucket, spec)),
            None => findings.push(installation.remark(format!("there is no bucket {name}"))),
        }
    }
    findings
}

fn of_bucket(installation: &Installation<'_>, bucket: &Resource, spec: &BucketSpec) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let name = installation.named(&spec.name);
    let beside = |type_name: &str| installation.find(type_name, "bucket", &name);
    match beside("aws_s3_bucket_public_access_block") {
        None => findings.push(bucket.finding("public access is not blocked")),
        Some(block) => {
            for argument in
                ["block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"]
            {
                findings.extend(text(block, argument, "true", "for no public access it is"));
            }
        }
    }
    if bucket.argument("object_lock_enabled").is_some_and(|argument| *argument != Value::Null) {
        findings
            .push(bucket.finding("`object_lock_enabled`: whoever changes the lock loses the bucket with all in it"));
    }
    // A lock wants versions.
    let wants_versions = spec.versioned || beside("aws_s3_bucket_object_lock_configuration").is_some();
    let versioning =
        beside("aws_s3_bucket_versioning").and_then(|versioning| versioning.text("versioning_configuration.status"));
    if (versioning.as_deref() == Some("Enabled")) != wants_versions {
        findings.push(bucket.finding(format!("versioning is {versioning:?}, {SAID} versioned: {}", spec.versioned)));
    }
    let configuration = beside("aws_s3_bucket_lifecycle_configuration");
    findings.extend(lifecycle(bucket, spec, wants_versions, configuration));
    let statements = beside("aws_s3_bucket_policy").and_then(|policy| policy.text("policy"));
    let statements = statements.map(|text| policy::parse(&text)).unwrap_or(Ok(Vec::new()));
    match statements {
        Err(why) => findings.push(bucket.finding(why)),
        Ok(statements) => {
            let without_tls = |statement: &Statement| {
                !statement.allow
                    && statement.conditions.iter().any(|(_, key, values)| {
                        key == "aws:SecureTransport" && values.iter().any(|value| value == "false")
                    })
            };
            if !statements.iter().any(without_tls) {
                findings.push(bucket.finding("its policy does not refuse what comes without TLS"));
            }
            for prefix in spec.prefixes.iter().filter(|prefix| matches!(prefix.as_str(), "artifacts/" | "proofs/")) {
                if !refuses_overwriting(&statements, bucket, prefix) {
                    findings.push(bucket.finding(format!("its policy lets {prefix} be overwritten")));
                }
            }
        }
    }
    findings.extend(notifications(installation, bucket, spec, beside("aws_s3_bucket_notification")));
    findings
}

/// A denial of `PutObject` to whoever does not ask for the object to be new. Parts of an upload cannot ask: only what creates an object is
/// denied.
fn refuses_overwriting(statements: &[Statement], bucket: &Resource, prefix: &str) -> bool {
    let object = format!("{}/{prefix}x", computed(bucket, "arn").unwrap_or_default());
    statements.iter().any(|statement| {
        !statement.allow
            && statement.actions.patterns.iter().any(|action| policy::matches(action, "s3:PutObject"))
            && statement.resources.patterns.iter().any(|resource| policy::matches(resource, &object))
            && statement.conditions.iter().any(|(operator, key, values)| {
                operator == "Null" && key == "s3:if-none-match" && values.iter().any(|value| value == "true")
            })
            && statement.conditions.iter().any(|(operator, key, values)| {
                operator == "Bool" && key == "s3:ObjectCreationOperation" && values.iter().any(|value| value == "true")
            })
    })
}

/// Only aborted uploads and old versions go by age.
fn lifecycle(
    bucket: &Resource,
    spec: &BucketSpec,
    has_versions: bool,
    configuration: Option<&Resource>,
) -> Vec<Finding> {
    let Some(configuration) = configuration else {
        return vec![bucket.finding("uploads that were never completed stay for ever")];
    };
    let mut findings = Vec::new();
    let rules = configuration.argument("rule").map(Value::elements).unwrap_or_default();
    let days =
        rules.iter().filter_map(|rule| rule.at("abort_incomplete_multipart_upload.days_after_initiation")?.as_number());
    if !days.into_iter().any(|days| days == f64::from(spec.abort_uploads_after_days)) {
        let days = spec.abort_uploads_after_days;
        findings.push(configuration.finding(format!("uploads that were never completed go after {days} days, {SAID}")));
    }
    if has_versions && !rules.iter().any(|rule| rule.at("noncurrent_version_expiration.noncurrent_days").is_some()) {
        findings.push(configuration.finding("versions of what was deleted or overwritten stay for ever"));
    }
    for rule in rules {
        let expires = rule.at("expiration").map(Value::elements).unwrap_or_default();
        if expires.iter().any(|expiration| expiration.at("days").is_some() || expiration.at("date").is_some()) {
            findings.push(configuration.finding("objects go by age: a block may need them however old they are"));
        }
    }
    findings
}

fn notifications(
    installation: &Installation<'_>,
    bucket: &Resource,
    spec: &BucketSpec,
    resource: Option<&Resource>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in &spec.notifications {
        let Some(queue) = installation.queue(&wanted.queue) else { continue };
        let arn = computed(queue, "arn");
        let written = resource.and_then(|resource| resource.argument("queue")).map(Value::elements).unwrap_or_default();
        let is_it = |block: &&Value| {
            let events = block.at("events").map(Value::elements).unwrap_or_default();
            block.at("queue_arn").and_then(Value::text) == arn
                && wanted.events.iter().all(|event| events.contains(&Value::string(event.as_str())))
                && block.at("filter_prefix").and_then(Value::text).as_deref() == Some(&wanted.prefix)
        };
        if !written.iter().any(|block| is_it(&block)) {
            findings.push(bucket.finding(format!("{SAID} that {} goes to {}", wanted.prefix, wanted.queue)));
        }
        findings.extend(delivery(installation, bucket, queue));
    }
    findings
}

/// S3 may send to the queue: this bucket, of this account. A bucket's name can be taken by others once it is free.
fn delivery(installation: &Installation<'_>, bucket: &Resource, queue: &Resource) -> Vec<Finding> {
    let url = computed(queue, "url").unwrap_or_default();
    let policy = installation.find("aws_sqs_queue_policy", "queue_url", &url).and_then(|policy| policy.text("policy"));
    let Some(policy) = queue.text("policy").or(policy) else {
        return vec![queue.finding("it has no policy: S3 cannot send to it")];
    };
    let statements = match policy::parse(&policy) {
        Ok(statements) => statements,
        Err(why) => return vec![queue.finding(why)],
    };
    let from_s3 = |statement: &&Statement| {
        let service = statement.principals.as_ref().map(ToString::to_string).unwrap_or_default();
        statement.allow && service.contains("s3.amazonaws.com")
    };
    let Some(statement) = statements.iter().find(from_s3) else {
        return vec![queue.finding("its policy does not let S3 send to it")];
    };
    let mut findings = Vec::new();
    let arn = computed(bucket, "arn").unwrap_or_default();
    for (key, wanted) in [("aws:SourceArn", arn.as_str()), ("aws:SourceAccount", ACCOUNT)] {
        let is_it = |(_, k, values): &&(String, String, Vec<String>)| {
            k.eq_ignore_ascii_case(key) && values == &[wanted.to_owned()]
        };
        if !statement.conditions.iter().any(|condition| is_it(&condition)) {
            findings.push(queue.finding(format!("its policy lets S3 send for others: no condition {key} = {wanted}")));
        }
    }
    findings
}
