//! The embedded engine: queues, table and blobs in one process, on disk or in memory, without a server.
//!
//! It owns one SQLite database (queues, table rows, what is known of each blob) behind one mutex, and a directory of blob files. Its
//! promises are those of the ports; its own are:
//!
//! - **What is acknowledged stays**, by [`Durability`]: across `kill -9`, or across power loss as well. What failed was rolled back.
//! - **It runs on any executor.** It spawns no task and reads no timer but the [`Clock`] it is given; in memory it starts no thread
//!   either, and the same calls in the same order have the same results.
//! - **It wakes who waits**; nothing polls.
//! - **One owner a directory**: a second one is told which process holds it.
//! - **It survives errors**: a full disk or a failing one is an answer to the calls concerned, and said once in the log. Blobs are refused
//!   before the database has no room left, see [`Quota`].
//! - **Leases survive a restart with a grace**: a lease that ran (or ended unnoticed) when the last owner stopped ends no sooner than its
//!   own length, at most [`EngineConfig::restart_grace`], after the open. A worker that outlived the owner keeps its task.
//!
//! - **It can be backed up while it runs**, see [`Engine::backup`].
//!
//! Open a data directory with `sqlite3 DIR/engine.db` and any file viewer to look at it while the engine runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use push0_core::{ErrorCode, Millis};

use self::blobs::{Disk, Files};
use self::commit::{Combiner, lock};
use self::owner::Ownership;
use self::schema::Checkpointer;
use self::waiting::{Line, Queues};
use crate::port::check;
use crate::port::{
    Accepted, BlobInfo, Blobs, Clock, Delivery, Key, Outgoing, PortError, PortResult, PutOutcome, Queue, QueueStats,
    Row, SetOutcome, SystemClock, Table, Value, Write,
};

mod backup;
mod blobs;
mod commit;
mod dead_letters;
mod expiry;
mod fairness;
mod owner;
mod queue;
mod room;
mod schema;
mod table;
mod waiting;

pub use self::backup::{Backup, back_up_stopped, restore, verify_backup};
pub(crate) use self::blobs::check_key as check_blob_key;
pub use self::room::Quota;
pub use self::schema::{Examined, examine};

/// Where an engine keeps what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Gone with the engine.
    Memory,
    /// `engine.db`, `blobs/` and `owner.lock` in this directory, made if need be.
    Directory(PathBuf),
}

/// What an acknowledged call survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The process's end, `kill -9` included: bytes are with the operating system. A power loss or a kernel crash may take back what the
    /// operating system had not written yet, the last first and never beyond the last checkpoint (SQLite: WAL, `synchronous=NORMAL`), and
    /// leave blobs that are `Corrupt`.
    #[default]
    Process,
    /// Power loss too: synced to the disk before the answer (`synchronous=FULL`; blobs and their directories fsynced).
    Power,
}

impl Durability {
    fn synchronous(self) -> &'static str {
        match self {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        }
    }
}

/// A queue to have. FIFO queues, and only they, have names that end in `.fifo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    pub name: String,
    pub fifo: bool,
    pub dead_letter: Option<DeadLetter>,
}

impl QueueSpec {
    /// Its nature read from the name.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { fifo: name.ends_with(".fifo"), name, dead_letter: None }
    }

    pub fn with_dead_letter(mut self, queue: impl Into<String>, max_receives: u32) -> Self {
        self.dead_letter = Some(DeadLetter { queue: queue.into(), max_receives });
        self
    }
}

/// Where messages go that were handed out `max_receives` times (at least 1) without being acknowledged: moved, body and group unchanged,
/// by the receive that would have been one more. The queue must be of the same nature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub queue: String,
    pub max_receives: u32,
}

pub struct EngineConfig {
    pub location: Location,
    pub durability: Durability,
    pub queues: Vec<QueueSpec>,
    pub clock: Arc<dyn Clock>,
    /// Largest blob, bytes.
    pub blob_limit: u64,
    /// See the module.
    pub restart_grace: Millis,
    /// Room on the disk, for blobs.
    pub quota: Quota,
    /// Largest database, in pages of 4 KiB; `None`: as large as the disk. For tests of a full disk.
    pub max_pages: Option<u32>,
}

impl EngineConfig {
    /// Survives `kill -9`; the machine's clock; blobs to 1 GiB; a minute's grace after a restart.
    pub fn new(location: Location, queues: Vec<QueueSpec>) -> Self {
        Self {
            location,
            durability: Durability::default(),
            queues,
            clock: Arc::new(SystemClock),
            blob_limit: crate::port::BLOB_LIMIT,
            restart_grace: Millis::from_secs(60),
            quota: Quota::default(),
            max_pages: None,
        }
    }
}

/// See the module. Clones are handles to the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    combiner: Arc<Combiner>,
    blobs: blobs::Store,
    specs: Mutex<Vec<QueueSpec>>,
    directory: Option<PathBuf>,
    /// Last: the next owner comes in when everything is closed.
    _owner: Option<Ownership>,
}

impl Engine {
    /// Opens, and creates what is not there. A directory that another process owns is `Permanent`, as is one of a newer schema.
    pub fn open(config: EngineConfig) -> PortResult<Self> {
        let EngineConfig { location, durability, queues, clock, blob_limit, restart_grace, quota, max_pages } = config;
        let directory = match location {
            Location::Memory => None,
            Location::Directory(directory) => Some(directory),
        };
        let owner = directory.as_deref().map(own).transpose()?;
        let file = directory.as_deref().map(|directory| directory.join("engine.db"));
        let db = schema::open(file.as_deref(), durability)?;
        let failed = |error: rusqlite::Error| commit::storage_error(&error, false);
        if let Some(pages) = max_pages {
            db.pragma_update(None, "max_page_count", pages).map_err(failed)?;
        }
        let kept = queue::grant_grace(&db, clock.now(), restart_grace).map_err(failed)?;
        if kept > 0 {
            tracing::info!(leases = kept, "leases of the last run kept");
        }
        let files = match &directory {
            None => Files::Memory(Arc::default()),
            Some(directory) => Files::Disk(Disk::open(directory, durability, quota, &db)?),
        };
        let committed: Box<dyn Fn() + Send + Sync> = match file {
            None => Box::new(|| {}),
            Some(file) => {
                let checkpointer = Checkpointer::start(file, durability)?;
                Box::new(move || checkpointer.committed())
            }
        };
        let combiner = Arc::new(Combiner::new(db, Queues::default(), clock, committed));
        let blobs = blobs::Store { combiner: combiner.clone(), files, limit: blob_limit };
        let engine = Self(Arc::new(Inner { combiner, blobs, specs: Mutex::default(), directory, _owner: owner }));
        engine.ensure_queues(queues)?;
        Ok(engine)
    }

    /// In memory, on the machine's clock.
    pub fn in_memory(queues: Vec<QueueSpec>) -> PortResult<Self> {
        Self::open(EngineConfig::new(Location::Memory, queues))
    }

    /// Has the queue from now on, or changes its dead-letter rule. The dead-letter queue must be there already. `Permanent` if the spec
    /// contradicts itself.
    pub fn ensure_queue(&self, spec: QueueSpec) -> PortResult<()> {
        self.ensure_queues(vec![spec])
    }

    /// Several at once, in any order among themselves.
    pub fn ensure_queues(&self, specs: Vec<QueueSpec>) -> PortResult<()> {
        let mut known = lock(&self.0.specs);
        let mut all = known.clone();
        for spec in &specs {
            all.retain(|other| other.name != spec.name);
            all.push(spec.clone());
        }
        specs.iter().try_for_each(|spec| check_spec(spec, &all))?;
        self.0.combiner.blocking(|batch| {
            for spec in &specs {
                let line = Line {
                    id: queue::register(batch.db, &spec.name)?,
                    fifo: spec.fifo,
                    dead_letter: spec.dead_letter.clone().map(|letters| (letters.queue, letters.max_receives)),
                };
                batch.queues.add(spec.name.clone(), line);
            }
            Ok(())
        })?;
        *known = all;
        Ok(())
    }

    /// The queues it has, in the order they were made known.
    pub fn queues(&self) -> Vec<QueueSpec> {
        lock(&self.0.specs).clone()
    }

    /// Makes every message of the queue that is in flight visible again, and says how many: for a queue whose only receivers died with
    /// the last owner.
    pub fn reclaim(&self, queue: &str) -> PortResult<usize> {
        self.0.combiner.blocking(|batch| queue::reclaim(batch, queue))
    }

    /// Deletes up to `most` messages of the queue that were sent before `before` and that nobody has in hand.
    pub async fn expire(&self, queue: &str, before: Millis, most: u32) -> PortResult<usize> {
        let queue = queue.to_owned();
        self.0.combiner.submit(move |batch| expiry::expire(batch, &queue, before, most)).await
    }

    /// The data directory; `None` in memory.
    pub fn directory(&self) -> Option<&Path> {
        self.0.directory.as_deref()
    }

    pub fn clock_now(&self) -> Millis {
        self.0.combiner.now()
    }
}

fn own(directory: &Path) -> PortResult<Ownership> {
    std::fs::create_dir_all(directory).map_err(|error| {
        let what = format!("making the data directory {}: {error}", directory.display());
        PortError::permanent(ErrorCode::DataUnusable.says(what))
    })?;
    owner::sync_entry(directory);
    let owner = Ownership::take(directory)?;
    backup::refuse_unfinished(directory)?;
    Ok(owner)
}

fn check_spec(spec: &QueueSpec, all: &[QueueSpec]) -> PortResult<()> {
    let name = &spec.name;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 80 || !name.bytes().all(is_allowed) {
        return Err(PortError::permanent(format!("{name:?} is not a queue name: 1 to 80 of A-Z a-z 0-9 . _ -")));
    }
    if spec.fifo != name.ends_with(".fifo") {
        return Err(PortError::permanent(format!("queue {name}: FIFO queues, and only they, are named *.fifo")));
    }
    let Some(letters) = &spec.dead_letter else {
        return Ok(());
    };
    let Some(target) = all.iter().find(|other| other.name == letters.queue) else {
        return Err(PortError::permanent(format!(
            "queue {name}: its dead-letter queue {} is not there",
            letters.queue
        )));
    };
    if target.fifo != spec.fifo || target.name == *name || letters.max_receives == 0 {
        return Err(PortError::permanent(format!(
            "queue {name}: a dead-letter queue is another queue of the same nature, after at least 1 receive"
        )));
    }
    Ok(())
}

#[async_trait]
impl Queue for Engine {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        let queue = queue.to_owned();
        self.0.combiner.submit(move |batch| queue::send(batch, &queue, &messages)).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        if !(1..=queue::MAX_RECEIVE).contains(&max) {
            return Err(PortError::permanent(format!(
                "a receive takes 1 to {} messages, not {max}",
                queue::MAX_RECEIVE
            )));
        }
        queue::check_lease(lease)?;
        waiting::receive(&self.0.combiner, queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        queue::check_lease(lease)?;
        let (queue, receipt) = (queue.to_owned(), receipt.to_owned());
        self.0.combiner.submit(move |batch| queue::extend(batch, &queue, &receipt, lease)).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        let (queue, receipt) = (queue.to_owned(), receipt.to_owned());
        self.0.combiner.submit(move |batch| queue::release(batch, &queue, &receipt, delay)).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        let (queue, receipt) = (queue.to_owned(), receipt.to_owned());
        self.0.combiner.submit(move |batch| queue::ack(batch, &queue, &receipt)).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        let queue = queue.to_owned();
        self.0.combiner.submit_read(move |batch| queue::stats(batch, &queue)).await
    }

    fn ranks(&self) -> bool {
        true
    }
}

#[async_trait]
impl Table for Engine {
    async fn get(&self, key: &Key) -> PortResult<Option<Row>> {
        check::check_key(key)?;
        let key = key.clone();
        self.0.combiner.submit_read(move |batch| table::get(batch.db, &key)).await
    }

    async fn get_attributes(&self, key: &Key, names: &[&str]) -> PortResult<Option<Row>> {
        check::check_key(key)?;
        let (key, names) = (key.clone(), names.iter().map(|&name| name.to_owned()).collect());
        self.0.combiner.submit_read(move |batch| table::get_attributes(batch.db, &key, names)).await
    }

    async fn put_if_version(&self, key: &Key, doc: Value, expected: Option<u64>) -> PortResult<u64> {
        check::check_key(key)?;
        let key = key.clone();
        self.0.combiner.submit(move |batch| table::put_if_version(batch.db, key, doc, expected)).await
    }

    async fn accept_first(
        &self,
        key: &Key,
        slot: &str,
        floor: &str,
        attempt: u32,
        value: Value,
    ) -> PortResult<Accepted> {
        check::check_key(key)?;
        let (key, slot, floor) = (key.clone(), slot.to_owned(), floor.to_owned());
        self.0.combiner.submit(move |batch| table::accept_first(batch.db, &key, slot, &floor, attempt, value)).await
    }

    async fn set_if(
        &self,
        key: &Key,
        attribute: &str,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> PortResult<SetOutcome> {
        check::check_key(key)?;
        let (key, attribute) = (key.clone(), attribute.to_owned());
        self.0.combiner.submit(move |batch| table::set_if(batch.db, &key, attribute, expected, new)).await
    }

    async fn query(&self, partition: &str, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Row>> {
        let (partition, prefix, after) = (partition.to_owned(), prefix.to_owned(), after.map(str::to_owned));
        self.0
            .combiner
            .submit_read(move |batch| table::query(batch.db, &partition, &prefix, after.as_deref(), limit))
            .await
    }

    async fn transact(&self, writes: Vec<Write>) -> PortResult<()> {
        check::check_writes(&writes)?;
        self.0.combiner.submit(move |batch| table::transact(batch, writes)).await
    }

    async fn delete(&self, key: &Key) -> PortResult<()> {
        check::check_key(key)?;
        let key = key.clone();
        self.0.combiner.submit(move |batch| table::delete(batch.db, &key)).await
    }
}

#[async_trait]
impl Blobs for Engine {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        self.0.blobs.put(key, &mut bytes.as_ref(), bytes.len() as u64, writer).await
    }

    async fn put_file(&self, key: &str, path: &Path, writer: &str) -> PortResult<PutOutcome> {
        let mut file =
            std::fs::File::open(path).map_err(|error| PortError::permanent(format!("{}: {error}", path.display())))?;
        let size = file.metadata().map_or(u64::MAX, |metadata| metadata.len());
        self.0.blobs.put(key, &mut file, size, writer).await
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        self.0.blobs.get(key).await
    }

    async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>> {
        self.0.blobs.get_file(key, path).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        self.0.blobs.get_range(key, offset, length).await
    }

    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        self.0.blobs.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        self.0.blobs.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> PortResult<()> {
        self.0.blobs.delete(key).await
    }
}
