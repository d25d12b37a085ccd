//! What the embedded engine keeps when its process or its machine ends, at every call by which it changes the disk.
//!
//! A child process (this test binary) does one step after another on an engine and says after each that it was acknowledged. A preloaded
//! library (`durability/recorder.c`) writes down every call that changes the disk. From that the disk is rebuilt as it would be found
//! after a crash at any of these calls (`durability/disk.rs`): with all that was written where the process ended, with less where the machine did.
//! There an engine is opened, and what it has is compared with what was acknowledged. Some processes are killed in truth, at the same
//! calls, and the disks they leave must be, byte for byte, as rebuilt ones are.
//!
//! `docs/durability.md` has what each level promises, and what came out. `PUSH0_CRASH_POINTS=all` looks at every call.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "durability/disk.rs"]
mod disk;
#[path = "durability/steps.rs"]
mod steps;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use disk::{Call, Disk, Image, Kind, Unsynced, calls, is_index, lay_out};
use futures::executor::block_on;
use push0_runtime::engine::{Durability, Engine, EngineConfig, Location, Quota};
use push0_runtime::port::PortResult;
use steps::{Content, Step, after, perform, read, step};

const DIRECTORY: &str = "PUSH0_DURABILITY_TEST_DIRECTORY";
const LEVEL: &str = "PUSH0_DURABILITY_TEST_LEVEL";
const MARKS: &str = "DISK_MARKS";
const POINTS: &str = "PUSH0_CRASH_POINTS";

/// Enough for a checkpoint, and for the log to begin anew behind it.
const STEPS: u32 = 640;

/// Steps between two checkpoints, at most: a checkpoint is due after 500 transactions, and half the steps or more are one.
const CHECKPOINT: usize = 600;

/// The engine is closed and opened again before these.
const AGAIN: [u32; 2] = [20, 600];

fn open(directory: &Path, durability: Durability) -> PortResult<Engine> {
    let location = Location::Directory(directory.to_owned());
    let quota = Quota { reserve: 0, ..Quota::default() };
    Engine::open(EngineConfig { durability, quota, ..EngineConfig::new(location, steps::queues()) })
}

/// The process that is watched.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let durability = match std::env::var(LEVEL).as_deref() {
        Ok("power") => Durability::Power,
        _ => Durability::Process,
    };
    let mut marks = fs::File::create(std::env::var_os(MARKS).unwrap()).unwrap();
    let mut engine = Some(open(&directory, durability).unwrap());
    for number in 0..STEPS {
        if AGAIN.contains(&number) {
            drop(engine.take());
            engine = Some(open(&directory, durability).unwrap());
        }
        block_on(perform(engine.as_ref().unwrap(), number));
        marks.write_all(b"acknowledged").unwrap();
    }
}

/// A directory in memory, where there is such: nothing here asks a real disk to sync.
fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

fn recorder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recorder-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durability/recorder.c");
        let built = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
            .args(["-O1", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.unwrap().success(), "the recorder does not compile");
        library
    })
}

/// What a child did, and what it left.
struct Life {
    root: PathBuf,
    calls: Vec<Call>,
    status: ExitStatus,
    _directory: tempfile::TempDir,
}

/// Runs a child at this level, to its end or until it is killed before a call.
fn live(level: &str, kill: Option<usize>) -> Life {
    let directory = temporary();
    let base = directory.path().canonicalize().unwrap();
    let root = base.join("root");
    fs::create_dir(&root).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).stdout(Stdio::null());
    command.env(DIRECTORY, root.join("data")).env(LEVEL, level).env(MARKS, base.join("marks"));
    command.env("LD_PRELOAD", recorder()).env("DISK_ROOT", &root).env("DISK_LOG", base.join("log"));
    if let Some(kill) = kill {
        command.env("DISK_KILL", kill.to_string()).stderr(Stdio::null());
    }
    let status = command.status().unwrap();
    assert!(kill.is_some() || status.success(), "{status}");
    Life { calls: calls(&base.join("log")), root, status, _directory: directory }
}

/// Which of so many calls are looked at: about `usual` of them, or all.
fn points(calls: usize, usual: usize) -> Vec<usize> {
    let wanted = match std::env::var(POINTS).as_deref() {
        Ok("all") => calls,
        Ok(number) => number.parse().unwrap(),
        Err(_) => usual,
    };
    (0..calls).step_by((calls / wanted.max(1)).max(1)).collect()
}

/// The states after so many steps.
fn states() -> Vec<Content> {
    let mut states = vec![Content::default()];
    for number in 0..STEPS {
        let next = after(&states[states.len() - 1], &step(number));
        states.push(next);
    }
    states
}

/// Whether it is what stands after `acknowledged` steps, and perhaps parts of the next: each part whole or not at all.
fn stands(found: &Content, before: &Content, next: Option<&Step>) -> bool {
    let parts = next.map_or(&[][..], |step| &step.0);
    (0..1_u32 << parts.len()).any(|chosen| {
        let some = (0..).zip(parts).filter(|(at, _)| chosen & (1 << at) != 0).map(|(_, part)| part.clone());
        found.agrees_with(&after(before, &Step(some.collect())))
    })
}

/// What was looked at, and how bad it was.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "shown")]
struct Found {
    calls: usize,
    images: usize,
    opened: usize,
    /// Acknowledged steps that were taken back, at most.
    steps_lost: usize,
    /// Blobs that were `Corrupt`, at most at a time.
    blobs_damaged: usize,
}

/// Which disk is looked at, and what may be found on it.
struct Look<'a> {
    life: &'a Life,
    /// Of how many calls, where not all are asked for.
    usual: usize,
    /// The disk says that these were synced, and lies.
    lies_about: Option<Kind>,
    /// Nothing that was acknowledged may be lost.
    is_strict: bool,
}

impl Look<'_> {
    /// Looks at crashes of the life at its calls; the error is the first thing that is wrong.
    fn at_crashes(&self, how: impl Fn(usize) -> Vec<Unsynced>) -> Result<Found, String> {
        let life = self.life;
        let counted = life.calls.iter().filter(|call| call.is_counted()).count();
        let wanted = points(counted, self.usual);
        let (states, place) = (states(), temporary());
        let mut disk = Disk::empty(&life.root, self.lies_about);
        let mut found = Found { calls: counted, ..Found::default() };
        let (mut acknowledged, mut at) = (0, 0);
        let mut known: Vec<Option<(Image, Content)>> = Vec::new();
        for call in &life.calls {
            acknowledged += usize::from(matches!(call, Call::Mark));
            if call.is_counted() {
                let ways = if wanted.binary_search(&at).is_ok() { how(at) } else { Vec::new() };
                known.resize_with(known.len().max(ways.len()), || None);
                for (unsynced, known) in ways.into_iter().zip(&mut known) {
                    found.images += 1;
                    let image = disk.found(unsynced);
                    // What is as it was need not be opened again.
                    let content = match known.take() {
                        Some((before, content)) if before == image => Ok(content),
                        _ => {
                            found.opened += 1;
                            lay_out(&image, place.path());
                            open(&place.path().join("data"), Durability::Process).map(|engine| block_on(read(&engine)))
                        }
                    };
                    let place = || format!("{unsynced:?}, before call {at} of {counted}: {}", call.brief());
                    let content = content.map_err(|error| format!("{}\nit does not open: {error}", place()))?;
                    let is_strict = self.is_strict || unsynced == Unsynced::Kept;
                    found
                        .judge(&content, &states, acknowledged, is_strict)
                        .map_err(|what| format!("{}\n{what}", place()))?;
                    *known = Some((image, content));
                }
                at += 1;
            }
            disk.apply(call);
        }
        assert_eq!(acknowledged, STEPS as usize);
        assert!(is_laid_out(&disk.found(Unsynced::Kept), &life.root), "the recorder has not seen all that was written");
        Ok(found)
    }
}

impl Found {
    fn judge(
        &mut self,
        content: &Content,
        states: &[Content],
        acknowledged: usize,
        is_strict: bool,
    ) -> Result<(), String> {
        let is_after = |steps: &usize| {
            let next = (steps < &(states.len() - 1)).then(|| step(*steps as u32));
            stands(content, &states[*steps], next.as_ref())
        };
        let least = if is_strict { acknowledged } else { 0 };
        let stood = (least..=acknowledged).rev().find(is_after);
        let stood =
            stood.ok_or_else(|| format!("there should be {:#?}\nthere is {content:#?}", states[acknowledged]))?;
        if is_strict && !content.damaged.is_empty() {
            return Err(format!("damaged: {:?}", content.damaged));
        }
        self.steps_lost = self.steps_lost.max(acknowledged - stood);
        self.blobs_damaged = self.blobs_damaged.max(content.damaged.len());
        Ok(())
    }
}

/// Whether a directory is just so.
fn is_laid_out(found: &Image, root: &Path) -> bool {
    let mut left = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                left.push((below, None));
                folders.push(path);
            } else if !is_index(&path) {
                left.push((below, Some(fs::read(&path).unwrap())));
            }
        }
    }
    left.sort();
    let wanted = found.iter().filter(|(path, _)| !is_index(path));
    wanted.eq(left.iter().map(|(path, bytes)| (path, bytes)))
}

/// A life at the level `power`.
fn at_power() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| live("power", None))
}

/// A life at the level `process`.
fn at_process() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| live("process", None))
}

#[test]
fn a_process_that_ends_at_any_call_loses_nothing_that_was_acknowledged() {
    for life in [at_process(), at_power()] {
        let look = Look { life, usual: 30, lies_about: None, is_strict: true };
        let found = look.at_crashes(|_| vec![Unsynced::Kept]).unwrap_or_else(|what| panic!("{what}"));
        eprintln!("the process ends: {found:?}");
    }
}

#[test]
fn at_the_level_process_a_lost_machine_takes_back_the_last_steps_in_order_and_nothing_else_is_wrong() {
    let look = Look { life: at_process(), usual: 40, lies_about: None, is_strict: false };
    let found =
        look.at_crashes(|at| vec![Unsynced::Lost, Unsynced::Drawn(at as u64)]).unwrap_or_else(|what| panic!("{what}"));
    eprintln!("level process, the machine ends: {found:?}");
    assert!((1..=CHECKPOINT).contains(&found.steps_lost), "{found:?}");
}

#[test]
fn at_the_level_power_a_lost_machine_takes_back_nothing_that_was_acknowledged() {
    let look = Look { life: at_power(), usual: 60, lies_about: None, is_strict: true };
    let found = look.at_crashes(|at| vec![Unsynced::Lost, Unsynced::Drawn(at as u64), Unsynced::Drawn(!(at as u64))]);
    eprintln!("level power, the machine ends: {:?}", found.unwrap_or_else(|what| panic!("{what}")));
}

#[test]
fn each_of_the_syncs_is_needed_and_a_disk_that_lies_about_it_is_found_out() {
    for kind in [Kind::Log, Kind::Blob, Kind::BlobFolder, Kind::Folder] {
        let look = Look { life: at_power(), usual: 40, lies_about: Some(kind), is_strict: true };
        let found = look.at_crashes(|at| vec![Unsynced::Lost, Unsynced::Drawn(at as u64)]);
        let what = found.expect_err("it is not noticed");
        eprintln!("{kind:?}: {}", what.lines().next().unwrap());
    }
}

#[test]
fn a_killed_process_leaves_the_disk_that_is_rebuilt_from_its_calls() {
    let states = states();
    let whole = at_process().calls.iter().filter(|call| call.is_counted()).count();
    let exhaustive = std::env::var(POINTS).is_ok();
    let (every, mut killed) = (if exhaustive { whole / 200 } else { whole / 8 }, 0);
    for kill in (1..whole).step_by(every) {
        let life = live("process", Some(kill));
        // Checkpoints come when their thread gets to them: a life may have a few calls less.
        if life.status.success() {
            continue;
        }
        assert_eq!(life.status.signal(), Some(9), "{:?}", life.status);
        killed += 1;
        let mut disk = Disk::empty(&life.root, None);
        life.calls.iter().for_each(|call| disk.apply(call));
        assert!(is_laid_out(&disk.found(Unsynced::Kept), &life.root), "killed before call {kill}");
        let acknowledged = life.calls.iter().filter(|call| matches!(call, Call::Mark)).count();
        let engine = open(&life.root.join("data"), Durability::Process).unwrap();
        let found = Found::default().judge(&block_on(read(&engine)), &states, acknowledged, true);
        found.unwrap_or_else(|what| panic!("killed before call {kill}\n{what}"));
    }
    eprintln!("{killed} processes killed at one of {whole} calls");
    assert!(killed > 5, "{killed} processes were killed");
}
