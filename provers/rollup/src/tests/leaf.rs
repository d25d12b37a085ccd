//! What the leaf circuit must refuse. A circuit of one transfer is enough, and quick.

use std::sync::LazyLock;

use plonky2::field::types::Field;

use crate::circuit::LeafCircuit;
use crate::poseidon::{Digest, Domain, F, hash_pair, hash_words, owner_of, start_commitment};
use crate::segment::Segment;
use crate::state::{Account, LIMIT, Payment, State, Step, Transfer};
use crate::statement::Statement;

static ONE: LazyLock<LeafCircuit> = LazyLock::new(|| LeafCircuit::build(1));

fn key(n: u64) -> Digest {
    Digest([F::from_canonical_u64(n + 1); 4])
}

fn accounts(balances: [u64; 2]) -> Vec<Account> {
    (0..).zip(balances).map(|(n, balance)| Account { owner: owner_of(key(n)), balance, nonce: 5 }).collect()
}

/// The step of account 0 sending to account 1, as an honest prover would make it for amount 0.
fn honest(balances: [u64; 2]) -> Segment {
    let mut state = State::complete(&accounts(balances)).unwrap();
    let start = start_commitment("test", 1, &[0; 32]);
    let root_before = state.root().unwrap();
    let transfer = Transfer { from: 0, to: 1, amount: 0, nonce: 5 };
    let step = state.apply(&Payment { transfer, key: key(0) }).unwrap();
    let statement = Statement {
        root_before,
        commitment_before: start,
        root_after: state.root().unwrap(),
        commitment_after: transfer.commit(start),
        count: 1,
    };
    Segment { statement, steps: vec![step] }
}

/// The same with `amount`, moved in field arithmetic without any check, as a cheating prover would.
fn cheating(balances: [u64; 2], amount: u64) -> Segment {
    let mut segment = honest(balances);
    let step = &mut segment.steps[0];
    step.payment.transfer.amount = amount;
    let negative = F::from_noncanonical_u64(balances[0]) - F::from_noncanonical_u64(amount);
    // Siblings at level 0 are each other; above, they share the path.
    let leaf = |owner, balance: F, nonce| {
        let words = Digest([balance, F::from_canonical_u64(nonce), F::ZERO, F::ZERO]);
        hash_pair(Domain::Leaf, owner, words)
    };
    let sent = leaf(step.sender.owner, negative, 6);
    step.receiver_path[0] = sent;
    let received =
        leaf(step.receiver.owner, F::from_noncanonical_u64(balances[1]) + F::from_noncanonical_u64(amount), 5);
    let pair = hash_pair(Domain::Node, sent, received);
    let above = &step.receiver_path[1..];
    segment.statement.root_after = above.iter().fold(pair, |digest, sibling| hash_pair(Domain::Node, digest, *sibling));
    segment.statement.commitment_after =
        hash_words(Domain::Commitment, segment.statement.commitment_before, [0, 1, amount, step.sender.nonce]);
    segment
}

fn refused(segment: &Segment) {
    assert!(ONE.prove(segment).is_err());
}

fn changed(change: impl Fn(&mut Step)) -> Segment {
    let mut segment = cheating([10, 3], 10);
    change(&mut segment.steps[0]);
    segment
}

#[test]
fn a_transfer_of_the_whole_balance_is_proven() {
    let segment = cheating([10, 3], 10);
    let proof = ONE.prove(&segment).unwrap();
    assert_eq!(Statement::from_public_inputs(&proof.public_inputs), Some(segment.statement));
    ONE.data.verify(proof).unwrap();
}

#[test]
fn an_overdraft_by_one_is_refused() {
    refused(&cheating([10, 3], 11));
}

#[test]
fn an_overflow_at_the_receiver_is_refused() {
    ONE.prove(&cheating([10, LIMIT - 11], 10)).unwrap();
    refused(&cheating([10, LIMIT - 10], 10));
}

#[test]
fn a_wrong_key_is_refused() {
    refused(&changed(|step| step.payment.key = key(1)));
    refused(&changed(|step| step.payment.key = Digest::default()));
}

#[test]
fn a_wrong_nonce_or_balance_is_not_on_the_root() {
    refused(&changed(|step| step.sender.nonce = 4));
    refused(&changed(|step| step.sender.balance = 11));
    refused(&changed(|step| step.receiver.nonce = 6));
    refused(&changed(|step| step.receiver.owner = owner_of(key(0))));
    refused(&changed(|step| step.sender_path[9] = Digest::default()));
}

#[test]
fn another_place_is_refused() {
    refused(&changed(|step| step.payment.transfer.from = 1));
    refused(&changed(|step| step.payment.transfer.to = 0));
    refused(&changed(|step| step.payment.transfer.to = 1 + (1 << 20)));
}

#[test]
fn a_statement_that_the_steps_do_not_give_is_refused() {
    let mut segment = cheating([10, 3], 10);
    segment.statement.count = 2;
    refused(&segment);
    let mut segment = cheating([10, 3], 10);
    segment.statement.root_after = segment.statement.root_before;
    refused(&segment);
}

#[test]
fn padding_changes_nothing_and_needs_no_key() {
    let mut state = State::complete(&accounts([10, 3])).unwrap();
    let root = state.root().unwrap();
    let start = Digest::default();
    let statement =
        Statement { root_before: root, commitment_before: start, root_after: root, commitment_after: start, count: 0 };
    let padding = Segment { statement, steps: vec![state.padding().unwrap()] };
    ONE.prove(&padding).unwrap();

    let mut with_amount = padding;
    with_amount.steps[0].payment.transfer.amount = 1;
    refused(&with_amount);
}

#[test]
fn padding_that_moves_an_amount_is_refused() {
    let mut segment = cheating([10, 3], 10);
    segment.steps[0].real = false;
    segment.statement.count = 0;
    segment.statement.commitment_after = segment.statement.commitment_before;
    refused(&segment);
}

/// −(2^63 − 1) mod p is below 2^63: a 63-bit range check passes it, and nothing becomes 2^63 − 1 gwei.
#[test]
fn the_63_bit_trap_is_refused_at_62_bits() {
    let forged = cheating([0, 0], (1 << 63) - 1);
    refused(&forged);

    // With 63 bits the same witness is proven: this test would notice if the trap were none.
    let unsound = LeafCircuit::build_with_range(1, 63);
    let proof = unsound.prove(&forged).unwrap();
    unsound.data.verify(proof).unwrap();
}
