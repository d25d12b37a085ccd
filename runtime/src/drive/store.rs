//! Records in and out of the table and the blobs.

use push0_core::ErrorCode;
use push0_core::record::{BlobRef, DecodeError, RowKey, Versioned};

use super::{Context, DriveError};
use crate::port::{ErrorKind, Key, Row};

/// Name of the author of blobs that functions write.
const WRITER: &str = "push0";

pub(super) fn key(row: RowKey) -> Key {
    Key { partition: row.partition, sort: row.sort }
}

/// A versioned record with the version to write it back on.
#[derive(Debug, Clone)]
pub(super) struct Loaded<T> {
    pub(super) record: T,
    pub(super) version: u64,
}

pub(super) async fn load<T: Versioned>(context: &Context, at: RowKey) -> Result<Option<Loaded<T>>, DriveError> {
    let at = key(at);
    let Some(row) = context.table.get(&at).await? else {
        return Ok(None);
    };
    let record = decode(&at, &row)?;
    Ok(Some(Loaded { record, version: row.version }))
}

pub(super) fn decode<T: Versioned>(at: &Key, row: &Row) -> Result<T, DecodeFailure> {
    let doc = row.doc().cloned().unwrap_or_default();
    T::from_value(doc).map_err(|error| DecodeFailure { what: format!("{}/{}", at.partition, at.sort), error })
}

#[derive(Debug)]
pub(super) struct DecodeFailure {
    what: String,
    error: push0_core::record::DecodeError,
}

impl From<DecodeFailure> for DriveError {
    fn from(failure: DecodeFailure) -> Self {
        DriveError::Stored { what: failure.what, error: failure.error }
    }
}

/// A record from a blob, checked against the digest it is pinned by. `Damaged`, after a second look, if it is not that or not there.
pub(super) async fn read_blob<T: Versioned>(context: &Context, blob: &BlobRef) -> Result<T, DriveError> {
    let (record, size, limit) = (T::NAME, usize::try_from(blob.size).unwrap_or(usize::MAX), T::LIMIT);
    if size > limit {
        return Err(DriveError::Stored { what: blob.key.clone(), error: DecodeError::TooLong { record, size, limit } });
    }
    let bytes = match read_pinned(context, blob).await {
        Err(DriveError::Damaged(_)) => read_pinned(context, blob).await?,
        read => read?,
    };
    let text = String::from_utf8_lossy(&bytes);
    T::from_json(&text).map_err(|error| DriveError::Stored { what: blob.key.clone(), error })
}

async fn read_pinned(context: &Context, blob: &BlobRef) -> Result<bytes::Bytes, DriveError> {
    let damaged = |what: String| DriveError::Damaged(ErrorCode::SplitDamaged.says(what));
    let bytes = match context.blobs.get(&blob.key).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Err(damaged(error.to_string())),
        read => read?,
    };
    let bytes = bytes.ok_or_else(|| damaged(format!("blob {} is missing", blob.key)))?;
    if push0_core::Sha256::of(&bytes) != blob.sha256 {
        return Err(damaged(format!("blob {} is not the one that was accepted", blob.key)));
    }
    Ok(bytes)
}

/// Writes a small blob that any number of callers may write, all with the same bytes.
pub(super) async fn put_blob(context: &Context, key: &str, text: String) -> Result<(), DriveError> {
    context.blobs.put_new(key, text.into(), WRITER).await?;
    Ok(())
}
