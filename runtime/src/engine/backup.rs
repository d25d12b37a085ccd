//! Backups of a data directory, made while its engine runs or by whoever owns a stopped one.
//!
//! A backup is a directory: `engine.db`, `blobs/` as in a data directory, and `backup.json`, the [`Backup`] that says what it is.
//!
//! - **One moment.** The database is copied by a single read transaction on a connection of its own (`VACUUM INTO`): commits go on
//!   meanwhile, and the copy is the state between two of them. Then every blob that a row of the *copy* names is copied. A blob's file is
//!   there before its row and never changes, so all that can happen to it is to be deleted: while a backup runs the engine keeps the
//!   files of deleted blobs, and removes them when it is done.
//! - **Checked.** Every blob is checked against its row's SHA-256 as it is copied, when a backup is verified, and when it is restored.
//!   One that is damaged in the data directory itself is copied as it is and named in `backup.json`: the backup is no worse than what
//!   it was made of.
//! - **Whole or refused.** `backup.json` is written last, after everything else was synced to the disk. A directory without it is an
//!   unfinished backup, and a data directory whose restore was not finished is not opened.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use push0_core::{ErrorCode, Millis, Sha256};
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};

use super::blobs::{CopyError, check_key, copy_hashed, key_of};
use super::commit::storage_error;
use super::{Durability, Engine, owner, schema};
use crate::port::{Clock as _, PortError, PortResult, SystemClock};

const DATABASE: &str = "engine.db";
const BLOBS: &str = "blobs";
const MANIFEST: &str = "backup.json";

/// In a data directory: a restore into it has begun and is not finished.
const UNFINISHED: &str = "restore.unfinished";

/// The format of `backup.json`.
const FORMAT: u32 = 1;

/// Message ids made before and after a restore are this far apart: what a worker that outlived the old system holds can never name
/// a message of the new one.
const ID_GAP: i64 = 1 << 32;

/// What a backup is, as `backup.json` in it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub format: u32,
    /// The version of push0 that made it.
    pub push0: String,
    /// Of the database's tables.
    pub schema: i64,
    /// The moment it shows: shortly after this, by the machine's clock.
    pub at: Millis,
    /// Of `engine.db`.
    pub database_sha256: Sha256,
    pub database_bytes: u64,
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Keys of blobs that were damaged or missing in the data directory already.
    #[serde(default)]
    pub damaged: Vec<String>,
}

/// What copying or checking the blobs came to.
#[derive(Default)]
struct Tally {
    blobs: u64,
    bytes: u64,
    damaged: Vec<String>,
}

impl Engine {
    /// Copies the state of one moment to the directory `to`, which is empty or absent. Blocks its thread until it is done; the engine
    /// serves others meanwhile. On an error nothing of the copy is left.
    pub fn backup(&self, to: &Path) -> PortResult<Backup> {
        let Some(directory) = self.directory() else {
            return Err(PortError::permanent("an engine in memory has nothing to back up"));
        };
        let _kept = self.0.blobs.keep_files();
        let db = schema::open(Some(&directory.join(DATABASE)), Durability::Process)?;
        back_up(&db, directory, to)
    }
}

/// The same for a directory that no engine has open.
pub fn back_up_stopped(directory: &Path, to: &Path) -> PortResult<Backup> {
    if !directory.join(DATABASE).exists() {
        let what = format!("{} is no data directory: there is no {DATABASE} in it", directory.display());
        return Err(PortError::permanent(ErrorCode::DataUnusable.says(what)));
    }
    let _owner = owner::Ownership::take(directory)?;
    let db = schema::open(Some(&directory.join(DATABASE)), Durability::Process)?;
    back_up(&db, directory, to)
}

fn back_up(db: &Connection, directory: &Path, to: &Path) -> PortResult<Backup> {
    let made = !to.exists();
    prepare_target(to)?;
    let written = write_backup(db, directory, to);
    if written.is_err() {
        // What is there is this call's own: the directory was empty.
        let _ = fs::remove_dir_all(to.join(BLOBS));
        for name in [DATABASE, MANIFEST] {
            let _ = fs::remove_file(to.join(name));
        }
        if made {
            let _ = fs::remove_dir(to);
        }
    }
    written
}

fn prepare_target(to: &Path) -> PortResult<()> {
    fs::create_dir_all(to).map_err(|error| failed(to, &error))?;
    if fs::read_dir(to).map_err(|error| failed(to, &error))?.next().is_some() {
        let what = format!("{} is not empty: a backup goes into a new directory", to.display());
        return Err(PortError::permanent(ErrorCode::FileExists.says(what)));
    }
    Ok(())
}

fn write_backup(db: &Connection, directory: &Path, to: &Path) -> PortResult<Backup> {
    let at = SystemClock.now();
    let copy = to.join(DATABASE);
    let text = copy.to_str().ok_or_else(|| PortError::permanent(format!("{} is not UTF-8", copy.display())))?;
    db.execute("VACUUM INTO ?", [text]).map_err(|error| storage_error(&error, false))?;
    let (database_bytes, database_sha256) = hash_file(&copy).map_err(|error| failed(&copy, &error))?;

    let snapshot = open_copy(&copy)?;
    let mut tally = Tally::default();
    each_blob(&snapshot, |blob| {
        let source = directory.join(BLOBS).join(&blob.file);
        let target = to.join(BLOBS).join(&blob.file);
        if !copy_blob(&source, &target, &blob)? {
            tally.damaged.push(blob.key.clone());
        }
        tally.blobs += 1;
        tally.bytes += blob.size;
        Ok(())
    })?;
    drop(snapshot);
    let backup = Backup {
        format: FORMAT,
        push0: env!("CARGO_PKG_VERSION").to_owned(),
        schema: schema::VERSION,
        at,
        database_sha256,
        database_bytes,
        blobs: tally.blobs,
        blob_bytes: tally.bytes,
        damaged: tally.damaged,
    };
    sync_file_system(to)?;
    write_whole(&to.join(MANIFEST), &serde_json::to_vec_pretty(&backup).unwrap_or_default())?;
    Ok(backup)
}

/// Reads a whole backup and checks every byte of it.
pub fn verify_backup(backup: &Path) -> PortResult<Backup> {
    let stated = read_manifest(backup)?;
    let found = check(backup, &stated, |blob| {
        let file = backup.join(BLOBS).join(&blob.file);
        match hash_file(&file) {
            Ok((size, sha256)) => Ok(size == blob.size && sha256 == blob.sha256),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&file, &error)),
        }
    })?;
    debug_assert_eq!(found.blobs, stated.blobs, "checked above");
    Ok(stated)
}

/// Makes a data directory of a backup: `directory` is empty or absent, or was left by a restore that was not finished. Verifies
/// everything it copies.
pub fn restore(backup: &Path, directory: &Path) -> PortResult<Backup> {
    let stated = read_manifest(backup)?;
    let marker = directory.join(UNFINISHED);
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    if !marker.exists() && fs::read_dir(directory).map_err(|error| failed(directory, &error))?.next().is_some() {
        let what = format!("{} is not empty: a backup is restored into a new directory", directory.display());
        return Err(PortError::permanent(ErrorCode::FileExists.says(what)));
    }
    let _owner = owner::Ownership::take(directory)?;
    write_whole(&marker, b"restore this backup again, or delete this directory\n")?;
    for folder in [BLOBS, "tmp"] {
        remove(fs::remove_dir_all(directory.join(folder)), directory)?;
    }
    let database = directory.join(DATABASE);
    for name in [DATABASE, "engine.db-wal", "engine.db-shm"] {
        remove(fs::remove_file(directory.join(name)), directory)?;
    }
    check(backup, &stated, |blob| {
        copy_blob(&backup.join(BLOBS).join(&blob.file), &directory.join(BLOBS).join(&blob.file), blob)
    })?;
    fs::copy(backup.join(DATABASE), &database).map_err(|error| failed(&database, &error))?;
    let (_, copied) = hash_file(&database).map_err(|error| failed(&database, &error))?;
    if copied != stated.database_sha256 {
        return Err(bad(backup, "its database changed while it was copied"));
    }
    let db = Connection::open(&database).map_err(|error| storage_error(&error, false))?;
    db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'messages'", [ID_GAP])
        .map_err(|error| storage_error(&error, false))?;
    db.close().map_err(|(_, error)| storage_error(&error, false))?;
    sync_file_system(directory)?;
    remove(fs::remove_file(&marker), directory)?;
    Ok(stated)
}

/// Refuses a data directory whose restore was not finished.
pub(super) fn refuse_unfinished(directory: &Path) -> PortResult<()> {
    if !directory.join(UNFINISHED).exists() {
        return Ok(());
    }
    let what = format!("a restore into {} was not finished: run `push0 restore` again", directory.display());
    Err(PortError::permanent(ErrorCode::BadBackup.says(what)))
}

fn read_manifest(backup: &Path) -> PortResult<Backup> {
    let path = backup.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = if backup.join(DATABASE).exists() { "the backup was not finished" } else { "this is no backup" };
            return Err(bad(backup, &format!("there is no {MANIFEST}: {why}")));
        }
        Err(error) => return Err(failed(&path, &error)),
    };
    #[derive(Deserialize)]
    struct Format {
        format: u32,
        schema: i64,
        push0: String,
    }
    let unreadable = |error: serde_json::Error| bad(backup, &format!("{MANIFEST} cannot be read: {error}"));
    let Format { format, schema, push0 } = serde_json::from_str(&text).map_err(unreadable)?;
    if format > FORMAT || schema > schema::VERSION {
        let what = format!("the backup {} was made by push0 {push0}, which is newer", backup.display());
        return Err(PortError::permanent(ErrorCode::NewerData.says(what)));
    }
    serde_json::from_str(&text).map_err(unreadable)
}

/// Checks the database's copy, then asks `is_whole` of every blob it names. Counts that differ from what is stated, and damage that
/// is not stated, make the backup unusable.
fn check(backup: &Path, stated: &Backup, mut is_whole: impl FnMut(&BlobRow) -> PortResult<bool>) -> PortResult<Tally> {
    let database = backup.join(DATABASE);
    let (_, sha256) = hash_file(&database).map_err(|error| failed(&database, &error))?;
    if sha256 != stated.database_sha256 {
        return Err(bad(backup, &format!("{DATABASE} has SHA-256 {sha256}, not {}", stated.database_sha256)));
    }
    let db = open_copy(&database)?;
    let mut tally = Tally::default();
    each_blob(&db, |blob| {
        if !is_whole(&blob)? && !stated.damaged.contains(&blob.key) {
            tally.damaged.push(blob.key.clone());
        }
        tally.blobs += 1;
        tally.bytes += blob.size;
        Ok(())
    })?;
    if let Some(first) = tally.damaged.first() {
        let count = tally.damaged.len();
        return Err(bad(backup, &format!("{count} blobs are damaged or missing, the first is {first}")));
    }
    if (tally.blobs, tally.bytes) != (stated.blobs, stated.blob_bytes) {
        return Err(bad(backup, &format!("it names {} blobs, {MANIFEST} {}", tally.blobs, stated.blobs)));
    }
    Ok(tally)
}

struct BlobRow {
    key: String,
    file: String,
    size: u64,
    sha256: Sha256,
}

fn each_blob(db: &Connection, mut work: impl FnMut(BlobRow) -> PortResult<()>) -> PortResult<()> {
    let storage = |error: rusqlite::Error| storage_error(&error, false);
    let mut select = db.prepare("SELECT key, file, size, sha256 FROM blobs ORDER BY key").map_err(storage)?;
    let mut rows = select.query(params![]).map_err(storage)?;
    while let Some(row) = rows.next().map_err(storage)? {
        let text = |column: usize| row.get::<_, String>(column).map_err(storage);
        let (key, file) = (text(0)?, text(1)?);
        let sha256 = text(3)?.parse().map_err(|error| PortError::corrupt(format!("blob {key}: {error}")))?;
        // The file's name is data of the backup: it may only name a place below `blobs/`.
        check_key(&key)?;
        if key_of(&file).as_deref() != Some(key.as_str()) {
            return Err(PortError::corrupt(format!("blob {key} names the file {file:?}, which is not one of its own")));
        }
        work(BlobRow { key, file, size: row.get(2).map_err(storage)?, sha256 })?;
    }
    Ok(())
}

/// Copies a blob's file; `false`: it is missing, or not what its row says (and was copied all the same).
fn copy_blob(source: &Path, target: &Path, blob: &BlobRow) -> PortResult<bool> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    }
    let mut from = match File::open(source) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(source, &error)),
    };
    let mut to = File::create_new(target).map_err(|error| failed(target, &error))?;
    match copy_hashed(&mut from, &mut to, u64::MAX) {
        Ok((size, sha256)) => Ok(size == blob.size && sha256 == blob.sha256),
        Err(CopyError::Read(error)) => Err(failed(source, &error)),
        Err(CopyError::Write(error)) => Err(failed(target, &error)),
        Err(CopyError::TooLarge) => Err(PortError::permanent(format!("blob {} is too large", blob.key))),
    }
}

fn open_copy(database: &Path) -> PortResult<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(database, flags).map_err(|error| storage_error(&error, false))
}

fn hash_file(path: &Path) -> io::Result<(u64, Sha256)> {
    let mut file = File::open(path)?;
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    let size = io::copy(&mut file, &mut HashWriter(&mut hasher))?;
    Ok((size, Sha256(sha2::Digest::finalize(hasher).into())))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The whole file or none, on the disk when this returns.
fn write_whole(path: &Path, bytes: &[u8]) -> PortResult<()> {
    let temporary: PathBuf = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(path, &error)
    })
}

/// Everything written to the file system that holds `path` so far is on the disk when this returns: one call instead of one a file.
fn sync_file_system(path: &Path) -> PortResult<()> {
    let synced = File::open(path).and_then(|file| nix::unistd::syncfs(file).map_err(io::Error::from));
    synced.map_err(|error| failed(path, &error))
}

fn remove(removed: io::Result<()>, directory: &Path) -> PortResult<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(directory, &error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: &io::Error) -> PortError {
    PortError::io(path.display(), error)
}

fn bad(backup: &Path, why: &str) -> PortError {
    PortError::permanent(ErrorCode::BadBackup.says(format!("the backup {}: {why}", backup.display())))
}
