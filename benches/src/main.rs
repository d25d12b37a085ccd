//! `push0-bench`: the same as `push0 bench`, without the rest of push0.

use std::io::Write as _;

use clap::Parser;
use push0_bench::Options;

#[derive(Debug, Parser)]
#[command(name = "push0-bench", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    // What runs as the shim becomes another program: before any thread is started.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "shim") {
        push0_gpu_worker::shim_main(std::env::args_os().skip(2));
    }
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(push0_bench::run(&cli.options, &|what| eprintln!("measuring: {what}")))?;
    let text = match (cli.json, cli.options.markdown) {
        (true, _) => serde_json::to_string_pretty(&report)?,
        (_, true) => report.markdown(),
        _ => report.table(),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
