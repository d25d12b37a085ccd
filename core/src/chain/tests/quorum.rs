//! Several provers a block.

use super::*;
use crate::error_code::ErrorCode;
use crate::id::BlockId;
use crate::record::{Disagreement, LaneState, OtherProof};

fn digest(pipeline: usize) -> PipelineDigest {
    PipelineDigest([pipeline as u8 + 10; 32])
}

/// A chain of three pipelines, `p0` to `p2`.
fn three(quorum: u16, rest: Rest) -> World {
    let mut world = World::new(4);
    let pipeline = |at: usize| NamedPipeline { name: format!("p{at}").parse().unwrap(), digest: digest(at) };
    let pipelines = (0..3).map(pipeline).collect();
    let provers = Provers { pipelines, quorum, mode: Mode::Every, rest, rest_limit: Millis(1_000) };
    world.config.pipeline = digest(0);
    world.config.provers = Some(provers);
    world
}

fn proof(lane: u16) -> BlobRef {
    blob(&format!("proof-{lane}"))
}

impl World {
    fn lane(&mut self, number: u64, lane: u16, outcome: Outcome) -> Result<(), Ignored> {
        let epoch = self.blocks[&number].epoch;
        self.on(Event::RunEnded { run: RunId::new(chain_id(), number, epoch).in_lane(lane), outcome })
    }

    /// The lane's root is verified, and states `outputs`.
    fn states(&mut self, number: u64, lane: u16, outputs: u8) -> Result<(), Ignored> {
        let outcome = Outcome::Proven {
            pipeline: self.blocks[&number].runs[usize::from(lane)].pipeline,
            proof: proof(lane),
            header: blob("header"),
            parent_hash: None,
            outputs: Some(Sha256([outputs; 32])),
        };
        self.lane(number, lane, outcome)
    }

    fn lane_fails(&mut self, number: u64, lane: u16) -> Result<(), Ignored> {
        self.lane(number, lane, Outcome::Failed { reason: ErrorCode::PermanentFailure.says("no luck") })
    }

    fn lane_states(&self, number: u64) -> Vec<&'static str> {
        self.blocks[&number].runs.iter().map(|lane| lane.state.name()).collect()
    }

    /// (from, lanes) of what was stopped.
    fn stopped(&self) -> Vec<(u16, u16)> {
        let stops = self.performed.iter().filter_map(|effect| match effect {
            PendingEffect::Stop { from, lanes, .. } => Some((*from, *lanes)),
            PendingEffect::Start { .. } | PendingEffect::Arm { .. } | PendingEffect::Demote { .. } => None,
        });
        stops.collect()
    }

    fn handed_on(&self) -> (PipelineDigest, BlobRef, Vec<OtherProof>) {
        match &self.outbox.last().unwrap().finality {
            Finality::Proof { pipeline, proof, others, .. } => (*pipeline, proof.clone(), others.clone()),
            Finality::Tombstone { .. } => panic!("a tombstone"),
        }
    }

    fn resume(&mut self, number: u64) {
        self.command(Command::Resume { chain: chain_id(), acknowledged: Some(at(number)) }).unwrap();
    }

    fn disputed(&self) -> Vec<u64> {
        self.chain.disagreements().map(|found| found.number).collect()
    }

    fn halted_at(&self) -> Option<u64> {
        match &self.chain.halt {
            Some(Halt::Disagreement(Disagreement { number, .. })) => Some(*number),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }
}

fn at(number: u64) -> BlockId {
    BlockId { number, hash: Some(hash(number as u8)) }
}

#[test]
fn a_chain_of_one_pipeline_pins_no_runs_and_writes_the_rows_it_wrote_before() {
    let mut world = World::new(4);
    world.submit(1);
    world.prove(1);
    let row = serde_json::to_string(&world.blocks[&1]).unwrap();
    for field in ["runs", "quorum", "lanes_seen", "rest_limit"] {
        assert!(!row.contains(&format!("\"{field}\"")), "{row}");
    }
    let effects = serde_json::to_string(&world.performed).unwrap();
    assert_eq!(effects, r#"[{"effect":"start","number":1,"epoch":1}]"#);
    let stray = RunId::new(chain_id(), 1, Epoch(1)).in_lane(1);
    let outcome = Outcome::Failed { reason: String::new() };
    assert_eq!(world.on(Event::RunEnded { run: stray, outcome }), Err(Ignored::Stale));
}

#[test]
fn two_of_three_prove_a_block_and_the_first_in_the_list_is_handed_on_with_the_other() {
    for (order, handed, other) in [([0, 1], 0, 1), ([2, 1], 1, 2), ([1, 0], 0, 1)] {
        let mut world = three(2, Rest::Finish);
        world.submit(1);
        assert_eq!(world.performed, [PendingEffect::Start { number: 1, epoch: Epoch(1), from: 0 }]);
        world.states(1, order[0], 7).unwrap();
        assert_eq!((world.status(1), world.finalized()), ("proving", vec![]), "one is not enough");
        world.states(1, order[1], 7).unwrap();
        assert_eq!(world.status(1), "final");
        let (pipeline, blob, others) = world.handed_on();
        assert_eq!((pipeline, blob), (digest(handed), proof(handed as u16)));
        assert_eq!(others.iter().map(|other| other.pipeline).collect::<Vec<_>>(), [digest(other)]);
        assert_eq!(others[0].proof, proof(other as u16));
        assert_eq!(world.stopped(), [], "the third may finish");
        assert_eq!(world.started(), [(1, 1)], "no second start");
    }
}

#[test]
fn what_of_several_proofs_could_not_be_compared_is_named() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    world.states(1, 0, 7).unwrap();
    assert!(world.blocks[&1].uncompared().is_empty());
    let silent = Outcome::Proven {
        pipeline: digest(2),
        proof: proof(2),
        header: blob("header"),
        parent_hash: None,
        outputs: None,
    };
    world.lane(1, 2, silent.clone()).unwrap();
    let named: Vec<&str> = world.blocks[&1].uncompared().into_iter().map(|lane| lane.name.as_str()).collect();
    assert_eq!((world.finalized(), named), (vec![1], vec!["p2"]));
    // With one prover there is nothing to compare.
    let mut world = three(1, Rest::Finish);
    world.submit(1);
    world.lane(1, 2, silent).unwrap();
    assert!(world.blocks[&1].uncompared().is_empty());
}

#[test]
fn the_rest_is_stopped_where_that_is_wanted() {
    let mut world = three(2, Rest::Stop);
    world.submit(1);
    world.states(1, 0, 7).unwrap();
    assert_eq!(world.stopped(), []);
    world.states(1, 2, 7).unwrap();
    assert_eq!((world.stopped(), world.status(1)), (vec![(1, 1)], "final"));
    assert_eq!(world.lane_states(1), ["proven", "stopped", "proven"]);
}

#[test]
fn a_failing_pipeline_costs_no_block_as_long_as_enough_are_left() {
    let mut world = three(2, Rest::Finish);
    (1..=2).for_each(|number| world.submit(number));
    for number in [1, 2] {
        world.lane_fails(number, 2).unwrap();
        assert_eq!(world.lane_fails(number, 2), Err(Ignored::Settled), "and once");
        world.states(number, 0, 7).unwrap();
        world.states(number, 1, 7).unwrap();
    }
    assert_eq!((world.finalized(), world.stopped()), (vec![1, 2], vec![(2, 1), (2, 1)]));
    assert_eq!(world.lane_states(1), ["proven", "proven", "failed"]);
}

#[test]
fn a_block_fails_when_too_few_are_left_and_the_reason_names_each_that_failed() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    world.lane_fails(1, 0).unwrap();
    assert_eq!(world.status(1), "proving");
    world.lane_fails(1, 2).unwrap();
    let BlockStatus::Failed { reason } = world.blocks[&1].status.clone() else { panic!("not failed") };
    let expected = "P0-036: 1 of 3 pipelines can prove it, and 2 must; p0: P0-006: no luck; p2: P0-006: no luck";
    assert_eq!(reason, expected);
    assert_eq!(world.stopped().last(), Some(&(0, 3)), "nobody goes on");
    assert_eq!(world.states(1, 1, 7), Err(Ignored::Stale));
    world.command(Command::Retry { chain: chain_id(), number: 1, epoch: None }).unwrap();
    assert_eq!(world.lane_states(1), ["proving"; 3]);
    assert_eq!(world.started(), [(1, 1), (1, 2)]);
}

#[test]
fn a_bad_proof_begins_its_pipeline_anew_in_another_lane_and_disturbs_nobody() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    let bad = || Outcome::BadProof { message: "wrong root".to_owned(), suspects: vec![] };
    world.lane(1, 1, bad()).unwrap();
    assert_eq!(world.blocks[&1].epoch, Epoch(1));
    assert_eq!(world.lane_states(1), ["proving", "begun anew", "proving", "proving"]);
    assert_eq!(world.blocks[&1].runs[3].pipeline, digest(1));
    assert_eq!(
        world.performed[1..],
        [
            PendingEffect::Stop { number: 1, epoch: Epoch(1), from: 1, lanes: 1 },
            PendingEffect::Start { number: 1, epoch: Epoch(1), from: 3 },
        ]
    );
    assert_eq!(world.lane(1, 1, bad()), Err(Ignored::Settled), "a redelivery begins nothing");
    // Spoiled runs count apart from bad proofs, and each pipeline's apart from the others'.
    world.lane(1, 3, Outcome::Spoiled { message: "damaged".to_owned() }).unwrap();
    world.lane(1, 4, bad()).unwrap();
    world.lane(1, 5, bad()).unwrap();
    assert_eq!(world.lane_states(1)[3..], ["begun anew", "begun anew", "failed"]);
    world.states(1, 0, 7).unwrap();
    world.states(1, 2, 7).unwrap();
    assert_eq!((world.finalized(), world.started().len()), (vec![1], 4));
    let block = &world.blocks[&1];
    assert_eq!((block.lanes_seen, block.bad_proofs, block.spoiled_runs), (6, 3, 1));
    let LaneState::Failed { reason } = &block.runs[5].state else { panic!("{:?}", block.runs[5]) };
    assert!(reason.ends_with("(3 runs ended so)"), "{reason}");
}

#[test]
fn a_replacement_stops_every_lane_and_nothing_of_the_old_epoch_counts() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    world.states(1, 0, 7).unwrap();
    world.command(Command::Replace(Submission { witness: blob("better"), ..submission(1) })).unwrap();
    assert_eq!(world.stopped(), [(0, 3)]);
    let old = RunId::new(chain_id(), 1, Epoch(1)).in_lane(1);
    let late = Outcome::Failed { reason: "late".to_owned() };
    assert_eq!(world.on(Event::RunEnded { run: old, outcome: late }), Err(Ignored::Stale));
    assert_eq!(world.lane_states(1), ["proving"; 3], "the old root does not count towards the new epoch's");
}

#[test]
fn proofs_that_state_different_things_halt_the_chain_until_the_block_is_retried() {
    let mut world = three(2, Rest::Finish);
    (1..=2).for_each(|number| world.submit(number));
    world.states(2, 0, 7).unwrap();
    world.states(2, 1, 7).unwrap();
    world.states(1, 0, 7).unwrap();
    world.states(1, 2, 8).unwrap();
    assert_eq!((world.halted_at(), world.finalized()), (Some(1), vec![]));
    // A third that agrees with one of them changes nothing.
    world.states(1, 1, 7).unwrap();
    assert_eq!((world.halted_at(), world.finalized()), (Some(1), vec![]));
    let lines: Vec<String> = world.blocks[&1].disagreement().unwrap().lines().collect();
    let expected = [("p0", 7), ("p1", 7), ("p2", 8)]
        .map(|(name, outputs)| format!("{name} says outputs {}", Sha256([outputs; 32])));
    assert_eq!(lines, expected);
    let resume = Command::Resume { chain: chain_id(), acknowledged: Some(at(1)) };
    assert_eq!(world.command(resume), Err(Ignored::Settled), "that alone is not enough");
    world.command(Command::Retry { chain: chain_id(), number: 1, epoch: None }).unwrap();
    assert_eq!((world.halted_at(), world.status(1)), (None, "proving"));
    for lane in 0..3 {
        let _ = world.states(1, lane, 7);
    }
    assert_eq!(world.finalized(), [1, 2]);
}

#[test]
fn splits_that_read_different_parents_disagree_too() {
    let mut world = three(2, Rest::Finish);
    world.on(Event::Submitted(Submission { parent_hash: None, ..submission(1) })).unwrap();
    for (lane, parent) in [(0, 0), (1, 5)] {
        let outcome = Outcome::Proven {
            pipeline: digest(lane),
            proof: proof(lane as u16),
            header: blob("header"),
            parent_hash: Some(hash(parent)),
            outputs: None,
        };
        world.lane(1, lane as u16, outcome).unwrap();
    }
    assert_eq!((world.halted_at(), world.finalized()), (Some(1), vec![]));
    world.command(Command::Skip { chain: chain_id(), number: 1, reason: "disputed".to_owned() }).unwrap();
    assert_eq!((world.halted_at(), world.finalized()), (None, vec![1]));
}

#[test]
fn a_late_proof_leaves_the_final_row_alone_and_stops_the_chain_only_if_it_says_something_else() {
    let mut world = three(2, Rest::Finish);
    (1..=3).for_each(|number| world.submit(number));
    for number in [1, 2] {
        world.states(number, 0, 7).unwrap();
        world.states(number, 1, 7).unwrap();
    }
    let rows = (world.blocks[&1].clone(), world.blocks[&2].clone());
    assert_eq!(world.states(1, 2, 7), Err(Ignored::Late));
    assert_eq!(world.lane_fails(1, 2), Err(Ignored::Late));
    assert_eq!(world.halted_at(), None);
    world.states(2, 2, 8).unwrap();
    assert_eq!(world.halted_at(), Some(2));
    assert_eq!(world.states(2, 2, 8), Err(Ignored::Settled));
    assert_eq!((&world.blocks[&1], &world.blocks[&2]), (&rows.0, &rows.1));
    for lane in [0, 1] {
        world.states(3, lane, 7).unwrap();
    }
    assert_eq!(world.finalized(), [1, 2], "nothing more becomes final");
    let of_another_fork = BlockId { number: 2, hash: Some(hash(99)) };
    let retry = Command::Retry { chain: chain_id(), number: 2, epoch: None };
    assert!(matches!(world.command(retry), Err(Ignored::NotFailed { .. })));
    for other in [None, Some(at(1)), Some(at(3)), Some(of_another_fork)] {
        let resume = Command::Resume { chain: chain_id(), acknowledged: other };
        assert_eq!(world.command(resume), Err(Ignored::Settled), "it is not what it was told of");
    }
    world.resume(2);
    assert_eq!((world.halted_at(), world.finalized()), (None, vec![1, 2, 3]));
    assert_eq!(world.states(2, 2, 8), Err(Ignored::Settled), "it is known, however often it comes");
    assert_eq!(world.halted_at(), None);
}

/// Blocks up to `last` are final by two of three provers, and the third has not come to anything.
fn final_up_to(last: u64) -> World {
    let mut world = three(2, Rest::Finish);
    world.config.window = 32;
    (1..=last).for_each(|number| world.submit(number));
    for number in 1..=last {
        world.states(number, 0, 7).unwrap();
        world.states(number, 1, 7).unwrap();
    }
    world
}

#[test]
fn a_second_late_disagreement_takes_no_others_place_and_each_is_acknowledged_for_itself() {
    let mut world = final_up_to(3);
    world.states(2, 2, 8).unwrap();
    world.states(1, 2, 9).unwrap();
    world.states(3, 2, 8).unwrap();
    assert_eq!((world.halted_at(), world.disputed()), (Some(2), vec![2, 1, 3]));
    for again in [(1, 9), (2, 8), (3, 8)] {
        assert_eq!(world.states(again.0, 2, again.1), Err(Ignored::Settled), "and each once");
    }
    world.submit(4);
    world.states(4, 0, 7).unwrap();
    world.states(4, 1, 7).unwrap();
    world.resume(2);
    assert_eq!((world.halted_at(), world.disputed()), (Some(1), vec![1, 3]), "the next one halts the chain");
    world.resume(3);
    assert_eq!((world.halted_at(), world.disputed()), (Some(1), vec![1]), "one that waited is settled while it waits");
    assert_eq!(world.finalized(), [1, 2, 3]);
    world.resume(1);
    assert_eq!((world.halted_at(), world.finalized()), (None, vec![1, 2, 3, 4]));
    assert_eq!(world.states(3, 2, 8), Err(Ignored::Settled), "known");
}

#[test]
fn late_provers_of_one_block_that_both_say_something_else_are_one_disagreement_with_all_their_words() {
    let mut world = three(1, Rest::Finish);
    world.submit(1);
    world.states(1, 0, 7).unwrap();
    world.states(1, 1, 8).unwrap();
    world.states(1, 2, 9).unwrap();
    assert_eq!(world.disputed(), [1]);
    let Some(Halt::Disagreement(found)) = &world.chain.halt else { panic!("not halted") };
    let said: Vec<&str> = found.says.iter().map(|says| says.pipeline.as_str()).collect();
    assert_eq!(said, ["p0", "p1", "p2"]);
    assert_eq!(world.states(1, 2, 9), Err(Ignored::Settled));
}

#[test]
fn disagreements_are_listed_up_to_a_bound_and_beyond_it_it_is_said_that_there_are_more() {
    let most = 1 + crate::record::MAX_DISPUTED as u64;
    let mut world = final_up_to(most + 2);
    for number in 1..=most {
        world.states(number, 2, 8).unwrap();
    }
    assert!(!world.chain.disputed_more);
    world.states(most + 1, 2, 8).unwrap();
    assert!(world.chain.disputed_more);
    assert_eq!(world.states(most + 2, 2, 8), Err(Ignored::Settled));
    assert_eq!(world.disputed(), (1..=most).collect::<Vec<_>>());
    // Whoever tells of it again finds room.
    world.resume(1);
    world.states(most + 1, 2, 8).unwrap();
    assert_eq!(world.disputed(), (2..=most + 1).collect::<Vec<_>>());
    (2..=most + 1).for_each(|number| world.resume(number));
    assert_eq!((world.halted_at(), world.chain.disputed_more), (None, false));
}

#[test]
fn an_acknowledged_disagreement_is_about_a_block_not_about_whatever_has_its_number() {
    let mut world = final_up_to(1);
    world.chain.acknowledged = vec![BlockId { number: 1, hash: Some(hash(99)) }];
    world.states(1, 2, 8).unwrap();
    assert_eq!(world.halted_at(), Some(1), "that one was another fork's");
    let mut world = final_up_to(1);
    world.chain.acknowledged = serde_json::from_str("[1]").unwrap();
    assert_eq!(world.states(1, 2, 8), Err(Ignored::Settled), "what an earlier build wrote has no hash");
}

#[test]
fn a_block_keeps_its_time_limit_for_the_rest_when_its_chain_goes_back_to_one_pipeline() {
    let mut world = final_up_to(1);
    assert_eq!(rest_limit(&world.blocks[&1], Some(&world.config)), Millis(1_000));
    world.config.provers.as_mut().unwrap().rest_limit = Millis(9);
    assert_eq!(rest_limit(&world.blocks[&1], Some(&world.config)), Millis(1_000), "as it began");
    world.config.provers = None;
    for config in [Some(&world.config), None] {
        assert_eq!(rest_limit(&world.blocks[&1], config), Millis(1_000));
    }
    assert_eq!(world.states(1, 2, 7), Err(Ignored::Late), "it may finish");
    // A row of before.
    world.blocks.get_mut(&1).unwrap().rest_limit = None;
    assert_eq!(rest_limit(&world.blocks[&1], Some(&world.config)), Provers::REST_LIMIT);
}

#[test]
fn what_a_slow_prover_came_to_before_finality_is_handed_on_too() {
    let mut world = three(2, Rest::Finish);
    (1..=2).for_each(|number| world.submit(number));
    for lane in [2, 1, 0] {
        world.states(2, lane, 7).unwrap();
    }
    world.states(1, 0, 7).unwrap();
    world.states(1, 1, 7).unwrap();
    let (pipeline, _, others) = world.handed_on();
    assert_eq!((world.finalized(), pipeline, others.len()), (vec![1, 2], digest(0), 2));
}

#[test]
fn a_pipeline_that_is_not_configured_any_more_fails_its_run_and_holds_nothing_up() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    let bad = Outcome::BadProof { message: "wrong root".to_owned(), suspects: vec![] };
    // The configuration changes while the effect is pending.
    let epoch = world.blocks[&1].epoch;
    let run = RunId::new(chain_id(), 1, epoch).in_lane(2);
    let event = Event::RunEnded { run, outcome: bad };
    let change = decide(&world.view(Some(&event)), &event, Millis(5), &world.config).unwrap();
    world.write(change);
    world.config.provers.as_mut().unwrap().pipelines.pop();
    world.on(Event::Tick).unwrap_err();
    assert_eq!(world.lane_states(1), ["proving", "proving", "begun anew", "failed"]);
    let LaneState::Failed { reason } = &world.blocks[&1].runs[3].state else { panic!("not failed") };
    assert!(reason.contains("p2") && reason.contains("not configured any more"), "{reason}");
    world.states(1, 0, 7).unwrap();
    world.states(1, 1, 7).unwrap();
    assert_eq!(world.finalized(), [1]);
}

#[test]
fn a_run_that_has_begun_goes_on_when_its_pipeline_is_not_configured_any_more() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    let bad = Outcome::BadProof { message: "wrong root".to_owned(), suspects: vec![] };
    let run = RunId::new(chain_id(), 1, world.blocks[&1].epoch).in_lane(2);
    let event = Event::RunEnded { run, outcome: bad };
    let change = decide(&world.view(Some(&event)), &event, Millis(5), &world.config).unwrap();
    world.write(change);
    // Another's than the one that is about to begin anew.
    world.config.provers.as_mut().unwrap().pipelines.remove(1);
    world.on(Event::Tick).unwrap_err();
    assert_eq!(world.lane_states(1), ["proving", "proving", "begun anew", "proving"]);
    world.states(1, 1, 7).unwrap();
    world.states(1, 3, 7).unwrap();
    assert_eq!(world.finalized(), [1]);
}

#[test]
fn provers_that_share_take_turns_and_a_run_begun_anew_is_the_next_ones() {
    let mut world = three(1, Rest::Finish);
    world.config.provers.as_mut().unwrap().mode = Mode::Share;
    world.submit(1);
    assert!(world.blocks[&1].runs.is_empty(), "one run");
    let turns: Vec<PipelineDigest> = (3..7).map(|number| world.config.pipeline_of(number, Epoch(1))).collect();
    assert_eq!(turns, [digest(0), digest(1), digest(2), digest(0)]);
    assert_eq!(world.config.pipeline_of(3, Epoch(2)), digest(1));
    world.prove(1);
    assert_eq!(world.finalized(), [1]);
}

#[test]
fn a_run_is_left_over_when_its_block_has_long_been_final_without_it() {
    let mut world = three(2, Rest::Finish);
    world.submit(1);
    world.states(1, 0, 7).unwrap();
    let limit = Millis(1_000);
    let ask = |world: &World, lane, now| is_left_over(&world.blocks[&1], lane, Millis(now), limit);
    assert!(!ask(&world, 2, 1_000_000), "its block waits for it");
    world.states(1, 1, 7).unwrap();
    assert!(!ask(&world, 2, 1_004) && ask(&world, 2, 1_005));
    assert!(!ask(&world, 0, 1_005) && !ask(&world, 9, 1_005));
}

#[test]
fn lanes_that_end_badly_for_ever_are_bounded() {
    let mut world = three(3, Rest::Finish);
    world.config.bad_proof_limit = 1_000;
    world.submit(1);
    let mut lane = 0;
    while world.status(1) == "proving" {
        let is_going_on = world.blocks[&1].runs[usize::from(lane)].is_proving();
        if is_going_on {
            world.lane(1, lane, Outcome::Spoiled { message: "x".repeat(5_000) }).unwrap();
        }
        lane += 1;
    }
    let row = &world.blocks[&1];
    assert_eq!((world.status(1), row.runs.len()), ("failed", crate::record::MAX_LANES));
    assert!(serde_json::to_string(row).unwrap().len() < 100_000);
}
