//! What every table refuses before it looks at a row.

use std::collections::BTreeSet;

use super::{Key, Value, Write};
use crate::port::{PortError, PortResult};

/// Bytes of either part of a key.
pub const LONGEST_KEY: usize = 1024;

const MAX_WRITES: usize = 25;

/// What a DynamoDB item has beside a row's own attributes: its keys, the version, its last writer.
const RESERVED: [&str; 4] = ["pk", "sk", "_v", "_w"];

pub fn check_key(key: &Key) -> PortResult<()> {
    let fits = |part: &str| (1..=LONGEST_KEY).contains(&part.len());
    if !fits(&key.partition) || !fits(&key.sort) {
        return Err(PortError::permanent(format!(
            "{key:?}: partition and sort key need 1 to {LONGEST_KEY} bytes each"
        )));
    }
    Ok(())
}

pub fn check_name(attribute: &str) -> PortResult<()> {
    if attribute.is_empty() || RESERVED.contains(&attribute) {
        return Err(PortError::permanent(format!("{attribute:?} cannot be the name of an attribute")));
    }
    Ok(())
}

/// Absent and null would be the same once they have been through JSON.
pub fn check_value(value: Option<&Value>) -> PortResult<()> {
    match value {
        Some(Value::Null) => Err(PortError::permanent("an attribute is never null: remove it instead")),
        _ => Ok(()),
    }
}

pub fn check_writes(writes: &[Write]) -> PortResult<()> {
    if writes.len() > MAX_WRITES {
        return Err(PortError::permanent(format!("a transaction of {} writes: at most {MAX_WRITES}", writes.len())));
    }
    let mut whole_rows = BTreeSet::new();
    let mut attributes = BTreeSet::new();
    for write in writes {
        let distinct = match write {
            Write::Put { key, .. } | Write::Check { key, .. } => {
                check_key(key)?;
                whole_rows.insert(key)
            }
            Write::SetIf { key, attribute, expected, new } => {
                check_key(key)?;
                check_name(attribute)?;
                check_value(expected.as_ref())?;
                check_value(new.as_ref())?;
                attributes.insert((key, attribute))
            }
        };
        if !distinct {
            return Err(PortError::permanent("a transaction names a row or attribute twice"));
        }
    }
    if attributes.iter().any(|(key, _)| whole_rows.contains(key)) {
        return Err(PortError::permanent("a transaction treats a row as versioned and as accept-first"));
    }
    Ok(())
}
