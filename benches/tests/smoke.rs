//! Every benchmark at its smallest: it runs, and counts what it should. No time is judged: a debug build on a busy machine has none.

use push0_bench::overhead::{COST_OF_64, COST_OF_8000, CYCLE, RELEASE};
use push0_bench::report::Report;
use push0_bench::scaling::{block_name, efficiency_name, rate_name};
use push0_bench::system::{Keeping, Reach, Setup};
use push0_bench::{Effort, Options, Part, overhead, scaling};

async fn tiny(part: Part) -> Report {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        part,
        full: false,
        tiny: true,
        markdown: false,
        only: None,
        dir: Some(dir.path().to_owned()),
        echo: None,
        baseline: None,
        endpoint: None,
        segments: 64,
    };
    let report = push0_bench::run(&options, &|_| {}).await.expect("everything is measured");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("it is there").collect();
    assert!(left.is_empty(), "a run leaves nothing behind: {left:?}");
    report
}

fn assert_measured(report: &Report, name: &str, subject: &str, samples: u64) {
    let measure = report.find(name, subject).unwrap_or_else(|| panic!("{name} of {subject} is missing"));
    assert_eq!((measure.samples, measure.repetitions), (samples, 1), "{name} of {subject}");
    assert!(measure.value.is_finite() && measure.value > 0.0, "{measure:?}");
    assert!(measure.p99.is_none_or(|p99| p99 >= measure.value), "{measure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overhead_is_measured_in_every_setup() {
    let report = tiny(Part::Overhead).await;
    for setup in Setup::ALL {
        let few = setup.keeping == Keeping::Power;
        assert_measured(&report, CYCLE, &setup.label(), 8);
        assert_measured(&report, RELEASE, &setup.label(), if few { 1 } else { 4 });
    }
    let ours = Setup::DEFAULT.label();
    // 8 leaves each, of which the first warms up.
    assert_measured(&report, COST_OF_64, &ours, 7);
    assert_measured(&report, COST_OF_8000, &ours, 7);
    let floors = report.measures.iter().filter(|measure| measure.subject == "floor").count();
    assert_eq!(floors, 5);
    let (table, markdown) = (report.table(), report.markdown());
    for measure in &report.measures {
        assert!(table.contains(&measure.name) && markdown.contains(&measure.name), "{}", measure.name);
    }
    assert!(serde_json::to_string(&report).unwrap().contains(r#""unit":"µs""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_is_measured_in_every_setup() {
    let report = tiny(Part::Scaling).await;
    for setup in [
        Setup { keeping: Keeping::Memory, reach: Reach::InProcess },
        Setup::DEFAULT,
        Setup { keeping: Keeping::Power, reach: Reach::InProcess },
        Setup { keeping: Keeping::Process, reach: Reach::Tcp },
    ] {
        assert_measured(&report, &rate_name(5, 2), &setup.label(), 1);
        assert_measured(&report, &block_name(5, 2), &setup.label(), 1);
    }
    assert_measured(&report, &efficiency_name(2, 1), &Setup::DEFAULT.label(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_all_its_tasks_and_the_time_of_its_provers_is_part_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Setup { keeping: Keeping::Memory, reach: Reach::InProcess };
    let block = scaling::block(memory, 9, 3, dir.path()).await.unwrap();
    assert_eq!(block.tasks, 9 + 8 + 1, "leaves, joins, verify");
    assert!(block.whole >= block.proving);
    let efficiency = scaling::efficiency(2, 20, 3, dir.path()).await.unwrap();
    assert!(efficiency > 0.0 && efficiency <= 1.0, "{efficiency}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_asked_for_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let effort = Effort { only: Some("cycle, memory, in".to_owned()), ..Effort::tiny() };
    let measures = overhead::measure(&effort, dir.path(), &|_| {}).await.unwrap();
    assert_eq!(measures.len(), 1, "{measures:?}");
}

#[tokio::test]
async fn fairness_needs_the_program_whose_processes_are_the_provers() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        part: Part::Fair,
        full: false,
        tiny: true,
        markdown: false,
        only: None,
        dir: Some(dir.path().to_owned()),
        echo: None,
        baseline: None,
        endpoint: None,
        segments: 64,
    };
    let error = push0_bench::run(&options, &|_| {}).await.expect_err("there is no push0-echo beside a test");
    assert!(error.to_string().contains("--echo"), "{error}");
}
