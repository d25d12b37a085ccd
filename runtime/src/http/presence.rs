//! Who is here: which workers call, as they introduce themselves. For people: who is here decides nothing, and is gone with the owner;
//! workers call again within seconds. What a single call says of its worker also keeps tasks from it that are barred to it.
//!
//! A worker says who it is with each call, in the header `x-push0-worker: NAME SINCE WITHIN`: its name, when its process began
//! (milliseconds since the epoch, by its own clock), and within which time (milliseconds) it calls again whatever it is doing. It is
//! *here* as long as a call of it is being answered (a receive that waits), or its last one is no longer ago than that.
//!
//! `GET /v1/workers` answers a list of [`WorkerHere`] to operators.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use push0_core::{Millis, Pool, WorkerId};
use serde::{Deserialize, Serialize};

use super::Client;
use super::auth::{Caller, Role};
use super::server::{answer, refusal};
use crate::port::PortResult;

const PATH: &str = "/v1/workers";

pub(super) const INTRODUCTION: &str = "x-push0-worker";

/// Workers remembered; beyond that only those that are here.
const MOST: usize = 4096;

/// How a worker's process introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    pub worker: WorkerId,
    /// When the process began, by its own clock.
    pub since: Millis,
    /// It calls again within this time.
    pub within: Millis,
}

impl Introduction {
    pub(super) fn to_header(&self) -> String {
        format!("{} {} {}", self.worker, self.since.0, self.within.0)
    }

    fn read(header: &str) -> Option<Self> {
        let mut words = header.split(' ');
        let worker = words.next()?.parse().ok()?;
        let (since, within) = (Millis(words.next()?.parse().ok()?), Millis(words.next()?.parse().ok()?));
        words.next().is_none().then_some(Self { worker, since, within })
    }
}

/// A worker that has called since the owner began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHere {
    pub worker: WorkerId,
    /// Whose tasks its token lets it take.
    pub pool: Option<Pool>,
    /// When its process began, by its own clock.
    pub since: Millis,
    /// Since its last call.
    pub silent_for: Millis,
    /// False: it has not called when it should have.
    pub here: bool,
}

#[derive(Debug)]
struct Entry {
    pool: Option<Pool>,
    since: Millis,
    within: Duration,
    last: Instant,
    /// Calls being answered.
    calls: u32,
}

impl Entry {
    fn is_here(&self, now: Instant) -> bool {
        self.calls > 0 || now.duration_since(self.last) <= self.within
    }
}

/// See the module. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence(Arc<Mutex<BTreeMap<WorkerId, Entry>>>);

impl Presence {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins; it ends with what is returned.
    fn calls(&self, introduction: Introduction, role: &Role, now: Instant) -> Option<Calling> {
        let Introduction { worker, since, within } = introduction;
        let mut known = self.lock();
        if known.len() >= MOST && !known.contains_key(&worker) {
            known.retain(|_, entry| entry.is_here(now));
            if known.len() >= MOST {
                return None;
            }
        }
        let entry = known.entry(worker.clone()).or_insert_with(|| Entry {
            pool: None,
            since,
            within: Duration::ZERO,
            last: now,
            calls: 0,
        });
        if entry.since != since {
            // Another process of that name: calls of the one before count no more.
            (entry.since, entry.calls) = (since, 0);
        }
        entry.pool = role.pool().and_then(|pool| pool.parse().ok());
        entry.within = Duration::from_millis(within.0);
        entry.last = now;
        entry.calls += 1;
        drop(known);
        Some(Calling { presence: self.clone(), worker, since })
    }

    fn list(&self, now: Instant) -> Vec<WorkerHere> {
        let here = |(worker, entry): (&WorkerId, &Entry)| WorkerHere {
            worker: worker.clone(),
            pool: entry.pool.clone(),
            since: entry.since,
            silent_for: Millis(if entry.calls > 0 { 0 } else { now.duration_since(entry.last).as_millis() as u64 }),
            here: entry.is_here(now),
        };
        self.lock().iter().map(here).collect()
    }

    pub(super) fn routes(&self) -> Router {
        Router::new().route(PATH, get(list)).with_state(self.clone())
    }
}

/// A call that is being answered.
struct Calling {
    presence: Presence,
    worker: WorkerId,
    since: Millis,
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(entry) = self.presence.lock().get_mut(&self.worker).filter(|entry| entry.since == self.since) {
            entry.calls = entry.calls.saturating_sub(1);
            entry.last = Instant::now();
        }
    }
}

/// A worker is named as its token.
fn may_be(caller: &Caller, worker: &WorkerId) -> bool {
    caller.name.as_ref().is_none_or(|name| name.speaks_as(worker))
}

/// Which worker a request says it comes from, where its caller may say so.
pub(super) fn introduced(headers: &HeaderMap, caller: &Caller) -> Option<WorkerId> {
    introduction(headers, caller).map(|introduction| introduction.worker)
}

fn introduction(headers: &HeaderMap, caller: &Caller) -> Option<Introduction> {
    let introduction = Introduction::read(headers.get(INTRODUCTION)?.to_str().ok()?)?;
    may_be(caller, &introduction.worker).then_some(introduction)
}

/// Notes who calls, until the call is answered or its client gone.
pub(super) async fn observe(State(presence): State<Presence>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let _calling = caller.and_then(|caller| {
        let introduction = introduction(request.headers(), caller)?;
        presence.calls(introduction, &caller.role, Instant::now())
    });
    next.run(request).await
}

async fn list(State(presence): State<Presence>, Extension(role): Extension<Role>) -> Response {
    match role.may_operate("see who is here") {
        Ok(()) => answer(Ok(presence.list(Instant::now()))),
        Err(error) => refusal(error),
    }
}

impl Client {
    /// The workers that have called since the owner began.
    pub async fn workers(&self) -> PortResult<Vec<WorkerHere>> {
        self.look(PATH).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(since: u64) -> Introduction {
        Introduction { worker: "gpu-1".parse().unwrap(), since: Millis(since), within: Millis(1_000) }
    }

    fn role() -> Role {
        Role::Worker { pool: "gpu".parse().unwrap() }
    }

    #[test]
    fn an_introduction_survives_the_header_and_rubbish_is_none() {
        assert_eq!(Introduction::read(&introduction(7).to_header()), Some(introduction(7)));
        for rubbish in ["", "gpu-1", "gpu-1 7", "gpu-1 7 x", "gpu-1 7 8 9", "GPU 7 8", "gpu-1  7 8"] {
            assert_eq!(Introduction::read(rubbish), None, "{rubbish:?}");
        }
    }

    #[test]
    fn a_worker_is_here_while_it_calls_and_for_as_long_as_it_said() {
        let (presence, start) = (Presence::default(), Instant::now());
        let here = |after: u64| presence.list(Instant::now() + Duration::from_millis(after))[0].here;
        let calling = presence.calls(introduction(7), &role(), start).unwrap();
        assert!(here(3_600_000), "a call that is being answered");
        drop(calling);
        assert!(here(0));
        assert!(!here(3_600_000));
        assert_eq!(presence.list(start)[0].pool, Some("gpu".parse().unwrap()));
    }

    #[test]
    fn a_call_of_an_earlier_process_keeps_nobody_here() {
        let (presence, now) = (Presence::default(), Instant::now());
        let before = presence.calls(introduction(7), &role(), now).unwrap();
        drop(presence.calls(introduction(8), &role(), now));
        let list = presence.list(Instant::now() + Duration::from_secs(3_600));
        assert_eq!((list.len(), list[0].since, list[0].here), (1, Millis(8), false));
        drop(before);
        assert_eq!(presence.list(now)[0].since, Millis(8));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (presence, now) = (Presence::default(), Instant::now());
        for number in 0..MOST + 10 {
            let worker = format!("w-{number}").parse().unwrap();
            drop(presence.calls(Introduction { worker, ..introduction(7) }, &role(), now));
        }
        assert_eq!(presence.list(now).len(), MOST);
        let later = now + Duration::from_secs(3_600);
        assert!(presence.calls(introduction(7), &role(), later).is_some(), "who has left makes room");
    }
}
