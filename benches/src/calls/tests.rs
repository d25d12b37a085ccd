use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use push0_core::message::{Report as TaskReport, ReportEvent, TaskMessage};
use push0_core::pipeline::Kind;
use push0_core::record::Versioned as _;
use push0_core::{BlockHash, Class, Millis};
use push0_runtime::aws::calls::Call;
use serde_json::{Value, json};

use super::bill::{Bill, Functions};
use super::chain;
use super::prices::Prices;
use super::units::{Items, Units};
use super::{Plan, emulator, run};

fn call(service: &str, operation: &str, request: Value, response: Value) -> Call {
    let now = Instant::now();
    Call {
        service: service.to_owned(),
        operation: operation.to_owned(),
        tag: None,
        began: now,
        ended: now,
        attempts: 1,
        status: Some(200),
        path: "/".to_owned(),
        request: Bytes::from(request.to_string()),
        response: Bytes::from(response.to_string()),
    }
}

/// A row whose size is 4 + `bytes`: two names of two, two keys of nothing, and the text under a name of nothing.
fn item(bytes: usize) -> Value {
    json!({ "pk": { "S": "" }, "sk": { "S": "" }, "": { "S": "x".repeat(bytes) } })
}

#[test]
fn units_are_those_of_the_larger_of_before_and_after() {
    let mut items = Items::default();
    let key = json!({ "pk": { "S": "" }, "sk": { "S": "" } });
    let mut used = |operation, request, response, status| {
        let call = Call { status: Some(status), ..call("DynamoDB", operation, request, response) };
        items.units(&call)
    };
    let read = |read| Units { read, write: 0 };
    let write = |write| Units { read: 0, write };
    let get = json!({ "Key": key });
    assert_eq!(used("GetItem", get.clone(), json!({}), 200), read(1), "what is not there is read for one");
    assert_eq!(used("UpdateItem", get.clone(), json!({ "Attributes": item(1020) }), 200), write(1));
    assert_eq!(used("UpdateItem", get.clone(), json!({ "Attributes": item(1021) }), 200), write(2));
    assert_eq!(
        used("UpdateItem", get.clone(), json!({ "Attributes": item(10) }), 200),
        write(2),
        "it was larger before"
    );
    assert_eq!(used("UpdateItem", get.clone(), json!({ "Attributes": item(4093) }), 200), write(5));
    let refused = json!({ "__type": "ConditionalCheckFailedException", "Item": item(4093) });
    assert_eq!(used("UpdateItem", get.clone(), refused, 400), write(5), "a refused write is one");
    let projected = json!({ "Item": { "pk": { "S": "" } } });
    assert_eq!(used("GetItem", get.clone(), projected, 200), read(2), "a projection is no cheaper");
    let writes = json!({ "TransactItems": [{ "Put": { "Item": item(1021) } }, { "ConditionCheck": { "Key": { "pk": { "S": "a" }, "sk": { "S": "b" } } } }] });
    assert_eq!(used("TransactWriteItems", writes, json!({}), 200), write(2 * (5 + 1)));
    assert_eq!(used("GetItem", get, json!({ "Item": item(1021) }), 200), read(1));
}

#[test]
fn sizes_follow_the_documented_rules() {
    let mut items = Items::default();
    // 4 + 6 digits: 3 + 1, true: 1, list of one text: 3 + 1 + 2, map: 3 + 1 + 1 + 2; names: 5.
    let row = json!({
        "pk": { "S": "" }, "sk": { "S": "" }, "n": { "N": "-123.456" }, "b": { "BOOL": true },
        "l": { "L": [{ "S": "ab" }] }, "m": { "M": { "k": { "S": "cd" } } }, "t": { "S": "x".repeat(1024 - 27) },
    });
    let put = |row: &Value| call("DynamoDB", "PutItem", json!({ "Item": row }), json!({}));
    assert_eq!(items.units(&put(&row)).write, 1);
    let mut larger = row;
    larger["t"]["S"] = Value::from("x".repeat(1024 - 26));
    assert_eq!(items.units(&put(&larger)).write, 2);
}

#[test]
fn a_bill_is_the_sum_of_its_requests_and_idle_pollers_are_not_in_it() {
    let prices = Prices::us_east_1().unwrap();
    let url = json!({ "QueueUrl": "http://127.0.0.1/1/push0-results" });
    let fifo = json!({ "QueueUrl": "http://127.0.0.1/1/push0-submissions.fifo" });
    let found = json!({ "Messages": [{ "MessageId": "1", "Body": "a" }, { "MessageId": "2", "Body": "b" }] });
    let calls = [
        call("SQS", "ReceiveMessage", url.clone(), found),
        call("SQS", "ReceiveMessage", url.clone(), json!({})),
        call("SQS", "DeleteMessage", fifo, json!({})),
        call("SQS", "GetQueueUrl", json!({}), json!({})),
        Call { attempts: 3, ..call("S3", "PutObject", json!({}), json!({})) },
        call("S3", "HeadObject", json!({}), json!({})),
        call("S3", "DeleteObject", json!({}), json!({})),
    ];
    let functions = Functions { queues: ["push0-results".to_owned()].into(), memory_mib: 512 };
    let bill = Bill::of(&calls, &mut Items::default(), &functions, &prices);
    assert_eq!((bill.count(), bill.invocations, bill.handled), (1 + 1 + 3 + 1 + 1, 1, 2));
    assert_eq!(bill.fixed.iter().map(|line| line.requests).sum::<u64>(), 2);
    let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found} is not {wanted}");
    close(bill.usd.sqs, (0.40 + 0.10 + 0.50) / 1e6);
    close(bill.usd.s3_put, 3.0 * 5.0 / 1e6);
    close(bill.usd.s3_get, 0.40 / 1e6);
    close(bill.usd.lambda, 0.20 / 1e6 + 2.0 * 0.020 * 0.5 * 0.0000133334);
    close(bill.total_usd, bill.usd.total());
}

#[test]
fn a_chain_is_the_longest_row_of_calls_that_do_not_overlap() {
    let task = task("demo/7/e1/0123456789abcdef/2.0.0/a1c0");
    let report = report("demo/7/e1/0123456789abcdef/1.0.3/a1c0");
    let start = Instant::now();
    let at = |from: u64, until: u64, call: Call| Call {
        began: start + Duration::from_millis(from),
        ended: start + Duration::from_millis(until),
        ..call
    };
    let results = json!({ "QueueUrl": "http://h/1/push0-results" });
    let send = |queue: &str, body: &str, id: &str| {
        let request = json!({ "QueueUrl": queue, "Entries": [{ "Id": "0", "MessageBody": body }] });
        call("SQS", "SendMessageBatch", request, json!({ "Successful": [{ "Id": "0", "MessageId": id }] }))
    };
    let receive = |queue: &Value, body: &str, id: &str| {
        call("SQS", "ReceiveMessage", queue.clone(), json!({ "Messages": [{ "MessageId": id, "Body": body }] }))
    };
    let tagged = |call: Call| Call { tag: Some(Arc::from(chain::tag("results", "m1"))), ..call };
    let put = Call { path: "/push0-blobs/artifacts/cpu/x".to_owned(), ..call("S3", "PutObject", json!({}), json!({})) };
    let work = json!({ "QueueUrl": "http://h/1/push0-work-cpu-standard" });
    let calls = [
        at(10, 20, put),
        at(21, 30, send("http://h/1/push0-results", &report, "m1")),
        // It has waited, and has the message before its sender has the answer.
        at(0, 28, receive(&results, &report, "m1")),
        at(31, 36, tagged(call("DynamoDB", "GetItem", json!({ "Key": { "sk": { "S": "run" } } }), json!({})))),
        at(31, 35, tagged(call("S3", "HeadObject", json!({}), json!({})))),
        at(37, 40, tagged(call("DynamoDB", "UpdateItem", json!({}), json!({})))),
        at(41, 50, tagged(send("http://h/1/push0-work-cpu-standard", &task.to_json(), "m2"))),
        // After the send: not on the way.
        at(51, 60, tagged(call("DynamoDB", "UpdateItem", json!({}), json!({})))),
        // Nobody waited for it.
        at(55, 65, receive(&work, &task.to_json(), "m2")),
    ];
    let chains = chain::find(&calls);
    assert_eq!((chains.of_artifacts.len(), chains.of_split.len()), (1, 0));
    let found = &chains.of_artifacts[0];
    assert_eq!(found.ended, "demo/7/e1/0123456789abcdef/1.0.3/a1c0");
    let names: Vec<&str> = found.steps.iter().map(|step| step.call.as_str()).collect();
    let wanted = [
        "S3 PutObject",
        "SQS SendMessageBatch",
        "SQS ReceiveMessage",
        "S3 HeadObject",
        "DynamoDB UpdateItem",
        "SQS SendMessageBatch",
        "SQS ReceiveMessage",
    ];
    assert_eq!(names, wanted);
    assert_eq!((found.length(), found.without_receives()), (7, 5));
    assert_eq!(
        found.steps.iter().map(|step| step.waiting).collect::<Vec<_>>()[2..],
        [true, false, false, false, false]
    );
}

fn task(id: &str) -> TaskMessage {
    TaskMessage {
        id: id.parse().unwrap(),
        stage: "join".parse().unwrap(),
        kind: Kind::Join,
        prover: "bench".parse().unwrap(),
        programs: Default::default(),
        pool: "cpu".parse().unwrap(),
        class: Class::Standard,
        inputs: Vec::new(),
        expand: false,
        params: Value::Null,
        block_hash: BlockHash([0; 32]),
        parent_hash: None,
        time_limit: Millis(1_000),
        progress_limit: None,
        avoid: Vec::new(),
        barred: Vec::new(),
        deadline: None,
        demoted: false,
        check: None,
        copies: None,
    }
}

fn report(task: &str) -> String {
    let artifact = json!({ "key": "artifacts/cpu/x", "sha256": "00".repeat(32), "size": 1 });
    let event: ReportEvent = serde_json::from_value(json!({ "event": "done", "artifact": artifact })).unwrap();
    let worker = "cpu-0".parse().unwrap();
    TaskReport { task: task.parse().unwrap(), worker, by: None, at: Millis(0), handout: None, event }.to_json()
}

/// Against the emulator that `scripts/with-emulators` starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_counted_in_a_real_run() {
    let plan = Plan { segments: 4, arities: vec![2], workers: 2, ..Plan::new(emulator::ministack()) };
    let dir = tempfile::tempdir().unwrap();
    let report = run(&plan, dir.path(), &|_| {}).await.unwrap();
    let found = &report.runs[0];
    let count = |operation: &str| {
        let lines = found.bill.requests.iter().filter(|line| line.operation == operation);
        lines.map(|line| line.requests).sum::<u64>()
    };
    // 4 segments, their page, header and manifest; 4 leaves and 3 joins; the witness and the proof.
    assert_eq!((found.tasks, count("PutObject")), (4 + 3 + 2, 4 + 3 + 4 + 3 + 2));
    assert_eq!(found.artifact_to_dependent.dependents, 3 + 1, "joins, and verify");
    assert_eq!(found.split_to_leaf.dependents, 4);
    assert_eq!(found.artifact_to_dependent.longest_without_receives, 5, "{:?}", found.artifact_to_dependent.example);
    assert!(found.bill.handled >= found.bill.invocations && found.bill.total_usd > 0.0);
    assert!(report.markdown().contains("PutObject") && report.table().contains("PutObject"));
}
