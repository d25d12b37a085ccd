//! The runs of one epoch where several provers prove a block: one a pipeline, and one more for each that begins anew.

use serde::{Deserialize, Serialize};

use super::{BlobRef, BlockRow, Disagreement, Says};
use crate::id::{BlockHash, Millis, PipelineDigest, Sha256, StageName};

/// Most runs of one epoch: a pipeline whose runs end badly is not begun anew beyond that.
pub const MAX_LANES: usize = 64;

/// A run of the block's epoch; its lane is its place in [`BlockRow::runs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    pub pipeline: PipelineDigest,
    /// The pipeline's name as it was configured: for people.
    pub name: StageName,
    pub state: LaneState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum LaneState {
    Proving,
    Proven(LaneProof),
    /// It ended in a bad proof or, `spoiled`, for what its `split` had stored; the pipeline began anew in a later lane.
    Redone {
        #[serde(default)]
        spoiled: bool,
        reason: String,
    },
    Failed {
        reason: String,
    },
    /// Told to stop, since the block does not need it.
    Stopped,
}

/// What a run's verified root says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneProof {
    pub proof: BlobRef,
    pub header: BlobRef,
    /// Digest of the proof's public statement, where its prover gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Sha256>,
    /// As `split` read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    pub at: Millis,
}

impl LaneState {
    pub fn name(&self) -> &'static str {
        match self {
            LaneState::Proving => "proving",
            LaneState::Proven(_) => "proven",
            LaneState::Redone { .. } => "begun anew",
            LaneState::Failed { .. } => "failed",
            LaneState::Stopped => "stopped",
        }
    }
}

impl Lane {
    pub fn new(name: StageName, pipeline: PipelineDigest) -> Self {
        Self { pipeline, name, state: LaneState::Proving }
    }

    pub fn is_proving(&self) -> bool {
        self.state == LaneState::Proving
    }

    pub fn proof(&self) -> Option<&LaneProof> {
        match &self.state {
            LaneState::Proven(proof) => Some(proof),
            LaneState::Proving | LaneState::Redone { .. } | LaneState::Failed { .. } | LaneState::Stopped => None,
        }
    }

    /// What its proof says, for comparison.
    pub fn says(&self, proof: &LaneProof) -> Says {
        Says { pipeline: self.name.clone(), outputs: proof.outputs, parent_hash: proof.parent_hash }
    }
}

impl BlockRow {
    /// Runs the current epoch has or had: their lanes are 0 and up.
    pub fn lanes(&self) -> u16 {
        self.runs.len().max(1) as u16
    }

    pub fn lane(&self, lane: u16) -> Option<&Lane> {
        self.runs.get(usize::from(lane))
    }

    /// The pipeline's latest run, of each pipeline in the order in which the chain lists them.
    pub fn latest_runs(&self) -> impl Iterator<Item = (u16, &Lane)> {
        let is_first = move |at: usize| !self.runs[..at].iter().any(|lane| lane.pipeline == self.runs[at].pipeline);
        let pipelines = (0..self.runs.len()).filter(move |at| is_first(*at)).map(|at| self.runs[at].pipeline);
        pipelines.filter_map(|pipeline| (0..).zip(&self.runs).filter(|(_, lane)| lane.pipeline == pipeline).last())
    }

    /// Every verified root of the epoch, in the order in which the chain lists the pipelines.
    pub fn proofs(&self) -> impl Iterator<Item = (&Lane, &LaneProof)> {
        self.latest_runs().filter_map(|(_, lane)| Some((lane, lane.proof()?)))
    }

    /// Of the pipelines that the block was proven by, if they are several, those whose provers give no `outputs`: of what they state nothing
    /// was compared but the parent.
    pub fn uncompared(&self) -> Vec<&Lane> {
        let proofs: Vec<(&Lane, &LaneProof)> = self.proofs().collect();
        let silent = proofs.iter().filter(|(_, proof)| proofs.len() > 1 && proof.outputs.is_none());
        silent.map(|(lane, _)| *lane).collect()
    }

    /// Somebody may be at work on it: its status says so, or one of its runs is left to finish.
    pub fn is_being_proven(&self) -> bool {
        self.status == super::BlockStatus::Proving || self.runs.iter().any(Lane::is_proving)
    }

    /// Its verified roots do not say the same.
    pub fn disagreement(&self) -> Option<Disagreement> {
        Disagreement::among(self.id(), self.proofs().map(|(lane, proof)| lane.says(proof)).collect())
    }
}
