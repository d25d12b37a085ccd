//! `push0 bootstrap`, the program, against an emulator: from nothing, again, and after somebody changed things.
//!
//! Each test has an account of its own, and a prefix of its own: the names of buckets are shared by all accounts, here as on AWS.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType as Scalar,
};
use aws_sdk_s3::types as s3;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use push0_core::topology::Topology;
use push0_runtime::aws::{Connection, emulator, http_client};
use push0_runtime::settings::{Settings, Sources};
use serde_json::Value;
use tempfile::TempDir;

/// An account in the emulator, and a directory with a configuration.
struct Account {
    number: String,
    endpoint: String,
    directory: TempDir,
    connection: Connection,
}

impl Account {
    async fn new() -> Self {
        let (number, endpoint) = (emulator::account(), emulator::ministack());
        let connection = emulator::connect(&endpoint, &number, http_client()).await;
        let prefix = &connection.settings.prefix;
        let directory = tempfile::tempdir().unwrap();
        let config = format!("[aws]\nprefix = {prefix:?}\n\n[[chain]]\nid = \"demo\"\npipeline = \"echo.toml\"\n");
        std::fs::write(directory.path().join("push0.toml"), config).unwrap();
        std::fs::write(directory.path().join("echo.toml"), push0::init::ECHO).unwrap();
        Self { number, endpoint, directory, connection }
    }

    fn push0(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_push0"));
        command
            .current_dir(self.directory.path())
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", &self.number)
            .env("AWS_SECRET_ACCESS_KEY", "emulator")
            .env("AWS_REGION", "us-east-1")
            .env("PUSH0_AWS_ENDPOINT", &self.endpoint);
        command.output().unwrap()
    }

    /// What `bootstrap --json` says, which must end with this exit code.
    fn bootstrap(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.push0(&[&["bootstrap", "--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn is_quiet(&self, arguments: &[&str]) {
        for flags in [arguments.to_vec(), [arguments, &["--dry-run"]].concat()] {
            let said = self.bootstrap(&flags, 0);
            assert_eq!(said["differences"], serde_json::json!([]), "{flags:?}");
            assert_eq!(said["notes"], serde_json::json!([]), "{flags:?}");
        }
        let text = self.push0(&[&["bootstrap"], arguments].concat());
        assert_eq!(String::from_utf8_lossy(&text.stdout), "nothing to do\n");
    }

    fn name(&self, resource: &str) -> String {
        self.connection.settings.name(resource)
    }

    async fn url(&self, queue: &str) -> String {
        let answer = self.connection.sqs().get_queue_url().queue_name(self.name(queue)).send().await.unwrap();
        answer.queue_url.unwrap()
    }

    async fn attribute(&self, queue: &str, attribute: Attribute) -> Option<String> {
        let call = self.connection.sqs().get_queue_attributes().queue_url(self.url(queue).await);
        let answer = call.attribute_names(Attribute::All).send().await.unwrap();
        answer.attributes.unwrap_or_default().remove(&attribute)
    }

    fn functions(&self) -> String {
        for name in ["dispatcher", "collector", "reaper"] {
            let directory = self.directory.path().join("lambda").join(name);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("bootstrap"), elf(b"first")).unwrap();
        }
        "lambda".to_owned()
    }
}

/// What `bootstrap` takes for a program for x86-64. It is not one: no test here runs it.
fn elf(rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    bytes.resize(64, 0);
    bytes[18] = 62;
    bytes.extend(rest);
    bytes
}

/// `resource: attribute`, or the resource alone, of everything with this outcome.
fn with_outcome(said: &Value, outcome: &str) -> BTreeSet<String> {
    let all = said["differences"].as_array().unwrap().iter();
    let text = |difference: &Value| match difference["attribute"].as_str() {
        Some(attribute) => format!("{}: {attribute}", difference["resource"].as_str().unwrap()),
        None => difference["resource"].as_str().unwrap().to_owned(),
    };
    all.filter(|difference| difference["outcome"] == outcome).map(text).collect()
}

fn everything(account: &Account) -> BTreeSet<String> {
    let file = account.directory.path().join("push0.toml");
    let settings = Settings::read(&Sources { file: Some(file), ..Sources::default() }).unwrap();
    let topology = Topology::built_in();
    let queues = topology.expanded_queues(&settings.catalog.pools());
    let queues = queues.iter().map(|queue| format!("queue {}", account.name(&queue.name)));
    let tables = topology.tables.iter().map(|table| format!("table {}", account.name(&table.name)));
    let buckets = topology.buckets.iter().map(|bucket| format!("bucket {}", account.name(&bucket.name)));
    queues.chain(tables).chain(buckets).collect()
}

#[tokio::test]
async fn from_nothing_everything_is_created_and_then_there_is_nothing_to_do() {
    let account = Account::new().await;
    let said = account.bootstrap(&["--dry-run"], 1);
    assert_eq!(with_outcome(&said, "missing"), everything(&account));
    let none = account.connection.sqs().list_queues().queue_name_prefix(account.name("")).send().await.unwrap();
    assert_eq!(none.queue_urls(), [] as [String; 0], "a dry run creates nothing");

    let said = account.bootstrap(&[], 0);
    assert_eq!(with_outcome(&said, "created"), everything(&account));
    assert_eq!(said["account"], account.number.as_str());
    account.is_quiet(&[]);

    assert_eq!(account.attribute("submissions.fifo", Attribute::VisibilityTimeout).await.unwrap(), "18");
    let scope = account.attribute("submissions.fifo", Attribute::DeduplicationScope).await;
    assert_eq!(scope.unwrap(), "messageGroup");
    let redrive = account.attribute("work-cpu-bulk", Attribute::RedrivePolicy).await.unwrap();
    assert!(redrive.contains(&account.name("work-cpu-bulk-dlq")), "{redrive}");
    let allow = account.attribute("work-cpu-bulk-dlq", Attribute::RedriveAllowPolicy).await.unwrap();
    assert!(allow.contains(&format!("{}\"", account.name("work-cpu-bulk"))), "{allow}");
}

#[tokio::test]
async fn an_upload_is_told_to_the_dispatchers_queue_and_other_blobs_are_not() {
    let account = Account::new().await;
    account.bootstrap(&[], 0);
    let (client, sqs, url) = (account.connection.s3(), account.connection.sqs(), account.url("witness-events").await);
    let put = async |bucket: &str, key: &str| {
        client.put_object().bucket(account.name(bucket)).key(key).body(b"w".to_vec().into()).send().await.unwrap();
    };
    put("blobs", "artifacts/cpu/x").await;
    put("witnesses", "witnesses/demo/1/ab/witness").await;
    let mut bodies = Vec::new();
    while !bodies.iter().any(|body: &String| body.contains("witnesses/demo/1/ab/witness")) {
        let received = sqs.receive_message().queue_url(&url).wait_time_seconds(20).send().await.unwrap();
        assert!(!received.messages().is_empty(), "no event came; these did: {bodies:?}");
        bodies.extend(received.messages().iter().filter_map(|message| message.body.clone()));
    }
    assert!(bodies.iter().any(|body| body.contains("s3:TestEvent")), "the emulator sends S3's test event: {bodies:?}");
    assert!(!bodies.iter().any(|body| body.contains("artifacts")), "{bodies:?}");
}

#[tokio::test]
async fn what_somebody_changed_is_told_and_mended() {
    let account = Account::new().await;
    account.bootstrap(&[], 0);
    drift(&account).await;
    let expected: BTreeSet<String> = [
        ("queue", "results", "VisibilityTimeout"),
        ("queue", "ranges", "RedrivePolicy"),
        ("queue", "witness-events", "Policy"),
        ("bucket", "witnesses", "versions"),
        ("bucket", "witnesses", "events"),
        ("bucket", "witnesses", "public access"),
        ("bucket", "blobs", "lifecycle"),
        ("table", "state", "point-in-time recovery"),
        ("table", "state", "time to live"),
    ]
    .into_iter()
    .map(|(kind, name, attribute)| format!("{kind} {}: {attribute}", account.name(name)))
    .collect();
    let gone: BTreeSet<String> = [format!("queue {}", account.name("poison"))].into();

    let told = account.bootstrap(&["--dry-run"], 1);
    assert_eq!((with_outcome(&told, "differs"), with_outcome(&told, "missing")), (expected.clone(), gone.clone()));
    let visibility = account.attribute("results", Attribute::VisibilityTimeout).await;
    assert_eq!(visibility.unwrap(), "99", "a dry run changes nothing");
    let text = account.push0(&["bootstrap", "--dry-run"]);
    let line = format!("queue {}: VisibilityTimeout is 99, should be 36\n", account.name("results"));
    assert!(String::from_utf8_lossy(&text.stdout).contains(&line), "{text:?}");
    assert!(String::from_utf8_lossy(&text.stderr).contains("P0-508"), "{text:?}");

    let told = account.bootstrap(&[], 0);
    assert_eq!((with_outcome(&told, "changed"), with_outcome(&told, "created")), (expected, gone));
    account.is_quiet(&[]);
    assert_eq!(account.attribute("results", Attribute::VisibilityTimeout).await.unwrap(), "36");
}

/// Somebody's hand, in many places.
async fn drift(account: &Account) {
    let (sqs, client, tables) = (account.connection.sqs(), account.connection.s3(), account.connection.dynamodb());
    let set = async |queue: &str, attribute: Attribute, value: &str| {
        let call = sqs.set_queue_attributes().queue_url(account.url(queue).await);
        call.attributes(attribute, value).send().await.unwrap();
    };
    set("results", Attribute::VisibilityTimeout, "99").await;
    set("ranges", Attribute::RedrivePolicy, "").await;
    set("witness-events", Attribute::Policy, "").await;
    sqs.delete_queue().queue_url(account.url("poison").await).send().await.unwrap();

    let witnesses = account.name("witnesses");
    let suspended = s3::VersioningConfiguration::builder().status(s3::BucketVersioningStatus::Suspended).build();
    client.put_bucket_versioning().bucket(&witnesses).versioning_configuration(suspended).send().await.unwrap();
    client.delete_public_access_block().bucket(&witnesses).send().await.unwrap();
    let none = s3::NotificationConfiguration::builder().build();
    let call = client.put_bucket_notification_configuration().bucket(&witnesses);
    call.notification_configuration(none).send().await.unwrap();
    let rule = s3::LifecycleRule::builder()
        .id("save-money")
        .status(s3::ExpirationStatus::Enabled)
        .filter(s3::LifecycleRuleFilter::builder().prefix("artifacts/").build())
        .expiration(s3::LifecycleExpiration::builder().days(1).build())
        .build()
        .unwrap();
    let rules = s3::BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
    let call = client.put_bucket_lifecycle_configuration().bucket(account.name("blobs"));
    call.lifecycle_configuration(rules).send().await.unwrap();

    let state = account.name("state");
    let off = aws_sdk_dynamodb::types::PointInTimeRecoverySpecification::builder()
        .point_in_time_recovery_enabled(false)
        .build()
        .unwrap();
    let call = tables.update_continuous_backups().table_name(&state);
    call.point_in_time_recovery_specification(off).send().await.unwrap();
    let ttl = aws_sdk_dynamodb::types::TimeToLiveSpecification::builder().attribute_name("gone").enabled(true).build();
    tables.update_time_to_live().table_name(&state).time_to_live_specification(ttl.unwrap()).send().await.unwrap();
}

#[tokio::test]
async fn a_table_with_other_keys_is_left_as_it_is_and_told() {
    let account = Account::new().await;
    let id = AttributeDefinition::builder().attribute_name("id").attribute_type(Scalar::S).build().unwrap();
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build().unwrap();
    let call = account.connection.dynamodb().create_table().table_name(account.name("state"));
    let call = call.attribute_definitions(id).key_schema(key).billing_mode(BillingMode::PayPerRequest);
    call.send().await.unwrap();

    let table = format!("table {}: keys", account.name("state"));
    for flags in [&["--dry-run"][..], &[]] {
        let said = account.bootstrap(flags, 1);
        assert_eq!(with_outcome(&said, "left"), [table.clone()].into(), "{flags:?}");
    }
    let text = account.push0(&["bootstrap"]);
    let line = "keys is id (HASH S), should be pk (HASH S), sk (RANGE S); left as it is: ";
    assert!(String::from_utf8_lossy(&text.stdout).contains(line), "{text:?}");
    let described = account.connection.dynamodb().describe_table().table_name(account.name("state")).send().await;
    assert_eq!(described.unwrap().table.unwrap().key_schema().len(), 1);
}

#[tokio::test]
async fn functions_with_their_sources_and_timer_are_created_and_mended() {
    let account = Account::new().await;
    let directory = account.functions();
    let flags = ["--functions", directory.as_str()];
    let said = account.bootstrap(&flags, 0);
    let created = with_outcome(&said, "created");
    let topology = Topology::built_in();
    for function in &topology.functions {
        let name = account.name(&function.name);
        assert!(created.contains(&format!("function {name}")), "{created:?}");
    }
    let sources = created.iter().filter(|resource| resource.starts_with("source ")).count();
    assert_eq!(sources, 4 + 8 + 6, "{created:?}");
    assert!(created.contains(&format!("timer {}", account.name("reaper"))), "{created:?}");
    account.is_quiet(&flags);

    let client = aws_sdk_lambda::Client::new(&account.connection.sdk);
    let name = account.name("collector");
    let found = client.get_function_configuration().function_name(&name).send().await.unwrap();
    let variables = found.environment.unwrap().variables.unwrap();
    assert_eq!(variables["PUSH0_CONFIG"], "push0.toml");
    assert_eq!(variables["PUSH0_AWS_PREFIX"], account.connection.settings.prefix);
    assert_eq!(variables["PUSH0_AWS_ENDPOINT"], account.endpoint);
    assert_eq!((found.timeout, found.memory_size), (Some(6), Some(512)));

    client.update_function_configuration().function_name(&name).timeout(900).send().await.unwrap();
    let mappings = client.list_event_source_mappings().function_name(&name).send().await.unwrap();
    let results = mappings.event_source_mappings().iter();
    let suffix = format!(":{}", account.name("results"));
    let results = results.into_iter().find(|mapping| mapping.event_source_arn().unwrap().ends_with(&suffix)).unwrap();
    let call = client.update_event_source_mapping().uuid(results.uuid().unwrap());
    call.batch_size(3).enabled(false).send().await.unwrap();
    let program = account.directory.path().join("lambda/dispatcher/bootstrap");
    std::fs::write(program, elf(b"second")).unwrap();

    let mended = with_outcome(&account.bootstrap(&flags, 0), "changed");
    let source = format!("source {} of {name}", account.name("results"));
    let expected = [
        format!("function {name}: timeout"),
        format!("{source}: batch size"),
        format!("{source}: state"),
        format!("function {}: code", account.name("dispatcher")),
    ];
    assert_eq!(mended, expected.into());
    account.is_quiet(&flags);
}

#[tokio::test]
async fn a_bucket_of_another_account_is_refused_with_what_to_do() {
    let (mine, other) = (Account::new().await, Account::new().await);
    other.connection.s3().create_bucket().bucket(mine.name("witnesses")).send().await.unwrap();
    let output = mine.push0(&["bootstrap"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("belongs to another account") && said.contains("another aws.prefix"), "{said}");
    let done = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(done.contains(&format!("queue {}: created", mine.name("results"))), "what was done is told: {done}");
    let again = mine.push0(&["bootstrap"]);
    assert_eq!((again.status.code(), again.stdout), (Some(1), Vec::new()), "nobody says that there is nothing to do");
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    let run = |arguments: &[&str], directory: &Path, region: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_push0"));
        command.current_dir(directory).arg("bootstrap").args(arguments);
        // No file of this user's.
        command
            .env_remove("PUSH0_AWS_ENDPOINT")
            .env("AWS_CONFIG_FILE", "none")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"] {
            command.env_remove(name);
        }
        command.envs(region.map(|region| ("AWS_REGION", region)));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let directory = tempfile::tempdir().unwrap();
    let config = "[[chain]]\nid = \"demo\"\npipeline = \"echo.toml\"\n";
    std::fs::write(directory.path().join("push0.toml"), config).unwrap();
    std::fs::write(directory.path().join("echo.toml"), push0::init::ECHO).unwrap();
    let nobody = ["--endpoint", "http://127.0.0.1:9"];
    let cases: [(&[&str], Option<&str>, &str); 4] = [
        (&["--visibility-s", "1"], Some("us-east-1"), "needs an emulator's endpoint"),
        (&nobody, None, "no AWS region is configured"),
        (&["--functions", "nowhere"], Some("us-east-1"), "there is no program of dispatcher in nowhere"),
        (&["--role", "arn:x"], Some("us-east-1"), "--functions"),
    ];
    for (arguments, region, expected) in cases {
        let (code, said) = run(arguments, directory.path(), region);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
