//! `push0-prover-risc0`: the prover that pipelines run, and what a person asks of it.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use push0_prover_risc0::guest;
use push0_prover_risc0::prover::Risc0;
use push0_rollup::block::{Header, Witness};
use push0_zkvm::guest::Checks;
use push0_zkvm::{Stages, Zkvm};
use risc0_zkvm::Digest;
use sha2::{Digest as _, Sha256};

/// Proves payments blocks in RISC Zero's zkVM (docs/risc0.md).
///
/// With --stage STAGE --input-path P... --output-path P it runs one task of the prover (the exec form).
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run as a prover: a session on stdin and stdout.
    Prover,
    /// Say the guest's image ID and SHA-256, as pipelines pin them.
    Image,
    /// Execute a block without proving it: how many segments it has.
    Execute {
        /// A block's witness.
        witness: PathBuf,
        #[arg(long, value_enum, default_value = "state")]
        checks: What,
        /// The binary logarithm of a segment's cycles, 16 to 22.
        #[arg(long, default_value_t = 20)]
        segment_po2: u32,
    },
    /// Check a finalized proof against its block's header; exit code 1 if it does not prove it.
    Verify {
        #[arg(long)]
        proof: PathBuf,
        /// As `split` writes it.
        #[arg(long)]
        header: PathBuf,
        #[arg(long, value_enum, default_value = "state")]
        checks: What,
        /// Of the program that must have run, 64 hex digits; this build's guest unless said otherwise.
        #[arg(long, value_parser = image_id)]
        image_id: Option<Digest>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Transfers,
    State,
}

impl From<What> for Checks {
    fn from(what: What) -> Self {
        match what {
            What::Transfers => Self::Transfers,
            What::State => Self::State,
        }
    }
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg.to_string_lossy().starts_with("--stage")) {
        return push0_prover::main(Stages(Risc0::default()));
    }
    let result = match Cli::parse().command {
        Command::Prover => return push0_prover::serve(Stages(Risc0::default())),
        Command::Image => image(),
        Command::Execute { witness, checks, segment_po2 } => execute(&witness, checks.into(), segment_po2),
        Command::Verify { proof, header, checks, image_id } => verify(&proof, &header, checks.into(), image_id),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("push0-prover-risc0: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn image_id(text: &str) -> Result<Digest> {
    let bytes = hex::decode(text).ok().filter(|bytes| bytes.len() == 32).context("it has 64 hex digits")?;
    Ok(Digest::try_from(bytes.as_slice())?)
}

fn image() -> Result<()> {
    writeln!(stdout(), "image-id   {}", guest::image_id())?;
    writeln!(stdout(), "guest-elf  {}", hex::encode(Sha256::digest(guest::ELF)))?;
    Ok(())
}

fn execute(witness: &PathBuf, checks: Checks, po2: u32) -> Result<()> {
    if !Risc0::SEGMENT_PO2.contains(&po2) {
        bail!("--segment-po2 {po2}: it is {} to {}", Risc0::SEGMENT_PO2.start(), Risc0::SEGMENT_PO2.end());
    }
    let witness =
        Witness::from_bytes(&read(witness)?).with_context(|| format!("{} is no witness", witness.display()))?;
    let executed = match push0_zkvm::execute(&Risc0::default(), &witness, checks, po2) {
        Ok(executed) => executed,
        Err(failure) => bail!(failure.message),
    };
    writeln!(stdout(), "user cycles  {}", executed.user_cycles)?;
    writeln!(stdout(), "segments     {}", executed.segments.len())?;
    writeln!(stdout(), "journal      {}", hex::encode(executed.journal))?;
    Ok(())
}

fn verify(proof: &PathBuf, header: &PathBuf, checks: Checks, image_id: Option<Digest>) -> Result<()> {
    let prover = Stages(image_id.map_or_else(Risc0::default, Risc0::with_image_id));
    let block = Header::from_bytes(&read(header)?).with_context(|| format!("{} is no header", header.display()))?;
    if let Err(why) = prover.verify_root(&read(proof)?, &block, checks) {
        bail!("{why}");
    }
    writeln!(stdout(), "block {} of {}  {}  {checks} checked", block.number, block.chain, hex::encode(block.hash()))?;
    Ok(())
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}
