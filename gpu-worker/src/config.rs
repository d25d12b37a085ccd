//! What a worker is told: data, checked where it is read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use push0_core::pipeline::ProverCommand;
use push0_core::{Class, Millis, Pool, ProverName, WorkerId};
use push0_runtime::port::{Blobs, Queue};

use crate::ec2::SelfTest;
use crate::gpu;
use crate::task::Limits;

#[derive(Clone)]
pub struct WorkerConfig {
    pub id: WorkerId,
    pub pool: Pool,
    /// The classes whose tasks are taken.
    pub classes: Vec<Class>,
    /// Tasks proven at a time; each slot has provers of its own. With GPUs there are as many as those.
    pub slots: usize,
    /// Whether there is a slot for each GPU.
    pub gpus: Option<gpu::Rules>,
    /// What the provers of a slot must do before it is brought back whose device failed.
    pub self_tests: Vec<SelfTest>,
    pub provers: BTreeMap<ProverName, ProverCommand>,
    /// Inputs and outputs of the tasks in hand are below `{scratch}/{id}`, which is emptied at the start.
    pub scratch: PathBuf,
    /// How long a task stays this worker's without a sign of life.
    pub lease: Millis,
    /// The command that runs [`crate::shim_main`], such as `[push0, shim, --]`.
    pub shim: Vec<String>,
    /// Sessions a slot keeps at a time, where its tasks want several provers.
    pub warm_sessions: usize,
    /// Whether the next task is fetched while one is proven.
    pub prefetch: bool,
    /// Of so many tasks taken in a row one at least is of each less urgent class that waits; 0: of none while a more urgent one waits.
    pub turn_every: u32,
    /// How long a slot that has done an urgent task waits for another before it begins a less urgent one.
    pub linger: Millis,
    /// How long the tasks in hand may go on when the worker is told to stop; then they are handed back.
    pub drain_grace: Millis,
    pub limits: Limits,
    /// Clients that only the lease thread uses, where the usual ones depend on the main runtime to make progress (HTTP connections).
    pub lease_client: Option<(Arc<dyn Queue>, Arc<dyn Blobs>)>,
}

impl WorkerConfig {
    /// One slot, all classes, and the defaults.
    pub fn new(id: WorkerId, pool: Pool, provers: BTreeMap<ProverName, ProverCommand>, scratch: PathBuf) -> Self {
        Self {
            id,
            pool,
            classes: Class::ALL.to_vec(),
            slots: 1,
            gpus: None,
            self_tests: Vec::new(),
            provers,
            scratch,
            lease: Millis::from_secs(15),
            shim: Vec::new(),
            warm_sessions: 1,
            prefetch: true,
            turn_every: 16,
            linger: Millis(50),
            drain_grace: Millis::from_secs(60),
            limits: Limits::default(),
            lease_client: None,
        }
    }
}
