//! A slot: one task being proven, one being fetched or waiting, and those before being stored and reported.
//!
//! The one that waits is given back as soon as the one being proven looks hung (half of a limit is used up) or no new work is to be
//! taken: nothing is kept behind a prover that may never answer.

use std::pin::pin;
use std::sync::Arc;

use push0_core::{ErrorCode, Millis};
use push0_runtime::port::Clock;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, error, info, warn};

use crate::ec2::SelfTest;
use crate::gpu::{self, Gpu};
use crate::intake::{Intake, Place, Taken};
use crate::pace::Paces;
use crate::prover::Provers;
use crate::task::{self, Env, Prepared, Proved, Ready};

/// Finished tasks being stored and reported while the next is proven.
const FINISHING: usize = 2;

/// How long handing back may take after the grace, if nobody listens.
const HANDING_BACK: Millis = Millis(2_000);

/// How long a task that is handed back waits for the slot's own next receive to be over, which would only take it again.
const LET_GO: Millis = Millis(50);

/// Between two looks at whether the task being proven can still be done in time.
const ESTIMATE_AGAIN: Millis = Millis(500);

/// Whether the worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// No new task for now; those in hand may finish, until then where a time is set.
    Paused {
        by: Option<Millis>,
    },
    /// No new task ever; those in hand may finish until then.
    Draining {
        until: Millis,
    },
}

impl Phase {
    /// When the tasks in hand are handed back.
    fn limit(self) -> Option<Millis> {
        match self {
            Phase::Running => None,
            Phase::Paused { by } => by,
            Phase::Draining { until } => Some(until),
        }
    }
}

/// Completes when a phase is such; never if the worker itself is gone, and this with it at any moment.
async fn until(mut phase: watch::Receiver<Phase>, is_such: impl Fn(Phase) -> bool) {
    if phase.wait_for(|phase| is_such(*phase)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Completes when no new work is to be taken.
async fn closed(phase: watch::Receiver<Phase>) {
    until(phase, |phase| phase != Phase::Running).await;
}

/// Completes when the time of the tasks in hand is over. The time may change until then.
async fn time_is_up(mut phase: watch::Receiver<Phase>, clock: &dyn Clock) {
    loop {
        let limit = phase.borrow_and_update().limit();
        if limit.is_some_and(|limit| clock.now() >= limit) {
            return;
        }
        tokio::select! {
            biased;
            changed = phase.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = clock.sleep_until(limit.unwrap_or_default()), if limit.is_some() => {}
        }
    }
}

/// The device that a slot's provers work with, and what it must do once it has failed.
pub(crate) struct OnDevice {
    pub(crate) gpu: Gpu,
    pub(crate) rules: gpu::Rules,
    pub(crate) tests: Vec<SelfTest>,
}

impl OnDevice {
    /// Completes, with what is reported of the task in hand, when the device fails.
    async fn failed(device: Option<&Self>) -> Proved {
        match device {
            Some(Self { gpu, .. }) => gpu.blame(&gpu.failed().await, "the prover was killed"),
            None => std::future::pending().await,
        }
    }

    fn is_sound(device: Option<&Self>) -> bool {
        device.is_none_or(|device| device.gpu.failure().is_none())
    }
}

pub(crate) struct Slot {
    pub(crate) env: Arc<Env>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) provers: Provers,
    pub(crate) device: Option<OnDevice>,
    pub(crate) prefetch: bool,
    pub(crate) linger: Millis,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) paces: Arc<Paces>,
}

impl Slot {
    /// Works until the worker drains.
    pub(crate) async fn run(mut self) {
        // What is left to do about tasks that are no longer proven here.
        let mut closing = JoinSet::new();
        let mut next: Option<Fetch> = None;
        let mut last: Option<Place> = None;
        loop {
            let phase = *self.phase.borrow();
            if phase != Phase::Running {
                if let Some(fetch) = next.take() {
                    closing.spawn(fetch.give_back(Arc::clone(&self.env)));
                }
                if matches!(phase, Phase::Draining { .. }) {
                    break;
                }
                until(self.phase.clone(), |phase| !matches!(phase, Phase::Paused { .. })).await;
                continue;
            }
            if !OnDevice::is_sound(self.device.as_ref()) {
                if let Some(fetch) = next.take() {
                    closing.spawn(fetch.give_back(Arc::clone(&self.env)));
                }
                self.mend().await;
                continue;
            }
            let ahead = next.take();
            let was_ahead = ahead.is_some();
            let mut fetch = ahead.unwrap_or_else(|| Fetch::start(&self.env, &self.intake));
            let fetched = tokio::select! {
                biased;
                () = closed(self.phase.clone()) => {
                    closing.spawn(fetch.give_back(Arc::clone(&self.env)));
                    continue;
                }
                _ = OnDevice::failed(self.device.as_ref()) => {
                    closing.spawn(fetch.give_back(Arc::clone(&self.env)));
                    continue;
                }
                fetched = fetch.wait() => match fetched {
                    Some(ready) => ready,
                    None => continue,
                },
            };
            let Fetched { ready: current, place } = self.unless_more_urgent(fetched, was_ahead, last, &mut next).await;
            self.intake.begins(place);
            last = Some(place);
            let mut receiving = None;
            let mut proved = self.prove(&current, &mut next, &mut receiving, &mut closing).await;
            if let Some(device) = &mut self.device
                && let Some(judged) = proved.take()
            {
                proved = Some(device.gpu.judge(judged, &*self.env.clock).await);
            }
            let env = Arc::clone(&self.env);
            closing.spawn(async move {
                match (proved, receiving) {
                    (Some(proved), _) => task::finish(&env, &current, proved).await,
                    (None, None) => task::hand_back(&env, &current).await,
                    (None, Some(receiving)) => {
                        tokio::select! {
                            biased;
                            () = receiving.closed() => {}
                            () = env.clock.sleep_until(env.clock.now().plus(LET_GO)) => {}
                        }
                        task::hand_back(&env, &current).await
                    }
                };
            });
            while closing.len() > FINISHING {
                tokio::select! {
                    biased;
                    _ = closing.join_next() => {}
                    () = time_is_up(self.phase.clone(), &*self.env.clock) => break,
                }
            }
        }
        tokio::select! {
            biased;
            () = async { while closing.join_next().await.is_some() {} } => {}
            () = time_is_up(self.phase.clone(), &*self.env.clock) => {
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

    /// Completes when the device of this slot has passed its test, or no work is to be taken any more.
    async fn mend(&mut self) {
        let Some(OnDevice { gpu, rules, tests }) = &mut self.device else { return };
        tokio::select! {
            biased;
            () = closed(self.phase.clone()) => {}
            () = gpu::until_passed(gpu, rules, tests, &mut self.provers, &self.env) => {}
        }
    }

    /// What is to be proven now: the task that was fetched, or a more urgent one that has come since; then the other is the next.
    async fn unless_more_urgent(
        &self,
        fetched: Fetched,
        was_ahead: bool,
        last: Option<Place>,
        next: &mut Option<Fetch>,
    ) -> Fetched {
        let is_after_urgent = last.is_some_and(|last| last.is_more_urgent_than(fetched.place));
        if !was_ahead && !is_after_urgent {
            return fetched;
        }
        let linger = if is_after_urgent { self.linger } else { Millis(0) };
        match more_urgent(&self.env, &self.intake, fetched.place, linger).await {
            None => fetched,
            Some(urgent) => {
                *next = Some(Fetch::of(fetched));
                urgent
            }
        }
    }

    /// Proves the task while the next is fetched into `next`, unless it is there, or else given back: then `receiving` is closed when that is over. Without
    /// an outcome the task is to be handed back.
    async fn prove(
        &mut self,
        current: &Ready,
        next: &mut Option<Fetch>,
        receiving: &mut Option<watch::Sender<bool>>,
        closing: &mut JoinSet<()>,
    ) -> Option<Proved> {
        let env = &*self.env;
        if self.prefetch && next.is_none() && *self.phase.borrow() == Phase::Running {
            *next = Some(Fetch::start(&self.env, &self.intake));
        }
        let device = self.device.as_ref();
        let mut failed = pin!(OnDevice::failed(device));
        let mut proving = pin!(task::prove(env, current, &mut self.provers));
        let mut suspect = pin!(task::until_suspect(env, current));
        let mut closed = pin!(closed(self.phase.clone()));
        let mut hopeless = pin!(hopeless(self.phase.clone(), &self.paces, current, &*env.clock));
        loop {
            tokio::select! {
                biased;
                proved = &mut proving => {
                    self.paces.learn(current, &proved, env.clock.now());
                    return Some(proved);
                }
                // What it was proving is dropped, and with it the prover.
                failed = &mut failed => return Some(failed),
                () = &mut suspect, if next.is_some() => {
                    debug!(task = %current.task().id, "slow: nothing is kept waiting behind it");
                }
                () = &mut closed, if next.is_some() => {}
                why = &mut hopeless => {
                    info!(task = %current.task().id, "{why}: task handed back");
                    return None;
                }
            }
            if let Some(fetch) = next.take() {
                *receiving = Some(fetch.stop.clone());
                closing.spawn(fetch.give_back(Arc::clone(&self.env)));
            }
        }
    }
}

/// Completes, with the reason, when the task being proven will not be done within the time that tasks in hand have: either the time is
/// over, or what is known of its pace says so, and another worker should begin now rather than then.
async fn hopeless(
    mut phase: watch::Receiver<Phase>,
    paces: &Paces,
    current: &Ready,
    clock: &dyn Clock,
) -> &'static str {
    loop {
        let (limit, now) = (phase.borrow_and_update().limit(), clock.now());
        if let Some(limit) = limit {
            if now >= limit {
                return "the grace is over";
            }
            if paces.remaining(current, now).is_some_and(|left| now.plus(left) > limit) {
                return "it would not be done in the time that is left";
            }
        }
        let again = now.plus(ESTIMATE_AGAIN).min(limit.unwrap_or_default());
        tokio::select! {
            biased;
            changed = phase.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = clock.sleep_until(again), if limit.is_some() => {}
        }
    }
}

/// A task to be proven here.
struct Fetched {
    ready: Box<Ready>,
    place: Place,
}

/// The next task, being taken and its inputs fetched.
struct Fetch {
    task: JoinHandle<Option<Fetched>>,
    stop: watch::Sender<bool>,
}

impl Fetch {
    fn start(env: &Arc<Env>, intake: &Arc<Intake>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (env, intake) = (Arc::clone(env), Arc::clone(intake));
        let task = tokio::spawn(async move { fetch(&env, &intake, stopped).await });
        Self { task, stop }
    }

    /// One that was fetched already, and is put off.
    fn of(fetched: Fetched) -> Self {
        let (stop, _) = watch::channel(false);
        Self { task: tokio::spawn(std::future::ready(Some(fetched))), stop }
    }

    async fn wait(&mut self) -> Option<Fetched> {
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
        if let Some(fetched) = self.wait().await {
            task::hand_back(&env, &fetched.ready).await;
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes messages until one is a task to be proven here; none once `stop` is true, and then nothing is left in hand.
async fn fetch(env: &Arc<Env>, intake: &Intake, mut stop: watch::Receiver<bool>) -> Option<Fetched> {
    loop {
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return None,
            taken = async {
                task::until_room(env).await;
                intake.next(env).await
            } => taken,
        };
        if let Some(fetched) = prepare(env, taken).await {
            return Some(fetched);
        }
    }
}

/// A task that goes before one that was fetched ahead: it has come since, and is more urgent.
async fn more_urgent(env: &Arc<Env>, intake: &Intake, than: Place, linger: Millis) -> Option<Fetched> {
    loop {
        let taken = intake.instead_of(env, than, linger).await?;
        if let Some(fetched) = prepare(env, taken).await {
            return Some(fetched);
        }
    }
}

async fn prepare(env: &Env, taken: Taken) -> Option<Fetched> {
    let held = env.leases.hold(&taken.queue, &taken.delivery.receipt);
    match task::prepare(env, held, &taken.delivery).await {
        Prepared::Ready(ready) => Some(Fetched { ready, place: taken.place }),
        Prepared::Settled(settled) => {
            debug!(?settled, "not proven here");
            None
        }
    }
}
