//! The table of the model: [`Call`]s on a few rows.

use std::collections::BTreeMap;

use push0_runtime::port::check::{check_key, check_name, check_value, check_writes};
use push0_runtime::port::{Accepted, Key, PortResult, Row, SetOutcome, Value, Write};

use super::Bug;
use super::tape::{Answer, Call};

/// Rows, as far as a call looks at them.
pub type Rows = BTreeMap<Key, Row>;

/// Keys that a call names; a query names none, and looks at its whole partition.
pub fn keys(call: &Call) -> Vec<&Key> {
    match call {
        Call::Get(key)
        | Call::GetAttributes(key, _)
        | Call::Put { key, .. }
        | Call::AcceptFirst { key, .. }
        | Call::SetIf { key, .. }
        | Call::Delete(key) => vec![key],
        Call::Transact(writes) => {
            let mut keys: Vec<&Key> = writes.iter().map(key_of).collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        }
        Call::Query { .. } | Call::Send { .. } => Vec::new(),
    }
}

fn key_of(write: &Write) -> &Key {
    match write {
        Write::Put { key, .. } | Write::SetIf { key, .. } | Write::Check { key, .. } => key,
    }
}

/// Performs a call; what is there afterwards is in `rows`. A send is none of the table's.
pub fn perform(rows: &mut Rows, call: &Call, bug: Option<Bug>) -> Answer {
    let refused = |error: push0_runtime::port::PortError| Answer::Refused(error.to_string());
    if let Err(error) = check(call) {
        return refused(error);
    }
    match call {
        Call::Get(key) => Answer::Row(rows.get(key).cloned()),
        Call::GetAttributes(key, names) => {
            let mut row = rows.get(key).cloned();
            if let Some(row) = &mut row {
                row.attributes.retain(|name, _| names.contains(name));
            }
            Answer::Row(row)
        }
        Call::Query { partition, prefix, after, limit } => {
            let is_meant = |row: &&Row| {
                let sort = &row.key.sort;
                row.key.partition == *partition
                    && sort.starts_with(prefix)
                    && after.as_ref().is_none_or(|after| sort > after)
            };
            Answer::Rows(rows.values().filter(is_meant).take(*limit).cloned().collect())
        }
        Call::Put { key, doc, expected } => {
            let write = Write::Put { key: key.clone(), doc: doc.clone(), expected: *expected };
            match transact(rows, &[write], bug) {
                Done::Yes => Answer::Version(version(rows, key).unwrap_or(0)),
                Done::Conflict => Answer::Conflict,
                Done::Never(why) => Answer::Refused(why),
            }
        }
        Call::AcceptFirst { key, slot, floor, attempt, value } => {
            accept_first(rows, key, (slot, floor), *attempt, value, bug)
        }
        Call::SetIf { key, attribute, expected, new } => {
            let write = Write::SetIf {
                key: key.clone(),
                attribute: attribute.clone(),
                expected: expected.clone(),
                new: new.clone(),
            };
            match transact(rows, &[write], bug) {
                Done::Never(why) => Answer::Refused(why),
                done => {
                    let row = rows.get(key).cloned();
                    Answer::Set(SetOutcome { done: matches!(done, Done::Yes), row })
                }
            }
        }
        Call::Transact(writes) => match transact(rows, writes, bug) {
            Done::Yes => Answer::Done,
            Done::Conflict => Answer::Conflict,
            Done::Never(why) => Answer::Refused(why),
        },
        Call::Delete(key) => {
            rows.remove(key);
            Answer::Done
        }
        Call::Send { .. } => Answer::Done,
    }
}

fn check(call: &Call) -> PortResult<()> {
    match call {
        Call::Transact(writes) => check_writes(writes),
        Call::AcceptFirst { key, slot, floor, value, .. } => {
            check_key(key)?;
            check_name(slot)?;
            check_name(floor)?;
            check_value(Some(value))
        }
        Call::SetIf { key, attribute, expected, new } => {
            check_key(key)?;
            check_name(attribute)?;
            check_value(expected.as_ref())?;
            check_value(new.as_ref())
        }
        Call::Get(key) | Call::GetAttributes(key, _) | Call::Put { key, .. } | Call::Delete(key) => check_key(key),
        Call::Query { .. } | Call::Send { .. } => Ok(()),
    }
}

enum Done {
    Yes,
    Conflict,
    Never(String),
}

fn version(rows: &Rows, key: &Key) -> Option<u64> {
    rows.get(key).map(|row| row.version)
}

fn transact(rows: &mut Rows, writes: &[Write], bug: Option<Bug>) -> Done {
    for write in writes {
        let holds = match write {
            // An accept-first row has version 0: nobody expects it rightly.
            Write::Put { key, expected, .. } | Write::Check { key, version: expected } => {
                version(rows, key) == *expected && *expected != Some(0)
            }
            Write::SetIf { key, attribute, expected, .. } => {
                let row = rows.get(key);
                if row.is_some_and(|row| row.version > 0) {
                    return Done::Never(format!("{key:?} is a versioned row"));
                }
                row.and_then(|row| row.attribute(attribute)) == expected.as_ref()
            }
        };
        let is_version = matches!(write, Write::Put { .. } | Write::Check { .. });
        let is_overlooked = match bug {
            Some(Bug::VersionsUnchecked) => is_version,
            Some(Bug::MarksUnchecked) => !is_version,
            _ => false,
        };
        if !holds && !is_overlooked {
            return Done::Conflict;
        }
    }
    let written = if bug == Some(Bug::TransactionsTorn) { &writes[..1] } else { writes };
    for write in written {
        match write {
            Write::Put { key, doc, .. } => {
                let version = version(rows, key).unwrap_or(0) + 1;
                let attributes = [(Row::DOC.to_owned(), doc.clone())].into();
                rows.insert(key.clone(), Row { key: key.clone(), version, attributes });
            }
            Write::SetIf { key, attribute, new, .. } => match new {
                Some(value) => {
                    attributes(rows, key).insert(attribute.clone(), value.clone());
                }
                None => {
                    if let Some(row) = rows.get_mut(key) {
                        row.attributes.remove(attribute);
                    }
                }
            },
            Write::Check { .. } => {}
        }
    }
    Done::Yes
}

fn attributes<'r>(rows: &'r mut Rows, key: &Key) -> &'r mut BTreeMap<String, Value> {
    let row = || Row { key: key.clone(), version: 0, attributes: BTreeMap::new() };
    &mut rows.entry(key.clone()).or_insert_with(row).attributes
}

fn accept_first(
    rows: &mut Rows,
    key: &Key,
    (slot, floor): (&str, &str),
    attempt: u32,
    value: &Value,
    bug: Option<Bug>,
) -> Answer {
    if rows.get(key).is_some_and(|row| row.version > 0) {
        return Answer::Refused(format!("{key:?} is a versioned row"));
    }
    let held = rows.get(key).map(|row| row.attributes.clone()).unwrap_or_default();
    let least = match held.get(floor) {
        None => 0,
        Some(floor) => match floor.as_u64() {
            Some(floor) => floor,
            None => return Answer::Refused(format!("{floor} is no floor")),
        },
    };
    let is_free = !held.contains_key(slot) || bug == Some(Bug::LastIsAccepted);
    let won = is_free && u64::from(attempt) >= least;
    if won {
        attributes(rows, key).insert(slot.to_owned(), value.clone());
    }
    let Some(mut row) = rows.get(key).cloned() else {
        let row = Row { key: key.clone(), version: 0, attributes: BTreeMap::new() };
        return Answer::Accepted(Accepted { won, row });
    };
    if bug == Some(Bug::SlotsTakenForFilled) && slot.starts_with("slot.") {
        for other in ["slot.0", "slot.1"] {
            row.attributes.entry(other.to_owned()).or_insert_with(|| value.clone());
        }
    }
    Answer::Accepted(Accepted { won, row })
}
