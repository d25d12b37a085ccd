//! What leaves a function for its queues carries the trace of its invocation; what goes round on purpose does so without its lineage.

use std::process::Command;
use std::sync::{Arc, Mutex};

use push0_runtime::aws::emulator::account;
use push0_runtime::aws::{Connection, Sqs, without_lineage};
use push0_runtime::port::{Outgoing, Queue as _};
use push0_runtime::settings::AwsSettings;
use serde_json::{Value, json};

use super::support::{Fate, faulty, operation};

const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0;Lineage=1:fc3b4ff1:7";
const BARE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0";

/// A queue's name, and the trace header of what was sent there.
type Sent = (String, Option<String>);

/// The SDK reads Lambda's environment, so the test proper runs in a process that has it.
#[test]
fn only_what_goes_round_on_purpose_begins_a_new_chain() {
    let mut inside = Command::new(std::env::current_exe().unwrap());
    inside.args(["--exact", "lineage::inside_lambda", "--ignored"]);
    inside.env("AWS_LAMBDA_FUNCTION_NAME", "push0-collector").env("_X_AMZN_TRACE_ID", TRACE);
    let output = inside.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "run by the test above, in Lambda's environment"]
async fn inside_lambda() {
    let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let seen = sent.clone();
    let http = faulty(move |_, request| {
        let body: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        if operation(request) == "GetQueueUrl" {
            let name = body["QueueName"].as_str().unwrap();
            return Fate::json(200, &json!({ "QueueUrl": format!("http://sqs.test/1/{name}") }).to_string());
        }
        let url = body["QueueUrl"].as_str().unwrap().to_owned();
        let trace = request.headers().get("x-amzn-trace-id").map(str::to_owned);
        seen.lock().unwrap().push((url.rsplit('/').next().unwrap().to_owned(), trace));
        let done = |entry: &Value| json!({ "Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "" });
        let done: Vec<Value> = body["Entries"].as_array().into_iter().flatten().map(done).collect();
        Fate::json(200, &json!({ "Successful": done, "Failed": [], "MessageId": "m" }).to_string())
    });
    let settings = AwsSettings { endpoint: Some("http://sqs.test".to_owned()), ..AwsSettings::default() };
    let connection = Connection::emulated(settings.clone(), &account(), http).await;
    let sqs = Sqs::new(&connection.intercepted(without_lineage(&settings)));
    for queue in ["timers", "work-gpu-realtime", "ranges", "results", "finalized.fifo"] {
        let message = Outgoing {
            body: "x".to_owned(),
            group: Some("g".to_owned()),
            dedup: queue.ends_with(".fifo").then(|| "d".to_owned()),
            ..Outgoing::default()
        };
        // Its checksum is made up.
        let _ = sqs
            .send(queue, vec![message.clone(), Outgoing { dedup: message.dedup.clone().map(|d| d + "2"), ..message }])
            .await;
    }
    let sent = sent.lock().unwrap();
    for (queue, expected) in [
        ("push0-timers", BARE),
        ("push0-work-gpu-realtime", BARE),
        ("push0-ranges", TRACE),
        ("push0-results", TRACE),
        ("push0-finalized.fifo", TRACE),
    ] {
        let of_queue: Vec<&Sent> = sent.iter().filter(|(name, _)| name == queue).collect();
        assert!(!of_queue.is_empty(), "nothing was sent to {queue}: {sent:?}");
        for (_, trace) in of_queue {
            assert_eq!(trace.as_deref(), Some(expected), "{queue}");
        }
    }
}
