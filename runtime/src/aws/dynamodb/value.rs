//! JSON as native attribute values, so that a row can be read in the console.
//!
//! Nearly every value has one: text S, numbers N, lists L, objects M. DynamoDB keeps numbers as decimals of 38 digits, which holds every u64
//! and i64 and every float with a fraction of a reasonable size, but not the difference between `1` and `1.0`; it nests at most 32 levels.
//! What would not come back as it went is written as its JSON text in a map with the one key [`TEXT`].

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Map, Number, Value};

/// The one key of a map that stands for the JSON text in it.
const TEXT: &str = "_json";

/// Levels of lists and maps that are native; below, text. DynamoDB's limit is 32, and an item's attribute is already one of them.
const DEEPEST: usize = 24;

/// Floats within these are within DynamoDB's numbers, with all their digits.
const FLOATS: std::ops::Range<f64> = 1e-100..1e100;

pub(super) fn to_native(value: &Value) -> AttributeValue {
    at_depth(value, 1)
}

fn at_depth(value: &Value, depth: usize) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(flag) => AttributeValue::Bool(*flag),
        Value::String(text) => AttributeValue::S(text.clone()),
        Value::Number(number) if is_native(number) => AttributeValue::N(number.to_string()),
        Value::Array(list) if depth < DEEPEST => {
            AttributeValue::L(list.iter().map(|value| at_depth(value, depth + 1)).collect())
        }
        Value::Object(map) if depth < DEEPEST && keys_are_native(map) => {
            AttributeValue::M(map.iter().map(|(key, value)| (key.clone(), at_depth(value, depth + 1))).collect())
        }
        Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            AttributeValue::M(HashMap::from([(TEXT.to_owned(), AttributeValue::S(value.to_string()))]))
        }
    }
}

fn is_native(number: &Number) -> bool {
    let is_plain_float = |float: f64| float.fract() != 0.0 && FLOATS.contains(&float.abs());
    !number.is_f64() || number.as_f64().is_some_and(is_plain_float)
}

fn keys_are_native(map: &Map<String, Value>) -> bool {
    let stands_for_text = map.len() == 1 && map.contains_key(TEXT);
    !stands_for_text && !map.contains_key("")
}

/// The JSON of what [`to_native`] made; what it never makes is an error, in words.
pub(super) fn from_native(value: AttributeValue) -> Result<Value, String> {
    match value {
        AttributeValue::Null(_) => Ok(Value::Null),
        AttributeValue::Bool(flag) => Ok(Value::Bool(flag)),
        AttributeValue::S(text) => Ok(Value::String(text)),
        AttributeValue::N(digits) => number(&digits).map(Value::Number),
        AttributeValue::L(list) => list.into_iter().map(from_native).collect(),
        AttributeValue::M(map) => match text_of(&map) {
            Some(text) => from_text(text),
            None => map.into_iter().map(|(key, value)| Ok((key, from_native(value)?))).collect(),
        },
        _ => Err("an attribute of a type that push0 does not write".to_owned()),
    }
}

fn text_of(map: &HashMap<String, AttributeValue>) -> Option<&str> {
    let text = map.get(TEXT).filter(|_| map.len() == 1)?;
    text.as_s().ok().map(String::as_str)
}

fn from_text(text: &str) -> Result<Value, String> {
    // serde_json's own floats may be off by the last bit.
    if let Ok(float) = text.parse::<f64>()
        && let Some(number) = Number::from_f64(float)
    {
        return Ok(Value::Number(number));
    }
    serde_json::from_str(text).map_err(|error| format!("{TEXT:?} does not parse: {error}"))
}

/// Whole numbers were written from whole numbers: floats without a fraction are text.
fn number(digits: &str) -> Result<Number, String> {
    let whole = |digits: &str| {
        digits.parse::<u64>().map(Number::from).or_else(|_| digits.parse::<i64>().map(Number::from)).ok()
    };
    let float = || digits.parse().ok().and_then(Number::from_f64);
    whole(digits)
        .or_else(|| whole(&spelt_out(digits)?))
        .or_else(float)
        .ok_or_else(|| format!("{digits:?} is not a number"))
}

/// `1.8E+2` as `180`: DynamoDB does not say which way it writes numbers. None where there is a fraction, or more zeros than a u64 has.
fn spelt_out(digits: &str) -> Option<String> {
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let zeros = exponent.parse::<usize>().ok()?.checked_sub(fraction.len()).filter(|zeros| *zeros < 20)?;
    Some(format!("{whole}{fraction}{}", "0".repeat(zeros)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn goes_through(value: &Value) {
        assert_eq!(from_native(to_native(value)).as_ref(), Ok(value));
    }

    #[test]
    fn numbers_are_exact_and_keep_their_type() {
        let whole = [json!(u64::MAX), json!(i64::MIN), json!(0), json!(-1), json!(9_007_199_254_740_993_u64)];
        for value in &whole {
            assert!(to_native(value).is_n(), "{value}");
            goes_through(value);
        }
        let floats = [0.1, -2.5e-7, 1.0, -0.0, 1e22, 1e300, f64::MIN_POSITIVE, f64::MAX, 5e-324, 0.1 + 0.2];
        for float in floats {
            let back = from_native(to_native(&json!(float))).unwrap();
            assert!(back.is_f64(), "{float}");
            assert_eq!(back.as_f64().map(f64::to_bits), Some(f64::to_bits(float)), "{float}");
        }
        assert!(to_native(&json!(0.1)).is_n());
    }

    #[test]
    fn a_number_as_dynamodb_writes_it_is_read() {
        for (digits, value) in [("1E-7", json!(1e-7)), ("0.10", json!(0.1)), ("18446744073709551615", json!(u64::MAX))]
        {
            assert_eq!(from_native(AttributeValue::N(digits.to_owned())), Ok(value));
        }
    }

    #[test]
    fn what_has_no_native_form_goes_through_as_text() {
        let mut deep = json!("bottom");
        for _ in 0..60 {
            deep = json!([deep]);
        }
        for value in [deep, json!({"": 1}), json!({TEXT: "1"}), json!({TEXT: {"": 1}}), json!([{TEXT: 1.0}])] {
            goes_through(&value);
        }
        assert_eq!(depth(&to_native(&json!({"a": {"b": [1]}}))), 4);
    }

    fn depth(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::L(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
            AttributeValue::M(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 1,
        }
    }

    #[test]
    fn a_type_that_push0_does_not_write_is_an_error() {
        assert!(from_native(AttributeValue::Ss(vec!["a".to_owned()])).is_err());
        assert!(
            from_native(AttributeValue::M(HashMap::from([(TEXT.to_owned(), AttributeValue::S("{".to_owned()))])))
                .is_err()
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has no others", |float| float.is_finite()).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{1,6}", inner, 0..6).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_and_nests_within_the_limit(value in values()) {
            let native = to_native(&value);
            prop_assert!(depth(&native) <= 30);
            prop_assert_eq!(from_native(native), Ok(value));
        }
    }
}
