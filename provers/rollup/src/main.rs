//! `push0-rollup`: the prover that pipelines run, and the tool that makes its blocks.

mod output;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use push0_rollup::block::Witness;
use push0_rollup::keys;
use push0_rollup::prover::Rollup;
use push0_rollup::segment::SIZES;
use push0_rollup::tool::chain::{Chain, Genesis, write_block, write_genesis};
use push0_rollup::tool::{csv_blocks, ethereum, inspect, random};
use serde_json::{Value, json};

/// A payments rollup proven with recursion: a demonstration, not a wallet (docs/rollup.md).
///
/// With --stage STAGE --input-path P... --output-path P it runs one task of the prover (the exec form).
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Print JSON instead of lines.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run as a prover: a session on stdin and stdout.
    Prover,
    /// Make a genesis: DIR/genesis.json.
    Genesis {
        #[command(flatten)]
        start: Start,
        #[arg(long)]
        out: PathBuf,
    },
    /// Make a genesis and blocks of random transfers.
    Random {
        #[command(flatten)]
        start: Start,
        /// The same seed always makes the same files.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        #[arg(long, default_value_t = 3)]
        blocks: u32,
        /// Transfers in each block.
        #[arg(long, default_value_t = 16)]
        transfers: u32,
        #[arg(long)]
        out: PathBuf,
    },
    /// Make blocks of the transfers in a CSV file: block (optional), from, to, amount_gwei.
    FromCsv {
        csv: PathBuf,
        /// A genesis.json; its accounts' names are those of the CSV file.
        #[arg(long)]
        genesis: PathBuf,
        #[arg(long)]
        out: PathBuf,
    },
    /// Replay the value transfers of Ethereum blocks (files as eth_getBlockByNumber(n, true) answers).
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long)]
        out: PathBuf,
        #[arg(long, default_value = "ethereum")]
        chain: String,
    },
    /// Check a finalized proof against its block, or a range's against its blocks; exit code 1 if it does not prove it.
    Verify {
        #[arg(long)]
        proof: PathBuf,
        #[command(flatten)]
        block: BlockFile,
    },
    /// Say what a header, witness, segment or proof file, of a block or of a range, holds.
    Show { file: PathBuf },
    /// List the verifying keys with their SHA-256, or make them again.
    Keys {
        /// Build every circuit and write the key files into DIR (provers/rollup/keys), instead of listing.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Start {
    #[arg(long, default_value = "demo")]
    chain: String,
    /// The number of the chain's first block.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many accounts.
    #[arg(long, default_value_t = 16)]
    accounts: u32,
    /// What each holds, in gwei.
    #[arg(long, default_value_t = random::DEFAULT_BALANCE)]
    balance: u64,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct BlockFile {
    /// A header, as `split` or `range-split` writes it.
    #[arg(long)]
    header: Option<PathBuf>,
    /// A block's submission ({number}.json) or witness.
    #[arg(long)]
    block: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg.to_string_lossy().starts_with("--stage")) {
        return push0_prover::main(Rollup::default());
    }
    let cli = Cli::parse();
    if let Command::Prover = cli.command {
        return push0_prover::serve(Rollup::default());
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("push0-rollup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let json = cli.json;
    match cli.command {
        Command::Prover => unreachable!("main serves the session"),
        Command::Genesis { start, out } => {
            let chain = start.chain()?;
            write_genesis(&out, chain.genesis())?;
            output::value(&genesis(chain.genesis()), json)?;
        }
        Command::Random { start, seed, blocks, transfers, out } => {
            let mut chain = start.chain()?;
            let made = random::blocks(&mut chain, seed, blocks, transfers)?;
            write_genesis(&out, chain.genesis())?;
            report(&out, chain.genesis(), &made, json)?;
        }
        Command::FromCsv { csv, genesis, out } => {
            let text = read(&genesis)?;
            let genesis: Genesis =
                serde_json::from_slice(&text).with_context(|| format!("{} is no genesis", genesis.display()))?;
            let mut chain = Chain::from_genesis(genesis)?;
            let made = csv_blocks::blocks(&mut chain, &read(&csv)?[..])?;
            write_genesis(&out, chain.genesis())?;
            report(&out, chain.genesis(), &made, json)?;
        }
        Command::Import { files, out, chain } => import(&files, &out, &chain, json)?,
        Command::Verify { proof, block } => {
            let block = block.header.or(block.block).context("neither --header nor --block is given")?;
            output::value(&inspect::verify(&proof, &block)?, json)?;
        }
        Command::Show { file } => output::value(&inspect::show(&file)?, json)?,
        Command::Keys { write } => list_or_write_keys(write.as_deref(), json)?,
    }
    Ok(())
}

impl Start {
    fn chain(&self) -> Result<Chain> {
        Chain::start(&self.chain, self.first, random::accounts(self.accounts, self.balance))
    }
}

fn genesis(genesis: &Genesis) -> Value {
    json!({ "chain": genesis.chain, "first_number": genesis.first_number, "genesis_hash": genesis.hash,
        "state_root": genesis.state_root, "accounts": genesis.accounts.len() })
}

/// Writes blocks and says so.
fn report(out: &Path, start: &Genesis, blocks: &[Witness], json: bool) -> Result<()> {
    let mut written = Vec::with_capacity(blocks.len());
    for witness in blocks {
        write_block(out, witness)?;
        written.push(inspect::header(&witness.header));
    }
    let mut summary = genesis(start);
    summary["blocks"] = Value::Array(written);
    summary["directory"] = json!(out);
    output::value(&summary, json)
}

fn import(files: &[PathBuf], out: &Path, chain: &str, json: bool) -> Result<()> {
    let contents =
        files.iter().map(|path| Ok((path.display().to_string(), read(path)?))).collect::<Result<Vec<_>>>()?;
    let import = ethereum::import(chain, &contents)?;
    write_genesis(out, &import.genesis)?;
    let mut blocks = Vec::with_capacity(import.blocks.len());
    for (tally, witness) in &import.blocks {
        let submission = write_block(out, witness)?;
        if !json {
            output::line(&format!("block {} {}: {tally}", submission.number, submission.hash))?;
        }
        blocks.push(json!({ "tally": tally, "header": inspect::header(&witness.header) }));
    }
    if json {
        let mut summary = genesis(&import.genesis);
        summary["blocks"] = Value::Array(blocks);
        summary["total"] = json!(import.total);
        output::value(&summary, true)?;
    } else {
        output::line(&format!("total: {}", import.total))?;
        output::line(&format!(
            "{} accounts; genesis hash (the first block's parent) {}; files in {}",
            import.genesis.accounts.len(),
            import.genesis.hash,
            out.display()
        ))?;
    }
    Ok(())
}

fn list_or_write_keys(dir: Option<&Path>, json: bool) -> Result<()> {
    let Some(dir) = dir else {
        let digests = keys::digests().into_iter().map(|(name, digest)| (name, json!(digest))).collect();
        return output::value(&digests, json);
    };
    for size in SIZES {
        for (shape, key) in keys::generate(size) {
            let path = dir.join(format!("{}.key", keys::name(shape, size)));
            fs::write(&path, keys::to_bytes(&key)).with_context(|| format!("cannot write {}", path.display()))?;
            output::line(&format!("wrote {}; rebuild to pin it", path.display()))?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
