//! The rows of a part's timers: when each looks next, and what it saw when it looked last. Nobody who looks remembers anything else.

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
    /// Queue → since when nothing has waited in it at any look, whatever is in workers' hands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub taken: BTreeMap<String, Millis>,
}

/// Attribute `hedge` of row `run/{run}`, `hedge/{piece:03}`; changed as a whole, by set-if. Absent: nobody has looked for stragglers yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HedgeWatch {
    /// When to look next; none: never, everything is accepted or the run is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Millis>,
    /// When the last look was. What was accepted until then has been counted.
    pub looked: Millis,
    /// The pause it follows while too little is known of how long tasks take.
    pub pause: Millis,
}
