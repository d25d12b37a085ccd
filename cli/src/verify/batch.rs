//! Whether a batch chain's stream is the source's: every range begins where the one before ended, and what was proven is a manifest of
//! just the final blocks of that range, none skipped or swapped.

use push0_core::chain::{self, ChainConfig};
use push0_core::record::{BatchRange, BatchRow, BlobRef, Finality, MAX_BATCH, OutboxRow, Versioned as _};
use push0_core::{ChainId, ErrorCode, Millis, Sha256};
use push0_runtime::snapshot;

use crate::connect::Remote;

pub(super) struct Batches {
    /// The source.
    of: ChainId,
    first: u64,
    /// The block of the source that the next batch begins with.
    next: u64,
}

impl Batches {
    /// `None` where the chain is no batch chain.
    pub(super) fn new(remote: &Remote, config: &ChainConfig) -> anyhow::Result<Option<Self>> {
        let Some(batching) = &config.batch else { return Ok(None) };
        let source = remote.chain(&batching.of)?;
        Ok(Some(Self { of: source.chain.clone(), first: source.first, next: source.first }))
    }

    /// What is wrong with the range that a row names, and the range.
    pub(super) fn follow(&mut self, row: &OutboxRow) -> (Vec<String>, Option<BatchRange>) {
        let Some(range) = &row.batch else {
            return (vec![broken("it does not say which blocks it is made of")], None);
        };
        let mut problems = Vec::new();
        if range.of != self.of {
            problems.push(broken(format!("it is made of blocks of {}, not of {}", range.of, self.of)));
        }
        if range.from != self.next {
            problems.push(broken(format!(
                "it begins with block {} of {}; {} was expected",
                range.from, self.of, self.next
            )));
        }
        if range.to < range.from || range.to - range.from >= u64::from(MAX_BATCH) {
            problems.push(broken(format!("{range} is no range of a batch")));
        }
        self.next = range.to.saturating_add(1);
        let range = problems.is_empty().then(|| range.clone());
        (problems, range)
    }

    /// What is wrong with a batch of this range, by its source's stream.
    pub(super) async fn check(&self, remote: &Remote, row: &OutboxRow, range: &BatchRange) -> Vec<String> {
        let stream = match self.stream(remote, range).await {
            Ok(stream) => stream,
            Err(problem) => return vec![problem],
        };
        let block = match snapshot::block(&*remote.table, &row.chain, row.number).await {
            Ok(block) => block,
            Err(error) => return vec![error.code().says(error.message())],
        };
        let witness = block.and_then(|block| block.block.witness);
        compare(row, range, &stream, witness.as_ref())
    }

    /// The part of the source's stream that a range names.
    async fn stream(&self, remote: &Remote, range: &BatchRange) -> Result<Vec<OutboxRow>, String> {
        let from = range.from - self.first + 1;
        let count = usize::try_from(range.to - range.from + 1).unwrap_or(MAX_BATCH as usize);
        let rows = snapshot::finalized(&*remote.table, &self.of, from, count).await;
        rows.map_err(|error| error.code().says(error.message()))
    }
}

fn broken(what: impl AsRef<str>) -> String {
    ErrorCode::BrokenStream.says(what)
}

/// What is wrong with a batch, given the part of its source's stream that it names and the manifest that was proven.
fn compare(row: &OutboxRow, range: &BatchRange, stream: &[OutboxRow], witness: Option<&BlobRef>) -> Vec<String> {
    let batch = BatchRow { chain: row.chain.clone(), number: row.number, range: range.clone(), at: Millis(0) };
    let manifest = match chain::derive(&batch, stream) {
        Err(what) => return vec![broken(what)],
        // Left out because of it, or anyway: a tombstone proves nothing.
        Ok(_) if matches!(row.finality, Finality::Tombstone { .. }) => return Vec::new(),
        Ok(Err(hole)) => return vec![broken(format!("it has a proof, but {hole}"))],
        Ok(Ok(manifest)) => manifest,
    };
    let mut problems = Vec::new();
    let (hash, parent_hash) = chain::hashes(stream);
    if row.hash != hash {
        problems.push(broken(format!("its hash is not that of block {} of {}", range.to, range.of)));
    }
    if parent_hash.is_some() && row.parent_hash != parent_hash {
        problems.push(broken(format!("its parent is not that of block {} of {}", range.from, range.of)));
    }
    for pair in manifest.blocks.windows(2) {
        if pair[1].parent_hash.is_some_and(|parent| parent != pair[0].hash) {
            problems.push(broken(format!("block {} of {} does not follow the one before", pair[1].number, range.of)));
        }
    }
    match witness {
        Some(witness) if witness.sha256 == Sha256::of(manifest.to_json().as_bytes()) => {}
        Some(_) => problems.push(broken(format!("what was proven is another manifest than that of {range}"))),
        None => problems.push(ErrorCode::NotChecked.says("the record of what was proven is not kept")),
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use push0_core::{BlockHash, Epoch, PipelineDigest};

    fn blob(name: &str) -> BlobRef {
        BlobRef { key: name.to_owned(), sha256: Sha256::of(name.as_bytes()), size: 1 }
    }

    fn hash(number: u64) -> Option<BlockHash> {
        Some(BlockHash([number as u8; 32]))
    }

    /// Block `number` of the source.
    fn block(number: u64) -> OutboxRow {
        let (proof, header) = (blob(&format!("proof {number}")), blob(&format!("header {number}")));
        OutboxRow {
            seq: number,
            chain: "demo".parse().unwrap(),
            number,
            epoch: Epoch::FIRST,
            hash: hash(number),
            parent_hash: hash(number - 1),
            batch: None,
            finality: Finality::Proof { pipeline: PipelineDigest([0; 32]), proof, header, others: Vec::new() },
            timings: None,
        }
    }

    fn range(from: u64, to: u64) -> BatchRange {
        BatchRange { of: "demo".parse().unwrap(), from, to }
    }

    fn batch(number: u64, from: u64, to: u64) -> OutboxRow {
        OutboxRow {
            chain: "batches".parse().unwrap(),
            hash: hash(to),
            parent_hash: hash(from - 1),
            batch: Some(range(from, to)),
            ..block(number)
        }
    }

    fn tombstone(row: OutboxRow) -> OutboxRow {
        OutboxRow { finality: Finality::Tombstone { reason: "lost".to_owned() }, ..row }
    }

    #[test]
    fn ranges_that_skip_repeat_or_leave_their_source_are_found() {
        let problems = |rows: &[OutboxRow]| -> usize {
            let mut batches = Batches { of: "demo".parse().unwrap(), first: 1, next: 1 };
            rows.iter().map(|row| batches.follow(row).0.len()).sum()
        };
        assert_eq!(problems(&[batch(1, 1, 3), batch(2, 4, 4), tombstone(batch(3, 5, 9)), batch(4, 10, 11)]), 0);
        assert_eq!(problems(&[batch(1, 2, 3)]), 1, "block 1 is skipped");
        assert_eq!(problems(&[batch(1, 1, 3), batch(2, 3, 5)]), 1, "block 3 is in two");
        assert_eq!(problems(&[batch(1, 1, 3), batch(2, 5, 6)]), 1, "block 4 is skipped");
        assert_eq!(problems(&[OutboxRow { batch: None, ..batch(1, 1, 3) }]), 1);
        let elsewhere = BatchRange { of: "other".parse().unwrap(), from: 1, to: 3 };
        assert_eq!(problems(&[OutboxRow { batch: Some(elsewhere), ..batch(1, 1, 3) }]), 1);
        assert_eq!(problems(&[OutboxRow { batch: Some(range(1, 0)), ..batch(1, 1, 1) }]), 1);
    }

    #[test]
    fn what_was_proven_must_be_the_final_blocks_of_the_range_none_swapped() {
        let stream: Vec<_> = (3..=5).map(block).collect();
        let witness = |stream: &[OutboxRow]| {
            let row = BatchRow { chain: "batches".parse().unwrap(), number: 1, range: range(3, 5), at: Millis(7) };
            let manifest = chain::derive(&row, stream).unwrap().unwrap().to_json();
            blob(&manifest)
        };
        let good = witness(&stream);
        let found = |row: &OutboxRow, stream: &[OutboxRow], witness: &BlobRef| {
            compare(row, &range(3, 5), stream, Some(witness))
        };
        let row = batch(1, 3, 5);
        assert!(found(&row, &stream, &good).is_empty());
        // Another block 4 than the final one was proven.
        let mut swapped = stream.clone();
        swapped[1].hash = hash(44);
        assert_eq!(found(&row, &stream, &witness(&swapped)).len(), 1);
        assert_eq!(found(&row, &swapped, &witness(&swapped)).len(), 1, "5 does not follow it");
        assert_eq!(found(&OutboxRow { hash: hash(4), ..row.clone() }, &stream, &good).len(), 1);
        assert_eq!(found(&OutboxRow { parent_hash: hash(1), ..row.clone() }, &stream, &good).len(), 1);
        assert_eq!(found(&row, &stream[..2], &good).len(), 1, "block 5 is not final");
        let mut holed = stream.clone();
        holed[1] = tombstone(holed[1].clone());
        assert_eq!(found(&row, &holed, &good).len(), 1);
        assert!(found(&tombstone(row.clone()), &holed, &good).is_empty());
        assert_eq!(compare(&row, &range(3, 5), &stream, None).len(), 1);
    }
}
