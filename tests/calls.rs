//! What the roles of an installation call on an emulator, which looks at no role itself: it is recorded, and what neither
//! `infra/check/recorded.toml` nor `infra/check/iam.toml` has fails the test. `scripts/record-calls` writes the former.

use std::path::{Path, PathBuf};

use push0_infra_check::{Lists, Recording, Tree};
use push0_runtime::aws::record;

/// The record of an installation: of its own, or else the one that somebody makes of all.
pub struct Record {
    file: PathBuf,
    is_own: bool,
}

impl Record {
    /// In an installation's directory.
    pub fn new(directory: &Path) -> Self {
        match std::env::var_os(record::FILE) {
            Some(file) => Self { file: file.into(), is_own: false },
            None => Self { file: directory.join("calls.jsonl"), is_own: true },
        }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_own || std::thread::panicking() {
            return;
        }
        let lines = std::fs::read_to_string(&self.file).unwrap_or_default();
        let recording = Recording::of_lines(&lines).unwrap_or_else(|wrong| panic!("{}", wrong.join("\n")));
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tree = Tree::of_repository(&repository).expect("the repository can be read");
        let unlisted = Lists::of(&tree).expect("the lists can be read").without(&recording);
        assert!(
            unlisted.is_empty(),
            "roles called what no list says they may (scripts/record-calls; then see to infra/terraform):\n{}",
            unlisted.join("\n")
        );
    }
}
