//! The hooks of an Auto Scaling group, by AWS's API. It takes two rights on this one group: `autoscaling:CompleteLifecycleAction` and
//! `autoscaling:RecordLifecycleActionHeartbeat`.

use async_trait::async_trait;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};
use push0_runtime::aws::{Connection, port_error};
use push0_runtime::port::PortResult;

use super::{Answer, Completion, Hook, LifecycleHooks};

/// The group an instance belongs to, and what its hooks are called.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: String,
    pub instance: String,
    pub launch_hook: String,
    pub termination_hook: String,
}

#[derive(Debug, Clone)]
pub struct AutoScaling {
    client: Client,
    group: Group,
}

impl AutoScaling {
    pub fn new(connection: &Connection, group: Group) -> Self {
        let mut config = aws_sdk_autoscaling::config::Builder::from(&connection.sdk);
        config.set_interceptors(connection.interceptors());
        Self { client: Client::from_conf(config.build()), group }
    }

    fn hook(&self, hook: Hook) -> &str {
        match hook {
            Hook::Launch => &self.group.launch_hook,
            Hook::Termination => &self.group.termination_hook,
        }
    }
}

#[async_trait]
impl LifecycleHooks for AutoScaling {
    async fn complete(&self, hook: Hook, completion: Completion) -> PortResult<Answer> {
        let result = match completion {
            Completion::Continue => "CONTINUE",
            Completion::Abandon => "ABANDON",
        };
        let call = self.client.complete_lifecycle_action().lifecycle_hook_name(self.hook(hook));
        let call = call.auto_scaling_group_name(&self.group.name).instance_id(&self.group.instance);
        match call.lifecycle_action_result(result).send().await {
            Ok(_) => Ok(Answer::Heard),
            Err(error) if nobody_waits(&error) => Ok(Answer::NotWaiting),
            Err(error) => Err(port_error("CompleteLifecycleAction", &error)),
        }
    }

    async fn heartbeat(&self, hook: Hook) -> PortResult<Answer> {
        let call = self.client.record_lifecycle_action_heartbeat().lifecycle_hook_name(self.hook(hook));
        let call = call.auto_scaling_group_name(&self.group.name).instance_id(&self.group.instance);
        match call.send().await {
            Ok(_) => Ok(Answer::Heard),
            Err(error) if nobody_waits(&error) => Ok(Answer::NotWaiting),
            Err(error) => Err(port_error("RecordLifecycleActionHeartbeat", &error)),
        }
    }
}

/// A group that has no such hook, or does not wait for this instance just now, calls that a mistake in the request.
fn nobody_waits<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    let refused = error.as_service_error().filter(|error| error.code() == Some("ValidationError"));
    refused.and_then(|error| error.message()).is_some_and(|message| message.contains("No active Lifecycle Action"))
}
