//! On what, and of what, the figures are.

use std::path::Path;

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    /// Of the directory that the engines of the run are in.
    pub file_system: String,
    /// Of the last minute, when the run began: above the number of cores, others were at work too.
    pub load: f64,
    pub push0: String,
    pub sqlite: String,
    /// `release` or `debug`: figures of a debug build mean nothing.
    pub build: String,
    /// The server of the baseline, where there was one.
    pub nats_server: Option<String>,
}

impl Machine {
    pub fn look(under: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: processor.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(under, &read("/proc/mounts")).unwrap_or_else(|| "unknown".to_owned()),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            push0: env!("CARGO_PKG_VERSION").to_owned(),
            sqlite: rusqlite::version().to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            nats_server: None,
        }
    }

    pub fn describe(&self) -> String {
        let nats = self.nats_server.as_ref().map(|version| format!(", nats-server {version}")).unwrap_or_default();
        format!(
            "push0 {} ({} build), SQLite {}{nats}; {} cores of {}, Linux {}, {}; load {:.1} when it began",
            self.push0, self.build, self.sqlite, self.cores, self.processor, self.kernel, self.file_system, self.load
        )
    }
}

/// The type of the mount that holds the path: the longest mount point that it begins with.
fn file_system(path: &Path, mounts: &str) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        path.starts_with(&point).then_some((point.len(), kind))
    };
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().canonicalize().unwrap();
        let mounts = format!("/dev/a / ext4 rw 0 0\ntmpfs {} tmpfs rw 0 0\nproc /proc proc rw 0 0", inner.display());
        assert_eq!(file_system(dir.path(), &mounts).as_deref(), Some("tmpfs"));
        assert_eq!(file_system(Path::new("/"), &mounts).as_deref(), Some("ext4"));
    }
}
