//! The files between stages: a segment, and the receipts made of it, each with the journal of the whole execution.

use push0_rollup::codec::{DecodeError, Reader, Write};
use risc0_zkvm::{ReceiptClaim, Segment, SegmentReceipt, SuccinctReceipt};

use crate::guest::Journal;

const MAGIC: &[u8; 8] = b"p0rzfil1";

/// What of an execution a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// A piece of the execution's trace, to be proven.
    Segment = 1,
    /// A proof of one segment.
    SegmentReceipt = 2,
    /// A recursive proof: of a lifted segment receipt, or of two neighbours joined.
    SuccinctReceipt = 3,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::SegmentReceipt => "segment receipt",
            Self::SuccinctReceipt => "lifted or joined receipt",
        }
    }
}

/// What a file of some shape holds.
pub trait Payload: serde::Serialize + serde::de::DeserializeOwned {
    const SHAPE: Shape;
}

impl Payload for Segment {
    const SHAPE: Shape = Shape::Segment;
}

impl Payload for SegmentReceipt {
    const SHAPE: Shape = Shape::SegmentReceipt;
}

impl Payload for SuccinctReceipt<ReceiptClaim> {
    const SHAPE: Shape = Shape::SuccinctReceipt;
}

/// A file: magic `p0rzfil1` (8), shape (1), journal (77), then RISC Zero's own type in bincode.
///
/// Only the last segment's proof says anything about the journal; the others carry it along, so that it is there when the root is verified.
#[derive(Clone)]
pub struct Artifact<P> {
    pub journal: Vec<u8>,
    pub payload: P,
}

/// Why bytes are no such file.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("a {wanted} is asked for")]
    Shape { wanted: &'static str },
    #[error("its {0} does not decode: {1}")]
    Payload(&'static str, bincode::Error),
}

impl<P: Payload> Artifact<P> {
    pub fn to_bytes(&self) -> Result<Vec<u8>, bincode::Error> {
        let mut out = MAGIC.to_vec();
        out.put_u8(P::SHAPE as u8);
        out.put(&self.journal);
        bincode::serialize_into(&mut out, &self.payload)?;
        Ok(out)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader::new(bytes, MAGIC, "file of the RISC Zero prover")?;
        if reader.u8()? != P::SHAPE as u8 {
            return Err(Unreadable::Shape { wanted: P::SHAPE.name() });
        }
        let journal = reader.take(Journal::BYTES)?.to_vec();
        let rest = reader.rest();
        // Lengths inside are believed only as far as there are bytes: a damaged one must not reserve memory for its claim.
        let payload = bincode::Options::deserialize(
            bincode::Options::with_limit(
                bincode::Options::with_fixint_encoding(bincode::DefaultOptions::new()),
                rest.len() as u64,
            ),
            rest,
        )
        .map_err(|error| Unreadable::Payload(P::SHAPE.name(), error))?;
        Ok(Self { journal, payload })
    }
}
