//! `POST /v1/dead-letters`: [`DeadLetters`] for operators, one [`Ask`] a call.

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};

use super::Client;
use super::auth::Role;
use super::server::{answer, refusal};
use crate::port::{DeadLetters, Peeked, PortResult};

const PATH: &str = "/v1/dead-letters";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    Peek { queue: String, after: Option<String>, limit: usize },
    Redrive { queue: String, id: String, to: String, body: Option<String> },
    Discard { queue: String, id: String, reason: String },
}

/// The route, for [`super::Server::with_routes`].
pub fn dead_letter_routes(letters: Arc<dyn DeadLetters>) -> Router {
    Router::new().route(PATH, post(perform)).with_state(letters)
}

async fn perform(
    State(letters): State<Arc<dyn DeadLetters>>,
    Extension(role): Extension<Role>,
    Json(ask): Json<Ask>,
) -> Response {
    if let Err(error) = role.may_operate("handle dead letters") {
        return refusal(error);
    }
    match ask {
        Ask::Peek { queue, after, limit } => answer(letters.peek(&queue, after.as_deref(), limit).await),
        Ask::Redrive { queue, id, to, body } => answer(letters.redrive(&queue, &id, &to, body).await),
        Ask::Discard { queue, id, reason } => answer(letters.discard(&queue, &id, &reason).await),
    }
}

#[async_trait]
impl DeadLetters for Client {
    async fn peek(&self, queue: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Peeked>> {
        self.ask(PATH, &Ask::Peek { queue: queue.to_owned(), after: after.map(str::to_owned), limit }).await
    }

    async fn redrive(&self, queue: &str, id: &str, to: &str, body: Option<String>) -> PortResult<bool> {
        let ask = Ask::Redrive { queue: queue.to_owned(), id: id.to_owned(), to: to.to_owned(), body };
        self.ask(PATH, &ask).await
    }

    async fn discard(&self, queue: &str, id: &str, reason: &str) -> PortResult<bool> {
        let ask = Ask::Discard { queue: queue.to_owned(), id: id.to_owned(), reason: reason.to_owned() };
        self.ask(PATH, &ask).await
    }
}
