//! What the watched process does, step by step, and what an engine holds then.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use push0_core::{Millis, Sha256};
use push0_runtime::engine::{Engine, QueueSpec};
use push0_runtime::port::{Blobs, ErrorKind, Key, Outgoing, Queue, Table, Write};
use serde_json::{Value, json};

const LEASE: Millis = Millis::from_secs(3600);

pub(crate) fn queues() -> Vec<QueueSpec> {
    vec![QueueSpec::new("q"), QueueSpec::new("r"), QueueSpec::new("s.fifo")]
}

/// What an engine holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Content {
    messages: BTreeSet<(&'static str, String)>,
    rows: BTreeMap<(String, String), (u64, BTreeMap<String, Value>)>,
    blobs: BTreeMap<String, Sha256>,
    /// Blobs whose bytes are not what was stored, and said to be so.
    pub(crate) damaged: BTreeSet<String>,
}

impl Content {
    /// The same, but for blobs that are said to be damaged.
    pub(crate) fn agrees_with(&self, wanted: &Self) -> bool {
        let blobs = wanted.blobs.iter().filter(|(key, _)| !self.damaged.contains(*key));
        self.messages == wanted.messages
            && self.rows == wanted.rows
            && self.blobs.iter().eq(blobs)
            && self.damaged.iter().all(|key| wanted.blobs.contains_key(key))
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Sent(&'static str, String),
    Acknowledged(&'static str, String),
    Row(&'static str, String, u64, Value),
    Attribute(&'static str, String, &'static str, Value),
    Stored(String, Sha256),
    Deleted(String),
}

/// Parts, each of which happens whole or not at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step(pub(crate) Vec<Vec<Effect>>);

pub(crate) fn after(content: &Content, step: &Step) -> Content {
    let mut content = content.clone();
    for effect in step.0.iter().flatten().cloned() {
        match effect {
            Effect::Sent(queue, body) => drop(content.messages.insert((queue, body))),
            Effect::Acknowledged(queue, body) => drop(content.messages.remove(&(queue, body))),
            Effect::Row(partition, sort, version, doc) => {
                let row = (version, [("doc".to_owned(), doc)].into());
                content.rows.insert((partition.to_owned(), sort), row);
            }
            Effect::Attribute(partition, sort, name, value) => {
                let row = content.rows.entry((partition.to_owned(), sort)).or_default();
                row.1.insert(name.to_owned(), value);
            }
            Effect::Stored(key, sha256) => drop(content.blobs.insert(key, sha256)),
            Effect::Deleted(key) => drop(content.blobs.remove(&key)),
        }
    }
    content
}

fn blob(number: u32) -> (String, Bytes) {
    // Now and then more than is written at once.
    let length = if number % 100 == 2 { 150_000 } else { 1 + (number * 7919) % 12_000 };
    let bytes: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(number + 1) >> 3) as u8).collect();
    (format!("artifacts/cpu/demo/{}/e1/tag/1.0.{number}/a1c0", number / 50), bytes.into())
}

fn small(number: u32) -> (String, Bytes) {
    (format!("proofs/demo/{number}"), Bytes::from(format!("proof {number}")))
}

fn stored((key, bytes): (String, Bytes)) -> Effect {
    Effect::Stored(key, Sha256::of(&bytes))
}

fn is_acknowledged(number: u32) -> bool {
    !(number / 10).is_multiple_of(3)
}

/// A blob that this step deletes, one of twenty steps before.
fn victim(number: u32) -> Option<(String, Bytes)> {
    let round = number / 10;
    (round >= 2 && round.is_multiple_of(2)).then(|| blob(number - 25))
}

/// What the step of this number makes so.
pub(crate) fn step(number: u32) -> Step {
    let round = number / 10;
    let text = number.to_string();
    let parts = match number % 10 {
        0 => vec![vec![Effect::Sent("q", text)]],
        1 => vec![vec![Effect::Sent("s.fifo", text)]],
        2 => vec![vec![stored(blob(number))]],
        3 => vec![vec![
            Effect::Row("p", "chain".to_owned(), u64::from(round) + 1, json!({ "next": number })),
            Effect::Row("p", format!("outbox/{round:05}"), 1, json!({ "seq": round, "text": "x".repeat(300) })),
            Effect::Attribute("n", "published".to_owned(), "seq", json!(round + 1)),
        ]],
        4 => vec![vec![Effect::Attribute("n", format!("node/{round:05}"), "slot.0", json!({ "attempt": 1 }))]],
        6 if is_acknowledged(number) => vec![vec![Effect::Acknowledged("q", (number - 6).to_string())]],
        7 => victim(number).map(|(key, _)| vec![Effect::Deleted(key)]).into_iter().collect(),
        9 => vec![
            vec![Effect::Sent("r", text)],
            vec![Effect::Attribute("n", format!("node/{round:05}"), "fired", json!(1))],
            vec![stored(small(number))],
        ],
        // Handing out and sending again under a known id change nothing that is seen here.
        _ => vec![],
    };
    Step(parts)
}

fn message(body: String) -> Vec<Outgoing> {
    vec![Outgoing { body, ..Outgoing::default() }]
}

fn in_order(number: u32) -> Vec<Outgoing> {
    let (group, dedup) = (Some("demo".to_owned()), Some(number.to_string()));
    vec![Outgoing { body: number.to_string(), group, dedup, ..Outgoing::default() }]
}

/// Does the step; returns when all of it is acknowledged.
pub(crate) async fn perform(engine: &Engine, number: u32) {
    let round = number / 10;
    let text = number.to_string();
    let node = Key::new("n", format!("node/{round:05}"));
    let outcome = async {
        match number % 10 {
            0 => engine.send("q", message(text)).await?,
            1 => engine.send("s.fifo", in_order(number)).await?,
            2 => {
                let (key, bytes) = blob(number);
                engine.put_new(&key, bytes, "w").await?;
            }
            3 => {
                let expected = (round > 0).then_some(u64::from(round));
                let seq = (round > 0).then(|| json!(round));
                let outbox = Key::new("p", format!("outbox/{round:05}"));
                let doc = json!({ "seq": round, "text": "x".repeat(300) });
                let writes = vec![
                    Write::Put { key: Key::new("p", "chain"), doc: json!({ "next": number }), expected },
                    Write::Put { key: outbox, doc, expected: None },
                    Write::SetIf {
                        key: Key::new("n", "published"),
                        attribute: "seq".to_owned(),
                        expected: seq,
                        new: Some(json!(round + 1)),
                    },
                ];
                engine.transact(writes).await?;
            }
            4 => {
                let accepted = engine.accept_first(&node, "slot.0", "floor.0", 1, json!({ "attempt": 1 })).await?;
                assert!(accepted.won);
            }
            6 => {
                let taken = engine.receive("q", 1, Millis(0), LEASE).await?;
                assert_eq!(taken[0].body, (number - 6).to_string());
                if is_acknowledged(number) {
                    engine.ack("q", &taken[0].receipt).await?;
                }
            }
            7 => {
                if let Some((key, _)) = victim(number) {
                    Blobs::delete(engine, &key).await?;
                }
            }
            8 => engine.send("s.fifo", in_order(number - 7)).await?,
            9 => {
                let (key, bytes) = small(number);
                let sending = engine.send("r", message(text));
                let setting = engine.set_if(&node, "fired", None, Some(json!(1)));
                let storing = engine.put_new(&key, bytes, "w");
                futures::try_join!(sending, setting, storing)?;
            }
            _ => {}
        }
        Ok::<(), push0_runtime::port::PortError>(())
    };
    outcome.await.unwrap();
}

/// What an engine holds. Its messages are taken.
pub(crate) async fn read(engine: &Engine) -> Content {
    let mut content = Content::default();
    for queue in ["q", "r", "s.fifo"] {
        engine.reclaim(queue).unwrap();
        let mut last = None;
        loop {
            let taken = engine.receive(queue, 10, Millis(0), LEASE).await.unwrap();
            if taken.is_empty() {
                break;
            }
            for delivery in taken {
                let number: u32 = delivery.body.parse().unwrap();
                assert!(queue != "s.fifo" || last < Some(number), "{number} is handed out after {last:?}");
                last = Some(number);
                engine.ack(queue, &delivery.receipt).await.unwrap();
                assert!(content.messages.insert((queue, delivery.body)), "a message twice");
            }
        }
    }
    for partition in ["p", "n"] {
        for row in engine.query(partition, "", None, usize::MAX).await.unwrap() {
            content.rows.insert((row.key.partition, row.key.sort), (row.version, row.attributes));
        }
    }
    for key in Blobs::list(engine, "", None, usize::MAX).await.unwrap() {
        match Blobs::get(engine, &key).await {
            Ok(Some(bytes)) => drop(content.blobs.insert(key, Sha256::of(&bytes))),
            Ok(None) => panic!("{key} is listed, and not there"),
            Err(error) if error.kind() == ErrorKind::Corrupt => drop(content.damaged.insert(key)),
            Err(error) => panic!("{key}: {error}"),
        }
    }
    content
}
