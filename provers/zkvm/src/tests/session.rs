//! A whole block over a session, line by line, as the worker speaks with the prover.

use std::io::{BufRead as _, BufReader, Write as _};
use std::thread;

use push0_prover::serve_on;
use serde_json::{Value, json};

use super::block;
use super::native::Native;
use crate::{SEGMENT_PO2_PARAM, Stages};

#[test]
fn a_session_offers_the_stages_and_proves_a_block() {
    let witness = block(9);
    let (header, dir) = (&witness.header, tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("witness"), witness.to_bytes()).unwrap();

    let ((from_worker, mut to_prover), (from_prover, to_worker)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let prover = thread::spawn(move || serve_on(Stages(Native::default()), BufReader::new(from_worker), to_worker));
    let mut lines = BufReader::new(from_prover).lines();
    let mut next = move || serde_json::from_str::<Value>(&lines.next().expect("the session goes on").unwrap()).unwrap();

    let hello = next();
    let offered: Vec<_> = hello["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| (stage["name"].as_str(), stage["kind"].as_str()))
        .collect();
    let kinds = [("split", "split"), ("prove", "map"), ("lift", "map"), ("join", "join"), ("verify", "verify")];
    assert_eq!(offered, kinds.map(|(name, kind)| (Some(name), Some(kind))), "{hello}");
    assert_eq!(hello["programs"], json!({ "guest": "0".repeat(64) }));

    let mut run = |stage: &str, kind: &str, inputs: &[String], output: &str| {
        let task = json!({
            "type": "task", "id": output, "stage": stage, "kind": kind, "inputs": inputs, "output": path(output),
            "params": { SEGMENT_PO2_PARAM: 9 },
            "block": { "chain": header.chain, "number": header.number, "hash": hex::encode(header.hash()) },
        });
        writeln!(to_prover, "{task}").unwrap();
        loop {
            let answer = next();
            if answer["type"] != "progress" {
                assert_eq!(answer["id"], output, "{answer}");
                return answer;
            }
        }
    };
    let split = run("split", "split", &[path("witness")], "split");
    let count = split["result"]["segments"].as_u64().unwrap_or_else(|| panic!("{split}"));
    assert!(count >= 3, "{split}");
    let mut root = String::new();
    for n in 0..count {
        let (segment, leaf, lift) = (format!("split/segments/{n:06}"), format!("leaf{n}"), format!("lift{n}"));
        assert_eq!(run("prove", "map", &[path(&segment)], &leaf)["type"], "done");
        assert_eq!(run("lift", "map", &[path(&leaf)], &lift)["type"], "done");
        root = match n {
            0 => lift,
            _ => {
                let joined = format!("join{n}");
                assert_eq!(run("join", "join", &[path(&root), path(&lift)], &joined)["type"], "done");
                joined
            }
        };
    }
    let verdict = run("verify", "verify", &[path(&root), path("split/header")], "verdict");
    assert_eq!((&verdict["type"], &verdict["result"]["verdict"]), (&json!("done"), &json!("ok")), "{verdict}");
    // A task that fails does not end the session.
    let failed = run("join", "join", &[path("lift1"), path("lift0")], "backwards");
    assert_eq!(
        (&failed["type"], &failed["kind"], &failed["children"]),
        (&json!("failed"), &json!("bad_input"), &json!([0, 1]))
    );
    assert_eq!(
        run("verify", "verify", &[path("lift0"), path("split/header")], "verdict")["result"]["verdict"],
        "bad_proof"
    );
    drop(to_prover);
    assert!(prover.join().unwrap().is_ok(), "the end of its input is the end of the session");
}
