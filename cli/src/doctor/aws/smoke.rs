//! A block sent through as a user sends one, by an upload, and how long each of its steps took.
//!
//! It must not get in anybody's way. A block is made up only for a chain all of whose provers are `push0-echo`: its proofs prove nothing, so
//! nobody waits for them. Of any other chain the operator names a submission file, and what it holds is the chain's next block and becomes
//! final like every other. What stands under that number already is followed, and nothing is sent.

use std::path::Path;
use std::time::{Duration, Instant};

use push0_core::chain::ChainConfig;
use push0_core::record::BlockStatus;
use push0_core::{BlockHash, ChainId, ErrorCode, Millis, Sha256};
use push0_runtime::port::{Clock as _, ErrorKind, SystemClock};
use push0_runtime::snapshot::{self, BlockSnapshot, ChainSnapshot};
use serde_json::json;

use super::refusal::Asked;
use super::{Account, Finding, Findings, State};
use crate::connect::Remote;
use crate::error::{Code, Report, Trouble};
use crate::output::Output;
use crate::render::duration;
use crate::submit::Candidate;
use crate::{view, why};

const WHAT: &str = "smoke block";

/// The prover that takes what is made up here.
const ECHO: &str = "push0-echo";

/// Two segments: one of each kind of task.
const SEGMENTS: u32 = 2;

const BETWEEN: Duration = Duration::from_millis(500);

struct Block {
    chain: ChainId,
    number: u64,
    hash: BlockHash,
    /// None: it was sent before.
    witness: Option<Vec<u8>>,
}

/// `through`: a chain, or a submission file.
pub(super) async fn send(
    account: &Account,
    remote: &Remote,
    through: &str,
    within: Millis,
    output: Output,
    findings: &mut Findings,
) {
    let block = match through.parse::<ChainId>() {
        Ok(chain) => made_up(remote, &chain).await,
        Err(_) => own(remote, Path::new(through)).await,
    };
    let block = match block {
        Ok(block) => block,
        Err(error) => return told(&error, "", findings),
    };
    let mut steps = Steps { begun: Instant::now(), reached: Vec::new(), output };
    if let Some(witness) = &block.witness
        && let Err(finding) = upload(account, &block, witness).await
    {
        return findings.0.push(finding);
    }
    let Block { chain, number, .. } = &block;
    match follow(remote, &block, Duration::from_millis(within.0), &mut steps).await {
        Ok(()) => {
            let says = format!("block {number} of {chain} is final after {}", duration(steps.so_far()));
            findings.ok(WHAT, format!("{says}{}", steps.text()));
        }
        Err(error) => told(&error, &steps.text(), findings),
    }
}

fn told(error: &anyhow::Error, steps: &str, findings: &mut Findings) {
    let report = Report::new(error);
    let code = report.code.unwrap_or(ErrorCode::NotInTime);
    findings.problem(WHAT, code, format!("{}{steps}", report.message), report.next);
}

async fn made_up(remote: &Remote, chain: &ChainId) -> anyhow::Result<Block> {
    let config = chain_of_its_own(remote, chain)?;
    if let Some(program) = other_than_echo(remote, config) {
        return Err(Trouble::usage(format!("chain {chain} is proven by {program}, for which no block can be made up"))
            .next("name the submission file of its next block (--smoke FILE.json), or a chain of push0-echo (docs/operations.md, \"Doctor on AWS\")")
            .coded(ErrorCode::BadUsage)
            .into());
    }
    let snapshot = snapshot::chain(&*remote.table, config, 0).await?;
    let (number, parent) = (snapshot.chain.next_final, snapshot.chain.last_hash.or(config.first_parent));
    if let Some(hash) = standing(&snapshot)? {
        return Ok(Block { chain: chain.clone(), number, hash, witness: None });
    }
    let hash = BlockHash(Sha256::of(format!("smoke {chain} {number} {}", SystemClock.now().0).as_bytes()).0);
    let witness = json!({ "segments": SEGMENTS, "hash": hash, "parent_hash": parent }).to_string();
    Ok(Block { chain: chain.clone(), number, hash, witness: Some(witness.into_bytes()) })
}

/// A chain to which somebody submits.
fn chain_of_its_own<'a>(remote: &'a Remote, chain: &ChainId) -> anyhow::Result<&'a ChainConfig> {
    let config = remote.chain(chain)?;
    match &config.batch {
        None => Ok(config),
        Some(batching) => Err(Trouble::usage(format!("the blocks of {chain} are batches of {}'s", batching.of))
            .next(format!("name {}, or a file of one of its blocks", batching.of))
            .coded(ErrorCode::DerivedChain)
            .into()),
    }
}

/// A program of the chain's pipelines that is not the echo prover.
fn other_than_echo(remote: &Remote, config: &ChainConfig) -> Option<String> {
    let files = config.pipelines().into_iter().filter_map(|digest| remote.catalog.pipelines.get(&digest));
    let programs = files.flat_map(|file| file.provers.values()).filter_map(|prover| prover.command.first());
    let name = |program: &String| Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
    programs.filter_map(name).find(|name| name != ECHO)
}

async fn own(remote: &Remote, file: &Path) -> anyhow::Result<Block> {
    let candidate = Candidate::read(file)?;
    let Candidate { chain, number, hash, witness, .. } = candidate;
    let snapshot = snapshot::chain(&*remote.table, chain_of_its_own(remote, &chain)?, 0).await?;
    let next = snapshot.chain.next_final;
    if number != next {
        return Err(Trouble::usage(format!("{} is block {number} of {chain}, whose next is {next}", file.display()))
            .next(format!("name the file of block {next}: any other would wait for it, or is final"))
            .coded(ErrorCode::OutOfReach)
            .into());
    }
    match standing(&snapshot)? {
        Some(there) if there != hash => {
            Err(Trouble::failed(format!("another block is there as block {number} of {chain}: {there}"))
                .next(format!("push0 block {chain} {number}"))
                .coded(ErrorCode::Contender)
                .into())
        }
        Some(_) => Ok(Block { chain, number, hash, witness: None }),
        None => {
            let bytes = std::fs::read(&witness).map_err(|error| {
                Trouble::usage(format!("cannot read the witness {}: {error}", witness.display()))
                    .next("the path is relative to the submission file")
                    .coded(ErrorCode::BadWitness)
            })?;
            Ok(Block { chain, number, hash, witness: Some(bytes) })
        }
    }
}

/// What stands under the chain's next number; an error where nothing can become final there.
fn standing(snapshot: &ChainSnapshot) -> Result<Option<BlockHash>, Trouble> {
    let (chain, number) = (&snapshot.chain.chain, snapshot.chain.next_final);
    if snapshot.chain.halt.is_some() {
        return Err(Trouble::failed(format!("chain {chain} has halted: nothing becomes final on it"))
            .next(format!("push0 why {chain} {number}; docs/runbook/chain-halted.md")));
    }
    if snapshot.chain.paused {
        return Err(Trouble::failed(format!("chain {chain} is paused")).next(format!("push0 resume {chain}")));
    }
    let there = snapshot.blocks.iter().map(|block| &block.block).find(|block| block.number == number);
    let Some(block) = there else { return Ok(None) };
    match &block.status {
        BlockStatus::Failed { reason } => {
            Err(Trouble::failed(format!("block {number} of {chain} has failed: {reason}"))
                .next(format!("push0 why {chain} {number}; push0 retry or push0 skip; docs/runbook/block-failed.md")))
        }
        BlockStatus::Dropped { .. } => Ok(None),
        BlockStatus::Parked
        | BlockStatus::Proving
        | BlockStatus::Proven
        | BlockStatus::Skipped { .. }
        | BlockStatus::Final => Ok(block.hash),
    }
}

async fn upload(account: &Account, block: &Block, witness: &[u8]) -> Result<(), Finding> {
    let key = format!("witnesses/{}/{}/{}/witness", block.chain, block.number, block.hash);
    let bucket = account.topology.bucket_of(&key).map_or("witnesses", |bucket| bucket.name.as_str());
    let put = account.connection.s3().put_object().bucket(account.place.name(bucket)).key(&key);
    let put = put.metadata("sha256", Sha256::of(witness).to_string()).body(witness.to_vec().into()).send();
    put.await.map(|_| ()).map_err(|error| {
        let on = format!("{}/{key}", account.place.bucket_arn(bucket));
        Asked { what: WHAT, action: "s3:PutObject", on }.failed(account, State::Problem, &error)
    })
}

async fn follow(remote: &Remote, block: &Block, within: Duration, steps: &mut Steps) -> anyhow::Result<()> {
    let Block { chain, number, hash, .. } = block;
    loop {
        let seen = match snapshot::block(&*remote.table, chain, *number).await {
            Err(error) if matches!(error.kind(), ErrorKind::Transient { .. }) => None,
            seen => seen?,
        };
        if let Some(seen) = &seen {
            if seen.block.hash != Some(*hash) {
                return Err(Trouble::failed(format!("another block came in as block {number} of {chain}"))
                    .next(format!("push0 block {chain} {number}"))
                    .coded(ErrorCode::Contender)
                    .into());
            }
            steps.see(seen);
            if seen.block.final_seq.is_some() && is_handed_on(remote, seen).await? {
                steps.reach("handed on");
                return Ok(());
            }
        }
        let is_over = seen.as_ref().is_some_and(|seen| {
            matches!(
                seen.block.status,
                BlockStatus::Failed { .. } | BlockStatus::Skipped { .. } | BlockStatus::Dropped { .. }
            )
        });
        if is_over || steps.begun.elapsed() >= within {
            return Err(stuck(remote, block, seen.as_ref(), steps.so_far()).await?.into());
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Whether its message is on `finalized.fifo`.
async fn is_handed_on(remote: &Remote, block: &BlockSnapshot) -> anyhow::Result<bool> {
    let chain = snapshot::chain(&*remote.table, remote.chain(&block.block.chain)?, 0).await?;
    Ok(block.block.final_seq.is_some_and(|seq| chain.published >= seq))
}

/// Where it stands, and what helps.
async fn stuck(remote: &Remote, block: &Block, seen: Option<&BlockSnapshot>, after: Millis) -> anyhow::Result<Trouble> {
    let Block { chain, number, .. } = block;
    let page = page(seen);
    let Some(seen) = seen else {
        let what = format!("nobody has heard of block {number} of {chain} after {}", duration(after));
        return Ok(Trouble::new(Code::Timeout, what)
            .next(format!("S3 told nobody of the upload, or the dispatcher takes nothing: {page}"))
            .coded(ErrorCode::NotInTime));
    };
    let answer = why::explain(&view::facts(remote, chain, *number).await?);
    let what = format!(
        "block {number} of {chain} is {} after {}: {}",
        seen.block.status.name(),
        duration(after),
        answer.answer
    );
    let next = answer.next.first().map_or(String::new(), |next| format!("{next}; "));
    Ok(Trouble::new(Code::Timeout, what)
        .next(format!("{next}push0 why {chain} {number}; {page}"))
        .coded(answer.code.unwrap_or(ErrorCode::NotInTime)))
}

/// The runbook's page about where a block is.
fn page(seen: Option<&BlockSnapshot>) -> &'static str {
    let Some(seen) = seen else { return "docs/runbook/queue-age.md" };
    let is_with_nobody = || {
        let mut tasks = seen.runs().flat_map(|run| &run.tasks);
        tasks.any(|task| task.started.is_none())
    };
    match seen.block.status {
        BlockStatus::Failed { .. } | BlockStatus::Skipped { .. } | BlockStatus::Dropped { .. } => {
            "docs/runbook/block-failed.md"
        }
        BlockStatus::Proving if is_with_nobody() => "docs/runbook/fleet-shortfall.md",
        BlockStatus::Parked | BlockStatus::Proving | BlockStatus::Proven | BlockStatus::Final => {
            "docs/runbook/chain-stuck.md"
        }
    }
}

/// What was seen of a block, in the order it was seen, and when: as sharp as [`BETWEEN`].
struct Steps {
    begun: Instant,
    reached: Vec<(String, Duration)>,
    output: Output,
}

impl Steps {
    fn see(&mut self, block: &BlockSnapshot) {
        self.reach("admitted");
        if block.block.released_at.is_some() {
            self.reach("released");
        }
        for stage in block.run.iter().flat_map(|run| &run.stages) {
            if stage.of.is_some_and(|of| of > 0 && stage.done >= of) {
                self.reach(&stage.name);
            }
        }
        if block.block.final_seq.is_some() {
            self.reach("final");
        }
    }

    fn reach(&mut self, step: &str) {
        if self.reached.iter().all(|(known, _)| known != step) {
            let after = self.begun.elapsed();
            self.reached.push((step.to_owned(), after));
            self.output.note(&format!("{WHAT}: {step} after {}", duration(millis(after))));
        }
    }

    fn so_far(&self) -> Millis {
        millis(self.begun.elapsed())
    }

    /// A line a step: how long it took since the one before.
    fn text(&self) -> String {
        let before = std::iter::once(Duration::ZERO).chain(self.reached.iter().map(|(_, after)| *after));
        let lines = self.reached.iter().zip(before);
        lines.map(|((step, after), before)| format!("\n{step}: {}", duration(millis(*after - before)))).collect()
    }
}

fn millis(length: Duration) -> Millis {
    Millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::fixtures::block;

    #[test]
    fn each_step_is_told_once_with_the_time_since_the_one_before() {
        let mut steps = Steps { begun: Instant::now(), reached: Vec::new(), output: Output::new(true) };
        steps.reached =
            vec![("admitted".to_owned(), Duration::from_millis(1500)), ("split".to_owned(), Duration::from_secs(4))];
        steps.reach("split");
        assert_eq!(steps.text(), "\nadmitted: 1.5 s\nsplit: 2.5 s");
    }

    #[test]
    fn the_page_is_about_where_the_block_is() {
        let failed = BlockStatus::Failed { reason: "x".to_owned() };
        for (status, wanted) in
            [(failed, "block-failed"), (BlockStatus::Proven, "chain-stuck"), (BlockStatus::Parked, "chain-stuck")]
        {
            assert!(page(Some(&block(1, status))).contains(wanted));
        }
        assert!(page(None).contains("queue-age"));
    }
}
