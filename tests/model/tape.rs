//! The real functions on a tape: every call at a port is written down, and answered from a list of answers.
//!
//! A future cannot be cloned, and a model checker goes on from each state in many ways. But a function's course depends on its message and on
//! what the ports have answered so far, and on nothing else. So a delivery in hand *is* that list of answers: [`play`] runs the function from
//! its beginning, as far as they reach, and says what it asks next.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Waking, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::chain::{Event, Outcome};
use push0_core::message::{TaskMessage, queue};
use push0_core::transition::Observer;
use push0_core::{Millis, RunId, Sha256};
use push0_functions::{Collector, Dispatcher};
use push0_runtime::drive::{Catalog, Context, chain};
use push0_runtime::host::{Failure, Function as _};
use push0_runtime::port::{
    Accepted, BlobInfo, Blobs, Clock, Delivery, Key, Outgoing, PortError, PortResult, PutOutcome, Queue, QueueStats,
    Row, SetOutcome, Table, Value, Write,
};

use serde::{Deserialize, Serialize};

use super::table::{self, Rows};
use super::work;

/// Time stands still: nothing in the model is late.
const NOW: Millis = Millis(1_000_000);

/// A call at a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Call {
    Get(Key),
    GetAttributes(Key, Vec<String>),
    Query { partition: String, prefix: String, after: Option<String>, limit: usize },
    Put { key: Key, doc: Value, expected: Option<u64> },
    AcceptFirst { key: Key, slot: String, floor: String, attempt: u32, value: Value },
    SetIf { key: Key, attribute: String, expected: Option<Value>, new: Option<Value> },
    Transact(Vec<Write>),
    Delete(Key),
    Send { queue: String, messages: Vec<Outgoing> },
}

impl Call {
    pub fn is_read(&self) -> bool {
        matches!(self, Call::Get(_) | Call::GetAttributes(..) | Call::Query { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    Row(Option<Row>),
    Rows(Vec<Row>),
    Version(u64),
    Accepted(Accepted),
    Set(SetOutcome),
    Done,
    Conflict,
    /// Never to a drive loop: it asks nothing that no table can do.
    Refused(String),
}

/// How far a function has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// It waits for these calls, numbered in the order in which they were made.
    Asks(Vec<(usize, Call)>),
    /// Handled: may be acknowledged.
    Handled,
    Failed(Failure),
    /// An invariant that the loops check themselves, in builds that stop for it.
    Panicked(String),
}

/// Queues that only the model has: a run that ended, as the collector tells the chain.
pub const PROVEN: &str = "model/proven";
pub const UNPROVABLE: &str = "model/unprovable";

/// A message of these: which run it is said to be, and its first task.
#[derive(Serialize, Deserialize)]
pub struct Ended {
    pub run: RunId,
    pub task: TaskMessage,
}

/// Runs the function that handles `source` on a message, with these answers to its calls, in the order in which they came.
pub fn play(
    catalog: &Arc<Catalog>,
    segments: u32,
    (source, body): (&str, &str),
    answers: &[(usize, Answer)],
    observer: Arc<dyn Observer>,
) -> Course {
    let tape = Arc::new(Tape { segments, reel: Mutex::default(), live: None });
    let context = Context::new(tape.clone(), tape.clone(), tape.clone(), tape.clone(), catalog.clone());
    // Nobody looks for lost tasks by time.
    let context = context.with_quiet(None).with_observer(observer);
    let run = AssertUnwindSafe(|| {
        let mut handling: Handling<'_> = Box::pin(handle(context, source, body));
        let mut polled = poll(&mut handling);
        for (call, answer) in answers {
            tape.reel().answers.insert(*call, answer.clone());
            polled = poll(&mut handling);
        }
        polled
    });
    match std::panic::catch_unwind(run) {
        Ok(Poll::Ready(Ok(()))) => Course::Handled,
        Ok(Poll::Ready(Err(failure))) => Course::Failed(failure),
        Ok(Poll::Pending) => {
            let calls = std::mem::take(&mut tape.reel().calls);
            let is_answered = |at: &usize| answers.iter().any(|(call, _)| call == at);
            Course::Asks(calls.into_iter().enumerate().filter(|(at, _)| !is_answered(at)).collect())
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Course::Panicked(text.unwrap_or_default())
        }
    }
}

type Handling<'h> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'h>>;

fn poll(handling: &mut Handling<'_>) -> Poll<Result<(), Failure>> {
    handling.as_mut().poll(&mut Waking::from_waker(Waker::noop()))
}

async fn handle(context: Context, source: &str, body: &str) -> Result<(), Failure> {
    let delivery = Delivery {
        id: String::new(),
        receipt: String::new(),
        body: body.to_owned(),
        group: None,
        receive_count: 1,
        sent_at: NOW,
    };
    match source {
        queue::SUBMISSIONS => Dispatcher::new(context).handle(source, &delivery).await,
        PROVEN | UNPROVABLE => run_ended(&context, source, body).await,
        _ => Collector::new(context).handle(source, &delivery).await,
    }
}

/// What the collector does once a run has ended, without the block plane that brought it about.
async fn run_ended(context: &Context, source: &str, body: &str) -> Result<(), Failure> {
    let poison = |reason: String| Failure::Poison { reason };
    let Ended { run, task } = serde_json::from_str(body).map_err(|error| poison(error.to_string()))?;
    let config = context.catalog.chains.get(&run.chain).ok_or_else(|| poison(format!("{run} is of no chain")))?;
    let outcome = match source {
        PROVEN => Outcome::Proven {
            pipeline: config.pipeline,
            proof: work::blob(0, task.artifact_key()),
            header: work::blob(0, format!("{}/header", task.artifact_key())),
            parent_hash: work::parent(task.block_hash),
            outputs: None,
        },
        _ => Outcome::Failed { reason: "the block cannot be proven".to_owned() },
    };
    let event = Event::RunEnded { run: run.clone(), outcome };
    match chain::drive(context, &run.chain, &event).await {
        Ok(Ok(()) | Err(_)) => Ok(()),
        Err(error) => Err(Failure::Retry { reason: error.to_string() }),
    }
}

/// The model's table by itself, answering at once: what the suite of all tables is run on.
pub fn live_table() -> impl Table {
    Tape { segments: 0, reel: Mutex::default(), live: Some(Mutex::default()) }
}

/// The ports.
struct Tape {
    segments: u32,
    reel: Mutex<Reel>,
    live: Option<Mutex<Rows>>,
}

#[derive(Default)]
struct Reel {
    calls: Vec<Call>,
    /// By the call they answer.
    answers: BTreeMap<usize, Answer>,
}

impl Tape {
    fn reel(&self) -> MutexGuard<'_, Reel> {
        self.reel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, call: Call) -> PortResult<Answer> {
        if let Some(rows) = &self.live {
            let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
            return answered(table::perform(&mut rows, &call, None));
        }
        let at = {
            let mut reel = self.reel();
            reel.calls.push(call);
            reel.calls.len() - 1
        };
        answered(poll_fn(|_| self.reel().answers.remove(&at).map_or(Poll::Pending, Poll::Ready)).await)
    }
}

fn answered(answer: Answer) -> PortResult<Answer> {
    match answer {
        Answer::Conflict => Err(PortError::conflict("the row is another by now")),
        Answer::Refused(why) => Err(PortError::permanent(why)),
        answer => Ok(answer),
    }
}

fn mismatch<T>(answer: Answer) -> PortResult<T> {
    Err(PortError::permanent(format!("the model answered something else than was asked: {answer:?}")))
}

#[async_trait]
impl Table for Tape {
    async fn get(&self, key: &Key) -> PortResult<Option<Row>> {
        match self.ask(Call::Get(key.clone())).await? {
            Answer::Row(row) => Ok(row),
            other => mismatch(other),
        }
    }

    async fn get_attributes(&self, key: &Key, names: &[&str]) -> PortResult<Option<Row>> {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        match self.ask(Call::GetAttributes(key.clone(), names)).await? {
            Answer::Row(row) => Ok(row),
            other => mismatch(other),
        }
    }

    async fn put_if_version(&self, key: &Key, doc: Value, expected: Option<u64>) -> PortResult<u64> {
        match self.ask(Call::Put { key: key.clone(), doc, expected }).await? {
            Answer::Version(version) => Ok(version),
            other => mismatch(other),
        }
    }

    async fn accept_first(
        &self,
        key: &Key,
        slot: &str,
        floor: &str,
        attempt: u32,
        value: Value,
    ) -> PortResult<Accepted> {
        let (slot, floor) = (slot.to_owned(), floor.to_owned());
        match self.ask(Call::AcceptFirst { key: key.clone(), slot, floor, attempt, value }).await? {
            Answer::Accepted(accepted) => Ok(accepted),
            other => mismatch(other),
        }
    }

    async fn set_if(
        &self,
        key: &Key,
        attribute: &str,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> PortResult<SetOutcome> {
        let attribute = attribute.to_owned();
        match self.ask(Call::SetIf { key: key.clone(), attribute, expected, new }).await? {
            Answer::Set(outcome) => Ok(outcome),
            other => mismatch(other),
        }
    }

    async fn query(&self, partition: &str, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Row>> {
        let (partition, prefix, after) = (partition.to_owned(), prefix.to_owned(), after.map(str::to_owned));
        match self.ask(Call::Query { partition, prefix, after, limit }).await? {
            Answer::Rows(rows) => Ok(rows),
            other => mismatch(other),
        }
    }

    async fn transact(&self, writes: Vec<Write>) -> PortResult<()> {
        match self.ask(Call::Transact(writes)).await? {
            Answer::Done => Ok(()),
            other => mismatch(other),
        }
    }

    async fn delete(&self, key: &Key) -> PortResult<()> {
        match self.ask(Call::Delete(key.clone())).await? {
            Answer::Done => Ok(()),
            other => mismatch(other),
        }
    }
}

#[async_trait]
impl Queue for Tape {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        match self.ask(Call::Send { queue: queue.to_owned(), messages }).await? {
            Answer::Done => Ok(()),
            other => mismatch(other),
        }
    }

    async fn receive(&self, queue: &str, _: usize, _: Millis, _: Millis) -> PortResult<Vec<Delivery>> {
        unmodelled(queue)
    }

    async fn extend(&self, queue: &str, _: &str, _: Millis) -> PortResult<()> {
        unmodelled(queue)
    }

    async fn release(&self, queue: &str, _: &str, _: Millis) -> PortResult<()> {
        unmodelled(queue)
    }

    async fn ack(&self, queue: &str, _: &str) -> PortResult<()> {
        unmodelled(queue)
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        unmodelled(queue)
    }

    fn ranks(&self) -> bool {
        true
    }
}

/// What no function of the model calls: were that to change, the message would not be handled, and the checker say so.
fn unmodelled<T>(what: &str) -> PortResult<T> {
    Err(PortError::permanent(format!("{what}: the model does not have that call")))
}

/// Blobs never change, so that reading or writing one is no step: what is under a key follows from the key.
#[async_trait]
impl Blobs for Tape {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
        Ok(PutOutcome::Created(BlobInfo { key: key.to_owned(), size, sha256, writer: writer.to_owned() }))
    }

    async fn put_file(&self, key: &str, _: &Path, _: &str) -> PortResult<PutOutcome> {
        unmodelled(key)
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        Ok(Some(work::content(self.segments, key).into()))
    }

    async fn get_file(&self, key: &str, _: &Path) -> PortResult<Option<BlobInfo>> {
        unmodelled(key)
    }

    async fn get_range(&self, key: &str, _: u64, _: u64) -> PortResult<Option<Bytes>> {
        unmodelled(key)
    }

    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        let blob = work::blob(self.segments, key.to_owned());
        Ok(Some(BlobInfo { key: blob.key, size: blob.size, sha256: blob.sha256, writer: "worker".to_owned() }))
    }

    async fn list(&self, prefix: &str, _: Option<&str>, _: usize) -> PortResult<Vec<String>> {
        unmodelled(prefix)
    }

    async fn delete(&self, key: &str) -> PortResult<()> {
        unmodelled(key)
    }
}

impl Clock for Tape {
    fn now(&self) -> Millis {
        NOW
    }

    fn sleep_until(&self, _: Millis) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}
