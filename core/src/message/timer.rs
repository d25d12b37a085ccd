//! `timers`, delayed: "look after this part of the run", "the block's deadline has passed".

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
    #[serde(default, skip_serializing_if = "TimerKind::is_lost")]
    pub kind: TimerKind,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerKind {
    /// Lost tasks.
    #[default]
    Lost,
    /// Stragglers. Its time stands in a row of its own.
    Hedge,
    /// Whether the deadline of the run's block has passed; the part says nothing.
    Deadline,
}

impl TimerKind {
    fn is_lost(&self) -> bool {
        *self == TimerKind::Lost
    }
}

versioned! { TimerMessage = 1, "timer", super::MAX_MESSAGE; }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Versioned;

    #[test]
    fn a_timer_that_says_nothing_else_looks_for_lost_tasks() {
        let timer = |kind| TimerMessage { run: "demo/7/e1".parse().unwrap(), piece: 2, due: Millis(5), kind };
        let sent = timer(TimerKind::Lost).to_value();
        assert_eq!(sent, serde_json::json!({ "v": 1, "run": "demo/7/e1", "piece": 2, "due": 5 }));
        assert_eq!(TimerMessage::from_value(sent), Ok(timer(TimerKind::Lost)));
        for (kind, name) in [(TimerKind::Hedge, "hedge"), (TimerKind::Deadline, "deadline")] {
            let sent = timer(kind).to_value();
            assert_eq!(sent["kind"], name);
            assert_eq!(TimerMessage::from_value(sent), Ok(timer(kind)));
        }
    }
}
