//! The rows of a run: its plan record, and one row a node. All are accept-first: each attribute below is changed alone, by accept-first,
//! set-if or a transaction, so no writer can erase another's.
//!
//! | row | attribute | holds | changed by |
//! |---|---|---|---|
//! | run | `run` | [`Run`] | set-if, once: the dispatcher |
//! | run | `manifest` | [`ManifestSlot`] | accept-first |
//! | run | `verdict` | [`VerdictSlot`] | accept-first |
//! | run | `failed` | the reason, text | set-if, once |
//! | run | `spoiled` | why what `split` stored cannot be used, text: another run makes it anew | set-if, once |
//! | run | `stopped` | `true` | set-if, once: the dispatcher |
//! | run | `demoted` | [`Demoted`] | set-if, once: the chain plane |
//! | ranges | `opened` | `true`: the fan-out was sent on | set-if, once |
//! | ranges | `piece.{k:03}` | when its tasks had been sent (0.1 wrote `true`) | set-if, once |
//! | ranges | `demoted.{k:03}` | `true`: what waited in its part was sent to `bulk`, too | set-if, once |
//! | timer | `watch` | [`super::Watch`] | set-if |
//! | node | `slot.{i}` | [`Artifact`] accepted from child i | accept-first; cleared by a revocation |
//! | node | `floor.{i}` | least attempt of child i that counts | a revocation |
//! | node | `try` | [`Try`]: the attempt wanted now (absent: the first) | set-if; a revocation |
//! | node | `fired` | the attempt last sent (absent: none; for leaves and `split`: the first) | set-if |
//! | node | `started`, `started.{c}` | [`Started`], of the attempt's first copy, of copy c | set-if |
//! | node | `hedges` | [`Hedges`]: further copies of an attempt | set-if, with the reader's `hedged` |
//! | node | `hedged.{i}` | the attempt of child i that further copies were asked for of, while slot i was empty | the same |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::codec::versioned;
use super::{BlobRef, Versioned as _};
use crate::id::{Attempt, BlockHash, Class, Millis, PipelineDigest, Pool, Principal, RunId, Sha256, WorkerId};
use crate::message::{FailureKind, Handout};
use crate::pipeline::{Pipeline, Policy, StagePolicy};

/// Names of attributes.
pub mod attribute {
    pub const RUN: &str = "run";
    pub const MANIFEST: &str = "manifest";
    pub const VERDICT: &str = "verdict";
    pub const FAILED: &str = "failed";
    pub const SPOILED: &str = "spoiled";
    pub const STOPPED: &str = "stopped";
    pub const DEMOTED: &str = "demoted";
    pub const OPENED: &str = "opened";
    pub const WATCH: &str = "watch";
    pub const TRY: &str = "try";
    pub const FIRED: &str = "fired";
    pub const STARTED: &str = "started";
    pub const HEDGES: &str = "hedges";
    /// Row of a part's hedge timer: [`super::super::HedgeWatch`].
    pub const HEDGE_WATCH: &str = "hedge";
    /// Row of a stage's durations: [`crate::block::Sketch`].
    pub const SKETCH: &str = "sketch";
    /// `published` row: the last published sequence number.
    pub const SEQ: &str = "seq";
    /// `swept` row: the first number not swept.
    pub const NUMBER: &str = "number";

    pub fn piece(piece: u32) -> String {
        format!("piece.{piece:03}")
    }

    pub fn demoted_piece(piece: u32) -> String {
        format!("demoted.{piece:03}")
    }

    pub fn slot(slot: u32) -> String {
        format!("slot.{slot}")
    }

    pub fn floor(slot: u32) -> String {
        format!("floor.{slot}")
    }

    pub fn started(copy: u8) -> String {
        if copy == 0 { STARTED.to_owned() } else { format!("started.{copy}") }
    }

    pub fn hedged(slot: u32) -> String {
        format!("hedged.{slot}")
    }

    /// The floor that `manifest` and `verdict` are accepted against; nothing sets it yet.
    pub const NO_FLOOR: &str = "floor";
}

/// The immutable part of a run: everything its tasks are derived from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub hash: BlockHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
    pub witness: BlobRef,
    /// The witness is a [`super::BatchManifest`], and `split` gets what it names, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_batch: bool,
    pub pipeline: Pipeline,
    pub digest: PipelineDigest,
    /// As configured when the run began: a changed configuration changes no run.
    pub policy: Policy,
    pub class: Class,
    /// When the block shall be final at the latest, where it has a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// The deadline passed and the chain demotes: the class is `bulk`, and stays that whatever else raises tasks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demoted: bool,
    /// Which of its tasks lie in the queue of a more urgent class; fixed when it is released. 0.1 wrote none.
    #[serde(default, skip_serializing_if = "Promotion::is_none")]
    pub promotion: Promotion,
    /// When the block was released.
    pub released_at: Millis,
    /// Who worked on earlier runs that ended in a bad proof.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Suspect>,
}

impl Run {
    /// Its tasks are named by position: in a pipeline that is none, and by a policy of other stages, they could not be.
    fn fits(&self) -> Result<(), String> {
        let (stages, policies) = (self.pipeline.stages.len(), self.policy.stages.len());
        if stages != policies {
            return Err(format!("it has {stages} stages and policies of {policies}"));
        }
        match self.pipeline.mistakes() {
            mistakes if mistakes.is_empty() => Ok(()),
            mistakes => Err(format!("its pipeline: {}", mistakes.join("; "))),
        }
    }

    /// As it is once it is demoted.
    pub fn demoted(&self) -> Self {
        Self { class: Class::Bulk, demoted: true, promotion: Promotion::None, ..self.clone() }
    }
}

/// Which tasks of a run lie one class higher than its chain's: for queues that hand out in no order. Where queues rank, none do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    #[default]
    None,
    /// Those that finish what is under way: later attempts, and every stage after the first of the segments.
    Late,
    /// All: it was its chain's oldest unfinalized block when it was released.
    All,
}

impl Promotion {
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// A worker that had a hand in a proof that did not verify, and at which stage: another run prefers others there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The stage's position.
    pub stage: u16,
    pub worker: WorkerId,
}

/// An accepted artifact: which attempt's, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub attempt: Attempt,
    pub blob: BlobRef,
    pub worker: WorkerId,
    pub at: Millis,
}

/// The accepted result of `split`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestSlot {
    pub attempt: Attempt,
    pub manifest: BlobRef,
    pub segments: u32,
    pub header: BlobRef,
    pub hash: BlockHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<BlockHash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    BadProof,
    BadBlock,
}

/// The accepted verdict; counts only for the digest it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictSlot {
    pub attempt: Attempt,
    pub verdict: Verdict,
    /// The root artifact that was verified.
    pub root: BlobRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Digest of what the proof states, where its prover says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Sha256>,
}

/// The attempt wanted at a node, and how it came to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    pub attempt: Attempt,
    /// Not handed out before this long after it is sent.
    #[serde(default)]
    pub delay: Millis,
    /// Workers that shall not get it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<WorkerId>,
    /// Failures of earlier attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailureNote>,
    /// Reported failures so far: what the policy's attempts count. A revocation raises the attempt without one, and so does the move to
    /// the larger pool.
    #[serde(default)]
    pub failed: u32,
    /// Attempts that were lost with their workers; they have a limit of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u32,
    /// The workers that were lost so: none of them ever gets the task again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub barred: Vec<WorkerId>,
    /// How often the wanted attempt came back from the dead letters while nobody but barred workers was seen to take it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returned: u32,
    /// From this attempt on tasks go to the stage's larger pool: the one before had not memory enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub larger_from: Option<Attempt>,
    /// Accused artifacts (slot, digest) that the trusted pool is looking at: nothing is sent before it has answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<(u32, Sha256)>,
}

impl Default for Try {
    fn default() -> Self {
        Self {
            attempt: Attempt::FIRST,
            delay: Millis(0),
            avoid: Vec::new(),
            failures: Vec::new(),
            failed: 0,
            lost: 0,
            barred: Vec::new(),
            returned: 0,
            larger_from: None,
            checks: Vec::new(),
        }
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureNote {
    pub attempt: Attempt,
    /// Which copy of the attempt.
    #[serde(default, skip_serializing_if = "is_first")]
    pub copy: u8,
    pub worker: Option<WorkerId>,
    /// Whose token the worker presented, where it was not a local one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Principal>,
    pub kind: FailureKind,
    pub message: String,
    /// `bad_input`: accused slots with the digest each then held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accused: Vec<(u32, Sha256)>,
    pub at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub attempt: Attempt,
    pub worker: WorkerId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Principal>,
    pub at: Millis,
    /// Which delivery it began with, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handout: Option<Handout>,
}

fn is_first(copy: &u8) -> bool {
    *copy == 0
}

/// Copies of an attempt beyond those its stage's policy sends from the start: asked for because one ran for long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedges {
    pub attempt: Attempt,
    pub asked: u8,
    /// So many of these have been sent.
    pub sent: u8,
    /// What they were expected to take, together.
    pub reserved: Millis,
    /// When the last was asked for.
    pub at: Millis,
}

impl Started {
    /// Whether the task was handed to another since: what this delivery's worker still says of its fate is of a lease that is over.
    pub fn has_taken_over_from(&self, handout: Option<Handout>) -> bool {
        self.handout.zip(handout).is_some_and(|(own, other)| other < own)
    }

    /// Whether it says anything about its worker's fate, where the queues' own process began at `began`: what was started before that
    /// process ended may have ended with it.
    pub fn is_since(&self, began: Option<Millis>) -> bool {
        began.is_none_or(|began| self.at >= began)
    }
}

versioned! { Run = 1, "plan record", super::MAX_ROW, Run::fits; }

/// Reads an attribute. One that does not parse was written by another version, and is as good as absent.
fn read<T: serde::de::DeserializeOwned>(attributes: &BTreeMap<String, Value>, name: &str) -> Option<T> {
    attributes.get(name).and_then(|value| T::deserialize(value).ok())
}

/// The run was demoted: everything sent from then on is of the class `bulk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demoted {
    pub at: Millis,
    /// What was started before lies in the queues of this class, or of the next above where the promotion says so.
    pub from: Class,
    #[serde(default, skip_serializing_if = "Promotion::is_none")]
    pub promotion: Promotion,
}

/// A run row as read. The plan record of one that was demoted says so, too.
#[derive(Debug, Clone, PartialEq)]
pub struct RunView {
    pub run: Arc<Run>,
    pub manifest: Option<ManifestSlot>,
    pub verdict: Option<VerdictSlot>,
    pub failed: Option<String>,
    pub spoiled: Option<String>,
    pub stopped: bool,
    pub demoted: Option<Demoted>,
}

impl RunView {
    /// All of the row's attributes but the plan record, which never changes.
    pub const CHANGING: [&str; 6] = [
        attribute::MANIFEST,
        attribute::VERDICT,
        attribute::FAILED,
        attribute::SPOILED,
        attribute::STOPPED,
        attribute::DEMOTED,
    ];

    /// `None` where the row has no (readable) plan record: there is no such run.
    pub fn read(attributes: &BTreeMap<String, Value>) -> Option<Self> {
        let run = Run::from_value_ref(attributes.get(attribute::RUN)?).ok()?;
        Some(Self::of(Arc::new(run), attributes))
    }

    /// The view of a run whose plan record is known, from the row's [`Self::CHANGING`] attributes.
    pub fn of(run: Arc<Run>, attributes: &BTreeMap<String, Value>) -> Self {
        let demoted: Option<Demoted> = read(attributes, attribute::DEMOTED);
        let run = match demoted {
            Some(_) if !run.demoted => Arc::new(run.demoted()),
            _ => run,
        };
        Self {
            run,
            demoted,
            manifest: read(attributes, attribute::MANIFEST),
            verdict: read(attributes, attribute::VERDICT),
            failed: read(attributes, attribute::FAILED),
            spoiled: read(attributes, attribute::SPOILED),
            stopped: read(attributes, attribute::STOPPED).unwrap_or(false),
        }
    }

    /// Nothing more is to be started for this run.
    pub fn is_over(&self) -> bool {
        self.stopped || self.failed.is_some() || self.spoiled.is_some() || self.verdict.is_some()
    }
}

/// A node row as read. A row that does not exist reads as the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    pub wanted: Try,
    /// The attempt last sent, where the row says so.
    pub fired: Option<Attempt>,
    pub started: Option<Started>,
    /// Starts of further copies.
    pub copies_started: BTreeMap<u8, Started>,
    pub hedges: Option<Hedges>,
    pub slots: BTreeMap<u32, Artifact>,
    pub floors: BTreeMap<u32, Attempt>,
    /// Slot → the attempt of its child that further copies were asked for of.
    pub hedged: BTreeMap<u32, Attempt>,
}

impl NodeView {
    /// The start of a copy of an attempt, if it was started.
    pub fn start_of(&self, attempt: Attempt, copy: u8) -> Option<&Started> {
        let start = if copy == 0 { self.started.as_ref() } else { self.copies_started.get(&copy) };
        start.filter(|started| started.attempt == attempt)
    }

    /// The start of a copy of the attempt wanted now.
    pub fn start_now(&self, copy: u8) -> Option<&Started> {
        self.start_of(self.wanted.attempt, copy)
    }

    /// When the attempt wanted now was first started, by whichever copy.
    pub fn first_start(&self) -> Option<Millis> {
        let starts = self.started.iter().chain(self.copies_started.values());
        starts.filter(|started| started.attempt == self.wanted.attempt).map(|started| started.at).min()
    }

    /// Further copies of the attempt wanted now.
    pub fn hedges_now(&self) -> Option<&Hedges> {
        self.hedges.as_ref().filter(|hedges| hedges.attempt == self.wanted.attempt)
    }

    /// Whether this copy of the attempt wanted now has failed.
    pub fn has_failed(&self, copy: u8) -> bool {
        self.wanted.failures.iter().any(|note| note.attempt == self.wanted.attempt && note.copy == copy)
    }

    /// Where an attempt at the node goes, or went.
    pub fn pool<'a>(&'a self, attempt: Attempt, policy: &'a StagePolicy) -> &'a Pool {
        let is_moved = self.wanted.larger_from.is_some_and(|from| attempt >= from);
        policy.larger_pool.as_ref().filter(|_| is_moved).unwrap_or(&policy.pool)
    }

    pub fn read(attributes: &BTreeMap<String, Value>) -> Self {
        let numbered = |name: &str, prefix: &str| -> Option<u32> { name.strip_prefix(prefix)?.parse().ok() };
        let mut view = Self {
            wanted: read(attributes, attribute::TRY).unwrap_or_default(),
            fired: read(attributes, attribute::FIRED),
            started: read(attributes, attribute::STARTED),
            hedges: read(attributes, attribute::HEDGES),
            ..Self::default()
        };
        for name in attributes.keys() {
            if let Some(slot) = numbered(name, "slot.") {
                view.slots.extend(read(attributes, name).map(|artifact| (slot, artifact)));
            } else if let Some(slot) = numbered(name, "floor.") {
                view.floors.extend(read(attributes, name).map(|floor| (slot, floor)));
            } else if let Some(slot) = numbered(name, "hedged.") {
                view.hedged.extend(read(attributes, name).map(|attempt| (slot, attempt)));
            } else if let Some(copy) = name.strip_prefix("started.").and_then(|copy| copy.parse().ok()) {
                view.copies_started.extend(read(attributes, name).map(|started| (copy, started)));
            }
        }
        view
    }
}
