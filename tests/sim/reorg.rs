//! Reorganisations: forks told of in any order and more than once, an operator who drops a range; and what must have come out of it.
//!
//! A block below the first contested one is not proven until everything was told, so that nothing contested is final before: then the
//! finalized stream has to be the last fork's, whatever faults there were on the way.

use futures::FutureExt as _;
use push0_core::message::{ChainMessage, Command};
use push0_core::record::BlockStatus;
use push0_core::{BlockHash, ChainId, Millis};
use push0_runtime::port::Clock as _;
use push0_runtime::snapshot;
use rand::RngExt as _;

use super::faulty::Faulty;
use super::submitter::{self, Upload};
use super::world::{self, Shared};

/// Longer than any run.
const NO_DEADLINE: Millis = Millis(24 * 60 * 60_000);

/// What is told of one chain.
#[derive(Debug, Clone)]
pub(super) struct Story {
    chain: ChainId,
    /// What its submitter announces, fork by fork.
    told: Vec<Upload>,
    /// The chain of the last fork.
    forked: Vec<BlockHash>,
    /// What is submitted once an operator has dropped the range, and the number it begins with; plain, as if nobody counted forks.
    anew: Option<(u64, Vec<Upload>)>,
    /// The chain that is right in the end.
    right: Vec<BlockHash>,
    /// The number below all that is contested.
    held: u64,
}

/// One to three forks a chain, each from a random block of the one before on; all of the same length.
pub(super) fn plan(shared: &Shared, blocks: u64) -> Vec<Story> {
    let chains = shared.catalog.chains.values().filter(|config| config.batch.is_none());
    chains.map(|config| story(shared, &config.chain, blocks)).collect()
}

fn story(shared: &Shared, chain: &ChainId, blocks: u64) -> Story {
    let roll = |range: std::ops::Range<u64>| shared.dice.borrow_mut().random_range(range);
    let mut current: Vec<BlockHash> = Vec::new();
    let mut told = Vec::new();
    let mut lowest = blocks;
    let branch = |current: &mut Vec<BlockHash>, from: u64, salt: u64, seq: Option<u64>| -> Vec<Upload> {
        current.truncate(from as usize - 1);
        let mut uploads = Vec::new();
        for number in from..=blocks {
            let parent = current.last().copied();
            let mut upload = submitter::upload(shared, chain, number, shared.segments(), parent, None, salt);
            upload.submission.fork_seq = seq;
            current.push(upload.submission.hash);
            uploads.push(upload);
        }
        uploads
    };
    told.extend(branch(&mut current, 1, 0, None));
    for fork in 1..=roll(1..4) {
        let from = roll(2..blocks);
        lowest = lowest.min(from);
        told.extend(branch(&mut current, from, fork, Some(fork)));
    }
    let forked = current.clone();
    let anew = (roll(0..2) == 1).then(|| {
        let from = roll(2..blocks);
        lowest = lowest.min(from);
        (from, branch(&mut current, from, 9, None))
    });
    // What holds back the contested blocks must not be left out for being late.
    for upload in told.iter_mut().filter(|upload| upload.submission.number < lowest) {
        upload.submission.deadline = Some(NO_DEADLINE);
    }
    Story { chain: chain.clone(), told, forked, anew, right: current, held: lowest - 1 }
}

impl Story {
    /// Everything announced so far, perhaps some of it twice, in any order.
    fn tell(shared: &Shared, uploads: &[Upload]) {
        for upload in uploads {
            let times = shared.dice.borrow_mut().random_range(1..3);
            for _ in 0..times {
                let again = shared.dice.borrow_mut().random_range(0..1 << 40);
                let mut upload = upload.clone();
                upload.again = again;
                submitter::insert(&mut shared.uploads.borrow_mut(), &shared.dice, upload);
            }
        }
    }

    fn stands(&self, shared: &Shared, hashes: &[BlockHash]) -> bool {
        let rows = snapshot::blocks_from(&shared.engine, &self.chain, 1).now_or_never();
        let Some(Ok(rows)) = rows else { return false };
        shared.uploads.borrow().is_empty() && rows.iter().map(|row| row.hash).eq(hashes.iter().copied().map(Some))
    }

    /// The finalized stream is the right chain: each block with a proof, but for those that were left out for being late.
    pub(super) fn judge(&self, shared: &Shared) -> Result<(), String> {
        let found = shared.auditor.borrow().hashes(self.chain.as_str());
        let wanted: Vec<Option<String>> = self.right.iter().map(|hash| Some(hash.to_string())).collect();
        if found == wanted { Ok(()) } else { Err(format!("{}: {found:?} is final, {wanted:?} is right", self.chain)) }
    }
}

/// Tells the story of a chain from its beginning to its end.
pub(super) async fn narrator(shared: Shared, story: Story) {
    let port = world::faulty(&shared, "narrator");
    shared.script.hold(&story.chain, story.held);
    Story::tell(&shared, &story.told);
    until(&shared, || story.stands(&shared, &story.forked)).await;
    if let Some((from, uploads)) = &story.anew {
        drop_range(&shared, &port, &story.chain, *from).await;
        // Old events come again among the new ones.
        Story::tell(&shared, uploads);
        Story::tell(&shared, &story.told);
        until(&shared, || story.stands(&shared, &story.right)).await;
    }
    shared.script.let_go(&story.chain, story.held);
    Story::tell(&shared, &story.told);
}

async fn until(shared: &Shared, condition: impl Fn() -> bool) {
    while !condition() {
        world::pause(shared, Millis(500)).await;
    }
}

async fn drop_range(shared: &Shared, port: &Faulty, chain: &ChainId, from: u64) {
    let command = Command::Reorg { chain: chain.clone(), number: from, reason: "a bad day".to_owned(), nth: 1 };
    let message = ChainMessage::Command(command);
    let is_dropped = || {
        let rows = snapshot::blocks_from(&shared.engine, chain, from).now_or_never();
        let is_it = |status: &BlockStatus| matches!(status, BlockStatus::Dropped { .. });
        rows.is_some_and(|rows| rows.is_ok_and(|rows| rows.iter().all(|row| is_it(&row.status))))
    };
    while !is_dropped() {
        // However often it comes, it is one drop.
        let _ = submitter::tell(port, &message, format!("drop-{}", shared.clock.now().0)).await;
        world::pause(shared, Millis(3_000)).await;
    }
}
