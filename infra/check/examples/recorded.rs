//! Makes `infra/check/recorded.toml`, on standard output, of a recording on standard input: for `scripts/record-calls`.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use push0_infra_check::Recording;

fn main() -> std::io::Result<ExitCode> {
    let mut lines = String::new();
    std::io::stdin().read_to_string(&mut lines)?;
    match Recording::of_lines(&lines) {
        Ok(recording) => {
            std::io::stdout().write_all(recording.to_toml().as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(wrong) => {
            std::io::stderr().write_all(format!("{}\n", wrong.join("\n")).as_bytes())?;
            Ok(ExitCode::FAILURE)
        }
    }
}
