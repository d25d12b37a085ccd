//! The dispatcher: `submissions.fifo` → the chain loop.

use async_trait::async_trait;
use push0_core::ErrorCode;
use push0_core::chain::{Event, Ignored};
use push0_core::message::ChainMessage;
use push0_core::record::Versioned;
use push0_runtime::drive::{Context, chain};
use push0_runtime::host::{Failure, Function};
use push0_runtime::port::Delivery;

use crate::{from_decode, from_drive};

pub struct Dispatcher {
    context: Context,
}

impl Dispatcher {
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[async_trait]
impl Function for Dispatcher {
    async fn handle(&self, _source: &str, message: &Delivery) -> Result<(), Failure> {
        let told = ChainMessage::from_json(&message.body).map_err(from_decode)?;
        let chain = told.chain().clone();
        let event = match told {
            ChainMessage::Submit(submission) => Event::Submitted(submission),
            ChainMessage::Command(command) => Event::Command(command),
        };
        match chain::drive(&self.context, &chain, &event).await.map_err(from_drive)? {
            Ok(()) => Ok(()),
            Err(ignored) => settled(&chain, &event, ignored),
        }
    }
}

/// What changed nothing is done with, but what its sender would want to know of goes to the dead-letter queue, where it is seen.
fn settled(chain: &push0_core::ChainId, event: &Event, ignored: Ignored) -> Result<(), Failure> {
    let code = ignored.code();
    match ignored {
        Ignored::Settled | Ignored::Stale => Ok(()),
        Ignored::Final { .. } | Ignored::NotFailed { .. } | Ignored::Unknown | Ignored::Window(_) => {
            let code = code.map(tracing::field::display);
            tracing::warn!(code, %chain, number = event.number(), %ignored, "message changes nothing");
            Ok(())
        }
        Ignored::BelowFirst { .. } | Ignored::TooFar { .. } => {
            let reason = code.unwrap_or(ErrorCode::OutOfReach).says(ignored.to_string());
            Err(Failure::Poison { reason })
        }
    }
}
