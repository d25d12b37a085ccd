//! The provers of one slot: sessions kept warm between tasks, restarted with back-off when they crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use push0_core::message::TaskMessage;
use push0_core::pipeline::{Form, ProverCommand};
use push0_core::{ErrorCode, Millis, ProverName};
use push0_runtime::port::Clock;
use tracing::debug;

use super::process::Log;
use super::session::Session;
use super::{EXECUTABLE, Failure, Job, Launcher, Onlooker, Outcome, Prover, Watch, exec, executable};

/// Pause before a session that has crashed before is started again; doubles with each further crash in a row.
const FIRST_RESTART: Millis = Millis(100);
const LONGEST_RESTART: Millis = Millis(10_000);

/// At most one task at a time, by whichever of the configured provers it wants.
pub struct Provers {
    commands: Arc<BTreeMap<ProverName, ProverCommand>>,
    launcher: Launcher,
    clock: Arc<dyn Clock>,
    /// Sessions kept at a time.
    warm: usize,
    /// The least recently used first.
    sessions: Vec<Session>,
    /// How often in a row a prover ended otherwise than by answering.
    crashes: BTreeMap<ProverName, u32>,
    /// Of the process started last.
    log: Option<Log>,
}

impl Provers {
    pub fn new(
        commands: Arc<BTreeMap<ProverName, ProverCommand>>,
        launcher: Launcher,
        clock: Arc<dyn Clock>,
        warm: usize,
    ) -> Self {
        let (sessions, crashes) = (Vec::new(), BTreeMap::new());
        Self { commands, launcher, clock, warm: warm.max(1), sessions, crashes, log: None }
    }

    /// Shows what is seen of the processes started from now on.
    pub fn watched_by(&mut self, onlooker: Arc<dyn Onlooker>) {
        self.launcher.watched_by(onlooker);
    }

    /// Ends all sessions, giving each the chance to exit by itself.
    pub async fn close(&mut self) {
        for session in self.sessions.drain(..) {
            session.close().await;
        }
    }

    fn command(&self, name: &ProverName) -> Result<&ProverCommand, Failure> {
        self.commands.get(name).ok_or_else(|| {
            let what = format!("this worker has no prover named {name}");
            Failure::retryable(ErrorCode::StageNotOffered.says(what))
        })
    }

    /// Whether the device of this slot has the memory that the prover needs. What is in use does not count: it may be the prover's own.
    fn fits(&self, name: &ProverName, command: &ProverCommand) -> Result<(), Failure> {
        let Some((device, has)) = self.launcher.device().and_then(|device| Some((device, device.memory? >> 20))) else {
            return Ok(());
        };
        match command.gpu_memory_mib {
            Some(needs) if needs > has => {
                let what = format!("prover {name} needs {needs} MiB of device memory, {} has {has}", device.uuid);
                Err(Failure::out_of_memory(ErrorCode::ProverOutOfMemory.says(what)))
            }
            _ => Ok(()),
        }
    }

    /// Takes the running session of that name, if there is one.
    fn take(&mut self, name: &ProverName) -> Option<Session> {
        let position = self.sessions.iter().position(|session| session.name() == name)?;
        let mut session = self.sessions.remove(position);
        session.is_running().then_some(session)
    }

    async fn start(&mut self, name: &ProverName, pins_executable: bool) -> Result<Session, Failure> {
        while self.sessions.len() >= self.warm {
            self.sessions.remove(0).close().await;
        }
        let crashes = self.crashes.get(name).copied().unwrap_or(0);
        if crashes > 0 {
            let pause = Millis(FIRST_RESTART.0 << (crashes - 1).min(16)).min(LONGEST_RESTART);
            debug!(prover = %name, crashes, pause_ms = pause.0, "waiting before the prover is started again");
            self.clock.sleep_until(self.clock.now().plus(pause)).await;
        }
        // Counted before, so that a start that is given up counts too.
        self.crashes.insert(name.clone(), crashes + 1);
        let command = self.command(name)?.clone();
        let (log, clock) = (&mut self.log, Arc::clone(&self.clock));
        let show = |new| *log = Some(new);
        let session = Session::start(&self.launcher, name, &command, clock, pins_executable, show).await?;
        self.crashes.insert(name.clone(), crashes);
        Ok(session)
    }
}

#[async_trait]
impl Prover for Provers {
    async fn ready(&mut self, task: &TaskMessage) -> Result<(), Failure> {
        let command = self.command(&task.prover)?;
        self.fits(&task.prover, command)?;
        if command.form == Form::Exec {
            return executable::suits(&task.prover, command, task).await;
        }
        let session = match self.take(&task.prover) {
            Some(session) if session.can_tell(task) => session,
            unusable => {
                if let Some(session) = unusable {
                    session.close().await;
                }
                self.start(&task.prover, task.programs.contains_key(EXECUTABLE)).await?
            }
        };
        let suits = session.suits(task);
        self.sessions.push(session);
        suits
    }

    async fn prove(&mut self, job: &Job, watch: &Watch) -> Outcome {
        let name = &job.task.prover;
        let command = match self.command(name) {
            Ok(command) => command.clone(),
            Err(failure) => return failure.into(),
        };
        if command.form == Form::Exec {
            let log = &mut self.log;
            return exec::prove(&self.launcher, &command, job, watch, |new| *log = Some(new)).await;
        }
        let Some(session) = self.take(name) else {
            let what = format!("prover {name} ended before it was given the task");
            return Failure::retryable(ErrorCode::ProverCrashed.says(what)).into();
        };
        // The session is not in `self` while it proves: if this future is dropped, it goes too, and is killed.
        let crashes = self.crashes.insert(name.clone(), self.crashes.get(name).copied().unwrap_or(0) + 1);
        let (outcome, session) = session.prove(job, watch).await;
        match session {
            Some(session) => {
                self.crashes.remove(name);
                self.sessions.push(session);
            }
            None => debug!(prover = %name, before = crashes.unwrap_or(0), "prover will be started again"),
        }
        outcome
    }

    fn shows_progress(&self, task: &TaskMessage) -> bool {
        self.commands.get(&task.prover).is_some_and(|command| command.form == Form::Session)
    }

    fn last_words(&self) -> String {
        self.log.as_ref().map(Log::text).unwrap_or_default()
    }
}
