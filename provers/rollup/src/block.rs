//! Headers, witnesses and the start of a chain: what a block is, and the bytes it has.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::codec::{DecodeError, Reader, Write};
use crate::poseidon::{Digest, start_commitment};
use crate::state::{Account, DEPTH, Invalid, Payment, State, Transfer};

const HEADER_MAGIC: &[u8; 8] = b"p0rhead1";
const WITNESS_MAGIC: &[u8; 8] = b"p0rwitn1";

/// A SHA-256.
pub type BlockHash = [u8; 32];

/// A block's header. Its canonical bytes are what the block's hash is the SHA-256 of.
///
/// Layout: magic `p0rhead1` (8), chain length (1) and name, number (8), parent hash (32), state root before (32),
/// state root after (32), transfer commitment (32), count (4): 149 bytes and the chain's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub chain: String,
    pub number: u64,
    pub parent_hash: BlockHash,
    pub state_before: Digest,
    pub state_after: Digest,
    /// The hash chain over all transfers, begun at [`start_commitment`].
    pub commitment: Digest,
    /// How many transfers, without padding.
    pub count: u32,
}

impl Header {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEADER_MAGIC.to_vec();
        out.put_u8(self.chain.len() as u8);
        out.put(self.chain.as_bytes());
        out.put_u64(self.number);
        out.put(&self.parent_hash);
        out.put_digest(&self.state_before);
        out.put_digest(&self.state_after);
        out.put_digest(&self.commitment);
        out.put_u32(self.count);
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, HEADER_MAGIC, "block header")?;
        let length = usize::from(reader.u8()?);
        let chain = std::str::from_utf8(reader.take(length)?).ok().filter(|chain| is_chain_name(chain));
        let header = Self {
            chain: chain.ok_or(DecodeError::Value(CHAIN_NAME_RULE))?.to_owned(),
            number: reader.u64()?,
            parent_hash: reader.array()?,
            state_before: reader.digest()?,
            state_after: reader.digest()?,
            commitment: reader.digest()?,
            count: reader.u32()?,
        };
        reader.finish()?;
        Ok(header)
    }

    /// The block's hash.
    pub fn hash(&self) -> BlockHash {
        Sha256::digest(self.to_bytes()).into()
    }

    /// The commitment before the block's first transfer.
    pub fn start(&self) -> Digest {
        start_commitment(&self.chain, self.number, &self.parent_hash)
    }

    /// Why no block can have this header, if so.
    pub fn contradiction(&self) -> Option<&'static str> {
        if self.count > 0 {
            return None;
        }
        if self.state_before != self.state_after {
            return Some("the header changes the state without a transfer");
        }
        (self.commitment != self.start()).then_some("the header commits to transfers but counts none")
    }
}

/// What [`is_chain_name`] asks for.
pub const CHAIN_NAME_RULE: &str = "a chain's name is 1 to 32 of a-z, 0-9 and -, not beginning with -";

pub fn is_chain_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(fits)
}

/// The parent of a chain's first block: binds chain, first number and the state the chain starts from.
pub fn genesis_hash(chain: &str, first_number: u64, root: Digest) -> BlockHash {
    let mut bytes = b"push0-rollup/genesis/1".to_vec();
    bytes.put_u8(chain.len() as u8);
    bytes.put(chain.as_bytes());
    bytes.put_u64(first_number);
    bytes.put_digest(&root);
    Sha256::digest(bytes).into()
}

/// A block and all that proving it needs, in one file. **It holds the senders' keys.**
///
/// Layout: magic `p0rwitn1` (8), header length (2) and bytes, then three lists, each a count (4) and its items:
/// payments (56: from 4, to 4, amount 8, nonce 8, key 32), accounts before the block (52: place 4, owner 32,
/// balance 8, nonce 8), siblings (37: level 1, place 4, digest 32).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    pub header: Header,
    pub payments: Vec<Payment>,
    pub accounts: Vec<(u32, Account)>,
    pub siblings: Vec<(u8, u32, Digest)>,
}

/// Why a witness is not that of a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWitness {
    #[error("transfer {at}: {why}")]
    Transfer { at: usize, why: Invalid },
    #[error("the witness's accounts: {0}")]
    State(Invalid),
    #[error("the header says {what} {header}, execution gives {executed}")]
    Differs { what: &'static str, header: String, executed: String },
}

impl Witness {
    /// Executes `payments` on `state`, which moves to the state after the block (after an error: somewhere between).
    pub fn make(
        chain: &str,
        number: u64,
        parent_hash: BlockHash,
        state: &mut State,
        payments: Vec<Payment>,
    ) -> Result<Self, BadWitness> {
        let mut touched: BTreeSet<u32> =
            payments.iter().flat_map(|payment| [payment.transfer.from, payment.transfer.to]).collect();
        for (at, payment) in payments.iter().enumerate() {
            for place in [payment.transfer.from, payment.transfer.to] {
                state.account(place).map_err(|why| BadWitness::Transfer { at, why })?;
            }
        }
        if touched.is_empty() {
            // Padding needs an account to leave alone.
            touched.insert(0);
        }
        let state_before = state.root().map_err(BadWitness::State)?;
        let (accounts, siblings) = state.excerpt(&touched).map_err(BadWitness::State)?;
        let mut commitment = start_commitment(chain, number, &parent_hash);
        for (at, payment) in payments.iter().enumerate() {
            state.apply(payment).map_err(|why| BadWitness::Transfer { at, why })?;
            commitment = payment.transfer.commit(commitment);
        }
        let header = Header {
            chain: chain.to_owned(),
            number,
            parent_hash,
            state_before,
            state_after: state.root().map_err(BadWitness::State)?,
            commitment,
            count: payments.len() as u32,
        };
        Ok(Self { header, payments, accounts, siblings })
    }

    /// The state the block starts from; its root is the header's.
    pub fn state(&self) -> Result<State, BadWitness> {
        let state =
            State::partial(self.accounts.iter().copied(), self.siblings.iter().copied()).map_err(BadWitness::State)?;
        let root = state.root().map_err(BadWitness::State)?;
        same("state root before", self.header.state_before, root)?;
        Ok(state)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = WITNESS_MAGIC.to_vec();
        let header = self.header.to_bytes();
        out.put_u16(header.len() as u16);
        out.put(&header);
        out.put_list(&self.payments, put_payment);
        out.put_list(&self.accounts, |out, (place, account)| {
            out.put_u32(*place);
            put_account(out, account);
        });
        out.put_list(&self.siblings, |out, (level, place, digest)| {
            out.put_u8(*level);
            out.put_u32(*place);
            out.put_digest(digest);
        });
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, WITNESS_MAGIC, "block witness")?;
        let header = reader.u16()?.into();
        let header = Header::from_bytes(reader.take(header)?)?;
        let payments = reader.list(56, read_payment)?;
        let accounts = reader.list(52, |reader| Ok((reader.u32()?, read_account(reader)?)))?;
        let siblings = reader.list(37, |reader| Ok((reader.u8()?, reader.u32()?, reader.digest()?)))?;
        if siblings.iter().any(|(level, place, _)| usize::from(*level) >= DEPTH || *place >= 1 << DEPTH) {
            return Err(DecodeError::Value("a sibling lies outside the tree"));
        }
        reader.finish()?;
        Ok(Self { header, payments, accounts, siblings })
    }
}

/// An error unless header and execution agree.
pub(crate) fn same<T: PartialEq + std::fmt::Display>(
    what: &'static str,
    header: T,
    executed: T,
) -> Result<(), BadWitness> {
    if header == executed {
        return Ok(());
    }
    Err(BadWitness::Differs { what, header: header.to_string(), executed: executed.to_string() })
}

pub(crate) fn put_payment(out: &mut Vec<u8>, payment: &Payment) {
    let Transfer { from, to, amount, nonce } = payment.transfer;
    out.put_u32(from);
    out.put_u32(to);
    out.put_u64(amount);
    out.put_u64(nonce);
    out.put_digest(&payment.key);
}

pub(crate) fn read_payment(reader: &mut Reader<'_>) -> Result<Payment, DecodeError> {
    let transfer = Transfer { from: reader.u32()?, to: reader.u32()?, amount: reader.u64()?, nonce: reader.u64()? };
    Ok(Payment { transfer, key: reader.digest()? })
}

pub(crate) fn put_account(out: &mut Vec<u8>, account: &Account) {
    out.put_digest(&account.owner);
    out.put_u64(account.balance);
    out.put_u64(account.nonce);
}

pub(crate) fn read_account(reader: &mut Reader<'_>) -> Result<Account, DecodeError> {
    Ok(Account { owner: reader.digest()?, balance: reader.u64()?, nonce: reader.u64()? })
}
