//! Copies of tasks in the simulator: where they are switched on, and what must hold of them, by what the provers saw.

use std::collections::BTreeMap;

use push0_core::pipeline::Hedging;
use push0_core::{Attempt, Millis, Node, RunId};
use push0_runtime::drive::Catalog;

use super::prover::Run;

/// Stragglers are many, and are hedged soon.
const HEDGING: Hedging = Hedging { quantile: 700, factor: 1_200, budget: 200 };

/// Copies from the start at the stage of this position.
const PLANNED: (u16, u8) = (2, 2);

/// What further copies may cost beyond the budget: what those take that were slow themselves, one on each worker.
const SLACK: Millis = Millis(3 * 60_000);

/// Switches hedging on for all that workers run, and two copies from the start for one stage.
pub(super) fn allow(catalog: &mut Catalog) {
    for file in catalog.pipelines.values_mut() {
        for (position, (stage, policy)) in (0..).zip(file.pipeline.stages.iter().zip(&mut file.policy.stages)) {
            if !stage.kind.is_trusted() {
                policy.hedge = Some(HEDGING);
                policy.copies = planned(position);
            }
        }
    }
}

fn planned(stage: u16) -> u8 {
    if stage == PLANNED.0 { PLANNED.1 } else { 1 }
}

/// How many runs were of copies of stragglers.
pub(super) fn hedges(runs: &[Run]) -> u64 {
    runs.iter().filter(|run| run.task.copy >= planned(run.task.node.stage)).count() as u64
}

/// Looks at every run of a prover. `may`: whether there may be copies at all.
pub(super) fn judge(runs: &[Run], may: bool) -> Result<(), String> {
    let mut attempts: BTreeMap<(&RunId, Node, Attempt), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        attempts.entry((&run.task.run, run.task.node, run.task.attempt)).or_default().push(run);
    }
    let is_trusted = |run: &Run| run.worker.starts_with("trusted");
    for ((id, node, attempt), runs) in &attempts {
        let at = format!("{id} node {node} attempt {}", attempt.0);
        let most = if may && !is_trusted(runs[0]) { planned(node.stage) + 2 } else { 1 };
        if let Some(run) = runs.iter().find(|run| run.task.copy >= most) {
            return Err(format!("{at}: copy {} was proven", run.task.copy));
        }
        for (position, run) in runs.iter().enumerate() {
            let of_its_worker = runs[..position].iter().filter(|other| other.worker == run.worker);
            let mut others = of_its_worker.filter(|other| other.task.copy != run.task.copy);
            // One that was killed has no end, and its worker may take another.
            if others.any(|other| other.ended.is_some_and(|ended| ended > run.begun)) {
                return Err(format!("{at}: {} worked on two copies at a time", run.worker));
            }
        }
    }
    let took = |run: &Run| run.ended.map_or(0, |ended| ended.since(run.begun).0);
    let work: u64 = runs.iter().map(took).sum();
    let extra: u64 = runs.iter().filter(|run| run.task.copy >= planned(run.task.node.stage)).map(took).sum();
    if extra * 1_000 > work * u64::from(HEDGING.budget) + SLACK.0 * 1_000 {
        return Err(format!("copies of stragglers took {extra} ms of {work} ms"));
    }
    Ok(())
}
