//! What stands between an actor and the engine: everything that can go wrong on the way.
//!
//! Before and after each call the actor yields, so that it can be killed there: before the effect, and after it without having heard.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::engine::Engine;
use push0_runtime::port::{
    Accepted, BlobInfo, Blobs, Clock as _, Delivery, ErrorKind, Key, Outgoing, PortError, PortResult, PutOutcome,
    Queue, QueueStats, Row, SetOutcome, Table, Value, Write,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

use super::faults::{Fault, Tally};
use super::rules;

/// Rates of faults, each in a thousand calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The call fails and nothing happens.
    pub refused: u32,
    /// It happens, and the answer is lost.
    pub lost_response: u32,
    /// The caller is slow: up to two seconds.
    pub slow: u32,
    /// The caller freezes for longer than any lease.
    pub frozen: u32,
    /// A message on a standard queue is stored twice.
    pub duplicate: u32,
    /// A message on a standard queue comes late, up to thirty seconds.
    pub late: u32,
    /// A queue is said to be empty whatever it holds: counts may be out of date.
    pub blind: u32,
    /// A service begins to throttle: most calls of the next moments are told to come later.
    pub throttled: u32,
    /// A conditional write fails as if somebody had been first.
    pub conflict: u32,
    /// A lease is shorter than asked for: up to three seconds.
    pub short_lease: u32,
    /// A blob's bytes are not what was stored, this time.
    pub corrupt_read: u32,
    /// A worker's blob is damaged as it is stored.
    pub corrupt_blob: u32,
}

/// Faults can be switched off, and everything is traced.
pub struct Weather {
    faults: Mutex<Faults>,
    dice: Mutex<ChaCha8Rng>,
    trace: Mutex<Trace>,
    clock: ManualClock,
    tally: Mutex<Tally>,
    /// Until when a service throttles.
    throttled: Mutex<Millis>,
    /// Keys of blobs that are not what was stored.
    damaged: Mutex<BTreeSet<String>>,
    /// Queue → the latest message that was handed out of it.
    latest: Mutex<BTreeMap<String, u64>>,
    /// The first numbered invariant that a write broke.
    broken: Mutex<Option<String>>,
}

/// What happened, as a running digest; kept in full on demand.
struct Trace {
    digest: Sha256,
    events: u64,
    lines: Option<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Weather {
    pub fn new(seed: u64, faults: Faults, clock: ManualClock, keep_lines: bool) -> Arc<Self> {
        Arc::new(Self {
            faults: Mutex::new(faults),
            dice: Mutex::new(ChaCha8Rng::seed_from_u64(seed ^ 0x5eed_fa01)),
            trace: Mutex::new(Trace { digest: Sha256::new(), events: 0, lines: keep_lines.then(Vec::new) }),
            clock,
            tally: Mutex::default(),
            throttled: Mutex::default(),
            damaged: Mutex::default(),
            latest: Mutex::default(),
            broken: Mutex::default(),
        })
    }

    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    pub fn count(&self, fault: Fault) {
        lock(&self.tally).count(fault);
    }

    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    pub fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }

    pub fn clear_up(&self) {
        *lock(&self.faults) = Faults::default();
        *lock(&self.throttled) = Millis(0);
    }

    pub fn note(&self, line: &str) {
        let mut trace = lock(&self.trace);
        let line = format!("{:>9} {line}", self.clock.now().0 - START.0);
        trace.digest.update(line.as_bytes());
        trace.events += 1;
        if let Some(lines) = &mut trace.lines {
            lines.push(line);
        }
    }

    /// Digest of the trace so far, and the number of its events.
    pub fn fingerprint(&self) -> (String, u64) {
        let trace = lock(&self.trace);
        let digest: [u8; 32] = trace.digest.clone().finalize().into();
        (digest.iter().map(|byte| format!("{byte:02x}")).collect(), trace.events)
    }

    pub fn lines(&self) -> Vec<String> {
        lock(&self.trace).lines.clone().unwrap_or_default()
    }

    fn rolls(&self, rate: impl Fn(&Faults) -> u32) -> bool {
        let rate = rate(&lock(&self.faults));
        rate > 0 && lock(&self.dice).random_range(0..1000) < rate
    }

    fn strikes(&self, fault: Fault, rate: impl Fn(&Faults) -> u32) -> bool {
        let strikes = self.rolls(rate);
        if strikes {
            self.count(fault);
        }
        strikes
    }

    /// Whether a call fails before anything has happened.
    fn refuses(&self) -> Option<PortError> {
        let now = self.clock.now();
        if self.rolls(|faults| faults.throttled) {
            *lock(&self.throttled) = now.plus(Millis(self.draw(100..3_000)));
        }
        if now < *lock(&self.throttled) && self.draw(0..10) < 7 {
            self.count(Fault::Throttling);
            let after = Millis(self.draw(20..1_000));
            return Some(PortError::new(ErrorKind::Transient { after }, false, "throttled by the simulator"));
        }
        let is_refused = self.strikes(Fault::Refusal, |faults| faults.refused);
        is_refused.then(|| PortError::transient("refused by the simulator"))
    }

    /// Counts what comes after something that was sent later.
    fn handed_out(&self, queue: &str, deliveries: &[Delivery]) {
        let mut latest = lock(&self.latest);
        for delivery in deliveries.iter().filter(|delivery| delivery.receive_count == 1 && !queue.ends_with(".fifo")) {
            let id = delivery.id.parse().unwrap_or(0);
            let latest = latest.entry(queue.to_owned()).or_default();
            if id < *latest {
                self.count(Fault::Reordering);
            }
            *latest = id.max(*latest);
        }
    }

    /// What a reader gets of a blob.
    fn read(&self, key: &str, bytes: Bytes) -> PortResult<Bytes> {
        if lock(&self.damaged).contains(key) {
            self.note(&format!("{key} is damaged"));
            return Err(PortError::corrupt(format!("{key} is not what was stored")));
        }
        if bytes.is_empty() || !self.strikes(Fault::CorruptRead, |faults| faults.corrupt_read) {
            return Ok(bytes);
        }
        self.note(&format!("{key} is read badly"));
        // Storage that knows the digest notices; what others stored has none.
        if self.draw(0..2) == 0 {
            return Err(PortError::corrupt(format!("{key} was read badly")));
        }
        let mut bytes = bytes.to_vec();
        let position = self.draw(0..bytes.len() as u64) as usize;
        bytes[position] ^= 1;
        Ok(bytes.into())
    }

    fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        lock(&self.dice).random_range(range)
    }
}

/// When virtual time starts: some day in 2026.
pub const START: Millis = Millis(1_780_000_000_000);

/// An actor's own way to the engine.
#[derive(Clone)]
pub struct Faulty {
    engine: Engine,
    weather: Arc<Weather>,
    who: Arc<str>,
    ranks: bool,
}

impl Faulty {
    pub fn new(engine: Engine, weather: Arc<Weather>, who: &str) -> Self {
        Self { engine, weather, who: who.into(), ranks: true }
    }

    /// Whether it says that its queues rank, as an engine's do, or not, as SQS's.
    pub fn ranking(self, ranks: bool) -> Self {
        Self { ranks, ..self }
    }

    /// Makes a call through the weather. `what` goes into the trace with how it went.
    async fn through<T>(&self, what: String, call: impl Future<Output = PortResult<T>>) -> PortResult<T> {
        let weather = &self.weather;
        Yield::once().await;
        if weather.strikes(Fault::Freeze, |faults| faults.frozen) {
            let pause = Millis(weather.draw(20_000..90_000));
            weather.clock.sleep_until(weather.clock.now().plus(pause)).await;
        } else if weather.strikes(Fault::Delay, |faults| faults.slow) {
            let pause = Millis(weather.draw(1..2_000));
            weather.clock.sleep_until(weather.clock.now().plus(pause)).await;
        }
        if let Some(error) = weather.refuses() {
            weather.note(&format!("{} {what}: {error}", self.who));
            return Err(error);
        }
        let answer = call.await;
        let how = match &answer {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        weather.note(&format!("{} {what}: {how}", self.who));
        Yield::once().await;
        if weather.strikes(Fault::LostResponse, |faults| faults.lost_response) {
            weather.note(&format!("{} never hears of it", self.who));
            return Err(PortError::unknown("response lost by the simulator"));
        }
        answer
    }

    /// A call with a receipt, which may be void by now.
    async fn leased(&self, what: String, call: impl Future<Output = PortResult<()>>) -> PortResult<()> {
        let answer = self.through(what, call).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced) {
            self.weather.count(Fault::ExpiredLease);
        }
        answer
    }

    /// A conditional write. What it makes of the rows is judged, whether its caller hears of it or not.
    async fn written<T>(
        &self,
        what: String,
        writes: &[Write],
        call: impl Future<Output = PortResult<T>>,
    ) -> PortResult<T> {
        if self.weather.strikes(Fault::Conflict, |faults| faults.conflict) {
            return self.through(what, async { Err(PortError::conflict("a conflict by the simulator")) }).await;
        }
        let judged = async {
            let before = rules::before(&self.engine, writes);
            let answer = call.await?;
            self.judge(rules::judge(&before, writes));
            Ok(answer)
        };
        self.through(what, judged).await
    }

    /// Keeps the first complaint about a write.
    fn judge<E: ToString>(&self, judged: Result<(), E>) {
        if let Err(complaint) = judged {
            lock(&self.weather.broken).get_or_insert(complaint.to_string());
        }
    }

    /// Standard queues promise neither order nor a single copy.
    fn disturb(&self, queue: &str, messages: Vec<Outgoing>) -> Vec<Outgoing> {
        if queue.ends_with(".fifo") {
            return messages;
        }
        let mut sent = Vec::new();
        for message in messages {
            let copies = 1 + usize::from(self.weather.strikes(Fault::Duplicate, |faults| faults.duplicate));
            for _ in 0..copies {
                let mut copy = message.clone();
                copy.rank = self.weather.draw(0..1_000_000) as i64;
                if self.weather.strikes(Fault::LateDelivery, |faults| faults.late) {
                    copy.delay = copy.delay.plus(Millis(self.weather.draw(1..30_000)));
                }
                sent.push(copy);
            }
        }
        sent
    }
}

#[async_trait]
impl Queue for Faulty {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        let messages = self.disturb(queue, messages);
        let what = format!("send {queue} {}", messages.iter().map(brief).collect::<Vec<_>>().join(" "));
        self.through(what, self.engine.send(queue, messages)).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        let is_short = self.weather.rolls(|faults| faults.short_lease);
        let lease = if is_short { Millis(self.weather.draw(500..3_000)) } else { lease };
        let call = self.engine.receive(queue, max, wait, lease);
        let received = self.through(format!("receive {queue}"), call).await?;
        self.weather.handed_out(queue, &received);
        if is_short && !received.is_empty() {
            self.weather.count(Fault::ShortLease);
        }
        Ok(received)
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.leased(format!("extend {queue} {receipt}"), self.engine.extend(queue, receipt, lease)).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.leased(format!("release {queue} {receipt}"), self.engine.release(queue, receipt, delay)).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.leased(format!("ack {queue} {receipt}"), self.engine.ack(queue, receipt)).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        if self.weather.strikes(Fault::Blindness, |faults| faults.blind) {
            return self.through(format!("stats {queue}, out of date"), async { Ok(QueueStats::default()) }).await;
        }
        self.through(format!("stats {queue}"), self.engine.stats(queue)).await
    }

    fn ranks(&self) -> bool {
        self.ranks
    }
}

/// A message in a few characters of its digest.
fn brief(message: &Outgoing) -> String {
    let digest: [u8; 32] = Sha256::digest(message.body.as_bytes()).into();
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Table for Faulty {
    async fn get(&self, key: &Key) -> PortResult<Option<Row>> {
        self.through(format!("get {}/{}", key.partition, key.sort), Table::get(&self.engine, key)).await
    }

    async fn put_if_version(&self, key: &Key, doc: Value, expected: Option<u64>) -> PortResult<u64> {
        let what = format!("put {}/{} {expected:?}", key.partition, key.sort);
        let write = [Write::Put { key: key.clone(), doc: doc.clone(), expected }];
        self.written(what, &write, self.engine.put_if_version(key, doc, expected)).await
    }

    async fn accept_first(
        &self,
        key: &Key,
        slot: &str,
        floor: &str,
        attempt: u32,
        value: Value,
    ) -> PortResult<Accepted> {
        let what = format!("accept {}/{} {slot} a{attempt}", key.partition, key.sort);
        let judged = async {
            let accepted = self.engine.accept_first(key, slot, floor, attempt, value.clone()).await?;
            if accepted.won {
                self.judge(rules::accepted(&self.engine, &accepted.row, slot, &value));
            }
            Ok(accepted)
        };
        self.through(what, judged).await
    }

    async fn set_if(
        &self,
        key: &Key,
        attribute: &str,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> PortResult<SetOutcome> {
        let what = format!("set {}/{} {attribute}", key.partition, key.sort);
        let (key, attribute) = (key.clone(), attribute.to_owned());
        let judged = async {
            let set = self.engine.set_if(&key, &attribute, expected.clone(), new.clone()).await?;
            if set.done {
                self.judge(rules::judge(&[None], &[Write::SetIf { key, attribute, expected, new }]));
            }
            Ok(set)
        };
        self.through(what, judged).await
    }

    async fn query(&self, partition: &str, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Row>> {
        self.through(format!("query {partition}/{prefix}"), self.engine.query(partition, prefix, after, limit)).await
    }

    async fn transact(&self, writes: Vec<Write>) -> PortResult<()> {
        let call = self.engine.transact(writes.clone());
        self.written(format!("transact {}", writes.len()), &writes, call).await
    }

    async fn delete(&self, key: &Key) -> PortResult<()> {
        self.through(format!("delete {}/{}", key.partition, key.sort), Table::delete(&self.engine, key)).await
    }
}

#[async_trait]
impl Blobs for Faulty {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        let put = self.through(format!("blob put {key}"), self.engine.put_new(key, bytes, writer)).await?;
        let is_new = matches!(put, PutOutcome::Created(_)) && key.starts_with("artifacts/");
        if is_new && self.weather.strikes(Fault::CorruptBlob, |faults| faults.corrupt_blob) {
            lock(&self.weather.damaged).insert(key.to_owned());
        }
        Ok(put)
    }

    async fn put_file(&self, key: &str, path: &Path, writer: &str) -> PortResult<PutOutcome> {
        self.through(format!("blob put file {key}"), self.engine.put_file(key, path, writer)).await
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        let found = self.through(format!("blob get {key}"), Blobs::get(&self.engine, key)).await?;
        found.map(|bytes| self.weather.read(key, bytes)).transpose()
    }

    async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>> {
        self.through(format!("blob get file {key}"), self.engine.get_file(key, path)).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        self.through(format!("blob range {key}"), self.engine.get_range(key, offset, length)).await
    }

    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        self.through(format!("blob head {key}"), self.engine.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        self.through(format!("blob list {prefix}"), self.engine.list(prefix, after, limit)).await
    }

    async fn delete(&self, key: &str) -> PortResult<()> {
        self.through(format!("blob delete {key}"), Blobs::delete(&self.engine, key)).await
    }
}

/// Lets the others go first, once.
pub struct Yield(bool);

impl Yield {
    pub fn once() -> Self {
        Self(false)
    }
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The run's dice from its seed.
pub fn dice(seed: u64) -> Rc<RefCell<ChaCha8Rng>> {
    Rc::new(RefCell::new(ChaCha8Rng::seed_from_u64(seed)))
}
