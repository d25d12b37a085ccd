//! How a prover behaves among others: other fields, other directories, other processes, and when it is told to stop.

use std::path::PathBuf;

use push0_core::Node;
use push0_core::pipeline::Form;

use super::Found::{self, Fail, Pass, Skip};
use super::Judge;
use crate::prover::check::course::{Ran, hand};
use crate::prover::check::subject::NO_STAGE;
use crate::prover::task;

impl Judge<'_> {
    pub(super) async fn manners(&mut self) -> anyhow::Result<()> {
        let Some((node, inputs)) = self.usual_task() else {
            self.leave_out("it runs no stage");
            return Ok(());
        };
        if self.wants("unknown-fields") {
            self.lookout().tell_further_fields(true);
            let ran = self.course.run(node, &inputs).await?;
            self.lookout().tell_further_fields(false);
            self.note("unknown-fields", made(ran, "a task with fields of a later version is proven"));
        }
        if self.wants("spaces") {
            let found = self.spaces(node, &inputs).await?;
            self.note("spaces", found);
        }
        if self.wants("two-at-once") {
            let found = self.two_at_once(node, &inputs).await?;
            self.note("two-at-once", found);
        }
        if self.form == Form::Exec && self.wants("unknown-stage") {
            let mut unknown = task(self.course.file, node, &self.course.block);
            unknown.stage = NO_STAGE.parse()?;
            let found = match self.course.run_task(unknown, &inputs).await? {
                Ran::Made(_) => Fail("it exits with 0, and an output, for a stage that it cannot know".to_owned()),
                Ran::Hung(failure) => Fail(failure.message),
                Ran::Refused(_) | Ran::Stopped => Pass("refused".to_owned()),
            };
            self.note("unknown-stage", found);
        }
        if self.form == Form::Session && self.wants("cancel") {
            let found = self.cancel(node, &inputs).await?;
            self.note("cancel", found);
        }
        Ok(())
    }

    /// A task of this prover, the longest there is, with its honest inputs.
    fn usual_task(&self) -> Option<(Node, Vec<PathBuf>)> {
        let node = self.course.slowest(self.name)?;
        Some((node, self.course.inputs(node)?))
    }

    async fn spaces(&mut self, node: Node, inputs: &[PathBuf]) -> anyhow::Result<Found> {
        let dir = self.dir.join("a directory's name, with spaces & ümlauts");
        std::fs::create_dir_all(&dir)?;
        let mut copies = Vec::new();
        for (position, input) in inputs.iter().enumerate() {
            let copy = dir.join(format!("input {position}"));
            std::fs::copy(input, &copy)?;
            copies.push(copy);
        }
        let mut other = hand(self.course.file, &dir, self.limits)?;
        let ran = other.run(task(self.course.file, node, &self.course.block), &copies).await?;
        other.rig.close().await;
        Ok(made(ran, "paths with spaces and other than ASCII"))
    }

    async fn two_at_once(&mut self, node: Node, inputs: &[PathBuf]) -> anyhow::Result<Found> {
        let (one, two) =
            (task(self.course.file, node, &self.course.block), task(self.course.file, node, &self.course.block));
        let mut other = hand(self.course.file, &self.dir.join("second"), self.limits)?;
        let first = self.course.hand(self.name);
        let (first, second) = tokio::join!(first.run(one, inputs), other.run(two, inputs));
        other.rig.close().await;
        Ok(match (first?.usual_end(), second?.usual_end()) {
            (Ok(()), Ok(())) => Pass("two of it prove the same task at the same time".to_owned()),
            (Err(why), _) | (_, Err(why)) => Fail(format!("two of it, the same task at the same time: {why}")),
        })
    }

    /// A task that is cancelled as soon as it is told must be answered within the grace, and the next one proven.
    async fn cancel(&mut self, node: Node, inputs: &[PathBuf]) -> anyhow::Result<Found> {
        // Started if it is not, so that what is cancelled is a task and not a start.
        if let Err(why) = self.course.run(node, inputs).await?.usual_end() {
            return Ok(Skip(format!("its usual task fails: {why}")));
        }
        let started = self.lookout().started();
        let task = task(self.course.file, node, &self.course.block);
        let hand = self.course.hand(self.name);
        let lookout = hand.lookout.clone();
        let before = lookout.answers();
        let ran = hand.run_until(task, inputs, lookout.next_told()).await?;
        if lookout.answers() == before {
            let grace = self.limits.cancel_grace.0;
            return Ok(Fail(format!(
                "no answer within {grace} ms of the cancel: a worker kills it then, with all that it keeps warm"
            )));
        }
        let how = match ran {
            Ran::Stopped => "answered in time",
            _ => "the task was done before the cancel came",
        };
        if let Err(why) = self.course.run(node, inputs).await?.usual_end() {
            return Ok(Fail(format!("{how}, but the next task fails: {why}")));
        }
        if self.lookout().started() != started {
            return Ok(Fail(format!("{how}, but then it ended and had to be started again")));
        }
        Ok(Pass(format!("{how}; the next task is proven")))
    }
}

impl Ran {
    /// Whether something was made; why not, otherwise.
    pub(super) fn usual_end(self) -> Result<(), String> {
        match self {
            Ran::Made(_) => Ok(()),
            ran => Err(ran.file().err().unwrap_or_default()),
        }
    }
}

fn made(ran: Ran, what: &str) -> Found {
    match ran.usual_end() {
        Ok(()) => Pass(what.to_owned()),
        Err(why) => Fail(format!("{what}: {why}")),
    }
}
