//! `push0 finalized tail`: the example consumer of `finalized.fifo`, and the contract every consumer keeps.
//!
//! A block is handed on at least once, in the order of its chain, with a dense `seq`. So a consumer
//! 1. remembers the last `seq` of each chain, on disk, where it must survive a restart;
//! 2. drops what is not newer: it was handed on before;
//! 3. stops where a number is missing: somebody else consumes the same queue, or its memory is of another installation;
//! 4. does its work (here: prints a line), then remembers, then acknowledges. A crash in between repeats the last block, never loses one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use push0_core::message::queue;
use push0_core::record::{OutboxRow, Versioned as _};
use push0_core::{ChainId, ErrorCode, Millis};
use push0_runtime::port::Delivery;

use crate::args;
use crate::connect::Remote;
use crate::error::Trouble;
use crate::output::Output;

/// How long a block may take to be worked on before it is handed to somebody else.
const LEASE: Millis = Millis::from_secs(30);

/// How long one look waits for the next block.
const WAIT: Millis = Millis::from_secs(20);

/// What the consumer remembers: the last `seq` of each chain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen(BTreeMap<ChainId, u64>);

/// What to do about a block that was handed on.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Work,
    Drop,
    Gap { last: u64 },
}

impl Seen {
    fn due(&self, row: &OutboxRow) -> Due {
        match self.0.get(&row.chain) {
            // Who begins late begins with what comes first.
            None => Due::Work,
            Some(last) if row.seq <= *last => Due::Drop,
            Some(last) if row.seq == last + 1 => Due::Work,
            Some(last) => Due::Gap { last: *last },
        }
    }

    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Trouble::of_file(format!("cannot read {}", file.display()), &error).into()),
        };
        let seen = serde_json::from_str(&text).map_err(|error| {
            Trouble::usage(format!("{} is not what `finalized tail` wrote: {error}", file.display()))
                .next("name its own file with --state; a new one begins with the next block that comes")
                .coded(ErrorCode::FileUnusable)
        })?;
        Ok(Self(seen))
    }

    /// Whole or not at all.
    fn write(&self, file: &Path) -> anyhow::Result<()> {
        let failed = |error: std::io::Error| Trouble::of_file(format!("cannot write {}", file.display()), &error);
        let directory = match file.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        serde_json::to_writer(&mut new, &self.0).context("a map of numbers is JSON")?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(file).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Consumes until `count` blocks were printed, or for ever.
pub async fn run(args: &args::Tail, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let mut consumer = Consumer {
        remote,
        output,
        file: args.state.clone(),
        seen: args.state.as_deref().map_or(Ok(Seen::default()), Seen::read)?,
        printed: 0,
    };
    while args.count.is_none_or(|count| consumer.printed < count) {
        let deliveries = remote.queue.receive(queue::FINALIZED, 1, WAIT, LEASE).await?;
        for delivery in deliveries {
            consumer.take(&delivery).await?;
        }
    }
    Ok(())
}

struct Consumer<'a> {
    remote: &'a Remote,
    output: Output,
    file: Option<PathBuf>,
    seen: Seen,
    printed: u64,
}

impl Consumer<'_> {
    async fn take(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        let row = OutboxRow::from_json(&delivery.body).map_err(|error| {
            Trouble::failed(format!("a message on {} is no finalized block: {error}", queue::FINALIZED))
                .next("is this push0 older than the one that wrote it? compare `push0 --version`")
                .coded(ErrorCode::Poison)
        })?;
        match self.seen.due(&row) {
            Due::Drop => {}
            Due::Work => {
                self.output.json_line(&row);
                std::io::stdout().flush()?;
                self.printed += 1;
                self.seen.0.insert(row.chain.clone(), row.seq);
                if let Some(file) = &self.file {
                    self.seen.write(file)?;
                }
            }
            Due::Gap { last } => {
                // It stays for whom it is.
                self.remote.queue.release(queue::FINALIZED, &delivery.receipt, Millis(0)).await?;
                return Err(gap(&row, last).into());
            }
        }
        self.remote.queue.ack(queue::FINALIZED, &delivery.receipt).await?;
        Ok(())
    }
}

fn gap(row: &OutboxRow, last: u64) -> Trouble {
    let (chain, seq) = (&row.chain, row.seq);
    Trouble::failed(format!("chain {chain}: seq {seq} came after {last}, and what is between them did not"))
        .next(format!(
            "another consumer takes blocks from {}, or --state is of another installation: `push0 finalized {chain} --from {}` has the \
             missing ones; then go on with another --state",
            queue::FINALIZED,
            last + 1
        ))
        .coded(ErrorCode::Poison)
}

#[cfg(test)]
mod tests {
    use super::*;
    use push0_core::Epoch;
    use push0_core::record::Finality;

    fn row(chain: &str, seq: u64) -> OutboxRow {
        OutboxRow {
            seq,
            chain: chain.parse().unwrap(),
            number: seq,
            epoch: Epoch::FIRST,
            hash: None,
            parent_hash: None,
            batch: None,
            finality: Finality::Tombstone { reason: String::new() },
            timings: None,
        }
    }

    #[test]
    fn each_chain_is_followed_by_itself() {
        let mut seen = Seen::default();
        assert_eq!(seen.due(&row("a", 7)), Due::Work);
        seen.0.insert("a".parse().unwrap(), 7);
        assert_eq!(seen.due(&row("a", 7)), Due::Drop);
        assert_eq!(seen.due(&row("a", 8)), Due::Work);
        assert_eq!(seen.due(&row("a", 9)), Due::Gap { last: 7 });
        assert_eq!(seen.due(&row("b", 1)), Due::Work);
    }

    #[test]
    fn what_was_seen_survives_and_a_strange_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        assert_eq!(Seen::read(&file).unwrap(), Seen::default());
        let seen = Seen([("a".parse().unwrap(), 3)].into());
        seen.write(&file).unwrap();
        seen.write(&file).unwrap();
        assert_eq!(Seen::read(&file).unwrap(), seen);
        std::fs::write(&file, "seven").unwrap();
        assert!(Seen::read(&file).unwrap_err().to_string().contains("is not what"));
    }
}
