//! What was measured, for programs (JSON) and for people (a table, or markdown for `docs/performance.md`).

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::aims::Aim;
use crate::machine::Machine;

/// Durations of one repetition. A minute at most each, to three digits.
#[derive(Debug, Clone)]
pub struct Samples(Histogram<u64>);

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}

impl Samples {
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order"))
    }

    pub fn add(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn reading(&self) -> Reading {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        Reading {
            value: micros(self.0.value_at_quantile(0.5)),
            p99: Some(micros(self.0.value_at_quantile(0.99))),
            samples: self.0.len(),
        }
    }

    /// A measure that has one repetition.
    pub fn measure(&self, subject: &str, name: &str) -> Measure {
        Measure::of(subject, name, Unit::Micros, &[self.reading()])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "µs")]
    Micros,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "tasks/s")]
    Rate,
    #[serde(rename = "%")]
    Percent,
}

impl Unit {
    pub fn sign(self) -> &'static str {
        match self {
            Unit::Micros => "µs",
            Unit::Seconds => "s",
            Unit::Rate => "tasks/s",
            Unit::Percent => "%",
        }
    }
}

/// What one repetition came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The median, where there are several samples.
    pub value: f64,
    pub p99: Option<f64>,
    pub samples: u64,
}

impl Reading {
    pub fn single(value: f64) -> Self {
        Self { value, p99: None, samples: 1 }
    }
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What was measured: `cycle`, `release`, …; the definitions are in `docs/performance.md`.
    pub name: String,
    /// On what: a setup of push0, `JetStream`, or `floor`.
    pub subject: String,
    pub unit: Unit,
    /// Median over the repetitions of each one's value (itself a median where it had several samples).
    pub value: f64,
    /// Median over the repetitions of each one's p99.
    pub p99: Option<f64>,
    /// Lowest and highest of the repetitions' values.
    pub lowest: f64,
    pub highest: f64,
    pub repetitions: usize,
    /// In all repetitions together.
    pub samples: u64,
}

impl Measure {
    /// At least one reading.
    pub fn of(subject: &str, name: &str, unit: Unit, readings: &[Reading]) -> Self {
        let mut values: Vec<f64> = readings.iter().map(|reading| reading.value).collect();
        let p99s: Vec<f64> = readings.iter().filter_map(|reading| reading.p99).collect();
        values.sort_by(f64::total_cmp);
        Self {
            name: name.to_owned(),
            subject: subject.to_owned(),
            unit,
            value: median(values.clone()).unwrap_or(f64::NAN),
            p99: median(p99s),
            lowest: values.first().copied().unwrap_or(f64::NAN),
            highest: values.last().copied().unwrap_or(f64::NAN),
            repetitions: values.len(),
            samples: readings.iter().map(|reading| reading.samples).sum(),
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When the run began, RFC 3339, UTC.
    pub date: String,
    /// `tiny`, `short` or `full`.
    pub mode: String,
    pub machine: Machine,
    pub measures: Vec<Measure>,
    /// What was left out and why, and what to know when reading the figures.
    pub notes: Vec<String>,
    pub aims: Vec<Aim>,
}

impl Report {
    pub fn find(&self, name: &str, subject: &str) -> Option<&Measure> {
        find(&self.measures, name, subject)
    }

    /// For people at a terminal.
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(HEADERS);
        for measure in &self.measures {
            table.add_row(cells(measure));
        }
        let mut text = format!("{}\n\n{table}\n", self.heading());
        for aim in &self.aims {
            text.push_str(&format!("\naim  {}", aim.sentence()));
        }
        for note in &self.notes {
            text.push_str(&format!("\nnote {note}"));
        }
        text
    }

    /// The same for a document.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n| {} |\n|{}\n", self.heading(), HEADERS.join(" | "), "-|".repeat(HEADERS.len()));
        for measure in &self.measures {
            text.push_str(&format!("| {} |\n", cells(measure).join(" | ")));
        }
        if !self.aims.is_empty() {
            text.push_str("\n| aim | wanted | measured | |\n|-|-|-|-|\n");
        }
        for aim in &self.aims {
            text.push_str(&format!("| {} | {} | {} | {} |\n", aim.what, aim.wanted(), aim.found(), aim.verdict()));
        }
        for note in &self.notes {
            text.push_str(&format!("\n- {note}"));
        }
        text
    }

    fn heading(&self) -> String {
        format!("{}, {} mode. {}", self.date, self.mode, self.machine.describe())
    }
}

pub(crate) fn find<'m>(measures: &'m [Measure], name: &str, subject: &str) -> Option<&'m Measure> {
    measures.iter().find(|measure| measure.name == name && measure.subject == subject)
}

const HEADERS: [&str; 6] = ["measure", "of", "median", "p99", "range", "repetitions (samples)"];

fn cells(measure: &Measure) -> [String; 6] {
    let unit = measure.unit;
    let range = match measure.repetitions {
        1 => String::new(),
        _ => format!("{} – {}", number(measure.lowest), number(measure.highest)),
    };
    [
        measure.name.clone(),
        measure.subject.clone(),
        format!("{} {}", number(measure.value), unit.sign()),
        measure.p99.map(|p99| format!("{} {}", number(p99), unit.sign())).unwrap_or_default(),
        range,
        format!("{} ({})", measure.repetitions, measure.samples),
    ]
}

/// Three digits that count, and no more.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 10_000.0 => format!("{}", (value / 100.0).round() * 100.0),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_the_median_of_its_repetitions() {
        let readings = [3.0, 1.0, 10.0].map(|value| Reading { value, p99: Some(value * 2.0), samples: 5 });
        let measure = Measure::of("push0", "cycle", Unit::Micros, &readings);
        assert_eq!((measure.value, measure.p99), (3.0, Some(6.0)));
        assert_eq!((measure.lowest, measure.highest, measure.samples), (1.0, 10.0, 15));
    }

    #[test]
    fn samples_are_read_in_microseconds() {
        let mut samples = Samples::new();
        (1..=100).for_each(|micros| samples.add(Duration::from_micros(micros)));
        let reading = samples.reading();
        assert!((reading.value - 50.0).abs() < 0.5, "{reading:?}");
        assert!((reading.p99.unwrap() - 99.0).abs() < 0.5, "{reading:?}");
    }

    #[test]
    fn figures_are_shown_to_the_digits_that_count() {
        let shown = [0.512, 12.34, 123.4, 1234.0, 98_765.0].map(number);
        assert_eq!(shown, ["0.51", "12.3", "123", "1234", "98800"]);
    }
}
