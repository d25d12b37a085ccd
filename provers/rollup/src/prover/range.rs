//! The stages of a range: `range-split`, `range-lift`, `range-verify`; `range-join` is the blocks' join over other keys.

use std::path::Path;

use push0_prover::files::{inputs, read, write_split};
use push0_prover::{Ctx, Failure, Task, TaskResult, Verdict};
use serde::Deserialize;

use super::Rollup;
use crate::block::{BlockHash, Header};
use crate::circuit::RangeLiftCircuit;
use crate::keys::{self, Shape};
use crate::proof::{ProofFile, VerifiedProof};
use crate::range::{Range, RangeSegment, extend};

/// The manifest's version that is read here.
const VERSION: u32 = 1;

/// The most a header may take (`docs/prover-protocol.md`).
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Input 0 of `range-split`: which blocks, as the chain that collects them says. Other fields are for others.
#[derive(Debug, Deserialize)]
struct Manifest {
    v: u32,
    chain: String,
    from: u64,
    to: u64,
    blocks: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    number: u64,
    hash: String,
    parent_hash: Option<String>,
}

/// What came for one block.
struct Block {
    header: Header,
    proof: VerifiedProof,
    bytes: Vec<u8>,
}

impl Rollup {
    pub(super) fn range_split(&self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        let Some((manifest, files)) = task.inputs.split_first() else {
            return Err(Failure::permanent("range-split takes a manifest, then a proof and a header for each block"));
        };
        let manifest = Manifest::read(&read(manifest)?)?;
        if files.len() != 2 * manifest.blocks.len() {
            let (blocks, given) = (manifest.blocks.len(), files.len());
            return Err(Failure::permanent(format!(
                "the manifest has {blocks} blocks, so {} files must follow it, not {given}",
                2 * blocks
            )));
        }
        let mut blocks = Vec::with_capacity(manifest.blocks.len());
        let (mut bad, mut why) = (Vec::new(), Vec::new());
        for (at, (entry, files)) in manifest.blocks.iter().zip(files.chunks_exact(2)).enumerate() {
            ctx.check()?;
            match self.range_block(&manifest.chain, entry, 1 + 2 * at as u32, &files[0], &files[1]) {
                Ok(block) => blocks.push(block),
                Err(failure) if failure.children.is_empty() => return Err(failure),
                Err(failure) => {
                    bad.extend(failure.children);
                    why.push(failure.message);
                }
            }
        }
        if !bad.is_empty() {
            return Err(Failure::bad_input(bad, why.join("; ")));
        }
        let range =
            Range::new(blocks.iter().map(|block| block.header.clone()).collect()).map_err(Failure::permanent)?;
        one_size(&blocks)?;
        let header = range.to_bytes();
        if header.len() > MAX_HEADER_BYTES {
            let (blocks, bytes) = (blocks.len(), header.len());
            return Err(Failure::permanent(format!(
                "a range of {blocks} blocks has a header of {bytes} bytes, above {MAX_HEADER_BYTES}: take fewer blocks a range"
            )));
        }
        let segments = range.links().into_iter().zip(blocks).map(|(statement, block)| {
            Ok(RangeSegment { statement, header: block.header, proof: block.bytes }.to_bytes())
        });
        let count = write_split(task, segments, &header)?;
        let (hash, parent) = (range.last().hash(), range.first().parent_hash);
        Ok(TaskResult::split(count, hex::encode(hash), Some(hex::encode(parent))))
    }

    /// Checks a block of the manifest against its two files, inputs `at` and `at + 1`.
    fn range_block(&self, chain: &str, entry: &Entry, at: u32, proof: &Path, header: &Path) -> Result<Block, Failure> {
        let number = entry.number;
        let bad = |at: u32, what: &dyn std::fmt::Display| {
            Failure::bad_input([at], format!("input {at}, of block {number}: {what}"))
        };
        let header = Header::from_bytes(&read(header)?).map_err(|error| bad(at + 1, &error))?;
        let (hash, wanted) = (header.hash(), entry.hash()?);
        if hash != wanted {
            let what = format!("a header with hash {}, not {}", hex::encode(hash), hex::encode(wanted));
            return Err(bad(at + 1, &what));
        }
        // From here on the header is the one that was asked for; what contradicts it is the manifest.
        if header.chain != chain || header.number != number {
            let (chain_of, number_of) = (&header.chain, header.number);
            return Err(Failure::permanent(format!(
                "the manifest says block {number} of {chain} where the header is of block {number_of} of {chain_of}"
            )));
        }
        if entry.parent_hash()?.is_some_and(|parent| parent != header.parent_hash) {
            let parent = hex::encode(header.parent_hash);
            return Err(Failure::permanent(format!(
                "the manifest: block {number} has parent {parent}, not what it says"
            )));
        }
        if let Some(contradiction) = header.contradiction() {
            return Err(Failure::permanent(format!("block {number}: {contradiction}")));
        }
        let bytes = read(proof)?;
        let proof = self.verifier.verify_block(&bytes, &header).map_err(|error| bad(at, &error))?;
        Ok(Block { header, proof, bytes })
    }

    pub(super) fn range_lift(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        let [input] = inputs(task)?;
        let bad = |what: &dyn std::fmt::Display| Failure::bad_input([0], what.to_string());
        let segment = RangeSegment::from_bytes(&read(input)?).map_err(|error| bad(&error))?;
        let block = self.verifier.verify_block(&segment.proof, &segment.header).map_err(|error| bad(&error))?;
        let before = segment.statement.commitment_before;
        if extend(before, block.statement()) != segment.statement {
            return Err(bad(&"the segment states something else than its block"));
        }
        let (size, keys) = (block.file().size, &self.verifier);
        let key = |shape| keys.key(shape, size).expect("a verified proof is of a size with keys");
        let circuit = self.range_lifts.entry(size).or_insert_with(|| {
            ctx.progress(0.0, "building the range lift circuit");
            let circuit = RangeLiftCircuit::build(key(Shape::Lift), key(Shape::Join));
            keys::check(Shape::RangeLift, size, &circuit.data.verifier_data());
            circuit
        });
        ctx.check()?;
        ctx.progress(0.2, "lifting the block's proof");
        let ProofFile { shape, proof, .. } = block.file();
        let proof = circuit
            .prove((proof, *shape == Shape::Join), before, &key(Shape::RangeJoin).verifier_only)
            .map_err(Failure::retryable)?;
        self.deliver(task, ProofFile { shape: Shape::RangeLift, size, proof })
    }

    /// The block's chain and number are those of the chain that collects ranges; what binds it to the blocks is its hash, the
    /// last block's, and its parent, the first block's: a range that begins later ends in the same hash.
    pub(super) fn range_verify(&self, task: &Task) -> Result<TaskResult, Failure> {
        let [proof, header] = inputs(task)?;
        let (proof, header) = (read(proof)?, read(header)?);
        let bad_block = |message: String| Ok(TaskResult::verdict(Verdict::BadBlock, message));
        let range = match Range::from_bytes(&header) {
            Ok(range) => range,
            Err(error) => return bad_block(format!("the header: {error}")),
        };
        let (last, hash) = (range.last().number, hex::encode(range.last().hash()));
        if hash != task.block.hash {
            return bad_block(format!("the range ends in block {last} with hash {hash}, not {}", task.block.hash));
        }
        let (first, parent) = (range.first().number, hex::encode(range.first().parent_hash));
        if let Some(wanted) = task.block.parent_hash.as_ref().filter(|wanted| **wanted != parent) {
            return bad_block(format!("the range begins with block {first} on parent {parent}, not on {wanted}"));
        }
        let contradiction = range.headers().iter().find_map(|header| Some((header.number, header.contradiction()?)));
        if let Some((number, contradiction)) = contradiction {
            return bad_block(format!("block {number}: {contradiction}"));
        }
        match self.verifier.verify_range(&proof, &range) {
            Ok(_) => Ok(TaskResult::verdict(Verdict::Ok, "")),
            Err(error) => Ok(TaskResult::verdict(Verdict::BadProof, error)),
        }
    }
}

/// Blocks of different segment sizes have proofs of different circuits, which do not join.
fn one_size(blocks: &[Block]) -> Result<(), Failure> {
    let size = |block: &Block| block.proof.file().size;
    match blocks.windows(2).find(|pair| size(&pair[0]) != size(&pair[1])) {
        None => Ok(()),
        Some(pair) => Err(Failure::permanent(format!(
            "block {} was proven in segments of {}, block {} in segments of {}: a range takes one segment size",
            pair[0].header.number,
            size(&pair[0]),
            pair[1].header.number,
            size(&pair[1])
        ))),
    }
}

impl Manifest {
    /// Reads it and checks that it asks for consecutive blocks.
    fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let refuse = |what: String| Failure::permanent(format!("the manifest: {what}"));
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        let Self { v, from, to, blocks, .. } = &manifest;
        if *v != VERSION {
            return Err(refuse(format!("version {v}; this prover reads {VERSION}")));
        }
        let wanted = to.checked_sub(*from).and_then(|more| usize::try_from(more).ok()?.checked_add(1));
        if wanted != Some(blocks.len()) {
            return Err(refuse(format!("it has {} blocks, which are not those from {from} to {to}", blocks.len())));
        }
        let misplaced = (*from..).zip(blocks).find(|(number, block)| block.number != *number);
        match misplaced {
            Some((number, block)) => Err(refuse(format!("block {} stands where {number} belongs", block.number))),
            None => Ok(manifest),
        }
    }
}

impl Entry {
    fn hash(&self) -> Result<BlockHash, Failure> {
        self.parse(&self.hash)
    }

    fn parent_hash(&self) -> Result<Option<BlockHash>, Failure> {
        self.parent_hash.as_ref().map(|text| self.parse(text)).transpose()
    }

    /// 64 hexadecimal digits, with or without `0x`.
    fn parse(&self, text: &str) -> Result<BlockHash, Failure> {
        let mut hash = BlockHash::default();
        let parsed = hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut hash);
        parsed.map_err(|error| Failure::permanent(format!("the manifest: block {}: {text}: {error}", self.number)))?;
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_asks_for_consecutive_blocks_and_may_say_more() {
        let read = |text: &str| Manifest::read(text.as_bytes()).map_err(|failure| failure.message);
        let block =
            |number: u64| format!(r#"{{"number":{number},"hash":"0x{}","proof":{{"key":"k"}}}}"#, "ab".repeat(32));
        let with = |from: u64, to: u64, numbers: &[u64]| {
            let blocks: Vec<String> = numbers.iter().map(|number| block(*number)).collect();
            format!(r#"{{"v":1,"chain":"demo","from":{from},"to":{to},"more":[],"blocks":[{}]}}"#, blocks.join(","))
        };
        let manifest = read(&with(4, 5, &[4, 5])).unwrap();
        assert_eq!(manifest.blocks[1].hash().unwrap(), [0xab; 32]);
        assert_eq!(manifest.blocks[1].parent_hash().unwrap(), None);
        for (text, why) in [
            (with(4, 6, &[4, 5]), "not those from 4 to 6"),
            (with(5, 4, &[]), "not those from 5 to 4"),
            (with(4, 5, &[5, 4]), "block 5 stands where 4 belongs"),
            (with(4, 6, &[4, 4, 6]), "block 4 stands where 5 belongs"),
            (with(0, u64::MAX, &[]), "not those"),
            (with(4, 4, &[4]).replace(r#""v":1"#, r#""v":2"#), "version 2"),
            ("{}".to_owned(), "missing field"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let short = Entry { number: 4, hash: "0xab".to_owned(), parent_hash: None };
        assert!(short.hash().unwrap_err().message.contains("block 4"));
    }
}
