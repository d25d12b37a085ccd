//! What the figures shall be, and whether they are.

use serde::Serialize;

use crate::baseline::JETSTREAM;
use crate::fair;
use crate::overhead::{COST_OF_64, COST_OF_8000, CYCLE, RELEASE};
use crate::report::{Measure, find, number};
use crate::scaling::efficiency_name;
use crate::system::Setup;

/// One aim. Without the measures it needs nothing is said about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Aim {
    pub what: String,
    /// The measured value may not be above (or, `at_least`, below) this.
    pub limit: f64,
    pub at_least: bool,
    pub measured: f64,
    pub met: bool,
}

impl Aim {
    fn at_most(what: &str, limit: f64, measured: f64) -> Self {
        Self { what: what.to_owned(), limit, at_least: false, measured, met: measured <= limit }
    }

    fn at_least(what: &str, limit: f64, measured: f64) -> Self {
        Self { what: what.to_owned(), limit, at_least: true, measured, met: measured >= limit }
    }

    pub fn wanted(&self) -> String {
        format!("{} {}", if self.at_least { "≥" } else { "≤" }, number(self.limit))
    }

    pub fn found(&self) -> String {
        number(self.measured)
    }

    pub fn verdict(&self) -> &'static str {
        if self.met { "met" } else { "missed" }
    }

    pub fn sentence(&self) -> String {
        format!("{}: {} (wanted {}): {}", self.verdict(), self.found(), self.wanted(), self.what)
    }
}

/// The aims that these measures can answer.
pub fn judge(measures: &[Measure]) -> Vec<Aim> {
    let ours = Setup::DEFAULT.label();
    let value = |name: &str, subject: &str| find(measures, name, subject).map(|measure| measure.value);
    let mut aims = Vec::new();
    if let Some(release) = value(RELEASE, &ours) {
        aims.push(Aim::at_most("release p50, process, in process, µs", 200.0, release));
        if let Some(theirs) = value(RELEASE, JETSTREAM) {
            aims.push(Aim::at_most("release p50 against JetStream's, ratio", 0.2, release / theirs));
        }
    }
    if let (Some(cycle), Some(theirs)) = (value(CYCLE, &ours), value(CYCLE, JETSTREAM)) {
        aims.push(Aim::at_most("cycle p50 against JetStream's, ratio", 0.2, cycle / theirs));
    }
    if let (Some(large), Some(small)) = (value(COST_OF_8000, &ours), value(COST_OF_64, &ours)) {
        aims.push(Aim::at_most(
            "a task of an 8,000-segment block against one of a 64-segment block, ratio",
            1.5,
            large / small,
        ));
    }
    // Of chains of one class each gets its part of the workers: nothing else is aimed at.
    let fair = |name: &str| value(name, fair::CLASSES);
    if let (Some(alone), Some(beside), Some(task)) = (fair(fair::ALONE), fair(fair::BESIDE), fair(fair::ONE_TASK)) {
        let what = "a realtime block beside a bulk backlog: longer by, in tasks a stage";
        aims.push(Aim::at_most(what, 1.0, (beside - alone) / (fair::STAGES * task)));
    }
    if let Some(efficiency) = value(&efficiency_name(32, 1_000), &ours) {
        aims.push(Aim::at_least("efficiency of 32 workers with 1 s tasks, %", 99.0, efficiency));
    }
    aims
}
