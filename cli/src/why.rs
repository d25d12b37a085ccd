//! What a block waits for, and what to do about it: from snapshots alone, without asking anybody.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::block::kind_name;
use push0_core::chain::{self, ChainConfig, Unfit, is_abandoned};
use push0_core::message::{FailureKind, work_queue};
use push0_core::pipeline::StagePolicy;
use push0_core::record::{BlockRow, BlockStatus, ChainRow, FailureNote, Halt, Promotion, Started, Walk};
use push0_core::{Attempt, ChainId, Class, ErrorCode, Millis, Node, Pool, TaskId, WorkerId};
use push0_runtime::drive::Catalog;
use push0_runtime::http::WorkerHere;
use push0_runtime::port::QueueStats;
use push0_runtime::snapshot::{AtFault, BlockSnapshot, ChainSnapshot, CopySnapshot, RunSnapshot, TaskSnapshot, Tried};
use serde::Serialize;

use crate::on_time;
use crate::render::{ago, duration};

/// All that is known.
#[derive(Debug, Clone)]
pub struct Facts {
    pub config: ChainConfig,
    pub catalog: Catalog,
    pub chain: ChainSnapshot,
    /// Of a batch chain: its source's row.
    pub source: Option<ChainRow>,
    /// `None`: nothing was submitted under the number.
    pub block: Option<BlockSnapshot>,
    pub number: u64,
    pub queues: BTreeMap<String, QueueStats>,
    /// Workers that are here; none where `up` cannot say.
    pub here: Option<Vec<WorkerHere>>,
    /// Where `up` is, for the commands that are named.
    pub connect: String,
    pub now: Millis,
}

/// One screen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Why {
    pub chain: String,
    pub number: u64,
    pub status: String,
    /// In one sentence.
    pub answer: String,
    /// The page about what stands in its way, where something does.
    pub code: Option<ErrorCode>,
    /// What else is to be known, a line each.
    pub facts: Vec<String>,
    pub stages: Vec<String>,
    pub tasks: Vec<Task>,
    /// Failed attempts at its tasks, in graph order, the oldest first.
    pub failures: Vec<Failure>,
    /// Open tasks that are not listed.
    pub more_tasks: usize,
    /// Earlier runs.
    pub history: Vec<String>,
    /// Commands, each with what it is good for.
    pub next: Vec<String>,
}

/// An open task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    pub id: TaskId,
    pub stage: String,
    pub node: Node,
    pub attempt: Attempt,
    pub attempts: u32,
    pub pool: Pool,
    /// With the pool it names the queue that it lies in.
    pub class: Class,
    /// Reported failures so far: what `attempts` bounds.
    pub failed: u32,
    /// Attempts that were lost with their workers.
    pub lost: u32,
    /// Workers that never get it again.
    pub barred: Vec<WorkerId>,
    /// Since when it is in its stage's larger pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger_from: Option<Attempt>,
    pub held_by: Option<WorkerId>,
    pub since: Option<Millis>,
    /// "proven by local-cpu-1 for 3 s".
    pub state: String,
    pub last_error: Option<String>,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    pub stage: String,
    pub node: Node,
    pub attempt: Attempt,
    pub worker: Option<WorkerId>,
    pub kind: FailureKind,
    pub code: Option<ErrorCode>,
    /// Whole, without the code.
    pub message: String,
    pub at: Millis,
}

/// Most tasks on the screen.
const TASKS: usize = 12;

pub fn explain(facts: &Facts) -> Why {
    let mut why = Why {
        chain: facts.config.chain.to_string(),
        number: facts.number,
        status: facts.block.as_ref().map_or("unknown", |block| block.block.status.name()).to_owned(),
        ..Why::default()
    };
    match &facts.block {
        None => absent(facts, &mut why),
        Some(block) => {
            about(block, facts.now, &mut why);
            provers::about(facts, block, &mut why);
            why.failures = failures(block);
            match &block.block.status {
                BlockStatus::Parked => parked(facts, block, &mut why),
                BlockStatus::Proving => proving(facts, block, &mut why),
                BlockStatus::Proven => proven(facts, block, &mut why),
                BlockStatus::Failed { reason } => failed(facts, reason, &mut why),
                BlockStatus::Skipped { reason } => skipped(facts, block, reason, &mut why),
                BlockStatus::Dropped { reason } => dropped(facts, reason, &mut why),
                BlockStatus::Final => is_final(facts, block, &mut why),
            }
        }
    }
    batch::only_what_is_possible(facts, &mut why);
    why
}

fn failures(block: &BlockSnapshot) -> Vec<Failure> {
    let tasks = block.runs().flat_map(|run| &run.tasks);
    let notes = tasks.flat_map(|task| task.failures.iter().map(move |note| (task, note)));
    let failure = |(task, note): (&TaskSnapshot, &FailureNote)| {
        let (code, message) = ErrorCode::split(&note.message);
        Failure {
            stage: task.stage.clone(),
            node: task.node,
            attempt: note.attempt,
            worker: note.worker.clone(),
            kind: note.kind,
            code,
            message: message.to_owned(),
            at: note.at,
        }
    };
    notes.map(failure).collect()
}

/// Names the pages about what a text says went wrong.
fn pages(text: &str, why: &mut Why) {
    why.code = ErrorCode::find(text);
    let mut named = BTreeSet::new();
    for code in ErrorCode::named_in(text).filter(|code| named.insert(*code)) {
        why.next.push(format!("push0 explain {code}   {}", code.title()));
    }
}

fn chain_of(facts: &Facts) -> &ChainId {
    &facts.config.chain
}

fn absent(facts: &Facts, why: &mut Why) {
    if let Some(batching) = &facts.config.batch {
        return batch::absent(facts, batching, why);
    }
    let (chain, number, row) = (chain_of(facts), facts.number, &facts.chain.chain);
    if number < row.first {
        why.answer = format!("the chain begins with block {}; there is no block {number}", row.first);
        return;
    }
    why.answer = "nothing was submitted under this number".to_owned();
    why.code = Some(ErrorCode::UnknownBlock);
    if number == row.next_release {
        let behind = facts.chain.blocks.iter().filter(|block| block.block.number > number).count();
        why.facts.push(format!("it is the next the chain wants: {behind} submitted blocks wait behind it"));
        why.next.push(format!("push0 skip {chain} {number} --reason TEXT   if it will never come"));
    } else if let Some(wanted) = wanted(facts) {
        why.facts.push(format!("the chain waits for block {wanted} first"));
    }
    why.next.insert(0, "push0 submit FILE.json   submits it".to_owned());
}

/// The number the chain cannot go on without, if it was not submitted.
fn wanted(facts: &Facts) -> Option<u64> {
    let next = facts.chain.chain.next_release;
    row(facts, next).is_none().then_some(next)
}

fn row(facts: &Facts, number: u64) -> Option<&BlockSnapshot> {
    facts.chain.blocks.iter().find(|block| block.block.number == number)
}

/// What is said of any block.
fn about(block: &BlockSnapshot, now: Millis, why: &mut Why) {
    let row = &block.block;
    why.facts.extend(
        row.batch.iter().map(|range| format!("it is made of blocks {}..{} of {}", range.from, range.to, range.of)),
    );
    if let Some(hash) = row.hash {
        why.facts.push(format!("hash {hash}, epoch {}, submitted {}", row.epoch.0, ago(now, row.submitted_at)));
    }
    why.facts.extend(on_time::of_block(row, now));
    if row.contenders_seen > 0 {
        let hashes: Vec<String> = row.contenders.iter().map(|contender| contender.hash.to_string()).collect();
        why.facts.push(format!(
            "{} other blocks were submitted under this number and did not get in: {}",
            row.contenders_seen,
            hashes.join(", ")
        ));
        let number = row.number;
        why.next.push(format!(
            "push0 replace FILE.json   puts another block in the place of {number}, if a contender is the right one"
        ));
    }
    if row.bad_proofs > 0 {
        why.facts.push(format!("{} runs ended in a bad proof", row.bad_proofs));
    }
    for ended in &row.history {
        why.history.push(format!("epoch {} ended {}: {}", ended.epoch.0, ago(now, ended.at), ended.reason));
    }
}

fn parked(facts: &Facts, block: &BlockSnapshot, why: &mut Why) {
    let (chain, number, row_of_chain) = (chain_of(facts), facts.number, &facts.chain.chain);
    let next = row_of_chain.next_release;
    if let Some(halt) = row_of_chain.halt.as_ref().filter(|halt| halt.number() == number) {
        halted(facts, halt, "it cannot be proven:", why);
        return;
    }
    if number <= next
        && let Some(unfit) = unfit(facts, &block.block)
    {
        waits_for_parent(facts, &block.block, unfit, why);
        return;
    }
    if next != number
        && let Some(missing) = wanted(facts)
    {
        why.answer = format!("it waits for block {missing}, which was not submitted");
        why.next.push(format!("push0 submit FILE.json   with block {missing}"));
        why.next.push(format!("push0 skip {chain} {missing} --reason TEXT   if it will never come"));
        return;
    }
    if row_of_chain.paused {
        why.answer = "the chain is paused: no more blocks are released".to_owned();
        why.next.push(format!("push0 resume {chain}"));
        return;
    }
    let (cursor, window) = (row_of_chain.next_final, facts.chain.window);
    if next >= cursor + window {
        why.answer =
            format!("the window is full: at most {window} blocks are proven at once, and block {cursor} is not final");
        stuck_behind(facts, cursor, why);
        why.next.push(format!("push0 window {chain} N   sets another window, 1 to 256"));
        return;
    }
    why.answer = if next == number {
        "its turn has come; it is about to be released".to_owned()
    } else {
        format!("blocks from {next} on are about to be released; it is among them")
    };
    why.next.push("if it stays so for more than a few seconds: look at the log of `push0 up`".to_owned());
}

/// Why a block does not follow what stands before it.
fn unfit(facts: &Facts, block: &BlockRow) -> Option<Unfit> {
    let before = block.number.checked_sub(1).and_then(|before| row(facts, before));
    chain::unfit(&facts.chain.chain, before.map(|before| &before.block), block)
}

fn waits_for_parent(facts: &Facts, block: &BlockRow, unfit: Unfit, why: &mut Why) {
    let (chain, number) = (chain_of(facts), facts.number);
    why.code = Some(ErrorCode::ParentAway);
    let before = number.saturating_sub(1);
    match unfit {
        Unfit::OtherParent { wants, there } => {
            why.answer = format!(
                "it waits for its parent: another block than the one it names stands before it, as block {before}"
            );
            let there =
                there.map_or("a block that was skipped, being of another branch".to_owned(), |there| there.to_string());
            why.facts.push(format!("it wants {wants}; there is {there}"));
        }
        Unfit::NoPredecessor { wants, before } => {
            let status = row(facts, before).map_or("not submitted", |block| block.block.status.name());
            why.answer = format!("it waits for its parent: block {before} is {status}");
            why.facts.extend(wants.map(|wants| format!("it wants {wants}")));
            why.next.push(format!("push0 why {chain} {before}"));
        }
    }
    if chain::was_left_behind(&facts.chain.chain, block) {
        why.facts
            .push("it is of an earlier fork: the later one's block takes its place when it is submitted".to_owned());
    }
    why.next.push("nothing, if its parent or another block in its place is on the way: it starts by itself".to_owned());
    why.next.push("push0 submit FILE.json --fork-seq N   puts a later fork's block in the place of another".to_owned());
    why.next.push(format!("push0 reorg {chain} {number}   drops it and all behind it"));
}

fn dropped(facts: &Facts, reason: &str, why: &mut Why) {
    let row = &facts.chain.chain;
    why.answer = format!("what stood here was dropped ({reason}); another block is waited for");
    if let (Some(Walk::Drop { at }), Some(range)) = (&row.walk, &row.dropped) {
        why.facts.push(format!("blocks from {} on are being dropped; {at} is next", range.from));
    }
    let past = facts.block.iter().flat_map(|block| &block.block.past);
    why.facts.extend(past.map(|hash| format!("{hash} stood here, and does not come back by being submitted again")));
    why.next.push("push0 submit FILE.json   with the block that belongs here".to_owned());
    why.next.push("push0 replace FILE.json   if that is one that stood here before".to_owned());
    why.next.push(format!("push0 skip {} {} --reason TEXT   if there will be none", chain_of(facts), facts.number));
}

/// The block at the cursor does not follow what is final, and cannot any more.
fn halted(facts: &Facts, halt: &Halt, how: &str, why: &mut Why) {
    let (chain, number) = (chain_of(facts), facts.number);
    match halt {
        Halt::Disagreement(found) => provers::disagree(facts, found, why),
        Halt::ParentMismatch { names, last, .. } => {
            why.answer = format!("{how} it names another parent than the block that is final before it");
            why.code = Some(ErrorCode::ParentMismatch);
            why.facts.push(format!("it names {names}; final is {last}"));
            why.next.push("push0 replace FILE.json   with the block that follows the final one".to_owned());
            why.next.push(format!("push0 skip {chain} {number} --reason TEXT   leaves the number out"));
            why.next.push(format!("push0 explain {}", ErrorCode::ParentMismatch));
        }
        Halt::OrphanParent { names, .. } => {
            why.answer = format!("{how} it is built on a block that was skipped for being of another branch");
            why.code = Some(ErrorCode::OrphanParent);
            why.facts.push(format!("it names {names}"));
            why.next.push("push0 replace FILE.json   with the block that belongs here".to_owned());
            why.next.push(format!("push0 skip {chain} {number} --reason TEXT   leaves the number out, too"));
            why.next.push(format!("push0 explain {}", ErrorCode::OrphanParent));
        }
    }
}

/// Says how the block at the cursor is, which this one waits for.
fn stuck_behind(facts: &Facts, cursor: u64, why: &mut Why) {
    let chain = chain_of(facts);
    let status = row(facts, cursor).map_or("not submitted", |block| block.block.status.name());
    why.facts.push(format!("block {cursor} is {status}"));
    why.next.push(format!("push0 why {chain} {cursor}"));
}

fn proven(facts: &Facts, block: &BlockSnapshot, why: &mut Why) {
    let (number, row) = (facts.number, &facts.chain.chain);
    if let Some(found) = block.block.disagreement() {
        return provers::disagree(facts, &found, why);
    }
    match (&row.halt, row.late_halt()) {
        (_, Some(found)) => provers::held_up(facts, found.number, why),
        (Some(halt), None) if row.next_final == number => halted(facts, halt, "it is proven, but", why),
        _ if row.next_final == number => {
            why.answer = "it is proven and about to become final".to_owned();
        }
        _ => {
            why.answer = format!("it is proven; it becomes final after block {}", row.next_final);
            stuck_behind(facts, row.next_final, why);
        }
    }
}

fn failed(facts: &Facts, reason: &str, why: &mut Why) {
    let (chain, number) = (chain_of(facts), facts.number);
    why.answer = format!("it failed: {reason}");
    if facts.chain.chain.next_final == number {
        why.facts.push("nothing behind it becomes final until it is proven, replaced or skipped".to_owned());
    }
    let runs = || facts.block.iter().flat_map(BlockSnapshot::runs);
    let tasks = runs().flat_map(|run| &run.tasks);
    for (task, note) in tasks.flat_map(|task| task.failures.iter().map(move |note| (task, note))).take(TASKS) {
        why.facts.push(format!("{}: {}", TaskId { attempt: note.attempt, ..task.id.clone() }, failure(note)));
    }
    why.facts.extend(by_kind(runs().flat_map(|run| &run.tasks)));
    why.next.push(format!("push0 retry {chain} {number}   proves it again, from the same witness"));
    why.next.push("push0 replace FILE.json   proves another block or witness under this number".to_owned());
    // The same witness would fail in the same way.
    let code = ErrorCode::find(reason);
    if matches!(
        code,
        Some(ErrorCode::HashDiffers | ErrorCode::ParentDiffers | ErrorCode::BadBlock | ErrorCode::SegmentCount)
    ) {
        why.next.swap(0, 1);
    }
    for (run, task) in runs().filter_map(|run| Some((run, at_fault(run)?))) {
        why.facts.push(format!("it ended with task {}{}", task.id, fared(&task.tried)));
        why.facts.extend(run.at_fault.as_ref().map(recipe));
        why.next.push(format!("push0 replay {}   runs the failed task's prover here, to see why", task.id));
    }
    why.next.push(format!("push0 skip {chain} {number} --reason TEXT   leaves the number out"));
    pages(reason, why);
}

/// The task that a run ended with.
fn at_fault(run: &RunSnapshot) -> Option<&TaskSnapshot> {
    let node = push0_core::block::failed_node(run.failed.as_deref()?)?;
    run.tasks.iter().find(|task| task.node == node)
}

fn skipped(facts: &Facts, block: &BlockSnapshot, reason: &str, why: &mut Why) {
    match block.block.final_seq {
        Some(seq) => why.answer = format!("it was skipped ({reason}); its tombstone is number {seq} of the stream"),
        None => {
            why.answer =
                format!("it was skipped ({reason}); its tombstone comes after block {}", facts.chain.chain.next_final);
            if is_abandoned(&block.block) {
                let (chain, number) = (chain_of(facts), facts.number);
                why.next.push(format!("push0 retry {chain} {number}   proves it after all, late"));
            }
            why.next.push("push0 replace FILE.json   proves a block under this number after all".to_owned());
        }
    }
    pages(reason, why);
}

fn is_final(facts: &Facts, block: &BlockSnapshot, why: &mut Why) {
    let row = &block.block;
    if let Some(found) = facts.chain.chain.disagreements().find(|found| found.number == row.number) {
        return provers::disagree(facts, found, why);
    }
    let seq = row.final_seq.unwrap_or(0);
    why.answer = format!("it waits for nothing: it is final, number {seq} of the stream");
    why.facts.extend(row.proof.iter().map(|proof| format!("proof {} ({} bytes)", proof.key, proof.size)));
    why.next.push(format!("push0 verify {} {}   checks its proof", row.chain, row.number));
}

fn proving(facts: &Facts, block: &BlockSnapshot, why: &mut Why) {
    let chain = chain_of(facts);
    let Some(run) = block.runs().next() else {
        why.answer = "it is released, and its run is being set up".to_owned();
        why.next.push("if it stays so for more than a few seconds: look at the log of `push0 up`".to_owned());
        return;
    };
    let is_alone = block.block.runs.is_empty();
    if let Some(reason) = run.failed.as_ref().filter(|_| is_alone) {
        why.answer = format!("its run has failed, and the chain is being told: {reason}");
        pages(reason, why);
        return;
    }
    if is_alone {
        why.stages = run.stages.iter().map(crate::render::stage).collect();
    }
    let going_on = || block.runs().filter(|run| run.failed.is_none());
    let tasks = going_on().flat_map(|run| run.tasks.iter().map(move |task| (run, task)));
    let tasks: Vec<Task> = tasks.map(|(run, task)| self::task(facts, run, task)).collect();
    let held = tasks.iter().filter(|task| task.held_by.is_some()).count();
    let waiting = tasks.len() - held;
    why.answer = match (run.segments, tasks.len()) {
        (None, _) => "it is being split into segments".to_owned(),
        (Some(_), 0) => "its last results are being worked in".to_owned(),
        (Some(segments), _) => {
            format!("it is being proven ({segments} segments): {held} tasks in hand, {waiting} waiting for a worker")
        }
    };
    if !is_alone {
        why.answer = provers::progress(block, held, waiting);
    }
    why.facts.push(urgency(facts, run));
    lonely_pools(facts, &tasks, why);
    let open: Vec<&TaskSnapshot> = going_on().flat_map(|run| &run.tasks).collect();
    barred_everywhere(facts, &open, why);
    why.facts.extend(by_kind(open.iter().copied()));
    let last = open.iter().filter_map(|task| task.failures.last());
    let codes: BTreeSet<ErrorCode> = last.filter_map(|note| ErrorCode::find(&note.message)).collect();
    why.code = why.code.or(codes.first().copied());
    if tasks.iter().any(|task| task.last_error.is_some()) {
        why.next.push(format!("push0 block {chain} {}   shows every failure of its open tasks", facts.number));
        why.next.push("push0 replay TASK   runs one of these tasks here, to see why it fails".to_owned());
        why.next.extend(codes.iter().map(|code| format!("push0 explain {code}   {}", code.title())));
    }
    why.more_tasks = tasks.len().saturating_sub(TASKS);
    // Troubled ones first, then those in hand.
    let mut tasks = tasks;
    tasks.sort_by_key(|task| (task.last_error.is_none(), task.held_by.is_none()));
    tasks.truncate(TASKS);
    why.tasks = tasks;
    if why.next.is_empty() {
        why.next.push(format!("nothing: wait (push0 watch {chain} shows it live)"));
    }
}

/// Where the block's tasks stand among others'.
fn urgency(facts: &Facts, run: &RunSnapshot) -> String {
    let older = run.id.number.saturating_sub(facts.chain.chain.next_final);
    let place = match older {
        0 => "it is its chain's oldest unfinalized block, and goes before the others of it".to_owned(),
        1 => "one older block of its chain goes before it".to_owned(),
        older => format!("{older} older blocks of its chain go before it"),
    };
    let above = run.class.more_urgent().as_str();
    let promoted = match run.promotion {
        Promotion::All if run.class.as_str() != above => format!("; its tasks lie among those of class {above}"),
        Promotion::Late if run.class.as_str() != above => {
            format!("; its retries and joins lie among the tasks of class {above}")
        }
        Promotion::None | Promotion::Late | Promotion::All => String::new(),
    };
    format!("class {}: {place}{promoted}", run.class.as_str())
}

fn task(facts: &Facts, run: &RunSnapshot, task: &TaskSnapshot) -> Task {
    let kind = run.stages.iter().find(|stage| stage.name == task.stage).map(|stage| stage.kind.as_str());
    let policy = policy(facts, task, kind == Some("split") || kind == Some("verify"));
    let gone = |started: &&Started| crate::view::is_gone(facts.here.as_deref(), started);
    let pool = task.tried.pool.clone().unwrap_or(policy.pool);
    let held = task.started.as_ref().filter(|started| !gone(started));
    let state = match &task.started {
        Some(started) if held.is_none() => {
            format!("was with {}, which is gone: it comes again when its lease ends", started.worker)
        }
        Some(started) => format!("with {} for {}", started.worker, duration(facts.now.since(started.at))),
        None => format!("waits in {}", work_queue(&pool, task.class)),
    };
    let state = format!("{state}{}{}", hedging(facts, task), fared(&task.tried));
    let last_error = task.failures.last().map(failure);
    Task {
        id: task.id.clone(),
        stage: task.stage.clone(),
        node: task.node,
        attempt: task.attempt,
        attempts: policy.attempts,
        pool,
        failed: task.tried.failed,
        lost: task.tried.lost,
        barred: task.tried.barred.clone(),
        larger_from: task.tried.larger_from,
        class: task.class,
        held_by: held.map(|started| started.worker.clone()),
        since: held.map(|started| started.at),
        state,
        last_error,
    }
}

/// What is to be known of a task beside its failures: that it moved, and who is barred from it.
fn fared(tried: &Tried) -> String {
    let mut text = String::new();
    if let (Some(from), Some(pool)) = (tried.larger_from, &tried.pool) {
        text.push_str(&format!("; in the larger pool {pool} since attempt {}", from.0));
    }
    if tried.lost > 0 {
        let (lost, of) = (tried.lost, tried.lost_attempts);
        text.push_str(&format!(
            "; {lost} of {of} attempts lost with {}, which never get it again",
            names(&tried.barred)
        ));
    }
    text
}

fn names(workers: &[WorkerId]) -> String {
    workers.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(", ")
}

/// What it takes to run the task that ended a block.
fn recipe(task: &AtFault) -> String {
    let programs: Vec<String> = task.programs.iter().map(|(name, digest)| format!("{name} {digest}")).collect();
    let programs = if programs.is_empty() { "none pinned".to_owned() } else { programs.join(", ") };
    let AtFault { stage, pool, prover, params, reads, .. } = task;
    let reads = reads.join(", ");
    format!("stage {stage} in pool {pool}, prover {prover}, programs: {programs}; parameters {params}; reads {reads}")
}

/// Failed attempts, as far as they are remembered.
fn by_kind<'t>(tasks: impl Iterator<Item = &'t TaskSnapshot>) -> Option<String> {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for note in tasks.flat_map(|task| &task.failures) {
        *kinds.entry(kind_name(note.kind)).or_default() += 1;
    }
    let counts: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    (!counts.is_empty()).then(|| format!("failed attempts at its open tasks: {}", counts.join(", ")))
}

/// Tasks that nobody who is here may take.
fn barred_everywhere(facts: &Facts, tasks: &[&TaskSnapshot], why: &mut Why) {
    let Some(here) = &facts.here else { return };
    for task in tasks.iter().filter(|task| task.started.is_none() && !task.tried.barred.is_empty()) {
        let Some(pool) = &task.tried.pool else { continue };
        let mut of_pool = here.iter().filter(|worker| worker.here && worker.pool.as_ref() == Some(pool)).peekable();
        if of_pool.peek().is_none() || !of_pool.all(|worker| task.tried.barred.contains(&worker.worker)) {
            continue;
        }
        let barred = names(&task.tried.barred);
        why.facts.push(format!(
            "task {} waits for another worker of pool {pool}: only {barred} is here, lost with it before",
            task.id
        ));
        why.code = Some(ErrorCode::NobodyMayTake);
        let connect = &facts.connect;
        let start = format!("push0 worker --connect {connect} --pool {pool} --id NAME   starts another worker");
        if !why.next.contains(&start) {
            why.next.push(start);
        }
    }
}

/// What is said of a straggler, and of further copies of a task.
fn hedging(facts: &Facts, task: &TaskSnapshot) -> String {
    let ran = task.started.as_ref().map(|started| facts.now.since(started.at));
    let usual = task.usual.filter(|usual| ran.is_some_and(|ran| ran > usual.took));
    let usual = usual.map(|usual| {
        let percent = f64::from(usual.thousandths) / 10.0;
        format!(" (a straggler: {percent} % of such tasks take {} at most)", duration(usual.took))
    });
    let copy = |copy: &CopySnapshot| match &copy.started {
        _ if copy.failed => format!(", copy {} failed", copy.copy),
        Some(started) => {
            format!(", copy {} with {} for {}", copy.copy, started.worker, duration(facts.now.since(started.at)))
        }
        None => format!(", copy {} waits for a worker", copy.copy),
    };
    usual.into_iter().chain(task.copies.iter().map(copy)).collect()
}

/// A failed attempt in one line.
fn failure(note: &FailureNote) -> String {
    let by = note.worker.as_ref().map_or(String::new(), |worker| format!(" on {worker}"));
    let first_line = note.message.lines().next().unwrap_or_default();
    format!("attempt {}{by}, {}: {first_line}", note.attempt.0, kind_name(note.kind))
}

/// How the task's stage is run by the pipeline as it is configured now; by defaults where it is not configured any more.
fn policy(facts: &Facts, task: &TaskSnapshot, is_trusted: bool) -> StagePolicy {
    let mut files = facts.catalog.pipelines.iter();
    let file = files.find(|(digest, _)| digest.tag() == task.id.tag).map(|(_, file)| file);
    let file = file.or_else(|| facts.catalog.pipelines.get(&facts.config.pipeline));
    let configured = file.and_then(|file| {
        let (position, _) = file.pipeline.stage_named(&task.stage)?;
        Some(file.policy.stage(position).clone())
    });
    let kind = if is_trusted { push0_core::pipeline::Kind::Verify } else { push0_core::pipeline::Kind::Map };
    configured.unwrap_or_else(|| StagePolicy::default_for(kind))
}

/// Pools in whose queues tasks wait with nobody taking any. Workers that are busy with tasks of another class are there.
fn lonely_pools(facts: &Facts, tasks: &[Task], why: &mut Why) {
    let waiting = tasks.iter().filter(|task| task.held_by.is_none());
    let queues: BTreeSet<(&Pool, Class)> = waiting.map(|task| (&task.pool, task.class)).collect();
    for (pool, class) in queues {
        let queue = work_queue(pool, class);
        let Some(stats) = facts.queues.get(&queue) else {
            continue;
        };
        why.facts.push(format!(
            "queue {queue}: {} waiting, {} in flight, {} delayed",
            stats.visible, stats.in_flight, stats.delayed
        ));
        let of_pool = Class::ALL.iter().filter_map(|class| facts.queues.get(&work_queue(pool, *class)));
        let is_idle = of_pool.map(|stats| stats.in_flight).sum::<u64>() == 0;
        if stats.visible > 0 && is_idle && stats.oldest.is_some_and(|age| age > Millis::from_secs(2)) {
            why.facts.push(format!("nobody takes tasks of pool {pool}"));
            why.code = Some(ErrorCode::NobodyTakesTasks);
            why.next.push(format!("push0 explain {}", ErrorCode::NobodyTakesTasks));
            why.next.push(format!("push0 worker --connect {} --pool {pool}   starts a worker", facts.connect));
        }
    }
}

mod batch;
mod provers;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
