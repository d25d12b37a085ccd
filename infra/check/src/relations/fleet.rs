//! Instances: nobody logs in, nothing kills a proof, Spot may be taken away.

use super::{Installation, text};
use crate::computed::computed;
use crate::module::Finding;
use crate::plan::Resource;
use crate::value::Value;

pub(super) fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for template in installation.of_type("aws_launch_template") {
        findings.extend(of_template(template));
    }
    for group in installation.of_type("aws_autoscaling_group") {
        findings.extend(of_group(installation, group));
    }
    // Of workers, not of the endpoint that they call.
    let of_workers: Vec<String> = installation
        .of_type("aws_launch_template")
        .flat_map(|template| template.argument("vpc_security_group_ids").map(Value::elements).unwrap_or_default())
        .filter_map(Value::text)
        .collect();
    for rule in installation.of_type("aws_vpc_security_group_ingress_rule") {
        if rule.text("security_group_id").is_some_and(|group| of_workers.contains(&group)) {
            findings.push(rule.finding("workers take no connections"));
        }
    }
    for group in installation.of_type("aws_security_group") {
        if group.argument("ingress").is_some() {
            findings.push(group.finding("rules are resources of their own, so that they are looked at"));
        }
    }
    findings
}

fn of_template(template: &Resource) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(text(
        template,
        "metadata_options.http_tokens",
        "required",
        "credentials are safe only where it is",
    ));
    if template.argument("key_name").is_some() {
        findings.push(template.finding("`key_name`: operators come in by Session Manager"));
    }
    for device in template.argument("block_device_mappings").map(Value::elements).unwrap_or_default() {
        if device.at("ebs.encrypted").and_then(Value::text).as_deref() != Some("true") {
            findings.push(template.finding("a disk is not encrypted"));
        }
    }
    findings
}

fn of_group(installation: &Installation<'_>, group: &Resource) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = group.text("name").unwrap_or_default();
    let on_demand =
        group.number("mixed_instances_policy.instances_distribution.on_demand_percentage_above_base_capacity");
    let rebalances = group.argument("capacity_rebalance").and_then(Value::as_bool) == Some(true);
    if on_demand.is_some_and(|percent| percent < 100.0) && !rebalances {
        findings.push(group.finding("without `capacity_rebalance` a Spot instance is replaced only when it is gone"));
    }
    let terminating = |block: &Value, field: &str| {
        block.at(field).and_then(Value::text).as_deref() == Some("autoscaling:EC2_INSTANCE_TERMINATING")
    };
    let inside = group.argument("initial_lifecycle_hook").map(Value::elements).unwrap_or_default();
    let beside = installation.of_type("aws_autoscaling_lifecycle_hook").any(|hook| {
        let is_of = hook.text("autoscaling_group_name");
        (is_of.as_ref() == Some(&name) || is_of == computed(group, "id"))
            && terminating(&hook.arguments, "lifecycle_transition")
    });
    if !beside && !inside.iter().any(|hook| terminating(hook, "lifecycle_transition")) {
        findings.push(group.finding("without a lifecycle hook at termination, scaling in kills proofs"));
    }
    let max = group.number("max_size").unwrap_or_default();
    if group.number("min_size").is_none_or(|min| min > max) {
        findings.push(group.finding("`min_size` is above `max_size`"));
    }
    findings
}
