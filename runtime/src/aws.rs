//! The ports on AWS: SQS, DynamoDB and S3.
//!
//! Each adapter passes the same conformance suite as the embedded engine. All of them are made from one [`Connection`]: credentials, region,
//! one HTTP client, one retry policy, and the names of what was deployed.

pub mod calls;
mod connect;
mod dynamodb;
pub mod emulator;
mod error;
mod imds;
mod lineage;
mod ports;
pub mod record;
mod s3;
mod sqs;

pub use connect::{Connection, http_client};
pub use dynamodb::{Dynamo, create_table};
pub use error::port_error;
pub use imds::InstanceMetadata;
pub use lineage::without_lineage;
pub use ports::ports;
pub use s3::S3Blobs;
pub use sqs::Sqs;
