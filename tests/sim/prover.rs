//! A scripted prover: its proofs say what they cover, so that the auditor can tell a whole one from a wrong one. Its bytes differ from
//! run to run, as those of real provers do. At times it fails, and at times it lies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use push0_core::message::TaskMessage;
use push0_core::pipeline::Kind;
use push0_core::record::Verdict;
use push0_core::{BlockHash, ChainId, Millis, Node, RunId, Sha256, TaskId};
use push0_gpu_worker::{Data, Failure, Job, Outcome, Output, Prover, Watch};
use push0_runtime::port::Clock as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::faults::Fault;
use super::faulty::Weather;

/// Rates in a thousand runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conduct {
    pub retryable: u32,
    pub permanent: u32,
    /// Says it is done, with a proof of something else.
    pub lie: u32,
    pub slow: u32,
    /// Runs out of memory, but for in the larger pool.
    pub out_of_memory: u32,
    /// Roots of a thousand (by their digests) that `verify` says to state something else, where its stage has the parameter `disputes`.
    pub dispute: u32,
    /// Runs of a thousand (by their names) whose `split` takes another block for theirs.
    pub mistake: u32,
}

/// One run of a prover.
#[derive(Debug, Clone)]
pub struct Run {
    pub worker: String,
    pub task: TaskId,
    pub begun: Millis,
    /// `None`: it was killed, or still runs.
    pub ended: Option<Millis>,
}

/// Shared by all scripted provers of a run: conduct can be changed, invocations are counted.
pub struct Script {
    conduct: Mutex<Conduct>,
    dice: Mutex<ChaCha8Rng>,
    /// Every run, in the order of their beginnings.
    runs: Mutex<Vec<Run>>,
    /// The first leaf of these runs ends every worker that begins it.
    poison: Mutex<BTreeSet<RunId>>,
    dying: Mutex<BTreeSet<String>>,
    /// Blocks that are not proven to their end for now.
    held: Mutex<BTreeSet<(ChainId, u64)>>,
    weather: Arc<Weather>,
    /// Root → what `verify` said it states.
    stated: Mutex<BTreeMap<Sha256, BTreeSet<Sha256>>>,
    disputed: AtomicU64,
}

/// The pool that tasks move to after they ran out of memory.
pub const LARGE: &str = "large";

impl Script {
    pub fn new(seed: u64, conduct: Conduct, weather: Arc<Weather>) -> Arc<Self> {
        let dice = Mutex::new(ChaCha8Rng::seed_from_u64(seed ^ 0x0bad_c0de));
        Arc::new(Self {
            conduct: Mutex::new(conduct),
            dice,
            runs: Mutex::default(),
            poison: Mutex::default(),
            dying: Mutex::default(),
            held: Mutex::default(),
            weather,
            stated: Mutex::default(),
            disputed: AtomicU64::new(0),
        })
    }

    /// Keeps a block from being proven to its end.
    pub fn hold(&self, chain: &ChainId, number: u64) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert((chain.clone(), number));
    }

    pub fn let_go(&self, chain: &ChainId, number: u64) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&(chain.clone(), number));
    }

    fn holds(&self, task: &TaskMessage) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        task.kind == Kind::Single && held.contains(&(task.id.run.chain.clone(), task.id.run.number))
    }

    pub fn behave(&self) {
        *self.conduct.lock().unwrap_or_else(PoisonError::into_inner) = Conduct::default();
    }

    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn poison(&self, run: RunId) {
        self.poison.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
    }

    /// Whether this worker just began what ends it.
    pub fn dies(&self, worker: &str) -> bool {
        self.dying.lock().unwrap_or_else(PoisonError::into_inner).remove(worker)
    }

    fn ends_its_worker(&self, worker: &str, task: &TaskMessage) -> bool {
        let is_first_leaf = task.check.is_none() && task.id.node == Node::new(1, 0, 0);
        let poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner);
        let is_poison = is_first_leaf && poison.contains(&task.id.run);
        if is_poison {
            self.dying.lock().unwrap_or_else(PoisonError::into_inner).insert(worker.to_owned());
        }
        is_poison
    }

    /// What was said of a root, whenever it was verified.
    pub fn stated(&self, root: &str) -> BTreeSet<Sha256> {
        let stated = self.stated.lock().unwrap_or_else(PoisonError::into_inner);
        root.parse().ok().and_then(|root: Sha256| stated.get(&root).cloned()).unwrap_or_default()
    }

    /// How many proofs were said to state something else.
    pub fn disputed(&self) -> u64 {
        self.disputed.load(Ordering::Relaxed)
    }

    /// A verified root with what it states: the block's hash, but for some of those of a prover that is no good.
    fn stating(&self, task: &TaskMessage, outcome: Outcome) -> Outcome {
        let Outcome::Done(Output::Verdict { verdict: Verdict::Ok, message, .. }) = outcome else { return outcome };
        let root = task.inputs[0].sha256;
        let rate = self.conduct.lock().unwrap_or_else(PoisonError::into_inner).dispute;
        let is_among = u32::from(u16::from_le_bytes([root.0[0], root.0[1]])) % 1000 < rate;
        let disputes = task.check.is_none() && task.params["disputes"] == json!(true) && is_among;
        if disputes {
            self.weather.count(Fault::Dispute);
        }
        self.disputed.fetch_add(u64::from(disputes), Ordering::Relaxed);
        let outputs = Sha256::of(format!("{} {disputes}", task.block_hash).as_bytes());
        self.stated.lock().unwrap_or_else(PoisonError::into_inner).entry(root).or_default().insert(outputs);
        Outcome::Done(Output::Verdict { verdict: Verdict::Ok, message, outputs: Some(outputs) })
    }

    /// What was split, perhaps of another block.
    fn mistaking(&self, task: &TaskMessage, outcome: Outcome) -> Outcome {
        let Outcome::Done(Output::Split { segments, header, parent_hash, .. }) = outcome else { return outcome };
        let drawn = Sha256::of(task.id.run.to_string().as_bytes()).0;
        let rate = self.conduct.lock().unwrap_or_else(PoisonError::into_inner).mistake;
        let is_mistaken = u32::from(u16::from_le_bytes([drawn[0], drawn[1]])) % 1000 < rate;
        if is_mistaken {
            self.weather.count(Fault::Mistake);
        }
        let hash = if is_mistaken { BlockHash(drawn) } else { task.block_hash };
        Outcome::Done(Output::Split { segments, header, hash, parent_hash })
    }

    fn begin(&self, worker: &str, task: &TaskId) -> usize {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(Run { worker: worker.to_owned(), task: task.clone(), begun: self.now(), ended: None });
        runs.len() - 1
    }

    fn end(&self, run: usize) {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)[run].ended = Some(self.now());
    }

    fn now(&self) -> Millis {
        self.weather.clock().now()
    }

    async fn sleep(&self, length: Millis) {
        self.weather.clock().sleep_until(self.now().plus(length)).await;
    }

    fn roll(&self, range: std::ops::Range<u64>) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(range)
    }

    fn strikes(&self, fault: Fault, rate: impl Fn(&Conduct) -> u32) -> bool {
        let rate = rate(&self.conduct.lock().unwrap_or_else(PoisonError::into_inner));
        let strikes = rate > 0 && self.roll(0..1000) < u64::from(rate);
        if strikes {
            self.weather.count(fault);
        }
        strikes
    }
}

pub struct Scripted {
    pub worker: String,
    pub script: Arc<Script>,
}

/// Longest run of a prover that is not slow.
pub const LONGEST: Millis = Millis(800);

#[async_trait]
impl Prover for Scripted {
    async fn prove(&mut self, job: &Job, watch: &Watch) -> Outcome {
        let script = &self.script;
        let run = script.begin(&self.worker, &job.task.id);
        if script.ends_its_worker(&self.worker, &job.task) {
            return std::future::pending().await;
        }
        let takes = if script.strikes(Fault::Straggler, |conduct| conduct.slow) {
            script.roll(5_000..60_000)
        } else {
            script.roll(10..LONGEST.0)
        };
        let done = std::pin::pin!(script.sleep(Millis(takes)));
        futures::future::select(done, std::pin::pin!(watch.cancelled())).await;
        while script.holds(&job.task) && watch.cancelled().now_or_never().is_none() {
            script.sleep(Millis(500)).await;
        }
        script.end(run);
        if script.strikes(Fault::Failure, |conduct| conduct.retryable) {
            return Failure::retryable("scripted").into();
        }
        if job.task.params["fails"] == json!(true) {
            return Failure::permanent("it always fails").into();
        }
        let trusted = job.task.is_trusted();
        if !trusted && script.strikes(Fault::Failure, |conduct| conduct.permanent) {
            return Failure::permanent("scripted").into();
        }
        if !trusted
            && job.task.pool.as_str() != LARGE
            && script.strikes(Fault::OutOfMemory, |conduct| conduct.out_of_memory)
        {
            return Failure::out_of_memory("scripted").into();
        }
        let lies = !trusted && script.strikes(Fault::Lie, |conduct| conduct.lie);
        let noise = script.roll(0..1 << 40);
        script.stating(&job.task, script.mistaking(&job.task, prove(&job.task, &job.inputs, noise, lies)))
    }
}

/// What comes of a task. `noise`: proofs of the same differ; `lies`: it is one of something else.
pub fn prove(task: &TaskMessage, inputs: &[Data], noise: u64, lies: bool) -> Outcome {
    let inputs: Result<Vec<Value>, Failure> = inputs.iter().map(read).collect();
    let inputs = match inputs {
        Ok(inputs) => inputs,
        Err(failure) => return failure.into(),
    };
    if task.check.is_some() {
        return check(&inputs);
    }
    match task.kind {
        Kind::Split if inputs[0]["blocks"].is_array() => split_batch(&inputs),
        Kind::Split => split(&inputs[0]),
        Kind::Map | Kind::Single if !inputs[0]["to"].is_u64() => {
            Failure::bad_input(vec![0], "this covers nothing").into()
        }
        Kind::Map | Kind::Single => artifact(&inputs[0], noise, lies),
        Kind::Join => join(&inputs, noise, lies),
        Kind::Verify => verify(task, &inputs),
    }
}

fn read(data: &Data) -> Result<Value, Failure> {
    let Data::Memory(bytes) = data else {
        return Err(Failure::permanent("not in memory"));
    };
    serde_json::from_slice(bytes).map_err(|error| Failure::permanent(error.to_string()))
}

fn data(value: &Value) -> Data {
    Data::Memory(Bytes::from(value.to_string()))
}

/// The witness: `{"hash", "parent_hash", "number", "segments"}`; a segment: `{"hash", "from", "to"}`.
fn split(witness: &Value) -> Outcome {
    let segments = witness["segments"].as_u64().unwrap_or(1);
    let segment = |index: u64| data(&json!({ "hash": witness["hash"], "from": index, "to": index + 1 }));
    let hash = witness["hash"].as_str().unwrap_or_default().parse();
    let Ok(hash) = hash else {
        return Failure::permanent("the witness has no hash").into();
    };
    Outcome::Done(Output::Split {
        segments: (0..segments).map(segment).collect(),
        header: data(witness),
        hash,
        parent_hash: witness["parent_hash"].as_str().and_then(|parent| parent.parse().ok()),
    })
}

/// A batch: the manifest, then each block's proof and header. One segment a block; what does not belong to it fails the block for good.
fn split_batch(inputs: &[Value]) -> Outcome {
    let blocks = inputs[0]["blocks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
        return Failure::permanent("the batch is empty").into();
    };
    let is_whole =
        |(block, files): (&Value, &[Value])| files[1]["hash"] == block["hash"] && covers_all(&files[0], &files[1]);
    if inputs.len() != 1 + 2 * blocks.len() || !blocks.iter().zip(inputs[1..].chunks(2)).all(is_whole) {
        return Failure::permanent("the batch is given other proofs than its manifest names").into();
    }
    split(&json!({ "hash": last["hash"], "parent_hash": first["parent_hash"], "segments": blocks.len() }))
}

fn artifact(covers: &Value, noise: u64, lies: bool) -> Outcome {
    let to = covers["to"].as_u64().unwrap_or(0) + u64::from(lies) * 1000;
    let proof = json!({ "hash": covers["hash"], "from": covers["from"], "to": to, "noise": noise });
    Outcome::Done(Output::Artifact(data(&proof)))
}

/// Refuses a gap, naming the child that ends where none can go on.
fn join(inputs: &[Value], noise: u64, lies: bool) -> Outcome {
    let gap = inputs.windows(2).position(|pair| pair[0]["to"] != pair[1]["from"]);
    if let Some(position) = gap {
        // A join over so many segments knows how far its children can reach; one that reaches further lied, and so did one that is no proof.
        let is_liar = |proof: &Value| proof["to"].as_u64().is_none_or(|to| to >= 1000);
        let liar = position + usize::from(!is_liar(&inputs[position]));
        return Failure::bad_input(vec![liar as u32], "the children do not meet").into();
    }
    let covers = json!({ "hash": inputs[0]["hash"], "from": inputs[0]["from"], "to": inputs[inputs.len() - 1]["to"] });
    artifact(&covers, noise, lies)
}

fn verify(task: &TaskMessage, inputs: &[Value]) -> Outcome {
    let (proof, header) = (&inputs[0], &inputs[1]);
    let verdict = if header["hash"].as_str() != Some(&task.block_hash.to_string()) {
        Verdict::BadBlock
    } else if covers_all(proof, header) {
        Verdict::Ok
    } else {
        Verdict::BadProof
    };
    Outcome::Done(Output::Verdict { verdict, message: None, outputs: None })
}

/// Whether an artifact is a proof of just the segments from the first to the last.
fn check(inputs: &[Value]) -> Outcome {
    let (proof, first, last) = (&inputs[0], &inputs[2], &inputs[3]);
    let is_sound = proof["hash"] == first["hash"] && proof["from"] == first["from"] && proof["to"] == last["to"];
    let verdict = if is_sound { Verdict::Ok } else { Verdict::BadProof };
    Outcome::Done(Output::Verdict { verdict, message: None, outputs: None })
}

/// Whether a proof is one of the whole block of a header.
pub fn covers_all(proof: &Value, header: &Value) -> bool {
    proof["hash"] == header["hash"] && proof["from"] == json!(0) && proof["to"] == header["segments"]
}
