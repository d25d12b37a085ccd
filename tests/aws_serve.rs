//! The functions in resident processes (`push0 serve`) on an emulator's queues, table and buckets, killed with their workers while they work.
//!
//! `PUSH0_KILLS=200 scripts/with-emulators cargo test -p push0-tests --features aws --test aws_serve` kills for longer.

use std::time::Duration;

use push0_runtime::port::Queue as _;
use push0_tests::chaos::cloud::ONE_CHAIN;
use push0_tests::chaos::installation::{echo_pipeline, wait_until};
use push0_tests::chaos::{Cloud, Judge};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const SEGMENTS: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_functions_and_workers_lose_and_double_nothing() {
    let kills: usize = std::env::var("PUSH0_KILLS").map_or(20, |kills| kills.parse().expect("a number of kills"));
    let blocks = 80.max(kills as u64 * 4);
    let mut dice = ChaCha8Rng::seed_from_u64(kills as u64);
    let mut cloud = Cloud::new(&[("push0.toml", ONE_CHAIN), ("echo.toml", &echo_pipeline("duration_ms = 100", 20))]);
    cloud.cli_ok(&["bootstrap", "--visibility-s", "1"]);
    for name in ["serve-1", "serve-2"] {
        cloud.start(name, &["serve", "--aws", "--lease-ms", "1000"]);
    }
    cloud.start_worker("trusted", "trusted-1");
    for name in ["cpu-1", "cpu-2"] {
        cloud.start_worker("cpu", name);
    }

    // Half of them only uploaded, half announced, in any order.
    let mut numbers: Vec<u64> = (1..=blocks).collect();
    for position in (1..numbers.len()).rev() {
        numbers.swap(position, dice.random_range(0..=position));
    }
    let mut announced = vec!["submit".to_owned(), "--no-wait".to_owned()];
    for number in &numbers {
        let (file, witness, hash) = cloud.echo_block(*number, SEGMENTS);
        if number % 2 == 0 {
            cloud.upload("demo", *number, &hash, &witness).await;
        } else {
            announced.push(file.to_str().expect("temporary paths are text").to_owned());
        }
    }
    let announced: Vec<&str> = announced.iter().map(String::as_str).collect();
    cloud.cli_ok(&announced);

    let (queue, blobs) = (cloud.queue().await, cloud.blobs().await);
    let mut judge = Judge::default();
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..1_500))).await;
        let position = dice.random_range(0..cloud.processes());
        tokio::task::block_in_place(|| cloud.kill_and_start_again(position));
        judge.consume(&queue).await;
        assert!(judge.stream.len() < blocks as usize, "it was over after {kill} kills: give it more to do");
    }
    let mut turns = 0;
    while judge.stream.len() < blocks as usize {
        judge.consume(&queue).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        turns += 1;
        assert!(turns < 3_000, "{} of {blocks} finalized", judge.stream.len());
    }
    judge.look_for_overwriting(&blobs).await;
    let hashes: Vec<String> = (1..=blocks).map(|number| cloud.echo_block(number, SEGMENTS).2).collect();
    judge.judge(&blobs, &hashes, SEGMENTS).await;
    println!("{kills} kills, {blocks} blocks, {} deliveries", judge.deliveries);

    // Nothing goes on: no block was started twice, no task is left.
    wait_until("the work queues are empty", || {
        tokio::task::block_in_place(|| {
            let stats = tokio::runtime::Handle::current().block_on(queue.stats("work-cpu-standard"));
            stats.is_ok_and(|stats| stats.visible + stats.in_flight + stats.delayed == 0)
        })
    });
}
