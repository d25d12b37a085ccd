//! The function host of `up`: every mapping of the topology, and the reaper and the sweeper on their timer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use push0_core::message::queue;
use push0_core::topology::Topology;
use push0_core::{ChainId, ErrorCode, Millis, Pool};
use push0_functions::{Collector, Dispatcher, Reaper, Sweeper, Swept};
use push0_runtime::drive::Context;
use push0_runtime::engine::Engine;
use push0_runtime::host::{self, Function};
use push0_runtime::wiring;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::settings::Settings;

/// The functions at work.
pub(super) struct Running(JoinSet<()>);

impl Running {
    /// Waits until all have seen the stop and finished what they had in hand.
    pub(super) async fn finish(mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended {
                warn!(code = %ErrorCode::InvariantBroken, %error, "a function ended badly");
            }
        }
    }
}

pub(super) fn start(
    context: &Context,
    engine: &Engine,
    topology: &Topology,
    pools: &BTreeSet<Pool>,
    settings: &Settings,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<Running> {
    let mut tasks = JoinSet::new();
    let functions: [(&str, Arc<dyn Function>); 2] = [
        ("dispatcher", Arc::new(Dispatcher::new(context.clone()))),
        ("collector", Arc::new(Collector::new(context.clone()))),
    ];
    for (name, function) in functions {
        for mapping in wiring::mappings(topology, name, pools) {
            // Whoever had these in hand was a function of the last `up`, and is dead.
            let reclaimed = engine.reclaim(&mapping.queue)?;
            if reclaimed > 0 {
                info!(
                    queue = mapping.queue,
                    messages = reclaimed,
                    "messages in flight at the last stop are visible again"
                );
            }
            for _ in 0..pollers(&mapping.queue, settings.functions.concurrency) {
                let port = context.queue.clone();
                tasks.spawn(host::run(port, function.clone(), mapping.clone(), stopped.clone()));
            }
        }
    }
    tasks.spawn(reap(Reaper::new(context.clone()), settings.functions.reaper, stopped.clone()));
    let sweeper = Sweeper::new(context.clone(), settings.retention);
    let chains = settings.catalog.chains.keys().cloned().collect();
    let expiring = Expiring { engine: engine.clone(), after: settings.finalized };
    tasks.spawn(sweep(sweeper, expiring, chains, settings.functions.reaper, stopped.clone()));
    Ok(Running(tasks))
}

/// Order is a FIFO queue's point, and dead letters are rare.
fn pollers(queue: &str, concurrency: usize) -> usize {
    if queue.ends_with(".fifo") || queue.ends_with("-dlq") { 1 } else { concurrency }
}

async fn reap(reaper: Reaper, every: Millis, mut stopped: watch::Receiver<bool>) {
    loop {
        reaper.turn().await;
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(Duration::from_millis(every.0)) => {}
        }
    }
}

/// Messages that wait for a consumer for so long only; their rows stay.
struct Expiring {
    engine: Engine,
    after: Millis,
}

/// Deletions a turn and chain; with more to do the next turn comes soon.
const SWEEP: u64 = 2_000;
const SOON: Duration = Duration::from_millis(200);

async fn sweep(
    sweeper: Sweeper,
    expiring: Expiring,
    chains: Vec<ChainId>,
    every: Millis,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let mut more = false;
        for chain in &chains {
            match sweeper.sweep(chain, SWEEP).await {
                Ok(swept) => {
                    more |= swept.more;
                    if swept != Swept::default() {
                        let Swept { blocks, blobs, bytes, rows, .. } = swept;
                        info!(%chain, blocks, blobs, bytes, rows, "deleted what finalized blocks no longer need");
                    }
                }
                // Of a full disk the engine itself tells, once.
                Err(error) if error.code() == ErrorCode::DiskFull => {}
                Err(error) => warn!(code = %error.code(), %chain, %error, "sweeping failed; it is tried again"),
            }
        }
        let before = expiring.engine.clock_now().since(expiring.after);
        match expiring.engine.expire(queue::FINALIZED, before, SWEEP as u32).await {
            Ok(gone) => more |= gone as u64 == SWEEP,
            Err(error) => {
                warn!(code = %error.code(), %error, "old finalized messages were not deleted; it is tried again")
            }
        }
        let pause = if more { SOON } else { Duration::from_millis(every.0) };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
