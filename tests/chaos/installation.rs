//! A directory with a configuration, and the process tree of `push0 up` in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use push0_runtime::http::{Client, ClientConfig};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What is configured for a test.
pub struct Options {
    pub workers: usize,
    pub lease_ms: u64,
    pub window: u32,
    /// Params of the `prove` and `join` stages, TOML.
    pub params: String,
    pub attempts: u32,
    /// More of `push0.toml`: whole tables.
    pub more: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            lease_ms: 1_000,
            window: 4,
            params: "duration_ms = 20".to_owned(),
            attempts: 20,
            more: String::new(),
        }
    }
}

pub struct Installation {
    pub directory: tempfile::TempDir,
    up: Option<Child>,
    workers: Vec<Child>,
}

/// A program of this workspace, built beside the test (which lies in `deps`) or the program that runs.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a file");
    let folders: Vec<&Path> = own.ancestors().skip(1).take(2).collect();
    let built = folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    built.unwrap_or_else(|| panic!("{name} is missing in {folders:?}: run `cargo build --workspace --bins` first"))
}

/// A pipeline of the echo prover; `params` of its `prove` and `join` stages.
pub fn echo_pipeline(params: &str, attempts: u32) -> String {
    format!(
        r#"
name = "echo"
[[stage]]
name = "split"
kind = "split"
[[stage]]
name = "prove"
kind = "map"
params = {{ {params} }}
[[stage]]
name = "join"
kind = "join"
params = {{ {params} }}
[[stage]]
name = "verify"
kind = "verify"
[prover.echo]
form = "session"
command = ["{}"]
[policy.default]
attempts = {attempts}
backoff_ms = 50
time_limit_s = 60
"#,
        program("push0-echo").display()
    )
}

/// One of several pipelines of the echo prover, with segments and, as params of its `verify`, statements of its own.
pub fn one_of_several(name: &str, segments: u32, verify: &str) -> String {
    format!(
        r#"
name = "{name}"
[[stage]]
name = "split"
kind = "split"
params = {{ segments = {segments} }}
[[stage]]
name = "prove"
kind = "map"
[[stage]]
name = "join"
kind = "join"
[[stage]]
name = "verify"
kind = "verify"
params = {{ {verify} }}
[prover.echo]
form = "session"
command = [{:?}]
"#,
        program("push0-echo")
    )
}

impl Installation {
    pub fn new(options: &Options) -> Self {
        let directory = tempfile::Builder::new().prefix("p0").tempdir().expect("a temporary directory");
        let at = directory.path();
        let Options { workers, lease_ms, window, params, attempts, more } = options;
        let pipeline = echo_pipeline(params, *attempts);
        let config = format!(
            r#"
data = "data"
[[chain]]
id = "demo"
pipeline = "echo.toml"
window = {window}
[workers]
count = {workers}
lease_ms = {lease_ms}
[functions]
reaper_ms = 500
{more}
"#
        );
        fs::write(at.join("echo.toml"), pipeline).expect("the directory is writable");
        fs::write(at.join("push0.toml"), config).expect("the directory is writable");
        fs::create_dir(at.join("blocks")).expect("the directory is writable");
        Self { directory, up: None, workers: Vec::new() }
    }

    /// One with files of its own: `push0.toml`, pipelines, whatever they need.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("p0").tempdir().expect("a temporary directory");
        for (name, content) in files {
            fs::write(directory.path().join(name), content).expect("the directory is writable");
        }
        fs::create_dir(directory.path().join("blocks")).expect("the directory is writable");
        Self { directory, up: None, workers: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where every run of the prover leaves the task's id.
    pub fn invocations(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("invocations")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub fn start(&mut self) {
        let up = self.command(&["up"]);
        self.start_as(up);
    }

    /// Starts `up` by a command that becomes it.
    pub fn start_as(&mut self, mut up: Command) {
        assert!(self.up.is_none(), "it runs already");
        let log = fs::File::options().create(true).append(true).open(self.path("up.log")).expect("a log");
        let up = up
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .env("PUSH0_ECHO_LOG", self.path("invocations"))
            .env("PUSH0_ECHO_STATE", self.path("echo-state"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.up = Some(up.expect("push0 starts"));
    }

    /// Makes a worker's token as an operator does, and adds its table to the configuration; the file that holds it.
    pub fn token(&self, name: &str) -> PathBuf {
        let table = self.cli_ok(&["token", "new", "--role", "worker", "--pool", "cpu", "--name", name]);
        let config = self.path("push0.toml");
        let text = fs::read_to_string(&config).expect("it was written");
        fs::write(config, format!("{text}{table}")).expect("the directory is writable");
        self.path(&format!("{name}.token"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("push0"));
        command.current_dir(self.directory.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Starts a worker beside those of `up`, by a configuration of its own.
    pub fn start_worker(&mut self, id: &str, pool: &str, config: &str) -> u32 {
        let log = fs::File::options().create(true).append(true).open(self.path(&format!("{id}.log"))).expect("a log");
        let scratch = self.path("scratch");
        let worker = self
            .command(&["worker", "--pool", pool, "--id", id, "--config", config, "--scratch"])
            .arg(scratch)
            .env("PUSH0_DATA", self.path("data"))
            .env("PUSH0_ECHO_LOG", self.path("invocations"))
            .env("PUSH0_ECHO_STATE", self.path("echo-state"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("push0 starts");
        let pid = worker.id();
        self.workers.push(worker);
        pid
    }

    /// The file that a blob's bytes lie in: `N@` and the end of its key, the parts beyond the sixth joined by commas.
    pub fn file_of(&self, key: &str) -> PathBuf {
        let parts: Vec<&str> = key.split('/').collect();
        let (folder, name) = parts.split_at(6.min(parts.len() - 1));
        let (folder, name) = (self.path("data/blobs").join(folder.join("/")), name.join(","));
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let is_it =
            |path: &PathBuf| path.file_name().and_then(|n| n.to_str()?.split_once('@')).is_some_and(|(_, n)| n == name);
        files.flatten().map(|entry| entry.path()).find(is_it).unwrap_or_else(|| panic!("no file for {key}"))
    }

    /// Flips one bit in the middle of a stored blob.
    pub fn damage(&self, key: &str) {
        let file = self.file_of(key);
        let mut bytes = fs::read(&file).expect("the file was found");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("the file is writable");
    }

    /// Runs a command of the CLI.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("push0 runs")
    }

    /// Runs a command of the CLI that must succeed; its standard output.
    pub fn cli_ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "push0 {}: {}\n{said}", args.join(" "), output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A client of the running `up`.
    pub fn client(&self) -> Client {
        let address = format!("unix:{}", self.path("data/push0.sock").display());
        let config = ClientConfig { timeout: Duration::from_secs(5), ..ClientConfig::new(address) };
        Client::new(config).expect("the address is well-formed")
    }

    /// Writes block `number` of so many segments; returns its submission file and its hash.
    pub fn block(&self, number: u64, segments: u32, salt: &str) -> (PathBuf, String) {
        let hash = |number: u64| hex(&Sha256::digest(format!("block {number}")));
        let (own, parent) = (hash(number), hash(number - 1));
        let witness = json!({ "segments": segments, "hash": own, "parent_hash": parent, "salt": salt });
        let name = format!("{number}{salt}");
        fs::write(self.path(&format!("blocks/{name}.witness")), witness.to_string()).expect("writable");
        let submission = json!({
            "chain": "demo", "number": number, "hash": own, "parent_hash": parent, "witness": format!("{name}.witness"),
        });
        let file = self.path(&format!("blocks/{name}.json"));
        fs::write(&file, submission.to_string()).expect("writable");
        (file, own)
    }

    pub fn submit(&self, files: &[PathBuf]) {
        let mut args = vec!["submit"];
        args.extend(files.iter().map(|file| file.to_str().expect("temporary paths are text")));
        self.cli_ok(&args);
    }

    pub fn status(&self) -> Option<Value> {
        let output = self.cli(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    pub fn up_pid(&self) -> u32 {
        self.up.as_ref().expect("it runs").id()
    }

    /// `up` and everything it started, down to the provers.
    pub fn tree(&self) -> Vec<u32> {
        tree_of(self.up_pid())
    }

    /// Worker processes of the pool `cpu`.
    pub fn workers(&self) -> Vec<u32> {
        self.workers_of("cpu")
    }

    /// Worker processes of a pool that `up` started.
    pub fn workers_of(&self, pool: &str) -> Vec<u32> {
        let up = self.up_pid();
        let children = parents().into_iter().filter(|(_, parent)| *parent == up).map(|(child, _)| child);
        children.filter(|pid| command_line(*pid).contains(pool)).collect()
    }

    /// SIGKILL for every process of the tree, `up` first.
    pub fn kill_tree(&mut self) {
        let tree = self.tree();
        for pid in &tree {
            signal(*pid, Signal::SIGKILL);
        }
        self.reap();
        wait_until("the tree is gone", || tree.iter().all(|pid| !is_running(*pid)));
    }

    /// SIGKILL for `up` alone; the others must not outlive it.
    pub fn kill_up(&mut self) {
        let tree = self.tree();
        signal(self.up_pid(), Signal::SIGKILL);
        self.reap();
        wait_until("nothing outlives up", || tree.iter().all(|pid| !is_running(*pid)));
    }

    fn reap(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.wait();
        }
    }

    /// The end of `up`'s log, for a failure's message.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.path("up.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
        if self.up.is_some() {
            self.kill_tree();
        }
    }
}

/// The process and everything it started.
pub fn tree_of(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut position = 0;
    let parents = parents();
    while let Some(pid) = found.get(position).copied() {
        position += 1;
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
    }
    found
}

/// What a process has started and that still runs.
pub fn children_of(pid: u32) -> Vec<u32> {
    let children = parents().into_iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child);
    children.filter(|child| is_running(*child)).collect()
}

pub fn signal(pid: u32, signal: Signal) {
    // It may be gone already.
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// (process, parent) of everything that runs.
fn parents() -> BTreeSet<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat_field(pid, 1)?.parse().ok()?))).collect()
}

/// A field of `/proc/PID/stat` after the command's name: 0 is the state, 1 the parent.
fn stat_field(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field).map(str::to_owned)
}

pub fn is_running(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

pub fn command_line(pid: u32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for a condition. Gives up after five minutes: the limit is against a hung test, not a measure of anything.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("gave up waiting until {what}");
}
