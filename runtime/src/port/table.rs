//! The state table: rows under (partition, sort) keys.
//!
//! A row is **versioned** (one document, compare-and-swap on its version) or **accept-first** (attributes, each changed alone), never
//! both: setting an attribute of a versioned row is `Permanent`, putting a version over an accept-first row is `Conflict`. All reads are
//! strongly consistent. Keys are text, 1 to 1024 bytes each; `query` returns rows of one partition in byte order of the sort key. An
//! attribute's value is never null (`Permanent`): absent and null would be one once they have been through JSON. An attribute's name is not
//! empty, and none of `pk`, `sk`, `_v`, `_w` (`Permanent`).

pub mod check;

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::PortResult;

pub use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub partition: String,
    pub sort: String,
}

impl Key {
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }
}

/// A row as stored. A versioned row has `version >= 1` and its document in the attribute [`Row::DOC`]; an accept-first row has version 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    pub key: Key,
    pub version: u64,
    pub attributes: BTreeMap<String, Value>,
}

impl Row {
    /// The attribute that holds a versioned row's document.
    pub const DOC: &'static str = "doc";

    pub fn doc(&self) -> Option<&Value> {
        self.attributes.get(Self::DOC)
    }

    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.get(name)
    }
}

/// Answer of [`Table::accept_first`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accepted {
    /// Whether this call filled the slot.
    pub won: bool,
    /// The whole row after the call.
    pub row: Row,
}

/// Answer of [`Table::set_if`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SetOutcome {
    pub done: bool,
    /// The whole row after the call (`None`: there is still no row).
    pub row: Option<Row>,
}

/// One part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Write {
    /// Versioned row: `expected` None means it must not exist; the new version is `expected + 1` (1 for a new row).
    Put { key: Key, doc: Value, expected: Option<u64> },
    /// Accept-first row: one attribute, from `expected` (None: absent) to `new` (None: removed).
    SetIf { key: Key, attribute: String, expected: Option<Value>, new: Option<Value> },
    /// The versioned row must still have this version (None: must not exist).
    Check { key: Key, version: Option<u64> },
}

#[async_trait]
pub trait Table: Send + Sync {
    async fn get(&self, key: &Key) -> PortResult<Option<Row>>;

    /// The same with only these attributes, as far as the row has them.
    async fn get_attributes(&self, key: &Key, names: &[&str]) -> PortResult<Option<Row>> {
        let row = self.get(key).await?;
        Ok(row.map(|mut row| {
            row.attributes.retain(|name, _| names.contains(&name.as_str()));
            row
        }))
    }

    /// Writes a versioned row; returns its new version. `Conflict` if the version is not `expected`.
    async fn put_if_version(&self, key: &Key, doc: Value, expected: Option<u64>) -> PortResult<u64>;

    /// Fills `slot` with `value` if the slot is empty and `attempt` is at least the number in attribute `floor` (absent: 0). Creates the
    /// row where there is none. Never an error because somebody was first: the answer says who won, and carries the whole row.
    async fn accept_first(
        &self,
        key: &Key,
        slot: &str,
        floor: &str,
        attempt: u32,
        value: Value,
    ) -> PortResult<Accepted>;

    /// Sets one attribute of an accept-first row if it is now `expected` (None: absent; creates the row); `new` None removes it. Not an
    /// error when it is something else: `done` is false.
    async fn set_if(
        &self,
        key: &Key,
        attribute: &str,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> PortResult<SetOutcome>;

    /// Rows of a partition whose sort key starts with `prefix` and is greater than `after`, at most `limit`.
    async fn query(&self, partition: &str, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Row>>;

    /// All or nothing; `Conflict` if any condition does not hold. At most 25 writes, each to another row or, for `SetIf`, another attribute.
    async fn transact(&self, writes: Vec<Write>) -> PortResult<()>;

    /// Deletes the row whatever it holds; deleting what is not there is fine.
    async fn delete(&self, key: &Key) -> PortResult<()>;
}
