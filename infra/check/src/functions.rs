//! Terraform's functions: which there are, and what those come to that need no provider, clock or other machine.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex_lite::Regex;

use crate::value::Value;

/// Name, number of arguments, and whether more may follow: `terraform metadata functions` of 1.11, without those that stand under `core::` too.
#[rustfmt::skip]
const ALL: &[(&str, usize, bool)] = &[
    ("abs", 1, false), ("abspath", 1, false), ("alltrue", 1, false), ("anytrue", 1, false),
    ("base64decode", 1, false), ("base64encode", 1, false), ("base64gzip", 1, false), ("base64sha256", 1, false),
    ("base64sha512", 1, false), ("basename", 1, false), ("bcrypt", 1, true), ("can", 1, false), ("ceil", 1, false),
    ("chomp", 1, false), ("chunklist", 2, false), ("cidrhost", 2, false), ("cidrnetmask", 1, false),
    ("cidrsubnet", 3, false), ("cidrsubnets", 1, true), ("coalesce", 0, true), ("coalescelist", 0, true),
    ("compact", 1, false), ("concat", 0, true), ("contains", 2, false), ("csvdecode", 1, false),
    ("dirname", 1, false), ("distinct", 1, false), ("element", 2, false), ("endswith", 2, false),
    ("ephemeralasnull", 1, false), ("file", 1, false), ("filebase64", 1, false), ("filebase64sha256", 1, false),
    ("filebase64sha512", 1, false), ("fileexists", 1, false), ("filemd5", 1, false), ("fileset", 2, false),
    ("filesha1", 1, false), ("filesha256", 1, false), ("filesha512", 1, false), ("flatten", 1, false),
    ("floor", 1, false), ("format", 1, true), ("formatdate", 2, false), ("formatlist", 1, true),
    ("indent", 2, false), ("index", 2, false), ("issensitive", 1, false), ("join", 1, true),
    ("jsondecode", 1, false), ("jsonencode", 1, false), ("keys", 1, false), ("length", 1, false), ("log", 2, false),
    ("lookup", 2, true), ("lower", 1, false), ("matchkeys", 3, false), ("max", 0, true), ("md5", 1, false),
    ("merge", 0, true), ("min", 0, true), ("nonsensitive", 1, false), ("one", 1, false), ("parseint", 2, false),
    ("pathexpand", 1, false), ("plantimestamp", 0, false), ("pow", 2, false), ("range", 0, true),
    ("regex", 2, false), ("regexall", 2, false), ("replace", 3, false), ("reverse", 1, false),
    ("rsadecrypt", 2, false), ("sensitive", 1, false), ("setintersection", 1, true), ("setproduct", 0, true),
    ("setsubtract", 2, false), ("setunion", 1, true), ("sha1", 1, false), ("sha256", 1, false), ("sha512", 1, false),
    ("signum", 1, false), ("slice", 3, false), ("sort", 1, false), ("split", 2, false), ("startswith", 2, false),
    ("strcontains", 2, false), ("strrev", 1, false), ("substr", 3, false), ("sum", 1, false),
    ("templatefile", 2, false), ("templatestring", 2, false), ("textdecodebase64", 2, false),
    ("textencodebase64", 2, false), ("timeadd", 2, false), ("timecmp", 2, false), ("timestamp", 0, false),
    ("title", 1, false), ("tobool", 1, false), ("tolist", 1, false), ("tomap", 1, false), ("tonumber", 1, false),
    ("toset", 1, false), ("tostring", 1, false), ("transpose", 1, false), ("trim", 2, false),
    ("trimprefix", 2, false), ("trimspace", 1, false), ("trimsuffix", 2, false), ("try", 0, true),
    ("upper", 1, false), ("urlencode", 1, false), ("uuid", 0, false), ("uuidv5", 2, false), ("values", 1, false),
    ("yamldecode", 1, false), ("yamlencode", 1, false), ("zipmap", 2, false),
];

/// What is wrong with a call of so many arguments.
pub(crate) fn mistake(name: &str, count: usize, expands: bool) -> Option<String> {
    let Some((_, wanted, more)) = ALL.iter().find(|(known, ..)| *known == name) else {
        return Some(format!("there is no function `{name}`"));
    };
    // The signature of `substr` and the like is exact; with `...` the last argument stands for any number.
    let fits = if expands { *more } else { count == *wanted || (*more && count > *wanted) };
    (!fits).then(|| format!("`{name}` takes {wanted} arguments{}, here {count}", if *more { " or more" } else { "" }))
}

/// Those that take what is unknown inside a larger value, or as a whole, and still say something.
const OF_UNKNOWN: &[&str] =
    &["compact", "concat", "flatten", "jsonencode", "merge", "sensitive", "nonsensitive", "setproduct"];

/// What reads files is in `eval`; `try` and `can` are, too.
pub(crate) fn call(name: &str, args: Vec<Value>) -> Result<Value, String> {
    if let Some(Value::Unknown(address)) = args.iter().find(|arg| matches!(arg, Value::Unknown(_)))
        && !OF_UNKNOWN.contains(&name)
    {
        return Ok(Value::Unknown(format!("{name}({address})")));
    }
    if !args.iter().all(Value::is_known) && OF_WHOLE_STRINGS.contains(&name) {
        return Ok(Value::Unknown(format!("{name}(...)")));
    }
    let result = of_numbers(name, &args).or_else(|| of_strings(name, &args)).or_else(|| of_collections(name, &args));
    result.unwrap_or_else(|| Err(format!("`{name}` of {} is not among what this check can work out", kinds(&args))))
}

/// Those whose answer depends on every character.
const OF_WHOLE_STRINGS: &[&str] = &[
    "base64encode",
    "base64sha256",
    "can",
    "contains",
    "endswith",
    "jsondecode",
    "md5",
    "regex",
    "regexall",
    "sha1",
    "sha256",
    "split",
    "startswith",
    "strcontains",
    "substr",
];

fn kinds(args: &[Value]) -> String {
    args.iter().map(Value::kind).collect::<Vec<_>>().join(", ")
}

type Answer = Option<Result<Value, String>>;

fn of_numbers(name: &str, args: &[Value]) -> Answer {
    let numbers: Option<Vec<f64>> = match args {
        [Value::List(values) | Value::Set(values)] => values.iter().map(Value::as_number).collect(),
        args => args.iter().map(Value::as_number).collect(),
    };
    let numbers = numbers?;
    let number = match (name, numbers.as_slice()) {
        ("abs", [a]) => a.abs(),
        ("ceil", [a]) => a.ceil(),
        ("floor", [a]) => a.floor(),
        ("signum", [a]) => a.signum(),
        ("pow", [a, b]) => a.powf(*b),
        ("log", [a, b]) => a.log(*b),
        ("max", [first, rest @ ..]) => rest.iter().copied().fold(*first, f64::max),
        ("min", [first, rest @ ..]) => rest.iter().copied().fold(*first, f64::min),
        ("sum", numbers) => numbers.iter().sum(),
        ("range", [end]) => return Some(Ok(range(0.0, *end, 1.0))),
        ("range", [begin, end]) => return Some(Ok(range(*begin, *end, 1.0))),
        ("range", [begin, end, step]) if *step > 0.0 => return Some(Ok(range(*begin, *end, *step))),
        _ => return None,
    };
    Some(Ok(Value::Number(number)))
}

fn range(begin: f64, end: f64, step: f64) -> Value {
    let steps = std::iter::successors(Some(begin), |at| Some(at + step)).take_while(|at| *at < end);
    Value::List(steps.map(Value::Number).collect())
}

fn of_strings(name: &str, args: &[Value]) -> Answer {
    use Value::{Bool, Number, String};
    let value = match (name, args) {
        ("tostring", [Value::Null]) | ("tonumber", [Value::Null]) | ("tobool", [Value::Null]) => Value::Null,
        ("tostring", [value]) => String(value.text()?),
        ("tonumber", [value]) => match value.as_number() {
            Some(number) => Number(number),
            None => return Some(Err(format!("{} is no number", value.kind()))),
        },
        ("tobool", [Bool(value)]) => Bool(*value),
        ("tobool", [String(text)]) => Bool(text.parse().ok()?),
        ("lower", [String(text)]) => String(text.to_lowercase()),
        ("upper", [String(text)]) => String(text.to_uppercase()),
        ("title", [String(text)]) => String(title(text)),
        ("trimspace", [String(text)]) => Value::string(text.trim()),
        ("chomp", [String(text)]) => Value::string(text.trim_end_matches(['\n', '\r'])),
        ("strrev", [String(text)]) => String(text.chars().rev().collect()),
        ("basename", [String(text)]) => Value::string(text.rsplit('/').next().unwrap_or_default()),
        ("dirname", [String(text)]) => Value::string(text.rsplit_once('/').map_or(".", |(dir, _)| dir)),
        ("abspath", [String(text)]) => Value::string(text.as_str()),
        ("trim", [String(text), String(set)]) => Value::string(text.trim_matches(|c| set.contains(c))),
        ("trimprefix", [String(text), String(prefix)]) => {
            Value::string(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        ("trimsuffix", [String(text), String(suffix)]) => {
            Value::string(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        ("startswith", [String(text), String(part)]) => Bool(text.starts_with(part.as_str())),
        ("endswith", [String(text), String(part)]) => Bool(text.ends_with(part.as_str())),
        ("strcontains", [String(text), String(part)]) => Bool(text.contains(part.as_str())),
        ("split", [String(separator), String(text)]) => {
            Value::List(text.split(separator.as_str()).map(Value::string).collect())
        }
        ("substr", [String(text), begin, length]) => substr(text, begin.as_number()?, length.as_number()?),
        ("replace", [String(text), String(old), String(new)]) => match replace(text, old, new) {
            Ok(text) => String(text),
            Err(why) => return Some(Err(why)),
        },
        ("regex", [String(pattern), String(text)]) => return Some(regex(pattern, text)),
        ("regexall", [String(pattern), String(text)]) => match compiled(pattern) {
            Ok(regex) => Value::List(regex.captures_iter(text).map(|found| captured(&regex, &found)).collect()),
            Err(why) => return Some(Err(why)),
        },
        ("join", [String(separator), lists @ ..]) => {
            let parts: Option<Vec<_>> = lists.iter().flat_map(|list| list.elements()).map(Value::text).collect();
            String(parts?.join(separator))
        }
        ("format", [String(format), args @ ..]) => return Some(self::format(format, args).map(String)),
        ("formatlist", [String(format), args @ ..]) => return Some(formatlist(format, args)),
        ("indent", [spaces, String(text)]) => {
            String(text.replace('\n', &format!("\n{}", " ".repeat(spaces.as_number()? as usize))))
        }
        ("jsondecode", [String(text)]) => match serde_json::from_str(text) {
            Ok(json) => Value::of_json(&json),
            Err(error) => return Some(Err(format!("no JSON: {error}"))),
        },
        ("jsonencode", [value]) => String(value.to_json().to_string()),
        ("sensitive" | "nonsensitive", [value]) => value.clone(),
        // Nothing here looks at what these come to.
        (
            "base64encode" | "base64gzip" | "base64sha256" | "md5" | "sha1" | "sha256" | "yamlencode" | "cidrsubnet"
            | "cidrhost" | "cidrnetmask" | "timestamp" | "plantimestamp" | "formatdate" | "timeadd" | "uuid" | "uuidv5",
            args,
        ) => Value::Unknown(format!("{name}({})", args.iter().filter_map(Value::text).collect::<Vec<_>>().join(", "))),
        _ => return None,
    };
    Some(Ok(value))
}

fn title(text: &str) -> String {
    let mut begins = true;
    let mut word = |c: char| {
        let first = std::mem::replace(&mut begins, !c.is_alphanumeric());
        if first { c.to_ascii_uppercase() } else { c }
    };
    text.chars().map(&mut word).collect()
}

fn substr(text: &str, begin: f64, length: f64) -> Value {
    let chars: Vec<char> = text.chars().collect();
    let begin = if begin < 0.0 { chars.len().saturating_sub(-begin as usize) } else { begin as usize };
    let rest = chars.into_iter().skip(begin);
    Value::String(if length < 0.0 { rest.collect() } else { rest.take(length as usize).collect() })
}

/// A pattern between slashes is a regular expression.
fn replace(text: &str, old: &str, new: &str) -> Result<String, String> {
    match old.strip_prefix('/').and_then(|old| old.strip_suffix('/')) {
        Some(pattern) => Ok(compiled(pattern)?.replace_all(text, new).into_owned()),
        None => Ok(text.replace(old, new)),
    }
}

fn regex(pattern: &str, text: &str) -> Result<Value, String> {
    let regex = compiled(pattern)?;
    let found = regex.captures(text).ok_or(format!("`{text}` does not match {pattern}"))?;
    Ok(captured(&regex, &found))
}

/// A brace that begins no repetition stands for itself.
fn compiled(pattern: &str) -> Result<Regex, String> {
    static REPETITION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\{\d+(,\d*)?\}").expect("the pattern is one"));
    let mut plain = String::new();
    for (at, c) in pattern.char_indices() {
        if c == '{' && !plain.ends_with('\\') && !REPETITION.is_match(&pattern[at..]) {
            plain.push('\\');
        }
        plain.push(c);
    }
    Regex::new(&plain).map_err(|error| format!("{pattern}: {error}"))
}

fn captured(regex: &Regex, found: &regex_lite::Captures<'_>) -> Value {
    let group = |group: Option<regex_lite::Match<'_>>| group.map_or(Value::Null, |group| Value::string(group.as_str()));
    let names: Vec<&str> = regex.capture_names().flatten().collect();
    if !names.is_empty() {
        return Value::Map(names.iter().map(|name| ((*name).to_owned(), group(found.name(name)))).collect());
    }
    match found.len() {
        1 => group(found.get(0)),
        groups => Value::List((1..groups).map(|at| group(found.get(at))).collect()),
    }
}

fn format(format: &str, args: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let flags: String =
            std::iter::from_fn(|| chars.next_if(|c| c.is_ascii_digit() || ".-+ #".contains(*c))).collect();
        let verb = chars.next().ok_or("a format ends in %")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let arg = args.next().ok_or(format!("`{format}` wants more arguments"))?;
        let text = match verb {
            'q' | 'v' if arg.text().is_none() => arg.to_json().to_string(),
            'q' => Value::String(arg.text().unwrap_or_default()).to_json().to_string(),
            _ => arg.text().ok_or(format!("{} in a format", arg.kind()))?,
        };
        let width: usize = flags.trim_start_matches('0').parse().unwrap_or_default();
        let fill = if flags.starts_with('0') { "0" } else { " " };
        out.push_str(&fill.repeat(width.saturating_sub(text.chars().count())));
        out.push_str(&text);
    }
    match args.next() {
        Some(_) => Err(format!("`{format}` has fewer places than there are arguments")),
        None => Ok(out),
    }
}

fn formatlist(format: &str, args: &[Value]) -> Result<Value, String> {
    let lists = args.iter().filter(|arg| matches!(arg, Value::List(_) | Value::Set(_)));
    let length = lists.map(|list| list.elements().len()).max().unwrap_or(1);
    let row = |at: usize| -> Result<Value, String> {
        let pick = |arg: &Value| match arg {
            Value::List(values) | Value::Set(values) => values.get(at).cloned().ok_or("lists of different lengths"),
            other => Ok(other.clone()),
        };
        let args: Vec<Value> = args.iter().map(pick).collect::<Result<_, _>>()?;
        self::format(format, &args).map(Value::String)
    };
    Ok(Value::List((0..length).map(row).collect::<Result<_, _>>()?))
}

fn of_collections(name: &str, args: &[Value]) -> Answer {
    use Value::{Bool, List, Map, Number, Set};
    let value = match (name, args) {
        ("length", [List(values) | Set(values)]) => Number(values.len() as f64),
        ("length", [Map(fields)]) => Number(fields.len() as f64),
        ("length", [Value::String(text)]) => Number(text.chars().count() as f64),
        ("keys", [Map(fields)]) => List(fields.keys().map(Value::string).collect()),
        ("values", [Map(fields)]) => List(fields.values().cloned().collect()),
        ("tolist", [List(values) | Set(values)]) => List(values.clone()),
        ("toset", [List(values) | Set(values)]) => Value::set(values.clone()),
        ("tomap", [Map(fields)]) => Map(fields.clone()),
        ("tolist" | "toset" | "tomap", [Value::Null]) => Value::Null,
        ("lookup", [Map(fields), Value::String(key)]) => match fields.get(key) {
            Some(value) => value.clone(),
            None => return Some(Err(format!("there is no key {key}"))),
        },
        ("lookup", [Map(fields), Value::String(key), default]) => fields.get(key).unwrap_or(default).clone(),
        ("merge", maps) => {
            if let Some(Value::Unknown(address)) = maps.iter().find(|map| matches!(map, Value::Unknown(_))) {
                return Some(Ok(Value::Unknown(format!("merge({address})"))));
            }
            let mut merged = BTreeMap::new();
            for map in maps {
                match map {
                    Map(fields) => merged.extend(fields.clone()),
                    Value::Null => {}
                    other => return Some(Err(format!("`merge` of {}", other.kind()))),
                }
            }
            Map(merged)
        }
        ("concat", lists) => match lists.iter().find(|list| !matches!(list, List(_) | Set(_))) {
            Some(Value::Unknown(address)) => Value::Unknown(format!("concat({address})")),
            Some(other) => return Some(Err(format!("`concat` of {}", other.kind()))),
            None => List(lists.iter().flat_map(|list| list.elements().to_vec()).collect()),
        },
        ("flatten", [List(values) | Set(values)]) => List(flat(values)),
        ("flatten", [Value::Unknown(address)]) => Value::Unknown(format!("flatten({address})")),
        ("compact", [List(values) | Set(values)]) => {
            let empty = |value: &Value| matches!(value, Value::Null) || value.as_str() == Some("");
            List(values.iter().filter(|value| !empty(value)).cloned().collect())
        }
        ("distinct", [List(values) | Set(values)]) => {
            let mut seen: Vec<Value> = Vec::new();
            for value in values {
                if !seen.contains(value) {
                    seen.push(value.clone());
                }
            }
            List(seen)
        }
        ("contains", [List(values) | Set(values), value]) if values.contains(value) => Bool(true),
        ("contains", [List(values) | Set(values), value]) if value.is_known() && values.iter().all(Value::is_known) => {
            Bool(false)
        }
        ("contains", _) => Value::Unknown("contains(...)".to_owned()),
        ("index", [List(values), value]) => match values.iter().position(|other| other == value) {
            Some(at) => Number(at as f64),
            None => return Some(Err("the list has no such element".to_owned())),
        },
        ("element", [List(values) | Set(values), at]) if !values.is_empty() => {
            values[at.as_number()? as usize % values.len()].clone()
        }
        ("slice", [List(values), begin, end]) => {
            match values.get(begin.as_number()? as usize..end.as_number()? as usize) {
                Some(part) => List(part.to_vec()),
                None => return Some(Err("`slice` beyond the list".to_owned())),
            }
        }
        ("reverse", [List(values)]) => List(values.iter().rev().cloned().collect()),
        ("sort", [List(values) | Set(values)]) => match Value::set(values.clone()) {
            Set(_) => {
                let mut texts: Vec<String> = values.iter().map(Value::text).collect::<Option<_>>()?;
                texts.sort();
                List(texts.into_iter().map(Value::String).collect())
            }
            _ => return None,
        },
        ("one", [List(values) | Set(values)]) => match values.as_slice() {
            [] => Value::Null,
            [value] => value.clone(),
            _ => return Some(Err("`one` of several".to_owned())),
        },
        ("alltrue", [List(values) | Set(values)]) => decided(name, values, false),
        ("anytrue", [List(values) | Set(values)]) => decided(name, values, true),
        ("coalesce", values) => {
            match values.iter().find(|value| !matches!(value, Value::Null) && value.as_str() != Some("")) {
                Some(value) => value.clone(),
                None => return Some(Err("`coalesce` of nothing".to_owned())),
            }
        }
        ("coalescelist", lists) => lists.iter().find(|list| !list.elements().is_empty())?.clone(),
        ("setunion", sets) => Value::set(sets.iter().flat_map(|set| set.elements().to_vec())),
        ("setintersection", [first, rest @ ..]) => {
            let in_all = |value: &&Value| rest.iter().all(|set| set.elements().contains(value));
            Value::set(first.elements().iter().filter(in_all).cloned())
        }
        ("setsubtract", [all, without]) => {
            Value::set(all.elements().iter().filter(|value| !without.elements().contains(value)).cloned())
        }
        ("setproduct", lists) => product(lists)?,
        ("zipmap", [List(keys), List(values)]) if keys.len() == values.len() => {
            let keys: Option<Vec<String>> = keys.iter().map(Value::text).collect();
            Map(keys?.into_iter().zip(values.iter().cloned()).collect())
        }
        ("chunklist", [List(values), size]) => {
            let size = size.as_number()?.max(1.0) as usize;
            List(values.chunks(size).map(|chunk| List(chunk.to_vec())).collect())
        }
        ("transpose", [Map(fields)]) => {
            let mut transposed: BTreeMap<String, Vec<Value>> = BTreeMap::new();
            for (key, values) in fields {
                for value in values.elements() {
                    transposed.entry(value.text()?).or_default().push(Value::string(key));
                }
            }
            Map(transposed.into_iter().map(|(key, values)| (key, List(values))).collect())
        }
        _ => return None,
    };
    Some(Ok(value))
}

/// `alltrue` and `anytrue`: one value decides, whatever the unknown ones are.
fn decided(name: &str, values: &[Value], by: bool) -> Value {
    match values {
        values if values.contains(&Value::Bool(by)) => Value::Bool(by),
        values if values.iter().all(Value::is_known) => Value::Bool(!by),
        _ => Value::Unknown(format!("{name}(...)")),
    }
}

fn flat(values: &[Value]) -> Vec<Value> {
    let inner = |value: &Value| match value {
        Value::List(values) | Value::Set(values) => flat(values),
        other => vec![other.clone()],
    };
    values.iter().flat_map(inner).collect()
}

fn product(lists: &[Value]) -> Option<Value> {
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for list in lists {
        let (Value::List(values) | Value::Set(values)) = list else {
            return Some(Value::Unknown("setproduct(...)".to_owned()));
        };
        let longer = |row: &Vec<Value>| {
            let row = row.clone();
            values
                .iter()
                .map(move |value| row.iter().cloned().chain([value.clone()]).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        rows = rows.iter().flat_map(longer).collect();
    }
    Some(Value::List(rows.into_iter().map(Value::List).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_functions_and_they_take_what_they_take() {
        assert_eq!(mistake("length", 1, false), None);
        assert_eq!(mistake("merge", 1, true), None);
        assert_eq!(mistake("format", 4, false), None);
        assert!(mistake("length", 2, false).unwrap().contains("takes 1"));
        assert!(mistake("lenght", 1, false).unwrap().contains("no function"));
    }

    #[test]
    fn functions_come_to_what_terraform_says() {
        let text = Value::string;
        let list = |texts: &[&str]| Value::List(texts.iter().map(|t| Value::string(*t)).collect());
        for (name, args, wanted) in [
            ("format", vec![text("%s-%03d%%"), text("a"), Value::Number(7.0)], text("a-007%")),
            ("trimsuffix", vec![text("a.fifo"), text(".fifo")], text("a")),
            ("substr", vec![text("hello"), Value::Number(1.0), Value::Number(-1.0)], text("ello")),
            ("replace", vec![text("a-b"), text("/[^a-z]/"), text("")], text("ab")),
            ("regex", vec![text("^(\\w+)-"), text("work-cpu")], list(&["work"])),
            ("join", vec![text(","), list(&["a", "b"])], text("a,b")),
            ("title", vec![text("dead letters")], text("Dead Letters")),
            ("max", vec![Value::Number(1.0), Value::Number(3.0)], Value::Number(3.0)),
            ("sum", vec![Value::List(vec![Value::Number(1.0), Value::Number(3.0)])], Value::Number(4.0)),
            (
                "setproduct",
                vec![list(&["a"]), list(&["x", "y"])],
                Value::List(vec![list(&["a", "x"]), list(&["a", "y"])]),
            ),
            ("coalesce", vec![Value::Null, text(""), text("x")], text("x")),
            ("upper", vec![Value::Unknown("var.x".to_owned())], Value::Unknown("upper(var.x)".to_owned())),
        ] {
            assert_eq!(call(name, args).unwrap(), wanted, "{name}");
        }
        assert!(call("regex", vec![text("^x"), text("y")]).unwrap_err().contains("does not match"));
        assert!(call("one", vec![list(&["a", "b"])]).is_err());
    }
}
