//! Each role's policies, as Terraform would write them, against `iam.toml`: what the code uses is allowed, what must never be is not, and what is
//! allowed besides is on the list with a reason.

use std::collections::{BTreeMap, BTreeSet};

use push0_core::id::Class;
use serde::Deserialize;

use crate::computed::{ACCOUNT, REGION, computed};
use crate::module::Finding;
use crate::plan::Resource;
use crate::policy::{self, Decision, Statement, decide};
use crate::relations::Installation;

const LIST: &str = include_str!("../iam.toml");
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
    uses: Vec<Entry>,
    may: Vec<Entry>,
    never: Vec<Entry>,
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
    statements: Vec<Statement>,
}

pub fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let list: BTreeMap<String, Role> = match toml::from_str(LIST) {
        Ok(list) => list,
        Err(error) => return vec![installation.remark(format!("infra/check/iam.toml: {error}"))],
    };
    let mut findings = Vec::new();
    for holder in holders(installation, &list, &mut findings) {
        let Some(entry) = list.get(&holder.list) else { continue };
        findings.extend(of_role(installation, &holder, entry));
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
            Some(role) => holders.push(Holder {
                list: name.clone(),
                pool: None,
                role,
                group: None,
                statements: statements(installation, role, findings),
            }),
        }
    }
    let mut served: BTreeSet<String> = BTreeSet::new();
    for template in installation.of_type("aws_launch_template") {
        let Some(role) = role_of(installation, template) else {
            findings.push(template.finding("its instances have no role here"));
            continue;
        };
        let statements = statements(installation, role, findings);
        let mut pools = installation.pools.iter().map(ToString::to_string).filter(|pool| {
            let queue = arn_of_queue(installation, &format!("work-{pool}-bulk"));
            decide(&statements, "sqs:ReceiveMessage", &queue) == Decision::Allowed
        });
        match (pools.next(), pools.next()) {
            (Some(pool), None) => {
                served.insert(pool.clone());
                let list = if pool == TRUSTED { TRUSTED } else { "worker" }.to_owned();
                let group = group_of(installation, template);
                holders.push(Holder { list, pool: Some(pool), role, group, statements });
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

fn statements(installation: &Installation<'_>, role: &Resource, findings: &mut Vec<Finding>) -> Vec<Statement> {
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
    statements
}

fn of_role(installation: &Installation<'_>, holder: &Holder<'_>, entry: &Role) -> Vec<Finding> {
    let mut findings = Vec::new();
    let places = |entries: &[Entry]| -> Vec<(String, String)> {
        let place = |entry: &Entry| {
            let resources: Vec<String> = entry.on.iter().flat_map(|on| resources(installation, holder, on)).collect();
            let pairs = |action: &String| {
                resources.iter().map(|resource| (action.clone(), resource.clone())).collect::<Vec<_>>()
            };
            entry.actions.iter().flat_map(pairs).collect::<Vec<_>>()
        };
        entries.iter().flat_map(place).collect()
    };
    let uses = places(&entry.uses);
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
    for (action, resource) in places(&entry.never) {
        if decide(&holder.statements, &action, &resource) == Decision::Allowed {
            findings.push(holder.role.finding(format!("{action} on {resource} must never be allowed, and is")));
        }
    }
    let mut known = uses;
    known.extend(places(&entry.may));
    for entry in entry.may.iter().filter(|entry| entry.why.is_none()) {
        findings.push(
            holder.role.finding(format!("infra/check/iam.toml says of {:?} no reason why it may be", entry.actions)),
        );
    }
    findings.extend(
        holder
            .statements
            .iter()
            .filter(|statement| statement.allow)
            .flat_map(|statement| extra(holder, statement, &known)),
    );
    findings
}

/// Actions and resources of a statement that nothing on the list needs.
fn extra(holder: &Holder<'_>, statement: &Statement, known: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let needed = |action: Option<&str>, resource: Option<&str>| {
        known.iter().any(|(a, r)| {
            action.is_none_or(|pattern| policy::matches_action(pattern, a))
                && resource.is_none_or(|pattern| policy::matches(pattern, r))
        })
    };
    let any_action =
        |resource: &str| statement.actions.patterns.iter().any(|action| needed(Some(action), Some(resource)));
    let any_resource =
        |action: &str| statement.resources.patterns.iter().any(|resource| needed(Some(action), Some(resource)));
    for action in statement.actions.patterns.iter().filter(|action| !any_resource(action)) {
        findings.push(holder.role.finding(format!("{action} is allowed and not used ({})", statement.sid)));
    }
    for resource in statement.resources.patterns.iter().filter(|resource| !any_action(resource)) {
        findings.push(holder.role.finding(format!("{resource} is allowed and not used ({})", statement.sid)));
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
    for (place, values) in [("{pool}", vec![own]), ("{other}", others), ("{any}", all), ("{class}", classes)] {
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
