//! The one query behind `status`, `block`, `watch` and `why`: what the state table says of a chain or a block, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::block::{self, Sketch};
use push0_core::chain::{ChainConfig, View};
use push0_core::plan::{Children, Plan};
use push0_core::record::{
    BlockRow, ChainRow, FailureNote, NodeView, OutboxRow, Promotion, RowKey, RunView, Started, VerdictSlot, Versioned,
    attribute,
};
use push0_core::{Attempt, ChainId, Class, Millis, Node, Pool, ProverName, RunId, Sha256, TaskId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::port::{Key, PortResult, Queue, QueueStats, Row, Table};

/// A chain, and its blocks from a little before the cursor on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainSnapshot {
    pub chain: ChainRow,
    /// Its urgency, as configured.
    #[serde(default)]
    pub class: Class,
    pub window: u64,
    pub published: u64,
    pub blocks: Vec<BlockSnapshot>,
}

/// A block and how far its run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockSnapshot {
    pub block: BlockRow,
    /// Of several provers' runs the one of the first in the chain's list.
    pub run: Option<RunSnapshot>,
    /// The others' latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<RunSnapshot>,
}

impl BlockSnapshot {
    pub fn runs(&self) -> impl Iterator<Item = &RunSnapshot> {
        self.run.iter().chain(&self.further)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSnapshot {
    pub id: RunId,
    /// The pipeline's name.
    #[serde(default)]
    pub pipeline: String,
    pub segments: Option<u32>,
    pub stages: Vec<StageSnapshot>,
    /// Its urgency, as it was when it was released.
    #[serde(default)]
    pub class: Class,
    #[serde(default)]
    pub promotion: Promotion,
    /// Tasks sent and not accepted, and failed ones; filled for single blocks only.
    #[serde(default)]
    pub tasks: Vec<TaskSnapshot>,
    pub failed: Option<String>,
    /// What its `verify` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictSlot>,
    /// It was told to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// The task that it failed at; filled for single blocks only.
    #[serde(default)]
    pub at_fault: Option<AtFault>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSnapshot {
    pub name: String,
    pub kind: String,
    pub done: u32,
    /// Unknown until the block is split.
    pub of: Option<u32>,
}

/// A task that is not done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSnapshot {
    pub id: TaskId,
    pub stage: String,
    pub node: Node,
    pub attempt: Attempt,
    /// The class whose queue it lies in.
    #[serde(default)]
    pub class: Class,
    /// Who took it and when; none: it waits in its queue.
    pub started: Option<Started>,
    pub failures: Vec<FailureNote>,
    #[serde(default)]
    pub tried: Tried,
    /// Further copies of the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopySnapshot>,
    /// Where its stage is hedged: how long its tasks usually take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<Usual>,
}

/// How a task fared so far, and where it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Of its attempt; none in snapshots of before.
    pub pool: Option<Pool>,
    /// Since when that is the stage's larger pool.
    pub larger_from: Option<Attempt>,
    /// Reported failures, and how many there may be.
    pub failed: u32,
    pub attempts: u32,
    /// Attempts lost with their workers, and how many may be.
    pub lost: u32,
    pub lost_attempts: u32,
    /// Who never gets it again.
    pub barred: Vec<WorkerId>,
}

/// The task that a run ended with: what it takes to run it elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtFault {
    pub id: TaskId,
    pub stage: String,
    pub pool: Pool,
    pub prover: ProverName,
    pub programs: BTreeMap<String, Sha256>,
    pub params: serde_json::Value,
    /// Keys of its inputs; of a leaf, which segment of the manifest.
    pub reads: Vec<String>,
}

/// Another copy of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopySnapshot {
    pub copy: u8,
    pub started: Option<Started>,
    pub failed: bool,
}

/// So many thousandths of a stage's recent tasks took no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usual {
    pub thousandths: u32,
    pub took: Millis,
}

/// How many blocks a chain snapshot holds at most.
const BLOCKS: usize = 300;

fn key(row: RowKey) -> Key {
    Key { partition: row.partition, sort: row.sort }
}

fn doc<T: Versioned>(row: &Row) -> Option<T> {
    T::from_value(row.doc()?.clone()).ok()
}

/// A chain with up to `before` blocks below its cursor. A chain nobody has heard of is its configuration's new row.
pub async fn chain(table: &dyn Table, config: &ChainConfig, before: u64) -> PortResult<ChainSnapshot> {
    let at = key(RowKey::chain(&config.chain));
    let row = table.get(&at).await?.and_then(|row| doc::<ChainRow>(&row)).unwrap_or_else(|| config.new_row());
    let published = table.get(&key(RowKey::published(&config.chain))).await?;
    let published = published.and_then(|row| row.attribute(push0_core::record::attribute::SEQ)?.as_u64()).unwrap_or(0);
    let from = row.next_final.saturating_sub(before).checked_sub(1);
    let after = from.map(|number| RowKey::block(&config.chain, number).sort);
    let rows = table.query(&at.partition, "block/", after.as_deref(), BLOCKS).await?;
    let mut blocks = Vec::new();
    for block in rows.iter().filter_map(doc::<BlockRow>) {
        blocks.push(of_block(table, block, false).await?);
    }
    let view = View { chain: row, blocks: BTreeMap::new(), published };
    let class = config.class;
    Ok(ChainSnapshot { window: view.window(config), chain: view.chain, class, published, blocks })
}

/// The rows of all blocks of a chain from a number on.
pub async fn blocks_from(table: &dyn Table, chain: &ChainId, from: u64) -> PortResult<Vec<BlockRow>> {
    let partition = RowKey::chain(chain).partition;
    let mut after = from.checked_sub(1).map(|before| RowKey::block(chain, before).sort);
    let mut blocks = Vec::new();
    loop {
        let page = table.query(&partition, "block/", after.as_deref(), BLOCKS).await?;
        blocks.extend(page.iter().filter_map(doc::<BlockRow>));
        match page.last() {
            Some(last) if page.len() == BLOCKS => after = Some(last.key.sort.clone()),
            _ => return Ok(blocks),
        }
    }
}

/// One block with its tasks; `None`: nothing was ever submitted under this number.
pub async fn block(table: &dyn Table, chain: &ChainId, number: u64) -> PortResult<Option<BlockSnapshot>> {
    let row = table.get(&key(RowKey::block(chain, number))).await?;
    match row.and_then(|row| doc::<BlockRow>(&row)) {
        Some(block) => of_block(table, block, true).await.map(Some),
        None => Ok(None),
    }
}

/// The finalized stream of a chain from sequence number `from` on, at most `limit` rows.
pub async fn finalized(table: &dyn Table, chain: &ChainId, from: u64, limit: usize) -> PortResult<Vec<OutboxRow>> {
    let partition = RowKey::outbox(chain, 0).partition;
    let after = from.checked_sub(1).map(|seq| RowKey::outbox(chain, seq).sort);
    let rows = table.query(&partition, "seq/", after.as_deref(), limit).await?;
    Ok(rows.iter().filter_map(doc::<OutboxRow>).collect())
}

/// Stats of queues by name; a queue that cannot be asked is left out.
pub async fn queues(queue: &dyn Queue, names: &[String]) -> BTreeMap<String, QueueStats> {
    let mut stats = BTreeMap::new();
    for name in names {
        if let Ok(found) = queue.stats(name).await {
            stats.insert(name.clone(), found);
        }
    }
    stats
}

async fn of_block(table: &dyn Table, block: BlockRow, with_tasks: bool) -> PortResult<BlockSnapshot> {
    let id = RunId::new(block.chain.clone(), block.number, block.epoch);
    let lanes: Vec<u16> = block.latest_runs().map(|(lane, _)| lane).collect();
    let run = run_of(table, id.clone().in_lane(lanes.first().copied().unwrap_or(0)), with_tasks).await?;
    let mut further = Vec::new();
    for lane in lanes.into_iter().skip(1) {
        further.extend(run_of(table, id.clone().in_lane(lane), with_tasks).await?);
    }
    Ok(BlockSnapshot { block, run, further })
}

async fn run_of(table: &dyn Table, id: RunId, with_tasks: bool) -> PortResult<Option<RunSnapshot>> {
    let row = table.get(&key(RowKey::run(&id))).await?;
    match row.and_then(|row| RunView::read(&row.attributes)) {
        Some(view) => of_run(table, view, with_tasks).await.map(Some),
        None => Ok(None),
    }
}

async fn of_run(table: &dyn Table, view: RunView, with_tasks: bool) -> PortResult<RunSnapshot> {
    let nodes = nodes(table, &view.run.id).await?;
    let pipeline = &view.run.pipeline;
    let segments = view.manifest.as_ref().map(|manifest| manifest.segments);
    let plan = segments.and_then(|segments| Plan::new(pipeline, segments).ok());
    let mut done = vec![0; pipeline.stages.len()];
    done[0] = u32::from(view.manifest.is_some());
    if let Some(last) = done.last_mut() {
        *last = u32::from(view.verdict.is_some());
    }
    let mut open = Vec::new();
    if let Some(plan) = &plan {
        for (node, row) in &nodes {
            let Children::Nodes(children) = plan.children(*node) else {
                continue;
            };
            for slot in row.slots.keys() {
                if let Some(child) = children.get(*slot as usize) {
                    done[usize::from(child.stage)] += 1;
                }
            }
        }
        if with_tasks {
            open = open_tasks(&view, plan, &nodes);
        }
    } else if with_tasks {
        open.extend(task(&view, Node::SPLIT, nodes.get(&Node::SPLIT)));
    }
    let usual = usual(table, &view, &open).await?;
    open.iter_mut().for_each(|task| task.usual = usual.get(&task.node.stage).copied());
    if view.is_over() {
        // Nobody works on them any more; what went wrong is still of interest.
        let at_fault = view.failed.as_deref().and_then(block::failed_node);
        open.retain(|task| !task.failures.is_empty() || Some(task.node) == at_fault);
        open.iter_mut().for_each(|task| task.started = None);
    }
    let at_fault = if with_tasks { at_fault(&view, plan.as_ref(), &nodes) } else { None };
    let stages = pipeline.stages.iter().enumerate().map(|(position, stage)| StageSnapshot {
        name: stage.name.to_string(),
        kind: stage.kind.as_str().to_owned(),
        done: done[position],
        of: plan.as_ref().map(|plan| plan.stage_nodes(position as u16)),
    });
    Ok(RunSnapshot {
        id: view.run.id.clone(),
        pipeline: pipeline.name.to_string(),
        segments,
        class: view.run.class,
        promotion: view.run.promotion,
        stages: stages.collect(),
        tasks: open,
        failed: view.failed.or(view.spoiled),
        verdict: view.verdict,
        stopped: view.stopped,
        at_fault,
    })
}

/// Most open tasks listed.
const TASKS: usize = 200;

/// Nodes that were sent and whose artifact is not accepted, in graph order.
fn open_tasks(view: &RunView, plan: &Plan<'_>, nodes: &BTreeMap<Node, NodeView>) -> Vec<TaskSnapshot> {
    let stages = 1..=view.run.pipeline.verify_position();
    let all = stages.flat_map(|stage| plan.nodes_of(stage));
    let is_open = |node: &Node| {
        let row = nodes.get(node);
        let was_sent = plan.slots(*node) == 0 || row.is_some_and(|row| row.fired.is_some());
        let accepted = match plan.parent(*node) {
            Some(parent) => nodes.get(&parent.node).is_some_and(|row| row.slots.contains_key(&parent.slot)),
            None => view.verdict.is_some(),
        };
        was_sent && !accepted
    };
    all.filter(is_open).filter_map(|node| task(view, node, nodes.get(&node))).take(TASKS).collect()
}

fn task(view: &RunView, node: Node, row: Option<&NodeView>) -> Option<TaskSnapshot> {
    let wanted = row.map(|row| row.wanted.clone()).unwrap_or_default();
    let started = row.and_then(|row| row.started.clone()).filter(|started| started.attempt == wanted.attempt);
    let id = TaskId { run: view.run.id.clone(), tag: view.run.digest.tag(), node, attempt: wanted.attempt, copy: 0 };
    let policy = view.run.policy.stage(node.stage);
    let unheard = NodeView::default();
    let tried = Tried {
        pool: Some(row.unwrap_or(&unheard).pool(wanted.attempt, policy).clone()),
        larger_from: wanted.larger_from,
        failed: wanted.failed,
        attempts: policy.attempts,
        lost: wanted.lost,
        lost_attempts: policy.lost_attempts,
        barred: wanted.barred,
    };
    let copy = |row: &NodeView, copy| CopySnapshot {
        copy,
        started: row.start_now(copy).cloned(),
        failed: row.has_failed(copy),
    };
    let copies =
        row.map_or(Vec::new(), |row| (1..block::copies(row, policy)).map(|number| copy(row, number)).collect());
    Some(TaskSnapshot {
        id,
        copies,
        usual: None,
        stage: view.run.pipeline.stage(node.stage).name.to_string(),
        node,
        attempt: wanted.attempt,
        class: view.run.class_of(node, wanted.attempt),
        started,
        failures: wanted.failures,
        tried,
    })
}

fn at_fault(view: &RunView, plan: Option<&Plan<'_>>, nodes: &BTreeMap<Node, NodeView>) -> Option<AtFault> {
    let node = view.failed.as_deref().and_then(block::failed_node)?;
    let unheard = NodeView::default();
    let row = nodes.get(&node).unwrap_or(&unheard);
    let stage = view.run.pipeline.stages.get(usize::from(node.stage))?;
    let attempt = row.wanted.attempt;
    let children = plan.filter(|plan| plan.contains(node)).map(|plan| plan.children(node));
    let reads = match children {
        _ if node == Node::SPLIT => vec![view.run.witness.key.clone()],
        Some(Children::Segment(segment)) => {
            vec![format!("segment {segment} of {}", view.manifest.as_ref()?.manifest.key)]
        }
        _ => row.slots.values().map(|artifact| artifact.blob.key.clone()).collect(),
    };
    Some(AtFault {
        id: TaskId { run: view.run.id.clone(), tag: view.run.digest.tag(), node, attempt, copy: 0 },
        stage: stage.name.to_string(),
        pool: row.pool(attempt, view.run.policy.stage(node.stage)).clone(),
        prover: stage.prover.clone(),
        programs: view.run.pipeline.programs.get(&stage.prover).cloned().unwrap_or_default(),
        params: stage.params.clone(),
        reads,
    })
}

/// How long tasks of the stages take that are hedged and have open tasks.
async fn usual(table: &dyn Table, view: &RunView, open: &[TaskSnapshot]) -> PortResult<BTreeMap<u16, Usual>> {
    let mut found = BTreeMap::new();
    let stages: BTreeSet<u16> = open.iter().map(|task| task.node.stage).collect();
    for stage in stages {
        let policy = view.run.policy.stage(stage);
        let Some(hedging) = policy.hedge else { continue };
        let row = table.get(&key(RowKey::sketch(&view.run.digest.tag(), stage, &policy.pool))).await?;
        let sketch = row.and_then(|row| Sketch::deserialize(row.attribute(attribute::SKETCH)?).ok());
        let took = sketch.and_then(|sketch| sketch.quantile(hedging.quantile));
        found.extend(took.map(|took| (stage, Usual { thousandths: hedging.quantile, took })));
    }
    Ok(found)
}

/// All node rows of a run.
async fn nodes(table: &dyn Table, run: &RunId) -> PortResult<BTreeMap<Node, NodeView>> {
    let partition = RowKey::run(run).partition;
    let mut nodes = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = table.query(&partition, "node/", after.as_deref(), 1000).await?;
        for row in &page {
            if let Some(node) = RowKey::parse_node(&row.key.sort) {
                nodes.insert(node, NodeView::read(&row.attributes));
            }
        }
        match page.last() {
            Some(last) if page.len() == 1000 => after = Some(last.key.sort.clone()),
            _ => return Ok(nodes),
        }
    }
}
