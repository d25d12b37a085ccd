//! `push0 submit`: the witness goes into the store, then the chain is told.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use push0_core::message::{ChainMessage, Submission, queue};
use push0_core::record::{BlobRef, BlockStatus, Versioned as _};
use push0_core::{BlockHash, ChainId, ErrorCode, Millis, Sha256};
use push0_runtime::port::{BLOB_LIMIT, BlobInfo, Clock as _, ErrorKind, Outgoing, PutOutcome, SystemClock};
use push0_runtime::snapshot::{self, BlockSnapshot};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::args;
use crate::connect::Remote;
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::view;

/// How long to wait for a block to be admitted.
const ADMISSION: Duration = Duration::from_secs(10);

/// A block to submit, as a file or a command line names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    pub chain: ChainId,
    pub number: u64,
    pub hash: BlockHash,
    #[serde(default)]
    pub parent_hash: Option<BlockHash>,
    #[serde(default)]
    pub fork_seq: Option<u64>,
    /// How long after its admission it shall be final at the latest, milliseconds; the chain's default where nothing is said.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Relative to the file that says so.
    pub witness: PathBuf,
}

/// The status of a submission that the chain has gone past.
const OVERTAKEN: &str = "overtaken";

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    pub chain: ChainId,
    pub number: u64,
    pub hash: BlockHash,
    pub witness: BlobRef,
    /// The block's status, `sent` where it was not waited for, `contender` where another block has the number,
    /// `overtaken` where this one had it before.
    pub status: String,
}

impl Candidate {
    /// Reads a submission file.
    pub fn read(path: &Path) -> Result<Self, Trouble> {
        let what =
            |problem: String| Trouble::usage(format!("{}: {problem}", path.display())).coded(ErrorCode::BadSubmission);
        let bytes = std::fs::read(path).map_err(|error| {
            what(format!("cannot read it: {error}")).next("name a submission file that is there and may be read")
        })?;
        let mut candidate: Self = serde_json::from_slice(&bytes).map_err(|error| {
            what(format!("it is no submission: {error}")).next(
                "a submission is {\"chain\", \"number\", \"hash\", \"parent_hash\", \"witness\": path}, as `push0-rollup` writes it; \
                 for a bare witness use --chain, --number and --hash",
            )
        })?;
        candidate.witness = path.parent().unwrap_or(Path::new("")).join(&candidate.witness);
        Ok(candidate)
    }

    /// The blocks a command line names.
    pub fn all(args: &args::Submit) -> Result<Vec<Self>, Trouble> {
        let (Some(chain), Some(number), Some(hash)) = (&args.chain, args.number, args.hash) else {
            let mut candidates = Vec::new();
            for file in &args.files {
                let mut candidate = Self::read(file)?;
                candidate.fork_seq = args.fork_seq.or(candidate.fork_seq);
                candidate.deadline_ms = args.deadline.map(|deadline| deadline.0).or(candidate.deadline_ms);
                candidates.push(candidate);
            }
            return Ok(candidates);
        };
        let [witness] = &args.files[..] else {
            return Err(Trouble::usage("with --chain one witness is submitted, not several")
                .next("run `push0 submit` once a witness, or use submission files")
                .coded(ErrorCode::BadUsage));
        };
        let (parent_hash, fork_seq) = (args.parent_hash, args.fork_seq);
        let deadline_ms = args.deadline.map(|deadline| deadline.0);
        let (chain, witness) = (chain.clone(), witness.clone());
        Ok(vec![Self { chain, number, hash, parent_hash, fork_seq, deadline_ms, witness }])
    }

    /// The witness as it will be stored: its key carries its digest, so another witness is another blob.
    fn witness(&self) -> Result<BlobRef, Trouble> {
        let path = &self.witness;
        let unusable = |what: &str, next: &str| {
            Trouble::usage(format!("the witness {} {what}", path.display())).next(next).coded(ErrorCode::BadWitness)
        };
        if let Ok(metadata) = path.metadata() {
            if !metadata.is_file() {
                return Err(unusable("is not a file", "name the witness file itself"));
            }
            if metadata.len() == 0 {
                return Err(unusable("is empty", "write it again: whatever makes it has not finished, or has failed"));
            }
            if metadata.len() > BLOB_LIMIT {
                let what = format!("has {} bytes; at most {BLOB_LIMIT} are possible", metadata.len());
                return Err(unusable(&what, "make blocks smaller, or compress the witness and have `split` unpack it"));
            }
        }
        let (sha256, size) = digest(path).map_err(|error| {
            Trouble::usage(format!("cannot read the witness {}: {error}", path.display()))
                .next("the path is relative to the submission file")
                .coded(ErrorCode::BadWitness)
        })?;
        Ok(BlobRef { key: format!("witnesses/{}/{}-{sha256}", self.chain, self.number), sha256, size })
    }
}

fn digest(path: &Path) -> std::io::Result<(Sha256, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((Sha256(hasher.finalize().into()), size)),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

pub async fn run(args: &args::Submit, remote: &Remote, output: Output) -> anyhow::Result<()> {
    // All files are read before anything is sent: a mistake in the last leaves nothing half done.
    let candidates = Candidate::all(args)?;
    let mut receipts = Vec::new();
    for candidate in &candidates {
        let submission = upload(remote, candidate).await?;
        send(remote, &submission).await?;
        receipts.push((submission, "sent".to_owned()));
    }
    if !args.no_wait {
        for (submission, status) in &mut receipts {
            *status = admitted(remote, submission).await?;
        }
    }
    let receipts: Vec<Receipt> = receipts.into_iter().map(|(submission, status)| receipt(submission, status)).collect();
    output.show(&receipts, || receipts.iter().map(line).collect::<Vec<_>>().join("\n"));
    if let Some(Receipt { chain, number, .. }) = receipts.iter().find(|receipt| receipt.status == OVERTAKEN) {
        let what = format!(
            "block {number} of {chain} was there before, or is of an earlier fork: it does not come back by itself"
        );
        return Err(Trouble::failed(what)
            .next("if it is the right one after all: --fork-seq with a higher number, or push0 replace FILE.json")
            .coded(ErrorCode::Overtaken)
            .into());
    }
    match receipts.iter().find(|receipt| receipt.status == "contender") {
        None => Ok(()),
        Some(Receipt { chain, number, .. }) => Err(Trouble::failed(format!(
            "another block is there as block {number} of {chain}: yours is recorded as a contender"
        ))
        .next("if yours is the right one: push0 replace FILE.json; a submitter who knows of a fork uses --fork-seq")
        .coded(ErrorCode::Contender)
        .into()),
    }
}

fn receipt(submission: Submission, status: String) -> Receipt {
    let Submission { chain, number, hash, witness, .. } = submission;
    Receipt { chain, number, hash, witness, status }
}

fn line(receipt: &Receipt) -> String {
    let Receipt { chain, number, hash, status, .. } = receipt;
    format!("block {number} of {chain}  {status}  hash {hash}")
}

/// Checks that the chain can take it, and stores its witness.
pub async fn upload(remote: &Remote, candidate: &Candidate) -> anyhow::Result<Submission> {
    let Candidate { chain, number, hash, .. } = candidate;
    let config = remote.chain(chain)?;
    if let Some(batching) = &config.batch {
        let of = &batching.of;
        return Err(Trouble::usage(format!(
            "the blocks of {chain} are batches of {of}'s: nobody submits or replaces any"
        ))
        .next(format!("submit blocks to {of}; `push0 why {chain} {number}` says what this batch waits for"))
        .coded(ErrorCode::DerivedChain)
        .into());
    }
    let row = snapshot::chain(&*remote.table, config, 0).await?.chain;
    if *number < row.first {
        return Err(Trouble::usage(format!("block {number} is below the first of chain {chain}, {}", row.first))
            .next("submit blocks from the first on; the first is set in push0.toml")
            .coded(ErrorCode::OutOfReach)
            .into());
    }
    if *number > row.next_final.saturating_add(config.distance) {
        let what = format!(
            "block {number} is more than {} ahead of the cursor of {chain}, {}",
            config.distance, row.next_final
        );
        return Err(Trouble::failed(what)
            .next("submit it later, or raise `distance` in push0.toml")
            .coded(ErrorCode::OutOfReach)
            .into());
    }
    let there = snapshot::block(&*remote.table, chain, *number).await?;
    if let Some(there) = &there
        && there.block.final_seq.is_some()
        && there.block.hash != Some(*hash)
    {
        return Err(Trouble::failed(format!(
            "block {number} of {chain} is final with another hash: what is final stays final"
        ))
        .next(format!("see `push0 block {chain} {number}`"))
        .coded(ErrorCode::AlreadyFinal)
        .into());
    }
    let witness = candidate.witness()?;
    let stored = store(remote, &witness.key, &candidate.witness).await?;
    if stored.sha256 != witness.sha256 {
        return Err(Trouble::failed(format!("blob {} is there with other bytes", witness.key))
            .next("the witness changed while it was uploaded? submit it again")
            .coded(ErrorCode::BadWitness)
            .into());
    }
    Ok(Submission {
        chain: chain.clone(),
        number: *number,
        hash: *hash,
        parent_hash: candidate.parent_hash,
        witness,
        fork_seq: candidate.fork_seq,
        deadline: candidate.deadline_ms.map(Millis),
    })
}

/// Stores a witness. One that is there already is read once: where its bytes were damaged, it is stored anew.
async fn store(remote: &Remote, key: &str, file: &Path) -> anyhow::Result<BlobInfo> {
    let stored = match remote.blobs.put_file(key, file, "submit").await? {
        PutOutcome::Created(info) => return Ok(info),
        PutOutcome::Exists(info) => info,
    };
    if is_intact(remote, &stored).await? {
        return Ok(stored);
    }
    tracing::warn!(key, code = %ErrorCode::WitnessDamaged, "the stored witness is damaged; it is stored anew");
    remote.blobs.delete(key).await?;
    Ok(remote.blobs.put_file(key, file, "submit").await?.into_info())
}

/// Whether a blob's bytes are still those that were stored.
async fn is_intact(remote: &Remote, info: &BlobInfo) -> anyhow::Result<bool> {
    const PIECE: u64 = 1 << 20;
    let (mut hasher, mut at) = (sha2::Sha256::new(), 0);
    while at < info.size {
        let piece = match remote.blobs.get_range(&info.key, at, PIECE).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(false),
            read => read?.unwrap_or_default(),
        };
        if piece.is_empty() {
            return Ok(false);
        }
        hasher.update(&piece);
        at += piece.len() as u64;
    }
    Ok(Sha256(hasher.finalize().into()) == info.sha256)
}

/// Tells the chain. Telling it again is harmless, so every call is a message of its own: what was changed in it is never swallowed.
pub async fn send(remote: &Remote, submission: &Submission) -> anyhow::Result<()> {
    let Submission { chain, number, hash, .. } = submission;
    let told_at = SystemClock.now().0;
    let message = Outgoing {
        body: ChainMessage::Submit(submission.clone()).to_json(),
        group: Some(chain.to_string()),
        dedup: Some(format!("submit/{chain}/{number}/{hash}/{told_at}")),
        ..Outgoing::default()
    };
    remote.queue.send(queue::SUBMISSIONS, vec![message]).await?;
    Ok(())
}

/// Waits until the block's row knows of the submission.
async fn admitted(remote: &Remote, submission: &Submission) -> anyhow::Result<String> {
    let Submission { chain, number, hash, .. } = submission;
    let is_contender = |block: &BlockSnapshot| {
        block.block.contenders.iter().any(|contender| contender.hash == *hash) || block.block.contenders_seen > 8
    };
    let is_overtaken = |block: &BlockSnapshot| {
        let row = &block.block;
        let is_later = submission.parent_hash.is_some() && submission.fork_seq > row.fork_seq;
        let is_earlier = submission.fork_seq.is_some() && submission.fork_seq < row.fork_seq;
        row.hash != Some(*hash) && !is_later && (is_earlier || row.past.contains(hash))
    };
    let is_known =
        |block: &BlockSnapshot| block.block.hash == Some(*hash) || is_contender(block) || is_overtaken(block);
    let block = view::wait_for_block(remote, chain, *number, ADMISSION, is_known).await.map_err(|error| match error
        .downcast::<Trouble>(
    ) {
        Ok(trouble) if trouble.code == Code::Timeout => Trouble::new(
            Code::Timeout,
            format!("block {number} of {chain} was sent, but not admitted within {} s", ADMISSION.as_secs()),
        )
        .next("`push0 status` shows whether submissions.fifo is worked on; the log of `push0 up` says why not")
        .coded(ErrorCode::NotInTime)
        .into(),
        Ok(trouble) => trouble.into(),
        Err(error) => error,
    })?;
    if is_overtaken(&block) {
        return Ok(OVERTAKEN.to_owned());
    }
    if block.block.hash != Some(*hash) {
        return Ok("contender".to_owned());
    }
    Ok(match block.block.status {
        BlockStatus::Parked => "admitted",
        ref other => other.name(),
    }
    .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_file_is_read_with_its_witness_beside_it_and_a_bad_one_says_what_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "ab".repeat(32);
        let path = dir.path().join("7.json");
        std::fs::write(&path, format!(r#"{{"chain":"demo","number":7,"hash":"{hash}","witness":"7.witness"}}"#))
            .unwrap();
        std::fs::write(dir.path().join("7.witness"), b"w").unwrap();
        let candidate = Candidate::read(&path).unwrap();
        assert_eq!(candidate.witness, dir.path().join("7.witness"));
        assert_eq!(candidate.parent_hash, None);
        let witness = candidate.witness().unwrap();
        assert_eq!(witness.key, format!("witnesses/demo/7-{}", Sha256::of(b"w")));

        std::fs::write(&path, format!(r#"{{"chain":"Demo","number":7,"hash":"{hash}","witness":"w"}}"#)).unwrap();
        let trouble = Candidate::read(&path).unwrap_err();
        assert!(trouble.what.contains("a chain id") && trouble.next.is_some(), "{trouble:?}");
        assert_eq!(Candidate::read(Path::new("/nowhere/x.json")).unwrap_err().code, Code::Usage);
    }
}
