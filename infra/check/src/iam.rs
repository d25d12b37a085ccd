//! Each role's policies, as Terraform would write them: what was recorded of it (`recorded.toml`) is allowed, what must never be is not, and what is
//! needed or allowed besides is in `iam.toml` with a reason.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::id::Class;
use serde::Deserialize;

use crate::computed::{ACCOUNT, REGION, computed};
use crate::module::Finding;
use crate::plan::Resource;
use crate::policy::{self, Decision, Statement, decide};
use crate::recorded::Recording;
use crate::relations::Installation;
use crate::tree::Tree;

const FILE: &str = "infra/check/iam.toml";
const TRUSTED: &str = "trusted";

/// Policies of AWS that a role may have, and why.
const OF_AWS: &[(&str, &str)] = &[
    ("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore", "operators come in by Session Manager: there is no SSH"),
    ("arn:aws:iam::aws:policy/CloudWatchAgentServerPolicy", "the agent on GPU instances writes metrics and logs"),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    of: Of,
    needs: Vec<Entry>,
    may: Vec<Entry>,
    never: Vec<Entry>,
}

impl Role {
    /// Whether there is a reason why it may, in places as a recording names them.
    fn may_have(&self, action: &str, on: &str) -> bool {
        let has = |listed: &String| match listed.starts_with("blobs ") {
            true => on.starts_with(listed.as_str()),
            false => ["{any}", "trusted", "{prover}"].iter().any(|pool| listed.replace("{any}", pool) == on),
        };
        let listed = self.needs.iter().chain(&self.may);
        listed.into_iter().any(|entry| entry.actions.iter().any(|listed| listed == action) && entry.on.iter().any(has))
    }
}

/// `iam.toml` and `recorded.toml`.
#[derive(Debug)]
pub struct Lists {
    /// By their names.
    roles: BTreeMap<String, Role>,
    recorded: Recording,
}

impl Lists {
    pub fn of(tree: &Tree) -> Result<Self, String> {
        let roles = toml::from_str(tree.read(FILE).unwrap_or_default()).map_err(|error| format!("{FILE}: {error}"))?;
        Ok(Self { roles, recorded: Recording::committed(tree)? })
    }

    /// What of a recording is neither in `recorded.toml` nor in `iam.toml` with a reason: on AWS it might be refused.
    pub fn without(&self, recording: &Recording) -> Vec<String> {
        let mut unlisted = Vec::new();
        for role in recording.roles() {
            let known: BTreeSet<_> = self.recorded.of_role(role).collect();
            let may = |action: &str, on: &str| self.roles.get(role).is_some_and(|role| role.may_have(action, on));
            let new =
                recording.of_role(role).filter(|(action, on)| !known.contains(&(*action, *on)) && !may(action, on));
            unlisted.extend(new.map(|(action, on)| format!("{role} called {action} on {on}")));
        }
        unlisted
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Function,
    Pool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    actions: Vec<String>,
    on: Vec<String>,
    #[serde(default)]
    why: Option<String>,
}

/// A role in the account, and whose it is.
struct Holder<'a> {
    /// Its entry in the list.
    list: String,
    pool: Option<String>,
    role: &'a Resource,
    /// ARN of the group whose instances have it.
    group: Option<String>,
    /// The documents.
    policies: Vec<String>,
    statements: Vec<Statement>,
}

/// What a role's policies say, for somebody else to judge.
#[derive(Debug)]
pub struct Judgement {
    pub role: String,
    /// Documents in JSON.
    pub policies: Vec<String>,
    /// What was recorded, what there is a reason for and what must never be: actions on resources, and whether they are allowed.
    pub decisions: BTreeMap<(String, String), bool>,
}

pub fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let lists = match Lists::of(installation.tree) {
        Ok(lists) => lists,
        Err(error) => return vec![installation.remark(error)],
    };
    let mut findings = Vec::new();
    for holder in holders(installation, &lists.roles, &mut findings) {
        let Some(entry) = lists.roles.get(&holder.list) else { continue };
        findings.extend(of_role(installation, &holder, entry, &lists.recorded));
    }
    findings.sort();
    findings.dedup();
    findings
}

fn holders<'a>(
    installation: &'a Installation<'_>,
    list: &BTreeMap<String, Role>,
    findings: &mut Vec<Finding>,
) -> Vec<Holder<'a>> {
    let mut holders = Vec::new();
    for name in list.iter().filter(|(_, entry)| entry.of == Of::Function).map(|(name, _)| name) {
        let role = installation.function(name).and_then(|function| function.text("role"));
        match role.and_then(|arn| installation.by_arn("aws_iam_role", &arn)) {
            None => findings.push(installation.remark(format!("function {name} has no role here"))),
            Some(role) => {
                let (policies, statements) = policies(installation, role, findings);
                let list = name.clone();
                holders.push(Holder { list, pool: None, role, group: None, policies, statements });
            }
        }
    }
    let mut served: BTreeSet<String> = BTreeSet::new();
    for template in installation.of_type("aws_launch_template") {
        let Some(role) = role_of(installation, template) else {
            findings.push(template.finding("its instances have no role here"));
            continue;
        };
        let (policies, statements) = policies(installation, role, findings);
        let mut pools = installation.pools.iter().map(ToString::to_string).filter(|pool| {
            let queue = arn_of_queue(installation, &format!("work-{pool}-bulk"));
            decide(&statements, "sqs:ReceiveMessage", &queue) == Decision::Allowed
        });
        match (pools.next(), pools.next()) {
            (Some(pool), None) => {
                served.insert(pool.clone());
                let list = if pool == TRUSTED { TRUSTED } else { "worker" }.to_owned();
                let group = group_of(installation, template);
                holders.push(Holder { list, pool: Some(pool), role, group, policies, statements });
            }
            (None, _) => findings.push(role.finding("it may receive from no pool's queues")),
            (Some(one), Some(other)) => {
                findings.push(role.finding(format!("it may receive from the queues of {one} and of {other}")));
            }
        }
    }
    for pool in &installation.pools {
        if !served.contains(&pool.to_string()) {
            findings.push(installation.remark(format!("no launch template has the role of pool {pool}")));
        }
    }
    holders
}

fn role_of<'a>(installation: &'a Installation<'_>, template: &Resource) -> Option<&'a Resource> {
    let profile =
        template.text("iam_instance_profile.arn").and_then(|arn| installation.by_arn("aws_iam_instance_profile", &arn));
    let named = || installation.find("aws_iam_instance_profile", "name", &template.text("iam_instance_profile.name")?);
    installation.find("aws_iam_role", "name", &profile.or_else(named)?.text("role")?)
}

fn group_of(installation: &Installation<'_>, template: &Resource) -> Option<String> {
    let id = format!("${{{}.id}}", template.address);
    let uses = |group: &&Resource| group.arguments.to_json().to_string().contains(&id.replace('"', "\\\""));
    computed(installation.of_type("aws_autoscaling_group").find(uses)?, "arn")
}

/// A role's documents, and their statements.
fn policies(
    installation: &Installation<'_>,
    role: &Resource,
    findings: &mut Vec<Finding>,
) -> (Vec<String>, Vec<Statement>) {
    let name = role.text("name").unwrap_or_default();
    let mut texts: Vec<String> = Vec::new();
    for policy in
        installation.of_type("aws_iam_role_policy").filter(|policy| policy.text("role").as_ref() == Some(&name))
    {
        texts.extend(policy.text("policy"));
    }
    for attached in installation.of_type("aws_iam_role_policy_attachment") {
        if attached.text("role").as_ref() != Some(&name) {
            continue;
        }
        let arn = attached.text("policy_arn").unwrap_or_default();
        match installation.by_arn("aws_iam_policy", &arn) {
            Some(policy) => texts.extend(policy.text("policy")),
            None if OF_AWS.iter().any(|(known, _)| *known == arn) => {}
            None => {
                findings.push(attached.finding(format!("{arn} is neither here nor on the list (OF_AWS, infra/check)")))
            }
        }
    }
    for other in ["inline_policy", "managed_policy_arns"] {
        if role.argument(other).is_some() {
            findings
                .push(role.finding(format!("`{other}` is not looked at: attach policies by resources of their own")));
        }
    }
    let mut statements = Vec::new();
    for text in &texts {
        match policy::parse(text) {
            Ok(parsed) => statements.extend(parsed),
            Err(why) => findings.push(role.finding(why)),
        }
    }
    (texts, statements)
}

/// What each role's policies say of all that is on the lists.
pub(crate) fn judgements(installation: &Installation<'_>) -> Result<Vec<Judgement>, String> {
    let Lists { roles, recorded } = Lists::of(installation.tree)?;
    let mut judgements = Vec::new();
    for holder in holders(installation, &roles, &mut Vec::new()) {
        let Some(entry) = roles.get(&holder.list) else { continue };
        let listed = entry
            .needs
            .iter()
            .chain(&entry.may)
            .chain(&entry.never)
            .flat_map(|entry| places(installation, &holder, entry));
        let decisions = uses(installation, &holder, &recorded).into_iter().chain(listed).map(|(action, resource)| {
            let is_allowed = decide(&holder.statements, &action, &resource) == Decision::Allowed;
            ((action, resource), is_allowed)
        });
        let (decisions, role) = (decisions.collect(), holder.role.address.clone());
        judgements.push(Judgement { role, policies: holder.policies, decisions });
    }
    Ok(judgements)
}

/// What was recorded of a role, as ARNs in the account.
fn uses(installation: &Installation<'_>, holder: &Holder<'_>, recorded: &Recording) -> BTreeSet<(String, String)> {
    let places = |(action, on): (&str, &str)| -> Vec<(String, String)> {
        resources(installation, holder, on).into_iter().map(|resource| (action.to_owned(), resource)).collect()
    };
    recorded.of_role(&holder.list).flat_map(places).collect()
}

/// Each action of an entry on each of its places.
fn places(installation: &Installation<'_>, holder: &Holder<'_>, entry: &Entry) -> Vec<(String, String)> {
    let resources: Vec<String> = entry.on.iter().flat_map(|on| resources(installation, holder, on)).collect();
    let pairs =
        |action: &String| resources.iter().map(|resource| (action.clone(), resource.clone())).collect::<Vec<_>>();
    entry.actions.iter().flat_map(pairs).collect()
}

fn of_role(installation: &Installation<'_>, holder: &Holder<'_>, entry: &Role, recorded: &Recording) -> Vec<Finding> {
    let mut findings = Vec::new();
    let places = |entry: &Entry| places(installation, holder, entry);
    let uses = uses(installation, holder, recorded);
    for (action, resource) in &uses {
        match decide(&holder.statements, action, resource) {
            Decision::Allowed => {}
            Decision::Denied => {
                findings.push(holder.role.finding(format!("{action} on {resource} is used and denied")))
            }
            Decision::Silent => {
                findings.push(holder.role.finding(format!("{action} on {resource} is used and not allowed")))
            }
        }
    }
    for (action, resource) in entry.needs.iter().flat_map(places) {
        if decide(&holder.statements, &action, &resource) != Decision::Allowed {
            findings.push(holder.role.finding(format!("{action} on {resource} is needed and not allowed")));
        }
    }
    for (action, resource) in entry.never.iter().flat_map(places) {
        if decide(&holder.statements, &action, &resource) == Decision::Allowed {
            findings.push(holder.role.finding(format!("{action} on {resource} must never be allowed, and is")));
        }
    }
    let mut known: Vec<(String, String)> = uses.iter().cloned().collect();
    for entry in entry.needs.iter().chain(&entry.may) {
        let places = places(entry);
        let remark = |what: &str| holder.role.finding(format!("{FILE}: {:?} on {:?} {what}", entry.actions, entry.on));
        if entry.why.is_none() {
            findings.push(remark("may be, and it says no reason"));
        }
        if !places.is_empty() && places.iter().all(|place| uses.contains(place)) {
            findings.push(remark("was recorded: it needs no reason"));
        }
        known.extend(places);
    }
    let allowing = holder.statements.iter().filter(|statement| statement.allow);
    findings.extend(allowing.flat_map(|statement| extra(holder, statement, &known)));
    findings
}

/// Actions of a statement, each on each of its resources, that nobody used and nothing gives a reason for.
fn extra(holder: &Holder<'_>, statement: &Statement, known: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for action in &statement.actions.patterns {
        let resources: Vec<&String> = known
            .iter()
            .filter(|(known, _)| policy::matches_action(action, known))
            .map(|(_, resource)| resource)
            .collect();
        if resources.is_empty() {
            findings.push(holder.role.finding(format!("{action} is allowed and not used ({})", statement.sid)));
            continue;
        }
        for pattern in &statement.resources.patterns {
            if !resources.iter().any(|resource| policy::matches(pattern, resource)) {
                let what = format!("{action} on {pattern} is allowed and not used ({})", statement.sid);
                findings.push(holder.role.finding(what));
            }
        }
    }
    findings
}

fn arn_of_queue(installation: &Installation<'_>, name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{}", installation.named(name))
}

/// A place of the list as ARNs in the account.
fn resources(installation: &Installation<'_>, holder: &Holder<'_>, on: &str) -> Vec<String> {
    let (kind, name) = on.split_once(' ').unwrap_or((on, ""));
    match kind {
        // Without a customer key there is nothing to be allowed.
        "key" => {
            installation.of_type("aws_sqs_queue").filter_map(|queue| queue.text("kms_master_key_id")).take(1).collect()
        }
        // A pool of a fixed size may have no group.
        "group" => holder.group.iter().cloned().collect(),
        kind => filled(installation, holder, name).iter().map(|name| arn(installation, holder, kind, name)).collect(),
    }
}

fn arn(installation: &Installation<'_>, holder: &Holder<'_>, kind: &str, name: &str) -> String {
    match kind {
        "queue" => arn_of_queue(installation, name),
        "table" => format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{}", installation.named(name)),
        "bucket" => format!("arn:aws:s3:::{}", installation.named(name)),
        "blobs" => {
            let bucket = installation.topology.bucket_of(name).map(|bucket| bucket.name.as_str()).unwrap_or_default();
            format!("arn:aws:s3:::{}/{name}some/object", installation.named(bucket))
        }
        "logs" => {
            let group = format!("/aws/lambda/{}", installation.named(&holder.list));
            format!("arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:x")
        }
        _ => "arn:aws:any:::thing".to_owned(),
    }
}

fn filled(installation: &Installation<'_>, holder: &Holder<'_>, name: &str) -> Vec<String> {
    let own = holder.pool.clone().unwrap_or_default();
    let all: Vec<String> = installation.pools.iter().map(ToString::to_string).collect();
    let mut names = vec![name.to_owned()];
    let others: Vec<String> = all.iter().filter(|pool| **pool != own).cloned().collect();
    let classes = Class::ALL.map(|class| class.as_str().to_owned()).to_vec();
    let provers: Vec<String> = all.iter().filter(|pool| *pool != TRUSTED).cloned().collect();
    let places =
        [("{pool}", vec![own]), ("{other}", others), ("{prover}", provers), ("{any}", all), ("{class}", classes)];
    for (place, values) in places {
        names = names
            .iter()
            .flat_map(|name| match name.contains(place) {
                true => values.iter().map(|value| name.replace(place, value)).collect(),
                false => vec![name.clone()],
            })
            .collect();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_no_list_has_is_seen() {
        let mut tree = Tree::default();
        tree.insert("infra/check/recorded.toml", "[worker]\n\"sqs:SendMessage\" = [\"queue results\"]\n");
        let may = "{ actions = [\"sqs:GetQueueUrl\"], on = [\"queue work-{any}-{class}\"], why = \"so\" }, { actions = [\"s3:GetObject\"], on = [\"blobs artifacts/\"], why = \"so\" }";
        tree.insert(
            "infra/check/iam.toml",
            &format!("[worker]\nof = \"pool\"\nneeds = []\nmay = [{may}]\nnever = []\n"),
        );
        let lists = Lists::of(&tree).unwrap();
        let without = |service: &str, operation: &str, on: &str| {
            let line = format!(
                "{{\"role\":\"worker/gpu\",\"service\":\"{service}\",\"operation\":\"{operation}\",\"part\":null,\"on\":\"{on}\"}}"
            );
            lists.without(&Recording::of_lines(&line).unwrap())
        };
        let none: [&str; 0] = [];
        assert_eq!(without("SQS", "SendMessageBatch", "results"), none);
        assert_eq!(without("SQS", "SendMessage", "verdicts"), ["worker called sqs:SendMessage on queue verdicts"]);
        assert_eq!(
            without("SQS", "GetQueueUrl", "work-trusted-bulk").len(),
            1,
            "a worker's own pool is not every pool"
        );
        assert_eq!(without("S3", "GetObject", "blobs/artifacts/cpu/1"), none);
        assert_eq!(
            without("S3", "GetObject", "blobs/control/demo/1"),
            ["worker called s3:GetObject on blobs control/"]
        );
    }
}
