//! Tests that need proofs: the circuits are built and a block is proven once, and all tests share them.

mod ethereum;
mod forgery;
mod leaf;
mod range;
mod stages;

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use push0_prover::{BlockRef, Ctx, Failure, Kind, Prover, Task, TaskResult};
use serde_json::{Value, json};

use crate::block::{Header, Witness};
use crate::prover::Rollup;
use crate::tool::chain::Chain;
use crate::tool::random;

/// One prover for all tests, as a worker would keep it.
static PROVER: LazyLock<Mutex<Rollup>> = LazyLock::new(Mutex::default);

/// A directory for a block's files, and the block that its tasks name.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub block: BlockRef,
    pub params: Value,
}

impl Bench {
    fn new(header: &Header) -> Self {
        let (chain, number, hash) = (header.chain.clone(), header.number, hex::encode(header.hash()));
        Self {
            dir: tempfile::tempdir().unwrap(),
            block: BlockRef { chain, number, hash, parent_hash: None },
            params: Value::Null,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a stage on files of this directory.
    fn run(&self, stage: &str, inputs: &[&str], output: &str) -> Result<TaskResult, Failure> {
        let task = Task {
            id: format!("{stage}/{output}"),
            stage: stage.to_owned(),
            kind: Kind::Single,
            inputs: inputs.iter().map(|name| self.path(name)).collect(),
            output: self.path(output),
            params: self.params.clone(),
            check: false,
            deadline_ms: None,
            block: self.block.clone(),
        };
        PROVER.lock().unwrap_or_else(PoisonError::into_inner).run(&task, &Ctx::detached())
    }

    fn split(&self, witness: &Witness) -> u32 {
        self.put("witness", &witness.to_bytes());
        self.run("split", &["witness"], "split").unwrap().segments.unwrap()
    }

    /// Leaf and lift of a segment: `leaf{n}`, `lift{n}`.
    fn prove(&self, n: u32) {
        self.run("prove", &[&format!("split/segments/{n:06}")], &format!("leaf{n}")).unwrap();
        self.run("lift", &[&format!("leaf{n}")], &format!("lift{n}")).unwrap();
    }
}

/// Three segments of eight, the last with padding: `lift0` to `lift2`, `join` of the first two, `root`.
pub(crate) static BLOCK: LazyLock<(Bench, Witness)> = LazyLock::new(|| {
    let mut chain = Chain::start("demo", 1, random::accounts(5, 1_000_000)).unwrap();
    let witness = random::blocks(&mut chain, 7, 1, 20).unwrap().remove(0);
    let bench = Bench::new(&witness.header);
    assert_eq!(bench.split(&witness), 3);
    (0..3).for_each(|n| bench.prove(n));
    bench.run("join", &["lift0", "lift1"], "join").unwrap();
    bench.run("join", &["join", "lift2"], "root").unwrap();
    (bench, witness)
});

/// A chain of `transfers` transfers in one block, not proven.
fn fresh(transfers: &[(u32, u32, u64)]) -> (Bench, Witness) {
    let mut chain = Chain::start("demo", 1, random::accounts(4, 100)).unwrap();
    let witness = chain.block(transfers).unwrap();
    (Bench::new(&witness.header), witness)
}

fn sized(size: u16) -> Value {
    json!({ crate::prover::SIZE_PARAM: size })
}
