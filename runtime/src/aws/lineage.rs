//! Where the chain that Lambda counts for its recursive-loop detection ends: at what push0 sends round on purpose.
//!
//! Inside Lambda the SDK sends the invocation's trace header along with each call, and SQS keeps it with the message. Its field `Lineage`
//! counts how often one chain of requests came to a function; at about 16 Lambda stops, and the message is left to its dead-letter
//! queue. A timer that arms itself again, and a task that comes back from its dead-letter queue and is sent again, go round for as long as their
//! block takes: their messages are sent without `Lineage`, so that each begins a chain of its own. Everything else keeps it: a loop by
//! mistake is still stopped. `docs/aws.md`, "Loops".

use aws_sdk_sqs::operation::send_message::SendMessageInput;
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchInput;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use crate::settings::AwsSettings;

const TRACE_HEADER: &str = "x-amzn-trace-id";

/// The queues whose messages go round on purpose: the topology's names begin so.
const ROUND: [&str; 2] = ["timers", "work-"];

/// For a [`super::Connection`] inside Lambda.
pub fn without_lineage(settings: &AwsSettings) -> SharedInterceptor {
    SharedInterceptor::new(WithoutLineage { names: ROUND.map(|name| settings.name(name)) })
}

#[derive(Debug)]
struct WithoutLineage {
    names: [String; 2],
}

#[dyn_dispatch_hint]
impl Intercept for WithoutLineage {
    fn name(&self) -> &'static str {
        "WithoutLineage"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url = match context.input().downcast_ref::<SendMessageBatchInput>() {
            Some(batch) => batch.queue_url(),
            None => context.input().downcast_ref::<SendMessageInput>().and_then(SendMessageInput::queue_url),
        };
        let queue = url.and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        if self.names.iter().any(|name| queue.starts_with(name.as_str())) {
            config.interceptor_state().store_put(GoesRound);
        }
        Ok(())
    }

    // After signing, which leaves the trace header out: the SDK has set it by now.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        if config.load::<GoesRound>().is_some()
            && let Some(trace) = headers.get(TRACE_HEADER).map(without)
        {
            headers.insert(TRACE_HEADER, trace);
        }
        Ok(())
    }
}

/// What a call is known by until it is sent.
#[derive(Debug)]
struct GoesRound;

impl Storable for GoesRound {
    type Storer = StoreReplace<Self>;
}

/// `Root=1;Lineage=2:ab:3;Sampled=0` → `Root=1;Sampled=0`.
fn without(trace: &str) -> String {
    let kept: Vec<&str> = trace.split(';').filter(|field| !field.trim_start().starts_with("Lineage=")).collect();
    kept.join(";")
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn the_trace_stays_and_its_lineage_goes() {
        for (before, after) in [
            ("Root=1-5759;Parent=53;Sampled=0;Lineage=1:fc3b4ff1:0", "Root=1-5759;Parent=53;Sampled=0"),
            ("Root=1-5759;Lineage=a87bd80c:1|68fd508a:5;Sampled=1", "Root=1-5759;Sampled=1"),
            ("Root=1-5759; Lineage=a87bd80c:1", "Root=1-5759"),
            ("Root=1-5759", "Root=1-5759"),
        ] {
            assert_eq!(without(before), after);
        }
    }
}
