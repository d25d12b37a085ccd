//! `ranges`: "send the leaf tasks of segments `from..to`", or move what is made from them to another class.

use serde::{Deserialize, Serialize};

use crate::id::RunId;
use crate::record::codec::versioned;

/// `from` and `to` are multiples of [`crate::record::MANIFEST_PAGE`], but for the block's last segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeMessage {
    pub run: RunId,
    pub from: u32,
    pub to: u32,
    /// Not the first dispatch: send what waits in these segments' parts once more, to the queue of `bulk`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demote: bool,
}

versioned! { RangeMessage = 1, "range message", super::MAX_MESSAGE; }
