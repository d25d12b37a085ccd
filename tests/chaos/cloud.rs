//! push0 in an account of an emulator, and the processes that work for it: as an operator has them, who runs `push0 bootstrap`, workers,
//! and where there is no Lambda `push0 serve`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use push0_core::topology::Topology;
use push0_runtime::aws::{Connection, S3Blobs, Sqs, emulator, http_client, record};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::calls::Record;

use super::installation::{program, signal, tree_of, wait_until};

/// Credentials that the emulator takes like any others; nothing may ever repeat them.
pub const SECRET_KEY: &str = "emulated-secret-access-key";
pub const SESSION_TOKEN: &str = "emulated-session-token";

pub struct Cloud {
    record: Record,
    pub directory: tempfile::TempDir,
    /// The emulator's: it keeps accounts apart.
    account: String,
    /// Names in the emulator's log, which all accounts share, begin with it.
    pub prefix: String,
    endpoint: String,
    processes: Vec<Process>,
    /// What processes that go on log, where it is not the default.
    pub log: Option<&'static str>,
}

struct Process {
    name: String,
    args: Vec<String>,
    child: Child,
}

/// The configuration of an installation of one chain, whose pipeline is `echo.toml`; for [`Cloud::new`].
pub const ONE_CHAIN: &str = r#"
[aws]
prefix = "{prefix}"
[workers]
lease_ms = 1000
[functions]
reaper_ms = 1000
[[chain]]
id = "demo"
pipeline = "echo.toml"
window = 8
"#;

impl Cloud {
    /// An account with nothing in it, and a directory with these files, of which `push0.toml` is one. `{prefix}` in it is the account's.
    pub fn new(files: &[(&str, &str)]) -> Self {
        Self::at(emulator::ministack(), files)
    }

    /// The same at the address of another emulator than the tests'.
    pub fn at(endpoint: String, files: &[(&str, &str)]) -> Self {
        let account = emulator::account();
        let directory = tempfile::Builder::new().prefix("p0").tempdir().expect("a temporary directory");
        let prefix = emulator::prefix(&account);
        for (name, content) in files {
            let content = content.replace("{prefix}", &prefix);
            fs::write(directory.path().join(name), content).expect("the directory is writable");
        }
        let record = Record::new(directory.path());
        Self { directory, account, prefix, endpoint, processes: Vec::new(), record, log: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("push0"));
        command
            .current_dir(self.directory.path())
            .args(args)
            .stdin(Stdio::null())
            .env("AWS_ACCESS_KEY_ID", &self.account)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_SESSION_TOKEN", SESSION_TOKEN)
            .env("AWS_REGION", "us-east-1")
            .env("PUSH0_AWS_ENDPOINT", &self.endpoint)
            .env("PUSH0_CONNECT", "aws")
            .env(record::FILE, self.record.file())
            .env("PUSH0_ECHO_LOG", self.path("invocations"))
            .env("PUSH0_ECHO_STATE", self.path("echo-state"));
        command
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

    /// The three bootstraps as they were built beside the test, laid out as they are packaged.
    pub fn functions(&self) -> PathBuf {
        let functions = self.path("functions");
        for name in ["dispatcher", "collector", "reaper"] {
            fs::create_dir_all(functions.join(name)).expect("the directory is writable");
            fs::copy(program(name), functions.join(name).join("bootstrap")).expect("the program can be copied");
        }
        functions
    }

    /// Starts a process of push0 that goes on; its log is `NAME.log`.
    pub fn start(&mut self, name: &str, args: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).expect("a log");
        let mut command = self.command(args);
        if let Some(log) = self.log {
            command.env("PUSH0_LOG", log);
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("push0 starts");
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.processes.push(Process { name: name.to_owned(), args, child });
    }

    pub fn start_worker(&mut self, pool: &str, name: &str) {
        let scratch = self.path("scratch");
        let scratch = scratch.to_str().expect("temporary paths are text").to_owned();
        self.start(name, &["worker", "--pool", pool, "--id", name, "--scratch", &scratch]);
    }

    /// SIGKILL for a process and all it started, then the same once more.
    pub fn kill_and_start_again(&mut self, position: usize) {
        let Process { name, args, mut child } = self.processes.remove(position);
        for pid in tree_of(child.id()) {
            signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = child.wait();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.start(&name, &args);
    }

    pub fn pid(&self, name: &str) -> u32 {
        let process = self.processes.iter().find(|process| process.name == name);
        process.unwrap_or_else(|| panic!("{name} was not started")).child.id()
    }

    /// How many processes there are to kill.
    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    pub async fn connection(&self) -> Connection {
        emulator::connect(&self.endpoint, &self.account, http_client()).await
    }

    pub async fn queue(&self) -> Sqs {
        Sqs::new(&self.connection().await)
    }

    pub async fn blobs(&self) -> S3Blobs {
        S3Blobs::new(&self.connection().await, &Topology::built_in())
    }

    /// Puts a witness as any S3 client would, and nothing else.
    pub async fn upload(&self, chain: &str, number: u64, hash: &str, witness: &Path) {
        let bytes = fs::read(witness).expect("a witness can be read");
        self.upload_bytes(chain, number, hash, bytes).await;
    }

    pub async fn upload_bytes(&self, chain: &str, number: u64, hash: &str, bytes: Vec<u8>) {
        self.try_upload(chain, number, hash, bytes).await.expect("the emulator stores a witness");
    }

    pub async fn try_upload(&self, chain: &str, number: u64, hash: &str, bytes: Vec<u8>) -> Result<(), String> {
        let put = self.connection().await.s3().put_object();
        put.bucket(format!("{}-witnesses", self.prefix))
            .key(format!("witnesses/{chain}/{number}/{hash}/witness"))
            .body(bytes.into())
            .send()
            .await
            .map(|_| ())
            .map_err(|error| format!("{error:?}"))
    }

    /// Writes block `number` of so many segments for the echo prover; its submission file, its witness, its hash.
    pub fn echo_block(&self, number: u64, segments: u32) -> (PathBuf, PathBuf, String) {
        let hash = |number: u64| -> String {
            Sha256::digest(format!("block {number}")).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let (own, parent) = (hash(number), hash(number - 1));
        let witness = self.path(&format!("{number}.witness"));
        let content = json!({ "segments": segments, "hash": own, "parent_hash": parent });
        fs::write(&witness, content.to_string()).expect("writable");
        let submission = json!({
            "chain": "demo", "number": number, "hash": own, "parent_hash": parent, "witness": format!("{number}.witness"),
        });
        let file = self.path(&format!("{number}.json"));
        fs::write(&file, submission.to_string()).expect("writable");
        (file, witness, own)
    }

    /// What the emulator said about this account's functions.
    pub fn emulator_log(&self) -> Vec<String> {
        let log = fs::read_to_string(emulator::said("PUSH0_MINISTACK_LOG")).unwrap_or_default();
        log.lines().filter(|line| line.contains(&self.prefix)).map(str::to_owned).collect()
    }

    /// The end of each log, for a failure's message.
    pub fn logs(&self) -> String {
        let mut said = String::new();
        let entries = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log")) {
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            said += &format!("== {}\n{}\n", path.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        let emulator = self.emulator_log();
        said += &format!("== emulator\n{}\n", emulator[emulator.len().saturating_sub(40)..].join("\n"));
        said
    }

    /// What a command of the CLI says with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.cli(&[&["--json"], args].concat()).stdout).unwrap_or_default()
    }

    /// A chain's finalized blocks, as its rows have them.
    pub fn stream(&self, chain: &str) -> Vec<Value> {
        let lines = self.cli_ok(&["finalized", chain]);
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
    }

    /// Writes and announces blocks for the echo prover, in this order.
    pub fn submit(&self, numbers: impl IntoIterator<Item = u64>, segments: u32) {
        let files = numbers.into_iter().map(|number| self.echo_block(number, segments).0);
        let files: Vec<String> =
            files.map(|file| file.to_str().expect("temporary paths are text").to_owned()).collect();
        let args = ["submit", "--no-wait"].into_iter().chain(files.iter().map(String::as_str));
        self.cli_ok(&args.collect::<Vec<_>>());
    }

    /// Bootstraps the account and starts the functions and workers, of the trusted pool and of `cpu`.
    pub fn start_all(&mut self) {
        self.cli_ok(&["bootstrap", "--visibility-s", "1"]);
        self.start("serve", &["serve", "--aws", "--lease-ms", "1000"]);
        self.start_worker("trusted", "trusted-1");
        self.start_worker("cpu", "cpu-1");
    }

    /// Consumes the finalized stream until there are so many blocks.
    pub fn tail(&self, count: usize) -> Vec<Value> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let out = self.path(&format!("finalized-{seconds}"));
        let tail = self
            .command(&["finalized", "tail", "--state", "seen.json", "--count", &count.to_string()])
            .stdout(fs::File::create(&out).expect("writable"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("push0 starts");
        let mut tail = Ending(tail);
        let mut ended = None;
        wait_until(&format!("{count} blocks are finalized"), || {
            ended = tail.0.try_wait().ok().flatten();
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "finalized tail failed\n{}", self.logs());
        let lines = fs::read_to_string(&out).expect("it was written");
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
    }
}

/// A process that does not outlive a test that gives up.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for process in &mut self.processes {
            for pid in tree_of(process.child.id()) {
                signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = process.child.wait();
        }
    }
}
