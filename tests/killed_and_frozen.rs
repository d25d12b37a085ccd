//! Processes killed and frozen while they work. The machine decides how long things take; nothing here asserts on time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use push0_runtime::http::Client;
use push0_runtime::port::Queue as _;
use push0_tests::chaos::installation::{signal, wait_until};
use push0_tests::chaos::{Installation, Judge, Options};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const SEGMENTS: u32 = 16;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

fn blocks(installation: &Installation, count: u64) -> (Vec<PathBuf>, Vec<String>) {
    (1..=count).map(|number| installation.block(number, SEGMENTS, "")).unzip()
}

/// Tasks that workers hold right now.
async fn in_flight(client: &Client) -> u64 {
    client.stats("work-cpu-standard").await.map_or(0, |stats| stats.in_flight)
}

/// Submits the blocks, in a mixed order, in a system that runs.
fn begin(installation: &mut Installation, files: &[PathBuf], dice: &mut ChaCha8Rng) {
    installation.start();
    let runtime = runtime();
    let client = installation.client();
    wait_until("push0 is up", || runtime.block_on(client.health()).is_ok());
    let mut order: Vec<PathBuf> = files.to_vec();
    for position in (1..order.len()).rev() {
        order.swap(position, dice.random_range(0..=position));
    }
    installation.submit(&order);
}

/// Consumes until all blocks are finalized.
fn finish(installation: &Installation, judge: &mut Judge, hashes: &[String]) {
    let runtime = runtime();
    let client = installation.client();
    let mut turns = 0;
    while judge.stream.len() < hashes.len() {
        runtime.block_on(judge.consume(&client));
        std::thread::sleep(Duration::from_millis(100));
        turns += 1;
        assert!(turns < 6_000, "{} of {} finalized\n{}", judge.stream.len(), hashes.len(), installation.log());
    }
    runtime.block_on(judge.look_for_overwriting(&client));
    runtime.block_on(judge.judge(&client, hashes, SEGMENTS));
}

/// Runs of the prover by task: how many tasks, and how many runs beyond the first of each.
fn count_runs(installation: &Installation) -> (usize, usize) {
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    for id in installation.invocations() {
        *runs.entry(id).or_default() += 1;
    }
    (runs.len(), runs.values().sum::<usize>() - runs.len())
}

#[test]
fn twenty_kills_of_everything_lose_and_double_nothing() {
    const KILLS: usize = 20;
    const BLOCKS: u64 = 10;
    let options = Options { params: "duration_ms = 200".to_owned(), ..Options::default() };
    let mut installation = Installation::new(&options);
    let mut dice = ChaCha8Rng::seed_from_u64(20);
    let (files, hashes) = blocks(&installation, BLOCKS);
    let runtime = runtime();
    let mut judge = Judge::default();
    begin(&mut installation, &files, &mut dice);
    for kill in 0..KILLS {
        let client = installation.client();
        wait_until("tasks are in flight", || runtime.block_on(in_flight(&client)) > 0);
        std::thread::sleep(Duration::from_millis(dice.random_range(0..700)));
        // The moment is random; that tasks are in flight is not.
        wait_until("tasks are in flight", || runtime.block_on(in_flight(&client)) > 0);
        match kill % 5 {
            0 => installation.kill_up(),
            _ => installation.kill_tree(),
        }
        installation.start();
        let client = installation.client();
        wait_until("push0 is up again", || runtime.block_on(client.health()).is_ok());
        if kill % 10 == 9 {
            runtime.block_on(judge.consume(&client));
            runtime.block_on(judge.look_for_overwriting(&client));
        }
        assert!(judge.stream.len() < BLOCKS as usize, "it was over after {kill} kills: give it more to do");
    }
    finish(&installation, &mut judge, &hashes);

    // 1 split, 16 proofs, 15 joins and 1 verification a block, each as its first attempt: a kill is no failure.
    let (tasks, again) = count_runs(&installation);
    println!("{KILLS} kills, {} deliveries, {tasks} tasks, {again} runs again", judge.deliveries);
    assert_eq!(tasks, BLOCKS as usize * 33, "every task, and no second attempt of any");
    // A kill costs the runs in hand (two workers and the trusted one), and may have a piece of 16 leaves sent twice.
    assert!(again <= KILLS * (3 + 16), "{again} runs again");
}

#[test]
fn killed_workers_cost_nothing_but_time() {
    const KILLS: usize = 10;
    let options = Options { params: "duration_ms = 100".to_owned(), ..Options::default() };
    let mut installation = Installation::new(&options);
    let mut dice = ChaCha8Rng::seed_from_u64(21);
    let (files, hashes) = blocks(&installation, 6);
    let runtime = runtime();
    begin(&mut installation, &files, &mut dice);
    let client = installation.client();
    for _ in 0..KILLS {
        wait_until("tasks are in flight", || runtime.block_on(in_flight(&client)) > 0);
        std::thread::sleep(Duration::from_millis(dice.random_range(0..500)));
        let workers = installation.workers();
        if !workers.is_empty() {
            signal(workers[dice.random_range(0..workers.len())], Signal::SIGKILL);
        }
    }
    let mut judge = Judge::default();
    finish(&installation, &mut judge, &hashes);
    let (tasks, again) = count_runs(&installation);
    println!("{KILLS} workers killed, {tasks} tasks, {again} runs again");
    assert_eq!(tasks, 6 * 33, "a worker's death is no failed attempt");
}

/// Uploads that the server is receiving right now.
fn uploads(installation: &Installation) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(installation.directory.path().join("data/spool")).into_iter().flatten().flatten();
    let size = |entry: &std::fs::DirEntry| entry.metadata().map_or(0, |meta| meta.len());
    let mut found: Vec<_> =
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), size(&entry))).collect();
    found.sort();
    found
}

/// Freezes the workers as soon as an upload is seen, or after a while whatever they do. Returns whether that was in the middle of an
/// upload: one that stands still.
fn freeze(installation: &Installation, workers: &[u32]) -> bool {
    for _ in 0..200_000 {
        if !uploads(installation).is_empty() {
            break;
        }
    }
    workers.iter().for_each(|worker| signal(*worker, Signal::SIGSTOP));
    std::thread::sleep(Duration::from_millis(100));
    let before = uploads(installation);
    std::thread::sleep(Duration::from_millis(100));
    let after = uploads(installation);
    before.iter().any(|upload| after.contains(upload))
}

#[test]
fn a_frozen_worker_holds_up_nobody_and_its_late_result_changes_nothing() {
    const BLOCKS: u64 = 8;
    // Large artifacts, so that uploads take a moment.
    let params = "duration_ms = 50, output_bytes = 4000000".to_owned();
    let mut installation = Installation::new(&Options { params, ..Options::default() });
    let mut dice = ChaCha8Rng::seed_from_u64(22);
    let (files, _) = blocks(&installation, BLOCKS);
    let runtime = runtime();
    begin(&mut installation, &files, &mut dice);
    let client = installation.client();
    let mut judge = Judge::default();
    let (mut freezes, mut in_uploads) = (0, 0);
    while judge.stream.len() < BLOCKS as usize {
        let workers = installation.workers();
        if workers.is_empty() {
            continue;
        }
        let in_upload = freeze(&installation, &workers);
        in_uploads += usize::from(in_upload);
        freezes += 1;
        let one = workers[dice.random_range(0..workers.len())];
        let is_near_the_end = judge.stream.len() + 2 >= BLOCKS as usize;
        // Whoever uploads stays frozen; where nobody does, one of them, while the others go on.
        if !in_upload || is_near_the_end {
            workers.iter().filter(|worker| **worker != one).for_each(|worker| signal(*worker, Signal::SIGCONT));
        }
        // Longer than a lease: what a frozen one held is somebody else's when it wakes up.
        std::thread::sleep(Duration::from_millis(2_000));
        runtime.block_on(judge.look_for_overwriting(&client));
        runtime.block_on(judge.consume(&client));
        if is_near_the_end {
            wait_until("the others finish without it", || {
                runtime.block_on(judge.consume(&client));
                judge.stream.len() == BLOCKS as usize
            });
        }
        workers.iter().for_each(|worker| signal(*worker, Signal::SIGCONT));
        std::thread::sleep(Duration::from_millis(dice.random_range(200..900)));
    }
    println!("{freezes} freezes, {in_uploads} of them in the middle of an upload");
    assert!(in_uploads > 0, "no freeze met an upload, of {freezes}");
    let before = judge.stream.clone();
    // Time for the late ones to say what they have to say.
    std::thread::sleep(Duration::from_millis(1_500));
    runtime.block_on(judge.consume(&client));
    runtime.block_on(judge.look_for_overwriting(&client));
    assert_eq!(judge.stream, before, "a late result changed the stream");
    for message in &judge.stream {
        assert_eq!(message["finality"]["kind"], "proof");
    }
    let client_blobs = runtime.block_on(judge.digests_hold(&client));
    println!("{client_blobs} artifacts read back");
}
