//! What the SDKs asked of AWS: every call with its time, its tries and what went over the wire.
//!
//! Bodies are kept where they are in memory: of SQS and DynamoDB always, of S3 mostly not. So a record grows with what is sent; it is for
//! benchmarks and tests.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use bytes::Bytes;

tokio::task_local! {
    static TAG: Arc<str>;
}

/// Runs `work`; the calls it makes, in this task of the runtime, carry `tag`.
pub async fn tagged<F: Future>(tag: &str, work: F) -> F::Output {
    TAG.scope(tag.into(), work).await
}

/// One call of an SDK, with all its tries.
#[derive(Debug, Clone)]
pub struct Call {
    /// As the SDK calls it: `SQS`, `DynamoDB`, `S3`.
    pub service: String,
    pub operation: String,
    /// For whom, where [`tagged`] said so.
    pub tag: Option<Arc<str>>,
    pub began: Instant,
    pub ended: Instant,
    /// Requests that were sent: 1, and one more for each retry.
    pub attempts: u32,
    /// Of the last answer; None where there was none.
    pub status: Option<u16>,
    /// The last request's path.
    pub path: String,
    pub request: Bytes,
    pub response: Bytes,
}

/// All calls of the connections it was given to, in the order of their ends. Clones share them.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calls")
    }
}

impl Calls {
    /// For [`super::Connection::intercepted`].
    pub fn interceptor(&self) -> SharedInterceptor {
        SharedInterceptor::new(self.clone())
    }

    /// How many have ended.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those that have ended; forgets them.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is known before the end.
#[derive(Debug)]
struct Begun {
    at: Instant,
    tag: Option<Arc<str>>,
}

impl Storable for Begun {
    type Storer = StoreReplace<Self>;
}

#[derive(Debug)]
struct Sent {
    path: String,
    body: Bytes,
}

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

#[derive(Debug)]
struct Answered(Bytes);

impl Storable for Answered {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "push0 calls"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let tag = TAG.try_with(Arc::clone).ok();
        cfg.interceptor_state().store_put(Begun { at: Instant::now(), tag });
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (request, uri) = (context.request(), context.request().uri());
        // An address with its host, or only the path.
        let after_host = uri.split_once("://").map_or(uri, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
        let path = after_host.split('?').next().unwrap_or_default().to_owned();
        let body = request.body().bytes().map(Bytes::copy_from_slice).unwrap_or_default();
        cfg.interceptor_state().store_put(Sent { path, body });
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().map(Bytes::copy_from_slice).unwrap_or_default();
        cfg.interceptor_state().store_put(Answered(body));
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let ended = Instant::now();
        let (begun, metadata) = (cfg.load::<Begun>(), cfg.load::<Metadata>());
        // Without a request nothing was asked: it was refused here.
        let (Some(begun), Some(metadata), Some(sent)) = (begun, metadata, cfg.load::<Sent>()) else { return Ok(()) };
        let call = Call {
            service: metadata.service().to_owned(),
            operation: metadata.name().to_owned(),
            tag: begun.tag.clone(),
            began: begun.at,
            ended,
            attempts: cfg.load::<RequestAttempts>().map_or(1, RequestAttempts::attempts),
            status: context.response().map(|response| response.status().as_u16()),
            path: sent.path.clone(),
            request: sent.body.clone(),
            response: cfg.load::<Answered>().map(|answered| answered.0.clone()).unwrap_or_default(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        Ok(())
    }
}
