//! A run of four stages, for tests.

use crate::id::{Attempt, BlockHash, Class, Epoch, Millis, RunId, Sha256};
use crate::record::{Artifact, BlobRef, ManifestSlot, Run, Started};

const PIPELINE: &str = r#"
    name = "test"
    [prover.none]
    form = "session"
    command = ["none"]
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "join"
    kind = "join"
    arity = 2
    [[stage]]
    name = "verify"
    kind = "verify"
"#;

/// Block 7 of `demo`, with these tables of a policy. Of a run's row there is only what it must have.
pub(in crate::block) fn run(policy: &str) -> Run {
    let file = crate::pipeline::parse(&format!("{PIPELINE}{policy}")).unwrap();
    let run = serde_json::json!({
        "id": RunId::new("demo".parse().unwrap(), 7, Epoch::FIRST),
        "hash": BlockHash([0; 32]),
        "witness": blob(),
        "digest": file.pipeline.digest(),
        "pipeline": file.pipeline,
        "policy": file.policy,
        "class": Class::Standard,
        "released_at": Millis(0),
    });
    serde_json::from_value(run).unwrap()
}

/// What `split` left of the block: so many segments.
pub(in crate::block) fn manifest(segments: u32) -> ManifestSlot {
    ManifestSlot {
        attempt: Attempt::FIRST,
        manifest: blob(),
        segments,
        header: named("header"),
        hash: BlockHash([0; 32]),
        parent_hash: None,
    }
}

pub(in crate::block) fn blob() -> BlobRef {
    named("blob")
}

pub(in crate::block) fn named(key: &str) -> BlobRef {
    BlobRef { key: key.to_owned(), sha256: Sha256([0; 32]), size: 1 }
}

/// Of a first attempt.
pub(in crate::block) fn artifact(key: &str, at: u64) -> Artifact {
    Artifact { attempt: Attempt::FIRST, blob: named(key), worker: "w".parse().unwrap(), at: Millis(at) }
}

pub(in crate::block) fn started(attempt: u32, at: u64) -> Started {
    Started { attempt: Attempt(attempt), worker: "w".parse().unwrap(), by: None, at: Millis(at), handout: None }
}
