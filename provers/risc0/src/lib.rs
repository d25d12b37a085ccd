//! A prover for push0 that checks payments blocks (`docs/rollup.md`) in RISC Zero's zkVM: `docs/risc0.md`.

pub mod guest;
pub mod prover;

#[cfg(test)]
mod tests;
