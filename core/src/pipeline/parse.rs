//! Reading a pipeline file: every mistake listed at once, each with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use toml::{Table, Value};

use super::{
    ARITY, Arity, EXECUTABLE, Form, Hedging, Kind, MAX_FILE, MOST_COPIES, Pipeline, Policy, ProverCommand, SelfTest,
    Stage, StagePolicy,
};
use crate::id::{Millis, Pool, ProverName, Sha256, StageName};

/// A pipeline file as parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineFile {
    pub pipeline: Pipeline,
    pub policy: Policy,
    pub provers: BTreeMap<ProverName, ProverCommand>,
    /// What provers are tried with before their worker takes tasks.
    pub self_tests: BTreeMap<ProverName, SelfTest>,
}

/// Everything that is wrong with a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Parses a pipeline file (TOML; `examples/rollup.toml` has every key with its meaning).
pub fn parse(text: &str) -> Result<PipelineFile, Mistakes> {
    if text.len() > MAX_FILE {
        return Err(Mistakes(vec![format!("the file has {} bytes; at most {MAX_FILE} are possible", text.len())]));
    }
    let table: Table = text.parse().map_err(|error: toml::de::Error| Mistakes(vec![error.to_string()]))?;
    let mut reader = Reader::default();
    let file = reader.file(&table);
    match file {
        Some(file) if reader.mistakes.is_empty() => Ok(file),
        _ => Err(Mistakes(reader.mistakes)),
    }
}

/// Collects mistakes while it reads; a `None` from any method has left at least one.
#[derive(Default)]
struct Reader {
    mistakes: Vec<String>,
}

impl Reader {
    fn mistake(&mut self, at: &str, what: impl fmt::Display) {
        self.mistakes.push(if at.is_empty() { what.to_string() } else { format!("{at}: {what}") });
    }

    fn file(&mut self, table: &Table) -> Option<PipelineFile> {
        self.only_keys(table, "", &["name", "stage", "policy", "prover"]);
        let name = self.required(table, "", "name");
        let provers = self.provers(table);
        let stages = self.stages(table, provers.keys());
        let policy = self.policy(table, &stages);
        let programs: BTreeMap<_, _> = provers
            .iter()
            .filter(|(_, (_, programs))| !programs.is_empty())
            .map(|(name, (_, programs))| (name.clone(), programs.clone()))
            .collect();
        let self_tests = self.self_tests(table, &stages);
        let provers = provers.into_iter().map(|(name, (command, _))| (name, command)).collect();
        // A file that has no name, or none that is one, still hears all that is wrong with its stages.
        let nameless = || "nameless".parse().expect("a stage name");
        let pipeline = Pipeline { name: name.clone().unwrap_or_else(nameless), stages, programs };
        pipeline.mistakes().into_iter().for_each(|mistake| self.mistake("", mistake));
        Some(PipelineFile { pipeline: Pipeline { name: name?, ..pipeline }, policy, provers, self_tests })
    }

    fn only_keys(&mut self, table: &Table, at: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.mistake(at, format_args!("unknown key `{key}`; known here: {}", known.join(", ")));
        }
    }

    fn required<T: FromStr<Err: fmt::Display>>(&mut self, table: &Table, at: &str, key: &str) -> Option<T> {
        if !table.contains_key(key) {
            self.mistake(at, format_args!("`{key}` is missing"));
        }
        self.text(table, at, key)
    }

    /// An optional text value, parsed.
    fn text<T: FromStr<Err: fmt::Display>>(&mut self, table: &Table, at: &str, key: &str) -> Option<T> {
        let Some(text) = table.get(key)?.as_str() else {
            self.mistake(at, format_args!("`{key}` must be text"));
            return None;
        };
        text.parse().map_err(|error| self.mistake(at, format_args!("`{key}`: {error}"))).ok()
    }

    fn integer(&mut self, table: &Table, at: &str, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let number = table.get(key)?.as_integer().and_then(|number| u64::try_from(number).ok());
        let within = number.filter(|number| range.contains(number));
        if within.is_none() {
            self.mistake(at, format_args!("`{key}` must be a whole number from {} to {}", range.start(), range.end()));
        }
        within
    }

    fn boolean(&mut self, table: &Table, at: &str, key: &str) -> Option<bool> {
        let value = table.get(key)?.as_bool();
        if value.is_none() {
            self.mistake(at, format_args!("`{key}` must be true or false"));
        }
        value
    }

    fn subtable<'t>(&mut self, table: &'t Table, at: &str, key: &str) -> Option<&'t Table> {
        let value = table.get(key)?;
        if value.as_table().is_none() {
            self.mistake(at, format_args!("`{key}` must be a table"));
        }
        value.as_table()
    }

    #[allow(clippy::type_complexity)]
    fn provers(&mut self, table: &Table) -> BTreeMap<ProverName, (ProverCommand, BTreeMap<String, Sha256>)> {
        let mut provers = BTreeMap::new();
        let Some(tables) = self.subtable(table, "", "prover") else {
            self.mistake("", "no prover is described: add a [prover.NAME] table with `form` and `command`");
            return provers;
        };
        for (name, value) in tables {
            let at = format!("[prover.{name}]");
            let Some(prover) = value.as_table() else {
                self.mistake(&at, "must be a table");
                continue;
            };
            let memory = ["memory_limit_mib", "gpu_memory_mib"];
            self.only_keys(
                prover,
                &at,
                &[&["form", "command", "programs", "network", "self_test"][..], &memory].concat(),
            );
            let form = self.required::<FormText>(prover, &at, "form").map(|text| text.0);
            let command = self.command(prover, &at);
            let programs = self.programs(prover, &at);
            if form == Some(Form::Exec) && programs.keys().any(|name| name != EXECUTABLE) {
                let what = "an exec-form prover does not say what programs it has: only `executable`, its own file, can be pinned";
                self.mistake(&format!("{at} programs"), what);
            }
            let [memory_limit_mib, gpu_memory_mib] = memory.map(|key| self.integer(prover, &at, key, 1..=1 << 30));
            let network = self.boolean(prover, &at, "network").unwrap_or(true);
            let name = name.parse::<ProverName>().map_err(|error| self.mistake(&at, error)).ok();
            if let (Some(name), Some(form), Some(command)) = (name, form, command) {
                let command = ProverCommand { form, command, memory_limit_mib, gpu_memory_mib, network };
                provers.insert(name, (command, programs));
            }
        }
        provers
    }

    fn self_tests(&mut self, table: &Table, stages: &[Stage]) -> BTreeMap<ProverName, SelfTest> {
        let mut tests = BTreeMap::new();
        for (name, prover) in table.get("prover").and_then(Value::as_table).into_iter().flatten() {
            let (at, Some(prover)) = (format!("[prover.{name}]"), prover.as_table()) else { continue };
            let Some(test) = self.subtable(prover, &at, "self_test") else { continue };
            let at = format!("{at} self_test");
            self.only_keys(test, &at, &["stage", "inputs"]);
            let stage = self.required::<StageName>(test, &at, "stage");
            let inputs = test.get("inputs").and_then(Value::as_array);
            let inputs: Option<Vec<PathBuf>> =
                inputs.and_then(|paths| paths.iter().map(|path| path.as_str().map(PathBuf::from)).collect());
            if inputs.as_ref().is_none_or(Vec::is_empty) {
                self.mistake(&at, "`inputs` must be a list of files: what a task of that stage is given");
            }
            let (Some(stage), Some(inputs), Ok(name)) = (stage, inputs, name.parse::<ProverName>()) else { continue };
            if !stages.iter().any(|known| known.name == stage && known.prover == name) {
                self.mistake(&at, format_args!("`stage`: {stage} is no stage that this prover runs"));
            }
            tests.insert(name, SelfTest { stage, inputs });
        }
        tests
    }

    fn command(&mut self, prover: &Table, at: &str) -> Option<Vec<String>> {
        let words = prover.get("command").and_then(Value::as_array);
        let command: Option<Vec<String>> =
            words.and_then(|words| words.iter().map(|word| word.as_str().map(str::to_owned)).collect());
        let command = command.filter(|command| !command.is_empty());
        if command.is_none() {
            self.mistake(at, "`command` must be a list of texts: the program, then its arguments");
        }
        command
    }

    fn programs(&mut self, prover: &Table, at: &str) -> BTreeMap<String, Sha256> {
        let mut programs = BTreeMap::new();
        let Some(table) = self.subtable(prover, at, "programs") else {
            return programs;
        };
        for name in table.keys() {
            if let Some(digest) = self.text(table, &format!("{at} programs"), name) {
                programs.insert(name.clone(), digest);
            }
        }
        programs
    }

    fn stages<'p>(&mut self, table: &Table, provers: impl Iterator<Item = &'p ProverName>) -> Vec<Stage> {
        let provers: Vec<&ProverName> = provers.collect();
        let Some(items) = table.get("stage").and_then(Value::as_array) else {
            self.mistake("", "there are no stages: add [[stage]] tables, from `split` to `verify`");
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        let mut stages = Vec::new();
        for (position, item) in items.iter().enumerate() {
            let at = format!("stage {}", position + 1);
            let Some(stage) = item.as_table() else {
                self.mistake(&at, "must be a table");
                continue;
            };
            self.only_keys(stage, &at, &["name", "kind", "prover", "arity", "first_arity", "params"]);
            let name = self.required::<StageName>(stage, &at, "name");
            let at = name.as_ref().map_or(at, |name| format!("stage {name:?}", name = name.as_str()));
            if let Some(name) = &name
                && !seen.insert(name.clone())
            {
                self.mistake(&at, "the name is used twice");
            }
            let kind = self.required::<KindText>(stage, &at, "kind").map(|text| text.0);
            let prover = self.stage_prover(stage, &at, &provers);
            let arity = kind.and_then(|kind| self.arity(stage, &at, kind));
            let params = self.params(stage, &at);
            if let (Some(name), Some(kind), Some(prover)) = (name, kind, prover) {
                stages.push(Stage { name, kind, prover, arity, params });
            }
        }
        stages
    }

    /// The stage's prover; where the file describes just one, it need not be named.
    fn stage_prover(&mut self, stage: &Table, at: &str, provers: &[&ProverName]) -> Option<ProverName> {
        if !stage.contains_key("prover") {
            if let [only] = provers {
                return Some((*only).clone());
            }
            self.mistake(at, "`prover` is missing (it may be left out only where the file describes one prover)");
            return None;
        }
        let name: ProverName = self.text(stage, at, "prover")?;
        if !provers.contains(&&name) {
            self.mistake(at, format_args!("prover `{name}` has no [prover.{name}] table"));
        }
        Some(name)
    }

    fn arity(&mut self, stage: &Table, at: &str, kind: Kind) -> Option<Arity> {
        if kind != Kind::Join {
            for key in ["arity", "first_arity"].into_iter().filter(|key| stage.contains_key(*key)) {
                self.mistake(at, format_args!("`{key}` belongs to `join` stages only"));
            }
            return None;
        }
        let range = u64::from(*ARITY.start())..=u64::from(*ARITY.end());
        let rest = self.integer(stage, at, "arity", range.clone()).unwrap_or(2) as u32;
        let first = self.integer(stage, at, "first_arity", range).map_or(rest, |first| first as u32);
        Some(Arity { first, rest })
    }

    fn params(&mut self, stage: &Table, at: &str) -> serde_json::Value {
        let empty = serde_json::Value::Object(serde_json::Map::new());
        let Some(params) = self.subtable(stage, at, "params") else {
            return empty;
        };
        serde_json::to_value(params).unwrap_or_else(|error| {
            self.mistake(at, format_args!("`params` cannot be written as JSON: {error}"));
            empty
        })
    }

    fn policy(&mut self, table: &Table, stages: &[Stage]) -> Policy {
        let mut policies: Vec<StagePolicy> = stages.iter().map(|s| StagePolicy::default_for(s.kind)).collect();
        let Some(policy) = self.subtable(table, "", "policy") else {
            return Policy { stages: policies };
        };
        // `[policy.default]` first, so that a stage's own table wins whatever the order in the file.
        if let Some(default) = self.subtable(policy, "[policy]", "default") {
            for (stage, policy) in stages.iter().zip(&mut policies) {
                self.stage_policy(default, "[policy.default]", stage.kind, policy, true);
            }
        }
        for (name, value) in policy.iter().filter(|(name, _)| name.as_str() != "default") {
            let at = format!("[policy.{name}]");
            let position = stages.iter().position(|stage| stage.name.as_str() == name);
            match (position, value.as_table()) {
                (Some(position), Some(table)) => {
                    self.stage_policy(table, &at, stages[position].kind, &mut policies[position], false);
                }
                (None, _) => self.mistake(&at, "there is no stage of this name"),
                (_, None) => self.mistake(&at, "must be a table"),
            }
        }
        for (stage, policies) in stages.iter().zip(&mut policies) {
            self.larger_pool(policy, stage, policies);
        }
        self.mistakes.dedup();
        Policy { stages: policies }
    }

    /// What is larger is another pool. A default that names the pool in which a stage is run anyway means the other stages.
    fn larger_pool(&mut self, tables: &Table, stage: &Stage, policy: &mut StagePolicy) {
        if policy.larger_pool.as_ref() != Some(&policy.pool) {
            return;
        }
        let says = |table: &str, key: &str| tables.get(table).and_then(Value::as_table)?.get(key)?.as_str();
        let name = stage.name.as_str();
        let is_own = says(name, "larger_pool").is_some();
        if is_own || says("default", "pool") == says("default", "larger_pool") {
            let at = format!("[policy.{}]", if is_own { name } else { "default" });
            self.mistake(&at, "`larger_pool` must be another pool than `pool`");
        }
        policy.larger_pool = None;
    }

    fn stage_policy(&mut self, table: &Table, at: &str, kind: Kind, policy: &mut StagePolicy, is_default: bool) {
        let limits = ["time_limit_s", "progress_limit_s", "attempts", "lost_attempts", "backoff_ms", "copies", "hedge"];
        self.only_keys(table, at, &[&["pool", "larger_pool", "check"][..], &limits].concat());
        if let Some(pool) = self.text(table, at, "pool") {
            if !kind.is_trusted() {
                policy.pool = pool;
                if policy.pool.is_trusted() {
                    self.mistake(at, "pool `trusted` runs `split` and `verify` only");
                }
            } else if !is_default {
                self.mistake(at, format_args!("`pool` cannot be set: `{}` runs in pool `trusted`", kind.as_str()));
            }
        }
        if let Some(pool) = self.text::<Pool>(table, at, "larger_pool") {
            match kind.is_trusted() {
                true if is_default => {}
                true => {
                    let what = format!("`larger_pool` cannot be set: `{}` runs in pool `trusted`", kind.as_str());
                    self.mistake(at, what);
                }
                false if pool.is_trusted() => self.mistake(at, "pool `trusted` runs `split` and `verify` only"),
                false => policy.larger_pool = Some(pool),
            }
        }
        if let Some(seconds) = self.integer(table, at, "time_limit_s", 1..=43_200) {
            policy.time_limit = Millis::from_secs(seconds);
        }
        if let Some(seconds) = self.integer(table, at, "progress_limit_s", 1..=43_200) {
            policy.progress_limit = Some(Millis::from_secs(seconds));
        }
        if let Some(attempts) = self.integer(table, at, "attempts", 1..=100) {
            policy.attempts = attempts as u32;
        }
        if let Some(attempts) = self.integer(table, at, "lost_attempts", 1..=20) {
            policy.lost_attempts = attempts as u32;
        }
        if let Some(backoff) = self.integer(table, at, "backoff_ms", 0..=60_000) {
            policy.backoff = Millis(backoff);
        }
        if let Some(check) = self.boolean(table, at, "check") {
            match check {
                _ if kind.is_trusted() && is_default => {}
                true if kind.is_trusted() => {
                    self.mistake(at, format_args!("`check` cannot be set: nobody accuses a `{}` stage", kind.as_str()));
                }
                check => policy.check = check,
            }
        }
        let copies = self.integer(table, at, "copies", 1..=u64::from(MOST_COPIES));
        let hedge = table.get("hedge").and_then(|value| self.hedge(value, at));
        if !kind.is_trusted() {
            policy.copies = copies.map_or(policy.copies, |copies| copies as u8);
            policy.hedge = hedge.unwrap_or(policy.hedge);
        } else if !is_default && (copies.is_some_and(|copies| copies > 1) || hedge.flatten().is_some()) {
            let what = format_args!("`copies` and `hedge` cannot be set: `{}` runs once", kind.as_str());
            self.mistake(at, what);
        }
    }

    /// `true`, `false`, or a table; what it leaves out has its default. `Some(None)`: off.
    fn hedge(&mut self, value: &Value, at: &str) -> Option<Option<Hedging>> {
        let usual = Hedging::default();
        if let Some(is_on) = value.as_bool() {
            return Some(is_on.then_some(usual));
        }
        let Some(table) = value.as_table() else {
            self.mistake(at, "`hedge` must be true, false, or a table with `quantile`, `factor` and `budget`");
            return None;
        };
        let at = format!("{at} hedge");
        self.only_keys(table, &at, &["quantile", "factor", "budget"]);
        let quantile = self.thousandths(table, &at, "quantile", (500, 999));
        let factor = self.thousandths(table, &at, "factor", (1_000, 100_000));
        let budget = self.thousandths(table, &at, "budget", (1, 1_000));
        Some(Some(Hedging {
            quantile: quantile.unwrap_or(usual.quantile),
            factor: factor.unwrap_or(usual.factor),
            budget: budget.unwrap_or(usual.budget),
        }))
    }

    fn thousandths(&mut self, table: &Table, at: &str, key: &str, (least, most): (u32, u32)) -> Option<u32> {
        let value = table.get(key)?;
        let number = value.as_float().or(value.as_integer().map(|whole| whole as f64));
        let found = number.map(|number| (number * 1_000.0).round()).filter(|found| (0.0..1e9).contains(found));
        let found = found.map(|found| found as u32).filter(|found| (least..=most).contains(found));
        if found.is_none() {
            let (least, most) = (f64::from(least) / 1_000.0, f64::from(most) / 1_000.0);
            self.mistake(at, format_args!("`{key}` must be a number from {least} to {most}"));
        }
        found
    }
}

struct KindText(Kind);

impl FromStr for KindText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Kind::Split, Kind::Map, Kind::Join, Kind::Single, Kind::Verify]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .map(Self)
            .ok_or("must be one of split, map, join, single, verify")
    }
}

struct FormText(Form);

impl FromStr for FormText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "session" => Ok(Self(Form::Session)),
            "exec" => Ok(Self(Form::Exec)),
            _ => Err("must be `session` or `exec`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "p"
        [[stage]]
        name = "split"
        kind = "split"
        params = { segments = 4 }
        [[stage]]
        name = "prove"
        kind = "map"
        [[stage]]
        name = "join"
        kind = "join"
        arity = 3
        first_arity = 4
        [[stage]]
        name = "verify"
        kind = "verify"
        [prover.echo]
        form = "session"
        command = ["push0-echo"]
        [policy.default]
        attempts = 2
        pool = "gpu"
        [policy.prove]
        attempts = 7
    "#;

    #[test]
    fn a_good_file_parses_and_a_stage_policy_wins_over_the_default() {
        let file = parse(GOOD).unwrap();
        assert_eq!(file.pipeline.stages[2].arity, Some(Arity { first: 4, rest: 3 }));
        assert_eq!(file.policy.stage(1).attempts, 7);
        assert_eq!(file.policy.stage(2).attempts, 2);
        assert_eq!(file.policy.stage(2).pool.as_str(), "gpu");
        assert!(file.policy.stage(0).pool.is_trusted());
    }

    #[test]
    fn the_digest_covers_what_is_computed_and_nothing_else() {
        let digest = |text: &str| parse(text).unwrap().pipeline.digest();
        let base = digest(GOOD);
        for same in [GOOD.replace("attempts = 7", "attempts = 8"), GOOD.replace("push0-echo", "./other")] {
            assert_eq!(digest(&same), base);
        }
        for other in [
            GOOD.replace("arity = 3", "arity = 2"),
            GOOD.replace("segments = 4", "segments = 5"),
            GOOD.replace("\"prove\"", "\"proof\"").replace("[policy.prove]", "[policy.proof]"),
        ] {
            assert_ne!(digest(&other), base);
        }
    }

    #[test]
    fn the_digest_is_the_same_wherever_the_pipeline_was_written_and_read() {
        for float in ["0.1", "31.245270191439438", "121.48791951161945", "2.2250738585072014e-308", "5e-324", "-0.0"] {
            let pipeline = parse(&GOOD.replace("segments = 4", &format!("rate = {float}"))).unwrap().pipeline;
            assert!(pipeline.stage(0).params["rate"].is_f64(), "{pipeline:?}");
            let written = serde_json::to_string(&pipeline).unwrap();
            let read: Pipeline = serde_json::from_str(&written).unwrap();
            assert_eq!(read.digest(), pipeline.digest(), "{written}");
        }
    }

    #[test]
    fn copies_and_hedging_are_policy_of_what_workers_run() {
        let set = |text: &str| parse(&GOOD.replace("attempts = 7", text));
        let file = set("hedge = true\n        copies = 2").unwrap();
        assert_eq!((file.policy.stage(1).copies, file.policy.stage(1).hedge), (2, Some(Hedging::default())));
        assert_eq!((file.policy.stage(2).copies, file.policy.stage(2).hedge), (1, None), "off unless it is set");
        assert_eq!(file.pipeline.digest(), parse(GOOD).unwrap().pipeline.digest());
        let file = set("hedge = { quantile = 0.9, factor = 2 }").unwrap();
        assert_eq!(file.policy.stage(1).hedge, Some(Hedging { quantile: 900, factor: 2_000, budget: 50 }));
        let everywhere = GOOD.replace("attempts = 2", "hedge = true\n        copies = 3");
        let everywhere = parse(&everywhere.replace("attempts = 7", "hedge = false")).unwrap().policy;
        assert_eq!(everywhere.stages.iter().map(|stage| stage.copies).collect::<Vec<_>>(), [1, 3, 3, 1]);
        assert_eq!(
            everywhere.stages.iter().map(|stage| stage.hedge.is_some()).collect::<Vec<_>>(),
            [false, false, true, false]
        );
        for (bad, says) in [
            ("copies = 4", "`copies` must be a whole number from 1 to 3"),
            ("hedge = 2", "`hedge` must be true, false, or a table"),
            ("hedge = { quantile = 1.0 }", "`quantile` must be a number from 0.5 to 0.999"),
            ("hedge = { factor = 0.5 }", "`factor` must be a number from 1 to 100"),
            ("hedge = { budget = 2.0, cap = 1 }", "unknown key `cap`"),
        ] {
            let mistakes = set(bad).unwrap_err().to_string();
            assert!(mistakes.contains(says), "{bad}: {mistakes}");
        }
        let trusted = |own: &str| parse(&GOOD.replace("[policy.prove]", "[policy.split]").replace("attempts = 7", own));
        for bad in ["hedge = true", "copies = 2", "copies = 3"] {
            assert!(trusted(bad).unwrap_err().to_string().contains("`split` runs once"), "{bad}");
        }
        for nothing in ["hedge = false", "copies = 1"] {
            assert!(!trusted(nothing).unwrap().policy.stage(0).may_copy(), "{nothing}");
        }
    }

    #[test]
    fn every_mistake_is_listed_at_once() {
        let text = r#"
            nam = "p"
            [[stage]]
            name = "prove"
            kind = "map"
            arity = 2
            [[stage]]
            name = "prove"
            kind = "joint"
            [[stage]]
            name = "agg"
            kind = "join"
            arity = 17
            prover = "nobody"
            [prover.echo]
            form = "daemon"
            command = []
            [policy.wrap]
            attempts = 0
        "#;
        let mistakes = parse(text).unwrap_err().0;
        for expected in [
            "unknown key `nam`",
            "`name` is missing",
            "`arity` belongs to `join` stages only",
            "the name is used twice",
            "must be one of split, map, join",
            "from 2 to 16",
            "has no [prover.nobody] table",
            "must be `session` or `exec`",
            "`command` must be a list",
            "exactly one `split`",
            "exactly one `verify`",
            "[policy.wrap]: there is no stage of this name",
        ] {
            assert!(mistakes.iter().any(|m| m.contains(expected)), "{expected} is not among {mistakes:#?}");
        }
    }

    #[test]
    fn an_exec_form_prover_can_have_only_its_own_file_pinned() {
        let pinned = |form: &str, name: &str| {
            let programs = format!("\n        programs = {{ {name} = \"{}\" }}", "ab".repeat(32));
            let command = "command = [\"push0-echo\"]";
            parse(&GOOD.replace("\"session\"", form).replace(command, &format!("{command}{programs}")))
        };
        assert!(pinned("\"session\"", "leaf").is_ok());
        assert!(pinned("\"exec\"", "executable").is_ok());
        assert!(pinned("\"exec\"", "leaf").unwrap_err().to_string().contains("only `executable`"));
    }

    #[test]
    fn a_self_test_is_a_task_of_a_stage_that_the_prover_runs() {
        let tested = |test: &str| {
            let command = "command = [\"push0-echo\"]";
            parse(&GOOD.replace(command, &format!("{command}\n        self_test = {test}")))
        };
        let file = tested("{ stage = \"prove\", inputs = [\"a\", \"b/c\"] }").unwrap();
        let wanted = SelfTest { stage: "prove".parse().unwrap(), inputs: vec!["a".into(), "b/c".into()] };
        assert_eq!(file.self_tests.into_values().collect::<Vec<_>>(), [wanted]);
        assert_eq!(file.pipeline.digest(), parse(GOOD).unwrap().pipeline.digest());
        for (bad, says) in [
            ("{ stage = \"wrap\", inputs = [\"a\"] }", "wrap is no stage that this prover runs"),
            ("{ stage = \"prove\" }", "`inputs` must be a list of files"),
            ("{ stage = \"prove\", inputs = [] }", "`inputs` must be a list of files"),
            ("{ inputs = [\"a\"] }", "`stage` is missing"),
            ("{ stage = \"prove\", inputs = [\"a\"], output = \"b\" }", "unknown key `output`"),
            ("true", "`self_test` must be a table"),
        ] {
            let mistakes = tested(bad).unwrap_err();
            assert!(mistakes.to_string().contains(says), "{bad}: {mistakes}");
        }
    }

    #[test]
    fn a_larger_pool_is_another_pool_and_none_of_the_trusted_stages() {
        let with = |own: &str| GOOD.replace("attempts = 7", &format!("attempts = 7\n        {own}"));
        let file = parse(&with("larger_pool = \"gpu-large\"\n        lost_attempts = 2")).unwrap();
        let prove = file.policy.stage(1);
        assert_eq!((prove.larger_pool.clone(), prove.lost_attempts), (Some("gpu-large".parse().unwrap()), 2));
        assert_eq!(file.policy.stage(2).larger_pool, None);
        assert_eq!(file.pipeline.digest(), parse(GOOD).unwrap().pipeline.digest());
        let default = |more: &str| GOOD.replace("pool = \"gpu\"", &format!("pool = \"gpu\"\n        {more}"));
        let file = parse(&default("larger_pool = \"gpu-large\"")).unwrap();
        let larger: Vec<bool> = file.policy.stages.iter().map(|stage| stage.larger_pool.is_some()).collect();
        assert_eq!(larger, [false, true, true, false], "not for stages of the trusted pool");
        let own = default("larger_pool = \"gpu-large\"").replace("attempts = 7", "pool = \"gpu-large\"");
        assert_eq!(parse(&own).unwrap().policy.stage(1).larger_pool, None, "it is in the larger one already");
        for (bad, says) in [
            (with("larger_pool = \"gpu\""), "[policy.prove]: `larger_pool` must be another pool"),
            (default("larger_pool = \"gpu\""), "[policy.default]: `larger_pool` must be another pool"),
            (with("larger_pool = \"trusted\""), "[policy.prove]: pool `trusted` runs"),
            (format!("{GOOD}\n[policy.verify]\nlarger_pool = \"gpu\""), "[policy.verify]: `larger_pool` cannot be set"),
            (with("lost_attempts = 0"), "`lost_attempts` must be a whole number from 1 to 20"),
        ] {
            let mistakes = parse(&bad).unwrap_err();
            assert!(mistakes.to_string().contains(says), "{says} is not in {mistakes}");
        }
    }

    #[test]
    fn accused_artifacts_are_checked_where_it_is_said_and_those_of_trusted_stages_never() {
        let checked =
            |text: &str| -> Vec<bool> { parse(text).unwrap().policy.stages.iter().map(|stage| stage.check).collect() };
        assert_eq!(checked(GOOD), [false; 4]);
        let everywhere = GOOD.replace("attempts = 2", "check = true");
        assert_eq!(checked(&everywhere), [false, true, true, false]);
        assert_eq!(checked(&everywhere.replace("attempts = 7", "check = false")), [false, false, true, false]);
        assert_eq!(checked(&GOOD.replace("attempts = 7", "check = true")), [false, true, false, false]);
        for stage in ["split", "verify"] {
            let own = |check: bool| format!("{GOOD}\n[policy.{stage}]\ncheck = {check}");
            let mistakes = parse(&own(true)).unwrap_err().to_string();
            assert!(mistakes.contains(&format!("nobody accuses a `{stage}` stage")), "{mistakes}");
            assert_eq!(checked(&own(false)), [false; 4]);
        }
    }

    #[test]
    fn limits_of_nothing_and_of_no_end_are_refused() {
        let with = |own: &str| GOOD.replace("attempts = 7", own);
        for (bad, says) in [
            ("time_limit_s = 0", "`time_limit_s` must be a whole number from 1 to 43200"),
            ("time_limit_s = 43201", "`time_limit_s` must be a whole number from 1 to 43200"),
            ("progress_limit_s = 0", "`progress_limit_s` must be a whole number from 1"),
            ("attempts = 0", "`attempts` must be a whole number from 1 to 100"),
            ("backoff_ms = -1", "`backoff_ms` must be a whole number from 0 to 60000"),
        ] {
            let mistakes = parse(&with(bad)).unwrap_err();
            assert!(mistakes.to_string().contains(says), "{bad}: {mistakes}");
        }
        let prover = |own: &str| {
            let command = "command = [\"push0-echo\"]";
            parse(&GOOD.replace(command, &format!("{command}\n        {own}")))
        };
        for key in ["memory_limit_mib", "gpu_memory_mib"] {
            for most in [1, 1 << 30] {
                let file = prover(&format!("{key} = {most}")).unwrap();
                let echo = file.provers.values().next().unwrap();
                assert_eq!(echo.memory_limit_mib.or(echo.gpu_memory_mib), Some(most), "{key}");
            }
            for bad in [0, (1 << 30) + 1] {
                let mistakes = prover(&format!("{key} = {bad}")).unwrap_err().to_string();
                let says = format!("`{key}` must be a whole number from 1 to 1073741824");
                assert!(mistakes.contains(&says), "{bad}: {mistakes}");
            }
        }
        assert!(!prover("network = false").unwrap().provers.values().next().unwrap().network);
        assert!(prover("network = 1").unwrap_err().to_string().contains("`network` must be true or false"));
    }

    #[test]
    fn limits_hold_at_their_bound_and_say_what_to_do_beyond_it() {
        let says = |text: &str, wanted: &str| {
            let mistakes = parse(text).unwrap_err().to_string();
            assert!(mistakes.contains(wanted), "{wanted:?} is not in {mistakes}");
        };
        let stage = |number: usize| format!("[[stage]]\nname = \"m{number}\"\nkind = \"map\"\n");
        let with = |more: usize| {
            let maps: String = (0..more).map(stage).collect();
            GOOD.replacen("[[stage]]\n        name = \"join\"", &format!("{maps}[[stage]]\nname = \"join\""), 1)
        };
        assert_eq!(parse(&with(60)).unwrap().pipeline.stages.len(), super::super::MAX_STAGES);
        says(&with(61), "at most 64 stages");

        // As JSON: `{"x":""}` around it.
        let params =
            |bytes: usize| GOOD.replace("{ segments = 4 }", &format!("{{ x = \"{}\" }}", "y".repeat(bytes - 8)));
        assert!(parse(&params(super::super::MAX_PARAMS)).is_ok());
        says(&params(super::super::MAX_PARAMS + 1), "put more into a file that the prover reads");

        let pinned = |count: usize, length: usize| {
            let pins: Vec<String> =
                (0..count).map(|pin| format!("{pin:0>length$} = \"{}\"", "ab".repeat(32))).collect();
            let command = "command = [\"push0-echo\"]";
            GOOD.replace(command, &format!("{command}\n        programs = {{ {} }}", pins.join(", ")))
        };
        assert!(parse(&pinned(64, 128)).is_ok());
        says(&pinned(65, 128), "at most 64 can be pinned");
        says(&pinned(1, 129), "a name of at most 128 bytes");

        // Nine stages with parameters as large as they may be are more than one row takes.
        let large = format!("params = {{ x = \"{}\" }}", "y".repeat(super::super::MAX_PARAMS - 8));
        let nine = with(9).replace("kind = \"map\"\n[[", &format!("kind = \"map\"\n{large}\n[["));
        says(&nine, "the pipeline has ");

        let padded = |bytes: usize| format!("{GOOD}#{}", " ".repeat(bytes - GOOD.len() - 1));
        assert!(parse(&padded(MAX_FILE)).is_ok());
        says(&padded(MAX_FILE + 1), "at most 1048576 are possible");
    }

    #[test]
    fn stages_out_of_order_are_refused() {
        let text = GOOD.replace("kind = \"join\"\n        arity = 3\n        first_arity = 4", "kind = \"single\"");
        assert!(parse(&text).is_ok());
        let swapped = text.replacen("kind = \"map\"", "kind = \"single\"", 1).replacen(
            "name = \"join\"\n        kind = \"single\"",
            "name = \"join\"\n        kind = \"map\"",
            1,
        );
        let mistakes = parse(&swapped).unwrap_err();
        assert!(mistakes.to_string().contains("out of order"), "{mistakes}");
    }
}
