//! Lying and damaged parts, one by one: each is found and named; what can be made again is made again by somebody else, without an
//! operator; where the block itself is bad, its chain stops there and others go on.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::Command;

use push0_core::Node;
use push0_core::record::{NodeView, RowKey};
use push0_runtime::port::{Blobs as _, Key, Table};
use push0_tests::chaos::Installation;
use push0_tests::chaos::installation::{program, signal, wait_until};
use push0_tests::pipelines::four_stages;
use push0_tests::sim::liar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A pipeline of echo whose joins run in a pool of their own, so that a test can hold them back.
fn echo(prover: &str, check: bool) -> String {
    let rest = format!(
        r#"
[prover.echo]
form = "session"
command = [{prover}]
[policy.default]
attempts = 6
backoff_ms = 20
check = {check}
[policy.join]
pool = "joins"
"#
    );
    four_stages("echo", &rest)
}

fn honest_echo(check: bool) -> String {
    echo(&format!("{:?}", program("push0-echo")), check)
}

fn lying_echo(rule: &str, check: bool) -> String {
    echo(&format!("{:?}, {rule:?}, \"--\", {:?}", program("push0-liar"), program("push0-echo")), check)
}

const CONFIG: &str = r#"
data = "data"
[[chain]]
id = "demo"
pipeline = "pipeline.toml"
[workers]
pools = []
lease_ms = 1000
[functions]
reaper_ms = 500
"#;

/// The same with another pipeline: for a worker that lies.
fn lying_config() -> String {
    CONFIG.replace("pipeline.toml", "lying.toml")
}

/// `push0 up` without workers but for the trusted one, and block 1 of so many segments submitted and split.
fn split(files: &[(&str, &str)], segments: u32) -> Installation {
    let mut installation = Installation::of(files);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let (file, _) = installation.block(1, segments, "");
    installation.submit(&[file]);
    wait_until("the block is split", || done(&installation, "split") == 1);
    installation
}

fn block(installation: &Installation) -> Value {
    let output = installation.cli(&["block", "demo", "1", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Tasks of a stage that are done.
fn done(installation: &Installation, stage: &str) -> u64 {
    let block = block(installation);
    let stages = block["run"]["stages"].as_array().cloned().unwrap_or_default();
    stages.iter().find(|found| found["name"] == stage).and_then(|found| found["done"].as_u64()).unwrap_or(0)
}

fn is_final(installation: &Installation) -> bool {
    !installation.cli_ok(&["finalized", "demo"]).is_empty()
}

fn final_epoch(installation: &Installation) -> u64 {
    wait_until("block 1 is final", || is_final(installation));
    let line = installation.cli_ok(&["finalized", "demo"]);
    let message: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(message["finality"]["kind"], "proof", "{message}");
    message["epoch"].as_u64().unwrap()
}

/// Key of the blob of a kind that run `epoch` of block 1 has.
fn key(installation: &Installation, part: &str) -> String {
    let keys = wait(installation.client().list("artifacts/", None, 1000)).unwrap();
    keys.iter().find(|key| key.contains(part)).unwrap_or_else(|| panic!("nothing like {part} in {keys:?}")).clone()
}

/// A node's row in the first run of block 1.
fn node(installation: &Installation, node: Node) -> NodeView {
    let at = RowKey::node(&"demo/1/e1".parse().unwrap(), node);
    let (client, at) = (installation.client(), Key::new(at.partition, at.sort));
    let row = wait(Table::get(&client, &at));
    NodeView::read(&row.unwrap().unwrap().attributes)
}

/// Who made what a join has in a slot, and at which attempt.
fn made_by(installation: &Installation, reader: Node, slot: u32) -> (String, u32) {
    let artifact = node(installation, reader).slots[&slot].clone();
    (artifact.worker.to_string(), artifact.attempt.0)
}

const JOIN: u16 = 2;

#[test]
fn a_damaged_segment_is_noticed_and_another_run_splits_anew() {
    let mut installation = split(&[("push0.toml", CONFIG), ("pipeline.toml", &honest_echo(true))], 2);
    installation.damage(&key(&installation, "segments/000001"));
    installation.start_worker("one", "cpu", "push0.toml");
    installation.start_worker("two", "cpu", "push0.toml");
    installation.start_worker("joiner", "joins", "push0.toml");
    assert_eq!(final_epoch(&installation), 2, "the first run was given up, the second made the segment again");
    let said = installation.cli_ok(&["why", "demo", "1"]);
    assert!(said.contains("P0-008"), "{said}");
}

#[test]
fn a_damaged_manifest_page_is_noticed_and_another_run_splits_anew() {
    // The page is read when the leaves are sent, and for every further attempt at one: damaged before the second attempt.
    let fails = "params = { fail = [{ kind = \"retryable\", times = 1 }] }";
    let pipeline = honest_echo(false).replacen("kind = \"map\"", &format!("kind = \"map\"\n{fails}"), 1);
    let mut installation = split(&[("push0.toml", CONFIG), ("pipeline.toml", &pipeline)], 2);
    wait_until("the leaves were sent", || key(&installation, "pages/").contains("e1"));
    wait_until("the leaves wait", || {
        let status = installation.status().unwrap_or_default();
        status["queues"]["work-cpu-standard"]["visible"] == 2
    });
    installation.damage(&key(&installation, "pages/000"));
    installation.start_worker("one", "cpu", "push0.toml");
    installation.start_worker("joiner", "joins", "push0.toml");
    assert_eq!(final_epoch(&installation), 2);
}

#[test]
fn a_damaged_artifact_is_made_again_in_the_same_run() {
    for check in [true, false] {
        let mut installation = split(&[("push0.toml", CONFIG), ("pipeline.toml", &honest_echo(check))], 2);
        installation.start_worker("leaves", "cpu", "push0.toml");
        wait_until("the leaves are proven", || done(&installation, "prove") == 2);
        installation.damage(&key(&installation, "/1.0.1/a1c0"));
        installation.start_worker("joiner", "joins", "push0.toml");
        assert_eq!(final_epoch(&installation), 1);
        let join = Node::new(JOIN, 0, 0);
        assert_eq!(made_by(&installation, join, 0), ("leaves".to_owned(), 1), "the good one stands");
        assert_eq!(made_by(&installation, join, 1).1, 2, "the damaged one was made again");
        let note = node(&installation, join).wanted.failures.remove(0);
        assert!(note.message.contains("is not the one pinned"), "{note:?}");
    }
}

#[test]
fn a_damaged_root_is_made_again_and_a_damaged_final_proof_is_named() {
    let mut installation = split(&[("push0.toml", CONFIG), ("pipeline.toml", &honest_echo(true))], 2);
    let trusted = installation.workers_of("trusted");
    trusted.iter().for_each(|pid| signal(*pid, nix::sys::signal::Signal::SIGSTOP));
    installation.start_worker("leaves", "cpu", "push0.toml");
    installation.start_worker("joiner", "joins", "push0.toml");
    wait_until("the root is there", || done(&installation, "join") == 1);
    installation.damage(&key(&installation, "/2.0.0/a1c0"));
    trusted.iter().for_each(|pid| signal(*pid, nix::sys::signal::Signal::SIGCONT));
    assert_eq!(final_epoch(&installation), 1);
    assert_eq!(made_by(&installation, Node::new(3, 0, 0), 0).1, 2, "the root was made again");
    installation.cli_ok(&["verify", "demo", "1"]);

    installation.damage(&key(&installation, "/2.0.0/a2c0"));
    let output = installation.cli(&["verify", "demo", "1"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("SHA-256"), "{said}");
}

#[test]
fn a_damaged_witness_fails_its_block_and_replacing_it_with_itself_mends_it() {
    let pipeline = honest_echo(true).replace("attempts = 6", "attempts = 2");
    let mut installation = Installation::of(&[("push0.toml", CONFIG), ("pipeline.toml", &pipeline)]);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let trusted = installation.workers_of("trusted");
    trusted.iter().for_each(|pid| signal(*pid, nix::sys::signal::Signal::SIGSTOP));
    let (file, _) = installation.block(1, 1, "");
    installation.submit(std::slice::from_ref(&file));
    let keys = wait(installation.client().list("witnesses/", None, 10)).unwrap();
    installation.damage(&keys[0]);
    trusted.iter().for_each(|pid| signal(*pid, nix::sys::signal::Signal::SIGCONT));
    wait_until("the block has failed", || installation.cli_ok(&["why", "demo", "1"]).contains("it failed"));
    let said = installation.cli_ok(&["why", "demo", "1"]);
    assert!(said.contains("P0-007"), "{said}");
    installation.cli_ok(&["replace", file.to_str().unwrap()]);
    installation.start_worker("one", "cpu", "push0.toml");
    assert_eq!(final_epoch(&installation), 2);
}

/// The liar works alone first, until its lies are accepted; then an honest worker comes, and those who read what the liar made.
#[test]
fn a_segment_proof_of_another_segment_is_traced_to_the_liar_and_made_by_another_worker() {
    for check in [true, false] {
        let files = [
            ("push0.toml", CONFIG),
            ("pipeline.toml", &honest_echo(check)),
            ("lying.toml", &lying_echo("stale:prove", check)),
            ("lying-push0.toml", &lying_config()),
        ];
        let mut installation = split(&files, 2);
        installation.start_worker("liar", "cpu", "lying-push0.toml");
        wait_until("the liar has proven both", || done(&installation, "prove") == 2);
        installation.start_worker("honest", "cpu", "push0.toml");
        installation.start_worker("joiner", "joins", "push0.toml");
        assert_eq!(final_epoch(&installation), 1);
        let join = Node::new(JOIN, 0, 0);
        let makers = [made_by(&installation, join, 0), made_by(&installation, join, 1)];
        assert!(makers.contains(&("honest".to_owned(), 2)), "the lie was told again by nobody: {makers:?}");
        if check {
            assert_eq!(
                makers.iter().filter(|(worker, _)| worker == "liar").count(),
                1,
                "what was true stands: {makers:?}"
            );
        }
    }
}

#[test]
fn an_accuser_that_lies_costs_nothing_but_its_own_attempt() {
    let files = [
        ("push0.toml", CONFIG),
        ("pipeline.toml", &honest_echo(true)),
        ("lying.toml", &lying_echo("accuse:join", true)),
        ("lying-push0.toml", &lying_config()),
    ];
    let mut installation = split(&files, 2);
    installation.start_worker("leaves", "cpu", "push0.toml");
    wait_until("the leaves are proven", || done(&installation, "prove") == 2);
    installation.start_worker("accuser", "joins", "lying-push0.toml");
    let join = Node::new(JOIN, 0, 0);
    wait_until("it has accused", || !node(&installation, join).wanted.failures.is_empty());
    installation.start_worker("joiner", "joins", "push0.toml");
    assert_eq!(final_epoch(&installation), 1);
    for slot in [0, 1] {
        assert_eq!(made_by(&installation, join, slot), ("leaves".to_owned(), 1), "nothing was made again");
    }
    assert_eq!(made_by(&installation, Node::new(3, 0, 0), 0).0, "joiner");
}

fn rollup_pipeline(prover: &str) -> String {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rollup.toml")).unwrap();
    let changed = example.replace("[\"push0-rollup\", \"prover\"]", &format!("[{prover}]"));
    assert_ne!(example, changed, "the example names its prover");
    changed
}

fn make_blocks(installation: &Installation, chain: &str, blocks: u32, transfers: u32) {
    let out = installation.path("blocks");
    let mut make = Command::new(program("push0-rollup"));
    make.args(["random", "--seed", "3", "--chain", chain, "--blocks", &blocks.to_string()]);
    make.args(["--transfers", &transfers.to_string(), "--out"]).arg(&out);
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// With real proofs: the liar's artifact verifies, has the digest it was reported with, and is of other transfers. Only the one liar
/// and one honest worker are there.
#[test]
fn a_real_proof_of_other_transfers_is_traced_to_the_liar_and_made_by_another_worker() {
    let (rollup, liar) = (program("push0-rollup"), program("push0-liar"));
    let honest = format!("{rollup:?}, \"prover\"");
    let files = [
        ("push0.toml", CONFIG),
        ("pipeline.toml", &rollup_pipeline(&honest)),
        ("lying.toml", &rollup_pipeline(&format!("{liar:?}, \"stale:prove\", \"--\", {honest}"))),
        ("lying-push0.toml", &lying_config()),
    ];
    let mut installation = Installation::of(&files);
    make_blocks(&installation, "demo", 1, 16);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&[installation.path("blocks/1.json")]);
    installation.start_worker("liar", "cpu", "lying-push0.toml");
    wait_until("the liar has proven both segments", || done(&installation, "prove") == 2);
    installation.start_worker("honest", "cpu", "push0.toml");
    assert_eq!(final_epoch(&installation), 1, "found and mended within the run");
    installation.cli_ok(&["verify", "demo"]);
    let leaves = [0, 1].map(|index| made_by(&installation, Node::new(2, 0, index), 0));
    assert!(leaves.contains(&("honest".to_owned(), 2)), "{leaves:?}");
}

/// Rewrites a witness and its submission; `change` gets the witness's bytes and where its header lies.
fn forge(installation: &Installation, number: u64, change: impl FnOnce(&mut [u8], std::ops::Range<usize>)) {
    let (witness, submission) =
        (installation.path(&format!("blocks/{number}.witness")), installation.path(&format!("blocks/{number}.json")));
    let mut bytes = fs::read(&witness).unwrap();
    // Magic, then the header's length and bytes.
    let length = usize::from(u16::from_be_bytes([bytes[8], bytes[9]]));
    let header = 10..10 + length;
    change(&mut bytes, header.clone());
    let mut told: Value = serde_json::from_slice(&fs::read(&submission).unwrap()).unwrap();
    told["hash"] = json!(hex(&Sha256::digest(&bytes[header])));
    fs::write(&witness, bytes).unwrap();
    fs::write(&submission, told.to_string()).unwrap();
}

/// A block that is bad itself: its chain stops there with the reason, other chains go on.
#[test]
fn a_header_that_lies_about_its_root_and_an_invalid_transfer_stop_their_chains_alone() {
    let config = format!(
        "{CONFIG}\n[[chain]]\nid = \"other\"\npipeline = \"pipeline.toml\"\n[[chain]]\nid = \"third\"\npipeline = \"echo.toml\"\n"
    );
    let rollup = rollup_pipeline(&format!("{:?}, \"prover\"", program("push0-rollup")));
    let mut echo = honest_echo(true);
    echo = echo.replace("prover.echo", "prover.other-echo");
    let mut installation =
        Installation::of(&[("push0.toml", &config), ("pipeline.toml", &rollup), ("echo.toml", &echo)]);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());

    make_blocks(&installation, "demo", 1, 4);
    // The header's last fields: state after (32), commitment (32), count (4).
    forge(&installation, 1, |bytes, header| bytes[header.end - 68] ^= 1);
    installation.submit(&[installation.path("blocks/1.json")]);
    make_blocks(&installation, "other", 1, 4);
    // Behind the header: the number of payments (4), then from (4), to (4), amount (8).
    forge(&installation, 1, |bytes, header| bytes[header.end + 12..header.end + 20].fill(0x3f));
    installation.submit(&[installation.path("blocks/1.json")]);
    let (file, _) = installation.block(1, 1, "");
    let told = fs::read_to_string(&file).unwrap().replace("\"demo\"", "\"third\"");
    fs::write(&file, told).unwrap();
    installation.submit(&[file]);
    installation.start_worker("one", "cpu", "push0.toml");

    for (chain, why) in [("demo", "state root after"), ("other", "transfer")] {
        let said = || installation.cli_ok(&["why", chain, "1"]);
        wait_until("the block has failed", || said().contains("failed"));
        let said = said();
        assert!(said.contains(why) && said.contains("push0 replace") && said.contains("P0-"), "{chain}: {said}");
        assert_eq!(installation.cli_ok(&["finalized", chain]), "");
    }
    wait_until("the third chain goes on", || !installation.cli_ok(&["finalized", "third"]).is_empty());
}

/// Every field of every report and every call of the protocol, one lie a run: nothing false is finalized (the auditor judges the proof by
/// its own reading of the artifacts), and the block becomes final while honest workers remain, without anybody's help.
#[test]
fn a_worker_that_lies_in_one_field_or_call_costs_work_and_nothing_else() {
    let lies = liar::lies();
    assert!(lies.len() > 200, "{} lies", lies.len());
    let (one, other) = lies.split_at(lies.len() / 2);
    let tell = |lies: &[liar::Lie]| -> Vec<String> {
        let told = |lie: &liar::Lie| {
            // The liar does not get a task of each kind in every run.
            for seed in 0..5 {
                match liar::run(seed, lie) {
                    Ok(0) => {}
                    Ok(_) => return None,
                    Err(what) => return Some(format!("seed {seed}: {what}")),
                }
            }
            Some(format!("{lie}: it was never told"))
        };
        lies.iter().filter_map(told).collect()
    };
    let broken = std::thread::scope(|scope| {
        let first = scope.spawn(|| tell(one));
        let mut broken = tell(other);
        broken.extend(first.join().unwrap());
        broken
    });
    assert!(broken.is_empty(), "{} of {} lies:\n{}", broken.len(), lies.len(), broken.join("\n"));
}
