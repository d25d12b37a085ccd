//! From the topology to what runs it: queues for the engine, mappings for the function host.

use std::collections::BTreeSet;

use push0_core::topology::{QueueKind, Topology};
use push0_core::{Millis, Pool};

use crate::engine::{self, DeadLetter};
use crate::host::Mapping;

/// Every queue of the topology, for the embedded engine.
pub fn engine_queues(topology: &Topology, pools: &BTreeSet<Pool>) -> Vec<engine::QueueSpec> {
    let queue = |spec: push0_core::topology::QueueSpec| engine::QueueSpec {
        name: spec.name,
        fifo: spec.kind == QueueKind::Fifo,
        dead_letter: spec
            .dead_letter
            .map(|letters| DeadLetter { queue: letters.queue, max_receives: letters.max_receives }),
    };
    topology.expanded_queues(pools).into_iter().map(queue).collect()
}

/// The sources of a function, as the host polls them. A function the topology does not have has none.
pub fn mappings(topology: &Topology, function: &str, pools: &BTreeSet<Pool>) -> Vec<Mapping> {
    let Some(function) = topology.function(function) else {
        return Vec::new();
    };
    let queues = topology.expanded_queues(pools);
    let mapping = |source: push0_core::topology::SourceSpec| {
        let queue = queues.iter().find(|queue| queue.name == source.queue)?;
        Some(Mapping {
            queue: source.queue,
            batch: source.batch as usize,
            lease: Millis::from_secs(u64::from(queue.visibility_s)),
        })
    };
    topology.expanded_sources(function, pools).into_iter().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_the_topology_is_mapped_with_its_lease() {
        let pools = ["cpu".parse().unwrap(), Pool::trusted()].into();
        let topology = Topology::built_in();
        let dispatcher = mappings(&topology, "dispatcher", &pools);
        assert_eq!(dispatcher[0].queue, "submissions.fifo");
        assert_eq!(dispatcher[0].lease, Millis::from_secs(18));
        let collector = mappings(&topology, "collector", &pools);
        assert_eq!(collector.len(), 4 + 4 + 2 * 3, "four queues, their dead letters, and those of each pool and class");
        assert_eq!(mappings(&topology, "nobody", &pools), []);
    }

    #[test]
    fn the_engine_takes_every_queue_of_the_topology() {
        let pools = ["cpu".parse().unwrap(), Pool::trusted()].into();
        let queues = engine_queues(&Topology::built_in(), &pools);
        let names: Vec<String> = queues.iter().map(|queue| queue.name.clone()).collect();
        let engine = engine::Engine::in_memory(queues).unwrap();
        assert_eq!(engine.queues().len(), names.len());
        assert!(names.iter().any(|name| name == "poison") && names.iter().any(|name| name == "work-cpu-bulk-dlq"));
    }
}
