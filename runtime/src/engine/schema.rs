//! The database: its schema and version, its durability, and checkpoints off the commit path.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use push0_core::ErrorCode;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::Durability;
use super::commit::storage_error;
use crate::port::{PortError, PortResult};

/// Of the schema below, kept in `PRAGMA user_version`. A newer one is refused, an older one brought up to date by [`STEPS`].
pub(super) const VERSION: i64 = 2;

/// `waiting` is 1 while a message has a moment before which it is not handed out (`visible_at`): the end of its lease (`leased` = 1),
/// of its delay or of a release's delay. It goes back to 0 when somebody looks after that moment.
const SCHEMA: &str = "
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    fifo INTEGER NOT NULL,
    grp TEXT,
    rank INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    leased INTEGER NOT NULL DEFAULT 0,
    visible_at INTEGER NOT NULL,
    leased_at INTEGER NOT NULL DEFAULT 0,
    lease INTEGER NOT NULL DEFAULT 0,
    receives INTEGER NOT NULL DEFAULT 0,
    sent_at INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX messages_ready ON messages (queue, grp, rank, id) WHERE waiting = 0;
CREATE INDEX messages_in_flight ON messages (queue, grp) WHERE leased = 1 AND fifo = 0;
CREATE INDEX messages_waiting ON messages (queue, visible_at) WHERE waiting = 1;
CREATE INDEX messages_groups ON messages (queue, grp, waiting, id) WHERE fifo = 1;

CREATE TABLE dedup (
    queue INTEGER NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (queue, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX dedup_age ON dedup (queue, at);

CREATE TABLE rows (
    partition TEXT NOT NULL,
    sort TEXT NOT NULL,
    version INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    PRIMARY KEY (partition, sort)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    key TEXT PRIMARY KEY,
    file TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    writer TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What brings version n + 1 to n + 2. Index names stay, what they are of changes.
const STEPS: [&str; VERSION as usize - 1] = ["
DROP INDEX messages_ready;
CREATE INDEX messages_ready ON messages (queue, grp, rank, id) WHERE waiting = 0;
CREATE INDEX messages_in_flight ON messages (queue, grp) WHERE leased = 1 AND fifo = 0;
"];

/// Batches between two checkpoints (each batch writes a handful of 4 KiB pages to the log).
const CHECKPOINT_EVERY: u32 = 500;

/// Pages in the log at which SQLite checkpoints by itself within a commit, should the checkpointer not keep up: 256 MiB.
const AUTOCHECKPOINT_PAGES: u32 = 65_536;

pub(super) fn open(file: Option<&Path>, durability: Durability) -> PortResult<Connection> {
    let opened = match file {
        Some(file) => Connection::open(file),
        None => Connection::open_in_memory(),
    };
    let db = opened.map_err(|error| storage_error(&error, false))?;
    prepare(&db, file.is_some(), durability)?;
    Ok(db)
}

/// What a look at a database found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    pub schema: i64,
    /// Whether this build can use it.
    pub is_known: bool,
    /// What SQLite's `quick_check` finds wrong; empty where all is well.
    pub damage: Vec<String>,
}

/// Looks at the database of a data directory without changing it, whether an engine owns it or not. `None`: there is none yet.
pub fn examine(directory: &Path) -> PortResult<Option<Examined>> {
    let file = directory.join("engine.db");
    if !file.exists() {
        return Ok(None);
    }
    let failed = |error: rusqlite::Error| storage_error(&error, false);
    let db = Connection::open_with_flags(&file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    let schema: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let mut damage = Vec::new();
    db.pragma_query(None, "quick_check", |row| {
        damage.push(row.get::<_, String>(0)?);
        Ok(())
    })
    .map_err(failed)?;
    damage.retain(|line| line != "ok");
    Ok(Some(Examined { schema, is_known: schema <= VERSION, damage }))
}

fn prepare(db: &Connection, on_disk: bool, durability: Durability) -> PortResult<()> {
    let failed = |error: rusqlite::Error| storage_error(&error, false);
    db.set_prepared_statement_cache_capacity(128);
    // Before anything is changed: what a newer push0 wrote stays as it is.
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if found > VERSION {
        return Err(PortError::permanent(ErrorCode::NewerData.says(format!(
            "the data directory has schema version {found}, this push0 knows version {VERSION}: use the push0 that wrote it, or a newer one"
        ))));
    }
    // Otherwise a statement is planned anew for every value bound to it, which costs more than running it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed)?;
    if on_disk {
        db.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        db.pragma_update(None, "wal_autocheckpoint", AUTOCHECKPOINT_PAGES).map_err(failed)?;
        db.pragma_update(None, "synchronous", durability.synchronous()).map_err(failed)?;
        // Somebody looking with the sqlite3 tool may hold a lock for a moment.
        db.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    }
    match found {
        0 => db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")).map_err(failed),
        older => {
            let steps = STEPS.iter().skip(usize::try_from(older - 1).unwrap_or(STEPS.len()));
            let steps: String = steps.copied().collect();
            if !steps.is_empty() {
                tracing::info!(from = older, to = VERSION, "the database is brought up to date");
                db.execute_batch(&format!("BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;"))
                    .map_err(failed)?;
            }
            Ok(())
        }
    }
}

/// Moves the log into the database file from a thread and a connection of its own, so that no commit waits for it. Ends with its
/// handle.
pub(super) struct Checkpointer {
    batches: std::sync::atomic::AtomicU32,
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(file: PathBuf, durability: Durability) -> PortResult<Self> {
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let db = open(Some(&file), durability)?;
        let thread = std::thread::Builder::new()
            .name("push0-checkpoint".to_owned())
            .spawn(move || {
                while woken.recv().is_ok() {
                    // (busy, pages in the log, pages moved): whatever is left is moved next time.
                    if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                        tracing::warn!(code = %ErrorCode::StorageTrouble, %error, "checkpoint failed");
                    }
                }
            })
            .map_err(|error| PortError::transient(format!("starting the checkpoint thread: {error}")))?;
        Ok(Self { batches: std::sync::atomic::AtomicU32::new(0), wake: Some(wake), thread: Some(thread) })
    }

    pub(super) fn committed(&self) {
        let batches = self.batches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if batches % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 {
            // Full: one is due already.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
