use super::fixtures::{NOW, block, proving};
use super::*;
use crate::render::{self, Paint};
use push0_core::chain::Batching;
use push0_core::record::{
    BatchCursor, BatchRange, Contender, Disagreement, EpochEnd, Lane, LaneProof, LaneState, Says, Verdict,
};
use push0_core::{BlockHash, PipelineDigest, Sha256};

fn facts(number: u64, blocks: Vec<BlockSnapshot>) -> Facts {
    let file = push0_core::pipeline::parse(crate::init::ECHO).unwrap();
    let digest = file.pipeline.digest();
    let config = ChainConfig::new("demo".parse().unwrap(), digest);
    let block = blocks.iter().find(|block| block.block.number == number).cloned();
    Facts {
        catalog: Catalog { chains: BTreeMap::new(), pipelines: [(digest, file)].into() },
        chain: ChainSnapshot { chain: config.new_row(), class: config.class, window: 4, published: 0, blocks },
        config,
        source: None,
        block,
        number,
        queues: BTreeMap::new(),
        here: None,
        connect: "unix:/d/push0.sock".to_owned(),
        now: NOW,
    }
}

fn check(facts: &Facts, answer: &str, commands: &[&str]) -> Why {
    let why = explain(facts);
    assert!(why.answer.contains(answer), "{answer:?} is not in {:?}", why.answer);
    for command in commands {
        assert!(why.next.iter().any(|next| next.starts_with(command)), "{command:?} is not among {:#?}", why.next);
    }
    why
}

#[test]
fn a_number_nobody_submitted_says_who_waits_for_it() {
    let mut facts = facts(1, vec![block(2, BlockStatus::Parked)]);
    let why = check(&facts, "nothing was submitted", &["push0 submit", "push0 skip demo 1"]);
    assert!(why.facts[0].contains("1 submitted blocks wait behind it"));
    facts.number = 9;
    check(&facts, "nothing was submitted", &["push0 submit"]);
    facts.number = 0;
    check(&facts, "the chain begins with block 1", &[]);
}

#[test]
fn a_parked_block_waits_for_a_missing_one_a_pause_or_the_window() {
    let missing = facts(2, vec![block(2, BlockStatus::Parked)]);
    check(&missing, "waits for block 1, which was not submitted", &["push0 submit", "push0 skip demo 1"]);

    let mut paused = facts(1, vec![block(1, BlockStatus::Parked)]);
    paused.chain.chain.paused = true;
    check(&paused, "paused", &["push0 resume demo"]);

    let mut full = facts(6, vec![proving(1), block(5, BlockStatus::Parked), block(6, BlockStatus::Parked)]);
    full.chain.chain.next_release = 5;
    let why = check(&full, "at most 4 blocks", &["push0 why demo 1", "push0 window demo"]);
    assert!(why.facts.iter().any(|fact| fact == "block 1 is proving"));
}

#[test]
fn a_block_being_proven_says_who_holds_what_and_what_went_wrong() {
    let why = check(&facts(1, vec![proving(1)]), "(3 segments): 1 tasks in hand, 1 waiting", &["push0 block demo 1"]);
    let [troubled, held] = &why.tasks[..] else { panic!("{:#?}", why.tasks) };
    assert_eq!(troubled.last_error.as_deref(), Some("attempt 1 on gpu-8, retryable: P0-102: out of memory"));
    assert_eq!((troubled.attempt, troubled.attempts), (Attempt(2), 4));
    assert_eq!(held.state, "with gpu-7 for 3.0 s");
    let text = render::why(&why, Paint(false));
    assert!(
        text.contains("1.0.2/a2c0  prove, attempt 2 of 4, waits in work-cpu-standard\n    attempt 1 on gpu-8"),
        "{text}"
    );
    assert!(!text.contains("at line 7"), "one line of an error is enough here");
}

#[test]
fn a_queue_nobody_takes_from_asks_for_a_worker() {
    let mut facts = facts(1, vec![proving(1)]);
    let stats = QueueStats { visible: 2, oldest: Some(Millis(9_000)), ..QueueStats::default() };
    facts.queues.insert("work-cpu-standard".to_owned(), stats);
    check(&facts, "being proven", &["push0 worker --connect unix:/d/push0.sock --pool cpu"]);
    facts.queues.insert("work-cpu-standard".to_owned(), QueueStats { in_flight: 1, ..stats });
    assert!(!explain(&facts).next.iter().any(|next| next.contains("push0 worker")), "somebody takes them");
    // The pool's workers have more urgent tasks in hand, or those of before in the queues of another class.
    facts.queues.insert("work-cpu-standard".to_owned(), stats);
    facts.queues.insert("work-cpu-realtime".to_owned(), QueueStats { in_flight: 1, ..QueueStats::default() });
    let why = explain(&facts);
    assert!(!why.next.iter().any(|next| next.contains("push0 worker")), "they are busy: {:?}", why.facts);
}

#[test]
fn a_proven_block_waits_for_its_predecessor_or_for_an_operator() {
    let mut behind = facts(2, vec![proving(1), block(2, BlockStatus::Proven)]);
    behind.chain.chain.next_release = 3;
    check(&behind, "becomes final after block 1", &["push0 why demo 1"]);

    let mut halted = facts(1, vec![block(1, BlockStatus::Proven)]);
    let (names, last) = (BlockHash([7; 32]), BlockHash([8; 32]));
    halted.chain.chain.halt = Some(Halt::ParentMismatch { number: 1, names, last });
    let why = check(&halted, "names another parent", &["push0 replace", "push0 skip demo 1"]);
    assert!(why.facts.iter().any(|fact| fact.contains(&names.to_string()) && fact.contains(&last.to_string())));
}

#[test]
fn a_failed_block_names_the_reason_its_past_and_all_three_ways_out() {
    let mut failed = block(1, BlockStatus::Failed { reason: "no prover could".to_owned() });
    failed.block.history.push(EpochEnd {
        epoch: push0_core::Epoch(1),
        reason: "retried by an operator".to_owned(),
        at: NOW,
    });
    failed.block.contenders_seen = 1;
    let witness = push0_core::record::BlobRef { key: String::new(), sha256: push0_core::Sha256([0; 32]), size: 0 };
    failed.block.contenders.push(Contender { hash: BlockHash([9; 32]), witness, at: NOW });
    let ways = ["push0 retry demo 1", "push0 replace FILE.json", "push0 skip demo 1"];
    let why = check(&facts(1, vec![failed]), "it failed: no prover could", &ways);
    assert!(why.history[0].contains("retried by an operator"));
    assert!(why.facts.iter().any(|fact| fact.contains(&BlockHash([9; 32]).to_string())));
}

#[test]
fn a_failed_block_names_its_pages_and_every_failure_of_its_tasks_as_data() {
    let reason = "P0-001: stage prove, node 1.0.2: retryable: P0-102: out of memory (4 attempts used up)";
    let failed = BlockSnapshot { run: proving(1).run, ..block(1, BlockStatus::Failed { reason: reason.to_owned() }) };
    let why = check(&facts(1, vec![failed]), reason, &["push0 retry", "push0 explain P0-001", "push0 explain P0-102"]);
    assert!(why.next[0].starts_with("push0 retry"), "{:#?}", why.next);
    let json = serde_json::to_value(&why).unwrap();
    assert_eq!(json["code"], "P0-001");
    let failure = serde_json::json!({
        "stage": "prove", "node": why.failures[0].node, "attempt": 1, "worker": "gpu-8", "kind": "retryable",
        "code": "P0-102", "message": "out of memory\nat line 7", "at": 996_000
    });
    assert_eq!(json["failures"], serde_json::json!([failure]));
}

#[test]
fn where_the_same_witness_would_fail_again_replacing_comes_first() {
    for code in [ErrorCode::HashDiffers, ErrorCode::ParentDiffers, ErrorCode::BadBlock, ErrorCode::SegmentCount] {
        let failed = block(1, BlockStatus::Failed { reason: code.says("whatever it says") });
        let why = explain(&facts(1, vec![failed]));
        assert!(why.next[0].starts_with("push0 replace"), "{code}: {:#?}", why.next);
        assert_eq!(why.code, Some(code));
    }
}

#[test]
fn what_is_over_says_where_it_stands_in_the_stream() {
    let mut done = block(1, BlockStatus::Final);
    done.block.final_seq = Some(1);
    check(&facts(1, vec![done]), "it is final, number 1 of the stream", &["push0 verify demo 1"]);
    let mut skipped = block(1, BlockStatus::Skipped { reason: "lost".to_owned() });
    check(&facts(1, vec![skipped.clone()]), "its tombstone comes after block 1", &["push0 replace"]);
    skipped.block.final_seq = Some(1);
    check(&facts(1, vec![skipped]), "number 1 of the stream", &[]);
}

#[test]
fn a_task_of_a_worker_that_is_gone_is_in_nobodys_hand() {
    use push0_runtime::http::WorkerHere;
    let known = |since, here| {
        let (worker, pool) = ("gpu-7".parse().unwrap(), Some("cpu".parse().unwrap()));
        Some(vec![WorkerHere { worker, pool, since: Millis(since), silent_for: Millis(0), here }])
    };
    let mut facts = facts(1, vec![proving(1)]);
    // Before its start, another process of that name since, silent, never seen.
    for (here, in_hand) in
        [(known(1, true), 1), (known(998_000, true), 0), (known(1, false), 0), (Some(Vec::new()), 0), (None, 1)]
    {
        facts.here = here;
        check(&facts, &format!("{in_hand} tasks in hand"), &[]);
    }
}

/// A final block of three pipelines, of which `broken` failed at a task that is known.
fn of_three() -> BlockSnapshot {
    let blob = push0_core::record::BlobRef { key: "k".to_owned(), sha256: Sha256([1; 32]), size: 9 };
    let proof = |outputs: u8| LaneProof {
        proof: blob.clone(),
        header: blob.clone(),
        outputs: Some(Sha256([outputs; 32])),
        parent_hash: None,
        at: NOW,
    };
    let lane =
        |name: &str, at: u8, state| Lane { name: name.parse().unwrap(), pipeline: PipelineDigest([at; 32]), state };
    let reason = ErrorCode::PermanentFailure.says("stage prove, node 1.0.2: permanent: no luck");
    let mut snapshot = block(1, BlockStatus::Final);
    snapshot.block.runs = vec![
        lane("k8", 1, LaneState::Proven(proof(7))),
        lane("k16", 2, LaneState::Proven(proof(7))),
        lane("broken", 3, LaneState::Failed { reason: reason.clone() }),
    ];
    snapshot.block.quorum = 2;
    snapshot.block.final_seq = Some(1);
    let seen = proving(1).run.unwrap();
    let failed = RunSnapshot { id: seen.id.clone().in_lane(2), failed: Some(reason), ..seen };
    snapshot.further = vec![failed];
    snapshot
}

#[test]
fn the_pipeline_that_fails_is_named_with_its_reason_and_its_task() {
    let found = facts(1, vec![of_three()]);
    let why = check(&found, "it is final", &["push0 explain P0-006", "push0 replay demo/1/e1/", "push0 verify demo 1"]);
    assert!(why.facts.iter().any(|fact| fact == "2 of 3 pipelines have proven it; 2 must"), "{:#?}", why.facts);
    let named = why.facts.iter().find(|fact| fact.starts_with("pipeline broken: demo/1/e1.2  failed: P0-006"));
    assert!(named.is_some_and(|fact| fact.contains("no luck")), "{:#?}", why.facts);

    let mut going_on = of_three();
    going_on.block.status = BlockStatus::Proving;
    going_on.block.final_seq = None;
    going_on.block.runs[1].state = LaneState::Proving;
    going_on.further.insert(0, RunSnapshot { id: proving(1).run.unwrap().id.in_lane(1), ..proving(1).run.unwrap() });
    let why = check(
        &facts(1, vec![going_on.clone()]),
        "proven by 1 provers, 1 have a proof, 2 must",
        &["push0 explain P0-006"],
    );
    assert!(why.tasks.len() == 2 && why.stages.is_empty(), "the tasks of the one that goes on: {why:#?}");
    let shown = render::block(&going_on, NOW, Paint(false));
    for wanted in
        ["2 of 3 pipelines", "k8", "proven, k (9 bytes), outputs 0707", "proving  split 1/1", "failed: P0-006"]
    {
        assert!(shown.contains(wanted), "{wanted:?} is not in\n{shown}");
    }
}

#[test]
fn a_disagreement_names_who_says_what_and_what_ends_it() {
    let mut disputed = of_three();
    let LaneState::Proven(proof) = &mut disputed.block.runs[1].state else { panic!() };
    proof.outputs = Some(Sha256([8; 32]));
    disputed.block.status = BlockStatus::Proven;
    disputed.block.final_seq = None;
    let halt = Halt::Disagreement(disputed.block.disagreement().unwrap());
    let mut found = facts(1, vec![disputed]);
    found.chain.chain.halt = Some(halt.clone());
    let why = check(
        &found,
        "nothing from it on becomes final",
        &["push0 retry demo 1", "push0 skip demo 1", "push0 explain P0-035"],
    );
    assert!(why.facts.iter().any(|fact| fact == &format!("k16 says outputs {}", "08".repeat(32))), "{:#?}", why.facts);

    let mut late = facts(1, vec![of_three(), block(2, BlockStatus::Proven)]);
    late.chain.chain.halt = Some(halt);
    late.chain.chain.next_final = 2;
    check(&late, "it is final, but a late proof says something else", &["push0 resume demo"]);
    late.number = 2;
    late.block = late.chain.blocks.get(1).cloned();
    check(&late, "provers disagree about block 1, which is final", &["push0 why demo 1", "push0 resume demo"]);
}

#[test]
fn each_of_several_disagreements_about_final_blocks_is_shown() {
    let found = |number: u64| {
        let says = |name: &str, outputs| Says {
            pipeline: name.parse().unwrap(),
            outputs: Some(Sha256([outputs; 32])),
            parent_hash: None,
        };
        Disagreement { number, hash: Some(BlockHash([number as u8; 32])), says: vec![says("k8", 7), says("k16", 8)] }
    };
    let final_block = |number| {
        let mut block = block(number, BlockStatus::Final);
        block.block.final_seq = Some(number);
        block
    };
    let mut facts = facts(2, vec![final_block(1), final_block(2), block(3, BlockStatus::Proven)]);
    facts.chain.chain.next_final = 3;
    facts.chain.chain.halt = Some(Halt::Disagreement(found(1)));
    facts.chain.chain.disputed = vec![found(2)];
    let why = check(&facts, "a late proof says something else", &["push0 why demo 1", "push0 resume demo"]);
    assert!(why.facts.iter().any(|fact| fact == "the chain is halted for block 1 first"), "{:#?}", why.facts);
    facts.number = 3;
    facts.block = facts.chain.blocks.get(2).cloned();
    check(&facts, "provers disagree about block 1", &["push0 why demo 1", "push0 why demo 2", "push0 resume demo"]);
}

#[test]
fn a_run_that_a_final_block_did_not_need_is_shown_as_its_own_row_says_it_ended() {
    let mut snapshot = of_three();
    snapshot.block.runs[2].state = LaneState::Proving;
    snapshot.block.changed_at = Millis(NOW.0 - 1_000);
    snapshot.block.rest_limit = Some(Millis(5_000));
    let seen = proving(1).run.unwrap();
    let seen = RunSnapshot { id: seen.id.clone().in_lane(2), ..seen };
    let verdict = |verdict, outputs: Option<u8>, message: Option<&str>| push0_core::record::VerdictSlot {
        attempt: Attempt(1),
        verdict,
        root: push0_core::record::BlobRef { key: "k".to_owned(), sha256: Sha256([1; 32]), size: 9 },
        message: message.map(str::to_owned),
        outputs: outputs.map(|outputs| Sha256([outputs; 32])),
    };
    let with = |run: Option<RunSnapshot>, at: Millis| {
        let mut facts = facts(1, vec![BlockSnapshot { further: run.into_iter().collect(), ..snapshot.clone() }]);
        facts.now = at;
        let why = explain(&facts);
        let line = why.facts.iter().find_map(|fact| fact.strip_prefix("pipeline broken: demo/1/e1.2  ")).unwrap();
        line.to_owned()
    };
    let ok = RunSnapshot { verdict: Some(verdict(Verdict::Ok, Some(8), None)), ..seen.clone() };
    let bad = RunSnapshot { verdict: Some(verdict(Verdict::BadProof, None, Some("wrong root"))), ..seen.clone() };
    let failed = RunSnapshot { failed: Some("P0-006: no luck".to_owned()), ..seen.clone() };
    let stopped = RunSnapshot { stopped: true, ..seen.clone() };
    let (soon, later) = (NOW, NOW.plus(Millis(4_000)));
    let cases = [
        (Some(seen.clone()), soon, "proving, though the block is final without it"),
        (Some(seen), later, "not waited for any more"),
        (Some(ok), later, "late: proven, outputs 0808"),
        (Some(bad), later, "late: bad proof: wrong root"),
        (Some(failed), later, "failed: P0-006: no luck"),
        (Some(stopped), later, "stopped: the block does not need it"),
        (None, later, "not waited for: the block is final without it"),
    ];
    for (run, at, wanted) in cases {
        let line = with(run, at);
        assert!(line.starts_with(wanted), "{wanted:?}: {line:?}");
    }
}

#[test]
fn a_task_says_who_is_barred_from_it_that_it_moved_and_that_nobody_else_is_here() {
    let mut block = proving(1);
    let run = block.run.as_mut().unwrap();
    let task = run.tasks.last_mut().unwrap();
    task.failures[0].kind = FailureKind::Lost;
    task.tried = push0_runtime::snapshot::Tried {
        pool: Some("gpu-large".parse().unwrap()),
        larger_from: Some(Attempt(2)),
        lost: 1,
        lost_attempts: 3,
        barred: vec!["gpu-8".parse().unwrap()],
        ..Default::default()
    };
    let mut facts = facts(1, vec![block]);
    let worker = |name: &str| WorkerHere {
        worker: name.parse().unwrap(),
        pool: Some("gpu-large".parse().unwrap()),
        since: Millis(0),
        silent_for: Millis(0),
        here: true,
    };
    facts.here = Some(vec![worker("gpu-8")]);
    let why = check(&facts, "being proven", &["push0 worker --connect unix:/d/push0.sock --pool gpu-large"]);
    assert_eq!(why.code, Some(ErrorCode::NobodyMayTake));
    assert_eq!(
        why.tasks[0].state,
        "waits in work-gpu-large-standard; in the larger pool gpu-large since attempt 2; 1 of 3 attempts lost with gpu-8, which never \
         get it again"
    );
    assert!(why.facts.iter().any(|fact| fact == "failed attempts at its open tasks: 1 lost"), "{:?}", why.facts);
    facts.here = Some(vec![worker("gpu-8"), worker("gpu-9")]);
    let why = explain(&facts);
    assert!(!why.facts.iter().any(|fact| fact.contains("waits for another worker")), "{:?}", why.facts);
}

/// A batch chain of which batch 3 comes next, made of blocks 17 to 24 of `payments`, which is final up to 20.
fn batches(number: u64, blocks: Vec<BlockSnapshot>) -> Facts {
    let mut facts = facts(number, blocks);
    let of: ChainId = "payments".parse().unwrap();
    let mut source = ChainConfig::new(of.clone(), facts.config.pipeline).new_row();
    source.next_final = 21;
    let cursor = BatchCursor {
        next: 17,
        number: 3,
        since: Some(Millis(NOW.0 - 1_000)),
        told: 1,
        chain: "demo".parse().unwrap(),
    };
    source.batches.push(cursor);
    facts.source = Some(source);
    facts.config.batch = Some(Batching { of, size: 8, wait: Some(Millis(31_000)) });
    facts
}

#[test]
fn a_batch_that_is_not_there_says_what_it_lacks_and_until_when_it_waits() {
    let why =
        check(&batches(3, vec![]), "blocks 17..24 of payments: 4 are final, 4 are lacking", &["push0 why payments 21"]);
    assert!(why.facts.iter().any(|fact| fact.contains("what is final in 30 s")), "{:?}", why.facts);
    let why = check(
        &batches(4, vec![]),
        "blocks 25..32 of payments, if those before it are full; none",
        &["push0 why payments 21"],
    );
    assert!(why.facts.iter().any(|fact| fact.contains("batch 3 of demo comes first")), "{:?}", why.facts);
    check(&batches(2, vec![]), "its blocks are fixed", &[]);
    for number in [2, 3, 4] {
        let why = explain(&batches(number, vec![]));
        assert!(!why.next.iter().any(|next| next.starts_with("push0 submit")), "nobody submits to it: {:?}", why.next);
    }
}

#[test]
fn a_batch_with_a_hole_is_only_to_be_skipped_and_a_failed_one_may_be_retried() {
    let reason = ErrorCode::BatchHole.says("block 19 of payments was left out (lost): there is no proof of it");
    let mut holed = block(3, BlockStatus::Failed { reason });
    holed.block.batch = Some(BatchRange { of: "payments".parse().unwrap(), from: 17, to: 24 });
    let why = check(&batches(3, vec![holed.clone()]), "block 19 of payments", &["push0 skip demo 3"]);
    assert_eq!(why.code, Some(ErrorCode::BatchHole));
    assert!(why.facts.iter().any(|fact| fact.contains("blocks 17..24 of payments")), "{:?}", why.facts);
    let is_refused = |next: &String| next.starts_with("push0 retry") || next.starts_with("push0 replace");
    assert!(!why.next.iter().any(is_refused), "{:?}", why.next);

    holed.block.witness =
        Some(push0_core::record::BlobRef { key: "w".to_owned(), sha256: push0_core::Sha256([0; 32]), size: 1 });
    let why = check(&batches(3, vec![holed]), "", &["push0 skip demo 3", "push0 retry demo 3"]);
    assert!(!why.next.iter().any(|next| next.starts_with("push0 replace")), "{:?}", why.next);
}

#[test]
fn a_straggler_is_named_with_its_copies() {
    use push0_core::record::Started;
    use push0_runtime::snapshot::{CopySnapshot, Usual};
    let mut block = proving(1);
    let started =
        Started { attempt: Attempt(1), worker: "gpu-9".parse().unwrap(), by: None, at: Millis(999_500), handout: None };
    let task = &mut block.run.as_mut().unwrap().tasks[0];
    task.usual = Some(Usual { thousandths: 950, took: Millis(1_000) });
    let state = |block: &BlockSnapshot| {
        let why = explain(&facts(1, vec![block.clone()]));
        why.tasks.into_iter().find(|task| task.held_by.is_some()).unwrap().state
    };
    let straggler = "with gpu-7 for 3.0 s (a straggler: 95 % of such tasks take 1.0 s at most)";
    assert_eq!(state(&block), straggler);
    let copies = |started, failed| vec![CopySnapshot { copy: 1, started, failed }];
    for (copies, says) in [
        (copies(None, false), ", copy 1 waits for a worker"),
        (copies(Some(started.clone()), false), ", copy 1 with gpu-9 for 500 ms"),
        (copies(Some(started), true), ", copy 1 failed"),
    ] {
        block.run.as_mut().unwrap().tasks[0].copies = copies;
        assert_eq!(state(&block), format!("{straggler}{says}"));
    }
    let task = &mut block.run.as_mut().unwrap().tasks[0];
    (task.usual, task.copies) = (Some(Usual { thousandths: 950, took: Millis(9_000) }), Vec::new());
    assert_eq!(state(&block), "with gpu-7 for 3.0 s", "nothing is said of what takes its time");
}
