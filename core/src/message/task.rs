//! `work-{pool}-{class}`: one task for a worker, with all it needs to know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{BlockHash, Class, Millis, Node, Pool, ProverName, Sha256, StageName, TaskId, WorkerId};
use crate::pipeline::Kind;
use crate::record::BlobRef;
use crate::record::codec::Versioned;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskMessage {
    pub id: TaskId,
    pub stage: StageName,
    pub kind: Kind,
    pub prover: ProverName,
    /// What the prover's `hello` must say of its programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, Sha256>,
    pub pool: Pool,
    pub class: Class,
    /// What the prover reads, in order, each pinned. `verify`: the root, then the header.
    pub inputs: Vec<BlobRef>,
    /// `split` of a batch: the one input is a [`crate::record::BatchManifest`], and what it names are the further inputs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expand: bool,
    pub params: Value,
    pub block_hash: BlockHash,
    /// The block's parent, where it is known; of a batch its first block's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    pub time_limit: Millis,
    /// When the block shall be final at the latest, where it has a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// Sent after the block's demotion: this one is not the copy that was left behind in a more urgent queue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demoted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_limit: Option<Millis>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<WorkerId>,
    /// They never get it: they were lost with earlier attempts. `avoid` names them, too, for workers of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub barred: Vec<WorkerId>,
    /// Set: nothing is to be proven. The inputs are what this task's attempt left, the header, and the first and the last segment that it
    /// covers: is it what it should be? Asked of the trusted pool when another task's prover accused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Set: several may work on this attempt, each on a copy of its own, and the first artifact counts; so many were sent from the start. Then
    /// the node's control blob says when it is too late ([`crate::record::node_control_key`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u8>,
}

/// Who accused an artifact: the node that reads it, and in which slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub reader: Node,
    pub slot: u32,
}

impl TaskMessage {
    /// Where the artifact goes: under the pool's own prefix, so that a worker can be held to it. `split` writes below this key
    /// (`…/manifest`, `…/header`, `…/pages/000`, `…/segments/000000`).
    pub fn artifact_key(&self) -> String {
        format!("artifacts/{}/{}", self.pool, self.id)
    }

    /// The same task as another copy of its attempt.
    pub fn as_copy(&self, copy: u8) -> Self {
        Self { id: TaskId { copy, ..self.id.clone() }, ..self.clone() }
    }

    /// As it is sent once its run is demoted.
    pub fn demoted(self) -> Self {
        Self { class: Class::Bulk, demoted: true, ..self }
    }

    /// Whether only the trusted pool's word counts on it.
    pub fn is_trusted(&self) -> bool {
        self.check.is_some() || self.kind.is_trusted()
    }
}

/// Version 2: `expand` is to be heeded. A worker that knows version 1 alone would prove the batch's manifest as if it were a witness; it
/// refuses the task instead. Everything else is written as version 1.
impl Versioned for TaskMessage {
    const VERSION: u32 = 2;
    const NAME: &'static str = "task";
    const READ_AS_IT_IS: u32 = 1;
    const LIMIT: usize = super::MAX_MESSAGE;

    fn version(&self) -> u32 {
        if self.expand { Self::VERSION } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: &str = r#"{"v":1,"id":"demo/1/e1/0123456789abcdef/0.0.0/a1c0","stage":"split","kind":"split","prover":"p",
        "pool":"trusted","class":"standard","inputs":[],"params":null,
        "block_hash":"0000000000000000000000000000000000000000000000000000000000000000","time_limit":1}"#;

    #[test]
    fn only_what_an_older_worker_would_take_for_something_else_has_the_new_version() {
        let task = TaskMessage::from_json(SPLIT).unwrap();
        assert_eq!(task.to_value()["v"], 1, "workers of before go on with what they can do");
        let batch = TaskMessage { expand: true, ..task };
        let sent = batch.to_value();
        assert_eq!(sent["v"], 2);
        assert_eq!(TaskMessage::from_value(sent), Ok(batch.clone()));
        // As the build before wrote it.
        let mut earlier = batch.to_value();
        earlier["v"] = 1.into();
        assert_eq!(TaskMessage::from_value(earlier), Ok(batch));
    }

    #[test]
    fn an_artifact_lies_under_the_pool_and_the_copy_that_makes_it() {
        let task = TaskMessage::from_json(&SPLIT.replace("\"trusted\"", "\"gpu\"")).unwrap();
        assert_eq!(task.artifact_key(), "artifacts/gpu/demo/1/e1/0123456789abcdef/0.0.0/a1c0");
        let copy = task.as_copy(2);
        assert_eq!(copy.artifact_key(), "artifacts/gpu/demo/1/e1/0123456789abcdef/0.0.0/a1c2");
        assert_eq!(copy.as_copy(0), task, "nothing else differs");
    }

    #[test]
    fn a_demoted_task_is_bulk_and_says_so() {
        let task = TaskMessage::from_json(SPLIT).unwrap();
        let demoted = task.clone().demoted();
        assert_eq!((demoted.class, demoted.demoted), (Class::Bulk, true));
        assert_eq!(TaskMessage { class: task.class, demoted: false, ..demoted }, task, "nothing else differs");
    }

    #[test]
    fn splits_verdicts_and_checks_are_for_the_trusted_pool() {
        let task = TaskMessage::from_json(SPLIT).unwrap();
        let check = Some(Check { reader: Node::new(2, 0, 0), slot: 1 });
        for (kind, check, is_trusted) in [
            (Kind::Split, None, true),
            (Kind::Verify, None, true),
            (Kind::Map, None, false),
            (Kind::Join, None, false),
            (Kind::Single, None, false),
            (Kind::Map, check, true),
            (Kind::Split, check, true),
        ] {
            let task = TaskMessage { kind, check, ..task.clone() };
            assert_eq!(task.is_trusted(), is_trusted, "{kind:?}, {check:?}");
        }
    }
}
