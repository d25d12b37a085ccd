//! Drives the chain plane: an event meets its chain, then everything the rows ask for is done, until nothing is left.

use std::collections::BTreeMap;

use push0_core::chain::{self, ChainConfig, Change, Event, Ignored, Step, View, Wants};
use push0_core::message::{queue, work_queue};
use push0_core::record::{
    BlockRow, BlockStatus, ChainRow, Disagreement, Halt, Lane, LaneState, Late, OutboxRow, PendingEffect, Promotion,
    RowKey, Run, Versioned, attribute, control_key, proof_key,
};
use push0_core::{ChainId, Class, ErrorCode, Millis, PipelineDigest, RunId, invariant, transition};

use super::store::{Loaded, decode, key, load, put_blob};
use super::{Context, DriveError, batch, block, enforce, meter};
use crate::port::{Outgoing, PortError, Write};

/// What came of the event itself; whatever it was, what was left to do has been done.
pub type Answer = Result<(), Ignored>;

/// Most batches fixed in one go: a batch chain that is added to an old source has all of that to catch up with. Whoever admits the last of
/// them goes on ([`batch::go_on`]), and so does whatever else happens to the source.
pub const BATCHES_AT_ONCE: usize = 16;

/// Runs the loop for `event` of `chain`.
///
/// Every turn reads anew: after its own write, and after every conflict. So the loop ends only in a state, read after the last write,
/// in which `advance` finds nothing to do, or nothing but more batches than are fixed at once.
///
/// A walk that somebody left behind is finished before the event is decided: no event meets a chain in the middle of one.
pub async fn drive(context: &Context, chain: &ChainId, event: &Event) -> Result<Answer, DriveError> {
    let config = context.catalog.chains.get(chain);
    let config = config
        .ok_or_else(|| DriveError::poison(ErrorCode::UnknownChain, format!("chain {chain} is not configured here")))?;
    let mut answer = None;
    let mut batches = 0;
    loop {
        let loaded = State::load(context, config, answer.is_none().then_some(event)).await?;
        let now = context.clock.now();
        let is_due = answer.is_none() && loaded.view.chain.walk.is_none();
        let written = match is_due {
            true => match decide(context, &loaded.view, event, now, config) {
                Err(ignored) => {
                    answer = Some(Err(ignored));
                    continue;
                }
                Ok(change) => {
                    let alarm = Alarm::of(&loaded.view, &change);
                    let written = loaded.write(context, config, change).await;
                    if written.is_ok() {
                        answer = Some(Ok(()));
                        alarm.into_iter().for_each(Alarm::raise);
                    }
                    written
                }
            },
            false => match advance(context, &loaded.view, now, config) {
                None => match answer {
                    Some(answer) => return Ok(answer),
                    // A walk asks for a step; without one it has ended.
                    None => continue,
                },
                Some(Step::Write(change)) => {
                    let alarm = Alarm::of(&loaded.view, &change);
                    let written = loaded.write(context, config, *change).await;
                    if written.is_ok() {
                        alarm.into_iter().for_each(Alarm::raise);
                    }
                    written
                }
                Some(Step::Perform { effect, then }) => {
                    perform(context, config, effect, then.next_final).await?;
                    loaded.write(context, config, Change { chain: Some(*then), ..Change::default() }).await
                }
                Some(Step::Publish { seq }) => {
                    publish(context, &loaded.view, seq).await?;
                    Ok(())
                }
                Some(Step::TellBatch { chain: derived, number, then }) => {
                    batch::tell(context, &derived, number).await?;
                    let written =
                        loaded.write(context, config, Change { chain: Some(*then), ..Change::default() }).await;
                    batches += usize::from(written.is_ok());
                    written
                }
            },
        };
        match written {
            Err(error) if !error.is_conflict() => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        if batches >= BATCHES_AT_ONCE
            && let Some(answer) = answer
        {
            return Ok(answer);
        }
    }
}

fn decide(context: &Context, view: &View, event: &Event, now: Millis, config: &ChainConfig) -> Result<Change, Ignored> {
    context.observe(|| [transition::of_event(view, event)]);
    chain::decide(view, event, now, config)
}

fn advance(context: &Context, view: &View, now: Millis, config: &ChainConfig) -> Option<Step> {
    let step = chain::advance(view, now, config);
    context.observe(|| transition::of_turn(view, step.as_ref()));
    step
}

/// What an operator shall see in the log, once, when it has been written.
struct Alarm {
    code: ErrorCode,
    chain: ChainId,
    number: u64,
    what: String,
}

impl Alarm {
    fn of(view: &View, change: &Change) -> Option<Self> {
        let chain = &view.chain.chain;
        let alarm = |code, number, what: String| Some(Self { code, chain: chain.clone(), number, what });
        if let Some(block) = &change.block {
            let before = view.blocks.get(&block.number);
            if let Some(missed) = block.missed.filter(|_| before.is_none_or(|before| before.missed.is_none())) {
                let what = format!("the block's deadline has passed; policy: {}", missed.then.as_str());
                return alarm(ErrorCode::DeadlineMissed, block.number, what);
            }
            if let BlockStatus::Failed { reason } = &block.status {
                let code = ErrorCode::find(reason).unwrap_or(ErrorCode::BadBlock);
                return alarm(code, block.number, format!("block failed: {reason}"));
            }
            let agreed = before.is_none_or(|before| before.disagreement().is_none());
            if let Some(found) = block.disagreement().filter(|_| agreed) {
                let says: Vec<String> = found.lines().collect();
                let what = format!("provers disagree about the block: {}", says.join("; "));
                return alarm(ErrorCode::Disagreement, block.number, what);
            }
            if let Some((lane, reason)) = newly_failed(before, block) {
                let code = ErrorCode::find(reason).unwrap_or(ErrorCode::AttemptsUsedUp);
                let what = format!("pipeline {} failed, and the block goes on without it: {reason}", lane.name);
                return alarm(code, block.number, what);
            }
            if before.is_some_and(|before| before.contenders_seen < block.contenders_seen) {
                return alarm(ErrorCode::Contender, block.number, "another block wants this number".to_owned());
            }
        }
        let fork = change.chain.as_ref().and_then(|chain| chain.fork);
        if let Some(fork) = fork.filter(|fork| view.chain.fork.is_none_or(|known| known.seq != fork.seq)) {
            let what = format!("reorg: fork {} begins to take the place of blocks", fork.seq);
            return alarm(ErrorCode::Overtaken, fork.from, what);
        }
        let range = change.chain.as_ref().and_then(|chain| chain.dropped.as_ref());
        if let Some(range) =
            range.filter(|range| view.chain.dropped.as_ref().is_none_or(|known| known.nth != range.nth))
        {
            let what = format!("an operator drops every block from here on: {}", range.reason);
            return alarm(ErrorCode::Overtaken, range.from, what);
        }
        let disputed = change.chain.as_ref().and_then(|chain| newly_disputed(&view.chain, chain));
        if let Some(found) = disputed {
            let says: Vec<String> = found.lines().collect();
            let what = format!("chain halted: provers disagree about the block: {}", says.join("; "));
            return alarm(ErrorCode::Disagreement, found.number, what);
        }
        let halt = change.chain.as_ref().and_then(|chain| chain.halt.as_ref());
        match halt.filter(|halt| view.chain.halt.as_ref() != Some(halt))? {
            Halt::ParentMismatch { number, names, last } => {
                let what = format!("chain halted: the block names parent {names}, final is {last}");
                alarm(ErrorCode::ParentMismatch, *number, what)
            }
            // One that waited behind another: it was told of when it was found.
            Halt::Disagreement(_) => None,
            Halt::OrphanParent { number, names } => {
                let what = format!("chain halted: the block's parent {names} was skipped, being of another branch");
                alarm(ErrorCode::OrphanParent, *number, what)
            }
        }
    }

    fn raise(self) {
        let Self { code, chain, number, what } = self;
        tracing::warn!(%code, %chain, number, "{what}");
    }
}

/// A disagreement that was not known before.
pub(super) fn newly_disputed<'c>(before: &ChainRow, after: &'c ChainRow) -> Option<&'c Disagreement> {
    after.disagreements().find(|found| !before.disagreements().any(|known| known == *found))
}

/// A lane that failed, or begins anew elsewhere, with this change.
fn newly_failed<'b>(before: Option<&BlockRow>, block: &'b BlockRow) -> Option<(&'b Lane, &'b str)> {
    (0..).zip(&block.runs).find_map(|(at, lane)| match &lane.state {
        LaneState::Failed { reason } => {
            let known = before.filter(|before| before.epoch == block.epoch).and_then(|before| before.lane(at));
            known.is_none_or(|known| known.state != lane.state).then_some((lane, reason.as_str()))
        }
        LaneState::Proving | LaneState::Proven(_) | LaneState::Redone { .. } | LaneState::Stopped => None,
    })
}

/// The rows a decision reads, with the versions it is written back on.
struct State {
    view: View,
    chain_version: Option<u64>,
    block_versions: BTreeMap<u64, u64>,
    /// As loaded, to check what a change makes of them.
    chain_before: Option<ChainRow>,
}

impl State {
    /// `event` is what is still to be decided.
    async fn load(context: &Context, config: &ChainConfig, event: Option<&Event>) -> Result<Self, DriveError> {
        let loaded: Option<Loaded<ChainRow>> = load(context, RowKey::chain(&config.chain)).await?;
        let chain_version = loaded.as_ref().map(|loaded| loaded.version);
        let chain_before = loaded.map(|loaded| loaded.record);
        let chain = chain_before.clone().unwrap_or_else(|| config.new_row());
        let wants = View::wants(&chain, event);
        let view = View { chain, blocks: BTreeMap::new(), published: published(context, &config.chain).await? };
        let mut state = Self { view, chain_version, block_versions: BTreeMap::new(), chain_before };
        match wants {
            Wants::Numbers(numbers) => {
                for number in numbers {
                    state.read(context, number).await?;
                }
            }
            Wants::From(number, most) => state.read_from(context, number, most).await?,
        }
        if let Some(number) = state.view.lacks(event, config) {
            state.read(context, number).await?;
        }
        Ok(state)
    }

    async fn read(&mut self, context: &Context, number: u64) -> Result<(), DriveError> {
        if let Some(block) = load::<BlockRow>(context, RowKey::block(&self.view.chain.chain, number)).await? {
            self.block_versions.insert(number, block.version);
            self.view.blocks.insert(number, block.record);
        }
        Ok(())
    }

    /// The next rows from `number` on.
    async fn read_from(&mut self, context: &Context, number: u64, most: usize) -> Result<(), DriveError> {
        let chain = &self.view.chain.chain;
        let after = number.checked_sub(1).map(|before| RowKey::block(chain, before).sort);
        let rows = context.table.query(&RowKey::chain(chain).partition, "block/", after.as_deref(), most).await?;
        for row in rows {
            let block: BlockRow = decode(&row.key, &row)?;
            self.block_versions.insert(block.number, row.version);
            self.view.blocks.insert(block.number, block);
        }
        Ok(())
    }

    /// Writes a change in one transaction, on condition that the chain's row and the blocks' are as they were read.
    async fn write(&self, context: &Context, config: &ChainConfig, change: Change) -> Result<(), PortError> {
        let chain_key = key(RowKey::chain(&self.view.chain.chain));
        let chain_after = change.chain.as_ref().unwrap_or(&self.view.chain);
        enforce(context, invariant::chain(self.chain_before.as_ref(), chain_after));
        let mut writes = Vec::new();
        // A chain's first event creates its row; after that a row that does not change is only checked.
        writes.push(match (&change.chain, self.chain_version) {
            (None, Some(version)) => Write::Check { key: chain_key, version: Some(version) },
            _ => Write::Put { key: chain_key, doc: chain_after.to_value(), expected: self.chain_version },
        });
        for block in change.block.iter().chain(&change.more) {
            enforce(context, invariant::block(self.view.blocks.get(&block.number), block));
            enforce(context, invariant::released(&self.view.chain, block, self.view.window(config)));
            let expected = self.block_versions.get(&block.number).copied();
            let at = key(RowKey::block(&block.chain, block.number));
            writes.push(Write::Put { key: at, doc: block.to_value(), expected });
        }
        if let Some(row) = &change.outbox {
            enforce(context, invariant::outbox(chain_after, row));
            let at = key(RowKey::outbox(&row.chain, row.seq));
            writes.push(Write::Put { key: at, doc: row.to_value(), expected: None });
        }
        if let Some(row) = &change.batch {
            enforce(context, invariant::batch(chain_after, row));
            let at = key(RowKey::batch(&row.range.of, &row.chain, row.number));
            writes.push(Write::Put { key: at, doc: row.to_value(), expected: None });
        }
        context.table.transact(writes).await?;
        meter::chain_written(context, &self.view, &change);
        Ok(())
    }
}

/// Sequence number of the last published outbox row; 0: none.
pub async fn published(context: &Context, chain: &ChainId) -> Result<u64, DriveError> {
    let row = context.table.get(&key(RowKey::published(chain))).await?;
    let seq = row.as_ref().and_then(|row| row.attribute(attribute::SEQ)).and_then(|seq| seq.as_u64());
    Ok(seq.unwrap_or(0))
}

/// `next_final`: where the chain's cursor was read.
async fn perform(
    context: &Context,
    config: &ChainConfig,
    effect: PendingEffect,
    next_final: u64,
) -> Result<(), DriveError> {
    let block: Option<Loaded<BlockRow>> = load(context, RowKey::block(&config.chain, effect.number())).await?;
    let block = block.map(|loaded| loaded.record);
    context.observe(|| [transition::of_effect(effect, block.as_ref())]);
    if !chain::is_current(effect, block.as_ref()) {
        return Ok(());
    }
    match (effect, block) {
        (PendingEffect::Start { number, from, .. }, Some(block)) => {
            let promotion = Promotion::at_release(number, next_final, context.queue.ranks());
            start(context, config, &block, from, promotion).await
        }
        (PendingEffect::Arm { .. }, Some(block)) => block::arm_deadline(context, &block).await,
        (PendingEffect::Demote { .. }, Some(block)) => {
            let run = RunId::new(config.chain.clone(), block.number, block.epoch);
            for lane in 0..block.lanes() {
                block::demote(context, &run.clone().in_lane(lane)).await?;
            }
            Ok(())
        }
        (PendingEffect::Start { .. } | PendingEffect::Arm { .. } | PendingEffect::Demote { .. }, None) => Ok(()),
        (PendingEffect::Stop { number, epoch, from, lanes }, _) => {
            let run = RunId::new(config.chain.clone(), number, epoch);
            for lane in from..from.saturating_add(lanes) {
                stop(context, &run.clone().in_lane(lane)).await?;
            }
            Ok(())
        }
    }
}

/// Starts the block's runs from a lane on: those that are to be proven. A crash between two of them leaves the effect, which starts them
/// all; what was started before is only sent again.
async fn start(
    context: &Context,
    config: &ChainConfig,
    block: &BlockRow,
    from: u16,
    promotion: Promotion,
) -> Result<(), DriveError> {
    let id = RunId::new(block.chain.clone(), block.number, block.epoch);
    if block.runs.is_empty() {
        let pipeline = config.pipeline_of(block.number, block.epoch);
        return start_run(context, config, block, id, pipeline, promotion).await;
    }
    for (lane, run) in (0..).zip(&block.runs).filter(|(lane, run)| *lane >= from && run.is_proving()) {
        start_run(context, config, block, id.clone().in_lane(lane), run.pipeline, promotion).await?;
    }
    Ok(())
}

/// Creates a run's plan record, once, sends its split task, and arms the timer that looks after it.
async fn start_run(
    context: &Context,
    config: &ChainConfig,
    block: &BlockRow,
    id: RunId,
    pipeline: PipelineDigest,
    promotion: Promotion,
) -> Result<(), DriveError> {
    let (Some(hash), Some(witness)) = (block.hash, block.witness.clone()) else {
        return Ok(());
    };
    let file = context.catalog.pipelines.get(&pipeline);
    let file = file.ok_or_else(|| {
        let what = format!("pipeline {pipeline} is not configured");
        PortError::transient(ErrorCode::BadConfiguration.says(what))
    })?;
    let demoted = block.missed.is_some_and(|missed| missed.then == Late::Demote);
    let run = Run {
        id,
        hash,
        parent_hash: block.parent_hash,
        witness,
        is_batch: config.batch.is_some(),
        pipeline: file.pipeline.clone(),
        digest: pipeline,
        policy: file.policy.clone(),
        promotion: if demoted { Promotion::None } else { promotion },
        class: if demoted { Class::Bulk } else { config.class },
        deadline: block.deadline,
        demoted,
        released_at: block.released_at.unwrap_or(block.changed_at),
        suspects: block.suspects.clone(),
    };
    let at = key(RowKey::run(&run.id));
    let set = context.table.set_if(&at, attribute::RUN, None, Some(run.to_value())).await?;
    // Whoever wrote it first decides, also about the pipeline: a restart with another configuration changes no run.
    let row = set.row.as_ref().and_then(|row| push0_core::record::RunView::read(&row.attributes));
    let run = row.map_or_else(|| run.into(), |view| view.run);
    let task = run.split_task();
    let outgoing = task_message(&task, &run, push0_core::Millis(0));
    let work = work_queue(&task.pool, task.class);
    let sent = async { context.queue.send(&work, vec![outgoing]).await.map_err(DriveError::from) };
    futures::try_join!(sent, block::arm(context, &run.id, 0, run.released_at))?;
    tracing::info!(run = %run.id, "block released");
    Ok(())
}

/// A task as it is sent: identified and ranked by what it is, its chain the group.
pub(super) fn task_message(task: &push0_core::message::TaskMessage, run: &Run, delay: push0_core::Millis) -> Outgoing {
    Outgoing {
        body: task.to_json(),
        group: Some(run.id.chain.to_string()),
        dedup: Some(task.id.to_string()),
        delay,
        rank: task.rank(),
    }
}

/// Tells the collector (mark on the run) and the workers (control blob) that a run is over.
pub(super) async fn stop(context: &Context, run: &RunId) -> Result<(), DriveError> {
    let at = key(RowKey::run(run));
    context.table.set_if(&at, attribute::STOPPED, None, Some(true.into())).await?;
    put_blob(context, &control_key(run), "stop".to_owned()).await
}

/// Hands outbox row `seq` on, then marks it: another publisher may send it too, nobody sends the next before.
async fn publish(context: &Context, view: &View, seq: u64) -> Result<(), DriveError> {
    let chain = &view.chain.chain;
    enforce(context, invariant::published(&view.chain, seq));
    let row: Option<Loaded<OutboxRow>> = load(context, RowKey::outbox(chain, seq)).await?;
    let missing = || ErrorCode::DatabaseDamaged.says(format!("outbox row {seq} of {chain} is missing"));
    let row = row.ok_or_else(|| PortError::transient(missing()))?.record;
    let json = row.to_json();
    put_blob(context, &proof_key(chain, row.number), json.clone()).await?;
    let outgoing = Outgoing {
        body: json,
        group: Some(chain.to_string()),
        dedup: Some(format!("{chain}/{seq}")),
        ..Outgoing::default()
    };
    context.queue.send(queue::FINALIZED, vec![outgoing]).await?;
    let before = (seq > 1).then(|| (seq - 1).into());
    let at = key(RowKey::published(chain));
    context.table.set_if(&at, attribute::SEQ, before, Some(seq.into())).await?;
    tracing::info!(%chain, number = row.number, seq, "block finalized");
    Ok(())
}
