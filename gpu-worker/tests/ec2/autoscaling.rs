//! The client of AWS's API, against one request and one answer, and against an emulator.

use push0_gpu_worker::ec2::{Answer, AutoScaling, Completion, Group, Hook, LifecycleHooks};
use push0_runtime::aws::{emulator, http_client};
use push0_runtime::port::ErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

async fn client(endpoint: String) -> AutoScaling {
    let connection = emulator::connect(&endpoint, &emulator::account(), http_client()).await.acting_as("worker/gpu");
    let group = Group {
        name: "push0-gpu".to_owned(),
        instance: "i-0123456789abcdef0".to_owned(),
        launch_hook: "push0-launch".to_owned(),
        termination_hook: "push0-termination".to_owned(),
    };
    AutoScaling::new(&connection, group)
}

/// Answers one request so, and hands back what was asked.
async fn answering(status: &'static str, answer: String) -> (AutoScaling, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.to_ascii_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                let head = format!("HTTP/1.1 {status}\r\ncontent-type: text/xml\r\ncontent-length: {}", answer.len());
                stream.write_all(format!("{head}\r\n\r\n{answer}").as_bytes()).await.unwrap();
                return body.to_owned();
            }
        }
    });
    (client(endpoint).await, asked)
}

fn refused(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    )
}

fn done(operation: &str) -> String {
    format!(
        "<{operation}Response xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><{operation}Result/></{operation}Response>"
    )
}

#[tokio::test]
async fn the_group_is_told_of_this_instance_and_this_hook() {
    let (hooks, asked) = answering("200 OK", done("CompleteLifecycleAction")).await;
    assert_eq!(hooks.complete(Hook::Launch, Completion::Abandon).await, Ok(Answer::Heard));
    let mut asked: Vec<String> = asked.await.unwrap().split('&').map(str::to_owned).collect();
    asked.sort_unstable();
    let wanted = [
        "Action=CompleteLifecycleAction",
        "AutoScalingGroupName=push0-gpu",
        "InstanceId=i-0123456789abcdef0",
        "LifecycleActionResult=ABANDON",
        "LifecycleHookName=push0-launch",
        "Version=2011-01-01",
    ];
    assert_eq!(asked, wanted);

    let (hooks, asked) = answering("200 OK", done("RecordLifecycleActionHeartbeat")).await;
    assert_eq!(hooks.heartbeat(Hook::Termination).await, Ok(Answer::Heard));
    let asked = asked.await.unwrap();
    assert!(asked.contains("Action=RecordLifecycleActionHeartbeat&"), "{asked}");
    assert!(asked.contains("LifecycleHookName=push0-termination"), "{asked}");
}

#[tokio::test]
async fn a_group_that_does_not_wait_is_no_error_and_one_that_refuses_is() {
    let nobody = refused("ValidationError", "No active Lifecycle Action found with instance ID i-0123456789abcdef0");
    let (hooks, _) = answering("400 Bad Request", nobody.clone()).await;
    assert_eq!(hooks.complete(Hook::Launch, Completion::Continue).await, Ok(Answer::NotWaiting));
    let (hooks, _) = answering("400 Bad Request", nobody).await;
    assert_eq!(hooks.heartbeat(Hook::Launch).await, Ok(Answer::NotWaiting));
    for (status, code, message) in [
        ("403 Forbidden", "AccessDenied", "not authorized to perform: autoscaling:CompleteLifecycleAction"),
        ("400 Bad Request", "ValidationError", "AutoScalingGroup name not found"),
    ] {
        let (hooks, _) = answering(status, refused(code, message)).await;
        let error = hooks.complete(Hook::Launch, Completion::Continue).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent, "{error}");
        assert!(error.message().contains(message), "{error}");
    }
}

/// It keeps no lifecycle actions: only that the calls are understood is seen here.
#[tokio::test]
async fn an_emulator_understands_the_calls() {
    let hooks = client(emulator::ministack()).await;
    assert_eq!(hooks.heartbeat(Hook::Termination).await, Ok(Answer::Heard));
    assert_eq!(hooks.complete(Hook::Termination, Completion::Continue).await, Ok(Answer::Heard));
}
