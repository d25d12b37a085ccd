//! The pools' instances: how many there are of those that are wanted, and why no more come.
//!
//! An image is not looked at: that would take EC2's client, which costs more to build than all the others. It is judged by what Auto
//! Scaling said of launching it.

use aws_sdk_autoscaling::types::{Activity, AutoScalingGroup, LifecycleState, ScalingActivityStatusCode as Status};
use push0_core::{ErrorCode, Pool};

use super::refusal::Asked;
use super::{Account, Findings, State, Survey, launch};

/// Activities that are looked at, the newest: an older one says nothing of today.
const ACTIVITIES: i32 = 20;

const PAGE: &str = "docs/runbook/fleet-shortfall.md";

/// The groups of the pools that have one; none where nobody knows.
pub(super) async fn look(account: &Account, survey: &mut Survey) -> Option<Vec<AutoScalingGroup>> {
    let client = aws_sdk_autoscaling::Client::new(&account.connection.sdk);
    let names = account.pools.iter().map(|pool| account.place.name(pool.as_str()));
    let mut pages = client
        .describe_auto_scaling_groups()
        .set_auto_scaling_group_names(Some(names.collect()))
        .into_paginator()
        .send();
    let mut groups = Vec::new();
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => groups.extend(page.auto_scaling_groups.unwrap_or_default()),
            Err(error) => {
                let asked =
                    Asked { what: "pools", action: "autoscaling:DescribeAutoScalingGroups", on: "*".to_owned() };
                survey.findings.0.push(asked.failed(account, State::Warning, &error));
                return None;
            }
        }
    }
    if groups.is_empty() {
        // Where nothing is there, that is told as a whole.
        if survey.there > 0 {
            let next = "nothing to do where workers run elsewhere (`push0 worker --connect aws`); otherwise `terraform apply` makes groups";
            survey.findings.warn("pools", "none has an Auto Scaling group: somebody else has to start workers", next);
        }
        return Some(groups);
    }
    survey.there += groups.len();
    for pool in &account.pools {
        let name = account.place.name(pool.as_str());
        let what = format!("pool {pool}");
        let Some(group) = groups.iter().find(|group| group.auto_scaling_group_name() == Some(&name)) else {
            let says =
                format!("no Auto Scaling group {name}: its workers, if there are any, are started by somebody else");
            survey.findings.warn(
                &what,
                says,
                format!(
                    "a pool of that name in `pools` of your Terraform, or `push0 worker --connect aws --pool {pool}`"
                ),
            );
            continue;
        };
        let ask = client.describe_scaling_activities().auto_scaling_group_name(&name).max_records(ACTIVITIES);
        let activities = match ask.send().await {
            Ok(answer) => answer.activities.unwrap_or_default(),
            Err(error) => {
                let asked = Asked { what: &what, action: "autoscaling:DescribeScalingActivities", on: "*".to_owned() };
                survey.findings.0.push(asked.failed(account, State::Warning, &error));
                Vec::new()
            }
        };
        judge(pool, group, &activities, &mut survey.findings);
    }
    Some(groups)
}

fn judge(pool: &Pool, group: &AutoScalingGroup, activities: &[Activity], findings: &mut Findings) {
    let what = format!("pool {pool}");
    let problem = |findings: &mut Findings, says: String, next: &str| {
        findings.problem(&what, ErrorCode::NobodyTakesTasks, says, next);
    };
    let wanted = usize::try_from(group.desired_capacity().unwrap_or_default()).unwrap_or_default();
    let (least, most) = (group.min_size().unwrap_or_default(), group.max_size().unwrap_or_default());
    let ready =
        group.instances().iter().filter(|instance| instance.lifecycle_state() == Some(&LifecycleState::InService));
    let ready = ready.count();
    let types = types(group);
    let types = if types.is_empty() { String::new() } else { format!(", of {}", types.join(", ")) };
    let size = format!("{ready} of {wanted} wanted instances in service (from {least} to {most}{types})");
    suspended(&what, group, findings);
    if most == 0 {
        return problem(findings, format!("{size}: it may have none"), "raise its `max`, and apply");
    }
    if pool.is_trusted() && wanted == 0 {
        return problem(
            findings,
            format!("{size}: nothing is split and nothing verified"),
            "`trusted.instances` of your Terraform; apply",
        );
    }
    match (last_failure(activities), ready < wanted) {
        (None, false) => findings.ok(&what, size),
        (None, true) => findings.warn(
            &what,
            format!("{size}: more are on their way"),
            format!("look again in some minutes; {PAGE}"),
        ),
        (Some((said, next)), true) => problem(findings, format!("{size}\n{said}"), &format!("{next}; {PAGE}")),
        (Some((said, next)), false) => findings.warn(&what, format!("{size}; but {said}"), format!("{next}; {PAGE}")),
    }
}

/// What the newest launch that is over says, where it failed; and what to do about it.
fn last_failure(activities: &[Activity]) -> Option<(String, &'static str)> {
    let is_launch = |activity: &&Activity| activity.description().is_some_and(|text| text.starts_with("Launching"));
    let is_over = |activity: &&Activity| {
        matches!(activity.status_code(), Some(Status::Failed | Status::Cancelled | Status::Successful))
    };
    let last = activities.iter().filter(is_launch).find(is_over)?;
    if last.status_code() == Some(&Status::Successful) {
        return None;
    }
    let at = last.start_time().map_or(String::new(), |at| format!(" at {at}"));
    let message = last.status_message().unwrap_or("Auto Scaling does not say why");
    let cause = launch::cause(message);
    Some((format!("the last launch{at} failed: {}: {message}", cause.says), cause.next))
}

fn suspended(what: &str, group: &AutoScalingGroup, findings: &mut Findings) {
    let names: Vec<&str> = group.suspended_processes().iter().filter_map(|process| process.process_name()).collect();
    if names.is_empty() {
        return;
    }
    let next = format!(
        "`aws autoscaling resume-processes --auto-scaling-group-name {}`",
        group.auto_scaling_group_name().unwrap_or_default()
    );
    let says = format!("somebody has suspended {}", names.join(", "));
    if names.contains(&"Launch") {
        findings.problem(what, ErrorCode::NobodyTakesTasks, format!("{says}: no instance is started"), next);
    } else {
        findings.warn(what, says, next);
    }
}

/// The instance types a group chooses from.
pub(super) fn types(group: &AutoScalingGroup) -> Vec<&str> {
    let template = group.mixed_instances_policy().and_then(|policy| policy.launch_template());
    let overrides = template.map(|template| template.overrides()).unwrap_or_default();
    overrides.iter().filter_map(|other| other.instance_type()).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_autoscaling::types::{Instance, SuspendedProcess};

    use super::*;

    fn group(ready: usize, wanted: i32, most: i32) -> AutoScalingGroup {
        let instance =
            |at| Instance::builder().instance_id(format!("i-{at}")).lifecycle_state(LifecycleState::InService).build();
        let group = AutoScalingGroup::builder().auto_scaling_group_name("p-gpu").min_size(0).max_size(most);
        group.desired_capacity(wanted).set_instances(Some((0..ready).map(instance).collect())).build()
    }

    fn activity(status: Status, message: &str) -> Activity {
        let activity = Activity::builder().description("Launching a new EC2 instance.").status_code(status);
        activity.status_message(message).build()
    }

    fn judged(pool: &str, group: &AutoScalingGroup, activities: &[Activity]) -> Vec<(State, String, String)> {
        let mut findings = Findings::default();
        judge(&pool.parse().unwrap(), group, activities, &mut findings);
        findings.0.into_iter().map(|finding| (finding.state, finding.says, finding.next.unwrap_or_default())).collect()
    }

    const QUOTA: &str = "You have requested more vCPU capacity than your current vCPU limit of 0 allows. Launching EC2 instance failed.";

    #[test]
    fn a_pool_that_cannot_start_says_why_and_what_to_do() {
        let activities =
            [activity(Status::InProgress, ""), activity(Status::Failed, QUOTA), activity(Status::Successful, "")];
        let found = judged("gpu", &group(0, 2, 4), &activities);
        let [(State::Problem, says, next)] = &found[..] else { panic!("{found:?}") };
        assert!(says.contains("0 of 2 wanted") && says.contains("a quota") && says.ends_with(QUOTA), "{says}");
        assert!(next.contains("Service Quotas") && next.ends_with(PAGE), "{next}");
    }

    #[test]
    fn only_the_newest_launch_that_is_over_counts() {
        let went_well = [activity(Status::Successful, ""), activity(Status::Failed, QUOTA)];
        assert_eq!(judged("gpu", &group(2, 2, 4), &went_well)[0].0, State::Ok);
        let on_their_way = judged("gpu", &group(1, 2, 4), &went_well);
        assert!(on_their_way[0].0 == State::Warning && on_their_way[0].1.contains("on their way"), "{on_their_way:?}");
        assert_eq!(judged("gpu", &group(2, 2, 4), &[activity(Status::Failed, QUOTA)])[0].0, State::Warning);
        let terminated =
            Activity::builder().description("Terminating EC2 instance: i-1").status_code(Status::Failed).build();
        assert_eq!(judged("gpu", &group(0, 0, 4), &[terminated])[0].0, State::Ok);
    }

    #[test]
    fn a_pool_that_may_not_have_an_instance_is_a_problem() {
        assert_eq!(judged("gpu", &group(0, 0, 0), &[])[0].0, State::Problem);
        assert_eq!(judged("gpu", &group(0, 0, 4), &[])[0].0, State::Ok);
        assert!(judged("trusted", &group(0, 0, 4), &[])[0].1.contains("nothing is split"));
        let mut stopped = group(1, 1, 4);
        for (process, state) in [("AZRebalance", State::Warning), ("Launch", State::Problem)] {
            stopped.suspended_processes = Some(vec![SuspendedProcess::builder().process_name(process).build()]);
            assert_eq!(judged("gpu", &stopped, &[])[0].0, state, "{process}");
        }
    }
}
