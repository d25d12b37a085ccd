//! Buckets: closed to the public, with the versions, the clean-up and the events that the topology says.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint, BucketVersioningStatus,
    CreateBucketConfiguration, Event, ExpirationStatus, FilterRule, FilterRuleName, LifecycleRule, LifecycleRuleFilter,
    NotificationConfiguration, NotificationConfigurationFilter, PublicAccessBlockConfiguration, QueueConfiguration,
    S3KeyFilter, VersioningConfiguration,
};
use push0_core::ErrorCode;
use push0_core::topology::{BucketSpec, NotificationSpec};

use super::place::Place;
use super::site::{Site, code, malformed, trouble};
use crate::error::Trouble;

/// The one lifecycle rule.
const RULE: &str = "push0-abort-uploads";
/// What `CreateBucket` must not name.
const HOME: &str = "us-east-1";

/// A bucket being looked after.
struct Bucket<'a> {
    client: Client,
    name: String,
    at: String,
    spec: &'a BucketSpec,
    /// Created just now: nothing about it was different before.
    is_new: bool,
}

pub(super) async fn ensure(site: &mut Site, spec: &BucketSpec) -> Result<(), Trouble> {
    let name = site.place.name(&spec.name);
    let at = format!("bucket {name}");
    let mut bucket = Bucket { client: site.connection.s3(), name, at, spec, is_new: false };
    if !bucket.is_there().await? {
        bucket.is_new = true;
        if site.ledger.mends() {
            bucket.create(&site.place).await?;
        }
        site.ledger.created(&bucket.at);
        if !site.ledger.mends() {
            return Ok(());
        }
    }
    bucket.mend_access(site).await?;
    bucket.mend_versions(site).await?;
    bucket.mend_lifecycle(site).await?;
    bucket.mend_notifications(site).await
}

impl Bucket<'_> {
    async fn is_there(&self) -> Result<bool, Trouble> {
        match self.client.head_bucket().bucket(&self.name).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(false),
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 403) => {
                Err(self.taken())
            }
            Err(error) => Err(trouble(&self.at, "HeadBucket", &error)),
        }
    }

    fn taken(&self) -> Trouble {
        Trouble::failed(format!("{} belongs to another account, or these credentials may not look at it", self.at))
            .next(
                "bucket names are shared by all accounts: choose another aws.prefix, or ask whose the credentials are \
                 (`aws sts get-caller-identity`)",
            )
            .coded(ErrorCode::DeploymentDiffers)
    }

    async fn create(&self, place: &Place) -> Result<(), Trouble> {
        let mut call = self.client.create_bucket().bucket(&self.name);
        if place.region() != HOME {
            let region = BucketLocationConstraint::from(place.region());
            call = call
                .create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(region).build());
        }
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_bucket_already_exists()) => {
                Err(self.taken())
            }
            Err(error) => Err(trouble(&self.at, "CreateBucket", &error)),
        }
    }

    fn changed(&self, site: &mut Site, attribute: &str, is: Option<String>, should: impl Into<String>) {
        if !self.is_new {
            site.ledger.changed(&self.at, attribute, is, should);
        }
    }

    async fn mend_access(&self, site: &mut Site) -> Result<(), Trouble> {
        let asked = self.client.get_public_access_block().bucket(&self.name).send().await;
        let is = match asked {
            Ok(answer) => answer.public_access_block_configuration,
            Err(error) if code(&error) == Some("NoSuchPublicAccessBlockConfiguration") => None,
            Err(error) => return site.tolerate(&self.at, "GetPublicAccessBlock", &error),
        };
        let closed = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        if is.as_ref() == Some(&closed) {
            return Ok(());
        }
        if site.ledger.mends() {
            let call = self.client.put_public_access_block().bucket(&self.name);
            if let Err(error) = call.public_access_block_configuration(closed).send().await {
                return site.tolerate(&self.at, "PutPublicAccessBlock", &error);
            }
        }
        let is = is.map(|_| "partly blocked".to_owned());
        self.changed(site, "public access", is, "blocked");
        Ok(())
    }

    async fn mend_versions(&self, site: &mut Site) -> Result<(), Trouble> {
        let asked = self.client.get_bucket_versioning().bucket(&self.name).send().await;
        let is = asked.map_err(|error| trouble(&self.at, "GetBucketVersioning", &error))?.status;
        if (is == Some(BucketVersioningStatus::Enabled)) == self.spec.versioned {
            return Ok(());
        }
        // A bucket that has had versions keeps them: they can only be suspended.
        let should =
            if self.spec.versioned { BucketVersioningStatus::Enabled } else { BucketVersioningStatus::Suspended };
        if site.ledger.mends() {
            let versions = VersioningConfiguration::builder().status(should.clone()).build();
            let put = self.client.put_bucket_versioning().bucket(&self.name).versioning_configuration(versions).send();
            put.await.map_err(|error| trouble(&self.at, "PutBucketVersioning", &error))?;
        }
        self.changed(site, "versions", is.map(|is| is.as_str().to_owned()), should.as_str());
        Ok(())
    }

    /// The whole configuration is this one rule: one that deletes blobs by age would break blocks.
    async fn mend_lifecycle(&self, site: &mut Site) -> Result<(), Trouble> {
        let asked = self.client.get_bucket_lifecycle_configuration().bucket(&self.name).send().await;
        let is = match asked {
            Ok(answer) => answer.rules.unwrap_or_default(),
            Err(error) if code(&error) == Some("NoSuchLifecycleConfiguration") => Vec::new(),
            Err(error) => return Err(trouble(&self.at, "GetBucketLifecycleConfiguration", &error)),
        };
        let (is, should) = (is.iter().map(told_rule).collect::<Vec<_>>().join("; "), told(self.days()));
        if is == should {
            return Ok(());
        }
        if site.ledger.mends() {
            let rule = LifecycleRule::builder()
                .id(RULE)
                .status(ExpirationStatus::Enabled)
                .filter(LifecycleRuleFilter::builder().prefix("").build())
                .abort_incomplete_multipart_upload(
                    AbortIncompleteMultipartUpload::builder().days_after_initiation(self.days()).build(),
                )
                .build()
                .map_err(malformed)?;
            let lifecycle = BucketLifecycleConfiguration::builder().rules(rule).build().map_err(malformed)?;
            let call = self.client.put_bucket_lifecycle_configuration().bucket(&self.name);
            let put = call.lifecycle_configuration(lifecycle).send().await;
            put.map_err(|error| trouble(&self.at, "PutBucketLifecycleConfiguration", &error))?;
        }
        self.changed(site, "lifecycle", Some(is).filter(|is| !is.is_empty()), should);
        Ok(())
    }

    fn days(&self) -> i32 {
        i32::try_from(self.spec.abort_uploads_after_days).unwrap_or(i32::MAX)
    }

    /// Notifications of others stay as they are. What is as it should be is not put again: S3 sends a test event each time.
    async fn mend_notifications(&self, site: &mut Site) -> Result<(), Trouble> {
        let asked = self.client.get_bucket_notification_configuration().bucket(&self.name).send().await;
        let is = asked.map_err(|error| trouble(&self.at, "GetBucketNotificationConfiguration", &error))?;
        let (ours, others): (Vec<_>, Vec<_>) =
            is.queue_configurations.unwrap_or_default().into_iter().partition(is_ours);
        let wanted = self.spec.notifications.iter().map(|told| notification(&site.place, told));
        let wanted: Vec<QueueConfiguration> = wanted.collect::<Result<_, _>>()?;
        let text = |queues: &[QueueConfiguration]| queues.iter().map(told_queue).collect::<Vec<_>>().join("; ");
        let (is_now, should) = (text(&ours), text(&wanted));
        if is_now == should {
            return Ok(());
        }
        if site.ledger.mends() {
            let configuration = NotificationConfiguration::builder()
                .set_topic_configurations(is.topic_configurations)
                .set_queue_configurations(Some(others.into_iter().chain(wanted).collect()))
                .set_lambda_function_configurations(is.lambda_function_configurations)
                .set_event_bridge_configuration(is.event_bridge_configuration)
                .build();
            let call = self.client.put_bucket_notification_configuration().bucket(&self.name);
            let put = call.notification_configuration(configuration).send().await;
            put.map_err(|error| trouble(&self.at, "PutBucketNotificationConfiguration", &error))?;
        }
        let should = if should.is_empty() { "none".to_owned() } else { should };
        self.changed(site, "events", Some(is_now).filter(|is| !is.is_empty()), should);
        Ok(())
    }
}

fn told(days: i32) -> String {
    format!("{RULE}: unfinished uploads are given up after {days} days")
}

/// Our rule in one sentence, and anybody else's as it is.
fn told_rule(rule: &LifecycleRule) -> String {
    let days = rule.abort_incomplete_multipart_upload().and_then(|abort| abort.days_after_initiation());
    let does_nothing_else = rule.expiration().is_none()
        && rule.transitions().is_empty()
        && rule.noncurrent_version_transitions().is_empty()
        && rule.noncurrent_version_expiration().is_none();
    let is_of_all = rule.filter().is_none_or(|filter| {
        filter.prefix().unwrap_or_default().is_empty() && filter.tag().is_none() && filter.and().is_none()
    });
    match days {
        Some(days)
            if does_nothing_else
                && is_of_all
                && rule.id() == Some(RULE)
                && *rule.status() == ExpirationStatus::Enabled =>
        {
            told(days)
        }
        _ => format!("{}: {rule:?}", rule.id().unwrap_or("a rule")),
    }
}

/// Every notification of push0 has an id that begins so.
const OURS: &str = "push0-";

fn is_ours(queue: &QueueConfiguration) -> bool {
    queue.id().is_some_and(|id| id.starts_with(OURS))
}

fn notification(place: &Place, told: &NotificationSpec) -> Result<QueueConfiguration, Trouble> {
    let prefix = FilterRule::builder().name(FilterRuleName::Prefix).value(&told.prefix).build();
    let filter = S3KeyFilter::builder().filter_rules(prefix).build();
    let events = told.events.iter().map(|event| Event::from(event.as_str())).collect();
    QueueConfiguration::builder()
        .id(format!("{OURS}{}", told.queue))
        .queue_arn(place.queue_arn(&told.queue))
        .set_events(Some(events))
        .filter(NotificationConfigurationFilter::builder().key(filter).build())
        .build()
        .map_err(malformed)
}

fn told_queue(queue: &QueueConfiguration) -> String {
    let mut events: Vec<&str> = queue.events().iter().map(Event::as_str).collect();
    events.sort_unstable();
    let rules = queue.filter().and_then(|filter| filter.key()).map(S3KeyFilter::filter_rules).unwrap_or_default();
    let rule = |rule: &FilterRule| {
        let name = rule.name().map_or("?", FilterRuleName::as_str).to_lowercase();
        format!("{name} {:?}", rule.value().unwrap_or_default())
    };
    let mut rules: Vec<String> = rules.iter().map(rule).collect();
    rules.sort_unstable();
    format!("{} of keys with {} go to {}", events.join(", "), rules.join(", "), queue.queue_arn())
}
