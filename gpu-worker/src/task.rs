//! One task, from its message to its acknowledgement.
//!
//! [`handle`] is the whole of it: [`prepare`] (look whether it is wanted, fetch its inputs), [`prove`], [`finish`] (store, report,
//! acknowledge). A worker's slot runs the three parts of different tasks at the same time; a simulator may call `handle`. All is
//! written against the ports and [`Prover`]; nothing here spawns or uses another clock than [`Env::clock`], and with
//! [`Store::Memory`] nothing touches the file system.
//!
//! Invariants:
//! - A message is acknowledged only after its report was sent, or after its run was seen stopped, or demoted before it was ever delivered.
//! - The artifact is stored before it is reported, under the task's own key, and never overwritten: what is reported is what is stored.
//! - After [`End::Lost`] nothing more is sent about the task.

mod fetch;
mod report;
mod upload;

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use push0_core::message::{FailureKind, Finding, ReportEvent, TaskMessage};
use push0_core::record::{
    BlobRef, MAX_BATCH, Manifest, Verdict, Versioned as _, clip_error, control_key, demoted_key, node_control_key,
};
use push0_core::{Class, ErrorCode, Millis, Pool, Sha256, WorkerId, pipeline::Kind};
use push0_runtime::port::{BlobInfo, Blobs, Clock, Delivery, PortError, Queue};
use tracing::{debug, error, info, warn};

use self::report::{acknowledge, release, send_report};
use crate::lease::{End, Held, Hold, Leases};
use crate::prover::{Failure, Job, Outcome, Output, Prover, Watch};
use crate::retry::{GaveUp, Health, persist};

pub use self::fetch::expand;
pub use self::report::{Starts, StartsToSend, send_starts, starts};

/// Everything a task needs around it.
pub struct Env {
    pub worker: WorkerId,
    /// The pool whose tasks this worker takes; a task of another is poison.
    pub pool: Pool,
    pub queue: Arc<dyn Queue>,
    pub blobs: Arc<dyn Blobs>,
    pub clock: Arc<dyn Clock>,
    pub leases: Arc<Leases>,
    pub store: Store,
    /// Where starts are announced; see [`send_starts`].
    pub starts: Starts,
    pub limits: Limits,
    pub health: Health,
}

/// Where inputs are put and outputs found.
#[derive(Debug, Clone)]
pub enum Store {
    /// Each task gets a directory under this one, which it loses at its end.
    Disk(PathBuf),
    Memory,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// A worker named in `avoid` takes the task all the same at this receive count; one named in `barred` never does.
    pub avoid_bound: u32,
    /// How long a task released for that stays hidden the first time; each further time twice as long.
    pub avoid_delay: Millis,
    /// How long a cancelled prover has before it is killed.
    pub cancel_grace: Millis,
    /// How long a prover may take to get ready.
    pub start_limit: Millis,
    /// Bytes.
    pub max_artifact: u64,
    /// Blocks of a batch.
    pub batch_blocks: usize,
    /// Bytes: the proofs and headers of a batch together.
    pub batch_bytes: u64,
    /// Segments uploaded at a time.
    pub uploads: usize,
    /// How long one receive waits for a task; see [`Limits::poll_on_sqs`].
    pub poll: Millis,
    /// Bytes: with less free than this in the scratch directory no task is taken, and what fails is not held against its task.
    pub scratch_reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            avoid_bound: 5,
            avoid_delay: Millis(300),
            cancel_grace: Millis(5_000),
            start_limit: Millis::from_secs(120),
            max_artifact: 1 << 30,
            batch_blocks: MAX_BATCH as usize,
            batch_bytes: 8 << 30,
            uploads: 8,
            poll: Millis::from_secs(20),
            scratch_reserve: 16 << 20,
        }
    }
}

impl Limits {
    /// What [`Limits::poll`] should be on SQS for a worker of so many queues.
    ///
    /// One queue: as long as can be, three requests a minute. Of several, all are waited on at once, so that none is behind another, and the
    /// first answer wins; the receives that lose cannot be taken back from SQS, and a message they get has to be handed back. So they are
    /// short: 2 s, 90 requests a minute for three queues, about $1.6 a month for a worker that idles all the time.
    pub fn poll_on_sqs(queues: usize) -> Millis {
        if queues > 1 { Millis::from_secs(2) } else { Millis::from_secs(20) }
    }
}

impl Env {
    /// Whether the disk of the scratch directory is as good as full.
    fn scratch_is_full(&self) -> bool {
        let Store::Disk(scratch) = &self.store else { return false };
        let Ok(disk) = nix::sys::statvfs::statvfs(scratch) else { return false };
        disk.blocks_available() * disk.fragment_size() < self.limits.scratch_reserve
    }
}

/// Completes when the scratch directory has room for a task.
pub(crate) async fn until_room(env: &Env) {
    let mut is_full = false;
    while env.scratch_is_full() {
        if !is_full {
            warn!(code = %ErrorCode::DiskFull, "the scratch directory has no room: no task is taken until it has");
            is_full = true;
        }
        env.clock.sleep_until(env.clock.now().plus(LOOK_AGAIN)).await;
    }
    if is_full {
        info!("the scratch directory has room again");
    }
}

/// Between two looks at a full disk.
const LOOK_AGAIN: Millis = Millis(1_000);

/// How long a task stays hidden that was handed back for want of room: time for another worker to be asked.
const NO_ROOM_DELAY: Millis = Millis(2_000);

/// From this receive on a task's start is announced before its prover gets it: without a start on record nobody knows that its workers end.
const SUSPICIOUS: u32 = 3;

/// How often the delay of a task that another worker shall take doubles: up to 64 times the first.
const AVOID_DOUBLINGS: u32 = 6;

/// How a delivery was disposed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Reported and acknowledged.
    Reported(ReportEvent),
    /// Its run was stopped: acknowledged.
    Stopped,
    /// Its run was demoted, and it waits in the queue of `bulk`: acknowledged, silently.
    LeftBehind,
    /// This worker shall not take it: released.
    Avoided,
    /// Handed back unproven.
    Released,
    /// The lease is over.
    Lost,
    /// The report could not be sent: not acknowledged, so it comes again.
    Unreported(String),
    /// Not a task of this pool: released, until the queue gives it up.
    Poison(String),
}

/// A task whose inputs are at hand.
pub struct Ready {
    pub job: Job,
    receives: u32,
    pub(crate) watch: Watch,
    _dir: Option<fetch::TaskDir>,
}

impl Ready {
    pub fn task(&self) -> &TaskMessage {
        &self.job.task
    }

    pub(crate) fn held(&self) -> &Held {
        &self.watch.held
    }
}

/// What [`prepare`] comes to.
pub enum Prepared {
    Ready(Box<Ready>),
    Settled(Settled),
}

/// What [`prove`] comes to.
#[derive(Debug)]
pub enum Proved {
    Outcome(Outcome),
    /// A limit of the stage was hit: the prover was killed, and this is what is reported.
    Hung(Failure),
    Ended(End),
}

/// The whole life of a delivery received from `queue`.
pub async fn handle(env: &Env, queue: &str, delivery: Delivery, prover: &mut dyn Prover) -> Settled {
    let held = env.leases.hold(queue, &delivery.receipt);
    match prepare(env, held, &delivery).await {
        Prepared::Settled(settled) => settled,
        Prepared::Ready(ready) => {
            let proved = prove(env, &ready, prover).await;
            finish(env, &ready, proved).await
        }
    }
}

/// Looks whether the task is to be proven by this worker at all, and fetches its inputs.
pub async fn prepare(env: &Env, held: Held, delivery: &Delivery) -> Prepared {
    held.is_of(delivery);
    let task = match decode(env, &delivery.body) {
        Ok(task) => task,
        Err(reason) => {
            error!(code = %ErrorCode::Poison, queue = %held.queue, message = %delivery.id, reason, "message is no task for this worker");
            release(env, &held, Millis::from_secs(1)).await;
            return Prepared::Settled(Settled::Poison(reason));
        }
    };
    let is_first_here = held.belongs_to(&task);

    let outcome = async {
        if is_stopped(env, &task, &held).await? || is_settled(env, &task, &held, delivery).await? {
            return Err(Turn::Ended(End::Stopped));
        }
        if is_left_behind(env, &task, &held, delivery.receive_count).await? {
            return Err(Turn::LeftBehind);
        }
        // What is to be avoided may be taken in the end; a second copy never is, nor what this worker is barred from: where that keeps coming
        // back the collector learns of it from the dead letters.
        let is_avoided = task.avoid.contains(&env.worker) && delivery.receive_count < env.limits.avoid_bound;
        if is_avoided || !is_first_here || task.barred.contains(&env.worker) {
            let doublings = delivery.receive_count.saturating_sub(1).min(AVOID_DOUBLINGS);
            return Err(Turn::Avoid(Millis(env.limits.avoid_delay.0 << doublings)));
        }
        if task.check.is_none()
            && let Some(event) = stored_earlier(env, &task, &held).await?
        {
            info!(task = %task.id, "already proven by an earlier delivery");
            return Err(Turn::Report(event));
        }
        let (inputs, dir) = fetch::inputs(env, &task, &held).await?;
        Ok((inputs, dir))
    };
    match outcome.await {
        Ok((inputs, dir)) => {
            let job = Job { task, inputs, dir: dir.as_ref().map(|dir| dir.path().to_owned()) };
            let watch = Watch::new(held, Arc::clone(&env.clock));
            let receives = delivery.receive_count;
            Prepared::Ready(Box::new(Ready { job, receives, watch, _dir: dir }))
        }
        Err(turn) => Prepared::Settled(settle(env, &task, &held, turn).await),
    }
}

/// Looks for the control blob, unless that was just done for another task of the run.
async fn is_stopped(env: &Env, task: &TaskMessage, held: &Hold) -> Result<bool, GaveUp> {
    let (run, asked) = (&task.id.run, env.clock.now());
    if env.leases.goes_on(run, asked) {
        return Ok(false);
    }
    let control = control_key(run);
    let is_stopped = persist(&*env.clock, &env.health, held, || env.blobs.head(&control)).await?.is_some();
    if !is_stopped {
        env.leases.saw_going_on(run, asked);
    }
    Ok(is_stopped)
}

/// Looks whether another copy was first, where that can be: not for the one copy that was sent, delivered for the first time.
async fn is_settled(env: &Env, task: &TaskMessage, held: &Hold, delivery: &Delivery) -> Result<bool, GaveUp> {
    let Some(copies) = task.copies else { return Ok(false) };
    if copies == 1 && task.id.copy == 0 && delivery.receive_count == 1 {
        return Ok(false);
    }
    let control = node_control_key(&task.id, &task.stage);
    let found = persist(&*env.clock, &env.health, held, || env.blobs.head(&control)).await?;
    Ok(found.is_some())
}

/// Whether the task's run was demoted and this is the message in the queue of before: there is another in that of `bulk`. One that was
/// delivered before may have been started, and then there is none.
async fn is_left_behind(env: &Env, task: &TaskMessage, held: &Hold, receive_count: u32) -> Result<bool, GaveUp> {
    let is_late = task.deadline.is_some_and(|deadline| env.clock.now() > deadline);
    let is_of_before = !task.demoted && task.class != Class::Bulk;
    // Of several copies one that is out counts as being worked on: none may vanish.
    let is_alone = task.id.copy == 0 && task.copies.is_none_or(|copies| copies == 1);
    if !is_late || !is_of_before || !is_alone || task.check.is_some() || receive_count > 1 {
        return Ok(false);
    }
    let marker = demoted_key(&task.id.run);
    Ok(persist(&*env.clock, &env.health, held, || env.blobs.head(&marker)).await?.is_some())
}

fn decode(env: &Env, body: &str) -> Result<TaskMessage, String> {
    let task = TaskMessage::from_json(body).map_err(|error| error.to_string())?;
    if task.pool != env.pool {
        return Err(format!("a task of pool {} in the queue of pool {}", task.pool, env.pool));
    }
    Ok(task)
}

/// Runs the prover, within the stage's limits and for as long as the task is this worker's.
pub async fn prove(env: &Env, ready: &Ready, prover: &mut dyn Prover) -> Proved {
    let (job, watch) = (&ready.job, &ready.watch);
    // What keeps coming back may end this worker before it has said that it began.
    if ready.receives >= SUSPICIOUS && job.task.check.is_none() {
        report::announce_now(env, &job.task, &watch.held).await;
    }
    let announce = || {
        if job.task.check.is_none() {
            env.starts.announce(env, &job.task, &watch.held);
        }
    };
    supervise(&*env.clock, &env.limits, job, watch, prover, announce).await
}

/// Gets the prover ready and has it prove, within the worker's and the stage's limits, until the watch says stop. `announce` is called
/// when it is given the task.
pub(crate) async fn supervise(
    clock: &dyn Clock,
    limits: &Limits,
    job: &Job,
    watch: &Watch,
    prover: &mut dyn Prover,
    announce: impl FnOnce(),
) -> Proved {
    let task = &job.task;
    let start_by = clock.now().plus(limits.start_limit);
    match bounded(clock, limits, watch, prover.ready(task), || start_by).await {
        Bounded::Done(Ok(())) => {}
        Bounded::Done(Err(failure)) => return Proved::Outcome(failure.into()),
        Bounded::Ended(end) => return Proved::Ended(end),
        Bounded::Late => {
            let limit = limits.start_limit.0;
            let what = format!("the prover was not ready after {limit} ms and was killed");
            return Proved::Hung(killed(prover, ErrorCode::ProverNotReady.says(what)));
        }
    }

    let progress_limit = task.progress_limit.filter(|_| prover.shows_progress(task));
    watch.begin(task.time_limit, progress_limit);
    debug!(task = %task.id, stage = %task.stage, "proving");
    announce();
    let deadline = || watch.deadline(1).unwrap_or(start_by);
    match bounded(clock, limits, watch, prover.prove(job, watch), deadline).await {
        Bounded::Done(outcome) => Proved::Outcome(outcome),
        Bounded::Ended(end) => Proved::Ended(end),
        Bounded::Late => {
            let ran = watch.begun().map_or(Millis(0), |begun| clock.now().since(begun.at));
            let why = match progress_limit {
                Some(limit) if ran < task.time_limit => format!("silent for {} ms, its progress limit", limit.0),
                _ => format!("still running after {} ms, its time limit", task.time_limit.0),
            };
            info!(task = %task.id, ran_ms = ran.0, why, "prover killed");
            Proved::Hung(killed(prover, ErrorCode::ProverTooSlow.says(format!("the prover was killed: {why}"))))
        }
    }
}

fn killed(prover: &dyn Prover, what: String) -> Failure {
    match prover.last_words() {
        words if words.is_empty() => Failure::retryable(what),
        words => Failure::retryable(format!("{what}\n{words}")),
    }
}

/// Completes when the prover has used half of a limit: nothing else should wait behind it then.
pub(crate) async fn until_suspect(env: &Env, ready: &Ready) {
    let ready_by = env.clock.now().plus(Millis(env.limits.start_limit.0 / 2));
    tokio::select! {
        biased;
        () = ready.watch.until_begun() => {}
        () = env.clock.sleep_until(ready_by) => return,
    }
    while let Some(at) = ready.watch.deadline(2).filter(|at| *at > env.clock.now()) {
        env.clock.sleep_until(at).await;
    }
}

enum Bounded<T> {
    Done(T),
    Ended(End),
    Late,
}

/// Drives `work` until it is done, past its (moving) deadline, or given up after its task ended and the cancel grace is over.
async fn bounded<T>(
    clock: &dyn Clock,
    limits: &Limits,
    watch: &Watch,
    work: impl Future<Output = T>,
    deadline: impl Fn() -> Millis,
) -> Bounded<T> {
    let mut work = pin!(work);
    let end = loop {
        tokio::select! {
            biased;
            end = watch.held.until_ended() => break end,
            done = &mut work => return Bounded::Done(done),
            () = clock.sleep_until(deadline()) => {
                if clock.now() >= deadline() {
                    return Bounded::Late;
                }
            }
        }
    };
    tokio::select! {
        biased;
        _ = work => {}
        () = clock.sleep_until(clock.now().plus(limits.cancel_grace)) => {}
    }
    Bounded::Ended(end)
}

/// Stores what the prover made, reports it, and only then acknowledges.
pub async fn finish(env: &Env, ready: &Ready, proved: Proved) -> Settled {
    let (task, held) = (ready.task(), ready.held());
    let turn = match proved {
        Proved::Ended(end) => Turn::Ended(end),
        Proved::Hung(failure) | Proved::Outcome(Outcome::Failed(failure)) => Turn::Failed(failure),
        Proved::Outcome(Outcome::Done(Output::Verdict { verdict, message, .. })) if task.check.is_some() => {
            let is_sound = verdict == Verdict::Ok;
            Turn::Report(checked(task, if is_sound { Finding::Sound } else { Finding::Unsound }, message))
        }
        Proved::Outcome(Outcome::Done(output)) => match upload::output(env, task, held, output).await {
            Ok(event) => Turn::Report(event),
            Err(turn) => turn,
        },
    };
    settle(env, task, held, turn).await
}

/// Hands the task back as it came.
pub(crate) async fn hand_back(env: &Env, ready: &Ready) -> Settled {
    release(env, ready.held(), Millis(0)).await;
    Settled::Released
}

/// What ends the work on a task early.
enum Turn {
    Ended(End),
    /// It waits elsewhere.
    LeftBehind,
    /// Another worker shall take it, within this long.
    Avoid(Millis),
    Failed(Failure),
    /// The backend lets this worker not do what every worker has to.
    Refused(PortError),
    Report(ReportEvent),
}

/// How long a worker takes nothing more that the backend refuses, and a task it handed back for that stays hidden: time for other workers
/// to be asked, and for rights to arrive that were granted a moment ago.
const REFUSED_DELAY: Millis = Millis(10_000);

/// Whether it is this worker's rights or configuration, and no task's fault.
fn is_refusal(error: &PortError) -> bool {
    matches!(error.code(), ErrorCode::AwsForbids | ErrorCode::AwsNotConfigured | ErrorCode::NotDeployed)
}

impl From<Failure> for Turn {
    fn from(failure: Failure) -> Self {
        Turn::Failed(failure)
    }
}

impl From<GaveUp> for Turn {
    fn from(gave_up: GaveUp) -> Self {
        match gave_up {
            GaveUp::Ended(end) => Turn::Ended(end),
            GaveUp::Failed(error) if is_refusal(&error) => Turn::Refused(error),
            GaveUp::Failed(error) => {
                let (_, message) = ErrorCode::split(error.message());
                let what = format!("the worker's storage failed: {message}");
                Turn::Failed(Failure::retryable(error.code().says(what)))
            }
        }
    }
}

async fn settle(env: &Env, task: &TaskMessage, held: &Hold, turn: Turn) -> Settled {
    match turn {
        Turn::Ended(end) => settle_end(env, task, held, end).await,
        Turn::LeftBehind => {
            debug!(task = %task.id, "its block was demoted: it waits in the bulk queue");
            acknowledge(env, held).await;
            Settled::LeftBehind
        }
        Turn::Avoid(delay) => {
            debug!(task = %task.id, "another worker shall take it");
            release(env, held, delay).await;
            Settled::Avoided
        }
        Turn::Report(event) => send_report(env, task, held, event).await,
        // An idle worker is asked first: one that is refused everything would use up every task's attempts within seconds.
        Turn::Refused(error) => {
            error!(code = %error.code(), task = %task.id, %error, "this worker is refused what it needs: task handed back");
            release(env, held, REFUSED_DELAY).await;
            env.clock.sleep_until(env.clock.now().plus(REFUSED_DELAY)).await;
            Settled::Released
        }
        // Neither the task nor its prover need be at fault: this worker's disk is.
        Turn::Failed(failure) if failure.kind == FailureKind::Retryable && env.scratch_is_full() => {
            let (code, message) = (ErrorCode::DiskFull, failure.message);
            warn!(%code, task = %task.id, message, "no room in the scratch directory: task handed back");
            release(env, held, NO_ROOM_DELAY).await;
            Settled::Released
        }
        // A check that failed is no failure of the task that is checked: it only found nothing out.
        Turn::Failed(failure) if task.check.is_some() => {
            info!(task = %task.id, message = failure.message, "check came to nothing");
            send_report(env, task, held, checked(task, Finding::Unknown, Some(failure.message))).await
        }
        Turn::Failed(Failure { kind, message, children }) => {
            // The collector warns of it, where an operator looks.
            info!(task = %task.id, ?kind, message, "task failed");
            let event = ReportEvent::Failed { kind, message: clip_error(&message), children };
            send_report(env, task, held, event).await
        }
    }
}

/// What a check found.
fn checked(task: &TaskMessage, finding: Finding, message: Option<String>) -> ReportEvent {
    let (check, artifact) = (task.check.as_ref(), task.inputs.first());
    ReportEvent::Checked {
        reader: check.map_or(task.id.node, |check| check.reader),
        slot: check.map_or(0, |check| check.slot),
        artifact: artifact.map_or(Sha256([0; 32]), |artifact| artifact.sha256),
        finding,
        message: message.map(|message| clip_error(&message)),
    }
}

async fn settle_end(env: &Env, task: &TaskMessage, held: &Hold, end: End) -> Settled {
    match end {
        End::Lost => {
            info!(task = %task.id, "lease lost, task dropped");
            Settled::Lost
        }
        End::Stopped => {
            info!(task = %task.id, "stopped, task dropped: its run is over, or another copy was first");
            acknowledge(env, held).await;
            Settled::Stopped
        }
    }
}

/// What an earlier delivery of this very task has stored completely.
async fn stored_earlier(env: &Env, task: &TaskMessage, held: &Hold) -> Result<Option<ReportEvent>, Turn> {
    let key = match task.kind {
        Kind::Verify => return Ok(None),
        Kind::Split => upload::manifest_key(task),
        Kind::Map | Kind::Join | Kind::Single => task.artifact_key(),
    };
    let Some(info) = persist(&*env.clock, &env.health, held, || env.blobs.head(&key)).await? else {
        return Ok(None);
    };
    own(task, &info)?;
    if task.kind != Kind::Split {
        return Ok(Some(ReportEvent::Done { artifact: blob_ref(info) }));
    }
    let bytes = persist(&*env.clock, &env.health, held, || env.blobs.get(&key)).await?;
    let manifest = bytes.and_then(|bytes| Manifest::from_json(&String::from_utf8_lossy(&bytes)).ok());
    let Some(manifest) = manifest else {
        return Err(Turn::Failed(Failure::retryable(
            ErrorCode::SplitDamaged.says(format!("{key} is stored but is no manifest")),
        )));
    };
    Ok(Some(upload::split_event(blob_ref(info), manifest)))
}

/// Fails where something else than this task has written under its key. The next attempt has a key of its own, so that is no reason to
/// give the block up.
fn own(task: &TaskMessage, info: &BlobInfo) -> Result<(), Failure> {
    if info.writer == task.id.to_string() {
        return Ok(());
    }
    let message =
        format!("{} was written by {:?}, which is not this task: somebody else uses its key", info.key, info.writer);
    Err(Failure::retryable(ErrorCode::FalseReport.says(message)))
}

fn blob_ref(info: BlobInfo) -> BlobRef {
    BlobRef { key: info.key, sha256: info.sha256, size: info.size }
}
