//! What the SDK says, in the two terms of the ports.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use push0_core::Millis;

use crate::port::{ErrorKind, PortError};

/// Codes that say "later": nothing was done.
const THROTTLED: [&str; 10] = [
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "SlowDown",
    "OverLimit",
];

/// The error of a call, after the SDK's own retries; `what` says which call.
pub fn port_error<E>(what: &str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let text = format!("{what}: {}", aws_smithy_types::error::display::DisplayErrorContext(error));
    match error {
        SdkError::ConstructionFailure(_) => PortError::permanent(text),
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => PortError::unknown(text),
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(connector) if connector.is_user() => PortError::permanent(text),
            // A connection that was refused has carried nothing.
            Some(connector) if text_says_never_connected(connector) => PortError::transient(text),
            _ => PortError::unknown(text),
        },
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            let status = service.raw().status().as_u16();
            if THROTTLED.contains(&code) || status == 429 || status == 503 {
                PortError::new(ErrorKind::Transient { after: Millis(200) }, false, text)
            } else if status >= 500 {
                PortError::unknown(text)
            } else {
                PortError::permanent(text)
            }
        }
        _ => PortError::unknown(text),
    }
}

fn text_says_never_connected(error: &aws_smithy_runtime_api::client::result::ConnectorError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        source = error.source();
    }
    false
}
