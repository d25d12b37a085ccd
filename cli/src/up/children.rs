//! The local workers: processes of this very binary, tied to this one, started again when they die.
//!
//! Each has a thread here that starts it and waits for it. The parent-death signal fires when the *thread* that started a process ends,
//! so that thread stays until the process is gone. A process is only ever signalled under the lock under which it is reaped: its number
//! cannot be somebody else's by then.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use push0_core::{ErrorCode, Pool, WorkerId};
use push0_runtime::http::{Role, Token};
use tracing::{error, warn};

use crate::settings::Settings;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A worker that lived so long did not die of how it was started.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// A worker to start.
pub(super) struct Local {
    pool: Pool,
    token: String,
    id: WorkerId,
}

impl Local {
    pub(super) fn new(pool: &Pool, number: usize) -> anyhow::Result<Self> {
        let room = 32 - "local--1024".len();
        let short: String = pool.as_str().chars().take(room).collect();
        let id = format!("local-{short}-{number}").parse()?;
        Ok(Self { pool: pool.clone(), token: crate::token::random()?, id })
    }

    /// What it presents: good until this process ends, for what its pool may do, and under its own name.
    pub(super) fn token(&self) -> anyhow::Result<Token> {
        let role = if self.pool.is_trusted() { Role::Trusted } else { Role::Worker { pool: self.pool.clone() } };
        let name = self.id.as_str().parse()?;
        Ok(Token { is_local: true, ..Token::new(self.token.clone(), name, role) })
    }
}

pub(super) struct Children {
    slots: Vec<Arc<Slot>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    stopping: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, signal: Signal) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(child) = &state.child {
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
        self.changed.notify_all();
    }
}

impl Children {
    pub(super) fn start(settings: &Settings, locals: &[Local], socket: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let threads_each = settings.workers.threads.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (cores / locals.len().saturating_sub(1).max(1)).max(1)
        });
        let mut children = Self { slots: Vec::new(), threads: Mutex::default() };
        for local in locals {
            let spec = Spec::new(settings, local, &program, socket, threads_each)?;
            let slot = Arc::new(Slot::default());
            let name = format!("push0-{}", local.id);
            let thread = std::thread::Builder::new().name(name).spawn({
                let slot = slot.clone();
                move || keep(&spec, &slot)
            });
            children.slots.push(slot);
            children.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread?);
        }
        Ok(children)
    }

    /// Tells all to finish what they have in hand, and waits until they are gone.
    pub(super) async fn drain(&self) {
        self.slots.iter().for_each(|slot| slot.stop(Signal::SIGTERM));
        loop {
            let gone = self.slots.iter().all(|slot| slot.lock().child.is_none());
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills all, and returns when they are gone.
    pub(super) fn kill(&self) {
        self.slots.iter().for_each(|slot| slot.stop(Signal::SIGKILL));
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// How a worker is started.
struct Spec {
    id: WorkerId,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl Spec {
    fn new(settings: &Settings, local: &Local, program: &Path, socket: &Path, threads: usize) -> anyhow::Result<Self> {
        let text = |path: &Path| {
            let path = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
            path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
        };
        // The shim ties the worker to this process, then becomes the worker.
        let mut arguments: Vec<String> = ["shim", "--"].map(str::to_owned).to_vec();
        arguments.push(format!("--parent={}", std::process::id()));
        arguments.extend(["--".to_owned(), text(program)?]);
        arguments.extend(["worker", "--connect"].map(str::to_owned));
        arguments.push(format!("unix:{}", text(socket)?));
        arguments.extend(["--pool".to_owned(), local.pool.to_string(), "--id".to_owned(), local.id.to_string()]);
        arguments.extend(["--scratch".to_owned(), text(&settings.data.join("scratch"))?]);
        if let Some(file) = &settings.file {
            arguments.extend(["--config".to_owned(), text(file)?]);
        }
        let mut environment = vec![("PUSH0_TOKEN", local.token.clone())];
        // Each worker's prover gets its share of the cores, so that they do not get in each other's way.
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            environment.push(("RAYON_NUM_THREADS", threads.to_string()));
        }
        Ok(Self { id: local.id.clone(), program: program.to_owned(), arguments, environment })
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A group of its own: ctrl-c at the terminal is for this process, which then drains the workers.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()
    }
}

/// Starts the worker again and again until told to stop.
fn keep(spec: &Spec, slot: &Slot) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let pid = {
            let mut state = slot.lock();
            if state.stopping {
                return;
            }
            match spec.spawn() {
                Ok(child) => {
                    let pid = child.id();
                    state.child = Some(child);
                    Some(pid)
                }
                Err(error) => {
                    error!(code = %ErrorCode::WorkerEnded, worker = %spec.id, %error, "cannot start a local worker");
                    None
                }
            }
        };
        let ended = pid.map(|pid| reap(pid, slot));
        if started.elapsed() > LONG_ENOUGH {
            pause = FIRST_PAUSE;
        }
        let state = slot.lock();
        if state.stopping {
            return;
        }
        let how = ended.as_deref().unwrap_or("not started");
        let (code, pause_ms) = (ErrorCode::WorkerEnded, pause.as_millis() as u64);
        warn!(%code, worker = %spec.id, how, pause_ms, "local worker ended; it is started again");
        drop(slot.changed.wait_timeout_while(state, pause, |state| !state.stopping));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until the process has ended, then reaps it under the lock.
fn reap(pid: u32, slot: &Slot) -> String {
    let wait = || waitid(Id::Pid(Pid::from_raw(pid as i32)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    while let Err(nix::errno::Errno::EINTR) = wait() {}
    let mut state = slot.lock();
    let status = state.child.take().map(|mut child| child.wait());
    match status {
        Some(Ok(status)) => status.to_string(),
        Some(Err(error)) => error.to_string(),
        None => "gone".to_owned(),
    }
}
