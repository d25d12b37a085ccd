//! The notice `up` posts in the state table when it starts: what is configured, so that the other commands need no configuration of
//! their own and mean the same chains.

use push0_core::Millis;
use push0_core::ProverName;
use push0_core::chain::ChainConfig;
use push0_core::pipeline::{Pipeline, PipelineFile, Policy, ProverCommand};
use push0_core::record::Versioned;
use push0_core::retention::Retention;
use push0_runtime::drive::Catalog;
use push0_runtime::port::{Key, PortResult, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Versioned; key `push0`, `notice`. Written by each `up` when it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Of push0.
    pub version: String,
    pub pid: u32,
    pub started_at: Millis,
    pub chains: Vec<ChainConfig>,
    pub pipelines: Vec<PostedPipeline>,
    /// All queues, patterns written out.
    pub queues: Vec<String>,
    #[serde(default)]
    pub retention: Retention,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostedPipeline {
    pub pipeline: Pipeline,
    pub policy: Policy,
    pub provers: BTreeMap<ProverName, ProverCommand>,
}

impl Versioned for Notice {
    const VERSION: u32 = 1;
    const NAME: &'static str = "notice of push0 up";
}

fn key() -> Key {
    Key::new("push0", "notice")
}

impl Notice {
    pub fn new(catalog: &Catalog, queues: Vec<String>, retention: Retention, now: Millis) -> Self {
        let posted = |file: &PipelineFile| PostedPipeline {
            pipeline: file.pipeline.clone(),
            policy: file.policy.clone(),
            provers: file.provers.clone(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: now,
            chains: catalog.chains.values().cloned().collect(),
            pipelines: catalog.pipelines.values().map(posted).collect(),
            queues,
            retention,
        }
    }

    pub fn catalog(&self) -> Catalog {
        let files = self.pipelines.iter().map(|posted| PipelineFile {
            pipeline: posted.pipeline.clone(),
            policy: posted.policy.clone(),
            provers: posted.provers.clone(),
            // Each worker tries what it has.
            self_tests: BTreeMap::new(),
        });
        Catalog {
            chains: self.chains.iter().map(|config| (config.chain.clone(), config.clone())).collect(),
            pipelines: files.map(|file| (file.pipeline.digest(), file)).collect(),
        }
    }

    /// Takes the place of the last one; there is only one owner to write it.
    pub async fn post(&self, table: &dyn Table) -> PortResult<()> {
        let expected = table.get(&key()).await?.map(|row| row.version);
        table.put_if_version(&key(), self.to_value(), expected).await?;
        Ok(())
    }

    /// `None`: no `up` has ever run on this state, or one of another version.
    pub async fn read(table: &dyn Table) -> PortResult<Option<Self>> {
        let row = table.get(&key()).await?;
        Ok(row.and_then(|row| Self::from_value(row.doc()?.clone()).ok()))
    }
}
