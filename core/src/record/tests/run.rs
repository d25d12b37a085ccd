//! The rows of a run and of a node, from their attributes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::id::Class;
use crate::message::Handout;

fn run() -> Run {
    let file = crate::pipeline::parse(include_str!("../../../../examples/rollup.toml")).unwrap();
    Run::from_value(json!({
        "v": 1, "id": "demo/7/e1", "hash": BlockHash([0; 32]), "witness": { "key": "w", "sha256": Sha256([0; 32]), "size": 1 },
        "digest": file.pipeline.digest(), "pipeline": file.pipeline, "policy": file.policy, "class": "standard", "released_at": 0,
    }))
    .unwrap()
}

fn attributes<const N: usize>(with: [(&str, Value); N]) -> BTreeMap<String, Value> {
    with.map(|(name, value)| (name.to_owned(), value)).into()
}

fn blob() -> BlobRef {
    BlobRef { key: "k".to_owned(), sha256: Sha256([1; 32]), size: 1 }
}

#[test]
fn a_run_row_is_read_attribute_by_attribute_and_without_its_plan_record_there_is_none() {
    let manifest = ManifestSlot {
        attempt: Attempt(2),
        manifest: blob(),
        segments: 3,
        header: blob(),
        hash: BlockHash([2; 32]),
        parent_hash: None,
    };
    let verdict = VerdictSlot { attempt: Attempt(1), verdict: Verdict::Ok, root: blob(), message: None, outputs: None };
    let row = attributes([
        (attribute::RUN, run().to_value()),
        (attribute::MANIFEST, json!(manifest)),
        (attribute::VERDICT, json!(verdict)),
        (attribute::FAILED, json!("broken")),
        (attribute::SPOILED, json!("damaged")),
        (attribute::STOPPED, json!(true)),
    ]);
    let view = RunView::read(&row).unwrap();
    assert_eq!((&*view.run, view.manifest, view.verdict), (&run(), Some(manifest), Some(verdict)));
    assert_eq!((view.failed.as_deref(), view.spoiled.as_deref()), (Some("broken"), Some("damaged")));
    assert_eq!((view.stopped, view.demoted), (true, None));
    assert_eq!(RunView::read(&attributes([(attribute::STOPPED, json!(true))])), None);
    assert_eq!(RunView::read(&attributes([(attribute::RUN, json!({ "v": 999 }))])), None);
}

#[test]
fn a_run_is_over_once_it_was_stopped_or_has_ended_in_one_way() {
    let with = |name: &str, value: Value| {
        RunView::read(&attributes([(attribute::RUN, run().to_value()), (name, value)])).unwrap().is_over()
    };
    let verdict = VerdictSlot { attempt: Attempt(1), verdict: Verdict::Ok, root: blob(), message: None, outputs: None };
    assert!(!with(attribute::STOPPED, json!(false)));
    assert!(with(attribute::STOPPED, json!(true)));
    assert!(with(attribute::FAILED, json!("broken")));
    assert!(with(attribute::SPOILED, json!("damaged")));
    assert!(with(attribute::VERDICT, json!(verdict)));
}

#[test]
fn a_demoted_run_is_of_bulk_and_promotes_nothing_and_one_that_began_so_stays_as_it_is() {
    let urgent = Run { class: Class::Realtime, promotion: Promotion::Late, ..run() };
    let demoted = Demoted { at: Millis(5), from: Class::Realtime, promotion: Promotion::Late };
    let row = attributes([(attribute::DEMOTED, json!(demoted))]);
    let view = RunView::of(urgent.clone().into(), &row);
    assert_eq!((view.run.class, view.run.demoted, view.run.promotion), (Class::Bulk, true, Promotion::None));
    assert_eq!(view.demoted, Some(demoted), "where its tasks lie is remembered");
    assert_eq!(*RunView::of(urgent.clone().into(), &BTreeMap::new()).run, urgent);
    let already = std::sync::Arc::new(Run { promotion: Promotion::All, ..urgent.demoted() });
    assert_eq!(RunView::of(already.clone(), &row).run, already);
    assert!(!row[attribute::DEMOTED].to_string().contains("none"));
    assert!(!json!(Demoted { promotion: Promotion::None, ..demoted }).to_string().contains("promotion"));
}

#[test]
fn a_node_row_is_read_attribute_by_attribute() {
    let worker: WorkerId = "w-1".parse().unwrap();
    let note = |attempt: u32, copy: u8| FailureNote {
        attempt: Attempt(attempt),
        copy,
        worker: Some(worker.clone()),
        by: None,
        kind: FailureKind::Retryable,
        message: "no luck".to_owned(),
        accused: vec![(1, Sha256([4; 32]))],
        at: Millis(6),
    };
    let wanted = Try {
        attempt: Attempt(3),
        delay: Millis(9),
        avoid: vec![worker.clone()],
        failures: vec![note(1, 0), note(2, 1)],
        failed: 2,
        lost: 3,
        barred: vec![worker.clone()],
        returned: 4,
        larger_from: Some(Attempt(2)),
        checks: vec![(0, Sha256([5; 32]))],
    };
    let started = |at: u64| Started {
        attempt: Attempt(3),
        worker: worker.clone(),
        by: None,
        at: Millis(at),
        handout: Some(Handout { sent_at: Millis(1), receives: 1 }),
    };
    let hedges = Hedges { attempt: Attempt(3), asked: 2, sent: 1, reserved: Millis(8), at: Millis(7) };
    let artifact =
        |attempt: u32| Artifact { attempt: Attempt(attempt), blob: blob(), worker: worker.clone(), at: Millis(5) };
    let row: BTreeMap<String, Value> = [
        (attribute::TRY.to_owned(), json!(wanted)),
        (attribute::FIRED.to_owned(), json!(3)),
        (attribute::started(0), json!(started(10))),
        (attribute::started(2), json!(started(12))),
        (attribute::HEDGES.to_owned(), json!(hedges)),
        (attribute::slot(1), json!(artifact(1))),
        (attribute::slot(12), json!(artifact(2))),
        (attribute::floor(1), json!(2)),
        (attribute::hedged(4), json!(1)),
        ("slot.none".to_owned(), json!(artifact(1))),
    ]
    .into();
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    let wanted_names =
        ["fired", "floor.1", "hedged.4", "hedges", "slot.1", "slot.12", "slot.none", "started", "started.2", "try"];
    assert_eq!(names, wanted_names, "names that rows of before have");
    assert_eq!((attribute::piece(7), attribute::demoted_piece(7)), ("piece.007".into(), "demoted.007".into()));
    let view = NodeView {
        wanted,
        fired: Some(Attempt(3)),
        started: Some(started(10)),
        copies_started: [(2, started(12))].into(),
        hedges: Some(hedges),
        slots: [(1, artifact(1)), (12, artifact(2))].into(),
        floors: [(1, Attempt(2))].into(),
        hedged: [(4, Attempt(1))].into(),
    };
    assert_eq!(NodeView::read(&row), view);
    assert_eq!(NodeView::read(&BTreeMap::new()), NodeView::default());
}

#[test]
fn a_try_writes_no_counts_that_are_zero() {
    let text = json!(Try::default()).to_string();
    for absent in ["lost", "returned", "avoid", "barred", "checks"] {
        assert!(!text.contains(absent), "{text}");
    }
    assert_eq!(serde_json::from_str::<Try>(&text).unwrap(), Try::default());
    let note = FailureNote {
        attempt: Attempt(1),
        copy: 0,
        worker: None,
        by: None,
        kind: FailureKind::Retryable,
        message: String::new(),
        accused: vec![],
        at: Millis(6),
    };
    assert!(!json!(note).to_string().contains("copy"));
}
