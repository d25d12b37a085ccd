//! What a proof says: from this root and commitment to that root and commitment, over so many transfers.

use plonky2::field::types::{Field, PrimeField64};
use sha2::{Digest as _, Sha256};

use crate::block::Header;
use crate::codec::{DecodeError, Reader, Write};
use crate::poseidon::{Digest, F};

/// How many public inputs a statement takes; in a lift or join the join's verifying key follows.
pub const STATEMENT_LEN: usize = 17;

/// The public inputs of every proof, in this order: root before (4), commitment before (4), root after (4),
/// commitment after (4), count (1). A block's commitment is over its transfers, a range's over its blocks (`range`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub root_before: Digest,
    pub commitment_before: Digest,
    pub root_after: Digest,
    pub commitment_after: Digest,
    pub count: u64,
}

impl Statement {
    /// What a proof of the block with this header must say.
    pub fn of_block(header: &Header) -> Self {
        Self {
            root_before: header.state_before,
            commitment_before: header.start(),
            root_after: header.state_after,
            commitment_after: header.commitment,
            count: u64::from(header.count),
        }
    }

    /// The first [`STATEMENT_LEN`] public inputs; `None` if there are fewer.
    pub fn from_public_inputs(inputs: &[F]) -> Option<Self> {
        let inputs = inputs.get(..STATEMENT_LEN)?;
        let digest = |at: usize| Digest([inputs[at], inputs[at + 1], inputs[at + 2], inputs[at + 3]]);
        Some(Self {
            root_before: digest(0),
            commitment_before: digest(4),
            root_after: digest(8),
            commitment_after: digest(12),
            count: inputs[16].to_canonical_u64(),
        })
    }

    pub fn to_public_inputs(&self) -> Vec<F> {
        let digests = [self.root_before, self.commitment_before, self.root_after, self.commitment_after];
        digests.into_iter().flat_map(|digest| digest.0).chain([F::from_noncanonical_u64(self.count)]).collect()
    }

    /// Whether this runs from the beginning of `first` to the end of `last`. The commitments bind every transfer in between.
    pub fn runs(&self, first: &Self, last: &Self) -> bool {
        self.root_before == first.root_before
            && self.commitment_before == first.commitment_before
            && self.root_after == last.root_after
            && self.commitment_after == last.commitment_after
    }

    /// Whether `next` begins where this ends.
    pub fn meets(&self, next: &Self) -> bool {
        self.root_after == next.root_before && self.commitment_after == next.commitment_before
    }

    /// What two adjacent statements say together.
    pub fn join(&self, next: &Self) -> Self {
        Self {
            root_before: self.root_before,
            commitment_before: self.commitment_before,
            root_after: next.root_after,
            commitment_after: next.commitment_after,
            count: self.count + next.count,
        }
    }

    /// The first part in which two statements differ, for messages.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        [
            (self.root_before != other.root_before, "the state root before"),
            (self.commitment_before != other.commitment_before, "the commitment before (chain, number, parent)"),
            (self.root_after != other.root_after, "the state root after"),
            (self.commitment_after != other.commitment_after, "the commitment after (transfers, or a range's blocks)"),
            (self.count != other.count, "the count of transfers"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }

    /// SHA-256 of what is stated, in hex: the same whatever circuits it was proven with.
    pub fn outputs(&self) -> String {
        let mut bytes = b"push0-rollup-statement-1\n".to_vec();
        self.put(&mut bytes);
        hex::encode(Sha256::digest(&bytes))
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        for digest in [self.root_before, self.commitment_before, self.root_after, self.commitment_after] {
            out.put_digest(&digest);
        }
        out.put_u64(self.count);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            root_before: reader.digest()?,
            commitment_before: reader.digest()?,
            root_after: reader.digest()?,
            commitment_after: reader.digest()?,
            count: reader.u64()?,
        })
    }
}
