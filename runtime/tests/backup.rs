//! Backups: one moment, whole or refused, and restored as they were.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use push0_core::{ErrorCode, Millis};
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec, back_up_stopped, restore, verify_backup};
use push0_runtime::port::{Blobs, Key, Outgoing, Queue, Table};
use serde_json::json;

const LEASE: Millis = Millis::from_secs(30);

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("completes at once")
}

fn open(directory: &Path) -> Engine {
    let queues = vec![QueueSpec::new("q"), QueueSpec::new("q.fifo")];
    Engine::open(EngineConfig::new(Location::Directory(directory.to_owned()), queues)).unwrap()
}

fn message(body: &str) -> Outgoing {
    Outgoing { body: body.to_owned(), ..Outgoing::default() }
}

/// A data directory with a row, two messages (one in flight) and three blobs, in a place that ends with the test.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn filled(&self) -> Engine {
        let engine = open(&self.at("data"));
        now(engine.put_if_version(&Key::new("p", "s"), json!({"n": 1}), None)).unwrap();
        now(engine.send("q", vec![message("one"), message("two")])).unwrap();
        now(engine.receive("q", 1, Millis(0), LEASE)).unwrap();
        for name in ["a/b", "a/b/c", "d"] {
            now(engine.put_new(name, Bytes::from(format!("bytes of {name}")), "w")).unwrap();
        }
        engine
    }
}

fn file_below(folder: &Path) -> PathBuf {
    let entry = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).find(|entry| entry.path().is_file());
    entry.unwrap().path()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[0] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn what_was_there_is_there_after_a_restore_and_what_came_later_is_not() {
    let place = Place::new();
    let engine = place.filled();
    let made = engine.backup(&place.at("backup")).unwrap();
    assert_eq!((made.blobs, made.damaged.len()), (3, 0));
    now(engine.put_new("later", Bytes::from_static(b"x"), "w")).unwrap();
    now(Blobs::delete(&engine, "d")).unwrap();
    drop(engine);

    assert_eq!(verify_backup(&place.at("backup")).unwrap(), made);
    assert_eq!(restore(&place.at("backup"), &place.at("new")).unwrap(), made);
    let engine = open(&place.at("new"));
    assert_eq!(now(Table::get(&engine, &Key::new("p", "s"))).unwrap().unwrap().doc(), Some(&json!({"n": 1})));
    for name in ["a/b", "a/b/c", "d"] {
        assert_eq!(now(Blobs::get(&engine, name)).unwrap().unwrap(), format!("bytes of {name}"));
    }
    assert_eq!(now(Blobs::get(&engine, "later")).unwrap(), None);
    let stats = now(engine.stats("q")).unwrap();
    assert_eq!((stats.visible, stats.in_flight), (1, 1), "the lease goes on");
}

#[test]
fn a_receipt_of_the_old_life_names_no_message_of_the_new_one() {
    let place = Place::new();
    let engine = place.filled();
    engine.backup(&place.at("backup")).unwrap();
    now(engine.send("q", vec![message("old life")])).unwrap();
    let old = now(engine.receive("q", 10, Millis(0), LEASE)).unwrap().pop().unwrap();
    assert_eq!(old.body, "old life");
    drop(engine);
    restore(&place.at("backup"), &place.at("new")).unwrap();
    let engine = open(&place.at("new"));
    now(engine.receive("q", 10, Millis(0), LEASE)).unwrap();
    now(engine.send("q", vec![message("new life")])).unwrap();
    now(engine.receive("q", 10, Millis(0), LEASE)).unwrap();
    assert!(now(engine.ack("q", &old.receipt)).is_err(), "it would have deleted the new life's message");
}

#[test]
fn commits_and_deletions_go_on_while_a_backup_is_made_and_do_not_spoil_it() {
    let place = Place::new();
    let engine = open(&place.at("data"));
    for number in 0..300 {
        now(engine.put_new(&format!("old/{number}"), Bytes::from(vec![7; 20_000]), "w")).unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let churn = std::thread::spawn({
        let (engine, done) = (engine.clone(), done.clone());
        move || {
            let mut number = 0;
            while !done.load(Ordering::SeqCst) || number < 300 {
                futures::executor::block_on(async {
                    engine.put_new(&format!("new/{number}"), Bytes::from_static(b"new"), "w").await.unwrap();
                    Blobs::delete(&engine, &format!("old/{number}")).await.unwrap();
                });
                number += 1;
            }
        }
    });
    let made: Vec<_> = (0..3).map(|turn| engine.backup(&place.at(&format!("backup{turn}"))).unwrap()).collect();
    done.store(true, Ordering::SeqCst);
    churn.join().unwrap();
    for (turn, made) in made.iter().enumerate() {
        assert_eq!(made.damaged, [""; 0]);
        assert_eq!(verify_backup(&place.at(&format!("backup{turn}"))).unwrap(), *made);
    }
    let left = fs::read_dir(place.at("data/blobs/old")).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "files of deleted blobs go when the last backup is done");
}

#[test]
fn an_unfinished_backup_and_an_unfinished_restore_are_refused() {
    let place = Place::new();
    let engine = place.filled();
    let backup = place.at("backup");
    engine.backup(&backup).unwrap();
    let manifest = fs::read(backup.join("backup.json")).unwrap();
    fs::remove_file(backup.join("backup.json")).unwrap();
    for refused in [verify_backup(&backup), restore(&backup, &place.at("new"))] {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadBackup);
        assert!(error.message().contains("not finished"), "{error}");
    }

    // A blob is missing: the restore stops half-way, and says so to whoever opens what it left.
    fs::write(backup.join("backup.json"), manifest).unwrap();
    let blob = file_below(&backup.join("blobs"));
    let bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    assert_eq!(restore(&backup, &place.at("new")).unwrap_err().code(), ErrorCode::BadBackup);
    let error = Engine::open(EngineConfig::new(Location::Directory(place.at("new")), Vec::new())).err().unwrap();
    assert_eq!(error.code(), ErrorCode::BadBackup);
    fs::write(&blob, bytes).unwrap();
    restore(&backup, &place.at("new")).unwrap();
    open(&place.at("new"));
}

#[test]
fn a_flipped_byte_anywhere_is_found() {
    let place = Place::new();
    let engine = place.filled();
    for (turn, what) in ["engine.db", "blobs/a"].iter().enumerate() {
        let backup = place.at(&format!("backup{turn}"));
        engine.backup(&backup).unwrap();
        let path = backup.join(what);
        flip(&if path.is_dir() { file_below(&path) } else { path });
        for refused in [verify_backup(&backup), restore(&backup, &place.at(&format!("new{turn}")))] {
            assert_eq!(refused.unwrap_err().code(), ErrorCode::BadBackup, "{what}");
        }
    }
}

#[test]
fn what_was_damaged_already_is_named_and_stays_as_it_was() {
    let place = Place::new();
    let engine = place.filled();
    flip(&file_below(&place.at("data/blobs/a")));
    let made = engine.backup(&place.at("backup")).unwrap();
    assert_eq!(made.damaged, ["a/b"]);
    assert_eq!(verify_backup(&place.at("backup")).unwrap(), made);
    restore(&place.at("backup"), &place.at("new")).unwrap();
    let engine = open(&place.at("new"));
    assert_eq!(now(Blobs::get(&engine, "a/b")).unwrap_err().code(), ErrorCode::BlobDamaged);
}

#[test]
fn a_stopped_directory_is_backed_up_by_its_owner_only_and_nothing_is_overwritten() {
    let place = Place::new();
    let engine = place.filled();
    let refused = back_up_stopped(&place.at("data"), &place.at("backup")).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DataInUse);
    drop(engine);
    back_up_stopped(&place.at("data"), &place.at("backup")).unwrap();
    for refused in
        [back_up_stopped(&place.at("data"), &place.at("backup")), restore(&place.at("backup"), &place.at("data"))]
    {
        assert_eq!(refused.unwrap_err().code(), ErrorCode::FileExists);
    }
    verify_backup(&place.at("backup")).unwrap();
}

#[test]
fn a_backup_that_names_files_elsewhere_is_refused() {
    let place = Place::new();
    drop(place.filled());
    let db = rusqlite::Connection::open(place.at("data/engine.db")).unwrap();
    db.execute("UPDATE blobs SET file = '../../escaped/1@d' WHERE key = 'd'", []).unwrap();
    drop(db);
    assert!(back_up_stopped(&place.at("data"), &place.at("backup")).is_err());
    assert!(!place.at("backup").exists(), "nothing is left of it");
}
