//! `push0 worker`: the worker library over a connection to `up`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use push0_core::{ErrorCode, Pool, WorkerId};
use push0_gpu_worker::{WorkerConfig, WorkerError};
use push0_runtime::port::{Blobs, Queue, SystemClock};
use tokio::signal::unix::{SignalKind, signal};

use crate::args;
use crate::connect::Where;
use crate::error::Trouble;
use crate::settings::Settings;

/// Works until SIGTERM or ctrl-c, then drains.
pub async fn run(args: &args::Worker, location: &Where, settings: &Settings) -> anyhow::Result<()> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => default_id(&args.pool)?,
    };
    let scratch = args.scratch.clone().unwrap_or_else(|| std::env::temp_dir().join("push0-worker"));
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let program = program.to_str().context("the path of this program is not UTF-8")?;
    let client = Arc::new(location.client()?);
    let (queue, blobs): (Arc<dyn Queue>, Arc<dyn Blobs>) = (client.clone(), client);
    // Its connections belong to the lease thread alone, so that nothing else can starve them.
    let lease_client = Arc::new(location.client()?);
    let config = WorkerConfig {
        slots: settings.workers.slots,
        lease: settings.workers.lease,
        drain_grace: settings.workers.drain,
        shim: vec![program.to_owned(), "shim".to_owned(), "--".to_owned()],
        lease_client: Some((lease_client.clone(), lease_client)),
        ..WorkerConfig::new(id, args.pool.clone(), settings.provers.clone(), scratch)
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let again = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let working = push0_gpu_worker::run(config, queue, blobs, Arc::new(SystemClock), shutdown);
    tokio::select! {
        ended = working => ended.map_err(|error| explain(&error).into()),
        () = twice(again) => Err(Trouble::failed("stopped at once; its tasks come again when their leases end")
            .next("nothing: other workers take them; start this one again when it may work")
            .into()),
    }
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
        WorkerError::Panicked(_) => {
            ("start it again, and report this: its tasks come again when their leases end", ErrorCode::InvariantBroken)
        }
    };
    Trouble::failed(error.to_string()).next(next).coded(page)
}

/// Completes at the second ctrl-c.
async fn twice(mut interrupt: tokio::signal::unix::Signal) {
    interrupt.recv().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    interrupt.recv().await;
}

/// `HOST-POOL-PID`, as far as it fits.
fn default_id(pool: &Pool) -> anyhow::Result<WorkerId> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let tail = format!("{pool}-{}", std::process::id());
    let clean = |text: &str| -> String {
        let lower = text.trim().to_ascii_lowercase();
        lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
    };
    let room = 31usize.saturating_sub(tail.len());
    let host: String = clean(&host).trim_start_matches('-').chars().take(room).collect();
    let id = if host.is_empty() { tail } else { format!("{host}-{tail}") };
    let short: String = id.chars().take(32).collect();
    short.parse().context("no worker id can be made of the host's name: use --id")
}
