//! Hedging: the looks for stragglers as delayed messages of SQS, the copies by conditional writes of DynamoDB, and the loser told by an object
//! in S3. Everything in real time.

use std::sync::Arc;

use async_trait::async_trait;
use push0_core::message::{TimerKind, queue};
use push0_core::record::{Finality, node_control_key};
use push0_core::{Node, TaskId};
use push0_gpu_worker::task::Settled;
use push0_runtime::host::{Failure, Function};
use push0_runtime::port::{Delivery, SystemClock};
use push0_tests::emulated::{Emulated, Script, pipeline, until};

const CONFIG: &str = r#"
[[chain]]
id = "demo"
pipeline = "test.toml"
"#;

/// Three tasks in four are quick, whatever the machine: one that stands still is a straggler.
const HEDGED: &str = r#"
[policy.prove]
hedge = { quantile = 0.5, factor = 1.0, budget = 1.0 }
"#;

/// Enough to be learned from: twenty.
const SEGMENTS: u32 = 24;

/// Handles each timer twice at the same time, as SQS may deliver it and ministack does not.
struct Twice(Arc<dyn Function>);

#[async_trait]
impl Function for Twice {
    async fn handle(&self, source: &str, message: &Delivery) -> Result<(), Failure> {
        if queue::origin(source) != queue::TIMERS {
            return self.0.handle(source, message).await;
        }
        let (one, other) = tokio::join!(self.0.handle(source, message), self.0.handle(source, message));
        one.and(other)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_straggler_is_copied_once_to_another_worker_and_its_holder_is_told_to_stop() {
    let pipeline = pipeline(HEDGED);
    let files = [("push0.toml", CONFIG), ("test.toml", pipeline.as_str())];
    let mut place = Emulated::new(Arc::new(SystemClock), &files).await;
    let (script, straggler) = (Script::new(), Node::new(1, 0, 5));
    script.hold(straggler, 0);
    place.start_functions(|function| Arc::new(Twice(function)));
    let trusted = place.worker("trusted-1", "trusted", 5_000, &script);
    place.start(&trusted, 1);
    // It has more slots than tasks that stand still: it could take the copy.
    let holder = place.worker("cpu-1", "cpu", 1_000, &script);
    place.start(&holder, 2);
    place.submit(1, SEGMENTS).await;

    let is_of_straggler = |task: &TaskId, copy: u8| (task.node, task.copy) == (straggler, copy);
    until("the holder has refused the copy", || {
        let settled = script.settled();
        settled.iter().any(|(task, _, settled)| is_of_straggler(task, 1) && *settled == Settled::Avoided)
    })
    .await;
    assert!(script.runs().iter().all(|run| run.worker != "cpu-2"));
    let other = place.worker("cpu-2", "cpu", 1_000, &script);
    place.start(&other, 1);
    let rows = place.finalized(1).await;
    assert!(matches!(rows[0].finality, Finality::Proof { .. }), "{:?}", rows[0]);
    let is_held = |task: &TaskId| (task.node, task.copy) == (straggler, 0);
    until("the holder was told to stop", || {
        script.runs().iter().filter(|run| is_held(&run.task.id)).all(|run| run.told_to_stop)
    })
    .await;

    // Either may have come again: a machine that stands still for a lease's length loses it, and SQS hands the task out once more.
    let runs: Vec<_> = script.runs().into_iter().filter(|run| run.task.id.node == straggler).collect();
    assert_eq!(runs[0].worker, "cpu-1");
    assert!(runs.iter().all(|run| run.told_to_stop == is_held(&run.task.id)), "{runs:?}");
    let copy = runs.iter().find(|run| run.task.id.copy == 1).unwrap();
    assert_eq!(copy.worker, "cpu-2");
    assert_eq!(copy.task.avoid, ["cpu-1".parse().unwrap()], "the copy says who has the other");
    let stop = node_control_key(&runs[0].task.id, &runs[0].task.stage);
    assert!(place.is_stored(&stop).await);

    let row = place.node(1, straggler).await;
    let hedges = row.hedges.clone().unwrap();
    assert_eq!((hedges.asked, hedges.sent), (1, 1), "however often its timer comes");
    let join = place.node(1, Node::new(2, 0, straggler.index / 2)).await;
    let artifact = &join.slots[&(straggler.index % 2)];
    assert_eq!(push0_core::block::copy_of(&artifact.blob.key), Some(1), "{artifact:?}");
    let looks = place.timers_sent().into_iter().filter(|(timer, _)| timer.kind == TimerKind::Hedge);
    let delays: Vec<u64> = looks.map(|(_, delay)| delay).collect();
    // One that is due by the time it is sent is not delayed, on a machine that is busy.
    assert!(delays.len() >= 2 && delays.iter().any(|delay| *delay > 0), "{delays:?}");
}
