//! Blobs: plain files that any tool can open, published by a row.
//!
//! The blob `proofs/demo/7` lies in `blobs/proofs/demo/N@7`, where N is a number that no other file there ever had, so that `a/b` and
//! `a/b/c` can both be stored. Parts beyond the sixth stand in the file's name, joined by commas: a run's artifacts share a directory
//! (`blobs/artifacts/cpu/demo/7/e1/TAG/N@1.0.3,a1c0`) instead of having one each, which would cost more than storing them. The digest,
//! size, writer and file name of a blob are a row of the database, and that row is the blob:
//!
//! 1. The bytes are written to the new file while their SHA-256 is computed (`Power`: it and its directories are synced).
//! 2. The row is inserted unless the key has one; the loser removes its own file.
//!
//! So a blob is there whole or not at all, and nothing is ever replaced. A crash before 2 leaves a file without a row, perhaps cut short:
//! unreachable, and removed at the next open. A delete removes the row, then the file (after the backups that are being made, if any).
//!
//! Files are read and written in the caller's thread, in chunks; no lock is held meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use push0_core::record::MAX_BLOB_KEY;
use push0_core::{ErrorCode, Sha256};
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::Digest as _;

use super::Durability;
use super::commit::{Combiner, Failure, lock, storage_error};
use super::room::{Quota, Room};
use crate::port::{BlobInfo, PortError, PortResult, PutOutcome};

/// Below the size from which allocators ask the kernel for each buffer.
const CHUNK: usize = 64 * 1024;

/// Parts of a key that are directories, at most.
const FOLDERS: usize = 6;

/// Longest file name that parts of a key are put into.
const LONGEST_NAME: usize = 200;

/// Folders remembered as synced.
const REMEMBERED: usize = 10_000;

/// See [`crate::port::Blobs`] for the rules.
pub(crate) fn check_key(key: &str) -> PortResult<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._=-".contains(&byte);
    let is_part =
        |part: &str| (1..=128).contains(&part.len()) && part != "." && part != ".." && part.bytes().all(is_allowed);
    if key.len() > MAX_BLOB_KEY || !key.split('/').all(is_part) {
        let shown: String = key.chars().take(100).collect();
        return Err(PortError::permanent(format!(
            "{shown:?} is not a blob key: parts of 1 to 128 of A-Z a-z 0-9 . _ = -, joined by /, at most {MAX_BLOB_KEY} bytes"
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
    /// Folders whose own entry in the folder above is on the disk.
    synced: Mutex<BTreeSet<PathBuf>>,
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
        self.combiner.submit_read(move |batch| find(batch.db, &key)).await
    }

    /// `size`: about how many bytes the source has.
    pub(super) async fn put(
        &self,
        key: &str,
        source: &mut (dyn Read + Send),
        size: u64,
        writer: &str,
    ) -> PortResult<PutOutcome> {
        check_key(key)?;
        // Mostly a redelivered task: do not copy much that will not be used.
        if size > CHUNK as u64
            && let Some(stored) = self.find(key).await?
        {
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
        // Of what its row says of its size nothing is believed: it is damaged where the rest is.
        let mut bytes = Vec::with_capacity(info.size.min(CHUNK as u64) as usize);
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
        let mut bytes = Vec::with_capacity(length.min(CHUNK as u64) as usize);
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
            .submit_read(move |batch| {
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

/// The key whose blob may be in the file: `a/b/7@c` and `a/7@b,c` are files of `a/b/c`. `None`: not a file of ours.
pub(super) fn key_of(file: &str) -> Option<String> {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let (number, last) = name.split_once('@')?;
    number.parse::<u64>().ok()?;
    let last = last.replace(',', "/");
    Some(if folder.is_empty() { last } else { format!("{folder}/{last}") })
}

/// Where the file of a key goes, and its name without the number.
fn folder_and_name(key: &str) -> (&str, String) {
    let by_slash = |(folder, name): (&'_ str, &str)| (folder.len(), name.to_owned());
    let sixth = key.match_indices('/').nth(FOLDERS - 1).map(|(at, _)| key.split_at(at));
    let flat = sixth.map(|(folder, rest)| (folder.len(), rest[1..].replace('/', ",")));
    let nested = || key.rsplit_once('/').map_or((0, key.to_owned()), by_slash);
    let (length, name) = flat.filter(|(_, name)| name.len() <= LONGEST_NAME).unwrap_or_else(nested);
    (&key[..length], name)
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
    /// Prepares the directory, and removes what a crash left: files whose row was never written.
    pub(super) fn open(directory: &Path, durability: Durability, quota: Quota, db: &Connection) -> PortResult<Self> {
        let used = db
            .query_row("SELECT coalesce(sum(size), 0) FROM blobs", [], |row| row.get(0))
            .map_err(|error| storage_error(&error, false))?;
        let disk = Self {
            directory: directory.to_owned(),
            durability,
            next: AtomicU64::new(1),
            synced: Mutex::default(),
            kept: Mutex::default(),
            room: Room::new(directory, quota, used),
        };
        let failed = |error: io::Error| PortError::io(directory.display(), &error);
        // Where earlier versions wrote first.
        let temporary = directory.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(temporary).map_err(failed)?;
        }
        fs::create_dir_all(disk.blobs()).map_err(failed)?;
        let highest = disk.sweep(&disk.blobs(), String::new(), db)?;
        disk.next.store(highest + 1, Ordering::Relaxed);
        Ok(disk)
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs")
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
            let Some((number, key)) =
                name.split_once('@').zip(key_of(&relative)).map(|((number, _), key)| (number, key))
            else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else { continue };
            let known: Option<String> = db
                .prepare_cached("SELECT file FROM blobs WHERE key = ?")
                .and_then(|mut select| select.query_row([key], |row| row.get(0)).optional())
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
        let (folder, name) = folder_and_name(key);
        let file = if folder.is_empty() { format!("{number}@{name}") } else { format!("{folder}/{number}@{name}") };
        let written = self.write(&file, key, source, limit);
        if written.is_err() {
            self.remove(&file);
        }
        written.map(|(size, sha256)| Placed { file, size, sha256 })
    }

    fn write(&self, file: &str, key: &str, source: &mut (dyn Read + Send), limit: u64) -> PortResult<(u64, Sha256)> {
        let storing = |error: io::Error| PortError::io(format!("storing blob {key}"), &error);
        let path = self.blobs().join(file);
        let mut target = self.create(&path).map_err(storing)?;
        let written = copy_hashed(source, &mut target, limit).map_err(|error| match error {
            CopyError::Read(error) => PortError::transient(format!("reading what to store as {key}: {error}")),
            CopyError::Write(error) => storing(error),
            CopyError::TooLarge => too_large(limit),
        })?;
        // Before it is the blob's: others may have been stored meanwhile.
        self.room.check(key, written.0)?;
        if self.durability == Durability::Power {
            target.sync_all().map_err(storing)?;
            self.sync_folders(&path).map_err(storing)?;
        }
        Ok(written)
    }

    /// A new file; its folders are mostly there.
    fn create(&self, path: &Path) -> io::Result<File> {
        match File::create_new(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            created => return created,
        }
        let folder = path.parent().unwrap_or(&self.directory);
        // Some of them are made now, whatever is remembered of folders that had their names.
        lock(&self.synced).retain(|synced| !folder.starts_with(synced));
        let mut tries = 0;
        loop {
            fs::create_dir_all(folder)?;
            match File::create_new(path) {
                // A deletion has just taken the empty folder away.
                Err(error) if error.kind() == ErrorKind::NotFound && tries < 10 => tries += 1,
                created => return created,
            }
        }
    }

    /// Syncs the file's entry in its folder, and the entries of that and of those above it, up to the data directory, as far as that has
    /// not been done since they were made.
    fn sync_folders(&self, file: &Path) -> io::Result<()> {
        let mut entry = file;
        while let Some(folder) = entry.parent().filter(|folder| folder.starts_with(&self.directory)) {
            File::open(folder)?.sync_all()?;
            let mut synced = lock(&self.synced);
            if entry != file {
                if synced.len() >= REMEMBERED {
                    synced.clear();
                }
                synced.insert(entry.to_owned());
            }
            if synced.contains(folder) {
                return Ok(());
            }
            entry = folder;
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
        // Folders that are empty now: removing one that is not fails.
        let blobs = self.blobs();
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != blobs && folder.starts_with(&blobs)) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_keys_share_a_folder_unless_the_name_gets_too_long() {
        assert_eq!(folder_and_name("a"), ("", "a".to_owned()));
        assert_eq!(folder_and_name("proofs/demo/7"), ("proofs/demo", "7".to_owned()));
        for file in ["a/b/7@c", "a/7@b,c"] {
            assert_eq!(key_of(file).as_deref(), Some("a/b/c"));
        }
        assert_eq!((key_of("a/c"), key_of("a/x@c")), (None, None));
        let artifact = folder_and_name("artifacts/cpu/demo/7/e1/tag/1.0.3/a1c0");
        assert_eq!(artifact, ("artifacts/cpu/demo/7/e1/tag", "1.0.3,a1c0".to_owned()));
        let long = ["x"; 6].join("/") + "/" + &"y".repeat(120) + "/" + &"z".repeat(120);
        assert_eq!(folder_and_name(&long).1, "z".repeat(120));
    }
}
