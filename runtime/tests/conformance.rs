//! Every adapter of this crate against the suites of its ports.

use std::sync::Arc;

use push0_core::Millis;
use push0_runtime::clock_manual::ManualClock;
use push0_runtime::conformance::{blobs_suite, queue_suite, queues, table_suite};
use push0_runtime::engine::{Durability, Engine, EngineConfig, Location};

fn engine(location: Location, durability: Durability, clock: &ManualClock) -> Engine {
    let config = EngineConfig { durability, clock: Arc::new(clock.clone()), ..EngineConfig::new(location, queues()) };
    Engine::open(config).unwrap()
}

fn clock() -> ManualClock {
    ManualClock::starting_at(Millis(1_700_000_000_000))
}

async fn all_suites(engine: &Engine, clock: &ManualClock) {
    let scratch = tempfile::tempdir().unwrap();
    queue_suite(engine, clock, "one").await;
    table_suite(engine, "one").await;
    blobs_suite(engine, "conformance/one", scratch.path()).await;
}

#[tokio::test]
async fn engine_in_memory() {
    let clock = clock();
    all_suites(&engine(Location::Memory, Durability::Process, &clock), &clock).await;
}

#[tokio::test]
async fn engine_on_disk() {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let location = Location::Directory(directory.path().join("data"));
    all_suites(&engine(location, Durability::Process, &clock), &clock).await;
}

#[tokio::test]
async fn engine_on_disk_power_safe() {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let location = Location::Directory(directory.path().join("data"));
    all_suites(&engine(location, Durability::Power, &clock), &clock).await;
}
