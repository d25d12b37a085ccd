//! What `up` answers beside the ports: a worker's welcome, and the operator's "read the tokens again".

use std::sync::{Arc, OnceLock};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json, Router, routing};
use push0_core::{ErrorCode, Pool};
use push0_runtime::drive::Catalog;
use push0_runtime::http::wire::Failure;
use push0_runtime::http::{Caller, Server, Token};
use push0_runtime::port::{PortError, PortResult};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::settings::{Settings, Sources};
use crate::welcome::{ROUTE, Welcome};

/// The tokens let in: those of the workers started here, and the configured ones.
pub(super) struct Tokens {
    locals: Vec<Token>,
    sources: Sources,
    server: OnceLock<Server>,
}

impl Tokens {
    pub(super) fn new(locals: Vec<Token>, sources: &Sources) -> Arc<Self> {
        Arc::new(Self { locals, sources: sources.clone(), server: OnceLock::new() })
    }

    pub(super) fn with(&self, configured: &[Token]) -> Vec<Token> {
        self.locals.iter().chain(configured).cloned().collect()
    }

    pub(super) fn serve(&self, server: &Server) {
        let _ = self.server.set(server.clone());
    }

    /// Reads the configured tokens again; mistakes change nothing. Their names.
    pub(super) fn reload(&self) -> PortResult<Vec<String>> {
        let configured = Settings::read(&self.sources)
            .map(|settings| settings.tokens)
            .map_err(|mistakes| PortError::permanent(ErrorCode::BadConfiguration.says(mistakes.0.join("; "))));
        let applied = configured.and_then(|configured| match self.server.get() {
            Some(server) => server.set_tokens(&self.with(&configured)).map(|()| configured),
            None => Err(PortError::transient("push0 is just starting")),
        });
        match &applied {
            Ok(tokens) => info!(tokens = tokens.len(), "tokens were read again"),
            Err(error) => warn!(code = %ErrorCode::BadConfiguration, %error, "the tokens stay as they were"),
        }
        applied.map(|tokens| tokens.iter().map(|token| token.name.to_string()).collect())
    }
}

/// Answer of a reload.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    pub tokens: Vec<String>,
}

/// `POST`, for operators.
pub const RELOAD: &str = "/v1/tokens/reload";

pub(super) fn router(catalog: Arc<Catalog>, tokens: Arc<Tokens>) -> Router {
    Router::new()
        .route(ROUTE, routing::get(welcome).with_state(catalog))
        .route(RELOAD, routing::post(reload).with_state(tokens))
}

#[derive(Deserialize)]
struct Asked {
    pool: Pool,
}

async fn welcome(
    State(catalog): State<Arc<Catalog>>,
    Extension(caller): Extension<Caller>,
    Query(asked): Query<Asked>,
) -> Response {
    answer(Welcome::of(&caller, &asked.pool, &catalog))
}

async fn reload(State(tokens): State<Arc<Tokens>>, Extension(caller): Extension<Caller>) -> Response {
    let reloaded = match caller.role.may_operate("have the tokens read again") {
        Ok(()) => tokio::task::spawn_blocking(move || tokens.reload())
            .await
            .unwrap_or_else(|error| Err(PortError::unknown(format!("reading the tokens: {error}")))),
        Err(error) => Err(error),
    };
    answer(reloaded.map(|tokens| Reloaded { tokens }))
}

fn answer<T: Serialize>(result: PortResult<T>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let failure = Failure::from(error);
            let status = StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Json(failure)).into_response()
        }
    }
}
