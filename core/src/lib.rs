//! push0's decisions, without I/O, clock, randomness or async: the same inputs give the same outputs, in production, in the simulator
//! and under the model checker.
//!
//! - [`chain`]: what the **dispatcher** decides: the order of a chain.
//! - [`block`]: what the **collector** decides: the task graph of a block, which [`plan`] names.
//! - [`pipeline`]: the workflow a block is proven with.
//! - [`record`] and [`message`]: what is stored and sent. [`id`]: what it is named by.
//! - [`invariant`]: what must always hold. [`error_code`]: what can go wrong and be acted on.
//! - [`retention`]: what of a finalized block may be deleted.
//! - [`topology`]: the queues, tables, buckets and functions all this runs on.
//! - [`transition`]: which states meet which events, by name, for whoever counts them.

pub mod block;
pub mod chain;
pub mod error_code;
pub mod id;
pub mod invariant;
pub mod message;
pub mod pipeline;
pub mod plan;
pub mod record;
pub mod retention;
pub mod topology;
pub mod transition;

pub use error_code::ErrorCode;
pub use id::{
    Attempt, BlockHash, BlockId, ChainId, Class, Epoch, InvalidId, Millis, Node, PipelineDigest, Pool, Principal,
    ProverName, RunId, Sha256, StageName, TaskId, WorkerId,
};
