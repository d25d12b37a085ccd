//! push0 as an operator runs it: real processes on a real directory, killed and frozen; judged from the finalized queue and the artifacts
//! alone, by code that shares nothing with push0's decisions.

#[cfg(feature = "aws")]
pub mod cloud;
pub mod fork;
pub mod hosts;
pub mod installation;
pub mod judge;

#[cfg(feature = "aws")]
pub use cloud::Cloud;
pub use hosts::{Host, Network};
pub use installation::{Installation, Options};
pub use judge::Judge;
