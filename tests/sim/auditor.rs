//! Judges a run by what a consumer sees: the finalized stream and the blobs it names. It shares no code with push0's decisions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What was submitted, and what has come out.
#[derive(Debug, Default)]
pub struct Auditor {
    /// Chain → number → every witness that may stand under the number, by hash.
    allowed: BTreeMap<String, BTreeMap<u64, BTreeMap<String, Vec<Value>>>>,
    /// Chain → finalized messages in order, duplicates dropped.
    stream: BTreeMap<String, Vec<Value>>,
    pub deliveries: u64,
    /// Chains that leave out what is late.
    abandoning: BTreeSet<String>,
    /// Blocks that were left out for that.
    pub abandoned: u64,
    /// Two clocks may differ by so many milliseconds.
    pub skew: u64,
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

    /// The parent of a block that was submitted.
    pub fn parent(&self, chain: &str, number: u64, hash: &str) -> Option<String> {
        let witness = self.allowed.get(chain)?.get(&number)?.get(hash)?.first()?;
        witness["parent_hash"].as_str().map(str::to_owned)
    }

    /// Lets the chain leave out what is late.
    pub fn abandons(&mut self, chain: &str) {
        self.abandoning.insert(chain.to_owned());
    }

    /// What the chain says of how it kept its deadlines is what came out.
    pub fn kept(&self, chain: &str, met: u64, missed: u64) -> Result<(), String> {
        let stream = self.stream.get(chain).map(Vec::as_slice).unwrap_or_default();
        let count = |met: bool| stream.iter().filter(|message| message["timings"]["met"] == met).count() as u64;
        let seen = (count(true), count(false));
        // A block may be final that has not been handed on yet.
        let holds = seen.0 <= met && seen.1 <= missed && seen.0 + seen.1 + 2 >= met + missed;
        if holds {
            Ok(())
        } else {
            Err(format!("{chain}: says ({met}, {missed}) of its deadlines, handed on were {seen:?}"))
        }
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
        self.abandoned += u64::from(is_abandoned(&message));
        punctual(&message, self.abandoning.contains(&chain), self.skew)
            .map_err(|what| format!("{chain}/{number}: {what}"))?;
        stream.push(message);
        Ok(())
    }

    /// The hashes of a chain's blocks that came out with a proof, or were left out for being late, in order; `None`: another tombstone.
    pub fn hashes(&self, chain: &str) -> Vec<Option<String>> {
        let hash = |message: &Value| {
            let counts = message["finality"]["kind"] == "proof" || is_abandoned(message);
            message["hash"].as_str().filter(|_| counts).map(str::to_owned)
        };
        self.stream.get(chain).into_iter().flatten().map(hash).collect()
    }

    /// How many blocks of a chain have come out.
    pub fn finalized(&self, chain: &str) -> usize {
        self.stream.get(chain).map_or(0, Vec::len)
    }

    /// Up to which block of its source a batch chain has come out.
    pub fn batched(&self, chain: &str) -> u64 {
        let last = self.stream.get(chain).and_then(|stream| stream.last());
        last.and_then(|message| message["batch"]["to"].as_u64()).unwrap_or(0)
    }

    /// The one witness that a batch can have: of just the final blocks of its range, which begins at `next`. None: one of them was left out.
    fn batch(&self, at: &str, message: &Value, next: &mut u64) -> Result<Option<Value>, String> {
        let range = &message["batch"];
        let (from, to) = (range["from"].as_u64().unwrap_or(0), range["to"].as_u64().unwrap_or(0));
        if from != *next || to < from {
            return Err(format!("{at}: its range is {range}, but block {next} was due"));
        }
        *next = to + 1;
        let source = self.stream.get(range["of"].as_str().unwrap_or_default());
        let is_of_range = |block: &&Value| (from..=to).contains(&block["number"].as_u64().unwrap_or(0));
        let blocks: Vec<&Value> = source.into_iter().flatten().filter(is_of_range).collect();
        if blocks.len() as u64 != to - from + 1 {
            return Err(format!("{at}: of {range} only {} blocks are final", blocks.len()));
        }
        if blocks.iter().any(|block| block["finality"]["kind"] != "proof") {
            return Ok(None);
        }
        let (first, last) = (blocks[0], blocks[blocks.len() - 1]);
        Ok(Some(
            serde_json::json!({ "hash": last["hash"], "parent_hash": first["parent_hash"], "segments": blocks.len() }),
        ))
    }

    /// How many blocks have come out of all chains.
    pub fn blocks(&self) -> usize {
        self.stream.values().map(Vec::len).sum()
    }

    /// Looks at every finalized proof; `blob` fetches. Returns how many segments each proves.
    pub fn judge(&self, blob: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<u64>, String> {
        let mut segments = Vec::new();
        for (chain, stream) in &self.stream {
            let mut parent: Option<String> = None;
            let mut orphans: Vec<String> = Vec::new();
            let mut next = 1;
            for message in stream {
                let number = message["number"].as_u64().unwrap_or(0);
                let at = format!("{chain}/{number}");
                let hash = message["hash"].as_str().map(str::to_owned);
                let batch = match message["batch"].is_object() {
                    true => self.batch(&at, message, &mut next)?.map(|witness| vec![witness]),
                    false => None,
                };
                if message["finality"]["kind"] == "proof" {
                    let hash = hash.clone().ok_or_else(|| format!("{at}: no hash"))?;
                    let witnesses = self.allowed.get(chain).and_then(|numbers| numbers.get(&number)?.get(&hash));
                    let witnesses = batch.as_ref().filter(|batch| batch[0]["hash"] == hash.as_str()).or(witnesses);
                    let witnesses = witnesses.ok_or_else(|| format!("{at}: {hash} was never submitted"))?;
                    // All witnesses of a hash name the same parent.
                    if let (Some(parent), Some(named)) = (&parent, witnesses[0]["parent_hash"].as_str())
                        && parent != named
                    {
                        return Err(format!("{at}: its parent is {named}, but {parent} is final before it"));
                    }
                    segments.push(whole(&at, &message["finality"], witnesses, &blob)?);
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
        Ok(segments)
    }
}

fn is_abandoned(message: &Value) -> bool {
    let reason = message["finality"]["reason"].as_str().unwrap_or_default();
    message["finality"]["kind"] == "tombstone" && reason.starts_with("P0-037: ")
}

/// What is left out for being late was late, on a chain that does so; and what is said to be in time was.
fn punctual(message: &Value, may_abandon: bool, skew: u64) -> Result<(), String> {
    let timings = &message["timings"];
    let at = |name: &str| timings[name].as_u64();
    let (deadline, met) = (at("deadline"), timings["met"].as_bool());
    if is_abandoned(message) {
        let was_late = deadline.zip(at("settled_at")).is_some_and(|(deadline, settled)| settled > deadline);
        return (may_abandon && was_late && met == Some(false)).then_some(()).ok_or(format!("was left out: {message}"));
    }
    if message["finality"]["kind"] == "proof" {
        let in_time = deadline.zip(at("finalized_at")).map(|(deadline, final_at)| final_at <= deadline);
        // It may have been late by another clock.
        let by_another = deadline.zip(at("finalized_at")).map(|(deadline, final_at)| final_at + skew <= deadline);
        let holds = met == in_time || (met == Some(false) && by_another == Some(false));
        return holds.then_some(()).ok_or(format!("on time is {in_time:?}: {message}"));
    }
    Ok(())
}

impl Auditor {
    /// Looks at every finalized block of chains whose quorum this is: so many proofs are handed on, of different pipelines, of the block's
    /// epoch, each of the whole block, and none that was said to state something else than the others. `stated`: what was said of a root.
    pub fn quorums<S: Ord + Clone>(
        &self,
        quorum: usize,
        stated: impl Fn(&str) -> BTreeSet<S>,
        blob: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<(), String> {
        let messages =
            self.stream.iter().flat_map(|(chain, stream)| stream.iter().map(move |message| (chain, message)));
        // What a batch is of is known when the stream is judged.
        let is_of_interest = |message: &Value| message["finality"]["kind"] == "proof" && !message["batch"].is_object();
        for (chain, message) in messages.filter(|(_, message)| is_of_interest(message)) {
            let (number, epoch) = (message["number"].as_u64().unwrap_or(0), message["epoch"].as_u64().unwrap_or(0));
            let at = format!("{chain}/{number}");
            let hash = message["hash"].as_str().unwrap_or_default();
            let witnesses = self.allowed.get(chain).and_then(|numbers| numbers.get(&number)?.get(hash));
            let others = message["finality"]["others"].as_array().cloned().unwrap_or_default();
            let proofs: Vec<&Value> = [&message["finality"]].into_iter().chain(&others).collect();
            let pipelines: BTreeSet<&str> = proofs.iter().filter_map(|proof| proof["pipeline"].as_str()).collect();
            if pipelines.len() != proofs.len() || pipelines.len() < quorum {
                return Err(format!(
                    "{at}: proofs of {} pipelines are handed on, {quorum} are needed",
                    pipelines.len()
                ));
            }
            let mut common: Option<BTreeSet<S>> = None;
            for proof in proofs {
                whole(&at, proof, witnesses.map(Vec::as_slice).unwrap_or_default(), &blob)?;
                let key = proof["proof"]["key"].as_str().unwrap_or_default();
                let of_epoch = format!("/{chain}/{number}/e{epoch}");
                let is_of_epoch =
                    key.split_once(&of_epoch).is_some_and(|(_, rest)| rest.starts_with('/') || rest.starts_with('.'));
                if !is_of_epoch {
                    return Err(format!("{at}: {key} is not of epoch {epoch}"));
                }
                let stated = stated(proof["proof"]["sha256"].as_str().unwrap_or_default());
                common = Some(common.map_or(stated.clone(), |common| common.intersection(&stated).cloned().collect()));
            }
            if common.is_none_or(|common| common.is_empty()) {
                return Err(format!("{at}: proofs are handed on that state different things: {message}"));
            }
        }
        Ok(())
    }
}

/// The proof named by a finalized message is one of all segments of one of the witnesses, and has the digest it should have. Returns how
/// many segments that are.
fn whole(
    at: &str,
    finality: &Value,
    witnesses: &[Value],
    blob: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<u64, String> {
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
    match witnesses.iter().any(covers) {
        true => Ok(proof["to"].as_u64().unwrap_or(0)),
        false => Err(format!("{at}: {proof} is not a proof of {witnesses:?}")),
    }
}
