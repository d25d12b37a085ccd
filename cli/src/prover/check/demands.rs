//! The checks, and the order in which they are made: what a session says first, an honest run, a block that is not what it should be,
//! then how the prover behaves among others.

mod lies;
mod manners;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use push0_core::pipeline::{EXECUTABLE, Form, Kind};
use push0_core::{ErrorCode, Node, ProverName, Sha256};
use push0_gpu_worker::prover::{Output as Made, executable_digest};
use push0_gpu_worker::{Data, Limits};
use push0_prover::wire;

use super::course::{Course, Pieces, Ran};
use super::lookout::Lookout;
use super::report::{Finding, Grade, Report};
use super::subject::{Given, Subject};

/// All checks, by name. Those of a stage have its name behind theirs.
pub(super) const CHECKS: [&str; 23] = [
    "hello",
    "stages",
    "programs",
    "stdout",
    "in-turn",
    "split",
    "map",
    "join",
    "single",
    "verify",
    "plain-files",
    "one-session",
    "wrong-proof",
    "wrong-block",
    "damaged-input",
    "accused",
    "unknown-fields",
    "unknown-stage",
    "spaces",
    "two-at-once",
    "cancel",
    "inputs-untouched",
    "end-of-stdin",
];

/// The largest header that push0 takes, bytes.
const MAX_HEADER: usize = 64 * 1024;

/// What a check came to; the text is for people.
pub(super) enum Found {
    Pass(String),
    Fail(String),
    Skip(String),
}

use Found::{Fail, Pass, Skip};

/// Judges one prover.
pub(super) struct Judge<'s> {
    subject: &'s Subject,
    name: &'s ProverName,
    form: Form,
    given: Option<&'s Given>,
    skipped: &'s [String],
    limits: &'s Limits,
    course: Course<'s>,
    findings: Vec<Finding>,
    /// What was made honestly, as it was then.
    digests: BTreeMap<PathBuf, Sha256>,
    /// Why the honest run was broken off, by the check that it breaks.
    broken: Option<(&'static str, String)>,
    dir: PathBuf,
}

impl<'s> Judge<'s> {
    pub(super) fn new(
        subject: &'s Subject,
        name: &'s ProverName,
        dir: &Path,
        limits: &'s Limits,
        skipped: &'s [String],
    ) -> anyhow::Result<Self> {
        let form = subject.file.provers[name].form;
        let given = subject.given.as_ref();
        let course = Course::new(&subject.file, given, dir, limits)?;
        let (findings, digests) = (Vec::new(), BTreeMap::new());
        let dir = dir.to_owned();
        Ok(Self { subject, name, form, given, skipped, limits, course, findings, digests, broken: None, dir })
    }

    pub(super) async fn report(mut self) -> anyhow::Result<Report> {
        let is_sound = self.introduction().await?;
        if !is_sound {
            self.leave_out("it does not get that far");
        } else if self.given.is_none() {
            self.leave_out("no block to prove: give one with --block FILE.json");
        } else {
            self.honest_run().await?;
            if self.broken.is_some() {
                self.leave_out("the honest run broke off");
            } else {
                self.lies().await?;
                self.manners().await?;
            }
        }
        self.said_in_all();
        self.farewell().await?;
        self.course.close().await;

        let lookout = self.course.lookout(self.name);
        let hello = lookout.hello();
        let programs = self.subject.pinnable(self.name, hello.as_ref()).await.unwrap_or_default();
        let peak_mib = lookout.peak_mib();
        let stages = self.course.costs(self.name);
        let order = |finding: &Finding| {
            let kind = finding.check.split(' ').next().unwrap_or_default();
            CHECKS.iter().position(|known| *known == kind)
        };
        self.findings.sort_by_key(order);
        let conformant = self.findings.iter().all(|finding| finding.grade != Grade::Fail);
        Ok(Report {
            prover: self.name.to_string(),
            form: self.form,
            name: hello.as_ref().map(|hello| format!("{} {}", hello.name, hello.version)),
            device: hello.map(|hello| hello.device),
            findings: self.findings,
            stages,
            peak_mib,
            programs,
            conformant,
        })
    }

    fn lookout(&self) -> &Lookout {
        self.course.lookout(self.name)
    }

    fn note(&mut self, check: impl Into<String>, found: Found) {
        let check = check.into();
        let kind = check.split(' ').next().unwrap_or_default();
        let (grade, detail) = match found {
            _ if self.skipped.iter().any(|skipped| skipped == kind) => (Grade::Skip, "left out".to_owned()),
            Pass(detail) => (Grade::Pass, detail),
            Fail(detail) => (Grade::Fail, detail),
            Skip(detail) => (Grade::Skip, detail),
        };
        self.findings.push(Finding { check, grade, detail });
    }

    /// Whether a check is to be made at all; one that is not is noted.
    fn wants(&mut self, check: &str) -> bool {
        let kind = check.split(' ').next().unwrap_or_default();
        let is_wanted = !self.skipped.iter().any(|skipped| skipped == kind);
        if !is_wanted {
            self.note(check, Skip(String::new()));
        }
        is_wanted
    }

    /// The stages that this prover runs, by position.
    fn own_stages(&self) -> Vec<u16> {
        let stages = 0..=self.course.pipeline().verify_position();
        stages.filter(|at| self.course.pipeline().stage(*at).prover == *self.name).collect()
    }

    /// The name of the check of a stage: `map prove`.
    fn of_stage(&self, position: u16) -> String {
        let stage = self.course.pipeline().stage(position);
        format!("{} {}", stage.kind.as_str(), stage.name)
    }

    /// Notes all that is not noted yet, and that other words than `why` do not fit better.
    fn leave_out(&mut self, why: &str) {
        let noted: BTreeSet<String> = self.findings.iter().map(|finding| finding.check.clone()).collect();
        let stages = self.own_stages().into_iter().map(|at| self.of_stage(at));
        let later = ["wrong-proof", "wrong-block", "damaged-input", "unknown-fields", "spaces", "two-at-once"];
        let mut all: Vec<String> = stages.chain(later.map(str::to_owned)).collect();
        match self.form {
            Form::Session => all.extend(["one-session", "cancel"].map(str::to_owned)),
            Form::Exec => all.push("unknown-stage".to_owned()),
        }
        for check in all.into_iter().filter(|check| !noted.contains(check)) {
            self.note(check, Skip(why.to_owned()));
        }
    }

    /// What a session says of itself before its first task. False: it cannot be given one.
    async fn introduction(&mut self) -> anyhow::Result<bool> {
        if self.form == Form::Session {
            let file = &self.subject.file;
            let silence = self.course.hand(self.name).greet(file, self.name).await?;
            let hello = self.lookout().hello();
            let rubbish = self.lookout().rubbish();
            let found = match (&hello, rubbish, silence) {
                (Some(hello), _, _) if hello.protocol != wire::PROTOCOL_VERSION => {
                    Fail(format!("it speaks protocol {}, not {}", hello.protocol, wire::PROTOCOL_VERSION))
                }
                (Some(hello), _, _) => Pass(format!("{} {}", hello.name, hello.version)),
                (None, Some(_), _) => Skip("what it says first is no message: see stdout".to_owned()),
                (None, None, silence) => Fail(silence.unwrap_or_else(|| "it said nothing".to_owned())),
            };
            self.note("hello", found);
            let Some(hello) = hello else { return Ok(false) };
            let missing: Vec<String> = self
                .own_stages()
                .into_iter()
                .filter(|at| !self.is_offered(&hello, *at))
                .map(|at| self.of_stage(at))
                .collect();
            self.note(
                "stages",
                match missing.is_empty() {
                    true => Pass(format!("it offers all {} stages", self.own_stages().len())),
                    false => Fail(format!("`hello` does not offer {}", missing.join(", "))),
                },
            );
        }
        let programs = self.programs().await;
        self.note("programs", programs);
        Ok(self.findings.iter().all(|finding| finding.grade != Grade::Fail))
    }

    fn is_offered(&self, hello: &wire::Hello, position: u16) -> bool {
        let stage = self.course.pipeline().stage(position);
        let is_it = |offer: &wire::StageOffer| {
            let kind = serde_json::to_value(offer.kind).ok();
            offer.name == stage.name.as_str() && kind == serde_json::to_value(stage.kind).ok()
        };
        hello.stages.iter().any(is_it)
    }

    /// The digests a prover names are digests, and those that the pipeline pins.
    async fn programs(&self) -> Found {
        let hello = self.lookout().hello();
        let said = hello.map(|hello| hello.programs).unwrap_or_default();
        if let Some((name, digest)) =
            said.iter().find(|(_, digest)| digest.parse::<Sha256>().is_err() || digest.len() != 64)
        {
            return Fail(format!("the digest of {name} is {digest:?}, not 64 hex digits"));
        }
        let pinned = self.course.pipeline().programs.get(self.name).cloned().unwrap_or_default();
        for (name, pinned) in &pinned {
            let found = match (name.as_str(), self.subject.file.provers.get(self.name)) {
                (EXECUTABLE, Some(command)) => match executable_digest(command).await {
                    Ok(digest) => Some(digest.to_string()),
                    Err(why) => return Fail(why),
                },
                _ => said.get(name).map(|digest| digest.to_ascii_lowercase()),
            };
            if found.as_deref() != Some(&pinned.to_string()) {
                let found = found.as_deref().unwrap_or("none of that name");
                return Fail(format!(
                    "the pipeline pins {name} as {pinned}, but here it is {found}; --pin writes the new one"
                ));
            }
        }
        match (said.len(), pinned.len()) {
            (0, 0) => Pass("it names none, and none is pinned".to_owned()),
            (said, pinned) => Pass(format!("{said} named, {pinned} pinned")),
        }
    }

    /// Every task of the block, in order, and the verdict.
    async fn honest_run(&mut self) -> anyhow::Result<()> {
        let witness = self.course.witness.clone();
        self.keep(witness.clone())?;
        let ran = self.course.run(Node::SPLIT, &[witness]).await?;
        let found = self.split_found(ran)?;
        self.stage_found(0, found);
        let mut position = 1;
        while self.broken.is_none() && position < self.course.pipeline().verify_position() {
            let found = self.stage(position).await?;
            self.stage_found(position, found);
            position += 1;
        }
        if self.broken.is_none() {
            let node = self.course.verify_node();
            let inputs = self.course.inputs(node).unwrap_or_default();
            let ran = self.course.run(node, &inputs).await?;
            let found = match super::course::verdict(&ran) {
                Ok((push0_core::record::Verdict::Ok, _)) => Pass("ok for the honest proof".to_owned()),
                Ok((verdict, message)) => Fail(format!("{verdict:?} for the honest proof: {message}")),
                Err(why) => Fail(why),
            };
            self.stage_found(position, found);
        }
        if self.form == Form::Session {
            let found = match (self.lookout().started(), &self.broken) {
                (_, Some(("one-session", _))) => {
                    Fail("it exits after a task instead of waiting for the next".to_owned())
                }
                (_, Some(_)) => return Ok(()),
                (1, None) => Pass("it proved all of it without a restart".to_owned()),
                (times, None) => Fail(format!("it had to be started {times} times for one block's tasks")),
            };
            self.note("one-session", found);
        }
        Ok(())
    }

    /// Notes the finding of a stage; a failure breaks the honest run off, and may be another check's.
    fn stage_found(&mut self, position: u16, found: Found) {
        let Fail(why) = &found else { return self.note(self.of_stage(position), found) };
        let lookout = self.lookout();
        let check = if lookout.rubbish().is_some() {
            "stdout"
        } else if lookout.out_of_turn().is_some() {
            "in-turn"
        } else if ErrorCode::find(why) == Some(ErrorCode::OutputEscapes) {
            "plain-files"
        } else if lookout.walked_out() {
            "one-session"
        } else {
            ""
        };
        self.broken = Some((check, why.clone()));
        let found = if check.is_empty() { found } else { Skip(format!("broken off: see {check}")) };
        self.note(self.of_stage(position), found);
    }

    fn split_found(&mut self, ran: Ran) -> anyhow::Result<Found> {
        let Some(given) = self.given else { return Ok(Skip("no block".to_owned())) };
        let (segments, header, hash, parent_hash) = match ran {
            Ran::Made(Made::Split { segments, header, hash, parent_hash }) => (segments, header, hash, parent_hash),
            ran => return Ok(Fail(ran.file().err().unwrap_or_default())),
        };
        let file = |data: Data| match data {
            Data::File(path) => Some(path),
            Data::Memory(_) => None,
        };
        let segments: Vec<PathBuf> = segments.into_iter().filter_map(file).collect();
        let Some(header) = file(header) else { return Ok(Fail("its header is no file".to_owned())) };
        if segments.is_empty() {
            return Ok(Fail("it made no segments: a block has at least one".to_owned()));
        }
        let size = header.metadata()?.len();
        if size > MAX_HEADER as u64 {
            return Ok(Fail(format!("its header has {size} bytes, more than {MAX_HEADER}")));
        }
        if hash != given.block.hash {
            return Ok(Fail(format!(
                "it says that the header's hash is {hash}, but the block's is {}",
                given.block.hash
            )));
        }
        if let (Some(said), Some(known)) = (parent_hash, given.parent_hash)
            && said != known
        {
            return Ok(Fail(format!("it says that the parent is {said}, but the submission says {known}")));
        }
        let listed = segments[0].parent().map_or(0, |dir| dir.read_dir().map_or(0, Iterator::count));
        if listed != segments.len() {
            let what =
                format!("it says {} segments, but its directory `segments` has {listed} entries", segments.len());
            return Ok(Fail(what));
        }
        for path in segments.iter().chain([&header]) {
            self.keep(path.clone())?;
        }
        let count = segments.len();
        self.course.pieces = Some(Pieces { segments, header });
        if self.course.plan().is_none() {
            return Ok(Fail(format!("it made {count} segments, which this pipeline cannot join")));
        }
        Ok(Pass(format!("{}, a header of {size} bytes", counted(count, "segment"))))
    }

    /// All tasks of a stage between `split` and `verify`.
    async fn stage(&mut self, position: u16) -> anyhow::Result<Found> {
        let nodes = self.course.plan().map(|plan| plan.nodes_of(position)).unwrap_or_default();
        let mut sizes = BTreeSet::new();
        for node in &nodes {
            let inputs = self.course.inputs(*node).unwrap_or_default();
            sizes.insert(inputs.len() as u32);
            match self.course.run(*node, &inputs).await?.file() {
                Ok(path) => {
                    self.keep(path.clone())?;
                    self.course.artifacts.insert(*node, path);
                }
                Err(why) => return Ok(Fail(format!("task {node}: {why}"))),
            }
        }
        if self.course.pipeline().stage(position).kind == Kind::Join {
            return self.join_sizes(position, nodes.len(), sizes).await;
        }
        Ok(Pass(counted(nodes.len(), "task")))
    }

    /// Joins of the sizes that the pipeline can ask for and this block does not.
    async fn join_sizes(&mut self, position: u16, count: usize, mut sizes: BTreeSet<u32>) -> anyhow::Result<Found> {
        let arity = self.course.pipeline().stage(position).arity;
        let wanted: BTreeSet<u32> = arity.iter().flat_map(|arity| [2, arity.first, arity.rest]).collect();
        let plan = self.course.plan();
        let leaves = plan.map(|plan| plan.nodes_of(position - 1)).unwrap_or_default();
        let mut untried = Vec::new();
        for size in wanted.difference(&sizes.clone()).copied() {
            let inputs: Vec<PathBuf> =
                leaves.iter().take(size as usize).filter_map(|leaf| self.course.artifacts.get(leaf).cloned()).collect();
            if inputs.len() < size as usize {
                untried.push(size);
                continue;
            }
            if let Err(why) = self.course.run(Node::new(position, 0, 0), &inputs).await?.file() {
                return Ok(Fail(format!("a join of {size}: {why}")));
            }
            sizes.insert(size);
        }
        let list = |sizes: &[u32]| sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let untried = match untried.is_empty() {
            true => String::new(),
            false => format!("; not tried, for want of segments: {}", list(&untried)),
        };
        if sizes.is_empty() {
            return Ok(Skip(format!("the block has one segment: nothing is joined{untried}")));
        }
        let sizes: Vec<u32> = sizes.into_iter().collect();
        Ok(Pass(format!("{}; sizes tried: {}{untried}", counted(count, "task"), list(&sizes))))
    }

    /// Remembers a file as it is.
    fn keep(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let digest = Sha256::of(&std::fs::read(&path)?);
        self.digests.insert(path, digest);
        Ok(())
    }

    /// What can only be said when all was seen.
    fn said_in_all(&mut self) {
        let broken = self.broken.clone();
        if self.form == Form::Session {
            let found = match self.lookout().rubbish() {
                Some(rubbish) => Fail(format!("not a message: {rubbish}")),
                None => Pass("messages, and nothing else".to_owned()),
            };
            self.note("stdout", found);
            let found = match self.lookout().out_of_turn() {
                Some(what) => Fail(what),
                None => Pass("`hello` once; progress and answers for the task in hand".to_owned()),
            };
            self.note("in-turn", found);
        }
        if self.digests.is_empty() {
            return;
        }
        let found = match broken {
            Some(("plain-files", why)) => Fail(why),
            _ => Pass("every output is a plain file of its own directory".to_owned()),
        };
        self.note("plain-files", found);
        let changed = self
            .digests
            .iter()
            .find(|(path, digest)| std::fs::read(path).map_or(true, |bytes| Sha256::of(&bytes) != **digest));
        let found = match changed {
            None => Pass(format!("{} files as they were", self.digests.len())),
            Some((path, _)) => Fail(format!("an input was changed while a task read it: {}", path.display())),
        };
        self.note("inputs-untouched", found);
    }

    /// The end of stdin means: exit.
    async fn farewell(&mut self) -> anyhow::Result<()> {
        let version = self.lookout().hello().map(|hello| hello.protocol);
        if self.form == Form::Exec || version != Some(wire::PROTOCOL_VERSION) || !self.wants("end-of-stdin") {
            return Ok(());
        }
        // It may have been killed in the last check: then it is started once more.
        let file = &self.subject.file;
        let hand = self.course.hand(self.name);
        hand.greet(file, self.name).await?;
        hand.rig.close().await;
        let found = match self.lookout().killed_at_end() {
            false => Pass("it exits".to_owned()),
            true => Fail("it did not exit within 2 s and was killed".to_owned()),
        };
        self.note("end-of-stdin", found);
        Ok(())
    }
}

/// "1 task", "3 tasks".
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
