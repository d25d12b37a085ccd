//! What things are called in the account: names, and ARNs once the account is known.

use push0_runtime::settings::AwsSettings;

/// In place of the account where no queue exists yet to tell it. It is shown, and never sent.
const UNKNOWN: &str = "ACCOUNT";

#[derive(Debug, Clone)]
pub(crate) struct Place {
    settings: AwsSettings,
    partition: String,
    region: String,
    account: Option<String>,
}

impl Place {
    pub(crate) fn new(settings: AwsSettings, region: &str) -> Self {
        Self { settings, partition: "aws".to_owned(), region: region.to_owned(), account: None }
    }

    /// A queue's ARN, and a caller's, names partition and account.
    pub(crate) fn learn(&mut self, arn: &str) {
        let parts: Vec<&str> = arn.split(':').collect();
        if let ["arn", partition, "sqs" | "iam" | "sts", _, account, _] = parts[..] {
            (self.partition, self.account) = (partition.to_owned(), Some(account.to_owned()));
        }
    }

    pub(crate) fn settings(&self) -> &AwsSettings {
        &self.settings
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    pub(crate) fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    pub(crate) fn is_emulator(&self) -> bool {
        self.settings.endpoint.is_some()
    }

    pub(crate) fn name(&self, resource: &str) -> String {
        self.settings.name(resource)
    }

    pub(crate) fn account_or_unknown(&self) -> &str {
        self.account.as_deref().unwrap_or(UNKNOWN)
    }

    pub(crate) fn queue_arn(&self, queue: &str) -> String {
        self.regional("sqs", &self.name(queue))
    }

    pub(crate) fn table_arn(&self, table: &str) -> String {
        self.regional("dynamodb", &format!("table/{}", self.name(table)))
    }

    pub(crate) fn function_arn(&self, function: &str) -> String {
        self.regional("lambda", &format!("function:{}", self.name(function)))
    }

    pub(crate) fn rule_arn(&self, rule: &str) -> String {
        self.regional("events", &format!("rule/{}", self.name(rule)))
    }

    pub(crate) fn bucket_arn(&self, bucket: &str) -> String {
        format!("arn:{}:s3:::{}", self.partition, self.name(bucket))
    }

    /// The role a function has where no role was named: emulators look at its form only.
    pub(crate) fn some_role(&self, function: &str) -> String {
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
        place.learn("arn:aws:sts::210987654321:assumed-role/operator/me");
        assert_eq!(place.table_arn("state"), "arn:aws:dynamodb:cn-north-1:210987654321:table/push0-state");
    }
}
