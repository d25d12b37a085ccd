//! The function host of `up` and `serve`: every mapping of the topology, and the reaper and the sweeper on their timer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use push0_core::message::queue;
use push0_core::topology::Topology;
use push0_core::{ChainId, ErrorCode, Millis, Pool};
use push0_functions::{Collector, Dispatcher, Reaper, Sweeper, Swept};
use push0_runtime::drive::Context;
use push0_runtime::engine::Engine;
use push0_runtime::host::{self, Function, Mapping, Waiting};
use push0_runtime::wiring;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::settings::Settings;

const DISPATCHER: &str = "dispatcher";
const COLLECTOR: &str = "collector";
const REAPER: &str = "reaper";

/// What each function works with: in an account each has a role of its own.
pub(crate) struct Contexts {
    pub(crate) dispatcher: Context,
    pub(crate) collector: Context,
    /// The sweeper's, too.
    pub(crate) reaper: Context,
}

impl Contexts {
    /// Of every function by its name.
    pub(crate) fn new(of: impl Fn(&'static str) -> Context) -> Self {
        Self { dispatcher: of(DISPATCHER), collector: of(COLLECTOR), reaper: of(REAPER) }
    }
}

/// The functions at work.
pub(crate) struct Running(JoinSet<()>);

impl Running {
    /// Waits until all have seen the stop and finished what they had in hand.
    pub(crate) async fn finish(mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended {
                warn!(code = %ErrorCode::InvariantBroken, %error, "a function ended badly");
            }
        }
    }
}

/// The sources of the functions, with the leases that are configured, or else the topology's.
pub(crate) fn mappings(
    topology: &Topology,
    pools: &BTreeSet<Pool>,
    settings: &Settings,
) -> Vec<(&'static str, Mapping)> {
    let of = |name| wiring::mappings(topology, name, pools).into_iter().map(move |mapping| (name, mapping));
    let leased = |(name, mapping): (&'static str, Mapping)| {
        (name, Mapping { lease: settings.functions.lease.unwrap_or(mapping.lease), ..mapping })
    };
    [DISPATCHER, COLLECTOR].into_iter().flat_map(of).map(leased).collect()
}

/// Makes visible again what is in flight: whoever had it in hand was a function of the last `up`, and is dead.
pub(super) fn reclaim(engine: &Engine, mappings: &[(&str, Mapping)]) -> anyhow::Result<()> {
    for (_, mapping) in mappings {
        let reclaimed = engine.reclaim(&mapping.queue)?;
        if reclaimed > 0 {
            info!(queue = mapping.queue, messages = reclaimed, "messages in flight at the last stop are visible again");
        }
    }
    Ok(())
}

/// Starts the functions. `engine`: what nobody took from `finalized.fifo` expires there; elsewhere the queue
/// itself sees to that.
pub(crate) fn start(
    contexts: &Contexts,
    mappings: Vec<(&'static str, Mapping)>,
    engine: Option<&Engine>,
    settings: &Settings,
    stopped: &watch::Receiver<bool>,
) -> Running {
    let mut tasks = JoinSet::new();
    let Contexts { dispatcher, collector, reaper } = contexts;
    let dispatching: Arc<dyn Function> = Arc::new(Dispatcher::new(dispatcher.clone()));
    let collecting: Arc<dyn Function> = Arc::new(Collector::new(collector.clone()));
    let waiting = if engine.is_some() { Waiting::GivenUp } else { Waiting::RunsOut };
    for (name, mapping) in mappings {
        let (function, context) =
            if name == DISPATCHER { (&dispatching, dispatcher) } else { (&collecting, collector) };
        for _ in 0..pollers(&mapping.queue, settings.functions.concurrency) {
            let port = context.queue.clone();
            tasks.spawn(host::run(port, function.clone(), mapping.clone(), waiting, stopped.clone()));
        }
    }
    let reaping = match engine {
        Some(_) => Reaper::new(reaper.clone()),
        None => Reaper::that_finds_uploads(reaper.clone()),
    };
    tasks.spawn(reap(reaping, settings.functions.reaper, stopped.clone()));
    let sweeper = Sweeper::new(reaper.clone(), settings.retention);
    let chains = settings.catalog.chains.keys().cloned().collect();
    let expiring = engine.map(|engine| Expiring { engine: engine.clone(), after: settings.finalized });
    tasks.spawn(sweep(sweeper, expiring, chains, settings.functions.reaper, stopped.clone()));
    Running(tasks)
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

impl Expiring {
    /// Whether there are more.
    async fn expire(&self) -> bool {
        let before = self.engine.clock_now().since(self.after);
        match self.engine.expire(queue::FINALIZED, before, SWEEP as u32).await {
            Ok(gone) => gone as u64 == SWEEP,
            Err(error) => {
                warn!(code = %error.code(), %error, "old finalized messages were not deleted; it is tried again");
                false
            }
        }
    }
}

/// Deletions a turn and chain; with more to do the next turn comes soon.
const SWEEP: u64 = 2_000;
const SOON: Duration = Duration::from_millis(200);

async fn sweep(
    sweeper: Sweeper,
    expiring: Option<Expiring>,
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
        if let Some(expiring) = &expiring {
            more |= expiring.expire().await;
        }
        let pause = if more { SOON } else { Duration::from_millis(every.0) };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
