//! Somebody who sends forged reports.

use push0_core::message::{FailureKind, Report, ReportEvent, TaskMessage, queue, work_queue};
use push0_core::pipeline::Kind;
use push0_core::record::{BlobRef, Verdict, Versioned as _};
use push0_core::{Attempt, BlockHash, ChainId, Class, Epoch, Millis, Node, RunId, Sha256, TaskId};
use push0_runtime::port::{Blobs as _, Outgoing, Queue as _};
use rand::RngExt as _;

use super::faults::Fault;
use super::world::{Shared, pause};

/// While the storm lasts, tells the collector what is not so.
pub(super) async fn intruder(shared: Shared) {
    let chains: Vec<ChainId> = shared.catalog.chains.keys().cloned().collect();
    let Some((digest, file)) = shared.catalog.pipelines.iter().next() else { return };
    let tag = digest.tag();
    let verify = file.pipeline.stages.iter().position(|stage| stage.kind == Kind::Verify).unwrap_or_default();
    while *shared.storm.borrow() {
        let run = {
            let mut dice = shared.dice.borrow_mut();
            let chain = chains[dice.random_range(0..chains.len())].clone();
            RunId::new(chain, dice.random_range(1..5), Epoch(dice.random_range(1..4)))
        };
        let last = last_artifact(&shared, &run).await;
        let taken = take(&shared).await;
        let body = {
            let mut dice = shared.dice.borrow_mut();
            let node = Node::new(dice.random_range(0..7), dice.random_range(0..3), dice.random_range(0..8));
            let attempt = Attempt([1, 2, u32::MAX][dice.random_range(0..3)]);
            let task = TaskId { run, tag: tag.clone(), node, attempt, copy: 0 };
            let chosen = dice.random_range(0..5);
            // Who says that a task is done has it in hand.
            let task = taken.filter(|_| chosen == 1).unwrap_or(task);
            let artifact = BlobRef { key: format!("artifacts/cpu/{task}"), sha256: Sha256([9; 32]), size: 9 };
            // Who says that a root is verified knows which one.
            let (task, root) = match last {
                Some(root) if chosen == 2 => (TaskId { node: Node::new(verify as u16, 0, 0), ..task }, root),
                _ => (task, artifact.sha256),
            };
            let event = match chosen {
                0 => ReportEvent::Started,
                1 => ReportEvent::Done { artifact },
                2 => ReportEvent::Verified { verdict: Verdict::Ok, root, message: None, outputs: None },
                3 => ReportEvent::Split {
                    manifest: artifact.clone(),
                    segments: 1,
                    header: artifact,
                    hash: BlockHash([9; 32]),
                    parent_hash: None,
                },
                _ => ReportEvent::Failed {
                    kind: FailureKind::BadInput,
                    message: "not so".to_owned(),
                    children: vec![0, 0, 1, 7, u32::MAX],
                },
            };
            let worker = if dice.random_range(0..2) == 0 { "cpu-0" } else { "nobody" };
            let report = worker
                .parse()
                .map(|worker| Report { task, worker, by: None, at: Millis(0), handout: None, event }.to_json());
            if dice.random_range(0..10) == 0 { "no report".to_owned() } else { report.unwrap_or_default() }
        };
        shared.weather.count(Fault::Forgery);
        let _ = shared.engine.send(queue::RESULTS, vec![Outgoing { body, ..Outgoing::default() }]).await;
        pause(&shared, Millis(700)).await;
    }
}

/// The digest of what a run has made last: perhaps its root.
async fn last_artifact(shared: &Shared, run: &RunId) -> Option<Sha256> {
    let keys = shared.engine.list(&format!("artifacts/cpu/{run}/"), None, 1_000).await.ok()?;
    let head = shared.engine.head(keys.last()?).await.ok()??;
    Some(head.sha256)
}

/// A task of the untrusted pool, as a worker gets it, for a moment.
async fn take(shared: &Shared) -> Option<TaskId> {
    let class = Class::ALL[shared.dice.borrow_mut().random_range(0..Class::ALL.len())];
    let queue = work_queue(&"cpu".parse().ok()?, class);
    let received = shared.engine.receive(&queue, 1, Millis(0), Millis(500)).await.ok()?;
    TaskMessage::from_json(&received.first()?.body).ok().map(|task| task.id)
}
