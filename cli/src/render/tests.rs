use std::collections::BTreeMap;

use push0_core::chain::ChainConfig;
use push0_core::record::{BlockStatus, Halt};
use push0_core::{BlockHash, Class, PipelineDigest};
use push0_runtime::port::QueueStats;
use push0_runtime::snapshot::ChainSnapshot;

use super::*;
use crate::view::Overview;
use crate::why::fixtures::{NOW, block, proving};

fn overview_of(chain: ChainSnapshot) -> Overview {
    let stats = QueueStats { visible: 2, in_flight: 1, delayed: 0, oldest: Some(Millis(4_200)) };
    let dead = QueueStats { visible: 1, ..QueueStats::default() };
    let queues = [("work-cpu-standard", stats), ("results", QueueStats::default()), ("results-dlq", dead)];
    Overview {
        at: NOW,
        chains: vec![chain],
        queues: queues.map(|(name, stats)| (name.to_owned(), stats)).into(),
        here: None,
        lonely: Vec::new(),
        workers: BTreeMap::new(),
    }
}

#[test]
fn the_overview_shows_blocks_progress_gaps_and_what_is_wrong() {
    let config = ChainConfig::new("demo".parse().unwrap(), PipelineDigest([1; 32]));
    let mut row = config.new_row();
    row.next_release = 3;
    row.paused = true;
    row.halt = Some(Halt::ParentMismatch { number: 1, names: BlockHash([1; 32]), last: BlockHash([2; 32]) });
    let failed = BlockStatus::Failed { reason: "stage prove, node 1.0.0: permanent: no\nsecond line".to_owned() };
    let blocks = vec![block(1, failed), proving(2), block(4, BlockStatus::Parked)];
    let overview = overview_of(ChainSnapshot { chain: row, class: Class::Realtime, window: 4, published: 0, blocks });
    let text = super::overview(&overview, false, Paint(false));
    for wanted in [
        "chain demo  0 finalized · next to finalize 1 · next to release 3 · window 4 · realtime",
        "paused: push0 resume demo",
        "halted: block 1 names another parent",
        "stage prove, node 1.0.0: permanent: no…",
        "split 1/1  prove 1/3  join 0/2  verify 0/1",
        "block 3 was not submitted: what is behind it waits",
        "work-cpu-standard  2 waiting  1 in flight    oldest 4.2 s",
        "results-dlq",
        "none has a task in hand",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    assert!(!text.contains("  results "), "empty queues are left out\n{text}");
    assert!(!text.contains('\x1b') && !text.contains("second line"));
    assert!(super::overview(&overview, true, Paint(false)).contains("  results\n"));
}

#[test]
fn what_changes_by_itself_is_not_a_change() {
    let config = ChainConfig::new("demo".parse().unwrap(), PipelineDigest([1; 32]));
    let snapshot = ChainSnapshot {
        chain: config.new_row(),
        class: Class::Standard,
        window: 4,
        published: 0,
        blocks: vec![proving(1)],
    };
    let mut overview = overview_of(snapshot);
    let before = without_times(&overview);
    overview.at = Millis(overview.at.0 + 10_000);
    assert_eq!(without_times(&overview), before);
    overview.chains[0].published = 1;
    assert_ne!(without_times(&overview), before);
}

#[test]
fn lengths_of_time_are_short() {
    for (millis, text) in
        [(850, "850 ms"), (4_250, "4.2 s"), (59_000, "59 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min")]
    {
        assert_eq!(duration(Millis(millis)), text);
    }
}

#[test]
fn columns_line_up_with_colours_and_without() {
    let rows = |paint: Paint| {
        vec![
            vec!["1".to_owned(), paint.status("final"), "x".to_owned()],
            vec!["10".to_owned(), "a".to_owned(), String::new()],
        ]
    };
    assert_eq!(columns("  ", &rows(Paint(false))), "  1   final  x\n  10  a\n");
    assert_eq!(columns("", &rows(Paint(true))), "1   \x1b[32mfinal\x1b[0m  x\n10  a\n");
}

#[test]
fn who_is_here_who_is_gone_and_which_pool_has_nobody_is_said() {
    use push0_runtime::http::WorkerHere;
    let config = ChainConfig::new("demo".parse().unwrap(), PipelineDigest([1; 32]));
    let mut overview = overview_of(ChainSnapshot {
        chain: config.new_row(),
        class: Class::Standard,
        window: 4,
        published: 0,
        blocks: Vec::new(),
    });
    let worker = |name: &str, pool: &str, here| WorkerHere {
        worker: name.parse().unwrap(),
        pool: Some(pool.parse().unwrap()),
        since: Millis(0),
        silent_for: Millis(90_000),
        here,
    };
    overview.here = Some(vec![worker("a", "cpu", true), worker("b", "cpu", true), worker("c", "trusted", false)]);
    overview.lonely = vec!["trusted".parse().unwrap()];
    let text = super::overview(&overview, false, Paint(false));
    for wanted in [
        "workers  2 here (cpu 2)  none has a task in hand",
        "c is gone: it last called 90 s ago",
        "nobody here takes tasks of pool trusted",
        "1 dead letters: push0 dlq list",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
}
