//! `ranges`: "send the leaf tasks of segments `from..to`".

use serde::{Deserialize, Serialize};

use crate::id::RunId;
use crate::record::codec::versioned;

/// `from` and `to` are multiples of [`crate::record::MANIFEST_PAGE`], but for the block's last segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeMessage {
    pub run: RunId,
    pub from: u32,
    pub to: u32,
}

versioned! { RangeMessage = 1, "range message"; }
