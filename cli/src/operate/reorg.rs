//! `push0 reorg`: drops every block from a number on that is not final. What comes instead is submitted like any other block.

use std::io::{BufRead as _, IsTerminal as _};

use push0_core::message::Command;
use push0_core::record::{BlockRow, BlockStatus, Walk};
use push0_core::{BlockHash, ChainId, ErrorCode};
use push0_runtime::snapshot;
use serde::Serialize;

use super::{send, within};
use crate::args;
use crate::connect::Remote;
use crate::error::{Code, Trouble};
use crate::output::Output;

/// Blocks shown one by one; a program gets all of them.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct Shown {
    chain: ChainId,
    from: u64,
    dry_run: bool,
    /// What went, or would go: as it was before.
    blocks: Vec<Dropped>,
}

#[derive(Serialize)]
struct Dropped {
    number: u64,
    hash: Option<BlockHash>,
    status: &'static str,
    epoch: u32,
}

impl Shown {
    fn text(&self) -> String {
        let verb = if self.dry_run { "would drop" } else { "dropped" };
        let mut text = format!("chain {}: {verb} {} from {} on\n", self.chain, blocks(self.blocks.len()), self.from);
        for block in self.blocks.iter().take(SHOWN) {
            let hash = block.hash.map_or("nothing".to_owned(), |hash| hash.to_string());
            text.push_str(&format!("  {}  {}, epoch {}  {hash}\n", block.number, block.status, block.epoch));
        }
        if self.blocks.len() > SHOWN {
            text.push_str(&format!("  … and {} more\n", self.blocks.len() - SHOWN));
        }
        text
    }
}

fn blocks(count: usize) -> String {
    if count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}

fn is_dropped(block: &BlockRow) -> bool {
    matches!(block.status, BlockStatus::Dropped { .. })
}

pub async fn run(args: &args::Reorg, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let (chain, from) = (&args.chain, args.number);
    let config = remote.chain(chain)?;
    let row = snapshot::chain(&*remote.table, config, 0).await?.chain;
    if from < row.first {
        let what = format!("block {from} is below the first of chain {chain}, {}", row.first);
        let next = format!("`push0 status {chain}` shows where the chain is");
        return Err(Trouble::failed(what).next(next).coded(ErrorCode::OutOfReach).into());
    }
    if from < row.next_final {
        let what = format!("block {from} of {chain} is final, and so is all up to {}", row.next_final - 1);
        return Err(Trouble::failed(what)
            .next(format!(
                "`push0 reorg {chain} {}` drops what is not final; what is final, consumers have: a later block has to undo it",
                row.next_final
            ))
            .coded(ErrorCode::AlreadyFinal)
            .into());
    }
    let there = snapshot::blocks_from(&*remote.table, chain, from).await?;
    let going = there.iter().filter(|block| !is_dropped(block)).map(|block| Dropped {
        number: block.number,
        hash: block.hash,
        status: block.status.name(),
        epoch: block.epoch.0,
    });
    let shown = Shown { chain: chain.clone(), from, dry_run: args.dry_run, blocks: going.collect() };
    if args.dry_run {
        output.show(&shown, || shown.text());
        return Ok(());
    }
    if shown.blocks.is_empty() {
        return Err(Trouble::failed(format!("nothing is submitted from block {from} of {chain} on"))
            .next(format!("`push0 status {chain}` shows what there is"))
            .coded(ErrorCode::AlreadySo)
            .into());
    }
    confirm(args, &shown, output)?;
    let nth = row.dropped.as_ref().map_or(0, |range| range.nth) + 1;
    let command = Command::Reorg { chain: chain.clone(), number: from, reason: args.reason.clone(), nth };
    send(remote, command, &format!("reorg/{nth}/{from}")).await?;
    wait(args, nth, remote).await?;
    output.show(&shown, || shown.text());
    Ok(())
}

/// Asks on a terminal. Where nobody can be asked, `--yes` has to say it.
fn confirm(args: &args::Reorg, shown: &Shown, output: Output) -> Result<(), Trouble> {
    if args.yes {
        return Ok(());
    }
    let (count, chain, from) = (blocks(shown.blocks.len()), &args.chain, args.number);
    let kept =
        || Trouble::usage(format!("nothing was dropped: {count} of {chain} from {from} on")).coded(ErrorCode::BadUsage);
    if !std::io::stdin().is_terminal() {
        return Err(kept().next("`--yes` drops them without being asked, `--dry-run` shows them"));
    }
    output.note(&format!("{}drop them? type yes:", shown.text().replace(": dropped ", ": about to drop ")));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read.is_ok() && answer.trim() == "yes" {
        true => Ok(()),
        false => Err(kept().next("type `yes` to have them dropped")),
    }
}

/// Until the chain's row says that this drop was carried out to its end.
async fn wait(args: &args::Reorg, nth: u64, remote: &Remote) -> anyhow::Result<()> {
    let chain = &args.chain;
    let config = remote.chain(chain)?;
    let deadline = tokio::time::Instant::now() + within(&args.wait);
    loop {
        let row = snapshot::chain(&*remote.table, config, 0).await?.chain;
        let is_under_way = matches!(row.walk, Some(Walk::Drop { .. }));
        match row.dropped.filter(|range| range.nth >= nth) {
            Some(range) if range.nth == nth && range.from != args.number => {
                let what = format!("another drop, from block {} on, came first", range.from);
                let next = format!("look at `push0 status {chain}`, and drop again if it is still wanted");
                return Err(Trouble::failed(what).next(next).coded(ErrorCode::AlreadySo).into());
            }
            Some(range) if range.nth > nth || !is_under_way => return Ok(()),
            _ => {}
        }
        if tokio::time::Instant::now() >= deadline {
            let what = format!("chain {chain}: sent, but not all was dropped within {} s", args.wait.wait);
            return Err(Trouble::new(Code::Timeout, what)
                .next("it goes on by itself; look at `push0 status`, and at the log of `push0 up`")
                .coded(ErrorCode::NotInTime)
                .into());
        }
        tokio::time::sleep(super::LOOK).await;
    }
}
