//! Everything around the decisions: the ports and what implements them, the drive loops, the function host.

#[cfg(feature = "aws")]
pub mod aws;
pub mod clock_manual;
pub mod conformance;
pub mod drive;
pub mod engine;
pub mod host;
pub mod http;
pub mod metrics;
pub mod port;
pub mod settings;
pub mod snapshot;
pub mod wiring;
