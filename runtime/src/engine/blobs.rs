//! Blobs: plain files that any tool can open, published by a row.
//!
//! The blob `proofs/demo/7` lies in `blobs/proofs/demo/N@7`, where N is a number that no other file there ever had, so that `a/b` and
//! `a/b/c` can both be stored. Its digest, size, writer and file name are a row of the database, and that row is the blob:
//!
//! 1. The bytes are written to `tmp/N` while their SHA-256 is computed (`Power`: and synced).
//! 2. The file gets its name by `link()`, which never replaces anything (`Power`: and the directory is synced).
//! 3. The row is inserted unless the key has one; the loser removes its own file.
//!
//! So a blob is there whole or not at all. A crash between 2 and 3 leaves a file without a row: unreachable, and removed at the
//! next open, as is everything in `tmp`. A delete removes the row, then the file (after the backups that are being made, if any).
//!
//! Files are read and written in the caller's thread, in chunks of 256 KiB; no lock is held meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use push0_core::{ErrorCode, Sha256};
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::Digest as _;

use super::Durability;
use super::commit::{Combiner, Failure, lock, storage_error};
use super::room::{Quota, Room};
use crate::port::{BlobInfo, PortError, PortResult, PutOutcome};

const CHUNK: usize = 256 * 1024;

/// See [`crate::port::Blobs`] for the rules.
pub(crate) fn check_key(key: &str) -> PortResult<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._=-".contains(&byte);
    let is_part =
        |part: &str| (1..=128).contains(&part.len()) && part != "." && part != ".." && part.bytes().all(is_allowed);
    if key.len() > 512 || !key.split('/').all(is_part) {
        let shown: String = key.chars().take(100).collect();
        return Err(PortError::permanent(format!(
            "{shown:?} is not a blob key: parts of 1 to 128 of A-Z a-z 0-9 . _ = -, joined by /, at most 512 bytes"
        )));
    }
    Ok(())
}

fn damaged(key: &str) -> PortError {
    PortError::corrupt(format!("blob {key}: the stored bytes do not have the SHA-256 they were stored with"))
}

fn too_large(limit: u64) -> PortError {
    PortError::permanent(format!("a blob is at most {limit} bytes"))
}

/// Where the bytes are. Both kinds keep what a blob is (see the module) and answer the same.
pub(super) enum Files {
    Memory(Arc<Mutex<BTreeMap<String, Bytes>>>),
    Disk(Disk),
}

pub(super) struct Disk {
    directory: PathBuf,
    durability: Durability,
    next: AtomicU64,
    kept: Mutex<Kept>,
    room: Room,
}

/// Files of deleted blobs that are still wanted.
#[derive(Default)]
struct Kept {
    /// Backups that are being made.
    backups: usize,
    files: Vec<String>,
}

/// While this lives, files of deleted blobs stay.
pub(super) struct KeptFiles<'a>(Option<&'a Disk>);

impl Drop for KeptFiles<'_> {
    fn drop(&mut self) {
        let Some(disk) = self.0 else { return };
        let files = {
            let mut kept = lock(&disk.kept);
            kept.backups -= 1;
            if kept.backups == 0 { std::mem::take(&mut kept.files) } else { Vec::new() }
        };
        files.iter().for_each(|file| disk.remove(file));
    }
}

/// A blob as its row says.
struct Stored {
    info: BlobInfo,
    file: String,
}

/// A file in its place, whose row is not there yet.
struct Placed {
    file: String,
    size: u64,
    sha256: Sha256,
}

fn find(db: &Connection, key: &str) -> Result<Option<Stored>, Failure> {
    let row: Option<(String, u64, String, String)> = db
        .prepare_cached("SELECT file, size, sha256, writer FROM blobs WHERE key = ?")?
        .query_row([key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((file, size, sha256, writer)) = row else {
        return Ok(None);
    };
    let sha256 = sha256.parse().map_err(|error| PortError::corrupt(format!("blob {key}: {error}")))?;
    Ok(Some(Stored { info: BlobInfo { key: key.to_owned(), size, sha256, writer }, file }))
}

fn insert(db: &Connection, info: &BlobInfo, file: &str) -> Result<PutOutcome, Failure> {
    if let Some(stored) = find(db, &info.key)? {
        return Ok(PutOutcome::Exists(stored.info));
    }
    db.prepare_cached("INSERT INTO blobs (key, file, size, sha256, writer) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![info.key, file, info.size, info.sha256.to_string(), info.writer])?;
    Ok(PutOutcome::Created(info.clone()))
}

/// The blobs of an engine: rows through its combiner, bytes in its files.
pub(super) struct Store {
    pub(super) combiner: Arc<Combiner>,
    pub(super) files: Files,
    pub(super) limit: u64,
}

impl Store {
    async fn find(&self, key: &str) -> PortResult<Option<Stored>> {
        check_key(key)?;
        let key = key.to_owned();
        self.combiner.submit(move |batch| find(batch.db, &key)).await
    }

    pub(super) async fn put(&self, key: &str, source: &mut (dyn Read + Send), writer: &str) -> PortResult<PutOutcome> {
        // Mostly a redelivered task: do not copy what will not be used.
        if let Some(stored) = self.find(key).await? {
            return Ok(PutOutcome::Exists(stored.info));
        }
        match &self.files {
            Files::Memory(files) => self.put_in_memory(files, key, source, writer).await,
            Files::Disk(disk) => {
                let stored = self.put_on_disk(disk, key, source, writer).await;
                disk.room.note(stored.as_ref().err(), self.combiner.now());
                stored
            }
        }
    }

    async fn put_on_disk(
        &self,
        disk: &Disk,
        key: &str,
        source: &mut (dyn Read + Send),
        writer: &str,
    ) -> PortResult<PutOutcome> {
        let placed = disk.place(key, source, self.limit)?;
        let info =
            BlobInfo { key: key.to_owned(), size: placed.size, sha256: placed.sha256, writer: writer.to_owned() };
        let file = placed.file.clone();
        let outcome = self.combiner.submit(move |batch| insert(batch.db, &info, &file)).await;
        let unused = match &outcome {
            Ok(PutOutcome::Created(_)) => false,
            Ok(PutOutcome::Exists(_)) => true,
            Err(error) => !error.may_have_happened(),
        };
        if unused {
            disk.remove(&placed.file);
        } else {
            disk.room.taken(placed.size);
        }
        outcome
    }

    async fn put_in_memory(
        &self,
        files: &Arc<Mutex<BTreeMap<String, Bytes>>>,
        key: &str,
        source: &mut (dyn Read + Send),
        writer: &str,
    ) -> PortResult<PutOutcome> {
        let mut bytes = Vec::new();
        let size = source
            .take(self.limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| PortError::transient(format!("reading what to store as {key}: {error}")))?;
        if size as u64 > self.limit {
            return Err(too_large(self.limit));
        }
        let info =
            BlobInfo { key: key.to_owned(), size: size as u64, sha256: Sha256::of(&bytes), writer: writer.to_owned() };
        let files = files.clone();
        self.combiner
            .submit(move |batch| {
                let outcome = insert(batch.db, &info, "")?;
                if let PutOutcome::Created(info) = &outcome {
                    lock(&files).insert(info.key.clone(), bytes.into());
                }
                Ok(outcome)
            })
            .await
    }

    pub(super) async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        Ok(self.find(key).await?.map(|stored| stored.info))
    }

    pub(super) async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        let Some((info, mut source)) = self.open(key).await? else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(info.size as usize);
        source.read_to_end(&mut bytes).map_err(|error| reading(key, &error))?;
        if Sha256::of(&bytes) != info.sha256 {
            return Err(damaged(key));
        }
        Ok(Some(bytes.into()))
    }

    pub(super) async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>> {
        let Some((info, mut source)) = self.open(key).await? else {
            return Ok(None);
        };
        let here = |error: io::Error| PortError::io(path.display(), &error);
        let mut target = File::create_new(path).map_err(here)?;
        let copied = copy_hashed(&mut source, &mut target, u64::MAX);
        let problem = match copied {
            Ok((_, sha256)) if sha256 == info.sha256 => return Ok(Some(info)),
            Ok(_) => damaged(key),
            Err(CopyError::Read(error)) => reading(key, &error),
            Err(CopyError::Write(error)) => here(error),
            Err(CopyError::TooLarge) => too_large(self.limit),
        };
        drop(target);
        let _ = fs::remove_file(path);
        Err(problem)
    }

    pub(super) async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        let Some((info, mut source)) = self.open(key).await? else {
            return Ok(None);
        };
        let length = length.min(info.size.saturating_sub(offset));
        let mut bytes = Vec::with_capacity(length as usize);
        source
            .seek(SeekFrom::Start(offset.min(info.size)))
            .and_then(|_| source.take(length).read_to_end(&mut bytes))
            .map_err(|error| reading(key, &error))?;
        Ok(Some(bytes.into()))
    }

    async fn open(&self, key: &str) -> PortResult<Option<(BlobInfo, Source)>> {
        // Twice: between the row and the file it may have been deleted and stored anew.
        for last_try in [false, true] {
            let Some(stored) = self.find(key).await? else {
                return Ok(None);
            };
            let source = match &self.files {
                Files::Memory(files) => {
                    lock(files).get(key).cloned().map(|bytes| Source::Memory(io::Cursor::new(bytes)))
                }
                Files::Disk(disk) => match File::open(disk.blobs().join(&stored.file)) {
                    Ok(file) => Some(Source::File(file)),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(reading(key, &error)),
                },
            };
            match source {
                Some(source) => return Ok(Some((stored.info, source))),
                None if last_try => {
                    return Err(PortError::corrupt(format!("blob {key}: its file {} is missing", stored.file)));
                }
                None => {}
            }
        }
        Ok(None)
    }

    pub(super) async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or("").to_owned());
        self.combiner
            .submit(move |batch| {
                let mut select = batch
                    .db
                    .prepare_cached("SELECT key FROM blobs WHERE key >= ?1 AND key > ?2 ORDER BY key LIMIT ?3")?;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let keys: Result<Vec<String>, _> =
                    select.query_map(params![prefix, after, limit], |row| row.get(0))?.collect();
                Ok(keys?.into_iter().take_while(|key| key.starts_with(&prefix)).collect())
            })
            .await
    }

    pub(super) async fn delete(&self, key: &str) -> PortResult<()> {
        check_key(key)?;
        let deleted = key.to_owned();
        let in_memory = match &self.files {
            Files::Memory(files) => Some(files.clone()),
            Files::Disk(_) => None,
        };
        let file = self
            .combiner
            .submit(move |batch| {
                let file: Option<(String, u64)> = batch
                    .db
                    .prepare_cached("DELETE FROM blobs WHERE key = ? RETURNING file, size")?
                    .query_row([&deleted], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                if let Some(files) = in_memory {
                    lock(&files).remove(&deleted);
                }
                Ok(file)
            })
            .await?;
        if let (Files::Disk(disk), Some((file, size))) = (&self.files, file) {
            disk.room.freed(size);
            disk.let_go(file);
        }
        Ok(())
    }

    /// See [`KeptFiles`].
    pub(super) fn keep_files(&self) -> KeptFiles<'_> {
        let Files::Disk(disk) = &self.files else { return KeptFiles(None) };
        lock(&disk.kept).backups += 1;
        KeptFiles(Some(disk))
    }
}

fn reading(key: &str, error: &io::Error) -> PortError {
    PortError::io(format!("reading blob {key}"), error)
}

enum Source {
    Memory(io::Cursor<Bytes>),
    File(File),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Memory(bytes) => bytes.read(buffer),
            Source::File(file) => file.read(buffer),
        }
    }
}

impl io::Seek for Source {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Source::Memory(bytes) => bytes.seek(position),
            Source::File(file) => file.seek(position),
        }
    }
}

pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
    TooLarge,
}

pub(super) fn copy_hashed(source: &mut dyn Read, target: &mut File, limit: u64) -> Result<(u64, Sha256), CopyError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => return Ok((size, Sha256(hasher.finalize().into()))),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        size += read as u64;
        if size > limit {
            return Err(CopyError::TooLarge);
        }
        hasher.update(&buffer[..read]);
        target.write_all(&buffer[..read]).map_err(CopyError::Write)?;
    }
}

impl Disk {
    /// Prepares the directories, and removes what a crash left: temporary files, and files whose row was never written.
    pub(super) fn open(directory: &Path, durability: Durability, quota: Quota, db: &Connection) -> PortResult<Self> {
        let used = db
            .query_row("SELECT coalesce(sum(size), 0) FROM blobs", [], |row| row.get(0))
            .map_err(|error| storage_error(&error, false))?;
        let room = Room::new(directory, quota, used);
        let (kept, next) = (Mutex::default(), AtomicU64::new(1));
        let disk = Self { directory: directory.to_owned(), durability, next, kept, room };
        let failed = |error: io::Error| PortError::io(directory.display(), &error);
        if disk.temporary().exists() {
            fs::remove_dir_all(disk.temporary()).map_err(failed)?;
        }
        fs::create_dir_all(disk.temporary()).map_err(failed)?;
        fs::create_dir_all(disk.blobs()).map_err(failed)?;
        let highest = disk.sweep(&disk.blobs(), String::new(), db)?;
        disk.next.store(highest + 1, Ordering::Relaxed);
        Ok(disk)
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs")
    }

    fn temporary(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    /// Removes files without a row below `folder`; returns the highest number in use.
    fn sweep(&self, folder: &Path, prefix: String, db: &Connection) -> PortResult<u64> {
        let failed = |error: io::Error| PortError::io(folder.display(), &error);
        let mut highest = 0;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let relative = format!("{prefix}{name}");
            if entry.file_type().map_err(failed)?.is_dir() {
                highest = highest.max(self.sweep(&entry.path(), format!("{relative}/"), db)?);
                continue;
            }
            // What is not one of ours is left alone.
            let Some((number, last)) = name.split_once('@') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else { continue };
            let known: Option<String> = db
                .prepare_cached("SELECT file FROM blobs WHERE key = ?")
                .and_then(|mut select| select.query_row([format!("{prefix}{last}")], |row| row.get(0)).optional())
                .map_err(|error| storage_error(&error, false))?;
            if known.as_ref() == Some(&relative) {
                highest = highest.max(number);
            } else {
                tracing::info!(file = relative, "removing a blob file that was never published");
                self.remove(&relative);
            }
        }
        Ok(highest)
    }

    fn place(&self, key: &str, source: &mut (dyn Read + Send), limit: u64) -> PortResult<Placed> {
        self.room.check(key, 0)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = self.temporary().join(number.to_string());
        let placed = self.write_and_link(number, &temporary, key, source, limit);
        let _ = fs::remove_file(&temporary);
        placed
    }

    fn write_and_link(
        &self,
        number: u64,
        temporary: &Path,
        key: &str,
        source: &mut (dyn Read + Send),
        limit: u64,
    ) -> PortResult<Placed> {
        let storing = |error: io::Error| PortError::io(format!("storing blob {key}"), &error);
        let mut target = File::create_new(temporary).map_err(storing)?;
        let (size, sha256) = copy_hashed(source, &mut target, limit).map_err(|error| match error {
            CopyError::Read(error) => PortError::transient(format!("reading what to store as {key}: {error}")),
            CopyError::Write(error) => storing(error),
            CopyError::TooLarge => too_large(limit),
        })?;
        // Before it is the blob's: others may have been stored meanwhile.
        self.room.check(key, size)?;
        let (folder, last) = key.rsplit_once('/').unwrap_or(("", key));
        let file = if folder.is_empty() { format!("{number}@{last}") } else { format!("{folder}/{number}@{last}") };
        let place = self.blobs().join(folder);
        fs::create_dir_all(&place).map_err(storing)?;
        if self.durability == Durability::Power {
            target.sync_all().map_err(storing)?;
        }
        fs::hard_link(temporary, self.blobs().join(&file)).map_err(storing)?;
        if self.durability == Durability::Power {
            self.sync_folders(&place).map_err(storing)?;
        }
        Ok(Placed { file, size, sha256 })
    }

    /// Syncs `folder` and those above it up to the data directory: any of them may be new.
    fn sync_folders(&self, folder: &Path) -> io::Result<()> {
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.directory)) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes the file of a deleted blob, now or when the last backup is done.
    fn let_go(&self, file: String) {
        {
            let mut kept = lock(&self.kept);
            if kept.backups > 0 {
                kept.files.push(file);
                return;
            }
        }
        self.remove(&file);
    }

    fn remove(&self, file: &str) {
        let path = self.blobs().join(file);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            // Without a row it is unreachable, and the next open tries again.
            tracing::warn!(code = %ErrorCode::StorageTrouble, file = %path.display(), %error, "removing a blob file failed");
        }
    }
}
