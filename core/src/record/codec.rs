//! How records and messages become JSON: the fields, and `v`, the version, beside them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a stored or received text is not the record it should be. Poison, whichever it is: trying again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a {record}: {why}")]
    Malformed { record: &'static str, why: String },
    #[error("{record} of version {found}; this build reads version {known}: upgrade push0 here")]
    Version { record: &'static str, found: u64, known: u32 },
}

/// A record or message that is stored or sent with its version.
pub trait Versioned: Serialize + DeserializeOwned {
    const VERSION: u32;
    /// Its name, for people.
    const NAME: &'static str;

    fn to_value(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("records are plain data with text keys");
        let fields = value.as_object_mut().expect("records are structs");
        fields.insert("v".to_owned(), Self::VERSION.into());
        value
    }

    fn to_json(&self) -> String {
        self.to_value().to_string()
    }

    fn from_value(value: Value) -> Result<Self, DecodeError> {
        Self::from_value_ref(&value)
    }

    fn from_value_ref(value: &Value) -> Result<Self, DecodeError> {
        let malformed = |why: String| DecodeError::Malformed { record: Self::NAME, why };
        let found = value.get("v").and_then(Value::as_u64).ok_or_else(|| malformed("no version `v`".to_owned()))?;
        if found != u64::from(Self::VERSION) {
            return Err(DecodeError::Version { record: Self::NAME, found, known: Self::VERSION });
        }
        Self::deserialize(value).map_err(|error| malformed(error.to_string()))
    }

    fn from_json(text: &str) -> Result<Self, DecodeError> {
        let value = serde_json::from_str(text)
            .map_err(|error| DecodeError::Malformed { record: Self::NAME, why: error.to_string() })?;
        Self::from_value(value)
    }
}

/// Declares the version of records.
macro_rules! versioned {
    ($($record:ty = $version:literal, $name:literal;)+) => {$(
        impl $crate::record::Versioned for $record {
            const VERSION: u32 = $version;
            const NAME: &'static str = $name;
        }
    )+};
}

pub(crate) use versioned;
