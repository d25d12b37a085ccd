//! What became of the attempts of a call before the last one.

use std::error::Error;
use std::fmt;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    Error as OperationError, FinalizerInterceptorContextMut, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use super::{Verdict, chain};

/// Sees each attempt of each call, and marks a failed call of which an earlier attempt may have happened.
#[derive(Debug, Clone, Copy)]
pub(in crate::aws) struct Attempts;

/// On the call: an attempt may have happened. On an answer: one before it.
#[derive(Debug, Clone, Copy)]
struct LeftOpen;

impl Storable for LeftOpen {
    type Storer = StoreReplace<Self>;
}

/// No answer came to the last attempt, nor to one before it that may have happened.
#[derive(Debug)]
struct AfterLeftOpen(OrchestratorError<OperationError>);

impl fmt::Display for AfterLeftOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("after an attempt that may have happened")
    }
}

impl Error for AfterLeftOpen {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "push0 attempts"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error()
            && may_have_happened(error, context.response())
        {
            bag.interceptor_state().store_put(LeftOpen);
        }
        Ok(())
    }

    fn modify_before_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if bag.load::<LeftOpen>().is_none() {
            return Ok(());
        }
        if let Some(response) = context.response_mut() {
            response.add_extension(LeftOpen);
        }
        let Some(Err(error)) = context.output_or_error_mut() else { return Ok(()) };
        if error.is_connector_error() {
            let last = std::mem::replace(error, OrchestratorError::other("replaced"));
            *error = OrchestratorError::connector(ConnectorError::io(Box::new(AfterLeftOpen(last))));
        }
        Ok(())
    }
}

fn may_have_happened(error: &OrchestratorError<OperationError>, response: Option<&HttpResponse>) -> bool {
    if error.is_operation_error() {
        let status = response.map_or(0, |response| response.status().as_u16());
        // The error's type is the operation's; its code is read from the body.
        let says = |code: &str| body(response).is_some_and(|body| body.contains(code));
        return status >= 500 && !super::THROTTLES.iter().any(|code| says(code))
            || super::IN_PROGRESS.iter().any(|code| says(code));
    }
    match error.as_connector_error() {
        Some(connector) => Verdict::of_connector(connector).may_have_happened(),
        None => error.is_timeout_error() || error.is_response_error(),
    }
}

fn body(response: Option<&HttpResponse>) -> Option<&str> {
    std::str::from_utf8(response?.body().bytes()?).ok()
}

pub(super) fn left_open<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> bool {
    let is_marked = error.raw_response().is_some_and(|response| response.extension::<LeftOpen>().is_some());
    is_marked || chain(error).any(|error| error.is::<AfterLeftOpen>())
}
