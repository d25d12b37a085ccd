//! Workers: the real task protocol, with the simulator's prover, which a test can have wait.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use push0_core::message::{TaskMessage, work_queue};
use push0_core::record::Versioned as _;
use push0_core::{Class, Millis, Node, Pool, TaskId};
use push0_gpu_worker::lease::Leases;
use push0_gpu_worker::task::{self, Env, Limits, Settled, Store};
use push0_gpu_worker::{Failure, Health, Job, Outcome, Prover, Watch};
use push0_runtime::http::Ports;
use push0_runtime::port::Delivery;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Emulated, LEASE};
use crate::sim::prover;

/// What the provers of a test do, and did.
pub struct Script {
    /// Copies of the first attempt at a node that are not proven for now.
    held: watch::Sender<BTreeSet<(Node, u8)>>,
    runs: Mutex<Vec<Run>>,
    settled: Mutex<Vec<(TaskId, String, Settled)>>,
}

/// One run of a prover.
#[derive(Debug, Clone)]
pub struct Run {
    pub worker: String,
    pub task: TaskMessage,
    /// It was told to stop before it had proven anything.
    pub told_to_stop: bool,
}

impl Script {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { held: watch::Sender::default(), runs: Mutex::default(), settled: Mutex::default() })
    }

    pub fn hold(&self, node: Node, copy: u8) {
        self.held.send_modify(|held| _ = held.insert((node, copy)));
    }

    pub fn let_go(&self) {
        self.held.send_modify(BTreeSet::clear);
    }

    /// Every run, in the order of their beginnings.
    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of each delivery: the task, the worker, and how it was disposed of.
    pub fn settled(&self) -> Vec<(TaskId, String, Settled)> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(&self, worker: &str, task: &TaskMessage) -> usize {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(Run { worker: worker.to_owned(), task: task.clone(), told_to_stop: false });
        runs.len() - 1
    }
}

struct Scripted {
    worker: String,
    script: Arc<Script>,
}

#[async_trait]
impl Prover for Scripted {
    async fn prove(&mut self, job: &Job, watch: &Watch) -> Outcome {
        let number = self.script.begin(&self.worker, &job.task);
        let (mut held, id) = (self.script.held.subscribe(), &job.task.id);
        let is_let_go = held.wait_for(|held| !held.contains(&(id.node, id.copy)));
        tokio::select! {
            biased;
            _ = is_let_go => {}
            () = watch.cancelled() => {
                self.script.runs.lock().unwrap_or_else(PoisonError::into_inner)[number].told_to_stop = true;
                return Failure::retryable("told to stop").into();
            }
        }
        prover::prove(&job.task, &job.inputs, number as u64, false)
    }
}

/// A worker process, as far as tasks can see: what it has in hand, its leases, its announcements.
#[derive(Clone)]
pub struct Worker {
    env: Arc<Env>,
    script: Arc<Script>,
}

impl Emulated {
    /// A worker that takes nothing by itself; its leases, of so many milliseconds, are kept until the test is over.
    pub fn worker(&mut self, name: &str, pool: &str, lease_ms: u64, script: &Arc<Script>) -> Worker {
        let (Ports { queue, blobs, .. }, clock) =
            (self.ports_of(&format!("worker/{pool}")), self.context.clock.clone());
        let (starts, started) = task::starts();
        let leases = Leases::new(Millis(lease_ms));
        let env = Env {
            worker: name.parse().expect("a worker's id"),
            pool: pool.parse().expect("a pool"),
            queue: queue.clone(),
            blobs: blobs.clone(),
            clock: clock.clone(),
            leases: leases.clone(),
            store: Store::Memory,
            starts,
            limits: Limits::default(),
            health: Health::new("the emulator"),
        };
        let announcing = (queue.clone(), clock.clone());
        self.running.spawn(async move { leases.keep(&*queue, &*blobs, &*clock).await });
        self.running.spawn(async move { task::send_starts(started, &*announcing.0, &*announcing.1).await });
        Worker { env: Arc::new(env), script: script.clone() }
    }

    /// Has a worker take tasks by itself, so many of each class at a time, until the test is over.
    pub fn start(&mut self, worker: &Worker, slots: usize) {
        for class in Class::ALL {
            for _ in 0..slots {
                let worker = worker.clone();
                self.running.spawn(async move {
                    loop {
                        if let Some((work, delivery)) = worker.take(&[class], Millis(2_000)).await {
                            worker.settle(&work, delivery).await;
                        }
                    }
                });
            }
        }
    }
}

impl Worker {
    fn pool(&self) -> &Pool {
        &self.env.pool
    }

    /// The next task of the first of these classes that has one.
    async fn take(&self, classes: &[Class], wait: Millis) -> Option<(String, Delivery)> {
        for class in classes {
            let work = work_queue(self.pool(), *class);
            let taken = self.env.queue.receive(&work, 1, wait, LEASE).await.expect("the emulator answers");
            if let Some(delivery) = taken.into_iter().next() {
                return Some((work, delivery));
            }
        }
        None
    }

    async fn settle(&self, work: &str, delivery: Delivery) -> Settled {
        let task = TaskMessage::from_json(&delivery.body).expect("a task's message");
        let mut prover = Scripted { worker: self.env.worker.to_string(), script: self.script.clone() };
        let settled = task::handle(&self.env, work, delivery, &mut prover).await;
        let entry = (task.id, self.env.worker.to_string(), settled.clone());
        self.script.settled.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        settled
    }

    /// Takes one task, if there is one, and does what is to be done about it.
    pub async fn step(&self) -> Option<Settled> {
        let (work, delivery) = self.take(&Class::ALL, Millis(0)).await?;
        Some(self.settle(&work, delivery).await)
    }

    /// Takes one task that is there, and goes on with it in the background.
    pub async fn begin(&self) -> JoinSet<Settled> {
        let (work, delivery) = self.take(&Class::ALL, Millis(0)).await.expect("there is a task");
        let (worker, mut working) = (self.clone(), JoinSet::new());
        working.spawn(async move { worker.settle(&work, delivery).await });
        working
    }
}
