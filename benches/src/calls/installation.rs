//! Queues, table and buckets of the topology in an emulator's account: as much of them as a block needs.

use std::collections::BTreeSet;

use anyhow::Context as _;
use push0_core::Pool;
use push0_core::topology::{QueueKind, Topology};
use push0_runtime::aws::{Connection, create_table};

/// Makes everything in an account that has nothing yet.
pub(super) async fn create(connection: &Connection, topology: &Topology, pools: &BTreeSet<Pool>) -> anyhow::Result<()> {
    let (settings, sqs) = (&connection.settings, connection.sqs());
    for queue in topology.expanded_queues(pools) {
        let mut create = sqs.create_queue().queue_name(settings.name(&queue.name));
        create = create.attributes("VisibilityTimeout".into(), queue.visibility_s.to_string());
        if queue.kind == QueueKind::Fifo {
            create = create.attributes("FifoQueue".into(), "true");
        }
        create.send().await.with_context(|| format!("create queue {}", queue.name))?;
    }
    let dynamodb = connection.dynamodb();
    for table in &topology.tables {
        let create = create_table(&dynamodb, &settings.name(&table.name), table);
        create.send().await.with_context(|| format!("create table {}", table.name))?;
    }
    let s3 = connection.s3();
    for bucket in &topology.buckets {
        let create = s3.create_bucket().bucket(settings.name(&bucket.name));
        create.send().await.with_context(|| format!("create bucket {}", bucket.name))?;
    }
    Ok(())
}
