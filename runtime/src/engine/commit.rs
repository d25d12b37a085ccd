//! Combining: how requests from many callers become one transaction.
//!
//! A caller pushes its request and tries the store's lock. Whoever gets it commits everybody's pending requests in one transaction
//! and answers them; who does not get it waits to be answered. No thread of its own, no hop between threads on the quiet path, and
//! under load (or while a power-safe commit waits for the disk) the next batch gathers behind the lock.
//!
//! Invariants:
//! - A request checks all its conditions before its first write, so a refused one has written nothing and its neighbours in the
//!   transaction are untouched. If SQLite itself fails, the whole batch is rolled back and each of its requests fails.
//! - Nobody is answered before the commit.
//! - A pending request always has somebody who will commit it: the holder of the lock looks again after letting go, and when it
//!   leaves with requests still pending it wakes one of their owners, whose next poll (or drop) takes over.
//! - No lock is held across an await.
//!
//! Who commits a batch that hands messages to waiting receives lets those run before it goes on itself: they have waited, and on a busy
//! executor the one that was woken last, on the same thread, would otherwise only run when this one next has to wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};

use push0_core::{ErrorCode, Millis};
use rusqlite::Connection;

use super::room::Trouble;
use super::waiting::{Queues, Woken};
use crate::port::{Clock, ErrorKind, PortError, PortResult};

/// Why a request did not do what it was asked.
pub(super) enum Failure {
    /// The request is refused and has written nothing.
    Refused(PortError),
    /// The database failed: nothing of the batch stands.
    Storage(rusqlite::Error),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Failure::Refused(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Storage(error)
    }
}

/// What a request works on while its batch runs.
pub(super) struct Batch<'a> {
    pub(super) db: &'a Connection,
    pub(super) now: Millis,
    pub(super) queues: &'a mut Queues,
}

struct Store {
    db: Connection,
    queues: Queues,
    trouble: Trouble,
}

/// The one connection, the one mutex, and the requests waiting for it.
pub(super) struct Combiner {
    pending: Mutex<Vec<Box<dyn Pending>>>,
    store: Mutex<Store>,
    clock: Arc<dyn Clock>,
    /// Called after a batch was committed, without the lock.
    committed: Box<dyn Fn() + Send + Sync>,
}

trait Pending: Send {
    /// Whether it is a single SELECT.
    fn is_read(&self) -> bool;
    fn execute(&mut self, batch: &mut Batch<'_>) -> Result<(), rusqlite::Error>;
    /// Hands the answer (or the batch's failure) to the owner and returns whom to wake.
    fn answer(&mut self, failure: Option<&PortError>) -> Option<Waker>;
    /// Whom to wake so that its owner takes over.
    fn owner(&self) -> Option<Waker>;
}

struct Answer<T> {
    value: Option<PortResult<T>>,
    waker: Option<Waker>,
}

type Slot<T> = Arc<Mutex<Answer<T>>>;

struct Request<T, F> {
    is_read: bool,
    work: Option<F>,
    result: Option<PortResult<T>>,
    slot: Slot<T>,
}

impl<T: Send, F> Pending for Request<T, F>
where
    F: FnOnce(&mut Batch<'_>) -> Result<T, Failure> + Send,
{
    fn is_read(&self) -> bool {
        self.is_read
    }

    fn execute(&mut self, batch: &mut Batch<'_>) -> Result<(), rusqlite::Error> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.result = Some(match work(batch) {
            Ok(value) => Ok(value),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Storage(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(&mut self, failure: Option<&PortError>) -> Option<Waker> {
        let result = match failure {
            Some(error) => Err(error.clone()),
            None => self.result.take().unwrap_or_else(|| Err(PortError::unknown("the request was not run"))),
        };
        let mut slot = lock(&self.slot);
        slot.value = Some(result);
        slot.waker.take()
    }

    fn owner(&self) -> Option<Waker> {
        lock(&self.slot).waker.clone()
    }
}

/// A panic while a lock was held leaves the data consistent here: the transaction is rolled back before the next begins.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Combiner {
    pub(super) fn new(
        db: Connection,
        queues: Queues,
        clock: Arc<dyn Clock>,
        committed: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            pending: Mutex::default(),
            store: Mutex::new(Store { db, queues, trouble: Trouble::default() }),
            clock,
            committed,
        }
    }

    pub(super) fn now(&self) -> Millis {
        self.clock.now()
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Runs `work` in a batch; the future completes after the commit. Dropping the future does not take the request back once it
    /// was polled.
    pub(super) fn submit<T, F>(self: &Arc<Self>, work: F) -> Submitted<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.request(work, false)
    }

    /// The same for `work` that is a single SELECT and touches no queue: alone, it needs no transaction.
    pub(super) fn submit_read<T, F>(self: &Arc<Self>, work: F) -> Submitted<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.request(work, true)
    }

    fn request<T, F>(self: &Arc<Self>, work: F, is_read: bool) -> Submitted<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let slot: Slot<T> = Arc::new(Mutex::new(Answer { value: None, waker: None }));
        let request = Box::new(Request { is_read, work: Some(work), result: None, slot: slot.clone() });
        Submitted { combiner: self.clone(), slot, request: Some(request), finished: false, owes_a_turn: false }
    }

    /// Runs `work` in a batch without anybody waiting for its answer.
    pub(super) fn submit_detached<F>(self: &Arc<Self>, work: F)
    where
        F: FnOnce(&mut Batch<'_>) -> Result<(), Failure> + Send + 'static,
    {
        let slot: Slot<()> = Arc::new(Mutex::new(Answer { value: None, waker: None }));
        lock(&self.pending).push(Box::new(Request { is_read: false, work: Some(work), result: None, slot }));
        self.drain(|| false);
    }

    /// Runs `work` now, waiting for the lock: for setting up, not for the data path.
    pub(super) fn blocking<T>(&self, work: impl FnOnce(&mut Batch<'_>) -> Result<T, Failure>) -> PortResult<T> {
        let mut store = lock(&self.store);
        let Store { db, queues, .. } = &mut *store;
        let mut result = None;
        let outcome = in_transaction(db, || {
            let mut batch = Batch { db, now: self.clock.now(), queues };
            result = Some(match work(&mut batch) {
                Err(Failure::Storage(error)) => return Err(error),
                Err(Failure::Refused(error)) => Err(error),
                Ok(value) => Ok(value),
            });
            Ok(())
        });
        drop(store);
        self.drain(|| false);
        outcome?;
        result.unwrap_or_else(|| Err(PortError::unknown("the request was not run")))
    }

    /// Commits what is pending, as long as the lock can be had at once; with `done`, leaves the rest to one of its owners. Says whether
    /// it woke a receive that had waited.
    fn drain(&self, done: impl Fn() -> bool) -> bool {
        let mut has_served = false;
        loop {
            let mut store = match self.store.try_lock() {
                Ok(store) => store,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return has_served,
            };
            let batch = std::mem::take(&mut *lock(&self.pending));
            if !batch.is_empty() {
                let has_written = batch.iter().any(|request| !request.is_read());
                let Woken { served, others } = store.commit(batch, self.clock.now());
                drop(store);
                if has_written {
                    (self.committed)();
                }
                has_served |= !served.is_empty();
                others.into_iter().chain(served).for_each(Waker::wake);
            } else {
                drop(store);
            }

            let pending = lock(&self.pending);
            if pending.is_empty() {
                return has_served;
            }
            let successor = if done() { pending.iter().find_map(|request| request.owner()) } else { None };
            drop(pending);
            if let Some(owner) = successor {
                owner.wake();
                return has_served;
            }
        }
    }
}

impl Store {
    fn commit(&mut self, mut requests: Vec<Box<dyn Pending>>, now: Millis) -> Woken {
        let only_reads = requests.iter().all(|request| request.is_read());
        let Store { db, queues, trouble } = self;
        let changes = db.total_changes();
        let work = || {
            let mut batch = Batch { db, now, queues };
            for request in &mut requests {
                request.execute(&mut batch)?;
            }
            batch.queues.serve(batch.db, now)
        };
        // Nobody else writes while the lock is held, so several reads see one state even so.
        let outcome = if only_reads { alone(db, work) } else { in_transaction(db, work) };
        let mut woken = match &outcome {
            Ok(()) => {
                if db.total_changes() != changes {
                    trouble.over("database", now);
                }
                queues.deliver()
            }
            Err(error) => {
                trouble.note("database", error, now);
                Woken { served: Vec::new(), others: queues.undo(now) }
            }
        };
        let failure = outcome.as_ref().err();
        woken.others.extend(requests.iter_mut().filter_map(|request| request.answer(failure)));
        woken
    }
}

fn alone(db: &Connection, work: impl FnOnce() -> Result<(), rusqlite::Error>) -> PortResult<()> {
    roll_back_leftovers(db)?;
    work().map_err(|error| storage_error(&error, false))
}

/// Of a batch that panicked half-way.
fn roll_back_leftovers(db: &Connection) -> PortResult<()> {
    if db.is_autocommit() {
        return Ok(());
    }
    run(db, "ROLLBACK").map_err(|error| storage_error(&error, false))
}

fn in_transaction(db: &Connection, work: impl FnOnce() -> Result<(), rusqlite::Error>) -> PortResult<()> {
    roll_back_leftovers(db)?;
    // Immediate: SQLite waits for a lock that the checkpointer, or somebody looking, holds for a moment before a transaction has read,
    // but not any more once it has.
    run(db, "BEGIN IMMEDIATE").map_err(|error| storage_error(&error, false))?;
    let worked = work().map_err(|error| storage_error(&error, false));
    let outcome = worked.and_then(|()| run(db, "COMMIT").map_err(|error| storage_error(&error, true)));
    if outcome.is_err()
        && !db.is_autocommit()
        && let Err(error) = run(db, "ROLLBACK")
    {
        tracing::error!(code = %ErrorCode::StorageTrouble, %error, "rollback failed");
    }
    outcome
}

fn run(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(|_| ())
}

/// The database's error as a port error. Everything but damage is worth another try: a full disk can be emptied.
pub(super) fn storage_error(error: &rusqlite::Error, may_have_happened: bool) -> PortError {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, PermissionDenied, ReadOnly};
    let again = |after| ErrorKind::Transient { after: Millis(after) };
    let (kind, code) = match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => (ErrorKind::Corrupt, ErrorCode::DatabaseDamaged),
        Some(DiskFull) => (again(1000), ErrorCode::DiskFull),
        Some(CannotOpen | PermissionDenied | ReadOnly) => (again(100), ErrorCode::DataUnusable),
        _ => (again(100), ErrorCode::StorageTrouble),
    };
    // What found no room is not in the log as a whole.
    let may_have_happened = may_have_happened && code != ErrorCode::DiskFull;
    PortError::new(kind, may_have_happened, code.says(format!("embedded engine: {error}")))
}

/// A request on its way; see [`Combiner::submit`].
pub(super) struct Submitted<T> {
    combiner: Arc<Combiner>,
    slot: Slot<T>,
    /// Until the first poll.
    request: Option<Box<dyn Pending>>,
    finished: bool,
    /// It has woken others, and has not let them run yet.
    owes_a_turn: bool,
}

impl<T> Submitted<T> {
    fn drain(&mut self) {
        self.owes_a_turn |= self.combiner.drain(|| lock(&self.slot).value.is_some());
    }

    /// The answer, if it is there and nobody else is to run first.
    fn finish(&mut self, context: &Context<'_>) -> Option<PortResult<T>> {
        if self.owes_a_turn {
            self.owes_a_turn = false;
            context.waker().wake_by_ref();
            return None;
        }
        let answer = lock(&self.slot).value.take();
        self.finished = answer.is_some();
        answer
    }
}

impl<T> Future for Submitted<T> {
    type Output = PortResult<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(request) = self.request.take() {
            lock(&self.combiner.pending).push(request);
            self.drain();
        }
        if lock(&self.slot).value.is_none() {
            // Somebody holds the lock. Once the waker is in place they either answer or wake this; they may have let go just before.
            lock(&self.slot).waker = Some(context.waker().clone());
            self.drain();
        }
        match self.finish(context) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Submitted<T> {
    fn drop(&mut self) {
        let submitted = self.request.is_none();
        if submitted && !self.finished {
            // It may be the one whose turn it was to commit.
            self.combiner.drain(|| false);
        }
    }
}
