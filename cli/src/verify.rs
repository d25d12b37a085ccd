//! `push0 verify`: what was finalized, checked from outside. The finalized stream is read, and nothing else of push0's state believed:
//! every blob is compared with its digest, every proof given to the pipeline's own prover, every link of the chain followed.

mod batch;

use std::collections::BTreeMap;
use std::path::Path;

use push0_core::chain::ChainConfig;
use push0_core::pipeline::PipelineFile;
use push0_core::record::{
    BatchRange, BlobRef, BlockRow, Finality, OutboxRow, RowKey, RunView, Verdict, Versioned as _, proof_key,
};
use push0_core::{BlockHash, ErrorCode, Node, PipelineDigest, RunId};
use push0_gpu_worker::prover::Output as Made;
use push0_gpu_worker::{Limits, Outcome, Proved, Rig};
use push0_runtime::port::Key;
use push0_runtime::snapshot;
use serde::Serialize;

use crate::args;
use crate::blobs;
use crate::connect::Remote;
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::prover;

/// Rows fetched at a time.
const PAGE: usize = 500;

/// What was found about one row of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub seq: u64,
    pub number: u64,
    pub hash: Option<BlockHash>,
    /// `proof` or `tombstone`.
    pub kind: &'static str,
    /// Of a batch chain: what it is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchRange>,
    pub problems: Vec<String>,
}

impl Checked {
    fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// Something is wrong with it, as opposed to: it could not be found out.
    fn is_bad(&self) -> bool {
        self.problems.iter().any(|problem| is_damning(ErrorCode::find(problem)))
    }
}

/// What was found about a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub chain: String,
    pub verified: usize,
    pub tombstones: usize,
    pub bad: usize,
    /// What could not be checked here: nothing is known to be wrong.
    pub unchecked: usize,
    pub rows: Vec<Checked>,
}

pub async fn run(args: &args::Verify, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let config = remote.chain(&args.chain)?;
    let findings = chain(remote, config, args.number).await?;
    output.show(&findings, || text(&findings));
    if findings.rows.is_empty() {
        let what = match args.number {
            Some(number) => format!("block {number} of {} is not final: there is nothing to verify", args.chain),
            None => format!("nothing of chain {} is final: there is nothing to verify", args.chain),
        };
        return Err(Trouble::absent(what)
            .next(format!("`push0 status {}` shows how far it is", args.chain))
            .coded(ErrorCode::UnknownBlock)
            .into());
    }
    let all = findings.rows.len();
    let (code, next) = worst(&findings);
    if findings.bad > 0 {
        return Err(Trouble::failed(format!("{} of {all} rows do not hold", findings.bad))
            .next(next)
            .coded(code)
            .into());
    }
    if findings.unchecked > 0 {
        let what = format!("{} of {all} rows could not be checked here", findings.unchecked);
        return Err(Trouble::new(Code::Unchecked, what).next(next).coded(code).into());
    }
    Ok(())
}

/// Whether a problem with this page says that something is wrong, rather than that it could not be looked at.
fn is_damning(code: Option<ErrorCode>) -> bool {
    use ErrorCode::{BlobDamaged, BrokenStream, InputMissing, NotVerified, UnknownBlob};
    code.is_none_or(|code| matches!(code, NotVerified | BrokenStream | BlobDamaged | UnknownBlob | InputMissing))
}

/// The page about the worst of it, and what to do: what could not be checked is only doubtful.
fn worst(findings: &Findings) -> (ErrorCode, &'static str) {
    let problems = findings.rows.iter().flat_map(|row| &row.problems);
    let codes: Vec<ErrorCode> = problems.filter_map(|problem| ErrorCode::find(problem)).collect();
    let rank = |code: &ErrorCode| match code {
        ErrorCode::NotVerified => 0,
        ErrorCode::BrokenStream => 1,
        ErrorCode::BlobDamaged => 2,
        _ => 3,
    };
    match codes.into_iter().min_by_key(rank) {
        Some(code) if rank(&code) == 3 => {
            (code, "nothing is known to be wrong: make the check possible, then verify again")
        }
        code => (
            code.unwrap_or(ErrorCode::NotVerified),
            "keep the data directory as it is and report this: push0 must never finalize what does not verify",
        ),
    }
}

/// Checks a chain's whole stream, or the row of one block.
pub async fn chain(remote: &Remote, config: &ChainConfig, only: Option<u64>) -> anyhow::Result<Findings> {
    let dir = tempfile::tempdir()?;
    let mut proofs = Proofs { remote, dir: dir.path(), rigs: BTreeMap::new() };
    let mut links = Links::new(config);
    let mut batches = batch::Batches::new(remote, config)?;
    let mut rows = Vec::new();
    let mut from = 1;
    loop {
        let page = snapshot::finalized(&*remote.table, &config.chain, from, PAGE).await?;
        for row in &page {
            let mut problems = links.follow(row);
            let range = batches.as_mut().and_then(|batches| {
                let (found, range) = batches.follow(row);
                problems.extend(found);
                range
            });
            if only.is_some_and(|number| number != row.number) {
                continue;
            }
            problems.extend(handed_on(remote, row).await);
            if let (Some(batches), Some(range)) = (&batches, &range) {
                problems.extend(batches.check(remote, row, range).await);
            }
            let kind = match &row.finality {
                Finality::Tombstone { .. } => "tombstone",
                Finality::Proof { pipeline, proof, header, others } => {
                    problems.extend(proofs.check(row, pipeline, proof, header).await.err());
                    for other in others {
                        problems.extend(proofs.check(row, &other.pipeline, &other.proof, &other.header).await.err());
                    }
                    "proof"
                }
            };
            let (seq, number, hash, batch) = (row.seq, row.number, row.hash, row.batch.clone());
            rows.push(Checked { seq, number, hash, kind, batch, problems });
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = last.seq + 1,
            _ => break,
        }
    }
    let count = |wanted: fn(&Checked) -> bool| rows.iter().filter(|row| wanted(row)).count();
    Ok(Findings {
        chain: config.chain.to_string(),
        verified: count(|row| row.is_good() && row.kind == "proof"),
        tombstones: count(|row| row.is_good() && row.kind == "tombstone"),
        bad: count(Checked::is_bad),
        unchecked: count(|row| !row.is_good() && !row.is_bad()),
        rows,
    })
}

pub fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for row in &findings.rows {
        let hash = row.hash.map_or("no hash".to_owned(), |hash| hash.to_string());
        let verdict = match (row.is_good(), row.kind) {
            (true, "proof") => "proof verified",
            (true, _) => "skipped",
            (false, _) if row.is_bad() => "BAD",
            (false, _) => "not checked",
        };
        let made_of = row.batch.as_ref().map_or(String::new(), |range| format!("  = {range}"));
        text.push_str(&format!("seq {}  block {}{made_of}  {verdict}  {hash}\n", row.seq, row.number));
        row.problems.iter().for_each(|problem| text.push_str(&format!("    {problem}\n")));
    }
    let Findings { chain, verified, tombstones, bad, unchecked, .. } = findings;
    text.push_str(&format!(
        "chain {chain}: {verified} proofs verified, {tombstones} skipped, {bad} bad, {unchecked} not checked\n"
    ));
    text
}

/// Order and continuity: no row is missing, none is twice, and each block follows the one before.
struct Links {
    seq: u64,
    number: u64,
    last_hash: Option<BlockHash>,
    /// Skipped blocks that did not fit: nobody's parents.
    orphans: Vec<BlockHash>,
}

impl Links {
    fn new(config: &ChainConfig) -> Self {
        Self { seq: 1, number: config.first, last_hash: config.first_parent, orphans: Vec::new() }
    }

    fn follow(&mut self, row: &OutboxRow) -> Vec<String> {
        let mut problems = Vec::new();
        if row.seq != self.seq {
            problems.push(format!("sequence number {} was expected", self.seq));
        }
        if row.number != self.number {
            problems.push(format!("block {} was expected", self.number));
        }
        let misfit = match (row.parent_hash, self.last_hash) {
            (Some(parent), _) if self.orphans.contains(&parent) => {
                Some(format!("its parent {parent} was skipped, being of another branch"))
            }
            (Some(parent), Some(last)) if parent != last => {
                Some(format!("its parent is {parent}, but the block before it is {last}"))
            }
            _ => None,
        };
        (self.seq, self.number) = (row.seq + 1, row.number + 1);
        self.last_hash = row.hash.filter(|_| misfit.is_none());
        if misfit.is_some() {
            self.orphans.extend(row.hash);
        }
        // A block may be left out because it does not fit; one that is handed on must.
        if matches!(row.finality, Finality::Proof { .. }) {
            problems.extend(misfit);
        }
        problems.iter().map(|problem| ErrorCode::BrokenStream.says(problem)).collect()
    }
}

/// The blob that says the block is finalized says the same as the stream.
async fn handed_on(remote: &Remote, row: &OutboxRow) -> Option<String> {
    let key = proof_key(&row.chain, row.number);
    match remote.blobs.get(&key).await {
        Ok(Some(bytes)) if *bytes == *row.to_json().as_bytes() => None,
        Ok(Some(_)) => Some(ErrorCode::BrokenStream.says(format!("blob {key} says something else than the stream"))),
        Ok(None) => Some(
            ErrorCode::BrokenStream
                .says(format!("blob {key} is missing (a block finalized a moment ago may not have it yet)")),
        ),
        Err(error) => Some(error.code().says(format!("blob {key}: {}", ErrorCode::split(error.message()).1))),
    }
}

/// A trouble among the findings about a row.
fn told(trouble: Trouble) -> String {
    trouble.page.unwrap_or(ErrorCode::NotChecked).says(trouble.what)
}

/// Checks proofs with the provers of their pipelines.
struct Proofs<'a> {
    remote: &'a Remote,
    dir: &'a Path,
    rigs: BTreeMap<PipelineDigest, Rig>,
}

impl Proofs<'_> {
    /// A pipeline that is not configured any more: as the run's own record has it, with a prover of the same name that still is. The
    /// digests of its programs are the record's: another prover does not pass for it.
    async fn recorded(&self, row: &OutboxRow, pipeline: &PipelineDigest) -> Result<PipelineFile, String> {
        let not_checked = |what: String| {
            let what = format!("it was proven with pipeline {pipeline}, which is not configured any more, and {what}");
            ErrorCode::NotChecked.says(format!("{what}: add it to check this proof"))
        };
        let id = RunId::new(row.chain.clone(), row.number, row.epoch);
        let get = async |at: RowKey| {
            let found = self.remote.table.get(&Key { partition: at.partition, sort: at.sort }).await;
            found.map_err(|error| not_checked(error.to_string()))
        };
        let block = get(RowKey::block(&row.chain, row.number)).await?;
        let block = block.and_then(|block| BlockRow::from_value(block.doc()?.clone()).ok());
        // Of several runs the pipeline's own.
        let lane = block.iter().flat_map(BlockRow::latest_runs).find(|(_, run)| run.pipeline == *pipeline);
        let lane = lane.map_or(0, |(lane, _)| lane);
        let found = get(RowKey::run(&id.in_lane(lane))).await?;
        let view = found.and_then(|found| RunView::read(&found.attributes));
        let run = view.map(|view| view.run).filter(|run| run.pipeline.digest() == *pipeline);
        let run = run.ok_or_else(|| not_checked("its run's record is not kept".to_owned()))?;
        let name = run.pipeline.stage(run.pipeline.verify_position()).prover.clone();
        let command = self.remote.prover(&pipeline.tag(), &name).cloned();
        let command = command.ok_or_else(|| not_checked(format!("no prover named {name} is")))?;
        Ok(PipelineFile {
            pipeline: run.pipeline.clone(),
            policy: run.policy.clone(),
            provers: [(name, command)].into(),
            self_tests: BTreeMap::new(),
        })
    }

    async fn check(
        &mut self,
        row: &OutboxRow,
        pipeline: &PipelineDigest,
        proof: &BlobRef,
        header: &BlobRef,
    ) -> Result<(), String> {
        let hash = row.hash.ok_or_else(|| ErrorCode::BrokenStream.says("it has a proof, but no hash"))?;
        let dir = self.dir.join(format!("{}-{}", row.seq, pipeline.tag()));
        std::fs::create_dir_all(&dir).map_err(|error| ErrorCode::NotChecked.says(error.to_string()))?;
        let inputs = vec![dir.join("proof"), dir.join("header")];
        for (blob, path) in [proof, header].into_iter().zip(&inputs) {
            blobs::fetch(self.remote, blob, path).await.map_err(told)?;
        }
        let remote = self.remote;
        let file = match remote.catalog.pipelines.get(pipeline) {
            Some(file) => file,
            None => &self.recorded(row, pipeline).await?,
        };
        if !self.rigs.contains_key(pipeline) {
            let scratch = self.dir.join(format!("prover-{pipeline}"));
            let rig = prover::rig(file, &scratch, Limits::default());
            self.rigs.insert(*pipeline, rig.map_err(|error| ErrorCode::NotChecked.says(error.to_string()))?);
        }
        let rig = self.rigs.get_mut(pipeline).expect("it was just put there");
        let block = prover::Block { chain: row.chain.clone(), number: row.number, hash, parent_hash: row.parent_hash };
        let task = prover::task(file, Node::new(file.pipeline.verify_position(), 0, 0), &block);
        let proved = rig.run(task, &inputs, std::future::pending()).await;
        let proved = proved.map_err(|error| ErrorCode::NotChecked.says(error.to_string()))?;
        let _ = std::fs::remove_dir_all(&dir);
        match proved {
            Proved::Outcome(Outcome::Done(Made::Verdict { verdict, message, .. })) => {
                let said = message.unwrap_or_default();
                match verdict {
                    Verdict::Ok => Ok(()),
                    Verdict::BadProof => {
                        Err(ErrorCode::NotVerified
                            .says(format!("the proof does not show what the header says: {said}")))
                    }
                    Verdict::BadBlock => {
                        Err(ErrorCode::NotVerified.says(format!("the header is not this block's: {said}")))
                    }
                }
            }
            Proved::Outcome(Outcome::Failed(failure)) | Proved::Hung(failure) => {
                Err(ErrorCode::NotChecked.says(format!("the prover could not check it: {}", failure.message)))
            }
            Proved::Outcome(Outcome::Done(_)) | Proved::Ended(_) => {
                Err(ErrorCode::NotChecked.says("the prover gave no verdict"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use push0_core::{Epoch, Sha256};

    fn row(seq: u64, number: u64, hash: u8, parent: Option<u8>) -> OutboxRow {
        OutboxRow {
            seq,
            chain: "demo".parse().unwrap(),
            number,
            epoch: Epoch::FIRST,
            hash: Some(BlockHash([hash; 32])),
            parent_hash: parent.map(|parent| BlockHash([parent; 32])),
            batch: None,
            finality: Finality::Proof {
                pipeline: PipelineDigest([0; 32]),
                proof: blob(),
                header: blob(),
                others: Vec::new(),
            },
            timings: None,
        }
    }

    fn blob() -> BlobRef {
        BlobRef { key: "k".to_owned(), sha256: Sha256([0; 32]), size: 0 }
    }

    fn skipped(row: OutboxRow) -> OutboxRow {
        OutboxRow { finality: Finality::Tombstone { reason: String::new() }, ..row }
    }

    #[test]
    fn gaps_repetitions_and_broken_links_are_found_and_good_links_are_not_blamed() {
        let mut config = ChainConfig::new("demo".parse().unwrap(), PipelineDigest([0; 32]));
        config.first = 5;
        config.first_parent = Some(BlockHash([4; 32]));
        let problems = |rows: &[OutboxRow]| -> Vec<String> {
            let mut links = Links::new(&config);
            rows.iter().flat_map(|row| links.follow(row)).collect()
        };
        assert!(problems(&[row(1, 5, 5, Some(4)), row(2, 6, 6, Some(5)), row(3, 7, 7, None)]).is_empty());
        assert_eq!(problems(&[row(1, 5, 5, Some(3))]).len(), 1, "another first parent");
        assert_eq!(problems(&[row(1, 5, 5, Some(4)), row(3, 7, 7, None)]).len(), 2, "a gap in both sequences");
        assert_eq!(problems(&[row(1, 5, 5, Some(4)), row(1, 5, 5, Some(4))]).len(), 3, "twice the same");
        assert_eq!(problems(&[row(1, 5, 5, Some(4)), row(2, 6, 6, Some(9))]).len(), 1, "another parent");
        let through_skipped = [row(1, 5, 5, Some(4)), skipped(row(2, 6, 6, Some(5))), row(3, 7, 7, Some(6))];
        assert!(problems(&through_skipped).is_empty(), "a skipped block's hash counts as a parent");
        let of_another_branch = [row(1, 5, 5, Some(4)), skipped(row(2, 6, 66, Some(9))), row(3, 7, 7, Some(66))];
        let found = problems(&of_another_branch);
        assert_eq!(found.len(), 1, "but not one that did not fit itself: {found:?}");
    }
}
