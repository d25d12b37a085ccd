//! The reference prover's files.

use std::cell::RefCell;

use push0_prover::{Ctx, Prover as _, Task};
use push0_rollup::block::{Header, Witness};
use push0_rollup::codec::DecodeError;
use push0_rollup::proof::Verifier;
use push0_rollup::prover::Rollup;
use push0_rollup::range::{Range, RangeSegment};
use push0_rollup::segment::{DEFAULT_SIZE, Segment, cut};
use push0_rollup::tool::{chain::Chain, csv_blocks, ethereum, random};

use super::provers::over_files;
use super::{Target, parts};

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("rollup_csv", csv).within(2_000, 8 << 20),
        Target::new("rollup_ethereum", ethereum).within(2_000, 16 << 20),
        Target::new("rollup_files", files).within(2_000, 8 << 20),
        Target::new("rollup_header", header),
        Target::new("rollup_proof", proof).within(200, 4 << 20),
        Target::new("rollup_range", range).within(400, 64 * 1024),
        Target::new("rollup_range_segment", |input| {
            exact(input, RangeSegment::from_bytes, RangeSegment::to_bytes).is_some()
        }),
        Target::new("rollup_segment", |input| exact(input, Segment::from_bytes, Segment::to_bytes).is_some()),
        Target::new("rollup_witness", witness).within(2_000, 1 << 20),
    ]
}

/// Of every value there is one encoding: what is read is written as it was, byte for byte.
fn exact<T>(input: &[u8], from: impl Fn(&[u8]) -> Result<T, DecodeError>, to: impl Fn(&T) -> Vec<u8>) -> Option<T> {
    let value = from(input).ok()?;
    assert!(to(&value) == input, "another encoding of the same");
    Some(value)
}

fn header(input: &[u8]) -> bool {
    let Some(header) = exact(input, Header::from_bytes, Header::to_bytes) else { return false };
    let _ = (header.hash(), header.contradiction());
    true
}

fn witness(input: &[u8]) -> bool {
    let Some(witness) = exact(input, Witness::from_bytes, Witness::to_bytes) else { return false };
    // Its execution is bounded by its own length.
    cut(&witness, DEFAULT_SIZE).is_ok()
}

fn range(input: &[u8]) -> bool {
    let Some(range) = exact(input, Range::from_bytes, Range::to_bytes) else { return false };
    range.statement().outputs();
    true
}

thread_local! {
    static VERIFIER: Verifier = Verifier::default();
    static ROLLUP: RefCell<Rollup> = RefCell::default();
}

fn proof(input: &[u8]) -> bool {
    VERIFIER.with(|verifier| match verifier.verify(input) {
        Ok(proof) => {
            assert!(proof.file().to_bytes() == input, "another encoding of the same");
            true
        }
        Err(error) => {
            assert!(error.to_string().len() <= 4096, "a message of {} bytes", error.to_string().len());
            false
        }
    })
}

/// The stages that prove nothing: what they read is refused or taken before any circuit is built.
fn files(input: &[u8]) -> bool {
    use push0_prover::Kind::{Split, Verify};
    let stages = [("split", Split), ("verify", Verify), ("range-split", Split), ("range-verify", Verify)];
    ROLLUP.with_borrow_mut(|rollup| {
        let run = |task: &Task| match task.check {
            true => rollup.check(task, &Ctx::detached()),
            false => rollup.run(task, &Ctx::detached()),
        };
        over_files(input, run, &stages)
    })
}

/// Blocks as a node of Ethereum answers them, one a part.
fn ethereum(input: &[u8]) -> bool {
    let files: Vec<(String, Vec<u8>)> =
        parts(input).iter().enumerate().map(|(number, part)| (format!("{number}.json"), part.to_vec())).collect();
    ethereum::import("demo", &files).is_ok()
}

fn csv(input: &[u8]) -> bool {
    let Ok(mut chain) = Chain::start("demo", 1, random::accounts(4, 1_000)) else { return false };
    csv_blocks::blocks(&mut chain, input).is_ok()
}
