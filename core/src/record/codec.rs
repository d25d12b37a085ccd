//! How records and messages become JSON: the fields, and `v`, the version, beside them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a stored or received text is not the record it should be. Poison, whichever it is: trying again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a {record}: {why}")]
    Malformed { record: &'static str, why: String },
    #[error("{record} of version {found}; this build reads versions up to {known}: upgrade push0 here")]
    Version { record: &'static str, found: u64, known: u32 },
    #[error("a {record} of {size} bytes; at most {limit} are possible")]
    TooLong { record: &'static str, size: usize, limit: usize },
}

/// Bytes of a record whose kind says nothing else.
const MAX_TEXT: usize = 1 << 20;

/// A record or message that is stored or sent with its version.
pub trait Versioned: Serialize + DeserializeOwned {
    const VERSION: u32;
    /// Its name, for people.
    const NAME: &'static str;
    /// Versions from this one on are read as they are: later ones only add to them.
    const READ_AS_IT_IS: u32 = Self::VERSION;

    /// The version this one is written with: an older one where whoever reads only that one will not take it for something else.
    fn version(&self) -> u32 {
        Self::VERSION
    }

    /// Bytes of its text, at most: a longer one is not looked at.
    const LIMIT: usize = MAX_TEXT;

    /// Rewrites what version `from` wrote as version `from + 1` would have. Called once for each version between what is found and what this
    /// build writes. A new field with a default needs no new version; whoever raises `VERSION` says here how to read the one before, for as
    /// long as data directories of it may exist. `None`: it cannot be read any more.
    fn upgrade(from: u64, value: Value) -> Option<Value> {
        let _ = (from, value);
        None
    }

    /// What every reader relies on and the types do not say; the error says what is not so.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn to_value(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("records are plain data with text keys");
        let fields = value.as_object_mut().expect("records are structs");
        fields.insert("v".to_owned(), self.version().into());
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
        let known = u64::from(Self::VERSION);
        let unread = DecodeError::Version { record: Self::NAME, found, known: Self::VERSION };
        if found > known {
            return Err(unread);
        }
        let read = if (u64::from(Self::READ_AS_IT_IS)..=known).contains(&found) {
            Self::deserialize(value)
        } else {
            let upgraded = (found..known).try_fold(value.clone(), |value, from| Self::upgrade(from, value));
            Self::deserialize(upgraded.ok_or(unread)?)
        };
        let record = read.map_err(|error| malformed(error.to_string()))?;
        record.check().map_err(malformed)?;
        Ok(record)
    }

    fn from_json(text: &str) -> Result<Self, DecodeError> {
        let (record, size, limit) = (Self::NAME, text.len(), Self::LIMIT);
        if size > limit {
            return Err(DecodeError::TooLong { record, size, limit });
        }
        let value = serde_json::from_str(text)
            .map_err(|error| DecodeError::Malformed { record: Self::NAME, why: error.to_string() })?;
        Self::from_value(value)
    }
}

/// Declares the version of records, the most bytes of each, and how it is checked where the types do not say it all.
macro_rules! versioned {
    ($($record:ty = $version:literal, $name:literal, $limit:expr $(, $check:path)?;)+) => {$(
        impl $crate::record::Versioned for $record {
            const VERSION: u32 = $version;
            const NAME: &'static str = $name;
            const LIMIT: usize = $limit;
            $(fn check(&self) -> Result<(), String> {
                $check(self)
            })?
        }
    )+};
}

pub(crate) use versioned;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Version 1 had `name`, version 2 split it, version 3 added a count.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Person {
        first: String,
        last: String,
        count: u32,
    }

    impl Versioned for Person {
        const VERSION: u32 = 3;
        const NAME: &'static str = "person";

        fn upgrade(from: u64, mut value: Value) -> Option<Value> {
            match from {
                1 => {
                    let name = value.get("name")?.as_str()?.to_owned();
                    let (first, last) = name.split_once(' ')?;
                    value["first"] = first.into();
                    value["last"] = last.into();
                }
                2 => value["count"] = 1.into(),
                _ => return None,
            }
            Some(value)
        }
    }

    #[test]
    fn what_any_earlier_version_wrote_is_read_as_this_one_would_have_written_it() {
        let ada = Person { first: "Ada".to_owned(), last: "Lovelace".to_owned(), count: 1 };
        let texts = [
            r#"{"v":1,"name":"Ada Lovelace"}"#,
            r#"{"v":2,"first":"Ada","last":"Lovelace"}"#,
            r#"{"v":3,"first":"Ada","last":"Lovelace","count":1}"#,
        ];
        for text in texts {
            assert_eq!(Person::from_json(text).as_ref(), Ok(&ada), "{text}");
        }
    }

    /// Of version 2; of what version 1 wrote nobody said how to read it.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Place {
        #[serde(default)]
        name: String,
    }

    impl Versioned for Place {
        const VERSION: u32 = 2;
        const NAME: &'static str = "place";
    }

    #[test]
    fn a_record_is_written_with_its_version_and_an_earlier_one_is_refused_where_nobody_says_how_to_read_it() {
        let place = Place { name: "Turin".to_owned() };
        assert_eq!(place.to_json(), r#"{"name":"Turin","v":2}"#);
        assert_eq!(Place::from_json(&place.to_json()), Ok(place));
        let earlier = Place::from_json(r#"{"v":1,"name":"Turin"}"#);
        assert_eq!(earlier, Err(DecodeError::Version { record: "place", found: 1, known: 2 }));
    }

    #[test]
    fn a_text_longer_than_its_kind_allows_is_refused_before_it_is_parsed() {
        let padded = |bytes: usize| {
            let text = r#"{"v":3,"first":"Ada","last":"Lovelace","count":1}"#;
            format!("{text}{}", " ".repeat(bytes - text.len()))
        };
        assert!(Person::from_json(&padded(Person::LIMIT)).is_ok());
        let refused = Person::from_json(&padded(Person::LIMIT + 1));
        let (size, limit) = (Person::LIMIT + 1, Person::LIMIT);
        assert_eq!(refused, Err(DecodeError::TooLong { record: "person", size, limit }));
    }

    #[test]
    fn what_a_later_version_wrote_or_none_at_all_is_refused_and_said_so() {
        let newer = Person::from_json(r#"{"v":4,"first":"Ada"}"#).unwrap_err();
        assert!(newer.to_string().contains("upgrade push0 here"), "{newer}");
        for text in [r#"{"v":0}"#, r#"{"v":1,"name":7}"#, r#"{"first":"Ada"}"#, "[]"] {
            assert!(Person::from_json(text).is_err(), "{text}");
        }
    }
}
