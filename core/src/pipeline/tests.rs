//! Which stages make a pipeline, what it is known by, and what of a policy is written.

use super::*;

/// Stages `s0`, `s1`… of these kinds.
fn pipeline(kinds: &[Kind]) -> Pipeline {
    let stage = |(at, kind): (usize, &Kind)| Stage {
        name: format!("s{at}").parse().unwrap(),
        kind: *kind,
        prover: "echo".parse().unwrap(),
        arity: None,
        params: Value::Null,
    };
    Pipeline {
        name: "p".parse().unwrap(),
        stages: kinds.iter().enumerate().map(stage).collect(),
        programs: BTreeMap::new(),
    }
}

#[test]
fn split_is_the_one_first_stage_and_verify_the_one_last() {
    use Kind::{Join, Map, Single, Split, Verify};
    let (split, verify) = ("exactly one `split` stage, the first", "exactly one `verify` stage, the last");
    let (map, join, order) = ("at least one `map`", "one `join`", "out of order");
    let cases: [(&[Kind], &[&str]); 12] = [
        (&[Split, Map, Verify], &[]),
        (&[Split, Map, Map, Join, Single, Single, Verify], &[]),
        (&[Map, Split, Verify], &[split, order]),
        (&[Split, Split, Map, Verify], &[split]),
        (&[Map, Verify], &[split]),
        (&[Split, Map, Verify, Single], &[verify, order]),
        (&[Split, Map, Verify, Verify], &[verify]),
        (&[Split, Map], &[verify]),
        (&[Split, Join, Verify], &[map]),
        (&[Split, Map, Join, Join, Verify], &[join]),
        (&[Split, Map, Single, Join, Verify], &[order]),
        (&[], &[split, verify, map]),
    ];
    for (kinds, wanted) in cases {
        let found = pipeline(kinds).mistakes();
        assert_eq!(found.len(), wanted.len(), "{kinds:?}: {found:#?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted), "{kinds:?}: {wanted:?} is not in {found:?}");
        }
    }
}

#[test]
fn a_pipeline_fills_its_row_and_no_more() {
    let mut kinds = vec![Kind::Map; 10];
    (kinds[0], kinds[9]) = (Kind::Split, Kind::Verify);
    let mut full = pipeline(&kinds);
    for stage in &mut full.stages[1..9] {
        stage.params = Value::String("y".repeat(16_000));
    }
    full.stages[0].params = Value::String(String::new());
    let room = MAX_PIPELINE - serde_json::to_vec(&full).unwrap().len();
    let mistakes = |bytes: usize| {
        let mut pipeline = full.clone();
        pipeline.stages[0].params = Value::String("y".repeat(bytes));
        pipeline.mistakes()
    };
    assert_eq!(mistakes(room), [""; 0]);
    assert_eq!(mistakes(room + 1), ["the pipeline has 131073 bytes as JSON; at most 131072 are possible"]);
}

#[test]
fn a_stage_is_found_by_its_name() {
    let pipeline = pipeline(&[Kind::Split, Kind::Map, Kind::Verify]);
    for (at, name) in ["s0", "s1", "s2"].into_iter().enumerate() {
        assert_eq!(pipeline.stage_named(name), Some((at as u16, &pipeline.stages[at])));
    }
    for name in ["s", "s3", "S1", ""] {
        assert_eq!(pipeline.stage_named(name), None, "{name}");
    }
    assert_eq!(pipeline.verify_position(), 2);
}

/// Blocks in flight are told apart by it: another text for the same pipeline would be another pipeline.
#[test]
fn the_digest_is_of_the_canonical_text() {
    let mut pipeline = pipeline(&[Kind::Split, Kind::Join]);
    pipeline.stages[0].params = serde_json::json!({ "z": [1, "x\"", { "c": true, "b": null }, []], "a": 0.5, "m": {} });
    pipeline.stages[1].arity = Some(Arity { first: 4, rest: 3 });
    let programs = [("root", [2; 32]), ("leaf", [1; 32])].map(|(name, bytes)| (name.to_owned(), Sha256(bytes)));
    pipeline.programs = [("echo".parse().unwrap(), programs.into()), ("b".parse().unwrap(), BTreeMap::new())].into();
    let stages = concat!(
        r#"[{"kind":"split","name":"s0","params":{"a":0.5,"m":{},"z":[1,"x\"",{"b":null,"c":true},[]]},"prover":"echo"},"#,
        r#"{"arity":{"first":4,"rest":3},"kind":"join","name":"s1","params":null,"prover":"echo"}]"#,
    );
    let (leaf, root) = ("01".repeat(32), "02".repeat(32));
    let programs = format!(r#"{{"b":{{}},"echo":{{"leaf":"{leaf}","root":"{root}"}}}}"#);
    let canonical = format!("push0-pipeline-1\n{stages}{programs}");
    assert_eq!(pipeline.digest().0, Sha256::of(canonical.as_bytes()).0);
    pipeline.name = "other".parse().unwrap();
    assert_eq!(pipeline.digest().0, Sha256::of(canonical.as_bytes()).0, "a name computes nothing");
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_stage_policy_is_written_without_what_is_usual_and_read_as_it_was() {
    let usual = StagePolicy::default_for(Kind::Map);
    let written = serde_json::to_value(&usual).unwrap();
    assert_eq!(keys(&written), ["attempts", "backoff", "pool", "time_limit"]);
    assert_eq!(serde_json::from_value::<StagePolicy>(written).unwrap(), usual);
    assert_eq!((usual.lost_attempts, usual.copies), (3, 1));
    for (key, policy) in [
        ("lost_attempts", StagePolicy { lost_attempts: 1, ..usual.clone() }),
        ("lost_attempts", StagePolicy { lost_attempts: 4, ..usual.clone() }),
        ("copies", StagePolicy { copies: 2, ..usual.clone() }),
        ("check", StagePolicy { check: true, ..usual.clone() }),
        ("hedge", StagePolicy { hedge: Some(Hedging::default()), ..usual.clone() }),
        ("larger_pool", StagePolicy { larger_pool: Some("gpu".parse().unwrap()), ..usual.clone() }),
        ("progress_limit", StagePolicy { progress_limit: Some(Millis(1)), ..usual.clone() }),
    ] {
        let written = serde_json::to_value(&policy).unwrap();
        assert!(keys(&written).contains(&key), "{key}: {written}");
        assert_eq!(serde_json::from_value::<StagePolicy>(written).unwrap(), policy, "{key}");
    }
}

#[test]
fn a_prover_may_use_the_network_unless_it_is_written_that_it_may_not() {
    let usual = ProverCommand::new(Form::Exec, vec!["a".to_owned()]);
    let written = serde_json::to_value(&usual).unwrap();
    assert_eq!(keys(&written), ["command", "form"]);
    assert!(serde_json::from_value::<ProverCommand>(written).unwrap().network);
    let cut_off = ProverCommand { network: false, ..usual };
    let written = serde_json::to_value(&cut_off).unwrap();
    assert_eq!(written["network"], false);
    assert_eq!(serde_json::from_value::<ProverCommand>(written).unwrap(), cut_off);
}

#[test]
fn an_attempt_has_copies_where_several_are_sent_or_stragglers_are_hedged() {
    let hedge = Some(Hedging::default());
    for (copies, hedge, may) in [(1, None, false), (2, None, true), (3, None, true), (1, hedge, true), (2, hedge, true)]
    {
        let policy = StagePolicy { copies, hedge, ..StagePolicy::default_for(Kind::Map) };
        assert_eq!(policy.may_copy(), may, "{copies} {hedge:?}");
    }
}

#[test]
fn the_backoff_doubles_from_the_third_attempt_on_up_to_a_minute() {
    let policy = |backoff| StagePolicy { backoff: Millis(backoff), ..StagePolicy::default_for(Kind::Map) };
    for (attempt, wanted) in
        [(1, 500), (2, 500), (3, 1_000), (4, 2_000), (8, 32_000), (9, 60_000), (40, 60_000), (u32::MAX, 60_000)]
    {
        assert_eq!(policy(500).backoff_before(attempt), Millis(wanted), "attempt {attempt}");
    }
    assert_eq!(policy(60_000).backoff_before(2), Millis(60_000));
    assert_eq!(policy(60_000).backoff_before(u32::MAX), Millis(60_000));
    assert_eq!(policy(0).backoff_before(9), Millis(0));
}
