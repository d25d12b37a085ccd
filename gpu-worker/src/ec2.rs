//! The worker on an EC2 instance: works only while the instance is in service, and leaves in order.
//!
//! [`run`] is [`crate::run`] around which the instance's life is watched ([`Imds`]) and its Auto Scaling group is answered
//! ([`LifecycleHooks`]):
//!
//! | the instance | the worker |
//! |---|---|
//! | is launched, or enters the warm pool | tests its provers, completes the launch hook (`ABANDON` and an error where the test failed) |
//! | is in service, or belongs to no group | takes work |
//! | is in the warm pool, on standby, detached, not seen yet | takes none; what is in hand finishes |
//! | gets a Spot notice | takes none; hands back at once what would not be done in the two minutes, later what is not |
//! | gets a rebalance recommendation | takes none; what is in hand finishes |
//! | is terminated, or goes back to the warm pool | drains, with heartbeats, and then completes the termination hook |
//!
//! Invariants:
//! - No receive before the provers were tested and the instance was seen in service.
//! - The termination hook is completed after the last report was sent or its task handed back.
//! - What cannot be read changes nothing ([`sight`]).

#[cfg(feature = "aws")]
mod autoscaling;
mod hooks;
mod self_test;
mod sight;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use push0_core::{ErrorCode, Millis};
use push0_runtime::port::{Blobs, Clock, Imds, Queue};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

use self::hooks::{beat, complete, while_beating};
use self::sight::Standing;
use crate::config::WorkerConfig;
use crate::slot::Phase;
use crate::worker::{WorkerError, Workshop};

#[cfg(feature = "aws")]
pub use self::autoscaling::{AutoScaling, Group};
pub use self::hooks::{Answer, Completion, Hook, LifecycleHooks, NoGroup};
pub(crate) use self::self_test::run as try_provers;
pub use self::self_test::{SelfTest, self_tests};

/// The instance this worker runs on.
pub struct Instance {
    pub imds: Arc<dyn Imds>,
    pub hooks: Arc<dyn LifecycleHooks>,
    pub self_tests: Vec<SelfTest>,
    pub rules: Rules,
}

#[derive(Debug, Clone)]
pub struct Rules {
    /// It belongs to a group: as long as that has not said where it wants the instance, no work is taken.
    pub has_group: bool,
    /// Whether a rebalance recommendation ends the taking of work.
    pub leaves_on_rebalance: bool,
    /// How long tasks in hand may go on when the group takes the instance out of service.
    pub drain: Millis,
    /// Between two looks at the metadata.
    pub look_every: Millis,
    /// Between two heartbeats of a hook that waits: well below its time-out.
    pub beat_every: Millis,
    /// How long completing a hook is tried; then its time-out decides.
    pub hook_patience: Millis,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            has_group: false,
            leaves_on_rebalance: true,
            drain: Millis::from_secs(3_600),
            look_every: Millis(2_000),
            beat_every: Millis::from_secs(30),
            hook_patience: Millis::from_secs(30),
        }
    }
}

/// Works while the instance is in service, until it is terminated or `shutdown` completes; then drains. As [`crate::run`] otherwise.
pub async fn run(
    config: WorkerConfig,
    instance: Instance,
    queue: Arc<dyn Queue>,
    blobs: Arc<dyn Blobs>,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let workshop = Workshop::open(config, queue, blobs, Arc::clone(&clock))?;
    let (seen, standing) = watch::channel(Standing::Unknown);
    let mut watching = JoinSet::new();
    watching.spawn(sight::watch(Arc::clone(&instance.imds), Arc::clone(&clock), instance.rules.clone(), seen));
    info!("no work is taken until the instance is seen in service");
    let (stop, stopped) = watch::channel(false);
    let completing = JoinSet::new();
    let life = Life { workshop: &workshop, instance: &instance, clock, standing, stopped, completing };
    let mut living = pin!(life.live());
    tokio::select! {
        biased;
        () = shutdown => {}
        ended = &mut living => return ended,
    }
    stop.send_replace(true);
    living.await
}

struct Life<'a> {
    workshop: &'a Workshop,
    instance: &'a Instance,
    clock: Arc<dyn Clock>,
    standing: watch::Receiver<Standing>,
    stopped: watch::Receiver<bool>,
    /// Launch hooks on the side: work need not wait for them.
    completing: JoinSet<()>,
}

/// What follows a time in service, or in the warm pool.
enum Next {
    Again,
    Over,
}

impl Life<'_> {
    async fn live(mut self) -> Result<(), WorkerError> {
        while let Next::Again = self.serve().await? {}
        Ok(())
    }

    /// From being launched, or taken out of the warm pool, to the end of that.
    async fn serve(&mut self) -> Result<Next, WorkerError> {
        let calls = |standing: &Standing| {
            matches!(standing, Standing::InService | Standing::Warmed | Standing::Terminated { .. })
        };
        let Some(standing) = self.until(calls).await else { return Ok(Next::Over) };
        if let Standing::Terminated { .. } = standing {
            self.complete(Hook::Termination, Completion::Continue).await;
            return Ok(Next::Over);
        }

        let mut provers = self.workshop.provers();
        let tests = &self.instance.self_tests;
        let (limits, scratch) = (&self.workshop.env().limits, self.workshop.scratch());
        let testing = self_test::run(tests, &mut provers, limits, scratch, &self.clock);
        let mut stopped = self.stopped.clone();
        let tested = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(Next::Over),
            tested = while_beating(self.beats(Hook::Launch), testing) => tested,
        };
        if let Err(failure) = tested {
            error!(code = %ErrorCode::SelfTestFailed, error = %failure, "no work is taken");
            self.complete(Hook::Launch, Completion::Abandon).await;
            return Err(failure);
        }
        let launched = self.complete(Hook::Launch, Completion::Continue);
        self.completing.spawn(launched);

        if standing == Standing::Warmed {
            // Its memory and its keys are wanted when it is started again; its processes may not outlive that.
            for mut provers in provers {
                provers.close().await;
            }
            let left = self.until(|standing| *standing != Standing::Warmed).await;
            return Ok(left.map_or(Next::Over, |_| Next::Again));
        }
        self.work(provers).await
    }

    /// Takes work as the instance's standing allows, until the group takes it out of service or the worker is stopped.
    async fn work(&mut self, provers: Vec<crate::prover::Provers>) -> Result<Next, WorkerError> {
        let (phase, phases) = watch::channel(Phase::Paused { by: None });
        let mut working = pin!(self.workshop.work(provers, phases));
        let mut beats = JoinSet::new();
        let mut was_aside = false;
        let (mut standing, mut stopped) = (self.standing.clone(), self.stopped.clone());
        loop {
            let now_standing = standing.borrow_and_update().clone();
            let is_stopped = *stopped.borrow_and_update();
            let goes = matches!(now_standing, Standing::Terminated { .. } | Standing::Warmed);
            let before = *phase.borrow();
            let after = self.phase(before, &now_standing, is_stopped);
            if after != before {
                if matches!((before, after), (Phase::Running | Phase::Paused { .. }, Phase::Draining { .. })) {
                    self.workshop.says_that_it_drains();
                }
                phase.send_replace(after);
            }
            if goes && beats.is_empty() {
                beats.spawn(self.beats(Hook::Termination));
            }
            // Back from standby, the group may wait as at the launch.
            if was_aside && now_standing == Standing::InService {
                let launched = self.complete(Hook::Launch, Completion::Continue);
                self.completing.spawn(launched);
            }
            was_aside = matches!(now_standing, Standing::Aside(_));
            tokio::select! {
                biased;
                ended = &mut working => {
                    ended?;
                    break;
                }
                Ok(()) = stopped.changed() => {}
                Ok(()) = standing.changed() => {}
            }
        }
        // The last heartbeat shall not come after the end.
        beats.shutdown().await;
        let last = self.standing.borrow().clone();
        if matches!(last, Standing::Terminated { .. } | Standing::Warmed) {
            self.complete(Hook::Termination, Completion::Continue).await;
        }
        let is_over = *self.stopped.borrow() || last != Standing::Warmed;
        Ok(if is_over { Next::Over } else { Next::Again })
    }

    /// What the slots are told. Once draining, a worker drains, and its time never grows.
    fn phase(&self, before: Phase, standing: &Standing, is_stopped: bool) -> Phase {
        let now = self.clock.now();
        let grace = is_stopped.then(|| now.plus(self.workshop.drain_grace()));
        let drain = matches!(standing, Standing::Terminated { .. } | Standing::Warmed)
            .then(|| now.plus(self.instance.rules.drain));
        let known = match before {
            Phase::Draining { until } => Some(until),
            Phase::Running | Phase::Paused { .. } => None,
        };
        match [grace, drain, known].into_iter().flatten().min() {
            Some(until) => Phase::Draining { until: standing.by().map_or(until, |by| by.min(until)) },
            None if *standing == Standing::InService => Phase::Running,
            None => Phase::Paused { by: standing.by() },
        }
    }

    /// The standing, once it is such; none if the worker is stopped before.
    async fn until(&mut self, is_such: impl FnMut(&Standing) -> bool) -> Option<Standing> {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            standing = self.standing.wait_for(is_such) => standing.ok().map(|standing| standing.clone()),
        }
    }

    fn beats(&self, hook: Hook) -> impl Future<Output = ()> + Send + 'static {
        beat(Arc::clone(&self.instance.hooks), hook, self.instance.rules.beat_every, Arc::clone(&self.clock))
    }

    fn complete(&self, hook: Hook, completion: Completion) -> impl Future<Output = ()> + Send + 'static {
        let hooks = Arc::clone(&self.instance.hooks);
        complete(hooks, hook, completion, self.instance.rules.hook_patience, Arc::clone(&self.clock))
    }
}
