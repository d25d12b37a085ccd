//! Writing digests into a pipeline file, leaving the rest of it as its author wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use push0_core::ProverName;
use toml_edit::{DocumentMut, Item, Table, value};

/// The file's text with exactly these programs pinned for the prover.
pub(super) fn pinned(text: &str, prover: &ProverName, programs: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse().context("the pipeline is no TOML")?;
    let described = document.get_mut("prover").and_then(|provers| provers.get_mut(prover.as_str()));
    let described = described.and_then(Item::as_table_like_mut);
    let described = described.with_context(|| format!("the pipeline has no [prover.{prover}] table"))?;
    if described.get("programs").and_then(Item::as_table_like).is_none() {
        described.insert("programs", Item::Table(Table::new()));
    }
    let table = described.get_mut("programs").and_then(Item::as_table_like_mut);
    let table = table.context("`programs` is no table")?;
    let gone: Vec<String> =
        table.iter().map(|(name, _)| name.to_owned()).filter(|name| !programs.contains_key(name)).collect();
    for name in gone {
        table.remove(&name);
    }
    for (name, digest) in programs {
        // An entry that is there keeps its place and its comments.
        match table.get_mut(name).and_then(Item::as_value_mut) {
            Some(there) => {
                let decor = there.decor().clone();
                *there = digest.as_str().into();
                *there.decor_mut() = decor;
            }
            None => {
                table.insert(name, value(digest.as_str()));
            }
        }
    }
    Ok(document.to_string())
}

/// Pins in place: the file is there whole at any moment.
pub(super) fn pin(path: &Path, prover: &ProverName, programs: &BTreeMap<String, String>) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let new = pinned(&text, prover, programs)?;
    if new == text {
        return Ok(false);
    }
    // A link stays a link: the file it leads to is what is replaced.
    let path = path.canonicalize()?;
    let directory = path.parent().context("a file is in a directory")?;
    let written = || -> std::io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(directory)?;
        std::fs::write(file.path(), &new)?;
        std::fs::set_permissions(file.path(), path.metadata()?.permissions())?;
        file.persist(&path)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Mine.\nname = \"p\"  # the name\n\n[prover.one]\nform = \"exec\"\ncommand = [\"./one\"] # mine\n\n[[stage]]\nname = \"split\"\n";

    fn programs(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, digest)| ((*name).to_owned(), digest.repeat(32))).collect()
    }

    #[test]
    fn pinning_adds_what_is_missing_changes_what_differs_and_touches_nothing_else() {
        let name: ProverName = "one".parse().unwrap();
        let first = pinned(FILE, &name, &programs(&[("executable", "ab")])).unwrap();
        let table = format!("\n[prover.one.programs]\nexecutable = \"{}\"\n", "ab".repeat(32));
        assert_eq!(first, FILE.replace("# mine\n", &format!("# mine\n{table}")), "{first}");
        let commented =
            first.replace(&format!("{}\"\n", "ab".repeat(32)), &format!("{}\"  # by hand\n", "ab".repeat(32)));
        let second = pinned(&commented, &name, &programs(&[("executable", "cd")])).unwrap();
        assert_eq!(second, commented.replace(&"ab".repeat(32), &"cd".repeat(32)));
        let third = pinned(&second, &name, &programs(&[("leaf", "ef")])).unwrap();
        assert!(third.contains("leaf = ") && !third.contains("executable"), "{third}");
        let inline = FILE.replace("# mine", "\nprograms = { leaf = \"00\" } # pins");
        let pinned_inline = pinned(&inline, &name, &programs(&[("leaf", "12")])).unwrap();
        assert_eq!(pinned_inline, inline.replace("\"00\"", &format!("\"{}\"", "12".repeat(32))));
        assert!(pinned(FILE, &"two".parse().unwrap(), &programs(&[])).is_err());
    }
}
