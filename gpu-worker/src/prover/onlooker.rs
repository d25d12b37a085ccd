//! For those who judge provers: everything that is seen of their processes, as it happens.

use std::process::ExitStatus;

use push0_prover::wire::FromProver;
use serde_json::{Map, Value};

/// What was seen.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A process was started, with this number.
    Started(u32),
    /// A session is given the task of this identity.
    Told(&'a str),
    /// A session said this.
    Said(&'a FromProver),
    /// A session said what is not a message of the protocol.
    Garbage(&'a str),
    /// A process wrote this line to its stderr.
    Logged(&'a str),
    /// A process ended, or (`None`) had to be killed because it did not end by itself.
    Ended(u32, Option<ExitStatus>),
}

/// Looks on while provers run. Called from the tasks that drive them: it must not block.
pub trait Onlooker: Send + Sync {
    fn sees(&self, seen: Seen<'_>);

    /// Fields that every task is told with beside those of the protocol, as a later version may have them.
    fn further_fields(&self) -> Map<String, Value> {
        Map::new()
    }
}
