//! What a check found, for people and for programs.

use std::collections::BTreeMap;

use push0_core::pipeline::Form;
use serde::Serialize;

use crate::render::Paint;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grade {
    Pass,
    Fail,
    /// Not looked at; the detail says why.
    Skip,
}

/// One demand of the protocol, and whether the prover keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: String,
    pub(super) grade: Grade,
    pub(super) detail: String,
}

/// What the tasks of a stage took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) stage: String,
    pub(super) runs: u32,
    /// Seconds, of runs that were not cut short.
    pub(super) mean: f64,
    pub(super) slowest: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) prover: String,
    pub(super) form: Form,
    /// As its `hello` says, where it says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<String>,
    pub(super) findings: Vec<Finding>,
    pub(super) stages: Vec<Cost>,
    /// The most memory its processes were seen to use at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_mib: Option<u64>,
    /// What can be pinned.
    pub(super) programs: BTreeMap<String, String>,
    pub(super) conformant: bool,
}

impl Report {
    pub(super) fn failed(&self) -> Vec<&str> {
        let failed = self.findings.iter().filter(|finding| finding.grade == Grade::Fail);
        failed.map(|finding| finding.check.as_str()).collect()
    }

    pub(super) fn text(&self, paint: Paint) -> String {
        let form = match self.form {
            Form::Session => "session form",
            Form::Exec => "exec form",
        };
        let name = self.name.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
        let device = self.device.as_ref().filter(|device| !device.is_empty());
        let device = device.map(|device| format!(" on {device}")).unwrap_or_default();
        let mut text = format!("{} ({form}{name}{device})\n", paint.bold(&self.prover));
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, grade, detail } in &self.findings {
            let word = match grade {
                Grade::Pass => paint.status("final").replace("final", "ok  "),
                Grade::Fail => paint.alarm("FAIL"),
                Grade::Skip => paint.dim("skip"),
            };
            let detail = detail.trim_end().replace('\n', &format!("\n{:1$}", "", width + 10));
            text.push_str(format!("  {word}  {check:width$}  {detail}").trim_end());
            text.push('\n');
        }
        if !self.stages.is_empty() {
            let width = self.stages.iter().map(|cost| cost.stage.len()).max().unwrap_or(0).max("stage".len());
            text.push_str(&format!("\n  {:width$}  runs     mean  slowest\n", "stage"));
            for Cost { stage, runs, mean, slowest } in &self.stages {
                text.push_str(&format!("  {stage:width$}  {runs:>4}  {mean:>6.3}s  {slowest:>6.3}s\n"));
            }
        }
        if let Some(mib) = self.peak_mib {
            text.push_str(&format!("\n  memory: {mib} MiB at most, as far as was seen\n"));
        }
        let failed = self.failed().len();
        let count = |grade| self.findings.iter().filter(|finding| finding.grade == grade).count();
        let (passed, skipped) = (count(Grade::Pass), count(Grade::Skip));
        text.push_str(&format!("\n  {passed} ok, {failed} failed, {skipped} skipped\n"));
        text
    }
}
