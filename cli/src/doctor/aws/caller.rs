//! Who asks, and where.

use push0_core::ErrorCode;

use super::refusal::Asked;
use super::{Account, Findings, State};

/// Whether it makes sense to ask for more.
pub(super) async fn look(account: &mut Account, findings: &mut Findings) -> bool {
    let client = aws_sdk_sts::Client::new(&account.connection.sdk);
    match client.get_caller_identity().send().await {
        Ok(answer) => {
            let arn = answer.arn.unwrap_or_default();
            account.place.learn(&arn);
            let (prefix, region) = (&account.place.settings().prefix, account.place.region());
            let number = answer.account.unwrap_or_default();
            findings.ok("caller", format!("{arn}, in account {number} and region {region}, of installation {prefix}"));
            account.caller = Some(arn);
            true
        }
        Err(error) => {
            let asked = Asked { what: "caller", action: "sts:GetCallerIdentity", on: "*".to_owned() };
            let mut finding = asked.failed(account, State::Problem, &error);
            let next = match finding.code {
                Some(ErrorCode::AwsNotConfigured) => Some(
                    "log in (`aws sso login`), then `eval \"$(aws configure export-credentials --format env)\"`, \
                         or set AWS_PROFILE to one with keys; on EC2 the instance needs an instance profile",
                ),
                Some(ErrorCode::AwsSessionExpired) => Some(
                    "log in again (`aws sso login`), then `eval \"$(aws configure export-credentials --format env)\"`: keys with an \
                     AWS_SESSION_TOKEN cannot be renewed",
                ),
                Some(ErrorCode::ClockWrong) => {
                    Some("set this machine's clock: AWS takes no signature that is five minutes off")
                }
                _ => None,
            };
            let goes_on = next.is_none();
            finding.next = next.map(str::to_owned).or(finding.next);
            findings.0.push(finding);
            goes_on
        }
    }
}
