//! DynamoDB's units, by the sizes of the items that really went over the wire.
//!
//! Rules as AWS documents them. An item is the sum of its attributes, each its name and its value in UTF-8; a number is a byte for two
//! digits and one more, true, false and null are one byte, lists and maps are 3 bytes, one for each element, and what is in them. A strongly
//! consistent read is a unit for each 4 KB, a write one for each 1 KB of the item before or after it, whichever is larger, and a write that
//! its condition refused is one, too; in a transaction everything counts twice. What does not exist is read, or refused, for one unit.

use std::collections::BTreeMap;

use push0_runtime::aws::calls::Call;
use serde_json::Value;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units {
    pub read: u64,
    pub write: u64,
}

/// Sizes of the items as last seen: some calls change an item without showing it.
#[derive(Debug, Default)]
pub struct Items(BTreeMap<String, u64>);

impl Items {
    /// What one call used. Calls are to come in their order.
    pub fn units(&mut self, call: &Call) -> Units {
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        let (request, response) = (json(&call.request), json(&call.response));
        let once = match call.operation.as_str() {
            "GetItem" => Units { read: self.get(&request, &response), write: 0 },
            "Query" => Units { read: reads(items(&response["Items"])), write: 0 },
            "PutItem" => {
                let is_done = call.status == Some(200);
                Units { read: 0, write: self.put(&request["Item"], is_done, &response["Item"]) }
            }
            "UpdateItem" => Units { read: 0, write: self.update(&request["Key"], &response) },
            "DeleteItem" => Units { read: 0, write: writes(self.0.remove(&name(&request["Key"])).unwrap_or_default()) },
            "TransactWriteItems" => Units { read: 0, write: self.transact(&request, call.status == Some(200)) },
            _ => Units::default(),
        };
        let attempts = u64::from(call.attempts.max(1));
        Units { read: once.read * attempts, write: once.write * attempts }
    }

    /// A projection does not make a read cheaper: the whole item counts.
    fn get(&mut self, request: &Value, response: &Value) -> u64 {
        let shown = size(&response["Item"]);
        let known = self.0.entry(name(&request["Key"])).or_default();
        *known = (*known).max(shown);
        reads(if response["Item"].is_object() { *known } else { 0 })
    }

    fn put(&mut self, item: &Value, is_done: bool, found: &Value) -> u64 {
        let (name, after) = (name(item), size(item));
        let before = self.0.get(&name).copied().unwrap_or_default().max(size(found));
        if !is_done {
            return writes(before);
        }
        self.0.insert(name, after);
        writes(before.max(after))
    }

    /// Done, the answer has the item as it is now; refused, as it was found.
    fn update(&mut self, key: &Value, response: &Value) -> u64 {
        let known = self.0.entry(name(key)).or_default();
        let before = *known;
        let after = size(&response["Attributes"]).max(size(&response["Item"]));
        if after > 0 {
            *known = after;
        }
        writes(before.max(after))
    }

    fn transact(&mut self, request: &Value, is_done: bool) -> u64 {
        let mut units = 0;
        for action in request["TransactItems"].as_array().into_iter().flatten() {
            units += match action.as_object().and_then(|action| action.iter().next()) {
                Some((operation, put)) if operation == "Put" => self.put(&put["Item"], is_done, &Value::Null),
                Some((operation, other)) => {
                    let known = self.0.entry(name(&other["Key"])).or_default();
                    if operation == "Update" && is_done {
                        // What it adds; the item itself is not shown.
                        *known = (*known).max(size(&other["Key"])) + size(&other["ExpressionAttributeValues"]);
                    }
                    writes(*known)
                }
                None => 0,
            };
        }
        2 * units
    }
}

fn items(list: &Value) -> u64 {
    list.as_array().into_iter().flatten().map(size).sum()
}

fn reads(bytes: u64) -> u64 {
    bytes.div_ceil(4096).max(1)
}

fn writes(bytes: u64) -> u64 {
    bytes.div_ceil(1024).max(1)
}

/// The two keys of an item, or of a key.
fn name(item: &Value) -> String {
    let key = |name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
    format!("{} {}", key("pk"), key("sk"))
}

/// Bytes of an item in DynamoDB's JSON.
fn size(item: &Value) -> u64 {
    let attributes = item.as_object().into_iter().flatten();
    attributes.map(|(name, value)| name.len() as u64 + value_size(value)).sum()
}

fn value_size(value: &Value) -> u64 {
    let Some((kind, value)) = value.as_object().and_then(|typed| typed.iter().next()) else { return 0 };
    match kind.as_str() {
        "S" => value.as_str().map_or(0, |text| text.len() as u64),
        "N" => {
            let digits = value.as_str().map_or(0, |number| number.bytes().filter(u8::is_ascii_digit).count() as u64);
            digits.div_ceil(2) + 1
        }
        "B" => value.as_str().map_or(0, |base64| base64.len() as u64 / 4 * 3),
        "L" => {
            let elements = value.as_array().into_iter().flatten();
            3 + elements.map(|element| 1 + value_size(element)).sum::<u64>()
        }
        "M" => {
            let elements = value.as_object().into_iter().flatten();
            3 + elements.map(|(name, element)| 1 + name.len() as u64 + value_size(element)).sum::<u64>()
        }
        _ => 1,
    }
}
