//! What costs no proof: the guest in the zkVM. What it accepts and refuses is tested on the host, too (`provers/zkvm/src/tests`).

use std::collections::BTreeMap;

use push0_prover::Failure;
use push0_rollup::block::Witness;
use push0_rollup::tool::chain::Chain;
use push0_rollup::tool::random;
use push0_zkvm::Execution;
use push0_zkvm::guest::{Checks, Journal, refusal};
use risc0_zkvm::Segment;
use sha2::{Digest as _, Sha256};

use crate::guest;
use crate::prover::{Bincode, Risc0};

fn block(transfers: u32) -> Witness {
    let mut chain = Chain::start("demo", 1, random::accounts(16, random::DEFAULT_BALANCE)).unwrap();
    random::blocks(&mut chain, 7, 1, transfers).unwrap().remove(0)
}

fn execute(witness: &Witness, checks: Checks, po2: u32) -> Result<Execution<Bincode<Segment>>, Failure> {
    push0_zkvm::execute(&Risc0::default(), witness, checks, po2)
}

fn refused(witness: &Witness, checks: Checks) -> String {
    execute(witness, checks, 18).err().expect("the guest refuses it").message
}

#[test]
fn an_honest_block_is_accepted_and_its_journal_is_of_its_header() {
    for (transfers, checks) in [(0, Checks::State), (1, Checks::Transfers), (9, Checks::State)] {
        let witness = block(transfers);
        let Execution { segments, journal, .. } = execute(&witness, checks, 18).unwrap();
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
    let witness = block(2);
    let count = |po2| execute(&witness, Checks::Transfers, po2).unwrap().segments.len();
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
        assert!(said.ends_with(refusal(code)), "change {at}: {said}");
    }
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
