//! What a failure leads to. Decided here, centrally, from the node's row; a worker only reports.
//!
//! - Only a failure of the node's current attempt moves it, and only one of whoever has the task: not of a worker from whom another took it over
//!   when its lease ran out.
//! - `retryable`: again, later, and not on the worker that failed if another is to be had.
//! - `out_of_memory`: in the stage's larger pool, at once; that costs no attempt. Where there is none, or it is there already: as `retryable`.
//!   Of an attempt in several copies one that ran out of memory is enough, whatever became of the others.
//! - Lost, with a worker that ended or fell silent: again, and never on that worker. Counted apart, with a limit of its own. A task that
//!   nobody else takes for long fails its block, with the way out in the reason: it does not wait for ever.
//! - `permanent`: from the trusted pool the block fails; from elsewhere a second worker must say the same.
//! - `bad_input`: from the trusted pool the accused children are revoked. From elsewhere the trusted pool checks them against the segments
//!   they cover, where their stages' provers can (`check` of the policy), and what is unsound is revoked; where they cannot, they are
//!   revoked when somebody else accuses the same children, with the same bytes, and until then it counts as retryable.
//! - What was revoked may have been made from something unsound by an honest prover, so its own children are checked before it is made again.
//! - `bad_input` about what `split` stored, once it is repeated by another worker: the run is spoiled, and another one splits anew.
//! - When the attempts are used up the block fails. Failures are counted, not the attempts that revocations begin.
//! - Each task waits between half of its stage's back-off and the whole: which, is drawn from its name.
//!
//! "Another worker" is another *principal*: one that presented another token. Workers of one token count as one voice, and one token alone
//! must fail [`ALONE`] times as often before it costs a block.

use std::collections::BTreeSet;

use crate::error_code::ErrorCode;
use crate::id::{Attempt, Millis, Principal, Sha256, TaskId, WorkerId};
use crate::message::{FailureKind, Finding, Handout, TaskMessage};
use crate::pipeline::StagePolicy;
use crate::record::{FailureNote, MAX_ERROR, NodeView, Started, Try, clip_middle};

use super::hedge::{self, Standing};
use super::{Ignored, kind_name};

/// Failures remembered a node: the newest.
const MAX_NOTES: usize = 8;

/// Longest message kept with a note, bytes: eight notes must stay well within a row.
const NOTE: usize = MAX_ERROR / 8;

/// Most children accused at once: a revocation of them all is one transaction, of three writes a child and one more.
const MAX_ACCUSED: usize = 8;

/// Most workers a task avoids: with more, a small pool would have nobody left.
const MAX_AVOID: usize = 2;

/// One token alone uses a task's attempts up when it has failed so many times as often as two would have to. What stands between a
/// single bad host and the block: the server hands a task to whom it shall avoid only when nobody else has taken it.
const ALONE: u32 = 2;

/// What a worker has, beside the prover's time limit, to fetch inputs, to store an artifact of the largest size, and to report.
pub(super) const LATE: Millis = Millis::from_secs(60);

/// So often at least a task comes back from the dead letters before nobody is left to take it. Each time it was handed out as often as its
/// queue allows, and handed back later and later.
const RETURNS: u32 = 3;

/// A failed attempt as reported, or as found in the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub task: TaskId,
    pub worker: Option<WorkerId>,
    /// Whose token the worker presented; none for local workers.
    pub by: Option<Principal>,
    pub kind: FailureKind,
    pub message: String,
    /// Positions among the inputs.
    pub children: Vec<u32>,
    /// Whether it comes from the trusted pool.
    pub trusted: bool,
    /// Slots whose artifacts the trusted pool can check.
    pub can_check: BTreeSet<u32>,
    /// Which delivery of the task its worker had in hand.
    pub handout: Option<Handout>,
    pub at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Set the node's `try` to this.
    Again(Try),
    /// Revoke these children's artifacts, and set the node's `try` to this, in one transaction.
    Revoke { children: Vec<(u32, Sha256)>, then: Try },
    /// Set the node's `try` to this, and have the trusted pool check what its `checks` name.
    Check(Try),
    /// End the run for this reason: what `split` stored cannot be used.
    Spoil(String),
    /// Set the node's `try` to this, which only remembers the last failure, then fail the block for this reason.
    Fail { reason: String, then: Try },
    /// Send the current attempt again as it is: it never started.
    Resend,
    /// The same, once the node's `try` is set to this, which counts it.
    Return(Try),
}

/// What `failure` of the node with row `view` leads to.
pub fn on_failure(view: &NodeView, failure: &Failure, policy: &StagePolicy) -> Result<Decision, Ignored> {
    if failure.task.attempt != view.wanted.attempt {
        return Err(Ignored::Stale);
    }
    let start = view.start_of(failure.task.attempt, failure.task.copy);
    if start.is_some_and(|start| start.has_taken_over_from(failure.handout)) {
        return Err(Ignored::Stale);
    }
    let standing = hedge::standing(view, failure, policy);
    match standing {
        Standing::Unknown => return Err(Ignored::Unknown),
        Standing::Noted => return Err(Ignored::Settled),
        Standing::OneOfSeveral | Standing::Last => {}
    }
    let note = note(view, failure);
    if is_confirmed_permanent(view, failure) {
        // The trusted pool runs `split` and `verify`: what they cannot do is wrong with the block.
        let code = if failure.trusted { ErrorCode::BadBlock } else { ErrorCode::PermanentFailure };
        return Ok(fail(view, note, code, ""));
    }
    let moves = ran_out_of_memory(view, failure) && can_move(view, failure, policy);
    let is_used_up = !moves && is_used_up(view, failure, policy);
    if spoils(view, failure, is_used_up) {
        return Ok(Decision::Spoil(ErrorCode::SplitDamaged.says(reason(&note, ""))));
    }
    if standing == Standing::OneOfSeveral {
        return Ok(Decision::Again(noted(view, note)));
    }
    if failure.kind == FailureKind::Lost {
        return Ok(on_lost(view, failure, note, policy));
    }
    if is_used_up {
        let exhausted = format!(" ({} attempts used up)", view.wanted.failed + 1);
        return Ok(fail(view, note, ErrorCode::AttemptsUsedUp, &exhausted));
    }
    let checks = due_checks(view, &note, failure);
    if !checks.is_empty() {
        let then = if moves { moved(view, note) } else { next_try(view, failure, note, policy) };
        // A verifier that finds the root bad has not failed.
        let failed = then.failed - u32::from(failure.worker.is_none() && !moves);
        return Ok(Decision::Check(Try { checks, failed, delay: Millis(0), ..then }));
    }
    let revoked = confirmed_accusations(view, &note, failure);
    let then = if moves { moved(view, note) } else { next_try(view, failure, note, policy) };
    if revoked.is_empty() { Ok(Decision::Again(then)) } else { Ok(Decision::Revoke { children: revoked, then }) }
}

/// What the check of an accused artifact leads to. The artifact's accuser has been given the next attempt already; it is sent when
/// nothing is left to check.
pub fn on_checked(view: &NodeView, slot: u32, artifact: Sha256, finding: Finding) -> Result<Decision, Ignored> {
    if !view.wanted.checks.contains(&(slot, artifact)) {
        return Err(Ignored::Settled);
    }
    let mut then = view.wanted.clone();
    then.checks.retain(|check| *check != (slot, artifact));
    if finding == Finding::Unsound {
        // Whoever said so was right: it need not be kept from its own task.
        let said_so = |worker: &WorkerId| {
            let by = |note: &&FailureNote| note.worker.as_ref() == Some(worker);
            view.wanted.failures.iter().filter(by).any(|note| note.accused.contains(&(slot, artifact)))
        };
        then.avoid.retain(|worker| !said_so(worker));
    }
    match finding {
        Finding::Sound => Ok(Decision::Again(then)),
        Finding::Unsound | Finding::Unknown => Ok(Decision::Revoke { children: vec![(slot, artifact)], then }),
    }
}

/// What a task in the dead-letter queue leads to: one that no worker started goes out again as it is; one that was started has cost
/// its workers their leases over and over. `began`: when the queues' own process began, where it and its workers end together
/// ([`Started::is_since`]).
pub fn on_dead_letter(
    view: &NodeView,
    task: &TaskMessage,
    policy: &StagePolicy,
    began: Option<Millis>,
    at: Millis,
) -> Result<Decision, Ignored> {
    if task.id.attempt != view.wanted.attempt {
        return Err(Ignored::Stale);
    }
    let copy = task.id.copy;
    match view.start_now(copy).filter(|started| started.is_since(began)) {
        None if view.has_failed(copy) => Err(Ignored::Settled),
        None if view.wanted.barred.is_empty() => Ok(Decision::Resend),
        None if hedge::starts(view, policy).any(|started| started.is_since(began)) => Ok(Decision::Resend),
        None => Ok(on_returned(view, task, policy, at)),
        Some(started) => {
            let why = "no worker finished it before its lease ran out, as often as the queue allows";
            on_failure(view, &lost(&task.id, started, why, at), policy)
        }
    }
}

/// What it leads to that a copy of the node's attempt started so long ago that it was past its limit at `since`, and nothing was heard of it.
/// `task`: any task of the node. `began` as for [`on_dead_letter`].
pub fn on_late(
    view: &NodeView,
    task: &TaskId,
    policy: &StagePolicy,
    began: Option<Millis>,
    since: Millis,
    at: Millis,
) -> Result<Decision, Ignored> {
    let is_late = |started: &Started| started.is_since(began) && late_at(started, policy) <= since;
    match hedge::late_start(view, policy, is_late) {
        None => Err(Ignored::Settled),
        Some((copy, started)) => {
            let why = "a worker started it, and said nothing more until long after its time was up";
            let task = TaskId { attempt: started.attempt, copy, ..task.clone() };
            on_failure(view, &lost(&task, started, why, at), policy)
        }
    }
}

/// A task that others than those barred from it might have taken, and did not, for longer than they may be busy with another.
fn on_returned(view: &NodeView, task: &TaskMessage, policy: &StagePolicy, at: Millis) -> Decision {
    let wanted = &view.wanted;
    let returned = wanted.returned.saturating_add(1);
    let last = wanted.failures.last().map(|note| note.at).unwrap_or_default();
    if returned < RETURNS || at < last.plus(policy.time_limit).plus(LATE) {
        return Decision::Return(Try { returned, ..wanted.clone() });
    }
    let pool = &task.pool;
    let what = format!(
        "it was lost with {}, and no other worker of pool {pool} takes it: start another worker there, then retry the block; where they \
         are well again and nothing was wrong with the task, retry the block",
        names(&wanted.barred)
    );
    Decision::Fail { reason: ErrorCode::NobodyMayTake.says(what), then: wanted.clone() }
}

/// From when on a start is not believed any more: the prover's time is up, and its worker has had time to say so.
pub fn late_at(started: &Started, policy: &StagePolicy) -> Millis {
    started.at.plus(policy.time_limit).plus(LATE)
}

fn lost(task: &TaskId, started: &Started, why: &str, at: Millis) -> Failure {
    Failure {
        task: task.clone(),
        worker: Some(started.worker.clone()),
        by: started.by.clone(),
        kind: FailureKind::Lost,
        message: ErrorCode::LostTask.says(why),
        children: vec![],
        trusted: false,
        can_check: BTreeSet::new(),
        handout: None,
        at,
    }
}

fn note(view: &NodeView, failure: &Failure) -> FailureNote {
    // A worker of another version may name no code.
    let message = ErrorCode::ProverReportedFailure.says(&failure.message);
    let named: BTreeSet<u32> = failure.children.iter().copied().collect();
    let accused = named.into_iter().filter_map(|slot| Some((slot, view.slots.get(&slot)?.blob.sha256)));
    FailureNote {
        attempt: failure.task.attempt,
        copy: failure.task.copy,
        worker: failure.worker.clone(),
        by: failure.by.clone(),
        kind: failure.kind,
        message: clip_middle(&message, NOTE),
        accused: accused.take(MAX_ACCUSED).collect(),
        at: failure.at,
    }
}

/// The last failure is remembered like those before it: for people. A redelivered report is remembered once.
fn fail(view: &NodeView, note: FailureNote, code: ErrorCode, suffix: &str) -> Decision {
    let reason = code.says(reason(&note, suffix));
    let mut wanted = view.wanted.clone();
    wanted.failures.retain(|known| (known.attempt, known.copy) != (note.attempt, note.copy));
    Decision::Fail { reason, then: Try { failures: remembered(wanted.failures, note), ..wanted } }
}

/// A copy has failed, and another of its attempt is out.
fn noted(view: &NodeView, note: FailureNote) -> Try {
    let wanted = view.wanted.clone();
    let (avoid, barred, lost) = match note.kind {
        FailureKind::Lost => (wanted.avoid, bar(wanted.barred, note.worker.as_ref()), wanted.lost + 1),
        _ => (avoid(&wanted.avoid, note.worker.as_ref()), wanted.barred, wanted.lost),
    };
    Try { avoid, barred, lost, failures: remembered(wanted.failures, note), ..view.wanted.clone() }
}

fn remembered(mut failures: Vec<FailureNote>, note: FailureNote) -> Vec<FailureNote> {
    failures.push(note);
    let surplus = failures.len().saturating_sub(MAX_NOTES);
    failures.drain(..surplus);
    failures
}

fn reason(note: &FailureNote, suffix: &str) -> String {
    format!("{}: {}{suffix}", kind_name(note.kind), note.message)
}

/// Whether an earlier failure was somebody else's. Notes of before tokens had names have a worker only.
fn is_anothers(note: &FailureNote, failure: &Failure) -> bool {
    match (&note.by, &failure.by) {
        (Some(one), Some(other)) => one != other,
        (Some(one), None) => !failure.worker.as_ref().is_some_and(|worker| one.speaks_as(worker)),
        (None, Some(other)) => !note.worker.as_ref().is_some_and(|worker| other.speaks_as(worker)),
        (None, None) => note.worker != failure.worker,
    }
}

/// How often the task may fail, where so often is configured.
fn limit(view: &NodeView, failure: &Failure, configured: u32) -> u32 {
    let is_alone = failure.by.is_some() && !view.wanted.failures.iter().any(|note| is_anothers(note, failure));
    if is_alone { configured.saturating_mul(ALONE) } else { configured }
}

/// No attempt is left.
fn is_used_up(view: &NodeView, failure: &Failure, policy: &StagePolicy) -> bool {
    view.wanted.failed + 1 >= limit(view, failure, policy.attempts)
}

/// Whether a copy of the attempt ran out of memory.
fn ran_out_of_memory(view: &NodeView, failure: &Failure) -> bool {
    let of_this = view.wanted.failures.iter().filter(|note| note.attempt == failure.task.attempt).map(|note| note.kind);
    of_this.chain([failure.kind]).any(|kind| kind == FailureKind::OutOfMemory)
}

/// Whether there is a larger pool that the task has not been in. What the trusted pool reports is of its own provers.
fn can_move(view: &NodeView, failure: &Failure, policy: &StagePolicy) -> bool {
    !failure.trusted && policy.larger_pool.is_some() && view.wanted.larger_from.is_none()
}

/// The next attempt, in the larger pool: nothing there has failed yet, so there is nothing to wait for and nobody to avoid.
fn moved(view: &NodeView, note: FailureNote) -> Try {
    let wanted = &view.wanted;
    let attempt = wanted.attempt.next();
    Try {
        attempt,
        delay: Millis(0),
        avoid: Vec::new(),
        failures: remembered(wanted.failures.clone(), note),
        returned: 0,
        larger_from: Some(attempt),
        checks: Vec::new(),
        ..wanted.clone()
    }
}

/// An attempt that its worker did not outlive.
fn on_lost(view: &NodeView, failure: &Failure, note: FailureNote, policy: &StagePolicy) -> Decision {
    let barred = bar(view.wanted.barred.clone(), failure.worker.as_ref());
    let lost = view.wanted.lost + 1;
    if lost >= limit(view, failure, policy.lost_attempts) {
        let suffix = format!(" ({lost} attempts were lost with their workers: {})", names(&barred));
        return fail(view, note, ErrorCode::WorkersLost, &suffix);
    }
    if ran_out_of_memory(view, failure) && can_move(view, failure, policy) {
        return Decision::Again(Try { lost, barred, ..moved(view, note) });
    }
    let Try { failed, avoid, .. } = &view.wanted;
    let (failed, avoid) = (*failed, avoid.clone());
    Decision::Again(Try { failed, avoid, lost, barred, ..next_try(view, failure, note, policy) })
}

fn bar(mut barred: Vec<WorkerId>, lost: Option<&WorkerId>) -> Vec<WorkerId> {
    barred.extend(lost.filter(|worker| !barred.contains(worker)).cloned().into_iter().collect::<Vec<_>>());
    barred
}

fn names(workers: &[WorkerId]) -> String {
    workers.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(", ")
}

/// What no attempt can mend.
fn is_confirmed_permanent(view: &NodeView, failure: &Failure) -> bool {
    let by_another = |note: &FailureNote| note.kind == FailureKind::Permanent && is_anothers(note, failure);
    failure.kind == FailureKind::Permanent && (failure.trusted || view.wanted.failures.iter().any(by_another))
}

/// An input that is no child's artifact (a segment, the header) is not made again by another attempt: only by another run. A single bad
/// read accuses, too, so it takes a second one, by another worker unless it is the trusted pool's; or all attempts.
fn spoils(view: &NodeView, failure: &Failure, is_used_up: bool) -> bool {
    let accuses_a_child = failure.children.iter().any(|slot| view.slots.contains_key(slot));
    if failure.kind != FailureKind::BadInput || accuses_a_child {
        return false;
    }
    let confirms = |note: &FailureNote| {
        note.kind == FailureKind::BadInput && note.accused.is_empty() && (failure.trusted || is_anothers(note, failure))
    };
    is_used_up || view.wanted.failures.iter().any(confirms)
}

/// What the trusted pool is asked to look at: each accused artifact once for everybody who accuses it.
fn due_checks(view: &NodeView, note: &FailureNote, failure: &Failure) -> Vec<(u32, Sha256)> {
    if failure.trusted {
        return Vec::new();
    }
    let said_before = |accused: &(u32, Sha256)| {
        let earlier = view.wanted.failures.iter().filter(|earlier| earlier.accused.contains(accused));
        earlier.into_iter().any(|earlier| !is_anothers(earlier, failure))
    };
    let is_due = |accused: &&(u32, Sha256)| failure.can_check.contains(&accused.0) && !said_before(accused);
    note.accused.iter().filter(is_due).copied().collect()
}

/// What is revoked without a check: what the trusted pool accuses, and what cannot be checked and was accused before by somebody else, or
/// twice by whoever it was.
fn confirmed_accusations(view: &NodeView, note: &FailureNote, failure: &Failure) -> Vec<(u32, Sha256)> {
    let is_confirmed = |accused: &(u32, Sha256)| {
        let earlier = || view.wanted.failures.iter().filter(|earlier| earlier.accused.contains(accused));
        earlier().any(|earlier| is_anothers(earlier, failure)) || earlier().count() >= 2
    };
    let counts = |accused: &&(u32, Sha256)| {
        failure.trusted || (!failure.can_check.contains(&accused.0) && is_confirmed(accused))
    };
    note.accused.iter().filter(counts).copied().collect()
}

fn next_try(view: &NodeView, failure: &Failure, note: FailureNote, policy: &StagePolicy) -> Try {
    let attempt = view.wanted.attempt.next();
    let delay = delay_before(&TaskId { attempt, copy: 0, ..failure.task.clone() }, policy);
    let avoid = avoid(&view.wanted.avoid, note.worker.as_ref());
    let failures = remembered(view.wanted.failures.clone(), note);
    let failed = view.wanted.failed + 1;
    Try { attempt, delay, avoid, failures, failed, returned: 0, checks: Vec::new(), ..view.wanted.clone() }
}

/// Between half of the stage's back-off and the whole: tasks that failed together, as those of a worker that ended, do not come back together.
fn delay_before(task: &TaskId, policy: &StagePolicy) -> Millis {
    let whole = policy.backoff_before(task.attempt.0).0;
    let drawn = Sha256::of(task.to_string().as_bytes()).0;
    let drawn = u64::from_be_bytes(drawn[..8].try_into().expect("a digest has 32 bytes"));
    let spread = whole / 2;
    Millis(whole - drawn % (spread + 1))
}

/// The rows a revocation changes, beside the reader's `try`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// New floor of the reader's slot.
    pub floor: Attempt,
    /// New `try` of the child.
    pub child: Try,
}

/// Revokes slot `slot` of `reader` if it still holds `accused`. The child always gets a new attempt: whatever attempt it is at may have
/// been sent and dropped as settled while the accused artifact stood. It waits for a check of those of its own children that `can_check`
/// names by their slots.
pub fn revoke(
    reader: &NodeView,
    slot: u32,
    accused: Sha256,
    child: &NodeView,
    can_check: impl Fn(u32) -> bool,
) -> Option<Revocation> {
    let artifact = reader.slots.get(&slot).filter(|artifact| artifact.blob.sha256 == accused)?;
    let floor = artifact.attempt.next();
    let attempt = child.wanted.attempt.max(artifact.attempt).next();
    let avoid = avoid(&child.wanted.avoid, Some(&artifact.worker));
    let below = child.slots.iter().filter(|(slot, _)| can_check(**slot));
    let checks = below.map(|(slot, artifact)| (*slot, artifact.blob.sha256)).collect();
    let child = Try { attempt, delay: Millis(0), avoid, checks, returned: 0, ..child.wanted.clone() };
    Some(Revocation { floor, child })
}

/// The workers to avoid, with the latest to have failed: the last few of them.
fn avoid(before: &[WorkerId], failed: Option<&WorkerId>) -> Vec<WorkerId> {
    let mut avoid: Vec<WorkerId> = before.iter().filter(|worker| Some(*worker) != failed).cloned().collect();
    avoid.extend(failed.cloned());
    let surplus = avoid.len().saturating_sub(MAX_AVOID);
    avoid.drain(..surplus);
    avoid
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pipeline::Kind;
    use crate::record::{Artifact, BlobRef};

    fn policy() -> StagePolicy {
        StagePolicy { attempts: 4, backoff: Millis(500), ..StagePolicy::default_for(Kind::Join) }
    }

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    fn id(attempt: u32) -> TaskId {
        format!("demo/1/e1/0123456789abcdef/2.0.0/a{attempt}c0").parse().unwrap()
    }

    fn view() -> NodeView {
        let artifact = |byte: u8| Artifact {
            attempt: Attempt(1),
            blob: BlobRef { key: format!("k{byte}"), sha256: Sha256([byte; 32]), size: 1 },
            worker: worker("w-child"),
            at: Millis(0),
        };
        NodeView { slots: [(0, artifact(1)), (1, artifact(2))].into(), ..NodeView::default() }
    }

    fn failure(kind: FailureKind, by: &str, attempt: u32) -> Failure {
        Failure {
            task: id(attempt),
            worker: Some(worker(by)),
            by: None,
            kind,
            message: "why".to_owned(),
            children: vec![],
            trusted: false,
            can_check: BTreeSet::new(),
            handout: None,
            at: Millis(9),
        }
    }

    fn again(view: &NodeView, failure: &Failure) -> NodeView {
        match on_failure(view, failure, &policy()).unwrap() {
            Decision::Again(wanted) => NodeView { wanted, ..view.clone() },
            other => panic!("expected another attempt, got {other:?}"),
        }
    }

    #[test]
    fn a_retryable_failure_leads_to_the_next_attempt_elsewhere_and_later() {
        let after = again(&view(), &failure(FailureKind::Retryable, "w1", 1));
        assert_eq!(after.wanted.attempt, Attempt(2));
        assert_eq!(after.wanted.avoid, vec![worker("w1")]);
        assert_eq!(after.wanted.delay, delay_before(&id(2), &policy()));
        assert!((Millis(250)..=Millis(500)).contains(&after.wanted.delay), "{:?}", after.wanted.delay);
        assert_eq!(after.wanted.failures.len(), 1);
    }

    #[test]
    fn a_failure_of_another_attempt_than_the_current_moves_nothing() {
        for attempt in [0, 2] {
            let failure = failure(FailureKind::Permanent, "w1", attempt);
            assert_eq!(on_failure(&view(), &failure, &policy()), Err(Ignored::Stale));
        }
    }

    #[test]
    fn a_worker_from_whom_another_took_the_task_over_uses_up_no_attempt() {
        let handout = |sent_at, receives| Some(Handout { sent_at: Millis(sent_at), receives });
        let with = |handout| {
            let started = Started { attempt: Attempt(1), worker: worker("w2"), by: None, at: Millis(1), handout };
            NodeView { started: Some(started), ..view() }
        };
        let of = |handout| Failure { handout, ..failure(FailureKind::Retryable, "w1", 1) };
        let taken_over = with(handout(10, 3));
        // An earlier delivery of the same message, and one of an earlier message.
        for earlier in [handout(10, 2), handout(9, 7)] {
            assert_eq!(on_failure(&taken_over, &of(earlier), &policy()), Err(Ignored::Stale));
        }
        // Its own; one whose start nobody has told of yet; and where one of them does not say.
        for current in [handout(10, 3), handout(10, 4), handout(11, 1), None] {
            assert_eq!(again(&taken_over, &of(current)).wanted.failed, 1, "{current:?}");
        }
        assert_eq!(again(&with(None), &of(handout(10, 2))).wanted.failed, 1);
    }

    #[test]
    fn one_workers_permanent_does_not_cost_the_block_a_seconds_does() {
        let after = again(&view(), &failure(FailureKind::Permanent, "w1", 1));
        let same = on_failure(&after, &failure(FailureKind::Permanent, "w1", 2), &policy()).unwrap();
        assert!(matches!(same, Decision::Again(_)), "{same:?}");
        let second = on_failure(&after, &failure(FailureKind::Permanent, "w2", 2), &policy()).unwrap();
        let Decision::Fail { reason, then } = second else { panic!("{second:?}") };
        assert_eq!(reason, "P0-006: permanent: P0-116: why");
        assert_eq!((then.attempt, then.failures.len()), (Attempt(2), 2), "the last failure is remembered, too");
        let again = NodeView { wanted: then.clone(), ..after };
        let redelivered = on_failure(&again, &failure(FailureKind::Permanent, "w2", 2), &policy()).unwrap();
        assert_eq!(redelivered, Decision::Fail { reason, then }, "and once only");
    }

    #[test]
    fn workers_of_one_token_are_one_voice() {
        let by = |token: &str, worker: &str, kind, attempt| Failure {
            by: Some(token.parse().unwrap()),
            ..failure(kind, worker, attempt)
        };
        let after = again(&view(), &by("rack1", "rack1-a", FailureKind::Permanent, 1));
        let same = on_failure(&after, &by("rack1", "rack1-b", FailureKind::Permanent, 2), &policy()).unwrap();
        assert!(matches!(same, Decision::Again(_)), "another name is no confirmation: {same:?}");
        let other = on_failure(&after, &by("rack2", "rack2", FailureKind::Permanent, 2), &policy()).unwrap();
        assert!(matches!(other, Decision::Fail { .. }), "{other:?}");
        let local = on_failure(&after, &failure(FailureKind::Permanent, "local-gpu-1", 2), &policy()).unwrap();
        assert!(matches!(local, Decision::Fail { .. }), "{local:?}");
    }

    #[test]
    fn one_token_alone_does_not_use_up_a_tasks_attempts_for_all() {
        let by = |worker: &str, attempt| Failure {
            by: Some("rack1".parse().unwrap()),
            ..failure(FailureKind::Retryable, worker, attempt)
        };
        let mut after = view();
        for attempt in 1..8 {
            let worker = if attempt % 2 == 0 { "rack1-a" } else { "rack1-b" };
            after = again(&after, &by(worker, attempt));
        }
        assert!(
            matches!(on_failure(&after, &by("rack1-a", 8), &policy()), Ok(Decision::Fail { .. })),
            "but not for ever"
        );
        let seconded = on_failure(&after, &failure(FailureKind::Retryable, "w2", 8), &policy());
        assert!(matches!(seconded, Ok(Decision::Fail { .. })), "{seconded:?}");
    }

    #[test]
    fn the_trusted_pools_permanent_fails_the_block_at_once() {
        let failure = Failure { trusted: true, ..failure(FailureKind::Permanent, "t", 1) };
        assert!(matches!(on_failure(&view(), &failure, &policy()), Ok(Decision::Fail { .. })));
    }

    #[test]
    fn attempts_used_up_fail_the_block() {
        let mut after = view();
        for attempt in 1..4 {
            after = again(&after, &failure(FailureKind::Retryable, "w1", attempt));
        }
        let last = on_failure(&after, &failure(FailureKind::Retryable, "w1", 4), &policy()).unwrap();
        let Decision::Fail { reason, .. } = last else { panic!("{last:?}") };
        assert_eq!(reason, "P0-001: retryable: P0-116: why (4 attempts used up)");
    }

    #[test]
    fn an_accusation_is_believed_when_it_is_repeated_about_the_same_bytes() {
        let accuse = |by: &str, attempt| Failure { children: vec![1], ..failure(FailureKind::BadInput, by, attempt) };
        let after = again(&view(), &accuse("w1", 1));
        let decision = on_failure(&after, &accuse("w2", 2), &policy()).unwrap();
        let Decision::Revoke { children, then } = decision else { panic!("{decision:?}") };
        assert_eq!(children, vec![(1, Sha256([2; 32]))]);
        assert_eq!(then.attempt, Attempt(3));
        let mut replaced = after.clone();
        replaced.slots.get_mut(&1).unwrap().blob.sha256 = Sha256([7; 32]);
        let decision = on_failure(&replaced, &accuse("w2", 2), &policy()).unwrap();
        assert!(matches!(decision, Decision::Again(_)), "other bytes were accused: {decision:?}");
    }

    #[test]
    fn a_revocation_raises_the_floor_and_the_childs_attempt_but_only_for_the_accused_bytes() {
        let child = NodeView::default();
        let revocation = revoke(&view(), 1, Sha256([2; 32]), &child, |_| false).unwrap();
        assert_eq!(revocation.floor, Attempt(2));
        assert_eq!((revocation.child.attempt, revocation.child.avoid), (Attempt(2), vec![worker("w-child")]));
        assert_eq!(revoke(&view(), 1, Sha256([9; 32]), &child, |_| false), None);
        let ahead = NodeView { wanted: Try { attempt: Attempt(5), ..Try::default() }, ..child };
        let revocation = revoke(&view(), 1, Sha256([2; 32]), &ahead, |_| false).unwrap();
        assert_eq!(
            revocation.child.attempt,
            Attempt(6),
            "attempt 5 may have come and gone while the accused one stood"
        );
    }

    #[test]
    fn an_accusation_of_what_is_no_child_spoils_the_run_when_another_worker_repeats_it() {
        let header = |by: &str, attempt| Failure { children: vec![7], ..failure(FailureKind::BadInput, by, attempt) };
        let after = again(&view(), &header("w1", 1));
        assert!(matches!(on_failure(&after, &header("w1", 2), &policy()), Ok(Decision::Again(_))));
        assert!(matches!(on_failure(&after, &header("w2", 2), &policy()), Ok(Decision::Spoil(_))));
        let trusted = Failure { trusted: true, ..header("w1", 2) };
        assert!(matches!(on_failure(&after, &trusted, &policy()), Ok(Decision::Spoil(_))));
    }

    #[test]
    fn a_lone_worker_that_finds_a_segment_bad_at_every_attempt_spoils_the_run_and_does_not_fail_the_block() {
        let mut after = NodeView::default();
        let bad = |attempt| Failure { children: vec![0], ..failure(FailureKind::BadInput, "w1", attempt) };
        for attempt in 1..4 {
            after = again(&after, &bad(attempt));
        }
        assert!(matches!(on_failure(&after, &bad(4), &policy()), Ok(Decision::Spoil(_))));
    }

    #[test]
    fn an_accusation_that_can_be_checked_waits_for_the_check_and_only_what_is_unsound_is_revoked() {
        let accuse = Failure {
            children: vec![0, 1],
            can_check: BTreeSet::from([0, 1]),
            ..failure(FailureKind::BadInput, "w1", 1)
        };
        let Ok(Decision::Check(wanted)) = on_failure(&view(), &accuse, &policy()) else { panic!("not checked") };
        let (first, second) = (Sha256([1; 32]), Sha256([2; 32]));
        assert_eq!(wanted.checks, vec![(0, first), (1, second)]);
        assert_eq!((wanted.attempt, &wanted.avoid), (Attempt(2), &vec![worker("w1")]));
        let waiting = NodeView { wanted, ..view() };
        let Ok(Decision::Again(then)) = on_checked(&waiting, 0, first, Finding::Sound) else { panic!("sound") };
        assert_eq!((then.attempt, &then.checks), (Attempt(2), &vec![(1, second)]));
        let left = NodeView { wanted: then, ..view() };
        let Ok(Decision::Revoke { children, then }) = on_checked(&left, 1, second, Finding::Unsound) else {
            panic!("unsound")
        };
        assert_eq!((children, then.checks), (vec![(1, second)], vec![]));
        assert_eq!(on_checked(&left, 0, first, Finding::Unsound), Err(Ignored::Settled), "answered already");
    }

    #[test]
    fn a_revocation_costs_no_attempt_and_who_accused_rightly_is_not_kept_from_its_task() {
        let accuse = Failure {
            children: vec![1, 99],
            can_check: BTreeSet::from([0, 1]),
            ..failure(FailureKind::BadInput, "w1", 1)
        };
        let Ok(Decision::Check(wanted)) = on_failure(&view(), &accuse, &policy()) else { panic!("not checked") };
        assert_eq!(wanted.checks, vec![(1, Sha256([2; 32]))], "what is not there changes nothing");
        let waiting = NodeView { wanted, ..view() };
        let decision = on_checked(&waiting, 1, Sha256([2; 32]), Finding::Unsound);
        let Ok(Decision::Revoke { then, .. }) = decision else { panic!("{decision:?}") };
        assert_eq!((then.avoid, then.failed), (vec![], 1));
        let mut child = NodeView::default();
        for attempt in 1..10 {
            child.wanted.attempt = Attempt(attempt);
            let revoked = revoke(&view(), 1, Sha256([2; 32]), &child, |_| false).unwrap();
            child.wanted = revoked.child;
        }
        let hiccup = failure(FailureKind::Retryable, "w1", child.wanted.attempt.0);
        assert!(matches!(on_failure(&child, &hiccup, &policy()), Ok(Decision::Again(_))));
    }

    #[test]
    fn what_one_host_accuses_again_is_not_checked_again_and_not_believed_for_that() {
        let accuse = |by: &str, attempt| Failure {
            children: vec![1],
            can_check: BTreeSet::from([1]),
            ..failure(FailureKind::BadInput, by, attempt)
        };
        let Ok(Decision::Check(wanted)) = on_failure(&view(), &accuse("w1", 1), &policy()) else { panic!("first") };
        let sound = NodeView { wanted: Try { checks: vec![], ..wanted }, ..view() };
        assert!(matches!(on_failure(&sound, &accuse("w1", 2), &policy()), Ok(Decision::Again(_))));
        assert!(matches!(on_failure(&sound, &accuse("w2", 2), &policy()), Ok(Decision::Check(_))), "another voice");
    }

    #[test]
    fn what_a_revoked_artifact_was_made_from_is_checked_before_it_is_made_again() {
        let child = view();
        let revocation = revoke(&view(), 1, Sha256([2; 32]), &child, |slot| slot == 0).unwrap();
        assert_eq!(revocation.child.checks, vec![(0, Sha256([1; 32]))]);
    }

    #[test]
    fn children_named_twice_are_accused_once() {
        let accuse = Failure { children: vec![1, 1, 0, 1], ..failure(FailureKind::BadInput, "w1", 1) };
        assert_eq!(again(&view(), &accuse).wanted.failures[0].accused.len(), 2);
    }

    #[test]
    fn a_copy_that_fails_moves_the_attempt_only_when_no_other_is_out() {
        let two = StagePolicy { copies: 2, ..policy() };
        let of_copy = |copy, by| Failure { task: TaskId { copy, ..id(1) }, ..failure(FailureKind::Retryable, by, 1) };
        let Ok(Decision::Again(noted)) = on_failure(&view(), &of_copy(1, "w2"), &two) else { panic!("not noted") };
        assert_eq!((noted.attempt, noted.failed, noted.failures.len()), (Attempt(1), 0, 1));
        assert_eq!(noted.avoid, [worker("w2")]);
        let noted = NodeView { wanted: noted, ..view() };
        assert_eq!(on_failure(&noted, &of_copy(1, "w2"), &two), Err(Ignored::Settled), "delivered again");
        assert_eq!(on_failure(&noted, &of_copy(2, "w2"), &two), Err(Ignored::Unknown), "was never sent");
        let Ok(Decision::Again(moved)) = on_failure(&noted, &of_copy(0, "w1"), &two) else { panic!("not moved") };
        assert_eq!((moved.attempt, moved.failed, moved.failures.len()), (Attempt(2), 1, 2));
        // A copy that was asked for later counts, too.
        let hedges =
            crate::record::Hedges { attempt: Attempt(1), asked: 1, sent: 0, reserved: Millis(0), at: Millis(0) };
        let hedged = NodeView { hedges: Some(hedges), ..noted };
        let Ok(Decision::Again(noted)) = on_failure(&hedged, &of_copy(0, "w1"), &two) else { panic!("not noted") };
        assert_eq!((noted.attempt, noted.failed), (Attempt(1), 0));
    }

    #[test]
    fn two_workers_that_call_copies_of_an_attempt_permanent_agree() {
        let two = StagePolicy { copies: 2, ..policy() };
        let of_copy = |copy, by| Failure { task: TaskId { copy, ..id(1) }, ..failure(FailureKind::Permanent, by, 1) };
        let Ok(Decision::Again(noted)) = on_failure(&view(), &of_copy(0, "w1"), &two) else { panic!("not noted") };
        let second = on_failure(&NodeView { wanted: noted, ..view() }, &of_copy(1, "w2"), &two);
        assert!(matches!(&second, Ok(Decision::Fail { then, .. }) if then.failures.len() == 2), "{second:?}");
    }

    #[test]
    fn a_copy_is_given_up_and_comes_to_the_dead_letters_for_itself() {
        let two = StagePolicy { copies: 2, ..policy() };
        let start =
            |name, at| Started { attempt: Attempt(1), worker: worker(name), by: None, at: Millis(at), handout: None };
        let limit = two.time_limit.plus(LATE);
        let view =
            NodeView { started: Some(start("w1", 90_000)), copies_started: [(1, start("w2", 1_000))].into(), ..view() };
        let past = limit.plus(Millis(1_000));
        let Ok(Decision::Again(noted)) = on_late(&view, &id(1), &two, None, past, past) else { panic!("not late") };
        assert_eq!((noted.attempt, noted.failures[0].copy, noted.lost), (Attempt(1), 1, 1));
        assert_eq!(noted.barred, [worker("w2")], "from the attempt's other copies, too");
        let noted = NodeView { wanted: noted, ..view };
        assert_eq!(on_late(&noted, &id(1), &two, None, past, past), Err(Ignored::Settled), "the other is not late");
    }

    #[test]
    fn a_start_that_was_past_its_limit_already_when_somebody_looked_before_counts_as_lost() {
        let limit = policy().time_limit.plus(LATE);
        let started = |attempt| Started {
            attempt: Attempt(attempt),
            worker: worker("w1"),
            by: None,
            at: Millis(1_000),
            handout: None,
        };
        let view = NodeView { started: Some(started(1)), ..view() };
        let (past, now) = (limit.plus(Millis(1_000)), limit.plus(Millis(99_000)));
        let late = |view: &NodeView, since| on_late(view, &id(1), &policy(), None, since, now);
        let Ok(Decision::Again(then)) = late(&view, past) else { panic!("not lost") };
        assert_eq!((then.attempt, then.barred, then.failed, then.lost), (Attempt(2), vec![worker("w1")], 0, 1));
        assert_eq!(then.avoid, vec![], "barred is more than avoided");
        assert_eq!((then.failures[0].kind, then.failures[0].at), (FailureKind::Lost, now));
        assert_eq!(late(&view, past.since(Millis(1))), Err(Ignored::Settled), "it was not late then");
        let moved = NodeView { wanted: Try { attempt: Attempt(2), ..Try::default() }, ..view.clone() };
        assert_eq!(late(&moved, past), Err(Ignored::Settled), "an earlier attempt's start");
        assert_eq!(late(&NodeView { started: None, ..view.clone() }, past), Err(Ignored::Settled));
        let restarted = on_late(&view, &id(1), &policy(), Some(Millis(1_001)), past, now);
        assert_eq!(
            restarted,
            Err(Ignored::Settled),
            "its worker may have ended with the process that the queues are in"
        );
    }

    fn letter(attempt: u32) -> TaskMessage {
        TaskMessage {
            id: id(attempt),
            stage: "join".parse().unwrap(),
            kind: Kind::Join,
            prover: "p".parse().unwrap(),
            programs: Default::default(),
            pool: "cpu".parse().unwrap(),
            class: Default::default(),
            inputs: vec![],
            expand: false,
            params: serde_json::Value::Null,
            block_hash: crate::id::BlockHash([0; 32]),
            parent_hash: None,
            time_limit: Millis(1),
            progress_limit: None,
            avoid: vec![],
            barred: vec![],
            check: None,
            copies: None,
            deadline: None,
            demoted: false,
        }
    }

    fn started(by: &str, attempt: u32, at: Millis) -> Option<Started> {
        Some(Started { attempt: Attempt(attempt), worker: worker(by), by: None, at, handout: None })
    }

    /// The node after an attempt was lost with this worker.
    fn lost_with(view: NodeView, by: &str) -> NodeView {
        let attempt = view.wanted.attempt.0;
        let view = NodeView { started: started(by, attempt, Millis(5)), ..view };
        match on_dead_letter(&view, &letter(attempt), &policy(), None, Millis(9)).unwrap() {
            Decision::Again(wanted) => NodeView { wanted, ..view },
            other => panic!("expected another attempt, got {other:?}"),
        }
    }

    #[test]
    fn a_dead_letter_that_never_started_goes_out_again_as_it_is() {
        let at = Millis(5);
        let decide = |view: &NodeView, attempt| on_dead_letter(view, &letter(attempt), &policy(), None, at);
        assert_eq!(decide(&view(), 1), Ok(Decision::Resend));
        let view = NodeView { started: started("w1", 1, at), ..view() };
        let decision = decide(&view, 1);
        assert!(matches!(&decision, Ok(Decision::Again(wanted)) if wanted.attempt == Attempt(2)), "{decision:?}");
        assert_eq!(decide(&view, 2), Err(Ignored::Stale));
    }

    #[test]
    fn what_ended_together_with_the_queues_own_process_is_not_lost_however_often() {
        let mut view = view();
        for boot in 1..100 {
            view.started = started("local-cpu-1", 1, Millis(boot * 1000 - 1));
            let decision = on_dead_letter(&view, &letter(1), &policy(), Some(Millis(boot * 1000)), Millis(boot * 1000));
            assert_eq!(decision, Ok(Decision::Resend));
        }
        let after = on_dead_letter(&view, &letter(1), &policy(), Some(Millis(98_999)), Millis(200_000));
        let Ok(Decision::Again(wanted)) = after else { panic!("started since: {after:?}") };
        assert_eq!((wanted.lost, wanted.failed), (1, 0));
    }

    #[test]
    fn attempts_that_workers_were_lost_with_are_counted_apart_from_reported_failures() {
        let mut after = view();
        for attempt in 1..4 {
            after = again(&after, &failure(FailureKind::Retryable, "w9", attempt));
        }
        assert_eq!((after.wanted.failed, after.wanted.lost), (3, 0), "the next report would fail the block");
        let after = lost_with(lost_with(after, "w1"), "w2");
        let Try { failed, lost, barred, .. } = &after.wanted;
        assert_eq!((*failed, *lost, barred), (3, 2, &vec![worker("w1"), worker("w2")]));
        let last = NodeView { started: started("w3", 6, Millis(5)), ..after.clone() };
        let Ok(Decision::Fail { reason, .. }) = on_dead_letter(&last, &letter(6), &policy(), None, Millis(9)) else {
            panic!("the third is the last")
        };
        assert!(reason.starts_with(&format!("{}: lost: ", ErrorCode::WorkersLost)), "{reason}");
        assert!(reason.ends_with("(3 attempts were lost with their workers: w1, w2, w3)"), "{reason}");
        let reported = on_failure(&after, &failure(FailureKind::Retryable, "w4", 6), &policy());
        assert!(matches!(reported, Ok(Decision::Fail { .. })), "and they spare no reported failure: {reported:?}");
    }

    #[test]
    fn a_worker_that_is_lost_twice_is_barred_once_and_one_token_alone_is_lost_twice_as_often() {
        let by = |worker: &str, attempt| {
            let task = id(attempt);
            let started =
                Started { by: Some("rack1".parse().unwrap()), ..started(worker, attempt, Millis(1)).unwrap() };
            lost(&task, &started, "why", Millis(9))
        };
        let mut after = view();
        for attempt in 1..6 {
            after = again(&after, &by("rack1-a", attempt));
        }
        assert_eq!((after.wanted.lost, &after.wanted.barred), (5, &vec![worker("rack1-a")]));
        assert!(matches!(on_failure(&after, &by("rack1-a", 6), &policy()), Ok(Decision::Fail { .. })), "not for ever");
    }

    #[test]
    fn a_task_that_only_barred_workers_could_take_waits_for_others_and_then_fails_with_the_way_out() {
        let barred = lost_with(view(), "w1");
        let decide = |view: &NodeView, at| on_dead_letter(view, &letter(2), &policy(), None, at).unwrap();
        let late = policy().time_limit.plus(LATE).plus(Millis(9));
        let mut view = barred.clone();
        for returned in 1..20 {
            let Decision::Return(wanted) = decide(&view, late.since(Millis(1))) else { panic!("others may be busy") };
            assert_eq!((wanted.returned, wanted.attempt, wanted.failed), (returned, Attempt(2), 0));
            view.wanted = wanted;
        }
        let Decision::Fail { reason, .. } = decide(&view, late) else { panic!("not for ever") };
        assert!(reason.starts_with(&format!("{}: it was lost with w1, ", ErrorCode::NobodyMayTake)), "{reason}");
        assert!(reason.contains("start another worker") && reason.contains("pool cpu"), "{reason}");
        assert!(matches!(decide(&barred, late), Decision::Return(_)), "once is not often enough");
        let taken = NodeView { started: started("w2", 2, late), ..view };
        assert!(matches!(decide(&taken, late), Decision::Again(_)), "somebody else took it");
    }

    #[test]
    fn out_of_memory_moves_a_task_to_the_larger_pool_at_once_and_costs_no_attempt() {
        let policy = StagePolicy { larger_pool: Some("gpu-large".parse().unwrap()), attempts: 1, ..policy() };
        let oom = |attempt| failure(FailureKind::OutOfMemory, "w1", attempt);
        let Ok(Decision::Again(wanted)) = on_failure(&view(), &oom(1), &policy) else { panic!("not moved") };
        assert_eq!((wanted.attempt, wanted.delay, wanted.failed), (Attempt(2), Millis(0), 0));
        assert_eq!((&wanted.avoid, wanted.larger_from), (&vec![], Some(Attempt(2))));
        assert_eq!(wanted.failures[0].kind, FailureKind::OutOfMemory);
        let moved = NodeView { wanted, ..view() };
        let pools = [1, 2, 3].map(|attempt| moved.pool(Attempt(attempt), &policy).as_str());
        assert_eq!(pools, ["cpu", "gpu-large", "gpu-large"], "what was sent before the move is where it was");
        let again = on_failure(&moved, &oom(2), &policy).unwrap();
        let Decision::Fail { reason, .. } = again else { panic!("there is no larger one: {again:?}") };
        assert_eq!(reason, "P0-001: out of memory: P0-116: why (1 attempts used up)");
    }

    #[test]
    fn an_attempt_of_which_any_copy_ran_out_of_memory_moves_to_the_larger_pool_whatever_ended_its_last() {
        let policy = StagePolicy {
            copies: 2,
            larger_pool: Some("gpu-large".parse().unwrap()),
            attempts: 1,
            lost_attempts: 2,
            ..policy()
        };
        let of_copy = |copy, kind| Failure {
            task: TaskId { copy, ..id(1) },
            ..failure(kind, if copy == 0 { "w1" } else { "w2" }, 1)
        };
        let with = |view: &NodeView, failure: &Failure| match on_failure(view, failure, &policy).unwrap() {
            Decision::Again(wanted) => NodeView { wanted, ..view.clone() },
            other => panic!("{failure:?} led to {other:?}"),
        };
        let first = with(&view(), &of_copy(1, FailureKind::OutOfMemory));
        assert_eq!((first.wanted.attempt, first.wanted.larger_from), (Attempt(1), None), "another copy is out");
        for kind in [FailureKind::Retryable, FailureKind::Permanent, FailureKind::BadInput, FailureKind::OutOfMemory] {
            let moved = with(&first, &of_copy(0, kind)).wanted;
            assert_eq!((moved.attempt, moved.larger_from), (Attempt(2), Some(Attempt(2))), "{kind:?}");
            assert_eq!((moved.failed, moved.delay, moved.failures.len()), (0, Millis(0), 2), "{kind:?}");
        }
        let lost = with(&first, &of_copy(0, FailureKind::Lost)).wanted;
        assert_eq!((lost.larger_from, lost.lost, lost.failed), (Some(Attempt(2)), 1, 0));
        assert_eq!(lost.barred, [worker("w1")], "there as well");
        // Whoever was lost first, it is the same.
        let lost = with(&view(), &of_copy(1, FailureKind::Lost));
        let moved = with(&lost, &of_copy(0, FailureKind::OutOfMemory)).wanted;
        assert_eq!((moved.larger_from, moved.lost, moved.barred), (Some(Attempt(2)), 1, vec![worker("w2")]));
        // What ran out of memory at an earlier attempt, before the move, says nothing of this one.
        let mut later = first;
        later.wanted.attempt = Attempt(2);
        let alone = Failure { task: TaskId { copy: 1, ..id(2) }, ..failure(FailureKind::Retryable, "w1", 2) };
        let noted = with(&later, &alone);
        let last = Failure { task: id(2), ..failure(FailureKind::Retryable, "w2", 2) };
        assert!(matches!(on_failure(&noted, &last, &policy), Ok(Decision::Fail { .. })));
    }

    #[test]
    fn an_accusation_beside_a_copy_that_ran_out_of_memory_is_checked_and_the_task_moves() {
        let policy = StagePolicy { copies: 2, larger_pool: Some("gpu-large".parse().unwrap()), ..policy() };
        let ran_out = Failure { task: TaskId { copy: 1, ..id(1) }, ..failure(FailureKind::OutOfMemory, "w2", 1) };
        let Ok(Decision::Again(wanted)) = on_failure(&view(), &ran_out, &policy) else { panic!("not noted") };
        let first = NodeView { wanted, ..view() };
        let accuse = |can_check: &[u32]| Failure {
            children: vec![1],
            can_check: can_check.iter().copied().collect(),
            ..failure(FailureKind::BadInput, "w1", 1)
        };
        let Ok(Decision::Check(then)) = on_failure(&first, &accuse(&[1]), &policy) else { panic!("not checked") };
        assert_eq!((then.checks.len(), then.larger_from, then.failed), (1, Some(Attempt(2)), 0));
    }

    #[test]
    fn without_a_larger_pool_out_of_memory_counts_like_any_failure() {
        let oom = |attempt| failure(FailureKind::OutOfMemory, "w1", attempt);
        let after = again(&view(), &oom(1));
        assert_eq!((after.wanted.failed, after.wanted.avoid, after.wanted.larger_from), (1, vec![worker("w1")], None));
        let trusted = Failure { trusted: true, ..oom(1) };
        let larger = StagePolicy { larger_pool: Some("gpu-large".parse().unwrap()), ..policy() };
        let Ok(Decision::Again(wanted)) = on_failure(&view(), &trusted, &larger) else { panic!("trusted") };
        assert_eq!((wanted.failed, wanted.larger_from), (1, None));
    }

    #[test]
    fn tasks_that_failed_together_come_back_apart() {
        let policy = StagePolicy { backoff: Millis(1_000), ..policy() };
        let delays: Vec<Millis> = (0..64)
            .map(|index| format!("demo/1/e1/0123456789abcdef/1.0.{index}/a2c0").parse().unwrap())
            .map(|task| delay_before(&task, &policy))
            .collect();
        assert!(delays.iter().all(|delay| (500..=1_000).contains(&delay.0)), "{delays:?}");
        let distinct: BTreeSet<&Millis> = delays.iter().collect();
        assert!(distinct.len() > 48, "{distinct:?}");
        assert_eq!(delay_before(&id(2), &policy), delay_before(&id(2), &policy), "drawn from the name");
        assert_eq!(delay_before(&id(2), &StagePolicy { backoff: Millis(0), ..policy }), Millis(0));
    }

    #[test]
    fn what_is_remembered_of_a_nodes_failures_takes_no_more_room_than_one_error_text() {
        let mut after = view();
        let message = "x".repeat(2 * MAX_ERROR);
        let talkative =
            |attempt| Failure { message: message.clone(), ..failure(FailureKind::Retryable, "w1", attempt) };
        let policy = StagePolicy { attempts: 100, ..policy() };
        for attempt in 1..=20 {
            let decision = on_failure(&after, &talkative(attempt), &policy).unwrap();
            let Decision::Again(wanted) = decision else { panic!("{decision:?}") };
            after.wanted = wanted;
        }
        let room: usize = after.wanted.failures.iter().map(|note| note.message.len()).sum();
        assert!(room <= MAX_ERROR && after.wanted.failures.len() > 1, "{room} bytes");
        assert_eq!(after.wanted.failures.last().unwrap().attempt, Attempt(20), "the newest are remembered");
    }

    #[test]
    fn a_verifier_that_finds_the_root_bad_has_not_failed_and_is_sent_on_without_delay() {
        let found = Failure {
            worker: None,
            children: vec![0],
            can_check: BTreeSet::from([0]),
            ..failure(FailureKind::BadInput, "w1", 1)
        };
        let Ok(Decision::Check(then)) = on_failure(&view(), &found, &policy()) else { panic!("not checked") };
        assert_eq!((then.attempt, then.failed, then.delay), (Attempt(2), 0, Millis(0)));
        let accuse = Failure { worker: Some(worker("w1")), ..found };
        let Ok(Decision::Check(then)) = on_failure(&view(), &accuse, &policy()) else { panic!("not checked") };
        assert_eq!((then.attempt, then.failed, then.delay), (Attempt(2), 1, Millis(0)), "a worker's accusation counts");
    }

    #[test]
    fn a_dead_letter_of_a_copy_that_has_failed_says_nothing_new() {
        let two = StagePolicy { copies: 2, ..policy() };
        let of_copy = |copy| TaskMessage { id: TaskId { copy, ..id(1) }, ..letter(1) };
        let failed = Failure { task: of_copy(1).id, ..failure(FailureKind::Retryable, "w2", 1) };
        let Ok(Decision::Again(wanted)) = on_failure(&view(), &failed, &two) else { panic!("not noted") };
        let noted = NodeView { wanted, ..view() };
        let decide = |copy| on_dead_letter(&noted, &of_copy(copy), &two, None, Millis(9));
        assert_eq!((decide(1), decide(0)), (Err(Ignored::Settled), Ok(Decision::Resend)));
    }

    #[test]
    fn a_copy_that_comes_back_while_another_is_at_work_does_not_count_towards_nobody_being_left() {
        let two = StagePolicy { copies: 2, ..policy() };
        let wanted = Try { attempt: Attempt(2), barred: vec![worker("w1")], lost: 1, ..Try::default() };
        let waiting = NodeView { wanted, ..view() };
        let copy = TaskMessage { id: TaskId { copy: 1, ..id(2) }, ..letter(2) };
        let decide = |view: &NodeView, began| on_dead_letter(view, &copy, &two, began, Millis(9)).unwrap();
        assert!(matches!(decide(&waiting, None), Decision::Return(_)));
        let at_work = NodeView { started: started("w2", 2, Millis(5)), ..waiting };
        assert_eq!(decide(&at_work, None), Decision::Resend);
        let since_then = decide(&at_work, Some(Millis(6)));
        assert!(matches!(since_then, Decision::Return(_)), "who started it may have ended with the queues' process");
    }

    #[test]
    fn whichever_attempt_a_timer_asks_with_the_late_start_is_that_of_the_wanted_one() {
        let limit = policy().time_limit.plus(LATE);
        let wanted = Try { attempt: Attempt(3), ..Try::default() };
        let view = NodeView { wanted, started: started("w1", 3, Millis(1_000)), ..view() };
        let past = limit.plus(Millis(1_000));
        let decision = on_late(&view, &id(1), &policy(), None, past, past);
        assert!(matches!(&decision, Ok(Decision::Again(then)) if then.attempt == Attempt(4)), "{decision:?}");
    }

    #[test]
    fn the_third_time_that_nobody_took_a_task_is_the_last_if_others_had_the_time_to() {
        let mut view = lost_with(view(), "w1");
        let late = policy().time_limit.plus(LATE).plus(Millis(9));
        let decide = |view: &NodeView| on_dead_letter(view, &letter(2), &policy(), None, late).unwrap();
        for _ in 0..2 {
            let Decision::Return(wanted) = decide(&view) else { panic!("too soon") };
            view.wanted = wanted;
        }
        assert!(matches!(decide(&view), Decision::Fail { .. }));
    }

    #[test]
    fn a_failure_noted_without_a_token_is_of_the_token_whose_worker_it_was() {
        let permanent = |by: Option<&str>, worker: &str, attempt| Failure {
            by: by.map(|by| by.parse().unwrap()),
            ..failure(FailureKind::Permanent, worker, attempt)
        };
        let is_second_voice = |first: &Failure, second: &Failure| {
            let after = again(&view(), first);
            matches!(on_failure(&after, second, &policy()).unwrap(), Decision::Fail { .. })
        };
        let unnamed = permanent(None, "rack1-a", 1);
        assert!(!is_second_voice(&unnamed, &permanent(Some("rack1"), "rack1-b", 2)));
        assert!(is_second_voice(&unnamed, &permanent(Some("rack2"), "rack2-a", 2)));
        let named = permanent(Some("rack1"), "rack1-a", 1);
        assert!(!is_second_voice(&named, &permanent(None, "rack1-b", 2)));
        assert!(is_second_voice(&named, &permanent(None, "rack2-a", 2)));
    }

    #[test]
    fn nothing_of_the_attempt_that_is_given_up_clings_to_the_next() {
        let larger = StagePolicy { larger_pool: Some("gpu-large".parse().unwrap()), ..policy() };
        let digest = Sha256([1; 32]);
        let wanted = Try {
            attempt: Attempt(2),
            delay: Millis(7_000),
            avoid: vec![worker("w1")],
            returned: 2,
            checks: vec![(0, digest)],
            ..Try::default()
        };
        let before = NodeView { wanted, ..view() };
        let after = |kind| match on_failure(&before, &failure(kind, "w2", 2), &larger).unwrap() {
            Decision::Again(then) => then,
            other => panic!("{kind:?} led to {other:?}"),
        };
        let moved = after(FailureKind::OutOfMemory);
        assert_eq!((moved.delay, moved.avoid, moved.returned, moved.checks), (Millis(0), vec![], 0, vec![]));
        let next = after(FailureKind::Retryable);
        assert_eq!(next.delay, delay_before(&id(3), &larger));
        assert_eq!((next.returned, next.checks), (0, vec![]));
        let lost = after(FailureKind::Lost);
        assert_eq!((lost.larger_from, lost.returned), (None, 0), "nothing ran out of memory");
        let child = NodeView { slots: BTreeMap::new(), ..before.clone() };
        let revoked = revoke(&view(), 1, Sha256([2; 32]), &child, |_| false).unwrap().child;
        assert_eq!((revoked.attempt, revoked.delay, revoked.returned), (Attempt(3), Millis(0), 0));
        assert_eq!(revoked.checks, vec![]);
    }

    #[test]
    fn how_long_the_next_attempt_waits_does_not_depend_on_which_copy_failed_last() {
        let two = StagePolicy { copies: 2, backoff: Millis(50_000), ..policy() };
        let of_copy = |copy, by| Failure { task: TaskId { copy, ..id(1) }, ..failure(FailureKind::Retryable, by, 1) };
        let delay = |first, last| {
            let after = [of_copy(first, "w1"), of_copy(last, "w2")].iter().fold(view(), |view, failure| {
                match on_failure(&view, failure, &two).unwrap() {
                    Decision::Again(wanted) => NodeView { wanted, ..view },
                    other => panic!("{other:?}"),
                }
            });
            (after.wanted.attempt, after.wanted.delay)
        };
        assert_eq!(delay(0, 1), delay(1, 0));
    }

    #[test]
    fn the_last_two_to_have_failed_are_avoided_each_once() {
        let mut after = view();
        let mut avoided = Vec::new();
        let policy = StagePolicy { attempts: 100, ..policy() };
        for (attempt, by) in (1..).zip(["w1", "w2", "w1", "w3"]) {
            let decision = on_failure(&after, &failure(FailureKind::Retryable, by, attempt), &policy).unwrap();
            let Decision::Again(wanted) = decision else { panic!("{decision:?}") };
            avoided.push(wanted.avoid.iter().map(|worker| worker.as_str().to_owned()).collect::<Vec<_>>().join(" "));
            after.wanted = wanted;
        }
        assert_eq!(avoided, ["w1", "w1 w2", "w2 w1", "w1 w3"]);
    }
}
