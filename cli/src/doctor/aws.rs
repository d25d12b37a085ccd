//! What can be seen of an installation in an AWS account: who asks, what is there, how far quotas reach, why no instance comes.
//!
//! Every call is the caller's own. What a function's or a worker's role may do is not seen here but by what it did: a source's last result,
//! an instance that came or did not, the [`smoke`] block. Nothing but that block changes anything.

mod caller;
mod fleet;
mod functions;
mod launch;
mod quota;
mod refusal;
mod smoke;
mod store;
mod trips;

use std::collections::BTreeSet;

use push0_core::topology::Topology;
use push0_core::{ErrorCode, Pool};
use push0_runtime::aws::Connection;

use super::{Finding, Findings, State, running};
use crate::args;
use crate::bootstrap::place::Place;
use crate::connect::Remote;
use crate::output::Output;
use crate::settings::Settings;

/// An installation, as the caller sees it.
struct Account {
    connection: Connection,
    place: Place,
    /// The caller's ARN, once it is known.
    caller: Option<String>,
    topology: Topology,
    pools: BTreeSet<Pool>,
}

/// What of the installation was looked for.
#[derive(Debug, Default)]
struct Survey {
    findings: Findings,
    there: usize,
    missing: usize,
}

impl Survey {
    /// Of `of` things, those that are not there.
    fn count(&mut self, account: &Account, what: &str, of: usize, missing: &[String]) {
        self.there += of - missing.len();
        self.missing += missing.len();
        if missing.is_empty() {
            return;
        }
        let says = format!("missing, {} of {of}: {}", missing.len(), some(missing));
        let next = format!("`terraform apply` (or `push0 bootstrap`) makes them; {}", account.whereabouts());
        self.findings.problem(what, ErrorCode::NotDeployed, says, next);
    }

    /// Of nothing that was looked for there was an answer.
    fn is_unreachable(&self) -> bool {
        let silent = |finding: &Finding| finding.code == Some(ErrorCode::AwsDoesNotAnswer);
        self.there + self.missing == 0 && self.findings.0.iter().all(silent)
    }

    /// Where nothing at all is there, that is one finding.
    fn finish(mut self, account: &Account) -> Findings {
        if self.there == 0 && self.missing > 0 {
            self.findings.0.retain(|finding| finding.code != Some(ErrorCode::NotDeployed));
            let next = format!(
                "before the first `terraform apply` that is as it should be; after it: {}",
                account.whereabouts()
            );
            self.findings.problem("installation", ErrorCode::NotDeployed, "nothing of it is here yet", next);
        }
        self.findings
    }
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Account {
    async fn new(settings: &Settings, findings: &mut Findings) -> Option<Self> {
        let connection = Connection::new(settings.aws.clone()).await;
        let Some(region) = connection.sdk.region().map(|region| region.as_ref().to_owned()) else {
            let next = "set AWS_REGION, as `terraform output -raw environment` prints it";
            findings.problem("caller", ErrorCode::AwsNotConfigured, "no AWS region is configured", next);
            return None;
        };
        let place = Place::new(settings.aws.clone(), &region);
        let pools = settings.catalog.pools();
        Some(Self { connection, place, caller: None, topology: Topology::built_in(), pools })
    }

    fn whereabouts(&self) -> String {
        let (prefix, account) = (&self.place.settings().prefix, self.place.account_or_unknown());
        format!("are prefix {prefix}, account {account} and region {} the ones you mean?", self.place.region())
    }

    fn lambda(&self) -> aws_sdk_lambda::Client {
        aws_sdk_lambda::Client::new(&self.connection.sdk)
    }
}

/// Looks at the installation that `settings` names, and sends a block through it where that is asked for.
pub(super) async fn run(args: &args::Doctor, settings: &Settings, output: Output, findings: &mut Findings) {
    let Some(mut account) = Account::new(settings, findings).await else { return };
    if !caller::look(&mut account, findings).await {
        return;
    }
    let mut survey = Survey::default();
    store::look(&account, &mut survey).await;
    if survey.is_unreachable() {
        return findings.0.extend(survey.findings.0);
    }
    functions::look(&account, &mut survey).await;
    let groups = fleet::look(&account, &mut survey).await;
    let is_here = survey.there > 0;
    let seen = survey.finish(&account);
    let is_whole = is_here && seen.0.iter().all(|finding| !stops_everything(finding));
    findings.0.extend(seen.0);
    quota::look(&account, groups.as_deref(), findings).await;
    functions::concurrency(&account, findings).await;
    if is_whole {
        let remote = Remote::of_aws(settings, &account.connection);
        running::running(&remote, args.deep, findings).await;
        if let Some(through) = &args.smoke {
            smoke::send(&account, &remote, through, args.timeout, output, findings).await;
        }
    } else if args.smoke.is_some() {
        findings.warn("smoke block", "not sent: it could not get through", "mend the problems above first");
    }
}

/// Without queues, table and buckets, and a way to them, there is no more to look at.
fn stops_everything(finding: &Finding) -> bool {
    finding.state == State::Problem && ["queues", "table", "bucket"].iter().any(|what| finding.what.starts_with(what))
}
