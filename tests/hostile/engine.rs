//! A data directory that somebody has been at: the embedded engine is opened on it and asked for everything.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use push0_core::Millis;
use push0_core::message::queue;
use push0_core::topology::Topology;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::engine::{Engine, EngineConfig, Location, examine, restore, verify_backup};
use push0_runtime::port::{Blobs, DeadLetters as _, Key, PortError, Queue, Table};
use push0_runtime::{snapshot, wiring};
use rusqlite::Connection;

use super::functions::{BLOBS, ENGINE, NOW, catalog};
use super::{Target, parts, wait};

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("engine_backup", backup).within(200, 16 << 20).slow(),
        Target::new("engine_keys", keys).within(200, 4 << 20).slow(),
        Target::new("engine_restart", restart).within(400, 32 << 20).slow(),
    ]
}

fn config(location: Location) -> EngineConfig {
    let queues = wiring::engine_queues(&Topology::built_in(), &catalog().pools());
    EngineConfig { clock: Arc::new(ManualClock::starting_at(NOW)), ..EngineConfig::new(location, queues) }
}

/// The database of the first version's data directory.
fn database() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("engine.db");
        let db = Connection::open(&file).expect("a database");
        db.execute_batch(ENGINE).expect("the fixture");
        db.close().expect("it is closed");
        std::fs::read(&file).expect("it is there")
    })
}

fn data(directory: &Path) -> std::io::Result<()> {
    std::fs::write(directory.join("engine.db"), database())?;
    let blobs: std::collections::BTreeMap<String, String> = serde_json::from_str(BLOBS)?;
    for (name, content) in blobs {
        let file = directory.join("blobs").join(name);
        file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(file, content)?;
    }
    Ok(())
}

/// Each part changes the database: `TABLE.COLUMN ROW` and the new value on the lines after it, or `file OFFSET` and the bytes there.
fn restart(input: &[u8]) -> bool {
    let Ok(directory) = tempfile::tempdir() else { return false };
    if data(directory.path()).is_err() {
        return false;
    }
    let file = directory.path().join("engine.db");
    for part in parts(input) {
        change(&file, part);
    }
    let _ = examine(directory.path());
    match Engine::open(config(Location::Directory(directory.path().to_owned()))) {
        Ok(engine) => {
            wait(ask_everything(&engine));
            true
        }
        Err(error) => {
            assert!(error.message().len() <= 64 * 1024);
            false
        }
    }
}

fn change(file: &Path, part: &[u8]) -> Option<()> {
    let at = part.iter().position(|byte| *byte == b'\n')?;
    let (place, value) = (std::str::from_utf8(&part[..at]).ok()?, &part[at + 1..]);
    let (what, number) = place.split_once(' ')?;
    let number: usize = number.parse().ok()?;
    if what == "file" {
        let mut bytes = std::fs::read(file).ok()?;
        let start = number.min(bytes.len());
        let end = (start + value.len()).min(bytes.len());
        bytes[start..end].copy_from_slice(&value[..end - start]);
        return std::fs::write(file, bytes).ok();
    }
    let columns = [
        (
            "messages",
            "id",
            &["grp", "rank", "waiting", "leased", "visible_at", "leased_at", "lease", "receives", "sent_at", "body"][..],
        ),
        ("rows", "partition, sort", &["partition", "sort", "version", "attributes"]),
        ("blobs", "key", &["key", "file", "size", "sha256", "writer"]),
        ("queues", "id", &["name"]),
        ("dedup", "queue, id", &["id", "at"]),
    ];
    let (table, column) = what.split_once('.')?;
    let (table, key, known) = columns.iter().find(|(name, ..)| *name == table)?;
    let column = known.iter().find(|name| **name == column)?;
    let db = Connection::open(file).ok()?;
    let kind: String = db
        .query_row("SELECT type FROM pragma_table_info(?1) WHERE name = ?2", [table, column], |row| row.get(0))
        .ok()?;
    let sql = format!(
        "UPDATE {table} SET {column} = CAST(?1 AS {kind}) WHERE ({key}) = (SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET ?2)"
    );
    db.execute(&sql, rusqlite::params![value, number as i64 % 64]).ok().map(|_| ())
}

/// Whatever it answers, it answers.
async fn ask_everything(engine: &Engine) {
    let names: Vec<String> = engine.queues().into_iter().map(|spec| spec.name).collect();
    for name in &names {
        let _ = engine.stats(name).await;
        let _ = engine.peek(name, None, 100).await;
        for delivery in engine.receive(name, 10, Millis(0), Millis(30_000)).await.unwrap_or_default() {
            let _ = engine.extend(name, &delivery.receipt, Millis(60_000)).await;
            let _ = engine.release(name, &delivery.receipt, Millis(0)).await;
        }
    }
    for config in catalog().chains.values() {
        let _ = snapshot::chain(engine, config, 0).await;
        for number in 1..6 {
            let _ = snapshot::block(engine, &config.chain, number).await;
        }
        let _ = snapshot::finalized(engine, &config.chain, 0, 100).await;
    }
    for partition in ["chain/demo", "outbox/demo", "run/demo/2/e1"] {
        for row in engine.query(partition, "", None, 100).await.unwrap_or_default() {
            let _ = Table::get(engine, &row.key).await;
        }
    }
    for key in engine.list("", None, 100).await.unwrap_or_default() {
        let _ = (engine.head(&key).await, Blobs::get(engine, &key).await);
        let _ = engine.get_range(&key, 1, u64::MAX).await;
    }
    let message = push0_runtime::port::Outgoing { body: "{}".to_owned(), ..Default::default() };
    let _ = engine.send(queue::RESULTS, vec![message]).await;
}

/// `backup.json`, in which `@sha256@` stands for the database's digest; beside it lies the rest of a real one.
fn backup(input: &[u8]) -> bool {
    let digest = push0_core::Sha256::of(database()).to_string();
    let input = match std::str::from_utf8(input) {
        Ok(text) => text.replace("@sha256@", &digest).into_bytes(),
        Err(_) => input.to_vec(),
    };
    let Ok(directory) = tempfile::tempdir() else { return false };
    let (from, to) = (directory.path().join("backup"), directory.path().join("data"));
    let made = std::fs::create_dir(&from)
        .and_then(|()| data(&from))
        .and_then(|()| std::fs::write(from.join("backup.json"), &input));
    if made.is_err() {
        return false;
    }
    let verified = verify_backup(&from);
    let restored = restore(&from, &to);
    assert_eq!(verified.is_ok(), restored.is_ok());
    restored.is_ok()
}

/// Keys of blobs and rows, and names of queues: nothing is stored under what is none, and what is stored is found under its own.
fn keys(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(engine) = Engine::open(config(Location::Memory)) else { return false };
    let asked = async {
        let stored = engine.put_new(text, "bytes".into(), text).await.is_ok();
        assert_eq!(Blobs::get(&engine, text).await.is_ok_and(|found| found.is_some()), stored);
        assert_eq!(engine.list("", None, 10).await?, if stored { vec![text.to_owned()] } else { Vec::new() });
        let (partition, sort) = text.split_once('\n').unwrap_or((text, text));
        let key = Key::new(partition, sort);
        let written = engine.put_if_version(&key, 1.into(), None).await.is_ok();
        assert_eq!(Table::get(&engine, &key).await.is_ok_and(|row| row.is_some()), written);
        for receipt in [text, sort] {
            assert!(engine.ack(queue::RESULTS, receipt).await.is_err(), "{receipt:?} is nobody's receipt");
        }
        let _ = (engine.stats(text).await, engine.redrive(queue::RESULTS, text, text, None).await);
        Ok::<bool, PortError>(stored || written)
    };
    wait(asked).expect("listing works")
}
