//! What is proven in the model: blocks, blobs whose bytes follow from their keys, and what workers say.

use push0_core::message::{FailureKind, Report, ReportEvent, Submission, TaskMessage, queue};
use push0_core::pipeline::Kind;
use push0_core::record::{BlobRef, Manifest, ManifestPage, Verdict, Versioned as _};
use push0_core::{Attempt, BlockHash, ChainId, InvalidId, Millis, Sha256, WorkerId};

/// The block under a number of a branch. Branch 0 is what is submitted first; a fork's blocks are another branch's.
pub fn hash(number: u64, branch: u8) -> BlockHash {
    let mut hash = [0; 32];
    (hash[0], hash[1]) = (number as u8, branch);
    BlockHash(hash)
}

/// The one before it in its branch; no block stands before the first.
pub fn parent(block: BlockHash) -> Option<BlockHash> {
    Some(hash(u64::from(block.0[0]) - 1, if block.0[0] == 1 { 0 } else { block.0[1] }))
}

pub fn submission(chain: &ChainId, number: u64, branch: u8) -> Submission {
    let hash = hash(number, branch);
    Submission {
        chain: chain.clone(),
        number,
        hash,
        parent_hash: parent(hash),
        witness: blob(0, format!("witnesses/{chain}/{number}-{branch}")),
        fork_seq: (branch > 0).then_some(u64::from(branch)),
        deadline: None,
    }
}

/// The bytes under a key. `segments`: of every block.
pub fn content(segments: u32, key: &str) -> Vec<u8> {
    let text = if let Some(task) = key.strip_suffix("/manifest") {
        let pages = vec![blob(segments, format!("{task}/pages/000"))];
        let header = blob(segments, format!("{task}/header"));
        let hash = BlockHash(Sha256::of(task.as_bytes()).0);
        Manifest { segments, pages, header, hash, parent_hash: None }.to_json()
    } else if let Some(task) = key.strip_suffix("/pages/000") {
        let segment = |number| blob(segments, format!("{task}/segments/{number:06}"));
        ManifestPage { first: 0, segments: (0..segments).map(segment).collect() }.to_json()
    } else {
        key.to_owned()
    };
    text.into_bytes()
}

pub fn blob(segments: u32, key: String) -> BlobRef {
    let bytes = content(segments, &key);
    BlobRef { sha256: Sha256::of(&bytes), size: bytes.len() as u64, key }
}

/// What a worker makes of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Does it.
    Done,
    /// The same, and dies before it acknowledges the task, which is done once more.
    DoneTwice,
    /// Says that it did not succeed.
    Fails,
    /// Says that it began, and never anything more: the task comes to its dead-letter queue.
    Dies,
    /// Says of a block that it cannot be proven.
    BadBlock,
}

/// The queue that a report goes to, and the report. `None`: nothing is said.
pub fn report(segments: u32, task: &TaskMessage, work: Work) -> Result<(&'static str, Report), InvalidId> {
    let artifact = |name: &str| blob(segments, format!("{}{name}", task.artifact_key()));
    let event = match (work, task.kind) {
        (Work::Dies, _) => ReportEvent::Started,
        (Work::Fails, _) => {
            ReportEvent::Failed { kind: FailureKind::Retryable, message: "no luck".to_owned(), children: Vec::new() }
        }
        (Work::BadBlock, Kind::Split | Kind::Map | Kind::Join | Kind::Single) => {
            ReportEvent::Failed { kind: FailureKind::Permanent, message: "no use".to_owned(), children: Vec::new() }
        }
        (Work::Done | Work::DoneTwice, Kind::Split) => ReportEvent::Split {
            manifest: artifact("/manifest"),
            segments,
            header: artifact("/header"),
            hash: task.block_hash,
            parent_hash: parent(task.block_hash),
        },
        (Work::Done | Work::DoneTwice, Kind::Map | Kind::Join | Kind::Single) => {
            ReportEvent::Done { artifact: artifact("") }
        }
        (Work::Done | Work::DoneTwice | Work::BadBlock, Kind::Verify) => ReportEvent::Verified {
            verdict: if work == Work::BadBlock { Verdict::BadBlock } else { Verdict::Ok },
            root: task.inputs.first().map_or(Sha256([0; 32]), |root| root.sha256),
            message: None,
            outputs: None,
        },
    };
    let source = if task.is_trusted() { queue::VERDICTS } else { queue::RESULTS };
    let worker: WorkerId = if task.id.attempt == Attempt::FIRST { "first".parse()? } else { "second".parse()? };
    Ok((source, Report { task: task.id.clone(), worker, by: None, handout: None, at: Millis(0), event }))
}
