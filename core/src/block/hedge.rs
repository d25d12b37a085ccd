//! Several copies of one attempt: from the start, where a stage's policy wants them, or once more for a straggler. The first artifact
//! accepted counts; the others are told to stop.
//!
//! Stragglers are looked for part by part, by a timer that is due when the first task can have become one, and against a [`Sketch`] of how
//! long such tasks took lately; looks keep the sketch, too, from what was accepted since the last. A task that has not started is none.
//!
//! A copy that fails moves nothing while another of its attempt is out; what is remembered of it is its note among the node's failures.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Attempt, Millis, Node};
use crate::message::TaskMessage;
use crate::pipeline::{Hedging, StagePolicy};
use crate::record::{Artifact, HedgeWatch, Hedges, NodeView, Started};

use super::{Failure, Graph, Sketch};

/// Most further copies of an attempt: the second is for a straggler whose copy is one, too.
pub const MOST_HEDGES: u8 = 2;

/// Copies are numbered below this, whatever the policy.
pub const COPIES: u8 = crate::pipeline::MOST_COPIES + MOST_HEDGES;

/// How many copies of the attempt wanted now there are, those that have failed with them.
pub fn copies(view: &NodeView, policy: &StagePolicy) -> u8 {
    policy.copies.saturating_add(view.hedges_now().map_or(0, |hedges| hedges.asked))
}

/// The copies of the attempt wanted now that may still leave an artifact.
pub fn out<'v>(view: &'v NodeView, policy: &StagePolicy) -> impl Iterator<Item = u8> + use<'v> {
    (0..copies(view, policy)).filter(|copy| !view.has_failed(*copy))
}

/// What is known of the copy that failed, and of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no such copy.
    Unknown,
    /// It is noted already.
    Noted,
    /// Others are out: it is noted, and the attempt goes on.
    OneOfSeveral,
    Last,
}

pub(super) fn standing(view: &NodeView, failure: &Failure, policy: &StagePolicy) -> Standing {
    let mut others = out(view, policy).filter(|copy| *copy != failure.task.copy);
    if failure.task.copy >= copies(view, policy) {
        Standing::Unknown
    } else if others.next().is_none() {
        Standing::Last
    } else if view.has_failed(failure.task.copy) {
        Standing::Noted
    } else {
        Standing::OneOfSeveral
    }
}

/// The start, of those copies that are out, that was late at `since` already.
pub(super) fn late_start<'v>(
    view: &'v NodeView,
    policy: &StagePolicy,
    is_late: impl Fn(&Started) -> bool,
) -> Option<(u8, &'v Started)> {
    out(view, policy)
        .find_map(|copy| view.start_now(copy).filter(|started| is_late(started)).map(|started| (copy, started)))
}

/// When the copies that are out were started, as far as they were.
pub(super) fn starts<'v>(view: &'v NodeView, policy: &StagePolicy) -> impl Iterator<Item = &'v Started> + use<'v> {
    out(view, policy).filter_map(|copy| view.start_now(copy))
}

/// The attempts at the child in `slot` of `reader` whose workers are to be told that they are too late, now that its artifact is accepted.
pub fn settled(reader: &NodeView, slot: u32, policy: &StagePolicy) -> BTreeSet<Attempt> {
    let Some(accepted) = reader.slots.get(&slot) else { return BTreeSet::new() };
    let hedged = reader.hedged.get(&slot).copied().filter(|attempt| *attempt >= accepted.attempt);
    let planned = (policy.copies > 1).then_some(accepted.attempt);
    hedged.into_iter().chain(planned).collect()
}

/// The copy that left an artifact, by its key.
pub fn copy_of(key: &str) -> Option<u8> {
    key.rsplit_once('/')?.1.rsplit_once('c')?.1.parse().ok()
}

/// When the last copy of the attempt wanted now was asked for.
pub(super) fn asked_at(view: &NodeView) -> Millis {
    view.hedges_now().map(|hedges| hedges.at).unwrap_or_default()
}

/// A start is announced up to so much later: a task without one was shorter.
const UNSEEN: Millis = Millis(200);

/// No task is sent once more before it has run for so long: what is shorter is lost among announcements.
const SOONEST: Millis = Millis(500);

/// Between two looks, at least; and the first pause while too little is known, which doubles up to the slowest.
const LEAST_PAUSE: Millis = Millis(200);
const FIRST_PAUSE: Millis = Millis(1_000);
const SLOWEST_PAUSE: Millis = Millis::from_secs(60);

/// Most copies asked for at one look: no invocation shall take long.
const AT_MOST: usize = 32;

/// When the first look at a part that was sent at `sent` is due.
pub fn first_look(sent: Millis) -> Millis {
    sent.plus(FIRST_PAUSE)
}

/// What the tasks of a stage that were accepted since the last look took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Harvest {
    pub durations: Vec<Millis>,
    pub work: Millis,
    /// Of that, further copies.
    pub extra: Millis,
    /// What had been reserved for these.
    pub reserved: Millis,
}

impl Sketch {
    /// Takes in what a look found.
    pub fn merge(&mut self, harvest: &Harvest) {
        harvest.durations.iter().for_each(|duration| self.add(*duration));
        self.work = self.work.plus(harvest.work);
        self.extra = self.extra.since(harvest.reserved).plus(harvest.extra);
    }

    /// Reserves what another copy of a task is expected to take, if the budget allows.
    fn reserve(&mut self, hedging: &Hedging) -> Option<Millis> {
        let expected = self.quantile(500)?;
        let allowed = u128::from(self.work.0) * u128::from(hedging.budget);
        let extra = self.extra.plus(expected);
        (u128::from(extra.0) * 1_000 <= allowed).then(|| self.extra = extra).map(|()| expected)
    }

    /// From when on a task that runs is a straggler; none: too little is known.
    pub fn straggles_after(&self, hedging: &Hedging) -> Option<Millis> {
        let usual = self.quantile(hedging.quantile)?;
        Some(Millis(usual.0.saturating_mul(u64::from(hedging.factor)) / 1_000).max(SOONEST))
    }
}

/// A task whose stage is hedged, as a look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub node: Node,
    /// When the last of the copies that are out was started; none: one of them has not been, or nothing was sent.
    pub since: Option<Millis>,
    /// Another copy can be asked for.
    pub may_hedge: bool,
    /// Copies were asked for and not sent.
    pub is_pending: bool,
}

/// What of a part matters to a look for stragglers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// By stage.
    pub harvests: BTreeMap<u16, Harvest>,
    pub running: BTreeMap<u16, Vec<Running>>,
}

/// Looks at the rows of a part: what was accepted after `since`, and what is not yet.
pub fn survey<'r>(graph: &Graph<'_>, piece: u32, since: Millis, row: impl Fn(Node) -> Option<&'r NodeView>) -> Part {
    let mut part = Part::default();
    for node in graph.part(piece) {
        let policy = graph.run.policy.stage(node.stage);
        let Some(parent) = graph.plan.parent(node).filter(|_| policy.hedge.is_some()) else { continue };
        let fresh = NodeView::default();
        let own = row(node).unwrap_or(&fresh);
        match row(parent.node).and_then(|reader| reader.slots.get(&parent.slot)) {
            Some(artifact) if artifact.at > since => {
                part.harvests.entry(node.stage).or_default().take(own, artifact, policy);
            }
            Some(_) => {}
            None => part.running.entry(node.stage).or_default().push(running(node, own, policy)),
        }
    }
    part
}

impl Harvest {
    fn take(&mut self, row: &NodeView, artifact: &Artifact, policy: &StagePolicy) {
        let took = |started: &Started| artifact.at.since(started.at);
        let hedges = row.hedges.as_ref().filter(|hedges| hedges.attempt == artifact.attempt);
        self.reserved = self.reserved.plus(hedges.map(|hedges| hedges.reserved).unwrap_or_default());
        for copy in 0..COPIES {
            let Some(started) = row.start_of(artifact.attempt, copy) else { continue };
            self.work = self.work.plus(took(started));
            if copy >= policy.copies {
                self.extra = self.extra.plus(took(started));
            }
        }
        match copy_of(&artifact.blob.key).map(|copy| (copy, row.start_of(artifact.attempt, copy))) {
            Some((_, Some(started))) => self.durations.push(took(started)),
            Some((0, None)) if row.started.is_none() => {
                self.durations.push(UNSEEN);
                self.work = self.work.plus(UNSEEN);
            }
            Some(_) | None => {}
        }
    }
}

fn running(node: Node, row: &NodeView, policy: &StagePolicy) -> Running {
    let (asked, sent) = row.hedges_now().map_or((0, 0), |hedges| (hedges.asked, hedges.sent));
    let mut since = Some(Millis(0));
    for copy in out(row, policy) {
        let start = row.start_now(copy).map(|started| started.at);
        since = since.zip(start).map(|(last, start)| last.max(start));
    }
    Running {
        node,
        since: since.filter(|since| *since > Millis(0)),
        may_hedge: asked < MOST_HEDGES && row.wanted.checks.is_empty(),
        is_pending: sent < asked,
    }
}

/// What a look leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HedgeLook {
    /// Send one more copy, for which so much has been reserved.
    pub hedge: Vec<(Node, Millis)>,
    /// Send what was asked for before.
    pub pending: Vec<Node>,
}

/// What becomes of a stage's stragglers, now; reserves in the sketch what their copies are expected to take. The longest running go first.
pub fn stragglers(sketch: &mut Sketch, hedging: &Hedging, running: &[Running], now: Millis) -> HedgeLook {
    let pending = running.iter().filter(|task| task.is_pending).map(|task| task.node).take(AT_MOST).collect();
    let Some(limit) = sketch.straggles_after(hedging) else { return HedgeLook { hedge: Vec::new(), pending } };
    let is_due = |task: &&Running| task.may_hedge && task.since.is_some_and(|since| since.plus(limit) <= now);
    let mut due: Vec<&Running> = running.iter().filter(is_due).collect();
    due.sort_by_key(|task| (task.since, task.node));
    let granted = due.iter().take(AT_MOST).map_while(|task| Some((task.node, sketch.reserve(hedging)?)));
    HedgeLook { hedge: granted.collect(), pending }
}

/// When to look at a part next: when the first task can have become a straggler. A task that has not started may do so at any moment.
/// Sketches and policies are by stage.
pub fn next_look(
    before: Option<&HedgeWatch>,
    part: &Part,
    sketches: &BTreeMap<u16, (Hedging, Sketch)>,
    now: Millis,
) -> HedgeWatch {
    let mut pause = before.map(|watch| watch.pause).unwrap_or_default();
    let slow = |pause: Millis| pause.plus(pause).max(FIRST_PAUSE).min(SLOWEST_PAUSE);
    let mut due: Option<Millis> = None;
    let mut is_unknown = false;
    for (stage, running) in &part.running {
        let limit = sketches.get(stage).and_then(|(hedging, sketch)| sketch.straggles_after(hedging));
        is_unknown |= limit.is_none();
        let Some(limit) = limit else { continue };
        for task in running {
            let at = match task.since.filter(|_| task.may_hedge) {
                Some(since) => since.plus(limit),
                None => now.plus(limit),
            };
            // One that is due and got no copy waits for the budget.
            let at = if at > now { at } else { now.plus(Millis(limit.0 / 4)) };
            due = Some(due.map_or(at, |due| due.min(at)));
        }
    }
    if is_unknown {
        pause = slow(pause);
        let at = now.plus(pause);
        due = Some(due.map_or(at, |due| due.min(at)));
    }
    HedgeWatch { due: due.map(|due| due.max(now.plus(LEAST_PAUSE))), looked: now, pause }
}

/// Whether the look at a part that was sent at `sent` should have happened long ago: its timer was lost.
pub fn hedge_is_overdue(watch: Option<&HedgeWatch>, sent: Millis, quiet: Millis, now: Millis) -> bool {
    let due = watch.map_or(Some(first_look(sent)), |watch| watch.due);
    due.is_some_and(|due| now > due.plus(quiet).plus(quiet))
}

/// Asks for one more copy of the attempt wanted at a node whose row is this.
pub fn ask(row: &NodeView, expected: Millis, now: Millis) -> Hedges {
    let before = row.hedges_now();
    Hedges {
        attempt: row.wanted.attempt,
        asked: before.map_or(0, |hedges| hedges.asked) + 1,
        sent: before.map_or(0, |hedges| hedges.sent),
        reserved: before.map(|hedges| hedges.reserved).unwrap_or_default().plus(expected),
        at: now,
    }
}

/// The copies of a node's task that were asked for and have not been sent: never to whoever has one of the others.
pub fn pending(row: &NodeView, policy: &StagePolicy, task: &TaskMessage) -> Vec<TaskMessage> {
    let Some(hedges) = row.hedges_now() else { return Vec::new() };
    let mut avoid = task.avoid.clone();
    for copy in 0..COPIES {
        let holder = row.start_now(copy).map(|started| &started.worker);
        avoid.extend(holder.filter(|holder| !avoid.contains(holder)).cloned().into_iter().collect::<Vec<_>>());
    }
    let unsent = (hedges.sent..hedges.asked).map(|hedge| policy.copies + hedge);
    unsent.map(|copy| TaskMessage { avoid: avoid.clone(), ..task.as_copy(copy) }).collect()
}
