//! The dispatcher, for Lambda: its zip holds this program as `bootstrap`.

use std::process::ExitCode;

fn main() -> ExitCode {
    push0_functions::lambda::run("dispatcher")
}
