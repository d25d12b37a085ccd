//! One task's life over ports and a scripted prover: in memory, on a clock that is moved by hand, without a runtime.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::message::{Check, FailureKind, Finding, ReportEvent, TaskMessage, queue};
use push0_core::pipeline::Kind;
use push0_core::record::{Manifest, ManifestPage, Verdict, Versioned as _, control_key, demoted_key, node_control_key};
use push0_core::{BlockHash, Class, Millis, Node, Sha256};
use push0_gpu_worker::lease::Leases;
use push0_gpu_worker::{
    Data, Env, Failure, Health, Job, Limits, Outcome, Output, Prover, Settled, Store, Watch, task as life,
};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::engine::Engine;
use push0_runtime::port::{
    BlobInfo, Blobs, Clock, Delivery, Outgoing, PortError, PortResult, PutOutcome, Queue, QueueStats,
};
use support::*;

const LEASE: Millis = Millis(15_000);

/// Whether somebody asked to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls on one thread; when nothing moves, time does.
fn drive<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    let mut future = pin!(future);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            clock.advance_to(clock.next_wake().expect("nothing is ready and nothing sleeps: stuck"));
        }
    }
}

/// What a scripted prover does with its tasks.
enum Act {
    Answer(Outcome),
    /// Runs until cancelled.
    UntilCancelled,
    /// Never answers, and hears no cancellation.
    Hang,
    /// Progress every so often, for ever.
    Busy(Millis),
    /// Moves the clock on this far at once, as if the whole worker was frozen; then runs until cancelled.
    Frozen(Millis),
}

struct Scripted {
    clock: ManualClock,
    acts: VecDeque<Act>,
    calls: u32,
    /// What it was given last.
    inputs: Vec<String>,
}

#[async_trait]
impl Prover for Scripted {
    async fn prove(&mut self, job: &Job, watch: &Watch) -> Outcome {
        self.calls += 1;
        let text = |data: &Data| match data {
            Data::Memory(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Data::File(path) => std::fs::read_to_string(path).unwrap(),
        };
        self.inputs = job.inputs.iter().map(text).collect();
        match self.acts.pop_front().expect("an act is scripted") {
            Act::Answer(outcome) => outcome,
            Act::UntilCancelled => {
                watch.cancelled().await;
                Failure::retryable("cancelled").into()
            }
            Act::Hang => std::future::pending().await,
            Act::Busy(every) => loop {
                watch.progressed();
                self.clock.sleep_until(self.clock.now().plus(every)).await;
            },
            Act::Frozen(length) => {
                self.clock.advance(length);
                watch.cancelled().await;
                Failure::retryable("cancelled").into()
            }
        }
    }

    fn last_words(&self) -> String {
        "last words".to_owned()
    }
}

struct World {
    clock: ManualClock,
    engine: Engine,
    env: Env,
    prover: Scripted,
}

impl World {
    fn new() -> Self {
        Self::over(|engine| Arc::new(engine))
    }

    fn over(queue: impl FnOnce(Engine) -> Arc<dyn Queue>) -> Self {
        let clock = ManualClock::starting_at(Millis(1_000_000));
        let engine = engine(Arc::new(clock.clone()));
        let (starts, _) = life::starts();
        let env = Env {
            worker: "w1".parse().unwrap(),
            pool: pool(),
            queue: queue(engine.clone()),
            blobs: Arc::new(engine.clone()),
            clock: Arc::new(clock.clone()),
            leases: Leases::new(LEASE),
            store: Store::Memory,
            starts,
            limits: Limits::default(),
            health: Health::new("test"),
        };
        let prover = Scripted { clock: clock.clone(), acts: VecDeque::new(), calls: 0, inputs: Vec::new() };
        Self { clock, engine, env, prover }
    }

    fn act(mut self, act: Act) -> Self {
        self.prover.acts.push_back(act);
        self
    }

    fn artifact(self, text: &'static str) -> Self {
        self.act(Act::Answer(Outcome::Done(Output::Artifact(memory(text)))))
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        drive(&self.clock, future)
    }

    fn put(&self, key: &str, text: &str) -> push0_core::record::BlobRef {
        self.wait(put(&self.engine, key, text))
    }

    fn deliver(&self, task: &TaskMessage) -> Delivery {
        self.wait(async {
            send(&self.engine, task).await;
            self.engine.receive(&work(), 1, Millis(0), LEASE).await.unwrap().remove(0)
        })
    }

    /// Handles the delivery while leases are kept.
    fn handle(&mut self, delivery: Delivery) -> Settled {
        let queue = work();
        let Self { clock, engine, env, prover } = self;
        drive(clock, async {
            tokio::select! {
                biased;
                settled = life::handle(env, &queue, delivery, prover) => settled,
                () = env.leases.keep(engine, engine, &*env.clock) => unreachable!("beats for ever"),
            }
        })
    }

    fn run(&mut self, task: &TaskMessage) -> Settled {
        let delivery = self.deliver(task);
        self.handle(delivery)
    }

    fn work_left(&self) -> QueueStats {
        self.wait(self.engine.stats(&work())).unwrap()
    }

    fn reports(&self, queue: &str) -> Vec<ReportEvent> {
        self.wait(reports_now(&self.engine, queue))
    }
}

fn memory(text: &'static str) -> Data {
    Data::Memory(Bytes::from_static(text.as_bytes()))
}

fn failed(settled: &Settled) -> (FailureKind, &str, &[u32]) {
    let Settled::Reported(ReportEvent::Failed { kind, message, children }) = settled else { panic!("{settled:?}") };
    (*kind, message, children)
}

#[test]
fn an_artifact_is_stored_then_reported_then_the_message_is_gone() {
    let mut world = World::new().artifact("proof");
    let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    let settled = world.run(&task);
    let Settled::Reported(ReportEvent::Done { artifact }) = &settled else { panic!("{settled:?}") };
    assert_eq!((artifact.key.as_str(), artifact.sha256), (task.artifact_key().as_str(), Sha256::of(b"proof")));
    assert_eq!(world.reports(queue::RESULTS), [ReportEvent::Done { artifact: artifact.clone() }]);
    assert!(world.reports(queue::VERDICTS).is_empty());
    assert_eq!(world.work_left(), QueueStats::default());
}

#[test]
fn a_redelivered_task_whose_artifact_is_stored_is_not_proven_again() {
    let mut world = World::new();
    let task = task(Kind::Join, 0, vec![absent("in/0"), absent("in/1")]);
    let bytes = Bytes::from_static(b"the first one's");
    world.wait(world.engine.put_new(&task.artifact_key(), bytes, &task.id.to_string())).unwrap();
    let settled = world.run(&task);
    let Settled::Reported(ReportEvent::Done { artifact }) = settled else { panic!("{settled:?}") };
    assert_eq!(artifact.sha256, Sha256::of(b"the first one's"));
    assert_eq!(world.prover.calls, 0);
}

#[test]
fn an_artifact_stored_meanwhile_by_another_delivery_is_what_is_reported() {
    struct Racing(Engine, TaskMessage);
    #[async_trait]
    impl Prover for Racing {
        async fn prove(&mut self, _: &Job, _: &Watch) -> Outcome {
            let bytes = Bytes::from_static(b"other");
            self.0.put_new(&self.1.artifact_key(), bytes, &self.1.id.to_string()).await.unwrap();
            Outcome::Done(Output::Artifact(memory("mine")))
        }
    }
    let world = World::new();
    let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    let delivery = world.deliver(&task);
    let mut prover = Racing(world.engine.clone(), task);
    let settled = world.wait(life::handle(&world.env, &work(), delivery, &mut prover));
    let Settled::Reported(ReportEvent::Done { artifact }) = settled else { panic!("{settled:?}") };
    assert_eq!(artifact.sha256, Sha256::of(b"other"));
}

#[test]
fn a_key_written_by_somebody_else_fails_the_attempt() {
    let mut world = World::new();
    let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    world.put(&task.artifact_key(), "not from this task");
    assert_eq!(failed(&world.run(&task)).0, FailureKind::Retryable);
    assert_eq!(world.prover.calls, 0);
}

#[test]
fn split_stores_parts_pages_and_manifest() {
    let segments: Vec<Data> = (0..300).map(|number: u32| Data::Memory(Bytes::from(number.to_string()))).collect();
    let (hash, parent_hash) = (BlockHash([1; 32]), Some(BlockHash([2; 32])));
    let output = Output::Split { segments, header: memory("header"), hash, parent_hash };
    let mut world = World::new().act(Act::Answer(Outcome::Done(output)));
    let task = task(Kind::Split, 0, vec![world.put("witnesses/7", "witness")]);
    let Settled::Reported(ReportEvent::Split { manifest, segments, header, .. }) = world.run(&task) else { panic!() };
    assert_eq!((segments, header.key), (300, format!("{}/header", task.artifact_key())));
    assert!(world.reports(queue::RESULTS).is_empty(), "split counts only from the verdicts queue");
    assert_eq!(world.reports(queue::VERDICTS).len(), 1);

    let read = |key: &str| String::from_utf8(world.wait(world.engine.get(key)).unwrap().unwrap().to_vec()).unwrap();
    let manifest = Manifest::from_json(&read(&manifest.key)).unwrap();
    assert_eq!((manifest.pages.len(), manifest.hash, manifest.parent_hash), (2, hash, parent_hash));
    let second = ManifestPage::from_json(&read(&manifest.pages[1].key)).unwrap();
    assert_eq!((second.first, second.segments.len()), (256, 44));
    assert_eq!(second.segments[43].key, format!("{}/segments/000299", task.artifact_key()));
    assert_eq!(read(&second.segments[43].key), "299");

    let again = world.run(&task);
    assert!(matches!(again, Settled::Reported(ReportEvent::Split { segments: 300, .. })), "{again:?}");
    assert_eq!(world.prover.calls, 1);
}

#[test]
fn a_split_that_finds_other_segments_of_its_own_fails_and_equal_ones_do_not_matter() {
    for (left, fails) in [("one", false), ("another", true)] {
        let output = Output::Split {
            segments: vec![memory("one")],
            header: memory("header"),
            hash: BlockHash([1; 32]),
            parent_hash: None,
        };
        let mut world = World::new().act(Act::Answer(Outcome::Done(output)));
        let task = task(Kind::Split, 0, vec![world.put("witnesses/7", "witness")]);
        let key = format!("{}/segments/000000", task.artifact_key());
        let bytes = Bytes::from_static(left.as_bytes());
        world.wait(world.engine.put_new(&key, bytes, &task.id.to_string())).unwrap();
        let settled = world.run(&task);
        if fails {
            let (kind, message, _) = failed(&settled);
            assert_eq!(kind, FailureKind::Retryable);
            assert!(message.contains("earlier run of this attempt"), "{message}");
            assert!(world.wait(world.engine.head(&format!("{}/manifest", task.artifact_key()))).unwrap().is_none());
        } else {
            assert!(matches!(settled, Settled::Reported(ReportEvent::Split { .. })), "{settled:?}");
        }
    }
}

#[test]
fn a_verdict_names_the_root_it_is_about() {
    let verdict =
        Output::Verdict { verdict: Verdict::BadBlock, message: Some("why".to_owned()), outputs: Some(Sha256([5; 32])) };
    let mut world = World::new().act(Act::Answer(Outcome::Done(verdict)));
    let root = world.put("root", "root");
    let task = task(Kind::Verify, 0, vec![root.clone(), world.put("header", "header")]);
    let wanted = ReportEvent::Verified {
        verdict: Verdict::BadBlock,
        root: root.sha256,
        message: Some("why".to_owned()),
        outputs: Some(Sha256([5; 32])),
    };
    assert_eq!(world.run(&task), Settled::Reported(wanted.clone()));
    assert_eq!(world.reports(queue::VERDICTS), [wanted]);
}

#[test]
fn a_stopped_run_is_acknowledged_and_not_proven() {
    let mut world = World::new();
    let task = task(Kind::Map, 0, vec![absent("in/0")]);
    world.put(&control_key(&task.id.run), "stop");
    assert_eq!(world.run(&task), Settled::Stopped);
    assert_eq!((world.prover.calls, world.work_left()), (0, QueueStats::default()));
    assert!(world.reports(queue::RESULTS).is_empty());
}

#[test]
fn a_demoted_runs_task_is_dropped_where_it_was_left_behind_and_nowhere_else() {
    let late = Some(Millis(1));
    let task = TaskMessage { deadline: late, ..task(Kind::Map, 0, vec![absent("in/0")]) };
    let mut world = World::new();
    world.put(&demoted_key(&task.id.run), "demoted");
    assert_eq!(world.run(&task), Settled::LeftBehind);
    assert_eq!((world.prover.calls, world.work_left()), (0, QueueStats::default()));
    assert!(world.reports(queue::RESULTS).is_empty(), "silently");

    // What is there only once is proven: sent after the demotion, in time, of a class that cannot fall, a copy among several.
    let mut others = vec![
        TaskMessage { demoted: true, class: Class::Bulk, ..task.clone() },
        TaskMessage { deadline: None, ..task.clone() },
        TaskMessage { class: Class::Bulk, ..task.clone() },
        TaskMessage { copies: Some(2), ..task.clone() },
    ];
    others.iter_mut().for_each(|task| task.inputs.clear());
    for other in others {
        let mut world = World::new().artifact("proof");
        world.put(&demoted_key(&other.id.run), "demoted");
        let segment = world.put("in/0", "segment");
        assert!(matches!(world.run(&TaskMessage { inputs: vec![segment], ..other }), Settled::Reported(_)));
        assert_eq!(world.prover.calls, 1);
    }
    // Without the marker there may be no other.
    let mut world = World::new().artifact("proof");
    let segment = world.put("in/0", "segment");
    assert!(matches!(world.run(&TaskMessage { inputs: vec![segment], ..task.clone() }), Settled::Reported(_)));
    // Delivered before it may have been started, and then it was not sent again.
    let mut world = World::new().artifact("proof");
    world.put(&demoted_key(&task.id.run), "demoted");
    let segment = world.put("in/0", "segment");
    let again = Delivery { receive_count: 2, ..world.deliver(&TaskMessage { inputs: vec![segment], ..task }) };
    assert!(matches!(world.handle(again), Settled::Reported(_)));
}

#[test]
fn a_run_stopped_while_it_is_proven_cancels_the_prover() {
    for act in [Act::UntilCancelled, Act::Hang] {
        let mut world = World::new().act(act);
        let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
        let delivery = world.deliver(&task);
        let (engine, clock, control) = (world.engine.clone(), world.clock.clone(), control_key(&task.id.run));
        let queue = work();
        let World { env, prover, .. } = &mut world;
        let stop = async {
            clock.sleep_until(clock.now().plus(Millis(20_000))).await;
            put(&engine, &control, "stop").await;
            std::future::pending::<()>().await
        };
        let settled = drive(&clock, async {
            tokio::select! {
                biased;
                settled = life::handle(env, &queue, delivery, prover) => settled,
                () = env.leases.keep(&engine, &engine, &clock) => unreachable!(),
                () = stop => unreachable!(),
            }
        });
        assert_eq!(settled, Settled::Stopped);
        assert_eq!((world.work_left(), world.env.leases.count()), (QueueStats::default(), 0));
        assert!(world.reports(queue::RESULTS).is_empty());
    }
}

#[test]
fn a_copy_that_comes_too_late_is_acknowledged_and_not_proven() {
    let attempt = |copies, copy: u8, attempt: u32| {
        let mut task = task(Kind::Map, 0, vec![absent("in/0")]);
        (task.id.copy, task.id.attempt, task.copies) = (copy, push0_core::Attempt(attempt), copies);
        task
    };
    let second = attempt(Some(1), 1, 1);
    let settled = |task: &TaskMessage| {
        let mut world = World::new();
        world.put(&node_control_key(&second.id, &second.stage), "stop");
        let settled = world.run(task);
        (settled, world.prover.calls, world.reports(queue::RESULTS).len())
    };
    assert_eq!(settled(&second), (Settled::Stopped, 0, 0));
    assert_eq!(settled(&attempt(Some(2), 0, 1)), (Settled::Stopped, 0, 0));
    // The input is missing, which is said of what is taken up.
    for other in [attempt(Some(1), 1, 2), attempt(None, 0, 1)] {
        assert!(matches!(settled(&other).0, Settled::Reported(_)), "{other:?} is not what was settled");
    }
}

#[test]
fn a_copy_is_cancelled_when_another_was_first() {
    for (copies, stops) in [(Some(1), true), (None, false)] {
        let mut world = World::new().act(Act::UntilCancelled);
        let mut task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
        task.copies = copies;
        let delivery = world.deliver(&task);
        let (engine, clock) = (world.engine.clone(), world.clock.clone());
        let (control, queue) = (node_control_key(&task.id, &task.stage), work());
        let World { env, prover, .. } = &mut world;
        let stop = async {
            clock.sleep_until(clock.now().plus(Millis(20_000))).await;
            put(&engine, &control, "stop").await;
            clock.sleep_until(clock.now().plus(LEASE)).await;
        };
        let settled = drive(&clock, async {
            tokio::select! {
                biased;
                settled = life::handle(env, &queue, delivery, prover) => Some(settled),
                () = env.leases.keep(&engine, &engine, &clock) => unreachable!(),
                () = stop => None,
            }
        });
        assert_eq!(settled, stops.then_some(Settled::Stopped), "whom it does not concern goes on");
        assert!(world.reports(queue::RESULTS).is_empty());
    }
}

#[test]
fn a_worker_never_has_two_copies_of_a_task_in_hand() {
    let mut world = World::new();
    let mut first = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    first.copies = Some(2);
    let (delivery, queue) = (world.deliver(&first), work());
    let held = world.env.leases.hold(&queue, &delivery.receipt);
    let prepared = world.wait(life::prepare(&world.env, held, &delivery));
    let life::Prepared::Ready(in_hand) = prepared else { panic!("the first is taken") };
    for round in 0..6 {
        let copy = if round == 0 {
            world.deliver(&first.as_copy(1))
        } else {
            world.wait(world.engine.receive(&work(), 1, Millis(60_000), LEASE)).unwrap().remove(0)
        };
        assert_eq!(world.handle(copy), Settled::Avoided, "however often it comes");
    }
    drop(in_hand);
    let mut world = world.artifact("proof");
    let copy = world.wait(world.engine.receive(&work(), 1, Millis(60_000), LEASE)).unwrap().remove(0);
    let settled = world.handle(copy);
    assert!(matches!(settled, Settled::Reported(ReportEvent::Done { .. })), "{settled:?}");
}

#[test]
fn an_avoided_worker_releases_the_task_up_to_a_bound() {
    let mut world = World::new().artifact("proof");
    let mut task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    task.avoid = vec!["w0".parse().unwrap(), "w1".parse().unwrap()];
    let mut delivery = world.deliver(&task);
    let mut avoided = 0;
    let settled = loop {
        match world.handle(delivery) {
            Settled::Avoided => avoided += 1,
            settled => break settled,
        }
        assert_eq!(world.work_left().delayed, 1, "others get it first");
        delivery = world.wait(world.engine.receive(&work(), 1, Millis(60_000), LEASE)).unwrap().remove(0);
    };
    assert!(matches!(settled, Settled::Reported(ReportEvent::Done { .. })), "{settled:?}");
    assert_eq!((avoided, world.prover.calls), (4, 1));
}

#[test]
fn a_barred_worker_never_takes_the_task_however_often_it_comes() {
    let mut world = World::new().artifact("proof");
    let mut task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    task.barred = vec!["w1".parse().unwrap()];
    let mut delivery = world.deliver(&task);
    for receive in 1..=20 {
        assert_eq!((delivery.receive_count, world.handle(delivery)), (receive, Settled::Avoided));
        assert_eq!(world.work_left().delayed, 1, "others get it first");
        delivery = world.wait(world.engine.receive(&work(), 1, Millis(60_000), LEASE)).unwrap().remove(0);
    }
    assert_eq!(world.prover.calls, 0);
    assert!(world.reports(queue::RESULTS).is_empty());
}

#[test]
fn a_lease_that_somebody_else_took_over_ends_the_task_without_a_word() {
    let mut world = World::new().act(Act::Frozen(Millis(60_000)));
    let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    assert_eq!(world.run(&task), Settled::Lost);
    assert!(world.reports(queue::RESULTS).is_empty());
    assert_eq!(world.work_left().visible, 1, "it is there for somebody else");
    assert!(world.wait(world.engine.head(&task.artifact_key())).unwrap().is_none());
}

#[test]
fn leases_live_as_long_as_the_prover_works() {
    let mut world = World::new().act(Act::Hang);
    let mut task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    task.time_limit = Millis::from_secs(3600);
    let begun = world.clock.now();
    let settled = world.run(&task);
    let (kind, message, _) = failed(&settled);
    assert_eq!((kind, world.clock.now().since(begun)), (FailureKind::Retryable, task.time_limit));
    assert!(message.contains("time limit") && message.ends_with("last words"), "{message}");
    assert_eq!(world.work_left(), QueueStats::default());
}

#[test]
fn a_silent_prover_is_killed_at_its_progress_limit_and_a_talking_one_at_its_time_limit() {
    for (act, ran) in [(Act::Hang, 10_000), (Act::Busy(Millis(9_000)), 100_000)] {
        let mut world = World::new().act(act);
        let mut task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
        (task.time_limit, task.progress_limit) = (Millis(100_000), Some(Millis(10_000)));
        let begun = world.clock.now();
        let settled = world.run(&task);
        assert_eq!(failed(&settled).0, FailureKind::Retryable);
        assert_eq!(world.clock.now().since(begun), Millis(ran));
    }
}

#[test]
fn an_input_that_is_missing_or_not_the_pinned_one_accuses_its_child() {
    let cases = [
        (Kind::Join, "there", FailureKind::BadInput, vec![1], "not the one pinned"),
        (Kind::Split, "there", FailureKind::Retryable, vec![], "not the one pinned"),
        (Kind::Join, "gone", FailureKind::BadInput, vec![1], "not stored any more"),
        (Kind::Split, "gone", FailureKind::Retryable, vec![], "not stored any more"),
    ];
    for (kind, key, wanted, accused, text) in cases {
        let mut world = World::new();
        world.put("there", "something else");
        let good = world.put("good", "good");
        let inputs = if kind == Kind::Join { vec![good, absent(key)] } else { vec![absent(key)] };
        let settled = world.run(&task(kind, 0, inputs));
        let (kind, message, children) = failed(&settled);
        assert_eq!((kind, children), (wanted, &accused[..]), "{message}");
        assert!(message.contains(text), "{message}");
        assert_eq!(world.prover.calls, 0);
    }
}

#[test]
fn a_check_reports_what_it_found_to_the_trusted_queue_and_stores_nothing() {
    let verdict = |verdict| Act::Answer(Outcome::Done(Output::Verdict { verdict, message: None, outputs: None }));
    let cases = [
        (verdict(Verdict::Ok), Finding::Sound),
        (verdict(Verdict::BadProof), Finding::Unsound),
        (Act::Answer(Failure::permanent("cannot check").into()), Finding::Unknown),
    ];
    for (act, wanted) in cases {
        let mut world = World::new().act(act);
        let accused = world.put("accused", "artifact");
        let inputs = vec![accused.clone(), world.put("header", "h"), world.put("in/0", "s"), world.put("in/1", "s")];
        let check = Check { reader: Node::new(2, 0, 0), slot: 1 };
        let settled = world.run(&TaskMessage { check: Some(check), ..task(Kind::Map, 0, inputs) });
        let Settled::Reported(ReportEvent::Checked { reader, slot, artifact, finding, .. }) = settled else {
            panic!("{settled:?}")
        };
        assert_eq!((reader, slot, artifact, finding), (check.reader, 1, accused.sha256, wanted));
        assert_eq!((world.reports(queue::VERDICTS).len(), world.reports(queue::RESULTS).len()), (1, 0));
    }
}

#[test]
fn an_accused_artifact_whose_bytes_are_damaged_is_unsound_without_asking_a_prover() {
    let mut world = World::new();
    world.put("there", "something else");
    let inputs = vec![absent("there"), world.put("header", "h"), world.put("in/0", "s"), world.put("in/1", "s")];
    let check = Check { reader: Node::new(2, 0, 0), slot: 0 };
    let settled = world.run(&TaskMessage { check: Some(check), ..task(Kind::Map, 0, inputs) });
    assert!(
        matches!(settled, Settled::Reported(ReportEvent::Checked { finding: Finding::Unsound, .. })),
        "{settled:?}"
    );
    assert_eq!(world.prover.calls, 0);
}

#[test]
fn a_failure_is_reported_as_the_prover_said_it() {
    for failure in [Failure::retryable("r"), Failure::permanent("p"), Failure::bad_input(vec![0], "b")] {
        let mut world = World::new().act(Act::Answer(failure.clone().into()));
        let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
        let Failure { kind, message, children } = failure;
        assert_eq!(world.run(&task), Settled::Reported(ReportEvent::Failed { kind, message, children }));
    }
}

#[test]
fn what_is_no_task_of_this_pool_goes_back_towards_the_dead_letters() {
    let mut world = World::new();
    let mut foreign = task(Kind::Map, 0, vec![absent("in/0")]);
    foreign.pool = "gpu".parse().unwrap();
    assert!(matches!(world.run(&foreign), Settled::Poison(_)));
    assert_eq!(world.work_left().delayed, 1);
    assert!(world.reports(queue::RESULTS).is_empty());
}

/// Refuses to send a number of times.
struct Stubborn(Engine, AtomicU32);

#[async_trait]
impl Queue for Stubborn {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        if self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(PortError::transient("not now"));
        }
        self.0.send(queue, messages).await
    }
    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        self.0.receive(queue, max, wait, lease).await
    }
    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.0.extend(queue, receipt, lease).await
    }
    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.0.release(queue, receipt, delay).await
    }
    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.0.ack(queue, receipt).await
    }
    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.0.stats(queue).await
    }
}

#[test]
fn a_report_is_sent_until_it_arrives_and_the_message_kept_until_then() {
    let mut world = World::over(|engine| Arc::new(Stubborn(engine, AtomicU32::new(12)))).artifact("proof");
    let task = task(Kind::Map, 0, vec![world.put("in/0", "segment")]);
    let begun = world.clock.now();
    assert!(matches!(world.run(&task), Settled::Reported(_)));
    assert!(world.clock.now().since(begun) > LEASE, "longer than a lease, which was kept meanwhile");
    assert_eq!((world.reports(queue::RESULTS).len(), world.work_left()), (1, QueueStats::default()));
}

#[test]
fn a_worker_without_room_hands_the_task_back_and_uses_up_no_attempt() {
    let mut world = World::new().act(Act::Answer(Failure::retryable("no space left on device").into()));
    let scratch = tempfile::tempdir().unwrap();
    world.env.store = Store::Disk(scratch.path().to_owned());
    // As full as a disk can be.
    world.env.limits.scratch_reserve = u64::MAX;
    let witness = world.put("witnesses/w", "w");
    let settled = world.run(&task(Kind::Map, 0, vec![witness]));
    assert_eq!(settled, Settled::Released);
    assert_eq!(world.reports(queue::RESULTS), []);
    let left = world.work_left();
    assert_eq!((left.delayed, left.in_flight), (1, 0), "another worker gets it");
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0, "and its files are gone");
}

#[test]
fn what_a_prover_calls_permanent_is_reported_whatever_room_there_is() {
    let mut world = World::new().act(Act::Answer(Failure::permanent("p").into()));
    let scratch = tempfile::tempdir().unwrap();
    world.env.store = Store::Disk(scratch.path().to_owned());
    world.env.limits.scratch_reserve = u64::MAX;
    let witness = world.put("witnesses/w", "w");
    let settled = world.run(&task(Kind::Map, 0, vec![witness]));
    assert_eq!(failed(&settled).0, FailureKind::Permanent);
}

/// Blobs that this worker has no right to.
struct Forbidden;

fn forbidden<T>() -> PortResult<T> {
    Err(PortError::permanent("P0-502: S3 HeadObject: AccessDenied"))
}

#[async_trait]
impl Blobs for Forbidden {
    async fn put_new(&self, _: &str, _: Bytes, _: &str) -> PortResult<PutOutcome> {
        forbidden()
    }
    async fn put_file(&self, _: &str, _: &std::path::Path, _: &str) -> PortResult<PutOutcome> {
        forbidden()
    }
    async fn get(&self, _: &str) -> PortResult<Option<Bytes>> {
        forbidden()
    }
    async fn get_file(&self, _: &str, _: &std::path::Path) -> PortResult<Option<BlobInfo>> {
        forbidden()
    }
    async fn get_range(&self, _: &str, _: u64, _: u64) -> PortResult<Option<Bytes>> {
        forbidden()
    }
    async fn head(&self, _: &str) -> PortResult<Option<BlobInfo>> {
        forbidden()
    }
    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> PortResult<Vec<String>> {
        forbidden()
    }
    async fn delete(&self, _: &str) -> PortResult<()> {
        forbidden()
    }
}

#[test]
fn a_worker_that_is_refused_what_it_needs_costs_no_task_an_attempt() {
    let mut world = World::new();
    let witness = world.put("witnesses/w", "w");
    world.env.blobs = Arc::new(Forbidden);
    let begun = world.env.clock.now();
    let settled = world.run(&task(Kind::Map, 0, vec![witness]));
    assert_eq!(settled, Settled::Released);
    assert_eq!(world.reports(queue::RESULTS), [], "nobody is told that it failed");
    assert!(world.env.clock.now() > begun, "and it is in no hurry to take the next one");
}

/// The split task of a batch of blocks 1 to `blocks`, and the texts of what it names.
fn batch(world: &World, blocks: u64) -> (TaskMessage, Vec<String>) {
    let mut named = Vec::new();
    let mut batched = |number: u64| {
        let mut blob = |what: &str| {
            let text = format!("{what} of {number}");
            named.push(text.clone());
            world.put(&format!("artifacts/other/{number}/{what}"), &text)
        };
        let (proof, header) = (blob("proof"), blob("header"));
        let (hash, pipeline) = (BlockHash([number as u8; 32]), push0_core::PipelineDigest([0; 32]));
        push0_core::record::BatchedBlock { number, hash, parent_hash: None, proof, header, pipeline }
    };
    let blocks_named = (1..=blocks).map(&mut batched).collect();
    let manifest = push0_core::record::BatchManifest {
        chain: "payments".parse().unwrap(),
        from: 1,
        to: blocks,
        blocks: blocks_named,
    };
    let manifest = world.put("witnesses/batches/1", &manifest.to_json());
    (TaskMessage { expand: true, ..task(Kind::Split, 0, vec![manifest]) }, named)
}

fn split_in_one() -> Act {
    Act::Answer(Outcome::Done(Output::Split {
        segments: vec![memory("segment")],
        header: memory("header"),
        hash: BlockHash([7; 32]),
        parent_hash: None,
    }))
}

#[test]
fn the_split_of_a_batch_gets_what_its_manifest_names_from_memory_as_from_disk() {
    let scratch = tempfile::tempdir().unwrap();
    for store in [Store::Memory, Store::Disk(scratch.path().to_owned())] {
        let mut world = World::new().act(split_in_one());
        world.env.store = store;
        let (task, named) = batch(&world, 3);
        let settled = world.run(&task);
        assert!(matches!(settled, Settled::Reported(ReportEvent::Split { segments: 1, .. })), "{settled:?}");
        assert_eq!(world.prover.inputs[1..], named);
        assert!(world.prover.inputs[0].contains("\"from\":1"), "the manifest comes first");
    }
}

#[test]
fn without_the_flag_a_manifest_is_only_a_file_and_with_it_anything_else_is_refused() {
    let mut world = World::new().act(split_in_one());
    let (task, _) = batch(&world, 2);
    world.run(&TaskMessage { expand: false, ..task.clone() });
    assert_eq!(world.prover.inputs.len(), 1);
    let mut world = World::new();
    let junk = world.put("witnesses/batches/2", "no manifest");
    let settled = world.run(&TaskMessage { inputs: vec![junk], ..task });
    let (kind, message, _) = failed(&settled);
    assert!(kind == FailureKind::Permanent && message.contains("the batch's manifest"), "{message}");
    assert_eq!(world.prover.calls, 0);
}

#[test]
fn a_batch_beyond_the_limits_or_with_a_missing_or_another_proof_is_not_split() {
    let refused = |world: &mut World, task: &TaskMessage, kind: FailureKind, wanted: &str| {
        let settled = world.run(task);
        let (found, message, _) = failed(&settled);
        assert!(found == kind && message.contains(wanted), "{message}");
        assert_eq!(world.prover.calls, 0);
    };
    let mut world = World::new();
    world.env.limits.batch_blocks = 2;
    let (task, _) = batch(&world, 3);
    refused(&mut world, &task, FailureKind::Permanent, "3 blocks; at most 2");
    let mut world = World::new();
    world.env.limits.batch_bytes = 20;
    let (task, _) = batch(&world, 3);
    refused(&mut world, &task, FailureKind::Permanent, "at most 20 are possible");

    // It may be a bad read, so it is tried again.
    let mut world = World::new();
    let (task, _) = batch(&world, 3);
    world.wait(world.engine.delete("artifacts/other/2/header")).unwrap();
    refused(&mut world, &task, FailureKind::Retryable, "input 4 is not stored any more");
    world.put("artifacts/other/2/header", "another header");
    let again = TaskMessage { id: task.id.to_string().replace("a1c0", "a2c0").parse().unwrap(), ..task };
    refused(&mut world, &again, FailureKind::Retryable, "P0-009: input 4 (artifacts/other/2/header)");
}
