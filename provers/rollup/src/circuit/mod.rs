//! The circuits: leaf, lift and join; for ranges of blocks a lift of their own.

pub mod leaf;
pub mod range;
pub mod recursion;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow};
use plonky2::iop::witness::PartialWitness;
use plonky2::plonk::circuit_data::CircuitData;

pub use leaf::LeafCircuit;
pub use range::RangeLiftCircuit;
pub use recursion::{JoinCircuit, Key, LiftCircuit, Proof, shape};

use crate::poseidon::{C, D, F};

/// Proves; an error means that the witness does not satisfy the circuit. plonky2 says that partly by panicking (an
/// out-of-range value), which is no reason to lose the session's circuits.
fn prove(data: &CircuitData<F, C, D>, witness: PartialWitness<F>) -> Result<Proof> {
    catch_unwind(AssertUnwindSafe(|| data.prove(witness)))
        .unwrap_or_else(|_| Err(anyhow!("a value is out of range for the circuit")))
}
