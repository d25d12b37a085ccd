//! Which pairs of a state and an event ([`push0_core::transition`]) came up, and which did not and why: `transitions.toml`, which the tests
//! of the simulator and the model checker hold to what they meet. `just transitions` makes the table of `docs/transitions.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use push0_core::transition::{Observer, Pair};
use serde::Deserialize;

/// Counts what is met.
#[derive(Debug, Default)]
pub struct Counter(Mutex<BTreeMap<Pair, u64>>);

impl Observer for Counter {
    fn met(&self, pair: Pair) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(pair).or_default() += 1;
    }
}

impl Counter {
    pub fn counts(&self) -> BTreeMap<Pair, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub fn merge(all: &mut BTreeMap<Pair, u64>, more: &BTreeMap<Pair, u64>) {
    more.iter().for_each(|(pair, count)| *all.entry(*pair).or_default() += count);
}

/// What is not asked of every run of CI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// It cannot come up: if it does, the reason is wrong.
    Never,
    /// It can, in some seed or other, or in production.
    Rarely,
}

/// Pairs that need not come up, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    pub when: When,
    subject: String,
    states: Vec<String>,
    events: Vec<String>,
    pub reason: String,
    /// A test that brings it about, by name.
    pub test: Option<String>,
}

#[derive(Deserialize)]
struct File {
    exception: Vec<Exception>,
}

/// The exceptions by pair. An error where one is about nothing, or two are about the same.
pub fn exceptions() -> Result<BTreeMap<Pair, Exception>, String> {
    let file: File = toml::from_str(include_str!("transitions.toml")).map_err(|error| error.to_string())?;
    let all = Pair::all();
    let mut found = BTreeMap::new();
    for exception in file.exception {
        let pairs: Vec<Pair> = all.iter().copied().filter(|pair| exception.is_about(*pair)).collect();
        if pairs.len() != exception.states.len() * exception.events.len() {
            return Err(format!("there are no such states or events: {exception:?}"));
        }
        for pair in pairs {
            if found.insert(pair, exception.clone()).is_some() {
                return Err(format!("{pair} stands there twice"));
            }
        }
    }
    Ok(found)
}

impl Exception {
    fn is_about(&self, pair: Pair) -> bool {
        let names = |names: &[String], name| names.iter().any(|known| known == name);
        self.subject == pair.subject() && names(&self.states, pair.state()) && names(&self.events, pair.event())
    }
}

/// What came up and cannot, by what the file says.
pub fn impossible(met: &BTreeMap<Pair, u64>) -> Result<Vec<Pair>, String> {
    let exceptions = exceptions()?;
    let is_never = |pair: &Pair| exceptions.get(pair).is_some_and(|exception| exception.when == When::Never);
    Ok(met.keys().copied().filter(is_never).collect())
}

/// What did not come up, and the file says nothing of it.
pub fn missing(met: &BTreeMap<Pair, u64>) -> Result<Vec<Pair>, String> {
    let exceptions = exceptions()?;
    let is_missing = |pair: &Pair| !met.contains_key(pair) && !exceptions.contains_key(pair);
    Ok(Pair::all().into_iter().filter(is_missing).collect())
}

/// The tables of `docs/transitions.md`: how often each pair came up in the simulator, and whether it did in the model checker.
pub fn tables(simulated: &BTreeMap<Pair, u64>, checked: &BTreeSet<Pair>) -> Result<Vec<String>, String> {
    let exceptions = exceptions()?;
    let all = Pair::all();
    let mut lines = Vec::new();
    for subject in ["block", "chain", "task"] {
        let of: Vec<Pair> = all.iter().copied().filter(|pair| pair.subject() == subject).collect();
        let mut states: Vec<&str> = Vec::new();
        let mut events: Vec<&str> = Vec::new();
        for pair in &of {
            states.extend(Some(pair.state()).filter(|state| !states.contains(state)));
            events.extend(Some(pair.event()).filter(|event| !events.contains(event)));
        }
        lines.push(format!("### A {subject}\n"));
        lines.push(format!("| | {} |", states.join(" | ")));
        lines.push(format!("|---|{}", "---|".repeat(states.len())));
        for event in events {
            let cells = of.iter().filter(|pair| pair.event() == event).map(|pair| {
                let mark = if checked.contains(pair) { " ✓" } else { "" };
                match (simulated.get(pair), exceptions.get(pair).map(|exception| exception.when)) {
                    (Some(count), _) => format!("{count}{mark}"),
                    (None, _) if checked.contains(pair) => "0 ✓".to_owned(),
                    (None, Some(When::Never)) => "–".to_owned(),
                    (None, Some(When::Rarely) | None) => "0".to_owned(),
                }
            });
            lines.push(format!("| {event} | {} |", cells.collect::<Vec<_>>().join(" | ")));
        }
        lines.push(String::new());
    }
    let reached = |pair: &Pair| simulated.contains_key(pair) || checked.contains(pair);
    let count = |is: &dyn Fn(&Pair) -> bool| all.iter().filter(|pair| is(pair)).count();
    let never = |pair: &Pair| exceptions.get(pair).is_some_and(|exception| exception.when == When::Never);
    let (pairs, by_simulator, by_checker) = (all.len(), simulated.len(), checked.len());
    let (by_any, cannot) = (count(&reached), count(&never));
    lines.push(format!(
        "{pairs} pairs: {by_any} came up ({by_simulator} in the simulator, {by_checker} in the model checker), {cannot} cannot, {} did not.",
        pairs - by_any - cannot
    ));
    lines.push(String::new());
    lines.extend(reasons(&exceptions, |pair| !reached(pair)));
    Ok(lines)
}

/// What did not come up, reason by reason.
fn reasons(exceptions: &BTreeMap<Pair, Exception>, is_unreached: impl Fn(&Pair) -> bool) -> Vec<String> {
    let mut lines = vec!["| | event | states | why |".to_owned(), "|---|---|---|---|".to_owned()];
    let mut left: Vec<Pair> = exceptions.keys().copied().filter(is_unreached).collect();
    while let Some(first) = left.first().copied() {
        let exception = &exceptions[&first];
        let same = |pair: &Pair| {
            exceptions[pair].reason == exception.reason
                && (pair.subject(), pair.event()) == (first.subject(), first.event())
        };
        let states: Vec<&str> = left.iter().filter(|pair| same(pair)).map(|pair| pair.state()).collect();
        let when = match exception.when {
            When::Never => "cannot",
            When::Rarely => "did not",
        };
        let test = exception.test.as_ref().map(|test| format!(" Test: `{test}`.")).unwrap_or_default();
        let (subject, event, states, why) = (first.subject(), first.event(), states.join(", "), &exception.reason);
        lines.push(format!("| {subject}, {when} | {event} | {states} | {why}.{test} |"));
        left.retain(|pair| !same(pair));
    }
    lines
}
