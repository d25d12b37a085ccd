//! The client: the three ports of a server elsewhere.
//!
//! A refused connection is an error that cannot have happened; a time-out or a broken answer is one that may have. Repeating is the
//! caller's decision: after a lost answer to a put, `Exists` with the caller's own writer is its own success.
//!
//! A worker's client remembers the receipts of the tasks it was handed, and shows them where it reports on a task or stores its artifact:
//! the server asks workers for them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use push0_core::{ErrorCode, Millis, Sha256};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;

use super::door::{DEAD_PEER, KEEPALIVE};
use super::maintenance::BackUp;
use super::presence::{INTRODUCTION, Introduction};
use super::seal::SealKey;
use super::wire::{BlobQuery, Call, Failure, PROTOCOL, PROTOCOL_HEADER, RECEIPT, SHA256, SIZE, WRITER};
use crate::engine::Backup;
use crate::port::check::{check_value, check_writes};
use crate::port::{
    Accepted, BlobInfo, Blobs, Delivery, Key, Outgoing, PortError, PortResult, PutOutcome, Queue, QueueStats, Row,
    SetOutcome, Table, Value, Write,
};

#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// `unix:/path/to.sock`, `http://HOST:PORT`.
    pub connect: String,
    pub token: Option<String>,
    /// For an answer, beside what a receive waits and bytes take.
    pub timeout: Duration,
    /// A worker's: who it is, said with each call.
    pub introduction: Option<Introduction>,
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig").field("connect", &self.connect).finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// No token; 30 s.
    pub fn new(connect: impl Into<String>) -> Self {
        Self { connect: connect.into(), token: None, timeout: Duration::from_secs(30), introduction: None }
    }

    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
}

/// The slowest an upload may be, bytes a second, before it is given up.
const SLOWEST_UPLOAD: u64 = 64 * 1024;

const UPLOAD_CHUNK: usize = 256 * 1024;

/// Uploads larger than this ask first whether the key is free.
const ASK_FIRST: u64 = 256 * 1024;

/// Idle connections are closed sooner than the server would, so that no call meets one that is just being closed.
const IDLE: Duration = Duration::from_secs(10);

/// Receipts remembered: of the tasks in hand, and some that were.
const RECEIPTS: usize = 1024;

/// See the module. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    timeout: Duration,
    introduction: Option<String>,
    /// Of tasks received: (task, receipt), the newest last.
    receipts: Arc<Mutex<VecDeque<(String, String)>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// Does not connect yet.
    pub fn new(config: ClientConfig) -> PortResult<Self> {
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .tcp_user_timeout(DEAD_PEER)
            .no_proxy();
        let (builder, base) = if let Some(path) = config.connect.strip_prefix("unix:") {
            (builder.unix_socket(PathBuf::from(path)), "http://localhost".to_owned())
        } else if config.connect.starts_with("http://") {
            (builder, config.connect.trim_end_matches('/').to_owned())
        } else {
            let problem =
                format!("{:?} is not a place to connect to: unix:/path/to.sock or http://HOST:PORT", config.connect);
            return Err(PortError::permanent(ErrorCode::BadUsage.says(problem)));
        };
        let http = builder.build().map_err(|error| PortError::permanent(format!("making an HTTP client: {error}")))?;
        let introduction = config.introduction.as_ref().map(Introduction::to_header);
        let (token, timeout) = (config.token, config.timeout);
        Ok(Self { http, base, token, timeout, introduction, receipts: Arc::default() })
    }

    /// Whether the server answers.
    pub async fn health(&self) -> PortResult<()> {
        let request = self.http.get(format!("{}/health", self.base)).timeout(self.timeout);
        let response = request.send().await.map_err(|error| network(&error))?;
        if response.status() == StatusCode::OK { Ok(()) } else { Err(unexpected(&response)) }
    }

    /// A request to one of the server's other routes, with this client's token.
    pub fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).header(PROTOCOL_HEADER, PROTOCOL);
        let request = match &self.introduction {
            Some(introduction) => request.header(INTRODUCTION, introduction),
            None => request,
        };
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Has the server make a backup in the directory `to` of its own machine, and waits until it is whole, however long that takes.
    pub async fn back_up(&self, to: &Path) -> PortResult<Backup> {
        let request = self.request(reqwest::Method::POST, "/v1/backup").json(&BackUp { to: to.to_owned() });
        let response = request.send().await.map_err(|error| network(&error))?;
        let backup = read_answer(response).await?;
        backup.ok_or_else(|| PortError::unknown("the server answered a backup with an absent blob"))
    }

    async fn call<T: DeserializeOwned>(&self, call: &Call) -> PortResult<T> {
        self.call_within(call, self.timeout).await
    }

    async fn call_within<T: DeserializeOwned>(&self, call: &Call, timeout: Duration) -> PortResult<T> {
        let request = self.request(reqwest::Method::POST, "/v1/call").json(call).timeout(timeout);
        let response = request.send().await.map_err(|error| network(&error))?;
        match read_answer(response).await? {
            Some(value) => Ok(value),
            None => Err(PortError::unknown("the server answered a call with an absent blob")),
        }
    }

    fn remember(&self, deliveries: &[Delivery]) {
        let mut receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        for delivery in deliveries.iter().filter(|delivery| SealKey::is_sealed(&delivery.receipt)) {
            if let Some(task) = text_of(&delivery.body, "id") {
                receipts.push_back((task, delivery.receipt.clone()));
            }
        }
        let surplus = receipts.len().saturating_sub(RECEIPTS);
        receipts.drain(..surplus);
    }

    fn receipt_of(&self, task: &str) -> Option<String> {
        let receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        receipts.iter().rev().find(|(of, _)| of == task).map(|(_, receipt)| receipt.clone())
    }

    /// None where one is missing: the caller is no worker, or the server will say what is wrong.
    fn receipts_for(&self, messages: &[Outgoing]) -> Vec<String> {
        if self.receipts.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Vec::new();
        }
        let receipt = |message: &Outgoing| self.receipt_of(&text_of(&message.body, "task")?);
        messages.iter().map(receipt).collect::<Option<Vec<String>>>().unwrap_or_default()
    }

    /// An answer of one of the server's other routes.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> PortResult<T> {
        self.answered(self.request(reqwest::Method::POST, path).json(body)).await
    }

    pub(super) async fn look<T: DeserializeOwned>(&self, path: &str) -> PortResult<T> {
        self.answered(self.request(reqwest::Method::GET, path)).await
    }

    async fn answered<T: DeserializeOwned>(&self, request: RequestBuilder) -> PortResult<T> {
        let response = request.timeout(self.timeout).send().await.map_err(|error| network(&error))?;
        match read_answer(response).await? {
            Some(value) => Ok(value),
            None => Err(PortError::unknown("the server answered a call with an absent blob")),
        }
    }

    fn blob(&self, method: reqwest::Method, query: &BlobQuery) -> RequestBuilder {
        self.request(method, "/v1/blob").query(query)
    }

    async fn put(&self, key: &str, writer: &str, size: u64, sha256: Sha256, body: Body) -> PortResult<PutOutcome> {
        let query = BlobQuery { key: key.to_owned(), writer: Some(writer.to_owned()), ..BlobQuery::default() };
        let request = self
            .blob(reqwest::Method::PUT, &query)
            .header(SHA256, sha256.to_string())
            .header(reqwest::header::CONTENT_LENGTH, size)
            .timeout(self.timeout + Duration::from_secs(size / SLOWEST_UPLOAD))
            .body(body);
        let request = match self.receipt_of(writer) {
            Some(receipt) => request.header(RECEIPT, receipt),
            None => request,
        };
        let response = request.send().await.map_err(|error| network(&error))?;
        let outcome: PutOutcome = read_answer(response)
            .await?
            .ok_or_else(|| PortError::unknown("the server answered a put with an absent blob"))?;
        if let PutOutcome::Created(info) = &outcome
            && info.sha256 != sha256
        {
            return Err(PortError::corrupt(format!(
                "blob {key} was stored with another SHA-256 than it was sent with"
            )));
        }
        Ok(outcome)
    }

    /// Starts a download; the answer's head says what comes.
    async fn fetch(&self, query: &BlobQuery) -> PortResult<Option<Response>> {
        let sending = self.blob(reqwest::Method::GET, query).send();
        let response = match tokio::time::timeout(self.timeout, sending).await {
            Ok(response) => response.map_err(|error| network(&error))?,
            Err(_) => return Err(PortError::unknown(ErrorCode::Unreachable.says("the server does not answer"))),
        };
        if response.status() == StatusCode::OK {
            return Ok(Some(response));
        }
        // An absent blob, or an error.
        let nothing: Option<()> = read_answer(response).await?;
        match nothing {
            None => Ok(None),
            Some(()) => Err(PortError::unknown("the server sent something else than a blob")),
        }
    }

    async fn next_piece(&self, response: &mut Response) -> PortResult<Option<Bytes>> {
        match tokio::time::timeout(self.timeout, response.chunk()).await {
            Ok(piece) => piece.map_err(|error| network(&error)),
            Err(_) => Err(PortError::unknown(ErrorCode::Unreachable.says("the download stalled"))),
        }
    }

    async fn read_whole(&self, mut response: Response) -> PortResult<Bytes> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.next_piece(&mut response).await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }
}

/// A field of a message that is one.
fn text_of(body: &str, field: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    Some(value.get(field)?.as_str()?.to_owned())
}

fn network(error: &reqwest::Error) -> PortError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    if error.is_connect() {
        PortError::transient(ErrorCode::Unreachable.says(message))
    } else if error.is_builder() {
        PortError::permanent(ErrorCode::BadUsage.says(message))
    } else {
        PortError::unknown(ErrorCode::Unreachable.says(message))
    }
}

fn unexpected(response: &Response) -> PortError {
    PortError::unknown(format!("the server answered {}", response.status()))
}

/// `None`: an absent blob.
async fn read_answer<T: DeserializeOwned>(response: Response) -> PortResult<Option<T>> {
    let status = response.status();
    let is_value = status.is_success() || status == StatusCode::PRECONDITION_FAILED;
    let body = response.bytes().await.map_err(|error| network(&error))?;
    if is_value {
        let parsed = serde_json::from_slice(&body);
        return parsed.map(Some).map_err(|error| {
            PortError::unknown(ErrorCode::OtherVersion.says(format!("an answer that does not parse: {error}")))
        });
    }
    match serde_json::from_slice::<Failure>(&body) {
        Ok(failure) => match failure.into_error() {
            Some(error) => Err(error),
            None => Ok(None),
        },
        Err(_) => {
            let text = String::from_utf8_lossy(&body);
            let shown: String = text.chars().take(200).collect();
            Err(PortError::unknown(ErrorCode::OtherVersion.says(format!("the server answered {status}: {shown}"))))
        }
    }
}

fn header<T: std::str::FromStr>(response: &Response, name: &str) -> PortResult<T> {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    value.ok_or_else(|| PortError::unknown(format!("the answer has no valid {name}")))
}

fn info_of(key: &str, response: &Response) -> PortResult<BlobInfo> {
    let writer: String = header(response, WRITER)?;
    let writer = hex::decode(writer).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let writer = writer.ok_or_else(|| PortError::unknown(format!("the answer has no valid {WRITER}")))?;
    Ok(BlobInfo { key: key.to_owned(), size: header(response, SIZE)?, sha256: header(response, SHA256)?, writer })
}

fn damaged(key: &str) -> PortError {
    PortError::corrupt(format!("blob {key}: the bytes received do not have the SHA-256 they were stored with"))
}

#[async_trait]
impl Queue for Client {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        let receipts = self.receipts_for(&messages);
        self.call(&Call::QueueSend { queue: queue.to_owned(), messages, receipts }).await
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        let timeout = self.timeout + Duration::from_millis(wait.0);
        let call = Call::QueueReceive { queue: queue.to_owned(), max, wait, lease };
        let deliveries: Vec<Delivery> = self.call_within(&call, timeout).await?;
        self.remember(&deliveries);
        Ok(deliveries)
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.call(&Call::QueueExtend { queue: queue.to_owned(), receipt: receipt.to_owned(), lease }).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.call(&Call::QueueRelease { queue: queue.to_owned(), receipt: receipt.to_owned(), delay }).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.call(&Call::QueueAck { queue: queue.to_owned(), receipt: receipt.to_owned() }).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.call(&Call::QueueStats { queue: queue.to_owned() }).await
    }

    /// What is served is an engine.
    fn ranks(&self) -> bool {
        true
    }
}

#[async_trait]
impl Table for Client {
    async fn get(&self, key: &Key) -> PortResult<Option<Row>> {
        self.call(&Call::TableGet { key: key.clone() }).await
    }

    async fn put_if_version(&self, key: &Key, doc: Value, expected: Option<u64>) -> PortResult<u64> {
        self.call(&Call::TablePut { key: key.clone(), doc, expected }).await
    }

    async fn accept_first(
        &self,
        key: &Key,
        slot: &str,
        floor: &str,
        attempt: u32,
        value: Value,
    ) -> PortResult<Accepted> {
        let (slot, floor) = (slot.to_owned(), floor.to_owned());
        self.call(&Call::TableAcceptFirst { key: key.clone(), slot, floor, attempt, value }).await
    }

    async fn set_if(
        &self,
        key: &Key,
        attribute: &str,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> PortResult<SetOutcome> {
        // On the way, null would become absent.
        check_value(expected.as_ref())?;
        check_value(new.as_ref())?;
        self.call(&Call::TableSetIf { key: key.clone(), attribute: attribute.to_owned(), expected, new }).await
    }

    async fn query(&self, partition: &str, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Row>> {
        let (partition, prefix, after) = (partition.to_owned(), prefix.to_owned(), after.map(str::to_owned));
        self.call(&Call::TableQuery { partition, prefix, after, limit }).await
    }

    async fn transact(&self, writes: Vec<Write>) -> PortResult<()> {
        check_writes(&writes)?;
        self.call(&Call::TableTransact { writes }).await
    }

    async fn delete(&self, key: &Key) -> PortResult<()> {
        self.call(&Call::TableDelete { key: key.clone() }).await
    }
}

#[async_trait]
impl Blobs for Client {
    async fn put_new(&self, key: &str, bytes: Bytes, writer: &str) -> PortResult<PutOutcome> {
        let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
        self.put(key, writer, size, sha256, Body::from(bytes)).await
    }

    async fn put_file(&self, key: &str, path: &Path, writer: &str) -> PortResult<PutOutcome> {
        let here = |error: std::io::Error| {
            PortError::permanent(ErrorCode::FileUnusable.says(format!("{}: {error}", path.display())))
        };
        let hashed = path.to_owned();
        let (size, sha256) = tokio::task::spawn_blocking(move || hash_file(&hashed))
            .await
            .map_err(|error| PortError::transient(format!("hashing a file: {error}")))?
            .map_err(here)?;
        if size > ASK_FIRST
            && let Some(info) = self.head(key).await?
        {
            return Ok(PutOutcome::Exists(info));
        }
        let file = tokio::fs::File::open(path).await.map_err(here)?;
        let body = Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, UPLOAD_CHUNK));
        self.put(key, writer, size, sha256, body).await
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        let query = BlobQuery { key: key.to_owned(), ..BlobQuery::default() };
        let Some(response) = self.fetch(&query).await? else {
            return Ok(None);
        };
        let info = info_of(key, &response)?;
        let bytes = self.read_whole(response).await?;
        if Sha256::of(&bytes) != info.sha256 {
            return Err(damaged(key));
        }
        Ok(Some(bytes))
    }

    async fn get_file(&self, key: &str, path: &Path) -> PortResult<Option<BlobInfo>> {
        let query = BlobQuery { key: key.to_owned(), ..BlobQuery::default() };
        let Some(mut response) = self.fetch(&query).await? else {
            return Ok(None);
        };
        let info = info_of(key, &response)?;
        let here = |error: std::io::Error| PortError::io(path.display(), &error);
        let mut file = tokio::fs::File::create_new(path).await.map_err(here)?;
        let mut unfinished = Unfinished(Some(path));
        let mut hasher = sha2::Sha256::new();
        while let Some(piece) = self.next_piece(&mut response).await? {
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(here)?;
        }
        file.flush().await.map_err(here)?;
        if Sha256(hasher.finalize().into()) != info.sha256 {
            return Err(damaged(key));
        }
        unfinished.0 = None;
        Ok(Some(info))
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> PortResult<Option<Bytes>> {
        let (offset, length) = (Some(offset), Some(length));
        let query = BlobQuery { key: key.to_owned(), writer: None, offset, length };
        let Some(response) = self.fetch(&query).await? else {
            return Ok(None);
        };
        Ok(Some(self.read_whole(response).await?))
    }

    async fn head(&self, key: &str) -> PortResult<Option<BlobInfo>> {
        self.call(&Call::BlobHead { key: key.to_owned() }).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.call(&Call::BlobList { prefix, after, limit }).await
    }

    async fn delete(&self, key: &str) -> PortResult<()> {
        self.call(&Call::BlobDelete { key: key.to_owned() }).await
    }
}

/// A download's file, removed unless it was finished, also when the download is dropped.
struct Unfinished<'a>(Option<&'a Path>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn hash_file(path: &Path) -> std::io::Result<(u64, Sha256)> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; UPLOAD_CHUNK];
    let mut size = 0;
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer)?;
        if read == 0 {
            return Ok((size, Sha256(hasher.finalize().into())));
        }
        size += read as u64;
        hasher.update(&buffer[..read]);
    }
}
