//! What only the owner of a data directory can do with it, for operators: `POST /v1/backup` with `{"to": "/path"}`, a path on the machine
//! where this server runs, answers the [`Backup`] when it is whole.

use std::path::PathBuf;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use push0_core::ErrorCode;
use serde::{Deserialize, Serialize};

use super::auth::Role;
use super::server::{json, refusal};
use crate::engine::{Backup, Engine};
use crate::port::{PortError, PortResult};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackUp {
    pub(super) to: PathBuf,
}

/// Routes for [`super::Server::with_routes`].
pub fn maintenance(engine: &Engine) -> Router {
    Router::new().route("/v1/backup", post(back_up)).with_state(engine.clone())
}

async fn back_up(
    State(engine): State<Engine>,
    Extension(role): Extension<Role>,
    Json(asked): Json<BackUp>,
) -> Response {
    match make_backup(engine, &role, asked).await {
        Ok(backup) => {
            tracing::info!(blobs = backup.blobs, bytes = backup.blob_bytes, "backup made");
            json(StatusCode::OK, &backup)
        }
        Err(error) => refusal(error),
    }
}

async fn make_backup(engine: Engine, role: &Role, asked: BackUp) -> PortResult<Backup> {
    role.may_operate("make a backup")?;
    if !asked.to.is_absolute() {
        let what = format!("{} is not an absolute path", asked.to.display());
        return Err(PortError::permanent(ErrorCode::BadRequest.says(what)));
    }
    // A caller that goes away does not stop it.
    tokio::task::spawn_blocking(move || engine.backup(&asked.to))
        .await
        .unwrap_or_else(|error| Err(PortError::unknown(format!("making a backup: {error}"))))
}
