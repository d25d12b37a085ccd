//! What a block asks of AWS, and what that costs: one block through the real adapters against an emulator, every call recorded.
//!
//! Functions, workers and their ports are in this process; the functions are hosted as `push0 serve` hosts them, so receives and deletions
//! are those that Lambda's pollers would make. The prover sleeps, long enough to be announced as started; one that takes its time adds what keeps
//! a lease (see [`report`]).

mod bill;
mod chain;
mod prices;
mod report;
#[cfg(test)]
mod tests;
mod units;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use push0_core::chain::ChainConfig;
use push0_core::topology::Topology;
use push0_core::{Class, Pool};
use push0_functions::Reaper;
use push0_runtime::aws::calls::{Call, Calls, tagged};
use push0_runtime::aws::{Dynamo, S3Blobs, Sqs, emulator, http_client};
use push0_runtime::drive::Context;
use push0_runtime::host::{Failure, Function};
use push0_runtime::port::{Delivery, SystemClock};
use push0_runtime::settings::AwsSettings;
use push0_runtime::wiring;

use self::bill::{Bill, Functions};
use self::prices::Prices;
use self::units::Items;
use crate::Progress;
use crate::prover::Marks;
use crate::system::{Manner, System, catalog, tree};

pub use self::report::{Report, Run};

/// The tag of the reaper's calls.
const REAPER: &str = "reaper";

/// How long a leaf or a join takes.
const PROVING_MS: u64 = 400;

/// Segments of the block before the one that counts: it makes connections, and the chain's row.
const WARM_UP: u32 = 2;

/// All has been said about a block when nothing but pollers has called for so long.
const QUIET: Duration = Duration::from_millis(1_500);

/// What is run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The emulator.
    pub endpoint: String,
    pub segments: u32,
    pub arities: Vec<u32>,
    pub workers: usize,
}

impl Plan {
    pub fn new(endpoint: String) -> Self {
        Self { endpoint, segments: 64, arities: vec![2, 8], workers: 8 }
    }
}

/// A block for each arity, each in an account of its own.
pub async fn run(plan: &Plan, under: &Path, progress: Progress<'_>) -> anyhow::Result<Report> {
    let date = jiff::Timestamp::now().strftime("%F %R UTC").to_string();
    let prices = Prices::us_east_1()?;
    let mut runs = Vec::new();
    for arity in &plan.arities {
        progress(&format!("calls of a block of {} segments, joined by {arity}", plan.segments));
        runs.push(block(plan, *arity, &prices, under).await?);
    }
    Ok(Report::new(date, plan, prices, runs))
}

async fn block(plan: &Plan, arity: u32, prices: &Prices, under: &Path) -> anyhow::Result<Run> {
    let files = tempfile::Builder::new().prefix("push0-bench-").tempdir_in(under)?;
    let (mut catalog, config, pipeline) = catalog(&tree("bench-calls", PROVING_MS, PROVING_MS, arity))?;
    // Nothing of the most urgent class is promoted: all of the block lies in the one queue that these workers wait at.
    let config = ChainConfig { class: Class::Realtime, ..config };
    catalog.chains.insert(config.chain.clone(), config.clone());
    let (topology, pools) = (Topology::built_in(), catalog.pools());
    let recorded = Calls::default();
    let connection = emulator::connect(&plan.endpoint, &emulator::account(), http_client()).await;
    emulator::install(&connection, &topology, &pools).await.with_context(|| format!("at {}", plan.endpoint))?;
    let connection = connection.intercepted(recorded.interceptor());
    let (queue, table) = (Arc::new(Sqs::new(&connection)), Arc::new(Dynamo::new(&connection)));
    let blobs = Arc::new(S3Blobs::new(&connection, &topology));
    let context = Context::new(queue, table, blobs, Arc::new(SystemClock), Arc::new(catalog));
    let functions = functions(&connection.settings, &topology, &pools);

    let marks = Arc::new(Marks::default());
    let mut system = System::over(context.clone(), config, pipeline, files.path().to_owned());
    system.start_functions(|function| Arc::new(Tagged(function)));
    system.spawn_workers(&Pool::trusted(), 1, Manner::OneByOne, &marks)?;
    system.spawn_workers(&"cpu".parse()?, plan.workers, Manner::Ahead, &marks)?;

    let mut items = Items::default();
    let warming = one(&mut system, WARM_UP, &recorded).await?;
    Bill::of(&warming, &mut items, &functions, prices);
    marks.take();
    let calls = one(&mut system, plan.segments, &recorded).await?;
    let (tasks, ran) = (system.tasks_of(plan.segments)?, marks.take().len());
    ensure!(ran == tasks as usize, "{ran} runs of provers for {tasks} tasks: what was counted is more than one block");
    let bill = Bill::of(&calls, &mut items, &functions, prices);
    tagged(REAPER, Reaper::new(context).turn()).await;
    let reaper = recorded.take().iter().filter(|call| call.tag.as_deref() == Some(REAPER)).count();
    system.stop().await;
    Ok(Run::new(arity, plan, tasks, bill, chain::find(&calls), reaper as u64))
}

/// The calls of one block, from its submission until nobody has anything left to say about it.
async fn one(system: &mut System, segments: u32, recorded: &Calls) -> anyhow::Result<Vec<Call>> {
    recorded.take();
    let number = system.submit(segments).await?;
    system.until_final(number).await?;
    let mut calls = recorded.take();
    loop {
        tokio::time::sleep(QUIET).await;
        let more = recorded.take();
        let is_quiet = more.iter().all(bill::is_idle);
        calls.extend(more);
        if is_quiet {
            return Ok(calls);
        }
    }
}

/// The calls that a function makes for a message carry its queue and its id.
struct Tagged(Arc<dyn Function>);

#[async_trait]
impl Function for Tagged {
    async fn handle(&self, source: &str, message: &Delivery) -> Result<(), Failure> {
        tagged(&chain::tag(source, &message.id), self.0.handle(source, message)).await
    }
}

fn functions(settings: &AwsSettings, topology: &Topology, pools: &std::collections::BTreeSet<Pool>) -> Functions {
    let names = ["dispatcher", "collector"];
    let mappings = names.iter().flat_map(|name| wiring::mappings(topology, name, pools));
    let queues = mappings.map(|mapping| settings.name(&mapping.queue)).collect();
    let memory = names.iter().filter_map(|name| topology.function(name)).map(|function| function.memory_mib).max();
    Functions { queues, memory_mib: memory.unwrap_or_default() }
}
