//! Several provers a chain: which pipelines prove a block, and how many of them must.

use serde::{Deserialize, Serialize};

use super::ChainConfig;
use crate::id::{Epoch, Millis, PipelineDigest, StageName};
use crate::record::{BlockRow, Lane};

/// Most pipelines a chain lists.
pub const MAX_PIPELINES: usize = 8;

/// How a chain's pipelines share in its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provers {
    /// In the order in which their proofs are handed on; at least two.
    pub pipelines: Vec<NamedPipeline>,
    /// So many must have a verified root before a block is proven.
    pub quorum: u16,
    pub mode: Mode,
    pub rest: Rest,
    /// How long after its block is final a run may go on that the quorum did not need.
    pub rest_limit: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPipeline {
    pub name: StageName,
    pub digest: PipelineDigest,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every pipeline proves every block.
    #[default]
    Every,
    /// The pipelines take turns: each block is proven with one.
    Share,
}

/// What happens to a block's runs that are going on when the quorum is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// They go on: what they come to is compared with what was handed on.
    #[default]
    Finish,
    Stop,
}

impl Provers {
    /// Where the configuration says nothing: how long a run goes on that its block did not need.
    pub const REST_LIMIT: Millis = Millis::from_secs(60 * 60);
}

impl ChainConfig {
    /// All pipelines of the chain.
    pub fn pipelines(&self) -> Vec<PipelineDigest> {
        match &self.provers {
            Some(provers) => provers.pipelines.iter().map(|pipeline| pipeline.digest).collect(),
            None => vec![self.pipeline],
        }
    }

    /// What a block's one run is proven with, where it has one. Where pipelines take turns a run begun anew is the next one's.
    pub fn pipeline_of(&self, number: u64, epoch: Epoch) -> PipelineDigest {
        let Some(provers) = self.provers.as_ref().filter(|provers| provers.mode == Mode::Share) else {
            return self.pipeline;
        };
        let turn = number.wrapping_add(u64::from(epoch.0.saturating_sub(Epoch::FIRST.0)));
        let position = turn.checked_rem(provers.pipelines.len() as u64).unwrap_or(0);
        provers.pipelines.get(position as usize).map_or(self.pipeline, |pipeline| pipeline.digest)
    }

    /// Pins the runs of the block's epoch; none to pin where it has one.
    pub(super) fn pin_runs(&self, block: &mut BlockRow) {
        let Some(provers) = self.provers.as_ref().filter(|provers| provers.mode == Mode::Every) else {
            return;
        };
        let lane = |pipeline: &NamedPipeline| Lane::new(pipeline.name.clone(), pipeline.digest);
        block.runs = provers.pipelines.iter().map(lane).collect();
        block.quorum = provers.quorum.clamp(1, block.lanes());
        block.rest_limit = Some(provers.rest_limit);
        block.lanes_seen = block.lanes_seen.max(block.lanes());
    }
}

/// How long a run of the block may go on that its quorum did not need. Rows of before do not say: then as the chain is configured, if it
/// still has several pipelines.
pub fn rest_limit(block: &BlockRow, config: Option<&ChainConfig>) -> Millis {
    let configured = config.and_then(|config| config.provers.as_ref()).map(|provers| provers.rest_limit);
    block.rest_limit.or(configured).unwrap_or(Provers::REST_LIMIT)
}

/// Whether a run of a block is to be stopped: the block has been final for so long, with what other runs proved, that nobody waits for this
/// one any more.
pub fn is_left_over(block: &BlockRow, lane: u16, now: Millis, limit: Millis) -> bool {
    let is_unneeded = block.final_seq.is_some() && block.lane(lane).is_some_and(Lane::is_proving);
    is_unneeded && now >= block.changed_at.plus(limit)
}
