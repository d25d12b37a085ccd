//! What an [`Imds`] promises, and a metadata service on loopback to try it against.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use push0_core::Millis;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::port::{ErrorKind, Imds, SpotAction, TargetState};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// Longest life of a token, seconds.
const LONGEST: u64 = 21_600;

/// Checks an [`Imds`] whose service is `fake`.
pub async fn imds_suite(imds: &dyn Imds, fake: &FakeImds) {
    what_is_not_there_is_none(imds).await;
    documents_are_read_as_they_are(imds, fake).await;
    what_is_said_of_the_instance_is_understood(imds, fake).await;
    a_notice_that_is_none_is_corrupt(imds, fake).await;
    a_token_that_is_over_is_replaced(imds, fake).await;
    no_answer_is_transient_and_no_absence(imds, fake).await;
    a_service_that_is_turned_off_is_permanent(imds, fake).await;
}

async fn what_is_not_there_is_none(imds: &dyn Imds) {
    assert_eq!(imds.read("meta-data/absent").await, Ok(None));
    assert_eq!(imds.target_state().await, Ok(None));
    assert_eq!(imds.spot_action().await, Ok(None));
    assert_eq!(imds.rebalance_recommended().await, Ok(false));
    assert_eq!(imds.tag("absent").await, Ok(None));
}

async fn documents_are_read_as_they_are(imds: &dyn Imds, fake: &FakeImds) {
    fake.put("meta-data/instance-id", "i-0123456789abcdef0");
    fake.put("meta-data/tags/instance/aws:autoscaling:groupName", "push0-gpu");
    assert_eq!(imds.instance_id().await, Ok(Some("i-0123456789abcdef0".to_owned())));
    assert_eq!(imds.tag("aws:autoscaling:groupName").await, Ok(Some("push0-gpu".to_owned())));
}

async fn what_is_said_of_the_instance_is_understood(imds: &dyn Imds, fake: &FakeImds) {
    fake.target_state("InService");
    assert_eq!(imds.target_state().await, Ok(Some(TargetState::InService)));
    fake.target_state("Warmed:Stopped");
    assert_eq!(imds.target_state().await, Ok(Some(TargetState::Warmed)));
    fake.spot_action("terminate", "2017-09-18T08:22:00Z");
    let notice = SpotAction { action: "terminate".to_owned(), at: Millis(1_505_722_920_000) };
    assert_eq!(imds.spot_action().await, Ok(Some(notice)));
    fake.recommend_rebalance("2020-10-27T08:22:00Z");
    assert_eq!(imds.rebalance_recommended().await, Ok(true));
    fake.forget_all();
    assert_eq!(imds.target_state().await, Ok(None));
}

async fn a_notice_that_is_none_is_corrupt(imds: &dyn Imds, fake: &FakeImds) {
    for text in ["{}", "soon", r#"{"action":"terminate","time":"in two minutes"}"#] {
        fake.put("meta-data/spot/instance-action", text);
        assert_eq!(imds.spot_action().await.map_err(|error| error.kind()), Err(ErrorKind::Corrupt), "{text}");
    }
    fake.forget_all();
}

async fn a_token_that_is_over_is_replaced(imds: &dyn Imds, fake: &FakeImds) {
    fake.target_state("InService");
    assert_eq!(imds.target_state().await, Ok(Some(TargetState::InService)));
    fake.end_tokens();
    assert_eq!(imds.target_state().await, Ok(Some(TargetState::InService)));
    fake.forget_all();
}

async fn no_answer_is_transient_and_no_absence(imds: &dyn Imds, fake: &FakeImds) {
    for fault in [Fault::Answers(401), Fault::Answers(429), Fault::Answers(503), Fault::Silent] {
        fake.fail(Some(fault));
        let answer = imds.target_state().await.map_err(|error| error.kind());
        assert!(matches!(answer, Err(ErrorKind::Transient { .. })), "{fault:?}: {answer:?}");
        fake.end_tokens();
        let answer = imds.target_state().await.map_err(|error| error.kind());
        assert!(matches!(answer, Err(ErrorKind::Transient { .. })), "{fault:?}, without a token: {answer:?}");
        fake.fail(None);
        assert_eq!(imds.target_state().await, Ok(None), "after {fault:?}");
    }
}

async fn a_service_that_is_turned_off_is_permanent(imds: &dyn Imds, fake: &FakeImds) {
    assert_eq!(imds.target_state().await, Ok(None));
    fake.fail(Some(Fault::Answers(403)));
    assert_eq!(imds.target_state().await.map_err(|error| error.kind()), Err(ErrorKind::Permanent));
    fake.fail(None);
}

/// What is wrong with the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything is answered with this status.
    Answers(u16),
    /// Nothing is answered at all.
    Silent,
}

/// A metadata service that speaks IMDSv2 as it is documented: `PUT /latest/api/token` with a life of 1 s to 6 h gives a token, a read
/// without a good one is answered with 401, what is not there with 404.
#[derive(Debug)]
pub struct FakeImds {
    shared: Arc<Mutex<Shared>>,
    address: String,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    documents: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
    issued: u64,
    fault: Option<Fault>,
    reads: u64,
}

impl FakeImds {
    /// On a free port of loopback. Needs a tokio runtime.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let routes = Router::new()
            .route("/latest/api/token", put(issue))
            .route("/latest/{*path}", get(read))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            // It ends with its task.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { shared, address, serving })
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    pub fn put(&self, path: &str, text: &str) {
        lock(&self.shared).documents.insert(path.to_owned(), text.to_owned());
    }

    pub fn remove(&self, path: &str) {
        lock(&self.shared).documents.remove(path);
    }

    pub fn forget_all(&self) {
        lock(&self.shared).documents.clear();
    }

    pub fn target_state(&self, state: &str) {
        self.put("meta-data/autoscaling/target-lifecycle-state", state);
    }

    /// `time` as `2017-09-18T08:22:00Z`.
    pub fn spot_action(&self, action: &str, time: &str) {
        self.put("meta-data/spot/instance-action", &format!(r#"{{"action": "{action}", "time": "{time}"}}"#));
    }

    pub fn recommend_rebalance(&self, time: &str) {
        self.put("meta-data/events/recommendations/rebalance", &format!(r#"{{"noticeTime": "{time}"}}"#));
    }

    /// No token issued so far is good any longer.
    pub fn end_tokens(&self) {
        lock(&self.shared).tokens.clear();
    }

    pub fn fail(&self, fault: Option<Fault>) {
        lock(&self.shared).fault = fault;
    }

    /// Requests so far, tokens' included.
    pub fn requests(&self) -> u64 {
        lock(&self.shared).reads
    }
}

impl Drop for FakeImds {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn issue(State(shared): State<Arc<Mutex<Shared>>>, headers: HeaderMap) -> Response {
    faulty(&shared, async {
        let ttl = headers.get(TTL).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=LONGEST).contains(ttl)) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let mut shared = lock(&shared);
        shared.issued += 1;
        let token = format!("token-{}==", shared.issued);
        shared.tokens.insert(token.clone());
        ([(TTL, ttl.to_string())], token).into_response()
    })
    .await
}

async fn read(State(shared): State<Arc<Mutex<Shared>>>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    faulty(&shared, async {
        let shared = lock(&shared);
        let token = headers.get(TOKEN).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !shared.tokens.contains(token) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        match shared.documents.get(&path) {
            Some(text) => text.clone().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    })
    .await
}

async fn faulty(shared: &Mutex<Shared>, answer: impl Future<Output = Response>) -> Response {
    let fault = {
        let mut shared = lock(shared);
        shared.reads += 1;
        shared.fault
    };
    match fault {
        None => answer.await,
        Some(Fault::Answers(status)) => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
        Some(Fault::Silent) => std::future::pending().await,
    }
}
