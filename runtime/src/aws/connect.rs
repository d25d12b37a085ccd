//! The way to AWS: credentials, region, HTTP, timeouts, retries.

use std::path::Path;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::retry::RetryPartition;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;

use super::error::Attempts;
use super::record::{self, Recorder};
use crate::settings::AwsSettings;

/// What the adapters are made from. Clones share the HTTP client.
#[derive(Debug, Clone)]
pub struct Connection {
    pub sdk: SdkConfig,
    pub settings: AwsSettings,
    interceptors: Vec<SharedInterceptor>,
    retries: Option<RetryPartition>,
}

impl Connection {
    /// Credentials and region come from where every AWS tool takes them.
    pub async fn new(settings: AwsSettings) -> Self {
        Self::over(settings, http_client()).await
    }

    /// Over another HTTP client: one that fails on purpose.
    pub async fn over(settings: AwsSettings, http: SharedHttpClient) -> Self {
        Self { sdk: loader(&settings, http).load().await, settings, interceptors: Vec::new(), retries: None }
    }

    /// Of an emulator, where the access key is the account: nothing is read from the environment. All clients of a process draw their
    /// retries from one quota a service; this connection has one of its own, so that what one test makes fail is not missing in another.
    pub async fn emulated(settings: AwsSettings, account: &str, http: SharedHttpClient) -> Self {
        let credentials = Credentials::from_keys(account, "emulator", None);
        let loader = loader(&settings, http).region(Region::from_static("us-east-1")).credentials_provider(credentials);
        let retries = Some(RetryPartition::custom(account.to_owned()).build());
        Self { sdk: loader.load().await, settings, interceptors: Vec::new(), retries }
    }

    /// Every call passes through `interceptor`, too: to be counted.
    pub fn intercepted(mut self, interceptor: SharedInterceptor) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// What is called is called as this role: a function's name, or `worker/POOL`. It is recorded where [`record::FILE`] names a file. Panics
    /// where that cannot be written: a test that wants a record shall not pass without.
    pub fn acting_as(self, role: &str) -> Self {
        match std::env::var_os(record::FILE).filter(|file| !file.is_empty()) {
            Some(file) => self.recorded(Path::new(&file), role),
            None => self,
        }
    }

    /// [`Self::acting_as`], in this file.
    pub fn recorded(self, file: &Path, role: &str) -> Self {
        let recorder = Recorder::new(file, role, &self.settings.prefix);
        let recorder = recorder.unwrap_or_else(|error| panic!("{} ({}): {error}", record::FILE, file.display()));
        self.intercepted(recorder.interceptor())
    }

    /// What every client is given that is made from [`Self::sdk`].
    pub fn interceptors(&self) -> impl Iterator<Item = SharedInterceptor> {
        std::iter::once(SharedInterceptor::new(Attempts)).chain(self.interceptors.iter().cloned())
    }

    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        let mut config = aws_sdk_sqs::config::Builder::from(&self.sdk);
        config.set_interceptors(self.interceptors());
        config.set_retry_partition(self.retries.clone());
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::config::Builder::from(&self.sdk);
        // It answers within milliseconds, or a connection has died without saying so: the next attempt is made over another.
        let timeouts = TimeoutConfig::builder().connect_timeout(Duration::from_secs(2));
        config.set_timeout_config(Some(timeouts.operation_attempt_timeout(Duration::from_secs(3)).build()));
        config.set_interceptors(self.interceptors());
        config.set_retry_partition(self.retries.clone());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    pub fn s3(&self) -> aws_sdk_s3::Client {
        let mut config = aws_sdk_s3::config::Builder::from(&self.sdk);
        config.set_interceptors(self.interceptors());
        config.set_retry_partition(self.retries.clone());
        // A bucket's own host name does not resolve to an emulator.
        config.set_force_path_style(self.settings.endpoint.is_some().then_some(true));
        aws_sdk_s3::Client::from_conf(config.build())
    }
}

fn loader(settings: &AwsSettings, http: SharedHttpClient) -> ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        // A long poll of SQS takes 20 s.
        .read_timeout(Duration::from_secs(25))
        .build();
    let retries = RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(50));
    let loader = aws_config::from_env().http_client(http).timeout_config(timeouts).retry_config(retries);
    match &settings.endpoint {
        Some(endpoint) => loader.endpoint_url(endpoint),
        None => loader,
    }
}

/// The HTTP client of [`Connection::new`].
pub fn http_client() -> SharedHttpClient {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_smithy_http_client::Builder::new().tls_provider(tls).build_https()
}
