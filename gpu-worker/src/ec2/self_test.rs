//! Trying the provers before any task is taken: a machine that cannot prove takes none, instead of failing them one after the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use push0_core::message::TaskMessage;
use push0_core::pipeline::PipelineFile;
use push0_core::record::Verdict;
use push0_core::{BlockHash, Class, Pool, ProverName};
use push0_runtime::port::Clock;
use tracing::info;

use crate::prover::{Data, Job, Outcome, Output, Prover as _, Provers, Watch};
use crate::task::{Limits, Proved, supervise};
use crate::worker::WorkerError;

/// What a prover is tried with.
#[derive(Debug, Clone)]
pub struct SelfTest {
    task: TaskMessage,
    /// Without inputs nothing is proven: the prover is started, and must offer the stage and have the programs that are pinned.
    inputs: Option<Vec<PathBuf>>,
}

/// For each stage that these pipelines have the pool run, that its prover is ready for it; and the self-tests that they name.
pub fn self_tests<'p>(pipelines: impl IntoIterator<Item = &'p PipelineFile>, pool: &Pool) -> Vec<SelfTest> {
    let mut tests: Vec<SelfTest> = Vec::new();
    for file in pipelines {
        for (position, stage) in (0..).zip(&file.pipeline.stages) {
            if !file.policy.stage(position).pools().any(|own| own == pool) {
                continue;
            }
            let id = format!("self-test/0/e1/{}/{position}.0.0/a1c0", file.pipeline.digest().tag());
            let task = TaskMessage {
                id: id.parse().expect("all parts are fixed, or a pipeline's own"),
                stage: stage.name.clone(),
                kind: stage.kind,
                prover: stage.prover.clone(),
                programs: file.pipeline.programs.get(&stage.prover).cloned().unwrap_or_default(),
                pool: pool.clone(),
                class: Class::default(),
                inputs: Vec::new(),
                expand: false,
                params: stage.params.clone(),
                block_hash: BlockHash([0; 32]),
                parent_hash: None,
                time_limit: file.policy.stage(position).time_limit,
                progress_limit: file.policy.stage(position).progress_limit,
                avoid: Vec::new(),
                barred: Vec::new(),
                deadline: None,
                demoted: false,
                check: None,
                copies: None,
            };
            let named = file.self_tests.get(&stage.prover).filter(|test| test.stage == stage.name);
            tests.push(SelfTest { task, inputs: named.map(|test| test.inputs.clone()) });
        }
    }
    tests
}

/// Runs the tests on the provers of every slot, all slots at a time as they will work. Their sessions stay up.
pub(crate) async fn run(
    tests: &[SelfTest],
    slots: &mut [Provers],
    limits: &Limits,
    scratch: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<(), WorkerError> {
    let started = clock.now();
    let runs = slots.iter_mut().enumerate().map(|(slot, provers)| async move {
        for (number, test) in tests.iter().enumerate() {
            let dir = scratch.join(format!("self-test-{slot}-{number}"));
            let tested = one(test, provers, limits, &dir, clock).await;
            let _ = std::fs::remove_dir_all(&dir);
            tested.map_err(|message| failed(&test.task.prover, message))?;
        }
        Ok(())
    });
    futures::future::try_join_all(runs).await?;
    let proven = tests.iter().filter(|test| test.inputs.is_some()).count();
    info!(stages = tests.len(), proven, ms = clock.now().since(started).0, "provers passed the self-test");
    Ok(())
}

fn failed(prover: &ProverName, message: String) -> WorkerError {
    WorkerError::SelfTest { prover: prover.clone(), message }
}

async fn one(
    test: &SelfTest,
    provers: &mut Provers,
    limits: &Limits,
    dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<(), String> {
    let Some(inputs) = &test.inputs else {
        let late = clock.sleep_until(clock.now().plus(limits.start_limit));
        return tokio::select! {
            biased;
            ready = provers.ready(&test.task) => ready.map_err(|failure| failure.message),
            () = late => Err(format!("it was not ready after {} ms", limits.start_limit.0)),
        };
    };
    std::fs::create_dir_all(dir.join("out")).map_err(|error| format!("{}: {error}", dir.display()))?;
    for input in inputs {
        std::fs::File::open(input).map_err(|error| format!("its input {}: {error}", input.display()))?;
    }
    let inputs = inputs.iter().cloned().map(Data::File).collect();
    let job = Job { task: test.task.clone(), inputs, dir: Some(dir.to_owned()) };
    let watch = Watch::detached(Arc::clone(clock));
    match supervise(&**clock, limits, &job, &watch, provers, || ()).await {
        Proved::Outcome(Outcome::Done(Output::Verdict { verdict, message, .. })) if verdict != Verdict::Ok => {
            Err(format!("it says {verdict:?}, not ok: {}", message.unwrap_or_default()))
        }
        Proved::Outcome(Outcome::Done(_)) => Ok(()),
        Proved::Outcome(Outcome::Failed(failure)) | Proved::Hung(failure) => Err(failure.message),
        Proved::Ended(end) => Err(format!("it was ended: {end:?}")),
    }
}
