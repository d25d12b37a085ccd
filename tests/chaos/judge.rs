//! A consumer that keeps its place, and an auditor of what it was given. It reads the finalized queue and blobs; it knows the echo
//! prover's files, and computes the digest of a whole block's tree by itself.

use std::collections::BTreeMap;

use push0_core::Millis;
use push0_runtime::port::{Blobs, Queue};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

#[derive(Default)]
pub struct Judge {
    /// Finalized blocks in order, duplicates dropped by `seq <= last`.
    pub stream: Vec<Value>,
    pub deliveries: u64,
    /// Digest of every artifact and proof ever seen.
    seen: BTreeMap<String, String>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Judge {
    /// Takes what there is on the finalized queue. An `up` that is just being killed is no error.
    pub async fn consume(&mut self, client: &dyn Queue) {
        while let Ok(batch) = client.receive("finalized.fifo", 10, Millis(0), Millis(5_000)).await {
            if batch.is_empty() {
                return;
            }
            for delivery in batch {
                self.deliveries += 1;
                let message: Value = serde_json::from_str(&delivery.body).expect("finalized messages are JSON");
                self.take(message);
                let _ = client.ack("finalized.fifo", &delivery.receipt).await;
            }
        }
    }

    fn take(&mut self, message: Value) {
        let seq = message["seq"].as_u64().expect("a message has a seq");
        let last = self.stream.len() as u64;
        if seq <= last {
            assert_eq!(self.stream[seq as usize - 1], message, "what is delivered again is the same");
            return;
        }
        assert_eq!(seq, last + 1, "no gap");
        assert_eq!(message["number"].as_u64(), Some(last + 1), "in order: {message}");
        self.stream.push(message);
    }

    /// Notes every artifact and proof; one that was there before must be as it was.
    pub async fn look_for_overwriting(&mut self, client: &dyn Blobs) {
        for prefix in ["artifacts/", "proofs/", "witnesses/"] {
            let mut after: Option<String> = None;
            while let Ok(keys) = client.list(prefix, after.as_deref(), 1000).await {
                let Some(last) = keys.last().cloned() else { break };
                after = Some(last);
                for key in keys {
                    let Ok(Some(info)) = client.head(&key).await else {
                        continue;
                    };
                    let digest = info.sha256.to_string();
                    let before = self.seen.entry(key.clone()).or_insert_with(|| digest.clone());
                    assert_eq!(*before, digest, "{key} was overwritten");
                }
            }
        }
    }

    /// Reads back every artifact and proof noted, and compares it with its digest; returns how many.
    pub async fn digests_hold(&self, client: &dyn Blobs) -> usize {
        for (key, digest) in &self.seen {
            let bytes = client.get(key).await.expect("blobs can be read").expect("nothing is deleted");
            assert_eq!(hex(&Sha256::digest(&bytes)), *digest, "{key}");
        }
        self.seen.len()
    }

    /// Every finalized block is the one submitted, and its root is the digest of its whole tree. `hashes` are the blocks' from 1 on.
    pub async fn judge(&self, client: &dyn Blobs, hashes: &[String], segments: u32) {
        assert_eq!(self.stream.len(), hashes.len(), "every block is finalized once");
        for (message, hash) in self.stream.iter().zip(hashes) {
            assert_eq!(message["hash"].as_str(), Some(hash.as_str()));
            let finality = &message["finality"];
            assert_eq!(finality["kind"], "proof", "{message}");
            let key = finality["proof"]["key"].as_str().expect("a proof has a key");
            let bytes = client.get(key).await.expect("blobs can be read").expect("the proof is there");
            assert_eq!(finality["proof"]["sha256"].as_str(), Some(hex(&Sha256::digest(&bytes)).as_str()), "{key}");
            let root: Value = serde_json::from_slice(&bytes).expect("echo writes JSON");
            let expected = tree(hash, segments);
            assert_eq!(root, expected, "{key} is not the root over all segments of block {}", message["number"]);
        }
    }
}

fn line(value: &Artifact) -> Vec<u8> {
    // The order of fields is echo's.
    let text = format!(
        r#"{{"digest":"{}","block":"{}","first":{},"last":{}}}"#,
        value.digest, value.block, value.first, value.last
    );
    format!("{text}\n").into_bytes()
}

struct Artifact {
    digest: String,
    block: String,
    first: u32,
    last: u32,
}

fn stage(name: &str, inputs: &[Vec<u8>], block: &str, first: u32, last: u32) -> Artifact {
    let mut sha = Sha256::new();
    sha.update(format!("{name}\n"));
    for input in inputs {
        sha.update(Sha256::digest(input));
    }
    Artifact { digest: hex(&sha.finalize()), block: block.to_owned(), first, last }
}

/// The root of a block by echo's rules: segments proven, then joined two by two, a lone one going up as it is.
fn tree(block: &str, segments: u32) -> Value {
    let leaf = |segment: u32| {
        let text = format!(r#"{{"block":"{block}","segment":{segment}}}"#);
        stage("Map-prove", &[format!("{text}\n").into_bytes()], block, segment, segment)
    };
    let mut layer: Vec<Artifact> = (0..segments).map(leaf).collect();
    while layer.len() > 1 {
        let mut next = Vec::new();
        let mut members = layer.into_iter();
        while let Some(left) = members.next() {
            next.push(match members.next() {
                None => left,
                Some(right) => stage("Join-join", &[line(&left), line(&right)], block, left.first, right.last),
            });
        }
        layer = next;
    }
    let root = &layer[0];
    json!({ "digest": root.digest, "block": root.block, "first": root.first, "last": root.last })
}
