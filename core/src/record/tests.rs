//! Every record and message survives being written and read, and an unknown version is refused.

mod run;

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::id::{Attempt, BlockHash, BlockId, ChainId, Epoch, Millis, PipelineDigest, TaskId, WorkerId};
use crate::message::{
    ChainMessage, Command, FailureKind, RangeMessage, Report, ReportEvent, Submission, TaskMessage, TimerKind,
    TimerMessage,
};
use crate::pipeline::Kind;

fn chain() -> impl Strategy<Value = ChainId> {
    "[a-z0-9][a-z0-9-]{0,31}".prop_map(|name| name.parse().unwrap())
}

fn worker() -> impl Strategy<Value = WorkerId> {
    "[a-z0-9][a-z0-9-]{0,31}".prop_map(|name| name.parse().unwrap())
}

fn block_hash() -> impl Strategy<Value = BlockHash> {
    any::<[u8; 32]>().prop_map(BlockHash)
}

fn blob() -> impl Strategy<Value = BlobRef> {
    ("[a-z/]{1,40}", any::<[u8; 32]>(), any::<u64>()).prop_map(|(key, bytes, size)| BlobRef {
        key,
        sha256: Sha256(bytes),
        size,
    })
}

fn millis() -> impl Strategy<Value = Millis> {
    any::<u64>().prop_map(Millis)
}

fn run_id() -> impl Strategy<Value = RunId> {
    let lane = prop_oneof![3 => Just(0), 1 => any::<u16>()];
    (chain(), any::<u64>(), any::<u32>(), lane)
        .prop_map(|(chain, number, epoch, lane)| RunId::new(chain, number, Epoch(epoch)).in_lane(lane))
}

fn node() -> impl Strategy<Value = Node> {
    (0u16..64, 0u8..20, 0u32..100_000).prop_map(|(stage, layer, index)| Node::new(stage, layer, index))
}

fn task_id() -> impl Strategy<Value = TaskId> {
    (run_id(), "[0-9a-f]{16}", node(), any::<u32>(), any::<u8>()).prop_map(|(run, tag, node, attempt, copy)| TaskId {
        run,
        tag,
        node,
        attempt: Attempt(attempt),
        copy,
    })
}

fn submission() -> impl Strategy<Value = Submission> {
    (chain(), any::<u64>(), block_hash(), option::of(block_hash()), blob(), option::of(any::<u64>())).prop_map(
        |(chain, number, hash, parent_hash, witness, fork_seq)| Submission {
            chain,
            number,
            hash,
            parent_hash,
            witness,
            fork_seq,
            deadline: fork_seq.map(Millis),
        },
    )
}

fn status() -> impl Strategy<Value = BlockStatus> {
    prop_oneof![
        Just(BlockStatus::Parked),
        Just(BlockStatus::Proving),
        Just(BlockStatus::Proven),
        ".*".prop_map(|reason| BlockStatus::Failed { reason }),
        ".*".prop_map(|reason| BlockStatus::Skipped { reason }),
        ".*".prop_map(|reason| BlockStatus::Dropped { reason }),
        Just(BlockStatus::Final),
    ]
}

fn effect() -> impl Strategy<Value = PendingEffect> {
    (any::<u64>(), any::<u32>().prop_map(Epoch), 0..4).prop_map(|(number, epoch, kind)| match kind {
        0 => PendingEffect::Start { number, epoch, from: (epoch.0 % 3) as u16 },
        1 => PendingEffect::Stop { number, epoch, from: (epoch.0 % 3) as u16, lanes: (epoch.0 % 5) as u16 },
        2 => PendingEffect::Arm { number },
        _ => PendingEffect::Demote { number, epoch },
    })
}

fn disputed(number: u64, hash: Option<BlockHash>) -> Vec<Disagreement> {
    let says =
        |outputs| Says { pipeline: "k8".parse().unwrap(), outputs: Some(Sha256([outputs; 32])), parent_hash: hash };
    hash.map(|_| Disagreement { number, hash, says: vec![says(1), says(2)] }).into_iter().collect()
}

prop_compose! {
    fn chain_row()(
        chain in chain(), first in any::<u64>(), next_seq in any::<u64>(), last_hash in option::of(block_hash()),
        window in option::of(any::<u32>()), paused in any::<bool>(), names in option::of(block_hash()),
        pending in prop::collection::vec(effect(), 0..4), met in prop::collection::vec(any::<bool>(), 0..70),
    ) -> ChainRow {
        let cursor = BatchCursor { since: Some(Millis(next_seq)), ..BatchCursor::new(chain.clone(), first) };
        let walk = window.map(|at| match paused {
            true => Walk::Drop { at: u64::from(at) },
            false => Walk::Fit { at: u64::from(at), through: next_seq },
        });
        let at = Millis(first);
        let fork = window.map(|from| Fork { seq: next_seq, from: u64::from(from), at });
        let dropped = window.map(|from| DroppedRange { nth: 1, from: u64::from(from), reason: chain.to_string(), at, blocks: 7 });
        let halt = names.map(|names| Halt::ParentMismatch { number: first, names, last: names });
        let mut on_time = OnTime::default();
        met.into_iter().for_each(|met| on_time.count(met));
        ChainRow { chain, on_time, first, next_final: first, next_release: first, next_seq, last_hash, orphans: names.into_iter().collect(), window, paused, halt, walk, fork, dropped, pending, disputed: disputed(first, names), disputed_more: paused, acknowledged: paused.then_some(BlockId { number: first, hash: names }).into_iter().collect(), batches: vec![cursor] }
    }
}

/// One lane in each state.
fn lanes(reason: &str, at: Millis) -> Vec<Lane> {
    let blob = BlobRef { key: "k".to_owned(), sha256: Sha256([1; 32]), size: at.0 };
    let proof = LaneProof {
        proof: blob.clone(),
        header: blob,
        outputs: Some(Sha256([2; 32])),
        parent_hash: Some(BlockHash([3; 32])),
        at,
    };
    let states = [
        LaneState::Proving,
        LaneState::Proven(proof),
        LaneState::Redone { spoiled: at.0.is_multiple_of(2), reason: reason.to_owned() },
        LaneState::Failed { reason: reason.to_owned() },
        LaneState::Stopped,
    ];
    let lane = |state| Lane { pipeline: PipelineDigest([7; 32]), name: "k8".parse().unwrap(), state };
    states.into_iter().map(lane).collect()
}

prop_compose! {
    fn block_row()(
        submission in submission(), status in status(), at in millis(), epoch in any::<u32>(), proof in option::of(blob()),
        final_seq in option::of(any::<u64>()), seen in any::<u32>(), reason in ".*", digest in option::of(any::<[u8; 32]>()),
    ) -> BlockRow {
        let source = submission.chain.clone();
        let contender = Contender { hash: submission.hash, witness: submission.witness.clone(), at };
        BlockRow {
            chain: submission.chain, number: submission.number, epoch: Epoch(epoch), status,
            hash: Some(submission.hash), parent_hash: submission.parent_hash, witness: Some(submission.witness),
            batch: Some(BatchRange { of: source, from: submission.number, to: submission.number }),
            fork_seq: submission.fork_seq, submitted_at: at, deadline: submission.deadline,
            missed: submission.deadline.map(|at| Missed { at, then: Late::Demote }), released_at: proof.as_ref().map(|_| at), changed_at: at,
            pipeline: digest.map(PipelineDigest), header: proof.clone(), proof, final_seq, bad_proofs: seen, spoiled_runs: seen,
            suspects: vec![Suspect { stage: 1, worker: "w".parse().unwrap() }],
            contenders: vec![contender], contenders_seen: seen,
            runs: lanes(&reason, at), quorum: (seen % 3) as u16, rest_limit: submission.deadline, lanes_seen: (seen % 4) as u16,
            history: vec![EpochEnd { epoch: Epoch(epoch), reason, at }],
            unfit: seen % 2 == 1, past: submission.parent_hash.into_iter().collect(),
        }
    }
}

fn outbox_row() -> impl Strategy<Value = OutboxRow> {
    let finality = prop_oneof![
        (any::<[u8; 32]>(), blob(), blob()).prop_map(|(digest, proof, header)| Finality::Proof {
            pipeline: PipelineDigest(digest),
            proof: proof.clone(),
            header: header.clone(),
            others: vec![OtherProof { pipeline: PipelineDigest(digest), proof, header }],
        }),
        ".*".prop_map(|reason| Finality::Tombstone { reason }),
    ];
    let timings = option::of(any::<u64>()).prop_map(|at| {
        let at = Millis(at?);
        Some(Timings {
            submitted_at: at,
            released_at: Some(at),
            settled_at: at,
            finalized_at: at,
            deadline: Some(at),
            met: Some(true),
        })
    });
    let parts = (any::<u64>(), run_id(), option::of(block_hash()), finality, timings);
    parts.prop_map(|(seq, run, hash, finality, timings)| OutboxRow {
        seq,
        chain: run.chain,
        number: run.number,
        epoch: run.epoch,
        hash,
        parent_hash: hash,
        batch: None,
        finality,
        timings,
    })
}

fn report_event() -> impl Strategy<Value = ReportEvent> {
    prop_oneof![
        Just(ReportEvent::Started),
        blob().prop_map(|artifact| ReportEvent::Done { artifact }),
        (blob(), any::<u32>(), block_hash(), option::of(block_hash())).prop_map(
            |(blob, segments, hash, parent_hash)| {
                ReportEvent::Split { manifest: blob.clone(), segments, header: blob, hash, parent_hash }
            }
        ),
        (any::<[u8; 32]>(), option::of(".*")).prop_map(|(root, message)| ReportEvent::Verified {
            verdict: Verdict::BadProof,
            root: Sha256(root),
            outputs: message.is_some().then_some(Sha256(root)),
            message
        }),
        (any::<u32>(), any::<[u8; 32]>(), option::of(".*")).prop_map(|(slot, artifact, message)| {
            ReportEvent::Checked {
                reader: crate::id::Node::new(3, 0, 1),
                slot,
                artifact: Sha256(artifact),
                finding: crate::message::Finding::Unsound,
                message,
            }
        }),
        (".*", prop::collection::vec(any::<u32>(), 0..4)).prop_map(|(message, children)| ReportEvent::Failed {
            kind: FailureKind::BadInput,
            message,
            children
        }),
        ".*".prop_map(|message| ReportEvent::Failed { kind: FailureKind::OutOfMemory, message, children: vec![] }),
    ]
}

fn task_message() -> impl Strategy<Value = TaskMessage> {
    (task_id(), prop::collection::vec(blob(), 0..4), prop::collection::vec(worker(), 0..3), millis(), block_hash())
        .prop_map(|(id, inputs, avoid, time_limit, block_hash)| TaskMessage {
            id,
            stage: "prove".parse().unwrap(),
            kind: Kind::Map,
            prover: "p".parse().unwrap(),
            programs: [("leaf".to_owned(), Sha256([7; 32]))].into(),
            pool: "gpu".parse().unwrap(),
            class: crate::id::Class::Bulk,
            inputs,
            expand: true,
            params: serde_json::json!({ "k": 8 }),
            block_hash,
            parent_hash: Some(block_hash),
            time_limit,
            deadline: Some(time_limit),
            demoted: true,
            progress_limit: Some(time_limit),
            barred: avoid.clone(),
            avoid,
            copies: Some(2),
            check: Some(crate::message::Check { reader: crate::id::Node::new(3, 0, 1), slot: 1 }),
        })
}

fn survives<T: Versioned + PartialEq + std::fmt::Debug>(record: &T) {
    let text = record.to_json();
    assert_eq!(T::from_json(&text).as_ref(), Ok(record), "{text}");
    let newer = text.replacen(&format!("\"v\":{}", record.version()), "\"v\":999", 1);
    let refused = T::from_json(&newer);
    assert!(matches!(refused, Err(DecodeError::Version { found: 999, .. })), "{refused:?} of {newer}");
}

#[test]
fn a_blobs_key_holds_at_its_bound_and_is_refused_beyond_it() {
    let manifest = |key: usize| {
        let blob = BlobRef { key: "k".repeat(key), sha256: Sha256([1; 32]), size: 1 };
        Manifest { segments: 1, pages: vec![blob.clone()], header: blob, hash: BlockHash([2; 32]), parent_hash: None }
    };
    assert!(Manifest::from_json(&manifest(MAX_BLOB_KEY).to_json()).is_ok());
    let refused = Manifest::from_json(&manifest(MAX_BLOB_KEY + 1).to_json()).unwrap_err().to_string();
    assert!(refused.contains("a blob's key of 513 bytes; at most 512 are possible"), "{refused}");
}

#[test]
fn a_manifest_has_as_many_pages_as_its_segments_fill() {
    let blob = BlobRef { key: "k".to_owned(), sha256: Sha256([1; 32]), size: 1 };
    let read = |segments: u32, pages: usize| {
        let pages = vec![blob.clone(); pages];
        let manifest = Manifest { segments, pages, header: blob.clone(), hash: BlockHash([2; 32]), parent_hash: None };
        Manifest::from_json(&manifest.to_json()).map(|_| ()).map_err(|error| error.to_string())
    };
    for (segments, pages) in [(1, 1), (256, 1), (257, 2), (100_000, 391)] {
        assert_eq!(read(segments, pages), Ok(()));
    }
    for (segments, pages) in [(0, 0), (100_001, 391), (u32::MAX, 1), (256, 2), (257, 1)] {
        assert!(read(segments, pages).is_err(), "{segments} segments in {pages} pages");
    }
}

#[test]
fn a_plan_record_of_no_pipeline_is_none() {
    let file = crate::pipeline::parse(include_str!("../../../examples/rollup.toml")).unwrap();
    let run = serde_json::json!({
        "v": 1, "id": "demo/7/e1", "hash": BlockHash([0; 32]), "witness": { "key": "w", "sha256": Sha256([0; 32]), "size": 1 },
        "digest": file.pipeline.digest(), "pipeline": file.pipeline, "policy": file.policy, "class": "standard", "released_at": 0,
    });
    assert!(Run::from_value(run.clone()).is_ok());
    let refused = |change: &dyn Fn(&mut serde_json::Value), wanted: &str| {
        let mut changed = run.clone();
        change(&mut changed);
        let error = Run::from_value(changed).unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted:?} is not in {error}");
    };
    refused(&|run| run["policy"]["stages"] = serde_json::json!([]), "policies of 0");
    let no_stages = |run: &mut serde_json::Value| {
        run["pipeline"]["stages"] = serde_json::json!([]);
        run["policy"]["stages"] = serde_json::json!([]);
    };
    refused(&no_stages, "exactly one `split`");
    // A tree of joins of one would never end.
    let join = file.pipeline.stages.iter().position(|stage| stage.kind == Kind::Join).unwrap();
    for arity in [0, 1, 17] {
        refused(&|run| run["pipeline"]["stages"][join]["arity"]["rest"] = arity.into(), "an arity is from 2 to 16");
    }
}

#[test]
fn a_block_that_is_vacated_is_remembered_once_and_the_others_with_it() {
    let mut row = BlockRow::new("demo".parse().unwrap(), 7, BlockStatus::Parked, Millis(5));
    for (byte, past) in [(1, vec![1]), (2, vec![1, 2]), (1, vec![2, 1])] {
        row.hash = Some(BlockHash([byte; 32]));
        row.vacate();
        assert_eq!(row.past, past.into_iter().map(|byte| BlockHash([byte; 32])).collect::<Vec<_>>());
    }
    row.vacate();
    assert_eq!((row.hash, row.past.len()), (None, 2), "nothing stood here");
    for byte in 0..=MAX_PAST as u8 {
        row.hash = Some(BlockHash([100 + byte; 32]));
        row.vacate();
    }
    assert_eq!((row.past.len(), row.past[0]), (MAX_PAST, BlockHash([101; 32])), "the newest");
}

#[test]
fn what_is_as_ever_is_not_written() {
    let written = |effect: PendingEffect| serde_json::to_string(&effect).unwrap();
    let stop = |lanes: u16| PendingEffect::Stop { number: 1, epoch: Epoch(2), from: 0, lanes };
    assert_eq!(written(stop(1)), r#"{"effect":"stop","number":1,"epoch":2}"#);
    assert_eq!(written(stop(2)), r#"{"effect":"stop","number":1,"epoch":2,"lanes":2}"#);
    assert!(OnTime::default().is_empty());
    for late in Late::ALL {
        assert_eq!(serde_json::to_value(late).unwrap(), late.as_str());
    }
}

#[test]
fn keys_of_blobs_say_what_they_are_of() {
    let task: TaskId = "demo/7/e2.1/0123456789abcdef/3.1.4/a5c1".parse().unwrap();
    assert_eq!(control_key(&task.run), "control/demo/7/e2.1");
    assert_eq!(node_control_key(&task, &"join".parse().unwrap()), "control/demo/7/e2.1/join/3.1.4/a5");
    assert_eq!(demoted_key(&task.run), "control/demo/7/e2.1/demoted");
    assert_eq!(proof_key(&task.run.chain, 7), "proofs/demo/00000000000000000007");
}

#[test]
fn what_is_cut_out_of_a_long_text_lies_in_its_first_half() {
    let text = |byte: u8| -> String { (0..300).map(|at| (byte + at as u8 % 26) as char).collect() };
    let (letters, mark) = (text(b'a'), " … ");
    assert_eq!(clip_middle(&letters, 100), format!("{}{mark}{}", &letters[..31], &letters[300 - 63..]));
    assert_eq!(clip_middle(&letters, 300), letters);
    assert_eq!(clip_middle(&letters, 299).len(), 299);
    assert_eq!(clip_middle(&letters, 0), mark);
    // Four bytes each: what does not fit whole is left out.
    let wide = "\u{1d11e}".repeat(75);
    assert_eq!(clip_middle(&wide, 100), format!("{}{mark}{}", "\u{1d11e}".repeat(7), "\u{1d11e}".repeat(15)));
}

proptest! {
    #[test]
    fn long_texts_keep_their_beginning_and_their_end(text in "[^…]{0,300}") {
        let clipped = clip_middle(&text, 100);
        prop_assert!(clipped.len() <= 100);
        let (head, tail) = clipped.split_once(" … ").unwrap_or((&clipped, ""));
        prop_assert!(text.starts_with(head) && text.ends_with(tail) && (tail.is_empty() == (clipped == text)));
    }

    #[test]
    fn rows_survive_text(chain in chain_row(), block in block_row(), outbox in outbox_row()) {
        survives(&chain);
        survives(&block);
        survives(&outbox);
    }

    #[test]
    fn manifests_survive_text(blobs in prop::collection::vec(blob(), 1..5), hash in block_hash(), first in any::<u32>()) {
        let header = blobs[0].clone();
        let segments = blobs.len() as u32 * MANIFEST_PAGE - first % MANIFEST_PAGE;
        survives(&Manifest { segments, pages: blobs.clone(), header, hash, parent_hash: Some(hash) });
        let range = BatchRange { of: "payments".parse().unwrap(), from: 17, to: 24 };
        survives(&BatchRow { chain: "payments-batch".parse().unwrap(), number: 3, range, at: Millis(first.into()) });
        let block = |(number, blob): (u64, &BlobRef)| BatchedBlock {
            number, hash, parent_hash: (number > 0).then_some(hash), proof: blob.clone(), header: blobs[0].clone(), pipeline: PipelineDigest(hash.0),
        };
        let manifest = BatchManifest { chain: "payments".parse().unwrap(), from: 0, to: blobs.len() as u64 - 1, blocks: (0..).zip(&blobs).map(block).collect() };
        prop_assert_eq!(manifest.inputs().len(), 2 * blobs.len());
        survives(&manifest);
        survives(&ManifestPage { first, segments: blobs });
    }

    #[test]
    fn messages_survive_text(
        submission in submission(), task in task_message(), id in task_id(), worker in worker(), at in millis(),
        event in report_event(), from in any::<u32>(),
    ) {
        let retry = Command::Retry { chain: submission.chain.clone(), number: from.into(), epoch: Some(Epoch(from)) };
        survives(&ChainMessage::Command(retry));
        let reorg = Command::Reorg { chain: submission.chain.clone(), number: from.into(), reason: "r".to_owned(), nth: 1 };
        survives(&ChainMessage::Command(reorg));
        survives(&ChainMessage::Command(Command::Replace(submission.clone())));
        survives(&ChainMessage::Batch { chain: submission.chain.clone(), number: submission.number });
        survives(&ChainMessage::Submit(submission));
        survives(&RangeMessage { run: id.run.clone(), from, to: from, demote: from % 2 == 1 });
        for kind in [TimerKind::Lost, TimerKind::Hedge, TimerKind::Deadline] {
            survives(&TimerMessage { run: id.run.clone(), piece: from, due: at, kind });
        }
        let handout = Some(crate::message::Handout { sent_at: at, receives: 3 });
        survives(&Report { task: id, worker, by: Some("rack1".parse().unwrap()), at, handout, event });
        survives(&task);
    }

    #[test]
    fn identifiers_survive_text(id in task_id()) {
        prop_assert_eq!(id.to_string().parse::<TaskId>(), Ok(id));
    }

    #[test]
    fn keys_are_ordered_as_what_they_name(chain in chain(), a in any::<u64>(), b in any::<u64>(), run in run_id(), x in node(), y in node()) {
        prop_assert_eq!(RowKey::block(&chain, a).sort.cmp(&RowKey::block(&chain, b).sort), a.cmp(&b));
        prop_assert_eq!(RowKey::outbox(&chain, a).sort.cmp(&RowKey::outbox(&chain, b).sort), a.cmp(&b));
        prop_assert_eq!(RowKey::node(&run, x).sort.cmp(&RowKey::node(&run, y).sort), x.cmp(&y));
        prop_assert_eq!(RowKey::parse_node(&RowKey::node(&run, x).sort), Some(x));
    }

}
