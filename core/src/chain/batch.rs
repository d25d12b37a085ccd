//! Batch chains: when a range of a source's final blocks is fixed as the next block of a batch chain, and what that block is.
//!
//! A range is fixed in the source's row, as soon as the cursor has passed its end or the wait for the rest is over. Everything else about
//! the batch follows from the range and the source's finalized stream ([`derive`]), which never change: whoever derives it gets the same
//! bytes.

use serde::{Deserialize, Serialize};

use super::{ChainConfig, Change, Ignored, Now, Step, View};
use crate::error_code::ErrorCode;
use crate::id::{BlockHash, ChainId, Millis};
use crate::record::{
    BatchCursor, BatchManifest, BatchRange, BatchRow, BatchedBlock, BlobRef, BlockRow, BlockStatus, ChainRow, Finality,
    OutboxRow, clip_error,
};

/// How a batch chain is derived from its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// The source.
    pub of: ChainId,
    /// Blocks of a batch, 1 to [`crate::record::MAX_BATCH`].
    pub size: u32,
    /// A batch that is not full is fixed this long after its first block became final. None: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Millis>,
}

/// A block of a batch chain, derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub number: u64,
    pub range: BatchRange,
    /// The last block's. Unknown where that was left out: then its hash is nobody's parent.
    pub hash: Option<BlockHash>,
    /// The first block's parent, so that the batch chain checks that batches follow each other.
    pub parent_hash: Option<BlockHash>,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The stored manifest.
    Witness(BlobRef),
    /// A block of the range has no proof: why this can never be proven.
    Hole(String),
}

/// What a source has to do for the chains derived from it: tell of what is fixed, fix what is complete.
pub(super) fn advance(view: &View, now: Now, config: &ChainConfig) -> Option<Step> {
    config.derived.iter().find_map(|(chain, batching)| {
        let first = BatchCursor::new(chain.clone(), view.chain.first);
        let cursor = view.chain.batches.iter().find(|cursor| cursor.chain == *chain).unwrap_or(&first);
        tell(view, cursor).or_else(|| fix(view, cursor, batching, now))
    })
}

fn tell(view: &View, cursor: &BatchCursor) -> Option<Step> {
    let number = cursor.told + 1;
    (number < cursor.number).then(|| {
        let then = with_cursor(&view.chain, BatchCursor { told: number, ..cursor.clone() });
        Step::TellBatch { chain: cursor.chain.clone(), number, then: Box::new(then) }
    })
}

fn fix(view: &View, cursor: &BatchCursor, batching: &Batching, now: Now) -> Option<Step> {
    let waiting = view.chain.next_final.saturating_sub(cursor.next);
    let size = u64::from(batching.size.max(1));
    let is_due = match (batching.wait, cursor.since) {
        (Some(wait), Some(since)) => waiting > 0 && now >= since.plus(wait),
        _ => false,
    };
    if waiting < size && !is_due {
        // The clock starts with the batch's first block.
        let starts = batching.wait.is_some() && waiting > 0 && cursor.since.is_none();
        return starts.then(|| {
            let chain = with_cursor(&view.chain, BatchCursor { since: Some(now), ..cursor.clone() });
            Step::write(Change { chain: Some(chain), ..Change::default() })
        });
    }
    let range = BatchRange { of: view.chain.chain.clone(), from: cursor.next, to: cursor.next + waiting.min(size) - 1 };
    let next = BatchCursor { next: range.to + 1, number: cursor.number + 1, since: None, ..cursor.clone() };
    let row = BatchRow { chain: cursor.chain.clone(), number: cursor.number, range, at: now };
    let chain = with_cursor(&view.chain, next);
    Some(Step::write(Change { chain: Some(chain), batch: Some(row), ..Change::default() }))
}

/// Whether batch `told` is the last that `chain` has been told of, and a full one is due behind it.
pub fn has_more(source: &ChainRow, chain: &ChainId, batching: &Batching, told: u64) -> bool {
    let cursor = source.batches.iter().find(|cursor| cursor.chain == *chain);
    cursor.is_some_and(|cursor| {
        let waiting = source.next_final.saturating_sub(cursor.next);
        cursor.told == told && waiting >= u64::from(batching.size.max(1))
    })
}

fn with_cursor(chain: &ChainRow, cursor: BatchCursor) -> ChainRow {
    let mut chain = chain.clone();
    match chain.batches.iter_mut().find(|known| known.chain == cursor.chain) {
        Some(known) => *known = cursor,
        None => chain.batches.push(cursor),
    }
    chain
}

/// What a fixed range comes to: its manifest, or why there can be none. `rows` are the range's of the source's finalized stream, in order.
///
/// The error says what is wrong with `rows`; of a stream that holds its invariants they are always right.
pub fn derive(row: &BatchRow, rows: &[OutboxRow]) -> Result<Result<BatchManifest, String>, String> {
    let BatchRange { of, from, to } = &row.range;
    let numbers = rows.iter().map(|row| row.number);
    if !numbers.eq(*from..=*to) {
        return Err(format!("the finalized stream of {of} does not have blocks {from} to {to}"));
    }
    let mut blocks = Vec::with_capacity(rows.len());
    for row in rows {
        match (&row.finality, row.hash) {
            (Finality::Proof { pipeline, proof, header, .. }, Some(hash)) => blocks.push(BatchedBlock {
                number: row.number,
                hash,
                parent_hash: row.parent_hash,
                proof: proof.clone(),
                header: header.clone(),
                pipeline: *pipeline,
            }),
            (Finality::Tombstone { reason }, _) => {
                let what = format!("block {} of {of} was left out ({reason}): there is no proof of it", row.number);
                return Ok(Err(ErrorCode::BatchHole.says(what)));
            }
            (Finality::Proof { .. }, None) => return Err(format!("block {} of {of} has no hash", row.number)),
        }
    }
    Ok(Ok(BatchManifest { chain: of.clone(), from: *from, to: *to, blocks }))
}

/// The hash and the parent hash of a batch of these blocks. What a block that was left out names is nobody's parent, and binds nobody.
pub fn hashes(rows: &[OutboxRow]) -> (Option<BlockHash>, Option<BlockHash>) {
    let proven = |row: &&OutboxRow| matches!(row.finality, Finality::Proof { .. });
    let hash = rows.last().filter(proven).and_then(|row| row.hash);
    let parent_hash = rows.first().filter(proven).and_then(|row| row.parent_hash);
    (hash, parent_hash)
}

/// A batch is admitted under its number: parked, or failed where it has a hole. Whatever is there already stays.
pub(super) fn batched(view: &View, batch: &Batch, now: Now) -> Result<Change, Ignored> {
    if view.blocks.contains_key(&batch.number) || batch.number < view.chain.next_final {
        return Err(Ignored::Settled);
    }
    let (status, witness) = match &batch.content {
        Content::Witness(witness) => (BlockStatus::Parked, Some(witness.clone())),
        Content::Hole(reason) => (BlockStatus::Failed { reason: clip_error(reason) }, None),
    };
    let block = BlockRow {
        hash: batch.hash,
        parent_hash: batch.parent_hash,
        witness,
        batch: Some(batch.range.clone()),
        ..BlockRow::new(view.chain.chain.clone(), batch.number, status, now)
    };
    Ok(Change { block: Some(block), ..Change::default() })
}
