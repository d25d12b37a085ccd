//! Ranges of blocks: proven, joined and verified; and what must not pass for one, at `range-split` and behind its back.

use std::sync::LazyLock;

use push0_prover::{BlockRef, Ctx, Failure, FailureKind, Kind, Prover, Task, TaskResult, Verdict};
use serde_json::{Value, json};

use super::{Bench, PROVER, fresh, sized};
use crate::block::{BlockHash, Header, Witness};
use crate::circuit::{JoinCircuit, RangeLiftCircuit};
use crate::keys::Shape;
use crate::poseidon::Digest;
use crate::proof::{BadProof, ProofFile, Verifier};
use crate::range::{Range, RangeSegment, extend};
use crate::statement::Statement;
use crate::tool::chain::Chain;
use crate::tool::inspect;
use crate::tool::random;

/// Transfers of each block. The second and the sixth take two segments, so their roots are joins, the others' lifts. The third and the
/// fourth leave the state as it is: roots do not show where they stand.
const TRANSFERS: [u32; 8] = [3, 12, 0, 0, 8, 9, 1, 2];

pub(super) static RANGE_LIFT: LazyLock<RangeLiftCircuit> = LazyLock::new(|| {
    let verifier = Verifier::default();
    RangeLiftCircuit::build(verifier.key(Shape::Lift, 8).unwrap(), verifier.key(Shape::Join, 8).unwrap())
});

pub(super) static RANGE_JOIN: LazyLock<JoinCircuit> =
    LazyLock::new(|| JoinCircuit::build(Verifier::default().key(Shape::RangeLift, 8).unwrap()));

/// Blocks 1 to 8 of `demo`, proven, and the range over them. Files, n from 0: `header{n}`, `proof{n}`, `link{n}` (its range lift),
/// `two{n}` and `four{n}` (joins of so many from n on), `range`. `foreign`, `foreign-header` and `foreign-link` are of block 1 of a chain
/// that differs in its name alone.
struct Blocks {
    bench: Bench,
    headers: Vec<Header>,
}

static BLOCKS: LazyLock<Blocks> = LazyLock::new(|| {
    let mut chain = Chain::start("demo", 1, random::accounts(5, 1_000_000)).unwrap();
    let witnesses: Vec<Witness> = TRANSFERS.into_iter().map(|count| chain.block(&transfers(count)).unwrap()).collect();
    let headers: Vec<Header> = witnesses.iter().map(|witness| witness.header.clone()).collect();
    // As the chain that collects ranges has it.
    let mut bench = Bench::new(&headers[7]);
    bench.block =
        BlockRef { chain: "demo-by-8".to_owned(), number: 1, hash: hex::encode(headers[7].hash()), parent_hash: None };

    for (n, witness) in witnesses.iter().enumerate() {
        bench.put(&format!("proof{n}"), &root(witness));
        bench.put(&format!("header{n}"), &witness.header.to_bytes());
    }
    let blocks = Blocks { bench, headers };
    let result = blocks.split(&blocks.manifest(), &(0..8).collect::<Vec<_>>()).unwrap();
    assert_eq!(result.segments, Some(8));
    assert_eq!(result.hash, Some(blocks.bench.block.hash.clone()));
    assert_eq!(result.parent_hash, Some(hex::encode(blocks.headers[0].parent_hash)));
    let run = |stage: &str, inputs: &[&str], output: &str| blocks.bench.run(stage, inputs, output).unwrap();
    for n in 0..8 {
        run("range-lift", &[&format!("split/segments/{n:06}")], &format!("link{n}"));
    }
    for n in [0, 2, 4, 6] {
        run("range-join", &[&format!("link{n}"), &format!("link{}", n + 1)], &format!("two{n}"));
    }
    run("range-join", &["two0", "two2"], "four0");
    run("range-join", &["two4", "two6"], "four4");
    run("range-join", &["four0", "four4"], "range");

    let mut other = Chain::start("other", 1, random::accounts(5, 1_000_000)).unwrap();
    let foreign = other.block(&transfers(TRANSFERS[0])).unwrap();
    assert_eq!(foreign.header.state_after, blocks.headers[0].state_after);
    blocks.bench.put("foreign", &root(&foreign));
    blocks.bench.put("foreign-header", &foreign.header.to_bytes());
    blocks.link(foreign.header.start(), &foreign.header, "foreign", "foreign-link");
    blocks
});

/// Transfers among the five accounts.
fn transfers(count: u32) -> Vec<(u32, u32, u64)> {
    (0..count).map(|n| (n % 5, (n + 1) % 5, u64::from(n) + 1)).collect()
}

/// Proves a block in its own directory.
fn root(witness: &Witness) -> Vec<u8> {
    let bench = Bench::new(&witness.header);
    let segments = bench.split(witness);
    (0..segments).for_each(|n| bench.prove(n));
    if segments == 1 {
        return bench.get("lift0");
    }
    bench.run("join", &["lift0", "lift1"], "root").unwrap();
    bench.get("root")
}

impl Blocks {
    fn manifest(&self) -> Value {
        let entry = |header: &Header| {
            json!({ "number": header.number, "hash": format!("0x{}", hex::encode(header.hash())),
                "parent_hash": hex::encode(header.parent_hash), "proof": { "key": "elsewhere" } })
        };
        json!({ "v": 1, "chain": "demo", "from": 1, "to": 8, "blocks": self.headers.iter().map(entry).collect::<Vec<_>>() })
    }

    /// `range-split` of a manifest and the files of these blocks.
    fn split(&self, manifest: &Value, blocks: &[usize]) -> Result<TaskResult, Failure> {
        let files = blocks.iter().flat_map(|n| [format!("proof{n}"), format!("header{n}")]);
        self.split_files(manifest, &files.collect::<Vec<_>>())
    }

    fn split_files(&self, manifest: &Value, files: &[String]) -> Result<TaskResult, Failure> {
        self.bench.put("manifest", manifest.to_string().as_bytes());
        let inputs: Vec<&str> = ["manifest"].into_iter().chain(files.iter().map(String::as_str)).collect();
        self.bench.run("range-split", &inputs, "split")
    }

    /// Range-lifts a block behind whatever commitment: what a prover can do whom nobody asked. Returns the commitment after it.
    fn link(&self, before: Digest, header: &Header, proof: &str, output: &str) -> Digest {
        let statement = extend(before, &Statement::of_block(header));
        let after = statement.commitment_after;
        let segment = RangeSegment { statement, header: header.clone(), proof: self.bench.get(proof) };
        self.bench.put("bypass", &segment.to_bytes());
        self.bench.run("range-lift", &["bypass"], output).unwrap();
        after
    }

    /// `range-verify` of a proof as that of the first `count` blocks.
    fn verify(&self, proof: &str, count: usize) -> TaskResult {
        let range = Range::new(self.headers[..count].to_vec()).unwrap();
        self.bench.put("range-header", &range.to_bytes());
        let hash = hex::encode(range.last().hash());
        self.run_as(BlockRef { hash, ..self.bench.block.clone() }, "range-verify", &[proof, "range-header"], false)
    }

    fn run_as(&self, block: BlockRef, stage: &str, inputs: &[&str], check: bool) -> TaskResult {
        let task = Task {
            id: stage.to_owned(),
            stage: stage.to_owned(),
            kind: Kind::Verify,
            inputs: inputs.iter().map(|name| self.bench.path(name)).collect(),
            output: self.bench.path("none"),
            params: Value::Null,
            check,
            deadline_ms: None,
            block,
        };
        let mut prover = PROVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let answer = if check { prover.check(&task, &Ctx::detached()) } else { prover.run(&task, &Ctx::detached()) };
        answer.unwrap()
    }

    fn proof(&self, name: &str) -> ProofFile {
        Verifier::default().verify(&self.bench.get(name)).unwrap().file().clone()
    }
}

#[test]
fn a_range_over_eight_blocks_is_verified_to_the_last_byte_of_its_header() {
    let blocks = &*BLOCKS;
    let shape = |n: usize| blocks.proof(&format!("proof{n}")).shape;
    assert_eq!((shape(0), shape(1)), (Shape::Lift, Shape::Join), "both kinds of root are in the range");
    let verdict = |proof: &str, header: &str| {
        let result = blocks.bench.run("range-verify", &[proof, header], "none").unwrap();
        assert_eq!(result.message.is_none(), result.verdict == Some(Verdict::Ok));
        result.verdict.unwrap()
    };
    assert_eq!(verdict("range", "split/header"), Verdict::Ok);
    let header = blocks.bench.get("split/header");
    for at in 0..header.len() {
        let mut flipped = header.clone();
        flipped[at] ^= 1;
        blocks.bench.put("flipped", &flipped);
        assert_eq!(verdict("range", "flipped"), Verdict::BadBlock, "byte {at}");
    }
    assert_eq!(verdict("range", "header7"), Verdict::BadBlock, "a block's header is no range's");
    for part in ["four0", "four4", "link0", "link7", "proof7", "split/header"] {
        assert_eq!(verdict(part, "split/header"), Verdict::BadProof, "{part}");
    }
}

#[test]
fn the_first_blocks_of_a_range_are_ranges_too_down_to_one() {
    let blocks = &*BLOCKS;
    for (proof, count) in [("link0", 1), ("two0", 2), ("four0", 4), ("range", 8)] {
        assert_eq!(blocks.verify(proof, count).verdict, Some(Verdict::Ok), "{proof}");
        assert_eq!(blocks.verify(proof, count % 8 + 1).verdict, Some(Verdict::BadProof), "{proof}");
    }
    // A block's own proof is none of a range of that block, and the other way round.
    assert_eq!(blocks.verify("proof0", 1).verdict, Some(Verdict::BadProof));
    let verifier = Verifier::default();
    let refused = verifier.verify_block(&blocks.bench.get("link0"), &blocks.headers[0]);
    assert!(matches!(refused, Err(BadProof::NotARoot("range-lift"))));
}

#[test]
fn a_range_that_begins_behind_its_batch_is_refused_though_it_ends_in_the_same_hash() {
    let blocks = &*BLOCKS;
    let second = &blocks.headers[1];
    blocks.link(second.start(), second, "proof1", "from-two");
    blocks.bench.put("from-two-header", &Range::new(vec![second.clone()]).unwrap().to_bytes());
    blocks.bench.put("from-one-header", &Range::new(blocks.headers[..2].to_vec()).unwrap().to_bytes());
    let verdict = |proof: &str, header: &str, parent: Option<BlockHash>| {
        let (hash, parent_hash) = (hex::encode(second.hash()), parent.map(hex::encode));
        let block = BlockRef { hash, parent_hash, ..blocks.bench.block.clone() };
        let result = blocks.run_as(block, "range-verify", &[proof, header], false);
        (result.verdict.unwrap(), result.message.unwrap_or_default())
    };
    let (batch, later) = (blocks.headers[0].parent_hash, second.parent_hash);
    assert_eq!(verdict("two0", "from-one-header", Some(batch)).0, Verdict::Ok);
    assert_eq!(verdict("from-two", "from-two-header", Some(later)).0, Verdict::Ok, "a proof of that shorter range");
    let (refused, why) = verdict("from-two", "from-two-header", Some(batch));
    assert_eq!(refused, Verdict::BadBlock);
    assert!(why.starts_with("the range begins with block 2 on parent"), "{why}");
    // Who does not know the parent is told where the range begins by its header alone.
    assert_eq!(verdict("from-two", "from-two-header", None).0, Verdict::Ok);
}

#[test]
fn split_refuses_a_manifest_that_skips_swaps_or_repeats() {
    let blocks = &*BLOCKS;
    let refused = |change: &dyn Fn(&mut Vec<Value>), files: &[usize]| {
        let mut manifest = blocks.manifest();
        change(manifest["blocks"].as_array_mut().unwrap());
        let failure = blocks.split(&manifest, files).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent, "{}", failure.message);
        failure.message
    };
    for (message, why) in [
        (refused(&|list| drop(list.remove(2)), &[0, 1, 3, 4, 5, 6, 7]), "not those from 1 to 8"),
        (refused(&|list| list.swap(2, 3), &[0, 1, 3, 2, 4, 5, 6, 7]), "block 4 stands where 3 belongs"),
        (refused(&|list| list[3] = list[2].clone(), &[0, 1, 2, 2, 4, 5, 6, 7]), "block 3 stands where 4 belongs"),
        // The numbers are right, what carries them is not.
        (
            refused(
                &|list| {
                    list[2]["hash"] = list[3]["hash"].clone();
                },
                &[0, 1, 3, 3, 4, 5, 6, 7],
            ),
            "the manifest says block 3 of demo where the header is of block 4 of demo",
        ),
        (refused(&|list| list[2]["parent_hash"] = list[3]["parent_hash"].clone(), &[0, 1, 2, 3, 4, 5, 6, 7]), "parent"),
        (refused(&|_| (), &[0, 1]), "16 files must follow it, not 4"),
    ] {
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn split_names_the_files_that_are_not_what_the_manifest_says() {
    let blocks = &*BLOCKS;
    let files: Vec<String> = (0..8).flat_map(|n| [format!("proof{n}"), format!("header{n}")]).collect();
    let mut damaged = blocks.bench.get("proof4");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    blocks.bench.put("damaged", &damaged);
    let with = |changes: &[(usize, &str)]| {
        let mut files = files.clone();
        changes.iter().for_each(|(at, file)| (*file).clone_into(&mut files[*at]));
        let failure = blocks.split_files(&blocks.manifest(), &files).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadInput, "{}", failure.message);
        (failure.children, failure.message)
    };
    for (changes, children, why) in [
        // Another block's proof is valid, only not of this block; so is a range's.
        (&[(4, "proof3")][..], vec![5], "input 5, of block 3: the proof says otherwise"),
        (&[(4, "proof3"), (6, "proof2")], vec![5, 7], "input 7, of block 4"),
        (&[(4, "proof3"), (5, "header3"), (6, "proof2"), (7, "header2")], vec![6, 8], "a header with hash"),
        (&[(0, "foreign")], vec![1], "the commitment before (chain, number, parent)"),
        (&[(0, "foreign"), (1, "foreign-header")], vec![2], "a header with hash"),
        (&[(8, "damaged")], vec![9], "input 9, of block 5"),
        (&[(0, "link0")], vec![1], "not a range-lift"),
        (&[(0, "header0"), (1, "proof0")], vec![2], "not a block header"),
    ] {
        let (named, message) = with(changes);
        assert_eq!(named, children, "{message}");
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn blocks_of_two_segment_sizes_make_no_range() {
    let (mut bench, _) = fresh(&[]);
    let mut chain = Chain::start("demo", 1, random::accounts(5, 1_000_000)).unwrap();
    let witness = chain.block(&transfers(TRANSFERS[0])).unwrap();
    assert_eq!(witness.header, BLOCKS.headers[0], "the same block, proven in segments of another size");
    bench.params = sized(16);
    bench.split(&witness);
    bench.prove(0);
    BLOCKS.bench.put("sixteen", &bench.get("lift0"));
    let files =
        (0..8).flat_map(|n| [if n == 0 { "sixteen".to_owned() } else { format!("proof{n}") }, format!("header{n}")]);
    let failure = BLOCKS.split_files(&BLOCKS.manifest(), &files.collect::<Vec<_>>()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    let why = "block 1 was proven in segments of 16, block 2 in segments of 8";
    assert!(failure.message.contains(why), "{}", failure.message);
}

#[test]
fn a_segment_that_lies_is_not_lifted() {
    let blocks = &*BLOCKS;
    let segment = RangeSegment::from_bytes(&blocks.bench.get("split/segments/000001")).unwrap();
    assert_eq!(RangeSegment::from_bytes(&segment.to_bytes()).as_ref(), Ok(&segment));
    let lies: [fn(&mut RangeSegment, &Blocks); 3] = [
        |segment, _| segment.statement.count += 1,
        |segment, blocks| segment.header = blocks.headers[2].clone(),
        |segment, blocks| segment.proof = blocks.bench.get("proof2"),
    ];
    for lie in lies {
        let mut segment = segment.clone();
        lie(&mut segment, blocks);
        blocks.bench.put("lie", &segment.to_bytes());
        let failure = blocks.bench.run("range-lift", &["lie"], "none").unwrap_err();
        assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0]));
    }
}

#[test]
fn range_join_refuses_a_gap_the_wrong_order_and_other_proofs() {
    let blocks = &*BLOCKS;
    for (left, right, children, why) in [
        ("link1", "link3", vec![0, 1], "gap"),
        // Between blocks that leave the state as it is.
        ("link3", "link2", vec![0, 1], "wrong order"),
        ("link2", "link2", vec![0, 1], "gap"),
        ("foreign-link", "link1", vec![0, 1], "gap"),
        ("link0", "proof1", vec![1], "not a join proof"),
        ("proof0", "link1", vec![0], "not a lift proof"),
        ("link0", "header1", vec![1], "not a proof file"),
    ] {
        let failure = blocks.bench.run("range-join", &[left, right], "none").unwrap_err();
        assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, children), "{left} {right}");
        assert!(failure.message.contains(why), "{}", failure.message);
    }
    let failure = blocks.bench.run("join", &["link0", "link1"], "none").unwrap_err();
    assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0]), "{}", failure.message);
}

#[test]
fn the_range_circuits_themselves_refuse_what_the_stages_refuse() {
    let blocks = &*BLOCKS;
    let links = [0, 1, 2, 3].map(|n| blocks.proof(&format!("link{n}")).proof);
    assert!(RANGE_JOIN.prove([(&links[1], false), (&links[3], false)]).is_err(), "gap");
    assert!(RANGE_JOIN.prove([(&links[3], false), (&links[2], false)]).is_err(), "order");
    assert!(RANGE_JOIN.prove([(&links[2], false), (&links[2], false)]).is_err(), "twice");
    assert!(RANGE_JOIN.prove([(&links[0], true), (&links[1], false)]).is_err(), "a range lift as a range join");
    let [lift, join] = [0, 1].map(|n| blocks.proof(&format!("proof{n}")).proof);
    assert!(RANGE_JOIN.prove([(&lift, false), (&links[1], false)]).is_err(), "a block's proof in a range");

    let verifier = Verifier::default();
    let carried = &verifier.key(Shape::RangeJoin, 8).unwrap().verifier_only;
    let before = blocks.headers[0].start();
    for (block, is_join, what) in
        [(&lift, true, "lift as join"), (&join, false, "join as lift"), (&links[0], false, "link")]
    {
        assert!(RANGE_LIFT.prove((block, is_join), before, carried).is_err(), "{what}");
    }
    let mut changed = lift;
    changed.public_inputs[16] += plonky2::field::types::Field::ONE;
    assert!(RANGE_LIFT.prove((&changed, false), before, carried).is_err(), "another count");
}

/// Blocks that leave the state as it is can be left out, swapped and repeated by whoever makes segments of his own: the proofs join, since
/// roots and commitments meet. What they prove is no range of these blocks.
#[test]
fn proofs_of_ranges_that_skip_swap_or_repeat_a_block_verify_as_no_range() {
    let blocks = &*BLOCKS;
    let after_two = Range::new(blocks.headers[..2].to_vec()).unwrap().statement().commitment_after;
    let join = |left: &str, right: &str, output: &str| blocks.bench.run("range-join", &[left, right], output).unwrap();
    let after_four = blocks.link(after_two, &blocks.headers[3], "proof3", "fourth");
    join("two0", "fourth", "skips");
    blocks.link(after_four, &blocks.headers[2], "proof2", "third");
    join("skips", "third", "swaps");
    blocks.link(after_four, &blocks.headers[3], "proof3", "again");
    join("skips", "again", "repeats");
    for proof in ["skips", "swaps", "repeats"] {
        let file = blocks.bench.get(proof);
        assert!(Verifier::default().verify(&file).is_ok(), "{proof}: a valid proof, of something else");
        for count in 1..=8 {
            let result = blocks.verify(proof, count);
            assert_eq!(result.verdict, Some(Verdict::BadProof), "{proof} as the first {count}");
        }
    }
    assert_eq!(blocks.verify("foreign-link", 1).verdict, Some(Verdict::BadProof), "another chain's block");

    // And a header that lists the blocks as the proof has them ends in no known block, or is no range.
    let listed = |places: &[usize]| places.iter().map(|at| blocks.headers[*at].clone()).collect::<Vec<_>>();
    assert!(Range::new(listed(&[0, 1, 3])).is_err() && Range::new(listed(&[0, 1, 3, 2])).is_err());
    let header = blocks.bench.get("split/header");
    let steps = header.len() - 7 * 68;
    let step = |at: usize| header[steps + 68 * (at - 1)..][..68].to_vec();
    let head = |count: u32| [&header[..steps - 4], &count.to_be_bytes()].concat();
    let edited = |places: &[usize]| {
        [head(places.len() as u32), places.iter().flat_map(|at| step(*at)).collect::<Vec<_>>()].concat()
    };
    assert_eq!(edited(&[1, 2, 3, 4, 5, 6, 7]), header);
    for places in [&[1, 3, 4, 5, 6, 7][..], &[1, 3, 2, 4, 5, 6, 7], &[1, 2, 2, 3, 4, 5, 6, 7], &[1, 2, 3, 4, 5, 6]] {
        blocks.bench.put("edited", &edited(places));
        let result = blocks.bench.run("range-verify", &["range", "edited"], "none").unwrap();
        assert_eq!(result.verdict, Some(Verdict::BadBlock), "{places:?}");
    }
}

#[test]
fn a_check_tells_a_ranges_artifacts_from_others() {
    let blocks = &*BLOCKS;
    let verdict = |stage: &str, artifact: &str, first: usize, last: usize| {
        let [first, last] = [first, last].map(|n| format!("split/segments/{n:06}"));
        let inputs = [artifact, "split/header", &first, &last];
        blocks.run_as(blocks.bench.block.clone(), stage, &inputs, true).verdict.unwrap()
    };
    assert_eq!(verdict("range-lift", "link2", 2, 2), Verdict::Ok);
    assert_eq!(verdict("range-join", "four4", 4, 7), Verdict::Ok);
    for (stage, artifact, first, last) in [
        ("range-lift", "link2", 3, 3),
        ("range-lift", "proof2", 2, 2),
        ("range-lift", "two2", 2, 3),
        ("range-join", "four4", 3, 7),
        ("range-join", "link2", 2, 2),
        ("range-join", "header2", 2, 2),
    ] {
        assert_eq!(verdict(stage, artifact, first, last), Verdict::BadProof, "{stage} {artifact} {first} {last}");
    }
}

#[test]
fn the_tool_shows_and_verifies_ranges() {
    let blocks = &*BLOCKS;
    let path = |name: &str| blocks.bench.path(name);
    let said = inspect::verify(&path("range"), &path("split/header")).unwrap();
    assert_eq!((&said["from"], &said["to"], &said["circuit"]), (&json!(1), &json!(8), &json!("range-join-k8")));
    assert_eq!(said["transfers"], json!(TRANSFERS.iter().sum::<u32>()));
    assert!(inspect::verify(&path("four0"), &path("split/header")).is_err());
    assert!(inspect::verify(&path("range"), &path("header7")).is_err());
    for (name, what) in [
        ("split/header", "range header"),
        ("split/segments/000003", "range segment"),
        ("range", "proof"),
        ("link1", "proof"),
    ] {
        assert_eq!(inspect::show(&path(name)).unwrap()["file"], json!(what), "{name}");
    }
}
