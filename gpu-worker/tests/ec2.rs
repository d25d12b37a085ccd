//! The worker on an EC2 instance: real prover processes, the engine in memory, instance metadata over HTTP on loopback, and an Auto Scaling
//! group that records what it is told. Waits are for events, bounded only against a hang of the test.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "ec2/autoscaling.rs"]
mod autoscaling;
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use push0_core::message::{ReportEvent, TaskMessage, queue, work_queue};
use push0_core::pipeline::{self, Kind};
use push0_core::{Class, Millis, Sha256};
use push0_gpu_worker::ec2::{Answer, Completion, Hook, Instance, LifecycleHooks, Rules, run, self_tests};
use push0_gpu_worker::{WorkerConfig, WorkerError};
use push0_runtime::aws::{InstanceMetadata, http_client};
use push0_runtime::conformance::{FakeImds, Fault};
use push0_runtime::engine::Engine;
use push0_runtime::port::{Delivery, Outgoing, PortResult, Queue, QueueStats, SystemClock};
use serde_json::json;
use support::*;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the worker did to the outside, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Did {
    Receive,
    Report,
    Ack,
    Release,
    Complete(Hook, Completion),
    Heartbeat(Hook),
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Did>>>);

impl Log {
    fn note(&self, did: Did) {
        self.0.lock().unwrap().push(did);
    }

    fn all(&self) -> Vec<Did> {
        self.0.lock().unwrap().clone()
    }

    fn has(&self, did: &Did) -> bool {
        self.0.lock().unwrap().contains(did)
    }

    async fn until(&self, did: Did) {
        until(|| self.has(&did)).await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("within a minute");
}

/// The engine's queues, with what the worker does to them noted once it is done.
struct Recording {
    engine: Engine,
    log: Log,
}

#[async_trait]
impl Queue for Recording {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        let is_report = messages.iter().any(|message| !message.body.contains("\"started\""));
        self.engine.send(queue, messages).await?;
        if is_report {
            self.log.note(Did::Report);
        }
        Ok(())
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        self.log.note(Did::Receive);
        self.engine.receive(queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.engine.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.engine.release(queue, receipt, delay).await?;
        self.log.note(Did::Release);
        Ok(())
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        // Noted before: nothing may come in between.
        self.log.note(Did::Ack);
        self.engine.ack(queue, receipt).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.engine.stats(queue).await
    }
}

/// A group that waits at both hooks, after having been asked `early` times too early.
struct Hooks {
    log: Log,
    early: Mutex<u32>,
}

#[async_trait]
impl LifecycleHooks for Hooks {
    async fn complete(&self, hook: Hook, completion: Completion) -> PortResult<Answer> {
        let mut early = self.early.lock().unwrap();
        if *early > 0 {
            *early -= 1;
            return Ok(Answer::NotWaiting);
        }
        self.log.note(Did::Complete(hook, completion));
        Ok(Answer::Heard)
    }

    async fn heartbeat(&self, hook: Hook) -> PortResult<Answer> {
        self.log.note(Did::Heartbeat(hook));
        Ok(Answer::Heard)
    }
}

struct Host {
    engine: Engine,
    imds: FakeImds,
    log: Log,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), WorkerError>>,
}

/// What a host begins as.
struct Setup<'a> {
    state: Option<&'a str>,
    fault: Option<Fault>,
    /// Of the prover in the pipeline, beside what makes it work.
    prover: &'a str,
    early: u32,
    rules: Rules,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let rules = Rules {
            has_group: true,
            look_every: Millis(20),
            beat_every: Millis(20),
            hook_patience: Millis::from_secs(10),
            ..Rules::default()
        };
        Self { state: Some("InService"), fault: None, prover: "", early: 0, rules }
    }
}

impl Host {
    async fn start(setup: Setup<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("seed"), "segment").unwrap();
        let (engine, log) = (engine(Arc::new(SystemClock)), Log::default());
        let imds = FakeImds::start().await.unwrap();
        setup.state.into_iter().for_each(|state| imds.target_state(state));
        imds.fail(setup.fault);

        let prover = setup.prover.replace("SEED", dir.path().join("seed").to_str().unwrap());
        let pipeline = format!(
            "name = \"scripted\"\n[prover.scripted]\nform = \"session\"\ncommand = [\"python3\"]\n{prover}\n{}\
             [policy.default]\npool = \"cpu\"\n",
            ["split", "map", "join", "verify"]
                .map(|kind| format!("[[stage]]\nname = \"{kind}\"\nkind = \"{kind}\"\n"))
                .concat()
        );
        let pipeline = pipeline::parse(&pipeline).unwrap();
        let instance = Instance {
            imds: Arc::new(InstanceMetadata::new(http_client(), Some(imds.address())).unwrap()),
            hooks: Arc::new(Hooks { log: log.clone(), early: Mutex::new(setup.early) }),
            self_tests: self_tests([&pipeline], &pool()),
            rules: setup.rules,
        };
        let config = WorkerConfig { classes: vec![Class::Standard], ..config(dir.path()) };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let queue = Arc::new(Recording { engine: engine.clone(), log: log.clone() });
        let blobs = Arc::new(engine.clone());
        let running = tokio::spawn(run(config, instance, queue, blobs, Arc::new(SystemClock), shutdown));
        Self { engine, imds, log, dir, stop: Some(stop), running }
    }

    async fn send(&self, index: u32, params: serde_json::Value) {
        let input = put(&self.engine, &format!("in/{}", Sha256::of(b"segment")), "segment").await;
        send(&self.engine, &TaskMessage { params, ..task(Kind::Map, index, vec![input]) }).await;
    }

    async fn proves(&self, index: u32) {
        self.send(index, json!({})).await;
        self.reports_done().await;
    }

    async fn reports_done(&self) {
        let report = next_report(&self.engine, queue::RESULTS).await;
        assert!(matches!(report.event, ReportEvent::Done { .. }), "{report:?}");
    }

    /// How often the prover was given a task.
    fn given(&self) -> usize {
        invocations(self.dir.path())
    }

    /// The metadata are read again and again.
    async fn looks(&self) {
        let before = self.imds.requests();
        until(|| self.imds.requests() > before + 30).await;
    }

    async fn stats_are(&self, visible: u64, in_flight: u64) {
        let reached = async {
            loop {
                let stats = self.engine.stats(&work_queue(&pool(), Class::Standard)).await.unwrap();
                if (stats.visible, stats.in_flight) == (visible, in_flight) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("within a minute");
    }

    /// Ended by itself.
    async fn ends(self) -> Result<(), WorkerError> {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.running);
        ended.await.expect("within a minute").unwrap()
    }

    async fn stops(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.ends().await.unwrap();
    }
}

fn launched() -> Did {
    Did::Complete(Hook::Launch, Completion::Continue)
}

fn terminated() -> Did {
    Did::Complete(Hook::Termination, Completion::Continue)
}

/// In two minutes at the earliest: whatever is later is cut to that.
const SOON: &str = "2100-01-01T00:00:00Z";

#[tokio::test]
async fn an_instance_in_the_warm_pool_receives_nothing_until_it_is_in_service() {
    let host = Host::start(Setup { state: Some("Warmed:Stopped"), ..Setup::default() }).await;
    host.send(0, json!({})).await;
    // It was tested, and the group may stop it.
    host.log.until(launched()).await;
    host.looks().await;
    assert!(!host.log.has(&Did::Receive), "{:?}", host.log.all());

    host.imds.target_state("InService");
    host.reports_done().await;
    until(|| host.log.all().iter().filter(|did| **did == launched()).count() == 2).await;
    host.stops().await;
}

#[tokio::test]
async fn on_standby_nothing_new_is_taken_and_it_goes_on_afterwards() {
    let host = Host::start(Setup { state: Some("Standby"), ..Setup::default() }).await;
    host.looks().await;
    assert_eq!(host.log.all(), [], "neither tested nor answered");
    host.imds.target_state("InService");
    host.proves(0).await;
    host.imds.target_state("Standby");
    host.looks().await;
    host.send(1, json!({})).await;
    host.looks().await;
    host.stats_are(1, 0).await;
    host.imds.target_state("InService");
    host.reports_done().await;
    host.stops().await;
}

#[tokio::test]
async fn a_state_that_its_group_does_not_show_yet_is_waited_for() {
    let host = Host::start(Setup { state: None, ..Setup::default() }).await;
    host.looks().await;
    assert_eq!(host.log.all(), []);
    host.imds.target_state("InService");
    host.proves(0).await;
    host.stops().await;
}

#[tokio::test]
async fn an_instance_of_no_group_takes_work() {
    let rules = Rules { has_group: false, ..Setup::default().rules };
    let host = Host::start(Setup { state: None, rules, ..Setup::default() }).await;
    host.proves(0).await;
    host.stops().await;
}

#[tokio::test]
async fn a_report_is_sent_before_its_task_is_deleted() {
    let host = Host::start(Setup::default()).await;
    for index in 0..3 {
        host.proves(index).await;
    }
    until(|| host.log.all().iter().filter(|did| **did == Did::Ack).count() == 3).await;
    let log = host.log.all();
    let (mut reports, mut acks) = (0, 0);
    for did in &log {
        match did {
            Did::Report => reports += 1,
            Did::Ack => {
                acks += 1;
                assert!(acks <= reports, "{log:?}");
            }
            _ => {}
        }
    }
    assert_eq!((reports, acks), (3, 3));
    host.stops().await;
}

#[tokio::test]
async fn after_a_spot_notice_a_short_task_is_finished_and_no_other_taken() {
    let host = Host::start(Setup::default()).await;
    let go = host.dir.path().join("go");
    host.send(0, json!({ "do": "wait", "for": go })).await;
    until(|| host.given() == 1).await;
    host.imds.spot_action("terminate", SOON);
    host.looks().await;
    host.send(1, json!({})).await;
    std::fs::write(go, "").unwrap();
    host.reports_done().await;
    host.looks().await;
    host.stats_are(1, 0).await;
    assert_eq!((host.given(), host.log.has(&Did::Release)), (1, false));

    // It stays, idle, until it is told to go: its group may still want an answer.
    host.imds.target_state("Terminated");
    let log = host.log.clone();
    host.ends().await.unwrap();
    assert_eq!(log.all().last(), Some(&terminated()));
}

#[tokio::test]
async fn after_a_spot_notice_a_task_that_would_not_be_done_in_time_is_handed_back_at_once() {
    let host = Host::start(Setup::default()).await;
    // A hundredth in two seconds: more than three minutes in all.
    host.send(0, json!({ "do": "crawl" })).await;
    until(|| host.given() == 1).await;
    host.imds.spot_action("terminate", SOON);
    host.log.until(Did::Release).await;
    host.stats_are(1, 0).await;
    assert!(!host.log.has(&Did::Report));
    host.stops().await;
}

#[tokio::test]
async fn what_is_not_done_when_the_notice_is_over_is_handed_back() {
    let host = Host::start(Setup::default()).await;
    host.send(0, json!({ "do": "hang" })).await;
    until(|| host.given() == 1).await;
    host.imds.spot_action("terminate", "2017-09-18T08:22:00Z");
    host.log.until(Did::Release).await;
    host.stops().await;
}

#[tokio::test]
async fn after_a_rebalance_recommendation_no_other_task_is_taken() {
    let host = Host::start(Setup::default()).await;
    let go = host.dir.path().join("go");
    host.send(0, json!({ "do": "wait", "for": go })).await;
    until(|| host.given() == 1).await;
    host.imds.recommend_rebalance(SOON);
    host.looks().await;
    host.send(1, json!({})).await;
    std::fs::write(go, "").unwrap();
    host.reports_done().await;
    host.looks().await;
    host.stats_are(1, 0).await;
    assert_eq!(host.given(), 1);
    host.stops().await;

    let rules = Rules { leaves_on_rebalance: false, ..Setup::default().rules };
    let host = Host::start(Setup { rules, ..Setup::default() }).await;
    host.imds.recommend_rebalance(SOON);
    host.looks().await;
    host.proves(0).await;
    host.stops().await;
}

#[tokio::test]
async fn a_terminated_instance_drains_with_heartbeats_and_completes_the_hook_after_the_last_report() {
    // The group is asked before it waits, as may happen on AWS, too.
    let host = Host::start(Setup { early: 2, ..Setup::default() }).await;
    host.log.until(launched()).await;
    let go = host.dir.path().join("go");
    host.send(0, json!({ "do": "wait", "for": go })).await;
    until(|| host.given() == 1).await;
    host.imds.target_state("Terminated");
    let heartbeat = Did::Heartbeat(Hook::Termination);
    until(|| host.log.all().iter().filter(|did| **did == heartbeat).count() > 2).await;
    assert!(!host.log.has(&terminated()) && !host.log.has(&Did::Report));
    std::fs::write(go, "").unwrap();
    let log = host.log.clone();
    host.ends().await.unwrap();
    let log = log.all();
    let at = |wanted: &Did| log.iter().rposition(|did| did == wanted).unwrap_or_else(|| panic!("{wanted:?}: {log:?}"));
    assert!(at(&Did::Report) < at(&Did::Ack) && at(&Did::Ack) < at(&terminated()), "{log:?}");
    assert!(at(&heartbeat) < at(&terminated()), "{log:?}");
    assert_eq!(at(&terminated()), log.len() - 1, "{log:?}");
}

#[tokio::test]
async fn an_instance_goes_back_to_the_warm_pool_and_comes_again() {
    let host = Host::start(Setup::default()).await;
    host.proves(0).await;
    host.imds.target_state("Warmed:Running");
    host.log.until(terminated()).await;
    host.send(1, json!({})).await;
    host.looks().await;
    host.stats_are(1, 0).await;
    host.imds.target_state("InService");
    host.reports_done().await;
    host.stops().await;
}

#[tokio::test]
async fn a_worker_that_is_stopped_while_it_waits_ends() {
    for state in [None, Some("Standby"), Some("Warmed:Running")] {
        Host::start(Setup { state, ..Setup::default() }).await.stops().await;
    }
}

#[tokio::test]
async fn a_prover_that_fails_its_self_test_gives_the_launch_up() {
    let cases = [
        (
            "[prover.scripted.programs]\nleaf = \"2222222222222222222222222222222222222222222222222222222222222222\"",
            "program leaf",
        ),
        (
            "[prover.scripted.self_test]\nstage = \"join\"\ninputs = [\"SEED\", \"SEED-that-is-not-there\"]",
            "-that-is-not-there",
        ),
    ];
    for (prover, says) in cases {
        let host = Host::start(Setup { prover, ..Setup::default() }).await;
        host.send(0, json!({})).await;
        let log = host.log.clone();
        let failure = host.ends().await.unwrap_err();
        let WorkerError::SelfTest { message, .. } = &failure else { panic!("{failure}") };
        assert!(message.contains(says), "{message}");
        let told: Vec<Did> = log.all().into_iter().filter(|did| *did != Did::Heartbeat(Hook::Launch)).collect();
        assert_eq!(told, [Did::Complete(Hook::Launch, Completion::Abandon)]);
    }
}

#[tokio::test]
async fn a_self_test_proves_before_anything_is_received() {
    let prover = "[prover.scripted.self_test]\nstage = \"map\"\ninputs = [\"SEED\"]";
    let host = Host::start(Setup { prover, ..Setup::default() }).await;
    host.log.until(Did::Receive).await;
    assert_eq!(host.given(), 1, "the test's own");
    host.proves(0).await;
    assert_eq!(host.given(), 2);
    let left = host.dir.path().join("scratch/w1").read_dir().unwrap();
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with("self-test")));
    host.stops().await;
}

#[tokio::test]
async fn metadata_that_cannot_be_read_neither_begin_nor_end_the_work() {
    for fault in [Fault::Answers(401), Fault::Answers(429), Fault::Answers(403)] {
        let host = Host::start(Setup { fault: Some(fault), ..Setup::default() }).await;
        host.send(0, json!({})).await;
        host.looks().await;
        assert_eq!(host.log.all(), [], "{fault:?}");
        host.imds.fail(None);
        host.reports_done().await;
        host.imds.fail(Some(fault));
        host.looks().await;
        host.proves(1).await;
        host.imds.fail(None);
        host.imds.target_state("Terminated");
        host.ends().await.unwrap();
    }
}

#[tokio::test]
async fn metadata_that_do_not_answer_at_all_end_nothing() {
    let host = Host::start(Setup::default()).await;
    host.proves(0).await;
    host.imds.fail(Some(Fault::Silent));
    host.proves(1).await;
    host.stops().await;
}
