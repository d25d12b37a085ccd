//! One worker that lies, in a calm system with honest ones: every field of every report, and every call that a worker may make.
//!
//! The table is made of the protocol's own types: [`samples`] has every report with every field set (a new field or event does not compile,
//! or has no lies and fails), and each field is lied about in every way that its kind allows. Nothing stands between the liar and the queue
//! here: what a server's door refuses is told to the functions all the same, as a worker on SQS could.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use push0_core::message::{FailureKind, Finding, Handout, Report, ReportEvent, TaskMessage, queue};
use push0_core::record::{BlobRef, BlockStatus, Verdict, Versioned as _};
use push0_core::{Attempt, BlockHash, Millis, Node, Sha256, TaskId};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::port::{
    BlobInfo, Blobs, Clock as _, Delivery, Outgoing, PortError, PortResult, PutOutcome, Queue, QueueStats,
};
use serde_json::{Value, json};

use super::chains::CHAINS;
use super::faulty::{Faulty, START};
use super::poison;
use super::prover::Conduct;
use super::world::describe;

/// The worker that lies.
pub(super) const LIAR: &str = "cpu-0";

/// What a worker does instead of what it should. The same lie at every occasion.
#[derive(Clone)]
pub enum Lie {
    /// Instead of saying that an artifact is stored it sends this event, with the value at this path changed.
    Report { event: Value, path: Vec<String>, twist: Twist },
    /// What it does with its calls.
    Call(Call),
}

/// A change of a value; it gets the whole report as it would have been, too.
#[derive(Clone, Copy)]
pub struct Twist {
    pub name: &'static str,
    change: fn(&Value) -> Option<Value>,
}

/// What can be wrong with a worker's calls of its queues and blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Send: nothing, and acknowledges.
    SaysNothing,
    SaysTwice,
    /// Says again what it said of earlier tasks.
    SaysItAgainLater,
    /// Says things in the name of the next task, too, which it was not given.
    SpeaksForAnother,
    /// Receive: keeps what it gets for itself, for ever.
    Hoards,
    /// Says that it has begun, and keeps it for ever.
    BeginsAndHoards,
    /// Release: gives back whatever it gets.
    GivesBack,
    /// Extend: lets every lease end.
    LetsGo,
    /// Acknowledges before it has done anything.
    AcknowledgesAtOnce,
    /// Never acknowledges.
    NeverAcknowledges,
    /// Put: stores other bytes than it made.
    StoresRubbish,
    StoresNothing,
    /// Stores under the names of other tasks before they come to it.
    Squats,
    /// The same, in the other tasks' name.
    SquatsInTheirName,
}

impl Call {
    pub const ALL: [Self; 14] = [
        Self::SaysNothing,
        Self::SaysTwice,
        Self::SaysItAgainLater,
        Self::SpeaksForAnother,
        Self::Hoards,
        Self::BeginsAndHoards,
        Self::GivesBack,
        Self::LetsGo,
        Self::AcknowledgesAtOnce,
        Self::NeverAcknowledges,
        Self::StoresRubbish,
        Self::StoresNothing,
        Self::Squats,
        Self::SquatsInTheirName,
    ];
}

impl std::fmt::Display for Lie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lie::Report { event, path, twist } => write!(f, "{} {}: {}", event["event"], path.join("."), twist.name),
            Lie::Call(call) => write!(f, "{call:?}"),
        }
    }
}

fn blob() -> BlobRef {
    BlobRef { key: "artifacts/cpu/alpha/1/e1/0123456789abcdef/1.0.0/a1c0".to_owned(), sha256: Sha256([9; 32]), size: 9 }
}

/// Every event, with every field set.
fn events() -> Vec<ReportEvent> {
    let message = Some("not so".to_owned());
    let all = vec![
        ReportEvent::Started,
        ReportEvent::Done { artifact: blob() },
        ReportEvent::Split {
            manifest: blob(),
            segments: 1,
            header: blob(),
            hash: BlockHash([9; 32]),
            parent_hash: Some(BlockHash([8; 32])),
        },
        ReportEvent::Verified {
            verdict: Verdict::Ok,
            root: Sha256([9; 32]),
            message: message.clone(),
            outputs: Some(Sha256([7; 32])),
        },
        ReportEvent::Checked {
            reader: Node::new(3, 0, 0),
            slot: 0,
            artifact: Sha256([9; 32]),
            finding: Finding::Unsound,
            message,
        },
        ReportEvent::Failed { kind: FailureKind::BadInput, message: "not so".to_owned(), children: vec![0] },
    ];
    // A new event does not compile before it is among them.
    for event in &all {
        match event {
            ReportEvent::Started
            | ReportEvent::Done { artifact: _ }
            | ReportEvent::Split { manifest: _, segments: _, header: _, hash: _, parent_hash: _ }
            | ReportEvent::Verified { verdict: _, root: _, message: _, outputs: _ }
            | ReportEvent::Checked { reader: _, slot: _, artifact: _, finding: _, message: _ }
            | ReportEvent::Failed { kind: _, message: _, children: _ } => {}
        }
    }
    all
}

/// A whole report of each event.
fn samples() -> Vec<Value> {
    let report = |event| {
        let task = "alpha/1/e1/0123456789abcdef/1.0.0/a1c0".parse().expect("a task");
        let (worker, by) = (LIAR.parse().expect("a worker"), Some("rack1".parse().expect("a token's name")));
        let handout = Some(Handout { sent_at: Millis(1), receives: 1 });
        Report { task, worker, by, at: Millis(1), handout, event }.to_value()
    };
    events().into_iter().map(report).collect()
}

/// The paths to everything in a value that is neither a list nor an object, and to every list.
fn leaves(value: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                at.push(name.clone());
                leaves(value, at, found);
                at.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => found.push(at.clone()),
    }
}

macro_rules! twists {
    ($($name:literal => $change:expr),+ $(,)?) => { vec![$(Twist { name: $name, change: $change }),+] };
}

fn other_task(value: &Value, change: impl Fn(&mut TaskId)) -> Option<Value> {
    let mut task: TaskId = value.as_str()?.parse().ok()?;
    change(&mut task);
    Some(task.to_string().into())
}

/// Every way to lie about a field of this name.
///
/// # Panics
/// If the protocol has a field that this knows no lies about.
fn twists(field: &str) -> Vec<Twist> {
    let anything = twists! {
        "absent" => |_| None,
        "null" => |_| Some(Value::Null),
        "another type" => |_| Some(json!([{ "x": [] }])),
    };
    let own = match field {
        "v" => twists! { "0" => |_| Some(0.into()), "2" => |_| Some(2.into()), "huge" => |_| Some(u64::MAX.into()) },
        // An event of another kind keeps its fields.
        "event" => twists! {
            "started" => |_| Some("started".into()),
            "done" => |_| Some("done".into()),
            "failed" => |_| Some("failed".into()),
            "unknown" => |_| Some("sung".into()),
        },
        "task" => twists! {
            "another node" => |task| other_task(task, |task| task.node.index += 1),
            "no node" => |task| other_task(task, |task| task.node.index = u32::MAX),
            "the next stage" => |task| other_task(task, |task| task.node.stage += 1),
            "no stage" => |task| other_task(task, |task| task.node.stage = u16::MAX),
            "the next layer" => |task| other_task(task, |task| task.node.layer += 1),
            "split" => |task| other_task(task, |task| task.node = Node::SPLIT),
            "verify" => |task| other_task(task, |task| task.node = Node::new(5, 0, 0)),
            "a later attempt" => |task| other_task(task, |task| task.attempt = Attempt(task.attempt.0 + 1)),
            "the last attempt" => |task| other_task(task, |task| task.attempt = Attempt(u32::MAX)),
            "no attempt" => |task| other_task(task, |task| task.attempt = Attempt(0)),
            "another copy" => |task| other_task(task, |task| task.copy = 1),
            "the last copy" => |task| other_task(task, |task| task.copy = u8::MAX),
            "another pipeline" => |task| other_task(task, |task| task.tag = "0123456789abcdef".to_owned()),
            "another epoch" => |task| other_task(task, |task| task.run.epoch = task.run.epoch.next()),
            "another block" => |task| other_task(task, |task| task.run.number += 1),
            "another chain" => |task| Some(task.as_str()?.replacen("alpha", "beta", 1).into()),
            "no chain" => |task| Some(task.as_str()?.replacen("alpha", "nobody", 1).into()),
            "a lane" => |task| Some(task.as_str()?.replacen("/e1", "/e1.3", 1).into()),
            "not one" => |_| Some("../../x".into()),
        },
        "worker" | "by" => twists! {
            "another's" => |_| Some("cpu-1".into()),
            "nobody's" => |_| Some("nobody".into()),
            "the trusted pool's" => |_| Some("trusted-0".into()),
            "not a name" => |_| Some("cpu 0\n".into()),
            "too long" => |_| Some("x".repeat(33).into()),
        },
        "at" | "sent_at" => twists! { "0" => |_| Some(0.into()), "the end of time" => |_| Some(u64::MAX.into()) },
        "key" => twists! {
            "empty" => |_| Some("".into()),
            "another's" => |key| Some(key.as_str()?.replace("/a1c0", "/a2c0").into()),
            "another pool's" => |key| Some(key.as_str()?.replace("artifacts/cpu", "artifacts/large").into()),
            "a path" => |_| Some("../../etc/passwd".into()),
            "a proof's" => |_| Some("proofs/alpha/00000000000000000001".into()),
            "long" => |_| Some("x".repeat(50_000).into()),
        },
        "sha256" | "root" | "artifact" | "hash" | "parent_hash" | "outputs" => twists! {
            "another" => |_| Some(Sha256([1; 32]).to_string().into()),
            "empty" => |_| Some("".into()),
            "short" => |_| Some("ab".into()),
        },
        "size" | "segments" | "slot" | "receives" => twists! {
            "0" => |_| Some(0.into()),
            "one more" => |size| Some((size.as_u64()? + 1).into()),
            "more than there is" => |_| Some(u32::MAX.into()),
            "huge" => |_| Some(u64::MAX.into()),
            "negative" => |_| Some((-1).into()),
        },
        "verdict" => twists! {
            "bad_proof" => |_| Some("bad_proof".into()),
            "bad_block" => |_| Some("bad_block".into()),
            "unknown" => |_| Some("maybe".into()),
        },
        "finding" => twists! {
            "sound" => |_| Some("sound".into()),
            "unknown" => |_| Some("unknown".into()),
            "no such" => |_| Some("maybe".into()),
        },
        "reader" => twists! {
            "another" => |_| Some("3.0.1".into()),
            "no such" => |_| Some("9.9.9".into()),
            "not one" => |_| Some("x".into()),
        },
        "kind" => twists! {
            "retryable" => |_| Some("retryable".into()),
            "permanent" => |_| Some("permanent".into()),
            "out_of_memory" => |_| Some("out_of_memory".into()),
            "lost" => |_| Some("lost".into()),
            "unknown" => |_| Some("bored".into()),
        },
        "message" => twists! {
            "empty" => |_| Some("".into()),
            "long" => |_| Some("é".repeat(25_000).into()),
            "another's code" => |_| Some("P0-031: P0-001: stage prove, node 9.9.9: \u{1b}[31m\n\u{0}".into()),
        },
        "children" => twists! {
            "none" => |_| Some(json!([])),
            "all" => |_| Some(json!([0, 1, 2, 3])),
            "twice" => |_| Some(json!([0, 0, 0])),
            "no such" => |_| Some(json!([7, u32::MAX])),
            "many" => |_| Some((0..8_000).collect::<Vec<u32>>().into()),
        },
        unknown => panic!("the protocol has a field {unknown:?}, and there are no lies about it: add some"),
    };
    own.into_iter().chain(anything).collect()
}

/// All of them.
pub fn lies() -> Vec<Lie> {
    let mut lies: Vec<Lie> = Call::ALL.into_iter().map(Lie::Call).collect();
    for sample in samples() {
        let mut paths = Vec::new();
        leaves(&sample, &mut Vec::new(), &mut paths);
        for path in paths {
            let field = path.last().cloned().unwrap_or_default();
            let event = sample["event"].clone();
            lies.extend(twists(&field).into_iter().map(|twist| Lie::Report {
                event: event.clone(),
                path: path.clone(),
                twist,
            }));
        }
    }
    lies
}

/// Says of a report what the lie says. `None`: this one is told as it is.
fn twisted(event: &Value, path: &[String], twist: Twist, report: &Report) -> Option<Value> {
    let ReportEvent::Done { artifact } = &report.event else { return None };
    let mut told = report.to_value();
    told["by"] = "rack1".into();
    told["event"] = match event["event"].as_str() {
        Some("done") => told["event"].clone(),
        _ => event.clone(),
    };
    for field in ["root", "artifact"] {
        if told["event"][field].is_string() {
            told["event"][field] = artifact.sha256.to_string().into();
        }
    }
    let (field, above) = path.split_last()?;
    let mut at = &mut told;
    for name in above {
        at = at.get_mut(name.as_str())?;
    }
    let fields = at.as_object_mut()?;
    match (twist.change)(fields.get(field)?) {
        Some(value) => fields.insert(field.clone(), value),
        None => fields.remove(field),
    };
    Some(told)
}

/// The ports as the liar uses them.
pub(super) struct Lying {
    port: Arc<Faulty>,
    clock: ManualClock,
    lie: Lie,
    told: Arc<AtomicU64>,
    said: std::sync::Mutex<Vec<Outgoing>>,
}

impl Lying {
    pub(super) fn new(port: Arc<Faulty>, clock: ManualClock, lie: Lie, told: Arc<AtomicU64>) -> Self {
        Self { port, clock, lie, told, said: std::sync::Mutex::default() }
    }

    fn is(&self, call: Call) -> bool {
        let is = matches!(&self.lie, Lie::Call(own) if *own == call);
        if is {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
        is
    }

    async fn pause(&self, length: Millis) {
        self.clock.sleep_until(self.clock.now().plus(length)).await;
    }

    /// Keeps what it has for ever.
    async fn hoard(&self, queue: &str, deliveries: &[Delivery]) {
        loop {
            for delivery in deliveries {
                if self.port.extend(queue, &delivery.receipt, Millis(15_000)).await.is_err() {
                    return;
                }
            }
            self.pause(Millis(5_000)).await;
        }
    }

    async fn announce(&self, delivery: &Delivery) {
        let Ok(task) = TaskMessage::from_json(&delivery.body) else { return };
        let worker = LIAR.parse().expect("a worker");
        let report = Report {
            task: task.id,
            worker,
            by: None,
            at: self.clock.now(),
            handout: None,
            event: ReportEvent::Started,
        };
        let _ = self.port.send(queue::RESULTS, vec![Outgoing { body: report.to_json(), ..Outgoing::default() }]).await;
    }

    fn lied(&self, message: Outgoing) -> Outgoing {
        let (Lie::Report { event, path, twist }, Ok(report)) = (&self.lie, Report::from_json(&message.body)) else {
            return message;
        };
        match twisted(event, path, *twist, &report) {
            Some(told) => {
                self.told.fetch_add(1, Ordering::Relaxed);
                Outgoing { body: told.to_string(), ..message }
            }
            None => message,
        }
    }
}

/// The same report of the neighbour.
fn of_another(message: &Outgoing) -> Option<Outgoing> {
    let mut report = Report::from_json(&message.body).ok()?;
    let before = report.task.to_string();
    report.task.node.index ^= 1;
    if let ReportEvent::Done { artifact } = &mut report.event {
        artifact.key = artifact.key.replace(&before, &report.task.to_string());
    }
    Some(Outgoing { body: report.to_json(), ..message.clone() })
}

#[async_trait]
impl Queue for Lying {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        if self.is(Call::SaysNothing) {
            return Ok(());
        }
        let mut messages: Vec<Outgoing> = messages.into_iter().map(|message| self.lied(message)).collect();
        if self.is(Call::SaysTwice) {
            messages.extend(messages.clone());
        }
        if self.is(Call::SpeaksForAnother) {
            messages.extend(messages.iter().filter_map(of_another).collect::<Vec<_>>());
        }
        if self.is(Call::SaysItAgainLater) {
            let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let before = said.clone();
            said.extend(messages.clone());
            messages.extend(before);
        }
        self.port.send(queue, messages).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        loop {
            let deliveries = self.port.receive(queue, max, wait, lease).await?;
            // An answer would end what it does with the messages of another queue.
            let hoards = matches!(self.lie, Lie::Call(Call::Hoards | Call::BeginsAndHoards));
            if deliveries.is_empty() && hoards {
                continue;
            }
            if deliveries.is_empty() {
                return Ok(deliveries);
            }
            if self.is(Call::BeginsAndHoards) {
                for delivery in &deliveries {
                    self.announce(delivery).await;
                }
                self.hoard(queue, &deliveries).await;
            } else if self.is(Call::Hoards) {
                self.hoard(queue, &deliveries).await;
            } else if self.is(Call::GivesBack) {
                for delivery in &deliveries {
                    let _ = self.port.release(queue, &delivery.receipt, Millis(0)).await;
                }
                self.pause(Millis(50)).await;
            } else {
                if self.is(Call::AcknowledgesAtOnce) {
                    for delivery in &deliveries {
                        let _ = self.port.ack(queue, &delivery.receipt).await;
                    }
                }
                return Ok(deliveries);
            }
        }
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        if self.is(Call::LetsGo) {
            return Ok(());
        }
        self.port.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.port.release(queue, receipt, delay).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        if self.is(Call::NeverAcknowledges) {
            return Ok(());
        }
        self.port.ack(queue, receipt).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.port.stats(queue).await
    }

    fn ranks(&self) -> bool {
        self.port.ranks()
    }
}

#[async_trait]
impl Blobs for Lying {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        if self.is(Call::StoresNothing) {
            let info = BlobInfo {
                key: key.to_owned(),
                size: bytes.len() as u64,
                sha256: Sha256::of(&bytes),
                writer: writer.to_owned(),
            };
            return Ok(PutOutcome::Created(info));
        }
        let (squats, in_their_name) = (self.is(Call::Squats), self.is(Call::SquatsInTheirName));
        if squats || in_their_name {
            let own: Option<TaskId> = writer.parse().ok();
            for index in 0..8 {
                let Some(own) = &own else { break };
                let other = TaskId { node: Node { index, ..own.node }, ..own.clone() };
                let at = key.replace(writer, &other.to_string());
                let name = if in_their_name { other.to_string() } else { writer.to_owned() };
                let _ = self.port.put_new(&at, Bytes::from_static(b"{\"squat\":true}"), &name).await;
            }
        }
        let bytes = if self.is(Call::StoresRubbish) { Bytes::from_static(b"{}") } else { bytes };
        self.port.put_new(key, bytes, writer).await
    }

    async fn put_file(&self, _: &str, _: &std::path::Path, _: &str) -> PortResult<PutOutcome> {
        Err(PortError::permanent("everything is in memory here"))
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        Blobs::get(&*self.port, key).await
    }

    async fn get_file(&self, _: &str, _: &std::path::Path) -> PortResult<Option<BlobInfo>> {
        Err(PortError::permanent("everything is in memory here"))
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        self.port.get_range(key, offset, length).await
    }

    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        self.port.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        self.port.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> PortResult<()> {
        Blobs::delete(&*self.port, key).await
    }
}

/// One block of five segments, the liar among three workers. The block must become final, with a proof that is one of it (or the auditor
/// complains), and it must never have failed: nobody is there to retry it. Returns how often the lie was told.
pub fn run(seed: u64, lie: &Lie) -> Result<u64, String> {
    let told = Arc::new(AtomicU64::new(0));
    // Only tasks that take long have their leases extended.
    let slow = if matches!(lie, Lie::Call(Call::LetsGo)) { 1_000 } else { 0 };
    let conduct = Conduct { slow, ..Conduct::default() };
    let (mut executor, shared) = poison::calm_but_for(seed, 5, conduct, Some((lie.clone(), told.clone())))?;
    let complaint = || shared.complaint.borrow().clone().map_or(Ok(()), |what| Err(format!("{lie}: {what}")));
    let is_done = || shared.auditor.borrow().finalized(CHAINS[0]) == 1;
    if !executor.run(START.plus(Millis::from_secs(2 * 3_600)), is_done, complaint)? {
        let status = poison::block_row(&shared, 1).map(|block| block.status);
        return Err(format!("{lie}: the block is {status:?} with nobody to mend it\n{}", describe(&shared)));
    }
    let blob = |key: &str| Blobs::get(&shared.engine, key).now_or_never()?.ok()?.map(|bytes| bytes.to_vec());
    shared.auditor.borrow().judge(blob).map_err(|what| format!("{lie}: {what}"))?;
    // A tombstone is no proof.
    match poison::block_row(&shared, 1).map(|block| (block.status, block.proof.is_some())) {
        Some((BlockStatus::Final, true)) => {}
        other => return Err(format!("{lie}: the block is {other:?}")),
    }
    Ok(told.load(Ordering::Relaxed))
}
