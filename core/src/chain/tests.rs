//! Decisions of a chain, by behaviour. `World` plays the drive loop: writes changes, performs nothing, keeps what was asked for.

use std::collections::BTreeMap;

use super::*;
use crate::id::Sha256;
use crate::invariant;
use crate::record::{BlockStatus, Finality, Halt, Suspect};

struct World {
    config: ChainConfig,
    chain: ChainRow,
    blocks: BTreeMap<u64, BlockRow>,
    outbox: Vec<OutboxRow>,
    performed: Vec<PendingEffect>,
}

fn hash(byte: u8) -> BlockHash {
    BlockHash([byte; 32])
}

fn blob(name: &str) -> BlobRef {
    BlobRef { key: name.to_owned(), sha256: Sha256::of(name.as_bytes()), size: 1 }
}

fn chain_id() -> ChainId {
    "demo".parse().unwrap()
}

/// Block `number` with hash `number` and parent `number - 1`.
fn submission(number: u64) -> Submission {
    Submission {
        chain: chain_id(),
        number,
        hash: hash(number as u8),
        parent_hash: Some(hash(number as u8 - 1)),
        witness: blob("witness"),
        fork_seq: None,
    }
}

impl World {
    fn new(window: u32) -> Self {
        let digest = PipelineDigest([9; 32]);
        let config = ChainConfig { window, first_parent: Some(hash(0)), ..ChainConfig::new(chain_id(), digest) };
        let chain = config.new_row();
        Self { config, chain, blocks: BTreeMap::new(), outbox: Vec::new(), performed: Vec::new() }
    }

    fn view(&self) -> View {
        View { chain: self.chain.clone(), blocks: self.blocks.clone(), published: self.chain.next_seq - 1 }
    }

    fn write(&mut self, change: Change) {
        if let Some(block) = change.block {
            invariant::block(self.blocks.get(&block.number), &block).unwrap();
            self.blocks.insert(block.number, block);
        }
        if let Some(chain) = change.chain {
            invariant::chain(Some(&self.chain), &chain).unwrap();
            self.chain = chain;
        }
        if let Some(row) = change.outbox {
            invariant::outbox(&self.chain, &row).unwrap();
            self.outbox.push(row);
        }
    }

    /// Decides and then advances until nothing is left.
    fn on(&mut self, event: Event) -> Result<(), Ignored> {
        let answer = decide(&self.view(), &event, Millis(5), &self.config);
        let answer = answer.map(|change| self.write(change));
        while let Some(step) = advance(&self.view(), Millis(5), &self.config) {
            match step {
                Step::Write(change) => self.write(*change),
                Step::Perform { effect, then } => {
                    self.performed.push(effect);
                    self.chain = *then;
                }
                Step::Publish { seq } => panic!("{seq} is published already"),
            }
        }
        answer
    }

    fn submit(&mut self, number: u64) {
        self.on(Event::Submitted(submission(number))).unwrap();
    }

    fn end(&mut self, number: u64, outcome: Outcome) -> Result<(), Ignored> {
        let epoch = self.blocks[&number].epoch;
        self.on(Event::RunEnded { run: RunId::new(chain_id(), number, epoch), outcome })
    }

    fn prove(&mut self, number: u64) {
        let pipeline = self.config.pipeline;
        let parent_hash = self.blocks[&number].parent_hash;
        let outcome = Outcome::Proven { pipeline, proof: blob("proof"), header: blob("header"), parent_hash };
        self.end(number, outcome).unwrap();
    }

    fn fail(&mut self, number: u64) {
        self.end(number, Outcome::Failed { reason: "broken".to_owned() }).unwrap();
    }

    fn command(&mut self, command: Command) -> Result<(), Ignored> {
        self.on(Event::Command(command))
    }

    fn status(&self, number: u64) -> &'static str {
        self.blocks[&number].status.name()
    }

    fn started(&self) -> Vec<(u64, u32)> {
        let starts = self.performed.iter().filter_map(|effect| match effect {
            PendingEffect::Start { number, epoch } => Some((*number, epoch.0)),
            PendingEffect::Stop { .. } => None,
        });
        starts.collect()
    }

    fn finalized(&self) -> Vec<u64> {
        self.outbox.iter().map(|row| row.number).collect()
    }
}

#[test]
fn blocks_submitted_out_of_order_start_and_finalize_in_order() {
    let mut world = World::new(4);
    for number in [3, 1, 2] {
        world.submit(number);
    }
    assert_eq!(world.started(), [(1, 1), (2, 1), (3, 1)]);
    for number in [2, 3] {
        world.prove(number);
    }
    assert_eq!(world.finalized(), [0u64; 0], "nothing is final before its predecessor");
    world.prove(1);
    assert_eq!(world.finalized(), [1, 2, 3]);
    assert_eq!(world.chain.last_hash, Some(hash(3)));
}

#[test]
fn a_block_is_parked_until_its_predecessor_is_there_and_the_window_allows() {
    let mut world = World::new(1);
    world.submit(2);
    assert_eq!((world.status(2), world.started().len()), ("parked", 0));
    world.submit(1);
    assert_eq!(world.started(), [(1, 1)], "a window of 1 is strictly one after the other");
    world.prove(1);
    assert_eq!(world.started(), [(1, 1), (2, 1)]);
}

#[test]
fn a_submission_again_changes_nothing_and_a_different_one_is_only_a_contender() {
    let mut world = World::new(4);
    world.submit(1);
    assert_eq!(world.on(Event::Submitted(submission(1))), Err(Ignored::Settled));
    let other = Submission { hash: hash(77), ..submission(1) };
    world.on(Event::Submitted(other.clone())).unwrap();
    assert_eq!(world.on(Event::Submitted(other)), Err(Ignored::Settled));
    let block = &world.blocks[&1];
    assert_eq!((block.hash, block.epoch, block.contenders_seen), (Some(hash(1)), Epoch(1), 1));
    assert_eq!(world.started(), [(1, 1)], "no second run");
}

#[test]
fn a_later_fork_with_a_known_parent_supersedes_and_stops_the_old_run() {
    let mut world = World::new(4);
    world.submit(1);
    let fork = |fork_seq, parent_hash| Submission { hash: hash(77), fork_seq, parent_hash, ..submission(1) };
    world.on(Event::Submitted(fork(Some(1), None))).unwrap();
    assert_eq!(world.blocks[&1].epoch, Epoch(1), "without a parent hash it is a contender");
    world.on(Event::Submitted(fork(Some(1), Some(hash(0))))).unwrap();
    assert_eq!(world.blocks[&1].hash, Some(hash(77)));
    assert_eq!(world.started(), [(1, 1), (1, 2)]);
    assert!(world.performed.contains(&PendingEffect::Stop { number: 1, epoch: Epoch(1) }));
    let old = RunId::new(chain_id(), 1, Epoch(1));
    let late = Outcome::Failed { reason: "late".to_owned() };
    assert_eq!(world.on(Event::RunEnded { run: old, outcome: late }), Err(Ignored::Stale));
    world.on(Event::Submitted(submission(1))).unwrap();
    assert_eq!(world.blocks[&1].hash, Some(hash(77)), "a hash seen before never supersedes by coming again");
}

#[test]
fn a_failed_block_stops_finalization_and_a_retry_gets_it_moving() {
    let mut world = World::new(4);
    (1..=3).for_each(|number| world.submit(number));
    world.prove(2);
    world.fail(1);
    assert_eq!(world.finalized(), [0u64; 0]);
    let retry = |number| Command::Retry { chain: chain_id(), number, epoch: None };
    assert_eq!(world.command(retry(2)), Err(Ignored::NotFailed { number: 2, status: "proven" }));
    world.command(retry(1)).unwrap();
    assert_eq!(world.command(retry(1)), Err(Ignored::NotFailed { number: 1, status: "proving" }));
    assert_eq!(world.started().last(), Some(&(1, 2)));
    world.prove(1);
    assert_eq!(world.finalized(), [1, 2]);
}

#[test]
fn a_run_that_is_named_is_begun_anew_once_even_while_it_runs() {
    let mut world = World::new(4);
    world.submit(1);
    let retry = || Command::Retry { chain: chain_id(), number: 1, epoch: Some(Epoch(1)) };
    world.command(retry()).unwrap();
    assert_eq!(world.command(retry()), Err(Ignored::Stale));
    assert_eq!(world.started(), [(1, 1), (1, 2)]);
    assert!(world.performed.contains(&PendingEffect::Stop { number: 1, epoch: Epoch(1) }));
}

#[test]
fn a_skipped_block_is_a_tombstone_whose_hash_still_counts_as_a_parent() {
    let mut world = World::new(4);
    (1..=2).for_each(|number| world.submit(number));
    world.prove(2);
    world.fail(1);
    world.command(Command::Skip { chain: chain_id(), number: 1, reason: "lost".to_owned() }).unwrap();
    assert_eq!(world.finalized(), [1, 2]);
    assert_eq!(world.outbox[0].finality, Finality::Tombstone { reason: "lost".to_owned() });
    assert_eq!(world.status(1), "skipped");
    let again = Command::Skip { chain: chain_id(), number: 1, reason: "again".to_owned() };
    assert_eq!(world.command(again), Err(Ignored::Final { number: 1 }));
}

#[test]
fn a_number_nothing_was_submitted_for_can_be_skipped() {
    let mut world = World::new(1);
    world.submit(2);
    world.command(Command::Skip { chain: chain_id(), number: 1, reason: "never came".to_owned() }).unwrap();
    assert_eq!(world.finalized(), [1]);
    assert_eq!(world.started(), [(2, 1)]);
}

#[test]
fn a_block_that_names_another_parent_halts_the_chain_until_it_is_replaced() {
    let mut world = World::new(4);
    world.submit(1);
    world.on(Event::Submitted(Submission { parent_hash: Some(hash(55)), ..submission(2) })).unwrap();
    world.prove(2);
    world.prove(1);
    assert_eq!(world.finalized(), [1]);
    let halt = Halt::ParentMismatch { number: 2, names: hash(55), last: hash(1) };
    assert_eq!(world.chain.halt, Some(halt));
    world.command(Command::Replace(submission(2))).unwrap();
    assert_eq!(world.chain.halt, None);
    world.prove(2);
    assert_eq!(world.finalized(), [1, 2]);
}

#[test]
fn skipping_a_block_of_another_branch_lets_nothing_through_that_was_built_on_it() {
    let mut world = World::new(8);
    // Blocks 2 to 5 are of a branch whose block 1 is another than the one that gets final.
    let branch = |number: u64, parent: u8| Submission {
        hash: hash(100 + number as u8),
        parent_hash: Some(hash(parent)),
        ..submission(number)
    };
    world.submit(1);
    for (number, parent) in [(2, 101), (3, 102), (4, 103), (5, 104)] {
        world.on(Event::Submitted(branch(number, parent))).unwrap();
        world.prove(number);
    }
    world.prove(1);
    for number in [2, 3, 4] {
        assert!(world.chain.halt.is_some());
        let reason = "wrong branch".to_owned();
        world.command(Command::Skip { chain: chain_id(), number, reason }).unwrap();
    }
    assert_eq!(world.finalized(), [1, 2, 3, 4], "three tombstones, and not block 5");
    assert_eq!(world.chain.halt, Some(Halt::OrphanParent { number: 5, names: hash(104) }));
    // The right block 5, whose parent was never seen.
    world.command(Command::Replace(submission(5))).unwrap();
    world.prove(5);
    assert_eq!(world.finalized(), [1, 2, 3, 4, 5]);
    assert!(world.chain.orphans.is_empty());
}

#[test]
fn a_replacement_runs_once_however_often_the_command_comes() {
    let mut world = World::new(4);
    world.submit(1);
    world.fail(1);
    let replacement = Submission { witness: blob("better"), ..submission(1) };
    world.command(Command::Replace(replacement.clone())).unwrap();
    assert_eq!(world.command(Command::Replace(replacement)), Err(Ignored::Settled));
    assert_eq!(world.started(), [(1, 1), (1, 2)]);
}

#[test]
fn a_bad_proof_starts_a_new_run_a_bounded_number_of_times() {
    let mut world = World::new(4);
    world.submit(1);
    let suspect = Suspect { stage: 1, worker: "w1".parse().unwrap() };
    let bad = || Outcome::BadProof { message: "wrong root".to_owned(), suspects: vec![suspect.clone()] };
    for _ in 0..world.config.bad_proof_limit {
        world.end(1, bad()).unwrap();
        assert_eq!(world.status(1), "proving");
    }
    world.end(1, bad()).unwrap();
    assert_eq!(world.status(1), "failed");
    assert_eq!(world.started(), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(world.blocks[&1].suspects, [suspect], "known to the next run, and once");
}

#[test]
fn a_spoiled_run_is_followed_by_another_a_bounded_number_of_times_and_counts_apart_from_bad_proofs() {
    let mut world = World::new(4);
    world.submit(1);
    let spoiled = || Outcome::Spoiled { message: "segment 3 is damaged".to_owned() };
    world.end(1, Outcome::BadProof { message: "wrong root".to_owned(), suspects: vec![] }).unwrap();
    for _ in 0..world.config.bad_proof_limit {
        world.end(1, spoiled()).unwrap();
        assert_eq!(world.status(1), "proving");
    }
    world.end(1, spoiled()).unwrap();
    assert_eq!(world.status(1), "failed");
    assert_eq!(world.started(), [(1, 1), (1, 2), (1, 3), (1, 4)]);
}

#[test]
fn a_pause_releases_nothing_and_lets_what_runs_finish() {
    let mut world = World::new(1);
    (1..=2).for_each(|number| world.submit(number));
    world.command(Command::Pause { chain: chain_id() }).unwrap();
    world.prove(1);
    assert_eq!((world.finalized(), world.started()), (vec![1], vec![(1, 1)]));
    world.command(Command::Resume { chain: chain_id() }).unwrap();
    assert_eq!(world.started(), [(1, 1), (2, 1)]);
    assert_eq!(world.command(Command::Resume { chain: chain_id() }), Err(Ignored::Settled));
}

#[test]
fn a_wider_window_releases_at_once() {
    let mut world = World::new(1);
    (1..=3).for_each(|number| world.submit(number));
    world.command(Command::Window { chain: chain_id(), window: 3 }).unwrap();
    assert_eq!(world.started().len(), 3);
    let too_wide = Command::Window { chain: chain_id(), window: 257 };
    assert_eq!(world.command(too_wide), Err(Ignored::Window(257)));
}

#[test]
fn what_is_out_of_reach_or_final_is_refused_with_the_reason() {
    let mut world = World::new(4);
    let below = Submission { number: 0, ..submission(1) };
    assert_eq!(world.on(Event::Submitted(below)), Err(Ignored::BelowFirst { number: 0, first: 1 }));
    let far = Submission { number: 100_002, ..submission(1) };
    assert!(matches!(world.on(Event::Submitted(far)), Err(Ignored::TooFar { .. })));
    world.submit(1);
    world.prove(1);
    let other = Submission { hash: hash(77), fork_seq: Some(9), ..submission(1) };
    assert_eq!(world.on(Event::Submitted(other.clone())), Err(Ignored::Final { number: 1 }));
    assert_eq!(world.command(Command::Replace(other)), Err(Ignored::Final { number: 1 }));
}

#[test]
fn an_effect_of_an_overtaken_run_is_not_performed() {
    let mut world = World::new(4);
    world.submit(1);
    let stale = PendingEffect::Start { number: 1, epoch: Epoch(7) };
    assert!(!is_current(stale, world.blocks.get(&1)));
    assert!(is_current(PendingEffect::Start { number: 1, epoch: Epoch(1) }, world.blocks.get(&1)));
    world.blocks.get_mut(&1).unwrap().status = BlockStatus::Skipped { reason: String::new() };
    assert!(!is_current(PendingEffect::Start { number: 1, epoch: Epoch(1) }, world.blocks.get(&1)));
}
