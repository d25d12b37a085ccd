//! The guest's C on honest and on wrong blocks, and on what is no block at all.

use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::field::types::{Field, PrimeField64};
use plonky2::hash::poseidon::Poseidon;
use push0_rollup::block::Witness;
use sha2::{Digest as _, Sha256};

use super::block;
use super::native::run;
use crate::guest::{Checks, Journal, input, refusal};

const BOTH: [Checks; 2] = [Checks::Transfers, Checks::State];

#[test]
fn an_honest_block_is_accepted_and_its_journal_is_of_its_header() {
    for transfers in [0, 1, 2, 9, 40] {
        for checks in BOTH {
            let witness = block(transfers);
            let (code, journal) = run(&input(&witness, checks));
            assert_eq!(code, Some(0), "{transfers} transfers, {checks}");
            assert_eq!(journal.len(), Journal::BYTES);
            let journal = Journal::from_bytes(&journal).unwrap();
            assert_eq!(journal.difference(&witness.header, checks), None);
            let sent: Vec<u8> = witness
                .payments
                .iter()
                .flat_map(|payment| {
                    let transfer = payment.transfer;
                    let places = [transfer.from, transfer.to].map(u32::to_be_bytes).concat();
                    [places, [transfer.amount, transfer.nonce].map(u64::to_be_bytes).concat()].concat()
                })
                .collect();
            assert_eq!(journal.transfers, <[u8; 32]>::from(Sha256::digest(sent)));
        }
    }
}

/// The header of a block with these transfers, whatever they do.
fn recommit(block: &mut Witness) {
    let start = block.header.start();
    block.header.commitment = block.payments.iter().fold(start, |so_far, payment| payment.transfer.commit(so_far));
    block.header.count = block.payments.len() as u32;
}

#[test]
fn the_guest_refuses_what_the_header_does_not_say() {
    type Change = fn(&mut Witness);
    const ABSENT: u32 = (1 << 20) - 1;
    let wrong: [(&str, Change, &[Checks], i32); 21] = [
        ("an amount", |block| block.payments[1].transfer.amount += 1, &BOTH, 4),
        ("a receiver", |block| block.payments[1].transfer.to ^= 1, &BOTH, 4),
        ("the order", |block| block.payments.swap(0, 2), &BOTH, 4),
        ("the chain", |block| block.header.chain.push('x'), &BOTH, 4),
        ("the number", |block| block.header.number += 1, &BOTH, 4),
        ("the parent", |block| block.header.parent_hash[0] ^= 1, &BOTH, 4),
        ("one transfer fewer", |block| block.payments.truncate(2), &BOTH, 3),
        ("one transfer twice", |block| block.payments.push(block.payments[2]), &BOTH, 3),
        ("an amount beyond the range", |block| block.payments[0].transfer.amount = 1 << 62, &BOTH, 2),
        ("a nonce beyond the range", |block| block.payments[0].transfer.nonce = 1 << 62, &BOTH, 2),
        ("a place beyond the tree", |block| block.payments[0].transfer.to = 1 << 20, &BOTH, 2),
        ("another's key", |block| block.payments[0].key = block.accounts[0].1.owner, &[Checks::State], 6),
        ("a balance", |block| block.accounts[0].1.balance += 1, &[Checks::State], 9),
        ("the state before", |block| block.header.state_before = block.header.state_after, &[Checks::State], 9),
        ("the state after", |block| block.header.state_after = block.header.state_before, &[Checks::State], 10),
        ("siblings left out", |block| block.siblings.truncate(3), &[Checks::State], 1),
        ("a sibling too many", |block| block.siblings.push(block.siblings[0]), &[Checks::State], 1),
        (
            "an account that is not there",
            |block| {
                block.payments[0].transfer.to = ABSENT;
                recommit(block);
            },
            &[Checks::State],
            5,
        ),
        ("accounts out of order", |block| block.accounts.swap(0, 1), &[Checks::State], 5),
        (
            "a nonce used before",
            |block| {
                block.payments[0].transfer.nonce += 1;
                recommit(block);
            },
            &[Checks::State],
            7,
        ),
        (
            "more than the sender has",
            |block| {
                block.payments[0].transfer.amount = (1 << 62) - 1;
                recommit(block);
            },
            &[Checks::State],
            8,
        ),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (what, change, checks, wanted) in wrong {
        for checks in checks {
            let mut block = block(3);
            change(&mut block);
            let (code, journal) = run(&input(&block, *checks));
            assert_eq!(code, Some(wanted), "{what}, {checks}: {}", refusal(wanted as u32));
            assert!(journal.is_empty(), "{what}: a block that is refused has no journal");
            seen.insert(wanted);
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>(), "every refusal comes up");
    let unknown = refusal(11);
    assert!((1..=10).all(|code| refusal(code) != unknown), "every refusal has its words");
}

#[test]
fn transfers_alone_say_nothing_of_the_state() {
    let mut witness = block(1);
    witness.header.state_after = witness.header.state_before;
    let (code, journal) = run(&input(&witness, Checks::Transfers));
    assert_eq!(code, Some(0));
    let journal = Journal::from_bytes(&journal).unwrap();
    assert!(journal.difference(&witness.header, Checks::State).unwrap().contains("not state"));
}

/// Cut short, prolonged, or with bytes changed: the guest ends in an exit code that it knows, and what it accepts states another block.
#[test]
fn whatever_comes_in_the_guest_ends_with_an_exit_code_it_knows() {
    for checks in BOTH {
        let witness = block(3);
        let honest = input(&witness, checks);
        let mut others: Vec<Vec<u8>> = (0..honest.len()).step_by(7).map(|length| honest[..length].to_vec()).collect();
        others.push([&honest[..], &[0]].concat());
        others.push(honest.repeat(1 + (1 << 20) / honest.len()));
        for at in 0..honest.len().min(700) {
            for value in [honest[at] ^ 1, honest[at] ^ 0x80, 0xff, 0] {
                if at % 5 == 0 && value != honest[at] {
                    let mut other = honest.clone();
                    other[at] = value;
                    others.push(other);
                }
            }
        }
        for other in others {
            let (code, journal) = run(&other);
            let code = code
                .unwrap_or_else(|| panic!("the guest crashed on {}", hex::encode(&other[..other.len().min(2_000)])));
            assert!((0..=10).contains(&code), "exit code {code}");
            if code == 0 {
                let journal = Journal::from_bytes(&journal).unwrap();
                assert!(
                    journal.difference(&witness.header, checks).is_some(),
                    "it accepts another input for the same block"
                );
            }
        }
    }
}

#[test]
fn segments_without_the_state_hold_no_keys() {
    let witness = block(2);
    let key = witness.payments[0].key.0.map(|element| element.to_canonical_u64().to_be_bytes()).concat();
    let holds = |checks| input(&witness, checks).windows(32).any(|window| window == key);
    assert!(holds(Checks::State) && !holds(Checks::Transfers));
}

#[test]
fn a_journal_is_read_to_its_last_byte() {
    let (_, bytes) = run(&input(&block(1), Checks::Transfers));
    assert!(Journal::from_bytes(&bytes).is_ok());
    assert!(Journal::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    assert!(Journal::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    let mut other = bytes.clone();
    other[8] = 3;
    assert!(Journal::from_bytes(&other).unwrap_err().to_string().contains("what was checked"));
}

#[test]
fn the_constants_of_the_guests_hash_are_those_of_the_circuits() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../risc0/guest/poseidon_constants.h");
    if std::env::var_os("PUSH0_BLESS").is_some() {
        std::fs::write(path, constants()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, constants(), "PUSH0_BLESS=1 writes it anew; then guest/build.sh");
}

fn constants() -> String {
    type F = GoldilocksField;
    let list = |numbers: &[u64]| numbers.iter().map(|number| format!("{number:#018x}ull")).collect::<Vec<_>>();
    let circulant = <F as Poseidon>::MDS_MATRIX_CIRC;
    let diagonal = <F as Poseidon>::MDS_MATRIX_DIAG;
    assert!(diagonal[1..].iter().all(|entry| *entry == 0), "the guest adds to the first entry alone");
    assert!(circulant.iter().sum::<u64>() + diagonal[0] <= 264, "the guest's limbs have room for no more");
    let mut text = String::from(
        "/* Made from the constants of qp-plonky2 1.6.0 by a test (provers/zkvm/src/tests/guest.rs). */\n",
    );
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
