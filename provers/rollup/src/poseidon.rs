//! The rollup's hash: one Poseidon permutation over eight field elements, with a domain tag in the capacity.
//!
//! Every use has its own tag (in the first capacity word, which costs no gate), so that a leaf can never be taken
//! for an inner node or a commitment although all of them hash eight words. Native and in-circuit versions stand
//! side by side here and nowhere else.

use std::fmt;

use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::field::types::{Field, Field64, PrimeField64};
use plonky2::hash::hashing::PlonkyPermutation;
use plonky2::hash::poseidon::{PoseidonHash, PoseidonPermutation};
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::plonk::circuit_builder::CircuitBuilder;
use plonky2::plonk::config::{AlgebraicHasher, PoseidonGoldilocksConfig};
use sha2::{Digest as _, Sha256};

/// The field: 2^64 − 2^32 + 1.
pub type F = GoldilocksField;
/// Degree of the extension field.
pub const D: usize = 2;
/// The proof system's configuration.
pub type C = PoseidonGoldilocksConfig;
pub(crate) type Builder = CircuitBuilder<F, D>;

/// What a permutation is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// `owner = H(key)`.
    Owner = 1,
    /// `leaf = H(owner, balance, nonce)`.
    Leaf = 2,
    /// `node = H(left, right)`.
    Node = 3,
    /// `commitment' = H(commitment, from, to, amount, nonce)`.
    Commitment = 4,
    /// The commitment a block starts from.
    Start = 5,
    /// A block within a range: `H(H(H(commitments), H(roots)), count)`, all in this domain.
    Block = 6,
    /// `range' = H(range, block)`.
    Range = 7,
}

/// Four field elements: a hash, a root, an owner or a key.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub [F; 4]);

impl Digest {
    /// 64 hexadecimal digits, each element big-endian.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|element| format!("{:016x}", element.to_canonical_u64())).collect()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// One permutation of `input` in its domain.
pub fn hash(domain: Domain, input: [F; 8]) -> Digest {
    let tag = F::from_canonical_u64(domain as u64);
    let mut state = PoseidonPermutation::new(input.into_iter().chain([tag]));
    state.permute();
    let out = state.squeeze();
    Digest([out[0], out[1], out[2], out[3]])
}

/// Hashes two digests.
pub fn hash_pair(domain: Domain, left: Digest, right: Digest) -> Digest {
    let ([a, b, c, d], [e, f, g, h]) = (left.0, right.0);
    hash(domain, [a, b, c, d, e, f, g, h])
}

/// Hashes a digest and up to four words.
pub fn hash_words(domain: Domain, head: Digest, words: [u64; 4]) -> Digest {
    hash_pair(domain, head, Digest(words.map(F::from_noncanonical_u64)))
}

/// The owner of an account whose key is `key`.
pub fn owner_of(key: Digest) -> Digest {
    hash_pair(Domain::Owner, key, Digest::default())
}

/// The commitment a block's first transfer is chained to.
///
/// It binds chain, number and parent: a proof's `commitment_before` fits one block only. SHA-256 first (the chain's
/// name has any length), then one permutation of its eight 32-bit words.
pub fn start_commitment(chain: &str, number: u64, parent_hash: &[u8; 32]) -> Digest {
    let mut sha = Sha256::new();
    sha.update(b"push0-rollup/start/1");
    sha.update([chain.len() as u8]);
    sha.update(chain.as_bytes());
    sha.update(number.to_be_bytes());
    sha.update(parent_hash);
    let digest: [u8; 32] = sha.finalize().into();
    let mut words = [F::ZERO; 8];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(4)) {
        *word = F::from_canonical_u32(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    }
    hash(Domain::Start, words)
}

/// Four targets: a [`Digest`] in a circuit.
pub(crate) type DigestTarget = [Target; 4];

/// The circuit's [`hash_pair`]: one row. With `swap` the halves change places first.
pub(crate) fn hash_circuit(
    builder: &mut Builder,
    domain: Domain,
    left: DigestTarget,
    right: DigestTarget,
    swap: BoolTarget,
) -> DigestTarget {
    let zero = builder.zero();
    let tag = builder.constant(F::from_canonical_u64(domain as u64));
    let state = left.into_iter().chain(right).chain([tag, zero, zero, zero]);
    let state = <PoseidonHash as AlgebraicHasher<F>>::AlgebraicPermutation::new(state);
    let out = <PoseidonHash as AlgebraicHasher<F>>::permute_swapped(state, swap, builder);
    let out = out.squeeze();
    [out[0], out[1], out[2], out[3]]
}

// The 62-bit range checks are sound for this order (`state::RANGE_BITS`).
const _: () = assert!(<F as Field64>::ORDER == 0xffff_ffff_0000_0001);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_differ_in_every_domain() {
        let words = Digest([F::ONE, F::TWO, F::ZERO, F::ONE]);
        let domains = [
            Domain::Owner,
            Domain::Leaf,
            Domain::Node,
            Domain::Commitment,
            Domain::Start,
            Domain::Block,
            Domain::Range,
        ];
        let hashes: Vec<_> = domains.iter().map(|domain| hash_pair(*domain, words, words)).collect();
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..at].contains(hash));
        }
    }

    #[test]
    fn the_start_depends_on_chain_number_and_parent() {
        let start = start_commitment("a", 1, &[0; 32]);
        assert_ne!(start, start_commitment("b", 1, &[0; 32]));
        assert_ne!(start, start_commitment("a", 2, &[0; 32]));
        assert_ne!(start, start_commitment("a", 1, &[1; 32]));
    }
}
