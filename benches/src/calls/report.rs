//! What was counted, for programs and for people.

use serde::Serialize;

use super::Plan;
use super::bill::{Bill, HANDLING_MS};
use super::chain::{Chain, Chains};
use super::prices::Prices;

/// Dollars for 64 segments at arity 8; calls one after the other from an artifact's put to its dependent's receive.
const MOST_USD: f64 = 0.0012;
const MOST_CALLS: usize = 5;

/// Between two beats that keep a lease of 15 s.
const BEAT_S: u64 = 5;

/// The chains of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Lengths {
    pub dependents: usize,
    pub median: usize,
    pub longest: usize,
    /// The same without the receives.
    pub median_without_receives: usize,
    pub longest_without_receives: usize,
    /// One of the longest.
    pub example: Option<Chain>,
}

impl Lengths {
    fn of(mut chains: Vec<Chain>) -> Self {
        let sorted = |length: fn(&Chain) -> usize| {
            let mut lengths: Vec<usize> = chains.iter().map(length).collect();
            lengths.sort_unstable();
            (lengths.get(lengths.len() / 2).copied().unwrap_or(0), lengths.last().copied().unwrap_or(0))
        };
        let ((median, longest), without) = (sorted(Chain::length), sorted(Chain::without_receives));
        let dependents = chains.len();
        chains.sort_by_key(|chain| (chain.length(), chain.without_receives()));
        let (median_without_receives, longest_without_receives) = without;
        Self { dependents, median, longest, median_without_receives, longest_without_receives, example: chains.pop() }
    }
}

/// One block.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub arity: u32,
    pub segments: u32,
    pub workers: usize,
    pub tasks: u32,
    #[serde(flatten)]
    pub bill: Bill,
    /// From an artifact's put to the receive of the task it is an input of.
    pub artifact_to_dependent: Lengths,
    /// From the put of `split`'s manifest to the receive of a leaf.
    pub split_to_leaf: Lengths,
    /// Calls of one turn of the reaper with nothing to heal: a fixed cost.
    pub reaper_turn: u64,
}

impl Run {
    pub(super) fn new(arity: u32, plan: &Plan, tasks: u32, bill: Bill, chains: Chains, reaper_turn: u64) -> Self {
        Self {
            arity,
            segments: plan.segments,
            workers: plan.workers,
            tasks,
            bill,
            artifact_to_dependent: Lengths::of(chains.of_artifacts),
            split_to_leaf: Lengths::of(chains.of_split),
            reaper_turn,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Aim {
    pub what: String,
    pub wanted: String,
    pub found: String,
    pub met: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub date: String,
    pub endpoint: String,
    pub prices: Prices,
    pub runs: Vec<Run>,
    pub aims: Vec<Aim>,
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(date: String, plan: &Plan, prices: Prices, runs: Vec<Run>) -> Self {
        let aims = runs.iter().flat_map(aims).collect();
        let notes = vec![
            format!("Lambda: {HANDLING_MS} ms assumed for each message handled, arm64, the topology's memory"),
            "messages that arrive together are handled together; each alone would be one more receive, deletion and invocation".to_owned(),
            format!(
                "a prover that takes T seconds adds, for its task, T / {BEAT_S} of ChangeMessageVisibility and of HeadObject each"
            ),
            "without storage, transfer, logs, and what there is without a block".to_owned(),
        ];
        Self { date, endpoint: plan.endpoint.clone(), prices, runs, aims, notes }
    }

    /// For people at a terminal.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.heading());
        for table in self.tables() {
            let mut drawn = comfy_table::Table::new();
            drawn.load_style(comfy_table::presets::NOTHING);
            drawn.set_header(table.header);
            for row in table.rows {
                drawn.add_row(row);
            }
            text.push_str(&format!("\n{drawn}\n"));
        }
        text.push_str(&self.chains());
        for aim in &self.aims {
            text.push_str(&format!(
                "\naim  {}: wanted {}, found {}: {}",
                aim.what,
                aim.wanted,
                aim.found,
                verdict(aim)
            ));
        }
        for note in &self.notes {
            text.push_str(&format!("\nnote {note}"));
        }
        text
    }

    /// The same for a document.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n", self.heading());
        for Table { header, rows } in self.tables() {
            text.push_str(&format!("\n| {} |\n|{}\n", header.join(" | "), "-|".repeat(header.len())));
            for row in rows {
                text.push_str(&format!("| {} |\n", row.join(" | ")));
            }
        }
        text.push_str(&self.chains());
        text.push_str("\n| aim | wanted | found | |\n|-|-|-|-|\n");
        for aim in &self.aims {
            text.push_str(&format!("| {} | {} | {} | {} |\n", aim.what, aim.wanted, aim.found, verdict(aim)));
        }
        for note in &self.notes {
            text.push_str(&format!("\n- {note}"));
        }
        text
    }

    fn heading(&self) -> String {
        let Prices { region, date, .. } = &self.prices;
        format!("{}, counted against an emulator; prices of {region} as of {date}.", self.date)
    }

    /// Requests; and money.
    fn tables(&self) -> [Table; 2] {
        let arities = self.runs.iter().map(|run| format!("arity {}", run.arity));
        let header = |first: [&str; 2]| first.map(str::to_owned).into_iter().chain(arities.clone()).collect();
        let mut requests = Table { header: header(["service", "operation"]), rows: Vec::new() };
        for is_fixed in [false, true] {
            let lines = |run: &'_ Run| if is_fixed { run.bill.fixed.clone() } else { run.bill.requests.clone() };
            let mut kinds: Vec<(String, String)> =
                self.runs.iter().flat_map(lines).map(|line| (line.service, line.operation)).collect();
            kinds.sort();
            kinds.dedup();
            for (service, operation) in kinds {
                let count = |run: &Run| {
                    let line = lines(run).into_iter().find(|l| l.service == service && l.operation == operation);
                    line.map_or(0, |line| line.requests).to_string()
                };
                let counts: Vec<String> = self.runs.iter().map(count).collect();
                let of = if is_fixed { format!("not the block's: {service}") } else { service };
                requests.rows.push([of, operation].into_iter().chain(counts).collect());
            }
            if !is_fixed {
                requests.rows.push(self.row(["all", ""], |run| run.bill.count().to_string()));
                requests.rows.push(self.row(["Lambda", "invocations"], |run| run.bill.invocations.to_string()));
                requests.rows.push(self.row(["", "messages handled"], |run| run.bill.handled.to_string()));
                requests.rows.push(self.row(["DynamoDB", "write units"], |run| run.bill.write_units.to_string()));
                requests.rows.push(self.row(["", "read units"], |run| run.bill.read_units.to_string()));
            }
        }
        requests.rows.push(self.row(["not the block's: reaper", "calls a turn"], |run| run.reaper_turn.to_string()));
        let mut money = Table { header: header(["part", ""]), rows: Vec::new() };
        let names = super::bill::Parts::default().list().map(|(name, _)| name);
        for (position, name) in names.into_iter().enumerate() {
            money.rows.push(self.row([name, ""], |run| {
                let usd = run.bill.usd.list()[position].1;
                format!("${usd:.6} ({:.0} %)", 100.0 * usd / run.bill.total_usd)
            }));
        }
        money.rows.push(self.row(["all", ""], |run| format!("${:.6}", run.bill.total_usd)));
        [requests, money]
    }

    fn row(&self, first: [&str; 2], of: impl Fn(&Run) -> String) -> Vec<String> {
        first.map(str::to_owned).into_iter().chain(self.runs.iter().map(of)).collect()
    }

    fn chains(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            let kinds = [("artifact to dependent", &run.artifact_to_dependent), ("split to leaf", &run.split_to_leaf)];
            for (kind, found) in kinds {
                text.push_str(&format!(
                    "\narity {}, {kind}: of {} dependents, median {} calls and at most {}; without the receives {} and {}\n\n",
                    run.arity,
                    found.dependents,
                    found.median,
                    found.longest,
                    found.median_without_receives,
                    found.longest_without_receives
                ));
                let steps = found.example.iter().flat_map(|chain| &chain.steps);
                for (position, step) in steps.enumerate() {
                    let waiting = if step.waiting { ", waiting already" } else { "" };
                    text.push_str(&format!("{}. {}, {}{waiting}\n", position + 1, step.call, step.of));
                }
            }
        }
        text
    }
}

struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn aims(run: &Run) -> Vec<Aim> {
    let mut aims = Vec::new();
    let block = format!("arity {}", run.arity);
    if (run.segments, run.arity) == (64, 8) {
        aims.push(Aim {
            what: format!("a block of 64 segments, {block}"),
            wanted: format!("≤ ${MOST_USD}"),
            found: format!("${:.6}", run.bill.total_usd),
            met: run.bill.total_usd <= MOST_USD,
        });
    }
    let found = &run.artifact_to_dependent;
    for (which, longest) in [("", found.longest), (", without the receives", found.longest_without_receives)] {
        aims.push(Aim {
            what: format!(
                "calls one after the other from an artifact's put to its dependent's receive{which}, {block}"
            ),
            wanted: format!("≤ {MOST_CALLS}"),
            found: longest.to_string(),
            met: longest <= MOST_CALLS,
        });
    }
    aims
}

fn verdict(aim: &Aim) -> &'static str {
    if aim.met { "met" } else { "missed" }
}
