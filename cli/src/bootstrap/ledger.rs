//! What differed from the topology, and what became of it.

use push0_core::ErrorCode;
use serde::Serialize;

use super::place::Place;
use crate::error::Trouble;
use crate::output::Output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Created,
    Changed,
    /// To be created, if this were no dry run.
    Missing,
    /// To be changed, if this were no dry run.
    Differs,
    /// Not changed by push0: something would be lost.
    Left,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    resource: String,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    should_be: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    dry_run: bool,
    differences: Vec<Difference>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    endpoint: Option<&'a str>,
    region: &'a str,
    account: Option<&'a str>,
    dry_run: bool,
    differences: &'a [Difference],
    notes: &'a [String],
}

impl Ledger {
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry_run, differences: Vec::new(), notes: Vec::new() }
    }

    /// Whether differences are to be mended, and not only told.
    pub(super) fn mends(&self) -> bool {
        !self.dry_run
    }

    /// It was not there; by now it is, unless this is a dry run.
    pub(super) fn created(&mut self, resource: impl Into<String>) {
        let outcome = if self.dry_run { Outcome::Missing } else { Outcome::Created };
        self.push(resource.into(), outcome, None, None, None, None);
    }

    /// It was different; by now it is as it should be, unless this is a dry run.
    pub(super) fn changed(
        &mut self,
        resource: impl Into<String>,
        attribute: impl Into<String>,
        is: Option<String>,
        should_be: impl Into<String>,
    ) {
        let outcome = if self.dry_run { Outcome::Differs } else { Outcome::Changed };
        self.push(resource.into(), outcome, Some(attribute.into()), is, Some(should_be.into()), None);
    }

    /// It is different and stays so.
    pub(super) fn left(
        &mut self,
        resource: impl Into<String>,
        attribute: impl Into<String>,
        is: impl Into<String>,
        should_be: impl Into<String>,
        why: impl Into<String>,
    ) {
        let (is, should_be) = (Some(is.into()), Some(should_be.into()));
        self.push(resource.into(), Outcome::Left, Some(attribute.into()), is, should_be, Some(why.into()));
    }

    /// Something to know that is no difference.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    fn push(
        &mut self,
        resource: String,
        outcome: Outcome,
        attribute: Option<String>,
        is: Option<String>,
        should_be: Option<String>,
        why: Option<String>,
    ) {
        self.differences.push(Difference { resource, outcome, attribute, is, should_be, why });
    }

    /// `is_whole`: nothing made it end early.
    pub(super) fn show(&self, place: &Place, is_whole: bool, output: Output) {
        if output.json {
            output.json(&Shown {
                endpoint: place.settings().endpoint.as_deref(),
                region: place.region(),
                account: place.account(),
                dry_run: self.dry_run,
                differences: &self.differences,
                notes: &self.notes,
            });
            return;
        }
        let lines: Vec<String> = self.differences.iter().map(line).collect();
        if !lines.is_empty() {
            output.text(&lines.join("\n"));
        } else if is_whole {
            output.text("nothing to do");
        }
        self.notes.iter().for_each(|note| output.note(note));
    }

    /// The exit code says whether all is as it should be.
    pub(super) fn verdict(&self) -> Result<(), Trouble> {
        let count = |outcomes: &[Outcome]| -> usize {
            self.differences.iter().filter(|difference| outcomes.contains(&difference.outcome)).count()
        };
        let (open, left) = (count(&[Outcome::Missing, Outcome::Differs]), count(&[Outcome::Left]));
        let trouble = match (open, left) {
            (0, 0) => return Ok(()),
            (0, left) => Trouble::failed(format!("{left} differences from the topology were left as they are"))
                .next("the lines above say why; mend them by hand, or deploy under another prefix (aws.prefix)"),
            (open, left) => Trouble::failed(format!("{} differences from the topology", open + left))
                .next("run it without --dry-run to mend what can be mended"),
        };
        Err(trouble.coded(ErrorCode::DeploymentDiffers))
    }
}

fn line(difference: &Difference) -> String {
    let Difference { resource, outcome, attribute, is, should_be, why } = difference;
    let attribute = attribute.as_deref().unwrap_or_default();
    let is = is.as_deref().unwrap_or("not set");
    let should_be = should_be.as_deref().unwrap_or_default();
    match outcome {
        Outcome::Created => format!("{resource}: created"),
        Outcome::Missing => format!("{resource}: missing"),
        Outcome::Changed => format!("{resource}: {attribute} was {is}, is now {should_be}"),
        Outcome::Differs => format!("{resource}: {attribute} is {is}, should be {should_be}"),
        Outcome::Left => {
            let why = why.as_deref().unwrap_or_default();
            format!("{resource}: {attribute} is {is}, should be {should_be}; left as it is: {why}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ledger: &Ledger) -> (String, bool) {
        (ledger.differences.iter().map(line).collect::<Vec<_>>().join("\n"), ledger.verdict().is_ok())
    }

    #[test]
    fn a_dry_run_tells_what_differs_and_fails_a_real_one_tells_what_was_done() {
        for (dry_run, expected, is_ok) in [
            (true, "queue a: missing\nqueue b: VisibilityTimeout is 30, should be 36", false),
            (false, "queue a: created\nqueue b: VisibilityTimeout was 30, is now 36", true),
        ] {
            let mut ledger = Ledger::new(dry_run);
            ledger.created("queue a");
            ledger.changed("queue b", "VisibilityTimeout", Some("30".to_owned()), "36");
            assert_eq!(outcome(&ledger), (expected.to_owned(), is_ok));
        }
    }

    #[test]
    fn what_cannot_be_mended_fails_either_way() {
        for dry_run in [true, false] {
            let mut ledger = Ledger::new(dry_run);
            ledger.left("table a", "keys", "id", "pk, sk", "its rows would be lost");
            let expected = "table a: keys is id, should be pk, sk; left as it is: its rows would be lost";
            assert_eq!(outcome(&ledger), (expected.to_owned(), false));
        }
        assert!(Ledger::new(true).verdict().is_ok());
    }
}
