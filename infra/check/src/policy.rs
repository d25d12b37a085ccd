//! Policies: from a policy document's blocks to JSON, from JSON to statements, and what statements say of an action on a resource.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::value::Value;

/// `data.aws_iam_policy_document` as JSON.
pub(crate) fn render(arguments: &Value) -> Json {
    let documents = |field: &str| -> Vec<Json> {
        let texts = arguments.at(field).map(Value::elements).unwrap_or_default();
        let texts = texts.iter().filter_map(Value::as_str);
        texts.filter_map(|text| serde_json::from_str::<Json>(text).ok()).flat_map(statements_of).collect()
    };
    let mut statements = documents("source_policy_documents");
    statements.extend(arguments.at("statement").map(Value::elements).unwrap_or_default().iter().map(statement));
    statements.extend(documents("override_policy_documents"));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn statements_of(document: Json) -> Vec<Json> {
    match document.get("Statement") {
        Some(Json::Array(statements)) => statements.clone(),
        Some(statement) => vec![statement.clone()],
        None => Vec::new(),
    }
}

fn statement(block: &Value) -> Json {
    let mut statement = Map::new();
    for (field, name) in [
        ("sid", "Sid"),
        ("actions", "Action"),
        ("not_actions", "NotAction"),
        ("resources", "Resource"),
        ("not_resources", "NotResource"),
    ] {
        if let Some(value) = block.at(field) {
            statement.insert(name.to_owned(), value.to_json());
        }
    }
    let effect = block.at("effect").and_then(Value::text).unwrap_or("Allow".to_owned());
    statement.insert("Effect".to_owned(), Json::String(effect));
    for (field, name) in [("principals", "Principal"), ("not_principals", "NotPrincipal")] {
        let mut principals = Map::new();
        for block in block.at(field).map(Value::elements).unwrap_or_default() {
            let kind = block.at("type").and_then(Value::text).unwrap_or_default();
            principals.insert(kind, block.at("identifiers").map_or(Json::Null, Value::to_json));
        }
        if !principals.is_empty() {
            statement.insert(name.to_owned(), Json::Object(principals));
        }
    }
    let mut conditions: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    for block in block.at("condition").map(Value::elements).unwrap_or_default() {
        let text = |field: &str| block.at(field).and_then(Value::text).unwrap_or_default();
        let values = block.at("values").map_or(Json::Null, Value::to_json);
        conditions.entry(text("test")).or_default().insert(text("variable"), values);
    }
    if !conditions.is_empty() {
        statement.insert("Condition".to_owned(), json!(conditions));
    }
    Json::Object(statement)
}

#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub sid: String,
    pub allow: bool,
    pub actions: Listed,
    pub resources: Listed,
    pub principals: Option<Json>,
    /// Operator, key, values.
    pub conditions: Vec<(String, String, Vec<String>)>,
}

/// What is listed, or everything but that.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub but: bool,
    pub patterns: Vec<String>,
}

impl Listed {
    fn of(statement: &Json, name: &str) -> Self {
        match (statement.get(name), statement.get(format!("Not{name}"))) {
            (Some(patterns), _) => Self { but: false, patterns: strings(patterns) },
            (None, Some(patterns)) => Self { but: true, patterns: strings(patterns) },
            (None, None) => Self { but: false, patterns: Vec::new() },
        }
    }

    fn has(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern)) != self.but
    }
}

fn strings(json: &Json) -> Vec<String> {
    match json {
        Json::String(text) => vec![text.clone()],
        Json::Array(values) => values.iter().flat_map(strings).collect(),
        Json::Bool(value) => vec![value.to_string()],
        Json::Number(number) => vec![number.to_string()],
        Json::Null | Json::Object(_) => Vec::new(),
    }
}

/// With `*` for any text and `?` for one character. What is unknown stands for itself.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    is_like(pattern.as_bytes(), text.as_bytes(), |a, b| a == b)
}

/// Of actions case does not matter.
pub(crate) fn matches_action(pattern: &str, action: &str) -> bool {
    is_like(pattern.as_bytes(), action.as_bytes(), |a, b| a.eq_ignore_ascii_case(&b))
}

fn is_like(pattern: &[u8], text: &[u8], same: fn(u8, u8) -> bool) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], []) => is_like(rest, text, same),
        ([b'*', rest @ ..], [_, shorter @ ..]) => is_like(rest, text, same) || is_like(pattern, shorter, same),
        ([p, rest @ ..], [t, shorter @ ..]) if *p == b'?' || same(*p, *t) => is_like(rest, shorter, same),
        _ => false,
    }
}

pub fn parse(text: &str) -> Result<Vec<Statement>, String> {
    let document: Json = serde_json::from_str(text).map_err(|error| format!("a policy that is no JSON: {error}"))?;
    let statements = statements_of(document);
    if statements.is_empty() {
        return Err("a policy without statements".to_owned());
    }
    statements.iter().map(parse_statement).collect()
}

fn parse_statement(json: &Json) -> Result<Statement, String> {
    let text = |name: &str| json.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    let allow = match text("Effect").as_str() {
        "Allow" => true,
        "Deny" => false,
        other => return Err(format!("a statement whose effect is `{other}`")),
    };
    let mut conditions = Vec::new();
    for (operator, keys) in json.get("Condition").and_then(Json::as_object).into_iter().flatten() {
        for (key, values) in keys.as_object().into_iter().flatten() {
            conditions.push((operator.clone(), key.clone(), strings(values)));
        }
    }
    Ok(Statement {
        sid: text("Sid"),
        allow,
        actions: Listed::of(json, "Action"),
        resources: Listed::of(json, "Resource"),
        principals: json.get("Principal").cloned(),
        conditions,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// A statement says so: nothing else can allow it.
    Denied,
    /// Nothing allows it.
    Silent,
}

/// What a role's policies say. A condition is taken to hold where it allows and not to hold where it denies: so what this does not allow, is not
/// allowed, whatever the request is like.
pub fn decide(statements: &[Statement], action: &str, resource: &str) -> Decision {
    let about = |statement: &&Statement| {
        statement.actions.has(|pattern| matches_action(pattern, action))
            && statement.resources.has(|pattern| matches(pattern, resource))
    };
    let mut allowed = false;
    for statement in statements.iter().filter(about) {
        match (statement.allow, statement.conditions.is_empty()) {
            (true, _) => allowed = true,
            (false, true) => return Decision::Denied,
            (false, false) => {}
        }
    }
    if allowed { Decision::Allowed } else { Decision::Silent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_win_and_wildcards_match() {
        let policy = r#"{"Statement": [
            {"Effect": "Allow", "Action": ["s3:Get*", "sqs:SendMessage"], "Resource": "arn:aws:s3:::b/*"},
            {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/secret/*"},
            {"Effect": "Allow", "NotAction": "iam:*", "Resource": "arn:aws:sqs:?:1:q"}]}"#;
        let statements = parse(policy).unwrap();
        for (action, resource, wanted) in [
            ("s3:GetObject", "arn:aws:s3:::b/a", Decision::Allowed),
            ("S3:getobject", "arn:aws:s3:::b/a", Decision::Allowed),
            ("s3:GetObject", "arn:aws:s3:::b/secret/a", Decision::Denied),
            ("s3:PutObject", "arn:aws:s3:::b/a", Decision::Silent),
            ("sqs:SendMessage", "arn:aws:sqs:x:1:q", Decision::Allowed),
            ("iam:PassRole", "arn:aws:sqs:x:1:q", Decision::Silent),
        ] {
            assert_eq!(decide(&statements, action, resource), wanted, "{action} {resource}");
        }
        assert!(parse("{}").is_err());
        assert!(parse(r#"{"Statement": {"Effect": "Perhaps"}}"#).is_err());
    }
}
