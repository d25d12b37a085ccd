//! The state table in SQL: a row is one record with its attributes as a JSON object. Every write reads the row first, under the engine's
//! lock, so conditions and changes cannot be interleaved.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::commit::{Batch, Failure};
use crate::port::check::{check_name, check_value};
use crate::port::{Accepted, Key, PortError, Row, SetOutcome, Write};

fn damaged(key: &Key, error: &serde_json::Error) -> PortError {
    PortError::corrupt(format!("row {}/{} does not parse: {error}", key.partition, key.sort))
}

fn stored(key: Key, version: u64, attributes: &str) -> Result<Row, Failure> {
    let attributes = serde_json::from_str(attributes).map_err(|error| damaged(&key, &error))?;
    Ok(Row { key, version, attributes })
}

pub(super) fn get(db: &Connection, key: &Key) -> Result<Option<Row>, Failure> {
    let found: Option<(u64, String)> = db
        .prepare_cached("SELECT version, attributes FROM rows WHERE partition = ? AND sort = ?")?
        .query_row(params![key.partition, key.sort], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(version, attributes)| stored(key.clone(), version, &attributes)).transpose()
}

/// Reads past the attributes that are not asked for without keeping them.
struct Wanted(Vec<String>);

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = BTreeMap<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted {
    type Value = BTreeMap<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row's attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut attributes = BTreeMap::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if self.0.iter().any(|wanted| *wanted == name) {
                attributes.insert(name.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(attributes)
    }
}

pub(super) fn get_attributes(db: &Connection, key: &Key, names: Vec<String>) -> Result<Option<Row>, Failure> {
    let mut select = db.prepare_cached("SELECT version, attributes FROM rows WHERE partition = ? AND sort = ?")?;
    let mut found = select.query(params![key.partition, key.sort])?;
    let Some(row) = found.next()? else { return Ok(None) };
    let text = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let attributes = Wanted(names).deserialize(&mut parser).map_err(|error| damaged(key, &error))?;
    Ok(Some(Row { key: key.clone(), version: row.get(0)?, attributes }))
}

fn store(db: &Connection, row: &Row) -> Result<(), Failure> {
    let attributes = serde_json::to_string(&row.attributes)
        .map_err(|error| PortError::permanent(format!("a value that is not JSON: {error}")))?;
    db.prepare_cached(
        "INSERT INTO rows (partition, sort, version, attributes) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (partition, sort) DO UPDATE SET version = ?3, attributes = ?4",
    )?
    .execute(params![row.key.partition, row.key.sort, row.version, attributes])?;
    Ok(())
}

fn empty(key: &Key) -> Row {
    Row { key: key.clone(), version: 0, attributes: BTreeMap::new() }
}

/// The row, to be changed attribute by attribute.
fn accept_first_row(db: &Connection, key: &Key) -> Result<Option<Row>, Failure> {
    let row = get(db, key)?;
    if row.as_ref().is_some_and(|row| row.version > 0) {
        let problem = format!("row {}/{} is versioned: its attributes cannot be set alone", key.partition, key.sort);
        return Err(PortError::permanent(problem).into());
    }
    Ok(row)
}

fn version_is(row: Option<&Row>, expected: Option<u64>) -> bool {
    match (row, expected) {
        (None, None) => true,
        (Some(row), Some(expected)) => row.version == expected && expected > 0,
        _ => false,
    }
}

fn version_conflict(key: &Key, row: Option<&Row>, expected: Option<u64>) -> PortError {
    let say = |version: Option<u64>| version.map_or("no row".to_owned(), |version| format!("version {version}"));
    let found = say(row.map(|row| row.version));
    PortError::conflict(format!("row {}/{}: expected {}, found {found}", key.partition, key.sort, say(expected)))
}

fn versioned(key: Key, doc: Value, expected: Option<u64>) -> Row {
    let version = expected.unwrap_or(0) + 1;
    Row { key, version, attributes: BTreeMap::from([(Row::DOC.to_owned(), doc)]) }
}

pub(super) fn put_if_version(db: &Connection, key: Key, doc: Value, expected: Option<u64>) -> Result<u64, Failure> {
    let now = get(db, &key)?;
    if !version_is(now.as_ref(), expected) {
        return Err(version_conflict(&key, now.as_ref(), expected).into());
    }
    let row = versioned(key, doc, expected);
    store(db, &row)?;
    Ok(row.version)
}

pub(super) fn accept_first(
    db: &Connection,
    key: &Key,
    slot: String,
    floor: &str,
    attempt: u32,
    value: Value,
) -> Result<Accepted, Failure> {
    check_name(&slot)?;
    check_name(floor)?;
    check_value(Some(&value))?;
    let mut row = accept_first_row(db, key)?.unwrap_or_else(|| empty(key));
    let lowest = match row.attribute(floor) {
        None => 0,
        Some(lowest) => lowest.as_u64().ok_or_else(|| {
            PortError::permanent(format!("row {}/{}: {floor:?} is not a number", key.partition, key.sort))
        })?,
    };
    let won = row.attribute(&slot).is_none() && u64::from(attempt) >= lowest;
    if won {
        row.attributes.insert(slot, value);
        store(db, &row)?;
    }
    Ok(Accepted { won, row })
}

fn set(row: &mut Row, attribute: String, new: Option<Value>) {
    match new {
        Some(value) => row.attributes.insert(attribute, value),
        None => row.attributes.remove(&attribute),
    };
}

pub(super) fn set_if(
    db: &Connection,
    key: &Key,
    attribute: String,
    expected: Option<Value>,
    new: Option<Value>,
) -> Result<SetOutcome, Failure> {
    check_name(&attribute)?;
    check_value(expected.as_ref())?;
    check_value(new.as_ref())?;
    let row = accept_first_row(db, key)?;
    let now = row.as_ref().and_then(|row| row.attribute(&attribute));
    if now != expected.as_ref() {
        return Ok(SetOutcome { done: false, row });
    }
    if now == new.as_ref() {
        return Ok(SetOutcome { done: true, row });
    }
    let mut row = row.unwrap_or_else(|| empty(key));
    set(&mut row, attribute, new);
    store(db, &row)?;
    Ok(SetOutcome { done: true, row: Some(row) })
}

pub(super) fn query(
    db: &Connection,
    partition: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT sort, version, attributes FROM rows
         WHERE partition = ?1 AND sort >= ?2 AND sort > ?3 ORDER BY sort LIMIT ?4",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = select.query(params![partition, prefix, after.unwrap_or(""), limit])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let sort: String = row.get(0)?;
        if !sort.starts_with(prefix) {
            break;
        }
        rows.push(stored(
            Key::new(partition, sort),
            row.get(1)?,
            row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?,
        )?);
    }
    Ok(rows)
}

/// The writes passed [`check_writes`].
pub(super) fn transact(batch: &mut Batch<'_>, writes: Vec<Write>) -> Result<(), Failure> {
    let db = batch.db;
    let mut changed: BTreeMap<Key, Row> = BTreeMap::new();
    for write in writes {
        match write {
            Write::Put { key, doc, expected } => {
                let now = get(db, &key)?;
                if !version_is(now.as_ref(), expected) {
                    return Err(version_conflict(&key, now.as_ref(), expected).into());
                }
                changed.insert(key.clone(), versioned(key, doc, expected));
            }
            Write::Check { key, version } => {
                let now = get(db, &key)?;
                if !version_is(now.as_ref(), version) {
                    return Err(version_conflict(&key, now.as_ref(), version).into());
                }
            }
            Write::SetIf { key, attribute, expected, new } => {
                let mut row = match changed.get(&key) {
                    Some(row) => row.clone(),
                    None => accept_first_row(db, &key)?.unwrap_or_else(|| empty(&key)),
                };
                if row.attribute(&attribute) != expected.as_ref() {
                    let problem = format!("row {}/{}: {attribute:?} is not as expected", key.partition, key.sort);
                    return Err(PortError::conflict(problem).into());
                }
                if expected != new {
                    set(&mut row, attribute, new);
                    changed.insert(key, row);
                }
            }
        }
    }
    changed.values().try_for_each(|row| store(db, row))
}

pub(super) fn delete(db: &Connection, key: &Key) -> Result<(), Failure> {
    db.prepare_cached("DELETE FROM rows WHERE partition = ? AND sort = ?")?
        .execute(params![key.partition, key.sort])?;
    Ok(())
}
