//! The row of a part's timer: when it looks next, and what it saw when it looked last. Nobody who looks remembers anything else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::Millis;

/// Attribute `watch` of row `run/{run}`, `timer/{piece:03}`; changed as a whole, by set-if. Absent: nobody has
/// looked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// When to look next: a timer message of an earlier time has been overtaken.
    pub due: Millis,
    /// The pause it follows.
    pub every: Millis,
    /// When the last look was.
    pub looked: Millis,
    /// A look at this time saw tasks that started longer ago than they may take, and those it saw have not been given up yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Millis>,
    /// Queue → since when it has been empty, with its dead-letter queue, at every look.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub empty: BTreeMap<String, Millis>,
}
