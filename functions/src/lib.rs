//! The functions: adapters that decode a message, drive, and say whether it is done with. What is decided stands in
//! `push0_core::chain` (dispatcher) and `push0_core::block` (collector).

mod collector;
mod dispatcher;
#[cfg(feature = "lambda")]
pub mod lambda;
mod reaper;
mod sweeper;
pub mod uploads;

pub use collector::Collector;
pub use dispatcher::Dispatcher;
pub use reaper::Reaper;
pub use sweeper::{Sweeper, Swept};

use push0_core::ErrorCode;
use push0_core::record::DecodeError;
use push0_runtime::drive::DriveError;
use push0_runtime::host::Failure;

fn from_drive(error: DriveError) -> Failure {
    let reason = error.code().says(error.to_string());
    if error.is_poison() { Failure::Poison { reason } } else { Failure::Retry { reason } }
}

fn from_decode(error: DecodeError) -> Failure {
    Failure::Poison { reason: ErrorCode::Poison.says(error.to_string()) }
}
