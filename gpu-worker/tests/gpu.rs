//! The worker on the GPUs of a library with NVML's interface (`fake_nvml.c`): no GPU takes part.
#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use push0_core::message::{FailureKind, Report, ReportEvent, TaskMessage, queue};
use push0_core::pipeline::{self, Form, Kind, ProverCommand};
use push0_core::{ErrorCode, Millis, Sha256};
use push0_gpu_worker::ec2::self_tests;
use push0_gpu_worker::gpu::{Gpus, Rules};
use push0_gpu_worker::{WorkerConfig, WorkerError, run};
use push0_runtime::engine::Engine;
use push0_runtime::port::{Blobs as _, SystemClock};
use support::*;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const TWO: [&str; 2] =
    ["gpu GPU-a NVIDIA-A10G 23028 512 37 55 120500 0 0", "gpu GPU-b NVIDIA-A10G 23028 0 0 41 60000 0 0"];

/// The library, compiled once for all tests.
static LIBRARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_nvml.c"), dir.path().join("nvml.so"));
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let compiled = compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(compiled.unwrap().success(), "a C compiler is needed");
    std::fs::read(library).unwrap()
});

/// A machine with the library, its state, and where provers say on which device they ran.
struct Machine(TempDir);

impl Machine {
    fn with(lines: &[&str]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        std::fs::write(machine.at("nvml.so"), &*LIBRARY).unwrap();
        std::fs::create_dir(machine.at("ran")).unwrap();
        machine.is(lines);
        machine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// At once, whoever reads it.
    fn is(&self, lines: &[&str]) {
        std::fs::write(self.at("next"), lines.join("\n") + "\n").unwrap();
        std::fs::rename(self.at("next"), self.at("state")).unwrap();
    }

    fn rules(&self) -> Rules {
        Rules {
            demanded: true,
            library: self.at("nvml.so").to_str().unwrap().to_owned(),
            visible: None,
            look_every: Millis(20),
            log_every: Millis(100),
            self_test: Vec::new(),
            again_every: Millis(50),
        }
    }

    fn config(&self) -> WorkerConfig {
        let ran = self.at("ran").to_str().unwrap().to_owned();
        let command = ["sh", script("gpu.sh").to_str().unwrap(), &ran].map(str::to_owned).to_vec();
        let large = ProverCommand { gpu_memory_mib: Some(23_029), ..ProverCommand::new(Form::Exec, command.clone()) };
        let fitting = ProverCommand { gpu_memory_mib: Some(23_028), ..large.clone() };
        let provers = [("plain", ProverCommand::new(Form::Exec, command)), ("large", large), ("fitting", fitting)];
        WorkerConfig {
            gpus: Some(self.rules()),
            // Who has a task in hand would fetch another's.
            prefetch: false,
            provers: provers.map(|(name, command)| (name.parse().unwrap(), command)).into(),
            ..config(self.0.path())
        }
    }

    async fn until_there_is(&self, name: &str) {
        while !self.at("ran").join(name).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Worker {
    engine: Engine,
    tasks: u32,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    fn start(config: WorkerConfig) -> Self {
        let engine = engine(Arc::new(SystemClock));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let ports = Arc::new(engine.clone());
        let running = tokio::spawn(run(config, ports.clone(), ports, Arc::new(SystemClock), shutdown));
        Self { engine, tasks: 0, stop, running }
    }

    async fn send(&mut self, prover: &str, stage: &str) {
        let input = put(&self.engine, "in/segment", "segment").await;
        let (stage, prover) = (stage.parse().unwrap(), prover.parse().unwrap());
        send(&self.engine, &TaskMessage { stage, prover, ..task(Kind::Join, self.tasks, vec![input]) }).await;
        self.tasks += 1;
    }

    async fn report(&self) -> Report {
        next_report(&self.engine, queue::RESULTS).await
    }

    /// The device that the next task that is done ran on.
    async fn device(&self) -> String {
        let report = self.report().await;
        let ReportEvent::Done { artifact } = report.event else { panic!("{report:?}") };
        let bytes = self.engine.get(&artifact.key).await.unwrap().unwrap();
        assert_eq!(Sha256::of(&bytes), artifact.sha256);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    async fn devices(&self, count: usize) -> Vec<String> {
        let mut devices = Vec::new();
        for _ in 0..count {
            devices.push(self.device().await);
        }
        devices.sort();
        devices
    }

    async fn failure(&self) -> (FailureKind, String) {
        let report = self.report().await;
        let ReportEvent::Failed { kind, message, .. } = report.event else { panic!("{report:?}") };
        (kind, message)
    }

    /// But that it began.
    async fn says_nothing(&self) -> bool {
        reports_now(&self.engine, queue::RESULTS).await.iter().all(|event| *event == ReportEvent::Started)
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn each_gpu_is_a_slot_whose_provers_see_that_device_alone() {
    let machine = Machine::with(&TWO);
    let mut worker = Worker::start(WorkerConfig { slots: 7, ..machine.config() });
    for _ in 0..2 {
        worker.send("plain", "meet-2").await;
    }
    assert_eq!(worker.devices(2).await, ["GPU-a", "GPU-b"]);
    worker.end().await;
}

#[tokio::test]
async fn a_gpu_that_is_cut_into_parts_is_a_slot_for_each_of_them() {
    let parts = ["mig GPU-b MIG-b1 4864 0", "mig GPU-b MIG-b2 9856 0"];
    let machine = Machine::with(&[&TWO[..], &parts].concat());
    let found = Gpus::find(&machine.rules()).unwrap();
    let found: Vec<(&str, &str, Option<u64>)> =
        found.devices().map(|device| (device.uuid.as_str(), device.gpu.as_str(), device.memory)).collect();
    let mib = |mib: u64| Some(mib << 20);
    let wanted = [("GPU-a", "GPU-a", mib(23_028)), ("MIG-b1", "GPU-b", mib(4_864)), ("MIG-b2", "GPU-b", mib(9_856))];
    assert_eq!(found, wanted);

    let given = Rules { visible: Some("MIG-b2,0".to_owned()), ..machine.rules() };
    let mut worker = Worker::start(WorkerConfig { gpus: Some(given), ..machine.config() });
    for _ in 0..2 {
        worker.send("plain", "where").await;
    }
    let devices = worker.devices(2).await;
    assert!(devices.iter().all(|device| device != "MIG-b1"), "{devices:?}");
    worker.end().await;
}

#[tokio::test]
async fn without_a_gpu_a_worker_works_as_ever_or_does_not_start_where_one_is_demanded() {
    let machine = Machine::with(&[]);
    let nowhere = || Rules { library: "/nowhere/libnvidia-ml.so.1".to_owned(), ..machine.rules() };
    for rules in [nowhere(), machine.rules()] {
        let worker = Worker::start(WorkerConfig { gpus: Some(rules.clone()), ..machine.config() });
        let ended = worker.running.await.unwrap();
        assert!(matches!(ended, Err(WorkerError::NoGpu(_))), "{ended:?}");
        let rules = Rules { demanded: false, ..rules };
        let mut worker = Worker::start(WorkerConfig { slots: 2, gpus: Some(rules), ..machine.config() });
        worker.send("plain", "where").await;
        assert!(matches!(worker.report().await.event, ReportEvent::Done { .. }));
        worker.end().await;
    }
}

#[tokio::test]
async fn a_device_that_fails_under_a_task_is_to_blame_and_comes_back_with_its_test() {
    let machine = Machine::with(&TWO);
    let healthy = machine.at("healthy");
    let self_test = ["test", "-e", healthy.to_str().unwrap()].map(str::to_owned).to_vec();
    let rules = Rules { self_test, ..machine.rules() };
    let mut worker = Worker::start(WorkerConfig { gpus: Some(rules), ..machine.config() });
    worker.send("plain", "hang").await;
    let on = |device: &str| machine.at("ran").join(format!("hang-on-{device}")).exists();
    while !on("GPU-a") && !on("GPU-b") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (broken, other) = if on("GPU-a") { ("GPU-a", "GPU-b") } else { ("GPU-b", "GPU-a") };
    // The first is an application's own, and changes nothing.
    let (own, fatal) = (format!("xid {broken} 31"), format!("xid {broken} 79"));
    machine.is(&[&TWO[..], &[&own]].concat());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(worker.says_nothing().await);
    machine.is(&[&TWO[..], &[&own, &fatal]].concat());
    let (kind, message) = worker.failure().await;
    assert_eq!((kind, ErrorCode::find(&message)), (FailureKind::Retryable, Some(ErrorCode::DeviceFailed)), "{message}");
    assert!(message.contains(broken) && message.contains("XID 79"), "{message}");

    for _ in 0..6 {
        worker.send("plain", "where").await;
    }
    assert_eq!(worker.devices(6).await, [other; 6], "the other slot goes on, this one takes nothing");

    std::fs::write(&healthy, "").unwrap();
    for _ in 0..2 {
        worker.send("plain", "meet-2").await;
    }
    assert_eq!(worker.devices(2).await, ["GPU-a", "GPU-b"]);
    worker.end().await;
}

#[tokio::test]
async fn a_slot_comes_back_when_its_provers_pass_their_self_tests_on_its_device() {
    let machine = Machine::with(&TWO[..1]);
    let seed = machine.at("seed");
    std::fs::write(&seed, "segment").unwrap();
    let stages = [("split", "split"), ("sound", "map"), ("join", "join"), ("verify", "verify")];
    let stages = stages.map(|(name, kind)| format!("[[stage]]\nname = \"{name}\"\nkind = \"{kind}\"\n")).concat();
    let pipeline = format!(
        "name = \"tested\"\n[prover.plain]\nform = \"exec\"\ncommand = [\"sh\"]\n\
         [prover.plain.self_test]\nstage = \"sound\"\ninputs = [{seed:?}]\n{stages}[policy.default]\npool = \"cpu\"\n"
    );
    let self_tests = self_tests([&pipeline::parse(&pipeline).unwrap()], &pool());
    let mut worker = Worker::start(WorkerConfig { self_tests, ..machine.config() });
    worker.send("plain", "hang").await;
    machine.until_there_is("hang-on-GPU-a").await;
    machine.is(&[TWO[0], "xid GPU-a 79"]);
    let (kind, message) = worker.failure().await;
    assert_eq!((kind, ErrorCode::find(&message)), (FailureKind::Retryable, Some(ErrorCode::DeviceFailed)), "{message}");

    worker.send("plain", "where").await;
    let tests = || std::fs::read_to_string(machine.at("ran/tests-on-GPU-a")).map_or(0, |lines| lines.lines().count());
    while tests() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(worker.says_nothing().await && !machine.at("ran/where-on-GPU-a").exists(), "it takes nothing");
    std::fs::write(machine.at("ran/is-sound"), "").unwrap();
    assert_eq!(worker.device().await, "GPU-a");
    let passed = tests();
    worker.send("plain", "where").await;
    assert_eq!(worker.device().await, "GPU-a");
    assert_eq!(tests(), passed, "once it has passed it is not tested again");
    worker.end().await;
}

#[tokio::test]
async fn a_device_that_is_lost_is_to_blame_for_a_prover_that_crashes_and_comes_back_when_it_answers() {
    let machine = Machine::with(&TWO[..1]);
    // Nobody looks but when the prover has failed.
    let rules = Rules { look_every: Millis(60_000), ..machine.rules() };
    let mut worker = Worker::start(WorkerConfig { gpus: Some(rules), ..machine.config() });
    worker.send("plain", "fall").await;
    machine.until_there_is("fall-on-GPU-a").await;
    let lost = TWO[0].replace(" 0 0", " 0 15");
    machine.is(&[&lost]);
    std::fs::write(machine.at("ran/let-it-fall"), "").unwrap();
    let (kind, message) = worker.failure().await;
    assert_eq!((kind, ErrorCode::find(&message)), (FailureKind::Retryable, Some(ErrorCode::DeviceFailed)), "{message}");
    assert!(message.contains("fell off the bus") && message.contains("illegal memory access"), "{message}");

    worker.send("plain", "where").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(worker.says_nothing().await && !machine.at("ran/where-on-GPU-a").exists(), "it takes nothing");
    machine.is(&TWO[..1]);
    assert_eq!(worker.device().await, "GPU-a");
    worker.end().await;
}

#[tokio::test]
async fn a_prover_that_fails_on_a_sound_device_is_to_blame_itself_unless_it_says_otherwise() {
    let machine = Machine::with(&TWO[..1]);
    std::fs::write(machine.at("ran/let-it-fall"), "").unwrap();
    let mut worker = Worker::start(machine.config());
    worker.send("plain", "fall").await;
    let (kind, message) = worker.failure().await;
    assert_eq!(
        (kind, ErrorCode::find(&message)),
        (FailureKind::Permanent, Some(ErrorCode::ProverCrashed)),
        "{message}"
    );

    worker.send("plain", "say").await;
    let (kind, message) = worker.failure().await;
    assert_eq!((kind, ErrorCode::find(&message)), (FailureKind::Retryable, Some(ErrorCode::DeviceFailed)), "{message}");
    assert!(message.contains("GPU-a") && message.contains("no kernel image"), "{message}");
    // NVML has nothing against the device: it is tested, and goes on.
    worker.send("plain", "where").await;
    assert_eq!(worker.device().await, "GPU-a");
    worker.end().await;
}

#[tokio::test]
async fn a_rising_count_of_uncorrectable_errors_is_a_failure() {
    let machine = Machine::with(&TWO[..1]);
    let mut worker = Worker::start(machine.config());
    worker.send("plain", "hang").await;
    machine.until_there_is("hang-on-GPU-a").await;
    let corrupt = TWO[0].replace(" 0 0", " 1 0");
    machine.is(&[&corrupt]);
    let (_, message) = worker.failure().await;
    assert!(message.starts_with("P0-122: GPU-a (NVIDIA-A10G): an uncorrectable ECC error"), "{message}");
    worker.send("plain", "where").await;
    assert_eq!(worker.device().await, "GPU-a", "the count stays where it is: that is no further failure");
    worker.end().await;
}

#[tokio::test]
async fn a_task_that_needs_more_memory_than_the_device_has_is_not_begun() {
    let machine = Machine::with(&TWO[..1]);
    let mut worker = Worker::start(machine.config());
    worker.send("large", "where").await;
    let (kind, message) = worker.failure().await;
    let wanted = "P0-121: prover large needs 23029 MiB of device memory, GPU-a has 23028";
    assert_eq!((kind, message.as_str()), (FailureKind::OutOfMemory, wanted));
    assert!(!machine.at("ran/where-on-GPU-a").exists());
    worker.send("fitting", "where").await;
    assert_eq!(worker.device().await, "GPU-a");
    worker.end().await;
}
