//! The operator's side of storage, on a system that works: backups, full disks.

use std::path::{Path, PathBuf};

use push0_runtime::port::{Blobs, Queue as _};
use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Installation, Judge, Options, SmallDisk};
use serde_json::Value;

const SEGMENTS: u32 = 16;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

fn blocks(installation: &Installation, count: u64) -> (Vec<PathBuf>, Vec<String>) {
    (1..=count).map(|number| installation.block(number, SEGMENTS, "")).unzip()
}

fn start(installation: &mut Installation) {
    installation.start();
    let (runtime, client) = (runtime(), installation.client());
    wait_until("push0 is up", || runtime.block_on(client.health()).is_ok());
}

/// The finalized stream as the outbox has it.
fn stream(installation: &Installation) -> Vec<Value> {
    let lines = installation.cli_ok(&["finalized", "demo"]);
    lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}

/// Consumes until all blocks are finalized, and judges them.
fn finish(installation: &Installation, judge: &mut Judge, hashes: &[String]) {
    let (runtime, client) = (runtime(), installation.client());
    wait_until(&format!("all are finalized\n{}", installation.log()), || {
        runtime.block_on(judge.consume(&client));
        judge.stream.len() >= hashes.len()
    });
    runtime.block_on(judge.judge(&client, hashes, SEGMENTS));
}

#[test]
fn a_backup_from_the_middle_of_a_run_is_restored_and_the_run_goes_on() {
    const BLOCKS: u64 = 8;
    let options = Options { params: "duration_ms = 40".to_owned(), ..Options::default() };
    let mut installation = Installation::new(&options);
    let (files, hashes) = blocks(&installation, BLOCKS);
    start(&mut installation);
    installation.submit(&files[..6]);
    let (runtime, client) = (runtime(), installation.client());
    let in_flight = || runtime.block_on(client.stats("work-cpu-standard")).map_or(0, |stats| stats.in_flight);
    wait_until("two are final and more are being proven", || stream(&installation).len() >= 2 && in_flight() > 0);
    let mut judge = Judge::default();
    runtime.block_on(judge.consume(&client));

    let backup = installation.path("backup");
    let backup = backup.to_str().expect("temporary paths are text");
    let made: Value = serde_json::from_str(&installation.cli_ok(&["backup", backup, "--json"])).expect("a document");
    assert!(made["blobs"].as_u64() > Some(0) && made["damaged"] == serde_json::json!([]), "{made}");
    let at_backup = stream(&installation).len();
    assert!(at_backup < 6, "it was over before the backup: give it more to do");
    wait_until("the old system has gone on", || stream(&installation).len() > at_backup);
    // What somebody may have seen of the old system.
    let seen = stream(&installation);
    installation.kill_tree();
    std::fs::remove_dir_all(installation.path("data")).expect("the data directory can be lost");

    installation.cli_ok(&["backup", backup, "--verify"]);
    installation.cli_ok(&["restore", backup]);
    start(&mut installation);
    installation.submit(&files);
    finish(&installation, &mut judge, &hashes);
    let identity = |message: &Value| ["seq", "number", "hash"].map(|field| message[field].clone());
    for (before, after) in seen.iter().zip(&judge.stream) {
        assert_eq!(identity(before), identity(after), "the same number stands for the same block in both lives");
    }
    installation.cli_ok(&["verify", "demo"]);
}

#[test]
fn a_stopped_system_is_backed_up_too_and_a_backup_overwrites_nothing() {
    let mut installation = Installation::new(&Options::default());
    let (files, hashes) = blocks(&installation, 2);
    start(&mut installation);
    installation.submit(&files);
    wait_until("both are final", || stream(&installation).len() == 2);
    installation.kill_tree();
    let backup = installation.path("backup");
    let backup = backup.to_str().expect("temporary paths are text");
    installation.cli_ok(&["backup", backup]);
    for refused in [installation.cli(&["backup", backup]), installation.cli(&["restore", backup])] {
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("P0-208"), "{said}");
    }
    std::fs::remove_dir_all(installation.path("data")).expect("the data directory can be lost");
    installation.cli_ok(&["restore", backup]);
    start(&mut installation);
    finish(&installation, &mut Judge::default(), &hashes);
}

/// A submission is refused with the code of a full disk, and is worth another try.
fn is_refused_for_want_of_room(installation: &Installation, file: &Path) -> bool {
    let output = installation.cli(&["submit", "--no-wait", file.to_str().expect("temporary paths are text")]);
    !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("P0-401")
}

fn says_once(installation: &Installation, what: &str) {
    let log = std::fs::read_to_string(installation.path("up.log")).expect("a log");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("P0-401") && line.contains(what)).collect();
    assert_eq!(lines.len(), 1, "{what}:\n{}", lines.join("\n"));
    let all = log.lines().filter(|line| line.contains("P0-401")).count();
    assert!(all <= 12, "a few lines from each process, not {all}:\n{log}");
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be read").path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[test]
fn a_full_disk_stops_nothing_for_good() {
    let more = "[storage]\nreserve_mib = 0".to_owned();
    let options = Options { params: "duration_ms = 30".to_owned(), more, ..Options::default() };
    let mut installation = Installation::new(&options);
    let Some(disk) = SmallDisk::on(installation.path("data"), 40) else { return };
    let (files, hashes) = blocks(&installation, 6);
    start(&mut installation);
    let pid = installation.up_pid();
    installation.submit(&files[..5]);
    wait_until("one is final", || !stream(&installation).is_empty());
    disk.fill();
    wait_until("the log says so", || installation.log().contains("P0-401"));
    // What was freed since (inputs of tasks) is used up too.
    wait_until("a submission is refused for want of room", || {
        disk.fill();
        is_refused_for_want_of_room(&installation, &files[5])
    });
    assert!(installation.status().is_some(), "it can still be looked at");
    let before = stream(&installation);
    assert!(before.len() < 5, "it was over before the disk was full: give it more to do");

    disk.free();
    installation.submit(&files[5..]);
    let mut judge = Judge::default();
    finish(&installation, &mut judge, &hashes);
    for (before, after) in before.iter().zip(&judge.stream) {
        let kept = ["seq", "number", "epoch", "hash", "finality"].iter().all(|field| before[field] == after[field]);
        assert!(kept, "what was final stayed so: {before} {after}");
    }
    assert_eq!(installation.up_pid(), pid);
    assert!(installation.tree().len() > 1, "it lives");
    installation.cli_ok(&["verify", "demo"]);
    let blobs = runtime().block_on(installation.client().list("", None, usize::MAX)).expect("push0 answers").len();
    let files = files_below(&installation.path("data/blobs"));
    let spooled = std::fs::read_dir(installation.path("data/spool")).expect("it is there").count();
    assert_eq!((files, spooled), (blobs, 0), "no half files are left");
    installation.kill_tree();
}

#[test]
fn a_reached_limit_holds_up_artifacts_and_they_go_on_when_there_is_room() {
    let more = "[storage]\nlimit_mib = 1".to_owned();
    let options = Options { params: "duration_ms = 30".to_owned(), more, ..Options::default() };
    let mut installation = Installation::new(&options);
    let (files, hashes) = blocks(&installation, 6);
    start(&mut installation);
    installation.submit(&files[..5]);
    let (runtime, client) = (runtime(), installation.client());
    wait_until("one is final", || !stream(&installation).is_empty());
    // All the room there is, in halves, down to less than an artifact.
    let mut fillers = Vec::new();
    let mut size: usize = 1 << 19;
    while size >= 64 {
        let (key, bytes) = (format!("filler/{}", fillers.len()), vec![0; size]);
        match runtime.block_on(client.put_new(&key, bytes.into(), "test")) {
            Ok(_) => fillers.push(key),
            Err(error) => {
                assert_eq!(error.code().to_string(), "P0-401", "{error}");
                size /= 2;
            }
        }
    }
    wait_until("the log says so", || installation.log().contains("P0-401"));
    assert!(is_refused_for_want_of_room(&installation, &files[5]));
    let before = stream(&installation).len();
    assert!(before < 5, "it was over before there was no room: give it more to do");
    for key in fillers {
        runtime.block_on(Blobs::delete(&client, &key)).expect("deleting needs no room");
    }
    installation.submit(&files[5..]);
    finish(&installation, &mut Judge::default(), &hashes);
    says_once(&installation, "writing fails");
}

/// Keys of everything stored under `artifacts/` of a block.
fn artifacts(installation: &Installation, number: u64) -> Vec<String> {
    let (runtime, client) = (runtime(), installation.client());
    let keys = ["cpu", "trusted"].map(|pool| {
        let prefix = format!("artifacts/{pool}/demo/{number}/");
        runtime.block_on(Blobs::list(&client, &prefix, None, 1_000)).expect("blobs can be listed")
    });
    keys.concat()
}

#[test]
fn what_finalized_blocks_no_longer_need_goes_and_what_a_failed_one_may_need_stays() {
    let fail = r#"fail = [{ stage = "prove", number = 3, kind = "permanent", message = "no luck", times = 1 }]"#;
    let options = Options { params: format!("duration_ms = 1, {fail}"), attempts: 1, ..Options::default() };
    let mut installation = Installation::new(&options);
    let (files, hashes) = blocks(&installation, 4);
    start(&mut installation);
    installation.submit(&files);
    let is_failed =
        || stream(&installation).len() == 2 && installation.cli_ok(&["why", "demo", "3"]).contains("no luck");
    let (runtime, client) = (runtime(), installation.client());
    let is_quiet = || {
        let stats = ["work-cpu-standard", "work-trusted-standard", "results", "verdicts"]
            .map(|queue| runtime.block_on(client.stats(queue)).expect("queues can be asked"));
        stats.iter().all(|stats| stats.visible + stats.in_flight + stats.delayed == 0)
    };
    // 16 proofs and 15 joins; 16 segments, their page, manifest and header.
    let is_proven = || artifacts(&installation, 4).len() == 31 + 19;
    wait_until("block 3 has failed and 4 is proven", || is_failed() && is_proven() && is_quiet());
    assert_eq!(stream(&installation).len(), 2);
    let before: Vec<_> = (1..=4).map(|number| artifacts(&installation, number)).collect();

    let gc = |more: &[&str]| -> Value {
        let text = installation.cli_ok(&[&["gc", "--json"], more].concat());
        let shown: Value = serde_json::from_str(&text).expect("a document");
        shown["chains"]["demo"].clone()
    };
    assert_eq!(gc(&[])["blobs"], 0, "a day's grace");
    let would = gc(&["--grace-s", "0", "--dry-run"]);
    assert!(would["blocks"] == 2 && would["blobs"].as_u64() > Some(60), "{would}");
    let after: Vec<_> = (1..=4).map(|number| artifacts(&installation, number)).collect();
    assert!(after == before, "a dry run deletes nothing");
    assert_eq!(gc(&["--grace-s", "0"]), would);
    for number in [1, 2] {
        let left = artifacts(&installation, number);
        assert_eq!(left.len(), 2, "the proof and the header: {left:?}");
    }
    assert!([artifacts(&installation, 3), artifacts(&installation, 4)] == before[2..], "what is not final keeps all");
    assert_eq!(gc(&["--grace-s", "0"])["blobs"], 0);
    installation.cli_ok(&["verify", "demo"]);
    installation.cli_ok(&["block", "demo", "1"]);

    installation.cli_ok(&["retry", "demo", "3"]);
    finish(&installation, &mut Judge::default(), &hashes);
    assert_eq!(gc(&["--grace-s", "0"])["blocks"], 2);
    installation.cli_ok(&["verify", "demo"]);
}
