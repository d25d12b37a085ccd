//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use push0_core::pipeline::{Form, Kind};
use push0_core::{BlockHash, ChainId, Millis, Pool, Principal, ProverName, StageName, WorkerId};

use crate::connect::Where;

const AFTER: &str = "\
Exit codes: 0 done; 1 failed or refused; 2 wrong usage or configuration; 3 no push0 answers; 4 no such chain, block or blob; \
5 not in time; 6 not everything could be checked (`verify`).
Data goes to stdout, the rest to stderr. NO_COLOR is obeyed. PUSH0_LOG sets the log (like `info` or `push0_runtime=debug`).
Errors name a code: `push0 explain CODE` prints its page. docs/cli.md has more.";

/// Proves blocks: witnesses in, finalized proofs out, strictly in chain order.
#[derive(Debug, Parser)]
#[command(name = "push0", version, after_help = AFTER)]
pub struct Cli {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Where `push0 up` runs: unix:/path/to.sock, http://HOST:PORT, or `aws`: the installation in an AWS account that
    /// push0.toml here (or PUSH0_CONFIG) describes [default: the socket in the data directory].
    #[arg(long, global = true, env = "PUSH0_CONNECT", value_name = "ADDRESS")]
    pub connect: Option<String>,
    /// What to present there; needed over TCP.
    #[arg(long, global = true, env = "PUSH0_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The file that holds it: other users of this machine can see a command line.
    #[arg(long, global = true, env = "PUSH0_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The data directory of `push0 up` [env: PUSH0_DATA] [default: `data` of push0.toml, or ./data].
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    pub fn location(&self) -> Where {
        Where {
            connect: self.connect.clone(),
            token: self.token.clone(),
            token_file: self.token_file.clone(),
            data: self.data.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prove three real blocks, from nothing: the whole system in a fresh directory, then stop it.
    Demo(Demo),
    /// Write a commented push0.toml and a pipeline.
    Init(Init),
    /// Run push0: engine, functions, local workers. Until ctrl-c or SIGTERM, which drain.
    Up(Up),
    /// Run a worker for an `up`, here or on another machine, or (--connect aws) for an installation in an AWS account.
    Worker(Worker),
    /// Create queues, table and buckets in an AWS account or an emulator, and functions; tell and mend what differs there.
    Bootstrap(Bootstrap),
    /// Run the functions in this process against SQS, DynamoDB and S3, as Lambda would. Until ctrl-c or SIGTERM.
    Serve(Serve),
    /// For who writes a prover: check one, begin one.
    #[command(subcommand)]
    Prover(Prover),
    /// Make tokens for worker hosts; have a running push0 read them again.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Submit blocks.
    Submit(Submit),
    /// Chains, blocks in the making, queues, workers.
    Status(Status),
    /// Everything about one block.
    Block(BlockArgs),
    /// Status, live.
    Watch(Watch),
    /// What a block waits for, and what to do about it.
    Why(BlockArgs),
    /// What an error code means and what to do about it; without a code: all of them.
    Explain(Explain),
    /// The finalized stream of a chain, as JSON lines.
    Finalized(Finalized),
    /// Fetch a blob.
    Get(Get),
    /// Check this machine and this installation, and say what to do about what is wrong.
    Doctor(Doctor),
    /// Messages that nobody handles: look at them, send them back, take them out.
    #[command(subcommand)]
    Dlq(Dlq),
    /// Run one task's prover here, on the task's own inputs, to see what it makes or why it fails. Changes nothing.
    Replay(Replay),
    /// Check finalized proofs: one block's, or a whole chain's with its continuity.
    Verify(Verify),
    /// Prove a failed block again, from the same witness.
    Retry(Retry),
    /// Prove another block instead of what is there under its number.
    Replace(Replace),
    /// Leave a number out: a tombstone takes its place in the stream.
    Skip(Skip),
    /// Drop every block from a number on that is not final, so that another fork's blocks can be submitted.
    Reorg(Reorg),
    /// Release no more blocks of a chain; those being proven go on.
    Pause(ChainArg),
    /// Go on after a pause.
    Resume(ChainArg),
    /// Set how many blocks of a chain are proven at once.
    Window(Window),
    /// Copy everything push0 keeps, while it runs or when it is stopped.
    Backup(Backup),
    /// Make a data directory of a backup.
    Restore(Restore),
    /// Measure what the orchestration costs on this machine.
    Bench(push0_bench::Options),
    /// Delete what finalized blocks no longer need, now.
    Gc(Gc),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pipeline {
    Rollup,
    Echo,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Where everything goes; must not exist yet, or be empty [default: a new directory under the system's temporary one].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// What to prove with: the payments rollup, or echo, which proves nothing.
    #[arg(long, value_enum, default_value = "rollup")]
    pub pipeline: Pipeline,
    /// Transfers in each block.
    #[arg(long, default_value_t = 16)]
    pub transfers: u32,
    /// Worker processes.
    #[arg(long)]
    pub workers: Option<usize>,
    /// Leave it running at the end, until ctrl-c.
    #[arg(long)]
    pub keep: bool,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 900)]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct Init {
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    #[arg(long, value_enum, default_value = "rollup")]
    pub pipeline: Pipeline,
    /// Write over files that are there.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Up {
    /// [env: PUSH0_CONFIG] [default: ./push0.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Local worker processes in each pool.
    #[arg(long)]
    pub workers: Option<usize>,
    /// Also listen on TCP; callers need a token.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// What acknowledged work survives: `process` (kill -9) or `power` (power loss, too).
    #[arg(long)]
    pub durability: Option<String>,
}

#[derive(Debug, Args)]
pub struct Worker {
    /// The pool to work for.
    #[arg(long)]
    pub pool: Pool,
    /// Tasks proven at a time.
    #[arg(long)]
    pub slots: Option<usize>,
    /// A configuration whose pipelines name the provers to run, instead of what the push0 there says; needed with --connect aws [env:
    /// PUSH0_CONFIG] [default: ./push0.toml, where there is one].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its name; no two workers may share one. With a token: the token's name, or that and a dash and more [default: from the token's
    /// name, the host's and the process's number; on EC2 the instance's id].
    #[arg(long)]
    pub id: Option<WorkerId>,
    /// For inputs and outputs of tasks in hand [default: push0-worker under the system's temporary directory].
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Whether to heed the EC2 instance it runs on (in service, Spot notices, termination): auto, on, off [env: PUSH0_EC2] [default: auto,
    /// which is off but with --connect aws on a machine of EC2's].
    #[arg(long, value_name = "MODE")]
    pub ec2: Option<String>,
    /// Whether to have a slot for each GPU of this machine instead of --slots: auto (where there are some), on, off [env: PUSH0_GPU]
    /// [default: off].
    #[arg(long, value_name = "MODE")]
    pub gpu: Option<String>,
}

#[derive(Debug, Args)]
pub struct Bootstrap {
    /// [env: PUSH0_CONFIG] [default: ./push0.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// An emulator's address instead of AWS [env: PUSH0_AWS_ENDPOINT] [default: `aws.endpoint` of push0.toml].
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Deploy the Lambda functions, too: their programs are DIR/NAME/bootstrap or DIR/NAME.
    #[arg(long, value_name = "DIR")]
    pub functions: Option<PathBuf>,
    /// The role that new functions run as; an emulator needs none.
    #[arg(long, value_name = "ARN", requires = "functions")]
    pub role: Option<String>,
    /// The emulator's address as functions reach it, where that is another one.
    #[arg(long, value_name = "URL", requires = "functions")]
    pub endpoint_inside: Option<String>,
    /// For tests: every message in hand comes back after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=43_200))]
    pub visibility_s: Option<u32>,
    /// Say what differs, and change nothing: the exit code is 1 if something does.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Against the AWS account that credentials and region in the environment name, or the emulator at `aws.endpoint`.
    #[arg(long)]
    pub aws: bool,
    /// [env: PUSH0_CONFIG] [default: ./push0.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How long a message stays a function's, milliseconds [default: each queue's visibility].
    #[arg(long, value_name = "MS")]
    pub lease_ms: Option<u64>,
    /// Pollers of each standard queue.
    #[arg(long)]
    pub concurrency: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub enum Prover {
    /// Run a prover as a worker would and see whether it keeps to docs/prover-protocol.md: honest work, damaged inputs, cancelling.
    Check(Box<Check>),
    /// Write a prover to begin with, its pipeline, a configuration, and what makes blocks for it.
    New(New),
}

#[derive(Debug, Args)]
pub struct Check {
    /// The prover: program and arguments (behind `--` where they begin with a dash). Without it: --pipeline.
    #[arg(value_name = "COMMAND", required_unless_present = "pipeline", conflicts_with = "pipeline")]
    pub command: Vec<String>,
    /// The form of COMMAND.
    #[arg(long, value_parser = form, requires = "command", required_unless_present = "pipeline")]
    pub form: Option<Form>,
    /// A stage of COMMAND's pipeline, in order [default: what its `hello` offers; for the exec form split, prove, join, verify].
    #[arg(long, value_name = "NAME=KIND", value_parser = stage, requires = "command")]
    pub stage: Vec<(StageName, Kind)>,
    /// The pipeline file that says how the prover is started, its stages, parameters and pins.
    #[arg(long, value_name = "FILE")]
    pub pipeline: Option<PathBuf>,
    /// Judge only this prover of the pipeline; the others just do their part.
    #[arg(long, requires = "pipeline")]
    pub prover: Option<ProverName>,
    /// A block to prove: its submission file. Without a block only the beginning of a session is checked.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["witness", "hash"])]
    pub block: Option<PathBuf>,
    /// The block's witness, where there is no submission file.
    #[arg(long, value_name = "FILE", requires = "hash")]
    pub witness: Option<PathBuf>,
    /// The block's hash.
    #[arg(long, requires = "witness")]
    pub hash: Option<BlockHash>,
    /// The block's chain.
    #[arg(long, default_value = "check", requires = "witness")]
    pub chain: ChainId,
    /// The block's number.
    #[arg(long, default_value_t = 1, requires = "witness")]
    pub number: u64,
    /// Leave a check out; may be repeated.
    #[arg(long, value_name = "CHECK")]
    pub skip: Vec<String>,
    /// Write the digests of the prover's programs into the pipeline file, if nothing is wrong.
    #[arg(long, requires = "pipeline")]
    pub pin: bool,
    /// Seconds until the prover must be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub ready_within: u64,
    /// Milliseconds that a cancelled prover has before a worker kills it.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub grace_ms: u64,
}

#[derive(Debug, Args)]
pub struct New {
    /// The directory to make; its name is the prover's.
    pub dir: PathBuf,
    /// `exec`: one process a task. `session`: a child that stays up, with its keys and device state.
    #[arg(long, value_parser = form, default_value = "session")]
    pub form: Form,
    #[arg(long, value_enum, default_value = "python")]
    pub language: Language,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Python,
    /// Exec form only.
    Sh,
}

fn form(text: &str) -> Result<Form, String> {
    match text {
        "exec" => Ok(Form::Exec),
        "session" => Ok(Form::Session),
        _ => Err("must be `exec` or `session`".to_owned()),
    }
}

fn stage(text: &str) -> Result<(StageName, Kind), String> {
    let (name, kind) = text.split_once('=').ok_or("must be NAME=KIND, such as prove=map")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    let kinds = [Kind::Split, Kind::Map, Kind::Join, Kind::Single, Kind::Verify];
    let kind = kinds.into_iter().find(|known| known.as_str() == kind);
    Ok((name, kind.ok_or("the kind must be split, map, join, single or verify")?))
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: writes it to a file that only you can read, and prints the table for push0.toml.
    New(NewToken),
    /// Have the running push0 read its tokens again: new ones are let in, those that are gone refused.
    Reload,
}

#[derive(Debug, Args)]
pub struct NewToken {
    #[arg(long, value_enum)]
    pub role: TokenRole,
    /// The pool of a worker's token.
    #[arg(long)]
    pub pool: Option<Pool>,
    /// Whose it is, such as the host's name; its workers' ids begin with it.
    #[arg(long)]
    pub name: Principal,
    /// Where the token goes; must not exist yet [default: NAME.token].
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    /// Everything.
    Operator,
    /// Takes and proves the tasks of one pool.
    Worker,
    /// Runs split and verify.
    Trusted,
}

impl TokenRole {
    pub fn as_str(self) -> &'static str {
        match self {
            TokenRole::Operator => "operator",
            TokenRole::Worker => "worker",
            TokenRole::Trusted => "trusted",
        }
    }
}

#[derive(Debug, Args)]
pub struct Submit {
    /// Submission files (JSON with chain, number, hash, parent_hash and witness, a path relative to the file), or with --chain: one witness.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[arg(long, requires_all = ["number", "hash"])]
    pub chain: Option<ChainId>,
    #[arg(long, requires = "chain")]
    pub number: Option<u64>,
    #[arg(long, requires = "chain")]
    pub hash: Option<BlockHash>,
    #[arg(long, requires = "chain")]
    pub parent_hash: Option<BlockHash>,
    /// Your count of reorganisations: with a parent hash, a higher one supersedes the block that is there.
    #[arg(long)]
    pub fork_seq: Option<u64>,
    /// How long after its admission a block shall be final at the latest, like 12s, 1500ms, 5m; else what push0.toml says of its chain.
    #[arg(long, value_name = "TIME", value_parser = length_of_time)]
    pub deadline: Option<Millis>,
    /// Do not wait until the blocks are admitted.
    #[arg(long)]
    pub no_wait: bool,
}

/// A length of time with its unit: `ms`, `s`, `m` or `h`.
fn length_of_time(text: &str) -> Result<Millis, String> {
    let wanted = || format!("{text:?} is no length of time: a whole number and ms, s, m or h, like 12s");
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().map_err(|_| wanted())?;
    let length: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wanted()),
    };
    match number.checked_mul(length) {
        None | Some(0) => Err(wanted()),
        Some(millis) => Ok(Millis(millis)),
    }
}

#[derive(Debug, Args)]
pub struct Status {
    /// Only this chain.
    pub chain: Option<ChainId>,
    /// Empty queues, too.
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct BlockArgs {
    pub chain: ChainId,
    pub number: u64,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// Like P0-012.
    pub code: Option<String>,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// Only this chain.
    pub chain: Option<ChainId>,
    /// Stop when this block is final.
    #[arg(long, requires = "chain")]
    pub until: Option<u64>,
    /// Milliseconds between looks.
    #[arg(long, default_value_t = 500)]
    pub every_ms: u64,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Finalized {
    #[arg(required = true)]
    pub chain: Option<ChainId>,
    /// The first sequence number wanted.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Go on with what is finalized later.
    #[arg(long)]
    pub follow: bool,
    #[command(subcommand)]
    pub how: Option<HowFinalized>,
}

#[derive(Debug, Subcommand)]
pub enum HowFinalized {
    /// Consume `finalized.fifo`, all chains, as an L1 submitter would: each block is printed, remembered, and taken from the queue.
    Tail(Tail),
}

#[derive(Debug, Args)]
pub struct Tail {
    /// Remembers the last sequence number of each chain, across restarts.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Stop after so many blocks.
    #[arg(long)]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Get {
    pub key: String,
    /// A file that does not exist yet; `-` for stdout.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration to check [env: PUSH0_CONFIG] [default: ./push0.toml]. With --connect nothing local is checked without it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read every blob, too, and compare it with its digest.
    #[arg(long)]
    pub deep: bool,
    /// Check the installation in an AWS account that the configuration names: who asks, what is there, quotas, instances.
    #[arg(long)]
    pub aws: bool,
    /// Send a block through it, too: one that is made up for a chain of push0-echo, or that of a submission file.
    #[arg(long, value_name = "CHAIN|FILE.json", requires = "aws")]
    pub smoke: Option<String>,
    /// How long that block may take, like 90s, 15m.
    #[arg(long, value_name = "TIME", default_value = "15m", requires = "smoke", value_parser = length_of_time)]
    pub timeout: Millis,
}

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// All of them: in `poison`, and in dead-letter queues.
    List,
    /// One, whole.
    Show { id: String },
    /// Send messages back to the queue they came from, once.
    Redrive(Redrive),
    /// Take messages out for good; they are printed once more.
    Drop {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Why; it goes into push0's log.
        #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub struct Redrive {
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    pub all: bool,
    /// With --all: only those that lie in this queue.
    #[arg(long, requires = "all")]
    pub queue: Option<String>,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// A task as `push0 why` and `push0 block` print it; or CHAIN NUMBER NODE: the last attempt at a node of the block's last run.
    #[arg(required = true, num_args = 1..=3, value_name = "TASK")]
    pub task: Vec<String>,
    /// Where inputs and output go, and stay; must not exist yet, or be empty [default: a temporary directory].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Keep the temporary directory.
    #[arg(long)]
    pub keep: bool,
    /// Run this program, with the arguments behind it, instead of the configured prover: takes the rest of the line.
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true)]
    pub prover_command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Verify {
    pub chain: ChainId,
    /// Only this block.
    pub number: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// Seconds to wait for the effect.
    #[arg(long, default_value_t = 15)]
    pub wait: u64,
}

#[derive(Debug, Args)]
pub struct Retry {
    pub chain: ChainId,
    #[arg(required = true, value_name = "NUMBER")]
    pub numbers: Vec<u64>,
    /// Give up a run that is going on, and begin anew.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Replace {
    /// The submission file of the block to prove instead.
    pub file: PathBuf,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Skip {
    pub chain: ChainId,
    pub number: u64,
    /// Why; it goes into the finalized stream.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Reorg {
    pub chain: ChainId,
    /// The first block to go; all behind it go, too.
    pub number: u64,
    /// Why, for whoever asks later.
    #[arg(long, default_value = "reorg")]
    pub reason: String,
    /// Say what would be dropped, and drop nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct ChainArg {
    pub chain: ChainId,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Window {
    pub chain: ChainId,
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub blocks: u32,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// A new directory, on the machine where push0 runs.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Check a backup that was made earlier, every byte of it, and change nothing.
    #[arg(long)]
    pub verify: bool,
}

#[derive(Debug, Args)]
pub struct Gc {
    /// Only this chain.
    pub chain: Option<ChainId>,
    /// Say what would go, and delete nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Instead of `retention.grace_s`: seconds that a block keeps everything after it was settled.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3_153_600_000))]
    pub grace_s: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// What `push0 backup` made. It goes into the directory that --data names, which must be empty or absent.
    #[arg(value_name = "BACKUP")]
    pub backup: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_go_anywhere() {
        for line in ["push0 --json --data /d status", "push0 status --json --data /d"] {
            let cli = parse(line).unwrap();
            assert!(cli.json);
            assert_eq!(cli.location().address(), "unix:/d/push0.sock");
        }
        assert_eq!(parse("push0 status --connect http://h:1").unwrap().location().address(), "http://h:1");
    }

    #[test]
    fn a_deadline_has_a_unit() {
        for (text, wanted) in [("12s", 12_000), ("1500ms", 1_500), ("5m", 300_000), ("2h", 7_200_000)] {
            assert_eq!(length_of_time(text), Ok(Millis(wanted)));
        }
        for bad in ["12", "s", "0s", "-1s", "1.5s", "12 s", "99999999999999999999s", "9999999999999999h", "3d"] {
            assert!(length_of_time(bad).unwrap_err().contains("no length of time"), "{bad}");
        }
    }

    #[test]
    fn a_submission_on_the_command_line_is_whole_or_refused() {
        let hash = "ab".repeat(32);
        assert!(parse("push0 submit a.json b.json").is_ok());
        assert!(parse(&format!("push0 submit --chain c --number 1 --hash {hash} w")).is_ok());
        for bad in
            ["push0 submit", "push0 submit --chain c w", "push0 submit --number 1 w", "push0 submit --chain C_ w"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in
            ["push0 skip demo 1", "push0 window demo 0", "push0 window demo 257", "push0 why demo", "push0 nothing"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("push0 skip demo 1 --reason lost").is_ok());
        assert!(parse("push0 window demo 256").is_ok());
    }
}
