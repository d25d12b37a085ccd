//! The screens of `status` and `watch`, `block`, and `why`.

use std::collections::BTreeMap;

use push0_core::block::kind_name;
use push0_core::chain::rest_limit;
use push0_core::record::{BlockStatus, Halt, Walk};
use push0_core::{ErrorCode, Millis};
use push0_runtime::snapshot::{BlockSnapshot, ChainSnapshot};

use super::{Paint, ago, columns, duration, first_line, stage};
use crate::on_time;
use crate::view::Overview;
use crate::why::Why;

/// Most blocks of a chain on the screen.
const BLOCKS: usize = 24;

pub fn overview(overview: &Overview, all: bool, paint: Paint) -> String {
    let mut text = String::new();
    for snapshot in &overview.chains {
        text.push_str(&chain(snapshot, overview.at, paint));
        text.push('\n');
    }
    text.push_str(&queues(overview, all, paint));
    text.push_str(&workers(overview, paint));
    text
}

/// The overview without anything that changes by itself.
pub fn without_times(overview: &Overview) -> String {
    let blocks = overview.chains.iter().flat_map(|chain| &chain.blocks).map(|block| {
        let stages = super::stages(block);
        format!("{} {} {} {stages}", block.block.number, block.block.epoch.0, block.block.status.name())
    });
    let chains = overview.chains.iter().map(|chain| format!("{:?} {}", chain.chain, chain.published));
    blocks.chain(chains).collect::<Vec<_>>().join("\n")
}

fn chain(snapshot: &ChainSnapshot, now: Millis, paint: Paint) -> String {
    let row = &snapshot.chain;
    let finals = row.next_seq - 1;
    let mut text = format!(
        "{}  {finals} finalized · next to finalize {} · next to release {} · window {} · {}\n",
        paint.bold(&format!("chain {}", row.chain)),
        row.next_final,
        row.next_release,
        snapshot.window,
        snapshot.class.as_str()
    );
    for batches in &row.batches {
        let waiting = row.next_final.saturating_sub(batches.next);
        text.push_str(&format!(
            "  {}: batch {} begins with block {}, {waiting} final blocks wait for it\n",
            batches.chain, batches.number, batches.next
        ));
    }
    if snapshot.published < finals {
        text.push_str(&format!("  {} finalized blocks are still to be handed on\n", finals - snapshot.published));
    }
    let overdue = snapshot.blocks.iter().filter(|block| on_time::is_late(&block.block, now)).count();
    let kept = on_time::of_chain(&row.on_time);
    if kept.is_some() || overdue > 0 {
        let overdue =
            if overdue > 0 { paint.alarm(&format!("{overdue} late now")) } else { "none late now".to_owned() };
        text.push_str(&format!(
            "  {} · {overdue}\n",
            kept.unwrap_or_else(|| "none that had a deadline is final".to_owned())
        ));
    }
    if let Some(Walk::Drop { at }) = row.walk {
        text.push_str(&format!("  blocks from {at} on are being dropped\n"));
    }
    if row.paused {
        text.push_str(&format!("  {}\n", paint.alarm(&format!("paused: push0 resume {}", row.chain))));
    }
    let halt = row.halt.as_ref().map(|halt| match halt {
        Halt::ParentMismatch { number, .. } => (*number, "names another parent than the final block before it"),
        Halt::OrphanParent { number, .. } => (*number, "is built on a block that was skipped, being of another branch"),
        Halt::Disagreement(found) => (found.number, "is proven to be different things by its provers"),
    });
    if let Some((number, what)) = halt {
        let what = format!("halted: block {number} {what}: push0 why {} {number}", row.chain);
        text.push_str(&format!("  {}\n", paint.alarm(&what)));
    }
    for found in &row.disputed {
        let number = found.number;
        let what = format!("and then: block {number} is, too: push0 why {} {number}", row.chain);
        text.push_str(&format!("  {}\n", paint.alarm(&what)));
    }
    if row.disputed_more {
        text.push_str(&format!(
            "  {}\n",
            paint.alarm("and further blocks; each is found again when these are settled")
        ));
    }
    if snapshot.blocks.is_empty() {
        text.push_str("  nothing was submitted yet\n");
        return text;
    }
    let shown = snapshot.blocks.iter().take(BLOCKS).map(|block| line(block, now, paint));
    text.push_str(&columns("  ", &shown.collect::<Vec<_>>()));
    if snapshot.blocks.len() > BLOCKS {
        text.push_str(&format!("  … and {} more\n", snapshot.blocks.len() - BLOCKS));
    }
    if !snapshot.blocks.iter().any(|block| block.block.number == row.next_release)
        && snapshot.blocks.iter().any(|block| block.block.number > row.next_release)
    {
        text.push_str(&format!("  block {} was not submitted: what is behind it waits\n", row.next_release));
    }
    text
}

fn line(snapshot: &BlockSnapshot, now: Millis, paint: Paint) -> Vec<String> {
    let row = &snapshot.block;
    let detail = match &row.status {
        BlockStatus::Failed { reason } => first_line(reason),
        BlockStatus::Skipped { reason } | BlockStatus::Dropped { reason } => first_line(reason),
        BlockStatus::Parked if row.unfit => "waits for its parent".to_owned(),
        BlockStatus::Final => row.final_seq.map_or(String::new(), |seq| format!("seq {seq}")),
        BlockStatus::Parked | BlockStatus::Proven | BlockStatus::Proving => super::stages(snapshot),
    };
    let detail = match &row.batch {
        Some(range) => format!("= {range}  {detail}"),
        None => detail,
    };
    let since = match row.status {
        BlockStatus::Final | BlockStatus::Skipped { .. } => ago(now, row.changed_at),
        _ => duration(now.since(row.changed_at)),
    };
    let late = if on_time::is_late(row, now) { "late".to_owned() } else { String::new() };
    let contenders =
        if row.contenders_seen > 0 { format!("{} contenders", row.contenders_seen) } else { String::new() };
    let epoch = if row.epoch.0 > 1 { format!("epoch {}", row.epoch.0) } else { String::new() };
    vec![format!("{}", row.number), paint.status(row.status.name()), since, detail, epoch, late, contenders]
}

fn queues(overview: &Overview, all: bool, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = overview
        .queues
        .iter()
        .filter(|(_, stats)| all || stats.visible + stats.in_flight + stats.delayed > 0)
        .map(|(name, stats)| {
            let count = |number: u64, what: &str| {
                if number > 0 { format!("{number} {what}") } else { String::new() }
            };
            let oldest = stats.oldest.map_or(String::new(), |age| format!("oldest {}", duration(age)));
            let dead = is_for_dead_letters(name) && stats.visible > 0;
            vec![
                if dead { paint.alarm(name) } else { name.clone() },
                count(stats.visible, "waiting"),
                count(stats.in_flight, "in flight"),
                count(stats.delayed, "delayed"),
                oldest,
            ]
        })
        .collect();
    if rows.is_empty() {
        return format!("{}  all empty\n", paint.bold("queues"));
    }
    let mut text = format!("{}\n{}", paint.bold("queues"), columns("  ", &rows));
    let dead: u64 =
        overview.queues.iter().filter(|(name, _)| is_for_dead_letters(name)).map(|(_, stats)| stats.visible).sum();
    if dead > 0 {
        text.push_str(&format!("  {}\n", paint.alarm(&format!("{dead} dead letters: push0 dlq list"))));
    }
    text
}

fn is_for_dead_letters(queue: &str) -> bool {
    queue == push0_core::message::queue::POISON || queue.contains("-dlq")
}

/// "3 here (cpu 2, trusted 1)", where `up` can say who is here.
fn who_is_here(overview: &Overview) -> String {
    let Some(here) = &overview.here else { return String::new() };
    let mut pools: BTreeMap<&str, usize> = BTreeMap::new();
    for worker in here.iter().filter(|worker| worker.here) {
        *pools.entry(worker.pool.as_ref().map_or("no pool", |pool| pool.as_str())).or_default() += 1;
    }
    let each: Vec<String> = pools.iter().map(|(pool, count)| format!("{pool} {count}")).collect();
    match pools.values().sum::<usize>() {
        0 => "  nobody is here".to_owned(),
        all => format!("  {all} here ({})", each.join(", ")),
    }
}

/// What is wrong with who is here.
fn absences(overview: &Overview, paint: Paint) -> String {
    let silent = overview
        .here
        .iter()
        .flatten()
        .filter(|worker| !worker.here)
        .map(|worker| format!("{} is gone: it last called {} ago", worker.worker, duration(worker.silent_for)));
    let lonely = overview
        .lonely
        .iter()
        .map(|pool| format!("nobody here takes tasks of pool {pool}: push0 worker --pool {pool}"));
    silent.chain(lonely).map(|line| format!("  {}\n", paint.alarm(&line))).collect()
}

fn workers(overview: &Overview, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = overview
        .workers
        .iter()
        .flat_map(|(worker, tasks)| tasks.iter().map(move |task| (worker, task)))
        .map(|(worker, task)| {
            vec![
                worker.to_string(),
                format!("{}/{}", task.chain, task.number),
                format!("{} {}", task.stage, task.node),
                format!("attempt {}", task.attempt.0),
                format!("for {}", duration(overview.at.since(task.since))),
                if task.gone { paint.alarm("gone: the task comes again when its lease ends") } else { String::new() },
            ]
        })
        .collect();
    let (here, absences) = (who_is_here(overview), absences(overview, paint));
    if rows.is_empty() {
        return format!("{}{here}  none has a task in hand\n{absences}", paint.bold("workers"));
    }
    format!("{}{here}\n{}{absences}", paint.bold("workers"), columns("  ", &rows))
}

pub fn block(snapshot: &BlockSnapshot, now: Millis, paint: Paint) -> String {
    let row = &snapshot.block;
    let mut text = format!(
        "{}  {}\n",
        paint.bold(&format!("block {} of {}", row.number, row.chain)),
        paint.status(row.status.name())
    );
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    match &row.status {
        BlockStatus::Failed { reason } | BlockStatus::Skipped { reason } | BlockStatus::Dropped { reason } => {
            add("reason", reason.clone());
        }
        BlockStatus::Parked if row.unfit => add("reason", "it waits for its parent".to_owned()),
        BlockStatus::Parked | BlockStatus::Proving | BlockStatus::Proven | BlockStatus::Final => {}
    }
    row.batch.iter().for_each(|range| add("blocks", range.to_string()));
    row.hash.iter().for_each(|hash| add("hash", hash.to_string()));
    row.parent_hash.iter().for_each(|hash| add("parent", hash.to_string()));
    add("epoch", row.epoch.0.to_string());
    row.final_seq.iter().for_each(|seq| add("seq", seq.to_string()));
    add("submitted", ago(now, row.submitted_at));
    on_time::of_block(row, now).into_iter().for_each(|line| add("deadline", line));
    row.released_at.iter().for_each(|at| add("released", ago(now, *at)));
    add("status since", ago(now, row.changed_at));
    row.witness.iter().for_each(|blob| add("witness", format!("{} ({} bytes)", blob.key, blob.size)));
    row.proof.iter().for_each(|blob| add("proof", format!("{} ({} bytes)", blob.key, blob.size)));
    row.header.iter().for_each(|blob| add("header", format!("{} ({} bytes)", blob.key, blob.size)));
    row.pipeline.iter().for_each(|digest| add("pipeline", digest.to_string()));
    if row.runs.is_empty() {
        snapshot.run.iter().for_each(|run| add("stages", run.stages.iter().map(stage).collect::<Vec<_>>().join("  ")));
    } else {
        add("quorum", format!("{} of {} pipelines", row.quorum, row.latest_runs().count()));
        let limit = rest_limit(row, None);
        row.latest_runs().for_each(|(lane, run)| add(run.name.as_str(), super::lane(snapshot, lane, run, now, limit)));
    }
    text.push_str(&columns("  ", &rows));
    for ended in &row.history {
        text.push_str(&format!("  epoch {} ended {}: {}\n", ended.epoch.0, ago(now, ended.at), ended.reason));
    }
    for contender in &row.contenders {
        text.push_str(&format!("  contender {} since {}\n", contender.hash, ago(now, contender.at)));
    }
    let tasks = snapshot.runs().flat_map(|run| run.tasks.iter().map(move |task| (run, task)));
    for (run, task) in tasks {
        let held = task.started.as_ref().map_or("waits for a worker".to_owned(), |started| {
            format!("with {} for {}", started.worker, duration(now.since(started.at)))
        });
        let held = if run.failed.is_some() { "given up".to_owned() } else { held };
        text.push_str(&format!("  task {}: {}, {held}\n", task.id, task.stage));
        for note in &task.failures {
            let worker = note.worker.as_ref().map_or(String::new(), |worker| format!(" on {worker}"));
            let message = note.message.replace('\n', "\n      ");
            text.push_str(&format!(
                "    attempt {}{worker} failed {} ({}): {message}\n",
                note.attempt.0,
                ago(now, note.at),
                kind_name(note.kind)
            ));
        }
    }
    if let Some(task) = snapshot.runs().flat_map(|run| &run.tasks).find(|task| !task.failures.is_empty()) {
        text.push_str(&format!("  next: push0 replay {}   runs its prover here, to see why\n", task.id));
    }
    let pages = pages(&text);
    if !pages.is_empty() {
        text.push_str(&format!("{}\n{pages}", paint.bold("what it means")));
    }
    text
}

/// What a text says went wrong, as the pages to read.
fn pages(text: &str) -> String {
    let mut codes: Vec<ErrorCode> = ErrorCode::named_in(text).collect();
    codes.sort_unstable();
    codes.dedup();
    codes.iter().map(|code| format!("  push0 explain {code}   {}\n", code.title())).collect()
}

pub fn why(why: &Why, paint: Paint) -> String {
    let title = paint.bold(&format!("block {} of {}", why.number, why.chain));
    let mut text = format!("{title}  {}\n  {}\n", paint.status(&why.status), why.answer);
    for fact in &why.facts {
        text.push_str(&format!("  {}\n", paint.dim(fact)));
    }
    if !why.stages.is_empty() {
        text.push_str(&format!("  {}\n", why.stages.join("  ")));
    }
    if !why.tasks.is_empty() {
        text.push_str(&format!("{}\n", paint.bold("open tasks")));
        for task in &why.tasks {
            text.push_str(&format!(
                "  {}  {}, attempt {} of {}, {}\n",
                task.id, task.stage, task.attempt.0, task.attempts, task.state
            ));
            if let Some(error) = &task.last_error {
                text.push_str(&format!("    {}\n", paint.alarm(error)));
            }
        }
        if why.more_tasks > 0 {
            text.push_str(&format!("  … and {} more\n", why.more_tasks));
        }
    }
    if !why.history.is_empty() {
        text.push_str(&format!("{}\n", paint.bold("earlier runs")));
        why.history.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    if !why.next.is_empty() {
        text.push_str(&format!("{}\n", paint.bold("what to do")));
        why.next.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}
