//! The session form: a long-lived child, newline-delimited JSON on its stdin and stdout.
//!
//! A session is given up, and its process killed, as soon as it breaks the protocol: nothing after that can be trusted to line up.

use std::sync::Arc;

use push0_core::message::TaskMessage;
use push0_core::pipeline::ProverCommand;
use push0_core::record::clip_middle;
use push0_core::{ErrorCode, ProverName, Sha256};
use push0_prover::wire::{self, FromProver, Hello, PROTOCOL_VERSION, ToProver};
use push0_runtime::port::Clock;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::memory::{self, Kills};
use super::process::{LAST_MOMENTS, Log, Process, describe};
use super::{EXECUTABLE, Failure, Job, Launcher, Onlooker, Outcome, Seen, Watch, answer, executable};

/// Longest line taken from a prover, bytes, without its newline.
const MAX_LINE: usize = 1 << 20;

/// Messages read ahead; a prover that talks more than is listened to waits.
const READ_AHEAD: usize = 16;

pub(super) struct Session {
    name: ProverName,
    process: Process,
    stdin: ChildStdin,
    said: mpsc::Receiver<Said>,
    hello: Hello,
    clock: Arc<dyn Clock>,
    onlooker: Option<Arc<dyn Onlooker>>,
    /// Of the program file, as it was when this was started; only where it was asked for.
    executable: Option<Sha256>,
}

pub(super) enum Said {
    Message(FromProver),
    /// Not a message of the protocol: the beginning of the line, or what is wrong with it.
    Garbage(String),
}

impl Session {
    /// Starts the prover and waits for its `hello`.
    pub(super) async fn start(
        launcher: &Launcher,
        name: &ProverName,
        prover: &ProverCommand,
        clock: Arc<dyn Clock>,
        pins_executable: bool,
        started: impl FnOnce(Log),
    ) -> Result<Self, Failure> {
        let executable = match pins_executable {
            true => Some(executable::digest(prover).await.map_err(Failure::retryable)?),
            false => None,
        };
        let piped = |command: &mut tokio::process::Command| {
            command.stdin(std::process::Stdio::piped());
        };
        let kills = Kills::now();
        let mut process = launcher.launch(name, prover, piped).await.map_err(Failure::retryable)?;
        started(process.log());
        let (Some(stdin), Some(stdout)) = (process.take_stdin(), process.take_stdout()) else {
            let what = format!("prover {name} has no stdin or stdout");
            return Err(Failure::retryable(ErrorCode::InvariantBroken.says(what)));
        };
        let (say, mut said) = mpsc::channel(READ_AHEAD);
        tokio::spawn(listen(stdout, say, launcher.onlooker().cloned()));

        let hello = match hear(&mut said, &mut process, &*clock).await {
            Some(Said::Message(FromProver::Hello(hello))) => hello,
            Some(Said::Message(_)) => {
                return Err(broke_protocol(format!("prover {name} did not begin with hello")));
            }
            Some(Said::Garbage(line)) => {
                return Err(broke_protocol(format!("prover {name} said what is not in the protocol: {line}")));
            }
            None => return Err(crashed(name, &mut process, &*clock, kills).await),
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(broke_protocol(format!(
                "prover {name} speaks protocol {}, this worker {PROTOCOL_VERSION}",
                hello.protocol
            )));
        }
        info!(prover = %name, version = hello.version, device = hello.device, "prover is ready");
        let onlooker = launcher.onlooker().cloned();
        Ok(Self { name: name.clone(), process, stdin, said, hello, clock, onlooker, executable })
    }

    pub(super) fn name(&self) -> &ProverName {
        &self.name
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.process.is_running() && !self.said.is_closed()
    }

    /// Whether it is known which program file this runs, where the task's pipeline pins it.
    pub(super) fn can_tell(&self, task: &TaskMessage) -> bool {
        self.executable.is_some() || !task.programs.contains_key(EXECUTABLE)
    }

    /// Whether this prover is the one that the task's pipeline pins.
    pub(super) fn suits(&self, task: &TaskMessage) -> Result<(), Failure> {
        let wanted = wire::StageOffer { name: task.stage.to_string(), kind: answer::wire_kind(task.kind) };
        if !self.hello.stages.contains(&wanted) {
            let (name, version, stage) = (&self.name, &self.hello.version, &task.stage);
            let kind = task.kind.as_str();
            let what = format!("prover {name} {version} on this worker does not offer stage {stage} of kind {kind}");
            return Err(Failure::retryable(ErrorCode::StageNotOffered.says(what)));
        }
        for (program, pinned) in &task.programs {
            let offered = match program.as_str() {
                EXECUTABLE => self.executable.map(|digest| digest.to_string()),
                _ => self.hello.programs.get(program).map(|digest| digest.to_ascii_lowercase()),
            };
            if offered.as_deref() != Some(&pinned.to_string()) {
                return Err(executable::differs(&self.name, program, offered.as_deref(), pinned));
            }
        }
        Ok(())
    }

    /// Proves one task. The session comes back where it can take another.
    pub(super) async fn prove(mut self, job: &Job, watch: &Watch) -> (Outcome, Option<Self>) {
        let (task, output) = match answer::task(job, watch.clock().now()) {
            Ok(told) => told,
            Err(failure) => return (failure.into(), Some(self)),
        };
        let kills = Kills::now();
        let id = task.id.clone();
        let further = self.onlooker.as_ref().map(|onlooker| onlooker.further_fields()).unwrap_or_default();
        if let Some(onlooker) = &self.onlooker {
            onlooker.sees(Seen::Told(&id));
        }
        if self.tell(&answer::message(task, further)).await.is_err() {
            return (self.crash(kills).await, None);
        }
        let mut cancelled = false;
        loop {
            let said = tokio::select! {
                biased;
                said = hear(&mut self.said, &mut self.process, &*self.clock) => said,
                () = watch.cancelled(), if !cancelled => {
                    cancelled = true;
                    debug!(task = id, "cancelling");
                    // A prover that does not listen is killed when its grace is over.
                    let _ = self.tell(&ToProver::Cancel { id: id.clone() }).await;
                    continue;
                }
            };
            match said {
                Some(Said::Message(FromProver::Progress { id: about, fraction, message })) => {
                    if about == id {
                        watch.progressed_to(fraction);
                        debug!(task = id, fraction, message, "progress");
                    }
                }
                Some(Said::Message(FromProver::Done { id: about, result })) if about == id => {
                    return (answer::done(job, &output, result), Some(self));
                }
                Some(Said::Message(FromProver::Failed { id: about, failure })) if about == id => {
                    return (answer::failed(job, failure), Some(self));
                }
                Some(Said::Message(_)) => {
                    let why = format!("prover {} answered what it was not asked, and was killed", self.name);
                    return (broke_protocol(why).into(), None);
                }
                Some(Said::Garbage(line)) => {
                    let why = format!("prover {} said what is not in the protocol, and was killed: {line}", self.name);
                    return (broke_protocol(why).into(), None);
                }
                None => return (self.crash(kills).await, None),
            }
        }
    }

    async fn tell(&mut self, message: &impl serde::Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        self.stdin.flush().await
    }

    async fn crash(mut self, kills: Kills) -> Outcome {
        crashed(&self.name, &mut self.process, &*self.clock, kills).await.into()
    }

    /// Ends it: the end of stdin means exit; what does not, is killed.
    pub(super) async fn close(self) {
        let Self { mut process, stdin, said, clock, .. } = self;
        drop((stdin, said));
        process.end(&*clock).await;
    }
}

/// What the prover says next; `None` when it has ended. Its end counts, not only its stdout's: what it forked may hold that open.
async fn hear(said: &mut mpsc::Receiver<Said>, process: &mut Process, clock: &dyn Clock) -> Option<Said> {
    tokio::select! {
        biased;
        said = said.recv() => return said,
        _ = process.wait() => {}
    }
    // What it said last may still be on its way.
    tokio::select! {
        biased;
        said = said.recv() => said,
        () = clock.sleep_until(clock.now().plus(LAST_MOMENTS)) => None,
    }
}

/// `kills`: as they were when what it ended over began.
async fn crashed(name: &ProverName, process: &mut Process, clock: &dyn Clock, kills: Kills) -> Failure {
    let (status, last_words) = process.end(clock).await;
    let how = describe(status);
    info!(prover = %name, how, "prover crashed");
    let what = format!("prover {name} {how}\n{last_words}");
    if memory::ran_out(status, &last_words, kills, Kills::now()) {
        return Failure::out_of_memory(ErrorCode::ProverOutOfMemory.says(what.trim_end()));
    }
    Failure::retryable(ErrorCode::ProverCrashed.says(what.trim_end()))
}

fn broke_protocol(what: String) -> Failure {
    Failure::retryable(ErrorCode::ProverBrokeProtocol.says(what))
}

/// Reads stdout line by line, until it ends or is no longer listened to.
async fn listen(stdout: ChildStdout, say: mpsc::Sender<Said>, onlooker: Option<Arc<dyn Onlooker>>) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    while let Some(said) = next(&mut stdout, &mut line).await {
        if let Some(onlooker) = &onlooker {
            onlooker.sees(match &said {
                Said::Message(message) => Seen::Said(message),
                Said::Garbage(line) => Seen::Garbage(line),
            });
        }
        let is_over = matches!(said, Said::Garbage(_));
        if say.send(said).await.is_err() || is_over {
            return;
        }
    }
}

/// The next line that is not empty, as it is understood; `None` at the end. `line` is room to read into.
pub(super) async fn next(stdout: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Option<Said> {
    loop {
        line.clear();
        return match read_line(stdout, line).await {
            Ok(false) => None,
            Ok(true) if line.trim_ascii().is_empty() => continue,
            Ok(true) => Some(match serde_json::from_slice(line) {
                Ok(message) => Said::Message(message),
                Err(error) => Said::Garbage(format!("{} in {:?}", clip_middle(&error.to_string(), 500), excerpt(line))),
            }),
            Err(error) => Some(Said::Garbage(error.to_string())),
        };
    }
}

/// Reads up to a newline or the end; false at the end.
async fn read_line(stdout: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let buffer = stdout.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(!line.is_empty());
        }
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let count = newline.map_or(buffer.len(), |at| at + 1);
        if line.len() + count - usize::from(newline.is_some()) > MAX_LINE {
            return Err(std::io::Error::other(format!("a line of more than {MAX_LINE} bytes")));
        }
        line.extend_from_slice(&buffer[..count]);
        stdout.consume(count);
        if newline.is_some() {
            return Ok(true);
        }
    }
}

fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().to_owned()
}
