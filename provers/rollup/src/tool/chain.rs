//! A chain being made: its genesis, its accounts by name, and the files of its blocks.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use plonky2::field::types::Field;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::block::{BlockHash, CHAIN_NAME_RULE, Witness, genesis_hash, is_chain_name};
use crate::poseidon::{Digest, F, owner_of};
use crate::state::{Account, DEPTH, Payment, State, Transfer};

/// The key of an account made by this tool: derived from its name, so anybody can compute it.
pub fn derive_key(name: &str) -> Digest {
    let mut sha = Sha256::new();
    sha.update(b"push0-rollup/key/1");
    sha.update(name.as_bytes());
    let hash: [u8; 32] = sha.finalize().into();
    let word = |at: usize| {
        let bytes: [u8; 8] = hash[at * 8..at * 8 + 8].try_into().expect("eight of 32 bytes");
        // 63 bits: below the field's order, so that no two words are the same element.
        F::from_canonical_u64(u64::from_be_bytes(bytes) >> 1)
    };
    Digest([word(0), word(1), word(2), word(3)])
}

/// `genesis.json`: where a chain starts. Accounts are in the order of their places in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    pub chain: String,
    pub first_number: u64,
    /// The parent hash of the first block; binds the three fields that say what the chain starts from.
    pub hash: String,
    pub state_root: String,
    pub accounts: Vec<GenesisAccount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisAccount {
    /// The account's key is derived from it.
    pub name: String,
    /// Gwei.
    pub balance: u64,
}

/// The file the orchestrator's `submit` takes: `{number}.json`. The witness path is relative to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    pub chain: String,
    pub number: u64,
    pub hash: String,
    pub parent_hash: String,
    pub witness: String,
}

/// A transfer to be made: from, to (places in the tree), gwei. Nonces are the chain's own.
pub type Move = (u32, u32, u64);

/// A chain at its tip.
pub struct Chain {
    name: String,
    genesis: Genesis,
    next_number: u64,
    parent: BlockHash,
    state: State,
    places: HashMap<String, u32>,
    keys: Vec<Digest>,
}

impl Chain {
    /// Starts a chain.
    pub fn start(name: &str, first_number: u64, accounts: Vec<GenesisAccount>) -> Result<Self> {
        ensure!(is_chain_name(name), "{name:?} cannot name a chain: {CHAIN_NAME_RULE}");
        ensure!(!accounts.is_empty(), "a genesis needs at least one account");
        let limit = 1 << DEPTH;
        ensure!(accounts.len() <= limit, "{} accounts; the tree holds at most {limit}", accounts.len());
        let mut places = HashMap::with_capacity(accounts.len());
        let mut keys = Vec::with_capacity(accounts.len());
        let mut leaves = Vec::with_capacity(accounts.len());
        for (place, account) in (0..).zip(&accounts) {
            let key = derive_key(&account.name);
            leaves.push(Account { owner: owner_of(key), balance: account.balance, nonce: 0 });
            keys.push(key);
            ensure!(places.insert(account.name.clone(), place).is_none(), "account {} is there twice", account.name);
        }
        let state = State::complete(&leaves).context("the genesis")?;
        let root = state.root()?;
        let parent = genesis_hash(name, first_number, root);
        let (hash, state_root) = (hex::encode(parent), root.to_hex());
        let genesis = Genesis { chain: name.to_owned(), first_number, hash, state_root, accounts };
        Ok(Self { name: name.to_owned(), genesis, next_number: first_number, parent, state, places, keys })
    }

    /// Starts the chain that a genesis file describes, and checks that file.
    pub fn from_genesis(genesis: Genesis) -> Result<Self> {
        let chain = Self::start(&genesis.chain, genesis.first_number, genesis.accounts.clone())?;
        ensure!(chain.genesis == genesis, "the genesis file's hash or state root is not that of its accounts");
        Ok(chain)
    }

    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The place of an account.
    pub fn place(&self, name: &str) -> Result<u32> {
        self.places.get(name).copied().with_context(|| format!("the genesis has no account {name}"))
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// Makes the next block.
    pub fn block(&mut self, transfers: &[Move]) -> Result<Witness> {
        let mut sent: HashMap<u32, u64> = HashMap::new();
        let mut payments = Vec::with_capacity(transfers.len());
        for (at, &(from, to, amount)) in transfers.iter().enumerate() {
            let account = self.state.account(from).with_context(|| format!("transfer {at}"))?;
            let earlier = sent.entry(from).or_default();
            let transfer = Transfer { from, to, amount, nonce: account.nonce + *earlier };
            *earlier += 1;
            payments.push(Payment { transfer, key: self.keys[from as usize] });
        }
        let number = self.next_number;
        let witness = Witness::make(&self.name, number, self.parent, &mut self.state, payments)
            .with_context(|| format!("block {number}"))?;
        self.parent = witness.header.hash();
        self.next_number += 1;
        Ok(witness)
    }
}

/// Writes `genesis.json`.
pub fn write_genesis(dir: &Path, genesis: &Genesis) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    write(&dir.join("genesis.json"), &json(genesis)?)
}

/// Writes `{number}.witness` and `{number}.json`.
pub fn write_block(dir: &Path, witness: &Witness) -> Result<Submission> {
    let header = &witness.header;
    let submission = Submission {
        chain: header.chain.clone(),
        number: header.number,
        hash: hex::encode(header.hash()),
        parent_hash: hex::encode(header.parent_hash),
        witness: format!("{}.witness", header.number),
    };
    write(&dir.join(&submission.witness), &witness.to_bytes())?;
    write(&dir.join(format!("{}.json", header.number)), &json(&submission)?)?;
    Ok(submission)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
