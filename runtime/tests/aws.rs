//! The adapters on SQS, DynamoDB and S3: the conformance suites against emulators, and every documented failure through an HTTP client that
//! fails on purpose. `scripts/with-emulators` runs a command with the emulators up.

#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used)]

#[path = "aws/dynamodb.rs"]
mod dynamodb;
#[path = "aws/imds.rs"]
mod imds;
#[path = "aws/lineage.rs"]
mod lineage;
#[path = "aws/s3.rs"]
mod s3;
#[path = "aws/sqs.rs"]
mod sqs;
#[path = "aws/support.rs"]
mod support;
