//! Looking after what was sent: which tasks of a part of a run were lost, by the part's rows, the queues, and what earlier looks saw.
//!
//! - A task whose start ran past its limit ([`late_at`]), as a look of a while ago saw already, has failed: another attempt is due.
//! - A task whose queue has been empty since it was sent is sent again as it is, once two looks at least `quiet` apart have seen that, and
//!   that no report was on its way either.
//! - So is a task that nobody has said to have started, once nothing has waited in its queue for as long as a worker may be busy with another
//!   (its stage's time limit, or [`PATIENCE`] if that is longer): whoever has it keeps it. Should it be started after all, both do it.
//!
//! Nothing is given up by its age alone: that multiplies a backlog. One look proves nothing: a queue's counts may be approximate and old,
//! and after a standstill everything looks late. So what one look sees is stored ([`Watch`]), and only another one acts on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Attempt, Millis, Node, Pool};
use crate::message::{queue, work_queue};
use crate::pipeline::StagePolicy;
use crate::record::{MANIFEST_PAGE, NodeView, RunView, Watch};

use super::failure::LATE;
use super::{Graph, Piece, hedge, late_at, piece_of};

/// How long a start stays late before it is given up: after a standstill its task is handed out again well within that.
const RECHECK: Millis = Millis::from_secs(60);

/// A report that is on its way for longer is not waited for: where others keep the queue of reports busy it is never seen empty.
const PATIENCE: Millis = Millis::from_secs(600);

/// Where nothing is suspicious the pause between looks doubles, from `quiet` up to so many times that.
const SLOWEST: u64 = 4;

/// Most tasks given up or sent again at one look: no invocation shall take long. The others' turn comes.
const AT_MOST: usize = 64;

/// A task that was sent and not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub node: Node,
    pub attempt: Attempt,
    /// Where it lies until its worker has answered.
    pub queue: String,
    /// Where its worker answers.
    pub reports: &'static str,
    /// When it was sent or, if that was later, started.
    pub since: Millis,
    /// From when on its start, if it has one, is too long ago.
    pub late: Option<Millis>,
    /// How long whoever has it may leave it without a start: a worker fetches its next task while it is busy with another.
    pub patience: Millis,
}

/// What one look at a part found.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'s> {
    pub open: &'s [Open],
    /// Pieces of the run wait to be sent.
    pub has_unsent: bool,
    /// Queues that are empty, their dead-letter queues with them.
    pub idle: &'s BTreeSet<String>,
    /// Those, and queues of whose messages every one is in somebody's hands.
    pub taken: &'s BTreeSet<String>,
}

/// What is to be done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Their starts were late at this time already.
    pub late: Vec<Node>,
    pub late_since: Millis,
    /// To be sent again, if the node is still at this attempt.
    pub lost: Vec<(Node, Attempt)>,
    /// Send the ranges of what was not sent.
    pub reopen: bool,
    pub next: Watch,
}

impl Graph<'_> {
    /// The nodes of a part; the first has `split` and everything at the end of the pipeline.
    pub fn part(&self, piece: u32) -> Vec<Node> {
        let Piece { from, to, .. } = piece_of(piece.saturating_mul(MANIFEST_PAGE), self.plan.segments());
        if from < to { self.plan.rooted_in(from, to) } else { Vec::new() }
    }
}

/// The open tasks of a part whose nodes have these rows; without a graph there is only `split`. `sent`: when the piece had been sent, if it
/// has. `began`: see [`crate::record::Started::is_since`]. Beside the part's own rows, those of its nodes' parents are needed.
pub fn open<'r>(
    view: &RunView,
    graph: Option<&Graph<'_>>,
    piece: u32,
    sent: Option<Millis>,
    began: Option<Millis>,
    row: impl Fn(Node) -> Option<&'r NodeView>,
) -> Vec<Open> {
    let Some(graph) = graph else {
        let split = row(Node::SPLIT).cloned().unwrap_or_default();
        let begun = Some(view.run.released_at).filter(|_| piece == 0);
        return begun.map(|begun| open_task(view, Node::SPLIT, &split, begun, began)).into_iter().collect();
    };
    let of_node = |node: Node| {
        let own = row(node).cloned().unwrap_or_default();
        let is_answered = match graph.plan.parent(node) {
            Some(parent) => row(parent.node).is_some_and(|row| row.slots.contains_key(&parent.slot)),
            None => view.verdict.is_some(),
        };
        let sent = if graph.plan.slots(node) == 0 { sent } else { inputs_since(graph, node, &own) };
        // Later attempts are sent for themselves.
        let sent = sent.or((own.wanted.attempt > Attempt::FIRST && graph.plan.slots(node) == 0).then_some(Millis(0)));
        sent.filter(|_| !is_answered).map(|sent| open_task(view, node, &own, sent, began))
    };
    graph.part(piece).into_iter().filter(|node| *node != Node::SPLIT).filter_map(of_node).collect()
}

/// Since when everything that a node reads is there, or is being checked.
fn inputs_since(graph: &Graph<'_>, node: Node, row: &NodeView) -> Option<Millis> {
    let is_whole = (0..graph.plan.slots(node)).all(|slot| row.slots.contains_key(&slot));
    let last = row.slots.values().map(|artifact| artifact.at).max().unwrap_or_default();
    (is_whole || !row.wanted.checks.is_empty()).then_some(last)
}

fn open_task(view: &RunView, node: Node, row: &NodeView, sent: Millis, began: Option<Millis>) -> Open {
    let run = &view.run;
    let policy = run.policy.stage(node.stage);
    let failed = row.wanted.failures.last().map(|note| note.at.plus(row.wanted.delay)).unwrap_or_default();
    let started = hedge::starts(row, policy).map(|started| started.at).max().unwrap_or_default();
    let asked = hedge::asked_at(row);
    let is_checked = !row.wanted.checks.is_empty();
    let is_trusted = is_checked || run.pipeline.stage(node.stage).kind.is_trusted();
    // What was taken before its run was demoted is still where it was taken from.
    let before = view.demoted.filter(|demoted| row.first_start().is_some_and(|at| at < demoted.at));
    let queue = match (is_checked, before) {
        (true, _) => work_queue(&Pool::trusted(), run.class_of_checks()),
        (false, Some(demoted)) => {
            work_queue(row.pool(row.wanted.attempt, policy), demoted.class_before(node, row.wanted.attempt))
        }
        (false, None) => work_queue(row.pool(row.wanted.attempt, policy), run.class_of(node, row.wanted.attempt)),
    };
    Open {
        node,
        attempt: row.wanted.attempt,
        queue,
        reports: if is_trusted { queue::VERDICTS } else { queue::RESULTS },
        since: sent.max(failed).max(started).max(asked),
        late: late(row, policy, began),
        patience: PATIENCE.max(policy.time_limit.plus(LATE)),
    }
}

fn late(row: &NodeView, policy: &StagePolicy, began: Option<Millis>) -> Option<Millis> {
    let starts = hedge::starts(row, policy).filter(|started| started.is_since(began));
    starts.filter(|_| row.wanted.checks.is_empty()).map(|started| late_at(started, policy)).min()
}

/// The first look at a part that was sent at `sent`.
pub fn first_look(sent: Millis, quiet: Millis) -> Millis {
    sent.plus(quiet)
}

/// Whether the look at a part that was sent at `sent` should have happened long ago: its timer was lost.
pub fn is_overdue(watch: Option<&Watch>, sent: Millis, quiet: Millis, now: Millis) -> bool {
    let due = watch.map_or(first_look(sent, quiet), |watch| watch.due);
    now > due.plus(quiet).plus(quiet)
}

/// Since when something has been so of a queue at every look, if it still is.
fn still_since(queue: &str, before: &BTreeMap<String, Millis>, now: &BTreeSet<String>) -> Option<Millis> {
    before.get(queue).copied().filter(|_| now.contains(queue))
}

/// What a look that saw `seen` leads to. `before`: what the last one left.
pub fn look(before: Option<&Watch>, seen: &Seen<'_>, quiet: Millis, now: Millis) -> Look {
    let fresh = Watch::default();
    let before = before.unwrap_or(&fresh);
    let since = |queue: &str| still_since(queue, &before.empty, seen.idle);
    let taken_since = |queue: &str| still_since(queue, &before.taken, seen.taken);
    let is_apart = before.looked.plus(quiet) <= now;

    let late_since = before.late.filter(|at| at.plus(RECHECK) <= now);
    let is_given_up = |task: &&Open| late_since.is_some_and(|at| task.late.is_some_and(|late| late <= at));
    let late: Vec<Node> = seen.open.iter().filter(is_given_up).map(|task| task.node).take(AT_MOST).collect();
    let is_lost = |task: &&Open| {
        since(&task.queue).is_some_and(|at| {
            let is_old_news = at.max(task.since).plus(PATIENCE) <= now;
            is_apart && task.since <= before.looked && (since(task.reports).is_some() || is_old_news)
        })
    };
    let is_kept = |task: &&Open| {
        let since = taken_since(&task.queue).filter(|_| task.late.is_none());
        since.is_some_and(|at| is_apart && at.max(task.since).plus(task.patience) <= now)
    };
    let open = seen.open.iter().filter(|task| !late.contains(&task.node));
    let lost = open.filter(|task| is_lost(task) || is_kept(task)).take(AT_MOST);
    let lost: Vec<&Open> = lost.collect();
    let reopen = seen.has_unsent && is_apart && since(queue::RANGES).is_some();

    let is_late_now = seen.open.iter().any(|task| task.late.is_some_and(|late| late <= now));
    let is_suspicious = is_late_now
        || seen.open.iter().any(|task| seen.idle.contains(&task.queue))
        || (seen.has_unsent && seen.idle.contains(queue::RANGES));
    let slowest = Millis(quiet.0.saturating_mul(SLOWEST));
    let every = if is_suspicious { quiet } else { before.every.plus(before.every).max(quiet).min(slowest) };
    // The next start to run late need not wait for that.
    let runs_late = seen.open.iter().filter_map(|task| task.late).filter(|late| *late > now).min();
    let earliest = now.plus(quiet.max(Millis(1)));
    let due = runs_late.map_or(now.plus(every), |late| late.min(now.plus(every))).max(earliest);

    // What was just sent to is not empty, whatever an old count says.
    let sent_to = |name: &String| lost.iter().any(|task| task.queue == *name) || (reopen && name == queue::RANGES);
    let noted = |before: &BTreeMap<String, Millis>, queues: &BTreeSet<String>| -> BTreeMap<String, Millis> {
        let queues = queues.iter().filter(|name| !sent_to(name));
        queues.map(|name| (name.clone(), before.get(name).copied().unwrap_or(now))).collect()
    };
    let (empty, taken) = (noted(&before.empty, seen.idle), noted(&before.taken, seen.taken));
    // With the time of its look those are done with that it saw.
    let late_next = before.late.filter(|_| late_since.is_none()).unwrap_or(now);
    let next = Watch { due, every, looked: now, late: is_late_now.then_some(late_next), empty, taken };
    Look {
        late,
        late_since: late_since.unwrap_or_default(),
        lost: lost.iter().map(|task| (task.node, task.attempt)).collect(),
        reopen,
        next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Millis = Millis::from_secs(60);
    const WORK: &str = "work-gpu-standard";

    fn task(index: u32, since: u64, late: Option<u64>) -> Open {
        Open {
            node: Node::new(1, 0, index),
            attempt: Attempt(2),
            queue: WORK.to_owned(),
            reports: queue::RESULTS,
            since: Millis::from_secs(since),
            late: late.map(Millis::from_secs),
            patience: PATIENCE,
        }
    }

    /// Looks at these tasks at the times given, each with the queues that are empty then, or in which, for `taken`, nothing waits.
    fn looks_at(open: &[Open], times: &[(u64, &[&str])], is_taken: bool) -> Vec<Look> {
        let mut watch = None;
        let mut found = Vec::new();
        let none = BTreeSet::new();
        for (at, named) in times {
            let named: BTreeSet<String> = named.iter().map(|name| (*name).to_owned()).collect();
            let idle = if is_taken { &none } else { &named };
            let seen = Seen { open, has_unsent: false, idle, taken: &named };
            let look = look(watch.as_ref(), &seen, QUIET, Millis::from_secs(*at));
            watch = Some(look.next.clone());
            found.push(look);
        }
        found
    }

    fn looks(open: &[Open], times: &[(u64, &[&str])]) -> Vec<Look> {
        looks_at(open, times, false)
    }

    fn lost(open: &[Open], times: &[(u64, &[&str])]) -> Vec<usize> {
        looks(open, times).iter().map(|look| look.lost.len()).collect()
    }

    const ALL: &[&str] = &[WORK, queue::RESULTS];

    #[test]
    fn a_task_is_sent_again_when_two_looks_apart_saw_its_queues_empty() {
        let open = [task(0, 10, None)];
        assert_eq!(lost(&open, &[(100, ALL), (160, ALL)]), [0, 1]);
        assert_eq!(lost(&open, &[(100, ALL), (159, ALL)]), [0, 0], "too soon after the first");
        assert_eq!(lost(&open, &[(100, ALL), (160, &[]), (220, ALL), (280, ALL)]), [0, 0, 0, 1], "not empty between");
        assert_eq!(lost(&open, &[(100, &[WORK]), (160, &[WORK])]), [0, 0], "its report may be on its way");
        assert_eq!(lost(&open, &[(100, &[queue::RESULTS]), (160, &[queue::RESULTS])]), [0, 0], "a backlog");
        assert_eq!(lost(&open, &[(100, ALL), (160, ALL), (220, ALL), (280, ALL)]), [0, 1, 0, 1], "counted anew");
    }

    #[test]
    fn a_task_that_was_sent_after_its_queue_was_seen_empty_is_not_lost() {
        let times: &[(u64, &[&str])] = &[(100, ALL), (160, ALL)];
        assert_eq!(lost(&[task(0, 99, None), task(1, 100, None), task(2, 101, None)], times), [0, 2]);
        // It is by the look after, also where the queue has been seen empty all along.
        let times: &[(u64, &[&str])] = &[(100, ALL), (160, ALL), (220, ALL), (280, ALL)];
        assert_eq!(lost(&[task(2, 130, None)], times), [0, 0, 1, 0]);
    }

    #[test]
    fn reports_that_never_end_are_waited_for_within_reason() {
        let open = [task(0, 10, None)];
        let busy: &[&str] = &[WORK];
        assert_eq!(lost(&open, &[(100, busy), (400, busy), (639, busy), (700, busy)]), [0, 0, 0, 1]);
        assert_eq!(lost(&[task(0, 101, None)], &[(100, busy), (400, busy), (639, busy), (700, busy)]), [0, 0, 0, 0]);
    }

    #[test]
    fn a_task_that_somebody_keeps_without_a_word_is_sent_again() {
        let kept = |open: &[Open], times: &[(u64, &[&str])]| -> Vec<usize> {
            looks_at(open, times, true).iter().map(|look| look.lost.len()).collect()
        };
        let open = [task(0, 10, None)];
        let work: &[&str] = &[WORK];
        assert_eq!(kept(&open, &[(100, work), (400, work), (639, work), (700, work)]), [0, 0, 0, 1]);
        assert_eq!(
            kept(&open, &[(100, work), (400, &[]), (639, work), (700, work)]),
            [0; 4],
            "others waited in between"
        );
        assert_eq!(
            kept(&open, &[(100, work), (700, work), (800, work), (1_300, work), (1_400, work)]),
            [0, 1, 0, 0, 1]
        );
        let started = [task(0, 10, Some(10_000))];
        assert_eq!(kept(&started, &[(100, work), (700, work)]), [0, 0], "its start has a limit of its own");
        let later = [task(0, 200, None)];
        assert_eq!(kept(&later, &[(100, work), (700, work), (800, work)]), [0, 0, 1]);
    }

    #[test]
    fn age_alone_loses_nothing() {
        let open = [task(0, 0, None)];
        assert_eq!(lost(&open, &[(100_000, &[]), (200_000, &[]), (300_000, &[])]), [0, 0, 0]);
    }

    #[test]
    fn a_start_is_given_up_when_an_earlier_look_saw_it_late() {
        let open = [task(0, 10, Some(90)), task(1, 10, Some(130))];
        let late = |times: &[(u64, &[&str])]| -> Vec<Vec<Node>> {
            looks(&open, times).into_iter().map(|look| look.late).collect()
        };
        let first = vec![open[0].node];
        let second = vec![open[0].node, open[1].node];
        let times: &[(u64, &[&str])] = &[(100, &[]), (160, &[]), (219, &[]), (220, &[])];
        assert_eq!(late(times), [vec![], first.clone(), vec![], second], "the other was not late at 100, but at 160");
        assert_eq!(late(&[(100, &[]), (130, &[])]), [vec![], vec![]]);
        // After a standstill of a day the first look sees it, and its task has time to be handed out again.
        assert_eq!(late(&[(50, &[]), (86_400, &[]), (86_410, &[])]), [vec![], vec![], vec![]]);
        let found = looks(&open, &[(100, ALL), (160, ALL)]);
        assert_eq!((found[1].late.clone(), found[1].lost.len()), (first, 1), "what is given up is not sent again, too");
    }

    #[test]
    fn looks_get_rarer_while_nothing_is_suspicious() {
        let pauses = |open: &[Open], idle: &[&str]| -> Vec<u64> {
            let mut watch: Option<Watch> = None;
            let idle: BTreeSet<String> = idle.iter().map(|name| (*name).to_owned()).collect();
            let mut now = Millis::from_secs(1_000);
            let mut found = Vec::new();
            for _ in 0..5 {
                let seen = Seen { open, has_unsent: false, idle: &idle, taken: &idle };
                let next = look(watch.as_ref(), &seen, QUIET, now).next;
                found.push(next.due.since(now).0 / 1000);
                now = next.due;
                watch = Some(next);
            }
            found
        };
        assert_eq!(pauses(&[task(0, 10, None)], &[]), [60, 120, 240, 240, 240]);
        assert_eq!(pauses(&[task(0, 1_060, None)], &[WORK]), [60, 60, 60, 60, 60], "somebody should be at work");
        assert_eq!(pauses(&[], &[]), [60, 120, 240, 240, 240], "nothing open, and the run goes on");
        assert_eq!(pauses(&[task(0, 10, Some(1_300))], &[])[..4], [60, 120, 120, 60], "for the start's own time");
    }

    #[test]
    fn a_lost_range_is_sent_again_like_a_lost_task() {
        let idle: BTreeSet<String> = [queue::RANGES.to_owned()].into();
        let seen = Seen { open: &[], has_unsent: true, idle: &idle, taken: &idle };
        let first = look(None, &seen, QUIET, Millis::from_secs(100));
        assert!(!first.reopen);
        let second = look(Some(&first.next), &seen, QUIET, Millis::from_secs(160));
        assert!(second.reopen);
        assert!(!look(Some(&second.next), &seen, QUIET, Millis::from_secs(220)).reopen, "and only once");
        let sent = Seen { has_unsent: false, ..seen };
        assert!(!look(Some(&first.next), &sent, QUIET, Millis::from_secs(160)).reopen);
    }

    #[test]
    fn only_a_range_that_waits_while_the_queue_of_ranges_is_empty_keeps_looks_frequent() {
        let every = |has_unsent, is_idle: bool| {
            let idle: BTreeSet<String> = is_idle.then(|| queue::RANGES.to_owned()).into_iter().collect();
            let seen = Seen { open: &[], has_unsent, idle: &idle, taken: &idle };
            let before = Watch { every: QUIET, ..Watch::default() };
            look(Some(&before), &seen, QUIET, Millis::from_secs(1_000)).next.every
        };
        let rarer = QUIET.plus(QUIET);
        assert_eq!(every(true, true), QUIET);
        assert_eq!(every(true, false), rarer, "ranges are on their way");
        assert_eq!(every(false, true), rarer, "this run waits for none");
    }

    #[test]
    fn a_timer_is_overdue_when_its_look_should_have_happened_long_ago() {
        let watch = Watch { due: Millis::from_secs(500), ..Watch::default() };
        assert!(!is_overdue(Some(&watch), Millis(0), QUIET, Millis::from_secs(620)));
        assert!(is_overdue(Some(&watch), Millis(0), QUIET, Millis::from_secs(621)));
        assert!(!is_overdue(None, Millis::from_secs(100), QUIET, Millis::from_secs(280)));
        assert!(is_overdue(None, Millis::from_secs(100), QUIET, Millis::from_secs(281)));
    }
}
