//! A way through the model, for people: a line for each step.

use push0_core::message::{ChainMessage, RangeMessage, Report, ReportEvent, TaskMessage, queue};
use push0_core::record::{OutboxRow, Versioned as _};
use push0_runtime::port::{Row, Write};
use stateright::Path;

use super::loops::Next;
use super::tape::{Call, Ended, PROVEN, UNPROVABLE};
use super::world::{Action, State, Who, World};

impl World {
    /// The steps of a way, and what was wrong at its end.
    pub(super) fn trace(&self, path: Path<State, Action>) -> Vec<String> {
        let steps = path.into_vec();
        let mut lines = Vec::new();
        for (at, (state, action)) in steps.iter().enumerate() {
            if let Some(action) = action {
                lines.push(format!("{:>3}  {}", at + 1, self.describe(state, action)));
            }
        }
        if let Some((last, _)) = steps.last() {
            match last.breach {
                Some(breach) => lines.push(format!("then {}", self.loops.texts.get(breach.what))),
                None => lines.extend(self.rows_of(last)),
            }
        }
        lines
    }

    fn describe(&self, before: &State, action: &Action) -> String {
        let hand = |who: &Who, at: usize| match who {
            Who::Dispatcher => &before.dispatchers[at],
            Who::Collector => &before.collectors[at],
        };
        let name = |who: &Who| match who {
            Who::Dispatcher => "dispatcher",
            Who::Collector => "collector",
        };
        let held = |who: &Who, at: usize| {
            let (source, body) = self.loops.message(hand(who, at).delivery);
            format!("{} [{}]", name(who), self.message(source, body))
        };
        match action {
            Action::Take { who, source, body } => format!("{} takes {}", name(who), self.message(*source, *body)),
            Action::Call { who, hand: at, call } => {
                let next = self.loops.next(hand(who, *at).delivery);
                let asked = match &next.next {
                    Next::Asks(calls) => calls.iter().find(|(number, _)| number == call).map(|(_, call)| *call),
                    Next::Handled | Next::Failed(_) | Next::Panicked(_) => None,
                };
                let Some(asked) = asked else { return held(who, *at) };
                let what = self.said(&self.loops.calls.get(asked));
                let met = self.meets_another(before, asked);
                format!("{}: {what}{}", held(who, *at), if met { ": conflict" } else { "" })
            }
            Action::Acknowledge { who, hand } => format!("{} is acknowledged", held(who, *hand)),
            Action::Crash { who, hand } => format!("{} crashes", held(who, *hand)),
            Action::Lapse { who, hand } => format!("{}: its lease ends, and it goes on", held(who, *hand)),
            Action::Work { body, work, .. } => {
                let task = TaskMessage::from_json(&self.loops.texts.get(*body)).map(|task| task.id.to_string());
                format!("worker on {}: {work:?}", task.unwrap_or_default())
            }
            Action::Retry { number } => format!("operator: retry of block {number}"),
            Action::Fork { from } => format!("submitter: a fork from block {from} on"),
            Action::Forget => "finalized.fifo has forgotten the dedup ids it knew".to_owned(),
        }
    }

    fn message(&self, source: u32, body: u32) -> String {
        let (source, body) = (self.loops.texts.get(source), self.loops.texts.get(body));
        let said = match source.as_str() {
            queue::SUBMISSIONS => ChainMessage::from_json(&body).ok().map(|message| match message {
                ChainMessage::Submit(block) => {
                    let fork = block.fork_seq.map(|fork| format!(" of fork {fork}")).unwrap_or_default();
                    format!("block {}{fork}", block.number)
                }
                ChainMessage::Command(command) => format!("{command:?}"),
                ChainMessage::Batch { number, .. } => format!("batch {number}"),
            }),
            queue::RANGES => RangeMessage::from_json(&body).ok().map(|range| format!("range of {}", range.run)),
            queue::RESULTS | queue::VERDICTS => Report::from_json(&body).ok().map(|report| {
                let event = match report.event {
                    ReportEvent::Started => "started",
                    ReportEvent::Done { .. } => "done",
                    ReportEvent::Split { .. } => "split",
                    ReportEvent::Verified { .. } => "verified",
                    ReportEvent::Checked { .. } => "checked",
                    ReportEvent::Failed { .. } => "failed",
                };
                format!("{event} {}", report.task)
            }),
            PROVEN | UNPROVABLE => serde_json::from_str(&body).ok().map(|ended: Ended| {
                let what = if *source == PROVEN { "proven" } else { "unprovable" };
                format!("{what} {}", ended.run)
            }),
            _ => TaskMessage::from_json(&body).ok().map(|task| format!("dead letter {}", task.id)),
        };
        said.unwrap_or_else(|| format!("{source}: {body}"))
    }

    fn said(&self, call: &Call) -> String {
        match call {
            Call::Get(key) | Call::GetAttributes(key, _) => format!("reads {}/{}", key.partition, key.sort),
            Call::Query { partition, prefix, .. } => format!("reads {partition}/{prefix}*"),
            Call::Put { key, .. } | Call::Delete(key) => format!("writes {}/{}", key.partition, key.sort),
            Call::AcceptFirst { key, slot, attempt, .. } => {
                format!("fills {slot} of {}/{} by attempt {attempt}", key.partition, key.sort)
            }
            Call::SetIf { key, attribute, .. } => format!("sets {attribute} of {}/{}", key.partition, key.sort),
            Call::Transact(writes) => {
                let what: Vec<String> = writes.iter().map(written).collect();
                format!("writes {}", what.join(" and "))
            }
            Call::Send { queue, messages } => {
                let what = messages.iter().map(|message| {
                    let row = OutboxRow::from_json(&message.body).ok().filter(|_| queue == queue::FINALIZED);
                    let task = TaskMessage::from_json(&message.body).ok().map(|task| task.id.to_string());
                    row.map(|row| format!("seq {}", row.seq)).or(task).unwrap_or_else(|| "a message".to_owned())
                });
                format!("sends to {queue}: {}", what.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// The chain as it is: where nothing is under way that is what is wrong.
    fn rows_of(&self, state: &State) -> Vec<String> {
        let rows = super::world::all_rows(self, state);
        let chain = rows.iter().filter(|(key, _)| key.partition.starts_with("chain/"));
        let doc = |row: &Row| row.doc().map(ToString::to_string).unwrap_or_default();
        chain.map(|(key, row)| format!("left {}: {}", key.sort, doc(row))).collect()
    }
}

fn written(write: &Write) -> String {
    match write {
        Write::Put { key, doc, .. } => {
            let field = |name: &str| doc.get(name).filter(|value| !value.is_object() && !value.is_null());
            let fields = ["status", "epoch", "next_release", "next_final", "pending"].into_iter();
            let said = fields.filter_map(|name| Some(format!("{name} {}", field(name)?))).collect::<Vec<_>>();
            format!("{} ({})", key.sort, said.join(", "))
        }
        Write::SetIf { key, attribute, .. } => format!("{attribute} of {}", key.sort),
        Write::Check { key, .. } => format!("nothing new of {}", key.sort),
    }
}
