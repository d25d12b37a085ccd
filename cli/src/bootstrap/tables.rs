//! Tables. Keys cannot be changed; everything else can, without a row being lost.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    BillingMode, KeySchemaElement, PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, TableDescription,
    TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use push0_core::ErrorCode;
use push0_core::topology::TableSpec;
use push0_runtime::aws::create_table;

use super::site::{Site, malformed, trouble};
use crate::error::{Code, Trouble};

/// A table is usable some seconds after it was created.
const PATIENCE: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(200);

pub(super) async fn ensure(site: &mut Site, spec: &TableSpec) -> Result<(), Trouble> {
    let client = site.connection.dynamodb();
    let name = site.place.name(&spec.name);
    let at = format!("table {name}");
    let is_new = match look(&client, &name, &at).await? {
        Some(table) => {
            if !has_keys(site, &at, spec, &table) {
                return Ok(());
            }
            mend_billing(site, &client, &name, &at, &table).await?;
            false
        }
        None => {
            if !site.ledger.mends() {
                site.ledger.created(&at);
                return Ok(());
            }
            create(&client, &name, &at, spec).await?;
            site.ledger.created(&at);
            true
        }
    };
    mend_ttl(site, &client, &name, &at, spec, is_new).await?;
    mend_recovery(site, &client, &name, &at, spec, is_new).await
}

async fn look(client: &Client, name: &str, at: &str) -> Result<Option<TableDescription>, Trouble> {
    match client.describe_table().table_name(name).send().await {
        Ok(answer) => Ok(answer.table),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => Ok(None),
        Err(error) => Err(trouble(at, "DescribeTable", &error)),
    }
}

async fn create(client: &Client, name: &str, at: &str, spec: &TableSpec) -> Result<(), Trouble> {
    create_table(client, name, spec).send().await.map_err(|error| trouble(at, "CreateTable", &error))?;
    active(client, name, at).await
}

async fn active(client: &Client, name: &str, at: &str) -> Result<(), Trouble> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = look(client, name, at).await?.and_then(|table| table.table_status);
        if status == Some(TableStatus::Active) {
            return Ok(());
        }
        if tokio::time::Instant::now() > until {
            let what = format!("{at} is not usable after {} s", PATIENCE.as_secs());
            return Err(Trouble::new(Code::Timeout, what).next("run it again").coded(ErrorCode::NotInTime));
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Whether rows can be found in it as push0 looks for them; told where not.
fn has_keys(site: &mut Site, at: &str, spec: &TableSpec, table: &TableDescription) -> bool {
    let kind = |key: &str| {
        let found = table.attribute_definitions().iter().find(|attribute| attribute.attribute_name() == key);
        found.map_or("?", |attribute| attribute.attribute_type().as_str())
    };
    let key = |element: &KeySchemaElement| {
        let name = element.attribute_name();
        format!("{name} ({} {})", element.key_type().as_str(), kind(name))
    };
    let is = table.key_schema().iter().map(key).collect::<Vec<_>>().join(", ");
    let should = format!("{} (HASH S), {} (RANGE S)", spec.partition_key, spec.sort_key);
    if is == should {
        return true;
    }
    let why = "a table's keys cannot be changed; deleting it would lose every row";
    site.ledger.left(at, "keys", is, should, why);
    false
}

async fn mend_billing(
    site: &mut Site,
    client: &Client,
    name: &str,
    at: &str,
    table: &TableDescription,
) -> Result<(), Trouble> {
    let is = table.billing_mode_summary().and_then(|summary| summary.billing_mode()).cloned();
    if is == Some(BillingMode::PayPerRequest) {
        return Ok(());
    }
    if site.ledger.mends() {
        let update = client.update_table().table_name(name).billing_mode(BillingMode::PayPerRequest).send().await;
        update.map_err(|error| trouble(at, "UpdateTable", &error))?;
        active(client, name, at).await?;
    }
    let is = is.unwrap_or(BillingMode::Provisioned);
    site.ledger.changed(at, "billing", Some(is.as_str().to_owned()), BillingMode::PayPerRequest.as_str());
    Ok(())
}

async fn mend_ttl(
    site: &mut Site,
    client: &Client,
    name: &str,
    at: &str,
    spec: &TableSpec,
    is_new: bool,
) -> Result<(), Trouble> {
    let asked = client.describe_time_to_live().table_name(name).send().await;
    let answer = asked.map_err(|error| trouble(at, "DescribeTimeToLive", &error))?;
    let is = answer.time_to_live_description.and_then(|ttl| match ttl.time_to_live_status {
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => ttl.attribute_name,
        _ => None,
    });
    if is == spec.ttl_attribute {
        return Ok(());
    }
    if site.ledger.mends() {
        // One is switched off before another is switched on.
        let attribute = is.as_ref().or(spec.ttl_attribute.as_ref());
        let ttl = TimeToLiveSpecification::builder().set_attribute_name(attribute.cloned()).enabled(is.is_none());
        let ttl = ttl.build().map_err(malformed)?;
        let update = client.update_time_to_live().table_name(name).time_to_live_specification(ttl).send().await;
        update.map_err(|error| trouble(at, "UpdateTimeToLive", &error))?;
        if is.is_some() && spec.ttl_attribute.is_some() {
            site.ledger.note(format!("{at}: run it again in an hour: DynamoDB changes the time to live once an hour"));
        }
    }
    if !is_new {
        site.ledger.changed(at, "time to live", is, spec.ttl_attribute.as_deref().unwrap_or("none"));
    }
    Ok(())
}

async fn mend_recovery(
    site: &mut Site,
    client: &Client,
    name: &str,
    at: &str,
    spec: &TableSpec,
    is_new: bool,
) -> Result<(), Trouble> {
    let asked = match client.describe_continuous_backups().table_name(name).send().await {
        Ok(answer) => answer,
        Err(error) => return site.tolerate(at, "DescribeContinuousBackups", &error),
    };
    let description = asked.continuous_backups_description;
    let recovery = description.and_then(|backups| backups.point_in_time_recovery_description);
    let is = recovery.and_then(|recovery| recovery.point_in_time_recovery_status)
        == Some(PointInTimeRecoveryStatus::Enabled);
    let should = spec.point_in_time_recovery;
    if is == should {
        return Ok(());
    }
    if site.ledger.mends() {
        let recovery = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(should);
        let recovery = recovery.build().map_err(malformed)?;
        let call = client.update_continuous_backups().table_name(name);
        if let Err(error) = call.point_in_time_recovery_specification(recovery).send().await {
            // A new table's backups are switched on some seconds after it is usable.
            if error.as_service_error().is_some_and(|error| error.is_continuous_backups_unavailable_exception()) {
                site.ledger.note(format!("{at}: its backups are not ready; run it again to switch on recovery"));
                return Ok(());
            }
            return site.tolerate(at, "UpdateContinuousBackups", &error);
        }
    }
    if !is_new {
        let text = |on: bool| if on { "on" } else { "off" };
        site.ledger.changed(at, "point-in-time recovery", Some(text(is).to_owned()), text(should));
    }
    Ok(())
}
