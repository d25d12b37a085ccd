//! `kill -9`: a child process writes and says what was acknowledged; it is killed at random moments; everything it said is there.
//!
//! The child is this test binary itself, told by an environment variable to be the child.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use bytes::Bytes;
use futures::executor::block_on;
use push0_core::{Millis, Sha256};
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::port::{Blobs, Key, Outgoing, Queue, Row, Table};
use serde_json::json;

const DIRECTORY: &str = "PUSH0_KILL_TEST_DIRECTORY";
const KILLS: u64 = 12;

fn open(directory: &str) -> Engine {
    let queues = vec![QueueSpec::new("q"), QueueSpec::new("done")];
    Engine::open(EngineConfig::new(Location::Directory(directory.into()), queues)).unwrap()
}

fn blob_bytes(number: u64) -> Bytes {
    let length = 1 + (number * 7919) % 300_000;
    Bytes::from(vec![number as u8; length as usize])
}

/// Goes on from the row's version until killed; a line a step that was acknowledged.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let engine = open(&directory);
    let key = Key::new("p", "counter");
    let mut out = std::io::stdout();
    block_on(async {
        let mut version = Table::get(&engine, &key).await.unwrap().map(|row| row.version);
        loop {
            let number = version.unwrap_or(0) + 1;
            engine.send("q", vec![Outgoing { body: number.to_string(), ..Outgoing::default() }]).await.unwrap();
            engine.put_new(&format!("b/{number:09}"), blob_bytes(number), "w").await.unwrap();
            version = Some(engine.put_if_version(&key, json!(number), version).await.unwrap());
            writeln!(out, "acknowledged {number}").unwrap();
            out.flush().unwrap();
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_and_no_blob_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(DIRECTORY, path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // After a number of steps of its own, and then wherever it happens to be.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut steps = 1 + (kill * 37) % 50;
        for line in lines {
            let Ok(line) = line else { break };
            let Some((_, number)) = line.split_once("acknowledged ") else {
                continue;
            };
            acknowledged = number.parse().unwrap();
            steps = steps.saturating_sub(1);
            if steps == 0 {
                // SIGKILL; what it says meanwhile is read too.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        block_on(audit(path, acknowledged));
    }
    assert!(acknowledged >= KILLS);
}

async fn audit(path: &str, acknowledged: u64) {
    let engine = open(path);
    let row: Option<Row> = Table::get(&engine, &Key::new("p", "counter")).await.unwrap();
    let row = row.expect("the counter");
    assert!(row.version >= acknowledged, "{} of {acknowledged}", row.version);
    assert_eq!(row.doc(), Some(&json!(row.version)));

    // The step that was cut off may have put its message and its blob, too.
    let messages = engine.stats("q").await.unwrap();
    assert!(messages.visible >= row.version, "{messages:?}");
    let keys = engine.list("b/", None, usize::MAX).await.unwrap();
    assert!(keys.len() as u64 == row.version || keys.len() as u64 == row.version + 1);
    for (key, number) in keys.iter().zip(1..) {
        assert_eq!(*key, format!("b/{number:09}"));
        let bytes = Blobs::get(&engine, key).await.unwrap().expect("its bytes");
        assert_eq!(Sha256::of(&bytes), Sha256::of(&blob_bytes(number)));
    }
    let files = std::fs::read_dir(std::path::Path::new(path).join("blobs/b")).unwrap().count();
    assert_eq!(files, keys.len(), "a file for each blob and nothing else");

    // And it works on: every acknowledged message can be handed out.
    let taken = engine.receive("q", 10, Millis(0), Millis::from_secs(60)).await.unwrap();
    for delivery in taken {
        engine.release("q", &delivery.receipt, Millis(0)).await.unwrap();
    }
}
