//! What things are called in the account: names, and ARNs once the account is known.

use push0_runtime::settings::AwsSettings;

/// In place of the account where no queue exists yet to tell it. It is shown, and never sent.
const UNKNOWN: &str = "ACCOUNT";

#[derive(Debug, Clone)]
pub(super) struct Place {
    settings: AwsSettings,
    partition: String,
    region: String,
    account: Option<String>,
}

impl Place {
    pub(super) fn new(settings: AwsSettings, region: &str) -> Self {
        Self { settings, partition: "aws".to_owned(), region: region.to_owned(), account: None }
    }

    /// A queue's ARN names partition and account.
    pub(super) fn learn(&mut self, queue_arn: &str) {
        let parts: Vec<&str> = queue_arn.split(':').collect();
        if let ["arn", partition, "sqs", _, account, _] = parts[..] {
            (self.partition, self.account) = (partition.to_owned(), Some(account.to_owned()));
        }
    }

    pub(super) fn settings(&self) -> &AwsSettings {
        &self.settings
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    pub(super) fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    pub(super) fn is_emulator(&self) -> bool {
        self.settings.endpoint.is_some()
    }

    pub(super) fn name(&self, resource: &str) -> String {
        self.settings.name(resource)
    }

    pub(super) fn account_or_unknown(&self) -> &str {
        self.account.as_deref().unwrap_or(UNKNOWN)
    }

    pub(super) fn queue_arn(&self, queue: &str) -> String {
        self.regional("sqs", &self.name(queue))
    }

    pub(super) fn function_arn(&self, function: &str) -> String {
        self.regional("lambda", &format!("function:{}", self.name(function)))
    }

    pub(super) fn rule_arn(&self, rule: &str) -> String {
        self.regional("events", &format!("rule/{}", self.name(rule)))
    }

    pub(super) fn bucket_arn(&self, bucket: &str) -> String {
        format!("arn:{}:s3:::{}", self.partition, self.name(bucket))
    }

    /// The role a function has where no role was named: emulators look at its form only.
    pub(super) fn some_role(&self, function: &str) -> String {
        format!("arn:{}:iam::{}:role/{}", self.partition, self.account_or_unknown(), self.name(function))
    }

    fn regional(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition, self.region, self.account_or_unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_tells_the_account_and_the_partition_of_everything() {
        let mut place = Place::new(AwsSettings::default(), "cn-north-1");
        assert_eq!(place.queue_arn("results"), "arn:aws:sqs:cn-north-1:ACCOUNT:push0-results");
        place.learn("arn:aws-cn:sqs:cn-north-1:123456789012:push0-results");
        assert_eq!(place.account(), Some("123456789012"));
        assert_eq!(place.queue_arn("ranges"), "arn:aws-cn:sqs:cn-north-1:123456789012:push0-ranges");
        assert_eq!(place.bucket_arn("blobs"), "arn:aws-cn:s3:::push0-blobs");
        assert_eq!(place.rule_arn("reaper"), "arn:aws-cn:events:cn-north-1:123456789012:rule/push0-reaper");
        place.learn("nonsense");
        assert_eq!(place.account(), Some("123456789012"));
    }
}
