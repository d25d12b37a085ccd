//! Everything that can happen within small bounds, and that the checker finds mistakes there.

use std::collections::BTreeMap;

use push0_tests::model::{BUGS, SMALL, check};
use push0_tests::transitions;

#[test]
fn everything_that_can_happen_within_small_bounds_keeps_every_rule() {
    let mut met = BTreeMap::new();
    for bounds in SMALL {
        let report = check(bounds, None, 2, |_, _| ()).unwrap();
        eprintln!("{}", report.line());
        assert!(report.holds(), "{report:#?}");
        met.extend(report.transitions.iter().map(|pair| (*pair, 1)));
    }
    assert!(met.len() > 35, "{met:?}");
    assert_eq!(transitions::impossible(&met).unwrap(), [], "came up: what tests/transitions.toml says of it is wrong");
}

#[test]
fn what_a_mistake_breaks_is_found_with_the_way_there() {
    for (bug, bounds, rules) in BUGS {
        let report = check(*bounds, Some(*bug), 2, |_, _| ()).unwrap();
        let (rule, trace) = report.broken.first().unwrap_or_else(|| panic!("{bug:?} breaks nothing"));
        eprintln!("{bug:?} breaks: {rule}\n{}\n", trace.join("\n"));
        assert!(rules.contains(rule), "{bug:?} breaks {rule}");
        assert!(trace.len() > 1, "{bug:?}: {trace:?}");
    }
}
