//! A call that did not get its answer, as a finding that names the action and what it wanted to act on.

use std::error::Error;

use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use push0_core::ErrorCode;
use push0_runtime::aws::port_error;

use super::{Account, Finding, State};

/// What was asked.
pub(super) struct Asked<'a> {
    /// As findings call it.
    pub(super) what: &'a str,
    /// In IAM's words, like `sqs:GetQueueUrl`.
    pub(super) action: &'a str,
    /// The ARN it acts on, or `*`.
    pub(super) on: String,
}

impl Asked<'_> {
    /// `state`: how bad it is that nobody knows.
    pub(super) fn failed<E>(&self, account: &Account, state: State, error: &SdkError<E, HttpResponse>) -> Finding
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let is_answer = error.as_service_error().is_some();
        let error = port_error(self.action, error);
        if account.place.is_emulator() && is_answer && error.code() != ErrorCode::NotDeployed {
            let says = format!("this emulator does not do {}; AWS does", self.action);
            return Finding { what: self.what.to_owned(), state: State::Ok, says, next: None, code: None };
        }
        let (code, message) = ErrorCode::split(error.message());
        let code = code.unwrap_or_else(|| error.code());
        let says = format!("could not be looked at: {message}");
        Finding { what: self.what.to_owned(), state, says, next: Some(self.next(account, code)), code: Some(code) }
    }

    fn next(&self, account: &Account, code: ErrorCode) -> String {
        let caller = account.caller.as_deref().unwrap_or("the caller");
        match code {
            ErrorCode::AwsForbids => format!(
                "allow {} on {} to {caller}: in its policy, and where one stands in between in the organization's, the VPC endpoint's or the key's",
                self.action, self.on
            ),
            ErrorCode::AwsDoesNotAnswer => {
                let service = self.action.split(':').next().unwrap_or_default();
                format!(
                    "is {service}'s endpoint in {} reachable from here? a proxy, a subnet without NAT or endpoint, a name that does not resolve",
                    account.place.region()
                )
            }
            ErrorCode::AwsThrottles => "wait a minute and run it again".to_owned(),
            code => format!("`push0 explain {code}` says what to do"),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;
    use aws_sdk_sqs::error::ErrorMetadata;
    use aws_sdk_sqs::operation::get_queue_url::GetQueueUrlError;
    use push0_core::topology::Topology;
    use push0_runtime::aws::{Connection, http_client};
    use push0_runtime::settings::AwsSettings;

    use super::*;
    use crate::bootstrap::place::Place;

    async fn account(endpoint: Option<&str>) -> Account {
        let settings = AwsSettings { prefix: "p".to_owned(), endpoint: endpoint.map(str::to_owned) };
        let connection = Connection::emulated(settings.clone(), "123456789012", http_client()).await;
        let caller = Some("arn:aws:iam::123456789012:user/me".to_owned());
        let (place, topology) = (Place::new(settings, "us-east-1"), Topology::built_in());
        Account { connection, place, caller, topology, pools: Default::default() }
    }

    fn answer(status: u16, code: &str, message: &str) -> SdkError<GetQueueUrlError, HttpResponse> {
        let metadata = ErrorMetadata::builder().code(code).message(message).build();
        let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        SdkError::service_error(GetQueueUrlError::generic(metadata), response)
    }

    #[tokio::test]
    async fn what_is_denied_names_the_action_the_resource_and_who_needs_it() {
        let account = account(None).await;
        let asked = Asked { what: "queues", action: "sqs:GetQueueUrl", on: account.place.queue_arn("results") };
        let denied = answer(403, "AccessDenied", "User: me is not authorized to perform: sqs:getqueueurl");
        let finding = asked.failed(&account, State::Problem, &denied);
        assert_eq!((finding.state, finding.code), (State::Problem, Some(ErrorCode::AwsForbids)));
        assert!(finding.says.contains("not authorized") && !finding.says.contains("P0-"), "{}", finding.says);
        let next = finding.next.unwrap();
        let wanted =
            "allow sqs:GetQueueUrl on arn:aws:sqs:us-east-1:ACCOUNT:p-results to arn:aws:iam::123456789012:user/me";
        assert!(next.starts_with(wanted), "{next}");
    }

    #[tokio::test]
    async fn what_an_emulator_does_not_do_is_no_problem_and_what_is_not_there_is_one() {
        let account = account(Some("http://127.0.0.1:1")).await;
        let asked = Asked { what: "quotas of EC2", action: "servicequotas:GetServiceQuota", on: "*".to_owned() };
        let unknown = asked.failed(&account, State::Warning, &answer(400, "UnknownOperation", "what?"));
        assert_eq!((unknown.state, unknown.next), (State::Ok, None));
        let missing = asked.failed(&account, State::Warning, &answer(400, "QueueDoesNotExist", "none"));
        assert_eq!((missing.state, missing.code), (State::Warning, Some(ErrorCode::NotDeployed)));
    }
}
