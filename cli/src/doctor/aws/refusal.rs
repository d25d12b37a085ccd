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
