//! `push0`: reads the command line, sets up the log and the runtime, and goes to the command.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use push0::args::{Cli, Command, TokenCommand};
use push0::error::{Report, Trouble};
use push0::output::Output;
use push0::settings::{Settings, Sources};
use push0::{
    backup, bench, blobs, bootstrap, demo, dlq, doctor, explain, gc, init, operate, prover, replay, serve, submit,
    token, up, verify, view, worker,
};
use push0_core::ErrorCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // What runs as the shim becomes another program: before any thread is started.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "shim") {
        push0_gpu_worker::shim_main(std::env::args_os().skip(2));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let json = cli.json;
    start_log(&cli.command);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let report = Report::new(&error);
            eprintln!("{}", if json { report.json() } else { report.text() });
            ExitCode::from(report.exit)
        }
    }
}

/// Help and version are answers; everything else is an error, told as it was asked for: the flag itself may be what was not understood.
fn refuse(error: &clap::Error) -> ExitCode {
    let is_answer = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if !is_answer && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let what = text.trim().strip_prefix("error: ").unwrap_or(text.trim()).to_owned();
        let next = "`push0 --help` lists the commands, `push0 COMMAND --help` a command's flags";
        let report = Report::new(&Trouble::usage(what).next(next).coded(ErrorCode::BadUsage).into());
        eprintln!("{}", report.json());
    } else {
        // Nobody to tell if that fails.
        let _ = error.print();
    }
    ExitCode::from(error.exit_code() as u8)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let output = Output::new(cli.json);
    let location = cli.location();
    match &cli.command {
        Command::Demo(args) => demo::run(args, output).await,
        Command::Init(args) => init::run(args, output),
        Command::Up(args) => {
            let sources = Sources::new(args.config.clone())
                .flag("data", cli.data.as_ref().map(|path| path.display()))
                .flag("workers.count", args.workers)
                .flag("listen", args.listen.as_ref())
                .flag("durability", args.durability.as_ref());
            up::run(&settings(&sources)?, &sources, output).await
        }
        Command::Worker(args) => {
            let sources = Sources::new(args.config.clone()).for_worker();
            let sources = sources
                .flag("workers.slots", args.slots)
                .flag("ec2.mode", args.ec2.as_ref())
                .flag("gpu.mode", args.gpu.as_ref());
            worker::run(args, &location, &settings(&sources)?).await
        }
        Command::Bootstrap(args) => {
            let sources = Sources::new(args.config.clone()).flag("aws.endpoint", args.endpoint.as_ref());
            bootstrap::run(args, &sources, &settings(&sources)?, output).await
        }
        Command::Serve(args) => serve::run(args, output).await,
        Command::Prover(args) => prover::run(args, output).await,
        Command::Token(TokenCommand::New(args)) => token::new(args, output),
        Command::Token(TokenCommand::Reload) => token::reload(&location, output).await,
        Command::Submit(args) => submit::run(args, &location.open().await?, output).await,
        Command::Status(args) => view::status(args, &location.open().await?, output).await,
        Command::Block(args) => view::block(args, &location.open().await?, output).await,
        Command::Watch(args) => view::watch(args, &location.open().await?, output).await,
        Command::Why(args) => view::why(args, &location.open().await?, output).await,
        Command::Explain(args) => explain::run(args, output),
        Command::Finalized(args) => view::finalized(args, &location.open().await?, output).await,
        Command::Get(args) => blobs::get(args, &location.open().await?, output).await,
        Command::Doctor(args) => doctor::run(args, &cli, output).await,
        Command::Dlq(args) => dlq::run(args, &location.open().await?, output).await,
        Command::Replay(args) => replay::run(args, &location.open().await?, output).await,
        Command::Verify(args) => verify::run(args, &location.open().await?, output).await,
        Command::Retry(args) => operate::retry(args, &location.open().await?, output).await,
        Command::Replace(args) => operate::replace(args, &location.open().await?, output).await,
        Command::Skip(args) => operate::skip(args, &location.open().await?, output).await,
        Command::Reorg(args) => operate::reorg::run(args, &location.open().await?, output).await,
        Command::Pause(args) => operate::pause(args, &location.open().await?, output).await,
        Command::Resume(args) => operate::resume(args, &location.open().await?, output).await,
        Command::Window(args) => operate::window(args, &location.open().await?, output).await,
        Command::Backup(args) => backup::back_up(args, &location, output).await,
        Command::Gc(args) => gc::run(args, &location.open().await?, output).await,
        Command::Restore(args) => backup::restore(args, &location, output),
        Command::Bench(options) => bench::run(options, output).await,
    }
}

fn settings(sources: &Sources) -> Result<Settings, Trouble> {
    Settings::read(sources).map_err(|mistakes| Trouble::of_mistakes(&mistakes))
}

/// What runs for long says what it does; the rest only warns.
fn start_log(command: &Command) {
    let default = match command {
        Command::Up(_) | Command::Worker(_) | Command::Serve(_) => "info",
        _ => "warn",
    };
    let filter = std::env::var("PUSH0_LOG").ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(filter.as_deref().unwrap_or(default)).unwrap_or_else(|_| EnvFilter::new(default));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !plain)
        .with_target(false)
        .compact()
        .init();
}
