//! `results` and `verdicts`: what workers say. `split`, `verify` and checks count only from `verdicts`, everything else only from `results`.

use serde::{Deserialize, Serialize};

use crate::id::{BlockHash, Millis, Node, Principal, Sha256, TaskId, WorkerId};
use crate::record::codec::versioned;
use crate::record::{BlobRef, Verdict};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub task: TaskId,
    pub worker: WorkerId,
    /// Whose token it came with: set by the server that took it in, never by the worker. None: from within, or from a local worker, each
    /// of which speaks for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Principal>,
    /// The worker's clock: for people, never for a decision.
    pub at: Millis,
    /// Which delivery of its task the worker had in hand. None: from within, or from a worker of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handout: Option<Handout>,
    pub event: ReportEvent,
}

/// A delivery of a task, as its queue counts them: whoever has a later one has taken the task over from those with earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Handout {
    /// When the message was sent, by the queue's clock: a task that was sent again is another message.
    pub sent_at: Millis,
    /// How often the message had been handed out then.
    pub receives: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ReportEvent {
    Started,
    /// `map`, `join`, `single`: the artifact is stored.
    Done {
        artifact: BlobRef,
    },
    /// `split`: the manifest and everything it names is stored.
    Split {
        manifest: BlobRef,
        segments: u32,
        header: BlobRef,
        hash: BlockHash,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_hash: Option<BlockHash>,
    },
    /// `verify`, of the artifact with digest `root`.
    Verified {
        verdict: Verdict,
        root: Sha256,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Digest of the proof's public statement.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outputs: Option<Sha256>,
    },
    /// A check of the artifact with digest `artifact`, which `reader` has in `slot` and accused. `task` is the one that made it.
    Checked {
        reader: Node,
        slot: u32,
        artifact: Sha256,
        finding: Finding,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    Failed {
        kind: FailureKind,
        message: String,
        /// `bad_input`: positions among the task's inputs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        children: Vec<u32>,
    },
}

/// What a check of an accused artifact came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is what it should be: the accusation was wrong.
    Sound,
    /// It is not, or its bytes are not what was accepted.
    Unsound,
    /// It could not be found out. The artifact is made again, which costs work and no trust.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    Retryable,
    Permanent,
    BadInput,
    /// The prover had not memory enough: the stage's larger pool may have it.
    OutOfMemory,
    /// No worker said so: its worker ended, or fell silent, with the task in hand.
    Lost,
}

impl FailureKind {
    /// As it is sent and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Retryable => "retryable",
            FailureKind::Permanent => "permanent",
            FailureKind::BadInput => "bad_input",
            FailureKind::OutOfMemory => "out_of_memory",
            FailureKind::Lost => "lost",
        }
    }
}

versioned! { Report = 1, "report", super::MAX_MESSAGE; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_failure_is_called_as_it_is_sent() {
        for (kind, name) in [
            (FailureKind::Retryable, "retryable"),
            (FailureKind::Permanent, "permanent"),
            (FailureKind::BadInput, "bad_input"),
            (FailureKind::OutOfMemory, "out_of_memory"),
            (FailureKind::Lost, "lost"),
        ] {
            assert_eq!((kind.as_str(), serde_json::to_value(kind).unwrap()), (name, name.into()));
        }
    }
}
