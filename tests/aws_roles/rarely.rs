//! What is called only where something was lost, came broken, or is done with.

use std::sync::Arc;

use push0_core::message::{TimerKind, queue, work_queue};
use push0_core::record::Versioned as _;
use push0_core::{Class, Millis, Pool};
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::host::Function as _;
use push0_runtime::port::{Blobs as _, Delivery, Outgoing, Queue as _};
use push0_tests::chaos::Cloud;
use push0_tests::chaos::installation::{echo_pipeline, wait_until};
use push0_tests::emulated::{Emulated, Script, pipeline};
use tokio::task::block_in_place;

const SWEPT: &str = r#"
[aws]
prefix = "{prefix}"
[workers]
lease_ms = 1000
[functions]
reaper_ms = 500
[retention]
grace_s = 0
keep_blocks = 0
witnesses = true
[[chain]]
id = "demo"
pipeline = "echo.toml"
window = 8
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_finished_is_deleted_and_what_is_no_message_is_put_aside() {
    let mut cloud = Cloud::new(&[("push0.toml", SWEPT), ("echo.toml", &echo_pipeline("duration_ms = 1", 20))]);
    block_in_place(|| {
        cloud.start_all();
        cloud.submit([1], 2);
    });
    // The next comes as an upload, as anybody makes one.
    let (_, witness, hash) = cloud.echo_block(2, 2);
    cloud.upload("demo", 2, &hash, &witness).await;
    let rows = block_in_place(|| cloud.tail(2));
    assert_eq!(rows.iter().map(|row| row["number"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);

    let (queues, blobs) = (cloud.queue().await, cloud.blobs().await);
    let garbage = [queue::SUBMISSIONS, queue::WITNESS_EVENTS, queue::RESULTS, queue::VERDICTS, queue::TIMERS];
    for name in garbage {
        let message = Outgoing {
            body: "no message".to_owned(),
            group: Some("demo".to_owned()),
            dedup: name.ends_with(".fifo").then(|| "garbage".to_owned()),
            ..Outgoing::default()
        };
        queues.send(name, vec![message]).await.unwrap();
    }
    let runtime = tokio::runtime::Handle::current();
    block_in_place(|| {
        wait_until("it was all put aside", || {
            runtime.block_on(queues.stats(queue::POISON)).unwrap().visible >= garbage.len() as u64
        });
        wait_until("the proofs are all that is left", || {
            let left = |prefix: &str| runtime.block_on(blobs.list(prefix, None, 1)).unwrap().len();
            left("artifacts/") + left("witnesses/") == 0 && left("proofs/") == 1
        });
    });
}

/// The queues' counts are asked for by the collector when a timer says so, and by the reaper when none does.
#[tokio::test]
async fn a_task_that_was_lost_is_looked_for_by_timer_and_by_reaper_and_sent_again() {
    let clock = ManualClock::starting_at(Millis(1_700_000_000_000));
    let (chain, pipeline) = ("[[chain]]\nid = \"demo\"\npipeline = \"test.toml\"\nwindow = 2\n", pipeline(""));
    let files = [("push0.toml", chain), ("test.toml", pipeline.as_str())];
    let mut place = Emulated::new(Arc::new(clock.clone()), &files).await;
    place.context = place.context.clone().with_quiet(Some(Millis(1_000)));
    place.submit(1, 2).await;
    place.submit(2, 2).await;
    place.hand(&place.dispatcher(), queue::SUBMISSIONS, 2, 1).await;
    let timers: Vec<_> = place.timers_sent().into_iter().filter(|(timer, _)| timer.kind == TimerKind::Lost).collect();
    assert_eq!(timers.len(), 2);

    // Both splits are gone.
    let work = [Class::Realtime, Class::Standard].map(|class| work_queue(&Pool::trusted(), class));
    let mut lost = 0;
    for name in &work {
        for task in place.context.queue.receive(name, 10, Millis(0), Millis::from_secs(60)).await.unwrap() {
            place.context.queue.ack(name, &task.receipt).await.unwrap();
            lost += 1;
        }
    }
    assert_eq!(lost, 2);

    // The first one's timers come, the other's do not.
    let collector = place.collector();
    let mut timer = timers[0].0.clone();
    for look in 0..3 {
        clock.advance_to(timer.due.max(place.context.clock.now()));
        let (id, body) = (format!("{look}"), timer.to_json());
        let message = Delivery { id, receipt: String::new(), body, group: None, receive_count: 1, sent_at: timer.due };
        assert_eq!(collector.handle(queue::TIMERS, &message).await, Ok(()));
        let mut sent = place.timers_sent().into_iter().map(|(timer, _)| timer);
        timer = sent.rfind(|sent| sent.kind == TimerKind::Lost && sent.run == timer.run).unwrap_or(timer);
    }
    let reaper = place.reaper();
    for _ in 0..3 {
        clock.advance(Millis::from_secs(3_600));
        reaper.turn().await;
    }
    let script = Script::new();
    let workers = ["trusted", "cpu"].map(|pool| place.worker(pool, pool, 60_000, &script));
    place.work(&workers.each_ref()).await;
    assert_eq!(place.finalized(2).await.len(), 2);
}
