//! A block's way through a pipeline, run here: honestly once, then with whatever a check puts in the place of something.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use push0_core::message::TaskMessage;
use push0_core::pipeline::{Kind, Pipeline, PipelineFile};
use push0_core::plan::{Children, Plan};
use push0_core::record::Verdict;
use push0_core::{Attempt, BlockHash, Node, ProverName};
use push0_gpu_worker::prover::Output as Made;
use push0_gpu_worker::{Data, Failure, Limits, Outcome, Proved, Rig};

use super::lookout::Lookout;
use super::report::Cost;
use super::subject::Given;
use crate::prover::{Block, rig, task};

/// A prover of the pipeline, started where it is needed, with an eye on it.
pub(super) struct Hand {
    /// Every run is an attempt of its own: no two tasks have the same identity.
    attempts: Attempt,
    pub(super) rig: Rig,
    pub(super) lookout: Arc<Lookout>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(super) enum Ran {
    Made(Made),
    /// It said no, or crashed.
    Refused(Failure),
    /// It had to be killed for a limit.
    Hung(Failure),
    /// It was told to stop.
    Stopped,
}

impl Ran {
    pub(super) fn file(self) -> Result<PathBuf, String> {
        match self {
            Ran::Made(Made::Artifact(Data::File(path))) => Ok(path),
            Ran::Made(_) => Err("it made no artifact".to_owned()),
            Ran::Refused(failure) | Ran::Hung(failure) => Err(failure.message),
            Ran::Stopped => Err("it was stopped".to_owned()),
        }
    }
}

/// What `split` made of the witness.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    pub(super) segments: Vec<PathBuf>,
    pub(super) header: PathBuf,
}

/// What became of an artifact that is not the one it should be.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// A stage refused it.
    Refused,
    Hung(Failure),
    /// It came as far as `verify`.
    Judged(Ran),
}

pub(super) struct Course<'f> {
    pub(super) file: &'f PipelineFile,
    pub(super) block: Block,
    hands: BTreeMap<ProverName, Hand>,
    pub(super) dir: PathBuf,
    /// The honest run.
    pub(super) witness: PathBuf,
    pub(super) pieces: Option<Pieces>,
    pub(super) artifacts: BTreeMap<Node, PathBuf>,
    costs: BTreeMap<u16, Vec<f64>>,
    written: u32,
}

impl<'f> Course<'f> {
    pub(super) fn new(
        file: &'f PipelineFile,
        given: Option<&Given>,
        dir: &Path,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        let (block, witness) = match given {
            Some(given) => (given.block.clone(), given.witness.clone()),
            None => (
                Block { chain: "check".parse()?, number: 1, hash: BlockHash([0; 32]), parent_hash: None },
                PathBuf::new(),
            ),
        };
        let mut hands = BTreeMap::new();
        for name in file.provers.keys() {
            hands.insert(name.clone(), hand(file, &dir.join(name.as_str()), limits)?);
        }
        let (artifacts, costs) = (BTreeMap::new(), BTreeMap::new());
        let dir = dir.to_owned();
        Ok(Self { file, block, hands, dir, witness, pieces: None, artifacts, costs, written: 0 })
    }

    pub(super) fn pipeline(&self) -> &'f Pipeline {
        &self.file.pipeline
    }

    pub(super) fn hand(&mut self, prover: &ProverName) -> &mut Hand {
        self.hands.get_mut(prover).expect("there is a hand for each prover of the file")
    }

    pub(super) fn lookout(&self, prover: &ProverName) -> &Lookout {
        &self.hands.get(prover).expect("there is a hand for each prover of the file").lookout
    }

    pub(super) fn plan(&self) -> Option<Plan<'f>> {
        let segments = self.pieces.as_ref()?.segments.len() as u32;
        Plan::new(self.pipeline(), segments).ok()
    }

    pub(super) fn verify_node(&self) -> Node {
        Node::new(self.pipeline().verify_position(), 0, 0)
    }

    /// Runs the task of a node on these inputs.
    pub(super) async fn run(&mut self, node: Node, inputs: &[PathBuf]) -> anyhow::Result<Ran> {
        let task = task(self.file, node, &self.block);
        self.run_task(task, inputs).await
    }

    pub(super) async fn run_task(&mut self, task: TaskMessage, inputs: &[PathBuf]) -> anyhow::Result<Ran> {
        let (position, proves) = (task.id.node.stage, task.check.is_none());
        let begun = Instant::now();
        let ran = self.hand(&task.prover.clone()).run(task, inputs).await?;
        if proves && matches!(ran, Ran::Made(_)) {
            self.costs.entry(position).or_default().push(begun.elapsed().as_secs_f64());
        }
        Ok(ran)
    }

    /// The honest inputs of a node, once they are made.
    pub(super) fn inputs(&self, node: Node) -> Option<Vec<PathBuf>> {
        let (plan, pieces) = (self.plan(), self.pieces.as_ref());
        if node.stage == 0 {
            return Some(vec![self.witness.clone()]);
        }
        let mut inputs = match plan?.children(node) {
            Children::Witness => vec![self.witness.clone()],
            Children::Segment(segment) => vec![pieces?.segments.get(segment as usize)?.clone()],
            Children::Nodes(nodes) => {
                nodes.iter().map(|child| self.artifacts.get(child).cloned()).collect::<Option<Vec<_>>>()?
            }
        };
        if self.pipeline().stage(node.stage).kind == Kind::Verify {
            inputs.push(pieces?.header.clone());
        }
        Some(inputs)
    }

    /// Puts `artifact` in the place of what `node` made and goes on to the verdict, all else being honest.
    pub(super) async fn follow(&mut self, node: Node, artifact: PathBuf) -> anyhow::Result<Fate> {
        let (mut node, mut artifact) = (node, artifact);
        loop {
            let parent = self.plan().and_then(|plan| plan.parent(node)).context("every artifact goes somewhere")?;
            let mut inputs = self.inputs(parent.node).context("the honest run is complete")?;
            *inputs.get_mut(parent.slot as usize).context("the slot is one of the inputs")? = artifact;
            match self.run(parent.node, &inputs).await? {
                judged if parent.node == self.verify_node() => return Ok(Fate::Judged(judged)),
                Ran::Refused(_) => return Ok(Fate::Refused),
                Ran::Hung(failure) => return Ok(Fate::Hung(failure)),
                ran => {
                    artifact = ran.file().map_err(anyhow::Error::msg)?;
                    node = parent.node;
                }
            }
        }
    }

    /// A file with this content, that nothing else has the name of.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join("made");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(self.written.to_string());
        self.written += 1;
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// What the stages of a prover took.
    pub(super) fn costs(&self, prover: &ProverName) -> Vec<Cost> {
        let stages = self.costs.iter().map(|(position, seconds)| (self.pipeline().stage(*position), seconds));
        let own = stages.filter(|(stage, _)| stage.prover == *prover);
        own.map(|(stage, seconds)| Cost {
            stage: stage.name.to_string(),
            runs: seconds.len() as u32,
            mean: seconds.iter().sum::<f64>() / seconds.len() as f64,
            slowest: seconds.iter().copied().fold(0.0, f64::max),
        })
        .collect()
    }

    /// The node of this prover that took longest in the honest run, `split` and `verify` only if there is no other.
    pub(super) fn slowest(&self, prover: &ProverName) -> Option<Node> {
        let of = |position: u16| self.costs.get(&position).and_then(|seconds| seconds.first().copied()).unwrap_or(0.0);
        let own = (0..=self.pipeline().verify_position()).filter(|at| self.pipeline().stage(*at).prover == *prover);
        let best = own.max_by(|a, b| {
            let rank = |at: u16| (!self.pipeline().stage(at).kind.is_trusted(), of(at));
            rank(*a).partial_cmp(&rank(*b)).unwrap_or(std::cmp::Ordering::Equal)
        })?;
        let plan = self.plan()?;
        plan.nodes_of(best).first().copied()
    }

    pub(super) async fn close(&mut self) {
        for hand in self.hands.values_mut() {
            hand.rig.close().await;
        }
    }
}

/// A rig of its own for the pipeline's provers.
pub(super) fn hand(file: &PipelineFile, dir: &Path, limits: &Limits) -> anyhow::Result<Hand> {
    let lookout = Arc::new(Lookout::default());
    let rig = rig(file, dir, limits.clone())?.watched_by(lookout.clone());
    Ok(Hand { attempts: Attempt(0), rig, lookout })
}

impl Hand {
    pub(super) async fn run(&mut self, task: TaskMessage, inputs: &[PathBuf]) -> anyhow::Result<Ran> {
        self.run_until(task, inputs, std::future::pending()).await
    }

    pub(super) async fn run_until(
        &mut self,
        mut task: TaskMessage,
        inputs: &[PathBuf],
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<Ran> {
        self.attempts = self.attempts.next();
        task.id.attempt = self.attempts;
        let lookout = self.lookout.clone();
        let sampling = async {
            loop {
                lookout.sample();
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let proved = tokio::select! {
            proved = self.rig.run(task, inputs, stop) => proved?,
            () = sampling => unreachable!("it never ends"),
        };
        Ok(match proved {
            Proved::Outcome(Outcome::Done(made)) => Ran::Made(made),
            Proved::Outcome(Outcome::Failed(failure)) => Ran::Refused(failure),
            Proved::Hung(failure) => Ran::Hung(failure),
            Proved::Ended(_) => Ran::Stopped,
        })
    }
}

/// The word of `verify`, or why there is none.
pub(super) fn verdict(ran: &Ran) -> Result<(Verdict, String), String> {
    match ran {
        Ran::Made(Made::Verdict { verdict, message, .. }) => Ok((*verdict, message.clone().unwrap_or_default())),
        Ran::Made(_) => Err("it gave no verdict".to_owned()),
        Ran::Refused(failure) | Ran::Hung(failure) => Err(failure.message.clone()),
        Ran::Stopped => Err("it was stopped".to_owned()),
    }
}
