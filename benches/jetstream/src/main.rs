//! The baseline of push0's benchmarks: the same graphs of tasks, by a dispatcher-collector on NATS JetStream.
//!
//! Written to be as good as this design can be without giving up what it is for: nothing is lost when a worker or the collector dies,
//! as long as the server lives.
//!
//! - A **work queue** a kind of task, and one for results: streams with file storage and work-queue retention, pull consumers with
//!   explicit acknowledgement.
//! - A **worker** has a connection of its own and a pull request open. It takes one task, publishes the result and waits for the
//!   server's word that it is stored, then acknowledges the task and waits for that to be confirmed (double acknowledgement).
//! - The **collector** takes results by the hundred, joins them by key in memory, and handles up to 64 at a time: it publishes the
//!   dependent, waits until that is stored, then acknowledges the result, confirmed.
//!
//! Kinder to it than push0 is to itself: artifacts (256 bytes) travel in the result, so nothing is stored beside the queues, no input is
//! fetched, no start is announced; the collector keeps its joins in memory alone and would have to be rebuilt from the stream; there is
//! no retry, no revocation, no order of blocks. File storage without a sync for each message: what `process` durability is.
//!
//! `push0-bench-jetstream overhead|scaling tiny|short|full DIR` prints its figures as JSON.

mod measure;
mod pipeline;
mod server;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::measure::{Effort, Figures};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [part, mode, under] = &args[..] else {
        bail!("usage: push0-bench-jetstream overhead|scaling tiny|short|full DIR");
    };
    let effort = Effort::of(mode).with_context(|| format!("there is no mode {mode}"))?;
    let under = PathBuf::from(under);
    let measures = match part.as_str() {
        "overhead" => measure::overhead(&effort, &under).await?,
        "scaling" => measure::scaling(&effort, &under).await?,
        other => bail!("there is no part {other}"),
    };
    let figures = Figures { nats_server: server::version().await?, measures };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
