//! Proofs that must not be believed: changed, out of order, foreign, forged.

use std::sync::LazyLock;

use plonky2::field::types::Field;

use super::range::{RANGE_JOIN, RANGE_LIFT};
use super::{BLOCK, Bench};
use crate::block::Header;
use crate::circuit::recursion::ForgedCircuit;
use crate::circuit::{JoinCircuit, Proof};
use crate::keys::Shape;
use crate::poseidon::{Digest, F};
use crate::proof::{BadProof, ProofFile, Verifier};
use crate::statement::{STATEMENT_LEN, Statement};

static JOIN: LazyLock<JoinCircuit> =
    LazyLock::new(|| JoinCircuit::build(Verifier::default().key(Shape::Lift, 8).unwrap()));

fn proof(bench: &Bench, name: &str) -> ProofFile {
    Verifier::default().verify(&bench.get(name)).unwrap().file().clone()
}

fn refused(verifier: &Verifier, file: &ProofFile) {
    assert!(matches!(verifier.verify(&file.to_bytes()), Err(BadProof::Verify(..))));
}

#[test]
fn a_root_with_any_public_input_changed_is_refused() {
    let (bench, _) = &*BLOCK;
    let verifier = Verifier::default();
    for name in ["root", "lift0"] {
        let file = proof(bench, name);
        assert_eq!(file.proof.public_inputs.len(), STATEMENT_LEN + 68);
        for at in 0..file.proof.public_inputs.len() {
            let mut changed = file.clone();
            changed.proof.public_inputs[at] += F::ONE;
            refused(&verifier, &changed);
        }
    }
}

#[test]
fn a_proof_under_another_shape_or_size_is_refused() {
    let (bench, _) = &*BLOCK;
    let verifier = Verifier::default();
    for (name, shape, size) in
        [("lift0", Shape::Join, 8), ("root", Shape::Lift, 8), ("root", Shape::Join, 16), ("lift0", Shape::Lift, 32)]
    {
        refused(&verifier, &ProofFile { shape, size, ..proof(bench, name) });
    }
    let unknown = ProofFile { size: 9, ..proof(bench, "root") };
    assert!(matches!(verifier.verify(&unknown.to_bytes()), Err(BadProof::Decode(_))));
}

#[test]
fn damaged_files_are_refused_and_panic_nobody() {
    let (bench, _) = &*BLOCK;
    let verifier = Verifier::default();
    let bytes = bench.get("root");
    for at in (0..bytes.len()).step_by(bytes.len() / 60) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(verifier.verify(&flipped).is_err(), "byte {at}");
    }
    for length in [0, 7, 11, 12, 1000, bytes.len() - 1] {
        assert!(verifier.verify(&bytes[..length]).is_err(), "length {length}");
    }
    assert!(verifier.verify(&[bytes, vec![0]].concat()).is_err());
}

#[test]
fn a_root_proves_its_own_header_only() {
    let (bench, witness) = &*BLOCK;
    let verifier = Verifier::default();
    let (root, header) = (bench.get("root"), &witness.header);
    verifier.verify_block(&root, header).unwrap();
    let other = Digest([F::TWO; 4]);
    let changes: [fn(&mut Header, Digest); 7] = [
        |header, _| header.chain.push('x'),
        |header, _| header.number += 1,
        |header, _| header.parent_hash[31] ^= 1,
        |header, other| header.state_before = other,
        |header, other| header.state_after = other,
        |header, other| header.commitment = other,
        |header, _| header.count -= 1,
    ];
    for change in changes {
        let mut changed = header.clone();
        change(&mut changed, other);
        assert!(matches!(verifier.verify_block(&root, &changed), Err(BadProof::Differs(_))), "{changed:?}");
    }
    for part in ["lift0", "lift2", "join"] {
        assert!(matches!(verifier.verify_block(&bench.get(part), header), Err(BadProof::Differs(_))), "{part}");
    }
    assert!(matches!(verifier.verify_block(&bench.get("leaf0"), header), Err(BadProof::NotARoot("leaf"))));
}

/// `docs/rollup.md`, soundness: a join proves only that its children carry the key that it carries itself.
#[test]
fn a_circuit_without_constraints_joined_by_the_real_join_is_refused() {
    let (bench, witness) = &*BLOCK;
    let verifier = Verifier::default();
    let lift_key = verifier.key(Shape::Lift, 8).unwrap();
    let forger = ForgedCircuit::build(&lift_key.common);
    let forged_key = &forger.data.verifier_only;

    let begin = Statement::of_block(&witness.header);
    let middle = Digest([F::TWO; 4]);
    let left = Statement { root_after: middle, commitment_after: middle, count: 10, ..begin.clone() };
    let right = Statement { root_before: middle, commitment_before: middle, count: 10, ..begin };
    let forge = |statement: &Statement, own: &_| forger.prove(&statement.to_public_inputs(), own);
    let (one, two) = (forge(&left, forged_key), forge(&right, forged_key));

    // The forgery itself succeeds: the real join circuit proves it, and plain `verify` takes it.
    let root = JOIN.prove_carrying([(&one, true), (&two, true)], forged_key).unwrap();
    JOIN.data.verify(root.clone()).unwrap();
    assert_eq!(Statement::from_public_inputs(&root.public_inputs), Some(Statement::of_block(&witness.header)));

    // Nor does a range take it up: the key that it carries is a constant of the range lift. Joined as a range, it is refused as here.
    let range_join = &verifier.key(Shape::RangeJoin, 8).unwrap().verifier_only;
    assert!(RANGE_LIFT.prove((&root, true), witness.header.start(), range_join).is_err());
    assert!(RANGE_LIFT.prove((&one, true), witness.header.start(), range_join).is_err());
    let range = RANGE_JOIN.prove_carrying([(&one, true), (&two, true)], forged_key).unwrap();
    RANGE_JOIN.data.verify(range.clone()).unwrap();
    let range = ProofFile { shape: Shape::RangeJoin, size: 8, proof: range };
    refused(&verifier, &range);
    refused(&verifier, &ProofFile { shape: Shape::RangeLift, ..range });

    // Ours does not, whatever the forgery is presented as.
    let file = |shape, proof: &Proof| ProofFile { shape, size: 8, proof: proof.clone() };
    assert!(verifier.verify_block(&file(Shape::Join, &root).to_bytes(), &witness.header).is_err());
    refused(&verifier, &file(Shape::Join, &root));
    refused(&verifier, &file(Shape::Lift, &root));
    refused(&verifier, &file(Shape::Lift, &one));
    refused(&verifier, &file(Shape::Join, &one));

    // Carrying the real key, the forger's circuit passes for neither a lift nor a join, nor beside an honest lift.
    let honest = proof(bench, "lift0").proof;
    let honest_says = Statement::from_public_inputs(&honest.public_inputs).unwrap();
    let (root_before, commitment_before) = (honest_says.root_after, honest_says.commitment_after);
    let next = forge(&Statement { root_before, commitment_before, ..right }, &JOIN.data.verifier_only);
    refused(&verifier, &file(Shape::Lift, &next));
    refused(&verifier, &file(Shape::Join, &next));
    assert!(JOIN.prove([(&honest, false), (&next, false)]).is_err());
    assert!(JOIN.prove([(&honest, false), (&next, true)]).is_err());
}

#[test]
fn the_join_circuit_refuses_order_gap_and_wrong_kind() {
    let (bench, _) = &*BLOCK;
    let [zero, one, two] = ["lift0", "lift1", "lift2"].map(|name| proof(bench, name).proof);
    assert!(JOIN.prove([(&one, false), (&zero, false)]).is_err(), "order");
    assert!(JOIN.prove([(&zero, false), (&two, false)]).is_err(), "gap");
    assert!(JOIN.prove([(&zero, true), (&one, false)]).is_err(), "a lift as a join");
}
