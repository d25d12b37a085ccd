//! Types of variables, and what a value becomes as one: `optional` fields get their defaults, and unknown fields of an object are dropped, as
//! Terraform does without a word. Where an operator wrote the value that hides a typing error: there they are mistakes.

use std::collections::BTreeMap;

use hcl_edit::expr::{Expression, FuncCall, ObjectKey};

use crate::value::Value;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    Any,
    Bool,
    Number,
    String,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Tuple(Vec<Type>),
    Object(BTreeMap<String, Field>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) kind: Type,
    /// None: it must be given.
    pub(crate) default: Option<Value>,
}

impl Type {
    /// `eval` is for the defaults of optional fields.
    pub(crate) fn of(
        expression: &Expression,
        eval: &dyn Fn(&Expression) -> Result<Value, String>,
    ) -> Result<Self, String> {
        match expression {
            Expression::Variable(name) => match name.as_str() {
                "any" => Ok(Type::Any),
                "bool" => Ok(Type::Bool),
                "number" => Ok(Type::Number),
                "string" => Ok(Type::String),
                other => Err(format!("`{other}` is no type")),
            },
            Expression::FuncCall(call) => Self::of_call(call, eval),
            _ => Err("this is no type".to_owned()),
        }
    }

    fn of_call(call: &FuncCall, eval: &dyn Fn(&Expression) -> Result<Value, String>) -> Result<Self, String> {
        let name = call.name.name.as_str();
        let mut args = call.args.iter();
        let (Some(inner), None) = (args.next(), args.next()) else {
            return Err(format!("`{name}` takes one type"));
        };
        let element = || Self::of(inner, eval).map(Box::new);
        match (name, inner) {
            ("list", _) => Ok(Type::List(element()?)),
            ("set", _) => Ok(Type::Set(element()?)),
            ("map", _) => Ok(Type::Map(element()?)),
            ("tuple", Expression::Array(kinds)) => {
                Ok(Type::Tuple(kinds.iter().map(|kind| Self::of(kind, eval)).collect::<Result<_, _>>()?))
            }
            ("object", Expression::Object(object)) => {
                let fields = object.iter().map(|(key, value)| Field::of(key, value.expr(), eval));
                Ok(Type::Object(fields.collect::<Result<_, _>>()?))
            }
            _ => Err(format!("`{name}` is no type")),
        }
    }

    /// The value as this type, or where and why it is none.
    pub(crate) fn convert(&self, value: Value, strict: bool) -> Result<Value, String> {
        let mismatch = |value: &Value, wanted: &str| Err(format!("{} where {wanted} is wanted", value.kind()));
        match (self, value) {
            (_, value @ (Value::Unknown(_) | Value::Null)) | (Type::Any, value) => Ok(value),
            (Type::Bool, Value::String(text)) if text == "true" || text == "false" => Ok(Value::Bool(text == "true")),
            (Type::Bool, value @ Value::Bool(_)) | (Type::Number, value @ Value::Number(_)) => Ok(value),
            (Type::Number, value) => match value.as_number() {
                Some(number) => Ok(Value::Number(number)),
                None => mismatch(&value, "a number"),
            },
            (Type::Bool, value) => mismatch(&value, "a bool"),
            (Type::String, value) => match value.text() {
                Some(text) => Ok(Value::String(text)),
                None => mismatch(&value, "a string"),
            },
            (Type::List(kind), Value::List(values) | Value::Set(values)) => {
                Ok(Value::List(values.into_iter().map(|value| kind.convert(value, strict)).collect::<Result<_, _>>()?))
            }
            (Type::Set(kind), Value::List(values) | Value::Set(values)) => Ok(Value::set(
                values.into_iter().map(|value| kind.convert(value, strict)).collect::<Result<Vec<_>, _>>()?,
            )),
            (Type::Map(kind), Value::Map(fields)) => {
                let convert = |(name, value)| match kind.convert(value, strict) {
                    Ok(value) => Ok((name, value)),
                    Err(why) => Err(format!("{name}: {why}")),
                };
                Ok(Value::Map(fields.into_iter().map(convert).collect::<Result<_, _>>()?))
            }
            (Type::Tuple(kinds), Value::List(values)) if kinds.len() == values.len() => {
                let pairs = kinds.iter().zip(values);
                Ok(Value::List(pairs.map(|(kind, value)| kind.convert(value, strict)).collect::<Result<_, _>>()?))
            }
            (Type::Object(fields), Value::Map(values)) => object(fields, values, strict),
            (Type::List(_), value) => mismatch(&value, "a list"),
            (Type::Set(_), value) => mismatch(&value, "a set"),
            (Type::Map(_), value) => mismatch(&value, "a map"),
            (Type::Tuple(kinds), value) => mismatch(&value, &format!("a tuple of {}", kinds.len())),
            (Type::Object(_), value) => mismatch(&value, "an object"),
        }
    }
}

fn object(
    fields: &BTreeMap<String, Field>,
    mut values: BTreeMap<String, Value>,
    strict: bool,
) -> Result<Value, String> {
    let mut object = BTreeMap::new();
    for (name, field) in fields {
        let value = match (values.remove(name), &field.default) {
            (Some(Value::Null) | None, Some(default)) => default.clone(),
            (Some(value), _) => value,
            (None, None) => return Err(format!("`{name}` is missing")),
        };
        let value = field.kind.convert(value, strict).map_err(|why| format!("{name}: {why}"))?;
        object.insert(name.clone(), value);
    }
    match values.keys().next() {
        Some(name) if strict => Err(format!("there is no field `{name}`")),
        _ => Ok(Value::Map(object)),
    }
}

impl Field {
    fn of(
        key: &ObjectKey,
        kind: &Expression,
        eval: &dyn Fn(&Expression) -> Result<Value, String>,
    ) -> Result<(String, Self), String> {
        let name = match key {
            ObjectKey::Ident(name) => name.as_str().to_owned(),
            ObjectKey::Expression(Expression::Variable(name)) => name.as_str().to_owned(),
            ObjectKey::Expression(Expression::String(name)) => name.value().clone(),
            ObjectKey::Expression(_) => return Err("a field's name is a plain word".to_owned()),
        };
        let optional = match kind {
            Expression::FuncCall(call) if call.name.name.as_str() == "optional" => call,
            kind => return Ok((name, Self { kind: Type::of(kind, eval)?, default: None })),
        };
        let mut args = optional.args.iter();
        let kind = Type::of(args.next().ok_or("`optional` takes a type")?, eval)?;
        let default = args.next().map_or(Ok(Value::Null), eval)?;
        let default = kind.convert(default, true).map_err(|why| format!("the default of {name}: {why}"))?;
        Ok((name, Self { kind, default: Some(default) }))
    }
}
