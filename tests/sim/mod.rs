//! The simulator: the real drive loops, functions, function host and worker logic over the in-memory engine, in one thread, on a
//! virtual clock, from one seed.
//!
//! - [`executor`]: polls the actors in an order drawn from the seed; moves the clock when nobody can go on.
//! - [`faulty`]: stands between the actors and the engine: delays, failures, lost responses, duplicates, and the yields between which an
//!   actor can be killed.
//! - [`prover`]: a scripted prover whose proofs say what they cover.
//! - [`scenario`]: what a run is to be like. `reorg`: forks and dropped ranges.
//! - [`world`]: the actors. `copies`: copies of tasks, and what must hold of them. `stopped`: which runs may go on. [`death`]: what a single worker's death costs. [`poison`]: tasks that end their workers or run out of memory. [`liar`]: a worker that lies, in every field and every call. [`auditor`]: what must hold, checked from the finalized stream and the artifacts alone.
//!
//! The same seed gives the same trace, byte for byte.

pub mod auditor;
mod chains;
mod copies;
pub mod death;
pub mod executor;
pub mod faults;
pub mod faulty;
pub mod fixed;
mod functions;
mod intruder;
pub mod liar;
mod operator;
pub mod poison;
pub mod prover;
mod provers;
mod reorg;
mod rules;
pub mod scenario;
mod skew;
mod spot;
mod stopped;
mod submitter;
pub mod workers;
pub mod world;

pub use faulty::Faults;
pub use scenario::{Bug, Healers, Report, Scenario};
pub use world::run;
