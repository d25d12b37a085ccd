//! A storm: blocks of several chains are submitted to real processes, which are killed, frozen, cut off from each other and left without
//! room, for as long as one likes; then it is calm, and everything submitted has to become final. [`audit`](super::audit) is the judge.
//!
//! Processes are started again whatever they ended of, as systemd would. The faults are drawn from a seed ([`faults`](super::faults)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::audit::{Auditor, Block, Sums};
use super::faults::{Fault, Faults, Kind, Tally, Victim};
use super::ground::{Ground, Role, Site, Spec, shapes};
use super::installation::{children_of, is_running, signal, tree_of};
use super::link::Link;

pub struct Settings {
    pub seed: u64,
    /// How long the faults go on,
    pub length: Duration,
    /// and until there were so many kills and freezes.
    pub least: u64,
    /// Between two faults, in the mean.
    pub gap: Duration,
    /// How long the calm may take until everything is final.
    pub patience: Duration,
}

/// What it came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub tally: Tally,
    pub sums: Sums,
    /// Blocks handed to the consumer once more.
    pub again: u64,
    pub losses: Vec<(String, u64)>,
    pub violations: Vec<String>,
    /// What ended though nobody killed it: name and status, and how often.
    pub endings: BTreeMap<String, u64>,
    /// From the end of the faults until everything was final.
    pub calm: Duration,
    /// What was kept of a storm that nobody survived.
    pub kept: Option<PathBuf>,
}

impl Outcome {
    pub fn is_good(&self) -> bool {
        self.losses.is_empty() && self.violations.is_empty()
    }
}

pub const COLUMNS: &str = "  minute ground    kills server  tree worker prover  tail freezes restarts  cuts  full  emul submitted  final again  lost wrong";

/// A line of the table whose head is [`COLUMNS`].
pub fn row(
    ground: Ground,
    minutes: f64,
    tally: &Tally,
    sums: Sums,
    again: u64,
    lost: Option<usize>,
    wrong: usize,
) -> String {
    let kill = |victim| tally.of(Kind::Kill(victim));
    format!(
        "{minutes:8.1} {:<9} {:5} {:6} {:5} {:6} {:6} {:5} {:7} {:8} {:5} {:5} {:5} {:9} {:6} {:5} {:>5} {wrong:5}",
        ground.name(),
        tally.kills(),
        kill(Victim::Server),
        kill(Victim::Tree),
        kill(Victim::Worker),
        kill(Victim::Prover),
        kill(Victim::Consumer),
        tally.freezes(),
        tally.restarts,
        tally.cuts(),
        tally.of(Kind::FullDisk),
        tally.of(Kind::RestartEmulator),
        sums.submitted,
        sums.proven,
        again,
        // Before the end nobody knows.
        lost.map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
    )
}

/// A process that is kept running.
struct Process {
    spec: Spec,
    link: Option<Link>,
    child: Option<Child>,
    /// Killed by the storm: its end says nothing.
    is_killed: bool,
    /// When it is started again.
    due: Instant,
    starts: u32,
}

/// What ends a fault.
enum End {
    GoOn(Vec<u32>),
    Mend(usize),
    Free,
}

struct Storm<'s> {
    ground: Ground,
    site: &'s Site,
    auditor: &'s Mutex<Auditor>,
    processes: Vec<Process>,
    ends: Vec<(Instant, End)>,
    /// While set the disk is filled up again and again; when it was last.
    filled: Option<Instant>,
    tally: Tally,
    endings: BTreeMap<String, u64>,
    stream: Stream,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a storm; `tell` is given a line of the table each minute, and what went wrong as soon as it is known. `stop` ends it early.
pub fn run(ground: Ground, settings: &Settings, stop: &AtomicBool, tell: &(dyn Fn(String) + Sync)) -> Outcome {
    let site = Site::new(ground);
    let auditor = Mutex::new(Auditor::new(shapes()));
    fs::create_dir_all(site.path("blocks")).expect("the directory is writable");
    if ground == Ground::Disk && site.disk().is_none() {
        tell("disk: no full disk in this storm".to_owned());
    }
    let mut storm = Storm::new(ground, &site, &auditor);
    let (is_calm, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| submit(settings, &site, &auditor, &is_calm, &is_over));
        scope.spawn(|| fetch(&site, &auditor, &is_over));
        // Whatever becomes of the storm, the other two end with it.
        let _ending = [Set(&is_calm), Set(&is_over)];
        storm.rage(settings, stop, &is_calm, tell)
    })
}

struct Set<'f>(&'f AtomicBool);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'s> Storm<'s> {
    fn new(ground: Ground, site: &'s Site, auditor: &'s Mutex<Auditor>) -> Self {
        let (target, stream) = (site.target(), Stream::new(site.path("")));
        let process = |spec: Spec| {
            let link = spec.is_linked.then(|| Link::to(&target));
            Process { spec, link, child: None, is_killed: true, due: Instant::now(), starts: 0 }
        };
        let processes = site.specs().into_iter().map(process).collect();
        let (tally, endings) = (Tally::default(), BTreeMap::new());
        Self { ground, site, auditor, processes, ends: Vec::new(), filled: None, tally, endings, stream }
    }

    fn rage(&mut self, settings: &Settings, stop: &AtomicBool, is_calm: &AtomicBool, tell: &dyn Fn(String)) -> Outcome {
        let began = Instant::now();
        let mut faults = Faults::new(settings.seed, self.ground, self.ground.lease(), settings.gap);
        let mut next = faults.next().expect("faults do not end");
        let mut due = began + next.after;
        let (mut minutes, mut told) = (1, 0);
        let is_enough = |tally: &Tally| tally.kills() + tally.freezes() >= settings.least;
        while (began.elapsed() < settings.length || !is_enough(&self.tally)) && !stop.load(Ordering::Relaxed) {
            self.turn();
            if Instant::now() >= due {
                self.inflict(&next);
                next = faults.next().expect("faults do not end");
                due = Instant::now() + next.after;
            }
            told = self.tell_violations(told, tell);
            if began.elapsed() >= Duration::from_secs(60) * minutes {
                tell(self.row(began, None));
                minutes += 1;
            }
        }
        let calmed = Instant::now();
        self.calm();
        is_calm.store(true, Ordering::Relaxed);
        let is_done = |auditor: &Auditor| {
            let sums = auditor.sums();
            sums.accepted >= sums.submitted && sums.proven >= sums.submitted
        };
        // The submitter may be about to submit its last ones.
        let mut quiet_since = Instant::now();
        while calmed.elapsed() < settings.patience && quiet_since.elapsed() < Duration::from_secs(3) {
            self.turn();
            told = self.tell_violations(told, tell);
            if !is_done(&lock(self.auditor)) {
                quiet_since = Instant::now();
            }
        }
        let calm = calmed.elapsed();
        self.compare();
        self.wait_for_rest(calmed + settings.patience);
        self.tell_violations(told, tell);
        let outcome = self.outcome(calm);
        tell(self.row(began, Some(outcome.losses.len())));
        outcome
    }

    fn row(&self, began: Instant, lost: Option<usize>) -> String {
        let auditor = lock(self.auditor);
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        row(self.ground, minutes, &self.tally, auditor.sums(), auditor.again, lost, auditor.violations.len())
    }

    fn tell_violations(&self, told: usize, tell: &dyn Fn(String)) -> usize {
        let auditor = lock(self.auditor);
        auditor.violations[told..]
            .iter()
            .for_each(|violation| tell(format!("{}: WRONG: {violation}", self.ground.name())));
        auditor.violations.len()
    }

    /// What is always done: keep processes running, end faults whose time is over, read what the consumer was handed.
    fn turn(&mut self) {
        self.supervise();
        let now = Instant::now();
        let (over, going_on) = std::mem::take(&mut self.ends).into_iter().partition(|(at, _)| *at <= now);
        self.ends = going_on;
        let over: Vec<(Instant, End)> = over;
        over.into_iter().for_each(|(_, end)| self.end(end));
        if self.filled.is_some_and(|filled| filled.elapsed() > Duration::from_millis(300)) {
            self.fill();
        }
        let tail = self.processes.iter().find(|process| process.spec.role == Role::Consumer);
        let starts = tail.map_or(0, |tail| tail.starts);
        self.stream.read(starts, &mut lock(self.auditor));
        thread::sleep(Duration::from_millis(50));
    }

    fn supervise(&mut self) {
        for process in &mut self.processes {
            if let Some(child) = &mut process.child
                && let Ok(Some(status)) = child.try_wait()
            {
                process.child = None;
                if !process.is_killed {
                    *self.endings.entry(format!("{}: {status}", process.spec.name)).or_default() += 1;
                    process.due = Instant::now() + Duration::from_millis(500);
                }
                self.tally.restarts += 1;
            }
            if process.child.is_none() && process.due <= Instant::now() {
                let log = self.site.path(&format!("{}.log", process.spec.name));
                let log = File::options().create(true).append(true).open(log).expect("the directory is writable");
                let mut command = self.site.process(&process.spec, process.link.as_ref());
                process.starts += 1;
                match process.spec.role {
                    Role::Consumer => command
                        .stdout(File::create(self.stream.file(process.starts)).expect("the directory is writable")),
                    Role::Server | Role::Worker => command.stdout(Stdio::null()),
                };
                process.child = Some(command.stderr(log).spawn().expect("push0 starts"));
                process.is_killed = false;
            }
        }
    }

    /// Running processes of a role: where in the list, and their ids.
    fn running(&self, role: Role) -> Vec<(usize, u32)> {
        let of_role = self.processes.iter().enumerate().filter(|(_, process)| process.spec.role == role);
        of_role.filter_map(|(at, process)| Some((at, process.child.as_ref()?.id()))).collect()
    }

    /// Workers, also those that `up` has started.
    fn workers(&self) -> Vec<u32> {
        let mut workers: Vec<u32> = self.running(Role::Worker).iter().map(|(_, pid)| *pid).collect();
        if self.ground == Ground::Disk {
            workers.extend(self.running(Role::Server).iter().flat_map(|(_, up)| children_of(*up)));
        }
        workers.into_iter().filter(|pid| is_running(*pid)).collect()
    }

    /// Processes that a fault can hit. A worker or a server stands for itself: what it started is told by its end.
    fn victims(&self, victim: Victim) -> Vec<u32> {
        let pids = |running: Vec<(usize, u32)>| running.into_iter().map(|(_, pid)| pid).collect();
        match victim {
            Victim::Server | Victim::Tree => pids(self.running(Role::Server)),
            Victim::Consumer => pids(self.running(Role::Consumer)),
            Victim::Worker => self.workers(),
            Victim::Prover => self.workers().into_iter().flat_map(children_of).collect(),
            Victim::Emulator => self.site.emulator().into_iter().collect(),
        }
    }

    /// Does it, and counts it if there was something to do it to.
    fn inflict(&mut self, fault: &Fault) {
        let until = Instant::now() + fault.length;
        let is_done = match fault.kind {
            Kind::Kill(victim) => self.pick(victim, fault.which).is_some_and(|pid| self.kill(victim, pid, fault.which)),
            Kind::Freeze(victim) => self.pick(victim, fault.which).is_some_and(|pid| {
                // Alone, or with everything it started.
                let frozen = if fault.which.is_multiple_of(2) { vec![pid] } else { tree_of(pid) };
                frozen.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
                self.ends.push((until, End::GoOn(frozen)));
                true
            }),
            Kind::Cut(how) => {
                let linked: Vec<usize> =
                    (0..self.processes.len()).filter(|at| self.processes[*at].link.is_some()).collect();
                let at = linked[fault.which % linked.len()];
                if let Some(link) = &self.processes[at].link {
                    link.cut(how);
                }
                self.ends.push((until, End::Mend(at)));
                true
            }
            Kind::FullDisk => {
                let is_possible = self.site.disk().is_some() && self.filled.is_none();
                if is_possible {
                    self.fill();
                    self.ends.push((until, End::Free));
                }
                is_possible
            }
            Kind::RestartEmulator => self.site.restart_emulator(),
        };
        if is_done {
            self.tally.count(fault.kind);
        }
    }

    fn fill(&mut self) {
        if let Some(disk) = self.site.disk() {
            disk.fill();
        }
        self.filled = Some(Instant::now());
    }

    fn pick(&self, victim: Victim, which: usize) -> Option<u32> {
        let victims = self.victims(victim);
        victims.get(which % victims.len().max(1)).copied()
    }

    fn kill(&mut self, victim: Victim, pid: u32, which: usize) -> bool {
        let killed = if victim == Victim::Tree { tree_of(pid) } else { vec![pid] };
        let own =
            self.processes.iter_mut().find(|process| process.child.as_ref().is_some_and(|child| child.id() == pid));
        if let Some(process) = own {
            process.is_killed = true;
            // At once, or a moment later.
            process.due = Instant::now() + Duration::from_millis(which as u64 / 7 % 1_500);
        }
        killed.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
        true
    }

    fn end(&mut self, end: End) {
        match end {
            End::GoOn(pids) => pids.into_iter().for_each(|pid| signal(pid, Signal::SIGCONT)),
            End::Mend(at) => {
                if let Some(link) = &self.processes[at].link {
                    link.mend();
                }
            }
            End::Free => {
                self.filled = None;
                if let Some(disk) = self.site.disk() {
                    disk.free();
                }
            }
        }
    }

    /// Ends all faults.
    fn calm(&mut self) {
        let ends = std::mem::take(&mut self.ends);
        ends.into_iter().for_each(|(_, end)| self.end(end));
    }

    /// Holds the stream that push0 keeps against the one that was handed on.
    fn compare(&self) {
        for (chain, _) in shapes() {
            let command = self.site.command(&["finalized", &chain]).output();
            let lines = command.map(|output| output.stdout).unwrap_or_default();
            lock(self.auditor).whole(&chain, &String::from_utf8_lossy(&lines));
        }
    }

    /// Until nothing goes on any more: no task, no report, no letter is left. Timers of what is over may still be on their way, and what a
    /// killed consumer had in hand comes again.
    fn wait_for_rest(&mut self, until: Instant) {
        let mut left = self.left();
        while !left.is_empty() && Instant::now() < until {
            self.turn();
            left = self.left();
        }
        if !left.is_empty() {
            lock(self.auditor).violations.push(format!("messages are left though everything is final: {left:?}"));
        }
    }

    fn left(&self) -> Vec<String> {
        let status = self.site.command(&["--json", "status"]).output().map(|output| output.stdout).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        let Some(queues) = status["queues"].as_object() else { return vec!["no status".to_owned()] };
        let holds = |queue: &Value| ["visible", "in_flight", "delayed"].iter().any(|of| queue[of].as_u64() != Some(0));
        let named = |name: &str| !name.starts_with("timers") && !name.starts_with("finalized");
        queues.iter().filter(|(name, queue)| named(name) && holds(queue)).map(|(name, _)| name.clone()).collect()
    }

    fn outcome(&self, calm: Duration) -> Outcome {
        let auditor = lock(self.auditor);
        let mut outcome = Outcome {
            tally: self.tally.clone(),
            sums: auditor.sums(),
            again: auditor.again,
            losses: auditor.losses(),
            violations: auditor.violations.clone(),
            endings: self.endings.clone(),
            calm,
            kept: None,
        };
        if !outcome.is_good() {
            outcome.kept = self.keep(&outcome.losses);
        }
        outcome
    }

    /// Copies what a person looks at afterwards: logs, rows, and what push0 says of blocks that are missing.
    fn keep(&self, losses: &[(String, u64)]) -> Option<PathBuf> {
        let site = self.site;
        let kept = tempfile::Builder::new().prefix("p0-storm").tempdir().ok()?.keep();
        for (chain, number) in losses.iter().take(10) {
            let why = site.command(&["--json", "why", chain, &number.to_string()]).output().ok()?;
            let _ = fs::write(kept.join(format!("why-{chain}-{number}")), [why.stdout, why.stderr].concat());
        }
        for what in [vec!["--json", "status"], vec!["dlq", "list"]] {
            let said = site.command(&what).output().ok()?;
            let _ = fs::write(kept.join(what.join("")), [said.stdout, said.stderr].concat());
        }
        let entries = fs::read_dir(site.path("")).ok()?.flatten().map(|entry| entry.path());
        for file in entries.filter(|path| path.is_file()) {
            let _ = fs::copy(&file, kept.join(file.file_name()?));
        }
        let _ = fs::copy(site.path("data/engine.db"), kept.join("engine.db"));
        let _ = fs::copy(site.path("data/engine.db-wal"), kept.join("engine.db-wal"));
        Some(kept)
    }
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        self.calm();
        for child in self.processes.iter_mut().filter_map(|process| process.child.as_mut()) {
            tree_of(child.id()).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
            let _ = child.wait();
        }
    }
}

/// What the consumers printed, one file for each that was started.
struct Stream {
    directory: PathBuf,
    /// The one that is being read, how far, and what is no whole line yet.
    current: u32,
    offset: u64,
    part: String,
}

impl Stream {
    fn new(directory: PathBuf) -> Self {
        Self { directory, current: 1, offset: 0, part: String::new() }
    }

    fn file(&self, number: u32) -> PathBuf {
        self.directory.join(format!("finalized-{number}"))
    }

    /// Reads on, up to the file of the consumer started last.
    fn read(&mut self, last: u32, auditor: &mut Auditor) {
        while self.current <= last {
            if let Ok(mut file) = File::open(self.file(self.current)) {
                let mut text = String::new();
                let read = file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.read_to_string(&mut text));
                self.offset += read.unwrap_or(0) as u64;
                self.part += &text;
                while let Some(end) = self.part.find('\n') {
                    auditor.line(&self.part[..end]);
                    self.part.drain(..=end);
                }
            }
            if self.current == last {
                return;
            }
            // A consumer that was killed in the middle of a line had not remembered it: it comes again.
            self.part.clear();
            (self.current, self.offset) = (self.current + 1, 0);
        }
    }
}

/// Writes a block's witness and submission.
fn block(site: &Site, seed: u64, chain: &str, number: u64, dice: &mut ChaCha8Rng) -> (Block, PathBuf, PathBuf) {
    let hash = |number: u64| hex(&Sha256::digest(format!("{seed} {chain} {number}")));
    let (own, parent) = (hash(number), hash(number - 1));
    let segments = [1, 2, 3, 5, 8, 13, 21][dice.random_range(0..7)];
    let salt = "x".repeat(dice.random_range(0..2_000));
    let witness = json!({ "segments": segments, "hash": own, "parent_hash": parent, "salt": salt }).to_string();
    let submission = json!({
        "chain": chain, "number": number, "hash": own, "parent_hash": parent, "witness": format!("{chain}-{number}.witness"),
    });
    let file = site.path(&format!("blocks/{chain}-{number}.json"));
    let of_witness = site.path(&format!("blocks/{chain}-{number}.witness"));
    fs::write(&of_witness, &witness).expect("the directory is writable");
    fs::write(&file, submission.to_string()).expect("the directory is writable");
    let witness = hex(&Sha256::digest(&witness));
    (Block { chain: chain.to_owned(), number, hash: own, parent, segments, witness }, file, of_witness)
}

/// Keeps so many blocks of each chain before push0 until it is calm: a few at a time, in any order, some announced twice. What is refused
/// or left open is submitted again until it is taken.
fn submit(settings: &Settings, site: &Site, auditor: &Mutex<Auditor>, is_calm: &AtomicBool, is_over: &AtomicBool) {
    let mut dice = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut next: BTreeMap<String, u64> = shapes().into_iter().map(|(chain, _)| (chain, 1)).collect();
    while !is_calm.load(Ordering::Relaxed) {
        let mut is_idle = true;
        for (chain, number) in &mut next {
            let size = dice.random_range(1..=4);
            if lock(auditor).open(chain) + size > site.ground().backlog() {
                continue;
            }
            is_idle = false;
            let mut batch: Vec<_> = {
                (*number..*number + size).map(|number| block(site, settings.seed, chain, number, &mut dice)).collect()
            };
            *number += size;
            batch.iter().for_each(|(block, ..)| lock(auditor).submitting(block.clone()));
            for position in (1..batch.len()).rev() {
                batch.swap(position, dice.random_range(0..=position));
            }
            let times = if dice.random_ratio(1, 6) { 2 } else { 1 };
            for (block, file, witness) in batch {
                let is_upload = dice.random_ratio(1, 3);
                for _ in 0..times {
                    until_taken(site, &block, &file, is_upload.then_some(&witness), is_over);
                }
                if !is_over.load(Ordering::Relaxed) {
                    lock(auditor).accepted(chain, 1);
                }
            }
        }
        if is_idle {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn until_taken(site: &Site, block: &Block, file: &PathBuf, upload: Option<&PathBuf>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let uploaded = upload.and_then(|witness| site.upload(&block.chain, block.number, &block.hash, witness));
        let is_taken = match uploaded {
            Some(uploaded) => uploaded.is_ok(),
            None => {
                let mut command = site.command(&["submit", "--no-wait"]);
                command.arg(file).output().is_ok_and(|output| output.status.success())
            }
        };
        if is_taken {
            return;
        }
        thread::sleep(Duration::from_millis(300));
    }
}

/// Fetches the proofs that the stream names, and has them judged.
fn fetch(site: &Site, auditor: &Mutex<Auditor>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let named = lock(auditor).to_fetch.front().cloned();
        let Some(named) = named else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let mut command = site.command(&["get", &named.key, "-o", "-"]);
        let fetched = command.stdin(Stdio::null()).output();
        let mut auditor = lock(auditor);
        auditor.to_fetch.pop_front();
        match fetched {
            Ok(output) if output.status.success() => auditor.proof(&named, &output.stdout),
            // push0 may be down: later again.
            _ => {
                auditor.to_fetch.push_back(named);
                drop(auditor);
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
