//! Which states meet which events: the pairs that the decisions of both planes are about, by name.
//!
//! Nothing is decided here. Whoever wants to know what a run of push0 came across (the simulator, the model checker) asks the drive loops to
//! [observe](Observer) it; `docs/transitions.md` has what was reached, and why the rest was not.
//!
//! - [`Pair::Block`]: the row of a block number, and what the chain plane is told about it, does about it in its turn, or has asked for.
//! - [`Pair::Chain`]: the row of a chain, and what is about the chain as a whole.
//! - [`Pair::Task`]: a task as the block plane finds it in its rows, and what is said about it.

use std::fmt;

use crate::chain::{Change, Event, Outcome, Step, View};
use crate::id::Attempt;
use crate::message::{Command, FailureKind, Finding, ReportEvent};
use crate::record::{BlockRow, BlockStatus, ChainRow, NodeView, PendingEffect, Verdict, Walk};

/// Hears of every pair that a drive loop decides on.
pub trait Observer: Send + Sync {
    fn met(&self, pair: Pair);
}

/// A state and an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pair {
    Block(BlockState, BlockEvent),
    Chain(ChainState, ChainEvent),
    Task(TaskState, TaskEvent),
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$about])* $variant,)+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

named! {
    /// How a block number stands.
    BlockState {
        /// It has no row.
        Nothing = "nothing",
        Parked = "parked",
        Proving = "proving",
        Proven = "proven",
        Failed = "failed",
        Skipped = "skipped",
        Dropped = "dropped",
        /// Skipped, and the cursor has passed it.
        Tombstone = "tombstone",
        Final = "final",
    }
}

named! {
    BlockEvent {
        Submission = "submission",
        /// With a parent and its submitter's count of forks.
        Fork = "submission of a counted fork",
        Proven = "run proven",
        BadProof = "run ended in a bad proof",
        Spoiled = "run spoiled",
        RunFailed = "run failed",
        /// Whatever a run of an earlier epoch came to.
        Overtaken = "overtaken run ended",
        Retry = "retry",
        RetryRun = "retry of a named run",
        Replace = "replace",
        Skip = "skip",
        Batch = "batch fixed",
        Deadline = "deadline passed",
        /// It stands at the release point.
        Release = "its release",
        /// It stands at the cursor.
        Cursor = "its turn at the cursor",
        Look = "looked at by a walk",
        Drop = "dropped by a walk",
        Start = "effect: start",
        Stop = "effect: stop",
        Arm = "effect: arm",
        Demote = "effect: demote",
    }
}

named! {
    ChainState {
        Open = "open",
        Paused = "paused",
        /// For the block at the cursor.
        Halted = "halted",
        /// For what a late proof said about a final block.
        Disputed = "disputed",
    }
}

named! {
    ChainEvent {
        Reorg = "reorg",
        Pause = "pause",
        Resume = "resume",
        Acknowledge = "resume, acknowledging",
        Window = "window",
        Tick = "tick",
    }
}

named! {
    /// How the attempt that an event is about stands, of whichever holds the first.
    TaskState {
        /// Its run is over.
        Over = "run over",
        /// Its node's artifact (manifest, verdict) is accepted.
        Accepted = "accepted",
        /// A later attempt is wanted, another worker has the task, or what was to be checked no longer is.
        Overtaken = "overtaken",
        /// The attempt waits for checks of what it reads.
        Checking = "checking",
        /// The failure of this copy is known.
        Noted = "failure noted",
        Started = "started",
        Open = "open",
    }
}

named! {
    TaskEvent {
        Start = "started",
        Split = "split",
        Done = "done",
        Ok = "verified: ok",
        BadProof = "verified: bad proof",
        BadBlock = "verified: bad block",
        Retryable = "failed: retryable",
        Permanent = "failed: permanent",
        BadInput = "failed: bad input",
        OutOfMemory = "failed: out of memory",
        ReportedLost = "failed: lost",
        Sound = "checked: sound",
        Unsound = "checked: unsound",
        Unknown = "checked: unknown",
        DeadLetter = "dead letter",
        /// Its start is past its limit.
        Late = "late",
        /// Its queue was seen empty.
        Lost = "lost",
    }
}

fn product<S: Copy, E: Copy>(
    states: &'static [S],
    events: &'static [E],
    pair: impl Fn(S, E) -> Pair + Copy,
) -> impl Iterator<Item = Pair> {
    events.iter().flat_map(move |event| states.iter().map(move |state| pair(*state, *event)))
}

impl Pair {
    /// Every state with every event, event by event.
    pub fn all() -> Vec<Self> {
        let blocks = product(BlockState::ALL, BlockEvent::ALL, Pair::Block);
        let chains = product(ChainState::ALL, ChainEvent::ALL, Pair::Chain);
        blocks.chain(chains).chain(product(TaskState::ALL, TaskEvent::ALL, Pair::Task)).collect()
    }

    /// What the state is of.
    pub fn subject(self) -> &'static str {
        match self {
            Pair::Block(..) => "block",
            Pair::Chain(..) => "chain",
            Pair::Task(..) => "task",
        }
    }

    pub fn state(self) -> &'static str {
        match self {
            Pair::Block(state, _) => state.name(),
            Pair::Chain(state, _) => state.name(),
            Pair::Task(state, _) => state.name(),
        }
    }

    pub fn event(self) -> &'static str {
        match self {
            Pair::Block(_, event) => event.name(),
            Pair::Chain(_, event) => event.name(),
            Pair::Task(_, event) => event.name(),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.subject(), self.state(), self.event())
    }
}

impl BlockState {
    pub fn of(block: Option<&BlockRow>) -> Self {
        let Some(block) = block else { return Self::Nothing };
        match block.status {
            BlockStatus::Parked => Self::Parked,
            BlockStatus::Proving => Self::Proving,
            BlockStatus::Proven => Self::Proven,
            BlockStatus::Failed { .. } => Self::Failed,
            BlockStatus::Skipped { .. } if block.final_seq.is_some() => Self::Tombstone,
            BlockStatus::Skipped { .. } => Self::Skipped,
            BlockStatus::Dropped { .. } => Self::Dropped,
            BlockStatus::Final => Self::Final,
        }
    }
}

impl ChainState {
    pub fn of(chain: &ChainRow) -> Self {
        if chain.late_halt().is_some() {
            return Self::Disputed;
        }
        match (&chain.halt, chain.paused) {
            (Some(_), _) => Self::Halted,
            (None, true) => Self::Paused,
            (None, false) => Self::Open,
        }
    }
}

/// What [`crate::chain::decide`] is asked.
pub fn of_event(view: &View, event: &Event) -> Pair {
    let block = event.number().and_then(|number| view.blocks.get(&number));
    let on_block = |event| Pair::Block(BlockState::of(block), event);
    let on_chain = |event| Pair::Chain(ChainState::of(&view.chain), event);
    match event {
        Event::Submitted(submission) if submission.fork_seq.is_some() && submission.parent_hash.is_some() => {
            on_block(BlockEvent::Fork)
        }
        Event::Submitted(_) => on_block(BlockEvent::Submission),
        Event::RunEnded { run, .. } if block.is_some_and(|block| block.epoch != run.epoch) => {
            on_block(BlockEvent::Overtaken)
        }
        Event::RunEnded { outcome, .. } => on_block(match outcome {
            Outcome::Proven { .. } => BlockEvent::Proven,
            Outcome::BadProof { .. } => BlockEvent::BadProof,
            Outcome::Spoiled { .. } => BlockEvent::Spoiled,
            Outcome::Failed { .. } => BlockEvent::RunFailed,
        }),
        Event::Command(command) => match command {
            Command::Retry { epoch: None, .. } => on_block(BlockEvent::Retry),
            Command::Retry { epoch: Some(_), .. } => on_block(BlockEvent::RetryRun),
            Command::Replace(_) => on_block(BlockEvent::Replace),
            Command::Skip { .. } => on_block(BlockEvent::Skip),
            Command::Reorg { .. } => on_chain(ChainEvent::Reorg),
            Command::Pause { .. } => on_chain(ChainEvent::Pause),
            Command::Resume { acknowledged: None, .. } => on_chain(ChainEvent::Resume),
            Command::Resume { acknowledged: Some(_), .. } => on_chain(ChainEvent::Acknowledge),
            Command::Window { .. } => on_chain(ChainEvent::Window),
        },
        Event::Batched(_) => on_block(BlockEvent::Batch),
        Event::DeadlinePassed { .. } => on_block(BlockEvent::Deadline),
        Event::Tick => on_chain(ChainEvent::Tick),
    }
}

/// What [`crate::chain::advance`] looked at before it answered with `step`.
pub fn of_turn(view: &View, step: Option<&Step>) -> Vec<Pair> {
    let chain = &view.chain;
    let is_held_up = !chain.pending.is_empty() || view.published + 1 < chain.next_seq;
    if is_held_up {
        return Vec::new();
    }
    let at = |number: u64, event| Pair::Block(BlockState::of(view.blocks.get(&number)), event);
    match chain.walk {
        Some(Walk::Fit { at: number, .. }) => return vec![at(number, BlockEvent::Look)],
        Some(Walk::Drop { .. }) => {
            return view.blocks.keys().map(|number| at(*number, BlockEvent::Drop)).collect();
        }
        None => {}
    }
    let release = at(chain.next_release, BlockEvent::Release);
    let is_release =
        |change: &Change| change.chain.as_ref().is_some_and(|after| after.next_release > chain.next_release);
    match step {
        Some(Step::Write(change)) if is_release(change) => vec![release],
        _ => vec![release, at(chain.next_final, BlockEvent::Cursor)],
    }
}

/// An effect that is about to be performed.
pub fn of_effect(effect: PendingEffect, block: Option<&BlockRow>) -> Pair {
    let event = match effect {
        PendingEffect::Start { .. } => BlockEvent::Start,
        PendingEffect::Stop { .. } => BlockEvent::Stop,
        PendingEffect::Arm { .. } => BlockEvent::Arm,
        PendingEffect::Demote { .. } => BlockEvent::Demote,
    };
    Pair::Block(BlockState::of(block), event)
}

impl TaskState {
    /// Of a copy of an attempt at a node whose artifact is not accepted, by the node's own row.
    pub fn of(row: &NodeView, attempt: Attempt, copy: u8) -> Self {
        if attempt != row.wanted.attempt {
            Self::Overtaken
        } else if !row.wanted.checks.is_empty() {
            Self::Checking
        } else if row.has_failed(copy) {
            Self::Noted
        } else if row.start_now(copy).is_some() {
            Self::Started
        } else {
            Self::Open
        }
    }
}

impl TaskEvent {
    pub fn of(event: &ReportEvent) -> Self {
        match event {
            ReportEvent::Started => Self::Start,
            ReportEvent::Split { .. } => Self::Split,
            ReportEvent::Done { .. } => Self::Done,
            ReportEvent::Verified { verdict: Verdict::Ok, .. } => Self::Ok,
            ReportEvent::Verified { verdict: Verdict::BadProof, .. } => Self::BadProof,
            ReportEvent::Verified { verdict: Verdict::BadBlock, .. } => Self::BadBlock,
            ReportEvent::Checked { finding, .. } => Self::of_finding(*finding),
            ReportEvent::Failed { kind, .. } => Self::of_failure(*kind),
        }
    }

    pub fn of_failure(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Retryable => Self::Retryable,
            FailureKind::Permanent => Self::Permanent,
            FailureKind::BadInput => Self::BadInput,
            FailureKind::OutOfMemory => Self::OutOfMemory,
            FailureKind::Lost => Self::ReportedLost,
        }
    }

    pub fn of_finding(finding: Finding) -> Self {
        match finding {
            Finding::Sound => Self::Sound,
            Finding::Unsound => Self::Unsound,
            Finding::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::chain::ChainConfig;
    use crate::id::{BlockHash, Epoch, Millis, PipelineDigest, RunId, Sha256};
    use crate::message::Submission;
    use crate::record::{BlobRef, FailureNote, Started, Try};

    fn view() -> View {
        let chain = ChainConfig::new("demo".parse().unwrap(), PipelineDigest([9; 32])).new_row();
        View { chain, blocks: BTreeMap::new(), published: 0 }
    }

    fn block(number: u64, status: BlockStatus) -> BlockRow {
        BlockRow::new("demo".parse().unwrap(), number, status, Millis(0))
    }

    #[test]
    fn every_pair_is_listed_once_and_has_a_name_of_its_own() {
        let all = Pair::all();
        let names: std::collections::BTreeSet<String> = all.iter().map(Pair::to_string).collect();
        let planes = BlockState::ALL.len() * BlockEvent::ALL.len()
            + ChainState::ALL.len() * ChainEvent::ALL.len()
            + TaskState::ALL.len() * TaskEvent::ALL.len();
        assert_eq!((all.len(), names.len()), (planes, planes));
    }

    #[test]
    fn a_pair_says_what_its_state_is_of() {
        let pairs = [
            (Pair::Block(BlockState::Parked, BlockEvent::Retry), "block, parked: retry"),
            (Pair::Chain(ChainState::Paused, ChainEvent::Tick), "chain, paused: tick"),
            (Pair::Task(TaskState::Noted, TaskEvent::Late), "task, failure noted: late"),
        ];
        for (pair, text) in pairs {
            assert_eq!(pair.to_string(), text);
        }
    }

    #[test]
    fn a_block_is_a_tombstone_once_the_cursor_has_passed_it() {
        let reason = || "r".to_owned();
        for (status, final_seq, state) in [
            (BlockStatus::Parked, None, BlockState::Parked),
            (BlockStatus::Proving, None, BlockState::Proving),
            (BlockStatus::Proven, None, BlockState::Proven),
            (BlockStatus::Failed { reason: reason() }, None, BlockState::Failed),
            (BlockStatus::Skipped { reason: reason() }, None, BlockState::Skipped),
            (BlockStatus::Skipped { reason: reason() }, Some(1), BlockState::Tombstone),
            (BlockStatus::Dropped { reason: reason() }, None, BlockState::Dropped),
            (BlockStatus::Final, Some(1), BlockState::Final),
        ] {
            let row = BlockRow { final_seq, ..block(1, status) };
            assert_eq!(BlockState::of(Some(&row)), state);
        }
        assert_eq!(BlockState::of(None), BlockState::Nothing);
    }

    #[test]
    fn a_fork_is_counted_and_names_its_parent() {
        let parent = Some(BlockHash([0; 32]));
        for (fork_seq, parent_hash, event) in [
            (None, None, BlockEvent::Submission),
            (Some(1), None, BlockEvent::Submission),
            (None, parent, BlockEvent::Submission),
            (Some(1), parent, BlockEvent::Fork),
        ] {
            let submission = Submission {
                chain: "demo".parse().unwrap(),
                number: 1,
                hash: BlockHash([1; 32]),
                parent_hash,
                witness: BlobRef { key: "w".to_owned(), sha256: Sha256([0; 32]), size: 1 },
                fork_seq,
                deadline: None,
            };
            let pair = of_event(&view(), &Event::Submitted(submission));
            assert_eq!(pair, Pair::Block(BlockState::Nothing, event), "{fork_seq:?}, {parent_hash:?}");
        }
    }

    #[test]
    fn a_run_of_another_epoch_was_overtaken() {
        let row = BlockRow { epoch: Epoch(2), ..block(1, BlockStatus::Proving) };
        let known = View { blocks: [(1, row)].into(), ..view() };
        let proving = |event| Pair::Block(BlockState::Proving, event);
        for (view, epoch, pair) in [
            (&known, 1, proving(BlockEvent::Overtaken)),
            (&known, 2, proving(BlockEvent::RunFailed)),
            (&view(), 1, Pair::Block(BlockState::Nothing, BlockEvent::RunFailed)),
        ] {
            let run = RunId::new("demo".parse().unwrap(), 1, Epoch(epoch));
            let ended = Event::RunEnded { run, outcome: Outcome::Failed { reason: "r".to_owned() } };
            assert_eq!(of_event(view, &ended), pair);
        }
    }

    #[test]
    fn a_turn_looks_at_nothing_while_something_is_left_to_do() {
        let turn = [
            Pair::Block(BlockState::Nothing, BlockEvent::Release),
            Pair::Block(BlockState::Nothing, BlockEvent::Cursor),
        ];
        for (next_seq, published, pending, wanted) in [
            (1, 0, vec![], &turn[..]),
            (4, 3, vec![], &turn[..]),
            (2, 0, vec![], &[]),
            (5, 3, vec![], &[]),
            (1, 0, vec![PendingEffect::Arm { number: 1 }], &[]),
            (2, 0, vec![PendingEffect::Arm { number: 1 }], &[]),
        ] {
            let chain = ChainRow { next_seq, pending, ..view().chain };
            let view = View { chain, published, ..view() };
            assert_eq!(of_turn(&view, None), wanted, "{view:?}");
        }
    }

    #[test]
    fn a_turn_looks_at_the_release_point_and_then_at_the_cursor() {
        let blocks = [(1, block(1, BlockStatus::Proving)), (2, block(2, BlockStatus::Parked))].into();
        let chain = ChainRow { next_release: 2, ..view().chain };
        let view = View { chain: chain.clone(), blocks, ..view() };
        let release = Pair::Block(BlockState::Parked, BlockEvent::Release);
        let both = vec![release, Pair::Block(BlockState::Proving, BlockEvent::Cursor)];
        let write = |chain| Some(Step::Write(Box::new(Change { chain, ..Change::default() })));
        for (step, wanted) in [
            (None, &both),
            (write(None), &both),
            (write(Some(chain.clone())), &both),
            (write(Some(ChainRow { next_release: 3, ..chain.clone() })), &vec![release]),
        ] {
            assert_eq!(&of_turn(&view, step.as_ref()), wanted, "{step:?}");
        }
        let walking = |walk| View { chain: ChainRow { walk: Some(walk), ..chain.clone() }, ..view.clone() };
        let fit = walking(Walk::Fit { at: 2, through: 2 });
        assert_eq!(of_turn(&fit, None), [Pair::Block(BlockState::Parked, BlockEvent::Look)]);
        let dropped = [BlockState::Proving, BlockState::Parked].map(|state| Pair::Block(state, BlockEvent::Drop));
        assert_eq!(of_turn(&walking(Walk::Drop { at: 1 }), None), dropped);
    }

    #[test]
    fn a_task_stands_as_the_copy_of_the_attempt_that_is_wanted() {
        let (first, second) = (Attempt::FIRST, Attempt::FIRST.next());
        let start =
            |attempt| Some(Started { attempt, worker: "w".parse().unwrap(), by: None, at: Millis(0), handout: None });
        let note = |copy| FailureNote {
            attempt: first,
            copy,
            worker: None,
            by: None,
            kind: FailureKind::Retryable,
            message: "m".to_owned(),
            accused: Vec::new(),
            at: Millis(0),
        };
        let open = NodeView::default();
        let started = NodeView { started: start(first), ..open.clone() };
        let wanted = |wanted| NodeView { wanted, ..started.clone() };
        let checking = wanted(Try { checks: vec![(0, Sha256([0; 32]))], failures: vec![note(0)], ..Try::default() });
        for (row, attempt, copy, state) in [
            (&open, first, 0, TaskState::Open),
            (&open, second, 0, TaskState::Overtaken),
            (&started, first, 0, TaskState::Started),
            (&started, first, 1, TaskState::Open),
            (&wanted(Try { failures: vec![note(0)], ..Try::default() }), first, 0, TaskState::Noted),
            (&wanted(Try { failures: vec![note(1)], ..Try::default() }), first, 0, TaskState::Started),
            (&checking, first, 0, TaskState::Checking),
            (&checking, second, 0, TaskState::Overtaken),
            (&wanted(Try { attempt: second, ..Try::default() }), first, 0, TaskState::Overtaken),
            (&wanted(Try { attempt: second, ..Try::default() }), second, 0, TaskState::Open),
        ] {
            assert_eq!(TaskState::of(row, attempt, copy), state, "{row:?}");
        }
    }
}
