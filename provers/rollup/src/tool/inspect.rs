//! Looking at files: what a header, witness, segment or proof, of a block or of a range, says. Never shows a key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::block::{Header, Witness};
use crate::keys;
use crate::proof::Verifier;
use crate::range::{Range, RangeSegment};
use crate::segment::Segment;
use crate::statement::Statement;
use crate::tool::chain::Submission;

/// A header as JSON.
pub fn header(header: &Header) -> Value {
    json!({
        "chain": header.chain,
        "number": header.number,
        "hash": hex::encode(header.hash()),
        "parent_hash": hex::encode(header.parent_hash),
        "state_before": header.state_before.to_hex(),
        "state_after": header.state_after.to_hex(),
        "commitment": header.commitment.to_hex(),
        "transfers": header.count,
    })
}

fn range(range: &Range) -> Value {
    let (first, last) = (range.first(), range.last());
    json!({
        "chain": first.chain,
        "from": first.number,
        "to": last.number,
        "hash": hex::encode(last.hash()),
        "parent_hash": hex::encode(first.parent_hash),
        "state_before": first.state_before.to_hex(),
        "state_after": last.state_after.to_hex(),
        "transfers": range.statement().count,
    })
}

fn statement(statement: &Statement) -> Value {
    json!({
        "state_before": statement.root_before.to_hex(),
        "commitment_before": statement.commitment_before.to_hex(),
        "state_after": statement.root_after.to_hex(),
        "commitment_after": statement.commitment_after.to_hex(),
        "transfers": statement.count,
    })
}

/// The header in a file that has one: a header, a witness, or a submission (by its witness).
pub fn header_of(path: &Path) -> Result<Header> {
    let bytes = read(path)?;
    if let Ok(header) = Header::from_bytes(&bytes) {
        return Ok(header);
    }
    if let Ok(submission) = serde_json::from_slice::<Submission>(&bytes) {
        let witness: PathBuf = path.parent().unwrap_or(Path::new("")).join(submission.witness);
        return header_of(&witness);
    }
    let witness = Witness::from_bytes(&bytes);
    Ok(witness.with_context(|| format!("{} is no header, witness or submission", path.display()))?.header)
}

/// Verifies a finalized proof against a header, of a block or of a range; on success, what it proves.
pub fn verify(proof: &Path, block: &Path) -> Result<Value> {
    if let Ok(headers) = Range::from_bytes(&read(block)?) {
        return verify_range(proof, &headers);
    }
    let block = header_of(block)?;
    if let Some(contradiction) = block.contradiction() {
        bail!("the block is bad: {contradiction}");
    }
    let proof = Verifier::default().verify_block(&read(proof)?, &block)?;
    let mut out = header(&block);
    out["verified"] = json!(true);
    out["circuit"] = json!(keys::name(proof.file().shape, proof.file().size));
    Ok(out)
}

fn verify_range(proof: &Path, headers: &Range) -> Result<Value> {
    for block in headers.headers() {
        if let Some(contradiction) = block.contradiction() {
            bail!("block {} is bad: {contradiction}", block.number);
        }
    }
    let proof = Verifier::default().verify_range(&read(proof)?, headers)?;
    let mut out = range(headers);
    out["verified"] = json!(true);
    out["circuit"] = json!(keys::name(proof.file().shape, proof.file().size));
    Ok(out)
}

/// Says what a file of the rollup is and holds.
pub fn show(path: &Path) -> Result<Value> {
    let bytes = read(path)?;
    if let Ok(block) = Header::from_bytes(&bytes) {
        return Ok(json!({ "file": "header", "bytes": bytes.len(), "header": header(&block) }));
    }
    if let Ok(witness) = Witness::from_bytes(&bytes) {
        let Witness { header: block, payments, accounts, siblings } = &witness;
        let transfers: Vec<_> = payments.iter().map(|payment| payment.transfer).map(transfer).collect();
        return Ok(json!({ "file": "witness", "bytes": bytes.len(), "header": header(block),
            "accounts": accounts.len(), "siblings": siblings.len(), "transfers": transfers }));
    }
    if let Ok(segment) = Segment::from_bytes(&bytes) {
        let real = segment.steps.iter().filter(|step| step.real);
        let transfers: Vec<_> = real.map(|step| transfer(step.payment.transfer)).collect();
        return Ok(json!({ "file": "segment", "bytes": bytes.len(), "steps": segment.steps.len(),
            "statement": statement(&segment.statement), "transfers": transfers }));
    }
    if let Ok(headers) = Range::from_bytes(&bytes) {
        let blocks: Vec<_> = headers.headers().iter().map(header).collect();
        return Ok(json!({ "file": "range header", "bytes": bytes.len(), "range": range(&headers), "blocks": blocks }));
    }
    if let Ok(segment) = RangeSegment::from_bytes(&bytes) {
        return Ok(json!({ "file": "range segment", "bytes": bytes.len(), "header": header(&segment.header),
            "statement": statement(&segment.statement), "proof_bytes": segment.proof.len() }));
    }
    match Verifier::default().verify(&bytes) {
        Ok(proof) => Ok(json!({ "file": "proof", "bytes": bytes.len(), "verifies": true,
            "circuit": keys::name(proof.file().shape, proof.file().size),
            "statement": statement(proof.statement()) })),
        Err(error) => bail!("{} is no header, witness, segment, range header or valid proof ({error})", path.display()),
    }
}

fn transfer(transfer: crate::state::Transfer) -> Value {
    json!({ "from": transfer.from, "to": transfer.to, "gwei": transfer.amount, "nonce": transfer.nonce })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
