//! Records and messages: JSON with a version.

use std::collections::BTreeMap;
use std::fmt::Debug;

use push0_core::block::{Graph, Sketch, fire};
use push0_core::id::Node;
use push0_core::message::{ChainMessage, RangeMessage, Report, TaskMessage, TimerMessage};
use push0_core::record::{
    BatchManifest, BatchRow, BlockRow, ChainRow, HedgeWatch, Manifest, ManifestPage, NodeView, OutboxRow, Run, RunView,
    Versioned, Watch,
};
use push0_core::{Attempt, Millis};
use serde_json::Value;

use super::Target;

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("message_chain", record::<ChainMessage>).reads(&[ChainMessage::NAME]),
        Target::new("message_range", record::<RangeMessage>).reads(&[RangeMessage::NAME]),
        Target::new("message_report", record::<Report>).reads(&[Report::NAME]),
        Target::new("message_task", task).reads(&[TaskMessage::NAME]),
        Target::new("message_timer", record::<TimerMessage>).reads(&[TimerMessage::NAME]),
        Target::new("record_batch", record::<BatchRow>).reads(&[BatchRow::NAME]),
        Target::new("record_batch_manifest", batch_manifest).reads(&[BatchManifest::NAME]),
        Target::new("record_block", record::<BlockRow>).reads(&[BlockRow::NAME]),
        Target::new("record_chain", record::<ChainRow>).reads(&[ChainRow::NAME]),
        Target::new("record_manifest", record::<Manifest>).reads(&[Manifest::NAME]),
        Target::new("record_manifest_page", record::<ManifestPage>).reads(&[ManifestPage::NAME]),
        Target::new("record_outbox", record::<OutboxRow>).reads(&[OutboxRow::NAME]),
        Target::new("record_run", record::<Run>).reads(&[Run::NAME]),
        Target::new("rows", rows),
    ]
}

fn read<T: Versioned + PartialEq + Debug>(input: &[u8]) -> Option<T> {
    let record = T::from_json(std::str::from_utf8(input).ok()?).ok()?;
    let written = record.to_json();
    // What fitted with its blanks fits without them, but for numbers and texts that are written longer than they were.
    if written.len() <= T::LIMIT {
        assert_eq!(T::from_json(&written).as_ref(), Ok(&record), "it was written as {written}");
    }
    Some(record)
}

fn record<T: Versioned + PartialEq + Debug>(input: &[u8]) -> bool {
    read::<T>(input).is_some()
}

/// And what is derived from a task wherever it is handled.
fn task(input: &[u8]) -> bool {
    let Some(task) = read::<TaskMessage>(input) else { return false };
    assert!(task.rank() >= 0);
    assert!(task.artifact_key().ends_with(&task.id.to_string()));
    task.as_copy(u8::MAX).demoted();
    true
}

fn batch_manifest(input: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(input) {
        let limits = push0_gpu_worker::Limits::default();
        if let Ok(inputs) = push0_gpu_worker::task::expand(text, &limits) {
            assert!(inputs.len() <= 2 * limits.batch_blocks);
        }
    }
    record::<BatchManifest>(input)
}

/// The attributes of accept-first rows, which are read one by one; and the task graph that follows from them.
fn rows(input: &[u8]) -> bool {
    let Ok(attributes) = serde_json::from_slice::<BTreeMap<String, Value>>(input) else { return false };
    let node = NodeView::read(&attributes);
    for attempt in [Attempt(0), Attempt::FIRST, Attempt(u32::MAX)] {
        node.start_of(attempt, 0);
        node.has_failed(0);
    }
    node.first_start();
    let mut is_known = node != NodeView::default();
    for value in attributes.values() {
        is_known |= serde_json::from_value::<Watch>(value.clone()).is_ok();
        is_known |= serde_json::from_value::<HedgeWatch>(value.clone()).is_ok();
        if let Ok(mut sketch) = serde_json::from_value::<Sketch>(value.clone()) {
            is_known = true;
            sketch.quantile(950);
            sketch.add(Millis(u64::MAX));
            sketch.quantile(1);
        }
    }
    let Some(view) = RunView::read(&attributes) else { return is_known };
    view.is_over();
    view.run.split_task().rank();
    let Some(manifest) = &view.manifest else { return true };
    let Some(graph) = Graph::new(&view.run, manifest) else { return true };
    for stage in 0..view.run.pipeline.stages.len() as u16 {
        for (layer, index) in [(0, 0), (0, manifest.segments - 1), (u8::MAX, u32::MAX)] {
            let at = Node::new(stage, layer, index);
            if graph.plan.contains(at) {
                graph.plan.parent(at);
                graph.plan.covers(at);
                fire(&graph, at, &node, None);
            }
        }
    }
    true
}
