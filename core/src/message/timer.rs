//! `timers`, delayed: "look after this part of the run".

use serde::{Deserialize, Serialize};

use crate::id::{Millis, RunId};
use crate::record::codec::versioned;

/// A part is a piece of the fan-out with everything that is made from it: see [`crate::plan::Plan::rooted_in`]. The first one's timer is
/// armed when the run begins, and looks after `split` as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerMessage {
    pub run: RunId,
    pub piece: u32,
    /// When to look. A queue delays by fifteen minutes at most: delivered before, it is sent on. The part's row holds the same time;
    /// a message with an earlier one has been overtaken.
    pub due: Millis,
}

versioned! { TimerMessage = 1, "timer"; }
