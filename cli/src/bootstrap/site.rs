//! What every step of `push0 bootstrap` works with.

use std::error::Error;
use std::fmt;

use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use push0_core::ErrorCode;
use push0_runtime::aws::{Connection, port_error};
use push0_runtime::settings::AwsSettings;

use super::ledger::Ledger;
use super::place::Place;
use crate::error::Trouble;

pub(super) struct Site {
    pub(super) connection: Connection,
    pub(super) place: Place,
    pub(super) ledger: Ledger,
}

impl Site {
    pub(super) async fn new(settings: AwsSettings, dry_run: bool) -> Result<Self, Trouble> {
        let connection = Connection::new(settings.clone()).await;
        let Some(region) = connection.sdk.region().map(|region| region.as_ref().to_owned()) else {
            return Err(Trouble::usage("no AWS region is configured")
                .next("set AWS_REGION, like every AWS tool wants it (for an emulator: `. localstack/env`)")
                .coded(ErrorCode::AwsNotConfigured));
        };
        Ok(Self { connection, place: Place::new(settings, &region), ledger: Ledger::new(dry_run) })
    }

    pub(super) fn lambda(&self) -> aws_sdk_lambda::Client {
        aws_sdk_lambda::Client::new(&self.connection.sdk)
    }

    pub(super) fn events(&self) -> aws_sdk_eventbridge::Client {
        aws_sdk_eventbridge::Client::new(&self.connection.sdk)
    }

    /// What is no part of the block path may be missing in an emulator: that is noted. Of AWS it is an error.
    pub(super) fn tolerate<E>(&mut self, at: &str, call: &str, error: &SdkError<E, HttpResponse>) -> Result<(), Trouble>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if !self.place.is_emulator() || error.as_service_error().is_none() {
            return Err(trouble(at, call, error));
        }
        let code = code(error).unwrap_or("no error code");
        self.ledger.note(format!("{at}: this emulator does not do {call} ({code}); AWS does"));
        Ok(())
    }
}

/// A call that failed, on its way to the person at the keyboard: `at` is what was being looked after.
pub(super) fn trouble<E>(at: impl fmt::Display, call: &str, error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: ProvideErrorMetadata + Error + 'static,
{
    Trouble::of_port(at, &port_error(call, error))
}

/// The service's own word for what went wrong.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// A request that push0 itself made wrong.
pub(super) fn malformed(error: impl fmt::Display) -> Trouble {
    Trouble::failed(format!("a request to AWS lacks something: {error}")).coded(ErrorCode::InvariantBroken)
}
