//! `push0 gc`: deletes what finalized blocks no longer need, now instead of when the reaper comes to it.

use std::collections::BTreeMap;

use push0_core::retention::Retention;
use push0_core::{ChainId, Millis};
use push0_functions::{Sweeper, Swept};
use serde::Serialize;

use crate::args;
use crate::connect::Remote;
use crate::output::Output;

/// Deletions between two looks at where the sweep stands.
const TURN: u64 = 1_000;

#[derive(Serialize)]
struct Shown {
    dry_run: bool,
    chains: BTreeMap<ChainId, Swept>,
}

pub async fn run(args: &args::Gc, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let chains: Vec<ChainId> = match &args.chain {
        Some(chain) => vec![remote.chain(chain)?.chain.clone()],
        None => remote.catalog.chains.keys().cloned().collect(),
    };
    let posted = remote.notice.retention;
    let grace = args.grace_s.map_or(posted.grace, Millis::from_secs);
    let policy = Retention { grace, ..posted };
    let sweeper = match args.dry_run {
        true => Sweeper::that_only_counts(remote.context(), policy),
        false => Sweeper::new(remote.context(), policy),
    };
    let mut shown = Shown { dry_run: args.dry_run, chains: BTreeMap::new() };
    for chain in chains {
        let total = sweep(&sweeper, &chain, args.dry_run).await?;
        shown.chains.insert(chain, total);
    }
    output.show(&shown, || shown.text());
    Ok(())
}

async fn sweep(sweeper: &Sweeper, chain: &ChainId, dry_run: bool) -> anyhow::Result<Swept> {
    let mut total = Swept::default();
    loop {
        let swept = sweeper.sweep(chain, if dry_run { u64::MAX } else { TURN }).await?;
        total.blocks += swept.blocks;
        total.blobs += swept.blobs;
        total.bytes += swept.bytes;
        total.rows += swept.rows;
        if !swept.more {
            return Ok(total);
        }
    }
}

impl Shown {
    fn text(&self) -> String {
        let verb = if self.dry_run { "would free" } else { "freed" };
        let line = |(chain, swept): (&ChainId, &Swept)| {
            let Swept { blocks, blobs, bytes, rows, .. } = swept;
            format!("{chain}: {verb} {bytes} bytes: {blobs} blobs and {rows} rows of {blocks} finalized blocks")
        };
        self.chains.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
