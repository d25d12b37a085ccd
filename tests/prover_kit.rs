//! The prover author's kit, as its user has it: `push0 prover check` on the examples, on provers that break one rule each, on fresh
//! templates; pins; and ten blocks proven with a prover in Python.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use push0_tests::chaos::installation::program;
use serde_json::Value;
use tempfile::TempDir;

/// A directory with the examples, and blocks for them.
struct Kit {
    dir: TempDir,
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python")
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("p0").tempdir().expect("a temporary directory");
        for name in ["exec.py", "exec.toml", "session.py", "session.toml", "blocks.py"] {
            fs::copy(examples().join(name), dir.path().join(name)).expect("the example is there");
        }
        let kit = Self { dir };
        let made = kit.run(Path::new("python3"), &["blocks.py", "--blocks", "1", "--segments", "5"]);
        assert!(made.status.success(), "{}", said(&made));
        kit
    }

    /// With one thing changed in the session prover.
    fn broken(good: &str, bad: &str) -> Self {
        let kit = Self::new();
        let text = kit.read("session.py");
        assert_eq!(text.matches(good).count(), 1, "the example has this once: {good}");
        kit.write("session.py", &text.replace(good, bad));
        kit
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).expect("the file is there")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("the directory is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the directory is writable");
    }

    fn run(&self, program: &Path, args: &[&str]) -> Output {
        Command::new(program).args(args).current_dir(self.dir.path()).output().expect("it starts")
    }

    fn push0(&self, args: &[&str]) -> Output {
        self.run(&program("push0"), args)
    }

    /// Checks the session prover; the report on it.
    fn check(&self, further: &[&str]) -> Value {
        let args = ["--json", "prover", "check", "--pipeline", "session.toml", "--block", "blocks/1.json"];
        let output = self.push0(&[&args, further].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        let report = answer["provers"][0].clone();
        assert_eq!(output.status.code(), Some(i32::from(report["conformant"] != true)), "{}", said(&output));
        report
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The checks of a report with this grade.
fn graded(report: &Value, grade: &str) -> Vec<String> {
    let findings = report["findings"].as_array().expect("a report has findings");
    let wanted = findings.iter().filter(|finding| finding["grade"] == grade);
    wanted.map(|finding| finding["check"].as_str().expect("a check has a name").to_owned()).collect()
}

/// What fails when the session prover has `bad` where it should have `good`.
fn fails(good: &str, bad: &str, further: &[&str]) -> Vec<String> {
    let report = Kit::broken(good, bad).check(further);
    let failed = graded(&report, "fail");
    assert!(!failed.is_empty(), "{report:#}");
    failed
}

const FIRST_WORDS: &str = r#"    say({"type": "hello""#;
const ANSWER: &str = r#"        say({"type": "done", "id": task["id"], "result": result})"#;
const END: &str = "    while (task := tasks.get()) is not None:\n        answer(task, cancelled)\n";

#[test]
fn the_session_example_keeps_to_the_protocol() {
    let report = Kit::new().check(&[]);
    assert_eq!(graded(&report, "pass").len(), 27, "{report:#}");
    assert_eq!(graded(&report, "skip"), Vec::<String>::new());
    assert!(report["peak_mib"].as_u64().is_some_and(|mib| mib > 0));
    assert_eq!(report["stages"].as_array().map(Vec::len), Some(5));
}

#[test]
fn the_exec_example_keeps_to_the_protocol() {
    let kit = Kit::new();
    let output = kit.push0(&["prover", "check", "--pipeline", "exec.toml", "--block", "blocks/1.json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("18 ok, 0 failed, 0 skipped"), "{}", said(&output));
}

#[test]
fn a_bare_command_is_checked_on_the_stages_it_offers() {
    let kit = Kit::new();
    let output = kit.push0(&["prover", "check", "./session.py", "--form", "session", "--block", "blocks/1.json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("single wrap"), "{}", said(&output));
}

#[test]
fn no_hello_fails_hello() {
    let silent = "    0 and say({\"type\": \"hello\"";
    assert_eq!(fails(FIRST_WORDS, silent, &["--ready-within", "1"]), ["hello"]);
    let dead = "    sys.exit(3)\n    say({\"type\": \"hello\"";
    assert_eq!(fails(FIRST_WORDS, dead, &[]), ["hello"]);
    let other_version = Kit::broken("\"protocol\": 1", "\"protocol\": 2").check(&[]);
    assert_eq!(graded(&other_version, "fail"), ["hello"]);
}

#[test]
fn a_stage_that_is_not_offered_fails_stages() {
    let fewer = "stages = [{\"name\": name, \"kind\": kind} for name, kind in KINDS.items() if name != \"join\"]";
    assert_eq!(
        fails("stages = [{\"name\": name, \"kind\": kind} for name, kind in KINDS.items()]", fewer, &[]),
        ["stages"]
    );
}

#[test]
fn a_digest_that_is_none_fails_programs() {
    assert_eq!(fails("\"programs\": {}", "\"programs\": {\"leaf\": \"0x12\"}", &[]), ["programs"]);
}

#[test]
fn rubbish_on_stdout_fails_stdout() {
    let banner = "    print(\"loading keys\", flush=True)\n    say({\"type\": \"hello\"";
    assert_eq!(fails(FIRST_WORDS, banner, &[]), ["stdout"]);
    let talkative = format!("        print(\"done!\", flush=True)\n{ANSWER}");
    assert_eq!(fails(ANSWER, &talkative, &[]), ["stdout"]);
}

#[test]
fn progress_for_another_task_fails_in_turn() {
    let late = format!("{ANSWER}\n        say({{\"type\": \"progress\", \"id\": task[\"id\"], \"fraction\": 1}})");
    assert_eq!(fails(ANSWER, &late, &[]), ["in-turn"]);
}

#[test]
fn a_missing_segment_fails_split() {
    let missing = "    for number, segment in enumerate(segments[:-1]):";
    assert_eq!(fails("    for number, segment in enumerate(segments):", missing, &[]), ["split split"]);
    let too_many = "    for number, segment in enumerate([*segments, b\"more\"]):";
    assert_eq!(fails("    for number, segment in enumerate(segments):", too_many, &[]), ["split split"]);
}

#[test]
fn a_linked_output_fails_plain_files() {
    let good = "    output.write_bytes(sha256(inputs[0]).encode() + b\"\\n\")";
    let linked = "    Path(\"elsewhere\").write_bytes(sha256(inputs[0]).encode() + b\"\\n\")\n    output.symlink_to(Path(\"elsewhere\").resolve())";
    assert_eq!(fails(good, linked, &[]), ["plain-files"]);
}

#[test]
fn done_without_an_output_fails_its_stage() {
    assert_eq!(fails("    output.write_bytes(artifacts(inputs)[0])", "    pass", &[]), ["single wrap"]);
}

#[test]
fn a_verify_that_always_says_ok_fails_what_it_is_asked_to_refuse() {
    let lax = "    root, header = inputs\n    return {\"verdict\": \"ok\"}";
    let failed = fails("    root, header = inputs", lax, &[]);
    assert_eq!(failed, ["wrong-proof", "wrong-block"]);
    let mixed_up = fails("return {\"verdict\": \"bad_block\",", "return {\"verdict\": \"bad_proof\",", &[]);
    assert_eq!(mixed_up, ["wrong-block"]);
}

#[test]
fn a_map_that_ignores_its_input_fails_damaged_input() {
    // Its verify is of the same mind: all digests are that of nothing.
    let kit = Kit::broken(
        "    output.write_bytes(sha256(inputs[0]).encode() + b\"\\n\")",
        "    output.write_bytes(sha256(b\"\").encode() + b\"\\n\")",
    );
    let text = kit.read("session.py");
    kit.write(
        "session.py",
        &text.replace(
            "    if root != digests:",
            "    if root != digests.count(b\"\\n\") * (sha256(b\"\").encode() + b\"\\n\"):",
        ),
    );
    // Its check of accused artifacts is still an honest one, and would say so.
    assert_eq!(graded(&kit.check(&["--skip", "accused"]), "fail"), ["damaged-input prove"]);
}

#[test]
fn a_split_that_repeats_the_hash_it_was_told_fails_damaged_input() {
    let good = "    parent, *segments = inputs[0].splitlines()";
    let bad = "    parent, *segments = inputs[0].splitlines() or [b\"00\" * 32, b\"made up\"]";
    let kit = Kit::broken(good, bad);
    let text = kit.read("session.py");
    kit.write("session.py", &text.replace("\"hash\": sha256(header)", "\"hash\": task[\"block\"][\"hash\"]"));
    assert_eq!(graded(&kit.check(&[]), "fail"), ["damaged-input split"]);
}

#[test]
fn a_check_that_finds_everything_good_fails_accused() {
    let good = "    if artifact != b\"\".join(digest + b\"\\n\" for digest in covered):";
    assert_eq!(fails(good, "    if False:", &[]), ["accused prove", "accused join", "accused wrap"]);
}

#[test]
fn accusing_the_wrong_input_fails_damaged_input() {
    let good = "bad = [position for position, data in enumerate(inputs) if not ARTIFACT.fullmatch(data)]";
    let bad = "bad = [0 for data in inputs if not ARTIFACT.fullmatch(data)]";
    assert_eq!(fails(good, bad, &[]), ["damaged-input join"]);
}

#[test]
fn a_task_with_unknown_fields_must_be_proven() {
    let strict = "        if message[\"type\"] == \"task\":\n            assert set(message) <= {\"type\", \"id\", \"stage\", \"kind\", \"inputs\", \"output\", \"params\", \"block\", \"check\"}";
    let kit = Kit::broken("        if message[\"type\"] == \"task\":", strict);
    let text = kit.read("session.py");
    // The thread that listens takes the process with it.
    kit.write(
        "session.py",
        &text.replace(
            "import hashlib\n",
            "import hashlib, os\nimport threading\nthreading.excepthook = lambda args: os._exit(1)\n",
        ),
    );
    assert_eq!(graded(&kit.check(&[]), "fail"), ["unknown-fields"]);
}

#[test]
fn a_path_with_spaces_must_be_understood() {
    let good = "        inputs = [Path(path).read_bytes() for path in task[\"inputs\"]]";
    let bad = "        inputs = [Path(path.split()[0]).read_bytes() for path in task[\"inputs\"]]";
    assert_eq!(fails(good, bad, &[]), ["spaces"]);
}

#[test]
fn one_process_at_a_time_fails_two_at_once() {
    let good = "    tasks, cancelled = queue.Queue(), set()";
    let bad = "    import fcntl\n    lock = open(\"lock\", \"w\")\n    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    tasks, cancelled = queue.Queue(), set()";
    // A second process is started for the other directory too.
    assert_eq!(fails(good, bad, &["--skip", "spaces"]), ["two-at-once"]);
}

#[test]
fn ignoring_cancel_fails_cancel() {
    // It looks for a cancel, and then does not answer any more.
    let good = "        # A prover that takes long looks here again and again.\n";
    let bad = "        time.sleep(0.6 if task[\"stage\"] == \"prove\" else 0)\n        while task[\"id\"] in cancelled:\n            time.sleep(1)\n";
    let kit = Kit::broken(good, bad);
    let text = kit.read("session.py");
    kit.write("session.py", &text.replace("import threading\n", "import threading\nimport time\n"));
    assert_eq!(
        graded(
            &kit.check(&["--grace-ms", "800", "--skip", "damaged-input", "--skip", "spaces", "--skip", "two-at-once"]),
            "fail"
        ),
        ["cancel"]
    );
}

#[test]
fn ignoring_the_end_of_stdin_fails_end_of_stdin() {
    let deaf = format!("{END}    threading.Event().wait()\n");
    assert_eq!(fails(END, &deaf, &[]), ["end-of-stdin"]);
}

#[test]
fn a_restart_for_each_task_fails_one_session() {
    let once = END.replace("while (task := tasks.get()) is not None:", "if (task := tasks.get()) is not None:");
    let failed = fails(END, &once, &["--skip", "cancel"]);
    assert_eq!(failed, ["one-session"]);
}

#[test]
fn writing_to_an_input_fails_inputs_untouched() {
    let good = "def join(task, inputs, output):\n";
    let bad = "def join(task, inputs, output):\n    Path(task[\"inputs\"][0]).write_bytes(inputs[0] + b\"\")\n    Path(task[\"inputs\"][1]).write_bytes(inputs[1] + inputs[0])\n";
    let failed = Kit::broken(good, bad).check(&[]);
    assert!(graded(&failed, "fail").contains(&"inputs-untouched".to_owned()), "{failed:#}");
}

#[test]
fn a_flood_on_stderr_does_no_harm() {
    let loud = format!("        sys.stderr.write(\"x\" * 300_000 + \"\\n\")\n{ANSWER}");
    let report = Kit::broken(ANSWER, &loud).check(&[]);
    assert_eq!(report["conformant"], true, "{report:#}");
}

#[test]
fn every_fresh_template_keeps_to_the_protocol() {
    let dir = tempfile::Builder::new().prefix("p0").tempdir().expect("a temporary directory");
    let run = |program: &Path, directory: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(directory).output().expect("it starts");
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    };
    for (language, form) in [("python", "session"), ("python", "exec"), ("sh", "exec")] {
        let name = format!("{language}-{form}");
        run(&program("push0"), dir.path(), &["prover", "new", &name, "--language", language, "--form", form]);
        let own = dir.path().join(&name);
        run(Path::new("python3"), &own, &["blocks.py", "--blocks", "1", "--segments", "3"]);
        run(
            &program("push0"),
            &own,
            &["prover", "check", "--pipeline", "pipeline.toml", "--block", "blocks/1.json", "--pin"],
        );
        let pinned = fs::read_to_string(own.join("pipeline.toml")).expect("it is there");
        assert!(pinned.contains("executable = \"") && pinned.contains("# With a / it is relative"), "{pinned}");
    }
    let again = Command::new(program("push0")).args(["prover", "new", "sh-exec"]).current_dir(dir.path()).output();
    assert_eq!(again.expect("it starts").status.code(), Some(2), "nothing is written over");
}

#[test]
fn what_was_pinned_is_demanded_from_then_on() {
    let kit = Kit::new();
    let check = |further: &[&str]| {
        kit.push0(&[&["prover", "check", "--pipeline", "session.toml", "--block", "blocks/1.json"], further].concat())
    };
    assert!(check(&["--pin"]).status.success());
    let pinned = kit.read("session.toml");
    assert!(check(&[]).status.success());
    kit.write("session.py", &format!("{}# another build\n", kit.read("session.py")));
    let other = check(&[]);
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("FAIL  programs"), "{}", said(&other));
    assert_eq!(kit.read("session.toml"), pinned, "only --pin writes");
    assert!(check(&["--pin"]).status.success());
    assert_ne!(kit.read("session.toml"), pinned);

    let before = kit.read("session.toml");
    let text = kit.read("session.py");
    kit.write("session.py", &text.replace("    if root != digests:", "    if False:"));
    let lax = check(&["--pin"]);
    assert_eq!(lax.status.code(), Some(1), "{}", said(&lax));
    assert_eq!(kit.read("session.toml"), before, "what fails is not pinned");
}

/// `push0 up` in a directory, killed with all it started when this goes.
struct Up(std::process::Child);

impl Drop for Up {
    fn drop(&mut self) {
        // Its workers and their provers die with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ten_blocks_are_proven_with_a_prover_in_python() {
    let dir = tempfile::Builder::new().prefix("p0").tempdir().expect("a temporary directory");
    let own = dir.path().join("mine");
    let run = |program: &Path, args: &[&str]| {
        let directory = if own.exists() { &own } else { dir.path() };
        let output = Command::new(program).args(args).current_dir(directory).output().expect("it starts");
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let push0 = program("push0");
    run(&push0, &["prover", "new", "mine"]);
    run(Path::new("python3"), &["blocks.py", "--blocks", "10", "--segments", "4"]);
    let log = fs::File::create(own.join("up.log")).expect("a log");
    let up = Command::new(&push0).arg("up").current_dir(&own).stdout(std::process::Stdio::null()).stderr(log).spawn();
    let _up = Up(up.expect("push0 starts"));
    let is_up =
        || Command::new(&push0).arg("status").current_dir(&own).output().is_ok_and(|output| output.status.success());
    push0_tests::chaos::installation::wait_until("push0 is up", is_up);
    let files: Vec<String> = (1..=10).map(|number| format!("blocks/{number}.json")).collect();
    let submit: Vec<&str> = ["submit"].into_iter().chain(files.iter().map(String::as_str)).collect();
    run(&push0, &submit);
    run(&push0, &["--json", "watch", "--until", "10", "demo"]);
    let stream = run(&push0, &["finalized", "demo"]);
    let numbers: Vec<u64> = stream
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is a document")["number"].as_u64().unwrap_or(0))
        .collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<u64>>());
    let verified = run(&push0, &["verify", "demo"]);
    assert!(verified.contains("10 proofs verified, 0 skipped, 0 bad"), "{verified}");
}
