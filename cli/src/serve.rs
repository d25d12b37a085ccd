//! `push0 serve`: the functions in a process of their own, against SQS, DynamoDB and S3: what Lambda runs, without Lambda.
//!
//! Any number of these may run, beside Lambda functions or instead of them: what is decided is decided by conditional writes. Nothing is
//! kept here, so killing it costs what was in hand one lease.

use crate::args::Serve;
use crate::error::Trouble;
use crate::output::Output;

/// Runs until SIGTERM or ctrl-c.
#[cfg(not(feature = "aws"))]
pub async fn run(_args: &Serve, _output: Output) -> anyhow::Result<()> {
    Err(Trouble::without_aws("push0 serve").into())
}

#[cfg(feature = "aws")]
pub use aws::run;

#[cfg(feature = "aws")]
mod aws {
    use std::sync::Arc;

    use push0_core::topology::Topology;
    use push0_runtime::aws::{Connection, ports};
    use push0_runtime::drive::Context;
    use push0_runtime::http::Ports;
    use push0_runtime::port::SystemClock;
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::watch;

    use super::{Output, Serve, Trouble};
    use crate::settings::{Settings, Sources};
    use crate::up::functions;

    /// Runs until SIGTERM or ctrl-c.
    pub async fn run(args: &Serve, output: Output) -> anyhow::Result<()> {
        // Asked for first: a signal during start-up is obeyed, not fatal.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        if !args.aws {
            return Err(Trouble::usage("push0 serve runs the functions against AWS, and --aws is not given")
                .next("`push0 serve --aws`; without AWS, `push0 up` runs engine, functions and workers")
                .into());
        }
        let sources = Sources::new(args.config.clone())
            .flag("functions.lease_ms", args.lease_ms)
            .flag("functions.concurrency", args.concurrency);
        let settings = Settings::read(&sources).map_err(|mistakes| Trouble::of_mistakes(&mistakes))?;
        let topology = Topology::built_in();
        let connection = Connection::new(settings.aws.clone()).await;
        let of = |name| ports(&connection.clone().acting_as(name), &topology);
        let Ports { queue, table, blobs } = of("dispatcher");
        let catalog = Arc::new(settings.catalog.clone());
        let shared = Context::new(queue, table, blobs, Arc::new(SystemClock), catalog);
        let contexts = functions::Contexts::new(|name| shared.clone().with_ports(of(name)));
        let mappings = functions::mappings(&topology, &settings.catalog.pools(), &settings);
        let greeting = greeting(&settings, mappings.len());
        let (stop, stopped) = watch::channel(false);
        let running = functions::start(&contexts, mappings, None, &settings, &stopped);
        output.note(&greeting);

        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        output.note("push0: finishing what is in hand; once more to stop at once");
        stop.send_replace(true);
        tokio::select! {
            () = running.finish() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }

    fn greeting(settings: &Settings, queues: usize) -> String {
        let chains: Vec<String> = settings.catalog.chains.keys().map(ToString::to_string).collect();
        let at = settings.aws.endpoint.as_deref().unwrap_or("AWS");
        format!(
            "push0 serves {} at {at} (pid {}): chains {}; {queues} queues",
            settings.aws.prefix,
            std::process::id(),
            chains.join(", ")
        )
    }
}
