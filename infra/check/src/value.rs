//! What an expression comes to. What only the provider or the operator knows is [`Value::Unknown`], under its address; in the middle of a string
//! it stands as `${ADDRESS}`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    List(Vec<Value>),
    /// In order, without repetitions.
    Set(Vec<Value>),
    Map(BTreeMap<String, Value>),
    Unknown(String),
}

impl Value {
    pub fn string(text: impl Into<String>) -> Self {
        Value::String(text.into())
    }

    pub fn set(values: impl IntoIterator<Item = Value>) -> Self {
        let mut values: Vec<Value> = values.into_iter().collect();
        values.sort_by_key(Value::order);
        values.dedup();
        Value::Set(values)
    }

    fn order(&self) -> (String, u64) {
        match self {
            // Numbers in a set are sizes and counts: not negative.
            Value::Number(number) => (String::new(), number.to_bits()),
            other => (other.to_json().to_string(), 0),
        }
    }

    pub fn is_known(&self) -> bool {
        match self {
            Value::Unknown(_) => false,
            Value::String(text) => !text.contains("${"),
            Value::List(values) | Value::Set(values) => values.iter().all(Value::is_known),
            Value::Map(fields) => fields.values().all(Value::is_known),
            Value::Null | Value::Bool(_) | Value::Number(_) => true,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a bool",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Set(_) => "a set",
            Value::Map(_) => "an object",
            Value::Unknown(_) => "an unknown value",
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    /// Also one that is written as a string: Terraform takes it for a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        if let Value::Map(fields) = self { Some(fields) } else { None }
    }

    /// Elements of a list or a set; none of anything else.
    pub fn elements(&self) -> &[Value] {
        if let Value::List(values) | Value::Set(values) = self { values } else { &[] }
    }

    /// A field, by its path through objects and blocks: of a block that stands once, or of the first.
    pub fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(self, |value, name| match value {
            Value::Map(fields) => fields.get(name),
            Value::List(values) | Value::Set(values) => values.first()?.as_map()?.get(name),
            _ => None,
        })
    }

    /// As Terraform puts it into a string.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(number) => Some(number_text(*number)),
            Value::String(text) => Some(text.clone()),
            Value::Unknown(address) => Some(format!("${{{address}}}")),
            Value::Null | Value::List(_) | Value::Set(_) | Value::Map(_) => None,
        }
    }

    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) if number.fract() == 0.0 => Json::from(*number as i64),
            Value::Number(number) => Json::from(*number),
            Value::String(text) => Json::from(text.as_str()),
            Value::List(values) | Value::Set(values) => values.iter().map(Value::to_json).collect(),
            Value::Map(fields) => {
                Json::Object(fields.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
            }
            Value::Unknown(address) => Json::String(format!("${{{address}}}")),
        }
    }

    pub fn of_json(json: &Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
            Json::String(text) => Value::string(text.as_str()),
            Json::Array(values) => Value::List(values.iter().map(Value::of_json).collect()),
            Json::Object(fields) => {
                Value::Map(fields.iter().map(|(name, value)| (name.clone(), Value::of_json(value))).collect())
            }
        }
    }
}

fn number_text(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { number.to_string() }
}
