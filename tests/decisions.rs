//! What comes of every event in every state, of a block and of a chain: also where no operator and no accident brings the two together.

use std::collections::BTreeSet;

use push0_core::chain::{Batch, ChainConfig, Content, Event, Outcome, View, decide};
use push0_core::message::{Command, Submission};
use push0_core::record::{BatchRange, BlobRef, BlockRow, BlockStatus, ChainRow, Disagreement, Halt, PendingEffect};
use push0_core::transition::{BlockState, ChainEvent, ChainState, Pair, of_event};
use push0_core::{BlockHash, BlockId, ChainId, Epoch, Millis, PipelineDigest, RunId, Sha256};

const NOW: Millis = Millis(1_000);

/// The block that events are about; the one before it is final.
const NUMBER: u64 = 5;

fn chain() -> ChainId {
    "demo".parse().expect("it is a chain's name")
}

fn config() -> ChainConfig {
    ChainConfig::new(chain(), PipelineDigest([9; 32]))
}

fn hash(byte: u8) -> BlockHash {
    BlockHash([byte; 32])
}

fn blob(name: &str) -> BlobRef {
    BlobRef { key: name.to_owned(), sha256: Sha256::of(name.as_bytes()), size: 1 }
}

fn row(state: BlockState) -> Option<BlockRow> {
    let reason = || "why".to_owned();
    let status = match state {
        BlockState::Nothing => return None,
        BlockState::Parked => BlockStatus::Parked,
        BlockState::Proving => BlockStatus::Proving,
        BlockState::Proven => BlockStatus::Proven,
        BlockState::Failed => BlockStatus::Failed { reason: reason() },
        BlockState::Skipped | BlockState::Tombstone => BlockStatus::Skipped { reason: reason() },
        BlockState::Dropped => BlockStatus::Dropped { reason: reason() },
        BlockState::Final => BlockStatus::Final,
    };
    let is_final = matches!(state, BlockState::Tombstone | BlockState::Final);
    let has_proof = matches!(state, BlockState::Proven | BlockState::Final);
    let mut row = BlockRow {
        epoch: Epoch(2),
        hash: Some(hash(5)),
        parent_hash: Some(hash(4)),
        witness: Some(blob("witness")),
        deadline: Some(Millis(500)),
        released_at: Some(Millis(10)),
        pipeline: has_proof.then_some(PipelineDigest([9; 32])),
        proof: has_proof.then(|| blob("proof")),
        header: has_proof.then(|| blob("header")),
        final_seq: is_final.then_some(5),
        ..BlockRow::new(chain(), NUMBER, status, Millis(1))
    };
    if state == BlockState::Dropped {
        row.vacate();
    }
    Some(row)
}

/// A chain whose block [`NUMBER`] stands so.
fn view(state: BlockState) -> View {
    let is_final = matches!(state, BlockState::Tombstone | BlockState::Final);
    let is_waiting = matches!(state, BlockState::Nothing | BlockState::Parked);
    let next_final = if is_final { NUMBER + 1 } else { NUMBER };
    let next_release = if is_waiting { NUMBER } else { NUMBER + 1 };
    let chain =
        ChainRow { next_final, next_release, next_seq: next_final, last_hash: Some(hash(4)), ..config().new_row() };
    View { chain, blocks: row(state).map(|row| (NUMBER, row)).into_iter().collect(), published: 0 }
}

fn submission(byte: u8, fork_seq: Option<u64>) -> Submission {
    Submission {
        chain: chain(),
        number: NUMBER,
        hash: hash(byte),
        parent_hash: Some(hash(4)),
        witness: blob("witness"),
        fork_seq,
        deadline: None,
    }
}

fn ended(epoch: u32, outcome: Outcome) -> Event {
    Event::RunEnded { run: RunId::new(chain(), NUMBER, Epoch(epoch)), outcome }
}

fn proven() -> Outcome {
    Outcome::Proven {
        pipeline: PipelineDigest([9; 32]),
        proof: blob("proof"),
        header: blob("header"),
        parent_hash: Some(hash(4)),
        outputs: None,
    }
}

fn events() -> Vec<(&'static str, Event)> {
    let text = || "why".to_owned();
    let range = BatchRange { of: "source".parse().expect("it is a chain's name"), from: 9, to: 10 };
    let (hash, parent_hash) = (Some(hash(10)), Some(hash(8)));
    let batch = Batch { number: NUMBER, range, hash, parent_hash, content: Content::Witness(blob("manifest")) };
    let retry = |epoch| Event::Command(Command::Retry { chain: chain(), number: NUMBER, epoch });
    vec![
        ("submitted again", Event::Submitted(submission(5, None))),
        ("another submitted", Event::Submitted(submission(6, None))),
        ("of a counted fork", Event::Submitted(submission(6, Some(1)))),
        ("proven", ended(2, proven())),
        ("bad proof", ended(2, Outcome::BadProof { message: text(), suspects: vec![] })),
        ("spoiled", ended(2, Outcome::Spoiled { message: text() })),
        ("failed", ended(2, Outcome::Failed { reason: text() })),
        ("overtaken run", ended(1, proven())),
        ("retry", retry(None)),
        ("retry of this run", retry(Some(Epoch(2)))),
        ("retry of another", retry(Some(Epoch(1)))),
        ("replace", Event::Command(Command::Replace(submission(6, None)))),
        ("skip", Event::Command(Command::Skip { chain: chain(), number: NUMBER, reason: text() })),
        ("batch", Event::Batched(batch)),
        ("deadline", Event::DeadlinePassed { number: NUMBER }),
    ]
}

/// In few words: what the block is then and in which epoch, whether its run is told to stop, whether the chain looks at those behind it.
fn outcome(view: &View, event: &Event) -> String {
    let change = match decide(view, event, NOW, &config()) {
        Err(ignored) => {
            let name = format!("{ignored:?}");
            return name.split([' ', '(', '{']).next().unwrap_or_default().to_lowercase();
        }
        Ok(change) => change,
    };
    let before = view.blocks.get(&NUMBER);
    let mut words = Vec::new();
    match &change.block {
        Some(block) if before.is_some_and(|before| before.status == block.status && before.epoch == block.epoch) => {
            words.push("noted".to_owned());
        }
        Some(block) => words.push(format!("{} {}", block.status.name(), block.epoch.0)),
        None => {}
    }
    if let Some(chain) = &change.chain {
        let stops = chain.pending.iter().any(|effect| matches!(effect, PendingEffect::Stop { .. }));
        words.extend(stops.then(|| "stop".to_owned()));
        words.extend(chain.walk.map(|_| "look".to_owned()));
    }
    words.join(", ")
}

#[test]
fn every_event_meets_every_state_of_a_block() {
    let mut table = String::new();
    let mut met = BTreeSet::new();
    for (name, event) in events() {
        table.push_str(&format!("{name:<18}"));
        for state in BlockState::ALL {
            let view = view(*state);
            met.insert(of_event(&view, &event));
            table.push_str(&format!("|{:<20}", outcome(&view, &event)));
        }
        table = table.trim_end().to_owned() + "\n";
    }
    let pairs = Pair::all().into_iter().filter(|pair| matches!(pair, Pair::Block(..)) && met.contains(pair)).count();
    // No overtaken run of nothing.
    assert_eq!(pairs, 13 * BlockState::ALL.len() - 1);
    assert_eq!(table, BLOCKS, "\n{table}");
}

/// Events by states: nothing, parked, proving, proven, failed, skipped, dropped, tombstone, final.
const BLOCKS: &str = "\
submitted again   |parked 1            |settled             |settled             |settled             |settled             |settled             |stale               |settled             |settled
another submitted |parked 1            |noted               |noted               |noted               |noted               |noted               |parked 3, look      |final               |final
of a counted fork |parked 1            |parked 3            |parked 3, stop, look|parked 3, look      |parked 3, look      |parked 3, look      |parked 3, look      |final               |final
proven            |unknown             |stale               |proven 2            |stale               |stale               |stale               |stale               |stale               |stale
bad proof         |unknown             |stale               |proving 3, stop     |stale               |stale               |stale               |stale               |stale               |stale
spoiled           |unknown             |stale               |proving 3, stop     |stale               |stale               |stale               |stale               |stale               |stale
failed            |unknown             |stale               |failed 2, stop      |stale               |stale               |stale               |stale               |stale               |stale
overtaken run     |unknown             |stale               |stale               |stale               |stale               |stale               |stale               |stale               |stale
retry             |unknown             |notfailed           |notfailed           |notfailed           |proving 3           |notfailed           |notfailed           |notfailed           |notfailed
retry of this run |unknown             |notfailed           |proving 3, stop     |notfailed           |proving 3           |notfailed           |notfailed           |notfailed           |notfailed
retry of another  |unknown             |stale               |stale               |stale               |stale               |stale               |stale               |stale               |stale
replace           |parked 1            |parked 3            |parked 3, stop, look|parked 3, look      |parked 3, look      |parked 3, look      |parked 3, look      |final               |final
skip              |skipped 1           |skipped 3           |skipped 3, stop, look|skipped 3, look     |skipped 3, look     |settled             |skipped 3, look     |final               |final
batch             |parked 1            |settled             |settled             |settled             |settled             |settled             |settled             |settled             |settled
deadline          |unknown             |noted               |noted               |noted               |noted               |settled             |settled             |settled             |settled
";

/// A chain in this state.
fn chain_view(state: ChainState) -> View {
    let mut view = view(BlockState::Proven);
    let found = |number| Halt::Disagreement(Disagreement { number, hash: Some(hash(4)), says: vec![] });
    match state {
        ChainState::Open => {}
        ChainState::Paused => view.chain.paused = true,
        ChainState::Halted => {
            view.chain.halt = Some(Halt::ParentMismatch { number: NUMBER, names: hash(7), last: hash(4) });
        }
        ChainState::Disputed => view.chain.halt = Some(found(NUMBER - 1)),
    }
    view
}

fn chain_outcome(view: &View, event: &Event) -> String {
    match decide(view, event, NOW, &config()) {
        Err(ignored) => format!("{ignored:?}").to_lowercase(),
        Ok(change) => {
            let chain = change.chain.expect("what is about a chain changes its row");
            let walk = if chain.walk.is_some() { ", drops" } else { "" };
            let window = chain.window.map(|window| format!(", window {window}")).unwrap_or_default();
            let state = ChainState::of(&chain);
            let paused = if chain.paused && state != ChainState::Paused { ", paused" } else { "" };
            format!("{}{paused}{window}{walk}", state.name())
        }
    }
}

#[test]
fn every_event_meets_every_state_of_a_chain() {
    let known = Some(BlockId { number: NUMBER - 1, hash: Some(hash(4)) });
    let events = ChainEvent::ALL.iter().map(|event| match event {
        ChainEvent::Reorg => {
            Event::Command(Command::Reorg { chain: chain(), number: NUMBER, reason: "why".to_owned(), nth: 1 })
        }
        ChainEvent::Pause => Event::Command(Command::Pause { chain: chain() }),
        ChainEvent::Resume => Event::Command(Command::Resume { chain: chain(), acknowledged: None }),
        ChainEvent::Acknowledge => Event::Command(Command::Resume { chain: chain(), acknowledged: known }),
        ChainEvent::Window => Event::Command(Command::Window { chain: chain(), window: 7 }),
        ChainEvent::Tick => Event::Tick,
    });
    let mut table = String::new();
    for (event, name) in events.zip(ChainEvent::ALL) {
        table.push_str(&format!("{:<22}", name.name()));
        for state in ChainState::ALL {
            let view = chain_view(*state);
            assert_eq!(of_event(&view, &event), Pair::Chain(*state, *name));
            table.push_str(&format!("|{:<21}", chain_outcome(&view, &event)));
        }
        table = table.trim_end().to_owned() + "\n";
    }
    assert_eq!(table, CHAINS, "\n{table}");
}

/// Events by states: open, paused, halted, disputed.
const CHAINS: &str = "\
reorg                 |open, drops          |paused, drops        |open, drops          |disputed, drops
pause                 |paused               |settled              |halted, paused       |disputed, paused
resume                |settled              |open                 |settled              |settled
resume, acknowledging |settled              |open                 |settled              |open
window                |open, window 7       |paused, window 7     |halted, window 7     |disputed, window 7
tick                  |settled              |settled              |settled              |settled
";
