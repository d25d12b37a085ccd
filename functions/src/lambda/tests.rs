//! The host in this process, on the embedded engine in memory: events as Lambda sends them, answers as it reads them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use proptest::prelude::*;
use push0_core::message::{ChainMessage, Submission, queue};
use push0_core::record::{BlobRef, Versioned as _};
use push0_core::topology::Topology;
use push0_core::{BlockHash, Sha256};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::drive::Catalog;
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::http::Ports;
use push0_runtime::metrics::Metered;
use push0_runtime::port::{Outgoing, PortError, PortResult, Queue, QueueStats};
use push0_runtime::settings::{Settings, Sources};
use push0_runtime::wiring;
use serde_json::{Value, json};

use super::*;
use crate::Dispatcher;

const NOW: Millis = Millis(1_700_000_000_000);
const VISIBILITY: Millis = Millis::from_secs(36);

/// The engine's queue, with calls that fail on purpose.
struct Shaky {
    engine: Engine,
    refuse: Refuse,
    released: Mutex<Vec<(String, Millis)>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Refuse {
    poison: bool,
    release: bool,
}

#[async_trait]
impl Queue for Shaky {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        if self.refuse.poison && queue == queue::POISON {
            return Err(PortError::unknown("on purpose"));
        }
        Queue::send(&self.engine, queue, messages).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        self.engine.receive(queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.engine.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        if self.refuse.release {
            return Err(PortError::fenced("on purpose"));
        }
        self.released.lock().unwrap().push((receipt.to_owned(), delay));
        self.engine.release(queue, receipt, delay).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.engine.ack(queue, receipt).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.engine.stats(queue).await
    }

    fn ranks(&self) -> bool {
        self.engine.ranks()
    }
}

/// Does what a body's first word says, and takes its time. Notes whom it began with and whom it was done with.
struct Scripted {
    clock: ManualClock,
    begun: Mutex<Vec<String>>,
    done: Mutex<Vec<String>>,
}

#[async_trait]
impl Function for Scripted {
    async fn handle(&self, _source: &str, message: &Delivery) -> Result<(), Failure> {
        let reason = "on purpose".to_owned();
        self.begun.lock().unwrap().push(message.id.clone());
        self.clock.advance(Millis(300));
        match message.body.split(' ').next().unwrap() {
            "retry" => Err(Failure::Retry { reason }),
            "poison" => Err(Failure::Poison { reason }),
            "panic" => panic!("on purpose"),
            "hang" => {
                self.clock.advance(Millis(60_000));
                std::future::pending().await
            }
            _ => {
                self.done.lock().unwrap().push(message.id.clone());
                Ok(())
            }
        }
    }
}

struct Rig {
    clock: ManualClock,
    queue: Arc<Shaky>,
    function: Arc<Scripted>,
    host: Host,
    source: &'static str,
}

impl Rig {
    fn new(source: &'static str, refuse: Refuse) -> Self {
        let clock = ManualClock::starting_at(NOW);
        let queues = vec![QueueSpec::new(source), QueueSpec::new(queue::POISON)];
        let config = EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, queues) };
        let engine = Engine::open(config).unwrap();
        let queue = Arc::new(Shaky { engine: engine.clone(), refuse, released: Mutex::default() });
        let ports = Ports::of(&engine);
        let catalog = Arc::new(Catalog::default());
        let context = Context::new(queue.clone(), ports.table, ports.blobs, Arc::new(clock.clone()), catalog);
        let function = Arc::new(Scripted { clock: clock.clone(), begun: Mutex::default(), done: Mutex::default() });
        let host = Host::new("collector", function.clone(), context, AwsSettings::default());
        Self { clock, queue, function, host, source }
    }

    /// Sends (group, body) and receives them as an event-source mapping does.
    async fn received(&self, messages: &[(&str, &str)]) -> Vec<Delivery> {
        for (position, (group, body)) in messages.iter().enumerate() {
            let message = Outgoing {
                body: format!("{body} {position}"),
                group: Some((*group).to_owned()),
                dedup: Some(position.to_string()),
                ..Outgoing::default()
            };
            self.queue.send(self.source, vec![message]).await.unwrap();
        }
        self.queue.receive(self.source, 10, Millis(0), VISIBILITY).await.unwrap()
    }

    /// The ids of the answer, as they stand in its JSON.
    async fn answer(&self, batch: &[Delivery], left: Millis) -> Vec<String> {
        let event = serde_json::from_value(event(self.source, batch)).unwrap();
        let answer = self.host.handle(event, self.clock.now().plus(left)).await.unwrap();
        let answer = serde_json::to_value(answer).unwrap();
        let failures = answer["batchItemFailures"].as_array().unwrap();
        failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
    }

    async fn in_flight(&self) -> u64 {
        self.queue.stats(self.source).await.unwrap().in_flight
    }

    async fn poisoned(&self) -> Vec<String> {
        let dead = self.queue.engine.receive(queue::POISON, 10, Millis(0), VISIBILITY).await.unwrap();
        dead.into_iter().map(|dead| serde_json::from_str::<Value>(&dead.body).unwrap()["body"].to_string()).collect()
    }
}

/// What Lambda hands to a function with an SQS source.
fn event(source: &str, batch: &[Delivery]) -> Value {
    let record = |message: &Delivery| {
        let mut attributes = json!({
            "ApproximateReceiveCount": message.receive_count.to_string(),
            "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0;Lineage=1:fc3b4ff1:0",
            "SentTimestamp": message.sent_at.0.to_string(),
            "SenderId": "AROAIWPX5BD2BHG722MW4:sender",
            "ApproximateFirstReceiveTimestamp": NOW.0.to_string(),
        });
        if let Some(group) = &message.group {
            attributes["MessageGroupId"] = group.clone().into();
        }
        json!({
            "messageId": message.id,
            "receiptHandle": message.receipt,
            "body": message.body,
            "attributes": attributes,
            "messageAttributes": {},
            "md5OfBody": "fce0ea8dd236ccb3ed9b37dae260836f",
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:eu-west-1:111122223333:push0-{source}"),
            "awsRegion": "eu-west-1",
        })
    };
    json!({ "Records": batch.iter().map(record).collect::<Vec<Value>>() })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

const PLENTY: Millis = Millis::from_secs(60);

#[test]
fn the_answer_names_what_failed_and_nothing_else() {
    run(async {
        let rig = Rig::new("results", Refuse::default());
        let batch =
            rig.received(&[("a", "fine"), ("a", "retry"), ("a", "poison"), ("a", "panic"), ("a", "fine")]).await;
        let ids: Vec<&str> = batch.iter().map(|message| message.id.as_str()).collect();
        assert_eq!(rig.answer(&batch, PLENTY).await, [ids[1], ids[3]], "poison is done with: it was put aside");
        assert_eq!(rig.poisoned().await, ["\"poison 2\""]);
        let all_fine = rig.received(&[("a", "fine")]).await;
        let event = serde_json::from_value(event(rig.source, &all_fine)).unwrap();
        let answer = rig.host.handle(event, rig.clock.now().plus(PLENTY)).await.unwrap();
        assert_eq!(serde_json::to_value(answer).unwrap(), json!({ "batchItemFailures": [] }));
    });
}

#[test]
fn what_failed_is_visible_again_after_its_back_off_and_not_after_its_visibility() {
    run(async {
        let rig = Rig::new("results", Refuse::default());
        let batch = rig.received(&[("a", "retry")]).await;
        assert_eq!(rig.in_flight().await, 1);
        assert_eq!(rig.answer(&batch, PLENTY).await, [batch[0].id.clone()]);
        assert_eq!(*rig.queue.released.lock().unwrap(), [(batch[0].receipt.clone(), Millis(1_000))]);
        assert_eq!(rig.in_flight().await, 0, "handed back before the answer");
        let receive = || rig.queue.receive(rig.source, 10, Millis(0), VISIBILITY);
        assert!(receive().await.unwrap().is_empty());
        rig.clock.advance(Millis(1_000));
        assert_eq!(receive().await.unwrap()[0].receive_count, 2);
    });
}

#[test]
fn a_fifo_group_stops_at_its_first_failure_and_other_groups_go_on() {
    run(async {
        for bad in ["retry", "panic"] {
            let rig = Rig::new("submissions.fifo", Refuse::default());
            let batch = rig.received(&[("a", "fine"), ("a", bad), ("a", "fine"), ("b", "fine")]).await;
            let of_a: Vec<String> =
                batch.iter().filter(|m| m.group.as_deref() == Some("a")).map(|m| m.id.clone()).collect();
            assert_eq!(rig.answer(&batch, PLENTY).await, of_a[1..]);
            assert!(
                !rig.function.begun.lock().unwrap().contains(&of_a[2]),
                "nothing of the group was begun after {bad}"
            );
            assert_eq!(rig.function.done.lock().unwrap().len(), 2);
            // In their old order.
            rig.queue.engine.ack(rig.source, &batch.iter().find(|m| m.id == of_a[0]).unwrap().receipt).await.unwrap();
            rig.clock.advance(Millis(1_000));
            let again = rig.queue.receive(rig.source, 10, Millis(0), VISIBILITY).await.unwrap();
            assert_eq!(again.iter().map(|m| m.id.clone()).collect::<Vec<_>>(), of_a[1..]);
        }
    });
}

#[test]
fn what_cannot_be_begun_in_time_is_failed_untouched_and_what_is_not_done_in_time_is_failed() {
    run(async {
        let rig = Rig::new("results", Refuse::default());
        let batch = rig.received(&[("a", "fine"), ("a", "fine"), ("a", "fine")]).await;
        let ids: Vec<String> = batch.iter().map(|message| message.id.clone()).collect();
        // 300 ms each: after two, 100 ms are left of what is not reserved for the answer.
        assert_eq!(rig.answer(&batch, RESERVE.plus(Millis(700))).await, [ids[2].clone()]);
        assert_eq!(*rig.function.begun.lock().unwrap(), ids[..2]);

        let rig = Rig::new("results", Refuse::default());
        let batch = rig.received(&[("a", "hang"), ("a", "fine")]).await;
        let ids: Vec<String> = batch.iter().map(|message| message.id.clone()).collect();
        assert_eq!(rig.answer(&batch, Millis(3_000)).await, ids);
        assert_eq!(*rig.function.begun.lock().unwrap(), ids[..1]);
    });
}

#[test]
fn an_event_that_cannot_be_read_fails_as_a_whole() {
    run(async {
        let rig = Rig::new("results", Refuse::default());
        let batch = rig.received(&[("a", "fine"), ("a", "fine")]).await;
        let good = event(rig.source, &batch);
        let with = |change: &dyn Fn(&mut Value)| {
            let mut bad = good.clone();
            change(&mut bad["Records"][1]);
            bad
        };
        let bad = [
            with(&|record| record["eventSourceARN"] = "arn:aws:sqs:eu-west-1:111122223333:other-results".into()),
            with(&|record| record["eventSourceARN"] = "arn:aws:sqs:eu-west-1:111122223333:push0-verdicts".into()),
            with(&|record| record["eventSourceARN"] = Value::Null),
            with(&|record| record["messageId"] = Value::Null),
            with(&|record| record["receiptHandle"] = Value::Null),
            with(&|record| record["body"] = Value::Null),
        ];
        for bad in bad {
            let event = serde_json::from_value(bad.clone()).unwrap();
            assert!(rig.host.handle(event, rig.clock.now().plus(PLENTY)).await.is_err(), "{bad}");
        }
        assert!(rig.function.begun.lock().unwrap().is_empty(), "nothing of such an event is handled");
        for not_sqs in [json!({ "key1": "value1" }), json!({ "Records": [] , "x": 1 }), json!(null)] {
            let event: Result<SqsEvent, _> = serde_json::from_value(not_sqs);
            // No records: nothing is left unhandled.
            assert!(event.map_or(true, |event| event.records.is_empty()));
        }
    });
}

#[test]
fn an_invocation_is_told_in_lines_of_the_embedded_metric_format() {
    run(async {
        let rig = Rig::new("results-dlq", Refuse::default());
        let batch = rig.received(&[("a", "fine"), ("a", "retry"), ("a", "poison")]).await;
        rig.answer(&batch, PLENTY).await;
        let mut told: BTreeMap<String, (Value, Value)> = BTreeMap::new();
        for line in rig.host.measured() {
            let line: Value = serde_json::from_str(&line).unwrap();
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(directive["Namespace"], "push0");
            for metric in directive["Metrics"].as_array().unwrap() {
                let name = metric["Name"].as_str().unwrap();
                told.insert(name.to_owned(), (line[name].clone(), directive["Dimensions"][0].clone()));
            }
        }
        let both = json!(["function", "queue"]);
        for (name, value, dimensions) in [
            ("push0_invocations_count", json!(1.0), json!(["function"])),
            ("push0_invocation_milliseconds", json!(900.0), json!(["function"])),
            ("push0_records_handled_count", json!(1.0), both.clone()),
            ("push0_records_failed_count", json!(1.0), both.clone()),
            ("push0_records_poisoned_count", json!(1.0), both.clone()),
            ("push0_record_age_milliseconds", json!([0.0, 0.0, 0.0]), both),
            ("push0_dead_letters_count", json!(3.0), json!(["queue"])),
        ] {
            assert_eq!(told.get(name), Some(&(value, dimensions)), "{name} in {told:#?}");
        }
        assert!(rig.host.measured().is_empty(), "nothing is told twice");
    });
}

/// The example's chain, on the engine and the machine's clock, with what is sent being counted.
fn example() -> (Engine, Context, Settings) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/push0.toml");
    let settings = Settings::read(&Sources { file: Some(examples), ..Sources::default() }).unwrap();
    let queues = wiring::engine_queues(&Topology::built_in(), &settings.catalog.pools());
    let engine = Engine::in_memory(queues).unwrap();
    let (ports, catalog) = (Ports::of(&engine), Arc::new(settings.catalog.clone()));
    let clock = Arc::new(push0_runtime::port::SystemClock);
    let mut context = Context::new(ports.queue, ports.table, ports.blobs, clock, catalog);
    context.queue = Arc::new(Metered::new(context.queue.clone(), context.metrics.clone()));
    (engine, context, settings)
}

const RELEASED: [&str; 2] = ["\"push0_blocks_released_count\":1.0", "\"queue\":\"work-trusted-"];

#[test]
fn a_submissions_event_releases_the_block() {
    run(async {
        let (engine, context, settings) = example();
        let clock = context.clock.clone();
        let (chain, config) = settings.catalog.chains.first_key_value().unwrap();
        let host = Host::new("dispatcher", Arc::new(Dispatcher::new(context.clone())), context, settings.aws);
        let witness = BlobRef { key: "witnesses/x".to_owned(), sha256: Sha256::of(b"x"), size: 1 };
        let (number, hash) = (config.first, BlockHash([7; 32]));
        let submission = Submission {
            chain: chain.clone(),
            number,
            hash,
            parent_hash: None,
            witness,
            fork_seq: None,
            deadline: None,
        };
        let message = Outgoing {
            body: ChainMessage::Submit(submission).to_json(),
            group: Some(chain.to_string()),
            dedup: Some("1".to_owned()),
            ..Outgoing::default()
        };
        Queue::send(&engine, queue::SUBMISSIONS, vec![message]).await.unwrap();
        let batch = engine.receive(queue::SUBMISSIONS, 1, Millis(0), VISIBILITY).await.unwrap();
        let event = serde_json::from_value(event(queue::SUBMISSIONS, &batch)).unwrap();
        let answer = host.handle(event, clock.now().plus(Millis(3_000))).await.unwrap();
        assert!(answer.batch_item_failures.is_empty());
        let told = host.measured().join("\n");
        for expected in RELEASED {
            assert!(told.contains(expected), "{expected} is not in {told}");
        }
    });
}

#[test]
fn s3s_test_event_is_done_with_and_nothing_is_put_aside() {
    run(async {
        let (engine, context, settings) = example();
        let clock = context.clock.clone();
        let host = Host::new("dispatcher", Arc::new(Dispatcher::new(context.clone())), context, settings.aws);
        let body = json!({
            "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-24T19:00:00.000Z", "Bucket": "push0-blobs",
            "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
        });
        let message = Outgoing { body: body.to_string(), ..Outgoing::default() };
        Queue::send(&engine, queue::WITNESS_EVENTS, vec![message]).await.unwrap();
        let batch = engine.receive(queue::WITNESS_EVENTS, 1, Millis(0), VISIBILITY).await.unwrap();
        let event = serde_json::from_value(event(queue::WITNESS_EVENTS, &batch)).unwrap();
        let answer = host.handle(event, clock.now().plus(Millis(3_000))).await.unwrap();
        assert!(answer.batch_item_failures.is_empty());
        assert_eq!(engine.stats(queue::POISON).await.unwrap().visible, 0);
    });
}

#[test]
fn the_reaper_submits_the_upload_that_its_chain_has_waited_for() {
    run(async {
        let (_engine, context, settings) = example();
        let (chain, config) = settings.catalog.chains.first_key_value().unwrap();
        let later = |after: u64| context.clock.now().plus(Millis::from_secs(after));
        let reaping = Reaping::new(context.clone(), settings.retention, settings.aws);
        let key = format!("witnesses/{chain}/{}/{}/witness", config.first, BlockHash([7; 32]));
        context.blobs.put_new(&key, "witness".into(), "somebody").await.unwrap();
        assert!(!reaping.turn(later(60)).await.cut_short);
        let told = reaping.measured().join("\n");
        assert!(!told.contains(RELEASED[0]), "its announcement may be on its way: {told}");
        reaping.turn(later(60)).await;
        let told = reaping.measured().join("\n");
        for expected in RELEASED {
            assert!(told.contains(expected), "{expected} is not in {told}");
        }
        reaping.turn(later(60)).await;
        assert!(!reaping.measured().join("\n").contains(RELEASED[0]), "once");
    });
}

#[test]
fn the_reaper_stops_when_its_time_is_over() {
    run(async {
        let (_engine, context, settings) = example();
        let reaping = Reaping::new(context.clone(), settings.retention, settings.aws);
        let turn = reaping.turn(context.clock.now()).await;
        assert_eq!(serde_json::to_value(turn).unwrap(), json!({ "chains": 0, "cut_short": true }));
    });
}

fn words() -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => Just("fine"), 1 => Just("retry"), 1 => Just("poison"), 1 => Just("panic"), 1 => Just("hang")]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_outcome_acknowledges_an_unhandled_record(
        messages in prop::collection::vec((prop_oneof![Just("a"), Just("b"), Just("c")], words()), 1..10),
        is_fifo: bool, poison: bool, release: bool, left in 0..6_000u64,
    ) {
        run(async {
            let rig = Rig::new(if is_fifo { "submissions.fifo" } else { "results" }, Refuse { poison, release });
            let batch = rig.received(&messages).await;
            let failures = rig.answer(&batch, Millis(left)).await;
            let (begun, done) = (rig.function.begun.lock().unwrap().clone(), rig.function.done.lock().unwrap().clone());
            let aside = rig.poisoned().await;
            for message in &batch {
                let is_done = done.contains(&message.id);
                let is_aside = aside.contains(&format!("{:?}", message.body));
                let comes_again = failures.contains(&message.id);
                prop_assert_eq!(comes_again, !is_done && !is_aside, "{} among {:?}", message.body, failures);
            }
            let mut seen = failures.clone();
            seen.dedup();
            prop_assert_eq!(&seen, &failures, "named once, in the batch's order");
            prop_assert!(failures.iter().all(|id| batch.iter().any(|message| message.id == *id)));
            if is_fifo {
                for (position, message) in batch.iter().enumerate() {
                    let stops = failures.contains(&message.id) && !message.body.starts_with("poison");
                    let later = batch[position + 1..].iter().filter(|later| stops && later.group == message.group);
                    for later in later {
                        prop_assert!(failures.contains(&later.id) && !begun.contains(&later.id));
                    }
                }
            }
            Ok(())
        })?;
    }
}
