//! Bad input at the command line, on a running system: each gets a clear error with a code and a next step, nothing is lost, and push0
//! goes on. (Bad provers: `gpu-worker/tests/bad_provers.rs`; bad clients: `runtime/tests`; mistakes in the configuration one by one:
//! `runtime/src/settings`.)
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use push0_tests::chaos::installation::{program, wait_until};
use push0_tests::chaos::{Installation, Options};
use serde_json::{Value, json};

fn up() -> Installation {
    let mut installation = Installation::new(&Options { workers: 1, ..Options::default() });
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation
}

/// Runs a command that must fail with this exit code and say all of this, its code and its next step included.
fn refused(installation: &Installation, args: &[&str], exit: i32, says: &[&str]) {
    let output = installation.cli(args);
    let said = String::from_utf8_lossy(&output.stderr);
    let command = args.join(" ");
    assert_eq!(output.status.code(), Some(exit), "{command}: {said}");
    for wanted in says {
        assert!(said.contains(wanted), "{command} does not say {wanted:?}: {said}");
    }
    assert!(said.contains("next:"), "{command} names no next step: {said}");
    assert!(!said.contains("panicked"), "{command}: {said}");
}

fn write(installation: &Installation, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = installation.path(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Whatever came before, the next block goes through.
fn goes_on(installation: &Installation) {
    let (file, _) = installation.block(1, 2, "");
    installation.submit(&[file]);
    wait_until("block 1 is final", || !installation.cli_ok(&["finalized", "demo"]).is_empty());
    let status = installation.status().unwrap();
    assert_eq!(status["queues"]["poison"]["visible"], 0, "{status}");
}

fn submission(fields: Value) -> String {
    let mut whole = json!({ "chain": "demo", "number": 1, "hash": "ab".repeat(32), "witness": "w" });
    whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    whole.to_string()
}

#[test]
fn output_that_nobody_reads_is_no_failure_and_output_that_cannot_be_written_is() {
    let explain = |stdout: Stdio| {
        let mut command = Command::new(program("push0"));
        let child = command.args(["explain", "P0-001"]).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(explain(writer.into()), (Some(0), String::new()));
    let (code, said) = explain(fs::File::create("/dev/full").unwrap().into());
    assert!(code == Some(1) && said.contains("cannot write to stdout") && said.contains("next:"), "{code:?} {said}");
}

#[test]
fn submissions_that_are_none_are_refused_before_anything_is_sent() {
    let installation = up();
    fs::write(installation.path("w"), "witness").unwrap();
    let cases = [
        ("not json at all", "it is no submission"),
        ("{\"chain\": \"demo\"", "it is no submission"),
        ("", "it is no submission"),
        ("[1,2]", "it is no submission"),
        (&submission(json!({ "chain": "../../etc" })), "a chain id"),
        (&submission(json!({ "chain": "Demo" })), "a chain id"),
        (&submission(json!({ "chain": "x".repeat(33) })), "a chain id"),
        (&submission(json!({ "number": -1 })), "it is no submission"),
        (&submission(json!({ "number": "1" })), "it is no submission"),
        (&submission(json!({ "hash": "12" })), "a block hash"),
        (&submission(json!({ "parent_hash": "zz".repeat(32) })), "a block hash"),
        (&submission(json!({ "colour": "red" })), "colour"),
    ];
    for (content, says) in cases {
        let file = write(&installation, "bad.json", content);
        refused(&installation, &["submit", &file], 2, &["P0-202", says]);
    }
    let unknown = write(&installation, "unknown.json", submission(json!({ "chain": "nobody" })));
    refused(&installation, &["submit", &unknown], 4, &["P0-022", "nobody", "demo"]);
    let far = write(&installation, "far.json", submission(json!({ "number": 10_000_000 })));
    refused(&installation, &["submit", &far], 1, &["P0-017"]);
    let first = write(&installation, "zero.json", submission(json!({ "number": 0 })));
    refused(&installation, &["submit", &first], 2, &["P0-017"]);
    refused(&installation, &["submit", "/no/such/file.json"], 2, &["P0-202", "/no/such/file.json"]);
    // The last of several is wrong: nothing of the first was sent.
    let (good, _) = installation.block(1, 1, "");
    let bad = write(&installation, "bad.json", "{");
    refused(&installation, &["submit", good.to_str().unwrap(), &bad], 2, &["P0-202"]);
    refused(&installation, &["why", "demo", "7", "--connect", "ftp://x"], 2, &["connect"]);
    let absent = installation.cli(&["block", "demo", "1"]);
    assert_eq!(absent.status.code(), Some(4), "nothing was submitted");
    goes_on(&installation);
}

#[test]
fn witnesses_that_cannot_be_are_refused_and_a_truncated_one_fails_its_block_alone() {
    let installation = up();
    let file = write(&installation, "s.json", submission(json!({ "witness": "empty" })));
    refused(&installation, &["submit", &file], 2, &["cannot read the witness"]);
    fs::write(installation.path("empty"), "").unwrap();
    refused(&installation, &["submit", &file], 2, &["P0-203", "is empty"]);
    let huge = fs::File::create(installation.path("empty")).unwrap();
    huge.set_len((1 << 30) + 1).unwrap();
    refused(&installation, &["submit", &file], 2, &["P0-203", "1073741825 bytes", "1073741824"]);
    let directory = write(&installation, "d.json", submission(json!({ "witness": "blocks" })));
    refused(&installation, &["submit", &directory], 2, &["P0-203", "not a file"]);
    goes_on(&installation);
}

#[test]
fn a_truncated_witness_fails_its_block_and_the_whole_one_replaces_it() {
    let rollup = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rollup.toml")).unwrap();
    let rollup = rollup.replace("\"push0-rollup\"", &format!("{:?}", program("push0-rollup")));
    let config = "data = \"data\"\n[[chain]]\nid = \"demo\"\npipeline = \"rollup.toml\"\n[workers]\ncount = 1\n";
    let mut installation = Installation::of(&[("push0.toml", config), ("rollup.toml", &rollup)]);
    let made = Command::new(program("push0-rollup"))
        .args(["random", "--blocks", "1", "--transfers", "2", "--out"])
        .arg(installation.path("blocks"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let witness = installation.path("blocks/1.witness");
    let whole = fs::read(&witness).unwrap();
    let file = installation.path("blocks/1.json");
    for cut in [whole.len() - 1, whole.len() / 2, 20] {
        fs::write(&witness, &whole[..cut]).unwrap();
        let command = if cut == whole.len() - 1 { "submit" } else { "replace" };
        installation.cli_ok(&[command, file.to_str().unwrap()]);
        wait_until("the block has failed", || installation.cli_ok(&["why", "demo", "1"]).contains("it failed"));
        let said = installation.cli_ok(&["why", "demo", "1"]);
        assert!(said.contains("P0-002") && said.contains("witness") && said.contains("push0 replace"), "{said}");
    }
    fs::write(&witness, &whole).unwrap();
    installation.cli_ok(&["replace", file.to_str().unwrap()]);
    wait_until("the whole one is final", || !installation.cli_ok(&["finalized", "demo"]).is_empty());
    installation.cli_ok(&["verify", "demo"]);
}

#[test]
fn a_number_twice_with_different_hashes_keeps_the_first_and_names_the_second() {
    let installation = up();
    let (first, _) = installation.block(2, 1, "");
    installation.submit(std::slice::from_ref(&first));
    let told: Value = serde_json::from_slice(&fs::read(&first).unwrap()).unwrap();
    let mut other = told.clone();
    other["hash"] = json!("cd".repeat(32));
    let second = write(&installation, "blocks/other.json", other.to_string());
    refused(&installation, &["submit", &second], 1, &["P0-014", "contender", "push0 replace"]);
    // The same again is no quarrel.
    installation.submit(std::slice::from_ref(&first));
    let said = installation.cli_ok(&["why", "demo", "2"]);
    assert!(said.contains("1 other block") && said.contains(&"cd".repeat(32)), "{said}");
    let block: Value = serde_json::from_str(&installation.cli_ok(&["block", "demo", "2", "--json"])).unwrap();
    assert_eq!(block["block"]["hash"], told["hash"], "arrival chooses no fork");
    goes_on(&installation);
}

#[test]
fn names_with_path_tricks_reach_nothing() {
    let installation = up();
    let secret = installation.path("secret");
    fs::write(&secret, "not a blob").unwrap();
    for key in ["../../secret", "/etc/passwd", "witnesses/../../secret", "a//b", "witnesses/%2e%2e/secret", "a\\b", ""]
    {
        let output = installation.cli(&["get", key, "-o", "out"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("next:"), "{key}: {said}");
        assert!(!installation.path("out").exists(), "{key}");
    }
    for chain in ["../demo", "demo/1", "", "DEMO", "demo\u{0}"] {
        if chain.contains('\0') {
            continue;
        }
        let output = installation.cli(&["why", chain, "1"]);
        assert_eq!(output.status.code(), Some(2), "{chain}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Over an existing file nothing is written.
    let (file, _) = installation.block(1, 1, "");
    installation.submit(&[file]);
    wait_until("block 1 is final", || !installation.cli_ok(&["finalized", "demo"]).is_empty());
    let proof = format!("proofs/demo/{:020}", 1);
    refused(&installation, &["get", &proof, "-o", secret.to_str().unwrap()], 2, &["P0-208"]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "not a blob");
}

/// `push0 up` in a directory of its own, which must refuse to start.
fn does_not_start(directory: &Path, says: &[&str]) {
    let output = Command::new(program("push0")).arg("up").current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for wanted in says.iter().chain(&["next:"]) {
        assert!(said.contains(wanted), "no {wanted:?} in: {said}");
    }
}

#[test]
fn a_configuration_with_every_mistake_names_them_all_at_once_and_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { directory.path().join(name) };
    let config = "colour = 1\ndurability = \"maybe\"\nlisten = \"0.0.0.0:1\"\n[workers]\ncount = -1\n\
                  [[chain]]\nid = \"../x\"\npipeline = \"missing.toml\"\n[[chain]]\nid = \"two\"\npipeline = \"p.toml\"\nwindow = 0\n\
                  [[token]]\nrole = \"king\"\nvalue = \"short\"\n";
    fs::write(at("push0.toml"), config).unwrap();
    let pipeline =
        "name = \"p\"\n[[stage]]\nname = \"a\"\nkind = \"map\"\n[prover.x]\nform = \"magic\"\ncommand = []\n";
    fs::write(at("p.toml"), pipeline).unwrap();
    let wanted = [
        "P0-201",
        "unknown key `colour`",
        "maybe",
        "workers.count",
        "../x",
        "missing.toml: cannot read the pipeline",
        "window",
        "operator, trusted or worker",
        "p.toml",
        "exactly one `split`",
        "`session` or `exec`",
    ];
    does_not_start(directory.path(), &wanted);
    assert!(!at("data").exists(), "nothing was made");
    fs::write(at("push0.toml"), "[[chain]]\nid = \"two\npipeline = 7").unwrap();
    does_not_start(directory.path(), &["P0-201", "line"]);
}

/// A prover that asks for more memory than it may have: its block fails with a reason that says so, others go on.
#[test]
fn a_prover_that_eats_memory_is_stopped_by_its_limit() {
    let hungry = "import sys\nargs = sys.argv\nhog = bytearray(1 << 30) if args[args.index('--stage') + 1] == 'prove' else b''\n";
    let pipeline = format!(
        "name = \"echo\"\n[[stage]]\nname = \"split\"\nkind = \"split\"\nprover = \"echo\"\n\
         [[stage]]\nname = \"prove\"\nkind = \"map\"\nprover = \"hungry\"\n\
         [[stage]]\nname = \"verify\"\nkind = \"verify\"\nprover = \"echo\"\n\
         [prover.echo]\nform = \"session\"\ncommand = [{:?}]\n\
         [prover.hungry]\nform = \"exec\"\ncommand = [\"python3\", \"hungry.py\"]\nmemory_limit_mib = 256\n\
         [policy.default]\nattempts = 2\nbackoff_ms = 10\n",
        program("push0-echo")
    );
    let config = "data = \"data\"\n[[chain]]\nid = \"demo\"\npipeline = \"hungry.toml\"\n[workers]\ncount = 1\n";
    let files = [("push0.toml", config), ("hungry.toml", &pipeline), ("hungry.py", hungry)];
    let mut installation = Installation::of(&files);
    let script = installation.path("hungry.py");
    fs::write(installation.path("hungry.toml"), pipeline.replace("\"hungry.py\"", &format!("{script:?}"))).unwrap();
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let (file, _) = installation.block(1, 1, "");
    installation.submit(&[file]);
    wait_until("the block has failed", || installation.cli_ok(&["why", "demo", "1"]).contains("it failed"));
    let said = installation.cli_ok(&["why", "demo", "1"]);
    assert!(said.contains("MemoryError") && said.contains("push0 retry"), "{said}");
    assert!(installation.status().is_some(), "push0 lives");
}
