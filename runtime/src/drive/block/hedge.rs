//! Copies of tasks: telling those that came too late to stop.

use push0_core::Node;
use push0_core::TaskId;
use push0_core::block::{self, Graph};
use push0_core::record::{NodeView, node_control_key};

use crate::drive::store::put_blob;
use crate::drive::{Context, DriveError};

/// The artifact of `node`, which `reader` has in `slot`, is accepted: whoever works on another copy is told to stop.
pub(super) async fn stop_others(
    context: &Context,
    graph: &Graph<'_>,
    node: Node,
    reader: &NodeView,
    slot: u32,
) -> Result<(), DriveError> {
    let run = graph.run;
    for attempt in block::settled(reader, slot, run.policy.stage(node.stage)) {
        let task = TaskId { run: run.id.clone(), tag: run.digest.tag(), node, attempt, copy: 0 };
        let at = node_control_key(&task, &run.pipeline.stage(node.stage).name);
        put_blob(context, &at, "stop".to_owned()).await?;
    }
    Ok(())
}
