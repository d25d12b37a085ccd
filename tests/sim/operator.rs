//! The operator: gets chains moving, and does what operators do on a bad day.

use push0_core::chain::ChainConfig;
use push0_core::message::{ChainMessage, Command};
use push0_core::record::{BlockRow, BlockStatus, Halt};
use push0_core::{BlockHash, ChainId, Epoch, Millis};
use push0_runtime::port::Clock as _;
use push0_runtime::snapshot;
use rand::RngExt as _;

use super::faults::Fault;
use super::stopped;
use super::submitter::{Upload, tell, upload};
use super::world::{Shared, faulty, pause};

/// Gets chains moving whose block failed, and in the storm does what operators do on a bad day.
pub(super) async fn operator(shared: Shared) {
    let port = faulty(&shared, "operator");
    loop {
        let is_busy = shared.scenario.large;
        let rest = shared.dice.borrow_mut().random_range(if is_busy { 3_000..15_000 } else { 5_000..40_000 });
        pause(&shared, Millis(rest)).await;
        if let Err(what) = stopped::judge(&shared, 0) {
            shared.complaint.borrow_mut().get_or_insert(what);
        }
        let configs: Vec<ChainConfig> = shared.catalog.chains.values().cloned().collect();
        for config in configs {
            let Ok(found) = snapshot::chain(&port, &config, 0).await else {
                continue;
            };
            let chain = &config.chain;
            let nonce = shared.clock.now().0;
            let mut commands = Vec::new();
            if found.chain.paused {
                commands.push(Command::Resume { chain: chain.clone(), acknowledged: None });
            }
            // Batches are bound to their source, which has them in order: nothing is to be mended there.
            if let (Some(halt @ (Halt::ParentMismatch { .. } | Halt::OrphanParent { .. })), true) =
                (&found.chain.halt, config.batch.is_some())
            {
                shared.complaint.borrow_mut().get_or_insert(format!("a batch chain halted: {halt:?}"));
                continue;
            }
            // A block that was built on a fork that is not: another one in its place, built on what is final. Where a story is told its end
            // is right without that.
            match &found.chain.halt {
                Some(Halt::ParentMismatch { .. } | Halt::OrphanParent { .. }) if shared.scenario.reorgs => {}
                Some(Halt::ParentMismatch { number, last, .. }) => {
                    replace(&shared, chain, *number, shared.segments(), Some(*last), None, nonce);
                }
                Some(Halt::OrphanParent { number, .. }) => {
                    replace(&shared, chain, *number, shared.segments(), None, None, nonce);
                }
                Some(Halt::Disagreement(disputed)) if disputed.number < found.chain.next_final => {
                    commands.push(Command::Resume { chain: chain.clone(), acknowledged: Some(disputed.block()) });
                }
                Some(Halt::Disagreement(disputed)) => {
                    commands.push(Command::Retry { chain: chain.clone(), number: disputed.number, epoch: None });
                }
                None => {}
            }
            for block in &found.blocks {
                if let BlockStatus::Failed { .. } = block.block.status {
                    commands.extend(remedy(&shared, chain, block));
                }
            }
            if !shared.scenario.reorgs {
                fill(&shared, &found, nonce);
            }
            let one_in = if is_busy { 1 } else { 8 };
            if *shared.storm.borrow() && shared.dice.borrow_mut().random_range(0..one_in) == 0 {
                commands.extend(whim(&shared, &config, &found));
            }
            for (position, command) in commands.into_iter().enumerate() {
                let _ = tell(&port, &ChainMessage::Command(command), format!("op-{nonce}-{position}")).await;
            }
        }
    }
}

/// For a failed block: retry, replace by another witness of the same block, or skip.
fn remedy(shared: &Shared, chain: &ChainId, block: &snapshot::BlockSnapshot) -> Option<Command> {
    let number = block.block.number;
    if block.block.witness.is_none() {
        return Some(Command::Skip { chain: chain.clone(), number, reason: "it has a hole".to_owned() });
    }
    let choice = shared.dice.borrow_mut().random_range(0..6);
    match choice {
        _ if shared.scenario.reorgs => Some(Command::Retry { chain: chain.clone(), number, epoch: None }),
        0 => Some(Command::Skip { chain: chain.clone(), number, reason: "given up".to_owned() }),
        1 if block.block.batch.is_none() => {
            let salt = shared.dice.borrow_mut().random_range(1..1 << 30);
            let segments = shared.segments();
            let hash = block.block.hash;
            replace(shared, chain, number, segments, parent(shared, &block.block), hash, salt);
            None
        }
        _ => Some(Command::Retry { chain: chain.clone(), number, epoch: None }),
    }
}

/// The parent of a block, also where nobody has read it yet: a hash has one.
fn parent(shared: &Shared, block: &BlockRow) -> Option<BlockHash> {
    let hash = block.hash?.to_string();
    let known = shared.auditor.borrow().parent(block.chain.as_str(), block.number, &hash);
    known.and_then(|known| known.parse().ok()).or(block.parent_hash)
}

fn replace(
    shared: &Shared,
    chain: &ChainId,
    number: u64,
    segments: u64,
    parent: Option<BlockHash>,
    hash: Option<BlockHash>,
    salt: u64,
) {
    let upload = Upload { as_replacement: true, ..upload(shared, chain, number, segments, parent, hash, salt) };
    shared.uploads.borrow_mut().push(upload);
}

/// What was dropped is not told of again: other blocks in its place, each built on the one before.
fn fill(shared: &Shared, found: &snapshot::ChainSnapshot, nonce: u64) {
    let chain = &found.chain.chain;
    let mut parent = found.chain.last_hash;
    for block in found.blocks.iter().map(|block| &block.block).filter(|block| block.number >= found.chain.next_final) {
        let is_dropped = matches!(block.status, BlockStatus::Dropped { .. });
        let is_on_its_way =
            |upload: &Upload| (&upload.submission.chain, upload.submission.number) == (chain, block.number);
        if is_dropped && !shared.uploads.borrow().iter().any(is_on_its_way) {
            replace(shared, chain, block.number, shared.segments(), parent, None, nonce);
            parent = shared.uploads.borrow().last().map(|upload| upload.submission.hash);
        } else {
            parent = block.hash;
        }
    }
}

/// Something that nobody needs. A story's end would not be right after some of it, and no batch is anybody's to replace or drop.
fn whim(shared: &Shared, config: &ChainConfig, found: &snapshot::ChainSnapshot) -> Option<Command> {
    let roll = |range: std::ops::Range<u64>| shared.dice.borrow_mut().random_range(range);
    let (chain, row) = (config.chain.clone(), &found.chain);
    // Within the blocks of the run, perhaps ahead of what was submitted.
    let number = (row.next_final + roll(0..if shared.scenario.large { 10 } else { 4 })).min(shared.blocks.get());
    let is_own = config.batch.is_none();
    // A large run gets more of what is rare elsewhere.
    let choices: &[u64] = match (shared.scenario.reorgs, shared.scenario.large) {
        (true, _) => &[0, 1, 2],
        (false, false) => &[0, 1, 2, 3, 4, 5],
        (false, true) => &[0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5],
    };
    let (fault, command) = match choices[roll(0..choices.len() as u64) as usize] {
        0 => (Fault::Pause, Command::Pause { chain }),
        1 => (Fault::Window, Command::Window { chain, window: roll(1..6) as u32 }),
        2 => (Fault::Retry, Command::Retry { chain, number: row.next_final, epoch: Some(Epoch(roll(1..4) as u32)) }),
        3 => (Fault::Skip, Command::Skip { chain, number, reason: "a whim".to_owned() }),
        4 if is_own => {
            let nth = row.dropped.as_ref().map_or(0, |range| range.nth) + 1;
            (Fault::Reorg, Command::Reorg { chain, number, reason: "a whim".to_owned(), nth })
        }
        5 if is_own => {
            let block = found.blocks.iter().find(|block| block.block.number == number)?;
            let (parent, hash) = (parent(shared, &block.block), block.block.hash);
            shared.weather.count(Fault::Replacement);
            replace(shared, &chain, number, shared.segments(), parent, hash, roll(1..1 << 30));
            return None;
        }
        _ => return None,
    };
    shared.weather.count(fault);
    Some(command)
}
