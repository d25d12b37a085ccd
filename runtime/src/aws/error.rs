//! What the SDK says, in the two terms of the ports, and with the page a person can act on.
//!
//! An error means the whole call with all its attempts. The last attempt alone does not say whether the effect may have happened: a
//! throttle after an attempt whose answer was lost leaves that open. [`Attempts`] sees every attempt and keeps it with the last answer.

mod attempts;

use std::error::Error;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use push0_core::{ErrorCode, Millis};

use crate::port::{ErrorKind, PortError};

pub(super) use self::attempts::Attempts;

/// "Later": nothing was done.
pub(super) const THROTTLES: &[&str] = &[
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "KMS.ThrottlingException",
    "KmsThrottled",
    "SlowDown",
    "OverLimit",
];

const FORBIDDEN: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
    "AuthorizationError",
    "KMS.AccessDeniedException",
    "KmsAccessDenied",
];

/// The keys are of nobody, or do not belong together.
const UNKNOWN_KEYS: &[&str] = &[
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "InvalidToken",
    "InvalidSecurity",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "AuthFailure",
    "OptInRequired",
];

const EXPIRED: &[&str] = &["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"];

const CLOCK: &[&str] = &["RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired"];

const NOT_THERE: &[&str] =
    &["ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NoSuchBucket"];

/// Somebody works on it: an earlier attempt of the same call.
const IN_PROGRESS: &[&str] = &["TransactionInProgressException"];

/// The error of a call, after the SDK's own retries; `what` says which call.
pub fn port_error<E>(what: &str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (verdict, text) = match error {
        SdkError::ServiceError(service) => {
            let (code, message) = (service.err().code(), service.err().message());
            let status = service.raw().status().as_u16();
            let text = match (code, message) {
                (Some(code), Some(message)) => format!("{code}: {message}"),
                (Some(code), None) => format!("{code} (HTTP status {status})"),
                (None, message) => format!("HTTP status {status}: {}", message.unwrap_or("no message")),
            };
            (Verdict::of_answer(status, code.unwrap_or_default(), message.unwrap_or_default()), text)
        }
        SdkError::DispatchFailure(failure) => {
            let connector = failure.as_connector_error();
            let verdict = match connector {
                Some(connector) => Verdict::of_connector(connector),
                None => Verdict::Lost,
            };
            (verdict, chain_text(error))
        }
        SdkError::ConstructionFailure(_) => (Verdict::unsent(error).unwrap_or(Verdict::Wrong), chain_text(error)),
        _ => (Verdict::Lost, chain_text(error)),
    };
    verdict.error(&format!("{what}: {text}"), attempts::left_open(error))
}

/// Whether the effect may be there although this answer says that a condition did not hold: an earlier attempt of the call got no answer.
pub(super) fn left_open<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> bool {
    attempts::left_open(error)
}

/// What an attempt's failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The service says "later", and did nothing.
    Throttled,
    /// Nobody was there to do it.
    NeverConnected,
    /// Nobody knows what happened.
    Lost,
    /// No credentials, no region, or keys that AWS does not know.
    NotConfigured,
    /// Where credentials come from does not answer for now.
    NoCredentialsNow,
    Forbidden,
    Expired,
    Clock,
    NotDeployed,
    /// The request itself.
    Wrong,
}

impl Verdict {
    fn of_answer(status: u16, code: &str, message: &str) -> Self {
        let is = |list: &[&str]| list.contains(&code.rsplit('#').next().unwrap_or(code));
        let is_late = || ["Signature expired", "Signature not yet current"].iter().any(|text| message.contains(text));
        match status {
            _ if is(THROTTLES) => Verdict::Throttled,
            _ if is(IN_PROGRESS) => Verdict::Lost,
            _ if is(CLOCK) || is_late() => Verdict::Clock,
            _ if is(EXPIRED) => Verdict::Expired,
            _ if is(UNKNOWN_KEYS) => Verdict::NotConfigured,
            _ if is(NOT_THERE) => Verdict::NotDeployed,
            _ if is(FORBIDDEN) => Verdict::Forbidden,
            429 => Verdict::Throttled,
            403 => Verdict::Forbidden,
            // Also a 400 that says the request's body did not come in time.
            408 | 500.. => Verdict::Lost,
            _ if code.starts_with("RequestTimeout") => Verdict::Lost,
            _ => Verdict::Wrong,
        }
    }

    fn of_connector(connector: &ConnectorError) -> Self {
        if let Some(verdict) = Self::unsent(connector) {
            return verdict;
        }
        if connector.is_user() {
            return Verdict::Wrong;
        }
        if chain(connector).any(never_connected) { Verdict::NeverConnected } else { Verdict::Lost }
    }

    /// Of what kept a request from being made at all.
    fn unsent(error: &(dyn Error + 'static)) -> Option<Self> {
        chain(error).find_map(|error| match error.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)) => {
                Some(Verdict::NotConfigured)
            }
            Some(_) => Some(Verdict::NoCredentialsNow),
            None => error.to_string().contains("Missing Region").then_some(Verdict::NotConfigured),
        })
    }

    fn may_have_happened(self) -> bool {
        self == Verdict::Lost
    }

    fn error(self, text: &str, is_left_open: bool) -> PortError {
        let transient = |after| ErrorKind::Transient { after: Millis(after) };
        let (kind, code, next) = match self {
            Verdict::Throttled => (transient(200), ErrorCode::AwsThrottles, ""),
            Verdict::NeverConnected | Verdict::Lost => (transient(100), ErrorCode::AwsDoesNotAnswer, ""),
            Verdict::NoCredentialsNow => (transient(1_000), ErrorCode::AwsNotConfigured, ""),
            Verdict::NotConfigured => (
                ErrorKind::Permanent,
                ErrorCode::AwsNotConfigured,
                "; `aws sts get-caller-identity` should say who you are",
            ),
            Verdict::Forbidden => (ErrorKind::Permanent, ErrorCode::AwsForbids, ""),
            // Credentials are fetched anew, and clocks set, without anybody touching push0.
            Verdict::Expired => (transient(1_000), ErrorCode::AwsSessionExpired, ""),
            Verdict::Clock => (transient(1_000), ErrorCode::ClockWrong, "; set this machine's clock"),
            Verdict::NotDeployed => (
                ErrorKind::Permanent,
                ErrorCode::NotDeployed,
                "; `push0 bootstrap` makes it, or the prefix, region or account is another",
            ),
            Verdict::Wrong => {
                return PortError::new(ErrorKind::Permanent, is_left_open, text);
            }
        };
        PortError::new(kind, is_left_open || self.may_have_happened(), code.says(format!("{text}{next}")))
    }
}

/// Names that do not resolve, refused and impossible connections, failed handshakes, time-outs before there was a connection.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};

    if let Some(io) = error.downcast_ref::<io::Error>() {
        return matches!(
            io.kind(),
            ConnectionRefused | HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable
        );
    }
    if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return client.is_connect();
    }
    // The SDK's error for it is a type of its own, which it does not show.
    error.to_string().starts_with("HTTP connect timeout")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What each error of the chain says, once.
fn chain_text(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        let says = error.to_string();
        if !text.contains(&says) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&says);
        }
    }
    text
}

#[cfg(test)]
mod tests;
