//! `push0 worker`: the worker library over a connection to `up`, or to an installation in an AWS account.

#[cfg(feature = "aws")]
mod aws;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use push0_core::pipeline::ProverCommand;
use push0_core::{ErrorCode, Millis, Pool, Principal, ProverName, WorkerId};
use push0_gpu_worker::ec2::{Instance, self_tests};
use push0_gpu_worker::{Limits, WorkerConfig, WorkerError, find_program, gpu};
use push0_runtime::http::Introduction;
use push0_runtime::port::{Blobs, Clock as _, Queue, SystemClock};
#[cfg(not(feature = "aws"))]
use push0_runtime::settings::Ec2Mode;
use push0_runtime::settings::{Gpu, GpuMode};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::args;
use crate::connect::Where;
use crate::error::Trouble;
use crate::settings::Settings;
use crate::welcome;

/// Works until SIGTERM or ctrl-c, or until the EC2 instance it heeds is terminated; then drains.
pub async fn run(args: &args::Worker, location: &Where, settings: &Settings) -> anyhow::Result<()> {
    keep_to_itself();
    let mut stop = Stop::new()?;
    let again = signal(SignalKind::interrupt())?;
    let place = tokio::select! {
        place = place(args, location, settings) => place?,
        () = stop.wait() => return Ok(()),
    };
    let Place { id, provers, backend, instance } = place;
    let known: Vec<&str> = provers.keys().map(ProverName::as_str).collect();
    info!(address = %location.address(), provers = ?known, "connected");

    let scratch = args.scratch.clone().unwrap_or_else(|| std::env::temp_dir().join("push0-worker"));
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let program = program.to_str().context("the path of this program is not UTF-8")?;
    let config = WorkerConfig {
        slots: settings.workers.slots,
        gpus: gpus(&settings.gpu).filter(|_| !args.pool.is_trusted()),
        self_tests: self_tests(settings.catalog.pipelines.values(), &args.pool),
        lease: settings.workers.lease,
        drain_grace: settings.workers.drain,
        turn_every: settings.workers.turn_every,
        linger: settings.workers.linger,
        shim: vec![program.to_owned(), "shim".to_owned(), "--".to_owned()],
        lease_client: Some(backend.lease_client),
        limits: Limits { poll: backend.poll, ..Limits::default() },
        ..WorkerConfig::new(id, args.pool.clone(), provers, scratch)
    };
    let shutdown = async move { stop.wait().await };
    let clock = Arc::new(SystemClock);
    let working = async {
        match instance {
            None => push0_gpu_worker::run(config, backend.queue, backend.blobs, clock, shutdown).await,
            Some(instance) => {
                push0_gpu_worker::ec2::run(config, instance, backend.queue, backend.blobs, clock, shutdown).await
            }
        }
    };
    let working = async {
        let ended = working.await;
        // A message that comes to a poll nobody waits for any longer is handed back by whoever is still there.
        let _ = tokio::time::timeout(Duration::from_millis(backend.poll.0) + SLACK, backend.polls_ended).await;
        ended
    };
    tokio::select! {
        ended = working => ended.map_err(|error| explain(&error).into()),
        () = twice(again) => Err(Trouble::failed("stopped at once; its tasks come again when their leases end")
            .next("nothing: other workers take them; start this one again when it may work")
            .into()),
    }
}

/// How the GPUs of this machine are used, where they are.
fn gpus(settings: &Gpu) -> Option<gpu::Rules> {
    let Gpu { mode, library, look_every, log_every, self_test, again_every } = settings.clone();
    (mode != GpuMode::Off).then(|| gpu::Rules {
        demanded: mode == GpuMode::On,
        library,
        visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
        look_every,
        log_every,
        self_test,
        again_every,
    })
}

/// Provers run as the same user, who could otherwise read this process's environment and memory (`/proc/PID/environ`, ptrace): there may be a
/// token in them, or the credentials of an AWS account.
fn keep_to_itself() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        warn!(%error, "provers could read this worker's environment: the system does not let it be closed");
    }
}

/// Where a worker works, and as whom.
struct Place {
    id: WorkerId,
    provers: BTreeMap<ProverName, ProverCommand>,
    backend: Backend,
    instance: Option<Instance>,
}

struct Backend {
    queue: Arc<dyn Queue>,
    blobs: Arc<dyn Blobs>,
    /// Its connections belong to the lease thread alone, so that nothing else can starve them.
    lease_client: (Arc<dyn Queue>, Arc<dyn Blobs>),
    /// How long one receive waits.
    poll: Millis,
    /// Completes when no receive is on its way any longer.
    polls_ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What the end of a poll may take beyond its own length.
const SLACK: Duration = Duration::from_secs(1);

/// The EC2 instance that is heeded.
struct Here {
    id: String,
    instance: Instance,
}

async fn place(args: &args::Worker, location: &Where, settings: &Settings) -> anyhow::Result<Place> {
    let here = here(settings, &args.pool, location.is_aws()).await?;
    let (own_id, instance) = here.map_or((None, None), |here| (Some(here.id), Some(here.instance)));
    if location.is_aws() {
        if settings.provers.is_empty() {
            return Err(Trouble::usage(
                "a worker for an installation in AWS needs its pipelines here, and there are none",
            )
            .next("name the configuration of that installation with --config FILE")
            .coded(ErrorCode::BadConfiguration)
            .into());
        }
        let id = match (args.id.clone(), own_id.and_then(|id| id.parse().ok())) {
            (Some(id), _) | (None, Some(id)) => id,
            (None, None) => default_id(&args.pool, None)?,
        };
        return Ok(Place {
            id,
            provers: settings.provers.clone(),
            backend: aws_backend(settings, &args.pool).await?,
            instance,
        });
    }

    let address = location.address();
    let client = Arc::new(location.client()?);
    let welcome = welcome::ask(&client, &address, &args.pool).await?;
    let id = match &args.id {
        Some(id) => named_as_its_token(id, welcome.name.as_ref())?,
        None => default_id(&args.pool, welcome.name.as_ref())?,
    };
    let provers = provers(settings, welcome.provers, &address)?;
    let introduction = Introduction { worker: id.clone(), since: SystemClock.now(), within: settings.workers.lease };
    let client = Arc::new(location.client_of(introduction.clone())?);
    let lease_client = Arc::new(location.client_of(introduction)?);
    let backend = Backend {
        queue: client.clone(),
        blobs: client,
        lease_client: (lease_client.clone(), lease_client),
        poll: Limits::default().poll,
        polls_ended: Box::pin(std::future::ready(())),
    };
    Ok(Place { id, provers, backend, instance })
}

#[cfg(feature = "aws")]
async fn here(settings: &Settings, pool: &Pool, on_aws: bool) -> anyhow::Result<Option<Here>> {
    aws::here(settings, pool, on_aws).await
}

#[cfg(feature = "aws")]
async fn aws_backend(settings: &Settings, pool: &Pool) -> anyhow::Result<Backend> {
    Ok(aws::backend(settings, pool).await)
}

#[cfg(not(feature = "aws"))]
async fn here(settings: &Settings, _: &Pool, _: bool) -> anyhow::Result<Option<Here>> {
    match settings.ec2.mode {
        Ec2Mode::On => Err(Trouble::without_aws("--ec2 on").into()),
        Ec2Mode::Auto | Ec2Mode::Off => Ok(None),
    }
}

#[cfg(not(feature = "aws"))]
async fn aws_backend(_: &Settings, _: &Pool) -> anyhow::Result<Backend> {
    Err(Trouble::without_aws("--connect aws").into())
}

fn explain(error: &WorkerError) -> Trouble {
    let (next, page) = match error {
        WorkerError::Scratch { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ("make room on that disk, or name another directory with --scratch DIR", ErrorCode::DiskFull)
        }
        WorkerError::Scratch { .. } => {
            ("name a directory this user may write to with --scratch DIR", ErrorCode::ScratchUnusable)
        }
        WorkerError::Taken { .. } => ("give this one another name with --id", ErrorCode::WorkerNameTaken),
        WorkerError::Thread(_) => {
            ("look at the limits of this user (`ulimit -u`) and the machine's memory", ErrorCode::HelperFailed)
        }
        WorkerError::NoGpu(_) => (
            "look at the driver (`nvidia-smi`) and at CUDA_VISIBLE_DEVICES; `--gpu auto` works without a GPU, too",
            ErrorCode::GpuMissing,
        ),
        WorkerError::SelfTest { .. } => (
            "see what the prover says; `push0 prover check` runs it as a worker does. On EC2 the instance is given back to its group",
            ErrorCode::SelfTestFailed,
        ),
        WorkerError::Panicked(_) => {
            ("start it again, and report this: its tasks come again when their leases end", ErrorCode::InvariantBroken)
        }
    };
    Trouble::failed(error.to_string()).next(next).coded(page)
}

/// SIGTERM or ctrl-c.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Completes at the second ctrl-c.
async fn twice(mut interrupt: Signal) {
    interrupt.recv().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    interrupt.recv().await;
}

/// Those of this host's configuration, where it has one; else what the push0 there says, if the programs are here.
fn provers(
    settings: &Settings,
    served: BTreeMap<ProverName, ProverCommand>,
    address: &str,
) -> Result<BTreeMap<ProverName, ProverCommand>, Trouble> {
    if !settings.provers.is_empty() {
        return Ok(settings.provers.clone());
    }
    for (name, prover) in &served {
        let program = prover.command.first().map(String::as_str).unwrap_or_default();
        if find_program(program).is_none() {
            let what = format!("prover {name}: the push0 at {address} says to run {program}, which is not here");
            return Err(Trouble::failed(what)
                .next(
                    "install it in the PATH of this worker, or say what to run here: --config with a push0.toml whose pipeline has the \
                     right `command` in its [prover.NAME]",
                )
                .coded(ErrorCode::ProverMissing));
        }
    }
    Ok(served)
}

/// The server refuses the reports of a worker with another name.
fn named_as_its_token(id: &WorkerId, name: Option<&Principal>) -> Result<WorkerId, Trouble> {
    match name {
        Some(name) if !name.speaks_as(id) => Err(Trouble::usage(format!("worker {id} has a token of the name {name}"))
            .next(format!("use --id {name}, or --id {name}-SOMETHING; or leave --id out"))
            .coded(ErrorCode::RoleForbids)),
        _ => Ok(id.clone()),
    }
}

/// `TOKEN-HOST-PID`, or without a token `HOST-POOL-PID`, as far as it fits.
fn default_id(pool: &Pool, name: Option<&Principal>) -> anyhow::Result<WorkerId> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    compose_id(host.trim(), pool, name, std::process::id())
        .context("no worker id can be made of the host's name: use --id")
}

fn compose_id(host: &str, pool: &Pool, name: Option<&Principal>, pid: u32) -> Option<WorkerId> {
    const LONGEST: usize = 32;
    let (head, tail) = match name {
        Some(name) => (name.to_string(), format!("{pid}")),
        None => (String::new(), format!("{pool}-{pid}")),
    };
    let lower = host.to_ascii_lowercase();
    let clean: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let room = LONGEST.saturating_sub(head.len() + tail.len() + 2);
    // A token that is called as its host says enough.
    let host: String =
        if head == clean { String::new() } else { clean.trim_start_matches('-').chars().take(room).collect() };
    let parts: Vec<&str> = [head.as_str(), &host, &tail].into_iter().filter(|part| !part.is_empty()).collect();
    let mut id = parts.join("-");
    if id.len() > LONGEST {
        id = name.map_or_else(|| id.chars().take(LONGEST).collect(), Principal::to_string);
    }
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(host: &str, name: Option<&str>) -> String {
        let name = name.map(|name| name.parse().unwrap());
        compose_id(host, &"gpu".parse().unwrap(), name.as_ref(), 4321).unwrap().to_string()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_worker_is_closed_to_the_provers_of_its_user() {
        keep_to_itself();
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
    }

    #[test]
    fn a_workers_own_name_begins_with_its_tokens() {
        assert_eq!(composed("Host_1.lan", None), "host-1-lan-gpu-4321");
        assert_eq!(composed("node-7", Some("rack1")), "rack1-node-7-4321");
        assert_eq!(composed("rack1", Some("rack1")), "rack1-4321");
        assert_eq!(composed("", Some("rack1")), "rack1-4321");
        let (long, longest) = ("n".repeat(64), "t".repeat(32));
        assert!(composed(&long, None).len() <= 32);
        assert!(
            composed(&long, Some("rack1")).starts_with("rack1-nnn")
                && composed(&long, Some("rack1")).ends_with("-4321")
        );
        assert_eq!(composed(&long, Some(&longest)), longest);
        for length in 24..32 {
            let name = "t".repeat(length);
            let id = composed("node", Some(&name));
            let name: Principal = name.parse().unwrap();
            assert!(name.speaks_as(&id.parse().unwrap()), "{id}");
        }
    }

    #[test]
    fn another_name_than_the_tokens_is_refused_before_it_costs_a_task() {
        let (id, name) = ("gpu-7".parse().unwrap(), "rack1".parse().unwrap());
        assert!(named_as_its_token(&id, Some(&name)).unwrap_err().next.unwrap().contains("--id rack1"));
        assert!(named_as_its_token(&id, None).is_ok());
        assert!(named_as_its_token(&"rack1-a".parse().unwrap(), Some(&name)).is_ok());
    }
}
