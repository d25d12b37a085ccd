//! An account of an emulator, for tests and benchmarks: where the emulator is, an account nobody else uses, and what an installation has in
//! it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use push0_core::Pool;
use push0_core::topology::{QueueKind, Topology};

use super::{Connection, create_table, port_error};
use crate::port::PortResult;
use crate::settings::AwsSettings;

/// The variables in which `scripts/with-emulators` says where they are.
pub const MINISTACK: &str = "PUSH0_MINISTACK";
pub const LOCALSTACK: &str = "PUSH0_LOCALSTACK";

/// The address of ministack. Panics where there is none: a test that needs it shall not pass without.
pub fn ministack() -> String {
    said(MINISTACK)
}

/// The address of LocalStack; None, and said so, where `scripts/with-emulators` could not start it.
pub fn localstack() -> Option<String> {
    if let Ok(reason) = std::env::var("PUSH0_WITHOUT_LOCALSTACK") {
        eprintln!("not run on LocalStack: {reason}");
        return None;
    }
    Some(said(LOCALSTACK))
}

/// What a variable of `scripts/with-emulators` says; panics where it is not set.
pub fn said(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run `scripts/with-emulators COMMAND`"))
}

/// An account nobody else uses: emulators keep accounts apart, so tests can run side by side.
pub fn account() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:012}", (u64::from(std::process::id()) * 1_000 + next) % 1_000_000_000_000)
}

/// A prefix of an account's own: names of buckets are everybody's, whatever the account.
pub fn prefix(account: &str) -> String {
    format!("t{}", account.trim_start_matches('0'))
}

/// The way to an account, with the prefix of its own. `http`: [`super::http_client`], or one that fails on purpose.
pub async fn connect(endpoint: &str, account: &str, http: SharedHttpClient) -> Connection {
    let settings = AwsSettings { prefix: prefix(account), endpoint: Some(endpoint.to_owned()) };
    Connection::emulated(settings, account, http).await
}

/// Makes the queues, the table and the buckets of an installation in an account that has nothing yet: as much of them as a block needs.
/// There is no dead-letter queue behind a queue, and no notification of a bucket; `push0 bootstrap` makes everything.
pub async fn install(connection: &Connection, topology: &Topology, pools: &BTreeSet<Pool>) -> PortResult<()> {
    create_queues(connection, topology, pools).await?;
    create_tables(connection, topology).await?;
    create_buckets(connection, topology).await
}

async fn create_queues(connection: &Connection, topology: &Topology, pools: &BTreeSet<Pool>) -> PortResult<()> {
    let (settings, sqs) = (&connection.settings, connection.sqs());
    for queue in topology.expanded_queues(pools) {
        let mut create = sqs.create_queue().queue_name(settings.name(&queue.name));
        create = create.attributes(Attribute::VisibilityTimeout, queue.visibility_s.to_string());
        if queue.kind == QueueKind::Fifo {
            create = create.attributes(Attribute::FifoQueue, "true");
        }
        create.send().await.map_err(|error| port_error(&format!("create queue {}", queue.name), &error))?;
    }
    Ok(())
}

pub async fn create_tables(connection: &Connection, topology: &Topology) -> PortResult<()> {
    let client = connection.dynamodb();
    for table in &topology.tables {
        let create = create_table(&client, &connection.settings.name(&table.name), table);
        create.send().await.map_err(|error| port_error(&format!("create table {}", table.name), &error))?;
    }
    Ok(())
}

pub async fn create_buckets(connection: &Connection, topology: &Topology) -> PortResult<()> {
    let client = connection.s3();
    for bucket in &topology.buckets {
        let name = connection.settings.name(&bucket.name);
        let create = client.create_bucket().bucket(&name);
        create.send().await.map_err(|error| port_error(&format!("create bucket {name}"), &error))?;
        if bucket.versioned {
            let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let put = client.put_bucket_versioning().bucket(&name).versioning_configuration(on);
            put.send().await.map_err(|error| port_error(&format!("version bucket {name}"), &error))?;
        }
    }
    Ok(())
}
