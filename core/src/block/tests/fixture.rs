//! A run of four stages, for tests.

use crate::id::{BlockHash, Class, Epoch, Millis, RunId, Sha256};
use crate::record::{BlobRef, Run};

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

pub(in crate::block) fn blob() -> BlobRef {
    BlobRef { key: "blob".to_owned(), sha256: Sha256([0; 32]), size: 1 }
}
