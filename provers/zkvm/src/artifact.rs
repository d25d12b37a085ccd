//! The files between stages: a segment, and the receipts made of it, each with the journal of the whole execution.

use push0_rollup::codec::{DecodeError, Reader, Write};

use crate::Payload;
use crate::guest::Journal;

const MAGIC: &[u8; 8] = b"p0rzfil1";

/// What of an execution a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    Segment = 1,
    SegmentReceipt = 2,
    /// Lifted or joined.
    Receipt = 3,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::SegmentReceipt => "segment receipt",
            Self::Receipt => "lifted or joined receipt",
        }
    }
}

/// A file: magic `p0rzfil1` (8), shape (1), journal (77), then the zkVM's own encoding.
///
/// Only the last segment's proof says anything about the journal; the others carry it along, so that it is there when the root is verified.
#[derive(Debug, Clone)]
pub struct Artifact<P> {
    pub shape: Shape,
    pub journal: Vec<u8>,
    pub payload: P,
}

/// Why bytes are no such file.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("a {} is asked for", wanted.name())]
    Shape { wanted: Shape },
    #[error("its {} does not decode: {message}", shape.name())]
    Payload { shape: Shape, message: String },
}

impl<P: Payload> Artifact<P> {
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut out = MAGIC.to_vec();
        out.put_u8(self.shape as u8);
        out.put(&self.journal);
        out.put(&self.payload.encode()?);
        Ok(out)
    }

    pub fn from_bytes(bytes: &[u8], wanted: Shape) -> Result<Self, Unreadable> {
        let mut reader = Reader::new(bytes, MAGIC, "file of a zkVM's prover")?;
        if reader.u8()? != wanted as u8 {
            return Err(Unreadable::Shape { wanted });
        }
        let journal = reader.take(Journal::BYTES)?.to_vec();
        let payload = P::decode(reader.rest()).map_err(|message| Unreadable::Payload { shape: wanted, message })?;
        Ok(Self { shape: wanted, journal, payload })
    }
}
