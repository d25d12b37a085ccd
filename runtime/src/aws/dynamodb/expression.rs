//! Conditions and updates, put together with placeholders for every name and value.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::item::{PARTITION, VERSION, WRITER, number};
use super::value::to_native;
use crate::port::Value;

/// One attribute, from what it must be to what it shall be; None: absent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) attribute: String,
    pub(super) expected: Option<Value>,
    pub(super) new: Option<Value>,
}

impl Change {
    pub(super) fn changes_nothing(&self) -> bool {
        self.expected == self.new
    }
}

#[derive(Debug, Default)]
pub(super) struct Expression {
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
    conditions: Vec<String>,
    sets: Vec<String>,
    removes: Vec<String>,
}

impl Expression {
    /// Holds for the versioned row of this version; None: for no row.
    pub(super) fn version_is(version: Option<u64>) -> Self {
        let mut expression = Self::default();
        match version {
            None => expression.require_absent(PARTITION),
            Some(version) => {
                let (name, value) = (expression.name(VERSION), expression.value(number(version)));
                expression.conditions.push(format!("{name} = {value}"));
            }
        }
        expression
    }

    /// Holds for an accept-first row, or none, on which all changes are possible; makes them.
    pub(super) fn changes(changes: &[Change]) -> Self {
        let mut expression = Self::default();
        expression.require_absent(VERSION);
        for change in changes {
            match &change.expected {
                None => expression.require_absent(&change.attribute),
                Some(expected) => {
                    let (name, value) = (expression.name(&change.attribute), expression.value(to_native(expected)));
                    expression.conditions.push(format!("{name} = {value}"));
                }
            }
            match &change.new {
                _ if change.changes_nothing() => {}
                Some(new) => expression.set(&change.attribute, to_native(new)),
                None => {
                    let name = expression.name(&change.attribute);
                    expression.removes.push(name);
                }
            }
        }
        expression
    }

    /// Holds where the slot is empty and the floor at most `attempt`; fills the slot.
    pub(super) fn accept(slot: &str, floor: &str, attempt: u32, value: &Value) -> Self {
        let mut expression = Self::default();
        expression.require_absent(VERSION);
        expression.require_absent(slot);
        let (floor, attempt) = (expression.name(floor), expression.value(number(attempt.into())));
        expression.conditions.push(format!("(attribute_not_exists({floor}) OR {floor} <= {attempt})"));
        expression.set(slot, to_native(value));
        expression
    }

    pub(super) fn by(mut self, writer: &str) -> Self {
        self.set(WRITER, AttributeValue::S(writer.to_owned()));
        self
    }

    fn require_absent(&mut self, attribute: &str) {
        let name = self.name(attribute);
        self.conditions.push(format!("attribute_not_exists({name})"));
    }

    fn set(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (self.name(attribute), self.value(value));
        self.sets.push(format!("{name} = {value}"));
    }

    fn name(&mut self, attribute: &str) -> String {
        let known = self.names.iter().find(|(_, name)| *name == attribute).map(|(placeholder, _)| placeholder.clone());
        known.unwrap_or_else(|| {
            let placeholder = format!("#{}", self.names.len());
            self.names.insert(placeholder.clone(), attribute.to_owned());
            placeholder
        })
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    pub(super) fn condition(&self) -> String {
        self.conditions.join(" AND ")
    }

    pub(super) fn update(&self) -> String {
        let part = |verb: &str, actions: &[String]| match actions {
            [] => String::new(),
            _ => format!("{verb} {} ", actions.join(", ")),
        };
        format!("{}{}", part("SET", &self.sets), part("REMOVE", &self.removes))
    }

    pub(super) fn names(&self) -> Option<HashMap<String, String>> {
        Some(self.names.clone())
    }

    /// None where there are none: an empty map is refused.
    pub(super) fn values(&self) -> Option<HashMap<String, AttributeValue>> {
        Some(self.values.clone()).filter(|values| !values.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(attribute: &str, expected: Option<Value>, new: Option<Value>) -> Change {
        Change { attribute: attribute.to_owned(), expected, new }
    }

    #[test]
    fn changes_of_a_row_become_one_update() {
        let expression = Expression::changes(&[
            change("a", None, Some(json!(1))),
            change("b", Some(json!("x")), None),
            change("c", Some(json!(true)), Some(json!(true))),
        ])
        .by("w");
        assert_eq!(
            expression.condition(),
            "attribute_not_exists(#0) AND attribute_not_exists(#1) AND #2 = :1 AND #3 = :2"
        );
        assert_eq!(expression.update(), "SET #1 = :0, #4 = :3 REMOVE #2 ");
        assert_eq!(expression.names.len(), 5);
    }

    #[test]
    fn a_name_has_one_placeholder_however_often_it_is_named() {
        let expression = Expression::accept("slot", "slot", 3, &json!(1));
        assert_eq!(expression.names.len(), 2);
    }
}
