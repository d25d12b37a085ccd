//! `push0 up`: the engine with its one owner, the functions, and the local workers, in one tree of processes.
//!
//! Nothing here outlives this process: workers are tied to it by a parent-death signal, and their provers to them. What was in flight
//! when an earlier `up` died: the functions' own messages are visible again at once, since nobody else ever takes them; tasks come
//! again when their leases end, since a worker elsewhere may still be proving them, or at once with `workers.only_local`.

mod children;
pub(crate) mod functions;
mod routes;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use push0_core::message::work_queue;
use push0_core::topology::Topology;
use push0_core::{Class, ErrorCode, Pool};
use push0_runtime::drive::Context;
use push0_runtime::engine::{Engine, EngineConfig, Location, QueueSpec};
use push0_runtime::http::{Ports, SealKey, Server, ServerConfig, bind_tcp, bind_unix, dead_letter_routes, maintenance};
use push0_runtime::port::{Clock, SystemClock};
use push0_runtime::wiring;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::error::Trouble;
use crate::notice::Notice;
use crate::output::Output;
use crate::settings::{Settings, Sources};

use children::{Children, Local};

pub use routes::{RELOAD, Reloaded};

/// Longest path of a socket, bytes (`sun_path` is 108 with its end).
pub(crate) const SOCKET_PATH: usize = 107;

/// Runs until SIGTERM or ctrl-c.
pub async fn run(settings: &Settings, sources: &Sources, output: Output) -> anyhow::Result<()> {
    // Asked for first: a signal during start-up is obeyed, not fatal.
    let mut stopping = Stopping::new()?;
    let topology = Topology::built_in();
    let pools = settings.catalog.pools();
    let queues = wiring::engine_queues(&topology, &pools);
    let names = queues.iter().map(|queue| queue.name.clone()).collect();
    let engine = open(settings, queues)?;
    if settings.workers.only_local {
        reclaim_tasks(&engine, &pools)?;
    }
    let ports = Ports::of(&engine);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let catalog = Arc::new(settings.catalog.clone());
    let context = Context::new(ports.queue.clone(), ports.table.clone(), ports.blobs.clone(), clock.clone(), catalog);
    // The engine's counts are exact, and its local workers end with it.
    let context = context.with_quiet(Some(settings.functions.reaper)).with_began(Some(clock.now()));

    Notice::new(&settings.catalog, names, settings.retention, clock.now()).post(&*context.table).await?;
    let (stop, stopped) = watch::channel(false);
    let mappings = functions::mappings(&topology, &pools, settings);
    functions::reclaim(&engine, &mappings)?;
    let functions =
        functions::start(&functions::Contexts::new(|_| context.clone()), mappings, Some(&engine), settings, &stopped);

    let locals = locals(settings)?;
    let local_tokens = locals.iter().map(Local::token).collect::<anyhow::Result<Vec<_>>>()?;
    let tokens = routes::Tokens::new(local_tokens, sources);
    let config = ServerConfig {
        tokens: tokens.with(&settings.tokens),
        seal: Some(SealKey::load(&settings.data.join("receipts.key"))?),
        ..ServerConfig::new(settings.data.join("spool"))
    };
    let server = Server::new(ports, config)?
        .with_routes(maintenance(&engine))
        .with_routes(dead_letter_routes(Arc::new(engine.clone())))
        .with_routes(routes::router(context.catalog.clone(), tokens.clone()));
    tokens.serve(&server);
    let (close, closed) = watch::channel(false);
    let socket = settings.socket();
    let mut servers = tokio::task::JoinSet::new();
    let unix = bind_unix(&socket).await.map_err(|error| {
        Trouble::failed(error.to_string())
            .next(format!("look at `ls -l {}` and who may write there", socket.display()))
            .coded(error.code())
    })?;
    let until = |mut closed: watch::Receiver<bool>| async move {
        let _ = closed.wait_for(|closed| *closed).await;
    };
    let (serving, end) = (server.clone(), until(closed.clone()));
    servers.spawn(async move { serving.serve_unix(unix, end).await });
    if let Some(address) = &settings.listen {
        let tcp = bind_tcp(address).await.map_err(|error| {
            Trouble::failed(error.to_string())
                .next("choose another address with --listen HOST:PORT, or see who listens: `ss -ltnp`")
                .coded(ErrorCode::CannotListen)
        })?;
        let (serving, end) = (server.clone(), until(closed));
        servers.spawn(async move { serving.serve_tcp(tcp, end).await });
    }

    let children = Children::start(settings, &locals, &socket)?;
    output.note(&greeting(settings, &socket, locals.len()));
    warn_of_missing_provers(settings, output);
    warn_of_open_tokens(settings, output);

    stopping.wait(&tokens).await;
    output.note("push0: draining; once more to stop at once");
    tokio::select! {
        () = children.drain() => {}
        () = stopping.wait(&tokens) => children.kill(),
    }
    stop.send_replace(true);
    functions.finish().await;
    close.send_replace(true);
    while servers.join_next().await.is_some() {}
    let _ = std::fs::remove_file(&socket);
    info!("push0 is down");
    Ok(())
}

fn open(settings: &Settings, queues: Vec<QueueSpec>) -> anyhow::Result<Engine> {
    let socket = settings.socket();
    let unusable = |what: String, next: &str| Trouble::failed(what).next(next).coded(ErrorCode::DataUnusable);
    std::fs::create_dir_all(&settings.data).map_err(|error| {
        let what = format!("cannot make the data directory {}: {error}", settings.data.display());
        unusable(what, "name another with --data, or give this user the right to write there")
    })?;
    if socket.as_os_str().len() > SOCKET_PATH {
        return Err(Trouble::usage(format!("the socket's path {} is longer than the system allows", socket.display()))
            .next("use a data directory with a shorter path (--data)")
            .coded(ErrorCode::SocketPath)
            .into());
    }
    let location = Location::Directory(settings.data.clone());
    let config = EngineConfig {
        durability: settings.durability,
        quota: settings.storage,
        ..EngineConfig::new(location, queues)
    };
    Engine::open(config).map_err(|error| {
        let directory = settings.data.display();
        let next = match error.code() {
            ErrorCode::DataInUse => format!(
                "one push0 at a time: `push0 status --data {directory}` shows what runs there; use another --data for a second"
            ),
            ErrorCode::NewerData => "use the push0 that wrote it, or a newer one".to_owned(),
            ErrorCode::BadBackup => {
                format!("`push0 restore BACKUP --data {directory}` finishes it; a damaged backup cannot: use another")
            }
            ErrorCode::DiskFull => format!("make room on the disk of {directory}, then start it again"),
            ErrorCode::DatabaseDamaged => {
                format!("keep {directory} as it is; start on a copy or a backup, in another directory (--data)")
            }
            _ => format!("look whether this user may write in {directory} (`ls -ld`), or name another with --data"),
        };
        Trouble::failed(error.to_string()).next(next).coded(error.code()).into()
    })
}

/// Hands out again what the workers of the last `up` had in hand: they died with it.
fn reclaim_tasks(engine: &Engine, pools: &BTreeSet<Pool>) -> anyhow::Result<()> {
    for queue in pools.iter().flat_map(|pool| Class::ALL.map(|class| work_queue(pool, class))) {
        let tasks = engine.reclaim(&queue)?;
        if tasks > 0 {
            info!(queue, tasks, "tasks in hand at the last stop are handed out again");
        }
    }
    Ok(())
}

/// The workers to start: one of the trusted pool, and so many in each other pool.
fn locals(settings: &Settings) -> anyhow::Result<Vec<Local>> {
    let mut locals = vec![Local::new(&Pool::trusted(), 1)?];
    for pool in &settings.workers.pools {
        for number in 1..=settings.workers.count {
            locals.push(Local::new(pool, number)?);
        }
    }
    Ok(locals)
}

/// Their tasks would fail one by one, each after its attempts.
fn warn_of_missing_provers(settings: &Settings, output: Output) {
    for (name, prover) in &settings.provers {
        let program = prover.command.first().map(String::as_str).unwrap_or_default();
        if push0_gpu_worker::find_program(program).is_none() {
            output.note(&format!(
                "warning: prover {name}: there is no program {program} here; its tasks will fail on this machine\n  next: build \
                 it, or correct `command` in [prover.{name}] of its pipeline"
            ));
        }
    }
}

fn warn_of_open_tokens(settings: &Settings, output: Output) {
    for path in crate::token::readable_by_others(&settings.token_files) {
        let path = path.display();
        output.note(&format!(
            "warning: {path} holds a token, and anybody on this machine can read it\n  next: chmod o-rwx {path}"
        ));
    }
}

fn greeting(settings: &Settings, socket: &Path, workers: usize) -> String {
    let chains: Vec<String> = settings.catalog.chains.keys().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("push0 is up (pid {}): chains {}; {workers} local workers", std::process::id(), chains.join(", ")),
        format!("  socket  unix:{}", socket.display()),
    ];
    if let Some(listen) = &settings.listen {
        lines.push(format!("  tcp     http://{listen} (token needed)"));
    }
    let data = if settings.data == Path::new(crate::settings::DATA) {
        String::new()
    } else {
        format!(" --data {}", settings.data.display())
    };
    lines.push(format!("  next    push0 submit{data} BLOCK.json · push0 watch{data} · ctrl-c stops it"));
    lines.join("\n")
}

/// SIGTERM or ctrl-c; and SIGHUP, which at a terminal means that it was closed, and elsewhere to read the tokens again.
struct Stopping {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    at_terminal: bool,
}

impl Stopping {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            at_terminal: std::io::stdin().is_terminal(),
        })
    }

    async fn wait(&mut self, tokens: &routes::Tokens) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if self.at_terminal {
                        return;
                    }
                    // It has said what came of it.
                    let _ = tokens.reload();
                }
            }
        }
    }
}
