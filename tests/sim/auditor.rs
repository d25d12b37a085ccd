//! Judges a run by what a consumer sees: the finalized stream and the blobs it names. It shares no code with push0's decisions.

use std::collections::BTreeMap;

use serde_json::Value;

/// What was submitted, and what has come out.
#[derive(Debug, Default)]
pub struct Auditor {
    /// Chain → number → every witness that may stand under the number, by hash.
    allowed: BTreeMap<String, BTreeMap<u64, BTreeMap<String, Vec<Value>>>>,
    /// Chain → finalized messages in order, duplicates dropped.
    stream: BTreeMap<String, Vec<Value>>,
    pub deliveries: u64,
}

impl Auditor {
    /// Lets `witness` (with its `hash`, `parent_hash`, `segments`) stand under `number`.
    pub fn allow(&mut self, chain: &str, number: u64, witness: Value) {
        let hash = witness["hash"].as_str().unwrap_or_default().to_owned();
        self.allowed
            .entry(chain.to_owned())
            .or_default()
            .entry(number)
            .or_default()
            .entry(hash)
            .or_default()
            .push(witness);
    }

    /// A message of the finalized queue, by the consumer's rule: drop what has been seen.
    pub fn consume(&mut self, body: &str) -> Result<(), String> {
        self.deliveries += 1;
        let message: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let chain = message["chain"].as_str().unwrap_or_default().to_owned();
        let stream = self.stream.entry(chain.clone()).or_default();
        let seq = message["seq"].as_u64().unwrap_or(0);
        let last = stream.len() as u64;
        if seq <= last {
            let before = &stream[seq as usize - 1];
            return if *before == message {
                Ok(())
            } else {
                Err(format!("{chain}: seq {seq} was {before}, now {message}"))
            };
        }
        if seq != last + 1 {
            return Err(format!("{chain}: seq {seq} after {last}"));
        }
        let number = message["number"].as_u64().unwrap_or(u64::MAX);
        let expected = stream.last().map(|before| before["number"].as_u64().unwrap_or(0) + 1);
        if expected.is_some_and(|expected| expected != number) {
            return Err(format!("{chain}: block {number} where {expected:?} was due"));
        }
        stream.push(message);
        Ok(())
    }

    /// The hashes of a chain's blocks that came out with a proof, in order; `None`: a tombstone.
    pub fn hashes(&self, chain: &str) -> Vec<Option<String>> {
        let hash = |message: &Value| {
            let is_proof = message["finality"]["kind"] == "proof";
            message["hash"].as_str().filter(|_| is_proof).map(str::to_owned)
        };
        self.stream.get(chain).into_iter().flatten().map(hash).collect()
    }

    /// How many blocks of a chain have come out.
    pub fn finalized(&self, chain: &str) -> usize {
        self.stream.get(chain).map_or(0, Vec::len)
    }

    /// Looks at every finalized proof; `blob` fetches.
    pub fn judge(&self, blob: impl Fn(&str) -> Option<Vec<u8>>) -> Result<(), String> {
        for (chain, stream) in &self.stream {
            let mut parent: Option<String> = None;
            let mut orphans: Vec<String> = Vec::new();
            for message in stream {
                let number = message["number"].as_u64().unwrap_or(0);
                let at = format!("{chain}/{number}");
                let hash = message["hash"].as_str().map(str::to_owned);
                if message["finality"]["kind"] == "proof" {
                    let hash = hash.clone().ok_or_else(|| format!("{at}: no hash"))?;
                    let witnesses = self.allowed.get(chain).and_then(|numbers| numbers.get(&number)?.get(&hash));
                    let witnesses = witnesses.ok_or_else(|| format!("{at}: {hash} was never submitted"))?;
                    // All witnesses of a hash name the same parent.
                    if let (Some(parent), Some(named)) = (&parent, witnesses[0]["parent_hash"].as_str())
                        && parent != named
                    {
                        return Err(format!("{at}: its parent is {named}, but {parent} is final before it"));
                    }
                    whole(&at, &message["finality"], witnesses, &blob)?;
                }
                // A skipped block that did not fit is nobody's parent.
                let named = message["parent_hash"].as_str();
                let fits = named.is_none_or(|named| {
                    parent.as_ref().is_none_or(|parent| parent == named) && orphans.iter().all(|orphan| orphan != named)
                });
                if message["finality"]["kind"] == "proof" && !fits {
                    return Err(format!("{at}: built on {named:?}, which is not final before it"));
                }
                orphans.extend(hash.clone().filter(|_| !fits));
                parent = hash.filter(|_| fits);
            }
        }
        Ok(())
    }
}

/// The proof named by a finalized message is one of all segments of one of the witnesses, and has the digest it should have.
fn whole(
    at: &str,
    finality: &Value,
    witnesses: &[Value],
    blob: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<(), String> {
    let key = finality["proof"]["key"].as_str().unwrap_or_default();
    let bytes = blob(key).ok_or_else(|| format!("{at}: {key} is gone"))?;
    let digest: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&bytes).into();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if finality["proof"]["sha256"].as_str() != Some(&digest) {
        return Err(format!("{at}: {key} has digest {digest}"));
    }
    let proof: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{at}: {error}"))?;
    let covers =
        |witness: &Value| proof["hash"] == witness["hash"] && proof["from"] == 0 && proof["to"] == witness["segments"];
    if witnesses.iter().any(covers) { Ok(()) } else { Err(format!("{at}: {proof} is not a proof of {witnesses:?}")) }
}
