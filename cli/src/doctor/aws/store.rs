//! Queues, table, buckets: whether they are there, and how far away.

use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TableDescription, TableStatus};
use aws_sdk_s3::types::{BucketVersioningStatus, QueueConfiguration};
use push0_core::ErrorCode;
use push0_core::topology::{BucketSpec, TableSpec};

use super::refusal::Asked;
use super::trips::Trips;
use super::{Account, Findings, State, Survey};

pub(super) async fn look(account: &Account, survey: &mut Survey) {
    queues(account, survey).await;
    for spec in &account.topology.tables {
        table(account, spec, survey).await;
    }
    for spec in &account.topology.buckets {
        bucket(account, spec, survey).await;
    }
}

async fn queues(account: &Account, survey: &mut Survey) {
    let (client, mut trips) = (account.connection.sqs(), Trips::default());
    let (mut there, mut missing) = (0, Vec::new());
    for queue in account.topology.expanded_queues(&account.pools) {
        let name = account.place.name(&queue.name);
        match trips.time(client.get_queue_url().queue_name(&name).send()).await {
            Ok(_) => there += 1,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => {
                missing.push(name);
            }
            // What is true of one queue is mostly true of the others.
            Err(error) => {
                let asked =
                    Asked { what: "queues", action: "sqs:GetQueueUrl", on: account.place.queue_arn(&queue.name) };
                survey.findings.0.push(asked.failed(account, State::Problem, &error));
                return;
            }
        }
    }
    survey.count(account, "queues", there + missing.len(), &missing);
    if missing.is_empty() {
        survey.findings.ok("queues", format!("all {there} are there, {}", trips.text()));
    }
}

async fn table(account: &Account, spec: &TableSpec, survey: &mut Survey) {
    let (client, name, mut trips) = (account.connection.dynamodb(), account.place.name(&spec.name), Trips::default());
    let what = format!("table {name}");
    let asked = |action| Asked { what: &what, action, on: account.place.table_arn(&spec.name) };
    let table = match trips.time(client.describe_table().table_name(&name).send()).await {
        Ok(answer) => answer.table.unwrap_or_else(|| TableDescription::builder().build()),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            return survey.count(account, &what, 1, &[name]);
        }
        Err(error) => {
            let finding = asked("dynamodb:DescribeTable").failed(account, State::Problem, &error);
            return survey.findings.0.push(finding);
        }
    };
    survey.there += 1;
    of_table(&what, &table, &trips.text(), &mut survey.findings);
    if !spec.point_in_time_recovery {
        return;
    }
    match client.describe_continuous_backups().table_name(&name).send().await {
        Ok(answer) => {
            let backups = answer.continuous_backups_description;
            let recovery = backups.and_then(|backups| backups.point_in_time_recovery_description);
            let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status);
            if status != Some(PointInTimeRecoveryStatus::Enabled) {
                let next = "`terraform apply`, or `push0 bootstrap`, switches it on";
                survey.findings.warn(&what, "point-in-time recovery is off: what is lost cannot be brought back", next);
            }
        }
        Err(error) => {
            let finding = asked("dynamodb:DescribeContinuousBackups").failed(account, State::Warning, &error);
            survey.findings.0.push(finding);
        }
    }
}

fn of_table(what: &str, table: &TableDescription, trips: &str, findings: &mut Findings) {
    match table.table_status() {
        Some(TableStatus::Active) => findings.ok(what, format!("ACTIVE, {trips}")),
        Some(TableStatus::Updating) => {
            findings.warn(what, format!("UPDATING, {trips}"), "look again in a minute: it can be used meanwhile")
        }
        status => {
            let says = format!("it is {} and takes nothing", status.map_or("in no known state", TableStatus::as_str));
            findings.problem(
                what,
                ErrorCode::DeploymentDiffers,
                says,
                "look again in a minute; then `aws dynamodb describe-table` says why",
            );
        }
    }
    if !table.deletion_protection_enabled().unwrap_or_default() {
        let next = "`deletion_protection = true` in your copy of the Terraform example, and apply";
        findings.warn(what, "deletion protection is off: anybody who may can delete every chain's state", next);
    }
}

async fn bucket(account: &Account, spec: &BucketSpec, survey: &mut Survey) {
    let (client, name, mut trips) = (account.connection.s3(), account.place.name(&spec.name), Trips::default());
    let what = format!("bucket {name}");
    let asked = |action| Asked { what: &what, action, on: account.place.bucket_arn(&spec.name) };
    if let Err(error) = trips.time(client.head_bucket().bucket(&name).send()).await {
        let status = error.raw_response().map(|response| response.status().as_u16());
        if status == Some(404) {
            return survey.count(account, &what, 1, &[name]);
        }
        let mut finding = asked("s3:ListBucket").failed(account, State::Problem, &error);
        match status {
            Some(301) => {
                finding.says = format!("it is in another region than {}", account.place.region());
                finding.next = Some(
                    "set AWS_REGION to the installation's, or choose another prefix: bucket names are everybody's"
                        .to_owned(),
                );
            }
            Some(403) => {
                let allow = finding.next.unwrap_or_default();
                finding.next = Some(format!(
                    "{allow}; or it is another account's: bucket names are everybody's, choose another prefix"
                ));
            }
            _ => {}
        }
        return survey.findings.0.push(finding);
    }
    survey.there += 1;
    survey.findings.ok(&what, format!("there, {}", trips.text()));
    if spec.versioned {
        match client.get_bucket_versioning().bucket(&name).send().await {
            Ok(answer) if answer.status == Some(BucketVersioningStatus::Enabled) => {}
            Ok(_) => {
                let says =
                    "it keeps no versions: a witness that is overwritten after its admission cannot be proven any more";
                survey.findings.warn(&what, says, "`terraform apply`, or `push0 bootstrap`, switches them on");
            }
            Err(error) => {
                let finding = asked("s3:GetBucketVersioning").failed(account, State::Warning, &error);
                survey.findings.0.push(finding);
            }
        }
    }
    if spec.notifications.is_empty() {
        return;
    }
    match client.get_bucket_notification_configuration().bucket(&name).send().await {
        Ok(answer) => {
            let told = answer.queue_configurations.unwrap_or_default();
            notifications(account, spec, &what, &told, &mut survey.findings);
        }
        Err(error) => {
            let finding = asked("s3:GetBucketNotification").failed(account, State::Warning, &error);
            survey.findings.0.push(finding);
        }
    }
}

fn notifications(
    account: &Account,
    spec: &BucketSpec,
    what: &str,
    told: &[QueueConfiguration],
    findings: &mut Findings,
) {
    for notification in &spec.notifications {
        let arn = account.place.queue_arn(&notification.queue);
        if !told.iter().any(|queue| queue.queue_arn() == arn) {
            let says = format!(
                "S3 tells {} of no upload: the reaper finds it, a minute or more later",
                account.place.name(&notification.queue)
            );
            findings.warn(what, says, "`terraform apply`, or `push0 bootstrap`, puts the notification back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_ok_when_it_is_active_and_kept_from_deletion() {
        let judged = |status, is_protected| {
            let table =
                TableDescription::builder().table_status(status).deletion_protection_enabled(is_protected).build();
            let mut findings = Findings::default();
            of_table("table p-state", &table, "3 ms a call", &mut findings);
            findings.0.iter().map(|finding| finding.state).collect::<Vec<_>>()
        };
        assert_eq!(judged(TableStatus::Active, true), [State::Ok]);
        assert_eq!(judged(TableStatus::Active, false), [State::Ok, State::Warning]);
        assert_eq!(judged(TableStatus::Updating, true), [State::Warning]);
        assert_eq!(judged(TableStatus::Creating, true), [State::Problem]);
    }
}
