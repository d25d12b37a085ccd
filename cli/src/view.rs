//! Reading: `status`, `block`, `watch`, `why` and `finalized`, all from the one snapshot query.

use std::collections::BTreeMap;
use std::time::Duration;

use push0_core::chain::ChainConfig;
use push0_core::record::{BlockStatus, Started};
use push0_core::{Attempt, ChainId, ErrorCode, Millis, Node, Pool, WorkerId};
use push0_runtime::http::WorkerHere;
use push0_runtime::port::{Clock as _, QueueStats, SystemClock};
use push0_runtime::snapshot::{self, BlockSnapshot, ChainSnapshot};
use serde::Serialize;

use crate::args;
use crate::connect::Remote;
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::render;
use crate::tail;
use crate::why;

/// Final blocks shown before the cursor.
const BEFORE: u64 = 3;

/// Rows of the finalized stream fetched at a time.
const PAGE: usize = 500;

/// Between two looks of `finalized --follow`.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// What `status` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    pub at: Millis,
    pub chains: Vec<ChainSnapshot>,
    pub queues: BTreeMap<String, QueueStats>,
    /// Workers that have called since `up` began; none where it cannot say.
    pub here: Option<Vec<WorkerHere>>,
    /// Pools whose tasks nobody here takes.
    pub lonely: Vec<Pool>,
    /// Workers that have a task in hand, as far as they have said so.
    pub workers: BTreeMap<WorkerId, Vec<InHand>>,
}

/// A task a worker has in hand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InHand {
    pub chain: ChainId,
    pub number: u64,
    pub stage: String,
    pub node: Node,
    pub attempt: Attempt,
    pub since: Millis,
    /// Its worker is not here any more: the task comes again when its lease ends.
    pub gone: bool,
}

/// Whether the worker process that started a task is known to be gone.
pub fn is_gone(here: Option<&[WorkerHere]>, started: &Started) -> bool {
    let is_it = |known: &WorkerHere| known.worker == started.worker && known.here && known.since <= started.at;
    here.is_some_and(|here| !here.iter().any(is_it))
}

/// Looks at the configured chains, or at one of them.
pub async fn overview(remote: &Remote, only: Option<&ChainId>) -> anyhow::Result<Overview> {
    let configs: Vec<&ChainConfig> = match only {
        Some(id) => vec![remote.chain(id)?],
        None => remote.catalog.chains.values().collect(),
    };
    // Asked first: who comes while this looks is not called gone.
    let here = remote.workers().await;
    let mut chains = Vec::new();
    let mut workers: BTreeMap<WorkerId, Vec<InHand>> = BTreeMap::new();
    for config in configs {
        let chain = snapshot::chain(&*remote.table, config, BEFORE).await?;
        for block in chain.blocks.iter().filter(|block| block.block.status == BlockStatus::Proving) {
            let block = snapshot::block(&*remote.table, &config.chain, block.block.number).await?;
            for (worker, task) in block.iter().flat_map(|block| in_hand(block, here.as_deref())) {
                workers.entry(worker).or_default().push(task);
            }
        }
        chains.push(chain);
    }
    let queues = snapshot::queues(&*remote.queue, &remote.notice.queues).await;
    let lonely = here.as_ref().map_or(Vec::new(), |here| {
        let works_for = |pool: &Pool| here.iter().any(|worker| worker.here && worker.pool.as_ref() == Some(pool));
        remote.catalog.pools().into_iter().filter(|pool| !works_for(pool)).collect()
    });
    Ok(Overview { at: SystemClock.now(), chains, queues, here, lonely, workers })
}

fn in_hand(block: &BlockSnapshot, here: Option<&[WorkerHere]>) -> Vec<(WorkerId, InHand)> {
    let tasks = block.runs().flat_map(|run| &run.tasks);
    let held = |task: &snapshot::TaskSnapshot| {
        let started = task.started.clone()?;
        let gone = is_gone(here, &started);
        let Started { attempt, worker, at, .. } = started;
        let task = InHand {
            chain: block.block.chain.clone(),
            number: block.block.number,
            stage: task.stage.clone(),
            node: task.node,
            attempt,
            since: at,
            gone,
        };
        Some((worker, task))
    };
    tasks.filter_map(held).collect()
}

pub async fn status(args: &args::Status, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let overview = overview(remote, args.chain.as_ref()).await?;
    output.show(&overview, || render::overview(&overview, args.all, render::Paint(output.color)));
    Ok(())
}

/// Draws the overview again and again; lines of JSON with `--json`.
pub async fn watch(args: &args::Watch, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let mut last = String::new();
    loop {
        let overview = overview(remote, args.chain.as_ref()).await?;
        if output.json {
            output.json_line(&overview);
        } else {
            let screen = render::overview(&overview, false, render::Paint(output.color));
            // Elsewhere than on a terminal only what has changed is worth a line.
            let changes = render::without_times(&overview);
            if output.terminal || changes != last {
                output.screen(&screen);
                last = changes;
            }
        }
        let is_reached = |until: u64| overview.chains.iter().all(|chain| chain.chain.next_final > until);
        if args.until.is_some_and(is_reached) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(args.every_ms.max(50))).await;
    }
}

pub async fn block(args: &args::BlockArgs, remote: &Remote, output: Output) -> anyhow::Result<()> {
    remote.chain(&args.chain)?;
    let block = find(remote, &args.chain, args.number).await?;
    let now = SystemClock.now();
    output.show(&block, || render::block(&block, now, render::Paint(output.color)));
    Ok(())
}

/// The block, or what to do about there being none.
pub async fn find(remote: &Remote, chain: &ChainId, number: u64) -> anyhow::Result<BlockSnapshot> {
    let block = snapshot::block(&*remote.table, chain, number).await?;
    block.ok_or_else(|| {
        Trouble::absent(format!("nothing was ever submitted as block {number} of {chain}"))
            .next(format!("submit it, or ask `push0 why {chain} {number}` what that means for the chain"))
            .coded(ErrorCode::UnknownBlock)
            .into()
    })
}

pub async fn why(args: &args::BlockArgs, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let answer = why::explain(&facts(remote, &args.chain, args.number).await?);
    output.show(&answer, || render::why(&answer, render::Paint(output.color)));
    Ok(())
}

/// All that is known of a block.
pub async fn facts(remote: &Remote, chain: &ChainId, number: u64) -> anyhow::Result<why::Facts> {
    let config = remote.chain(chain)?;
    let source = config.batch.as_ref().and_then(|batching| remote.catalog.chains.get(&batching.of));
    let source = match source {
        Some(source) => Some(snapshot::chain(&*remote.table, source, 0).await?.chain),
        None => None,
    };
    Ok(why::Facts {
        source,
        config: config.clone(),
        catalog: remote.catalog.clone(),
        chain: snapshot::chain(&*remote.table, config, 1).await?,
        block: snapshot::block(&*remote.table, chain, number).await?,
        number,
        queues: snapshot::queues(&*remote.queue, &remote.notice.queues).await,
        here: remote.workers().await,
        connect: remote.address.clone(),
        now: SystemClock.now(),
    })
}

pub async fn finalized(args: &args::Finalized, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let chain = match (&args.how, &args.chain) {
        (Some(args::HowFinalized::Tail(args)), _) => return tail::run(args, remote, output).await,
        (None, Some(chain)) => chain,
        (None, None) => return Ok(()),
    };
    remote.chain(chain)?;
    let mut from = args.from.max(1);
    loop {
        let rows = snapshot::finalized(&*remote.table, chain, from, PAGE).await?;
        rows.iter().for_each(|row| output.json_line(row));
        from = rows.last().map_or(from, |last| last.seq + 1);
        if rows.len() == PAGE {
            continue;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// Looks at a block until `is_so`, for at most so long; the last look either way.
pub async fn wait_for_block(
    remote: &Remote,
    chain: &ChainId,
    number: u64,
    within: Duration,
    is_so: impl Fn(&BlockSnapshot) -> bool,
) -> anyhow::Result<BlockSnapshot> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let block = snapshot::block(&*remote.table, chain, number).await?;
        match block {
            Some(block) if is_so(&block) => return Ok(block),
            _ if tokio::time::Instant::now() >= deadline => {
                let what = format!(
                    "block {number} of {chain}: sent, but its effect was not seen within {} s",
                    within.as_secs()
                );
                return Err(Trouble::new(Code::Timeout, what)
                    .next(format!("look with `push0 why {chain} {number}`, and at the log of `push0 up`"))
                    .coded(ErrorCode::NotInTime)
                    .into());
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
