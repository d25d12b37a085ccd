//! Lambda functions: whether they are there and may run, whether their sources give them anything, and what became of the last of it.

use aws_sdk_eventbridge::types::RuleState;
use aws_sdk_lambda::operation::get_function::GetFunctionOutput;
use aws_sdk_lambda::types::{AccountLimit, EventSourceMappingConfiguration, LastUpdateStatus, State as Life};
use push0_core::ErrorCode;
use push0_core::topology::FunctionSpec;

use super::refusal::Asked;
use super::{Account, Finding, Findings, State, Survey};

/// Lambda lets nothing be reserved that would leave fewer than this for everybody else; the reaper reserves one.
const UNRESERVED: i32 = 100;

pub(super) async fn look(account: &Account, survey: &mut Survey) {
    let client = account.lambda();
    let mut missing = Vec::new();
    for spec in &account.topology.functions {
        let name = account.place.name(&spec.name);
        let what = format!("function {name}");
        match client.get_function().function_name(&name).send().await {
            Ok(answer) => {
                survey.there += 1;
                function(&what, &answer, &mut survey.findings);
                sources(account, &client, spec, &what, &mut survey.findings).await;
                timer(account, spec, &mut survey.findings).await;
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                missing.push(name);
            }
            Err(error) => {
                let asked =
                    Asked { what: &what, action: "lambda:GetFunction", on: account.place.function_arn(&spec.name) };
                survey.findings.0.push(asked.failed(account, State::Warning, &error));
            }
        }
    }
    let of = account.topology.functions.len();
    if missing.len() < of || survey.there == 0 {
        return survey.count(account, "functions", of, &missing);
    }
    let next =
        "`terraform apply`, or `push0 bootstrap --functions`, makes them; nothing to do where `push0 serve --aws` runs";
    survey.findings.warn("functions", "there are none: somebody else has to do what they do", next);
}

fn function(what: &str, found: &GetFunctionOutput, findings: &mut Findings) {
    let differs = |findings: &mut Findings, says: String, next: &str| {
        findings.problem(what, ErrorCode::DeploymentDiffers, says, next);
    };
    let reserved = found.concurrency().and_then(|concurrency| concurrency.reserved_concurrent_executions());
    if reserved == Some(0) {
        let next = "`terraform apply`, or `aws lambda delete-function-concurrency`; docs/runbook/function-throttles.md";
        differs(findings, "its reserved concurrency is 0: somebody has switched it off".to_owned(), next);
    }
    let Some(function) = found.configuration() else { return };
    match (function.state(), function.last_update_status()) {
        (Some(Life::Failed), _) => {
            let says =
                format!("Lambda could not make it: {}", function.state_reason().unwrap_or("it does not say why"));
            differs(findings, says, "mend what it says (a role, a layer, a key), then `terraform apply`");
        }
        (_, Some(LastUpdateStatus::Failed)) => {
            let reason = function.last_update_status_reason().unwrap_or("it does not say why");
            differs(findings, format!("its last update failed: {reason}"), "mend what it says, then `terraform apply`");
        }
        (Some(Life::Pending), _) | (_, Some(LastUpdateStatus::InProgress)) => {
            findings.warn(what, "it is being made or updated", "look again in a minute");
        }
        (state, _) => findings.ok(what, state.map_or("there", Life::as_str)),
    }
}

async fn sources(
    account: &Account,
    client: &aws_sdk_lambda::Client,
    spec: &FunctionSpec,
    what: &str,
    findings: &mut Findings,
) {
    let wanted = account.topology.expanded_sources(spec, &account.pools);
    if wanted.is_empty() {
        return;
    }
    let mut there = Vec::new();
    let mut pages =
        client.list_event_source_mappings().function_name(account.place.name(&spec.name)).into_paginator().send();
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => there.extend(page.event_source_mappings.unwrap_or_default()),
            Err(error) => {
                let asked = Asked { what, action: "lambda:ListEventSourceMappings", on: "*".to_owned() };
                return findings.0.push(asked.failed(account, State::Warning, &error));
            }
        }
    }
    let (mut missing, before) = (Vec::new(), findings.0.len());
    for source in &wanted {
        let arn = account.place.queue_arn(&source.queue);
        match there.iter().find(|mapping| mapping.event_source_arn() == Some(&arn)) {
            Some(mapping) => findings.0.extend(self::source(what, &account.place.name(&source.queue), mapping)),
            None => missing.push(account.place.name(&source.queue)),
        }
    }
    if !missing.is_empty() {
        let says = format!(
            "missing, {} of its {} sources: nobody takes from {}",
            missing.len(),
            wanted.len(),
            super::some(&missing)
        );
        findings.problem(
            what,
            ErrorCode::DeploymentDiffers,
            says,
            "`terraform apply`, or `push0 bootstrap --functions`, makes them",
        );
    } else if findings.0.len() == before {
        findings.ok(what, format!("all {} sources are enabled", wanted.len()));
    }
}

fn source(what: &str, queue: &str, mapping: &EventSourceMappingConfiguration) -> Option<Finding> {
    let uuid = mapping.uuid().unwrap_or("UUID");
    let reason = mapping.state_transition_reason().unwrap_or("it does not say why");
    let finding =
        |state, says, next, code| Some(Finding { what: what.to_owned(), state, says, next: Some(next), code });
    match mapping.state().unwrap_or_default() {
        "Enabled" => {}
        state @ ("Disabled" | "Disabling") => {
            let says = format!("its source {queue} is {state} ({reason}): nobody takes from there");
            let next =
                format!("`aws lambda update-event-source-mapping --uuid {uuid} --enabled`; docs/runbook/queue-age.md");
            return finding(State::Problem, says, next, Some(ErrorCode::DeploymentDiffers));
        }
        state => {
            let says = format!("its source {queue} is {state}");
            return finding(State::Warning, says, "look again in a minute".to_owned(), None);
        }
    }
    let last = mapping.last_processing_result().unwrap_or_default();
    let went_wrong = last.starts_with("PROBLEM") || last.starts_with("FAILED");
    let next = "the function's log says more; a role without a right stands here, too; docs/runbook/function-errors.md";
    went_wrong
        .then(|| format!("what it was last given by {queue} went wrong: {last}"))
        .and_then(|says| finding(State::Warning, says, next.to_owned(), None))
}

/// What runs on a timer has a rule of EventBridge's.
async fn timer(account: &Account, spec: &FunctionSpec, findings: &mut Findings) {
    if spec.every_s.is_none() {
        return;
    }
    let what = format!("timer {}", account.place.name(&spec.name));
    let client = aws_sdk_eventbridge::Client::new(&account.connection.sdk);
    let next = "`terraform apply`, or `push0 bootstrap --functions`, puts it back; docs/runbook/reaper-stopped.md";
    match client.describe_rule().name(account.place.name(&spec.name)).send().await {
        Ok(rule) if rule.state == Some(RuleState::Disabled) => {
            findings.problem(
                &what,
                ErrorCode::DeploymentDiffers,
                "it is switched off: nothing heals what a crash left behind",
                next,
            );
        }
        Ok(rule) => findings.ok(&what, rule.schedule_expression.unwrap_or_default()),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            findings.problem(
                &what,
                ErrorCode::DeploymentDiffers,
                "there is none: nothing heals what a crash left behind",
                next,
            );
        }
        Err(error) => {
            let asked = Asked { what: &what, action: "events:DescribeRule", on: account.place.rule_arn(&spec.name) };
            findings.0.push(asked.failed(account, State::Warning, &error));
        }
    }
}

pub(super) async fn concurrency(account: &Account, findings: &mut Findings) {
    let what = "quota of Lambda";
    match account.lambda().get_account_settings().send().await {
        Ok(answer) => findings.0.extend(answer.account_limit().map(|limit| of_limit(what, limit))),
        Err(error) => {
            let asked = Asked { what, action: "lambda:GetAccountSettings", on: "*".to_owned() };
            findings.0.push(asked.failed(account, State::Warning, &error));
        }
    }
}

fn of_limit(what: &str, limit: &AccountLimit) -> Finding {
    let (all, free) = (limit.concurrent_executions(), limit.unreserved_concurrent_executions().unwrap_or_default());
    let says = format!("{all} concurrent executions (L-B99A9384), {free} of them not reserved");
    let (state, next) = if all > UNRESERVED {
        (State::Ok, None)
    } else {
        let next = "ask for 1000: `aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 --desired-value 1000`";
        (State::Warning, Some(next.to_owned()))
    };
    let says = match state {
        State::Ok => says,
        _ => format!("{says}: functions throttle each other, and `terraform apply` cannot reserve the reaper's one"),
    };
    Finding { what: what.to_owned(), state, says, next, code: None }
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::types::{Concurrency, FunctionConfiguration};

    use super::*;

    fn mapping(state: &str, last: &str) -> EventSourceMappingConfiguration {
        let mapping = EventSourceMappingConfiguration::builder().uuid("u-1").state(state).last_processing_result(last);
        mapping.state_transition_reason("USER_INITIATED").build()
    }

    #[test]
    fn a_source_that_is_off_is_a_problem_with_the_command_that_switches_it_on() {
        let finding = source("function p-collector", "p-results", &mapping("Disabled", "OK")).unwrap();
        assert_eq!((finding.state, finding.code), (State::Problem, Some(ErrorCode::DeploymentDiffers)));
        assert!(finding.says.contains("p-results is Disabled (USER_INITIATED)"), "{}", finding.says);
        assert!(finding.next.unwrap().contains("--uuid u-1 --enabled"));
        assert_eq!(source("f", "q", &mapping("Updating", "OK")).unwrap().state, State::Warning);
    }

    #[test]
    fn what_went_wrong_last_is_told_and_what_went_well_is_not() {
        for well in ["OK", "No records processed", ""] {
            assert_eq!(source("f", "q", &mapping("Enabled", well)), None, "{well}");
        }
        let wrong = "PROBLEM: Function call failed";
        let finding = source("f", "q", &mapping("Enabled", wrong)).unwrap();
        assert!(finding.state == State::Warning && finding.says.ends_with(wrong), "{}", finding.says);
    }

    #[test]
    fn a_function_is_ok_when_it_is_active_and_may_run() {
        let judged = |state, reserved: Option<i32>| {
            let configuration = FunctionConfiguration::builder().state(state).state_reason("no role").build();
            let reserved =
                reserved.map(|reserved| Concurrency::builder().reserved_concurrent_executions(reserved).build());
            let found = GetFunctionOutput::builder().configuration(configuration).set_concurrency(reserved).build();
            let mut findings = Findings::default();
            function("function p-reaper", &found, &mut findings);
            findings.0
        };
        assert_eq!(judged(Life::Active, Some(1)).iter().map(|finding| finding.state).collect::<Vec<_>>(), [State::Ok]);
        assert!(judged(Life::Active, Some(0))[0].says.contains("switched it off"));
        let failed = judged(Life::Failed, None);
        assert!(failed[0].state == State::Problem && failed[0].says.contains("no role"), "{failed:?}");
    }

    #[test]
    fn a_new_accounts_concurrency_is_too_little() {
        let judged = |all| of_limit("quota", &AccountLimit::builder().concurrent_executions(all).build()).state;
        assert_eq!([judged(10), judged(100), judged(1000)], [State::Warning, State::Warning, State::Ok]);
    }
}
