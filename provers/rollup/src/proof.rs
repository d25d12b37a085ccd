//! Proof files, and the only way from bytes to a proof that may be believed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use plonky2::recursion::cyclic_recursion::check_cyclic_proof_verifier_data;

use crate::block::Header;
use crate::circuit::{Key, Proof};
use crate::codec::{DecodeError, Reader, Write};
use crate::keys::{self, Shape};
use crate::range::Range;
use crate::segment::SIZES;
use crate::statement::Statement;

const MAGIC: &[u8; 8] = b"p0rprov1";

/// A proof file: magic `p0rprov1` (8), shape (1: 1 leaf, 2 lift, 3 join, 4 range lift, 5 range join), transfers a segment (2),
/// then plonky2's `ProofWithPublicInputs::to_bytes`. Shape and size only say which pinned key to try: they prove nothing.
#[derive(Debug, Clone)]
pub struct ProofFile {
    pub shape: Shape,
    pub size: u16,
    pub proof: Proof,
}

/// Why a file holds no proof to believe.
#[derive(Debug, thiserror::Error)]
pub enum BadProof {
    #[error("not a proof file: {0}")]
    Decode(#[from] DecodeError),
    #[error("the {0} proof does not verify: {1}")]
    Verify(&'static str, String),
    #[error("a block's proof is a lift (of one segment) or a join, not a {0}")]
    NotARoot(&'static str),
    #[error("a range's proof is a range-lift (of one block) or a range-join, not a {0}")]
    NotARange(&'static str),
    #[error("the proof says otherwise than the header: {0}")]
    Differs(&'static str),
}

/// A proof that has been checked against its pinned key, with what it says. Only [`Verifier`] makes one.
#[derive(Debug, Clone)]
pub struct VerifiedProof {
    file: ProofFile,
    statement: Statement,
}

impl VerifiedProof {
    pub fn file(&self) -> &ProofFile {
        &self.file
    }

    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    fn says(self, wanted: &Statement) -> Result<Self, BadProof> {
        match self.statement.difference(wanted) {
            None => Ok(self),
            Some(what) => Err(BadProof::Differs(what)),
        }
    }
}

impl ProofFile {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u8(self.shape as u8);
        out.put_u16(self.size);
        out.put(&self.proof.to_bytes());
        out
    }
}

/// Checks proofs against the pinned keys, which it decodes once (well below a millisecond each).
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<((Shape, u16), Key)>,
}

impl Default for Verifier {
    fn default() -> Self {
        let circuits = SIZES.into_iter().flat_map(|size| Shape::ALL.map(|shape| (shape, size)));
        Self { keys: circuits.map(|(shape, size)| ((shape, size), keys::pinned(shape, size))).collect() }
    }
}

impl Verifier {
    /// The pinned key of a circuit; `None` for a size there is none of.
    pub fn key(&self, shape: Shape, size: u16) -> Option<&Key> {
        self.keys.iter().find_map(|(circuit, key)| (*circuit == (shape, size)).then_some(key))
    }

    /// Reads a proof file and verifies what is in it.
    ///
    /// A lift is verified with the lift's key, a join with the join's and the check that the key it carries is that
    /// very key: without it a circuit without constraints could be joined in (`docs/rollup.md`, soundness). A lift
    /// must carry the join's key too, or it could not be joined.
    pub fn verify(&self, bytes: &[u8]) -> Result<VerifiedProof, BadProof> {
        // The file comes from somebody else; should plonky2 panic over it, then it is no proof.
        catch_unwind(AssertUnwindSafe(|| self.verify_inner(bytes)))
            .unwrap_or(Err(BadProof::Decode(DecodeError::Value("the proof is malformed"))))
    }

    fn verify_inner(&self, bytes: &[u8]) -> Result<VerifiedProof, BadProof> {
        let file = self.decode(bytes)?;
        let (shape, size) = (file.shape, file.size);
        let missing = || BadProof::Decode(DecodeError::Value("there are no circuits for this segment size"));
        let key = self.key(shape, size).ok_or_else(missing)?;
        key.verify(file.proof.clone()).map_err(|error| BadProof::Verify(shape.name(), error.to_string()))?;
        if let Some(join) = shape.carries() {
            let join = self.key(join, size).ok_or_else(missing)?;
            check_cyclic_proof_verifier_data(&file.proof, &join.verifier_only, &join.common)
                .map_err(|_| BadProof::Verify(shape.name(), "the key it carries is not the join's".to_owned()))?;
        }
        let statement = Statement::from_public_inputs(&file.proof.public_inputs)
            .ok_or(BadProof::Decode(DecodeError::Value("the proof has too few public inputs")))?;
        Ok(VerifiedProof { file, statement })
    }

    fn decode(&self, bytes: &[u8]) -> Result<ProofFile, DecodeError> {
        let mut reader = Reader::new(bytes, MAGIC, "proof file")?;
        let shape = reader.u8()?;
        let shape = Shape::ALL.into_iter().find(|known| *known as u8 == shape);
        let shape = shape.ok_or(DecodeError::Value("the proof is of no known shape"))?;
        let size = reader.u16()?;
        let key = self.key(shape, size).ok_or(DecodeError::Value("there are no circuits for this segment size"))?;
        let rest = reader.rest();
        let proof = Proof::from_bytes(rest.to_vec(), &key.common)
            .map_err(|_| DecodeError::Value("the proof's bytes cannot be read"))?;
        if proof.to_bytes() != rest {
            return Err(DecodeError::Value("the proof's bytes are not canonical"));
        }
        Ok(ProofFile { shape, size, proof })
    }

    /// Checks that a file proves the block with this header: every public input is compared with the header's.
    pub fn verify_block(&self, bytes: &[u8], header: &Header) -> Result<VerifiedProof, BadProof> {
        let proof = self.verify(bytes)?;
        match proof.file.shape {
            Shape::Lift | Shape::Join => proof.says(&Statement::of_block(header)),
            other => Err(BadProof::NotARoot(other.name())),
        }
    }

    /// Checks that a file proves exactly the blocks of this range, in this order.
    pub fn verify_range(&self, bytes: &[u8], range: &Range) -> Result<VerifiedProof, BadProof> {
        let proof = self.verify(bytes)?;
        match proof.file.shape {
            Shape::RangeLift | Shape::RangeJoin => proof.says(&range.statement()),
            other => Err(BadProof::NotARange(other.name())),
        }
    }
}
