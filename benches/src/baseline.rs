//! The baseline: the same graph of tasks by a dispatcher-collector on NATS JetStream, in a process of its own (`benches/jetstream`), so
//! that its client is linked into nothing else.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::report::Measure;

/// The subject of its measures.
pub const JETSTREAM: &str = "JetStream";

pub(crate) const PROGRAM: &str = "push0-bench-jetstream";

/// The full mode takes a few minutes.
const LONGEST: Duration = Duration::from_secs(900);

#[derive(Debug, Deserialize)]
pub struct Baseline {
    pub nats_server: String,
    pub measures: Vec<Measure>,
}

/// Runs one part of it and reads what it measured.
pub async fn run(program: &Path, part: &str, mode: &str, under: &Path) -> anyhow::Result<Baseline> {
    let child = tokio::process::Command::new(program)
        .args([part, mode])
        .arg(under)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(LONGEST, child).await.context("the baseline is stuck")?;
    let ended = ended.with_context(|| format!("cannot run the baseline {}", program.display()))?;
    if !ended.status.success() {
        bail!("the baseline {} ended with {}", program.display(), ended.status);
    }
    serde_json::from_slice(&ended.stdout).context("the baseline's figures do not parse")
}
