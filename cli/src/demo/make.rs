//! The demo's blocks and configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use push0_core::record::OutboxRow;
use push0_core::{BlockHash, ErrorCode, Sha256};
use serde_json::{Value, json};

use super::CHAIN;
use crate::args::{self, Pipeline};
use crate::error::Trouble;
use crate::prover;
use crate::settings;

/// How many blocks.
const BLOCKS: u64 = 3;

const ROLLUP: &str = "push0-rollup";

/// Blocks to submit.
pub(super) struct Made {
    pub(super) numbers: Vec<u64>,
    /// The parent of the first.
    genesis: BlockHash,
    /// For people.
    pub(super) what: String,
    dir: PathBuf,
}

impl Made {
    pub(super) fn submission(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.json"))
    }
}

pub(super) fn blocks(args: &args::Demo, dir: &Path) -> anyhow::Result<Made> {
    let dir = dir.join("blocks");
    std::fs::create_dir_all(&dir)?;
    let numbers = (1..=BLOCKS).collect();
    let (genesis, what) = match args.pipeline {
        Pipeline::Rollup => (random_blocks(args, &dir)?, format!("{} random transfers each", args.transfers)),
        Pipeline::Echo => (echo_blocks(&dir)?, "for the echo prover, which proves nothing".to_owned()),
    };
    Ok(Made { numbers, genesis, what, dir })
}

fn random_blocks(args: &args::Demo, dir: &Path) -> anyhow::Result<BlockHash> {
    let out = dir.to_str().context("the directory's name is not UTF-8")?;
    let (blocks, transfers) = (BLOCKS.to_string(), args.transfers.to_string());
    let made =
        rollup(&["--json", "random", "--chain", CHAIN, "--blocks", &blocks, "--transfers", &transfers, "--out", out])?;
    let genesis = made["genesis_hash"].as_str().context("push0-rollup random did not say the genesis hash")?;
    Ok(genesis.parse()?)
}

/// Runs the rollup's tool; its answer as JSON.
fn rollup(arguments: &[&str]) -> anyhow::Result<Value> {
    let program = push0_gpu_worker::find_program(ROLLUP).ok_or_else(|| prover::missing(ROLLUP))?;
    let ended =
        Command::new(&program).args(arguments).output().with_context(|| format!("cannot run {}", program.display()))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        return Err(Trouble::failed(format!("{ROLLUP} {}: {}", arguments.join(" "), said.trim()))
            .next(format!("run it yourself: {} {}", program.display(), arguments.join(" ")))
            .coded(ErrorCode::HelperFailed)
            .into());
    }
    serde_json::from_slice(&ended.stdout).with_context(|| format!("{ROLLUP} answered no JSON"))
}

/// Witnesses for echo: JSON that says how many segments there are.
fn echo_blocks(dir: &Path) -> anyhow::Result<BlockHash> {
    let hash = |number: u64| BlockHash(Sha256::of(format!("push0 demo, block {number}").as_bytes()).0);
    for number in 1..=BLOCKS {
        let (hash, parent) = (hash(number), hash(number - 1));
        let witness = json!({ "segments": 3 + number, "hash": hash, "parent_hash": parent });
        let file = format!("{number}.witness");
        std::fs::write(dir.join(&file), witness.to_string())?;
        let submission =
            json!({ "chain": CHAIN, "number": number, "hash": hash, "parent_hash": parent, "witness": file });
        std::fs::write(dir.join(format!("{number}.json")), format!("{submission:#}\n"))?;
    }
    Ok(hash(0))
}

pub(super) fn configuration(args: &args::Demo, dir: &Path, made: &Made) -> anyhow::Result<()> {
    let pipeline = args.pipeline.file_name();
    std::fs::write(dir.join(pipeline), args.pipeline.text())?;
    let config = format!(
        "# The demo's configuration; examples/push0.toml has every key with its meaning.\n\n\
         data = \"data\"\n\n[workers]\nonly_local = true\n\n[[chain]]\nid = \"{CHAIN}\"\nfirst = 1\nfirst_parent = \"{}\"\npipeline = \"{pipeline}\"\nwindow = 3\n",
        made.genesis
    );
    std::fs::write(dir.join(settings::FILE), config)?;
    Ok(())
}

/// Verifies each proof once more with the rollup's own tool, from the exported files alone, and that each block begins with the state
/// the one before it ends with. Says what was checked.
pub(super) fn check_states(rows: &[OutboxRow], proofs: &Path) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut before: Option<(u64, Value)> = None;
    for row in rows {
        let path = |kind: &str| proofs.join(format!("{}.{kind}", row.number)).to_string_lossy().into_owned();
        let shown = rollup(&["--json", "verify", "--proof", &path("proof"), "--header", &path("header")])?;
        let broken =
            |what: String| -> anyhow::Error { Trouble::failed(format!("block {}: {what}", row.number)).into() };
        if shown["verified"] != json!(true) || shown["hash"] != json!(row.hash) {
            return Err(broken("its exported proof does not verify".to_owned()));
        }
        let root = |name: &str| {
            shown[name].as_str().map(str::to_owned).ok_or_else(|| broken(format!("its header has no {name}")))
        };
        let (from, to) = (root("state_before")?, root("state_after")?);
        if let Some((number, last)) = &before {
            if shown["state_before"] != last["state_after"] || shown["parent_hash"] != last["hash"] {
                return Err(broken(format!("it does not begin where block {number} ends")));
            }
            lines.push(format!("block {} begins with the state and hash that block {number} ends with", row.number));
        }
        lines.push(format!("block {}: proof verified; state {} → {}", row.number, short(&from), short(&to)));
        before = Some((row.number, shown));
    }
    Ok(lines)
}

fn short(hex: &str) -> String {
    format!("{}…", hex.chars().take(12).collect::<String>())
}
