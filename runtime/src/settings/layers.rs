//! The layers: one value a key, from wherever it was said last, and every mistake with its place.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::http::auth::{MIN_TOKEN, token_mistakes};
use crate::http::{Role, Token};
use push0_core::Pool;
use push0_core::Principal;
use push0_core::pipeline::Mistakes;
use push0_core::topology::LONGEST_PREFIX;
use toml::{Table, Value};

use super::Sources;

/// Most tokens of a configuration.
const MAX_TOKENS: usize = 1_000;

/// Every plain setting: its key in the file, and its variable.
const KEYS: [(&str, &str); 35] = [
    ("data", "PUSH0_DATA"),
    ("durability", "PUSH0_DURABILITY"),
    ("listen", "PUSH0_LISTEN"),
    ("workers.count", "PUSH0_WORKERS"),
    ("workers.pools", "PUSH0_POOLS"),
    ("workers.slots", "PUSH0_SLOTS"),
    ("workers.threads", "PUSH0_THREADS"),
    ("workers.lease_ms", "PUSH0_LEASE_MS"),
    ("workers.drain_ms", "PUSH0_DRAIN_MS"),
    ("workers.turn_every", "PUSH0_TURN_EVERY"),
    ("workers.linger_ms", "PUSH0_LINGER_MS"),
    ("workers.only_local", "PUSH0_ONLY_LOCAL"),
    ("functions.concurrency", "PUSH0_CONCURRENCY"),
    ("functions.reaper_ms", "PUSH0_REAPER_MS"),
    ("functions.lease_ms", "PUSH0_FUNCTIONS_LEASE_MS"),
    ("storage.reserve_mib", "PUSH0_RESERVE_MIB"),
    ("storage.limit_mib", "PUSH0_LIMIT_MIB"),
    ("retention.grace_s", "PUSH0_GRACE_S"),
    ("retention.keep_blocks", "PUSH0_KEEP_BLOCKS"),
    ("retention.witnesses", "PUSH0_DELETE_WITNESSES"),
    ("retention.finalized_s", "PUSH0_FINALIZED_S"),
    ("aws.prefix", "PUSH0_AWS_PREFIX"),
    ("aws.endpoint", "PUSH0_AWS_ENDPOINT"),
    ("ec2.mode", "PUSH0_EC2"),
    ("ec2.group", "PUSH0_EC2_GROUP"),
    ("ec2.launch_hook", "PUSH0_EC2_LAUNCH_HOOK"),
    ("ec2.termination_hook", "PUSH0_EC2_TERMINATION_HOOK"),
    ("ec2.drain_s", "PUSH0_EC2_DRAIN_S"),
    ("ec2.rebalance", "PUSH0_EC2_REBALANCE"),
    ("gpu.mode", "PUSH0_GPU"),
    ("gpu.library", "PUSH0_GPU_LIBRARY"),
    ("gpu.look_ms", "PUSH0_GPU_LOOK_MS"),
    ("gpu.log_s", "PUSH0_GPU_LOG_S"),
    ("gpu.self_test", "PUSH0_GPU_SELF_TEST"),
    ("gpu.again_s", "PUSH0_GPU_AGAIN_S"),
];

/// A value, and where it was said.
struct Given {
    value: Value,
    place: String,
    from_file: bool,
}

/// Hands out values and collects mistakes.
pub(super) struct Reader {
    given: BTreeMap<&'static str, Given>,
    /// `[[chain]]` tables.
    pub(super) chains: Vec<Table>,
    tokens: Vec<Table>,
    mistakes: Vec<String>,
}

impl Reader {
    pub(super) fn new(text: &str, sources: &Sources) -> Result<Self, Mistakes> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| Mistakes(vec![error.to_string()]))?;
        let mut reader = Self { given: BTreeMap::new(), chains: Vec::new(), tokens: Vec::new(), mistakes: Vec::new() };
        reader.take_file(table);
        for (key, variable) in KEYS {
            if let Some(text) = sources.env.get(variable) {
                reader.given.insert(key, said(text, variable));
            }
        }
        for (key, text) in &sources.flags {
            let place = format!("--{}", flag_name(key));
            reader.given.insert(key, said(text, &place));
        }
        Ok(reader)
    }

    fn take_file(&mut self, table: Table) {
        for (name, value) in table {
            match (name.as_str(), value) {
                ("chain", value) => self.chains = self.tables("chain", value),
                ("token", value) => self.tokens = self.tables("token", value),
                ("workers" | "functions" | "storage" | "retention" | "aws" | "ec2" | "gpu", Value::Table(section)) => {
                    for (key, value) in section {
                        self.take_value(&format!("{name}.{key}"), value);
                    }
                }
                ("workers" | "functions" | "storage" | "retention" | "aws" | "ec2" | "gpu", _) => {
                    self.mistake(&name, "must be a table")
                }
                (_, value) => self.take_value(&name, value),
            }
        }
    }

    fn take_value(&mut self, name: &str, value: Value) {
        match KEYS.iter().find(|(key, _)| *key == name) {
            Some((key, _)) => {
                self.given.insert(key, Given { value, place: format!("`{key}`"), from_file: true });
            }
            None => {
                let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).chain(["[[chain]]", "[[token]]"]).collect();
                self.mistakes.push(format!("unknown key `{name}`; known: {}", known.join(", ")));
            }
        }
    }

    fn tables(&mut self, name: &str, value: Value) -> Vec<Table> {
        let tables: Option<Vec<Table>> =
            value.as_array().and_then(|items| items.iter().map(|item| item.as_table().cloned()).collect());
        tables.unwrap_or_else(|| {
            self.mistake(name, format_args!("must be tables: write [[{name}]]"));
            Vec::new()
        })
    }

    pub(super) fn mistake(&mut self, at: &str, what: impl Display) {
        self.mistakes.push(format!("{at}: {what}"));
    }

    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.is_empty()
    }

    pub(super) fn finish(self) -> Result<(), Mistakes> {
        if self.mistakes.is_empty() { Ok(()) } else { Err(Mistakes(self.mistakes)) }
    }

    /// Of names in an account: S3's rules are the narrowest, SQS's the shortest.
    pub(super) fn prefix(&mut self, key: &str) -> Option<String> {
        let prefix = self.text(key)?;
        let is_plain = prefix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let starts_well = prefix.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if (1..=LONGEST_PREFIX).contains(&prefix.len()) && is_plain && starts_well && !prefix.ends_with('-') {
            return Some(prefix);
        }
        let place = self.given.get(key).map_or(key.to_owned(), |given| given.place.clone());
        self.mistake(
            &place,
            format_args!("{prefix:?} is no prefix: 1 to {LONGEST_PREFIX} of a-z, 0-9 and -, no - at either end"),
        );
        None
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let given = self.given.get(key)?;
        match &given.value {
            Value::String(text) => Some(text.clone()),
            // A variable or flag whose text looks like a number.
            Value::Integer(number) if !given.from_file => Some(number.to_string()),
            _ => {
                let place = given.place.clone();
                self.mistake(&place, "must be text");
                None
            }
        }
    }

    /// A path; one from the file is relative to the file's directory.
    pub(super) fn path(&mut self, key: &str, directory: &Path) -> Option<PathBuf> {
        let from_file = self.given.get(key)?.from_file;
        let path = PathBuf::from(self.text(key)?);
        Some(if from_file { directory.join(path) } else { path })
    }

    pub(super) fn one_of(&mut self, key: &str, choices: &[&'static str]) -> Option<&'static str> {
        let text = self.text(key)?;
        let found = choices.iter().find(|choice| **choice == text).copied();
        if found.is_none() {
            let place = self.given.get(key).map(|given| given.place.clone()).unwrap_or_default();
            self.mistake(&place, format_args!("{text:?} is not one of {}", choices.join(", ")));
        }
        found
    }

    pub(super) fn integer(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("must be a whole number from {} to {}", range.start(), range.end());
        self.whole(key, |number| range.contains(&number), &wanted)
    }

    /// 0 stands for something else than a small number.
    pub(super) fn zero_or(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("must be 0, or a whole number from {} to {}", range.start(), range.end());
        self.whole(key, |number| number == 0 || range.contains(&number), &wanted)
    }

    fn whole(&mut self, key: &str, is_fit: impl Fn(u64) -> bool, wanted: &str) -> Option<u64> {
        let given = self.given.get(key)?;
        let number = given.value.as_integer().and_then(|number| u64::try_from(number).ok());
        let fit = number.filter(|number| is_fit(*number));
        if fit.is_none() {
            let place = given.place.clone();
            self.mistake(&place, wanted);
        }
        fit
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let given = self.given.get(key)?;
        let value = match &given.value {
            Value::Boolean(value) => Some(*value),
            Value::String(text) if !given.from_file => text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            let place = given.place.clone();
            self.mistake(&place, "must be true or false");
        }
        value
    }

    /// Names of pools: a list in the file, separated by commas elsewhere.
    pub(super) fn pools(&mut self, key: &str) -> Option<Vec<Pool>> {
        let given = self.given.get(key)?;
        let place = given.place.clone();
        let names: Option<Vec<String>> = match &given.value {
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::String(text) => Some(text.split(',').map(|name| name.trim().to_owned()).collect()),
            Value::Integer(number) => Some(vec![number.to_string()]),
            _ => None,
        };
        let Some(names) = names else {
            self.mistake(&place, "must be a list of pool names");
            return None;
        };
        let mut pools = Vec::new();
        for name in names.iter().filter(|name| !name.is_empty()) {
            match name.parse::<Pool>() {
                Ok(pool) if pool.is_trusted() => {
                    self.mistake(&place, "pool `trusted` has its worker always and is not listed");
                }
                Ok(pool) => pools.push(pool),
                Err(error) => self.mistake(&place, error),
            }
        }
        Some(pools)
    }

    /// `[[token]]` tables: `role`, `pool` for a worker's, `name`, and `value` or `file`; with the files.
    pub(super) fn tokens(&mut self, directory: &Path) -> (Vec<Token>, Vec<PathBuf>) {
        let (mut tokens, mut files) = (Vec::new(), Vec::new());
        if self.tokens.len() > MAX_TOKENS {
            let what = format_args!("there are {}; at most {MAX_TOKENS} are possible", self.tokens.len());
            self.mistake("[[token]]", what);
            return (tokens, files);
        }
        for (position, table) in std::mem::take(&mut self.tokens).into_iter().enumerate() {
            let at = format!("[[token]] {}", position + 1);
            self.only_keys(&table, &at, &["name", "role", "pool", "value", "file"]);
            let role = self.role(&table, &at);
            let secret = self.secret(&table, &at, directory, &mut files);
            let name = match table.contains_key("name") {
                true => self.optional(&table, &at, "name"),
                false => role.as_ref().and_then(|role| self.derived_name(&table, &at, role, position)),
            };
            if let Some(name) = name.as_ref().filter(|name: &&Principal| is_reserved(name)) {
                self.mistake(&at, format_args!("the name {name} is a local worker's: choose another"));
            }
            if let (Some(name), Some(role), Some(secret)) = (name, role, secret) {
                tokens.push(Token::new(secret, name, role));
            }
        }
        for mistake in token_mistakes(&tokens) {
            self.mistake("[[token]]", mistake);
        }
        (tokens, files)
    }

    /// `rack1` for `file = "rack1.token"`; else after the role or pool, and where it stands.
    fn derived_name(&mut self, table: &Table, at: &str, role: &Role, position: usize) -> Option<Principal> {
        let stem = || Path::new(table.get("file")?.as_str()?).file_stem()?.to_str()?.parse().ok();
        let role = match role {
            Role::Operator => "operator",
            Role::Trusted => "trusted",
            Role::Worker { pool } => pool.as_str(),
        };
        let name: Option<Principal> = stem().or_else(|| format!("{role}-{}", position + 1).parse().ok());
        if name.is_none() {
            self.mistake(at, "`name` is missing");
        }
        name
    }

    fn role(&mut self, table: &Table, at: &str) -> Option<Role> {
        let role: String = self.required(table, at, "role")?;
        match role.as_str() {
            "operator" => Some(Role::Operator),
            "trusted" => Some(Role::Trusted),
            "worker" => Some(Role::Worker { pool: self.required(table, at, "pool")? }),
            other => {
                self.mistake(at, format_args!("`role` is operator, trusted or worker, not {other:?}"));
                None
            }
        }
    }

    fn secret(&mut self, table: &Table, at: &str, directory: &Path, files: &mut Vec<PathBuf>) -> Option<String> {
        let secret = match (table.contains_key("value"), table.contains_key("file")) {
            (true, false) => self.required::<String>(table, at, "value")?,
            (false, true) => {
                let path = directory.join(self.required::<String>(table, at, "file")?);
                match super::read_text(&path) {
                    Ok(text) => {
                        files.push(path);
                        text.trim().to_owned()
                    }
                    Err(error) => {
                        self.mistake(at, format_args!("cannot read {}: {error}", path.display()));
                        return None;
                    }
                }
            }
            _ => {
                self.mistake(at, "it needs either `value` or `file`");
                return None;
            }
        };
        if secret.len() < MIN_TOKEN {
            self.mistake(at, "a token has at least 16 characters: make one with `push0 token new`");
            return None;
        }
        Some(secret)
    }

    pub(super) fn only_keys(&mut self, table: &Table, at: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.mistake(at, format_args!("unknown key `{key}`; known here: {}", known.join(", ")));
        }
    }

    pub(super) fn required<T: FromStr<Err: Display>>(&mut self, table: &Table, at: &str, key: &str) -> Option<T> {
        if !table.contains_key(key) {
            self.mistake(at, format_args!("`{key}` is missing"));
        }
        self.optional(table, at, key)
    }

    /// A text value, parsed.
    pub(super) fn optional<T: FromStr<Err: Display>>(&mut self, table: &Table, at: &str, key: &str) -> Option<T> {
        let Some(text) = table.get(key)?.as_str() else {
            self.mistake(at, format_args!("`{key}` must be text"));
            return None;
        };
        text.parse().map_err(|error| self.mistake(at, format_args!("`{key}`: {error}"))).ok()
    }

    /// A word out of a few.
    pub(super) fn choice<'w>(&mut self, table: &Table, at: &str, key: &str, words: &[&'w str]) -> Option<&'w str> {
        let given: String = self.optional(table, at, key)?;
        let word = words.iter().find(|word| **word == given).copied();
        if word.is_none() {
            self.mistake(at, format_args!("`{key}`: {given:?} is not one of {}", words.join(", ")));
        }
        word
    }

    pub(super) fn number(&mut self, table: &Table, at: &str, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = table.get(key)?.as_integer().and_then(|number| u64::try_from(number).ok());
        let within = number.filter(|number| range.contains(number));
        if within.is_none() {
            self.mistake(at, format_args!("`{key}` must be a whole number from {} to {}", range.start(), range.end()));
        }
        within
    }
}

/// `local-POOL-N` are the workers that `up` starts.
fn is_reserved(name: &Principal) -> bool {
    name.as_str() == "local" || name.as_str().starts_with("local-")
}

fn said(text: &str, place: &str) -> Given {
    let value = match text.parse::<i64>() {
        Ok(number) => Value::Integer(number),
        Err(_) => Value::String(text.to_owned()),
    };
    Given { value, place: place.to_owned(), from_file: false }
}

/// `workers.lease_ms` is set by `--lease-ms`, `workers.count` by `--workers`.
fn flag_name(key: &str) -> String {
    match key {
        "workers.count" => "workers".to_owned(),
        "ec2.mode" => "ec2".to_owned(),
        _ => key.rsplit('.').next().unwrap_or(key).replace('_', "-"),
    }
}
