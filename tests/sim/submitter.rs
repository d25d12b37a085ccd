//! Blocks, and who submits them.

use push0_core::message::{ChainMessage, Command, Submission, queue};
use push0_core::record::{BlobRef, Versioned as _};
use push0_core::{BlockHash, ChainId, Millis, Sha256};
use push0_runtime::port::{Blobs as _, Outgoing, PortError, Queue as _};
use rand::RngExt as _;
use serde_json::json;

use super::executor::Dice;
use super::faults::Fault;
use super::faulty::Faulty;
use super::scenario::Healers;
use super::world::{Shared, faulty, pause};

/// A block to be submitted.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) submission: Submission,
    pub(super) witness: String,
    pub(super) as_replacement: bool,
    /// It is put under its key, and nothing else is said of it.
    pub(super) is_uploaded: bool,
    /// Tells one telling of it from another.
    pub(super) again: u64,
}

/// Witnesses of all blocks, in random order; some numbers get a competing block, and some chains a fork. Returns how many blocks a chain has.
pub(super) fn plan_uploads(shared: &Shared) -> usize {
    let blocks = shared.dice.borrow_mut().random_range(if shared.scenario.large { 30..51 } else { 2..6 });
    let mut uploads = Vec::new();
    for config in shared.catalog.chains.values().filter(|config| config.batch.is_none()) {
        let chain = &config.chain;
        let mut parent = None;
        let mut fork_of_parent: Option<BlockHash> = None;
        for number in 1..=blocks as u64 {
            let segments = shared.segments();
            let own = upload(shared, chain, number, segments, parent, None, 0);
            // A fork that its submitter counts goes on to the end; another block of the number that nobody counts stands alone.
            if fork_of_parent.is_some() || shared.dice.borrow_mut().random_range(0..6) == 0 {
                let mut fork = upload(shared, chain, number, segments, fork_of_parent.or(parent), None, 1);
                let counts = fork_of_parent.is_some() || shared.dice.borrow_mut().random_range(0..2) == 1;
                fork.submission.fork_seq = counts.then_some(1);
                fork_of_parent = counts.then_some(fork.submission.hash);
                insert(&mut uploads, &shared.dice, fork);
            }
            parent = Some(own.submission.hash);
            if shared.scenario.uploads && shared.dice.borrow_mut().random_range(0..5) > 0 {
                insert(&mut uploads, &shared.dice, Upload { is_uploaded: true, ..own.clone() });
                // Now and then it is announced, too.
                if shared.dice.borrow_mut().random_range(0..4) > 0 {
                    continue;
                }
            }
            insert(&mut uploads, &shared.dice, own);
        }
    }
    *shared.uploads.borrow_mut() = uploads;
    blocks
}

pub(super) fn insert(uploads: &mut Vec<Upload>, dice: &Dice, upload: Upload) {
    let position = dice.borrow_mut().random_range(0..=uploads.len());
    uploads.insert(position, upload);
}

pub(super) fn upload(
    shared: &Shared,
    chain: &ChainId,
    number: u64,
    segments: u64,
    parent: Option<BlockHash>,
    hash: Option<BlockHash>,
    salt: u64,
) -> Upload {
    let hash = hash.unwrap_or_else(|| BlockHash(Sha256::of(format!("{chain}/{number}/{salt}").as_bytes()).0));
    let witness = json!({
        "hash": hash.to_string(),
        "parent_hash": parent.map(|parent| parent.to_string()),
        "number": number,
        "segments": segments,
        "salt": salt,
    });
    shared.auditor.borrow_mut().allow(chain.as_str(), number, witness.clone());
    let text = witness.to_string();
    let sha256 = Sha256::of(text.as_bytes());
    let blob = BlobRef { key: format!("witnesses/{chain}/{number}-{sha256}"), sha256, size: text.len() as u64 };
    let submission = Submission {
        chain: chain.clone(),
        number,
        hash,
        parent_hash: parent,
        witness: blob,
        fork_seq: None,
        deadline: None,
    };
    Upload { submission, witness: text, as_replacement: false, is_uploaded: false, again: 0 }
}

pub(super) async fn submitter(shared: Shared) {
    let port = faulty(&shared, "submitter");
    loop {
        let next = shared.uploads.borrow().first().cloned();
        let Some(upload) = next else {
            pause(&shared, Millis(1_000)).await;
            continue;
        };
        let submitted = match upload.is_uploaded {
            true => leave(&shared, &port, &upload).await,
            false => submit(&port, &upload).await,
        };
        if submitted.is_ok() {
            let mut uploads = shared.uploads.borrow_mut();
            uploads.retain(|other| {
                (&other.submission, other.is_uploaded, other.again)
                    != (&upload.submission, upload.is_uploaded, upload.again)
            });
        }
        let rest = shared.dice.borrow_mut().random_range(0..3_000);
        pause(&shared, Millis(rest)).await;
    }
}

/// Puts a witness where any tool may put one. S3 tells of it: at once, late, twice or never.
async fn leave(shared: &Shared, port: &Faulty, upload: &Upload) -> Result<(), PortError> {
    let Submission { chain, number, hash, .. } = &upload.submission;
    let key = format!("witnesses/{chain}/{number}/{hash}/witness");
    port.put_new(&key, upload.witness.clone().into(), "somebody").await?;
    let is_storm = *shared.storm.borrow();
    let fate = if is_storm { shared.dice.borrow_mut().random_range(0..10) } else { 9 };
    // Who finds lost events is the reaper.
    if fate < 5 && shared.scenario.healers != Healers::Timers {
        shared.weather.count(Fault::LostEvent);
        return Ok(());
    }
    let times = 1 + usize::from(fate == 5);
    for _ in 0..times {
        let late = if fate < 9 { shared.dice.borrow_mut().random_range(1_000..600_000) } else { 0 };
        if fate < 9 {
            shared.weather.count(Fault::LateEvent);
        }
        let record = json!({
            "eventVersion": "2.1",
            "eventName": "ObjectCreated:Put",
            "s3": { "object": { "key": key, "size": upload.witness.len() } },
        });
        let body = json!({ "Records": [record] }).to_string();
        let event = Outgoing { body, delay: Millis(late), ..Outgoing::default() };
        // S3 is no caller of ours that may be refused.
        shared.engine.send(queue::WITNESS_EVENTS, vec![event]).await?;
    }
    Ok(())
}

async fn submit(port: &Faulty, upload: &Upload) -> Result<(), PortError> {
    let submission = upload.submission.clone();
    port.put_new(&submission.witness.key, upload.witness.clone().into(), "submitter").await?;
    let again = upload.again;
    let id = format!("{}/{}/{}/{again}", submission.chain, submission.number, submission.witness.sha256);
    let message = match upload.as_replacement {
        true => ChainMessage::Command(Command::Replace(submission)),
        false => ChainMessage::Submit(submission),
    };
    tell(port, &message, id).await
}

pub(super) async fn tell(port: &Faulty, message: &ChainMessage, dedup: String) -> Result<(), PortError> {
    let outgoing = Outgoing {
        body: message.to_json(),
        group: Some(message.chain().to_string()),
        dedup: Some(dedup),
        ..Outgoing::default()
    };
    port.send(queue::SUBMISSIONS, vec![outgoing]).await
}
