//! Hostile input for everything that reads what others wrote: the fuzzer's corpus is replayed, and some thousands of mutations of it are
//! tried. What is tried, and what must hold: `hostile/mod.rs`. `PUSH0_HOSTILE_CASES` tries more, `PUSH0_HOSTILE_SEED` others,
//! `PUSH0_HOSTILE_TARGET` one target only.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use push0_tests::hostile::{Target, attempt, targets};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What is in hand is counted for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn tried(target: &Target, input: &[u8]) -> Result<bool, String> {
    attempt(target, input, &ALLOCATOR)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = root().join("fuzz/corpus").join(target.name);
    let files = directory.read_dir().unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    let mut files: Vec<_> = files.map(file).collect();
    files.sort();
    files
}

#[test]
fn the_corpus_is_whole_and_small() {
    let known: BTreeSet<&str> = targets().iter().map(|target| target.name).collect();
    assert_eq!(known.len(), targets().len(), "a name is used twice");
    let directories: BTreeSet<String> = root()
        .join("fuzz/corpus")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(directories.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
    for target in targets() {
        let files = corpus(&target);
        assert!(files.iter().any(|(name, _)| name.starts_with("seed-")), "{} has no seed", target.name);
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 256 * 1024, "{} has {bytes} bytes of corpus", target.name);
    }
}

/// Seeds are what encoders write, and so are taken; what was found once is kept beside them.
#[test]
fn the_corpus_is_replayed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for target in targets() {
        for (name, input) in corpus(&target) {
            // Once to warm up what is made on first use; what creates something is taken that once.
            let first = tried(&target, &input).unwrap_or(false);
            match tried(&target, &input) {
                Err(what) => panic!("fuzz/corpus/{}/{name}: {what}", target.name),
                Ok(again) => {
                    let accepted = first || again;
                    assert!(accepted || !name.starts_with("seed-"), "fuzz/corpus/{}/{name} is refused", target.name);
                }
            }
        }
    }
}

/// A change of an input, wherever it falls.
#[derive(Debug, Clone)]
enum Change {
    /// Ends here.
    Truncate(Index),
    /// Another byte here.
    Flip(Index, u8),
    Remove(Index, usize),
    /// What stands here once more, so many times: doubled fields, lists that grow.
    Repeat(Index, usize, usize),
    Insert(Index, &'static str),
    /// A run of digits becomes another number.
    Number(Index, &'static str),
    /// The value after a colon or an equals sign becomes another.
    Value(Index, &'static str),
    /// So many brackets here.
    Nest(Index, &'static str, usize),
    /// A long text here.
    Long(Index, &'static str, usize),
    /// Bytes that are no UTF-8.
    Invalid(Index),
}

const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1e400",
    "1e-400",
    "0.1",
    "256",
    "65535",
    "65536",
    "100000",
    "100001",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
];

const VALUES: &[&str] = &[
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"..\"",
    "\"/\"",
    "\"\\ud83d\\ude00\"",
    "\"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\"",
    "{\"\":{}}",
    "18446744073709551615",
    "-0.0",
];

const TOKENS: &[&str] = &[
    "\"v\":2,",
    "\"v\":1,",
    "\"v\":18446744073709551615,",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    "\n---\n",
    "%2e%2e",
    "%00",
    "../",
    "a",
    "0x",
    "\u{202e}",
    "\u{0}",
    "é",
    "[[stage]]\n",
    "[policy.default]\n",
    "/version=",
    "Infinity",
    "NaN",
    "e4294967295",
];

fn change() -> impl Strategy<Value = Change> {
    use Change::*;
    let at = any::<Index>;
    prop_oneof![
        2 => at().prop_map(Truncate),
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Flip(at, byte)),
        2 => (at(), 1usize..40).prop_map(|(at, length)| Remove(at, length)),
        2 => (at(), 1usize..200, 1usize..4).prop_map(|(at, length, times)| Repeat(at, length, times)),
        1 => (at(), 1usize..8, 1usize..3000).prop_map(|(at, length, times)| Repeat(at, length, times)),
        3 => (at(), select(TOKENS)).prop_map(|(at, token)| Insert(at, token)),
        4 => (at(), select(NUMBERS)).prop_map(|(at, number)| Number(at, number)),
        3 => (at(), select(VALUES)).prop_map(|(at, value)| Value(at, value)),
        1 => (at(), select(&["[", "{\"a\":", "[{\"a\":", "a.", "("][..]), 1usize..20_000).prop_map(|(at, open, depth)| Nest(at, open, depth)),
        1 => (at(), select(&["x", "\\u0041", "é", "0", " ", "1,"][..]), 1usize..70_000).prop_map(|(at, text, times)| Long(at, text, times)),
        1 => at().prop_map(Invalid),
    ]
}

/// The end of what begins with bytes of this kind.
fn run(bytes: &[u8], from: usize, is_part: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|byte| !is_part(*byte)).map_or(bytes.len(), |length| from + length)
}

fn changed(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    let at = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
    let insert = |bytes: &mut Vec<u8>, at: usize, what: &[u8]| drop(bytes.splice(at..at, what.iter().copied()));
    match change {
        Change::Truncate(index) => bytes.truncate(at(index, &bytes)),
        Change::Flip(index, by) => {
            if !bytes.is_empty() {
                let at = index.index(bytes.len());
                bytes[at] ^= by;
            }
        }
        Change::Remove(index, length) => {
            let from = at(index, &bytes);
            bytes.drain(from..bytes.len().min(from + length));
        }
        Change::Repeat(index, length, times) => {
            let from = at(index, &bytes);
            let part = bytes[from..bytes.len().min(from + length)].repeat(*times);
            insert(&mut bytes, from, &part);
        }
        Change::Insert(index, token) => {
            let from = at(index, &bytes);
            insert(&mut bytes, from, token.as_bytes());
        }
        Change::Number(index, number) => {
            let places: Vec<usize> = (0..bytes.len())
                .filter(|at| bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[at - 1].is_ascii_alphanumeric()))
                .collect();
            if !places.is_empty() {
                let from = *index.get(&places);
                let to = run(&bytes, from, |byte| byte.is_ascii_digit());
                bytes.splice(from..to, number.bytes());
            }
        }
        Change::Value(index, value) => {
            let places: Vec<usize> = (0..bytes.len()).filter(|at| b":=".contains(&bytes[*at])).collect();
            if !places.is_empty() {
                let from = *index.get(&places) + 1;
                let to = run(&bytes, from, |byte| !b",}]\n".contains(&byte));
                bytes.splice(from..to, value.bytes());
            }
        }
        Change::Nest(index, open, depth) => {
            let from = at(index, &bytes);
            insert(&mut bytes, from, open.repeat(*depth).as_bytes());
        }
        Change::Long(index, text, times) => {
            let from = at(index, &bytes);
            insert(&mut bytes, from, text.repeat(*times).as_bytes());
        }
        Change::Invalid(index) => {
            let from = at(index, &bytes);
            insert(&mut bytes, from, &[0xff, 0xc0, 0x80, 0xed, 0xa0, 0x80]);
        }
    }
    bytes
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn mutations_of_the_corpus_break_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let only = std::env::var("PUSH0_HOSTILE_TARGET").ok();
    let mut broken = Vec::new();
    for target in targets().iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name)) {
        let usual = if target.is_slow { 60 } else { 2_000 };
        let cases = setting("PUSH0_HOSTILE_CASES").unwrap_or(usual) as u32;
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&setting("PUSH0_HOSTILE_SEED").unwrap_or_default().to_le_bytes());
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let corpus: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, bytes)| bytes).collect();
        corpus.iter().for_each(|input| drop(tried(target, input)));
        let inputs =
            (select(corpus), vec(change(), 1..6)).prop_map(|(input, changes)| changes.iter().fold(input, changed));
        let outcome = runner.run(&inputs, |input| match tried(target, &input) {
            Ok(_) => Ok(()),
            Err(what) => Err(TestCaseError::fail(what)),
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, input)) => {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", target.name));
                std::fs::write(&kept, &input).unwrap();
                broken.push(format!("{}: {why}; the input ({} bytes) is {}", target.name, input.len(), kept.display()));
            }
            Err(TestError::Abort(why)) => broken.push(format!("{}: {why}", target.name)),
        }
    }
    assert!(broken.is_empty(), "{}\nkeep each as fuzz/corpus/TARGET/found-WHAT", broken.join("\n"));
}

/// Where sources decode what others wrote: by file, with the targets that try it, or the reason why none does. A file that begins to, and
/// one that has ceased to, fails the test below.
const DECODERS: &[(&str, &[&str], &str)] = &[
    ("cli/src/bootstrap/queues.rs", &[], "what AWS answers of the operator's own queues"),
    ("cli/src/bootstrap/timer.rs", &[], "what AWS answers of the operator's own rule"),
    ("cli/src/demo/make.rs", &[], "the output of a program that push0 ships and starts itself"),
    ("cli/src/dlq.rs", &["message_chain", "message_report", "message_task", "message_range", "message_timer"], ""),
    ("cli/src/notice.rs", &[], "a row that push0 up writes about itself"),
    ("cli/src/submit.rs", &[], "a file of the caller's own: tests/bad_input.rs"),
    ("cli/src/tail.rs", &["record_outbox"], ""),
    ("cli/src/verify.rs", &["record_block"], ""),
    ("cli/src/welcome.rs", &[], "answers of the push0 that is connected to"),
    ("core/src/record/codec.rs", &["record_chain"], "every record and message goes through it"),
    ("core/src/record/run.rs", &["rows"], ""),
    ("core/src/message/upload.rs", &["s3_event", "upload_key"], ""),
    ("core/src/pipeline/parse.rs", &["pipeline"], ""),
    ("core/src/topology.rs", &["topology"], ""),
    ("functions/src/collector.rs", &["function_collector"], ""),
    ("functions/src/dispatcher.rs", &["function_dispatcher"], ""),
    ("functions/src/dispatcher/batches.rs", &[], "a module of tests"),
    ("functions/src/reaper.rs", &["function_dispatcher", "function_collector"], "it takes a turn after each message"),
    ("functions/src/sweeper.rs", &["record_chain", "record_block"], ""),
    ("gpu-worker/src/prover/exec.rs", &["prover_result"], ""),
    (
        "gpu-worker/src/prover/process.rs",
        &[],
        "a prover's log, line by line, each cut at 8 KiB: gpu-worker/tests/bad_provers.rs",
    ),
    ("gpu-worker/src/prover/session.rs", &["prover_session"], ""),
    ("gpu-worker/src/task.rs", &["message_task", "record_manifest"], ""),
    ("gpu-worker/src/task/fetch.rs", &["record_batch_manifest"], ""),
    ("provers/echo/src/content.rs", &["prover_echo"], ""),
    ("provers/echo/src/lib.rs", &["prover_echo"], ""),
    ("provers/echo/src/params.rs", &[], "parameters of the pipeline's author, which are meant to hang and to crash it"),
    ("provers/rollup/src/block.rs", &["rollup_header", "rollup_witness"], ""),
    ("provers/rollup/src/main.rs", &[], "files of the caller's own"),
    ("provers/rollup/src/proof.rs", &["rollup_proof"], ""),
    ("provers/rollup/src/prover/range.rs", &["rollup_files"], ""),
    ("provers/rollup/src/range.rs", &["rollup_range", "rollup_range_segment"], ""),
    ("provers/rollup/src/segment.rs", &["rollup_segment"], ""),
    ("provers/rollup/src/tool/csv_blocks.rs", &["rollup_csv"], ""),
    ("provers/rollup/src/tool/ethereum.rs", &["rollup_ethereum"], ""),
    ("provers/rollup/src/tool/inspect.rs", &["rollup_header", "rollup_witness"], ""),
    ("provers/sdk/src/exec.rs", &["prover_exec", "prover_tasks"], ""),
    ("provers/sdk/src/session.rs", &["prover_tasks"], ""),
    ("provers/zkvm/src/artifact.rs", &["zkvm_artifact"], ""),
    ("provers/zkvm/src/guest.rs", &["zkvm_journal"], ""),
    (
        "runtime/src/aws/dynamodb/value.rs",
        &[],
        "what the table holds is written by push0 alone; its own property tests",
    ),
    ("runtime/src/aws/record.rs", &[], "requests that push0 itself has made"),
    ("runtime/src/drive/block/fail.rs", &["function_collector"], ""),
    ("runtime/src/drive/block/hedge.rs", &["function_collector", "rows"], ""),
    ("runtime/src/drive/block/timer.rs", &["function_collector", "rows"], ""),
    ("runtime/src/drive/store.rs", &["function_collector", "record_manifest", "record_manifest_page"], ""),
    ("runtime/src/engine/backup.rs", &["engine_backup"], ""),
    ("runtime/src/engine/table.rs", &["engine_restart"], ""),
    ("runtime/src/http/client.rs", &[], "answers of the push0 that is connected to"),
    ("runtime/src/http/server.rs", &["http_request"], ""),
    ("runtime/src/http/worker_call.rs", &["http_request", "message_report"], ""),
    ("runtime/src/port/imds.rs", &[], "answers of EC2's metadata service: runtime/src/conformance/imds.rs"),
    ("runtime/src/settings/layers.rs", &["settings"], ""),
    ("runtime/src/snapshot.rs", &["engine_restart"], ""),
];

/// What decoding looks like in a source.
const MARKS: &[&str] = &[
    "serde_json::from_",
    "::from_json(",
    "::from_value(",
    "::from_value_ref(",
    "Deserializer::from_",
    "parse::<Table>",
    ": Table =",
    "Reader::new(bytes",
    "ReaderBuilder",
    "read_until(",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["tests", "target"].contains(&name) {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn everything_that_decodes_has_a_target_or_a_reason() {
    let mut files = Vec::new();
    for part in [
        "core",
        "runtime",
        "functions",
        "gpu-worker",
        "cli",
        "provers/sdk",
        "provers/echo",
        "provers/rollup",
        "provers/zkvm",
    ] {
        sources(&root().join(part).join("src"), &mut files);
    }
    let decodes = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        MARKS.iter().any(|mark| own.contains(mark))
    };
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let found: BTreeSet<String> = files.iter().filter(|path| decodes(path)).map(name).collect();
    let listed: BTreeSet<String> = DECODERS.iter().map(|(file, ..)| (*file).to_owned()).collect();
    let lost: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        lost.is_empty() && gone.is_empty(),
        "decode, and are not listed: {lost:#?}\nlisted, and decode nothing: {gone:#?}"
    );
    let known: BTreeSet<&str> = targets().iter().map(|target| target.name).collect();
    for (file, tried, reason) in DECODERS {
        assert!(tried.iter().all(|target| known.contains(target)), "{file}: {tried:?}");
        assert!(!tried.is_empty() || !reason.is_empty(), "{file} has neither a target nor a reason");
    }
}

#[test]
fn every_record_and_message_type_has_a_target() {
    let mut files = Vec::new();
    sources(&root().join("core/src"), &mut files);
    let mut declared = BTreeSet::new();
    for file in files.iter().filter(|file| !file.ends_with("codec.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        for block in text.split("versioned! {").skip(1) {
            let names = block.split('}').next().unwrap().split('"').skip(1).step_by(2);
            declared.extend(names.map(str::to_owned));
        }
        let by_hand = text.split("const NAME: &'static str = \"").skip(1);
        declared.extend(by_hand.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    let read: BTreeSet<String> =
        targets().iter().flat_map(|target| target.reads).map(|name| (*name).to_owned()).collect();
    assert!(declared.len() >= 13, "{declared:?}");
    assert_eq!(read, declared);
}
