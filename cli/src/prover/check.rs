//! `push0 prover check`: does a prover keep to `docs/prover-protocol.md`?
//!
//! It is run as a worker runs it, by the worker's own code. A block goes through the whole pipeline honestly, then again and again with
//! something damaged, in another's place, or cancelled. Every demand of the protocol is a named check.

mod course;
mod damage;
mod demands;
mod lookout;
mod report;
mod subject;

use std::path::Path;

use push0_core::ErrorCode;
use push0_core::{Millis, ProverName};
use push0_gpu_worker::Limits;
use serde::Serialize;

use self::demands::Judge;
use self::report::Report;
use self::subject::Subject;
use super::pin;
use crate::args;
use crate::error::Trouble;
use crate::output::Output;
use crate::render::Paint;

#[derive(Serialize)]
struct Answer {
    provers: Vec<Report>,
    /// Whether the digests were written into the pipeline file, which changes its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<bool>,
}

pub async fn run(args: &args::Check, output: Output) -> anyhow::Result<()> {
    unknown_checks(&args.skip)?;
    let dir = tempfile::Builder::new().prefix("push0-check-").tempdir()?;
    let limits = Limits {
        start_limit: Millis::from_secs(args.ready_within),
        cancel_grace: Millis(args.grace_ms),
        ..Limits::default()
    };
    let subject = Subject::new(args, dir.path(), &limits).await?;
    let mut reports = Vec::new();
    for name in &subject.judged {
        output.note(&format!("checking prover {name}; this runs it several times"));
        let judge = Judge::new(&subject, name, &dir.path().join(format!("checked-{name}")), &limits, &args.skip)?;
        reports.push(judge.report().await?);
    }
    let failed: Vec<String> = reports
        .iter()
        .flat_map(|report| report.failed().into_iter().map(|check| format!("{}: {check}", report.prover)))
        .collect();
    let pinned = match (&args.pipeline, args.pin) {
        (Some(path), true) if failed.is_empty() => Some(pin(path, &reports)?),
        _ => None,
    };
    let answer = Answer { provers: reports, pinned };
    output.show(&answer, || text(&answer, args.pin, Paint(output.color)));
    if failed.is_empty() {
        return Ok(());
    }
    let kept = if args.pin { "; nothing was pinned" } else { "" };
    Err(Trouble::failed(format!("the prover does not keep to the protocol: {}{kept}", failed.join(", ")))
        .next("docs/prover-protocol.md says what is demanded, docs/plug-in.md what each check looks at")
        .coded(ErrorCode::ProverNotConformant)
        .into())
}

fn pin(path: &Path, reports: &[Report]) -> anyhow::Result<bool> {
    let mut changed = false;
    for report in reports {
        changed |= pin::pin(path, &report.prover.parse::<ProverName>()?, &report.programs)?;
    }
    Ok(changed)
}

fn text(answer: &Answer, wanted: bool, paint: Paint) -> String {
    let mut text = answer.provers.iter().map(|report| report.text(paint)).collect::<Vec<_>>().join("\n");
    if wanted {
        for report in &answer.provers {
            text.push_str(&format!("\n[prover.{}.programs]\n", report.prover));
            for (name, digest) in &report.programs {
                text.push_str(&format!("{name} = \"{digest}\"\n"));
            }
        }
        match answer.pinned {
            Some(true) => text.push_str("\npinned: the pipeline has another digest now\n"),
            Some(false) => text.push_str("\nall of it is pinned already\n"),
            None => {}
        }
    }
    text
}

fn unknown_checks(skipped: &[String]) -> Result<(), Trouble> {
    match skipped.iter().find(|name| !demands::CHECKS.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(Trouble::usage(format!("there is no check named {unknown:?}"))
            .next(format!("the checks are {}", demands::CHECKS.join(", ")))
            .coded(ErrorCode::BadUsage)),
    }
}
