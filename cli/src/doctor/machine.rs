//! What can be seen without a running push0: data directory, ports, provers, limits of this machine.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{self, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::getuid;
use push0_core::pipeline::PipelineFile;
use push0_core::{BlockHash, ErrorCode, Millis, Node};
use push0_gpu_worker::{Limits, find_program};
use push0_runtime::engine;
use push0_runtime::port::{Clock as _, SystemClock};

use super::Findings;
use crate::prover;
use crate::settings::Settings;
use crate::up::SOCKET_PATH;

/// Free space below which runs soon fail, and below which somebody should look, bytes.
const DISK_PROBLEM: u64 = 256 << 20;
const DISK_WARNING: u64 = 4 << 30;

/// Free memory a worker process should find, MiB.
const MEMORY_EACH: u64 = 256;

/// Open files `up` needs for itself, and for each worker's connections.
const FILES: u64 = 256;
const FILES_EACH: u64 = 16;

/// How long a prover may take to say hello here.
const READY: Millis = Millis::from_secs(120);

pub(super) async fn settings(settings: &Settings, findings: &mut Findings) {
    data(&settings.data, findings);
    database(&settings.data, findings);
    let socket = settings.socket();
    let is_running = std::os::unix::net::UnixStream::connect(&socket).is_ok();
    the_socket(&socket, findings);
    if let Some(address) = &settings.listen {
        listen(address, is_running, findings);
    }
    for file in settings.catalog.pipelines.values() {
        provers(file, findings).await;
    }
}

fn data(dir: &Path, findings: &mut Findings) {
    let what = "data directory";
    let shown = dir.display();
    let Ok(found) = dir.metadata() else {
        match nearest(dir) {
            Some(parent) if is_writable(&parent) => {
                findings.ok(what, format!("{shown} is not there yet; `push0 up` makes it"))
            }
            _ => findings.problem(
                what,
                ErrorCode::DataUnusable,
                format!("{shown} is not there and cannot be made"),
                "name another with --data, or make it writable for this user",
            ),
        }
        return;
    };
    if !found.is_dir() {
        findings.problem(what, ErrorCode::DataUnusable, format!("{shown} is no directory"), "name another with --data");
        return;
    }
    if !is_writable(dir) {
        let says = format!("{shown} (owner {}, mode {:o}) is not writable here", found.uid(), found.mode() & 0o7777);
        findings.problem(
            what,
            ErrorCode::DataUnusable,
            says,
            "make it this user's (`chown`), or name another with --data",
        );
        return;
    }
    if found.uid() != getuid().as_raw() {
        let says = format!("{shown} belongs to user {}, not to this one", found.uid());
        findings.warn(what, says, "run push0 as the user whose data it is");
    } else {
        findings.ok(what, format!("{shown} is writable"));
    }
    disk(dir, findings);
}

/// The nearest directory above that is there.
fn nearest(dir: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(dir).ok()?;
    absolute.ancestors().skip(1).find(|parent| parent.exists()).map(Path::to_owned)
}

fn is_writable(dir: &Path) -> bool {
    tempfile::Builder::new().prefix(".push0-doctor-").tempfile_in(dir).is_ok()
}

fn disk(dir: &Path, findings: &mut Findings) {
    if let Ok(found) = statvfs(dir) {
        #[allow(clippy::useless_conversion, reason = "the widths differ between platforms")]
        let free = u64::from(found.blocks_available()) * u64::from(found.fragment_size());
        let says = format!("{} MiB are free", free >> 20);
        let next = "make room, or move the data directory";
        match free {
            0..DISK_PROBLEM => findings.problem("disk", ErrorCode::DiskFull, says, next),
            DISK_PROBLEM..DISK_WARNING => findings.warn("disk", says, next),
            _ => findings.ok("disk", says),
        }
    }
    let Ok(found) = statfs(dir) else { return };
    let kind = found.filesystem_type();
    let (what, next) = ("file system", "put the data directory on a local disk");
    if kind == statfs::TMPFS_MAGIC {
        findings.warn(what, "it is in memory (tmpfs): everything is gone with the machine", next);
    } else if kind == statfs::NFS_SUPER_MAGIC {
        findings.warn(what, "it is on NFS, whose locks and syncs the database cannot rely on", next);
    } else {
        findings.ok(what, "local");
    }
}

fn database(dir: &Path, findings: &mut Findings) {
    let what = "database";
    let keep = "keep the data directory as it is, and read `push0 explain P0-403` before anything else";
    match engine::examine(dir) {
        Ok(None) => findings.ok(what, "there is none yet"),
        Ok(Some(found)) if !found.is_known => {
            let says = format!("it has schema {}, which is newer than this push0", found.schema);
            findings.problem(what, ErrorCode::NewerData, says, "use the push0 that wrote it, or a newer one");
        }
        Ok(Some(found)) if found.damage.is_empty() => {
            findings.ok(what, format!("schema {}, no damage found", found.schema));
        }
        Ok(Some(found)) => findings.problem(what, ErrorCode::DatabaseDamaged, found.damage.join("\n"), keep),
        Err(error) => findings.problem(what, error.code(), error.to_string(), keep),
    }
}

fn the_socket(socket: &Path, findings: &mut Findings) {
    let what = "socket";
    let length = socket.as_os_str().len();
    if length > SOCKET_PATH {
        let says = format!("its path has {length} bytes, the system allows {SOCKET_PATH}: {}", socket.display());
        findings.problem(what, ErrorCode::SocketPath, says, "use a data directory with a shorter path (--data)");
        return;
    }
    match socket.metadata().map(|found| found.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => {
            let says = format!("{} has mode {mode:o}: other users are let in as operators", socket.display());
            findings.problem(what, ErrorCode::DataUnusable, says, format!("chmod 600 {}", socket.display()));
        }
        Ok(_) => findings.ok(what, format!("{} is for this user only", socket.display())),
        Err(_) => findings.ok(what, format!("its path has {length} of {SOCKET_PATH} bytes")),
    }
}

fn listen(address: &str, is_running: bool, findings: &mut Findings) {
    match TcpListener::bind(address) {
        Ok(_) if is_running => findings.warn(
            "listen",
            format!("push0 runs, but does not listen on {address}"),
            "restart `push0 up`: it was started with another configuration",
        ),
        Ok(_) => findings.ok("listen", format!("{address} is free")),
        Err(error) if is_running && error.kind() == std::io::ErrorKind::AddrInUse => {
            findings.ok("listen", format!("{address} is in use, and push0 runs"));
        }
        Err(error) => findings.problem(
            "listen",
            ErrorCode::CannotListen,
            format!("{address}: {error}"),
            "see who has it (`ss -ltnp`), or listen on another address (`listen` of push0.toml)",
        ),
    }
}

/// Every prover of a pipeline is here, says hello, offers its stages, and has the pinned programs.
async fn provers(file: &PipelineFile, findings: &mut Findings) {
    let scratch = match tempfile::tempdir() {
        Ok(dir) => dir,
        // Said by the check of the temporary directory.
        Err(_) => return,
    };
    let name = &file.pipeline.name;
    let limits = Limits { start_limit: READY, ..Limits::default() };
    let mut rig = match prover::rig(file, scratch.path(), limits) {
        Ok(rig) => rig,
        Err(error) => {
            findings.problem(
                format!("pipeline {name}"),
                ErrorCode::ProverMissing,
                format!("{error:#}"),
                "see the message",
            );
            return;
        }
    };
    let block = prover::Block {
        chain: "doctor".parse().expect("a chain id"),
        number: 1,
        hash: BlockHash([0; 32]),
        parent_hash: None,
    };
    for (prover, command) in &file.provers {
        let what = format!("prover {prover} of {name}");
        let program = command.command.first().map(String::as_str).unwrap_or_default();
        let Some(path) = find_program(program) else {
            let says = format!("there is no program {program} here that can be run");
            let next = format!("build or install it, or correct `command` of [prover.{prover}]");
            findings.problem(what, ErrorCode::ProverMissing, says, next);
            continue;
        };
        let stages = file.pipeline.stages.iter().enumerate().filter(|(_, stage)| stage.prover == *prover);
        let mut wrong = None;
        let mut names = Vec::new();
        for (position, stage) in stages {
            let task = prover::task(file, Node::new(position as u16, 0, 0), &block);
            names.push(stage.name.as_str());
            if let Err(failure) = rig.ready(&task).await {
                wrong = Some(failure.message);
                break;
            }
        }
        match wrong {
            None => findings.ok(what, format!("{}: ready for {}", path.display(), names.join(", "))),
            Some(message) => {
                let code = ErrorCode::find(&message).unwrap_or(ErrorCode::ProverBrokeProtocol);
                let next = match code {
                    ErrorCode::ProgramDiffers => {
                        "install the prover that the pipeline pins, or pin this one: `push0 prover check --pipeline FILE --pin`"
                    }
                    _ => "`push0 prover check --pipeline FILE` shows more",
                };
                findings.problem(what, code, message, next);
            }
        }
    }
    rig.close().await;
}

/// What holds whatever is configured.
pub(super) fn machine(settings: Option<&Settings>, findings: &mut Findings) {
    // One of the trusted pool, and so many in each other pool.
    let workers = settings.map_or(1, |settings| 1 + settings.workers.count * settings.workers.pools.len()) as u64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    if workers - 1 > cores {
        let says = format!("{} worker processes share {cores} cores", workers - 1);
        findings.warn("cores", says, "`workers.count` sets how many there are in each pool");
    } else {
        findings.ok("cores", format!("{cores} for {} worker processes", workers - 1));
    }
    files(workers, findings);
    memory(workers, findings);
    let temporary = std::env::temp_dir();
    if is_writable(&temporary) {
        findings.ok("temporary files", format!("{} is writable", temporary.display()));
    } else {
        let says = format!("{} is not writable", temporary.display());
        findings.problem("temporary files", ErrorCode::ScratchUnusable, says, "set TMPDIR to a directory that is");
    }
    clock(findings);
}

fn files(workers: u64, findings: &mut Findings) {
    let wanted = FILES + workers * FILES_EACH;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let says = format!("{soft} open files are allowed (at most {hard}), {wanted} may be needed");
    if soft < wanted {
        let next = format!("`ulimit -n {wanted}` before `push0 up`, or LimitNOFILE= of its systemd unit");
        findings.problem("open files", ErrorCode::StorageTrouble, says, next);
    } else {
        findings.ok("open files", says);
    }
}

fn memory(workers: u64, findings: &mut Findings) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let Some(kib) = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()) else { return };
    let (free, wanted) = (kib >> 10, workers * MEMORY_EACH);
    let says = format!("{free} MiB are free for {workers} worker processes");
    if free < wanted {
        findings.warn("memory", says, "fewer workers, or `memory_limit_mib` of their provers");
    } else {
        findings.ok("memory", says);
    }
}

fn clock(findings: &mut Findings) {
    // The first release of push0 is not older than this.
    const BUILT: Millis = Millis(1_767_225_600_000);
    if SystemClock.now() < BUILT {
        findings.warn("clock", "this machine's clock is years behind", "set it, or let NTP set it");
    } else if Path::new("/run/systemd/timesync/synchronized").exists() {
        findings.ok("clock", "set by NTP (systemd-timesyncd)");
    } else {
        findings.ok("clock", "plausible; whether NTP keeps it cannot be seen here");
    }
}
