//! The auditor of a storm: what was submitted, what a consumer was handed, and what the proofs say of themselves.
//!
//! It shares no code with push0: it reads the lines that `push0 finalized` prints and the blobs that they name, and knows the echo prover's
//! rules by itself. It demands of each chain:
//!
//! 1. `seq` is dense, from 1 on, once what is not newer than the last one is dropped; and what is dropped is what was there before;
//! 2. blocks come in order, each number once, each the one submitted, with the parent submitted;
//! 3. each has a proof, whose bytes have the digest that the stream names, and which states just this block, all of its segments, and the
//!    digest of its witness; its own digest is that of the whole tree, each segment in its place and once;
//! 4. nothing that was accepted is missing in the end.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the echo prover makes of a chain's blocks.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The `map` stages, in order.
    pub maps: Vec<&'static str>,
    pub arity: usize,
    /// A `single` stage after the joins.
    pub single: Option<&'static str>,
}

/// A block as it was submitted.
#[derive(Debug, Clone)]
pub struct Block {
    pub chain: String,
    pub number: u64,
    pub hash: String,
    pub parent: String,
    pub segments: u32,
    /// SHA-256 of its witness.
    pub witness: String,
}

/// A proof to be fetched and handed to [`Auditor::proof`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub chain: String,
    pub number: u64,
    pub key: String,
    sha256: String,
}

#[derive(Default)]
struct Chain {
    /// The blocks, by number.
    submitted: BTreeMap<u64, Block>,
    /// What push0 has said that it took, or what was uploaded.
    accepted: u64,
    /// The stream as it was handed on, duplicates dropped.
    stream: Vec<Value>,
    proven: u64,
}

#[derive(Default)]
pub struct Auditor {
    chains: BTreeMap<String, Chain>,
    shapes: BTreeMap<String, Shape>,
    /// Proofs that nobody has looked at yet.
    pub to_fetch: VecDeque<Named>,
    pub violations: Vec<String>,
    /// Lines that were handed on again.
    pub again: u64,
}

/// What it comes to so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub submitted: u64,
    pub accepted: u64,
    pub handed_on: u64,
    /// Final, with a proof that was looked at.
    pub proven: u64,
}

impl Auditor {
    pub fn new(shapes: impl IntoIterator<Item = (String, Shape)>) -> Self {
        let shapes: BTreeMap<String, Shape> = shapes.into_iter().collect();
        let chains = shapes.keys().map(|chain| (chain.clone(), Chain::default())).collect();
        Self { chains, shapes, ..Self::default() }
    }

    /// A block is about to be submitted. Before push0 can know of it.
    pub fn submitting(&mut self, block: Block) {
        self.chain(&block.chain.clone()).submitted.insert(block.number, block);
    }

    /// So many more blocks of a chain are in push0's hands.
    pub fn accepted(&mut self, chain: &str, blocks: u64) {
        self.chain(chain).accepted += blocks;
    }

    fn chain(&mut self, id: &str) -> &mut Chain {
        self.chains.entry(id.to_owned()).or_default()
    }

    /// Blocks of a chain that are submitted and not handed on.
    pub fn open(&self, chain: &str) -> u64 {
        self.chains.get(chain).map_or(0, |chain| chain.submitted.len() as u64 - chain.stream.len() as u64)
    }

    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for chain in self.chains.values() {
            sums.submitted += chain.submitted.len() as u64;
            sums.accepted += chain.accepted;
            sums.handed_on += chain.stream.len() as u64;
            sums.proven += chain.proven;
        }
        sums
    }

    /// A line of the stream, as a consumer was handed it.
    pub fn line(&mut self, line: &str) {
        if let Err(problem) = self.take(line) {
            self.violations.push(format!("{problem}: {line}"));
        }
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let message: Value = serde_json::from_str(line).map_err(|error| format!("no JSON ({error})"))?;
        let id = message["chain"].as_str().unwrap_or_default();
        let chain = self.chains.get_mut(id).ok_or("a chain that nobody submitted to")?;
        let (seq, last) = (message["seq"].as_u64().unwrap_or(0), chain.stream.len() as u64);
        if seq <= last {
            self.again += 1;
            let before = seq.checked_sub(1).and_then(|at| chain.stream.get(at as usize));
            return if before == Some(&message) { Ok(()) } else { Err("not what this seq was before".to_owned()) };
        }
        if seq != last + 1 {
            return Err(format!("a gap after seq {last}"));
        }
        // The first block is number 1, and nothing is left out.
        if message["number"].as_u64() != Some(last + 1) {
            return Err(format!("not number {}, which is next", last + 1));
        }
        let block = chain.submitted.get(&(last + 1)).ok_or("a number that nobody submitted")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (hash, parent) = (text(&message["hash"]), text(&message["parent_hash"]));
        let finality = &message["finality"];
        let named = Named {
            chain: id.to_owned(),
            number: block.number,
            key: text(&finality["proof"]["key"]),
            sha256: text(&finality["proof"]["sha256"]),
        };
        if message["epoch"].as_u64() != Some(1) {
            self.violations.push(format!("{id} {}: not its first run: push0 did not help itself", block.number));
        }
        let problem = if hash != block.hash {
            Some(format!("another block than {}", block.hash))
        } else if parent != block.parent {
            Some(format!("another parent than {}", block.parent))
        } else if finality["kind"] != "proof" || named.key.is_empty() {
            Some("no proof".to_owned())
        } else {
            None
        };
        // Whatever is wrong with it: it has its place, and what follows is judged by it.
        chain.stream.push(message);
        match problem {
            Some(problem) => Err(problem),
            None => {
                self.to_fetch.push_back(named);
                Ok(())
            }
        }
    }

    /// The bytes of a proof that the stream has named.
    pub fn proof(&mut self, named: &Named, bytes: &[u8]) {
        match self.look_at(named, bytes) {
            Ok(()) => self.chain(&named.chain).proven += 1,
            Err(problem) => self.violations.push(format!("{} {}: {problem}", named.chain, named.number)),
        }
    }

    fn look_at(&self, named: &Named, bytes: &[u8]) -> Result<(), String> {
        if hex(&Sha256::digest(bytes)) != named.sha256 {
            return Err(format!("{} does not have the digest {} that the stream names", named.key, named.sha256));
        }
        let block = self.chains.get(&named.chain).and_then(|chain| chain.submitted.get(&named.number));
        let (block, shape) = block.zip(self.shapes.get(&named.chain)).ok_or("a block that nobody submitted")?;
        let proof: Value = serde_json::from_slice(bytes).map_err(|error| format!("{}: {error}", named.key))?;
        let wanted = shape.proof(block);
        if proof != wanted { Err(format!("{} is\n  {proof}, not\n  {wanted}", named.key)) } else { Ok(()) }
    }

    /// The whole stream of a chain as push0 keeps it, to be held against what a consumer was handed.
    pub fn whole(&mut self, chain: &str, lines: &str) {
        let kept: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if kept != self.chain(chain).stream {
            let handed_on = self.chain(chain).stream.len();
            self.violations.push(format!(
                "{chain}: {handed_on} blocks were handed on, and are not the {} that are kept",
                kept.len()
            ));
        }
    }

    /// (chain, number) of what was submitted and is not final, or has no proof that was looked at.
    pub fn losses(&self) -> Vec<(String, u64)> {
        let mut lost = Vec::new();
        for (id, chain) in &self.chains {
            let handed_on = chain.stream.len() as u64;
            lost.extend(
                chain.submitted.keys().filter(|number| **number > handed_on).map(|number| (id.clone(), *number)),
            );
        }
        lost.extend(self.to_fetch.iter().map(|named| (named.chain.clone(), named.number)));
        lost
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One of echo's artifacts.
struct Artifact<'b> {
    block: &'b Block,
    digest: String,
    first: u32,
    last: u32,
}

impl<'b> Artifact<'b> {
    /// What a stage makes of inputs that cover these segments.
    fn of(block: &'b Block, stage: &str, inputs: &[Vec<u8>], first: u32, last: u32) -> Self {
        let mut sha = Sha256::new();
        sha.update(format!("{stage}\n"));
        inputs.iter().for_each(|input| sha.update(Sha256::digest(input)));
        Self { block, digest: hex(&sha.finalize()), first, last }
    }

    /// The file: one line, its fields in echo's order.
    fn bytes(&self) -> Vec<u8> {
        let Self { block, digest, first, last } = self;
        let (hash, witness) = (&block.hash, &block.witness);
        format!(
            "{{\"digest\":\"{digest}\",\"block\":\"{hash}\",\"first\":{first},\"last\":{last},\"witness\":\"{witness}\"}}\n"
        )
        .into_bytes()
    }
}

impl Shape {
    /// The proof of a block by echo's rules: each segment mapped, the results joined group by group with a lone one going up as it is.
    fn proof(&self, block: &Block) -> Value {
        let segment = |segment: u32| {
            let (hash, witness) = (&block.hash, &block.witness);
            let mut bytes =
                format!("{{\"block\":\"{hash}\",\"segment\":{segment},\"witness\":\"{witness}\"}}\n").into_bytes();
            let mut made = None;
            for stage in &self.maps {
                let artifact = Artifact::of(block, &format!("Map-{stage}"), &[bytes], segment, segment);
                bytes = artifact.bytes();
                made = Some(artifact);
            }
            made.expect("a pipeline of a storm has a map stage")
        };
        let mut layer: Vec<Artifact> = (0..block.segments).map(segment).collect();
        while layer.len() > 1 {
            let mut next = Vec::new();
            let mut members = layer.into_iter().peekable();
            while members.peek().is_some() {
                let group: Vec<Artifact> = members.by_ref().take(self.arity).collect();
                let (first, last) = (group[0].first, group[group.len() - 1].last);
                let inputs: Vec<Vec<u8>> = group.iter().map(Artifact::bytes).collect();
                next.extend(match group.len() {
                    1 => group,
                    _ => vec![Artifact::of(block, "Join-join", &inputs, first, last)],
                });
            }
            layer = next;
        }
        let mut root = layer.remove(0);
        if let Some(stage) = self.single {
            root = Artifact::of(block, &format!("Single-{stage}"), &[root.bytes()], root.first, root.last);
        }
        json!({ "digest": root.digest, "block": block.hash, "first": root.first, "last": root.last, "witness": block.witness })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { maps: vec!["prove"], arity: 2, single: None }
    }

    fn block(number: u64) -> Block {
        let hash = |number: u64| hex(&Sha256::digest(format!("block {number}")));
        Block {
            chain: "a".to_owned(),
            number,
            hash: hash(number),
            parent: hash(number - 1),
            segments: 5,
            witness: hex(&Sha256::digest(format!("witness {number}"))),
        }
    }

    fn auditor(blocks: u64) -> Auditor {
        let mut auditor = Auditor::new([("a".to_owned(), shape())]);
        (1..=blocks).for_each(|number| auditor.submitting(block(number)));
        auditor.accepted("a", blocks);
        auditor
    }

    /// The line and the proof of a block.
    fn finalized(seq: u64, block: &Block) -> (Value, Vec<u8>) {
        let proof = shape().proof(block).to_string().into_bytes();
        let named = json!({ "key": format!("artifacts/{}", block.number), "sha256": hex(&Sha256::digest(&proof)) });
        let line = json!({
            "seq": seq, "chain": "a", "number": block.number, "epoch": 1, "hash": block.hash, "parent_hash": block.parent,
            "finality": { "kind": "proof", "proof": named },
        });
        (line, proof)
    }

    fn judge(auditor: &mut Auditor, (line, proof): (Value, Vec<u8>)) {
        auditor.line(&line.to_string());
        if let Some(named) = auditor.to_fetch.pop_front() {
            auditor.proof(&named, &proof);
        }
    }

    #[test]
    fn blocks_in_order_with_their_proofs_are_right_and_one_handed_on_again_is_dropped() {
        let mut auditor = auditor(3);
        let mut lines = String::new();
        for number in 1..=3 {
            let (line, proof) = finalized(number, &block(number));
            lines += &format!("{line}\n");
            judge(&mut auditor, (line.clone(), proof));
            auditor.line(&line.to_string());
        }
        auditor.whole("a", &lines);
        assert_eq!(auditor.violations, Vec::<String>::new());
        assert_eq!((auditor.again, auditor.losses()), (3, vec![]));
        assert_eq!(auditor.sums(), Sums { submitted: 3, accepted: 3, handed_on: 3, proven: 3 });
    }

    #[test]
    fn what_is_missing_in_the_end_is_a_loss_with_or_without_a_line() {
        let mut auditor = auditor(3);
        judge(&mut auditor, finalized(1, &block(1)));
        auditor.line(&finalized(2, &block(2)).0.to_string());
        assert_eq!(auditor.losses(), vec![("a".to_owned(), 3), ("a".to_owned(), 2)]);
        assert_eq!(auditor.open("a"), 1);
    }

    /// What is said of the second block of three when it is not as it should be.
    fn said(of: impl Fn(&mut Value, &mut Vec<u8>)) -> String {
        let mut auditor = auditor(3);
        judge(&mut auditor, finalized(1, &block(1)));
        let (mut line, mut proof) = finalized(2, &block(2));
        of(&mut line, &mut proof);
        judge(&mut auditor, (line, proof));
        auditor.violations.join("\n")
    }

    /// A proof of something else, correctly named.
    fn with(line: &mut Value, proof: &mut Vec<u8>, other: Vec<u8>) {
        line["finality"]["proof"]["sha256"] = hex(&Sha256::digest(&other)).into();
        *proof = other;
    }

    #[test]
    fn every_violation_is_found() {
        assert_eq!(said(|_, _| ()), "");
        assert!(said(|line, _| line["seq"] = 3.into()).contains("a gap after seq 1"));
        assert!(said(|line, _| line["number"] = 3.into()).contains("not number 2"));
        assert!(said(|line, _| line["number"] = 1.into()).contains("not number 2"), "a number twice");
        assert!(said(|line, _| line["seq"] = 1.into()).contains("not what this seq was"));
        assert!(said(|line, _| line["seq"] = 0.into()).contains("not what this seq was"));
        assert!(said(|line, _| line["chain"] = "b".into()).contains("nobody submitted to"));
        assert!(said(|line, _| line["epoch"] = 2.into()).contains("not its first run"));
        assert!(said(|line, _| line["hash"] = block(3).hash.into()).contains("another block"));
        assert!(said(|line, _| line["parent_hash"] = Value::Null).contains("another parent"));
        assert!(said(|line, _| line["finality"] = json!({ "kind": "tombstone" })).contains("no proof"));
        assert!(said(|_, proof| proof.push(b' ')).contains("does not have the digest"));
        assert!(said(|line, proof| with(line, proof, b"junk".to_vec())).contains("artifacts/2: "));
        let other = |change: fn(&mut Block)| {
            let mut block = block(2);
            change(&mut block);
            said(|line, proof| with(line, proof, shape().proof(&block).to_string().into_bytes()))
        };
        assert_eq!(other(|_| ()), "");
        assert!(other(|block| block.segments = 4).contains("\"last\":3"), "a segment less");
        assert!(other(|block| block.witness = "00".repeat(32)).contains("artifacts/2 is"), "another witness");
        assert!(other(|block| block.hash = "00".repeat(32)).contains("artifacts/2 is"), "another block's");
        let swapped = Shape { maps: vec!["prove"], arity: 3, single: None }.proof(&block(2)).to_string();
        assert!(said(|line, proof| with(line, proof, swapped.clone().into_bytes())).contains("artifacts/2 is"));
    }

    #[test]
    fn a_stream_that_is_kept_otherwise_than_it_was_handed_on_is_found() {
        let mut auditor = auditor(2);
        judge(&mut auditor, finalized(1, &block(1)));
        auditor.whole("a", "");
        assert!(auditor.violations[0].contains("1 blocks were handed on"), "{:?}", auditor.violations);
    }

    #[test]
    fn the_auditor_shares_no_code_with_push0() {
        let source = include_str!("audit.rs");
        let (code, _) = source.split_once("#[cfg(test)]").unwrap();
        for line in code.lines().map(str::trim).filter(|line| line.starts_with("use ")) {
            let from = ["use std::", "use serde_json::", "use sha2::"];
            assert!(from.iter().any(|allowed| line.starts_with(allowed)), "{line}");
        }
        let paths = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let foreign: Vec<&str> =
            paths.filter(|line| ["push0_", "super::", "crate::"].iter().any(|path| line.contains(path))).collect();
        assert_eq!(foreign, Vec::<&str>::new());
    }
}
