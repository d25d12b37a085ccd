//! `push0 demo`: everything once, in a fresh directory: makes three blocks, runs `push0 up` as a user would, submits them out of order,
//! looks on, checks what was finalized, and stops.

mod make;
mod progress;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use push0_core::record::{BlockStatus, Finality, OutboxRow};
use push0_core::{ChainId, ErrorCode};
use push0_runtime::snapshot;

use crate::args::{self, Pipeline};
use crate::blobs;
use crate::connect::{Remote, Where};
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::settings;
use crate::submit::{self, Candidate};
use crate::verify;

use make::Made;
use progress::Progress;

const CHAIN: &str = "demo";

/// The order they are submitted in: each but the last has to wait for another.
const ORDER: [u64; 3] = [3, 1, 2];

/// How long `up` may take to answer.
const START: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(100);

pub async fn run(args: &args::Demo, output: Output) -> anyhow::Result<()> {
    let begun = Instant::now();
    let dir = directory(args)?;
    output.note(&format!("push0 demo in {}", dir.display()));
    let made = make::blocks(args, &dir)?;
    output.note(&format!("made blocks {} of chain {CHAIN}, {}", list(&made.numbers), made.what));
    make::configuration(args, &dir, &made)?;

    let mut up = Up::start(args, &dir)?;
    let outcome = tokio::select! {
        outcome = play(args, &dir, &made, &mut up, begun, output) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Trouble::failed("interrupted").next("run it again when it may go on to its end").into()),
    };
    if args.keep && outcome.is_ok() {
        output.note(&format!("it stays up until ctrl-c: push0 status --data {}", dir.join("data").display()));
        let _ = tokio::signal::ctrl_c().await;
    }
    let stopped = up.stop().await;
    match outcome {
        Ok(()) => stopped,
        Err(error) => {
            output.note(&format!("the log of push0 up is {}; its last lines:\n{}", up.log.display(), up.last_words()));
            Err(error)
        }
    }
}

/// A directory that is this demo's alone.
fn directory(args: &args::Demo) -> anyhow::Result<PathBuf> {
    let Some(dir) = &args.dir else {
        return Ok(tempfile::Builder::new().prefix("push0-demo-").tempdir()?.keep());
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(Trouble::usage(format!("{} is not empty", dir.display()))
            .next("name a new directory with --dir, or none")
            .coded(ErrorCode::FileExists)
            .into());
    }
    Ok(std::path::absolute(dir)?)
}

async fn play(
    args: &args::Demo,
    dir: &Path,
    made: &Made,
    up: &mut Up,
    begun: Instant,
    output: Output,
) -> anyhow::Result<()> {
    let remote = up.connect().await?;
    output.note(&format!("push0 is up with {} ({})", up.workers(), remote.address));
    let chain: ChainId = CHAIN.parse()?;
    for number in ORDER {
        let candidate = Candidate::read(&made.submission(number))?;
        let submission = submit::upload(&remote, &candidate).await?;
        submit::send(&remote, &submission).await?;
    }
    output.note(&format!("submitted {}, in this order", list(&ORDER)));

    let progress = watch(args, &remote, &chain, made, up, begun).await?;
    let rows = snapshot::finalized(&*remote.table, &chain, 1, 100).await?;
    in_order(&rows, made)?;
    let findings = verify::chain(&remote, remote.chain(&chain)?, None).await?;
    if findings.bad > 0 || findings.verified != made.numbers.len() {
        return Err(Trouble::failed(format!("what was finalized does not hold:\n{}", verify::text(&findings)))
            .next(format!("keep {} as it is, and report this", dir.display()))
            .coded(ErrorCode::NotVerified)
            .into());
    }
    let proofs = dir.join("proofs");
    export(&remote, &rows, &proofs).await?;
    let checked = match args.pipeline {
        Pipeline::Rollup => make::check_states(&rows, &proofs)?,
        Pipeline::Echo => vec!["echo proves nothing: only order and links were checked".to_owned()],
    };
    let timeline = progress.timeline(&remote, &chain, &rows).await?;
    let summary = Summary {
        directory: dir.to_owned(),
        seconds: begun.elapsed().as_secs_f64(),
        blocks: timeline,
        checked,
        proofs,
        log: up.log.clone(),
    };
    output.show(&summary, || progress::text(&summary));
    Ok(())
}

/// What the demo has to show for itself.
#[derive(Debug, serde::Serialize)]
struct Summary {
    directory: PathBuf,
    seconds: f64,
    blocks: Vec<progress::Line>,
    checked: Vec<String>,
    proofs: PathBuf,
    log: PathBuf,
}

/// Looks until all blocks are final.
async fn watch(
    args: &args::Demo,
    remote: &Remote,
    chain: &ChainId,
    made: &Made,
    up: &mut Up,
    begun: Instant,
) -> anyhow::Result<Progress> {
    let mut progress = Progress::new(&made.numbers, begun);
    let config = remote.chain(chain)?;
    loop {
        let snapshot = snapshot::chain(&*remote.table, config, 100).await?;
        progress.saw(&snapshot);
        let failed = snapshot.blocks.iter().find_map(|block| match &block.block.status {
            BlockStatus::Failed { reason } => Some((block.block.number, reason.clone())),
            _ => None,
        });
        if let Some((number, reason)) = failed {
            return Err(Trouble::failed(format!("block {number} failed: {reason}"))
                .next("the log below says more; a prover that was not built: `cargo build --release`, then again")
                .coded(ErrorCode::find(&reason).unwrap_or(ErrorCode::BadBlock))
                .into());
        }
        if made.numbers.iter().all(|number| *number < snapshot.chain.next_final)
            && snapshot.published as usize >= made.numbers.len()
        {
            progress.end();
            return Ok(progress);
        }
        if begun.elapsed() > Duration::from_secs(args.timeout) {
            return Err(Trouble::new(Code::Timeout, format!("not done within {} s", args.timeout))
                .next("a slow machine? give it longer with --timeout")
                .coded(ErrorCode::NotInTime)
                .into());
        }
        up.is_running()?;
        tokio::time::sleep(POLL).await;
    }
}

/// The stream is the blocks, each once, in order.
fn in_order(rows: &[OutboxRow], made: &Made) -> anyhow::Result<()> {
    let numbers: Vec<u64> = rows.iter().map(|row| row.number).collect();
    let seqs: Vec<u64> = rows.iter().map(|row| row.seq).collect();
    if numbers != made.numbers || seqs != (1..=rows.len() as u64).collect::<Vec<_>>() {
        return Err(Trouble::failed(format!(
            "finalized were blocks {} with sequence numbers {}",
            list(&numbers),
            list(&seqs)
        ))
        .next("keep the directory as it is, and report this")
        .coded(ErrorCode::BrokenStream)
        .into());
    }
    Ok(())
}

/// Puts proofs and headers where a person finds them.
async fn export(remote: &Remote, rows: &[OutboxRow], to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for row in rows {
        if let Finality::Proof { proof, header, .. } = &row.finality {
            blobs::fetch(remote, proof, &to.join(format!("{}.proof", row.number))).await?;
            blobs::fetch(remote, header, &to.join(format!("{}.header", row.number))).await?;
        }
    }
    Ok(())
}

fn list(numbers: &[u64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `push0 up` as a child, tied to this process.
struct Up {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    workers: Option<usize>,
}

impl Up {
    fn start(args: &args::Demo, dir: &Path) -> anyhow::Result<Self> {
        let (data, log) = (dir.join("data"), dir.join("up.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = std::env::current_exe()?;
        let mut command = Command::new(&program);
        command.args(["shim", "--"]).arg(format!("--parent={}", std::process::id())).arg("--").arg(&program);
        command.arg("up").arg("--config").arg(dir.join(settings::FILE));
        if let Some(workers) = args.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        // The demo's own settings hold, whatever the environment says.
        for name in ["PUSH0_DATA", "PUSH0_CONFIG", "PUSH0_CONNECT", "PUSH0_TOKEN", "PUSH0_LISTEN", "PUSH0_POOLS"] {
            command.env_remove(name);
        }
        // Ctrl-c is this process's to obey; it then stops `up`.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        let child = child.context("cannot start push0 up")?;
        Ok(Self { child, data, log, workers: args.workers })
    }

    fn workers(&self) -> String {
        self.workers
            .map_or("its local workers".to_owned(), |count| format!("{count} local workers and the trusted one"))
    }

    async fn connect(&mut self) -> anyhow::Result<Remote> {
        let location = Where::unix(&settings::socket(&self.data));
        let deadline = Instant::now() + START;
        loop {
            self.is_running()?;
            match location.open().await {
                Ok(remote) => return Ok(remote),
                Err(error) if Instant::now() >= deadline => return Err(error.context("push0 up does not answer")),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn is_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Trouble::failed(format!("push0 up ended ({status})"))
                .next("its log says why")
                .coded(ErrorCode::HelperFailed)
                .into()),
        }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Stops it as an operator would.
    async fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(Trouble::failed(format!("push0 up did not end well: {status}"))
                        .next(format!("its log {} says why", self.log.display()))
                        .coded(ErrorCode::HelperFailed)
                        .into())
                };
            }
            tokio::time::sleep(POLL).await;
        }
        self.child.kill()?;
        self.child.wait()?;
        Err(Trouble::failed("push0 up did not stop within a minute, and was killed")
            .next(format!("its log {} says what it waited for", self.log.display()))
            .coded(ErrorCode::HelperFailed)
            .into())
    }
}
