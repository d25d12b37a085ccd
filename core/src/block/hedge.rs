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

/// Looks at the rows of a part: what was accepted after `since` and not after `until`, and what is not yet.
pub fn survey<'r>(
    graph: &Graph<'_>,
    piece: u32,
    since: Millis,
    until: Millis,
    row: impl Fn(Node) -> Option<&'r NodeView>,
) -> Part {
    let mut part = Part::default();
    for node in graph.part(piece) {
        let policy = graph.run.policy.stage(node.stage);
        let Some(parent) = graph.plan.parent(node).filter(|_| policy.hedge.is_some()) else { continue };
        let fresh = NodeView::default();
        let own = row(node).unwrap_or(&fresh);
        // What moved to a larger pool takes another time there, of which nothing is known.
        let has_moved = |attempt| *own.pool(attempt, policy) != policy.pool;
        match row(parent.node).and_then(|reader| reader.slots.get(&parent.slot)) {
            Some(artifact) if has_moved(artifact.attempt) => {}
            Some(artifact) if since < artifact.at && artifact.at <= until => {
                part.harvests.entry(node.stage).or_default().take(own, artifact, policy);
            }
            Some(_) => {}
            None if has_moved(own.wanted.attempt) => {}
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

/// Whether a node's task is a straggler now, and may be sent once more.
pub fn straggles(row: &NodeView, node: Node, policy: &StagePolicy, limit: Millis, now: Millis) -> bool {
    running(node, row, policy).is_due(limit, now)
}

impl Running {
    fn is_due(&self, limit: Millis, now: Millis) -> bool {
        self.may_hedge && self.since.is_some_and(|since| since.plus(limit) <= now)
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
    let mut due: Vec<&Running> = running.iter().filter(|task| task.is_due(limit, now)).collect();
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

#[cfg(test)]
mod tests {
    use super::super::sketch::FEW;
    use super::*;
    use crate::pipeline::Kind;
    use crate::record::{FailureNote, Try};

    const HEDGING: Hedging = Hedging { quantile: 900, factor: 1_500, budget: 100 };

    fn policy() -> StagePolicy {
        StagePolicy { hedge: Some(HEDGING), ..StagePolicy::default_for(Kind::Map) }
    }

    /// Of tasks that take a second.
    fn sketch(samples: usize) -> Sketch {
        let mut sketch = Sketch::default();
        let durations = vec![Millis(1_000); samples];
        sketch.merge(&Harvest { work: Millis(1_000 * samples as u64), durations, ..Harvest::default() });
        sketch
    }

    fn started(worker: &str, at: u64) -> Started {
        Started { attempt: Attempt(1), worker: worker.parse().unwrap(), by: None, at: Millis(at), handout: None }
    }

    fn hedges(asked: u8, sent: u8) -> Hedges {
        Hedges { attempt: Attempt(1), asked, sent, reserved: Millis(1_000), at: Millis(0) }
    }

    fn of(index: u32, row: &NodeView) -> Running {
        running(Node::new(1, 0, index), row, &policy())
    }

    fn since(start: u64) -> NodeView {
        NodeView { started: Some(started("w1", start)), ..NodeView::default() }
    }

    fn hedged(sketch: &Sketch, running: &[Running], now: u64) -> Vec<u32> {
        let look = stragglers(&mut sketch.clone(), &HEDGING, running, Millis(now));
        look.hedge.iter().map(|(node, _)| node.index).collect()
    }

    #[test]
    fn a_task_is_a_straggler_when_it_has_run_for_long_not_when_it_was_sent_long_ago() {
        let known = sketch(100);
        let limit = known.straggles_after(&HEDGING).unwrap();
        assert!((1_400..=1_650).contains(&limit.0), "{limit:?}");
        let tasks = [of(0, &since(10_000)), of(1, &NodeView::default())];
        assert_eq!(hedged(&known, &tasks, 10_000 + limit.0 - 1), [0; 0]);
        assert_eq!(hedged(&known, &tasks, 10_000 + limit.0), [0]);
        assert_eq!(hedged(&known, &tasks, 10_000_000), [0], "what has not started is no straggler");
        assert_eq!(hedged(&sketch(FEW as usize - 1), &tasks, 10_000_000), [0; 0], "too little is known");
    }

    #[test]
    fn every_copy_that_is_out_must_have_run_for_long() {
        let known = sketch(100);
        let waiting = NodeView { hedges: Some(hedges(1, 1)), ..since(1_000) };
        assert_eq!(hedged(&known, &[of(0, &waiting)], 90_000), [0; 0], "the copy waits for a worker");
        let running = NodeView { copies_started: [(1, started("w2", 80_000))].into(), ..waiting };
        assert_eq!(hedged(&known, &[of(0, &running)], 81_000), [0; 0]);
        assert_eq!(hedged(&known, &[of(0, &running)], 90_000), [0], "the copy is a straggler, too");
        let mut again = NodeView { hedges: Some(hedges(MOST_HEDGES, 2)), ..running.clone() };
        again.copies_started.insert(2, started("w3", 90_000));
        assert_eq!(hedged(&known, &[of(0, &again)], 900_000), [0; 0], "no more than that");
        // A copy that failed is not waited for.
        let note = FailureNote {
            attempt: Attempt(1),
            copy: 1,
            worker: None,
            by: None,
            kind: crate::message::FailureKind::Retryable,
            message: String::new(),
            accused: Vec::new(),
            at: Millis(0),
        };
        let wanted = Try { failures: vec![note], ..Try::default() };
        let failed = NodeView { wanted, copies_started: Default::default(), ..running };
        assert_eq!(hedged(&known, &[of(0, &failed)], 90_000), [0]);
    }

    #[test]
    fn what_waits_for_a_check_is_no_straggler() {
        let limit = Millis(1_500);
        let straggles = |row: &NodeView, now| straggles(row, Node::new(1, 0, 0), &policy(), limit, Millis(now));
        assert_eq!([2_499, 2_500].map(|now| straggles(&since(1_000), now)), [false, true]);
        let wanted = Try { checks: vec![(0, crate::id::Sha256([0; 32]))], ..Try::default() };
        assert!(!straggles(&NodeView { wanted, ..since(1_000) }, 90_000));
    }

    #[test]
    fn copies_that_were_asked_for_are_pending_until_they_are_sent() {
        let asked = |hedges| of(0, &NodeView { hedges, ..since(1_000) });
        let pending = |tasks: &[Running]| stragglers(&mut sketch(100), &HEDGING, tasks, Millis(1_001)).pending;
        assert_eq!(pending(&[asked(None), asked(Some(hedges(1, 1)))]), []);
        assert_eq!(pending(&[asked(Some(hedges(1, 0)))]), [Node::new(1, 0, 0)]);
        assert_eq!(pending(&[asked(Some(hedges(2, 1)))]), [Node::new(1, 0, 0)]);
    }

    #[test]
    fn each_copy_asked_for_adds_to_those_of_its_attempt_only() {
        let first = ask(&since(1_000), Millis(700), Millis(3_000));
        let alone = Hedges { attempt: Attempt(1), asked: 1, sent: 0, reserved: Millis(700), at: Millis(3_000) };
        assert_eq!(first, alone);
        let row = NodeView { hedges: Some(Hedges { sent: 1, ..first }), ..since(1_000) };
        let second = Hedges { asked: 2, sent: 1, reserved: Millis(1_500), at: Millis(9_000), ..alone.clone() };
        assert_eq!(ask(&row, Millis(800), Millis(9_000)), second);
        let moved = NodeView { wanted: Try { attempt: Attempt(2), ..Try::default() }, ..row };
        assert_eq!(ask(&moved, Millis(700), Millis(3_000)), Hedges { attempt: Attempt(2), ..alone });
    }

    #[test]
    fn the_budget_caps_what_is_sent_and_the_longest_running_go_first() {
        let tasks: Vec<Running> = (0..30).map(|index| of(index, &since(30_000 - u64::from(index)))).collect();
        let mut known = sketch(100);
        let look = stragglers(&mut known, &HEDGING, &tasks, Millis(90_000));
        // A tenth of a hundred seconds, in copies of about one.
        assert!((8..=10).contains(&look.hedge.len()), "{look:?}");
        assert!(look.hedge.iter().all(|(node, _)| node.index >= 20), "{look:?}");
        assert!(known.extra.0 * 10 <= known.work.0, "{known:?}");
        let more = stragglers(&mut known, &HEDGING, &tasks, Millis(90_000));
        assert_eq!(more.hedge, []);
        // What was reserved makes room for what it was.
        let cheap = Harvest { reserved: known.extra, extra: Millis(1_000), work: Millis(20_000), ..Harvest::default() };
        known.merge(&cheap);
        assert!(!stragglers(&mut known, &HEDGING, &tasks, Millis(90_000)).hedge.is_empty());
    }

    #[test]
    fn a_copy_goes_to_none_of_those_that_have_the_task_and_is_sent_until_it_is_marked() {
        let row =
            NodeView { hedges: Some(hedges(2, 1)), copies_started: [(1, started("w2", 5))].into(), ..since(1_000) };
        let policy = StagePolicy { copies: 1, ..policy() };
        let task = sent_task();
        let sent = pending(&row, &policy, &task);
        let [copy] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((copy.id.attempt, copy.id.copy), (Attempt(1), 2));
        let avoided: Vec<&str> = copy.avoid.iter().map(|worker| worker.as_str()).collect();
        assert_eq!(avoided, ["w0", "w1", "w2"]);
        assert_eq!(pending(&NodeView { hedges: Some(hedges(2, 2)), ..row.clone() }, &policy, &task), []);
        let moved = NodeView { wanted: Try { attempt: Attempt(2), ..Try::default() }, ..row };
        assert_eq!(pending(&moved, &policy, &task), [], "of an attempt that was given up");
    }

    fn sent_task() -> TaskMessage {
        TaskMessage {
            id: "demo/1/e1/0123456789abcdef/1.0.0/a1c0".parse().unwrap(),
            stage: "prove".parse().unwrap(),
            kind: Kind::Map,
            prover: "p".parse().unwrap(),
            programs: Default::default(),
            pool: "cpu".parse().unwrap(),
            class: Default::default(),
            inputs: vec![],
            params: serde_json::Value::Null,
            block_hash: crate::id::BlockHash([0; 32]),
            parent_hash: None,
            time_limit: Millis(1),
            progress_limit: None,
            avoid: vec!["w0".parse().unwrap()],
            check: None,
            deadline: None,
            demoted: false,
            expand: false,
            barred: vec![],
            copies: Some(1),
        }
    }

    #[test]
    fn the_next_look_is_when_the_first_task_can_have_become_a_straggler() {
        let known = sketch(100);
        let limit = known.straggles_after(&HEDGING).unwrap().0;
        let next = |tasks: &[Running], sketch: &Sketch, before: Option<&HedgeWatch>| {
            let part = Part { running: [(1, tasks.to_vec())].into(), ..Part::default() };
            next_look(before, &part, &[(1, (HEDGING, sketch.clone()))].into(), Millis(20_000))
        };
        let due = |tasks: &[Running]| next(tasks, &known, None).due.map(|due| due.0);
        assert_eq!(due(&[of(0, &since(19_900)), of(1, &since(19_500))]), Some(19_500 + limit));
        assert_eq!(due(&[of(0, &NodeView::default())]), Some(20_000 + limit), "it may start at any moment");
        assert_eq!(due(&[of(0, &since(1_000))]), Some(20_000 + limit / 4), "it waits for the budget");
        assert_eq!(due(&[of(0, &since(20_000 - limit))]), Some(20_000 + limit / 4), "so does one that is due just now");
        let done = Part::default();
        assert_eq!(next_look(None, &done, &BTreeMap::new(), Millis(20_000)).due, None, "everything is accepted");
        // Without samples looks get rarer.
        let mut pauses = Vec::new();
        let mut watch = None;
        for _ in 0..8 {
            let found = next(&[of(0, &since(1_000))], &Sketch::default(), watch.as_ref());
            pauses.push(found.due.unwrap().0 - 20_000);
            watch = Some(found);
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn a_lost_timer_is_overdue_and_one_that_is_done_never_is() {
        let watch = |due| HedgeWatch { due, ..HedgeWatch::default() };
        let overdue = |watch: Option<&HedgeWatch>| hedge_is_overdue(watch, Millis(0), Millis(10), Millis(5_000));
        assert!(overdue(None) && overdue(Some(&watch(Some(Millis(4_900))))));
        assert!(!overdue(Some(&watch(Some(Millis(4_980))))) && !overdue(Some(&watch(None))));
        let sent = Millis(90_000);
        assert!(first_look(sent) > sent);
        assert!(!hedge_is_overdue(None, sent, Millis(10), first_look(sent)), "it is looked at first when that is due");
    }

    #[test]
    fn what_was_accepted_is_counted_with_all_its_copies() {
        let artifact = |copy: u8| Artifact {
            attempt: Attempt(1),
            blob: crate::record::BlobRef {
                key: format!("artifacts/cpu/demo/1/e1/0123456789abcdef/1.0.0/a1c{copy}"),
                sha256: crate::id::Sha256([0; 32]),
                size: 1,
            },
            worker: "w2".parse().unwrap(),
            at: Millis(9_000),
        };
        let take = |row: &NodeView, copy| {
            let mut harvest = Harvest::default();
            harvest.take(row, &artifact(copy), &policy());
            harvest
        };
        let row =
            NodeView { hedges: Some(hedges(1, 1)), copies_started: [(1, started("w2", 8_000))].into(), ..since(4_000) };
        let durations = vec![Millis(1_000)];
        let wanted = Harvest { durations, work: Millis(6_000), extra: Millis(1_000), reserved: Millis(1_000) };
        assert_eq!(take(&row, 1), wanted);
        assert_eq!(take(&NodeView::default(), 0).durations, [UNSEEN], "too short to be announced");
        let other =
            NodeView { started: Some(Started { attempt: Attempt(2), ..started("w1", 1) }), ..NodeView::default() };
        assert_eq!(take(&other, 0), Harvest::default(), "it is not known when this attempt began");
    }

    #[test]
    fn those_are_told_to_stop_that_may_be_at_it() {
        let accepted = |attempt| Artifact {
            attempt: Attempt(attempt),
            blob: crate::record::BlobRef { key: "k".to_owned(), sha256: crate::id::Sha256([0; 32]), size: 1 },
            worker: "w2".parse().unwrap(),
            at: Millis(9_000),
        };
        let reader = |attempt, hedged: Option<u32>| NodeView {
            slots: [(0, accepted(attempt))].into(),
            hedged: hedged.map(|hedged| (0, Attempt(hedged))).into_iter().collect(),
            ..NodeView::default()
        };
        let told = |reader: &NodeView, policy: &StagePolicy| -> Vec<u32> {
            settled(reader, 0, policy).into_iter().map(|attempt| attempt.0).collect()
        };
        assert_eq!(told(&reader(1, None), &policy()), [0; 0]);
        assert_eq!(told(&reader(1, Some(1)), &policy()), [1]);
        assert_eq!(told(&reader(1, Some(2)), &policy()), [2], "an earlier attempt was first after all");
        assert_eq!(told(&reader(2, Some(1)), &policy()), [0; 0]);
        assert_eq!(told(&reader(2, None), &StagePolicy { copies: 2, ..policy() }), [2]);
        assert_eq!(told(&NodeView::default(), &StagePolicy { copies: 2, ..policy() }), [0; 0]);
    }
}
