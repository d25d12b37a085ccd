//! The numbered invariants, judged at every write from outside of the drive loops: by the rows as they were and as they are, in whatever
//! build. What is accepted is compared with what is stored.

use futures::FutureExt as _;
use push0_core::invariant::{self, Check};
use push0_core::record::{
    Artifact, BatchRow, BlockRow, ChainRow, ManifestSlot, OutboxRow, RunView, Try, Versioned, attribute,
};
use push0_runtime::engine::Engine;
use push0_runtime::port::{Blobs as _, Key, Row, Table, Value, Write};

/// The documents that are about to be written over, in the order of the writes.
pub(super) fn before(engine: &Engine, writes: &[Write]) -> Vec<Option<Value>> {
    let document = |key: &Key| Table::get(engine, key).now_or_never()?.ok()??.doc().cloned();
    let of = |write: &Write| match write {
        Write::Put { key, expected: Some(_), .. } => document(key),
        Write::Put { expected: None, .. } | Write::SetIf { .. } | Write::Check { .. } => None,
    };
    writes.iter().map(of).collect()
}

/// What writes have made of these documents.
pub(super) fn judge(before: &[Option<Value>], writes: &[Write]) -> Check {
    let puts = writes.iter().zip(before).filter_map(|(write, before)| match write {
        Write::Put { key, doc, .. } => Some((key, doc, before.as_ref())),
        Write::SetIf { .. } | Write::Check { .. } => None,
    });
    let puts: Vec<_> = puts.collect();
    let chain = puts.iter().filter(|(key, ..)| key.sort == "chain").find_map(|(_, doc, _)| read::<ChainRow>(doc));
    for write in writes {
        let Write::SetIf { attribute, expected, new: Some(new), .. } = write else { continue };
        if attribute == attribute::TRY {
            let before = expected.as_ref().map_or_else(Try::default, of);
            invariant::tried(&before, &of(new))?;
        }
    }
    for (key, doc, before) in puts {
        match key.sort.split('/').next().unwrap_or_default() {
            "chain" => {
                let Some(after) = read::<ChainRow>(doc) else { continue };
                invariant::chain(before.and_then(read::<ChainRow>).as_ref(), &after)?;
            }
            "block" => {
                let Some(after) = read::<BlockRow>(doc) else { continue };
                invariant::block(before.and_then(read::<BlockRow>).as_ref(), &after)?;
            }
            "seq" => {
                let (Some(chain), Some(row)) = (&chain, read::<OutboxRow>(doc)) else { continue };
                invariant::outbox(chain, &row)?;
            }
            "batch" => {
                let (Some(chain), Some(row)) = (&chain, read::<BatchRow>(doc)) else { continue };
                invariant::batch(chain, &row)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn read<T: Versioned>(doc: &Value) -> Option<T> {
    T::from_value(doc.clone()).ok()
}

fn of<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// A9: an artifact that is accepted is stored as the row says, and a manifest is about the block of its run.
pub(super) fn accepted(engine: &Engine, row: &Row, slot: &str, value: &Value) -> Result<(), String> {
    if let Ok(artifact) = serde_json::from_value::<Artifact>(value.clone()) {
        let blob = &artifact.blob;
        let stored = engine.head(&blob.key).now_or_never().and_then(Result::ok).flatten();
        let is_so = stored.is_some_and(|info| (info.sha256, info.size) == (blob.sha256, blob.size));
        return if is_so { Ok(()) } else { Err(format!("A9: {blob:?} is accepted and not stored so")) };
    }
    let manifest = serde_json::from_value::<ManifestSlot>(value.clone()).ok().filter(|_| slot == attribute::MANIFEST);
    let run = RunView::read(&row.attributes).map(|view| view.run);
    match manifest.zip(run) {
        Some((manifest, run)) if manifest.hash != run.hash => {
            Err(format!("A9: what was split for {} is about {}", run.id, manifest.hash))
        }
        _ => Ok(()),
    }
}
