//! `push0 prover new`.
use crate::args;
use crate::output::Output;
pub fn run(_args: &args::New, _output: Output) -> anyhow::Result<()> {
    Ok(())
}
