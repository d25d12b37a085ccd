//! An HTTP client that fails on purpose.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use push0_runtime::aws::http_client;

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    Pass,
    /// Never sent: the service answers this.
    Answer {
        status: u16,
        content_type: &'static str,
        body: String,
    },
    /// Never sent: nobody is there.
    Refused,
    /// Sent and done, and the answer is lost.
    Lost,
    /// Done twice; the second answer counts: the network, or a retry below us, repeated it.
    Twice,
    /// Sent and done, and the answer has another body.
    Instead(&'static [u8]),
}

impl Fate {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Fate::Answer { status, content_type: "application/x-amz-json-1.0", body: body.to_owned() }
    }

    pub(crate) fn xml(status: u16, body: &str) -> Self {
        Fate::Answer { status, content_type: "application/xml", body: body.to_owned() }
    }
}

/// Decides on each request: its number (from 0) among those it was asked about, and the request.
type Decide = Arc<dyn Fn(u64, &HttpRequest) -> Fate + Send + Sync>;

#[derive(Clone)]
struct Faulty {
    inner: SharedHttpClient,
    decide: Decide,
    asked: Arc<AtomicU64>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

/// The real client, with what `decide` says happening to each request.
pub(crate) fn faulty(decide: impl Fn(u64, &HttpRequest) -> Fate + Send + Sync + 'static) -> SharedHttpClient {
    SharedHttpClient::new(Faulty { inner: http_client(), decide: Arc::new(decide), asked: Arc::default() })
}

/// The operation of a JSON service's request: `DynamoDB_20120810.UpdateItem` says `UpdateItem`.
pub(crate) fn operation(request: &HttpRequest) -> String {
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

#[derive(Debug)]
struct FaultyConnector {
    faulty: Faulty,
    connector: SharedHttpConnector,
}

impl HttpClient for Faulty {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(FaultyConnector { faulty: self.clone(), connector })
    }
}

impl HttpConnector for FaultyConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let number = self.faulty.asked.fetch_add(1, Ordering::SeqCst);
        let lost = || ConnectorError::io("the answer was lost".into());
        match (self.faulty.decide)(number, &request) {
            Fate::Pass => self.connector.call(request),
            Fate::Refused => HttpConnectorFuture::ready(Err(ConnectorError::io(Box::new(std::io::Error::from(
                std::io::ErrorKind::ConnectionRefused,
            ))))),
            Fate::Answer { status, content_type, body } => {
                let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
                response.headers_mut().insert("content-type", content_type);
                HttpConnectorFuture::ready(Ok(response))
            }
            Fate::Lost => {
                let call = self.connector.call(request);
                HttpConnectorFuture::new(async move {
                    let _ = call.await;
                    Err(lost())
                })
            }
            Fate::Instead(body) => {
                let call = self.connector.call(request);
                HttpConnectorFuture::new(async move {
                    let mut response = call.await?;
                    *response.body_mut() = SdkBody::from(body);
                    response.headers_mut().insert("content-length", body.len().to_string());
                    Ok(response)
                })
            }
            Fate::Twice => {
                let again = request.try_clone().expect("a body that is not streamed");
                let (first, connector) = (self.connector.call(request), self.connector.clone());
                HttpConnectorFuture::new(async move {
                    first.await?;
                    connector.call(again).await
                })
            }
        }
    }
}
