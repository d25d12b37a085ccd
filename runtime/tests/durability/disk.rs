//! A disk as it would be found after a crash: rebuilt from the calls that a process made (`recorder.c`), some of them lost.
//!
//! What POSIX promises, and no more: a file's bytes and length are on the disk once the file was synced, and its name once the directory that
//! it stands in was. Until then each 4 KiB of a write, each change of a length and each name may be there or not, whatever became of
//! those before it. A rename is there whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Written at once or not.
const PIECE: u64 = 4096;

#[derive(Debug, Clone)]
pub(crate) enum Call {
    Opened {
        fd: i32,
        path: PathBuf,
    },
    Created {
        fd: i32,
        path: PathBuf,
    },
    Written {
        fd: i32,
        offset: u64,
        data: Vec<u8>,
    },
    Cut {
        fd: i32,
        length: u64,
    },
    Synced {
        fd: i32,
    },
    MadeDirectory {
        path: PathBuf,
    },
    Removed {
        path: PathBuf,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    /// The process said that a step was acknowledged.
    Mark,
}

impl Call {
    /// Whether `recorder.c` counts it: what changes something, or makes it last.
    pub(crate) fn is_counted(&self) -> bool {
        !matches!(self, Call::Opened { .. } | Call::Mark)
    }

    /// Without its bytes.
    pub(crate) fn brief(&self) -> String {
        match self {
            Call::Written { fd, offset, data } => format!("{} bytes written at {offset} of {fd}", data.len()),
            other => format!("{other:?}"),
        }
    }
}

/// What a process did, from its log.
pub(crate) fn calls(log: &Path) -> Vec<Call> {
    let bytes = fs::read(log).unwrap();
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at(length);
            rest = left;
            taken
        };
        let kind = take(1)[0];
        let fd = i32::from_le_bytes(take(4).try_into().unwrap());
        let offset = u64::from_le_bytes(take(8).try_into().unwrap());
        let path = u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
        let data = u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
        let path = PathBuf::from(std::str::from_utf8(take(path)).unwrap());
        let data = take(data).to_vec();
        let text = |data: Vec<u8>| String::from_utf8(data).unwrap();
        found.push(match kind {
            1 => Call::Opened { fd, path },
            2 => Call::Created { fd, path },
            3 => Call::Written { fd, offset, data },
            4 => Call::Cut { fd, length: offset },
            5 => Call::Synced { fd },
            6 => Call::MadeDirectory { path },
            7 => Call::Removed { path },
            8 => Call::Renamed { from: path, to: text(data).into() },
            9 => Call::Mark,
            other => panic!("a record of kind {other}"),
        });
    }
    found
}

/// What is found on a disk: files by their paths below the root, and directories (`None`).
pub(crate) type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Database,
    /// SQLite's write-ahead log.
    Log,
    Blob,
    /// One that blobs are in.
    BlobFolder,
    /// The data directory, or one above.
    Folder,
}

/// What became of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// The process ended, the machine went on.
    Kept,
    /// The machine ended: nothing of it had got to the disk.
    Lost,
    /// The machine ended: some of it had, drawn from this.
    Drawn(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Clone)]
enum Entry {
    Set(String, usize),
    Clear(String),
    /// From the name in this directory to the name in that one.
    Move {
        from: String,
        to: String,
        inode: usize,
    },
}

/// What is on the disk, and what is still to come there.
#[derive(Debug, Clone)]
enum Inode {
    File { synced: Vec<u8>, now: Vec<u8>, unsynced: Vec<Change> },
    Directory { synced: BTreeMap<String, usize>, now: BTreeMap<String, usize>, unsynced: Vec<Entry> },
}

impl Inode {
    fn file() -> Self {
        Self::File { synced: Vec::new(), now: Vec::new(), unsynced: Vec::new() }
    }

    fn directory() -> Self {
        Self::Directory { synced: BTreeMap::new(), now: BTreeMap::new(), unsynced: Vec::new() }
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

/// A coin that falls the same way for the same seed.
struct Dice(u64);

impl Dice {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) & 1 == 1
    }
}

/// Everything below a root, which itself is there and stays.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    root: PathBuf,
    inodes: Vec<Inode>,
    open: BTreeMap<i32, (usize, Kind)>,
    lies_about: Option<Kind>,
}

impl Disk {
    /// `lies_about`: these are not synced when they are said to be.
    pub(crate) fn empty(root: &Path, lies_about: Option<Kind>) -> Self {
        Self { root: root.to_owned(), inodes: vec![Inode::directory()], open: BTreeMap::new(), lies_about }
    }

    fn kind(&self, inode: usize, path: &Path) -> Kind {
        let is_blobs = path.strip_prefix(&self.root).is_ok_and(|path| path.starts_with("data/blobs"));
        match (&self.inodes[inode], is_blobs) {
            (Inode::Directory { .. }, true) => Kind::BlobFolder,
            (Inode::Directory { .. }, false) => Kind::Folder,
            (Inode::File { .. }, true) => Kind::Blob,
            (Inode::File { .. }, false) if path.to_str().is_some_and(|path| path.ends_with("-wal")) => Kind::Log,
            (Inode::File { .. }, false) => Kind::Database,
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let below = path.strip_prefix(&self.root).ok()?;
        below.iter().try_fold(0, |at, name| match &self.inodes[at] {
            Inode::Directory { now, .. } => now.get(name.to_str()?).copied(),
            Inode::File { .. } => None,
        })
    }

    /// The directory that a path is in, and the name there.
    fn place(&self, path: &Path) -> (usize, String) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (self.find(path.parent().unwrap()).unwrap_or_else(|| panic!("no directory for {}", path.display())), name)
    }

    fn enter(&mut self, path: &Path, inode: Inode) -> usize {
        let number = self.inodes.len();
        self.inodes.push(inode);
        let (directory, name) = self.place(path);
        if let Inode::Directory { now, unsynced, .. } = &mut self.inodes[directory] {
            now.insert(name.clone(), number);
            unsynced.push(Entry::Set(name, number));
        }
        number
    }

    /// The call happens.
    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Opened { fd, path } => {
                let inode = self.find(path).unwrap_or_else(|| panic!("opened, and was not there: {}", path.display()));
                self.open.insert(*fd, (inode, self.kind(inode, path)));
            }
            Call::Created { fd, path } => {
                let inode = self.enter(path, Inode::file());
                self.open.insert(*fd, (inode, self.kind(inode, path)));
            }
            Call::Written { fd, offset, data } => {
                if let Inode::File { now, unsynced, .. } = &mut self.inodes[self.open[fd].0] {
                    write(now, *offset, data);
                    unsynced.push(Change::Write(*offset, data.clone()));
                }
            }
            Call::Cut { fd, length } => {
                if let Inode::File { now, unsynced, .. } = &mut self.inodes[self.open[fd].0] {
                    now.resize(*length as usize, 0);
                    unsynced.push(Change::Length(*length));
                }
            }
            Call::Synced { fd } if self.lies_about == Some(self.open[fd].1) => {}
            Call::Synced { fd } => match &mut self.inodes[self.open[fd].0] {
                Inode::File { synced, now, unsynced } => {
                    synced.clone_from(now);
                    unsynced.clear();
                }
                Inode::Directory { synced, now, unsynced } => {
                    synced.clone_from(now);
                    unsynced.clear();
                }
            },
            Call::MadeDirectory { path } => {
                self.enter(path, Inode::directory());
            }
            Call::Removed { path } => {
                let (directory, name) = self.place(path);
                if let Inode::Directory { now, unsynced, .. } = &mut self.inodes[directory] {
                    now.remove(&name);
                    unsynced.push(Entry::Clear(name));
                }
            }
            Call::Renamed { from, to } => {
                let inode = self.find(from).unwrap_or_else(|| panic!("renamed, and was not there: {}", from.display()));
                let ((directory, from), (other, to)) = (self.place(from), self.place(to));
                assert_eq!(directory, other, "renames between directories are not rebuilt");
                if let Inode::Directory { now, unsynced, .. } = &mut self.inodes[directory] {
                    now.remove(&from);
                    now.insert(to.clone(), inode);
                    unsynced.push(Entry::Move { from, to, inode });
                }
            }
            Call::Mark => {}
        }
    }

    /// The files, by their paths below the root, and the directories (`None`), as they would be found.
    pub(crate) fn found(&self, unsynced: Unsynced) -> Image {
        let mut dice = match unsynced {
            Unsynced::Drawn(seed) => Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            Unsynced::Kept | Unsynced::Lost => Dice(1),
        };
        let mut found = BTreeMap::new();
        self.gather(0, Path::new(""), unsynced, &mut dice, &mut found);
        found
    }

    fn gather(&self, directory: usize, path: &Path, how: Unsynced, dice: &mut Dice, found: &mut Image) {
        let Inode::Directory { synced, now, unsynced } = &self.inodes[directory] else { return };
        let entries = match how {
            Unsynced::Kept => now.clone(),
            Unsynced::Lost => synced.clone(),
            Unsynced::Drawn(_) => names(synced, unsynced, dice),
        };
        for (name, inode) in entries {
            let path = path.join(name);
            match &self.inodes[inode] {
                Inode::Directory { .. } => {
                    found.insert(path.clone(), None);
                    self.gather(inode, &path, how, dice, found);
                }
                Inode::File { synced, now, unsynced } => {
                    let bytes = match how {
                        Unsynced::Kept => now.clone(),
                        Unsynced::Lost => synced.clone(),
                        Unsynced::Drawn(_) => bytes(synced, unsynced, dice),
                    };
                    found.insert(path, Some(bytes));
                }
            }
        }
    }
}

fn names(synced: &BTreeMap<String, usize>, unsynced: &[Entry], dice: &mut Dice) -> BTreeMap<String, usize> {
    let mut names = synced.clone();
    for entry in unsynced {
        if !dice.coin() {
            continue;
        }
        match entry {
            Entry::Set(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Entry::Clear(name) => {
                names.remove(name);
            }
            Entry::Move { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
    names
}

fn bytes(synced: &[u8], unsynced: &[Change], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = synced.to_vec();
    for change in unsynced {
        match change {
            Change::Length(length) => {
                if dice.coin() {
                    bytes.resize(*length as usize, 0);
                }
            }
            Change::Write(offset, data) => {
                let mut from = 0;
                while from < data.len() {
                    let at = offset + from as u64;
                    let to = data.len().min(from + (PIECE - at % PIECE) as usize);
                    if dice.coin() {
                        write(&mut bytes, at, &data[from..to]);
                    }
                    from = to;
                }
            }
        }
    }
    bytes
}

/// Puts what was found into a directory, which is emptied before.
pub(crate) fn lay_out(found: &Image, directory: &Path) {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).unwrap();
    for (path, bytes) in found {
        match bytes {
            None => fs::create_dir_all(directory.join(path)).unwrap(),
            // SQLite's index of its log is mapped into memory, and made anew by whoever opens it first.
            Some(_) if is_index(path) => {}
            Some(bytes) => fs::write(directory.join(path), bytes).unwrap(),
        }
    }
}

pub(crate) fn is_index(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with("-shm"))
}
