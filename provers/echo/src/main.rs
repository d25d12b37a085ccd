//! The program: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    push0_prover::main(push0_prover_echo::Echo)
}
