//! The operator's commands: look whether it can work, send it, wait for its effect, say what changed.
//!
//! What may be done is decided by `push0_core::chain`; the look before only spares the operator a command that changes nothing.

pub mod reorg;

use std::time::Duration;

use push0_core::chain::is_abandoned;
use push0_core::message::{ChainMessage, Command, queue};
use push0_core::record::{BlockStatus, ChainRow, Disagreement, Versioned as _};
use push0_core::{ChainId, ErrorCode};
use push0_runtime::port::{Clock as _, Outgoing, SystemClock};
use push0_runtime::snapshot::{self, BlockSnapshot};
use serde::Serialize;

use crate::args::{self, Wait};
use crate::connect::Remote;
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::submit::{self, Candidate};
use crate::view;

/// Between two looks for a command's effect.
const LOOK: Duration = Duration::from_millis(50);

/// What a command changed.
#[derive(Debug, Serialize)]
struct Changed {
    chain: ChainId,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    before: String,
    after: String,
}

impl Changed {
    fn show(&self, output: Output) {
        output.show(self, || {
            let what = match self.number {
                Some(number) => format!("block {number} of {}", self.chain),
                None => format!("chain {}", self.chain),
            };
            format!("{what}: {} → {}", self.before, self.after)
        });
    }
}

fn told(block: &BlockSnapshot) -> String {
    format!("{}, epoch {}", block.block.status.name(), block.block.epoch.0)
}

/// Sends a command once: `identity` says which it is, so that a lost answer may be followed by the same again.
async fn send(remote: &Remote, command: Command, identity: &str) -> anyhow::Result<()> {
    let chain = command.chain().clone();
    let message = Outgoing {
        body: ChainMessage::Command(command).to_json(),
        group: Some(chain.to_string()),
        dedup: Some(format!("command/{chain}/{identity}")),
        ..Outgoing::default()
    };
    remote.queue.send(queue::SUBMISSIONS, vec![message]).await?;
    Ok(())
}

/// A final block refuses everything.
fn not_final(block: &BlockSnapshot) -> Result<(), Trouble> {
    let row = &block.block;
    match row.final_seq {
        None => Ok(()),
        Some(seq) => Err(Trouble::failed(format!(
            "block {} of {} is final (seq {seq}): what is final stays final",
            row.number, row.chain
        ))
        .next("nothing: consumers may have it already")
        .coded(ErrorCode::AlreadyFinal)),
    }
}

pub async fn retry(args: &args::Retry, remote: &Remote, output: Output) -> anyhow::Result<()> {
    remote.chain(&args.chain)?;
    for number in &args.numbers {
        retry_one(args, *number, remote, output).await?;
    }
    Ok(())
}

async fn retry_one(args: &args::Retry, number: u64, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let chain = &args.chain;
    let before = view::find(remote, chain, number).await?;
    not_final(&before)?;
    let may_be_running = args.force && before.block.status == BlockStatus::Proving;
    let is_disputed = before.block.disagreement().is_some();
    let is_failed = matches!(before.block.status, BlockStatus::Failed { .. });
    if !may_be_running && !is_disputed && !is_failed && !is_abandoned(&before.block) {
        let status = before.block.status.name();
        return Err(Trouble::failed(format!("block {number} is {status}; only a failed block can be retried"))
            .next(format!(
                "see `push0 why {chain} {number}` for what it waits for; `--force` gives up a run that is going on"
            ))
            .coded(ErrorCode::NotFailed)
            .into());
    }
    if before.block.witness.is_none() {
        return Err(Trouble::failed(format!(
            "block {number} of {chain} is a batch with a hole: there is nothing to prove it from"
        ))
        .next(format!("push0 skip {chain} {number} --reason TEXT"))
        .coded(ErrorCode::BatchHole)
        .into());
    }
    let epoch = before.block.epoch;
    send(
        remote,
        Command::Retry { chain: chain.clone(), number, epoch: Some(epoch) },
        &format!("retry/{number}/e{}", epoch.0),
    )
    .await?;
    let after =
        view::wait_for_block(remote, chain, number, within(&args.wait), |block| block.block.epoch > epoch).await?;
    Changed { chain: chain.clone(), number: Some(number), before: told(&before), after: told(&after) }.show(output);
    Ok(())
}

pub async fn replace(args: &args::Replace, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let candidate = Candidate::read(&args.file)?;
    let (chain, number) = (&candidate.chain, candidate.number);
    remote.chain(chain)?;
    let before = snapshot::block(&*remote.table, chain, number).await?;
    before.as_ref().map_or(Ok(()), not_final)?;
    let submission = submit::upload(remote, &candidate).await?;
    if let Some(block) = &before
        && block.block.hash == Some(submission.hash)
        && block.block.witness.as_ref() == Some(&submission.witness)
        && (is_abandoned(&block.block)
            || !matches!(block.block.status, BlockStatus::Failed { .. } | BlockStatus::Skipped { .. }))
    {
        let what =
            format!("block {number} of {chain} is this very block already, from this very witness ({})", told(block));
        return Err(Trouble::failed(what)
            .next(match is_abandoned(&block.block) {
                true => format!("it was abandoned, being late: `push0 retry {chain} {number}` proves it after all"),
                false => format!("see `push0 why {chain} {number}`"),
            })
            .coded(ErrorCode::AlreadySo)
            .into());
    }
    let epoch = before.as_ref().map(|block| block.block.epoch);
    let identity = format!(
        "replace/{number}/e{}/{}/{}",
        epoch.map_or(0, |epoch| epoch.0),
        submission.hash,
        submission.witness.sha256
    );
    // A dedup id has 256 bytes at most; the hashes are what tells two commands apart.
    send(remote, Command::Replace(submission), &identity).await?;
    let is_done = |block: &BlockSnapshot| Some(block.block.epoch) > epoch;
    let after = view::wait_for_block(remote, chain, number, within(&args.wait), is_done).await?;
    let before = before.as_ref().map_or("not submitted".to_owned(), told);
    Changed { chain: chain.clone(), number: Some(number), before, after: told(&after) }.show(output);
    Ok(())
}

pub async fn skip(args: &args::Skip, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let (chain, number) = (&args.chain, args.number);
    let config = remote.chain(chain)?;
    let row = snapshot::chain(&*remote.table, config, 0).await?.chain;
    let before = snapshot::block(&*remote.table, chain, number).await?;
    before.as_ref().map_or(Ok(()), not_final)?;
    if number < row.first || number > row.next_final.saturating_add(config.distance) {
        let what = format!(
            "block {number} is out of reach: the chain's first is {}, its cursor {}",
            row.first, row.next_final
        );
        return Err(Trouble::failed(what)
            .next(format!("`push0 status {chain}` shows where the chain is"))
            .coded(ErrorCode::OutOfReach)
            .into());
    }
    if let Some(block) = &before
        && matches!(block.block.status, BlockStatus::Skipped { .. })
    {
        return Err(Trouble::failed(format!("block {number} of {chain} is skipped already"))
            .next(format!("see `push0 why {chain} {number}`"))
            .coded(ErrorCode::AlreadySo)
            .into());
    }
    let epoch = before.as_ref().map_or(0, |block| block.block.epoch.0);
    let command = Command::Skip { chain: chain.clone(), number, reason: args.reason.clone() };
    send(remote, command, &format!("skip/{number}/e{epoch}")).await?;
    let is_skipped = |block: &BlockSnapshot| matches!(block.block.status, BlockStatus::Skipped { .. });
    let after = view::wait_for_block(remote, chain, number, within(&args.wait), is_skipped).await?;
    let before = before.as_ref().map_or("not submitted".to_owned(), told);
    Changed { chain: chain.clone(), number: Some(number), before, after: told(&after) }.show(output);
    Ok(())
}

pub async fn pause(args: &args::ChainArg, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let command = Command::Pause { chain: args.chain.clone() };
    let show = |row: &ChainRow, _| if row.paused { "paused" } else { "running" }.to_owned();
    on_chain(remote, &args.chain, command, &args.wait, output, |row| row.paused, show).await
}

pub async fn resume(args: &args::ChainArg, remote: &Remote, output: Output) -> anyhow::Result<()> {
    // Only the halt that is there now is known to whoever asks for this.
    let now = snapshot::chain(&*remote.table, remote.chain(&args.chain)?, 0).await?.chain;
    let acknowledged = now.late_halt().map(Disagreement::block);
    let command = Command::Resume { chain: args.chain.clone(), acknowledged };
    let show = |row: &ChainRow, _: u64| match row.late_halt() {
        _ if row.paused => "paused".to_owned(),
        Some(found) => format!("halted for block {}", found.number),
        None => "running".to_owned(),
    };
    // A halt for what a late proof said about a final block ends with it, too; that of another block stays.
    let is_going_on = |row: &ChainRow| {
        let is_halted = row.late_halt().is_some_and(|found| Some(found.block()) == acknowledged);
        !row.paused && !is_halted
    };
    on_chain(remote, &args.chain, command, &args.wait, output, is_going_on, show).await
}

pub async fn window(args: &args::Window, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let blocks = args.blocks;
    let command = Command::Window { chain: args.chain.clone(), window: blocks };
    let show = |_: &ChainRow, window: u64| format!("window {window}");
    on_chain(remote, &args.chain, command, &args.wait, output, |row| row.window == Some(blocks), show).await
}

/// A command about a whole chain. What is so already is no mistake: it says so and is done.
async fn on_chain(
    remote: &Remote,
    chain: &ChainId,
    command: Command,
    wait: &Wait,
    output: Output,
    is_so: impl Fn(&ChainRow) -> bool,
    show: impl Fn(&ChainRow, u64) -> String,
) -> anyhow::Result<()> {
    let config = remote.chain(chain)?;
    let before = snapshot::chain(&*remote.table, config, 0).await?;
    let told_before = show(&before.chain, before.window);
    if !is_so(&before.chain) {
        // The same may be asked again a moment later: only the moment tells the two apart.
        send(remote, command, &format!("chain/{}", SystemClock.now().0)).await?;
    }
    let deadline = tokio::time::Instant::now() + within(wait);
    loop {
        let now = snapshot::chain(&*remote.table, config, 0).await?;
        if is_so(&now.chain) {
            let after = show(&now.chain, now.window);
            Changed { chain: chain.clone(), number: None, before: told_before, after }.show(output);
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Trouble::new(
                Code::Timeout,
                format!("chain {chain}: sent, but its effect was not seen within {} s", wait.wait),
            )
            .next("look at `push0 status`, and at the log of `push0 up`")
            .coded(ErrorCode::NotInTime)
            .into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn within(wait: &Wait) -> Duration {
    Duration::from_secs(wait.wait)
}
