//! The stages, as a worker runs them.

use push0_prover::{FailureKind, Prover, Verdict};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{BLOCK, fresh, sized};
use crate::block::Witness;
use crate::keys::{self, Shape};
use crate::prover::Rollup;
use crate::segment::{SIZES, Segment, cut};
use crate::tool::chain::Chain;
use crate::tool::random;

#[test]
fn a_block_of_three_segments_is_verified_to_the_last_byte_of_its_header() {
    let (bench, _) = &*BLOCK;
    let result = bench.run("verify", &["root", "split/header"], "none").unwrap();
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:?}");

    let header = bench.get("split/header");
    for at in 0..header.len() {
        let mut flipped = header.clone();
        flipped[at] ^= 1;
        bench.put("flipped", &flipped);
        let verdict = bench.run("verify", &["root", "flipped"], "none").unwrap().verdict;
        assert_eq!(verdict, Some(Verdict::BadBlock), "byte {at}");
    }
    for bad in ["join", "lift0", "leaf0", "split/header"] {
        let result = bench.run("verify", &[bad, "split/header"], "none").unwrap();
        assert_eq!(result.verdict, Some(Verdict::BadProof), "{bad}");
        assert!(result.message.is_some());
    }
}

#[test]
fn a_join_names_the_children_that_are_at_fault() {
    let (bench, _) = &*BLOCK;
    let mut damaged = bench.get("lift1");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    bench.put("damaged", &damaged);
    for (left, right, children, why) in [
        ("lift1", "lift0", vec![0, 1], "wrong order"),
        ("lift0", "lift2", vec![0, 1], "gap"),
        ("lift0", "lift0", vec![0, 1], "gap"),
        ("lift0", "damaged", vec![1], "input 1"),
        ("damaged", "lift2", vec![0], "input 0"),
        ("damaged", "damaged", vec![0, 1], "input 1"),
        ("leaf0", "lift1", vec![0], "leaf"),
        ("lift0", "split/header", vec![1], "not a proof file"),
    ] {
        let failure = bench.run("join", &[left, right], "none").unwrap_err();
        assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, children), "{left} {right}");
        assert!(failure.message.contains(why), "{}", failure.message);
    }
    let failure = bench.run("lift", &["lift0"], "none").unwrap_err();
    assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0]));
    let failure = bench.run("join", &["lift0"], "none").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    let failure = bench.run("join", &["lift0", "missing"], "none").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Retryable);
}

#[test]
fn the_lift_of_a_block_of_one_segment_is_its_root() {
    let (bench, witness) = fresh(&[(0, 1, 100), (1, 2, 150), (2, 2, 1)]);
    assert_eq!(bench.split(&witness), 1);
    bench.prove(0);
    let verdict = |root: &str| bench.run("verify", &[root, "split/header"], "none").unwrap().verdict;
    assert_eq!(verdict("lift0"), Some(Verdict::Ok));
    assert_eq!(verdict("leaf0"), Some(Verdict::BadProof));
}

#[test]
fn a_block_without_transfers_is_one_segment_of_padding() {
    let (bench, witness) = fresh(&[]);
    assert_eq!(bench.split(&witness), 1);
    bench.prove(0);
    let verdict = bench.run("verify", &["lift0", "split/header"], "none").unwrap().verdict;
    assert_eq!(verdict, Some(Verdict::Ok));
}

#[test]
fn split_refuses_what_is_not_this_block() {
    let (mut bench, witness) = fresh(&[(0, 1, 60), (1, 0, 5)]);
    let refusal = |bench: &super::Bench, bytes: &[u8]| {
        bench.put("witness", bytes);
        let failure = bench.run("split", &["witness"], "split").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent);
        failure.message
    };
    let with = |change: &dyn Fn(&mut Witness)| {
        let mut changed = witness.clone();
        change(&mut changed);
        changed.to_bytes()
    };
    for (bytes, why) in [
        (with(&|witness| witness.payments[0].transfer.amount = 101), "transfer 0: account 0 has 100 gwei"),
        (with(&|witness| witness.payments[1].transfer.nonce = 1), "transfer 1: account 1 is at nonce 0"),
        (with(&|witness| witness.payments[1].transfer.to = 3), "transfer 1: there is no account 3"),
        (with(&|witness| witness.payments[1].key = witness.payments[0].key), "transfer 1: the key is not"),
        (with(&|witness| witness.payments[0].transfer.amount = 61), "state root after"),
        (with(&|witness| witness.accounts[0].1.balance = 101), "state root before"),
        (with(&|witness| witness.payments.truncate(1)), "count"),
        (with(&|witness| witness.siblings.truncate(3)), "lacks the node"),
        (with(&|witness| witness.header.number = 9), "block 9 of demo, not 1"),
        (b"something else".to_vec(), "not a block witness"),
        (witness.to_bytes()[..300].to_vec(), "ends"),
    ] {
        let message = refusal(&bench, &bytes);
        assert!(message.contains(why), "{message}");
    }
    bench.params = json!({ "transfers_per_segment": 9 });
    assert!(refusal(&bench, &witness.to_bytes()).contains("[8, 16, 32]"));
}

#[test]
fn segments_of_every_size_meet_end_to_end_and_survive_their_encoding() {
    let mut chain = Chain::start("demo", 1, random::accounts(9, 1_000_000)).unwrap();
    let witness = random::blocks(&mut chain, 3, 1, 70).unwrap().remove(0);
    assert_eq!(Witness::from_bytes(&witness.to_bytes()), Ok(witness.clone()));
    for (size, count) in SIZES.into_iter().zip([9, 5, 3]) {
        let segments = cut(&witness, size).unwrap();
        assert_eq!(segments.len(), count);
        assert!(segments.windows(2).all(|pair| pair[0].statement.meets(&pair[1].statement)));
        let whole = segments.iter().map(|segment| segment.statement.clone()).reduce(|left, right| left.join(&right));
        assert_eq!(whole, Some(crate::statement::Statement::of_block(&witness.header)));
        for segment in &segments {
            assert_eq!(Segment::from_bytes(&segment.to_bytes()).as_ref(), Ok(segment));
        }
    }
}

#[test]
fn a_segment_that_was_tampered_with_is_named() {
    let (bench, _) = &*BLOCK;
    let mut segment = Segment::from_bytes(&bench.get("split/segments/000001")).unwrap();
    segment.statement.root_before = segment.statement.root_after;
    bench.put("tampered", &segment.to_bytes());
    segment.steps.pop();
    bench.put("short", &segment.to_bytes());
    for bad in ["tampered", "short", "leaf0"] {
        let failure = bench.run("prove", &[bad], "none").unwrap_err();
        assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0]), "{bad}");
    }
}

#[test]
fn another_segment_size_works_with_its_own_circuits() {
    let (mut bench, witness) = fresh(&[(0, 1, 1); 20]);
    bench.params = sized(16);
    assert_eq!(bench.split(&witness), 2);
    bench.prove(0);
    bench.prove(1);
    bench.run("join", &["lift0", "lift1"], "root").unwrap();
    let verdict = bench.run("verify", &["root", "split/header"], "none").unwrap().verdict;
    assert_eq!(verdict, Some(Verdict::Ok));
    // Sizes do not mix.
    bench.put("foreign", &BLOCK.0.get("lift0"));
    let failure = bench.run("join", &["foreign", "lift1"], "none").unwrap_err();
    assert_eq!((failure.kind, failure.children), (FailureKind::BadInput, vec![0, 1]));
}

#[test]
fn the_pinned_keys_are_those_of_the_circuits() {
    // From nothing for one size; the other tests build those of the other sizes, and each is checked when built.
    for (shape, key) in keys::generate(32) {
        keys::check(shape, 32, &key);
    }
    for size in SIZES {
        let common = |shape| keys::pinned(shape, size).common;
        assert!(common(Shape::Lift) == common(Shape::Join), "{size}");
        assert!(common(Shape::Lift) == keys::pinned(Shape::Lift, 32).common, "{size}");
    }
    let hello = Rollup::default().hello();
    assert_eq!(hello.programs.len(), 15);
    let join = keys::bytes(Shape::Join, 8).unwrap();
    assert_eq!(hello.programs["join-k8"], hex::encode(Sha256::digest(join)));
}
