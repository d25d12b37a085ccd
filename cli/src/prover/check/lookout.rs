//! What is seen of one prover while it is checked: what it says out of turn, which processes it takes, how much memory.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use push0_gpu_worker::prover::{Onlooker, Seen};
use push0_prover::wire::{FromProver, Hello};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

#[derive(Default)]
pub(super) struct Lookout {
    state: Mutex<State>,
    /// Whether tasks are told with fields that no version has.
    further: AtomicBool,
    /// Tasks told so far.
    told: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    started: u32,
    running: BTreeSet<u32>,
    hello: Option<Hello>,
    in_hand: Option<String>,
    answers: u64,
    rubbish: Option<String>,
    out_of_turn: Option<String>,
    said_hello: bool,
    killed_at_end: bool,
    walked_out: bool,
    peak_kib: u64,
}

impl Lookout {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processes started so far.
    pub(super) fn started(&self) -> u32 {
        self.lock().started
    }

    pub(super) fn hello(&self) -> Option<Hello> {
        self.lock().hello.clone()
    }

    /// The first thing on stdout that is no message.
    pub(super) fn rubbish(&self) -> Option<String> {
        self.lock().rubbish.clone()
    }

    /// The first message that had no place where it came.
    pub(super) fn out_of_turn(&self) -> Option<String> {
        self.lock().out_of_turn.clone()
    }

    /// Tasks answered so far.
    pub(super) fn answers(&self) -> u64 {
        self.lock().answers
    }

    /// Whether the process that ended last had to be killed.
    pub(super) fn killed_at_end(&self) -> bool {
        self.lock().killed_at_end
    }

    /// Whether a process that had answered ended of its own will.
    pub(super) fn walked_out(&self) -> bool {
        self.lock().walked_out
    }

    /// The most memory seen in use by a prover's processes, MiB; looked at now and then only.
    pub(super) fn peak_mib(&self) -> Option<u64> {
        Some(self.lock().peak_kib.div_ceil(1024)).filter(|mib| *mib > 0)
    }

    pub(super) fn tell_further_fields(&self, yes: bool) {
        self.further.store(yes, Ordering::Relaxed);
    }

    /// Completes when a session is given its next task.
    pub(super) async fn next_told(&self) {
        let before = *self.told.borrow();
        let _ = self.told.subscribe().wait_for(|told| *told > before).await;
    }

    /// Looks at the memory of what runs.
    pub(super) fn sample(&self) {
        let running = self.lock().running.clone();
        let used: u64 = group_members(&running).into_iter().map(|pid| kib(pid, "VmRSS:")).sum();
        let at_most = running.iter().map(|pid| kib(*pid, "VmHWM:")).max().unwrap_or(0);
        let mut state = self.lock();
        state.peak_kib = state.peak_kib.max(used).max(at_most);
    }
}

impl Onlooker for Lookout {
    fn sees(&self, seen: Seen<'_>) {
        if !matches!(seen, Seen::Started(_)) {
            self.sample();
        }
        let mut state = self.lock();
        match seen {
            Seen::Started(process) => {
                state.started += 1;
                state.running.insert(process);
                (state.said_hello, state.in_hand) = (false, None);
            }
            Seen::Told(id) => {
                state.in_hand = Some(id.to_owned());
                self.told.send_modify(|told| *told += 1);
            }
            Seen::Said(message) => state.hears(message),
            Seen::Garbage(line) => {
                state.rubbish.get_or_insert_with(|| line.to_owned());
            }
            Seen::Logged(_) => {}
            Seen::Ended(process, status) => {
                state.running.remove(&process);
                state.killed_at_end = status.is_none();
                state.walked_out |= state.answers > 0 && status.is_some_and(|status| status.success());
            }
        }
    }

    fn further_fields(&self) -> Map<String, Value> {
        let fields = json!({ "push0_check": { "of": ["a later version"] }, "priority": 7 });
        match fields {
            Value::Object(fields) if self.further.load(Ordering::Relaxed) => fields,
            _ => Map::new(),
        }
    }
}

impl State {
    fn hears(&mut self, message: &FromProver) {
        let about = match message {
            FromProver::Hello(hello) => {
                if self.said_hello {
                    self.out_of_turn.get_or_insert_with(|| "`hello` a second time".to_owned());
                }
                self.said_hello = true;
                self.hello = Some(hello.clone());
                return;
            }
            FromProver::Progress { id, .. } | FromProver::Done { id, .. } | FromProver::Failed { id, .. } => id,
        };
        let what = match message {
            FromProver::Progress { .. } => "progress",
            _ => "an answer",
        };
        if !self.said_hello {
            self.out_of_turn.get_or_insert_with(|| format!("{what} before `hello`"));
        } else if self.in_hand.as_ref() != Some(about) {
            let in_hand = self.in_hand.as_deref().unwrap_or("none");
            let why = format!("{what} for task {about:?}, while the task in hand was {in_hand}");
            self.out_of_turn.get_or_insert(why);
        }
        if !matches!(message, FromProver::Progress { .. }) {
            self.answers += 1;
            self.in_hand = None;
        }
    }
}

/// Every process of these groups.
fn group_members(leaders: &BTreeSet<u32>) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let group = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
    };
    pids.filter(|pid| group(*pid).is_some_and(|group| leaders.contains(&group))).collect()
}

/// A figure of `/proc/PID/status`.
fn kib(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lookout: &Lookout, line: Value) {
        lookout.sees(Seen::Said(&serde_json::from_value(line).unwrap()));
    }

    fn after(messages: &[Value]) -> Option<String> {
        let lookout = Lookout::default();
        lookout.sees(Seen::Started(std::process::id()));
        for message in messages {
            match message.as_str() {
                Some(id) => lookout.sees(Seen::Told(id)),
                None => said(&lookout, message.clone()),
            }
        }
        lookout.out_of_turn()
    }

    #[test]
    fn what_is_said_out_of_turn_is_noticed_and_the_rest_is_not() {
        let hello = json!({ "type": "hello", "protocol": 1, "name": "p", "version": "1", "stages": [] });
        let progress = |id: &str| json!({ "type": "progress", "id": id });
        let done = |id: &str| json!({ "type": "done", "id": id });
        let orderly = [hello.clone(), json!("a"), progress("a"), done("a"), json!("b"), done("b")];
        assert_eq!(after(&orderly), None);
        for (disorderly, expected) in [
            (vec![hello.clone(), hello.clone()], "second"),
            (vec![progress("a")], "before"),
            (vec![hello.clone(), progress("a")], "none"),
            (vec![hello.clone(), json!("a"), progress("b")], "\"b\""),
            (vec![hello.clone(), json!("a"), done("a"), progress("a")], "none"),
        ] {
            let found = after(&disorderly).unwrap_or_default();
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }

    #[test]
    fn memory_is_seen() {
        let lookout = Lookout::default();
        lookout.sees(Seen::Started(std::process::id()));
        lookout.sample();
        assert!(lookout.peak_mib().is_some());
    }
}
