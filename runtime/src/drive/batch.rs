//! A batch: from the range that its source has fixed to what its chain admits.
//!
//! What was fixed never changes, nor does the source's finalized stream below its cursor. So the manifest has the same bytes whoever
//! writes it and however often, and a message that tells of a batch is believed in nothing but its number.

use push0_core::chain::{self, Batch, Content, Event};
use push0_core::message::{ChainMessage, queue};
use push0_core::record::{BatchManifest, BatchRange, BatchRow, BlobRef, ChainRow, OutboxRow, RowKey, Versioned};
use push0_core::{ChainId, ErrorCode, Sha256};

use super::store::{Loaded, decode, key, load, put_blob};
use super::{Context, DriveError};
use crate::port::{Outgoing, PortError};

/// Rows of the finalized stream read at a time.
const PAGE: usize = 250;

/// Tells a batch chain that its batch `number` is fixed.
pub(super) async fn tell(context: &Context, chain: &ChainId, number: u64) -> Result<(), DriveError> {
    let outgoing = Outgoing {
        body: ChainMessage::Batch { chain: chain.clone(), number }.to_json(),
        group: Some(chain.to_string()),
        dedup: Some(format!("batch/{chain}/{number}")),
        ..Outgoing::default()
    };
    context.queue.send(queue::SUBMISSIONS, vec![outgoing]).await?;
    Ok(())
}

/// Whether a batch chain's source has fixed this batch. What was told of it may have been lost since.
pub async fn is_fixed(context: &Context, chain: &ChainId, number: u64) -> Result<bool, DriveError> {
    let batching = context.catalog.chains.get(chain).and_then(|config| config.batch.as_ref());
    let Some(batching) = batching else { return Ok(false) };
    let row: Option<Loaded<BatchRow>> = load(context, RowKey::batch(&batching.of, chain, number)).await?;
    Ok(row.is_some())
}

/// A batch chain was told of `number`. Where that was the last of many that its source fixed in one go, the source goes on.
pub async fn go_on(context: &Context, chain: &ChainId, number: u64) -> Result<(), DriveError> {
    let batching = context.catalog.chains.get(chain).and_then(|config| config.batch.as_ref());
    let Some(batching) = batching else { return Ok(()) };
    let source: Option<Loaded<ChainRow>> = load(context, RowKey::chain(&batching.of)).await?;
    if source.is_some_and(|source| chain::has_more(&source.record, chain, batching, number)) {
        let _ = super::chain::drive(context, &batching.of, &Event::Tick).await?;
    }
    Ok(())
}

/// Batch `number` of a batch chain, its manifest stored. Poison where that chain is none, or its source has fixed no such batch.
pub async fn derive(context: &Context, chain: &ChainId, number: u64) -> Result<Batch, DriveError> {
    let config = context.catalog.chains.get(chain);
    let batching = config.and_then(|config| config.batch.as_ref());
    let batching = batching.ok_or_else(|| {
        DriveError::poison(ErrorCode::UnknownChain, format!("{chain} is not configured as a batch chain here"))
    })?;
    let row: Option<Loaded<BatchRow>> = load(context, RowKey::batch(&batching.of, chain, number)).await?;
    let what = || format!("{} has fixed no batch {number} for {chain}", batching.of);
    let row = row.ok_or_else(|| DriveError::poison(ErrorCode::UnknownBlock, what()))?.record;
    let rows = stream(context, &row.range).await?;
    let damaged = |what: String| PortError::transient(ErrorCode::DatabaseDamaged.says(what));
    let content = match chain::derive(&row, &rows).map_err(damaged)? {
        Ok(manifest) => Content::Witness(store(context, chain, number, &manifest).await?),
        Err(hole) => Content::Hole(hole),
    };
    let (hash, parent_hash) = chain::hashes(&rows);
    Ok(Batch { number, range: row.range, hash, parent_hash, content })
}

/// Of the finalized stream of a source, the blocks of a range, in order.
async fn stream(context: &Context, range: &BatchRange) -> Result<Vec<OutboxRow>, DriveError> {
    // The row's, not the configuration's, which may have another by now.
    let source: Option<Loaded<ChainRow>> = load(context, RowKey::chain(&range.of)).await?;
    let missing = || DriveError::poison(ErrorCode::UnknownChain, format!("chain {} has never had a block", range.of));
    let first = source.ok_or_else(missing)?.record.first;
    // Sequence numbers are as dense as block numbers.
    let seq = |number: u64| number.saturating_sub(first) + 1;
    let (from, to) = (seq(range.from), seq(range.to));
    let partition = RowKey::outbox(&range.of, 0).partition;
    let mut rows: Vec<OutboxRow> = Vec::new();
    while rows.len() as u64 <= to - from {
        let before = RowKey::outbox(&range.of, from + rows.len() as u64 - 1).sort;
        let missing = usize::try_from(to - from + 1).unwrap_or(PAGE) - rows.len();
        let page = context.table.query(&partition, "seq/", Some(&before), missing.min(PAGE)).await?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            rows.push(decode(&key(RowKey::outbox(&range.of, 0)), row)?);
        }
    }
    Ok(rows)
}

async fn store(
    context: &Context,
    chain: &ChainId,
    number: u64,
    manifest: &BatchManifest,
) -> Result<BlobRef, DriveError> {
    let json = manifest.to_json();
    let (sha256, size) = (Sha256::of(json.as_bytes()), json.len() as u64);
    let witness = BlobRef { key: format!("witnesses/{chain}/{number}-{sha256}"), sha256, size };
    put_blob(context, &witness.key, json).await?;
    Ok(witness)
}
