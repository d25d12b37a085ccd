//! The dispatcher: `submissions.fifo` and S3's `witness-events` → the chain loop.

use async_trait::async_trait;
use push0_core::chain::{Event, Ignored};
use push0_core::message::upload::{BadUpload, Upload, notified};
use push0_core::message::{ChainMessage, queue};
use push0_core::record::Versioned;
use push0_core::{ChainId, ErrorCode};
use push0_runtime::drive::{Context, batch, chain};
use push0_runtime::host::{Failure, Function};
use push0_runtime::port::Delivery;

use crate::uploads::{self, Refused};
use crate::{from_decode, from_drive};

/// Deliveries of an event whose object takes too long to read, before it is put aside.
const READS: u32 = 3;

pub struct Dispatcher {
    context: Context,
}

impl Dispatcher {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    async fn told(&self, message: &Delivery) -> Result<(), Failure> {
        let told = ChainMessage::from_json(&message.body).map_err(from_decode)?;
        let chain = told.chain().clone();
        let batch = match &told {
            ChainMessage::Batch { number, .. } => Some(*number),
            ChainMessage::Submit(_) | ChainMessage::Command(_) => None,
        };
        let event = match told {
            ChainMessage::Submit(submission) => Event::Submitted(submission),
            ChainMessage::Command(command) => Event::Command(command),
            ChainMessage::Batch { number, .. } => {
                Event::Batched(batch::derive(&self.context, &chain, number).await.map_err(from_drive)?)
            }
        };
        self.drive(&chain, &event).await?;
        match batch {
            Some(number) => batch::go_on(&self.context, &chain, number).await.map_err(from_drive),
            None => Ok(()),
        }
    }

    /// One of S3's messages, which may tell of several uploads. What can be handled is; what has to come again brings the others along,
    /// to whom it does nothing.
    async fn notified(&self, message: &Delivery) -> Result<(), Failure> {
        let bad = |bad: BadUpload| Failure::Poison { reason: bad.code().says(bad.to_string()) };
        let mut failure = None;
        for upload in notified(&message.body).map_err(bad)? {
            let handled = match upload {
                Ok(upload) => self.uploaded(upload, message.receive_count).await,
                Err(error) => Err(bad(error)),
            };
            failure = worse(failure, handled.err());
        }
        failure.map_or(Ok(()), Err)
    }

    async fn uploaded(&self, upload: Upload, receive_count: u32) -> Result<(), Failure> {
        let (chain, key) = (upload.chain.clone(), upload.key.clone());
        match uploads::submission(&self.context, upload, uploads::READING).await {
            Ok(Some(submission)) => self.drive(&chain, &Event::Submitted(submission)).await,
            Ok(None) => {
                tracing::info!(%chain, key, "an uploaded witness is gone again; nothing is submitted");
                Ok(())
            }
            Err(refused @ Refused::Trouble(_)) => Err(Failure::Retry { reason: refused.reason() }),
            Err(Refused::TooSlow(reason)) if receive_count < READS => Err(Failure::Retry { reason }),
            Err(Refused::TooSlow(reason) | Refused::Never(reason)) => Err(Failure::Poison { reason }),
        }
    }

    async fn drive(&self, chain: &ChainId, event: &Event) -> Result<(), Failure> {
        match chain::drive(&self.context, chain, event).await.map_err(from_drive)? {
            Ok(()) => Ok(()),
            Err(ignored) => settled(chain, event, ignored),
        }
    }
}

#[async_trait]
impl Function for Dispatcher {
    async fn handle(&self, source: &str, message: &Delivery) -> Result<(), Failure> {
        match queue::origin(source) {
            queue::WITNESS_EVENTS => self.notified(message).await,
            _ => self.told(message).await,
        }
    }
}

/// Of two failures the one that decides what becomes of the message: it is put aside only when nothing of it has to come again.
fn worse(one: Option<Failure>, other: Option<Failure>) -> Option<Failure> {
    match (one, other) {
        (Some(retry @ Failure::Retry { .. }), _) | (_, Some(retry @ Failure::Retry { .. })) => Some(retry),
        (Some(poison), _) | (None, Some(poison)) => Some(poison),
        (None, None) => None,
    }
}

/// What changed nothing is done with, but what its sender would want to know of goes to the dead-letter queue, where it is seen.
fn settled(chain: &ChainId, event: &Event, ignored: Ignored) -> Result<(), Failure> {
    let code = ignored.code();
    match ignored {
        Ignored::Settled | Ignored::Stale | Ignored::Late => Ok(()),
        Ignored::Final { .. }
        | Ignored::NotFailed { .. }
        | Ignored::Unknown
        | Ignored::Hole { .. }
        | Ignored::OtherDrop
        | Ignored::Window(_) => {
            let code = code.map(tracing::field::display);
            tracing::warn!(code, %chain, number = event.number(), %ignored, "message changes nothing");
            Ok(())
        }
        Ignored::BelowFirst { .. } | Ignored::TooFar { .. } | Ignored::Derived { .. } => {
            let reason = code.unwrap_or(ErrorCode::OutOfReach).says(ignored.to_string());
            Err(Failure::Poison { reason })
        }
    }
}

#[cfg(test)]
mod batches;
#[cfg(test)]
mod tests;
