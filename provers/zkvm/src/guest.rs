//! The program that runs in the zkVM (`provers/risc0/guest/`, in C): its input, its exit codes, its journal.

use std::fmt;

use push0_rollup::block::{Header, Witness};
use push0_rollup::codec::{DecodeError, Reader, Write};
use sha2::{Digest as _, Sha256};

const JOURNAL_MAGIC: &[u8; 8] = b"p0rzjrn1";

/// How much of a block the guest checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// That the header commits to these transfers, in this order, and counts them.
    Transfers = 1,
    /// Besides: that they lead from the state root before to the one after.
    State = 2,
}

impl Checks {
    /// From a stage's parameter `checks`: `transfers` or `state`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "transfers" => Some(Self::Transfers),
            "state" => Some(Self::State),
            _ => None,
        }
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transfers => "transfers",
            Self::State => "state",
        })
    }
}

/// What the guest reads: its `main.c` has the layout. With [`Checks::State`] it holds the senders' keys, as the witness does.
pub fn input(witness: &Witness, checks: Checks) -> Vec<u8> {
    let mut out = vec![checks as u8];
    let header = witness.header.to_bytes();
    out.put_u32(header.len() as u32);
    out.put(&header);
    out.put_list(&witness.payments, |out, payment| {
        let transfer = &payment.transfer;
        out.put_u32(transfer.from);
        out.put_u32(transfer.to);
        out.put_u64(transfer.amount);
        out.put_u64(transfer.nonce);
    });
    if checks == Checks::State {
        for payment in &witness.payments {
            out.put_digest(&payment.key);
        }
        out.put_list(&witness.accounts, |out, (place, account)| {
            out.put_u32(*place);
            out.put_digest(&account.owner);
            out.put_u64(account.balance);
            out.put_u64(account.nonce);
        });
        for (level, place, digest) in &witness.siblings {
            out.put_u8(*level);
            out.put_u32(*place);
            out.put_digest(digest);
        }
    }
    out
}

/// What an exit code of the guest says about the block.
pub fn refusal(exit_code: u32) -> &'static str {
    match exit_code {
        1 => "its witness or header is malformed, or larger than the guest takes (1 MiB, 2048 accounts)",
        2 => "a place, amount, nonce, balance or field element is out of range",
        3 => "the header counts other transfers",
        4 => "the header commits to other transfers",
        5 => "a transfer names an account that the witness lacks",
        6 => "a key is not the sender's",
        7 => "a nonce is not the sender's",
        8 => "a sender has less than it sends",
        9 => "the accounts are not those of the state root before",
        10 => "the accounts afterwards are not those of the state root after",
        _ => "for a reason that this prover does not know",
    }
}

/// What the guest states about a block.
///
/// Layout: magic `p0rzjrn1` (8), what was checked (1), SHA-256 of the header (32), count of transfers (4), SHA-256 of the transfers
/// (32), each of which has 24 bytes there: from (4), to (4), amount (8), nonce (8), big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    pub checks: Checks,
    pub header: [u8; 32],
    pub count: u32,
    pub transfers: [u8; 32],
}

impl Journal {
    pub const BYTES: usize = 77;

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, JOURNAL_MAGIC, "journal")?;
        let checks = match reader.u8()? {
            1 => Checks::Transfers,
            2 => Checks::State,
            _ => return Err(DecodeError::Value("the journal does not say what was checked")),
        };
        let journal = Self { checks, header: reader.array()?, count: reader.u32()?, transfers: reader.array()? };
        reader.finish()?;
        Ok(journal)
    }

    /// In what it says otherwise than the header, or less than `checks`.
    pub fn difference(&self, header: &Header, checks: Checks) -> Option<String> {
        if self.header != <[u8; 32]>::from(Sha256::digest(header.to_bytes())) {
            return Some("the journal is of another header".to_owned());
        }
        if self.count != header.count {
            return Some("the journal counts other transfers than the header".to_owned());
        }
        (self.checks != checks).then(|| format!("the journal says that {} was checked, not {checks}", self.checks))
    }
}
