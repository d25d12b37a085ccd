use aws_credential_types::Credentials;
use aws_credential_types::provider::future::ProvideCredentials as Providing;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_dynamodb::error::ErrorMetadata;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_smithy_types::body::SdkBody;

use super::*;
use crate::aws::{Connection, http_client};
use crate::settings::AwsSettings;

fn answered(status: u16, code: &str, message: &str) -> PortError {
    let metadata = ErrorMetadata::builder().code(code).message(message).build();
    let raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
    port_error("GetItem state", &SdkError::service_error(GetItemError::generic(metadata), raw))
}

fn no_answer(connector: ConnectorError) -> PortError {
    port_error::<GetItemError>("GetItem state", &SdkError::dispatch_failure(connector))
}

const fn transient(after: u64) -> ErrorKind {
    ErrorKind::Transient { after: Millis(after) }
}

#[test]
fn an_answer_says_what_to_do_and_whether_it_happened() {
    use ErrorCode::*;
    use ErrorKind::Permanent;
    let cases = [
        (400, "ThrottlingException", transient(200), false, AwsThrottles),
        (400, "ProvisionedThroughputExceededException", transient(200), false, AwsThrottles),
        (400, "com.amazonaws.dynamodb.v20120810#RequestLimitExceeded", transient(200), false, AwsThrottles),
        (503, "SlowDown", transient(200), false, AwsThrottles),
        (403, "OverLimit", transient(200), false, AwsThrottles),
        (429, "", transient(200), false, AwsThrottles),
        (500, "InternalServerError", transient(100), true, AwsDoesNotAnswer),
        (502, "", transient(100), true, AwsDoesNotAnswer),
        (503, "ServiceUnavailable", transient(100), true, AwsDoesNotAnswer),
        (504, "", transient(100), true, AwsDoesNotAnswer),
        (400, "RequestTimeout", transient(100), true, AwsDoesNotAnswer),
        (400, "TransactionInProgressException", transient(100), true, AwsDoesNotAnswer),
        (400, "AccessDeniedException", Permanent, false, AwsForbids),
        (403, "AccessDenied", Permanent, false, AwsForbids),
        (403, "", Permanent, false, AwsForbids),
        (400, "UnrecognizedClientException", Permanent, false, AwsNotConfigured),
        (403, "InvalidClientTokenId", Permanent, false, AwsNotConfigured),
        (400, "ResourceNotFoundException", Permanent, false, NotDeployed),
        (400, "AWS.SimpleQueueService.NonExistentQueue", Permanent, false, NotDeployed),
        (404, "NoSuchBucket", Permanent, false, NotDeployed),
        (400, "ExpiredTokenException", transient(1_000), false, AwsSessionExpired),
        (403, "ExpiredToken", transient(1_000), false, AwsSessionExpired),
        (403, "RequestTimeTooSkewed", transient(1_000), false, ClockWrong),
        (400, "ValidationException", Permanent, false, BadRequest),
        (404, "NoSuchKey", Permanent, false, BadRequest),
    ];
    for (status, code, kind, may_have_happened, page) in cases {
        let error = answered(status, code, "what AWS says");
        let seen = (error.kind(), error.may_have_happened(), error.code());
        assert_eq!(seen, (kind, may_have_happened, page), "{status} {code}");
        assert!(error.message().contains("GetItem state: ") && error.message().contains("what AWS says"), "{error}");
    }
}

#[test]
fn a_signature_of_the_wrong_time_is_told_from_a_wrong_signature() {
    let late = "Signature expired: 20261124T120000Z is now earlier than 20261124T121000Z";
    assert_eq!(answered(400, "InvalidSignatureException", late).code(), ErrorCode::ClockWrong);
    let wrong = "The request signature we calculated does not match the signature you provided";
    assert_eq!(answered(400, "InvalidSignatureException", wrong).code(), ErrorCode::AwsNotConfigured);
}

#[test]
fn what_is_not_deployed_says_how_to_deploy_it() {
    let text = answered(400, "ResourceNotFoundException", "Requested resource not found").to_string();
    assert!(text.contains("push0 bootstrap"), "{text}");
}

#[test]
fn a_connection_that_never_was_has_done_nothing() {
    let io = |kind: io::ErrorKind| ConnectorError::io(io::Error::from(kind).into());
    for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable] {
        let error = no_answer(io(kind));
        assert_eq!((error.kind(), error.may_have_happened()), (transient(100), false), "{error}");
        assert_eq!(error.code(), ErrorCode::AwsDoesNotAnswer);
    }
    for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe] {
        let error = no_answer(io(kind));
        assert_eq!((error.kind(), error.may_have_happened()), (transient(100), true), "{error}");
    }
    let late = no_answer(ConnectorError::timeout("HTTP read timeout occurred after 25s".into()));
    assert!(late.may_have_happened());
    let never = no_answer(ConnectorError::timeout("HTTP connect timeout occurred after 2s".into()));
    assert!(!never.may_have_happened());
    let ours = no_answer(ConnectorError::user("not a valid request".into()));
    assert_eq!((ours.kind(), ours.may_have_happened()), (ErrorKind::Permanent, false));
}

#[derive(Debug)]
struct Source(fn() -> CredentialsError);

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> Providing<'a>
    where
        Self: 'a,
    {
        Providing::ready(Err((self.0)()))
    }
}

/// A call's error with this source of credentials, through the whole SDK; nothing is sent.
async fn with_credentials(provider: SharedCredentialsProvider, region: Option<&'static str>) -> PortError {
    let sdk = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .credentials_provider(provider)
        .region(region.map(aws_config::Region::from_static))
        .http_client(http_client())
        .build();
    let mut connection = Connection::emulated(AwsSettings::default(), "000000000000", http_client()).await;
    connection.sdk = sdk;
    let error = connection.dynamodb().get_item().table_name("state").send().await.unwrap_err();
    port_error("GetItem state", &error)
}

#[tokio::test]
async fn missing_credentials_and_a_missing_region_have_a_page_of_their_own() {
    let absent = Source(|| CredentialsError::not_loaded("no providers in chain provided credentials"));
    let error = with_credentials(SharedCredentialsProvider::new(absent), Some("us-east-1")).await;
    assert_eq!((error.kind(), error.may_have_happened()), (ErrorKind::Permanent, false), "{error}");
    assert_eq!(error.code(), ErrorCode::AwsNotConfigured, "{error}");

    let keys = SharedCredentialsProvider::new(Credentials::from_keys("key", "secret", None));
    let error = with_credentials(keys, None).await;
    assert_eq!((error.kind(), error.may_have_happened()), (ErrorKind::Permanent, false), "{error}");
    assert_eq!(error.code(), ErrorCode::AwsNotConfigured, "{error}");
}

#[tokio::test]
async fn a_source_of_credentials_that_does_not_answer_may_answer_later() {
    let broken = Source(|| CredentialsError::provider_error("the metadata service answered 500"));
    let error = with_credentials(SharedCredentialsProvider::new(broken), Some("us-east-1")).await;
    assert_eq!((error.kind(), error.may_have_happened()), (transient(1_000), false), "{error}");
    assert_eq!(error.code(), ErrorCode::AwsNotConfigured, "{error}");
}
