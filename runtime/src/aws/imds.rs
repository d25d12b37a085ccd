//! The metadata of the instance this process runs on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::imds::Client;
use aws_config::imds::client::error::ImdsError;
use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::error::display::DisplayErrorContext;

use crate::port::{Imds, PortError, PortResult};

/// IMDSv2 only: every read carries a token, which is kept for its life. One try a read: whoever needs an answer asks again.
///
/// Where it is: `endpoint`, or else as for every AWS tool (`AWS_EC2_METADATA_SERVICE_ENDPOINT`, then the link-local address).
#[derive(Debug)]
pub struct InstanceMetadata {
    http: SharedHttpClient,
    endpoint: Option<String>,
    client: Mutex<Client>,
}

impl InstanceMetadata {
    pub fn new(http: SharedHttpClient, endpoint: Option<String>) -> PortResult<Self> {
        let client = Mutex::new(client(&http, endpoint.as_deref())?);
        Ok(Self { http, endpoint, client })
    }

    fn lock(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, path: &str) -> Result<Option<String>, ImdsError> {
        let client = self.lock().clone();
        match client.get(format!("/latest/{path}")).await {
            Ok(text) => Ok(Some(text.into())),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Imds for InstanceMetadata {
    async fn read(&self, path: &str) -> PortResult<Option<String>> {
        let answer = match self.ask(path).await {
            // The SDK keeps a token until it thinks that it is over; a machine that was hibernated or restored knows better.
            Err(error) if status(&error) == Some(401) => {
                *self.lock() = client(&self.http, self.endpoint.as_deref())?;
                self.ask(path).await
            }
            answer => answer,
        };
        answer.map_err(|error| {
            let text = format!("instance metadata {path}: {}", DisplayErrorContext(&error));
            match status(&error) {
                Some(403) => PortError::permanent(text),
                _ => PortError::transient(text),
            }
        })
    }
}

fn client(http: &SharedHttpClient, endpoint: Option<&str>) -> PortResult<Client> {
    let config = ProviderConfig::without_region().with_http_client(http.clone());
    let builder = Client::builder()
        .configure(&config)
        .max_attempts(1)
        .connect_timeout(Duration::from_secs(1))
        .read_timeout(Duration::from_secs(1))
        .operation_timeout(Duration::from_secs(3));
    let builder = match endpoint {
        Some(endpoint) => {
            let bad = |error| PortError::permanent(format!("{endpoint:?} is no address of an IMDS: {error}"));
            builder.endpoint(endpoint).map_err(bad)?
        }
        None => builder,
    };
    Ok(builder.build())
}

fn status(error: &ImdsError) -> Option<u16> {
    match error {
        ImdsError::ErrorResponse(answer) => Some(answer.response().status().as_u16()),
        _ => None,
    }
}
