//! The files that are checked, in memory: so that a fault can be put into one and nothing on disk changes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Folders that are read as a whole.
const WHOLE: [&str; 2] = ["infra", "docs/runbook"];

/// Text files by their path from the repository's root, with `/`.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Everything under `infra/`, the runbook and the list of metrics. What is not text is left out.
    pub fn of_repository(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        for top in WHOLE {
            tree.add(root, top)?;
        }
        for file in ["Cargo.toml", "docs/metrics.md", "docs/invariants.md"] {
            tree.insert(file, &fs::read_to_string(root.join(file))?);
        }
        Ok(tree)
    }

    fn add(&mut self, root: &Path, dir: &str) -> io::Result<()> {
        if !root.join(dir).is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(root.join(dir))? {
            let entry = entry?;
            let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != ".terraform" {
                    self.add(root, &name)?;
                }
            } else if let Ok(text) = String::from_utf8(fs::read(entry.path())?) {
                self.insert(&name, &text);
            }
        }
        Ok(())
    }

    pub fn insert(&mut self, path: &str, text: &str) {
        self.files.insert(path.to_owned(), text.to_owned());
    }

    pub fn read(&self, path: &str) -> Option<&str> {
        self.files.get(&plain(path)).map(String::as_str)
    }

    /// Whether what is not in the tree is not in the repository either.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let path = plain(path);
        self.files.contains_key(&path) || !path.starts_with("target/")
    }

    /// Paths below a folder, at any depth.
    pub fn under<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let inside =
            move |path: &str| dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
        self.files.iter().filter(move |(path, _)| inside(path)).map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Folders with Terraform files in them, below a folder or the folder itself.
    pub fn modules(&self, dir: &str) -> Vec<String> {
        let dirs = self.under(dir).filter(|(path, _)| path.ends_with(".tf"));
        let mut dirs: Vec<String> =
            dirs.map(|(path, _)| path.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned()).collect();
        dirs.dedup();
        dirs
    }

    /// Replaces a text that stands exactly once in a file.
    pub fn replace(&mut self, path: &str, old: &str, new: &str) -> Result<(), String> {
        let text = self.files.get_mut(path).ok_or(format!("there is no {path}"))?;
        let count = text.matches(old).count();
        if count != 1 {
            return Err(format!("the text to replace stands {count} times in {path}"));
        }
        *text = text.replacen(old, new, 1);
        Ok(())
    }
}

/// The same path without `.` and `..`.
pub(crate) fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_however_they_are_written_and_faults_must_fit_once() {
        let mut tree = Tree::default();
        tree.insert("infra/topology.json", "a b a");
        assert_eq!(tree.read("infra/terraform/../topology.json"), Some("a b a"));
        assert!(tree.replace("infra/topology.json", "a", "c").unwrap_err().contains("2 times"));
        tree.replace("infra/topology.json", "b", "c").unwrap();
        assert_eq!(tree.read("./infra/topology.json"), Some("a c a"));
    }
}
