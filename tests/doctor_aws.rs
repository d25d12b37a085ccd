//! `push0 doctor --aws` against an emulator: what it says of an installation that is well, of one that is not, and of credentials that are none.
//! What the emulator does not have (quotas, launches that fail, refusals) is judged in unit tests beside the code.

use std::process::{Command, Output};

use push0_tests::chaos::Cloud;
use push0_tests::chaos::cloud::ONE_CHAIN;
use push0_tests::chaos::installation::echo_pipeline;
use serde_json::Value;

/// What the doctor found.
struct Diagnosis {
    findings: Vec<Value>,
    exit: Option<i32>,
}

impl Diagnosis {
    fn of(output: &Output) -> Self {
        let said = String::from_utf8_lossy(&output.stderr);
        let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        let findings = diagnosis["findings"].as_array().cloned().unwrap_or_default();
        Self { findings, exit: output.status.code() }
    }

    /// Those that are not ok: what, state, code.
    fn troubles(&self) -> Vec<(&str, &str, &str)> {
        // The emulator's concurrency is what this machine has room for.
        let counts = |finding: &&Value| finding["state"] != "ok" && finding["what"] != "quota of Lambda";
        let troubles = self.findings.iter().filter(counts).map(|finding| {
            let of = |name: &str| finding[name].as_str().unwrap_or_default();
            (of("what"), of("state"), of("code"))
        });
        troubles.collect()
    }

    /// What is said of something, and what to do about it.
    fn of_what(&self, what: &str, contains: &str) -> (String, String) {
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        let found =
            self.findings.iter().find(|finding| finding["what"] == what && text(finding, "says").contains(contains));
        let found = found.unwrap_or_else(|| panic!("nothing of {what} says {contains:?}: {:#?}", self.findings));
        (text(found, "says"), text(found, "next"))
    }
}

fn doctor(cloud: &Cloud, args: &[&str]) -> Diagnosis {
    Diagnosis::of(&cloud.cli(&[&["--json", "doctor", "--aws"], args].concat()))
}

/// An installation with its functions, but nobody to work for it.
fn installed() -> Cloud {
    let rollup = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rollup.toml");
    let rollup = std::fs::read_to_string(rollup).expect("the example is there");
    let config = format!("{ONE_CHAIN}[[chain]]\nid = \"real\"\npipeline = \"rollup.toml\"\n");
    let cloud = Cloud::new(&[("push0.toml", &config), ("echo.toml", &echo_pipeline("", 3)), ("rollup.toml", &rollup)]);
    let functions = cloud.functions();
    cloud.cli_ok(&["bootstrap", "--functions", functions.to_str().expect("temporary paths are text")]);
    cloud
}

async fn create_group(cloud: &Cloud, pool: &str) {
    let client = aws_sdk_autoscaling::Client::new(&cloud.connection().await.sdk);
    let group = client.create_auto_scaling_group().auto_scaling_group_name(format!("{}-{pool}", cloud.prefix));
    group.min_size(1).max_size(2).send().await.expect("the emulator makes a group");
}

async fn protect_table(cloud: &Cloud) {
    let client = cloud.connection().await.dynamodb();
    let update = client.update_table().table_name(format!("{}-state", cloud.prefix)).deletion_protection_enabled(true);
    update.send().await.expect("the emulator protects a table");
}

async fn switch_off(cloud: &Cloud, function: &str, queue: &str) {
    let client = aws_sdk_lambda::Client::new(&cloud.connection().await.sdk);
    let mappings = client.list_event_source_mappings().function_name(format!("{}-{function}", cloud.prefix));
    let mappings = mappings.send().await.expect("the emulator lists sources").event_source_mappings.unwrap_or_default();
    let end = format!(":{}-{queue}", cloud.prefix);
    let found = mappings.iter().find(|mapping| mapping.event_source_arn().is_some_and(|arn| arn.ends_with(&end)));
    let uuid = found.and_then(|mapping| mapping.uuid()).expect("the function has this source");
    client.update_event_source_mapping().uuid(uuid).enabled(false).send().await.expect("the emulator switches it off");
}

async fn empty(client: &aws_sdk_s3::Client, bucket: &str) {
    let listed = client.list_objects_v2().bucket(bucket).send().await.expect("the emulator lists a bucket");
    for key in listed.contents().iter().filter_map(|object| object.key()) {
        client.delete_object().bucket(bucket).key(key).send().await.expect("the emulator deletes a blob");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_installation_is_ok_and_smoke_blocks_become_final_one_after_the_other() {
    let mut cloud = installed();
    for pool in ["cpu", "trusted"] {
        create_group(&cloud, pool).await;
    }
    protect_table(&cloud).await;
    cloud.start_worker("trusted", "trusted-1");
    cloud.start_worker("cpu", "cpu-1");

    let first = doctor(&cloud, &["--smoke", "demo", "--timeout", "2m"]);
    assert_eq!((first.troubles(), first.exit), (vec![], Some(0)), "{:#?}\n{}", first.findings, cloud.logs());
    first.of_what("caller", &format!("of installation {}", cloud.prefix));
    first.of_what("pool cpu", "1 of 1 wanted instances in service");
    first.of_what(&format!("function {}-collector", cloud.prefix), "sources are enabled");
    let (says, _) = first.of_what("smoke block", "block 1 of demo is final after");
    for step in ["admitted", "split", "prove", "join", "verify", "final", "handed on"] {
        assert!(says.contains(&format!("\n{step}: ")), "{step}: {says}");
    }

    let second = doctor(&cloud, &["--smoke", "demo", "--timeout", "2m"]);
    second.of_what("smoke block", "block 2 of demo is final after");

    // One of the operator's own: only as the chain's next.
    let (third, fourth) = (cloud.echo_block(3, 1).0, cloud.echo_block(4, 1).0);
    let [third, fourth] = [&third, &fourth].map(|file| file.to_str().expect("temporary paths are text"));
    let early = doctor(&cloud, &["--smoke", fourth]);
    assert_eq!(early.troubles(), [("smoke block", "problem", "P0-017")]);
    let stream = cloud.stream("demo");
    let parent = stream.last().and_then(|row| row["hash"].as_str()).expect("there are final blocks").to_owned();
    let submission = std::fs::read_to_string(third).expect("it was written");
    let hash = serde_json::from_str::<Value>(&submission).expect("a submission")["hash"].as_str().map(str::to_owned);
    let witness = serde_json::json!({ "segments": 1, "hash": hash, "parent_hash": parent });
    std::fs::write(cloud.path("3.witness"), witness.to_string()).expect("writable");
    let own = doctor(&cloud, &["--smoke", third, "--timeout", "2m"]);
    let (says, _) = own.of_what("smoke block", "block 3 of demo is final after");
    assert!(!says.contains("\njoin: "), "one segment is joined with nothing: {says}");
    assert_eq!(cloud.stream("demo").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stuck_missing_or_switched_off_says_what_to_do() {
    let cloud = installed();
    let (prefix, connection) = (cloud.prefix.clone(), cloud.connection().await);

    let stuck = doctor(&cloud, &["--smoke", "demo", "--timeout", "20s"]);
    let (says, next) = stuck.of_what("smoke block", "block 1 of demo is proving after");
    assert!(says.contains("\nadmitted: ") && next.ends_with("docs/runbook/fleet-shortfall.md"), "{says} {next}");
    assert_eq!(stuck.exit, Some(1));
    // What is there already is followed; nothing is sent a second time.
    let again = doctor(&cloud, &["--smoke", "demo", "--timeout", "2s"]);
    again.of_what("smoke block", "block 1 of demo is proving after");
    let block: Value = cloud.json(&["block", "demo", "1"]);
    assert!(block["block"]["contenders"].as_array().is_none_or(Vec::is_empty), "{block}");

    for (chain, code, wanted) in
        [("real", "P0-212", "is proven by push0-rollup"), ("other", "P0-022", "is not configured")]
    {
        let refused = doctor(&cloud, &["--smoke", chain]);
        refused.of_what("smoke block", wanted);
        assert!(refused.troubles().contains(&("smoke block", "problem", code)), "{:?}", refused.troubles());
    }

    switch_off(&cloud, "collector", "results").await;
    let sqs = connection.sqs();
    let url = sqs.get_queue_url().queue_name(format!("{prefix}-verdicts")).send().await.expect("it is there");
    sqs.delete_queue().set_queue_url(url.queue_url).send().await.expect("the emulator deletes a queue");
    empty(&connection.s3(), &format!("{prefix}-blobs")).await;
    connection.s3().delete_bucket().bucket(format!("{prefix}-blobs")).send().await.expect("it is empty");
    let table = connection.dynamodb().delete_table().table_name(format!("{prefix}-state"));
    table.send().await.expect("the emulator deletes a table");

    let found = doctor(&cloud, &["--smoke", "demo"]);
    assert_eq!(found.exit, Some(1));
    let problems = |found: &Diagnosis| -> Vec<(String, String)> {
        let problems = found.troubles().into_iter().filter(|(_, state, _)| *state == "problem");
        problems.map(|(what, _, code)| (what.to_owned(), code.to_owned())).collect()
    };
    let wanted = [
        ("queues".to_owned(), "P0-503"),
        (format!("table {prefix}-state"), "P0-503"),
        (format!("bucket {prefix}-blobs"), "P0-503"),
        (format!("function {prefix}-collector"), "P0-508"),
    ];
    assert_eq!(problems(&found), wanted.map(|(what, code)| (what, code.to_owned())));
    let (says, next) = found.of_what("queues", "missing, 1 of ");
    assert!(says.ends_with(&format!("{prefix}-verdicts")), "{says}");
    assert!(next.contains("terraform apply") && next.contains(&format!("prefix {prefix}")), "{next}");
    let (says, next) = found.of_what(&format!("function {prefix}-collector"), "nobody takes from there");
    assert!(says.contains(&format!("{prefix}-results is Disabled")) && next.contains("--enabled"), "{says} {next}");
    found.of_what("smoke block", "not sent");
}

#[test]
fn before_the_first_apply_and_without_credentials_there_is_one_problem() {
    let cloud = Cloud::new(&[("push0.toml", ONE_CHAIN), ("echo.toml", &echo_pipeline("", 3))]);
    let nothing = doctor(&cloud, &[]);
    assert_eq!((nothing.troubles(), nothing.exit), (vec![("installation", "problem", "P0-503")], Some(1)));
    let (_, next) = nothing.of_what("installation", "nothing of it is here yet");
    assert!(next.contains("before the first `terraform apply` that is as it should be"), "{next}");

    let with = |change: &dyn Fn(&mut Command)| {
        let mut command = cloud.command(&["--json", "doctor", "--aws"]);
        change(command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", cloud.directory.path()));
        Diagnosis::of(&command.output().expect("push0 runs"))
    };
    let nobody = with(&|command| {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
    });
    assert_eq!(nobody.troubles(), [("caller", "problem", "P0-501")]);
    assert!(nobody.of_what("caller", "").1.contains("aws sso login"));
    let nowhere = with(&|command| _ = command.env_remove("AWS_REGION"));
    assert_eq!(nowhere.troubles(), [("caller", "problem", "P0-501")]);
    let unreachable = with(&|command| _ = command.env("PUSH0_AWS_ENDPOINT", "http://127.0.0.1:1"));
    assert!(unreachable.troubles().iter().all(|(_, _, code)| *code == "P0-506"), "{:?}", unreachable.troubles());
    assert!(unreachable.of_what("queues", "").1.contains("reachable from here"));
}
