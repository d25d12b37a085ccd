//! What `push0-rollup` does for people: making chains and blocks, and looking at files.

pub mod chain;
pub mod csv_blocks;
pub mod ethereum;
pub mod inspect;
pub mod random;
