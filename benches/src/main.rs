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
    #[cfg(feature = "aws")]
    if cli.options.part == push0_bench::Part::Calls {
        let report = runtime.block_on(push0_bench::count_calls(&cli.options, &|what| eprintln!("counting: {what}")))?;
        return print(cli.json, cli.options.markdown, &report, || report.markdown(), || report.table());
    }
    if cli.options.part == push0_bench::Part::Tail {
        let report =
            runtime.block_on(push0_bench::measure_tail(&cli.options, &|what| eprintln!("measuring: {what}")))?;
        return print(cli.json, cli.options.markdown, &report, || report.markdown(), || report.table());
    }
    let report = runtime.block_on(push0_bench::run(&cli.options, &|what| eprintln!("measuring: {what}")))?;
    print(cli.json, cli.options.markdown, &report, || report.markdown(), || report.table())
}

fn print(
    json: bool,
    markdown: bool,
    report: &impl serde::Serialize,
    as_markdown: impl FnOnce() -> String,
    as_table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let text = match (json, markdown) {
        (true, _) => serde_json::to_string_pretty(report)?,
        (_, true) => as_markdown(),
        _ => as_table(),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
