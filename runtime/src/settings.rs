//! What is configured: `push0.toml`, the environment (`PUSH0_…`) and flags become [`Settings`].
//!
//! A later layer wins: defaults < file < environment < flags. Unknown keys are mistakes, and all mistakes are listed at once, each with
//! its place. `examples/push0.toml` has every key with its meaning.

mod chains;
mod layers;
mod pipelines;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::drive::Catalog;
use crate::engine::{Durability, Quota};
use crate::http::Token;
use push0_core::pipeline::{self, Mistakes, ProverCommand};
use push0_core::retention::Retention;
use push0_core::{Millis, Pool, ProverName};

pub use chains::pipeline_file;
use layers::Reader;

/// The file that is read where no other is named.
pub const FILE: &str = "push0.toml";

/// The data directory where nothing else is said.
pub const DATA: &str = "data";

#[derive(Debug, Clone)]
pub struct Settings {
    /// The file they come from.
    pub file: Option<PathBuf>,
    /// Everything `up` keeps.
    pub data: PathBuf,
    pub durability: Durability,
    /// `HOST:PORT` to listen on beside the socket in the data directory.
    pub listen: Option<String>,
    /// Who may connect there.
    pub tokens: Vec<Token>,
    /// Files that hold one of them.
    pub token_files: Vec<PathBuf>,
    pub workers: Workers,
    pub functions: Functions,
    /// Room for `up` on its disk.
    pub storage: Quota,
    /// What finalized blocks keep.
    pub retention: Retention,
    /// How long messages on `finalized.fifo` wait for a consumer.
    pub finalized: Millis,
    /// Which installation in an AWS account is meant, where one is.
    pub aws: AwsSettings,
    /// How a worker learns of the EC2 instance it runs on.
    pub ec2: Ec2,
    /// How a worker uses the GPUs of its machine.
    pub gpu: Gpu,
    pub catalog: Catalog,
    /// Every prover of the configured pipelines.
    pub provers: BTreeMap<ProverName, ProverCommand>,
}

/// The worker processes that `up` starts, and how any worker of this configuration works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// Processes in each of the pools.
    pub count: usize,
    /// Pools that `up` starts workers for; the trusted pool's one worker is always started.
    pub pools: Vec<Pool>,
    /// Tasks a process proves at a time.
    pub slots: usize,
    /// `RAYON_NUM_THREADS` of the provers; none: cores divided by local workers.
    pub threads: Option<usize>,
    /// How long a task stays a worker's without a sign of life.
    pub lease: Millis,
    /// How long tasks in hand may go on when a worker is told to stop.
    pub drain: Millis,
    /// Of so many tasks that a worker takes one at least is of each less urgent class that waits; 0: of none.
    pub turn_every: u32,
    /// How long a slot that has done an urgent task waits for another before it begins a less urgent one.
    pub linger: Millis,
    /// Nobody but the workers of this `up` takes tasks here: what was in hand when the last `up` died is handed out again at once.
    pub only_local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Functions {
    /// Pollers of each standard queue; a FIFO queue has one.
    pub concurrency: usize,
    /// Between two turns of the reaper.
    pub reaper: Millis,
    /// How long a message stays a function's where functions run in a process; none: the topology's visibility. Lambda takes the
    /// queue's own.
    pub lease: Option<Millis>,
}

/// Where push0 is in an AWS account. Credentials and region come from the environment, as with every AWS tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    /// Every name there begins with it: several installations share an account.
    pub prefix: String,
    /// Another endpoint than AWS's own, for all services: an emulator.
    pub endpoint: Option<String>,
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self { prefix: "push0".to_owned(), endpoint: None }
    }
}

impl AwsSettings {
    /// What a queue, table, bucket or function of the topology is called in the account: `push0-submissions.fifo`.
    pub fn name(&self, resource: &str) -> String {
        format!("{}-{resource}", self.prefix)
    }
}

/// A worker on an EC2 instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2 {
    pub mode: Ec2Mode,
    /// Its Auto Scaling group; else the instance's own tag says.
    pub group: Option<String>,
    pub launch_hook: String,
    pub termination_hook: String,
    /// How long tasks in hand may go on when the group takes the instance out of service.
    pub drain: Millis,
    /// Whether a rebalance recommendation ends the taking of work.
    pub leaves_on_rebalance: bool,
}

/// Whether a worker heeds the instance it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ec2Mode {
    /// Where this machine says of itself that it is one of EC2's.
    Auto,
    On,
    Off,
}

/// A worker on a machine with GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub mode: GpuMode,
    /// NVML, by path or name.
    pub library: String,
    /// Between two looks at the devices.
    pub look_every: Millis,
    /// Between two lines of figures in the log.
    pub log_every: Millis,
    /// Program and arguments that must exit with 0 before a slot is brought back; empty: none.
    pub self_test: Vec<String>,
    /// Between two tries to bring a slot back.
    pub again_every: Millis,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            mode: GpuMode::Off,
            library: "libnvidia-ml.so.1".to_owned(),
            look_every: Millis(1_000),
            log_every: Millis::from_secs(60),
            self_test: Vec::new(),
            again_every: Millis::from_secs(30),
        }
    }
}

/// Whether a worker has a slot for each GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuMode {
    /// Where there are some; else as if there were no such setting.
    Auto,
    /// Without any the worker does not start.
    On,
    Off,
}

/// What [`Settings::read`] reads.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A file that must exist. None: `push0.toml` in the working directory, where there is one.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Flags, by the key they set: `("workers.count", "2")`.
    pub flags: Vec<(&'static str, String)>,
    /// For a worker, which needs no chains: the push0 it connects to has them.
    pub is_worker: bool,
}

impl Sources {
    /// The given file and flags, and this process's environment.
    pub fn new(file: Option<PathBuf>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, value)| name.starts_with("PUSH0_") && !value.is_empty());
        let mut env: BTreeMap<String, String> = env.collect();
        let file = file.or_else(|| env.remove("PUSH0_CONFIG").map(PathBuf::from));
        Self { file, env, flags: Vec::new(), is_worker: false }
    }

    pub fn for_worker(mut self) -> Self {
        self.is_worker = true;
        self
    }

    pub fn flag(mut self, key: &'static str, value: Option<impl ToString>) -> Self {
        self.flags.extend(value.map(|value| (key, value.to_string())));
        self
    }
}

impl Settings {
    /// Reads all layers and the pipelines named there.
    pub fn read(sources: &Sources) -> Result<Self, Mistakes> {
        let (file, text) = load(sources)?;
        let mut reader = Reader::new(text.as_deref().unwrap_or_default(), sources)?;
        let directory = file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned();

        let data = reader.path("data", &directory).unwrap_or_else(|| directory.join(DATA));
        let durability = match reader.one_of("durability", &["process", "power"]) {
            Some("power") => Durability::Power,
            _ => Durability::Process,
        };
        let listen = reader.text("listen");
        let (tokens, mut token_files) = reader.tokens(&directory);
        if token_files.len() < tokens.len() {
            token_files.extend(file.clone());
        }
        if listen.is_some() && tokens.is_empty() && reader.is_clean() {
            reader.mistake("listen", "over TCP everybody needs a token, and there is none: add a [[token]] table");
        }
        let (catalog, provers) = chains::read(&mut reader, &directory, !sources.is_worker);
        let pools: Vec<Pool> = catalog.pools().into_iter().filter(|pool| !pool.is_trusted()).collect();
        let workers = Workers {
            count: reader.integer("workers.count", 0..=1024).map_or_else(default_workers, |count| count as usize),
            pools: reader.pools("workers.pools").unwrap_or(pools),
            slots: reader.integer("workers.slots", 1..=256).unwrap_or(1) as usize,
            threads: reader.integer("workers.threads", 1..=4096).map(|threads| threads as usize),
            lease: Millis(reader.integer("workers.lease_ms", 200..=3_600_000).unwrap_or(15_000)),
            drain: Millis(reader.integer("workers.drain_ms", 0..=3_600_000).unwrap_or(20_000)),
            // With three classes, fewer than 4 would leave the most urgent the smaller part.
            turn_every: reader.zero_or("workers.turn_every", 4..=1000).unwrap_or(16) as u32,
            linger: Millis(reader.integer("workers.linger_ms", 0..=60_000).unwrap_or(50)),
            only_local: reader.boolean("workers.only_local").unwrap_or(false),
        };
        let functions = Functions {
            concurrency: reader.integer("functions.concurrency", 1..=64).unwrap_or(2) as usize,
            reaper: Millis(reader.integer("functions.reaper_ms", 50..=3_600_000).unwrap_or(10_000)),
            lease: reader.integer("functions.lease_ms", 1_000..=3_600_000).map(Millis),
        };
        let mib = |number: u64| number << 20;
        let storage = Quota {
            reserve: mib(reader.integer("storage.reserve_mib", 0..=1 << 30).unwrap_or(256)),
            limit: reader.integer("storage.limit_mib", 1..=1 << 40).map(mib),
        };
        let kept = Retention::default();
        let seconds = 0..=100 * 365 * 24 * 60 * 60;
        let retention = Retention {
            grace: reader.integer("retention.grace_s", seconds.clone()).map_or(kept.grace, Millis::from_secs),
            keep_blocks: reader.integer("retention.keep_blocks", 0..=1 << 40).unwrap_or(kept.keep_blocks),
            witnesses: reader.boolean("retention.witnesses").unwrap_or(kept.witnesses),
        };
        let finalized =
            Millis::from_secs(reader.integer("retention.finalized_s", seconds).unwrap_or(14 * 24 * 60 * 60));
        let aws = AwsSettings {
            prefix: reader.prefix("aws.prefix").unwrap_or_else(|| AwsSettings::default().prefix),
            endpoint: reader.text("aws.endpoint"),
        };
        let hook = |named: Option<String>, usual| named.unwrap_or_else(|| aws.name(usual));
        let ec2 = Ec2 {
            mode: match reader.one_of("ec2.mode", &["auto", "on", "off"]) {
                Some("on") => Ec2Mode::On,
                Some("off") => Ec2Mode::Off,
                _ => Ec2Mode::Auto,
            },
            group: reader.text("ec2.group"),
            launch_hook: hook(reader.text("ec2.launch_hook"), "launch"),
            termination_hook: hook(reader.text("ec2.termination_hook"), "termination"),
            drain: Millis::from_secs(reader.integer("ec2.drain_s", 0..=172_800).unwrap_or(3_600)),
            leaves_on_rebalance: reader.one_of("ec2.rebalance", &["drain", "ignore"]) != Some("ignore"),
        };
        let usual = Gpu::default();
        let gpu = Gpu {
            mode: match reader.one_of("gpu.mode", &["auto", "on", "off"]) {
                Some("auto") => GpuMode::Auto,
                Some("on") => GpuMode::On,
                _ => GpuMode::Off,
            },
            library: reader.text("gpu.library").unwrap_or(usual.library),
            look_every: reader.integer("gpu.look_ms", 50..=60_000).map_or(usual.look_every, Millis),
            log_every: reader.integer("gpu.log_s", 1..=86_400).map_or(usual.log_every, Millis::from_secs),
            self_test: reader
                .text("gpu.self_test")
                .map_or(usual.self_test, |line| line.split_whitespace().map(str::to_owned).collect()),
            again_every: reader.integer("gpu.again_s", 1..=86_400).map_or(usual.again_every, Millis::from_secs),
        };
        reader.finish()?;
        Ok(Self {
            file,
            data,
            durability,
            listen,
            tokens,
            token_files,
            workers,
            functions,
            storage,
            retention,
            finalized,
            aws,
            ec2,
            gpu,
            catalog,
            provers,
        })
    }

    /// The socket that `up` listens on.
    pub fn socket(&self) -> PathBuf {
        socket(&self.data)
    }
}

/// The socket of an `up` with this data directory.
pub fn socket(data: &Path) -> PathBuf {
    data.join("push0.sock")
}

/// Where the data directory is, for commands that only connect: flag, environment, the file's `data`, `./data`. A file that has mistakes
/// is `up`'s to complain about.
pub fn data_directory(flag: Option<&Path>) -> PathBuf {
    let from_env = || std::env::var_os("PUSH0_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
    let from_file = || {
        let file = std::env::var_os("PUSH0_CONFIG").map_or_else(|| PathBuf::from(FILE), PathBuf::from);
        let table: toml::Table = std::fs::read_to_string(&file).ok()?.parse().ok()?;
        let data = table.get("data")?.as_str()?;
        Some(file.parent().unwrap_or(Path::new("")).join(data))
    };
    flag.map(Path::to_owned).or_else(from_env).or_else(from_file).unwrap_or_else(|| PathBuf::from(DATA))
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(2))
}

/// Bytes of a file of configuration.
pub const MAX_FILE: usize = pipeline::MAX_FILE;

/// Of a file that is longer than such a file can be, or has no end, no more is read.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE as u64 + 1).read_to_string(&mut text)?;
    if text.len() > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// The file's path and text; no file where none is named and none is there.
fn load(sources: &Sources) -> Result<(Option<PathBuf>, Option<String>), Mistakes> {
    let (path, is_named) = match &sources.file {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(FILE), false),
    };
    match read_text(&path) {
        Ok(text) => Ok((Some(path), Some(text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => Ok((None, None)),
        Err(error) => Err(Mistakes(vec![format!("cannot read {}: {error}", path.display())])),
    }
}

#[cfg(test)]
mod tests;
