//! That no prover outlives its worker, whatever kills it. This binary is also the worker and the shim it tests, hence no harness.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use push0_core::pipeline::{Form, Kind, ProverCommand};
use push0_gpu_worker::{run, shim_main};
use push0_runtime::port::SystemClock;
use support::{config, engine, put, send, task};

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|arg| arg.to_str()) {
        Some("shim") => shim_main(args),
        Some("worker") => worker(Path::new(&args.next().unwrap())),
        // Whatever the test runner passes: a filter, a format.
        _ => {}
    }
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    the_prover_dies_with_a_worker_that_is_killed();
    a_prover_whose_worker_is_dead_already_does_not_start();
    a_prover_runs_within_its_limits();
    eprintln!("test result: ok. 3 passed");
}

/// What of a worker's environment is not for its provers.
const SECRETS: [&str; 6] = [
    "PUSH0_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Whether a process may leave the network here; in some containers it may not.
fn can_be_cut_off() -> bool {
    let probe = Command::new("unshare").args(["--user", "--net", "true"]).output();
    probe.is_ok_and(|output| output.status.success())
}

fn own() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A worker with one task, whose prover writes its process id to `dir/pid` and never ends.
#[tokio::main(flavor = "current_thread")]
async fn worker(dir: &Path) {
    let engine = engine(Arc::new(SystemClock));
    let input = put(&engine, "in/0", "segment").await;
    send(&engine, &task(Kind::Map, 0, vec![input])).await;
    let mut config = config(dir);
    config.shim = vec![own().to_str().unwrap().to_owned(), "shim".to_owned(), "--".to_owned()];
    let script = format!(
        "env > {0}/env; cat /proc/net/dev > {0}/net; echo $$ > {0}/pid.new; mv {0}/pid.new {0}/pid; while :; do sleep 0.1; done",
        dir.display()
    );
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let endless = ProverCommand {
        memory_limit_mib: Some(4096),
        gpu_memory_mib: None,
        network: !can_be_cut_off(),
        ..ProverCommand::new(Form::Exec, command)
    };
    config.provers.insert("scripted".parse().unwrap(), endless);
    let (queue, blobs) = (Arc::new(engine.clone()), Arc::new(engine));
    run(config, queue, blobs, Arc::new(SystemClock), std::future::pending()).await.unwrap();
}

/// Waits for something to become true, for a minute at most.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is there and no zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Nor does it see the worker's credentials, or a network, where it has none.
fn the_prover_dies_with_a_worker_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Command::new(own());
    worker.arg("worker").arg(dir.path()).env("PATH_TO_PARAMETERS", "kept");
    SECRETS.iter().for_each(|name| {
        worker.env(name, "hidden");
    });
    let mut worker = worker.spawn().unwrap();
    let pid_file = dir.path().join("pid");
    wait_for("the prover starts", || pid_file.exists());
    let pid = std::fs::read_to_string(pid_file).unwrap().trim().to_owned();
    assert!(is_alive(&pid));
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let memory = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(memory.contains(&(4096_u64 << 20).to_string()), "{memory}");
    let environment = std::fs::read_to_string(dir.path().join("env")).unwrap();
    assert!(environment.contains("PATH_TO_PARAMETERS=kept"), "{environment}");
    assert!(!environment.contains("hidden"), "{environment}");
    if can_be_cut_off() {
        let network = std::fs::read_to_string(dir.path().join("net")).unwrap();
        let devices = network.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
        assert_eq!(devices.collect::<Vec<_>>(), ["lo"], "{network}");
    } else {
        eprintln!("no network namespaces here: that provers can be cut off is not tested");
    }

    worker.kill().unwrap();
    worker.wait().unwrap();
    wait_for("the prover dies", || !is_alive(&pid));
}

fn a_prover_whose_worker_is_dead_already_does_not_start() {
    let nobody = "--parent=999999999";
    let output = Command::new(own()).args(["shim", "--", nobody, "--", "echo", "started"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(75), 0), "{output:?}");
}

fn a_prover_runs_within_its_limits() {
    let parent = format!("--parent={}", std::process::id());
    let run = |command: &[&str]| Command::new(own()).args(["shim", &parent, "--"]).args(command).output().unwrap();
    let limits = String::from_utf8(run(&["sh", "-c", "ulimit -c; ulimit -n"]).stdout).unwrap();
    let numbers: Vec<u64> = limits.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(numbers[0] == 0 && numbers[1] <= 4096, "{numbers:?}");
    assert_eq!(run(&["sh", "-c", "exit 9"]).status.code(), Some(9));
    assert_eq!(run(&["/no/such/program"]).status.code(), Some(75));
}
