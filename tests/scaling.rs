//! Whether the pools of `infra/terraform` scale as they should: its own rendered expressions, on counts of the queues of a real run. The incident
//! is in docs/incidents.md: busy workers looked idle, because their queues were empty, and were ended in the middle of a proof.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use push0_infra_check::{Plan, Schema, Tree, Value, World, evaluate};
use push0_runtime::metrics::Metric;
use push0_runtime::port::{Queue as _, QueueStats};
use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Installation, Options};
use serde_json::json;

const QUEUES: [&str; 3] = ["work-cpu-realtime", "work-cpu-standard", "work-cpu-bulk"];
const TIMERS: &str = "timers";
const GROUP: &str = "push0-cpu";

/// What `modules/scaling` says for pools of so many slots an instance.
struct Scaling(BTreeMap<&'static str, Value>);

impl Scaling {
    fn of(slots: u64, tasks_per_instance: u64) -> Self {
        let tree =
            Tree::of_repository(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the repository can be read");
        // A module without a provider needs no schema.
        let world = World::read(tree, Rc::new(Schema::default()), "infra/terraform/modules/scaling");
        let module = &world.modules["infra/terraform/modules/scaling"];
        let given = json!({ "queues": QUEUES, "timers": TIMERS, "pool": "cpu", "namespace": "push0", "group": GROUP, "slots": slots, "tasks_per_instance": tasks_per_instance });
        let given =
            given.as_object().expect("it is one").iter().map(|(name, value)| (name.clone(), Value::of_json(value)));
        let plan = Plan::of_root(&world, module, given.collect());
        let output = |name| (name, plan.output(name).unwrap_or_else(|finding| panic!("{name}: {finding}")));
        Self(["metrics", "expressions", "target", "from_zero", "steps"].map(output).into())
    }

    /// Instances that target tracking wants where so many are in service.
    fn tracked(&self, counts: &Counts, instances: u64) -> u64 {
        let mut values = counts.values(self.0["metrics"].elements(), instances);
        let mut last = 0.0;
        for step in self.0["expressions"].elements() {
            last = evaluate(&text(step, "expression"), &values).expect("all metrics are there");
            values.insert(text(step, "id"), last);
        }
        let target = self.0["target"].as_number().expect("a number");
        (instances as f64 * last / target).ceil() as u64
    }

    /// Instances that the step policy starts where none is wanted; none if no alarm rings.
    fn first_instances(&self, counts: &Counts) -> Option<f64> {
        let alarms = self.0["from_zero"].elements().iter();
        let ring = |alarm: &Value| {
            let values = counts.values(alarm.at("metrics").expect("it has some").elements(), 0);
            // Without a value an alarm does not ring.
            evaluate(&text(alarm, "expression"), &values).unwrap_or(0.0)
        };
        let over = alarms.map(ring).fold(0.0, f64::max);
        let steps = self.0["steps"].elements().iter();
        let mut hit = steps.filter(|step| {
            let bound = |name: &str| step.at(name).and_then(Value::as_number);
            over > 0.0 && bound("from").is_none_or(|from| over >= from) && bound("to").is_none_or(|to| over < to)
        });
        hit.next().and_then(|step| step.at("instances")?.as_number())
    }
}

fn text(value: &Value, name: &str) -> String {
    value.at(name).and_then(Value::text).unwrap_or_else(|| panic!("no {name} in {value:?}"))
}

/// Counts of queues, as SQS would publish them.
struct Counts {
    queues: BTreeMap<&'static str, QueueStats>,
    /// What the reaper would publish; `None`: it is not there.
    soon: Option<u64>,
}

impl Counts {
    fn of(installation: &Installation) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let client = installation.client();
        let stats = |queue| (queue, runtime.block_on(client.stats(queue)).expect("push0 answers"));
        Self { queues: QUEUES.into_iter().chain([TIMERS]).map(stats).collect(), soon: Some(0) }
    }

    /// Of a pool that nothing waits for and that has nothing in hand.
    fn none(soon: Option<u64>) -> Self {
        Self { queues: QUEUES.into_iter().chain([TIMERS]).map(|queue| (queue, QueueStats::default())).collect(), soon }
    }

    fn waiting(&self) -> u64 {
        QUEUES.iter().map(|queue| self.queues[queue].visible).sum()
    }

    fn held(&self) -> u64 {
        QUEUES.iter().map(|queue| self.queues[queue].in_flight).sum()
    }

    /// Of each metric that is asked for its value, by its id.
    fn values(&self, metrics: &[Value], instances: u64) -> BTreeMap<String, f64> {
        let value = |metric: &Value| {
            let queue = || &self.queues[text(metric, "dimensions.QueueName").as_str()];
            match text(metric, "metric_name").as_str() {
                "ApproximateNumberOfMessagesVisible" => Some(queue().visible),
                "ApproximateNumberOfMessagesNotVisible" => Some(queue().in_flight),
                "ApproximateNumberOfMessagesDelayed" => Some(queue().delayed),
                "GroupInServiceInstances" | "GroupDesiredCapacity" => Some(instances),
                name if name == Metric::TasksSoon.name() => self.soon,
                other => panic!("nothing publishes {other}"),
            }
        };
        metrics.iter().filter_map(|metric| Some((text(metric, "id"), value(metric)? as f64))).collect()
    }
}

fn up(workers: u32, segments: u32) -> Installation {
    let options = Options { workers: workers as usize, params: "duration_ms = 3000".to_owned(), ..Options::default() };
    let mut installation = Installation::new(&options);
    installation.start();
    wait_until("push0 is up", || installation.status().is_some());
    installation.submit(&[installation.block(1, segments, "").0]);
    installation
}

#[test]
fn busy_workers_with_empty_queues_are_not_scaled_in() {
    let installation = up(3, 3);
    let mut counts = Counts::of(&installation);
    wait_until("every worker is busy and nothing waits", || {
        counts = Counts::of(&installation);
        counts.held() == 3 && counts.waiting() == 0
    });
    for tasks_per_instance in [1, 3, 10] {
        assert_eq!(Scaling::of(1, tasks_per_instance).tracked(&counts, 3), 3, "{tasks_per_instance} tasks an instance");
    }
    // With four slots each, of which one is busy, a smaller pool would do; and the last instance stays while the run goes on.
    assert_eq!(Scaling::of(4, 4).tracked(&counts, 3), 1);
    wait_until("one join is left", || {
        counts = Counts::of(&installation);
        counts.held() + counts.waiting() <= 1
    });
    assert!(counts.queues[TIMERS].delayed > 0, "a run that goes on has a timer");
    assert_eq!(Scaling::of(1, 3).tracked(&counts, 1), 1);
}

#[test]
fn a_backlog_scales_out_from_nothing_and_further() {
    let installation = up(0, 40);
    let mut counts = Counts::of(&installation);
    wait_until("tasks wait and nobody is there", || {
        counts = Counts::of(&installation);
        counts.waiting() == 40
    });
    let scaling = Scaling::of(1, 3);
    assert_eq!(scaling.first_instances(&counts), Some(16.0));
    assert_eq!(scaling.tracked(&counts, 4), 14, "40 tasks, 3 for each instance");
    assert_eq!(scaling.tracked(&Counts { soon: None, ..counts }, 4), 14, "also where the reaper says nothing");
    let nothing = Counts::none(Some(0));
    assert_eq!((scaling.first_instances(&nothing), scaling.tracked(&nothing, 4)), (None, 0));
}

#[test]
fn a_pool_is_there_when_what_other_pools_prove_for_it_is_done() {
    let scaling = Scaling::of(1, 3);
    let ahead = Counts::none(Some(7));
    assert_eq!(
        (scaling.first_instances(&ahead), scaling.tracked(&ahead, 1)),
        (Some(4.0), 3),
        "7 tasks, 3 for each instance"
    );
}
