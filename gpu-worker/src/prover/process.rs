//! A prover's process: started so that it cannot outlive the worker, killed with what it forked, its log kept.
//!
//! The parent-death signal that the shim asks for fires when the *thread* that started the process ends, whatever the process does.
//! So one thread of the [`Launcher`] starts them all, and lives as long as any clone of it: as long as the worker.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use push0_core::pipeline::ProverCommand;
use push0_core::{ErrorCode, Millis, ProverName};
use push0_runtime::port::Clock;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::debug;

use super::{Onlooker, Seen};
use crate::gpu::Device;
use crate::shim;

/// How much of its stderr a failed prover's message carries, bytes.
const TAIL: usize = 4096;

/// Longest line of stderr that is logged as one, bytes.
const LOG_LINE: u64 = 8 * 1024;

/// How long the process that has closed its stdout may take to end, and its last words to arrive.
pub(super) const LAST_MOMENTS: Millis = Millis(2_000);

/// Environment a prover does not inherit, by how its names begin: it has no business with push0's queues, nor with the worker's AWS account.
/// Where credentials are files or an endpoint the environment only says where; that, too, is not for provers.
const SECRETS: [&str; 2] = ["PUSH0_TOKEN", "AWS_"];

/// What tells CUDA which devices there are: <https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables>.
pub(crate) const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

struct Request {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Starts provers, all from one thread.
#[derive(Clone)]
pub struct Launcher {
    requests: mpsc::Sender<Request>,
    shim: Arc<Vec<String>>,
    onlooker: Option<Arc<dyn Onlooker>>,
    device: Option<Arc<Device>>,
}

impl Launcher {
    /// `shim` is the command that runs [`crate::shim_main`]; empty: provers are executed directly, without limits or parent-death
    /// signal (for tests).
    pub fn new(shim: Vec<String>) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("push0-launcher".to_owned()).spawn(move || {
            while let Ok(Request { mut command, runtime, answer }) = inbox.recv() {
                let _in_runtime = runtime.enter();
                // Nobody waits any more: the child is dropped, and thereby killed.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { requests, shim: Arc::new(shim), onlooker: None, device: None })
    }

    /// Shows what is seen of the processes started from now on.
    pub fn watched_by(&mut self, onlooker: Arc<dyn Onlooker>) {
        self.onlooker = Some(onlooker);
    }

    /// Starts provers that see this device alone.
    pub(crate) fn on(self, device: Arc<Device>) -> Self {
        Self { device: Some(device), ..self }
    }

    pub(super) fn device(&self) -> Option<&Device> {
        self.device.as_deref()
    }

    pub(super) fn onlooker(&self) -> Option<&Arc<dyn Onlooker>> {
        self.onlooker.as_ref()
    }

    /// Starts the prover with further arguments and environment; says what is wrong for people.
    pub(super) async fn launch(
        &self,
        name: &ProverName,
        prover: &ProverCommand,
        further: impl FnOnce(&mut Command),
    ) -> Result<Process, String> {
        let Some((program, arguments)) = prover.command.split_first() else {
            return Err(ErrorCode::ProverMissing.says(format!("prover {name} has an empty command")));
        };
        let path = find_program(program).ok_or_else(|| {
            ErrorCode::ProverMissing.says(format!("prover {name}: no program {program} on this worker"))
        })?;
        let mut command = match self.shim.split_first() {
            None => Command::new(&path),
            Some((shim, shim_arguments)) => {
                let mut command = Command::new(shim);
                command.args(shim_arguments).args(shim::arguments(prover)).arg(&path);
                command
            }
        };
        command.args(arguments);
        std::env::vars_os().filter(|(name, _)| is_secret(name)).for_each(|(name, _)| {
            command.env_remove(name);
        });
        if let Some(device) = &self.device {
            command.env(VISIBLE_DEVICES, &device.uuid);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own group: killed with what it forks, and not by a terminal's Ctrl-C, which is the worker's to obey.
        command.process_group(0).kill_on_drop(true);
        further(&mut command);

        let (answer, started) = oneshot::channel();
        let request = Request { command, runtime: Handle::current(), answer };
        let gone = || ErrorCode::InvariantBroken.says("the thread that starts provers is gone");
        self.requests.send(request).map_err(|_| gone())?;
        let child = started.await.map_err(|_| gone())?;
        let child = child.map_err(|error| {
            ErrorCode::ProverMissing.says(format!("cannot start prover {name} ({}): {error}", path.display()))
        })?;
        Ok(Process::new(name, child, self.onlooker.clone()))
    }
}

fn is_secret(name: &OsStr) -> bool {
    SECRETS.iter().any(|secret| name.as_encoded_bytes().starts_with(secret.as_bytes()))
}

/// Where a prover's program is: one without `/` is looked up beside this executable, then in `PATH`. `None`: there is none that can be run.
pub fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| is_executable(path));
    }
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join(program));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(program));
    beside.into_iter().chain(on_path).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A running prover. Killed, with its group, on drop.
pub(super) struct Process {
    child: Child,
    log: Log,
    log_reader: Option<JoinHandle<()>>,
    onlooker: Option<Arc<dyn Onlooker>>,
    /// Its number, until its end was shown.
    shown: Option<u32>,
}

/// The end of a process's stderr.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<VecDeque<u8>>>);

impl Log {
    fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }

    pub(super) fn text(&self) -> String {
        let tail: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&tail).trim().to_owned()
    }
}

impl Process {
    fn new(name: &ProverName, mut child: Child, onlooker: Option<Arc<dyn Onlooker>>) -> Self {
        let shown = child.id();
        if let (Some(onlooker), Some(process)) = (&onlooker, shown) {
            onlooker.sees(Seen::Started(process));
        }
        let log = Log::default();
        let log_reader =
            child.stderr.take().map(|stderr| tokio::spawn(follow(name.clone(), stderr, log.clone(), onlooker.clone())));
        Self { child, log, log_reader, onlooker, shown }
    }

    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub(super) fn log(&self) -> Log {
        self.log.clone()
    }

    pub(super) fn is_running(&mut self) -> bool {
        let group = self.child.id();
        let is_running = matches!(self.child.try_wait(), Ok(None));
        if !is_running {
            group.into_iter().for_each(kill_group);
        }
        is_running
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let group = self.child.id();
        let status = self.child.wait().await?;
        // What it forked goes with it. The number cannot have been given to another process in the moment since.
        group.into_iter().for_each(kill_group);
        Ok(status)
    }

    fn show_end(&mut self, status: Option<ExitStatus>) {
        if let (Some(onlooker), Some(process)) = (&self.onlooker, self.shown.take()) {
            onlooker.sees(Seen::Ended(process, status));
        }
    }

    /// Its exit status, where it ends soon (it has closed its stdout); killed otherwise. Then its last words.
    pub(super) async fn end(&mut self, clock: &dyn Clock) -> (Option<ExitStatus>, String) {
        let limit = clock.now().plus(LAST_MOMENTS);
        let status = tokio::select! {
            biased;
            status = self.wait() => status.ok(),
            () = clock.sleep_until(limit) => None,
        };
        if status.is_none() {
            self.kill();
            let _ = self.child.wait().await;
        }
        self.show_end(status);
        if let Some(log_reader) = self.log_reader.take() {
            tokio::select! {
                biased;
                _ = log_reader => {}
                () = clock.sleep_until(clock.now().plus(LAST_MOMENTS)) => {}
            }
        }
        (status, self.log.text())
    }

    pub(super) fn kill(&mut self) {
        // `id` is there only as long as the process has not been waited for: its number is still its own.
        self.child.id().into_iter().for_each(kill_group);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.show_end(None);
    }
}

fn kill_group(leader: u32) {
    let _ = killpg(Pid::from_raw(leader as i32), Signal::SIGKILL);
}

/// "exit code 3" or "signal 9".
pub(super) fn describe(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        None => "closed its stdout without ending".to_owned(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
    }
}

async fn follow(name: ProverName, stderr: ChildStderr, log: Log, onlooker: Option<Arc<dyn Onlooker>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(LOG_LINE).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => {
                log.push(&line);
                let line = String::from_utf8_lossy(&line);
                if let Some(onlooker) = &onlooker {
                    onlooker.sees(Seen::Logged(line.trim_end()));
                }
                debug!(prover = %name, line = %line.trim_end(), "prover says");
            }
            Err(error) => {
                debug!(prover = %name, %error, "cannot read a prover's stderr");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_log_is_kept() {
        let log = Log::default();
        log.push(&[b'a'; 3 * TAIL]);
        log.push(b"the end\n");
        assert!(log.text().ends_with("aathe end"));
        assert!(log.text().len() <= TAIL);
    }

    #[test]
    fn a_program_is_found_on_the_path_and_a_missing_one_is_not() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-anywhere"), None);
        assert_eq!(find_program("./no-such-program"), None);
        assert_eq!(find_program("/bin/sh"), Some(PathBuf::from("/bin/sh")));
    }
}
