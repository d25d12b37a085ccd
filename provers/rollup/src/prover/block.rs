//! What every prover of payments blocks does alike, whatever proves them: binds a witness, and in the end a header, to the task's block.

use push0_prover::files;
use push0_prover::{BlockRef, Failure, Task, TaskResult};

use crate::block::{Header, Witness};

/// The witness of a `split`: it must be of the task's chain and number.
pub fn witness(bytes: &[u8], block: &BlockRef) -> Result<Witness, Failure> {
    let witness = Witness::from_bytes(bytes).map_err(|error| Failure::permanent(format!("the witness: {error}")))?;
    let (header, BlockRef { chain, number, .. }) = (&witness.header, block);
    // The exec form without a task file has no block to compare with.
    if !chain.is_empty() && (*chain != header.chain || *number != header.number) {
        let message = format!("the witness is of block {} of {}, not {number} of {chain}", header.number, header.chain);
        return Err(Failure::permanent(message));
    }
    Ok(witness)
}

/// Writes the segments and the header, and answers with their count and the block's hashes.
pub fn write_split<B: AsRef<[u8]>>(
    task: &Task,
    segments: impl IntoIterator<Item = Result<B, Failure>>,
    header: &Header,
) -> Result<TaskResult, Failure> {
    let count = files::write_split(task, segments, &header.to_bytes())?;
    Ok(TaskResult::split(count, hex::encode(header.hash()), Some(hex::encode(header.parent_hash))))
}

/// The header that a `verify` is given, if it is the task's block's and does not contradict itself; else why it is a bad block.
pub fn header(bytes: &[u8], block: &BlockRef) -> Result<Header, String> {
    let header = Header::from_bytes(bytes).map_err(|error| format!("the header: {error}"))?;
    let hash = hex::encode(header.hash());
    if hash != block.hash || header.chain != block.chain || header.number != block.number {
        return Err(format!(
            "the header is of block {} of {} with hash {hash}, not {} of {} with hash {}",
            header.number, header.chain, block.number, block.chain, block.hash
        ));
    }
    match header.contradiction() {
        Some(contradiction) => Err(contradiction.to_owned()),
        None => Ok(header),
    }
}
