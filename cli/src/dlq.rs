//! `push0 dlq`: what lies in the queue `poison` and in dead-letter queues, and what to do with it.
//!
//! Dead-letter queues are handled by push0 itself: what lies there is on its way, or something keeps push0 from handling it. `poison` is
//! for people: nothing leaves it by itself.

use std::collections::BTreeMap;

use push0_core::message::{ChainMessage, RangeMessage, Report, TaskMessage, TimerMessage, queue};
use push0_core::record::{OutboxRow, Versioned};
use push0_core::topology::Topology;
use push0_core::{ErrorCode, Millis};
use push0_runtime::port::{Clock as _, ErrorKind, Peeked, SystemClock};
use serde::{Deserialize, Serialize};

use crate::args;
use crate::connect::Remote;
use crate::error::{Code, Trouble};
use crate::output::Output;
use crate::render::{ago, columns};

/// Messages looked at in one call.
const PAGE: usize = 100;

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letter {
    /// Where it lies.
    pub queue: String,
    pub id: String,
    pub sent_at: Millis,
    /// How often it was handed out there.
    pub receives: u32,
    pub in_flight: bool,
    /// Where it would be sent back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Why it was put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The chain, block, run or task it is about, where it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Why it must not be sent back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The message as it was sent first.
    pub body: String,
}

/// What `poison` holds: the message, where it came from, and why it cannot be handled.
#[derive(Deserialize)]
struct Envelope {
    reason: String,
    queue: String,
    body: String,
}

/// Which queue each dead-letter queue belongs to.
struct Origins(BTreeMap<String, String>);

impl Origins {
    fn of(remote: &Remote) -> Self {
        let queues = Topology::built_in().expanded_queues(&remote.catalog.pools());
        Self(queues.into_iter().filter_map(|spec| Some((spec.dead_letter?.queue, spec.name))).collect())
    }

    /// The queue a message of this one was sent to at first.
    fn first<'a>(&'a self, queue: &'a str) -> &'a str {
        self.0.get(queue).map_or(queue, String::as_str)
    }

    /// Where dead letters lie, of the queues that are there.
    fn dead<'a>(&'a self, all: &'a [String]) -> impl Iterator<Item = &'a String> {
        all.iter().filter(|name| *name == queue::POISON || self.0.contains_key(*name))
    }
}

pub async fn run(args: &args::Dlq, remote: &Remote, output: Output) -> anyhow::Result<()> {
    match args {
        args::Dlq::List => list(remote, output).await,
        args::Dlq::Show { id } => show(id, remote, output).await,
        args::Dlq::Redrive(args) => redrive(args, remote, output).await,
        args::Dlq::Drop { ids, reason } => drop_letters(ids, reason, remote, output).await,
    }
}

/// All dead letters, queue by queue, oldest first.
pub async fn letters(remote: &Remote) -> anyhow::Result<Vec<Letter>> {
    let origins = Origins::of(remote);
    let mut letters = Vec::new();
    for queue in origins.dead(&remote.notice.queues) {
        let mut after: Option<String> = None;
        loop {
            let page = remote.letters.peek(queue, after.as_deref(), PAGE).await?;
            after = page.last().map(|last| last.id.clone());
            let is_last = page.len() < PAGE;
            letters.extend(page.into_iter().map(|peeked| letter(queue, peeked, &origins, &remote.notice.queues)));
            if is_last {
                break;
            }
        }
    }
    Ok(letters)
}

fn letter(queue: &str, peeked: Peeked, origins: &Origins, queues: &[String]) -> Letter {
    let Peeked { id, body, sent_at, receive_count, in_flight, .. } = peeked;
    let mut letter = Letter {
        queue: queue.to_owned(),
        id,
        sent_at,
        receives: receive_count,
        in_flight,
        origin: None,
        reason: None,
        about: None,
        refused: None,
        body,
    };
    if queue == queue::POISON {
        match serde_json::from_str::<Envelope>(&letter.body) {
            Ok(envelope) => {
                letter.origin = Some(origins.first(&envelope.queue).to_owned());
                (letter.reason, letter.body) = (Some(envelope.reason), envelope.body);
            }
            Err(_) => letter.refused = Some("it does not say where it came from".to_owned()),
        }
    } else {
        letter.origin = Some(origins.first(queue).to_owned());
        letter.reason = Some("it was handed out too often without being acknowledged".to_owned());
    }
    if let Some(origin) = &letter.origin {
        match about(origin, &letter.body) {
            _ if !queues.contains(origin) => letter.refused = Some(format!("there is no queue {origin} any more")),
            Ok(about) => letter.about = Some(about),
            Err(why) => letter.refused = Some(format!("it would come back at once: {why}")),
        }
    }
    letter
}

/// What a message of this queue is about; an error where the queue's reader could not read it either.
fn about(queue: &str, body: &str) -> Result<String, String> {
    fn read<T: Versioned>(body: &str) -> Result<T, String> {
        T::from_json(body).map_err(|error| error.to_string())
    }
    match queue {
        queue::SUBMISSIONS => read::<ChainMessage>(body).map(|message| {
            let number = match &message {
                ChainMessage::Submit(submission) => Some(submission.number),
                ChainMessage::Command(command) => command.number(),
                ChainMessage::Batch { number, .. } => Some(*number),
            };
            number.map_or(message.chain().to_string(), |number| format!("{}/{number}", message.chain()))
        }),
        queue::RESULTS | queue::VERDICTS => read::<Report>(body).map(|report| report.task.to_string()),
        queue::RANGES => read::<RangeMessage>(body).map(|range| format!("{} {}..{}", range.run, range.from, range.to)),
        queue::TIMERS => read::<TimerMessage>(body).map(|timer| format!("{} piece {}", timer.run, timer.piece)),
        queue::FINALIZED => read::<OutboxRow>(body).map(|row| format!("{}/{}", row.chain, row.number)),
        _ if queue.starts_with("work-") => read::<TaskMessage>(body).map(|task| task.id.to_string()),
        _ => Err(format!("nobody reads queue {queue}")),
    }
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let letters = letters(remote).await?;
    output.show(&letters, || text(&letters, SystemClock.now()));
    Ok(())
}

fn text(letters: &[Letter], now: Millis) -> String {
    if letters.is_empty() {
        return "there are no dead letters".to_owned();
    }
    let row = |letter: &Letter| {
        vec![
            letter.id.clone(),
            letter.queue.clone(),
            ago(now, letter.sent_at),
            if letter.in_flight { "in hand".to_owned() } else { String::new() },
            if letter.receives > 0 { format!("{} receives", letter.receives) } else { String::new() },
            letter.about.clone().unwrap_or_else(|| "unreadable".to_owned()),
            letter.reason.as_deref().map(first_line).unwrap_or_default(),
        ]
    };
    let mut text = columns("", &letters.iter().map(row).collect::<Vec<_>>());
    text.push_str("next: push0 dlq show ID · push0 dlq redrive ID · push0 dlq drop ID --reason TEXT\n");
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}

/// The letters of these ids, in the order given; an error names the first that is not there.
fn pick(letters: Vec<Letter>, ids: &[String]) -> Result<Vec<Letter>, Trouble> {
    let find = |id: &String| {
        letters.iter().find(|letter| letter.id == *id).cloned().ok_or_else(|| {
            Trouble::absent(format!("there is no dead letter {id}"))
                .next("`push0 dlq list` shows all there are; it may have been handled meanwhile")
                .coded(ErrorCode::Poison)
        })
    };
    ids.iter().map(find).collect()
}

async fn show(id: &String, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let mut found = pick(letters(remote).await?, std::slice::from_ref(id))?;
    let letter = found.remove(0);
    let now = SystemClock.now();
    output.show(&letter, || {
        let rows: Vec<Vec<String>> = [
            ("message", Some(letter.id.clone())),
            ("lies in", Some(letter.queue.clone())),
            ("sent", Some(ago(now, letter.sent_at))),
            ("receives", Some(letter.receives.to_string())),
            ("about", letter.about.clone()),
            ("reason", letter.reason.clone()),
            ("came from", letter.origin.clone()),
            ("refused", letter.refused.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(vec![name.to_owned(), value?]))
        .collect();
        // Laid out where it is JSON, as it is where it is not.
        let body = serde_json::from_str::<serde_json::Value>(&letter.body)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or_else(|_| letter.body.clone());
        format!("{}{body}\n", columns("", &rows))
    });
    Ok(())
}

/// What became of a letter.
#[derive(Debug, Serialize)]
struct Settled {
    id: String,
    queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// `sent back`, `dropped`, `in hand`, `gone`, `refused`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Settled {
    fn new(letter: &Letter, to: Option<String>, outcome: &'static str) -> Self {
        Self { id: letter.id.clone(), queue: letter.queue.clone(), to, outcome, why: None }
    }

    fn line(&self) -> String {
        let to = self.to.as_ref().map_or(String::new(), |to| format!(" to {to}"));
        let why = self.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        format!("{} of {}: {}{to}{why}", self.id, self.queue, self.outcome)
    }
}

async fn redrive(args: &args::Redrive, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let all = letters(remote).await?;
    let chosen = if args.all {
        let is_wanted = |letter: &Letter| args.queue.as_ref().is_none_or(|queue| letter.queue == *queue);
        if let Some(queue) = &args.queue
            && !remote.notice.queues.contains(queue)
        {
            return Err(Trouble::absent(format!("there is no queue {queue}"))
                .next("`push0 status --all` lists all queues; dead letters lie in `poison` and in those named *-dlq")
                .coded(ErrorCode::BadUsage)
                .into());
        }
        all.into_iter().filter(is_wanted).collect()
    } else {
        pick(all, &args.ids)?
    };
    let mut settled = Vec::new();
    for letter in &chosen {
        settled.push(send_back(letter, remote).await?);
    }
    conclude(&settled, "sent back", output)
}

async fn send_back(letter: &Letter, remote: &Remote) -> anyhow::Result<Settled> {
    let (Some(origin), None) = (&letter.origin, &letter.refused) else {
        return Ok(Settled { why: letter.refused.clone(), ..Settled::new(letter, None, "refused") });
    };
    let body = (letter.queue == queue::POISON).then(|| letter.body.clone());
    let moved = remote.letters.redrive(&letter.queue, &letter.id, origin, body).await;
    outcome(letter, moved, Some(origin.clone()), "sent back")
}

async fn drop_letters(ids: &[String], reason: &str, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let chosen = pick(letters(remote).await?, ids)?;
    let mut settled = Vec::new();
    for letter in &chosen {
        // The last that is seen of it.
        output.note(&format!("{} of {}: {}", letter.id, letter.queue, letter.body));
        let gone = remote.letters.discard(&letter.queue, &letter.id, reason).await;
        settled.push(outcome(letter, gone, None, "dropped")?);
    }
    conclude(&settled, "dropped", output)
}

fn outcome(
    letter: &Letter,
    done: push0_runtime::port::PortResult<bool>,
    to: Option<String>,
    what: &'static str,
) -> anyhow::Result<Settled> {
    match done {
        Ok(true) => Ok(Settled::new(letter, to, what)),
        Ok(false) => Ok(Settled::new(letter, None, "gone")),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(Settled::new(letter, None, "in hand")),
        Err(error) if error.kind() == ErrorKind::Permanent => {
            Ok(Settled { why: Some(error.to_string()), ..Settled::new(letter, None, "refused") })
        }
        Err(error) => Err(error.into()),
    }
}

fn conclude(settled: &[Settled], wanted: &str, output: Output) -> anyhow::Result<()> {
    output.show(&settled, || {
        if settled.is_empty() {
            return "there are no dead letters".to_owned();
        }
        settled.iter().map(Settled::line).collect::<Vec<_>>().join("\n")
    });
    let left = settled.iter().filter(|one| one.outcome != wanted).count();
    if left == 0 {
        return Ok(());
    }
    Err(Trouble::new(Code::Failed, format!("{left} of {} were not {wanted}", settled.len()))
        .next(
            "what is in hand is being handled by push0; what is refused can be looked at (`push0 dlq show ID`) and taken \
             out (`push0 dlq drop ID --reason TEXT`)",
        )
        .coded(ErrorCode::Poison)
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        let queues = Topology::built_in().expanded_queues(&["cpu".parse().unwrap()].into());
        Origins(queues.into_iter().filter_map(|spec| Some((spec.dead_letter?.queue, spec.name))).collect())
    }

    fn seen(queue: &str, body: &str) -> Letter {
        let peeked = Peeked {
            id: "7".to_owned(),
            body: body.to_owned(),
            group: Some("demo".to_owned()),
            receive_count: 0,
            sent_at: Millis(0),
            in_flight: false,
        };
        let queues: Vec<String> =
            ["poison", "results", "results-dlq", "work-cpu-bulk", "submissions.fifo"].map(str::to_owned).to_vec();
        letter(queue, peeked, &origins(), &queues)
    }

    fn poison(queue: &str, body: &str) -> Letter {
        seen("poison", &serde_json::json!({ "reason": "no", "queue": queue, "body": body }).to_string())
    }

    #[test]
    fn a_dead_letter_goes_back_to_where_it_was_sent_first() {
        let pause = r#"{"v":1,"message":"command","command":"pause","chain":"demo"}"#;
        for queue in ["submissions.fifo", "submissions-dlq.fifo"] {
            let letter = poison(queue, pause);
            assert_eq!((letter.origin.as_deref(), letter.refused.as_deref()), (Some("submissions.fifo"), None));
            assert_eq!((letter.about.as_deref(), letter.reason.as_deref()), (Some("demo"), Some("no")));
        }
        let range = r#"{"v":1,"run":"demo/7/e1","from":0,"to":4}"#;
        assert_eq!(seen("ranges-dlq", range).origin.as_deref(), Some("ranges"));
    }

    #[test]
    fn what_would_only_come_back_is_refused_with_the_reason() {
        let cases = [
            (seen("poison", "rubbish"), "does not say where it came from"),
            (poison("results", "{}"), "come back at once"),
            (poison("results", "rubbish"), "come back at once"),
            (poison("work-gone-bulk", "{}"), "no queue work-gone-bulk"),
            (poison("poison", "{}"), "nobody reads queue poison"),
        ];
        for (letter, why) in cases {
            assert!(letter.refused.as_deref().unwrap().contains(why), "{why}: {letter:?}");
        }
    }
}
