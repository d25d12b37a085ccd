//! Import of Ethereum blocks: real transfer traffic, replayed on the rollup. **Not a proof of Ethereum's execution.**
//!
//! Takes what `eth_getBlockByNumber(n, true)` answers, bare or as the whole JSON-RPC response. Kept are the plain
//! value transfers; everything else a transaction does (calls, creations, gas) is not looked at. Nonces are the
//! rollup's own, keys are derived from addresses, and one genesis over all files funds every sender with just what
//! it needs.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::block::Witness;
use crate::state::{DEPTH, LIMIT};
use crate::tool::chain::{Chain, Genesis, GenesisAccount, Move};

/// The parts of a block that an import reads; all others are ignored.
#[derive(Deserialize)]
struct EthBlock {
    number: Option<String>,
    transactions: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct EthTransaction {
    from: String,
    to: Option<String>,
    value: Option<String>,
}

/// How many transactions were seen and what became of them; the parts add up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub seen: u64,
    pub imported: u64,
    pub skipped: Skipped,
}

/// Why transactions were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// No receiver: a contract creation.
    pub creation: u64,
    /// No value.
    pub zero_value: u64,
    /// Less than one gwei.
    pub below_one_gwei: u64,
    /// 2^62 gwei or more, or so much that all balances together would be.
    pub too_large: u64,
}

impl Tally {
    fn skipped(&self) -> u64 {
        let Skipped { creation, zero_value, below_one_gwei, too_large } = self.skipped;
        creation + zero_value + below_one_gwei + too_large
    }

    fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.imported += other.imported;
        self.skipped.creation += other.skipped.creation;
        self.skipped.zero_value += other.skipped.zero_value;
        self.skipped.below_one_gwei += other.skipped.below_one_gwei;
        self.skipped.too_large += other.skipped.too_large;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Skipped { creation, zero_value, below_one_gwei, too_large } = self.skipped;
        write!(
            f,
            "{} seen = {} imported + {} skipped ({creation} contract creations, {zero_value} without value, \
             {below_one_gwei} below one gwei, {too_large} too large)",
            self.seen,
            self.imported,
            self.skipped()
        )
    }
}

/// A chain made of imported blocks.
#[derive(Debug)]
pub struct Import {
    pub genesis: Genesis,
    pub blocks: Vec<(Tally, Witness)>,
    pub total: Tally,
}

/// One block's transfers, by place of account.
struct Parsed {
    number: u64,
    transactions: Vec<(String, Option<String>, u128)>,
}

/// Imports files (name, content) as one chain; they may come in any order, but must be consecutive blocks.
pub fn import(chain: &str, files: &[(String, Vec<u8>)]) -> Result<Import> {
    let mut blocks = Vec::with_capacity(files.len());
    for (name, content) in files {
        blocks.push(parse(content).with_context(|| name.clone())?);
    }
    blocks.sort_by_key(|block| block.number);
    for pair in blocks.windows(2) {
        let (one, next) = (pair[0].number, pair[1].number);
        ensure!(one != next, "block {one} is there twice");
        ensure!(one.checked_add(1) == Some(next), "the blocks are not consecutive: {one} is followed by {next}");
    }
    let first = blocks.first().context("no files to import")?.number;

    let mut funding = Funding::default();
    let mut selected = Vec::with_capacity(blocks.len());
    for block in &blocks {
        selected.push(funding.select(block)?);
    }
    let mut chain = Chain::start(chain, first, funding.into_accounts())?;
    let mut made = Vec::with_capacity(selected.len());
    let mut total = Tally::default();
    for (tally, transfers) in selected {
        total.add(&tally);
        made.push((tally, chain.block(&transfers)?));
    }
    Ok(Import { genesis: chain.genesis().clone(), blocks: made, total })
}

/// Accounts in the order in which they appear, with the least genesis balance that covers what they send.
#[derive(Default)]
struct Funding {
    names: Vec<String>,
    places: HashMap<String, u32>,
    genesis: Vec<u64>,
    balances: Vec<u64>,
    /// All genesis balances together; below 2^62, so that no balance can ever reach it.
    supply: u64,
}

impl Funding {
    fn select(&mut self, block: &Parsed) -> Result<(Tally, Vec<Move>)> {
        let mut tally = Tally { seen: block.transactions.len() as u64, ..Tally::default() };
        let mut transfers = Vec::new();
        for (from, to, gwei) in &block.transactions {
            let Some(to) = to else {
                tally.skipped.creation += 1;
                continue;
            };
            match *gwei {
                NO_VALUE => tally.skipped.zero_value += 1,
                0 => tally.skipped.below_one_gwei += 1,
                gwei => match u64::try_from(gwei).ok().filter(|gwei| self.affords(from, *gwei)) {
                    None => tally.skipped.too_large += 1,
                    Some(gwei) => {
                        let (from, to) = (self.place(from)?, self.place(to)?);
                        self.send(from, to, gwei);
                        transfers.push((from, to, gwei));
                    }
                },
            }
        }
        tally.imported = transfers.len() as u64;
        assert_eq!(tally.seen, tally.imported + tally.skipped(), "every transaction is counted once");
        Ok((tally, transfers))
    }

    /// Whether the supply stays in range when this much more is sent.
    fn affords(&self, from: &str, gwei: u64) -> bool {
        let balance = self.places.get(from).map_or(0, |place| self.balances[*place as usize]);
        gwei < LIMIT && gwei.saturating_sub(balance) < LIMIT - self.supply
    }

    fn place(&mut self, name: &str) -> Result<u32> {
        if let Some(place) = self.places.get(name) {
            return Ok(*place);
        }
        let limit = 1 << DEPTH;
        ensure!(self.names.len() < limit, "the blocks touch more accounts than the {limit} that the tree holds");
        let place = self.names.len() as u32;
        self.places.insert(name.to_owned(), place);
        self.names.push(name.to_owned());
        self.genesis.push(0);
        self.balances.push(0);
        Ok(place)
    }

    fn send(&mut self, from: u32, to: u32, gwei: u64) {
        let (from, to) = (from as usize, to as usize);
        let lacking = gwei.saturating_sub(self.balances[from]);
        self.genesis[from] += lacking;
        self.supply += lacking;
        self.balances[from] = self.balances[from] + lacking - gwei;
        self.balances[to] += gwei;
    }

    fn into_accounts(self) -> Vec<GenesisAccount> {
        let accounts = self.names.into_iter().zip(self.genesis);
        let mut accounts: Vec<_> = accounts.map(|(name, balance)| GenesisAccount { name, balance }).collect();
        if accounts.is_empty() {
            // Blocks without a transfer still need an account for their padding to leave alone.
            accounts.push(GenesisAccount { name: "nobody".to_owned(), balance: 0 });
        }
        accounts
    }
}

/// Marks a transaction without value, to tell it from one of less than a gwei.
const NO_VALUE: u128 = u128::MAX;
/// Any amount out of range.
const HUGE: u128 = u128::MAX - 1;

fn parse(content: &[u8]) -> Result<Parsed> {
    let mut value: serde_json::Value = serde_json::from_slice(content).context("not JSON")?;
    if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
        bail!("the response is an error: {error}");
    }
    if let Some(result) = value.get_mut("result") {
        value = result.take();
    }
    ensure!(!value.is_null(), "the response holds no block (result is null)");
    let block: EthBlock =
        serde_json::from_value(value).context("not a block as eth_getBlockByNumber(n, true) answers it")?;
    let number = block.number.context("the block has no number (it is pending)")?;
    let number = hex_digits(&number)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .with_context(|| format!("the block's number {number:?} is not hexadecimal"))?;
    let mut transactions = Vec::with_capacity(block.transactions.len());
    for (at, transaction) in block.transactions.into_iter().enumerate() {
        ensure!(!transaction.is_string(), "transactions are hashes only: ask eth_getBlockByNumber with true");
        let EthTransaction { from, to, value } =
            serde_json::from_value(transaction).with_context(|| format!("transaction {at}"))?;
        let address = |text: String| {
            let digits = hex_digits(&text).filter(|digits| digits.len() == 40);
            let digits = digits.with_context(|| format!("transaction {at}: {text:?} is not an address"))?;
            anyhow::Ok(format!("0x{}", digits.to_ascii_lowercase()))
        };
        // Some nodes write the missing receiver of a creation as an empty string.
        let to = to.filter(|to| !matches!(to.as_str(), "" | "0x")).map(address).transpose()?;
        let wei = value.as_deref().unwrap_or("0x0");
        let gwei = gwei(wei).with_context(|| format!("transaction {at}: the value {wei:?} is not hexadecimal"))?;
        transactions.push((address(from)?, to, gwei));
    }
    Ok(Parsed { number, transactions })
}

/// The digits of a hexadecimal quantity, without its prefix, if it is one.
fn hex_digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)
}

/// Whole gwei in a quantity of wei of up to any length.
fn gwei(wei: &str) -> Option<u128> {
    let digits = hex_digits(wei)?.trim_start_matches('0');
    if digits.is_empty() {
        return Some(NO_VALUE);
    }
    if digits.len() > 31 {
        return Some(HUGE);
    }
    u128::from_str_radix(digits, 16).ok().map(|wei| wei / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0x00000000000000000000000000000000000000aA";
    const B: &str = "0X00000000000000000000000000000000000000bb";

    fn file(number: &str, transactions: serde_json::Value) -> (String, Vec<u8>) {
        let block = serde_json::json!({ "number": number, "transactions": transactions });
        (number.to_owned(), serde_json::to_vec(&block).unwrap())
    }

    fn wei(gwei: u128) -> String {
        format!("0x{:X}", gwei * 1_000_000_000)
    }

    #[test]
    fn every_transaction_is_imported_or_skipped_for_a_reason() {
        let huge = format!("0x{}", "f".repeat(64));
        let import = import(
            "eth",
            &[file(
                "0x10",
                serde_json::json!([
                    { "from": A, "to": B, "value": wei(5), "gas": "0x1" },
                    { "from": A.to_lowercase(), "to": A, "value": wei(2) },
                    { "from": A, "to": null, "value": wei(7) },
                    { "from": A, "value": wei(7) },
                    { "from": B, "to": A, "value": "0x0" },
                    { "from": B, "to": A, "value": "0x" },
                    { "from": B, "to": A },
                    { "from": B, "to": A, "value": "0x3b9ac9ff" },
                    { "from": B, "to": A, "value": huge },
                    { "from": A, "to": B, "value": wei(u128::from(LIMIT) - 1) },
                    { "from": B, "to": A, "value": wei(6) },
                ]),
            )],
        )
        .unwrap();
        let skipped = Skipped { creation: 2, zero_value: 3, below_one_gwei: 1, too_large: 2 };
        assert_eq!(import.total, Tally { seen: 11, imported: 3, skipped });
        // A needs its 5 gwei and the 2 it sends itself; B lacks one gwei of the 6 it sends.
        let balances: Vec<_> = import.genesis.accounts.iter().map(|account| account.balance).collect();
        assert_eq!(balances, [7, 1]);
        assert_eq!(import.genesis.accounts[0].name, A.to_lowercase());
    }

    #[test]
    fn blocks_come_in_any_order_bare_or_as_a_response() {
        let transfer = serde_json::json!([{ "from": A, "to": B, "value": wei(1) }]);
        let (name, bare) = file("0x2", transfer.clone());
        let response = serde_json::json!({ "jsonrpc": "2.0", "id": 1,
            "result": { "number": "0x1", "transactions": [] } });
        let files = [(name, bare), ("one".to_owned(), serde_json::to_vec(&response).unwrap())];
        let imported = import("eth", &files).unwrap();
        let numbers: Vec<_> = imported.blocks.iter().map(|(_, block)| block.header.number).collect();
        assert_eq!(numbers, [1, 2]);
        let [(_, one), (_, two)] = &imported.blocks[..] else { panic!() };
        assert_eq!(two.header.parent_hash, one.header.hash());
        assert_eq!(two.header.state_before, one.header.state_after);
        assert_eq!(hex::encode(one.header.parent_hash), imported.genesis.hash);

        let gap = [file("0x1", transfer.clone()), file("0x3", transfer.clone())];
        assert!(import("eth", &gap).unwrap_err().to_string().contains("not consecutive"));
        let twice = [file("0x1", transfer.clone()), file("0x01", transfer)];
        assert!(import("eth", &twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn what_is_no_such_block_is_refused_with_a_hint() {
        for (content, hint) in [
            (r#"{"number":"0x1","transactions":["0xabc"]}"#, "with true"),
            (r#"{"result":null}"#, "no block"),
            (r#"{"error":{"code":-32000},"id":1}"#, "error"),
            (r#"{"number":null,"transactions":[]}"#, "pending"),
            (r#"{"number":"12","transactions":[]}"#, "hexadecimal"),
            (r#"{"number":"0x1","transactions":[{"to":null}]}"#, "missing field `from`"),
            (r#"{"number":"0x1","transactions":[{"from":"0x12"}]}"#, "not an address"),
            ("[]", "eth_getBlockByNumber"),
        ] {
            let error = format!("{:#}", import("eth", &[("f".to_owned(), content.into())]).unwrap_err());
            assert!(error.contains(hint), "{error}");
        }
    }
}
