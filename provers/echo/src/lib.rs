//! `push0-echo`: a prover that proves nothing, for tests and benches of push0 itself.
//!
//! It takes as long as it is told and fails as it is told, and its outputs are digests of its inputs, so that a test
//! can see that every segment was used once and in order. Stages may have any name: what it does depends on the
//! task's kind. Its parameters (of the stage, or of a JSON witness) are listed at [`params::Params`].
//!
//! Session form by default; exec form with `--stage`. `PUSH0_ECHO_LOG` names a file to which every task started
//! appends its id as one line; `PUSH0_ECHO_TIMES` one to which every task ended appends its id, when it began and ended (milliseconds of the
//! Unix epoch), and `done` or `ended`; `PUSH0_ECHO_STATE` a directory in which failure rules count across processes.

mod content;
mod params;
mod script;

use std::fs;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use push0_prover::files::{inputs, read, write, write_split};
use push0_prover::{Ctx, Failure, Hello, Kind, Prover, Task, TaskResult, Verdict, hello};
use sha2::{Digest, Sha256};

use crate::content::{Artifact, Covers, Header, Manifest, SegmentFile, covers};
use crate::params::{Params, Witness};
use crate::script::Action;

/// As many as push0 takes.
const MOST_SEGMENTS: u32 = 100_000;

/// Environment variable naming the log of tasks' times.
const TIMES_ENV: &str = "PUSH0_ECHO_TIMES";

/// Environment variable naming the log of task ids.
const LOG_ENV: &str = "PUSH0_ECHO_LOG";

/// See the module.
pub struct Echo;

impl Prover for Echo {
    fn hello(&self) -> Hello {
        hello("push0-echo", env!("CARGO_PKG_VERSION"))
            .stage("split", Kind::Split)
            .stage("prove", Kind::Map)
            .stage("lift", Kind::Map)
            .stage("join", Kind::Join)
            .stage("wrap", Kind::Single)
            .stage("verify", Kind::Verify)
            .program("echo", &hex::encode(Sha256::digest(b"push0-echo/1")))
    }

    fn check(&mut self, task: &Task, _ctx: &Ctx) -> Result<TaskResult, Failure> {
        let [artifact, header, first, last] = inputs(task)?;
        let header: Header = serde_json::from_slice(&read(header)?).map_err(Failure::permanent)?;
        let ends = [read(first)?, read(last)?].map(|bytes| covers(&bytes));
        let [Ok(Covers { first, .. }), Ok(Covers { last, .. })] = ends else {
            return Err(Failure::bad_input([2, 3], "the segments are none"));
        };
        let wanted = Covers { block: header.hash, witness: header.witness, first, last };
        Ok(match covers(&read(artifact)?) {
            Ok(found) if found == wanted => TaskResult::verdict(Verdict::Ok, ""),
            Ok(found) => TaskResult::verdict(
                Verdict::BadProof,
                format!("it covers {}-{} of block {}, not {first}-{last}", found.first, found.last, found.block),
            ),
            Err(why) => TaskResult::verdict(Verdict::BadProof, why),
        })
    }

    fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
        append(LOG_ENV, &task.id)?;
        let begun = now_ms();
        let result = run(task, ctx);
        let how = if result.is_ok() { "done" } else { "ended" };
        append(TIMES_ENV, &format!("{} {begun} {} {how}", task.id, now_ms()))?;
        result
    }
}

fn run(task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
    let params = Params::of(&task.params)?;
    let duration_ms = match params.slow {
        Some(slow) if is_slow(&task.id, slow) => params.duration_ms.saturating_mul(slow.factor),
        _ => params.duration_ms,
    };
    match script::action(&params, task)? {
        None => {}
        Some(Action::Fail(failure)) => return Err(failure),
        Some(Action::Hang) => loop {
            sleep(Duration::from_secs(3600));
        },
        Some(Action::Crash) => std::process::abort(),
        Some(Action::Garbage) => garbage()?,
        Some(Action::BadVerdict) => {
            return Ok(TaskResult::verdict(Verdict::BadProof, "the failure script says so"));
        }
    }
    match task.kind {
        Kind::Split => split(task, &params, ctx),
        Kind::Map | Kind::Single => {
            wait(duration_ms, ctx)?;
            one(task, &params)
        }
        Kind::Join => {
            wait(duration_ms, ctx)?;
            join(task, &params)
        }
        Kind::Verify => {
            wait(duration_ms, ctx)?;
            verify(task, &params)
        }
    }
}

/// Whether this run of the task is one of the slow ones. The pipeline's tag in the id does not count.
fn is_slow(id: &str, slow: params::Slow) -> bool {
    let parts: Vec<&str> = id.split('/').collect();
    let (tag, node) = (parts.len().saturating_sub(3), parts.len().saturating_sub(2));
    let counts: Vec<&str> = parts[..tag].iter().chain(&parts[node..]).copied().collect();
    let digest = Sha256::digest(counts.join("/"));
    let drawn = digest[..8].iter().fold(0_u64, |drawn, byte| drawn << 8 | u64::from(*byte));
    drawn % 1_000 < slow.per_thousand
}

fn now_ms() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_millis()).unwrap_or_default()
}

/// One line to the file that an environment variable names, in one write, so that lines of several processes never mix.
fn append(name: &str, line: &str) -> Result<(), Failure> {
    let Some(path) = std::env::var_os(name) else {
        return Ok(());
    };
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).map_err(Failure::retryable)
}

/// Breaks the protocol: a line on stdout that is no message.
fn garbage() -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    stdout.write_all(b"this is not the prover protocol\n").and_then(|()| stdout.flush()).map_err(Failure::retryable)
}

/// Takes its time, with progress about ten times a second; a cancel ends it.
fn wait(duration_ms: u64, ctx: &Ctx) -> Result<(), Failure> {
    let (start, total) = (Instant::now(), Duration::from_millis(duration_ms));
    let mut told = start;
    while let Some(left) = total.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        ctx.check()?;
        if told.elapsed() >= Duration::from_millis(100) {
            told = Instant::now();
            ctx.progress(start.elapsed().as_secs_f64() / total.as_secs_f64(), "");
        }
        sleep(left.min(Duration::from_millis(10)));
    }
    ctx.check()
}

fn split(task: &Task, params: &Params, ctx: &Ctx) -> Result<TaskResult, Failure> {
    let [input] = &task.inputs[..] else {
        return split_batch(task, params, ctx);
    };
    // A witness that is no such JSON is fine: then the stage's parameters and the block say it all.
    let bytes = read(input)?;
    let witness: Witness = serde_json::from_slice(&bytes).unwrap_or_default();
    wait(witness.duration_ms.unwrap_or(params.duration_ms), ctx)?;
    let segments = witness.segments.unwrap_or(params.segments);
    let block = &task.block;
    let header = Header {
        chain: block.chain.clone(),
        number: block.number,
        hash: witness.hash.unwrap_or_else(|| block.hash.clone()),
        parent_hash: witness.parent_hash,
        segments,
        witness: params.state_witness.then(|| hex::encode(Sha256::digest(&bytes))),
        blocks: Vec::new(),
    };
    leave(task, &header)
}

/// A batch: the manifest, then each block's proof and header. One segment a block.
fn split_batch(task: &Task, params: &Params, ctx: &Ctx) -> Result<TaskResult, Failure> {
    let Some((manifest, files)) = task.inputs.split_first() else {
        return Err(Failure::permanent("split takes a witness"));
    };
    let manifest: Manifest = serde_json::from_slice(&read(manifest)?).map_err(Failure::permanent)?;
    let (Some(first), Some(last)) = (manifest.blocks.first(), manifest.blocks.last()) else {
        return Err(Failure::permanent("the batch has no blocks"));
    };
    if files.len() != 2 * manifest.blocks.len() {
        let what =
            format!("{} blocks come with {} files, not a proof and a header each", manifest.blocks.len(), files.len());
        return Err(Failure::permanent(what));
    }
    wait(params.duration_ms, ctx)?;
    let mut before = None;
    for (block, files) in manifest.blocks.iter().zip(files.chunks(2)) {
        let wrong = |what: &str| Failure::permanent(format!("block {} of {}: {what}", block.number, manifest.chain));
        if before.is_some_and(|(number, _): (u64, _)| number.checked_add(1) != Some(block.number)) {
            return Err(wrong("it is not the next one"));
        }
        if before.zip(block.parent_hash.as_ref()).is_some_and(|((_, hash), parent)| hash != parent) {
            return Err(wrong("its parent is another block"));
        }
        let header: Header = serde_json::from_slice(&read(&files[1])?).map_err(|error| wrong(&error.to_string()))?;
        if (&header.chain, header.number, &header.hash) != (&manifest.chain, block.number, &block.hash) {
            return Err(wrong("its header is another block's"));
        }
        match covers(&read(&files[0])?) {
            Ok(proof) if proof == header.whole() => {}
            Ok(_) => return Err(wrong("its proof is not one of the whole block")),
            Err(why) => return Err(wrong(&why)),
        }
        before = Some((block.number, &block.hash));
    }
    let header = Header {
        chain: task.block.chain.clone(),
        number: task.block.number,
        hash: last.hash.clone(),
        parent_hash: first.parent_hash.clone(),
        segments: manifest.blocks.len() as u32,
        witness: None,
        blocks: manifest.blocks.iter().map(|block| block.hash.clone()).collect(),
    };
    leave(task, &header)
}

/// What `split` leaves: the segments and the header.
fn leave(task: &Task, header: &Header) -> Result<TaskResult, Failure> {
    if header.segments > MOST_SEGMENTS {
        let what = format!("the witness asks for {} segments; at most {MOST_SEGMENTS} are possible", header.segments);
        return Err(Failure::permanent(what));
    }
    let segments = (0..header.segments).map(|segment| {
        let content = SegmentFile { block: header.hash.clone(), segment, witness: header.witness.clone() };
        Ok(content::line(&content))
    });
    write_split(task, segments, &content::line(header))?;
    Ok(TaskResult::split(header.segments, header.hash.clone(), header.parent_hash.clone()))
}

/// `map` and `single`: one input, a segment or an artifact.
fn one(task: &Task, params: &Params) -> Result<TaskResult, Failure> {
    let [input] = inputs(task)?;
    let bytes = read(input)?;
    let covers = covers(&bytes).map_err(|why| Failure::bad_input([0], why))?;
    finish(task, params, &[bytes], covers)
}

fn join(task: &Task, params: &Params) -> Result<TaskResult, Failure> {
    if task.inputs.len() < 2 {
        return Err(Failure::permanent("join takes at least two inputs"));
    }
    let mut contents = Vec::with_capacity(task.inputs.len());
    let mut joined: Option<Covers> = None;
    for (at, input) in (0..).zip(&task.inputs) {
        let bytes = read(input)?;
        let right = covers(&bytes).map_err(|why| Failure::bad_input([at], why))?;
        joined = Some(match joined {
            None => right,
            Some(left) if (&left.block, &left.witness) != (&right.block, &right.witness) => {
                return Err(Failure::bad_input([at], format!("input {at} is of another block")));
            }
            Some(left) if left.last.checked_add(1) != Some(right.first) => {
                let message =
                    format!("segments {}-{} are followed by {}-{}", left.first, left.last, right.first, right.last);
                return Err(Failure::bad_input([at - 1, at], message));
            }
            Some(left) => Covers { last: right.last, ..left },
        });
        contents.push(bytes);
    }
    finish(task, params, &contents, joined.ok_or_else(|| Failure::permanent("join takes at least two inputs"))?)
}

/// Writes an artifact whose digest is over the stage and the inputs' contents: equal for every attempt.
fn finish(task: &Task, params: &Params, inputs: &[Vec<u8>], covers: Covers) -> Result<TaskResult, Failure> {
    let mut sha = Sha256::new();
    sha.update(format!("{:?}-{}\n", task.kind, task.stage));
    for input in inputs {
        sha.update(Sha256::digest(input));
    }
    let Covers { block, witness, first, last } = covers;
    let mut bytes = content::line(&Artifact { digest: hex::encode(sha.finalize()), block, first, last, witness });
    bytes.resize(bytes.len().max(params.output_bytes), b'\n');
    write(&task.output, &bytes)?;
    Ok(TaskResult::default())
}

fn verify(task: &Task, params: &Params) -> Result<TaskResult, Failure> {
    let [root, header] = inputs(task)?;
    let (root, header) = (read(root)?, read(header)?);
    let verdict = |verdict, message: String| Ok(TaskResult::verdict(verdict, message));
    let header: Header = match serde_json::from_slice(&header) {
        Ok(header) => header,
        Err(error) => return verdict(Verdict::BadBlock, format!("the header: {error}")),
    };
    if header.hash != task.block.hash || header.number != task.block.number || header.chain != task.block.chain {
        return verdict(Verdict::BadBlock, "the header is of another block".to_owned());
    }
    match covers(&root) {
        Err(why) => verdict(Verdict::BadProof, why),
        Ok(proof) if proof == header.whole() => {
            let states = params.states.as_deref().unwrap_or(&header.hash);
            Ok(TaskResult::verdict(Verdict::Ok, "").stating(hex::encode(Sha256::digest(states))))
        }
        Ok(proof) if proof.block != header.hash => {
            verdict(Verdict::BadProof, format!("the root is of block {}", proof.block))
        }
        Ok(proof) if proof.witness != header.witness => {
            verdict(Verdict::BadProof, "the root is of another witness".to_owned())
        }
        Ok(Covers { first, last, .. }) => {
            verdict(Verdict::BadProof, format!("the root covers {first}-{last} of {} segments", header.segments))
        }
    }
}

#[cfg(test)]
mod tests;
