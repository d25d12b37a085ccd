//! What the stages of a zkVM's prover read; the zkVM's own encoding is its own business.

use push0_zkvm::guest::Journal;
use push0_zkvm::{Artifact, Payload, Shape};

use super::Target;

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("zkvm_artifact", artifact),
        Target::new("zkvm_journal", |input| Journal::from_bytes(input).is_ok()),
    ]
}

/// Whatever there is.
struct Bytes(Vec<u8>);

impl Payload for Bytes {
    fn encode(&self) -> Result<Vec<u8>, String> {
        Ok(self.0.clone())
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Ok(Self(bytes.to_owned()))
    }
}

fn artifact(input: &[u8]) -> bool {
    let shapes = [Shape::Segment, Shape::SegmentReceipt, Shape::Receipt];
    let read = shapes.map(|shape| Artifact::<Bytes>::from_bytes(input, shape).ok());
    let mut taken = read.into_iter().flatten();
    let Some(artifact) = taken.next() else { return false };
    assert!(taken.next().is_none(), "of two shapes");
    assert!(artifact.to_bytes().is_ok_and(|bytes| bytes == input), "another encoding of the same");
    true
}
