//! The operator's kit on a real installation: `replay`, `dlq`, `doctor`.

use push0_runtime::port::{Outgoing, Queue as _};
use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Installation, Options};
use serde_json::Value;

/// A system in which proving block 2 fails for good.
fn with_a_failed_block() -> Installation {
    with_a_block_that_failed("permanent")
}

fn with_a_block_that_failed(kind: &str) -> Installation {
    let fail = format!(r#"fail = [{{ stage = "prove", number = 2, kind = "{kind}", message = "out of luck" }}]"#);
    let mut installation =
        Installation::new(&Options { params: format!("duration_ms = 1, {fail}"), attempts: 2, ..Options::default() });
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let files: Vec<_> = (1..=2).map(|number| installation.block(number, 3, "").0).collect();
    installation.submit(&files);
    wait_until("block 2 has failed", || block(&installation, 2)["block"]["status"]["status"] == "failed");
    installation
}

fn block(installation: &Installation, number: u64) -> Value {
    let output = installation.cli(&["block", "demo", &number.to_string(), "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// What a command says with `--json`, and its exit code.
fn json(installation: &Installation, args: &[&str]) -> (Value, i32, String) {
    let output = installation.cli(&[&["--json"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.code().unwrap_or(-1), said)
}

#[test]
fn a_failed_task_fails_in_the_same_way_here_and_a_good_one_makes_the_same() {
    let installation = with_a_failed_block();
    let why = installation.cli_ok(&["why", "demo", "2"]);
    let line = why.lines().find(|line| line.contains("push0 replay demo/2/e1/"));
    let task = line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_else(|| panic!("no task in:\n{why}"));
    assert!(installation.cli_ok(&["block", "demo", "2"]).contains(task), "`block` names the task, too");

    let (failed, code, said) = json(&installation, &["replay", task]);
    assert_eq!((code, &failed["outcome"]), (1, &"failed".into()), "{said}");
    assert_eq!(failed["failure"]["kind"], "permanent");
    assert!(failed["failure"]["message"].as_str().unwrap().contains("out of luck"), "{failed}");
    assert!(failed["failed_then"].as_str().unwrap().contains("out of luck"), "{failed}");
    assert!(said.contains("as pinned") && said.contains("\"next\""), "{said}");

    // The split of the failed block, and every kind of task of the good one.
    let counts = |installation: &Installation| -> Vec<(String, u64)> {
        let queues = installation.status().unwrap()["queues"].as_object().cloned().unwrap();
        let count =
            |stats: &Value| ["visible", "in_flight", "delayed"].iter().filter_map(|name| stats[name].as_u64()).sum();
        queues.iter().map(|(name, stats)| (name.clone(), count(stats))).collect()
    };
    // What else there is of the failed block may still be run meanwhile.
    let runs = |installation: &Installation| -> Vec<String> {
        let is_replayed = |task: &String| task.starts_with("demo/1/") || task.contains("/0.0.0/");
        installation.invocations().into_iter().filter(is_replayed).collect()
    };
    let before = (runs(&installation), counts(&installation));
    for (number, node) in
        [("2", "0.0.0"), ("1", "0.0.0"), ("1", "1.0.2"), ("1", "2.0.0"), ("1", "2.1.0"), ("1", "3.0.0")]
    {
        let (done, code, said) = json(&installation, &["replay", "demo", number, node]);
        assert_eq!((code, &done["outcome"]), (0, &"done".into()), "{number} {node}: {said}");
        assert_eq!(done["equals_accepted"], true, "{number} {node}: {done}");
    }
    let after = (runs(&installation), counts(&installation));
    assert_eq!(before.0, after.0, "no worker ran anything of it");
    // What waited for the failed block may be dropped meanwhile; nothing is added.
    let is_no_more = before.1.iter().zip(&after.1).all(|(before, after)| before.0 == after.0 && after.1 <= before.1);
    assert!(is_no_more, "nothing of it came to push0: {before:?} became {after:?}");

    let (kept, dir) = (installation.directory.path().join("kept"), "kept");
    let (done, _, _) = json(&installation, &["replay", "demo", "1", "1.0.0", "--dir", dir]);
    let file = done["made"]["file"].as_str().unwrap();
    assert!(file.starts_with(kept.canonicalize().unwrap().to_str().unwrap()) && std::path::Path::new(file).exists());
    assert!(kept.join("in/0").exists() && kept.join("task.json").exists());
    assert_eq!(json(&installation, &["replay", "demo", "1", "1.0.0", "--dir", dir]).1, 2, "it is not empty any more");
}

#[test]
fn a_task_that_ran_out_of_memory_runs_out_of_it_here_too() {
    let installation = with_a_block_that_failed("out_of_memory");
    let why = installation.cli_ok(&["why", "demo", "2"]);
    let line = why.lines().find(|line| line.contains("push0 replay demo/2/e1/"));
    let task = line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_else(|| panic!("no task in:\n{why}"));
    let (failed, code, said) = json(&installation, &["replay", task]);
    assert_eq!((code, &failed["outcome"]), (1, &"failed".into()), "{said}");
    let kind = failed["failure"]["kind"].as_str().unwrap_or_default();
    assert!(kind.contains("memory") && failed["failed_then"].as_str().unwrap().contains("out of memory"), "{failed}");
}

#[test]
fn a_task_that_is_not_there_is_refused_with_a_way_on_and_an_ended_epoch_can_be_replayed() {
    let installation = with_a_failed_block();
    let id = |text: &str| {
        text.replace(
            "TAG",
            block(&installation, 2)["run"]["tasks"][0]["id"].as_str().unwrap().split('/').nth(3).unwrap(),
        )
    };
    for (task, code) in [
        ("demo/9/e1/TAG/0.0.0/a1c0", 4),
        ("demo/2/e7/TAG/0.0.0/a1c0", 4),
        ("demo/2/e1/TAG/1.0.9/a1c0", 4),
        ("demo/2/e1/TAG/1.0.0/a9c0", 4),
        ("demo/2/e1/TAG/1.0.0/a0c0", 4),
        ("demo/2/e1/0123456789abcdef/1.0.0/a1c0", 4),
        ("demo/2/e1/TAG/2.0.0/a1c0", 1),
        ("demo/2/../../etc", 2),
        ("", 2),
    ] {
        let (_, found, said) = json(&installation, &["replay", &id(task)]);
        assert_eq!(found, code, "{task}: {said}");
        assert!(said.contains("\"next\""), "{task}: {said}");
    }
    let task = id("demo/2/e1/TAG/1.0.0/a1c0");
    installation.cli_ok(&["retry", "demo", "2"]);
    let (failed, code, said) = json(&installation, &["replay", &task]);
    assert_eq!((code, &failed["outcome"]), (1, &"failed".into()), "{said}");
    let (done, code, said) = json(&installation, &["replay", &task, "--prover-command", "no-such-prover", "--flag"]);
    assert_eq!((code, &done["failure"]["code"]), (1, &"P0-101".into()), "{said}");
}

/// Puts a message into a queue, as push0 itself or somebody who is let in does.
fn send(installation: &Installation, queue: &str, body: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let message = Outgoing { body, group: Some("demo".to_owned()), ..Outgoing::default() };
    runtime.block_on(installation.client().send(queue, vec![message])).expect("push0 takes messages");
}

fn dead_letters(installation: &Installation) -> Vec<Value> {
    json(installation, &["dlq", "list"]).0.as_array().cloned().unwrap_or_default()
}

#[test]
fn a_poison_message_is_listed_shown_sent_back_and_handled_and_nonsense_is_dropped() {
    let mut installation = Installation::new(&Options { params: "duration_ms = 1".to_owned(), ..Options::default() });
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let is_final = |number| block(&installation, number)["block"]["status"]["status"] == "final";
    installation.submit(&[installation.block(1, 1, "").0]);
    wait_until("block 1 is final", || is_final(1));
    assert_eq!(installation.cli_ok(&["dlq", "list"]), "there are no dead letters\n");

    // A report that came before its run: nobody can handle it then.
    let pipeline = block(&installation, 1)["block"]["pipeline"].as_str().unwrap().to_owned();
    let task = format!("demo/2/e1/{}/0.0.0/a1c0", &pipeline[..16]);
    let report = serde_json::json!({ "v": 1, "task": task, "worker": "w", "at": 0, "event": { "event": "started" } });
    send(&installation, "verdicts", report.to_string());
    send(&installation, "results", "rubbish".to_owned());
    wait_until("both are put aside", || dead_letters(&installation).len() == 2);
    assert!(installation.cli_ok(&["status"]).contains("2 dead letters: push0 dlq list"));
    let letters = dead_letters(&installation);
    let early = letters.iter().find(|letter| letter["about"] == task.as_str()).expect("the report is listed");
    let rubbish = letters.iter().find(|letter| letter["body"] == "rubbish").expect("the rubbish is listed");
    assert_eq!((&early["queue"], &early["origin"]), (&"poison".into(), &"verdicts".into()));
    assert!(early["reason"].as_str().unwrap().contains("no run demo/2/e1"), "{early}");
    let (id, no_id) = (early["id"].as_str().unwrap(), rubbish["id"].as_str().unwrap());
    let shown = installation.cli_ok(&["dlq", "show", id]);
    assert!(shown.contains(&task) && shown.contains("\"started\"") && shown.contains("no run demo/2/e1"), "{shown}");

    installation.submit(&[installation.block(2, 1, "").0]);
    wait_until("block 2 is final", || is_final(2));
    installation.cli_ok(&["dlq", "redrive", id]);
    assert_eq!(json(&installation, &["dlq", "redrive", id]).1, 4, "it is not there a second time");
    wait_until("it is handled", || {
        let queues = installation.status().unwrap()["queues"]["verdicts"].clone();
        ["visible", "in_flight", "delayed"].iter().all(|count| queues[count] == 0)
    });
    let left = dead_letters(&installation);
    assert_eq!(left.len(), 1, "it did not come back: {left:#?}");

    let (refused, code, _) = json(&installation, &["dlq", "redrive", "--all"]);
    assert_eq!((code, &refused[0]["outcome"]), (1, &"refused".into()));
    assert_eq!(json(&installation, &["dlq", "drop", no_id]).1, 2, "a reason is needed");
    installation.cli_ok(&["dlq", "drop", no_id, "--reason", "a test's"]);
    assert_eq!(dead_letters(&installation), Vec::<Value>::new());
    assert!(installation.log().contains("a test's"), "the log keeps the reason");
    for args in [&["dlq", "show", "999999"][..], &["dlq", "drop", "../x", "--reason", "r"]] {
        assert_eq!(json(&installation, args).1, 4, "{args:?}");
    }
}

#[test]
fn what_dead_workers_had_in_hand_is_nobodys_after_a_restart() {
    let mut installation = Installation::new(&Options {
        params: "duration_ms = 600000".to_owned(),
        lease_ms: 600_000,
        ..Options::default()
    });
    let hands = |installation: &Installation| -> Vec<Value> {
        let status = installation.status().unwrap_or_default();
        let workers = status["workers"].as_object().cloned().unwrap_or_default();
        workers.values().flat_map(|tasks| tasks.as_array().cloned().unwrap_or_default()).collect()
    };
    let here = |installation: &Installation| -> usize {
        let status = installation.status().unwrap_or_default();
        status["here"].as_array().map_or(0, |here| here.iter().filter(|worker| worker["here"] == true).count())
    };
    installation.start();
    wait_until("push0 and its workers are up", || here(&installation) == 3);
    assert_eq!(installation.status().unwrap()["lonely"], serde_json::json!([]));
    installation.submit(&[installation.block(1, 2, "").0]);
    wait_until("both workers have a task", || hands(&installation).len() == 2);
    assert!(hands(&installation).iter().all(|task| task["gone"] == false));

    installation.kill_tree();
    installation.start();
    wait_until("push0 and its workers are up again", || here(&installation) == 3);
    let after = hands(&installation);
    assert!(after.len() == 2 && after.iter().all(|task| task["gone"] == true), "{after:#?}");
    assert!(installation.cli_ok(&["why", "demo", "1"]).contains("which is gone"));
}

/// What `doctor` finds wrong, as (what, code), and its exit code.
fn doctor(installation: &Installation, args: &[&str]) -> (Vec<(String, String)>, i32) {
    let (found, code, said) = json(installation, &[&["doctor"], args].concat());
    let findings = found["findings"].as_array().unwrap_or_else(|| panic!("{said}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wrong = findings.iter().filter(|finding| finding["state"] == "problem").inspect(|finding| {
        assert!(!text(&finding["next"]).is_empty(), "{finding} has no next step");
    });
    (wrong.map(|finding| (text(&finding["what"]), text(&finding["code"]))).collect(), code)
}

fn a_file_below(dir: &std::path::Path) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find_map(|path| if path.is_dir() { a_file_below(&path) } else { Some(path) })
}

#[test]
fn doctor_is_content_with_a_healthy_installation_and_names_what_is_wrong_with_others() {
    let mut installation = Installation::new(&Options::default());
    assert_eq!(doctor(&installation, &[]), (vec![], 0), "before the first start");
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&[installation.block(1, 2, "").0]);
    wait_until("block 1 is final", || block(&installation, 1)["block"]["status"]["status"] == "final");
    let socket = format!("unix:{}", installation.directory.path().join("data/push0.sock").display());
    for args in [&["--deep"][..], &["--connect", &socket]] {
        assert_eq!(doctor(&installation, args), (vec![], 0), "{args:?}");
    }
    let text = installation.cli_ok(&["doctor", "--deep"]);
    for wanted in ["ready for split, prove, join, verify", "3 here: local-", "blobs are what was stored", "0 problems"]
    {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }

    // A byte of a stored blob, changed behind push0's back.
    let file = a_file_below(&installation.directory.path().join("data/blobs/witnesses")).expect("a blob's file");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(doctor(&installation, &["--deep"]), (vec![("blobs".to_owned(), "P0-402".to_owned())], 1));

    installation.kill_tree();
    assert_eq!(doctor(&installation, &[]), (vec![], 0), "stopped, with its socket left behind");
    let database = installation.directory.path().join("data/engine.db");
    std::fs::remove_file(database.with_extension("db-wal")).unwrap();
    std::fs::write(&database, [7; 8192]).unwrap();
    assert_eq!(doctor(&installation, &[]), (vec![("database".to_owned(), "P0-403".to_owned())], 1));
    std::fs::remove_dir_all(installation.directory.path().join("data")).unwrap();

    let wrong = |what: &str, code: &str| (vec![(what.to_owned(), code.to_owned())], 1);
    let at = |name: &str| installation.directory.path().join(name);
    let (pipeline, config) =
        (std::fs::read_to_string(at("echo.toml")).unwrap(), std::fs::read_to_string(at("push0.toml")).unwrap());
    let prover = |program: &str| {
        let line = pipeline.lines().find(|line| line.starts_with("command")).unwrap();
        std::fs::write(at("echo.toml"), pipeline.replace(line, &format!("command = [{program:?}]"))).unwrap();
    };
    prover("no-such-prover");
    assert_eq!(doctor(&installation, &[]), wrong("prover echo of echo", "P0-101"));
    prover("/bin/false");
    assert_eq!(doctor(&installation, &[]), wrong("prover echo of echo", "P0-102"));
    let pinned = format!("{pipeline}\n[prover.echo.programs]\necho = \"{}\"\n", "ab".repeat(32));
    std::fs::write(at("echo.toml"), pinned).unwrap();
    assert_eq!(doctor(&installation, &[]), wrong("prover echo of echo", "P0-106"));
    std::fs::write(at("echo.toml"), &pipeline).unwrap();

    // Not even root can make a directory below a file.
    std::fs::write(at("push0.toml"), config.replace("\"data\"", "\"echo.toml/data\"")).unwrap();
    assert_eq!(doctor(&installation, &[]), wrong("data directory", "P0-205"));
    let deep = format!("\"{}\"", "d".repeat(120));
    std::fs::write(at("push0.toml"), config.replace("\"data\"", &deep)).unwrap();
    assert_eq!(doctor(&installation, &[]), wrong("socket", "P0-206"));
    std::fs::write(at("push0.toml"), format!("colour = 1\n{config}")).unwrap();
    assert_eq!(doctor(&installation, &[]), wrong("configuration", "P0-201"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!(
        "listen = \"{}\"\n[[token]]\nrole = \"operator\"\nvalue = \"0123456789abcdef\"\n",
        taken.local_addr().unwrap()
    );
    let (first, rest) = config.split_at(config.find("[[chain]]").unwrap());
    std::fs::write(at("push0.toml"), format!("{first}{listen}{rest}")).unwrap();
    assert_eq!(doctor(&installation, &[]), wrong("listen", "P0-207"));
    std::fs::write(at("push0.toml"), &config).unwrap();

    let program = push0_tests::chaos::installation::program("push0");
    let mut few = std::process::Command::new("sh");
    few.args(["-c", "ulimit -n 80; exec \"$0\" doctor --json", program.to_str().unwrap()]);
    let few = few.current_dir(installation.directory.path()).output().unwrap();
    let found: Value = serde_json::from_slice(&few.stdout).unwrap();
    assert_eq!(few.status.code(), Some(1));
    let is_it = |finding: &Value| finding["what"] == "open files" && finding["state"] == "problem";
    assert!(found["findings"].as_array().unwrap().iter().any(is_it), "{found:#}");
    assert_eq!(doctor(&installation, &["--connect", "http://127.0.0.1:1"]), wrong("running push0", "P0-301"));
}

#[test]
fn a_proof_whose_pipeline_is_gone_is_checked_by_its_runs_record_or_said_to_be_unchecked() {
    let mut installation = Installation::new(&Options { params: "duration_ms = 1".to_owned(), ..Options::default() });
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&[installation.block(1, 2, "").0]);
    wait_until("block 1 is final", || block(&installation, 1)["block"]["status"]["status"] == "final");
    let path = installation.directory.path().join("echo.toml");
    let pipeline = std::fs::read_to_string(&path).unwrap();

    // Another pipeline, with a prover of the same name.
    installation.kill_tree();
    std::fs::write(&path, pipeline.replace("duration_ms = 1", "duration_ms = 2")).unwrap();
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let (found, code, said) = json(&installation, &["verify", "demo"]);
    assert_eq!((code, &found["verified"]), (0, &1.into()), "{said}");

    // None of that name any more.
    installation.kill_tree();
    std::fs::write(&path, pipeline.replace("[prover.echo]", "[prover.other]")).unwrap();
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    let (found, code, said) = json(&installation, &["verify", "demo"]);
    assert_eq!((code, &found["bad"], &found["unchecked"]), (6, &0.into(), &1.into()), "{found} {said}");
    assert!(said.contains("P0-016"), "{said}");
    assert!(String::from_utf8_lossy(&installation.cli(&["verify", "demo"]).stdout).contains("not checked"));
}
