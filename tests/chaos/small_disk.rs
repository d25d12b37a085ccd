//! A disk that can be full at any moment: a tmpfs that is made as small as what lies on it. For root, or in a user namespace that may mount.

use std::path::{Path, PathBuf};
use std::process::Command;

pub struct SmallDisk {
    path: PathBuf,
    mib: u32,
}

impl SmallDisk {
    /// A disk of so many MiB on a directory; None, and said so, where this user may not mount one.
    pub fn on(path: PathBuf, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(&path).expect("the directory can be made");
        match mount(&path, &format!("size={mib}m")) {
            Ok(()) => Some(Self { path, mib }),
            Err(problem) => {
                eprintln!("skipped: no tmpfs can be mounted here: {problem}");
                None
            }
        }
    }

    /// Leaves no room for one page more. What is deleted afterwards is room again, until it is filled again.
    pub fn fill(&self) {
        // Somebody may write between the look and the mount, which then is refused.
        let is_full =
            (0..100).any(|_| used_kib(&self.path).is_some_and(|used| self.resize(&format!("{}k", used.max(4)))));
        assert!(is_full, "{} cannot be made as small as what lies on it", self.path.display());
    }

    pub fn free(&self) {
        assert!(self.resize(&format!("{}m", self.mib)), "{} cannot be made larger", self.path.display());
    }

    fn resize(&self, size: &str) -> bool {
        mount(&self.path, &format!("remount,size={size}")).is_ok()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn mount(path: &Path, options: &str) -> Result<(), String> {
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output();
    let output = output.map_err(|error| format!("mount cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn used_kib(path: &Path) -> Option<u64> {
    let output = Command::new("df").args(["--block-size=1K", "--output=used"]).arg(path).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().nth(1)?.trim().parse().ok()
}
