//! Running provers outside of any worker, and just as a worker runs them: for checking what was finalized, for judging a prover.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use push0_core::message::TaskMessage;
use push0_core::pipeline::ProverCommand;
use push0_core::{ErrorCode, ProverName};
use push0_runtime::port::{Clock, SystemClock};

use super::{Data, Failure, Job, Launcher, Onlooker, Prover as _, Provers, Watch};
use crate::task::{Limits, Proved, supervise};

/// One task at a time, on files. Sessions stay up between tasks; dropping it kills them.
pub struct Rig {
    provers: Provers,
    clock: Arc<dyn Clock>,
    limits: Limits,
    scratch: PathBuf,
    runs: u64,
}

impl Rig {
    /// `shim` as in [`crate::WorkerConfig`]. Outputs go below `scratch`, which is made absolute, and stay there.
    pub fn new(
        provers: BTreeMap<ProverName, ProverCommand>,
        shim: Vec<String>,
        scratch: &Path,
        limits: Limits,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(scratch)?;
        let scratch = scratch.canonicalize()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let warm = provers.len();
        let provers = Provers::new(Arc::new(provers), Launcher::new(shim)?, Arc::clone(&clock), warm);
        Ok(Self { provers, clock, limits, scratch, runs: 0 })
    }

    /// Shows everything that is seen of the provers.
    pub fn watched_by(mut self, onlooker: Arc<dyn Onlooker>) -> Self {
        self.provers.watched_by(onlooker);
        self
    }

    /// Runs a task on these files, whatever its message says of inputs, within its limits. When `stop` completes, the prover is told
    /// to stop, and killed if it does not within the grace.
    pub async fn run(
        &mut self,
        task: TaskMessage,
        inputs: &[PathBuf],
        stop: impl Future<Output = ()>,
    ) -> io::Result<Proved> {
        let dir = self.scratch.join(format!("run-{}", self.runs));
        self.runs += 1;
        std::fs::create_dir_all(dir.join("out"))?;
        let inputs = inputs.iter().cloned().map(Data::File).collect();
        let job = Job { task, inputs, dir: Some(dir) };
        let watch = Watch::detached(Arc::clone(&self.clock));
        let mut proving = pin!(supervise(&*self.clock, &self.limits, &job, &watch, &mut self.provers, || ()));
        Ok(tokio::select! {
            biased;
            () = stop => {
                watch.cancel();
                proving.await
            }
            proved = &mut proving => proved,
        })
    }

    /// Whether the prover of this task is here, offers its stage, and has the programs that the task pins; within the start limit.
    pub async fn ready(&mut self, task: &TaskMessage) -> Result<(), Failure> {
        let limit = self.limits.start_limit;
        let late = self.clock.sleep_until(self.clock.now().plus(limit));
        tokio::select! {
            biased;
            ready = self.provers.ready(task) => ready,
            () = late => {
                Err(Failure::retryable(ErrorCode::ProverNotReady.says(format!("it was not ready after {} ms", limit.0))))
            }
        }
    }

    /// Ends all sessions, giving each the chance to exit by itself.
    pub async fn close(&mut self) {
        self.provers.close().await;
    }
}
