//! The ports over HTTP: how workers and the CLI reach an engine that another process owns, on the same machine or another.
//!
//! The protocol is small enough for `curl`:
//!
//! - `POST /v1/call` with one [`wire::Call`] as JSON (`{"op": "queue_stats", "queue": "results"}`) answers that call's value as JSON.
//! - `PUT /v1/blob?key=K&writer=W` with the bytes, and `x-push0-sha256`, answers a [`crate::port::PutOutcome`]: 201, or 412 where the
//!   key exists.
//! - `GET /v1/blob?key=K`, optionally `&offset=O&length=L`, answers the bytes; whole blobs with their SHA-256 in `x-push0-sha256`.
//! - `POST /v1/dead-letters` and `GET /v1/workers` are for operators: messages that nobody handles, workers that are here.
//! - `GET /health` answers `ok`.
//!
//! A worker's `queue_send` carries the receipt of the task each report is about in `receipts`, its upload in `x-push0-receipt`: it
//! speaks and writes only about what was handed to it (`worker_call`).
//!
//! An error is a [`wire::Failure`] with a fitting status. A token (`authorization: Bearer T`) says who calls, see [`auth`].
//!
//! Rules kept here: no call holds anything while it waits for the network, so a slow or frozen client delays only itself; a receive
//! whose client goes away is dropped, which loses nothing; what a client can hold by doing nothing is bounded (`door`); bytes are checked against their digest at both ends.

pub mod auth;
mod client;
mod dead_letters;
mod door;
mod maintenance;
mod presence;
mod seal;
mod server;
mod transfer;
pub mod wire;
mod worker_call;

pub use auth::{Caller, Role, Source, Token};
pub use client::{Client, ClientConfig};
pub use dead_letters::dead_letter_routes;
pub use door::Limits;
pub use maintenance::maintenance;
pub use presence::{Introduction, WorkerHere};
pub use seal::SealKey;
pub use server::{Ports, Server, ServerConfig, Transport, bind_tcp, bind_unix};
