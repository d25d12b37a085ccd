//! What S3 says instead of an answer.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use push0_core::{ErrorCode, Millis};

use crate::aws::error::{left_open, port_error};
use crate::port::{ErrorKind, PortError};

/// Bytes were damaged or lost on their way to S3, which noticed it.
const DAMAGED: [&str; 3] = ["BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"];

pub(super) enum Said {
    /// No such object, version or upload.
    Absent,
    /// `If-None-Match` did not hold.
    Exists,
    /// Somebody else is writing the same key: again, later.
    Busy,
    Trouble(PortError),
}

impl Said {
    /// What is left where the call was for something that should be there.
    pub(super) fn into_trouble(self, what: &str) -> PortError {
        match self {
            Said::Trouble(error) => error,
            Said::Absent => PortError::transient(format!("{what}: it is gone")),
            Said::Exists | Said::Busy => PortError::transient(format!("{what}: somebody else is writing there")),
        }
    }
}

/// Tells what an error of the call `what` means.
pub(super) fn said<E>(what: &str, error: &SdkError<E, HttpResponse>) -> Said
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let SdkError::ServiceError(service) = error else {
        return Said::Trouble(port_error(what, error));
    };
    let transient = |may_have_happened: bool, code: &str| {
        let text = ErrorCode::AwsDoesNotAnswer.says(format!("{what}: {code}"));
        Said::Trouble(PortError::new(ErrorKind::Transient { after: Millis(100) }, may_have_happened, text))
    };
    match (service.err().code().unwrap_or_default(), service.raw().status().as_u16()) {
        // 405: the version is a mark of deletion. The answer to a HEAD has a status and nothing else.
        ("NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" | "NotFound" | "MethodNotAllowed", _) | ("", 404 | 405) => {
            Said::Absent
        }
        ("PreconditionFailed", _) | (_, 412) => Said::Exists,
        ("ConditionalRequestConflict", _) | (_, 409) => Said::Busy,
        (code, _) if DAMAGED.contains(&code) => transient(left_open(error), code),
        // S3 begins some answers before it knows how the call ends.
        (code, 200) => transient(true, code),
        _ => Said::Trouble(port_error(what, error)),
    }
}
