//! The numbered invariants, judged at every write of a versioned row from outside of the drive loops: by the rows as they were and as they
//! are, in whatever build.

use futures::FutureExt as _;
use push0_core::invariant::{self, Check};
use push0_core::record::{BatchRow, BlockRow, ChainRow, OutboxRow, Versioned};
use push0_runtime::engine::Engine;
use push0_runtime::port::{Key, Table as _, Value, Write};

/// The documents that are about to be written over, in the order of the writes.
pub(super) fn before(engine: &Engine, writes: &[Write]) -> Vec<Option<Value>> {
    let document = |key: &Key| engine.get(key).now_or_never()?.ok()??.doc().cloned();
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
