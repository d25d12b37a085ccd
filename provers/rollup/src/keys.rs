//! The verifying keys, pinned: files in `keys/`, compiled in, with a SHA-256 each.
//!
//! Verifying needs only these and takes milliseconds. Proving builds a circuit and compares its key with the pinned
//! one, so a prover that was built from other sources cannot produce anything. `push0-rollup keys --write DIR` makes
//! the files again after a change of the circuits; a test compares them.

use plonky2::util::serialization::DefaultGateSerializer;
use sha2::{Digest as _, Sha256};

use crate::circuit::{JoinCircuit, Key, LeafCircuit, LiftCircuit, RangeLiftCircuit, shape};
use crate::segment::SIZES;

/// What a proof is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Shape {
    Leaf = 1,
    Lift = 2,
    Join = 3,
    /// A block's proof, in the shape that range joins take.
    RangeLift = 4,
    RangeJoin = 5,
}

impl Shape {
    pub const ALL: [Self; 5] = [Self::Leaf, Self::Lift, Self::Join, Self::RangeLift, Self::RangeJoin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Lift => "lift",
            Self::Join => "join",
            Self::RangeLift => "range-lift",
            Self::RangeJoin => "range-join",
        }
    }

    /// The join whose key a proof of this shape carries in its public inputs.
    pub fn carries(self) -> Option<Self> {
        match self {
            Self::Leaf => None,
            Self::Lift | Self::Join => Some(Self::Join),
            Self::RangeLift | Self::RangeJoin => Some(Self::RangeJoin),
        }
    }
}

/// A circuit's name, as `hello` and the key files have it: `leaf-k8`.
pub fn name(shape: Shape, size: u16) -> String {
    format!("{}-k{size}", shape.name())
}

macro_rules! pinned {
    ($($size:literal),*) => {
        /// The bytes of the pinned key of a circuit, if there is one of this size.
        pub fn bytes(shape: Shape, size: u16) -> Option<&'static [u8]> {
            match (shape, size) {
                $(
                    (Shape::Leaf, $size) => Some(include_bytes!(concat!("../keys/leaf-k", $size, ".key"))),
                    (Shape::Lift, $size) => Some(include_bytes!(concat!("../keys/lift-k", $size, ".key"))),
                    (Shape::Join, $size) => Some(include_bytes!(concat!("../keys/join-k", $size, ".key"))),
                    (Shape::RangeLift, $size) => Some(include_bytes!(concat!("../keys/range-lift-k", $size, ".key"))),
                    (Shape::RangeJoin, $size) => Some(include_bytes!(concat!("../keys/range-join-k", $size, ".key"))),
                )*
                _ => None,
            }
        }
    };
}

pinned!(8, 16, 32);

/// The pinned verifying key of a circuit.
///
/// # Panics
/// If the crate was built with key files that are none; `size` must be one of [`SIZES`].
pub fn pinned(shape: Shape, size: u16) -> Key {
    let bytes = bytes(shape, size).expect("callers check the size");
    Key::from_bytes(bytes.to_vec(), &DefaultGateSerializer).unwrap_or_else(|_| {
        panic!("keys/{}.key is no verifying key: run `push0-rollup keys --write`", name(shape, size))
    })
}

/// A key's file: plonky2's `VerifierCircuitData::to_bytes` with the default gates.
pub fn to_bytes(key: &Key) -> Vec<u8> {
    key.to_bytes(&DefaultGateSerializer).expect("the circuits use default gates only")
}

/// Every circuit's name and the SHA-256 of its pinned key, in hexadecimal.
pub fn digests() -> Vec<(String, String)> {
    let circuits = SIZES.into_iter().flat_map(|size| Shape::ALL.map(|shape| (shape, size)));
    circuits
        .filter_map(|(shape, size)| Some((name(shape, size), hex::encode(Sha256::digest(bytes(shape, size)?)))))
        .collect()
}

/// Panics unless a circuit just built has the pinned key.
pub fn check(shape: Shape, size: u16, built: &Key) {
    assert!(
        Some(&to_bytes(built)[..]) == bytes(shape, size),
        "the {} circuit differs from its pinned key: this binary was built from changed sources; \
         run `push0-rollup keys --write` and pin the pipeline's programs again",
        name(shape, size)
    );
}

/// Builds all circuits of a size from nothing, without any pinned key.
pub fn generate(size: u16) -> [(Shape, Key); 5] {
    let leaf = LeafCircuit::build(size).data.verifier_data();
    let lift = LiftCircuit::build(&leaf, &shape()).data.verifier_data();
    let join = JoinCircuit::build(&lift).data.verifier_data();
    let range_lift = RangeLiftCircuit::build(&lift, &join).data.verifier_data();
    let range_join = JoinCircuit::build(&range_lift).data.verifier_data();
    [
        (Shape::Leaf, leaf),
        (Shape::Lift, lift),
        (Shape::Join, join),
        (Shape::RangeLift, range_lift),
        (Shape::RangeJoin, range_join),
    ]
}
