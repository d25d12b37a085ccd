//! Identifiers: parsed and validated once, at the edge; inside, a value of these types is right by construction.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

/// An identifier that does not parse: what was given and what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {wanted}")]
pub struct InvalidId {
    pub given: String,
    pub wanted: &'static str,
}

fn invalid(given: &str, wanted: &'static str) -> InvalidId {
    InvalidId { given: given.chars().take(100).collect(), wanted }
}

/// Implements `Serialize`/`Deserialize` through `Display` and `FromStr`, so that what is read is validated.
macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

/// Milliseconds: since the Unix epoch where a moment is meant, a length of time elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    pub fn plus(self, other: Millis) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Millis) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    first && text.len() <= 32 && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Declares a name type: `[a-z0-9][a-z0-9-]{0,31}`.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(invalid(text, $wanted)) }
            }
        }

        serde_as_text!($name);
    };
}

name_type!(
    /// An ordered stream of blocks.
    ChainId,
    "a chain id: 1 to 32 of a-z, 0-9 and -, not starting with -"
);
name_type!(
    /// A stage of a pipeline.
    StageName,
    "a stage name: 1 to 32 of a-z, 0-9 and -, not starting with -"
);
name_type!(
    /// Workers with the same hardware and provers.
    Pool,
    "a pool name: 1 to 32 of a-z, 0-9 and -, not starting with -"
);
name_type!(
    /// A prover as the configuration names it.
    ProverName,
    "a prover name: 1 to 32 of a-z, 0-9 and -, not starting with -"
);

name_type!(
    /// A worker process, for people and for `avoid`.
    WorkerId,
    "a worker id: 1 to 32 of a-z, 0-9 and -, not starting with -"
);

name_type!(
    /// Who vouches for a worker: the name of the token it presented. One principal may run several workers, and is one voice however
    /// many it runs.
    Principal,
    "a token's name: 1 to 32 of a-z, 0-9 and -, not starting with -"
);

impl Principal {
    /// Whether a worker of this id is this principal's: its ids are its name, or begin with its name and a dash.
    pub fn speaks_as(&self, worker: &WorkerId) -> bool {
        let rest = worker.as_str().strip_prefix(self.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// A chain's urgency. With the pool it names a work queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Realtime,
    #[default]
    Standard,
    Bulk,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Realtime, Self::Standard, Self::Bulk];

    pub fn as_str(self) -> &'static str {
        match self {
            Class::Realtime => "realtime",
            Class::Standard => "standard",
            Class::Bulk => "bulk",
        }
    }

    /// The next more urgent one; of the most urgent itself.
    pub fn more_urgent(self) -> Self {
        match self {
            Class::Realtime | Class::Standard => Class::Realtime,
            Class::Bulk => Class::Standard,
        }
    }
}

impl Pool {
    /// The pool that runs `split` and `verify`: it alone may write to the `verdicts` queue.
    pub const TRUSTED: &'static str = "trusted";

    pub fn trusted() -> Self {
        Self(Self::TRUSTED.to_owned())
    }

    pub fn is_trusted(&self) -> bool {
        self.0 == Self::TRUSTED
    }
}

/// Declares a 32-byte value, written as 64 lower-case hex digits (an `0x` in front is accepted when read).
macro_rules! bytes32_type {
    ($(#[$doc:meta])* $name:ident, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let mut bytes = [0; 32];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| invalid(text, $wanted))?;
                Ok(Self(bytes))
            }
        }

        serde_as_text!($name);
    };
}

bytes32_type!(
    /// A block's hash, as its chain defines it.
    BlockHash,
    "a block hash: 64 hex digits"
);
bytes32_type!(
    /// SHA-256 of stored bytes.
    Sha256,
    "a SHA-256: 64 hex digits"
);
bytes32_type!(
    /// SHA-256 of what a pipeline computes: stages, arities, parameters, programs.
    PipelineDigest,
    "a pipeline digest: 64 hex digits"
);

impl Sha256 {
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl PipelineDigest {
    /// The first 16 hex digits: what task identities carry.
    pub fn tag(&self) -> String {
        hex::encode(&self.0[..8])
    }
}

/// A block: not only its number, under which another of another fork may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "WrittenBlockId")]
pub struct BlockId {
    pub number: u64,
    /// None: whatever stands under the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<BlockHash>,
}

/// Earlier builds wrote the number alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenBlockId {
    Number(u64),
    Block {
        number: u64,
        #[serde(default)]
        hash: Option<BlockHash>,
    },
}

impl From<WrittenBlockId> for BlockId {
    fn from(written: WrittenBlockId) -> Self {
        match written {
            WrittenBlockId::Number(number) => Self { number, hash: None },
            WrittenBlockId::Block { number, hash } => Self { number, hash },
        }
    }
}

impl BlockId {
    /// Whether both may mean the same block: the same number, and no other hash where both know one.
    pub fn is_about(&self, other: &BlockId) -> bool {
        self.number == other.number && self.hash.zip(other.hash).is_none_or(|(one, other)| one == other)
    }
}

/// One run of a block number: 1 for the first, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    pub const FIRST: Self = Self(1);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One try at a node: 1 for the first, never reused within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    pub const FIRST: Self = Self(1);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One run of one block: `demo/7/e1`; where several provers prove a block, the second one's is `demo/7/e1.1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    pub chain: ChainId,
    pub number: u64,
    pub epoch: Epoch,
    /// Counts the runs of an epoch, from 0: one a pipeline, and one more for each that begins anew.
    pub lane: u16,
}

impl RunId {
    /// The first run of an epoch, which is mostly the only one.
    pub fn new(chain: ChainId, number: u64, epoch: Epoch) -> Self {
        Self { chain, number, epoch, lane: 0 }
    }

    pub fn in_lane(self, lane: u16) -> Self {
        Self { lane, ..self }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/e{}", self.chain, self.number, self.epoch.0)?;
        if self.lane > 0 { write!(f, ".{}", self.lane) } else { Ok(()) }
    }
}

impl FromStr for RunId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wanted = "a run: CHAIN/NUMBER/eEPOCH, or CHAIN/NUMBER/eEPOCH.LANE";
        let parsed = || {
            let mut parts = text.split('/');
            let chain = parts.next()?.parse().ok()?;
            let number = parts.next()?.parse().ok()?;
            let last = parts.next()?.strip_prefix('e')?;
            let (epoch, lane) = match last.split_once('.') {
                Some((epoch, lane)) => (epoch, lane.parse().ok().filter(|lane| *lane > 0)?),
                None => (last, 0),
            };
            let epoch = Epoch(epoch.parse().ok()?);
            parts.next().is_none().then_some(Self { chain, number, epoch, lane })
        };
        parsed().ok_or_else(|| invalid(text, wanted))
    }
}

/// A place in a block's task graph: `STAGE.LAYER.INDEX`. The layer is 0 except within a join tree, whose first layer of joins is 0 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Position of the stage in the pipeline; `split` is 0.
    pub stage: u16,
    pub layer: u8,
    pub index: u32,
}

impl Node {
    pub const SPLIT: Self = Self { stage: 0, layer: 0, index: 0 };

    pub fn new(stage: u16, layer: u8, index: u32) -> Self {
        Self { stage, layer, index }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.stage, self.layer, self.index)
    }
}

impl FromStr for Node {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parsed = || {
            let mut parts = text.split('.');
            let node = Self::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            parts.next().is_none().then_some(node)
        };
        parsed().ok_or_else(|| invalid(text, "a node: STAGE.LAYER.INDEX"))
    }
}

/// One run of a prover: everything its artifact key and messages are derived from.
/// `demo/7/e1/0123456789abcdef/1.0.3/a1c0` is block 7's first epoch, the pipeline's tag, node 1.0.3, attempt 1, copy 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub run: RunId,
    /// [`PipelineDigest::tag`].
    pub tag: String,
    pub node: Node,
    pub attempt: Attempt,
    /// 0 for the first of a hedged pair.
    pub copy: u8,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/a{}c{}", self.run, self.tag, self.node, self.attempt.0, self.copy)
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parsed = || {
            let mut parts = text.rsplitn(4, '/');
            let (attempt, copy) = parts.next()?.strip_prefix('a')?.split_once('c')?;
            let node = parts.next()?.parse().ok()?;
            let tag = parts.next()?;
            let run = parts.next()?.parse().ok()?;
            let is_tag = tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit());
            is_tag.then_some(Self {
                run,
                tag: tag.to_owned(),
                node,
                attempt: Attempt(attempt.parse().ok()?),
                copy: copy.parse().ok()?,
            })
        };
        parsed().ok_or_else(|| invalid(text, "a task: CHAIN/NUMBER/eEPOCH/TAG/NODE/aATTEMPTcCOPY"))
    }
}

serde_as_text!(RunId, Node, TaskId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_limits_are_refused_and_say_what_is_wanted() {
        for bad in ["", "-a", "A", "a_b", "a b", &"x".repeat(33)] {
            let error = bad.parse::<ChainId>().unwrap_err();
            assert!(error.to_string().contains("a chain id"), "{error}");
        }
        assert!("a-0".parse::<ChainId>().is_ok());
        assert!("x".repeat(32).parse::<ChainId>().is_ok());
    }

    #[test]
    fn a_task_id_survives_text() {
        let id: TaskId = "demo/7/e2/0123456789abcdef/3.1.4/a5c0".parse().unwrap();
        assert_eq!(id.node, Node::new(3, 1, 4));
        assert_eq!(id.run.epoch, Epoch(2));
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        for bad in
            ["demo/7/e2/xyz/3.1.4/a5c0", "demo/7/2/0123456789abcdef/3.1.4/a5c0", "demo/7/e2/0123456789abcdef/3.1/a5c0"]
        {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
        for tag in ["0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", ""] {
            assert!(format!("demo/7/e2/{tag}/3.1.4/a5c0").parse::<TaskId>().is_err(), "{tag}");
        }
    }

    #[test]
    fn a_runs_first_lane_has_one_name() {
        let run = |text: &str| text.parse::<RunId>();
        assert_eq!(run("demo/7/e2").unwrap().lane, 0);
        assert_eq!(run("demo/7/e2.1").unwrap().lane, 1);
        assert!(run("demo/7/e2.0").is_err(), "it would be another key for the same run");
    }

    #[test]
    fn a_pipelines_tag_is_the_beginning_of_its_digest() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(text.parse::<PipelineDigest>().unwrap().tag(), "0123456789abcdef");
    }

    #[test]
    fn a_hash_may_carry_0x_and_is_written_without() {
        let hash: BlockHash = format!("0x{}", "AB".repeat(32)).parse().unwrap();
        assert_eq!(hash.to_string(), "ab".repeat(32));
        assert!("0x12".parse::<BlockHash>().is_err());
    }
}
