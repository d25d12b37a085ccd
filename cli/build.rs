//! Gathers the pages of the error catalogue for `push0 explain`: whoever adds one only writes the file.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    println!("cargo::rerun-if-changed={}", pages.display());
    let mut list = Vec::new();
    for entry in std::fs::read_dir(&pages)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with("P0-") {
            println!("cargo::rerun-if-changed={}", path.display());
            list.push(format!("    ({name:?}, include_str!({:?})),\n", path.canonicalize()?));
        }
    }
    list.sort();
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join("pages.rs"), format!("&[\n{}]\n", list.concat()))
}
