//! `push0 bench`: the benchmarks, on this machine. Nothing of a running push0 is touched.

use push0_bench::Options;

use crate::error::Trouble;
use crate::output::Output;

pub async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let progress = |what: &str| output.note(&format!("measuring: {what}"));
    let report = push0_bench::run(options, &progress).await.map_err(|error| {
        Trouble::failed(format!("{error:#}"))
            .next("run it again with --only TEXT for what failed, or in another place with --dir DIR")
    })?;
    output.show(&report, || if options.markdown { report.markdown() } else { report.table() });
    Ok(())
}
