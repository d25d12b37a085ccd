//! The import, on real blocks where they are at hand.

use std::path::PathBuf;

use crate::segment::cut;
use crate::tool::ethereum::import;

/// Names the directory of blocks in another place.
const DATA_ENV: &str = "PUSH0_ETHEREUM_DATA";

/// The four blocks, newest first; none where the data is not at hand.
fn files() -> Vec<(String, Vec<u8>)> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/ethereum");
    let dir = std::env::var_os(DATA_ENV).map_or_else(|| PathBuf::from(default), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        println!("skipped: there is no {} (set {DATA_ENV})", dir.display());
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.reverse();
    paths.into_iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn real_blocks_become_a_chain() {
    let files = files();
    if files.is_empty() {
        return;
    }
    let import = import("ethereum", &files).unwrap();
    assert_eq!(import.blocks.len(), files.len());
    let mut parent = import.genesis.hash.clone();
    let mut root = import.genesis.state_root.clone();
    for (tally, witness) in &import.blocks {
        let header = &witness.header;
        assert_eq!((hex::encode(header.parent_hash), header.state_before.to_hex()), (parent, root));
        assert_eq!(tally.imported, u64::from(header.count));
        // Cutting executes the block from its witness alone.
        assert_eq!(cut(witness, 32).unwrap().len(), (header.count as usize).div_ceil(32));
        (parent, root) = (hex::encode(header.hash()), header.state_after.to_hex());
    }
    // The blocks of this project's data, when it is those.
    if import.genesis.first_number == 18_090_205 && files.len() == 4 {
        assert_eq!((import.total.seen, import.total.imported), (600, 303));
    }
}
