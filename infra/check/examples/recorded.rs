//! Makes `infra/check/recorded.toml`, on standard output, of a recording on standard input and of the file that there is: for
//! `scripts/record-calls`.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use push0_infra_check::{Recording, Tree};

fn main() -> std::io::Result<ExitCode> {
    let mut lines = String::new();
    std::io::stdin().read_to_string(&mut lines)?;
    let tree = Tree::of_repository(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))?;
    let recording = Recording::of_lines(&lines);
    match recording.and_then(|new| Ok(new.and(Recording::committed(&tree).map_err(|why| vec![why])?))) {
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
