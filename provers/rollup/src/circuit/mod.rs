//! The circuits: leaf, lift and join.

pub mod leaf;
pub mod recursion;

pub use leaf::LeafCircuit;
pub use recursion::{JoinCircuit, Key, LiftCircuit, Proof, shape};
