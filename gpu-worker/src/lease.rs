//! Leases on the tasks in hand: who may still finish what.
//!
//! Every delivery the worker has (being fetched, waiting, being proven, being uploaded) is a [`Hold`] in [`Leases`]; [`Leases::keep`]
//! extends each every third of the lease and looks for the control blob of its run, and of its node where others may be at it. The two ways a hold ends from outside are an
//! [`End`]: whoever works on the task sees it through [`Hold::until_ended`].
//!
//! This is the first of the two clocks, liveness. The second, the progress bound and the time limit, ends a run of the prover in
//! [`crate::task::prove`]; it never touches the lease.
//!
//! A backend that cannot be reached ends nothing: the work goes on, and whether the lease was lost is learnt when it answers again.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::{Either, join_all, select};
use push0_core::message::{Handout, TaskMessage};
use push0_core::record::{control_key, node_control_key};
use push0_core::{Millis, RunId, TaskId};
use push0_runtime::port::{Blobs, Clock, Delivery, ErrorKind, PortError, PortResult, Queue};
use tokio::sync::watch;
use tracing::{debug, info};

use crate::retry::Health;

/// Shortest pause between two beats.
const SHORTEST_BEAT: Millis = Millis(50);

/// Pause after a beat that failed.
const FAILED_BEAT: Millis = Millis(500);

/// Why a task in hand is no longer this worker's to finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The lease is over: the message is, or will be, somebody else's. It is neither reported nor acknowledged.
    Lost,
    /// The run was stopped, or another copy of the task was first: the message is acknowledged, nothing is reported.
    Stopped,
}

/// One delivery in hand.
#[derive(Debug)]
pub struct Hold {
    pub queue: String,
    pub receipt: String,
    task: OnceLock<Of>,
    handout: OnceLock<Handout>,
    end: watch::Sender<Option<End>>,
}

/// The task of a delivery.
#[derive(Debug)]
struct Of {
    id: TaskId,
    /// The control blob of its node, where others may be at the same attempt.
    node_control: Option<String>,
}

impl Hold {
    fn new(queue: &str, receipt: &str) -> Self {
        let end = watch::Sender::new(None);
        Self {
            queue: queue.to_owned(),
            receipt: receipt.to_owned(),
            task: OnceLock::new(),
            handout: OnceLock::new(),
            end,
        }
    }

    fn run(&self) -> Option<&RunId> {
        self.task.get().map(|of| &of.id.run)
    }

    /// Remembers which delivery it is.
    pub(crate) fn is_of(&self, delivery: &Delivery) {
        let _ = self.handout.set(Handout { sent_at: delivery.sent_at, receives: delivery.receive_count });
    }

    pub(crate) fn handout(&self) -> Option<Handout> {
        self.handout.get().copied()
    }

    /// The first end counts.
    pub(crate) fn end(&self, end: End) {
        self.end.send_if_modified(|now| match now {
            Some(_) => false,
            None => {
                *now = Some(end);
                true
            }
        });
    }

    pub fn ended(&self) -> Option<End> {
        *self.end.borrow()
    }

    pub async fn until_ended(&self) -> End {
        let mut ends = self.end.subscribe();
        let end = ends.wait_for(Option::is_some).await.map(|end| *end);
        end.ok().flatten().expect("the sender is borrowed, and the condition is that there is an end")
    }
}

/// The deliveries in hand.
#[derive(Debug)]
pub struct Leases {
    lease: Millis,
    held: Mutex<InHand>,
}

#[derive(Debug, Default)]
struct InHand {
    next: u64,
    holds: BTreeMap<u64, Arc<Hold>>,
    /// Runs that were not stopped when they were last looked at, which was not longer ago than a beat, or soon forgotten.
    going_on: BTreeMap<RunId, Millis>,
}

/// A [`Hold`] that is kept as long as this lives.
#[derive(Debug)]
pub struct Held {
    leases: Arc<Leases>,
    number: u64,
    hold: Arc<Hold>,
}

impl Deref for Held {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.hold
    }
}

impl Held {
    /// Says whose control blobs to look for; unknown until the message is read. False: another copy of the task is in hand here.
    pub(crate) fn belongs_to(&self, task: &TaskMessage) -> bool {
        let node_control = task.copies.map(|_| node_control_key(&task.id, &task.stage));
        // One after the other: of two that come at the same time one is first.
        let held = self.leases.lock();
        let is_copy = |other: &TaskId| {
            let same = (&other.run, other.node, other.attempt) == (&task.id.run, task.id.node, task.id.attempt);
            same && other.copy != task.id.copy
        };
        if held.holds.values().any(|hold| hold.task.get().is_some_and(|of| is_copy(&of.id))) {
            return false;
        }
        let _ = self.hold.task.set(Of { id: task.id.clone(), node_control });
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leases.lock().holds.remove(&self.number);
    }
}

impl Leases {
    pub fn new(lease: Millis) -> Arc<Self> {
        Arc::new(Self { lease, held: Mutex::default() })
    }

    /// Length of a lease.
    pub fn lease(&self) -> Millis {
        self.lease
    }

    fn lock(&self) -> MutexGuard<'_, InHand> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the lease of a delivery just received.
    pub fn hold(self: &Arc<Self>, queue: &str, receipt: &str) -> Held {
        let hold = Arc::new(Hold::new(queue, receipt));
        let mut held = self.lock();
        let number = held.next;
        held.next += 1;
        held.holds.insert(number, Arc::clone(&hold));
        Held { leases: Arc::clone(self), number, hold }
    }

    /// Between two beats.
    fn period(&self) -> Millis {
        Millis((self.lease.0 / 3).max(SHORTEST_BEAT.0))
    }

    /// Whether the run was seen going on within a beat's time: what a task in hand knows of its run, too.
    pub(crate) fn goes_on(&self, run: &RunId, now: Millis) -> bool {
        self.lock().going_on.get(run).is_some_and(|seen| now.since(*seen) < self.period())
    }

    /// It was looked for at this time, and was not stopped.
    pub(crate) fn saw_going_on(&self, run: &RunId, at: Millis) {
        let period = self.period();
        let mut held = self.lock();
        held.going_on.retain(|_, seen| at.since(*seen) < period);
        held.going_on.insert(run.clone(), at);
    }

    /// How many deliveries are in hand.
    pub fn count(&self) -> usize {
        self.lock().holds.len()
    }

    /// Beats for ever, every third of the lease. Run it where no load can starve it.
    pub async fn keep(&self, queue: &dyn Queue, blobs: &dyn Blobs, clock: &dyn Clock) {
        let health = Health::new("leases");
        let period = self.period();
        loop {
            let all_well = self.beat(queue, blobs, clock, &health).await;
            let pause = if all_well { period } else { period.min(FAILED_BEAT) };
            clock.sleep_until(clock.now().plus(pause)).await;
        }
    }

    /// One beat: extends every lease and looks for control blobs. False where the backend did not answer.
    pub(crate) async fn beat(&self, queue: &dyn Queue, blobs: &dyn Blobs, clock: &dyn Clock, health: &Health) -> bool {
        let holds: Vec<Arc<Hold>> = self.lock().holds.values().cloned().collect();
        let limit = clock.now().plus(self.period());
        let extended = join_all(holds.iter().map(|hold| self.extend(hold, queue, clock, limit, health)));
        let looked = self.look_for_stops(&holds, blobs, clock, limit, health);
        let (extended, looked) = futures::join!(extended, looked);
        extended.into_iter().all(|well| well) && looked
    }

    async fn extend(&self, hold: &Hold, queue: &dyn Queue, clock: &dyn Clock, limit: Millis, health: &Health) -> bool {
        if hold.ended() == Some(End::Lost) {
            return true;
        }
        match within(clock, limit, queue.extend(&hold.queue, &hold.receipt, self.lease)).await {
            Ok(()) => health.well(),
            Err(error) if error.kind() == ErrorKind::Fenced => {
                debug!(queue = %hold.queue, run = ?hold.run(), "lease lost");
                hold.end(End::Lost);
            }
            Err(error) => {
                health.trouble(&error);
                return false;
            }
        }
        true
    }

    /// Looks once for each run in hand, and for each node where others may be at the same.
    async fn look_for_stops(
        &self,
        holds: &[Arc<Hold>],
        blobs: &dyn Blobs,
        clock: &dyn Clock,
        limit: Millis,
        health: &Health,
    ) -> bool {
        let mut by_run: BTreeMap<&RunId, Vec<&Arc<Hold>>> = BTreeMap::new();
        for hold in holds.iter().filter(|hold| hold.ended().is_none()) {
            if let Some(run) = hold.run() {
                by_run.entry(run).or_default().push(hold);
            }
        }
        let looks = by_run.into_iter().map(|(run, holds)| async move {
            let asked = clock.now();
            match within(clock, limit, blobs.head(&control_key(run))).await {
                Ok(None) => {
                    self.saw_going_on(run, asked);
                    true
                }
                Ok(Some(_)) => {
                    info!(%run, tasks = holds.len(), "run was stopped");
                    holds.iter().for_each(|hold| hold.end(End::Stopped));
                    true
                }
                Err(error) => {
                    health.trouble(&error);
                    false
                }
            }
        });
        let of_node = |hold: &&Arc<Hold>| hold.task.get().and_then(|of| of.node_control.clone());
        let nodes = holds.iter().filter(|hold| hold.ended().is_none()).filter_map(|hold| Some((hold, of_node(&hold)?)));
        let nodes = nodes.map(|(hold, control)| async move {
            match within(clock, limit, blobs.head(&control)).await {
                Ok(None) => true,
                Ok(Some(_)) => {
                    info!(control, "another copy was first");
                    hold.end(End::Stopped);
                    true
                }
                Err(error) => {
                    health.trouble(&error);
                    false
                }
            }
        });
        let (runs, nodes) = futures::join!(join_all(looks), join_all(nodes));
        runs.into_iter().chain(nodes).all(|well| well)
    }
}

/// A call that has not answered by `limit` is as good as failed.
async fn within<T>(clock: &dyn Clock, limit: Millis, call: impl Future<Output = PortResult<T>>) -> PortResult<T> {
    match select(pin!(call), clock.sleep_until(limit)).await {
        Either::Left((answer, _)) => answer,
        Either::Right(((), _)) => Err(PortError::unknown("no answer in time")),
    }
}
