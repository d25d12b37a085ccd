//! `push0`, the command line, as a library: so that tests can use its settings and look at its screens.
//!
//! - [`settings`]: what is configured; [`up`] runs it: engine, functions and local workers. [`worker`] is one of these workers.
//! - [`bootstrap`]: creates in AWS what the topology lists.
//! - [`serve`]: the same functions in a process against AWS.
//! - [`connect`]: how every other command reaches a running `up`: over its socket, through the ports.
//! - [`submit`], [`operate`]: what changes a chain. [`view`] reads, [`why`] explains, [`render`] draws.
//! - [`verify`]: checks what was finalized, with the pipeline's own prover and nothing of push0's decisions.
//! - [`error`]: what went wrong, with its page; [`explain`] prints the pages.
//! - [`prover`]: checks a prover, and begins one.
//! - [`doctor`]: what is wrong with this machine and this installation.
//! - [`dlq`]: messages that nobody handles.
//! - [`replay`]: one task's prover, run here on the task's own inputs.
//! - [`demo`]: all of it, once.

pub mod args;
pub mod backup;
pub mod bench;
pub mod blobs;
pub mod bootstrap;
pub mod connect;
pub mod demo;
pub mod dlq;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod gc;
pub mod init;
pub mod notice;
pub mod on_time;
pub mod operate;
pub mod output;
pub mod prover;
pub mod render;
pub mod replay;
pub mod serve;
pub use push0_runtime::settings;
pub mod submit;
pub mod tail;
pub mod token;
pub mod up;
pub mod verify;
pub mod view;
pub mod welcome;
pub mod why;
pub mod worker;
