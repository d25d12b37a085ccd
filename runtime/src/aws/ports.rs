//! All ports of one installation.

use std::sync::Arc;

use push0_core::topology::Topology;

use super::{Connection, Dynamo, S3Blobs, Sqs};
use crate::http::Ports;

/// The ports on SQS, DynamoDB and S3. Nothing is asked of them yet.
pub fn ports(connection: &Connection, topology: &Topology) -> Ports {
    Ports {
        queue: Arc::new(Sqs::new(connection)),
        table: Arc::new(Dynamo::new(connection)),
        blobs: Arc::new(S3Blobs::new(connection, topology)),
    }
}
