//! Queues, with where dead letters go and who may send.
//!
//! All of them are created before any says something about another: a dead-letter queue names its source, and the source names it.
//! FIFO-ness cannot differ: SQS lets a queue have a name in `.fifo` only if it is one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use push0_core::Pool;
use push0_core::topology::{QueueSpec, Topology};
use serde_json::{Value, json};

use super::place::Place;
use super::site::{Site, code, trouble};
use crate::error::Trouble;

/// A queue that is there.
struct Found {
    url: String,
    attributes: BTreeMap<String, String>,
    is_new: bool,
}

pub(super) async fn ensure(site: &mut Site, topology: &Topology, pools: &BTreeSet<Pool>) -> Result<(), Trouble> {
    let sqs = site.connection.sqs();
    let specs = topology.expanded_queues(pools);
    let mut found = Vec::new();
    for spec in specs {
        let name = site.place.name(&spec.name);
        let mut queue = look(&sqs, &name).await?;
        if queue.is_none() {
            if site.ledger.mends() {
                queue = Some(create(&sqs, &name, &spec).await?);
            }
            site.ledger.created(resource(&name));
        }
        let Some(queue) = queue else { continue };
        if let Some(arn) = queue.attributes.get(Attribute::QueueArn.as_str()) {
            site.place.learn(arn);
        }
        found.push((spec, queue));
    }
    for (spec, queue) in &found {
        mend(site, &sqs, topology, spec, queue).await?;
    }
    Ok(())
}

fn resource(name: &str) -> String {
    format!("queue {name}")
}

async fn look(sqs: &Client, name: &str) -> Result<Option<Found>, Trouble> {
    let url = match sqs.get_queue_url().queue_name(name).send().await {
        Ok(answer) => answer.queue_url.unwrap_or_default(),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => return Ok(None),
        Err(error) => return Err(trouble(resource(name), "GetQueueUrl", &error)),
    };
    let attributes = attributes(sqs, name, &url).await?;
    Ok(Some(Found { url, attributes, is_new: false }))
}

async fn attributes(sqs: &Client, name: &str, url: &str) -> Result<BTreeMap<String, String>, Trouble> {
    let asked = sqs.get_queue_attributes().queue_url(url).attribute_names(Attribute::All).send().await;
    let answer = asked.map_err(|error| trouble(resource(name), "GetQueueAttributes", &error))?;
    let attributes = answer.attributes.unwrap_or_default();
    Ok(attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect())
}

async fn create(sqs: &Client, name: &str, spec: &QueueSpec) -> Result<Found, Trouble> {
    let mut wanted: HashMap<Attribute, String> = plain(spec).into_iter().collect();
    if spec.fifo.is_some() {
        wanted.insert(Attribute::FifoQueue, "true".to_owned());
    }
    let created = sqs.create_queue().queue_name(name).set_attributes(Some(wanted)).send().await.map_err(|error| {
        let trouble = trouble(resource(name), "CreateQueue", &error);
        match code(&error) {
            Some(code) if code.ends_with("QueueDeletedRecently") => {
                trouble.next("SQS wants a minute between deleting a queue and creating it again: run it again then")
            }
            _ => trouble,
        }
    })?;
    let url = created.queue_url.unwrap_or_default();
    let attributes = attributes(sqs, name, &url).await?;
    Ok(Found { url, attributes, is_new: true })
}

/// Tells and mends every attribute that differs.
async fn mend(
    site: &mut Site,
    sqs: &Client,
    topology: &Topology,
    spec: &QueueSpec,
    queue: &Found,
) -> Result<(), Trouble> {
    let name = site.place.name(&spec.name);
    let is = |attribute: &Attribute| queue.attributes.get(attribute.as_str()).map(String::as_str);
    let mut wanted = plain(spec);
    wanted.push((Attribute::RedriveAllowPolicy, allow_policy(&site.place, spec)));
    wanted.extend(redrive_policy(&site.place, spec).map(|policy| (Attribute::RedrivePolicy, policy)));
    wanted.extend(access_policy(&site.place, topology, spec, is(&Attribute::Policy)));
    wanted.retain(|(attribute, should)| !same(is(attribute), should));
    if wanted.is_empty() {
        return Ok(());
    }
    if site.ledger.mends() {
        let changes = wanted.iter().cloned().collect();
        let set = sqs.set_queue_attributes().queue_url(&queue.url).set_attributes(Some(changes)).send().await;
        set.map_err(|error| trouble(resource(&name), "SetQueueAttributes", &error))?;
    }
    if !queue.is_new {
        for (attribute, should) in &wanted {
            let is = is(attribute).map(str::to_owned);
            site.ledger.changed(resource(&name), attribute.as_str(), is, should);
        }
    }
    Ok(())
}

/// What a queue says about itself alone.
fn plain(spec: &QueueSpec) -> Vec<(Attribute, String)> {
    let mut attributes = vec![
        (Attribute::VisibilityTimeout, spec.visibility_s.to_string()),
        (Attribute::MessageRetentionPeriod, spec.retention_s.to_string()),
    ];
    if let Some(fifo) = &spec.fifo {
        attributes.push((Attribute::DeduplicationScope, fifo.deduplication_scope.clone()));
        attributes.push((Attribute::FifoThroughputLimit, fifo.throughput_limit.clone()));
    }
    attributes
}

fn redrive_policy(place: &Place, spec: &QueueSpec) -> Option<String> {
    let letters = spec.dead_letter.as_ref()?;
    let arn = place.queue_arn(&letters.queue);
    Some(json!({ "deadLetterTargetArn": arn, "maxReceiveCount": letters.max_receives }).to_string())
}

fn allow_policy(place: &Place, spec: &QueueSpec) -> String {
    match &spec.dead_letters_of {
        Some(source) => json!({ "redrivePermission": "byQueue", "sourceQueueArns": [place.queue_arn(source)] }),
        None => json!({ "redrivePermission": "denyAll" }),
    }
    .to_string()
}

/// S3 may send what it was told to send here. `is` is the policy that is there: what others may do by it stays.
fn access_policy(
    place: &Place,
    topology: &Topology,
    spec: &QueueSpec,
    is: Option<&str>,
) -> Option<(Attribute, String)> {
    let told = topology.buckets.iter().filter(|bucket| bucket.notifications.iter().any(|told| told.queue == spec.name));
    let statements: Vec<Value> = told
        .map(|bucket| {
            json!({
                "Sid": format!("push0-{}", bucket.name),
                "Effect": "Allow",
                "Principal": { "Service": "s3.amazonaws.com" },
                "Action": "sqs:SendMessage",
                "Resource": place.queue_arn(&spec.name),
                "Condition": {
                    "ArnEquals": { "aws:SourceArn": place.bucket_arn(&bucket.name) },
                    // A bucket's name can become somebody else's.
                    "StringEquals": { "aws:SourceAccount": place.account_or_unknown() },
                },
            })
        })
        .collect();
    if statements.is_empty() {
        return None;
    }
    let mut policy = is.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_else(|| json!({}));
    let is_ours = |statement: &Value| statements.iter().any(|ours| ours["Sid"] == statement["Sid"]);
    let others = match policy["Statement"].take() {
        Value::Array(statements) => statements.into_iter().filter(|statement| !is_ours(statement)).collect(),
        _ => Vec::new(),
    };
    policy["Version"] = json!("2012-10-17");
    policy["Statement"] = others.into_iter().chain(statements).collect();
    Some((Attribute::Policy, policy.to_string()))
}

/// Policies are documents, and numbers in them may be written as text.
fn same(is: Option<&str>, should: &str) -> bool {
    let Some(is) = is else { return false };
    let document = |text: &str| serde_json::from_str(text).ok().filter(Value::is_object).map(plain_text);
    match (document(is), document(should)) {
        (Some(is), Some(should)) => is == should,
        _ => is == should,
    }
}

fn plain_text(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(plain_text).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, plain_text(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use push0_runtime::settings::AwsSettings;

    fn place() -> Place {
        let mut place = Place::new(AwsSettings::default(), "us-east-1");
        place.learn("arn:aws:sqs:us-east-1:123456789012:push0-x");
        place
    }

    fn spec(name: &str) -> QueueSpec {
        Topology::built_in().queues.into_iter().find(|queue| queue.name == name).unwrap()
    }

    #[test]
    fn a_queue_and_its_dead_letter_queue_name_each_other_and_others_take_none() {
        let redrive: Value = serde_json::from_str(&redrive_policy(&place(), &spec("results")).unwrap()).unwrap();
        assert_eq!(redrive["deadLetterTargetArn"], "arn:aws:sqs:us-east-1:123456789012:push0-results-dlq");
        assert_eq!(redrive["maxReceiveCount"], 20);
        let allow: Value = serde_json::from_str(&allow_policy(&place(), &spec("results-dlq"))).unwrap();
        assert_eq!(allow["sourceQueueArns"], json!(["arn:aws:sqs:us-east-1:123456789012:push0-results"]));
        assert_eq!(allow_policy(&place(), &spec("results")), r#"{"redrivePermission":"denyAll"}"#);
        assert_eq!(redrive_policy(&place(), &spec("poison")), None);
    }

    #[test]
    fn only_s3_of_this_account_and_bucket_may_send_and_what_others_may_do_stays() {
        let topology = Topology::built_in();
        let there = json!({ "Version": "2012-10-17", "Statement": [
            { "Sid": "push0-witnesses", "Effect": "Allow", "Principal": "*", "Action": "sqs:*" },
            { "Sid": "audit", "Effect": "Allow", "Principal": { "AWS": "1" }, "Action": "sqs:GetQueueAttributes" },
        ] })
        .to_string();
        let (_, policy) = access_policy(&place(), &topology, &spec("witness-events"), Some(&there)).unwrap();
        let policy: Value = serde_json::from_str(&policy).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 2, "{policy}");
        assert_eq!(statements[0]["Sid"], "audit");
        let condition = &statements[1]["Condition"];
        assert_eq!(condition["ArnEquals"]["aws:SourceArn"], "arn:aws:s3:::push0-witnesses");
        assert_eq!(condition["StringEquals"]["aws:SourceAccount"], "123456789012");
        assert_eq!(access_policy(&place(), &topology, &spec("results"), Some(&there)), None);
    }

    #[test]
    fn policies_are_compared_as_documents_and_numbers_as_text() {
        assert!(same(Some(r#"{"b":"20","a":1}"#), r#"{"a":1,"b":20}"#));
        assert!(!same(Some(r#"{"a":1}"#), r#"{"a":2}"#));
        assert!(same(Some("30"), "30") && !same(Some("30"), "36") && !same(None, "36"));
    }
}
