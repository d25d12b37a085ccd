//! A row as an item.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::value::{from_native, to_native};
use crate::port::{Key, PortError, PortResult, Row, Value};

/// The item's keys, as `infra/topology.json` has them.
pub(super) const PARTITION: &str = "pk";
pub(super) const SORT: &str = "sk";

/// A versioned row's version; an accept-first row has none.
pub(super) const VERSION: &str = "_v";

/// What the row's last writer, outside of transactions, drew for that one call: it finds its own write by it when the answer got lost.
pub(super) const WRITER: &str = "_w";

pub(super) type Item = HashMap<String, AttributeValue>;

/// Not a caller's attribute: no caller's has such a name.
pub(super) fn is_own(name: &str) -> bool {
    [PARTITION, SORT, VERSION, WRITER].contains(&name)
}

pub(super) fn key_of(key: &Key) -> Item {
    HashMap::from([
        (PARTITION.to_owned(), AttributeValue::S(key.partition.clone())),
        (SORT.to_owned(), AttributeValue::S(key.sort.clone())),
    ])
}

pub(super) fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A versioned row; `writer` None in a transaction, which is told from others by its request's token.
pub(super) fn versioned(key: &Key, version: u64, doc: &Value, writer: Option<&str>) -> Item {
    let mut item = key_of(key);
    item.insert(VERSION.to_owned(), number(version));
    item.insert(Row::DOC.to_owned(), to_native(doc));
    if let Some(writer) = writer {
        item.insert(WRITER.to_owned(), AttributeValue::S(writer.to_owned()));
    }
    item
}

pub(super) fn is_versioned(item: &Item) -> bool {
    item.contains_key(VERSION)
}

pub(super) fn was_written_by(item: &Item, writer: &str) -> bool {
    item.get(WRITER).and_then(|found| found.as_s().ok()).is_some_and(|found| found == writer)
}

/// The row under this key.
pub(super) fn row(key: Key, mut item: Item) -> PortResult<Row> {
    let damaged = |problem: String| PortError::corrupt(format!("row {}/{}: {problem}", key.partition, key.sort));
    let version = match item.remove(VERSION) {
        None => 0,
        Some(AttributeValue::N(digits)) => {
            digits.parse().map_err(|_| damaged(format!("version {digits:?} is not a number")))?
        }
        Some(_) => return Err(damaged("its version is not a number".to_owned())),
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in item {
        if !is_own(&name) {
            let value = from_native(value).map_err(|problem| damaged(format!("{name:?}: {problem}")))?;
            attributes.insert(name, value);
        }
    }
    Ok(Row { key, version, attributes })
}

/// The row with the keys that are in the item.
pub(super) fn row_of_query(item: Item) -> PortResult<Row> {
    let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
    let (Some(partition), Some(sort)) = (text(PARTITION), text(SORT)) else {
        return Err(PortError::corrupt("an item without its keys"));
    };
    row(Key { partition, sort }, item)
}
