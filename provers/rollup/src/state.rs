//! The rollup's state: accounts in a Poseidon Merkle tree of depth 20, and what a transfer does to them.
//!
//! A state is *complete* (every account known, the rest of the tree empty) or *partial* (a block's witness: only the
//! accounts the block touches, with the siblings on their paths). Both execute transfers the same way; a partial one
//! refuses to read what it was not given.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use plonky2::field::types::Field;

use crate::poseidon::{Digest, Domain, F, hash_pair, hash_words, owner_of};

/// Depth of the tree: at most 2^20 accounts.
pub const DEPTH: usize = 20;

/// Balances, amounts and nonces are below 2^62; the circuits' range checks rest on it (`docs/rollup.md`, soundness).
pub const RANGE_BITS: usize = 62;

/// The first value out of range.
pub const LIMIT: u64 = 1 << RANGE_BITS;

/// One account. Balances are in gwei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The hash of the key that may spend.
    pub owner: Digest,
    pub balance: u64,
    pub nonce: u64,
}

impl Account {
    /// The account's leaf in the tree.
    pub fn leaf(&self) -> Digest {
        hash_words(Domain::Leaf, self.owner, [self.balance, self.nonce, 0, 0])
    }
}

/// A transfer as a block holds it: `from` and `to` are places in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    pub from: u32,
    pub to: u32,
    /// Gwei.
    pub amount: u64,
    /// The sender's nonce before the transfer.
    pub nonce: u64,
}

impl Transfer {
    /// Chains the transfer to the commitment of those before it.
    pub fn commit(&self, commitment: Digest) -> Digest {
        hash_words(Domain::Commitment, commitment, [u64::from(self.from), u64::from(self.to), self.amount, self.nonce])
    }
}

/// A transfer with the sender's key, which authorises it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    pub transfer: Transfer,
    pub key: Digest,
}

/// Never shows the key.
impl fmt::Debug for Payment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payment").field("transfer", &self.transfer).finish_non_exhaustive()
    }
}

/// What the circuit needs to see one transfer happen: both accounts before it touches them, and their paths.
///
/// The receiver's account and path are those *after* the sender's update, which makes a transfer to oneself right
/// without a special case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// A padding step (`false`) changes nothing and needs no key.
    pub real: bool,
    pub payment: Payment,
    pub sender: Account,
    pub sender_path: Path,
    pub receiver: Account,
    pub receiver_path: Path,
}

/// The siblings from leaf to root.
pub type Path = [Digest; DEPTH];

/// Why a transfer cannot happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("there is no account {0}")]
    NoAccount(u32),
    #[error("the key is not that of account {0}")]
    WrongKey(u32),
    #[error("account {account} is at nonce {expected}, the transfer says {given}")]
    WrongNonce { account: u32, expected: u64, given: u64 },
    #[error("account {account} has {balance} gwei and cannot send {amount}")]
    Overdraft { account: u32, balance: u64, amount: u64 },
    #[error("account {0} would hold 2^62 gwei or more")]
    Overflow(u32),
    #[error("{0} is 2^62 or more")]
    OutOfRange(&'static str),
    #[error("the witness lacks the node at level {level}, place {place}")]
    MissingNode { level: u8, place: u32 },
    #[error("the tree holds at most 2^20 accounts")]
    TooManyAccounts,
    #[error("the state has no account; a block needs at least one")]
    NoAccounts,
}

/// Accounts and their tree.
#[derive(Debug, Clone)]
pub struct State {
    accounts: BTreeMap<u32, Account>,
    /// (level, place): level 0 holds the leaves. Only ever looked up by key.
    nodes: HashMap<(u8, u32), Digest>,
    /// The root of an empty subtree of each height, in a complete state.
    empty: Option<[Digest; DEPTH + 1]>,
}

impl State {
    /// All accounts, in places 0, 1, 2, …; checks what every later range check assumes.
    pub fn complete(accounts: &[Account]) -> Result<Self, Invalid> {
        if accounts.len() > 1 << DEPTH {
            return Err(Invalid::TooManyAccounts);
        }
        let mut empty = [Digest::default(); DEPTH + 1];
        for level in 0..DEPTH {
            empty[level + 1] = hash_pair(Domain::Node, empty[level], empty[level]);
        }
        let accounts = (0..).zip(accounts.iter().copied()).collect();
        Self::build(accounts, HashMap::new(), Some(empty))
    }

    /// Some accounts, and the siblings that lead from them to the root. Whether that root is the right one is the
    /// caller's to check: every node given is either on the way to it or is never read.
    pub fn partial(
        accounts: impl IntoIterator<Item = (u32, Account)>,
        siblings: impl IntoIterator<Item = (u8, u32, Digest)>,
    ) -> Result<Self, Invalid> {
        let nodes = siblings.into_iter().map(|(level, place, digest)| ((level, place), digest)).collect();
        Self::build(accounts.into_iter().collect(), nodes, None)
    }

    fn build(
        accounts: BTreeMap<u32, Account>,
        nodes: HashMap<(u8, u32), Digest>,
        empty: Option<[Digest; DEPTH + 1]>,
    ) -> Result<Self, Invalid> {
        let mut state = Self { accounts, nodes, empty };
        for (&place, account) in &state.accounts {
            if place >= 1 << DEPTH {
                return Err(Invalid::TooManyAccounts);
            }
            if account.balance >= LIMIT || account.nonce >= LIMIT {
                return Err(Invalid::OutOfRange("a balance or nonce"));
            }
            state.nodes.insert((0, place), account.leaf());
        }
        let mut dirty: BTreeSet<u32> = state.accounts.keys().copied().collect();
        for level in 0..DEPTH as u8 {
            let parents: BTreeSet<u32> = dirty.iter().map(|place| place >> 1).collect();
            for &parent in &parents {
                let (left, right) = (state.node(level, parent << 1)?, state.node(level, parent << 1 | 1)?);
                state.nodes.insert((level + 1, parent), hash_pair(Domain::Node, left, right));
            }
            dirty = parents;
        }
        Ok(state)
    }

    /// The root of the tree.
    pub fn root(&self) -> Result<Digest, Invalid> {
        self.node(DEPTH as u8, 0)
    }

    pub fn account(&self, place: u32) -> Result<&Account, Invalid> {
        self.accounts.get(&place).ok_or(Invalid::NoAccount(place))
    }

    fn node(&self, level: u8, place: u32) -> Result<Digest, Invalid> {
        let empty = self.empty.as_ref().map(|empty| empty[usize::from(level)]);
        self.nodes.get(&(level, place)).copied().or(empty).ok_or(Invalid::MissingNode { level, place })
    }

    fn path(&self, place: u32) -> Result<Path, Invalid> {
        let mut path = [Digest::default(); DEPTH];
        for (level, sibling) in path.iter_mut().enumerate() {
            *sibling = self.node(level as u8, place >> level ^ 1)?;
        }
        Ok(path)
    }

    fn set(&mut self, place: u32, account: Account) -> Result<(), Invalid> {
        self.accounts.insert(place, account);
        let mut digest = account.leaf();
        self.nodes.insert((0, place), digest);
        for (level, sibling) in self.path(place)?.into_iter().enumerate() {
            let right = place >> level & 1 == 1;
            digest =
                if right { hash_pair(Domain::Node, sibling, digest) } else { hash_pair(Domain::Node, digest, sibling) };
            self.nodes.insert((level as u8 + 1, place >> (level + 1)), digest);
        }
        Ok(())
    }

    /// Executes one transfer; the state is unchanged if it is invalid.
    pub fn apply(&mut self, payment: &Payment) -> Result<Step, Invalid> {
        let Payment { transfer, key } = payment;
        let Transfer { from, to, amount, nonce } = *transfer;
        let sender = *self.account(from)?;
        self.account(to)?;
        if sender.owner != owner_of(*key) {
            return Err(Invalid::WrongKey(from));
        }
        if sender.nonce != nonce {
            return Err(Invalid::WrongNonce { account: from, expected: sender.nonce, given: nonce });
        }
        if amount >= LIMIT {
            return Err(Invalid::OutOfRange("the amount"));
        }
        let Some(left) = sender.balance.checked_sub(amount) else {
            return Err(Invalid::Overdraft { account: from, balance: sender.balance, amount });
        };
        let arrives = if from == to { left } else { self.account(to)?.balance };
        if arrives + amount >= LIMIT {
            return Err(Invalid::Overflow(to));
        }
        self.step(true, *payment, 1)
    }

    /// A step that changes nothing, for the places of a segment that hold no transfer.
    pub fn padding(&mut self) -> Result<Step, Invalid> {
        let (&place, account) = self.accounts.first_key_value().ok_or(Invalid::NoAccounts)?;
        let transfer = Transfer { from: place, to: place, amount: 0, nonce: account.nonce };
        self.step(false, Payment { transfer, key: Digest([F::ZERO; 4]) }, 0)
    }

    fn step(&mut self, real: bool, payment: Payment, nonces: u64) -> Result<Step, Invalid> {
        let Transfer { from, to, amount, .. } = payment.transfer;
        let sender = *self.account(from)?;
        let sender_path = self.path(from)?;
        self.path(to)?;
        self.set(from, Account { balance: sender.balance - amount, nonce: sender.nonce + nonces, ..sender })?;
        let receiver = *self.account(to)?;
        let receiver_path = self.path(to)?;
        self.set(to, Account { balance: receiver.balance + amount, ..receiver })?;
        Ok(Step { real, payment, sender, sender_path, receiver, receiver_path })
    }

    /// What a partial state of `places` needs: their accounts, and the siblings that cannot be computed from them.
    #[allow(clippy::type_complexity, reason = "the two lists of a witness, taken apart at once by its only caller")]
    pub fn excerpt(&self, places: &BTreeSet<u32>) -> Result<(Vec<(u32, Account)>, Vec<(u8, u32, Digest)>), Invalid> {
        let mut accounts = Vec::with_capacity(places.len());
        for &place in places {
            accounts.push((place, *self.account(place)?));
        }
        let mut siblings = Vec::new();
        let mut known = places.clone();
        for level in 0..DEPTH as u8 {
            for &place in &known {
                if !known.contains(&(place ^ 1)) {
                    siblings.push((level, place ^ 1, self.node(level, place ^ 1)?));
                }
            }
            known = known.iter().map(|place| place >> 1).collect();
        }
        Ok((accounts, siblings))
    }

    /// How many accounts are known.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Digest {
        Digest([F::from_canonical_u64(n); 4])
    }

    fn state(balances: &[u64]) -> State {
        let accounts: Vec<_> =
            (0..).zip(balances).map(|(n, &balance)| Account { owner: owner_of(key(n)), balance, nonce: 0 }).collect();
        State::complete(&accounts).unwrap()
    }

    fn pay(from: u32, to: u32, amount: u64, nonce: u64) -> Payment {
        Payment { transfer: Transfer { from, to, amount, nonce }, key: key(u64::from(from)) }
    }

    #[test]
    fn a_transfer_moves_the_amount_and_the_senders_nonce() {
        let mut state = state(&[10, 0, 0]);
        let before = state.root().unwrap();
        state.apply(&pay(0, 2, 10, 0)).unwrap();
        assert_ne!(state.root().unwrap(), before);
        assert_eq!((state.account(0).unwrap().balance, state.account(0).unwrap().nonce), (0, 1));
        assert_eq!((state.account(2).unwrap().balance, state.account(2).unwrap().nonce), (10, 0));
    }

    #[test]
    fn a_transfer_to_oneself_costs_a_nonce_only() {
        let mut state = state(&[10]);
        state.apply(&pay(0, 0, 7, 0)).unwrap();
        assert_eq!((state.account(0).unwrap().balance, state.account(0).unwrap().nonce), (10, 1));
    }

    #[test]
    fn invalid_transfers_are_refused_and_change_nothing() {
        let mut state = state(&[10, LIMIT - 5]);
        let root = state.root().unwrap();
        let wrong_key = Payment { key: key(9), ..pay(0, 1, 1, 0) };
        assert_eq!(state.apply(&pay(0, 1, 11, 0)), Err(Invalid::Overdraft { account: 0, balance: 10, amount: 11 }));
        assert_eq!(state.apply(&pay(0, 1, 5, 0)), Err(Invalid::Overflow(1)));
        assert_eq!(state.apply(&pay(0, 1, LIMIT, 0)), Err(Invalid::OutOfRange("the amount")));
        assert_eq!(state.apply(&pay(0, 1, 1, 1)), Err(Invalid::WrongNonce { account: 0, expected: 0, given: 1 }));
        assert_eq!(state.apply(&pay(0, 7, 1, 0)), Err(Invalid::NoAccount(7)));
        assert_eq!(state.apply(&wrong_key), Err(Invalid::WrongKey(0)));
        assert_eq!(state.root().unwrap(), root);
    }

    #[test]
    fn a_partial_state_executes_to_the_same_root() {
        let mut full = state(&[10, 20, 30, 40, 50, 60, 70]);
        let (accounts, siblings) = full.excerpt(&BTreeSet::from([1, 4, 5])).unwrap();
        let mut partial = State::partial(accounts, siblings).unwrap();
        assert_eq!(partial.root(), full.root());
        for payment in [pay(1, 4, 3, 0), pay(4, 5, 9, 0), pay(1, 1, 2, 1)] {
            assert_eq!(partial.apply(&payment).unwrap(), full.apply(&payment).unwrap());
        }
        assert_eq!(partial.root(), full.root());
        assert_eq!(partial.apply(&pay(1, 0, 1, 2)), Err(Invalid::NoAccount(0)));
        assert_eq!(partial.padding().map(|step| step.real), Ok(false));
        assert_eq!(partial.root(), full.root());
    }

    #[test]
    fn an_excerpt_without_a_sibling_is_refused() {
        let (accounts, siblings) = state(&[1, 2, 3]).excerpt(&BTreeSet::from([0])).unwrap();
        let short = siblings[1..].to_vec();
        assert_eq!(State::partial(accounts, short).unwrap_err(), Invalid::MissingNode { level: 0, place: 1 });
    }

    #[test]
    fn genesis_balances_are_range_checked() {
        let account = Account { owner: owner_of(key(0)), balance: LIMIT, nonce: 0 };
        assert_eq!(State::complete(&[account]).unwrap_err(), Invalid::OutOfRange("a balance or nonce"));
    }
}
