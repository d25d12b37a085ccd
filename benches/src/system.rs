//! A whole push0 in this process, put together as `push0 up` puts it together: the embedded engine, the function host with the
//! dispatcher and the collector, and workers that run the real task protocol with a prover that is a function.
//!
//! What differs from `push0 up`: workers are tasks of this process instead of processes, each takes one class of tasks, and inputs and outputs are in memory. What is the same: every call of a port that a worker or a function makes
//! for a task, including the announcement that a prover was started, where it runs long enough for one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use push0_core::chain::ChainConfig;
use push0_core::message::{ChainMessage, Submission, queue, work_queue};
use push0_core::pipeline::{self, PipelineFile};
use push0_core::record::{BlobRef, OutboxRow, Versioned as _};
use push0_core::topology::Topology;
use push0_core::{BlockHash, ChainId, Class, Millis, Pool, Sha256};
use push0_functions::{Collector, Dispatcher, Reaper};
use push0_gpu_worker::lease::Leases;
use push0_gpu_worker::task::{self, Env, Limits, Prepared, Ready, StartsToSend, Store};
use push0_gpu_worker::{Health, Prover, WorkerConfig};
use push0_runtime::drive::{Catalog, Context};
use push0_runtime::engine::{Durability, Engine, EngineConfig, Location};
use push0_runtime::host::{self, Function, Mapping, Waiting};
use push0_runtime::http::{Client, ClientConfig, Ports, Role, Server, ServerConfig, Token, bind_tcp};
use push0_runtime::port::{Blobs, Outgoing, Queue, SystemClock};
use push0_runtime::wiring;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::prover::{Bench, Marks, Witness};

/// Where the engine keeps what it holds, and what an acknowledged call survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Memory,
    Process,
    Power,
}

/// How workers reach the engine; the functions are always beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    InProcess,
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub keeping: Keeping,
    pub reach: Reach,
}

impl Setup {
    pub const ALL: [Setup; 6] = [
        Setup { keeping: Keeping::Memory, reach: Reach::InProcess },
        Setup { keeping: Keeping::Process, reach: Reach::InProcess },
        Setup { keeping: Keeping::Power, reach: Reach::InProcess },
        Setup { keeping: Keeping::Memory, reach: Reach::Tcp },
        Setup { keeping: Keeping::Process, reach: Reach::Tcp },
        Setup { keeping: Keeping::Power, reach: Reach::Tcp },
    ];

    /// What `push0 up` does by default, with the workers in the same process.
    pub const DEFAULT: Setup = Setup { keeping: Keeping::Process, reach: Reach::InProcess };

    /// Fewer where each waits for the disk.
    pub(crate) fn samples(self, usual: usize) -> usize {
        if self.keeping == Keeping::Power { usual.div_ceil(8) } else { usual }
    }

    pub fn label(self) -> String {
        let keeping = match self.keeping {
            Keeping::Memory => "memory",
            Keeping::Process => "process",
            Keeping::Power => "power",
        };
        let reach = match self.reach {
            Reach::InProcess => "in process",
            Reach::Tcp => "TCP",
        };
        format!("{keeping}, {reach}")
    }
}

/// How a worker goes from task to task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Everything about a task before anything about the next.
    OneByOne,
    /// As a worker's slot does by default: the next task is taken and its inputs fetched while one is proven, and the one before is
    /// stored and reported meanwhile.
    Ahead,
}

/// Real workers of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Workers {
    pub count: usize,
    pub slots: usize,
    pub lease: Millis,
}

impl Workers {
    /// One with so many slots.
    pub fn one(slots: usize) -> Self {
        Self { count: 1, slots, lease: LEASE }
    }
}

/// Pollers a queue, as `push0 up` has by default.
const POLLERS: usize = 2;

/// Between two turns of the reaper, as `push0 up` has by default.
const REAPER: Duration = Duration::from_secs(10);

const LEASE: Millis = Millis::from_secs(15);

/// No block of a benchmark takes longer; one that does is stuck.
const STUCK: Duration = Duration::from_secs(300);

const CHAIN: &str = "bench";

pub struct System {
    /// None where the ports are somebody else's.
    engine: Option<Engine>,
    pub context: Context,
    config: ChainConfig,
    pipeline: PipelineFile,
    reach: Reach,
    address: Option<String>,
    /// The last number of each chain.
    submitted: BTreeMap<ChainId, u64>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    dir: PathBuf,
}

/// The ports of one worker.
#[derive(Clone)]
pub struct WorkerPorts {
    pub queue: Arc<dyn Queue>,
    pub blobs: Arc<dyn Blobs>,
}

impl System {
    /// Everything but workers and hosts. `under`: where directories are made.
    pub async fn new(setup: Setup, pipeline: &str, under: &Path) -> anyhow::Result<Self> {
        let (catalog, config, pipeline) = catalog(pipeline)?;
        Self::of(setup, catalog, config, pipeline, under).await
    }

    /// The same with other chains beside the one that is measured.
    pub async fn of(
        setup: Setup,
        catalog: Catalog,
        config: ChainConfig,
        pipeline: PipelineFile,
        under: &Path,
    ) -> anyhow::Result<Self> {
        // Removed with the whole run: a file system is slow to make files for a while after so many were deleted.
        let dir = tempfile::Builder::new().prefix("system-").tempdir_in(under)?.keep();
        let queues = wiring::engine_queues(&Topology::built_in(), &catalog.pools());
        let location = match setup.keeping {
            Keeping::Memory => Location::Memory,
            Keeping::Process | Keeping::Power => Location::Directory(dir.join("data")),
        };
        let durability = if setup.keeping == Keeping::Power { Durability::Power } else { Durability::Process };
        let engine = Engine::open(EngineConfig { durability, ..EngineConfig::new(location, queues) })?;
        let ports = Ports::of(&engine);
        let context = Context::new(ports.queue, ports.table, ports.blobs, Arc::new(SystemClock), Arc::new(catalog));
        let mut system = Self::over(context, config, pipeline, dir);
        system.engine = Some(engine);
        system.reach = setup.reach;
        if setup.reach == Reach::Tcp {
            system.listen().await?;
        }
        Ok(system)
    }

    /// On ports that are there.
    pub fn over(context: Context, config: ChainConfig, pipeline: PipelineFile, dir: PathBuf) -> Self {
        Self {
            engine: None,
            context,
            config,
            pipeline,
            reach: Reach::InProcess,
            address: None,
            submitted: BTreeMap::new(),
            tasks: JoinSet::new(),
            stop: watch::Sender::new(false),
            dir,
        }
    }

    /// With the functions running, as `push0 up` runs them, and one worker of the trusted pool.
    pub async fn start(setup: Setup, pipeline: &str, under: &Path, marks: &Arc<Marks>) -> anyhow::Result<Self> {
        let mut system = Self::new(setup, pipeline, under).await?;
        system.start_functions(|function| function);
        system.start_reaper();
        system.spawn_workers(&Pool::trusted(), 1, Manner::OneByOne, marks)?;
        Ok(system)
    }

    /// Dispatcher and collector, each as `dress` makes of it.
    pub fn start_functions(&mut self, dress: impl Fn(Arc<dyn Function>) -> Arc<dyn Function>) {
        for (name, function) in self.functions() {
            let function = dress(function);
            for mapping in wiring::mappings(&Topology::built_in(), name, &self.context.catalog.pools()) {
                let single = mapping.queue.ends_with(".fifo") || mapping.queue.ends_with("-dlq");
                for _ in 0..if single { 1 } else { POLLERS } {
                    let (queue, stopped) = (self.context.queue.clone(), self.stop.subscribe());
                    self.tasks.spawn(host::run(queue, function.clone(), mapping.clone(), Waiting::GivenUp, stopped));
                }
            }
        }
    }

    fn start_reaper(&mut self) {
        let reaper = Reaper::new(self.context.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::time::sleep(REAPER).await;
                reaper.turn().await;
            }
        });
    }

    /// With the functions, and with real workers, whose provers are processes: one of the trusted pool, and those of the pool `cpu`. Ends when
    /// the system is stopped.
    pub async fn start_with_processes(
        setup: Setup,
        pipeline: &str,
        under: &Path,
        workers: &Workers,
        shim: &[String],
    ) -> anyhow::Result<Self> {
        let mut system = Self::new(setup, pipeline, under).await?;
        system.start_processes(workers, shim, &[Class::Standard])?;
        Ok(system)
    }

    /// Starts functions, reaper and workers of such a system; the workers take tasks of these classes.
    pub fn start_processes(&mut self, workers: &Workers, shim: &[String], classes: &[Class]) -> anyhow::Result<()> {
        self.start_functions(|function| function);
        self.start_reaper();
        let cpu: Pool = "cpu".parse()?;
        let provers = (0..workers.count).map(|number| (cpu.clone(), number, workers.slots));
        for (pool, number, slots) in provers.chain([(Pool::trusted(), 0, 1)]) {
            let ports = self.worker_ports(&pool)?;
            let (id, scratch) = (format!("{pool}-{number}").parse()?, self.dir.join("scratch"));
            let config = WorkerConfig {
                slots,
                lease: workers.lease,
                classes: classes.to_vec(),
                shim: shim.to_vec(),
                ..WorkerConfig::new(id, pool, self.pipeline.provers.clone(), scratch)
            };
            let clock = Arc::new(SystemClock);
            let working = push0_gpu_worker::run(config, ports.queue, ports.blobs, clock, std::future::pending());
            self.tasks.spawn(async move {
                // A worker that ends leaves the block unproven, which is noticed.
                let _ = working.await;
            });
        }
        Ok(())
    }

    pub fn functions(&self) -> [(&'static str, Arc<dyn Function>); 2] {
        [
            ("dispatcher", Arc::new(Dispatcher::new(self.context.clone()))),
            ("collector", Arc::new(Collector::new(self.context.clone()))),
        ]
    }

    pub fn mapping(&self, function: &str, queue: &str) -> anyhow::Result<Mapping> {
        let mappings = wiring::mappings(&Topology::built_in(), function, &self.context.catalog.pools());
        mappings.into_iter().find(|mapping| mapping.queue == queue).with_context(|| format!("no mapping of {queue}"))
    }

    async fn listen(&mut self) -> anyhow::Result<()> {
        let pools = self.context.catalog.pools();
        let token = |pool: &Pool| {
            let role = if pool.is_trusted() { Role::Trusted } else { Role::Worker { pool: pool.clone() } };
            anyhow::Ok(Token::new(token_of(pool), pool.as_str().parse()?, role))
        };
        let tokens = pools.iter().map(token).collect::<anyhow::Result<_>>()?;
        let config = ServerConfig { tokens, ..ServerConfig::new(self.dir.join("spool")) };
        let engine = self.engine.as_ref().context("only an engine is served")?;
        let server = Server::new(Ports::of(engine), config)?;
        let listener = bind_tcp("127.0.0.1:0").await?;
        self.address = Some(format!("http://{}", listener.local_addr()?));
        let mut stopped = self.stop.subscribe();
        let until = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        self.tasks.spawn(async move { server.serve_tcp(listener, until).await });
        Ok(())
    }

    /// The ports of a worker of this pool: the engine itself, or a client with connections of its own.
    pub fn worker_ports(&self, pool: &Pool) -> anyhow::Result<WorkerPorts> {
        match (&self.reach, &self.address) {
            (Reach::Tcp, Some(address)) => {
                let client = Client::new(ClientConfig::new(address.as_str()).with_token(token_of(pool)))?;
                Ok(WorkerPorts { queue: Arc::new(client.clone()), blobs: Arc::new(client) })
            }
            _ => Ok(WorkerPorts { queue: self.context.queue.clone(), blobs: self.context.blobs.clone() }),
        }
    }

    /// Starts workers of one slot that go on until the system stops.
    pub fn spawn_workers(
        &mut self,
        pool: &Pool,
        count: usize,
        manner: Manner,
        marks: &Arc<Marks>,
    ) -> anyhow::Result<()> {
        for number in 0..count {
            let ports = self.worker_ports(pool)?;
            let (env, started) = env(&format!("{pool}-{number}"), pool, &ports)?;
            let leases = env.leases.clone();
            let (keeping, announcing) = (ports.clone(), ports.clone());
            self.tasks.spawn(async move { leases.keep(&*keeping.queue, &*keeping.blobs, &SystemClock).await });
            self.tasks.spawn(async move { task::send_starts(started, &*announcing.queue, &SystemClock).await });
            let (prover, queue) = (Bench::new(marks.clone()), work_queue(pool, self.config.class));
            match manner {
                Manner::OneByOne => self.tasks.spawn(work(env, queue, prover)),
                Manner::Ahead => self.tasks.spawn(work_ahead(Arc::new(env), queue, prover)),
            };
        }
        Ok(())
    }

    /// Submits the next block, to be split into so many segments. Its number.
    pub async fn submit(&mut self, segments: u32) -> anyhow::Result<u64> {
        let chain = self.config.chain.clone();
        self.submit_to(&chain, segments).await
    }

    pub async fn submit_to(&mut self, chain: &ChainId, segments: u32) -> anyhow::Result<u64> {
        let last = self.submitted.entry(chain.clone()).or_default();
        *last += 1;
        let number = *last;
        let hash = BlockHash(Sha256::of(format!("block {number}").as_bytes()).0);
        let witness = serde_json::to_vec(&Witness { hash: Some(hash), segments })?;
        let sha256 = Sha256::of(&witness);
        let key = format!("witnesses/{chain}/{number}");
        let witness_ref = BlobRef { key: key.clone(), sha256, size: witness.len() as u64 };
        self.context.blobs.put_new(&key, witness.into(), "bench").await?;
        let submission = Submission {
            chain: chain.clone(),
            number,
            hash,
            parent_hash: None,
            witness: witness_ref,
            fork_seq: None,
            deadline: None,
        };
        let message = Outgoing {
            body: ChainMessage::Submit(submission).to_json(),
            group: Some(chain.to_string()),
            dedup: Some(format!("{chain}/{number}")),
            ..Outgoing::default()
        };
        self.context.queue.send(queue::SUBMISSIONS, vec![message]).await?;
        Ok(number)
    }

    /// Waits until the block is handed on in the finalized stream.
    pub async fn until_final(&self, number: u64) -> anyhow::Result<Instant> {
        let begun = Instant::now();
        while begun.elapsed() < STUCK {
            let received = self.context.queue.receive(queue::FINALIZED, 10, Millis(1_000), LEASE).await?;
            let at = Instant::now();
            for message in received {
                self.context.queue.ack(queue::FINALIZED, &message.receipt).await?;
                let row = OutboxRow::from_json(&message.body)?;
                if row.chain == self.config.chain && row.number == number {
                    return Ok(at);
                }
            }
        }
        Err(anyhow!("block {number} was not finalized within {} s", STUCK.as_secs()))
    }

    pub fn tasks_of(&self, segments: u32) -> anyhow::Result<u32> {
        let plan = push0_core::plan::Plan::new(&self.pipeline.pipeline, segments)?;
        Ok((0..self.pipeline.pipeline.stages.len() as u16).map(|stage| plan.stage_nodes(stage)).sum())
    }

    /// Ends everything that runs in it. What was in hand is dropped with it.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        self.tasks.shutdown().await;
    }
}

/// The one chain of a benchmark, and its pipeline.
pub fn catalog(pipeline: &str) -> anyhow::Result<(Catalog, ChainConfig, PipelineFile)> {
    let pipeline = pipeline::parse(pipeline).map_err(|mistakes| anyhow!("the benchmark's pipeline: {mistakes}"))?;
    let chain: ChainId = CHAIN.parse()?;
    let digest = pipeline.pipeline.digest();
    let config = ChainConfig::new(chain.clone(), digest);
    let mut catalog = Catalog::default();
    catalog.chains.insert(chain, config.clone());
    catalog.pipelines.insert(digest, pipeline.clone());
    Ok((catalog, config, pipeline))
}

/// A pipeline of leaves and a tree of joins over them, that take so many milliseconds each; 0: no time at all.
pub fn tree(name: &str, prove_ms: u64, join_ms: u64, arity: u32) -> String {
    let params = |ms: u64| if ms == 0 { String::new() } else { format!("[stage.params]\nsleep_ms = {ms}") };
    let (prove, join) = (params(prove_ms), params(join_ms));
    format!(
        r#"
        name = "{name}"
        [prover.bench]
        form = "session"
        command = ["bench"]
        [[stage]]
        name = "split"
        kind = "split"
        [[stage]]
        name = "prove"
        kind = "map"
        {prove}
        [[stage]]
        name = "join"
        kind = "join"
        arity = {arity}
        {join}
        [[stage]]
        name = "verify"
        kind = "verify"
    "#
    )
}

fn token_of(pool: &Pool) -> String {
    format!("benchmark-token-of-{pool}")
}

/// What a worker's task protocol works with.
pub fn env(id: &str, pool: &Pool, ports: &WorkerPorts) -> anyhow::Result<(Env, StartsToSend)> {
    let (starts, started) = task::starts();
    let env = Env {
        worker: id.parse()?,
        pool: pool.clone(),
        queue: ports.queue.clone(),
        blobs: ports.blobs.clone(),
        clock: Arc::new(SystemClock),
        leases: Leases::new(LEASE),
        store: Store::Memory,
        starts,
        limits: Limits::default(),
        health: Health::new("queues and blobs"),
    };
    Ok((env, started))
}

async fn work(env: Env, queue: String, mut prover: impl Prover) {
    loop {
        match env.queue.receive(&queue, 1, Millis::from_secs(20), LEASE).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    task::handle(&env, &queue, delivery, &mut prover).await;
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Finished tasks being stored and reported while the next is proven, as in a worker's slot.
const FINISHING: usize = 2;

async fn work_ahead(env: Arc<Env>, queue: String, mut prover: impl Prover) {
    let fetching = |env: &Arc<Env>| tokio::spawn(fetch(env.clone(), queue.clone()));
    let mut next = fetching(&env);
    let mut finishing = JoinSet::new();
    while let Ok(ready) = next.await {
        next = fetching(&env);
        let proved = task::prove(&env, &ready, &mut prover).await;
        let env = env.clone();
        finishing.spawn(async move { task::finish(&env, &ready, proved).await });
        while finishing.len() > FINISHING {
            finishing.join_next().await;
        }
    }
}

async fn fetch(env: Arc<Env>, queue: String) -> Box<Ready> {
    loop {
        match env.queue.receive(&queue, 1, Millis::from_secs(20), LEASE).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    let held = env.leases.hold(&queue, &delivery.receipt);
                    if let Prepared::Ready(ready) = task::prepare(&env, held, &delivery).await {
                        return ready;
                    }
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
