//! What every table refuses before it looks at a row.

use std::collections::BTreeSet;

use super::{Key, Value, Write};
use crate::port::{PortError, PortResult};

const MAX_WRITES: usize = 25;

pub(crate) fn check_key(key: &Key) -> PortResult<()> {
    if key.partition.is_empty() || key.sort.is_empty() || key.partition.len() > 1024 || key.sort.len() > 1024 {
        return Err(PortError::permanent(format!("{key:?}: partition and sort key need 1 to 1024 bytes each")));
    }
    Ok(())
}

/// Absent and null would be the same once they have been through JSON.
pub(crate) fn check_value(value: Option<&Value>) -> PortResult<()> {
    match value {
        Some(Value::Null) => Err(PortError::permanent("an attribute is never null: remove it instead")),
        _ => Ok(()),
    }
}

pub(crate) fn check_writes(writes: &[Write]) -> PortResult<()> {
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
