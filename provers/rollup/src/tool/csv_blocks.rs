//! Blocks from a CSV file of transfers.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::block::Witness;
use crate::tool::chain::Chain;

/// One row. `block` may be left out, as a column: then all rows are one block.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    block: Option<u64>,
    from: String,
    to: String,
    amount_gwei: u64,
}

/// Makes the blocks of a CSV file with the columns `block` (optional), `from`, `to`, `amount_gwei`.
///
/// Accounts are named as in the genesis. Rows are in the order of execution; block numbers begin with the chain's
/// next and may not skip one.
pub fn blocks(chain: &mut Chain, csv: impl Read) -> Result<Vec<Witness>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(csv);
    let mut made = Vec::new();
    let mut current = Vec::new();
    for (line, row) in (2..).zip(reader.deserialize::<Row>()) {
        let row = row?;
        let at = || format!("line {line} of the CSV file");
        let number = row.block.unwrap_or(chain.next_number());
        if number == chain.next_number() + 1 && !current.is_empty() {
            made.push(chain.block(&std::mem::take(&mut current)).with_context(at)?);
        }
        let expected = chain.next_number();
        ensure!(number == expected, "{}: block {number}, where {expected} continues the chain", at());
        let (from, to) = (chain.place(&row.from).with_context(at)?, chain.place(&row.to).with_context(at)?);
        current.push((from, to, row.amount_gwei));
    }
    if !current.is_empty() {
        made.push(chain.block(&current)?);
    }
    ensure!(!made.is_empty(), "the CSV file has no transfers");
    Ok(made)
}
