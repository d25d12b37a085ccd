//! Where a storm takes place: a data directory on a disk, with workers over TCP; or an account of an emulator of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
#[cfg(feature = "aws")]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::audit::Shape;
#[cfg(feature = "aws")]
use super::cloud::Cloud;
use super::installation::{Installation, program};
use super::link::Link;
use super::small_disk::SmallDisk;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    Disk,
    Emulator,
}

impl Ground {
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Emulator => "emulator",
        }
    }

    /// How long a task stays a worker's without a sign of life.
    pub fn lease(self) -> Duration {
        match self {
            Self::Disk => Duration::from_secs(1),
            Self::Emulator => Duration::from_secs(2),
        }
    }

    /// Blocks of a chain that are submitted and not final, at most.
    pub fn backlog(self) -> u64 {
        match self {
            Self::Disk => 12,
            Self::Emulator => 5,
        }
    }
}

/// How long a message stays a function's on the emulator. That is one Python process, and on a busy machine a batch takes some seconds: with
/// leases shorter than that everything is done again and again, and acknowledged too late each time. (On AWS it is 18 s or 36 s.)
#[cfg(feature = "aws")]
const VISIBILITY_S: u32 = 10;

/// What a process is for: what can be done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Worker,
    Consumer,
}

/// A process that goes on, and is started again whatever ended it.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub role: Role,
    pub args: Vec<String>,
    /// What it says to push0 or the emulator goes through a link of its own.
    pub is_linked: bool,
}

/// Chains, with the pipeline and the rest of the configuration of each.
const CHAINS: [(&str, &str); 3] = [
    ("left", "pipeline = \"plain.toml\"\nwindow = 4"),
    ("right", "pipeline = \"deep.toml\"\nwindow = 8"),
    ("rush", "pipeline = \"plain.toml\"\nwindow = 2\nclass = \"realtime\""),
];

/// The chains, and what the prover makes of their blocks.
pub fn shapes() -> Vec<(String, Shape)> {
    let plain = Shape { maps: vec!["prove"], arity: 2, single: None };
    let deep = Shape { maps: vec!["prove", "lift"], arity: 3, single: Some("wrap") };
    let shape = |config: &str| if config.contains("deep") { deep.clone() } else { plain.clone() };
    CHAINS.iter().map(|(id, config)| ((*id).to_owned(), shape(config))).collect()
}

fn pipeline(name: &str, shape: &Shape) -> String {
    let stage =
        |name: &str, kind: &str, more: &str| format!("[[stage]]\nname = \"{name}\"\nkind = \"{kind}\"\n{more}\n");
    let work = "params = { duration_ms = 30 }";
    let maps = shape.maps.iter().map(|map| stage(map, "map", work));
    let mut stages = vec![stage("split", "split", "params = { state_witness = true }")];
    stages.extend(maps);
    stages.push(stage("join", "join", &format!("arity = {}\n{work}", shape.arity)));
    stages.extend(shape.single.map(|single| stage(single, "single", work)));
    stages.push(stage("verify", "verify", ""));
    let echo = program("push0-echo");
    format!(
        "name = \"{name}\"\n{}[prover.echo]\nform = \"session\"\ncommand = [{echo:?}]\n[policy.default]\nattempts = 20\n\
         lost_attempts = 20\nbackoff_ms = 50\ntime_limit_s = 60\n",
        stages.concat()
    )
}

/// `push0.toml`, and the pipelines it names.
fn files(ground: Ground, more: &str) -> Vec<(&'static str, String)> {
    let chains = CHAINS.iter().map(|(id, config)| format!("[[chain]]\nid = \"{id}\"\n{config}\n"));
    let lease_ms = ground.lease().as_millis();
    // What is not needed any more goes soon, so that a long storm needs little room.
    let config = format!(
        "data = \"data\"\n[workers]\ncount = 1\nlease_ms = {lease_ms}\n[retention]\ngrace_s = 60\n{more}\n{}",
        chains.collect::<String>()
    );
    let mut files = vec![("push0.toml", config)];
    for (_, shape) in shapes() {
        match shape.single {
            None => files.push(("plain.toml", pipeline("plain", &shape))),
            Some(_) => files.push(("deep.toml", pipeline("deep", &shape))),
        }
    }
    files
}

fn as_files<'f>(files: &'f [(&'static str, String)]) -> Vec<(&'f str, &'f str)> {
    files.iter().map(|(name, content)| (*name, content.as_str())).collect()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

pub enum Site {
    Disk {
        /// None where none can be mounted. Before the installation, whose directory can only be removed when nothing is mounted in it.
        disk: Option<SmallDisk>,
        installation: Installation,
        port: u16,
    },
    #[cfg(feature = "aws")]
    Emulator { cloud: Box<Cloud>, emulator: Mutex<Emulator>, port: u16, runtime: tokio::runtime::Runtime },
}

impl Site {
    pub fn new(ground: Ground) -> Self {
        match ground {
            Ground::Disk => {
                let installation = Installation::of(&as_files(&files(
                    ground,
                    "[functions]\nreaper_ms = 1000\n[storage]\nreserve_mib = 0",
                )));
                let disk = SmallDisk::on(installation.path("data"), 2_048);
                WORKERS.iter().for_each(|name| drop(installation.token(name)));
                Self::Disk { disk, installation, port: free_port() }
            }
            #[cfg(feature = "aws")]
            Ground::Emulator => {
                let emulator = Emulator::start();
                let port = emulator.port;
                let cloud = Cloud::at(
                    format!("http://127.0.0.1:{port}"),
                    &as_files(&files(
                        ground,
                        "[functions]\nreaper_ms = 5000\nconcurrency = 1\n[aws]\nprefix = \"{prefix}\"",
                    )),
                );
                fs::create_dir_all(cloud.path("blocks")).expect("the directory is writable");
                cloud.cli_ok(&["bootstrap", "--visibility-s", &VISIBILITY_S.to_string()]);
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                let runtime = runtime.expect("a runtime can be made");
                Self::Emulator { cloud: Box::new(cloud), emulator: Mutex::new(emulator), port, runtime }
            }
            #[cfg(not(feature = "aws"))]
            Ground::Emulator => panic!("built without the feature `aws`"),
        }
    }

    pub fn ground(&self) -> Ground {
        match self {
            Self::Disk { .. } => Ground::Disk,
            #[cfg(feature = "aws")]
            Self::Emulator { .. } => Ground::Emulator,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Disk { installation, .. } => installation.path(name),
            #[cfg(feature = "aws")]
            Self::Emulator { cloud, .. } => cloud.path(name),
        }
    }

    /// A command of the CLI, as the operator runs it: nothing stands between him and push0.
    pub fn command(&self, args: &[&str]) -> Command {
        match self {
            Self::Disk { installation, .. } => installation.command(args),
            #[cfg(feature = "aws")]
            Self::Emulator { cloud, .. } => cloud.command(args),
        }
    }

    /// What the processes' links lead to.
    pub fn target(&self) -> String {
        let port = match self {
            Self::Disk { port, .. } => *port,
            #[cfg(feature = "aws")]
            Self::Emulator { port, .. } => *port,
        };
        format!("127.0.0.1:{port}")
    }

    pub fn specs(&self) -> Vec<Spec> {
        let spec = |name: &str, role: Role, is_linked: bool, args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            Spec { name: name.to_owned(), role, args, is_linked }
        };
        match self {
            Self::Disk { .. } => {
                let listen = self.target();
                let mut specs = vec![spec("up", Role::Server, false, &["up", "--listen", &listen])];
                specs.extend(WORKERS.map(|name| {
                    let token = self.path(&format!("{name}.token")).display().to_string();
                    spec(name, Role::Worker, true, &["worker", "--pool", "cpu", "--token-file", &token])
                }));
                // It remembers nothing: what is handed on again is the auditor's to drop.
                specs.push(spec("tail", Role::Consumer, false, &["finalized", "tail"]));
                specs
            }
            #[cfg(feature = "aws")]
            Self::Emulator { .. } => {
                let lease_ms = (VISIBILITY_S * 1_000).to_string();
                let serve = ["serve", "--aws", "--lease-ms", &lease_ms];
                let mut specs: Vec<Spec> =
                    ["serve-1", "serve-2"].iter().map(|name| spec(name, Role::Server, true, &serve)).collect();
                let workers = WORKERS.iter().map(|name| (*name, "cpu")).chain(TRUSTED.map(|name| (name, "trusted")));
                specs.extend(
                    workers
                        .map(|(name, pool)| spec(name, Role::Worker, true, &["worker", "--pool", pool, "--id", name])),
                );
                specs.push(spec("tail", Role::Consumer, true, &["finalized", "tail", "--state", "seen.json"]));
                specs
            }
        }
    }

    /// Makes a process's command; its link, where it has one.
    pub fn process(&self, spec: &Spec, link: Option<&Link>) -> Command {
        let args: Vec<&str> = spec.args.iter().map(String::as_str).collect();
        let mut command = self.command(&args);
        // A directory of its own: workers know an address and have a token, and no configuration.
        let home = self.path(&format!("hosts/{}", spec.name));
        fs::create_dir_all(&home).expect("the directory is writable");
        if spec.role == Role::Worker {
            command.arg("--scratch").arg(home.join("scratch"));
        }
        let lease = self.ground().lease();
        command.env("PUSH0_ECHO_LOG", self.path("invocations")).env("PUSH0_LEASE_MS", lease.as_millis().to_string());
        match (self, link) {
            (_, None) => {}
            (Self::Disk { .. }, Some(link)) => {
                command.current_dir(home).env("PUSH0_CONNECT", format!("http://{}", link.address));
            }
            #[cfg(feature = "aws")]
            (Self::Emulator { .. }, Some(link)) => {
                command.env("PUSH0_AWS_ENDPOINT", format!("http://{}", link.address));
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// Whether faults of the disk are possible here.
    pub fn disk(&self) -> Option<&SmallDisk> {
        match self {
            Self::Disk { disk, .. } => disk.as_ref(),
            #[cfg(feature = "aws")]
            Self::Emulator { .. } => None,
        }
    }

    /// The emulator's process.
    pub fn emulator(&self) -> Option<u32> {
        match self {
            Self::Disk { .. } => None,
            #[cfg(feature = "aws")]
            Self::Emulator { emulator, .. } => Some(emulator.lock().unwrap_or_else(PoisonError::into_inner).child.id()),
        }
    }

    /// Whether there is one.
    pub fn restart_emulator(&self) -> bool {
        match self {
            Self::Disk { .. } => false,
            #[cfg(feature = "aws")]
            Self::Emulator { emulator, .. } => {
                emulator.lock().unwrap_or_else(PoisonError::into_inner).restart();
                true
            }
        }
    }

    /// Puts a block's witness as any S3 client would, and says nothing. None where there is no S3.
    pub fn upload(&self, chain: &str, number: u64, hash: &str, witness: &Path) -> Option<Result<(), String>> {
        match self {
            Self::Disk { .. } => {
                let _ = (chain, number, hash, witness);
                None
            }
            #[cfg(feature = "aws")]
            Self::Emulator { cloud, runtime, .. } => {
                let bytes = fs::read(witness).expect("it was written");
                Some(runtime.block_on(cloud.try_upload(chain, number, hash, bytes)))
            }
        }
    }
}

const WORKERS: [&str; 3] = ["cpu-1", "cpu-2", "cpu-3"];

/// Two: a worker that lost a task too often is barred from it, and then there has to be another.
#[cfg(feature = "aws")]
const TRUSTED: [&str; 2] = ["trusted-1", "trusted-2"];

/// A ministack of its own, which keeps what it has when it is stopped in an orderly way, and in no other.
#[cfg(feature = "aws")]
pub struct Emulator {
    directory: tempfile::TempDir,
    program: String,
    child: std::process::Child,
    port: u16,
}

#[cfg(feature = "aws")]
impl Emulator {
    fn start() -> Self {
        let program = push0_runtime::aws::emulator::said("PUSH0_MINISTACK_PROGRAM");
        let directory = tempfile::Builder::new().prefix("p0-ministack").tempdir().expect("a temporary directory");
        let port = free_port();
        let child = spawn(&program, directory.path(), port);
        let emulator = Self { directory, program, child, port };
        emulator.wait();
        emulator
    }

    fn wait(&self) {
        super::installation::wait_until("the emulator answers", || {
            let url = format!("http://127.0.0.1:{}/_ministack/health", self.port);
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--max-time", "2", "--output", "/dev/null", &url]);
            curl.status().is_ok_and(|status| status.success())
        });
    }

    /// SIGTERM, which makes it write down what it has, and another one on the same port. Requests that it was about to answer are cut off.
    fn restart(&mut self) {
        use nix::sys::signal::Signal;
        super::installation::signal(self.child.id(), Signal::SIGCONT);
        super::installation::signal(self.child.id(), Signal::SIGTERM);
        let _ = self.child.wait();
        self.child = spawn(&self.program, self.directory.path(), self.port);
        self.wait();
    }
}

#[cfg(feature = "aws")]
fn spawn(program: &str, directory: &Path, port: u16) -> std::process::Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).expect("a log");
    let mut command = Command::new(program);
    command
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("PERSIST_STATE", "1")
        .env("STATE_DIR", directory.join("state"))
        .env("S3_PERSIST", "1")
        .env("S3_DATA_DIR", directory.join("s3"))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be opened twice"))
        .stderr(log);
    command.spawn().expect("ministack starts")
}

#[cfg(feature = "aws")]
impl Drop for Emulator {
    fn drop(&mut self) {
        for pid in super::installation::tree_of(self.child.id()) {
            super::installation::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
