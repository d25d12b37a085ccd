//! `push0 bench`: the benchmarks, on this machine. Nothing of a running push0 is touched.

use push0_bench::Options;

use crate::error::Trouble;
use crate::output::Output;

pub async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    #[cfg(feature = "aws")]
    if options.part == push0_bench::Part::Calls {
        let progress = |what: &str| output.note(&format!("counting: {what}"));
        let report = push0_bench::count_calls(options, &progress).await.map_err(|error| {
            Trouble::failed(format!("{error:#}")).next("start an emulator: scripts/with-emulators push0 bench calls")
        })?;
        output.show(&report, || if options.markdown { report.markdown() } else { report.table() });
        return Ok(());
    }
    let progress = |what: &str| output.note(&format!("measuring: {what}"));
    if options.part == push0_bench::Part::Tail {
        let report = push0_bench::measure_tail(options, &progress).await;
        let report = report.map_err(|error| {
            Trouble::failed(format!("{error:#}")).next("run it again, or in another place with --dir DIR")
        })?;
        output.show(&report, || if options.markdown { report.markdown() } else { report.table() });
        return Ok(());
    }
    let report = push0_bench::run(options, &progress).await.map_err(|error| {
        Trouble::failed(format!("{error:#}"))
            .next("run it again with --only TEXT for what failed, or in another place with --dir DIR")
    })?;
    output.show(&report, || if options.markdown { report.markdown() } else { report.table() });
    Ok(())
}
