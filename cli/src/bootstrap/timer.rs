//! EventBridge's timers: a rule, its target, and the function's leave to be called by it.

use aws_sdk_eventbridge::types::{RuleState, Target};
use push0_core::topology::FunctionSpec;
use serde_json::Value;

use super::site::{Site, malformed, trouble};
use crate::error::Trouble;

/// Of the one target, and of the statement in the function's policy.
const ID: &str = "push0-timer";

pub(super) async fn ensure(site: &mut Site, function: &FunctionSpec) -> Result<(), Trouble> {
    let Some(every_s) = function.every_s else { return Ok(()) };
    let name = site.place.name(&function.name);
    let at = format!("timer {name}");
    let was_there = mend_rule(site, &name, &at, &schedule(every_s)).await?;
    if !was_there && !site.ledger.mends() {
        return Ok(());
    }
    mend_target(site, function, &name, &at, was_there).await?;
    mend_permission(site, function, &name, &at, was_there).await
}

/// EventBridge wants the singular for one.
fn schedule(every_s: u32) -> String {
    match every_s / 60 {
        1 => "rate(1 minute)".to_owned(),
        minutes => format!("rate({minutes} minutes)"),
    }
}

/// Whether there was a rule.
async fn mend_rule(site: &mut Site, name: &str, at: &str, schedule: &str) -> Result<bool, Trouble> {
    let client = site.events();
    let asked = client.describe_rule().name(name).send().await;
    let is = match asked {
        Ok(rule) => Some((rule.schedule_expression.unwrap_or_default(), rule.state)),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => None,
        Err(error) => return Err(trouble(at, "DescribeRule", &error)),
    };
    if is.as_ref().is_some_and(|(is, state)| is == schedule && *state == Some(RuleState::Enabled)) {
        return Ok(true);
    }
    if site.ledger.mends() {
        let put = client.put_rule().name(name).schedule_expression(schedule).state(RuleState::Enabled).send().await;
        put.map_err(|error| trouble(at, "PutRule", &error))?;
    }
    let Some((is, state)) = is else {
        site.ledger.created(at);
        return Ok(false);
    };
    if is != schedule {
        site.ledger.changed(at, "schedule", Some(is), schedule);
    }
    if state != Some(RuleState::Enabled) {
        let is = state.map(|state| state.as_str().to_owned());
        site.ledger.changed(at, "state", is, RuleState::Enabled.as_str());
    }
    Ok(true)
}

async fn mend_target(
    site: &mut Site,
    function: &FunctionSpec,
    name: &str,
    at: &str,
    tells: bool,
) -> Result<(), Trouble> {
    let client = site.events();
    let asked = client.list_targets_by_rule().rule(name).send().await;
    let targets = asked.map_err(|error| trouble(at, "ListTargetsByRule", &error))?.targets.unwrap_or_default();
    let is = targets.into_iter().find(|target| target.id() == ID).map(|target| target.arn);
    let should = site.place.function_arn(&function.name);
    if is.as_ref() == Some(&should) {
        return Ok(());
    }
    if site.ledger.mends() {
        let target = Target::builder().id(ID).arn(&should).build().map_err(malformed)?;
        let put = client.put_targets().rule(name).targets(target).send().await;
        let refused = put.map_err(|error| trouble(at, "PutTargets", &error))?.failed_entries.unwrap_or_default();
        if let Some(entry) = refused.first() {
            let why = entry.error_message().or(entry.error_code()).unwrap_or("EventBridge does not say why");
            return Err(Trouble::failed(format!("{at}: its target is refused: {why}"))
                .coded(push0_core::ErrorCode::DeploymentDiffers));
        }
    }
    if tells {
        site.ledger.changed(at, "target", is, should);
    }
    Ok(())
}

async fn mend_permission(
    site: &mut Site,
    function: &FunctionSpec,
    name: &str,
    at: &str,
    tells: bool,
) -> Result<(), Trouble> {
    let client = site.lambda();
    let policy = match client.get_policy().function_name(name).send().await {
        Ok(answer) => answer.policy.unwrap_or_default(),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            String::new()
        }
        Err(error) => return Err(trouble(at, "GetPolicy", &error)),
    };
    let rule = site.place.rule_arn(&function.name);
    let is = permitted(&policy);
    if is.as_ref() == Some(&rule) {
        return Ok(());
    }
    if site.ledger.mends() {
        if is.is_some() {
            let remove = client.remove_permission().function_name(name).statement_id(ID).send().await;
            remove.map_err(|error| trouble(at, "RemovePermission", &error))?;
        }
        let call = client
            .add_permission()
            .function_name(name)
            .statement_id(ID)
            .action("lambda:InvokeFunction")
            .principal("events.amazonaws.com")
            .source_arn(&rule);
        call.send().await.map_err(|error| trouble(at, "AddPermission", &error))?;
    }
    if tells {
        site.ledger.changed(at, "leave to call the function", is, rule);
    }
    Ok(())
}

/// The rule that our statement of the function's policy names.
fn permitted(policy: &str) -> Option<String> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let statement = policy["Statement"].as_array()?.iter().find(|statement| statement["Sid"] == ID)?;
    let condition = statement["Condition"]["ArnLike"].as_object()?;
    let rule = condition.iter().find(|(key, _)| key.eq_ignore_ascii_case("aws:SourceArn"))?.1;
    Some(rule.as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_singular() {
        assert_eq!(schedule(60), "rate(1 minute)");
        assert_eq!(schedule(300), "rate(5 minutes)");
    }

    #[test]
    fn the_statement_of_the_policy_names_the_rule() {
        let policy = r#"{"Statement":[{"Sid":"other"},{"Sid":"push0-timer",
            "Condition":{"ArnLike":{"AWS:SourceArn":"arn:aws:events:r:1:rule/x"}}}]}"#;
        assert_eq!(permitted(policy).as_deref(), Some("arn:aws:events:r:1:rule/x"));
        assert_eq!(permitted(r#"{"Statement":[{"Sid":"other"}]}"#), None);
        assert_eq!(permitted(""), None);
    }
}
