//! A reorganisation on an emulator's queues, table and buckets.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use push0_tests::chaos::Cloud;
use push0_tests::chaos::cloud::ONE_CHAIN;
use push0_tests::chaos::fork::{self, Site};

const LEASE: Duration = Duration::from_millis(1_000);

const WORKERS: [&str; 3] = ["cpu-1", "cpu-2", "cpu-3"];

struct There(Cloud);

impl Site for There {
    fn cli(&self, args: &[&str]) -> Output {
        self.0.cli(args)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn workers(&self) -> Vec<u32> {
        WORKERS.iter().map(|name| self.0.pid(name)).collect()
    }

    fn invocations(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("invocations")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_three_blocks_deep_under_frozen_workers_ends_as_the_new_chain_on_an_emulator_too() {
    let pipeline = push0_tests::chaos::installation::echo_pipeline("duration_ms = 400", 20);
    let mut cloud = Cloud::new(&[("push0.toml", ONE_CHAIN), ("echo.toml", &pipeline)]);
    cloud.cli_ok(&["bootstrap", "--visibility-s", "1"]);
    cloud.start("serve", &["serve", "--aws", "--lease-ms", "1000"]);
    cloud.start_worker("trusted", "trusted-1");
    for name in WORKERS {
        cloud.start_worker("cpu", name);
    }
    let (queue, blobs) = (cloud.queue().await, cloud.blobs().await);
    fork::three_deep(&There(cloud), &queue, &blobs, LEASE).await;
}
