//! What costs no proof: the guest on honest and on wrong blocks, its hash against the rollup's, and what is refused.

use std::collections::BTreeMap;

use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::field::types::{Field, PrimeField64};
use plonky2::hash::poseidon::Poseidon;
use push0_rollup::block::Witness;
use push0_rollup::tool::chain::Chain;
use push0_rollup::tool::random;
use sha2::{Digest as _, Sha256};

use crate::guest::{self, Checks, Journal};
use crate::prover::{Execution, execute};

fn block(transfers: u32) -> Witness {
    let mut chain = Chain::start("demo", 1, random::accounts(16, random::DEFAULT_BALANCE)).unwrap();
    random::blocks(&mut chain, 7, 1, transfers).unwrap().remove(0)
}

fn refused(witness: &Witness, checks: Checks) -> String {
    execute(&guest::input(witness, checks), 18).err().expect("the guest refuses it").message
}

#[test]
fn an_honest_block_is_accepted_and_its_journal_is_of_its_header() {
    for (transfers, checks) in [(0, Checks::State), (1, Checks::Transfers), (9, Checks::State)] {
        let witness = block(transfers);
        let Execution { segments, journal, .. } = execute(&guest::input(&witness, checks), 18).unwrap();
        assert!(!segments.is_empty());
        let journal = Journal::from_bytes(&journal).unwrap();
        assert_eq!(journal.difference(&witness.header, checks), None);
        let sent: Vec<u8> = witness
            .payments
            .iter()
            .flat_map(|payment| {
                let transfer = payment.transfer;
                [
                    &transfer.from.to_be_bytes()[..],
                    &transfer.to.to_be_bytes(),
                    &transfer.amount.to_be_bytes(),
                    &transfer.nonce.to_be_bytes(),
                ]
                .concat()
            })
            .collect();
        assert_eq!(journal.transfers, <[u8; 32]>::from(Sha256::digest(sent)));
    }
}

#[test]
fn smaller_segments_are_more_of_them() {
    let input = guest::input(&block(2), Checks::Transfers);
    let count = |po2| execute(&input, po2).unwrap().segments.len();
    assert!(count(16) > count(17) && count(17) > count(20));
}

#[test]
fn the_guest_refuses_what_the_header_does_not_say() {
    let honest = block(3);
    type Change = fn(&mut Witness);
    let wrong: [(Change, Checks, u32); 9] = [
        (|block| block.payments[1].transfer.amount += 1, Checks::Transfers, 4),
        (|block| block.payments.swap(0, 2), Checks::Transfers, 4),
        (|block| block.payments.truncate(2), Checks::Transfers, 3),
        (|block| block.header.parent_hash[0] ^= 1, Checks::Transfers, 4),
        (|block| block.payments[0].transfer.amount = 1 << 62, Checks::Transfers, 2),
        (|block| block.payments[0].key = block.accounts[0].1.owner, Checks::State, 6),
        (|block| block.accounts[0].1.balance += 1, Checks::State, 9),
        (|block| block.header.state_after = block.header.state_before, Checks::State, 10),
        (|block| block.siblings.truncate(3), Checks::State, 1),
    ];
    for (at, (change, checks, code)) in wrong.into_iter().enumerate() {
        let mut block = honest.clone();
        change(&mut block);
        let said = refused(&block, checks);
        assert!(said.ends_with(guest::refusal(code)), "change {at}: {said}");
    }
}

#[test]
fn transfers_alone_say_nothing_of_the_state() {
    let mut witness = block(1);
    witness.header.state_after = witness.header.state_before;
    let Execution { journal, .. } = execute(&guest::input(&witness, Checks::Transfers), 18).unwrap();
    let journal = Journal::from_bytes(&journal).unwrap();
    assert!(journal.difference(&witness.header, Checks::State).unwrap().contains("not state"));
}

#[test]
fn segments_without_the_state_hold_no_keys() {
    let witness = block(2);
    let key = witness.payments[0].key.0.map(|element| element.to_canonical_u64().to_be_bytes()).concat();
    let holds = |checks| guest::input(&witness, checks).windows(32).any(|window| window == key);
    assert!(holds(Checks::State) && !holds(Checks::Transfers));
}

#[test]
fn the_constants_of_the_guests_hash_are_those_of_the_circuits() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/poseidon_constants.h");
    if std::env::var_os("PUSH0_BLESS").is_some() {
        std::fs::write(path, constants()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        constants(),
        "PUSH0_BLESS=1 writes it anew; then guest/build.sh"
    );
}

fn constants() -> String {
    type F = GoldilocksField;
    let list = |numbers: &[u64]| numbers.iter().map(|number| format!("{number:#018x}ull")).collect::<Vec<_>>();
    let circulant = <F as Poseidon>::MDS_MATRIX_CIRC;
    let diagonal = <F as Poseidon>::MDS_MATRIX_DIAG;
    assert!(diagonal[1..].iter().all(|entry| *entry == 0), "the guest adds to the first entry alone");
    assert!(circulant.iter().sum::<u64>() + diagonal[0] <= 264, "the guest's limbs have room for no more");
    let mut text = String::from("/* Made from the constants of qp-plonky2 1.6.0 by a test (src/tests.rs). */\n");
    let small: Vec<String> = circulant.iter().map(u64::to_string).collect();
    text += &format!("#define MDS_CIRCULANT {{{}}}\n#define MDS_TOP_LEFT {}\n", small.join(", "), diagonal[0]);
    text += "#define ROUND_CONSTANTS {";
    for round in 0..30 {
        let mut state = [F::ZERO; 12];
        F::constant_layer(&mut state, round);
        let row: Vec<u64> = state.iter().map(PrimeField64::to_canonical_u64).collect();
        text += " \\\n  {";
        for (at, entry) in list(&row).iter().enumerate() {
            text += if at == 0 {
                ""
            } else if at % 4 == 0 {
                ", \\\n   "
            } else {
                ", "
            };
            text += entry;
        }
        text += "},";
    }
    text + " \\\n  {0}}\n"
}

#[test]
fn the_pipelines_pin_this_guest() {
    let digests = BTreeMap::from([
        ("guest-elf", hex::encode(Sha256::digest(guest::ELF))),
        ("image-id", guest::image_id().to_string()),
    ]);
    for file in ["risc0.toml", "risc0-state.toml"] {
        let path = format!("{}/../../examples/risc0/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        for (name, digest) in &digests {
            assert!(text.contains(&format!("{name} = \"{digest}\"")), "{path}: {name} = \"{digest}\"");
        }
    }
}
