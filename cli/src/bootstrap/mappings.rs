//! Event source mappings: which queues a function reads, and how many messages at a time.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_lambda::Client;
use aws_sdk_lambda::types::{EventSourceMappingConfiguration, FunctionResponseType};
use push0_core::Pool;
use push0_core::topology::{FunctionSpec, Topology};

use super::site::{Site, trouble};
use crate::error::Trouble;

pub(super) async fn ensure(
    site: &mut Site,
    topology: &Topology,
    function: &FunctionSpec,
    pools: &BTreeSet<Pool>,
) -> Result<(), Trouble> {
    let client = site.lambda();
    let name = site.place.name(&function.name);
    let mut there = list(site, &client, &name).await?;
    for source in topology.expanded_sources(function, pools) {
        let at = format!("source {} of {name}", site.place.name(&source.queue));
        let batch = i32::try_from(source.batch).unwrap_or(i32::MAX);
        let arn = site.place.queue_arn(&source.queue);
        let Some(mapping) = there.remove(&arn) else {
            if site.ledger.mends() {
                let call = client
                    .create_event_source_mapping()
                    .function_name(&name)
                    .event_source_arn(&arn)
                    .batch_size(batch)
                    .function_response_types(FunctionResponseType::ReportBatchItemFailures)
                    .enabled(true);
                call.send().await.map_err(|error| trouble(&at, "CreateEventSourceMapping", &error))?;
            }
            site.ledger.created(at);
            continue;
        };
        mend(site, &client, &at, &mapping, batch).await?;
    }
    Ok(())
}

/// By queue. A function that is not there has none.
async fn list(
    site: &Site,
    client: &Client,
    name: &str,
) -> Result<BTreeMap<String, EventSourceMappingConfiguration>, Trouble> {
    let mut there = BTreeMap::new();
    let mut pages = client.list_event_source_mappings().function_name(name).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = match page {
            Ok(page) => page,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                break;
            }
            Err(error) => {
                let at = format!("function {}", site.place.name(name));
                return Err(trouble(at, "ListEventSourceMappings", &error));
            }
        };
        for mapping in page.event_source_mappings.unwrap_or_default() {
            if let Some(arn) = mapping.event_source_arn() {
                there.insert(arn.to_owned(), mapping);
            }
        }
    }
    Ok(there)
}

async fn mend(
    site: &mut Site,
    client: &Client,
    at: &str,
    mapping: &EventSourceMappingConfiguration,
    batch: i32,
) -> Result<(), Trouble> {
    let answers = mapping.function_response_types().iter().map(FunctionResponseType::as_str).collect::<Vec<_>>();
    // Enabling, Updating and the like are on their way.
    let is_off = matches!(mapping.state(), Some("Disabled" | "Disabling"));
    let pairs = [
        ("batch size", mapping.batch_size().unwrap_or_default().to_string(), batch.to_string()),
        ("window", mapping.maximum_batching_window_in_seconds().unwrap_or_default().to_string(), "0".to_owned()),
        ("answers", answers.join(", "), FunctionResponseType::ReportBatchItemFailures.to_string()),
        ("state", if is_off { "off" } else { "on" }.to_owned(), "on".to_owned()),
    ];
    let differing: Vec<_> = pairs.into_iter().filter(|(_, is, should)| is != should).collect();
    if differing.is_empty() {
        return Ok(());
    }
    if site.ledger.mends() {
        let call = client
            .update_event_source_mapping()
            .set_uuid(mapping.uuid.clone())
            .batch_size(batch)
            .maximum_batching_window_in_seconds(0)
            .function_response_types(FunctionResponseType::ReportBatchItemFailures)
            .enabled(true);
        call.send().await.map_err(|error| trouble(at, "UpdateEventSourceMapping", &error))?;
    }
    for (attribute, is, should) in differing {
        let is = Some(is).filter(|is| !is.is_empty());
        site.ledger.changed(at, attribute, is, should);
    }
    Ok(())
}
