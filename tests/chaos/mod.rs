//! push0 as an operator runs it: real processes on a real directory or an emulator, killed, frozen and cut off; judged from the finalized
//! stream and the artifacts alone, by code that shares nothing with push0's decisions. [`storm`] does all of it for as long as one likes.

pub mod audit;
#[cfg(feature = "aws")]
pub mod cloud;
pub mod faults;
pub mod fork;
pub mod ground;
pub mod hosts;
pub mod installation;
pub mod judge;
pub mod link;
pub mod small_disk;
pub mod storm;

#[cfg(feature = "aws")]
pub use cloud::Cloud;
pub use hosts::{Host, Network};
pub use installation::{Installation, Options};
pub use judge::Judge;
pub use small_disk::SmallDisk;
