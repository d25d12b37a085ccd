//! Reorganisations on real processes: `push0 up`, its workers, and an operator.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use push0_tests::chaos::fork::{self, Site};
use push0_tests::chaos::installation::{signal, wait_until};
use push0_tests::chaos::{Installation, Judge, Options};

const LEASE: Duration = Duration::from_millis(1_000);

struct Here(Installation);

impl Site for Here {
    fn cli(&self, args: &[&str]) -> Output {
        self.0.cli(args)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn workers(&self) -> Vec<u32> {
        self.0.workers()
    }

    fn invocations(&self) -> Vec<String> {
        self.0.invocations()
    }
}

fn here(params: &str) -> Here {
    let options = Options {
        workers: 3,
        window: 8,
        lease_ms: LEASE.as_millis() as u64,
        params: params.to_owned(),
        ..Options::default()
    };
    let mut installation = Installation::new(&options);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    Here(installation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_three_blocks_deep_under_frozen_workers_ends_as_the_new_chain() {
    let site = here("duration_ms = 200");
    let client = site.0.client();
    fork::three_deep(&site, &client, &client, LEASE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_drops_a_range_and_the_old_blocks_stay_away() {
    let site = here("duration_ms = 100");
    let client = site.0.client();
    let old: Vec<_> = (1..=3).map(|number| fork::block(&site, number, u64::MAX, "", None)).collect();
    let new: Vec<_> = (2..=3).map(|number| fork::block(&site, number, 2, "b", None)).collect();
    let workers = site.workers();
    workers.iter().for_each(|worker| signal(*worker, Signal::SIGSTOP));
    old.iter().for_each(|block| site.submit(block));
    let reorg = |args: &[&str]| {
        let output = site.cli(&[&["reorg", "demo"], args].concat());
        (
            output.status.code(),
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        )
    };
    let (code, said) = reorg(&["2", "--dry-run"]);
    assert!(code == Some(0) && said.contains("would drop 2 blocks from 2 on") && said.contains(&old[2].hash), "{said}");
    let (code, said) = reorg(&["2"]);
    assert!(code == Some(2) && said.contains("--yes"), "nobody is there to be asked: {said}");
    assert_eq!(site.stands(2).0, "proving", "and so nothing happened");
    let (code, said) = reorg(&["2", "--yes", "--reason", "wrong fork"]);
    assert!(code == Some(0) && said.contains("dropped 2 blocks from 2 on"), "{said}");
    assert_eq!(site.stands(3), ("dropped".to_owned(), String::new()));
    let why = site.json(&["why", "demo", "2"]);
    assert!(why["answer"].as_str().unwrap_or_default().contains("dropped (wrong fork)"), "{why:#}");

    let again = site.cli(&["submit", old[1].file.to_str().expect("text")]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && said.contains("P0-039"), "{said}");
    site.submit(&new[1]);
    site.submit(&new[0]);
    workers.iter().for_each(|worker| signal(*worker, Signal::SIGCONT));
    let mut judge = Judge::default();
    for _ in 0..3_000 {
        judge.consume(&client).await;
        if judge.stream.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let hashes: Vec<_> = judge.stream.iter().map(|message| message["hash"].as_str().unwrap_or_default()).collect();
    assert_eq!(hashes, [&old[0].hash, &new[0].hash, &new[1].hash]);
    let (code, said) = reorg(&["3", "--yes"]);
    assert!(code == Some(1) && said.contains("P0-018") && said.contains("push0 reorg demo 4"), "{said}");
}
