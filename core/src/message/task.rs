//! `work-{pool}-{class}`: one task for a worker, with all it needs to know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{BlockHash, Class, Millis, Pool, ProverName, Sha256, StageName, TaskId, WorkerId};
use crate::pipeline::Kind;
use crate::record::BlobRef;
use crate::record::codec::versioned;

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
    pub params: Value,
    pub block_hash: BlockHash,
    pub time_limit: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_limit: Option<Millis>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<WorkerId>,
}

impl TaskMessage {
    /// Where the artifact goes: under the pool's own prefix, so that a worker can be held to it. `split` writes below this key
    /// (`…/manifest`, `…/header`, `…/pages/000`, `…/segments/000000`).
    pub fn artifact_key(&self) -> String {
        format!("artifacts/{}/{}", self.pool, self.id)
    }
}

versioned! { TaskMessage = 1, "task"; }
