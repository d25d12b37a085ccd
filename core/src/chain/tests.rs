//! Decisions of a chain, by behaviour. `World` plays the drive loop: writes changes, performs nothing, keeps what was asked for.

mod edges;
mod reorg;

use std::collections::BTreeMap;

use super::*;
use crate::id::Sha256;
use crate::invariant;
use crate::record::{BatchRange, BlockStatus, Finality, Halt, Late, Missed, Suspect};

mod quorum;
mod view;

pub(super) struct World {
    pub(super) config: ChainConfig,
    pub(super) chain: ChainRow,
    pub(super) blocks: BTreeMap<u64, BlockRow>,
    pub(super) outbox: Vec<OutboxRow>,
    pub(super) performed: Vec<PendingEffect>,
    batches: Vec<BatchRow>,
    /// Batch chain and number, as it was told.
    told: Vec<(String, u64)>,
    pub(super) now: Millis,
}

pub(super) fn hash(byte: u8) -> BlockHash {
    BlockHash([byte; 32])
}

pub(super) fn blob(name: &str) -> BlobRef {
    BlobRef { key: name.to_owned(), sha256: Sha256::of(name.as_bytes()), size: 1 }
}

pub(super) fn chain_id() -> ChainId {
    "demo".parse().unwrap()
}

/// Block `number` with hash `number` and parent `number - 1`.
pub(super) fn submission(number: u64) -> Submission {
    Submission {
        chain: chain_id(),
        number,
        hash: hash(number as u8),
        parent_hash: Some(hash(number as u8 - 1)),
        witness: blob("witness"),
        fork_seq: None,
        deadline: None,
    }
}

impl World {
    pub(super) fn new(window: u32) -> Self {
        let digest = PipelineDigest([9; 32]);
        let config = ChainConfig { window, first_parent: Some(hash(0)), ..ChainConfig::new(chain_id(), digest) };
        let chain = config.new_row();
        Self {
            config,
            chain,
            blocks: BTreeMap::new(),
            outbox: Vec::new(),
            performed: Vec::new(),
            batches: Vec::new(),
            told: Vec::new(),
            now: Millis(5),
        }
    }

    /// What the drive loop would read: the rows that are wanted, and no others.
    pub(super) fn view(&self, event: Option<&Event>) -> View {
        let wanted = match View::wants(&self.chain, event) {
            Wants::Numbers(numbers) => numbers,
            Wants::From(number, most) => self.blocks.range(number..).map(|(number, _)| *number).take(most).collect(),
        };
        let read = |number: u64| Some((number, self.blocks.get(&number)?.clone()));
        let blocks = wanted.into_iter().filter_map(read).collect();
        let mut view = View { chain: self.chain.clone(), blocks, published: self.chain.next_seq - 1 };
        let lacks = view.lacks(event, &self.config);
        view.blocks.extend(lacks.and_then(read));
        view
    }

    pub(super) fn write(&mut self, change: Change) {
        for block in change.block.into_iter().chain(change.more) {
            invariant::block(self.blocks.get(&block.number), &block).unwrap();
            self.blocks.insert(block.number, block);
        }
        if let Some(chain) = change.chain {
            invariant::chain(Some(&self.chain), &chain).unwrap();
            self.chain = chain;
        }
        if let Some(row) = change.batch {
            invariant::batch(&self.chain, &row).unwrap();
            self.batches.push(row);
        }
        if let Some(row) = change.outbox {
            invariant::outbox(&self.chain, &row).unwrap();
            self.outbox.push(row);
        }
    }

    /// Decides and then advances until nothing is left.
    pub(super) fn on(&mut self, event: Event) -> Result<(), Ignored> {
        while self.chain.walk.is_some() {
            assert!(self.step(), "a walk goes on until it has ended");
        }
        let answer = decide(&self.view(Some(&event)), &event, self.now, &self.config);
        let answer = answer.map(|change| self.write(change));
        while self.step() {}
        answer
    }

    /// One step of what the state asks for; whether there was one.
    fn step(&mut self) -> bool {
        match advance(&self.view(None), self.now, &self.config) {
            None => return false,
            Some(Step::Write(change)) => self.write(*change),
            Some(Step::Perform { effect, then }) => {
                self.performed.push(effect);
                self.chain = *then;
            }
            Some(Step::Publish { seq }) => panic!("{seq} is published already"),
            Some(Step::TellBatch { chain, number, then }) => {
                self.told.push((chain.to_string(), number));
                invariant::chain(Some(&self.chain), &then).unwrap();
                self.chain = *then;
            }
        }
        true
    }

    pub(super) fn submit(&mut self, number: u64) {
        self.on(Event::Submitted(submission(number))).unwrap();
    }

    pub(super) fn end(&mut self, number: u64, outcome: Outcome) -> Result<(), Ignored> {
        let epoch = self.blocks[&number].epoch;
        self.on(Event::RunEnded { run: RunId::new(chain_id(), number, epoch), outcome })
    }

    pub(super) fn prove(&mut self, number: u64) {
        let pipeline = self.config.pipeline;
        let parent_hash = self.blocks[&number].parent_hash;
        let outcome =
            Outcome::Proven { pipeline, proof: blob("proof"), header: blob("header"), parent_hash, outputs: None };
        self.end(number, outcome).unwrap();
    }

    pub(super) fn fail(&mut self, number: u64) {
        self.end(number, Outcome::Failed { reason: "broken".to_owned() }).unwrap();
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), Ignored> {
        self.on(Event::Command(command))
    }

    pub(super) fn status(&self, number: u64) -> &'static str {
        self.blocks[&number].status.name()
    }

    pub(super) fn started(&self) -> Vec<(u64, u32)> {
        let starts = self.performed.iter().filter_map(|effect| match effect {
            PendingEffect::Start { number, epoch, .. } => Some((*number, epoch.0)),
            PendingEffect::Stop { .. } | PendingEffect::Arm { .. } | PendingEffect::Demote { .. } => None,
        });
        starts.collect()
    }

    pub(super) fn finalized(&self) -> Vec<u64> {
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
    assert!(world.performed.contains(&PendingEffect::Stop { number: 1, epoch: Epoch(1), from: 0, lanes: 1 }));
    let old = RunId::new(chain_id(), 1, Epoch(1));
    let late = Outcome::Failed { reason: "late".to_owned() };
    assert_eq!(world.on(Event::RunEnded { run: old, outcome: late }), Err(Ignored::Stale));
    assert_eq!(world.on(Event::Submitted(submission(1))), Err(Ignored::Stale));
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
    assert!(world.performed.contains(&PendingEffect::Stop { number: 1, epoch: Epoch(1), from: 0, lanes: 1 }));
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
    assert_eq!(world.started(), [(1, 1)], "it is not even proven");
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
    world.command(Command::Resume { chain: chain_id(), acknowledged: None }).unwrap();
    assert_eq!(world.started(), [(1, 1), (2, 1)]);
    assert_eq!(world.command(Command::Resume { chain: chain_id(), acknowledged: None }), Err(Ignored::Settled));
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
fn a_narrower_window_releases_nothing_until_what_is_beyond_it_is_final() {
    let mut world = World::new(4);
    (1..=8).for_each(|number| world.submit(number));
    assert_eq!(world.started().len(), 4);
    world.command(Command::Window { chain: chain_id(), window: 2 }).unwrap();
    // In any order, as proofs come.
    for (number, started) in [(2, 4), (4, 4), (1, 4), (3, 6)] {
        world.prove(number);
        assert_eq!(world.started().len(), started, "after block {number}");
    }
    assert_eq!((world.status(5), world.status(6), world.status(7)), ("proving", "proving", "parked"));
    world.command(Command::Window { chain: chain_id(), window: 1 }).unwrap();
    world.prove(5);
    assert_eq!(world.status(7), "parked", "block 6 is still being proven");
    world.prove(6);
    assert_eq!((world.status(7), world.status(8)), ("proving", "parked"));
}

#[test]
fn a_window_changed_during_a_pause_counts_from_its_end() {
    let mut world = World::new(2);
    (1..=6).for_each(|number| world.submit(number));
    world.command(Command::Pause { chain: chain_id() }).unwrap();
    world.command(Command::Window { chain: chain_id(), window: 3 }).unwrap();
    world.prove(2);
    world.prove(1);
    assert_eq!(
        (world.finalized(), world.started().len()),
        (vec![1, 2], 2),
        "what runs is finished, nothing else begun"
    );
    world.submit(7);
    assert_eq!(world.status(7), "parked", "being early is refused by no pause");
    world.command(Command::Resume { chain: chain_id(), acknowledged: None }).unwrap();
    assert_eq!(world.started().len(), 5);
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
    let stale = PendingEffect::Start { number: 1, epoch: Epoch(7), from: 0 };
    assert!(!is_current(stale, world.blocks.get(&1)));
    assert!(is_current(PendingEffect::Start { number: 1, epoch: Epoch(1), from: 0 }, world.blocks.get(&1)));
    world.blocks.get_mut(&1).unwrap().status = BlockStatus::Skipped { reason: String::new() };
    assert!(!is_current(PendingEffect::Start { number: 1, epoch: Epoch(1), from: 0 }, world.blocks.get(&1)));
}

#[test]
fn an_effect_is_performed_while_its_block_is_as_it_was() {
    let mut world = World::new(4);
    world.submit(1);
    let proving = world.blocks[&1].clone();
    let demote = PendingEffect::Demote { number: 1, epoch: Epoch(1) };
    assert!(is_current(demote, Some(&proving)));
    for other in [
        BlockRow { epoch: Epoch(2), ..proving.clone() },
        BlockRow { status: BlockStatus::Proven, ..proving.clone() },
        BlockRow { epoch: Epoch(2), status: BlockStatus::Proven, ..proving.clone() },
    ] {
        assert!(!is_current(demote, Some(&other)), "{other:?}");
    }
    let start = PendingEffect::Start { number: 1, epoch: Epoch(1), from: 0 };
    assert!(!is_current(start, Some(&BlockRow { final_seq: Some(1), ..proving.clone() })));

    let arm = PendingEffect::Arm { number: 1 };
    let missed = Some(Missed { at: Millis(9), then: Late::Continue });
    let due = BlockRow { deadline: Some(Millis(9)), ..proving.clone() };
    assert!(is_current(arm, Some(&due)));
    for other in [
        proving,
        BlockRow { final_seq: Some(1), ..due.clone() },
        BlockRow { missed, ..due.clone() },
        BlockRow { final_seq: Some(1), missed, deadline: None, ..due },
    ] {
        assert!(!is_current(arm, Some(&other)), "{other:?}");
    }
    for effect in [start, demote, arm] {
        assert!(!is_current(effect, None));
    }
}

#[test]
fn an_outbox_row_is_published_after_effects_and_before_anything_else() {
    let mut world = World::new(4);
    world.finalize(1..=2);
    world.blocks.insert(3, BlockRow { status: BlockStatus::Parked, number: 3, ..world.blocks[&2].clone() });
    let next = |published: u64, pending: Vec<PendingEffect>| {
        let view = View { published, chain: ChainRow { pending, ..world.chain.clone() }, ..world.view(None) };
        advance(&view, world.now, &world.config)
    };
    assert!(matches!(next(0, vec![]), Some(Step::Publish { seq: 1 })));
    assert!(matches!(next(1, vec![]), Some(Step::Publish { seq: 2 })));
    assert!(!matches!(next(2, vec![]), Some(Step::Publish { .. })), "there is no third row");
    assert!(matches!(next(1, vec![PendingEffect::Arm { number: 3 }]), Some(Step::Perform { .. })));
}

/// A source of which `size` blocks are a batch.
fn source(size: u32, wait: Option<u64>) -> World {
    let mut world = World::new(8);
    world.derive("batches", size, wait);
    world
}

impl World {
    fn derive(&mut self, chain: &str, size: u32, wait: Option<u64>) {
        let batching = Batching { of: chain_id(), size, wait: wait.map(Millis) };
        self.config.derived.insert(chain.parse().unwrap(), batching);
    }

    fn finalize(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.submit(number);
            self.prove(number);
        }
    }

    /// Number, first and last block of each batch.
    fn ranges(&self, chain: &str) -> Vec<(u64, u64, u64)> {
        let of_chain = self.batches.iter().filter(|row| row.chain.as_str() == chain);
        of_chain.map(|row| (row.number, row.range.from, row.range.to)).collect()
    }

    fn tick(&mut self, at: u64) {
        self.now = Millis(at);
        assert_eq!(self.on(Event::Tick), Err(Ignored::Settled));
    }
}

#[test]
fn a_batch_is_fixed_and_told_once_when_the_cursor_has_passed_its_end() {
    let mut world = source(3, None);
    for number in [2, 3, 4, 5, 6, 7, 8] {
        world.submit(number);
    }
    for number in [2, 3, 4, 5, 6, 7] {
        world.prove_if_started(number);
    }
    assert_eq!(world.ranges("batches"), [], "nothing is final");
    world.submit(1);
    for number in 1..=7 {
        world.prove_if_started(number);
    }
    assert_eq!(world.finalized(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.ranges("batches"), [(1, 1, 3), (2, 4, 6)]);
    let told = [("batches".to_owned(), 1), ("batches".to_owned(), 2)];
    assert_eq!(world.told, told);
    world.tick(1_000_000);
    assert_eq!((world.told.len(), world.batches.len()), (2, 2), "without a wait the rest stays");
}

impl World {
    fn prove_if_started(&mut self, number: u64) {
        if self.blocks.get(&number).is_some_and(|block| block.status == BlockStatus::Proving) {
            self.prove(number);
        }
    }
}

#[test]
fn a_batch_that_is_not_full_is_fixed_when_its_first_block_has_been_final_for_the_wait() {
    let mut world = source(4, Some(100));
    world.tick(1_000);
    assert_eq!(world.ranges("batches"), [], "there is nothing to wait for");
    assert_eq!(world.chain.batches, [], "and no clock that runs");
    world.now = Millis(1_020);
    world.finalize(1..=1);
    world.now = Millis(1_050);
    world.finalize(2..=2);
    world.tick(1_119);
    assert_eq!(world.ranges("batches"), []);
    world.tick(1_120);
    assert_eq!(world.ranges("batches"), [(1, 1, 2)]);
    world.now = Millis(1_150);
    world.finalize(3..=6);
    assert_eq!(world.ranges("batches"), [(1, 1, 2), (2, 3, 6)], "a full one waits for nothing");
    world.tick(9_999);
    assert_eq!(world.batches.len(), 2, "and the clock of the next one has not begun");
    assert_eq!(world.chain.batches[0].since, None);
    assert_eq!(world.told.len(), 2);
}

#[test]
fn several_chains_are_derived_from_one_source_each_at_its_own_size() {
    let mut world = source(2, None);
    world.derive("singles", 1, None);
    world.finalize(1..=5);
    assert_eq!(world.ranges("batches"), [(1, 1, 2), (2, 3, 4)]);
    assert_eq!(world.ranges("singles"), (1..=5).map(|number| (number, number, number)).collect::<Vec<_>>());
    // One that comes later begins with the source's first block.
    world.derive("late", 4, None);
    world.tick(10);
    assert_eq!(world.ranges("late"), [(1, 1, 4)]);
    assert_eq!(world.told.iter().filter(|(chain, _)| chain == "late").count(), 1);
}

#[test]
fn a_batch_is_derived_from_the_stream_alone_and_a_skipped_block_is_a_hole() {
    let mut world = source(3, None);
    world.finalize(1..=4);
    world.command(Command::Skip { chain: chain_id(), number: 5, reason: "lost".to_owned() }).unwrap();
    world.finalize(6..=6);
    let rows = |row: &BatchRow| world.outbox[row.range.from as usize - 1..row.range.to as usize].to_vec();
    let [whole, holed] = &world.batches[..] else { panic!("{:?}", world.batches) };
    let manifest = derive(whole, &rows(whole)).unwrap().unwrap();
    assert_eq!(manifest, derive(whole, &rows(whole)).unwrap().unwrap());
    let numbers: Vec<_> = manifest.blocks.iter().map(|block| (block.number, block.hash, block.parent_hash)).collect();
    assert_eq!(numbers, [1, 2, 3].map(|number| (number.into(), hash(number), Some(hash(number - 1)))));
    assert_eq!((manifest.from, manifest.to, manifest.chain.as_str()), (1, 3, "demo"));
    assert_eq!(hashes(&rows(whole)), (Some(hash(3)), Some(hash(0))));
    let why = derive(holed, &rows(holed)).unwrap().unwrap_err();
    assert!(why.contains("block 5 of demo") && why.contains("lost"), "{why}");
    assert_eq!(hashes(&rows(holed)), (Some(hash(6)), Some(hash(3))));
    let ends_in_hole = &rows(holed)[..2];
    assert_eq!(hashes(ends_in_hole), (None, Some(hash(3))), "what was left out is nobody's parent");
    assert_eq!(hashes(&rows(holed)[1..]), (Some(hash(6)), None));
    for wrong in [&rows(holed)[1..], &rows(holed)[..2], &rows(whole)[..], &[]] {
        assert!(derive(holed, wrong).is_err(), "another part of the stream");
    }
}

/// A batch chain, and what it is told of.
fn batch_chain() -> World {
    let mut world = World::new(2);
    world.config.batch = Some(Batching { of: "source".parse().unwrap(), size: 2, wait: None });
    world
}

fn batch(number: u64, content: Content) -> Event {
    let range = BatchRange { of: "source".parse().unwrap(), from: 2 * number - 1, to: 2 * number };
    let hash_of = |number: u64| Some(hash(number as u8));
    Event::Batched(Batch { number, range, hash: hash_of(number), parent_hash: hash_of(number - 1), content })
}

#[test]
fn batches_are_admitted_once_proven_in_the_window_and_finalized_with_their_range() {
    let mut world = batch_chain();
    let whole = |number| batch(number, Content::Witness(blob("manifest")));
    world.on(whole(2)).unwrap();
    world.on(whole(1)).unwrap();
    assert_eq!(world.on(whole(1)), Err(Ignored::Settled));
    assert_eq!(world.started(), [(1, 1), (2, 1)]);
    world.prove(1);
    assert_eq!(world.on(whole(1)), Err(Ignored::Settled), "also when it is final");
    world.prove(2);
    let ranges: Vec<_> = world.outbox.iter().map(|row| row.batch.as_ref().unwrap().to_string()).collect();
    assert_eq!(ranges, ["source 1..2", "source 3..4"]);
}

#[test]
fn nobody_submits_replaces_or_skips_ahead_on_a_batch_chain() {
    let mut world = batch_chain();
    let derived = Err(Ignored::Derived { of: "source".parse().unwrap() });
    assert_eq!(world.on(Event::Submitted(submission(1))), derived);
    assert_eq!(world.command(Command::Replace(submission(1))), derived);
    let skip = Command::Skip { chain: chain_id(), number: 1, reason: "r".to_owned() };
    assert_eq!(world.command(skip), Err(Ignored::Unknown));
    assert_eq!(world.blocks.len(), 0);
}

#[test]
fn a_batch_with_a_hole_is_passed_in_the_window_and_not_in_a_pause() {
    let hole = |number| batch(number, Content::Hole("P0-030: a block was left out".to_owned()));
    let release_point = |world: &World| world.chain.next_release;
    let mut world = batch_chain();
    for number in 1..=3 {
        world.on(hole(number)).unwrap();
    }
    assert_eq!(release_point(&world), 3, "the window is two");
    world.command(Command::Pause { chain: chain_id() }).unwrap();
    world.command(Command::Skip { chain: chain_id(), number: 1, reason: "has a hole".to_owned() }).unwrap();
    assert_eq!((world.finalized(), release_point(&world)), (vec![1], 3), "in a pause");
    world.command(Command::Resume { chain: chain_id(), acknowledged: None }).unwrap();
    assert_eq!(release_point(&world), 4);
}

#[test]
fn a_batch_with_a_hole_fails_holds_back_finality_alone_and_can_only_be_skipped() {
    let mut world = batch_chain();
    let whole = |number| batch(number, Content::Witness(blob("manifest")));
    world.on(whole(1)).unwrap();
    world.on(batch(2, Content::Hole("P0-030: block 3 was left out".to_owned()))).unwrap();
    world.on(whole(3)).unwrap();
    assert_eq!(world.status(2), "failed");
    world.prove(1);
    assert_eq!(world.started(), [(1, 1), (3, 1)], "what is behind it is proven, within the window");
    world.prove(3);
    assert_eq!(world.finalized(), [1]);
    let retry = Command::Retry { chain: chain_id(), number: 2, epoch: None };
    assert_eq!(world.command(retry), Err(Ignored::Hole { number: 2 }));
    world.command(Command::Skip { chain: chain_id(), number: 2, reason: "has a hole".to_owned() }).unwrap();
    assert_eq!(world.finalized(), [1, 2, 3]);
    assert!(matches!(&world.outbox[1].finality, Finality::Tombstone { .. }) && world.outbox[1].batch.is_some());
}
