//! The worker process: slots, the lease thread, starting and draining.
//!
//! Threads: the caller's runtime runs the slots; one thread of the worker's own keeps the leases, so that no load on the runtime can
//! starve them; one starts the provers ([`crate::prover::Launcher`]). Both end with [`run`].

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use push0_core::message::work_queue;
use push0_core::pipeline::ProverCommand;
use push0_core::{Millis, ProverName};
use push0_runtime::port::{Blobs, Clock, Queue};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::config::WorkerConfig;
use crate::gpu::{self, Gpu, Gpus};
use crate::intake::Intake;
use crate::lease::Leases;
use crate::pace::Paces;
use crate::prover::{Launcher, Provers};
use crate::retry::Health;
use crate::slot::{self, Phase, Slot};
use crate::task::{Env, Store, send_starts, starts};

/// Why a worker could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot use the scratch directory {path}: {source}")]
    Scratch { path: PathBuf, source: std::io::Error },
    #[error("another worker named {id} runs in the scratch directory {path}: give this one another id")]
    Taken { id: String, path: PathBuf },
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("no GPU can be used: {0}")]
    NoGpu(String),
    /// Of an EC2 instance: it would fail every task.
    #[error("{prover} failed its self-test, so that no task is taken: {message}")]
    SelfTest { prover: ProverName, message: String },
    /// A defect; the tasks in hand come again when their leases end.
    #[error("a slot of the worker panicked: {0}")]
    Panicked(String),
}

/// Works until `shutdown` completes, then drains: no new tasks, what waits goes back at once, what is being proven may finish within
/// the grace. Needs a tokio runtime. Dropping the future kills the provers; the tasks in hand come again when their leases end.
pub async fn run(
    config: WorkerConfig,
    queue: Arc<dyn Queue>,
    blobs: Arc<dyn Blobs>,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let drain_grace = config.drain_grace;
    let workshop = Workshop::open(config, queue, blobs, Arc::clone(&clock))?;
    let (phase, phases) = watch::channel(Phase::Running);
    let mut working = pin!(workshop.work(workshop.provers(), phases));
    tokio::select! {
        biased;
        () = shutdown => {}
        ended = &mut working => return ended,
    }
    workshop.says_that_it_drains();
    phase.send_replace(Phase::Draining { until: clock.now().plus(drain_grace) });
    working.await
}

/// All that a worker has beside the tasks themselves: its directory, the threads that start provers and keep leases, its clients.
pub(crate) struct Workshop {
    config: WorkerConfig,
    commands: Arc<BTreeMap<ProverName, ProverCommand>>,
    launcher: Launcher,
    env: Arc<Env>,
    intake: Arc<Intake>,
    paces: Arc<Paces>,
    gpus: Option<Gpus>,
    scratch: PathBuf,
    _lock: File,
    _lease_thread: LeaseThread,
    _background: JoinSet<()>,
}

impl Workshop {
    pub(crate) fn open(
        config: WorkerConfig,
        queue: Arc<dyn Queue>,
        blobs: Arc<dyn Blobs>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WorkerError> {
        let gpus = find_gpus(&config)?;
        let (scratch, lock) = own_scratch(&config)?;
        let launcher = Launcher::new(config.shim.clone()).map_err(WorkerError::Thread)?;
        let leases = Leases::new(config.lease);
        let lease_client = config.lease_client.clone().unwrap_or_else(|| (Arc::clone(&queue), Arc::clone(&blobs)));
        let lease_thread =
            keep_leases(Arc::clone(&leases), lease_client, Arc::clone(&clock)).map_err(WorkerError::Thread)?;
        let (starts, started) = starts();
        let env = Arc::new(Env {
            worker: config.id.clone(),
            pool: config.pool.clone(),
            queue: Arc::clone(&queue),
            blobs,
            clock,
            leases,
            store: Store::Disk(scratch.clone()),
            starts,
            limits: config.limits.clone(),
            health: Health::new("queues and blobs"),
        });
        let mut background = JoinSet::new();
        let announcing = Arc::clone(&env.clock);
        background.spawn(async move { send_starts(started, &*queue, &*announcing).await });
        let intake = Arc::new(Intake::new(queues(&config), config.turn_every));
        let slots = gpus.as_ref().map_or(config.slots, |gpus| gpus.devices().count());
        info!(worker = %config.id, pool = %config.pool, slots, queues = ?intake.queues(), "worker is up");
        Ok(Self {
            commands: Arc::new(config.provers.clone()),
            config,
            launcher,
            env,
            intake,
            paces: Arc::default(),
            gpus,
            scratch,
            _lock: lock,
            _lease_thread: lease_thread,
            _background: background,
        })
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(crate) fn drain_grace(&self) -> Millis {
        self.config.drain_grace
    }

    /// Each slot's own, none started yet.
    pub(crate) fn provers(&self) -> Vec<Provers> {
        let new = |launcher| {
            let (commands, clock) = (Arc::clone(&self.commands), Arc::clone(&self.env.clock));
            Provers::new(commands, launcher, clock, self.config.warm_sessions)
        };
        match &self.gpus {
            Some(gpus) => {
                gpus.devices().map(|device| new(self.launcher.clone().on(Arc::new(device.clone())))).collect()
            }
            None => std::iter::repeat_with(|| new(self.launcher.clone())).take(self.config.slots.max(1)).collect(),
        }
    }

    /// What the slots have in the order of their provers.
    fn devices(&self) -> impl Iterator<Item = Option<slot::OnDevice>> {
        let on = |(gpu, rules): (Gpu, &gpu::Rules)| slot::OnDevice {
            gpu,
            rules: rules.clone(),
            tests: self.config.self_tests.clone(),
        };
        let gpus = self.gpus.as_ref().map(Gpus::slots).unwrap_or_default().into_iter();
        gpus.zip(self.config.gpus.iter().cycle()).map(on).map(Some).chain(std::iter::repeat_with(|| None))
    }

    pub(crate) fn says_that_it_drains(&self) {
        info!(worker = %self.config.id, in_hand = self.env.leases.count(), "draining");
    }

    /// Works, a slot for each of `provers`, until the phase is draining and everything is handed back or reported.
    pub(crate) async fn work(&self, provers: Vec<Provers>, phase: watch::Receiver<Phase>) -> Result<(), WorkerError> {
        let mut slots = JoinSet::new();
        for (provers, device) in provers.into_iter().zip(self.devices()) {
            let slot = Slot {
                env: Arc::clone(&self.env),
                intake: Arc::clone(&self.intake),
                provers,
                device,
                prefetch: self.config.prefetch,
                linger: self.config.linger,
                phase: phase.clone(),
                paces: Arc::clone(&self.paces),
            };
            slots.spawn(slot.run());
        }
        while let Some(ended) = slots.join_next().await {
            ended.map_err(|error| WorkerError::Panicked(error.to_string()))?;
        }
        info!(worker = %self.config.id, "worker is down");
        Ok(())
    }
}

/// Those of this machine, where they are wanted.
fn find_gpus(config: &WorkerConfig) -> Result<Option<Gpus>, WorkerError> {
    let Some(rules) = &config.gpus else { return Ok(None) };
    match Gpus::find(rules) {
        Ok(gpus) => Ok(Some(gpus)),
        Err(why) if rules.demanded => Err(WorkerError::NoGpu(why)),
        Err(why) => {
            info!(why, slots = config.slots, "no GPU is used");
            Ok(None)
        }
    }
}

/// The work queues of the pool, the most urgent first.
fn queues(config: &WorkerConfig) -> Vec<String> {
    let mut classes = config.classes.clone();
    classes.sort_unstable();
    classes.dedup();
    classes.into_iter().map(|class| work_queue(&config.pool, class)).collect()
}

/// Makes `{scratch}/{id}` this worker's, and empties it. The lock goes with the process.
fn own_scratch(config: &WorkerConfig) -> Result<(PathBuf, File), WorkerError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WorkerError::Scratch { path, source }
    };
    std::fs::create_dir_all(&config.scratch).map_err(failed(&config.scratch))?;
    // Provers are told absolute paths.
    let scratch = config.scratch.canonicalize().map_err(failed(&config.scratch))?;
    let lock_path = scratch.join(format!("{}.lock", config.id));
    let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(WorkerError::Taken { id: config.id.to_string(), path: scratch });
        }
        Err(TryLockError::Error(error)) => return Err(failed(&lock_path)(error)),
    }
    let own = scratch.join(config.id.as_str());
    match std::fs::remove_dir_all(&own) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&own)(error)),
    }
    std::fs::create_dir_all(&own).map_err(failed(&own))?;
    Ok((own, lock))
}

/// Ends the lease thread when dropped.
struct LeaseThread(#[expect(dead_code, reason = "held for its drop")] watch::Sender<()>);

fn keep_leases(
    leases: Arc<Leases>,
    (queue, blobs): (Arc<dyn Queue>, Arc<dyn Blobs>),
    clock: Arc<dyn Clock>,
) -> std::io::Result<LeaseThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (running, mut ended) = watch::channel(());
    std::thread::Builder::new().name("push0-leases".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = ended.changed() => {}
                () = leases.keep(&*queue, &*blobs, &*clock) => {}
            }
        });
    })?;
    Ok(LeaseThread(running))
}
