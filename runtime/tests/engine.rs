//! What the engine promises beyond its ports: combining, restarts, errors, ownership.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join_all;
use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::engine::{Durability, Engine, EngineConfig, Location, QueueSpec, examine};
use push0_runtime::port::{Blobs, ErrorKind, Key, Outgoing, Queue, Table};
use serde_json::json;

const LEASE: Millis = Millis::from_secs(30);

fn specs() -> Vec<QueueSpec> {
    vec![QueueSpec::new("q"), QueueSpec::new("q.fifo")]
}

fn clock() -> ManualClock {
    ManualClock::starting_at(Millis(1_700_000_000_000))
}

fn on_disk(directory: &tempfile::TempDir, clock: &ManualClock) -> EngineConfig {
    let location = Location::Directory(directory.path().to_owned());
    EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(location, specs()) }
}

fn in_memory(clock: &ManualClock) -> Engine {
    Engine::open(EngineConfig { clock: Arc::new(clock.clone()), ..EngineConfig::new(Location::Memory, specs()) })
        .unwrap()
}

fn message(body: impl ToString) -> Outgoing {
    Outgoing { body: body.to_string(), ..Outgoing::default() }
}

fn grouped(group: &str, body: impl ToString) -> Outgoing {
    let body = body.to_string();
    Outgoing { group: Some(group.to_owned()), dedup: Some(body.clone()), body, ..Outgoing::default() }
}

/// A call that hands a message to a waiting receive lets that run before it returns, so it may want a second look.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let first = (&mut future).now_or_never();
    first.or_else(|| future.now_or_never()).expect("completes at once")
}

#[test]
fn it_runs_without_any_runtime_and_a_parked_receive_is_handed_its_message() {
    let (clock, wakes) = (clock(), Arc::new(AtomicUsize::new(0)));
    struct Count(Arc<AtomicUsize>);
    impl futures::task::ArcWake for Count {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let engine = in_memory(&clock);
    let waker = futures::task::waker(Arc::new(Count(wakes.clone())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut first = Box::pin(engine.receive("q", 1, LEASE, LEASE));
    let mut second = Box::pin(engine.receive("q", 1, LEASE, LEASE));
    assert!(first.poll_unpin(&mut context).is_pending());
    assert!(second.poll_unpin(&mut context).is_pending());
    assert_eq!(wakes.load(Ordering::SeqCst), 0);

    now(engine.send("q", vec![message("a")])).unwrap();
    assert_eq!(wakes.load(Ordering::SeqCst), 1, "one message wakes one receive");
    // Leased in the send's commit, before the receive was polled again: nobody can be faster.
    assert_eq!(now(engine.stats("q")).unwrap().in_flight, 1);
    assert!(second.poll_unpin(&mut context).is_pending());
    match first.poll_unpin(&mut context) {
        std::task::Poll::Ready(Ok(deliveries)) => assert_eq!(deliveries[0].body, "a"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_receive_dropped_with_its_message_in_hand_gives_it_back_at_once() {
    let clock = clock();
    let engine = in_memory(&clock);
    let waker = futures::task::noop_waker();
    let mut receive = Box::pin(engine.receive("q.fifo", 10, LEASE, LEASE));
    assert!(receive.poll_unpin(&mut std::task::Context::from_waker(&waker)).is_pending());
    now(engine.send("q.fifo", vec![grouped("g", 1), grouped("g", 2)])).unwrap();
    assert_eq!(now(engine.stats("q.fifo")).unwrap().in_flight, 2);
    drop(receive);
    let deliveries = now(engine.receive("q.fifo", 10, Millis(0), LEASE)).unwrap();
    let bodies: Vec<&str> = deliveries.iter().map(|delivery| delivery.body.as_str()).collect();
    assert_eq!(bodies, ["1", "2"]);
}

#[test]
fn the_next_in_line_takes_over_the_timer_of_a_dropped_receive() {
    let clock = clock();
    let engine = in_memory(&clock);
    now(engine.send("q", vec![message("held")])).unwrap();
    now(engine.receive("q", 1, Millis(0), LEASE)).unwrap();
    let waker = futures::task::noop_waker();
    let mut context = std::task::Context::from_waker(&waker);
    let long = Millis::from_secs(3600);
    let mut first = Box::pin(engine.receive("q", 1, long, LEASE));
    let mut second = Box::pin(engine.receive("q", 1, long, LEASE));
    assert!(first.poll_unpin(&mut context).is_pending());
    assert!(second.poll_unpin(&mut context).is_pending());
    drop(first);
    assert!(second.poll_unpin(&mut context).is_pending());
    clock.advance(LEASE);
    assert_eq!(now(second).unwrap()[0].receive_count, 2);
}

/// The checkpointer takes SQLite's write lock for a moment when it meets a commit half-way.
#[test]
fn a_moments_lock_by_somebody_else_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(on_disk(&directory, &clock())).unwrap();
    let key = Key::new("p", "s");
    now(engine.put_if_version(&key, json!(0), None)).unwrap();
    let other = rusqlite::Connection::open(directory.path().join("engine.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        other.execute_batch("ROLLBACK").unwrap();
    });
    now(engine.put_if_version(&key, json!(1), Some(1))).unwrap();
    holder.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_at_once_lose_and_double_nothing() {
    let (tasks, each) = (32, 50);
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(on_disk(&directory, &clock())).unwrap();
    let counter = Key::new("p", "counter");
    engine.put_if_version(&counter, json!(0), None).await.unwrap();

    let senders = (0..tasks).map(|task| {
        let (engine, counter) = (engine.clone(), counter.clone());
        tokio::spawn(async move {
            for i in 0..each {
                engine.send("q", vec![message(format!("{task}/{i}"))]).await.unwrap();
                loop {
                    let row = Table::get(&engine, &counter).await.unwrap().unwrap();
                    let value = row.doc().and_then(|doc| doc.as_u64()).unwrap();
                    match engine.put_if_version(&counter, json!(value + 1), Some(row.version)).await {
                        Ok(_) => break,
                        Err(error) => assert!(error.is_conflict(), "{error}"),
                    }
                }
            }
        })
    });
    let receivers = (0..8).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut got = Vec::new();
            loop {
                let deliveries = engine.receive("q", 3, Millis(1), LEASE).await.unwrap();
                for delivery in deliveries {
                    engine.ack("q", &delivery.receipt).await.unwrap();
                    if delivery.body == "stop" {
                        return got;
                    }
                    got.push(delivery.body);
                }
                // The clock stands still: yield instead of waiting.
                tokio::task::yield_now().await;
            }
        })
    });
    let receivers: Vec<_> = receivers.collect();
    for sender in join_all(senders).await {
        sender.unwrap();
    }
    for _ in 0..receivers.len() {
        engine.send("q", vec![Outgoing { rank: 1, ..message("stop") }]).await.unwrap();
    }
    // A receiver takes up to three at once, so several may stop with one: make sure that all do.
    let mut got = Vec::new();
    for receiver in receivers {
        while !receiver.is_finished() {
            if engine.stats("q").await.unwrap().visible == 0 {
                engine.send("q", vec![Outgoing { rank: 1, ..message("stop") }]).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
        got.extend(receiver.await.unwrap());
    }
    got.sort_unstable();
    let mut sent: Vec<String> = (0..tasks).flat_map(|task| (0..each).map(move |i| format!("{task}/{i}"))).collect();
    sent.sort_unstable();
    assert_eq!(got, sent);
    let row = Table::get(&engine, &counter).await.unwrap().unwrap();
    assert_eq!(row.doc(), Some(&json!(tasks * each)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_go_away_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(on_disk(&directory, &clock())).unwrap();
    let calls: Vec<_> = (0..400)
        .map(|i| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.send("q", vec![message(i)]).await })
        })
        .collect();
    calls.iter().skip(1).step_by(2).for_each(|call| call.abort());
    let mut sent = 0;
    for (i, call) in calls.into_iter().enumerate() {
        match call.await {
            Ok(outcome) => {
                outcome.unwrap();
                sent += 1;
            }
            Err(aborted) => assert!(aborted.is_cancelled() && i % 2 == 1),
        }
    }
    assert!(engine.stats("q").await.unwrap().visible >= sent);
}

#[tokio::test]
async fn a_lease_survives_a_restart_with_a_grace() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    engine.send("q", vec![message("short"), message("long")]).await.unwrap();
    let short = engine.receive("q", 1, Millis(0), Millis::from_secs(10)).await.unwrap().remove(0);
    let long = engine.receive("q", 1, Millis(0), Millis::from_secs(1000)).await.unwrap().remove(0);
    clock.advance(Millis::from_secs(2));
    engine.send("q", vec![Outgoing { delay: Millis::from_secs(60), ..message("delayed") }]).await.unwrap();
    drop(engine);

    clock.advance(Millis::from_secs(60));
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    // Not the holder's fault; delays get no grace.
    let stats = engine.stats("q").await.unwrap();
    assert_eq!((stats.in_flight, stats.visible), (2, 1));
    clock.advance(Millis(9_999));
    engine.extend("q", &short.receipt, LEASE).await.unwrap();
    clock.advance(LEASE);
    assert_eq!(engine.ack("q", &short.receipt).await.unwrap_err().kind(), ErrorKind::Fenced);
    engine.ack("q", &long.receipt).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let key = Key::new("p", "s");
    for run in 0..3u64 {
        let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
        let found = Table::get(&engine, &key).await.unwrap().map(|row| row.version);
        assert_eq!(found, (run > 0).then_some(run));
        engine.put_if_version(&key, json!(run), found).await.unwrap();
        assert_eq!(engine.blobs_seen(run).await, run as usize);
        engine.put_new(&format!("b/{run}"), Bytes::from(vec![run as u8; 10]), "w").await.unwrap();
        // Swallowed from the second run on.
        engine.send("q.fifo", vec![grouped("g", "once")]).await.unwrap();
        assert_eq!(engine.stats("q.fifo").await.unwrap().visible, 1);
    }
}

trait BlobsSeen {
    async fn blobs_seen(&self, up_to: u64) -> usize;
}

impl BlobsSeen for Engine {
    async fn blobs_seen(&self, up_to: u64) -> usize {
        let keys = self.list("b/", None, 100).await.unwrap();
        for run in 0..up_to {
            let bytes = Blobs::get(self, &format!("b/{run}")).await.unwrap().unwrap();
            assert_eq!(bytes, vec![run as u8; 10]);
        }
        keys.len()
    }
}

#[tokio::test]
async fn a_second_owner_is_told_who_the_first_is() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    let error = Engine::open(on_disk(&directory, &clock)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permanent);
    assert!(error.message().contains(&std::process::id().to_string()), "{error}");
    drop(engine);
    Engine::open(on_disk(&directory, &clock)).unwrap();
}

#[tokio::test]
async fn a_database_of_before_groups_were_fair_is_brought_up_to_date_with_what_it_holds() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let of = |group: &str| Outgoing { group: Some(group.to_owned()), ..message(group) };
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    engine.send("q", vec![of("a"), of("a"), of("a"), of("b")]).await.unwrap();
    drop(engine);
    let db = rusqlite::Connection::open(directory.path().join("engine.db")).unwrap();
    db.execute_batch(
        "DROP INDEX messages_ready; DROP INDEX messages_in_flight;
         CREATE INDEX messages_ready ON messages (queue, rank, id) WHERE waiting = 0; PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(db);
    assert!(examine(directory.path()).unwrap().unwrap().is_known);
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    let taken = engine.receive("q", 10, Millis(0), LEASE).await.unwrap();
    let groups: Vec<&str> = taken.iter().map(|delivery| delivery.body.as_str()).collect();
    assert_eq!(groups, ["a", "b", "a", "a"]);
    drop(engine);
    assert_eq!(examine(directory.path()).unwrap().unwrap().schema, 2);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    drop(Engine::open(on_disk(&directory, &clock)).unwrap());
    let db = rusqlite::Connection::open(directory.path().join("engine.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let error = Engine::open(on_disk(&directory, &clock)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permanent);
    assert!(error.message().contains("99"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_the_engine_lives_on() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let engine = Engine::open(EngineConfig { max_pages: Some(200), ..on_disk(&directory, &clock) }).unwrap();
    let waker = futures::task::noop_waker();
    let mut parked = Box::pin(engine.receive("q.fifo", 1, LEASE, LEASE));
    assert!(parked.poll_unpin(&mut std::task::Context::from_waker(&waker)).is_pending());

    let body = "x".repeat(60_000);
    engine.send("q", vec![message(&body)]).await.unwrap();
    let held = engine.receive("q", 1, Millis(0), LEASE).await.unwrap().remove(0);
    let mut stored = 0;
    let error = loop {
        match engine.send("q", vec![message(&body)]).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the disk should be full by now");
    };
    assert!(matches!(error.kind(), ErrorKind::Transient { .. }), "{error}");
    assert!(!error.may_have_happened());
    // Nothing of what failed is there, and what is done with makes room.
    assert_eq!(engine.stats("q").await.unwrap().visible, stored);
    engine.ack("q", &held.receipt).await.unwrap();
    engine.send("q.fifo", vec![grouped("g", "through")]).await.unwrap();
    assert_eq!(now(parked).unwrap()[0].body, "through");
}

#[tokio::test]
async fn a_changed_blob_file_is_corrupt_and_leftovers_are_swept() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    engine.put_new("a/b", Bytes::from_static(b"bytes"), "w").await.unwrap();
    drop(engine);
    let folder = directory.path().join("blobs/a");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    assert!(file.to_string_lossy().ends_with("@b"), "a blob is a plain file under its key: {file:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"bytes");
    std::fs::write(&file, b"bytez").unwrap();
    std::fs::write(folder.join("77@never-published"), b"x").unwrap();
    std::fs::write(folder.join("78@b"), b"x").unwrap();
    std::fs::write(folder.join("somebody-elses"), b"x").unwrap();
    let deep = "a/2/3/4/5/6/seven/eight";
    std::fs::create_dir_all(folder.join("2/3/4/5/6")).unwrap();
    std::fs::write(folder.join("2/3/4/5/6/79@seven,eight"), b"torn").unwrap();

    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    assert_eq!(Blobs::get(&engine, "a/b").await.unwrap_err().kind(), ErrorKind::Corrupt);
    let target = directory.path().join("target");
    assert_eq!(engine.get_file("a/b", &target).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!target.exists());
    assert_eq!(engine.head("a/never-published").await.unwrap(), None);
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "folders that are empty now are gone: {left:?}");
    engine.put_new(deep, Bytes::from_static(b"whole"), "w").await.unwrap();
    drop(engine);
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    assert_eq!(Blobs::get(&engine, deep).await.unwrap().unwrap(), Bytes::from_static(b"whole"));
}

#[tokio::test]
async fn blobs_have_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    for location in [Location::Memory, Location::Directory(directory.path().to_owned())] {
        let config = EngineConfig { blob_limit: 100, ..EngineConfig::new(location, vec![]) };
        let engine = Engine::open(config).unwrap();
        let error = engine.put_new("k", Bytes::from(vec![0; 101]), "w").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent);
        assert_eq!(engine.head("k").await.unwrap(), None);
        engine.put_new("k", Bytes::from(vec![0; 100]), "w").await.unwrap();
    }
}

#[test]
fn contradictory_queues_are_refused() {
    let bad = [
        vec![QueueSpec { fifo: true, ..QueueSpec::new("plain") }],
        vec![QueueSpec { fifo: false, ..QueueSpec::new("x.fifo") }],
        vec![QueueSpec::new("a").with_dead_letter("nowhere", 3)],
        vec![QueueSpec::new("a").with_dead_letter("b.fifo", 3), QueueSpec::new("b.fifo")],
        vec![QueueSpec::new("a").with_dead_letter("a", 3)],
        vec![QueueSpec::new("a").with_dead_letter("b", 0), QueueSpec::new("b")],
        vec![QueueSpec::new("")],
        vec![QueueSpec::new("a b")],
    ];
    for specs in bad {
        let error = Engine::in_memory(specs.clone()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent, "{specs:?}");
    }
}

#[tokio::test]
async fn power_safe_is_a_setting_of_the_same_engine() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let power = |clock: &ManualClock| EngineConfig { durability: Durability::Power, ..on_disk(&directory, clock) };
    let engine = Engine::open(power(&clock)).unwrap();
    engine.put_new("deep/er/and/deeper", Bytes::from_static(b"x"), "w").await.unwrap();
    drop(engine);
    let engine = Engine::open(on_disk(&directory, &clock)).unwrap();
    assert!(engine.head("deep/er/and/deeper").await.unwrap().is_some());
}

/// What the operations cost here, for people: `cargo test --release -p push0-runtime --test engine -- --ignored --nocapture costs`.
#[tokio::test]
#[ignore = "a measurement"]
async fn costs() {
    let directory = tempfile::tempdir().unwrap();
    for (name, location, durability) in [
        ("memory", Location::Memory, Durability::Process),
        ("process", Location::Directory(directory.path().join("process")), Durability::Process),
        ("power", Location::Directory(directory.path().join("power")), Durability::Power),
    ] {
        let config = EngineConfig { durability, ..EngineConfig::new(location, specs()) };
        let engine = Engine::open(config).unwrap();
        let body = "x".repeat(256);
        let mut cycles = Vec::new();
        let mut accepts = Vec::new();
        for i in 0..3_000u32 {
            let start = std::time::Instant::now();
            engine.send("q", vec![message(&body)]).await.unwrap();
            let delivery = engine.receive("q", 1, Millis(0), LEASE).await.unwrap().remove(0);
            engine.ack("q", &delivery.receipt).await.unwrap();
            cycles.push(start.elapsed());
            let key = Key::new("chain/7/e1", format!("node/{:05}", i / 2));
            let start = std::time::Instant::now();
            let slot = format!("s{}", i % 2);
            let value = json!({"attempt": 1, "sha256": "ab".repeat(32)});
            engine.accept_first(&key, &slot, "floor", 1, value).await.unwrap();
            accepts.push(start.elapsed());
        }
        cycles.sort();
        accepts.sort();
        let at = |times: &[std::time::Duration], share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "{name}: send+receive+ack p50 {:?} p99 {:?}; accept_first p50 {:?} p99 {:?}",
            at(&cycles, 0.5),
            at(&cycles, 0.99),
            at(&accepts, 0.5),
            at(&accepts, 0.99)
        );
    }
}

#[test]
fn only_old_messages_that_nobody_holds_expire() {
    let clock = clock();
    let engine = in_memory(&clock);
    now(engine.send("q.fifo", vec![grouped("held", "old and held"), grouped("g", "old")])).unwrap();
    let held = now(engine.receive("q.fifo", 1, Millis(0), LEASE)).unwrap();
    assert_eq!(held[0].body, "old and held");
    clock.advance(Millis(1_000));
    let since = engine.clock_now();
    now(engine.send("q.fifo", vec![grouped("g", "new")])).unwrap();
    assert_eq!(now(engine.expire("q.fifo", since, 10)).unwrap(), 1);
    let left = now(engine.receive("q.fifo", 10, Millis(0), LEASE)).unwrap();
    assert_eq!(left.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["new"]);
    now(engine.ack("q.fifo", &held[0].receipt)).unwrap();
}
