//! A payments rollup proven with recursion: push0's reference prover (`docs/rollup.md`).
//!
//! A demonstration, not a wallet: about 100 bits of conjectured security, no zero-knowledge, unaudited, and the
//! prover sees the senders' keys.

pub mod block;
pub mod circuit;
pub mod codec;
pub mod keys;
pub mod poseidon;
pub mod proof;
pub mod prover;
pub mod range;
pub mod segment;
pub mod state;
pub mod statement;
pub mod tool;

#[cfg(test)]
mod tests;
