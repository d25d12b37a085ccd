//! The ports: everything push0 asks of the world, as small traits.
//!
//! Each has one conformance suite in [`crate::conformance`] that every adapter passes: the embedded engine on disk, in memory
//! and over HTTP, SQS, DynamoDB and S3. What a contract here does not promise, no caller may rely on.

mod blobs;
mod clock;
mod dead_letters;
mod error;
mod imds;
mod queue;
mod table;

pub use blobs::{BLOB_LIMIT, BlobInfo, Blobs, PutOutcome};
pub use clock::{Clock, SystemClock};
pub use dead_letters::{DeadLetters, Peeked};
pub use error::{ErrorKind, PortError, PortResult};
pub use imds::{Imds, SpotAction, TargetState};
pub use queue::{Delivery, Outgoing, Queue, QueueStats};
pub use table::check;
pub use table::{Accepted, Key, Row, SetOutcome, Table, Value, Write};
