//! Reorganisations of a running system: blocks of another fork, old events told of again, and the story of one that is three blocks deep.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use push0_core::message::{ChainMessage, Submission, queue};
use push0_core::record::{BlobRef, Versioned as _};
use push0_core::{Sha256 as Digest256, TaskId};
use push0_runtime::port::{Blobs, Outgoing, Queue};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Judge;
use super::installation::{signal, wait_until};

const SEGMENTS: u32 = 8;

/// Where it happens.
pub trait Site {
    fn cli(&self, args: &[&str]) -> Output;
    /// Where files can be written.
    fn path(&self, name: &str) -> PathBuf;
    /// The processes of the workers that prove.
    fn workers(&self) -> Vec<u32>;
    /// The task of every run of the prover so far.
    fn invocations(&self) -> Vec<String>;

    fn json(&self, args: &[&str]) -> Value {
        let output = self.cli(&[&["--json"], args].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn submit(&self, block: &Block) {
        let output = self.cli(&["submit", text(&block.file)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Status and hash of a block.
    fn stands(&self, number: u64) -> (String, String) {
        let row = &self.json(&["block", "demo", &number.to_string()])["block"];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (word(&row["status"]["status"]), word(&row["hash"]))
    }
}

pub struct Block {
    pub file: PathBuf,
    pub hash: String,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Block `number` of the fork `name` that left the first chain at number `from`.
pub fn block(site: &dyn Site, number: u64, from: u64, name: &str, seq: Option<u64>) -> Block {
    let hash = |number: u64| -> String {
        let what = if number < from { format!("block {number}") } else { format!("block {number} of {name}") };
        Sha256::digest(what).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (own, parent) = (hash(number), hash(number - 1));
    let stem = format!("{number}{name}");
    let witness = json!({ "segments": SEGMENTS, "hash": own, "parent_hash": parent });
    fs::write(site.path(&format!("{stem}.witness")), witness.to_string()).expect("writable");
    let submission = json!({
        "chain": "demo", "number": number, "hash": own, "parent_hash": parent, "fork_seq": seq,
        "witness": format!("{stem}.witness"),
    });
    let file = site.path(&format!("{stem}.json"));
    fs::write(&file, submission.to_string()).expect("writable");
    Block { file, hash: own }
}

/// The message that announced a block, once more: as a queue redelivers it that has forgotten that it had.
pub async fn tell_again(queue: &dyn Queue, block: &Block, time: u32) {
    let file: Value = serde_json::from_slice(&fs::read(&block.file).expect("it was written")).expect("JSON");
    let witness = fs::read(block.file.with_extension("witness")).expect("it was written");
    let (number, sha256) = (file["number"].as_u64().expect("a number"), Digest256::of(&witness));
    let submission = Submission {
        chain: "demo".parse().expect("a chain id"),
        number,
        hash: block.hash.parse().expect("a hash"),
        parent_hash: file["parent_hash"].as_str().and_then(|parent| parent.parse().ok()),
        witness: BlobRef { key: format!("witnesses/demo/{number}-{sha256}"), sha256, size: witness.len() as u64 },
        fork_seq: file["fork_seq"].as_u64(),
        deadline: None,
    };
    let message = Outgoing {
        body: ChainMessage::Submit(submission).to_json(),
        group: Some("demo".to_owned()),
        dedup: Some(format!("again-{number}-{time}")),
        ..Outgoing::default()
    };
    queue.send(queue::SUBMISSIONS, vec![message]).await.expect("the queue takes it");
}

async fn until_told(queue: &dyn Queue) {
    loop {
        let stats = queue.stats(queue::SUBMISSIONS).await.expect("the queue answers");
        if stats.visible + stats.in_flight + stats.delayed == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn consume_until(count: usize, judge: &mut Judge, queue: &dyn Queue) {
    for _ in 0..3_000 {
        judge.consume(queue).await;
        if judge.stream.len() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} of {count} finalized", judge.stream.len());
}

/// Whether a worker has a task of the block in hand.
fn is_in_hand(status: &Value, number: u64) -> bool {
    let workers = status["workers"].as_object().into_iter().flatten();
    workers.flat_map(|(_, tasks)| tasks.as_array().into_iter().flatten()).any(|task| task["number"] == number)
}

/// Runs of the prover for the first epochs of these blocks.
fn old_runs(site: &dyn Site, numbers: std::ops::RangeInclusive<u64>) -> usize {
    let is_old = |id: &String| {
        let task: Option<TaskId> = id.parse().ok();
        task.is_some_and(|task| numbers.contains(&task.run.number) && task.run.epoch.0 == 1)
    };
    site.invocations().iter().filter(|id| is_old(id)).count()
}

/// Blocks 2 to 4 give way to another fork's while workers have tasks of theirs in hand and stand still; the new ones come last first, the
/// old ones' events come again, before and afterwards. `lease` is how long a task stays a worker's without a sign of life.
pub async fn three_deep(site: &dyn Site, queue: &dyn Queue, blobs: &dyn Blobs, lease: Duration) {
    let old: Vec<Block> = (1..=4).map(|number| block(site, number, u64::MAX, "", None)).collect();
    let new: Vec<Block> = (2..=5).map(|number| block(site, number, 2, "b", Some(1))).collect();
    old.iter().for_each(|block| site.submit(block));
    let (mut workers, mut status) = (Vec::new(), Value::Null);
    wait_until("workers stand still with a task of block 2 in hand", || {
        if !is_in_hand(&site.json(&["status"]), 2) {
            return false;
        }
        workers = site.workers();
        workers.iter().for_each(|worker| signal(*worker, Signal::SIGSTOP));
        status = site.json(&["status"]);
        // It may have been done with in the meantime.
        let is_frozen = is_in_hand(&status, 2);
        if !is_frozen {
            workers.iter().for_each(|worker| signal(*worker, Signal::SIGCONT));
        }
        is_frozen
    });
    let cursor = status["chains"][0]["chain"]["next_final"].as_u64();
    assert!(cursor <= Some(2), "nothing of what gives way is final: {status:#}");
    let before = old_runs(site, 2..=4);

    // The last of them first: until its parent is there, each waits.
    site.submit(&new[2]);
    site.submit(&new[1]);
    for (number, block) in [(3, &new[1]), (4, &new[2])] {
        assert_eq!(site.stands(number), ("parked".to_owned(), block.hash.clone()));
        assert_eq!(site.json(&["why", "demo", &number.to_string()])["code"], "P0-038");
    }
    for block in &old {
        tell_again(queue, block, 1).await;
    }
    until_told(queue).await;
    assert_eq!(site.stands(2), ("proving".to_owned(), old[1].hash.clone()), "it still is the old one");
    site.submit(&new[0]);
    for (number, block) in (2..=4).zip(&new) {
        wait_until("the new blocks are being proven", || site.stands(number).0 == "proving");
        assert_eq!(site.stands(number).1, block.hash);
    }

    // Their leases are over; one goes on, and the others wake up when what they held has been overtaken.
    tokio::time::sleep(lease * 2).await;
    let (first, others) = workers.split_first().expect("there are workers");
    signal(*first, Signal::SIGCONT);
    let mut judge = Judge::default();
    consume_until(2, &mut judge, queue).await;
    others.iter().for_each(|worker| signal(*worker, Signal::SIGCONT));
    for block in &old {
        tell_again(queue, block, 2).await;
    }
    site.submit(&new[3]);
    consume_until(5, &mut judge, queue).await;
    for block in &old {
        tell_again(queue, block, 3).await;
    }
    until_told(queue).await;
    judge.consume(queue).await;
    let hashes: Vec<String> = old[..1].iter().chain(&new).map(|block| block.hash.clone()).collect();
    judge.judge(blobs, &hashes, SEGMENTS).await;
    judge.look_for_overwriting(blobs).await;
    let after = old_runs(site, 2..=4);
    eprintln!(
        "{before} runs of the prover for the old blocks before, {} after; {} deliveries",
        after - before,
        judge.deliveries
    );
    // A worker may have been stopped between its look at the control blob and the prover's beginning.
    assert!(
        after <= before + workers.len(),
        "{before} runs of the old blocks, then {after}: workers were told to stop"
    );
}
