//! The function host of `up`: every mapping of the topology, and the reaper on its timer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use push0_core::topology::Topology;
use push0_core::{ErrorCode, Millis, Pool};
use push0_functions::{Collector, Dispatcher, Reaper};
use push0_runtime::drive::Context;
use push0_runtime::engine::Engine;
use push0_runtime::host::{self, Function};
use push0_runtime::wiring;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::settings;

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
    settings: &settings::Functions,
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
            for _ in 0..pollers(&mapping.queue, settings.concurrency) {
                let queue = context.queue.clone();
                tasks.spawn(host::run(queue, function.clone(), mapping.clone(), stopped.clone()));
            }
        }
    }
    tasks.spawn(reap(Reaper::new(context.clone()), settings.reaper, stopped.clone()));
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
