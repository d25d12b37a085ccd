//! What the drive loops work with: the ports, and what is configured.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use push0_core::chain::ChainConfig;
use push0_core::pipeline::PipelineFile;
use push0_core::transition::{Observer, Pair};
use push0_core::{ChainId, Millis, PipelineDigest, Pool};

use super::plans::Plans;
use crate::http::Ports;
use crate::metrics::Metrics;
use crate::port::{Blobs, Clock, Queue, Table};

/// Chains and pipelines as configured.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub chains: BTreeMap<ChainId, ChainConfig>,
    pub pipelines: BTreeMap<PipelineDigest, PipelineFile>,
}

impl Catalog {
    /// Every pool a configured stage runs in or moves its tasks to, and the trusted one.
    pub fn pools(&self) -> BTreeSet<Pool> {
        let stages = self.pipelines.values().flat_map(|file| &file.policy.stages);
        stages.flat_map(|stage| stage.pools().cloned()).chain([Pool::trusted()]).collect()
    }
}

/// SQS's counts are up to a minute old.
const QUIET: Millis = Millis::from_secs(60);

/// Clones share what they have read of what never changes.
#[derive(Clone)]
pub struct Context {
    pub queue: Arc<dyn Queue>,
    pub table: Arc<dyn Table>,
    pub blobs: Arc<dyn Blobs>,
    pub clock: Arc<dyn Clock>,
    pub catalog: Arc<Catalog>,
    /// What is measured, until the host hands it on.
    pub metrics: Arc<Metrics>,
    /// How far apart two looks are that must see the same before a task counts as lost; see [`push0_core::block::look`]. Longer than counts of
    /// queues may be out of date. None: nobody looks.
    pub quiet: Option<Millis>,
    /// When the process that the queues are in began, where they are in one: what was in hand before may have ended with it, so no worker
    /// was lost over it; see [`push0_core::record::Started::is_since`].
    pub began: Option<Millis>,
    /// Hears of what is decided on, where somebody listens: the simulator, the model checker.
    observer: Option<Arc<dyn Observer>>,
    /// Plan records read before.
    pub(super) plans: Arc<Plans>,
}

impl Context {
    pub fn new(
        queue: Arc<dyn Queue>,
        table: Arc<dyn Table>,
        blobs: Arc<dyn Blobs>,
        clock: Arc<dyn Clock>,
        catalog: Arc<Catalog>,
    ) -> Self {
        let (metrics, plans) = (Arc::default(), Arc::default());
        Self { queue, table, blobs, clock, catalog, metrics, quiet: Some(QUIET), began: None, observer: None, plans }
    }

    /// The same over other ports: for a function with a role of its own.
    pub fn with_ports(self, ports: Ports) -> Self {
        let Ports { queue, table, blobs } = ports;
        Self { queue, table, blobs, ..self }
    }

    pub fn with_quiet(self, quiet: Option<Millis>) -> Self {
        Self { quiet, ..self }
    }

    pub fn with_began(self, began: Option<Millis>) -> Self {
        Self { began, ..self }
    }

    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Something is about to be decided on.
    pub(super) fn observe<P: IntoIterator<Item = Pair>>(&self, pairs: impl FnOnce() -> P) {
        if let Some(observer) = &self.observer {
            pairs().into_iter().for_each(|pair| observer.met(pair));
        }
    }
}
