//! A slot: one task being proven, one being fetched or waiting, and those before being stored and reported.
//!
//! The one that waits is given back as soon as the one being proven looks hung (half of a limit is used up) or the worker drains:
//! nothing is kept behind a prover that may never answer.

use std::pin::pin;
use std::sync::Arc;

use push0_core::{ErrorCode, Millis};
use push0_runtime::port::Clock;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, error, info, warn};

use crate::intake;
use crate::prover::Provers;
use crate::task::{self, Env, Prepared, Proved, Ready};

/// Finished tasks being stored and reported while the next is proven.
const FINISHING: usize = 2;

/// How long handing back may take after the grace, if nobody listens.
const HANDING_BACK: Millis = Millis(2_000);

/// Whether the worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// No new task; those in hand may finish until then.
    Draining {
        until: Millis,
    },
}

/// Completes, with the end of the grace, when the worker drains.
pub(crate) async fn draining(mut phase: watch::Receiver<Phase>) -> Millis {
    loop {
        if let Phase::Draining { until } = *phase.borrow_and_update() {
            return until;
        }
        if phase.changed().await.is_err() {
            // The worker itself is gone, and this with it at any moment.
            std::future::pending::<()>().await;
        }
    }
}

async fn grace_over(phase: watch::Receiver<Phase>, clock: &dyn Clock) {
    let until = draining(phase).await;
    clock.sleep_until(until).await;
}

pub(crate) struct Slot {
    pub(crate) env: Arc<Env>,
    pub(crate) queues: Arc<Vec<String>>,
    pub(crate) provers: Provers,
    pub(crate) prefetch: bool,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl Slot {
    /// Works until the worker drains.
    pub(crate) async fn run(mut self) {
        // What is left to do about tasks that are no longer proven here.
        let mut closing = JoinSet::new();
        let mut next: Option<Fetch> = None;
        loop {
            let mut fetch = next.take().unwrap_or_else(|| Fetch::start(&self.env, &self.queues));
            let current = tokio::select! {
                biased;
                _ = draining(self.phase.clone()) => {
                    closing.spawn(fetch.give_back(Arc::clone(&self.env)));
                    break;
                }
                fetched = fetch.wait() => match fetched {
                    Some(ready) => ready,
                    None => continue,
                },
            };
            let proved = self.prove(&current, &mut next, &mut closing).await;
            let env = Arc::clone(&self.env);
            closing.spawn(async move {
                match proved {
                    Some(proved) => task::finish(&env, &current, proved).await,
                    None => task::hand_back(&env, &current).await,
                };
            });
            while closing.len() > FINISHING {
                tokio::select! {
                    biased;
                    _ = closing.join_next() => {}
                    () = grace_over(self.phase.clone(), &*self.env.clock) => break,
                }
            }
        }
        tokio::select! {
            biased;
            () = async { while closing.join_next().await.is_some() {} } => {}
            () = grace_over(self.phase.clone(), &*self.env.clock) => {
                let limit = self.env.clock.now().plus(HANDING_BACK);
                tokio::select! {
                    biased;
                    () = async { while closing.join_next().await.is_some() {} } => {}
                    () = self.env.clock.sleep_until(limit) => {
                        warn!(code = %ErrorCode::LostTask, tasks = closing.len(), "stopped before all was reported: the tasks come again");
                    }
                }
            }
        }
        self.provers.close().await;
    }

    /// Proves the task while the next is fetched into `next`. Without an outcome the task is to be handed back.
    async fn prove(&mut self, current: &Ready, next: &mut Option<Fetch>, closing: &mut JoinSet<()>) -> Option<Proved> {
        let env = &*self.env;
        if self.prefetch && *self.phase.borrow() == Phase::Running {
            *next = Some(Fetch::start(&self.env, &self.queues));
        }
        let mut proving = pin!(task::prove(env, current, &mut self.provers));
        let mut suspect = pin!(task::until_suspect(env, current));
        let mut drain = pin!(draining(self.phase.clone()));
        let mut grace_over = pin!(grace_over(self.phase.clone(), &*env.clock));
        loop {
            tokio::select! {
                biased;
                proved = &mut proving => return Some(proved),
                () = &mut suspect, if next.is_some() => {
                    debug!(task = %current.task().id, "slow: nothing is kept waiting behind it");
                }
                _ = &mut drain, if next.is_some() => {}
                () = &mut grace_over => {
                    info!(task = %current.task().id, "the grace is over: task handed back");
                    return None;
                }
            }
            if let Some(fetch) = next.take() {
                closing.spawn(fetch.give_back(Arc::clone(&self.env)));
            }
        }
    }
}

/// The next task, being taken and its inputs fetched.
struct Fetch {
    task: JoinHandle<Option<Box<Ready>>>,
    stop: watch::Sender<bool>,
}

impl Fetch {
    fn start(env: &Arc<Env>, queues: &Arc<Vec<String>>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (env, queues) = (Arc::clone(env), Arc::clone(queues));
        let task = tokio::spawn(async move { fetch(&env, &queues, stopped).await });
        Self { task, stop }
    }

    async fn wait(&mut self) -> Option<Box<Ready>> {
        match (&mut self.task).await {
            Ok(fetched) => fetched,
            Err(error) => {
                error!(code = %ErrorCode::InvariantBroken, %error, "fetching a task failed");
                None
            }
        }
    }

    /// Stops it in order: what it has, or has in hand by then, is released.
    async fn give_back(mut self, env: Arc<Env>) {
        self.stop.send_replace(true);
        if let Some(ready) = self.wait().await {
            task::hand_back(&env, &ready).await;
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes messages until one is a task to be proven here; none once `stop` is true, and then nothing is left in hand.
async fn fetch(env: &Env, queues: &[String], mut stop: watch::Receiver<bool>) -> Option<Box<Ready>> {
    loop {
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return None,
            taken = async {
                task::until_room(env).await;
                intake::next(env, queues).await
            } => taken,
        };
        let held = env.leases.hold(&taken.queue, &taken.delivery.receipt);
        match task::prepare(env, held, &taken.delivery).await {
            Prepared::Ready(ready) => return Some(ready),
            Prepared::Settled(settled) => debug!(?settled, "not proven here"),
        }
    }
}
