//! Reads what a run will soon have ready.

use std::collections::BTreeMap;

use push0_core::record::{NodeView, RowKey, RunView};
use push0_core::{Node, Pool, block};

use super::graph;
use crate::drive::{Context, DriveError};

/// How many tasks of each pool are ready as soon as what other pools have in hand is done.
pub async fn soon(context: &Context, view: &RunView) -> Result<BTreeMap<Pool, u32>, DriveError> {
    if view.is_over() || view.manifest.is_none() {
        return Ok(BTreeMap::new());
    }
    let graph = graph(view)?;
    let partition = RowKey::run(&view.run.id).partition;
    let mut rows: BTreeMap<Node, NodeView> = BTreeMap::new();
    for (stage, layer) in block::soon_layers(&graph) {
        let found =
            context.table.query(&partition, &RowKey::layer(stage, layer), None, block::LOOKED_AT as usize).await?;
        let views =
            found.iter().filter_map(|row| Some((RowKey::parse_node(&row.key.sort)?, NodeView::read(&row.attributes))));
        rows.extend(views);
    }
    Ok(block::soon(&graph, |node| rows.get(&node)))
}
