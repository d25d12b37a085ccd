//! The functions on their host, and the consumer behind them.

use std::sync::Arc;

use push0_core::Millis;
use push0_core::message::queue;
use push0_functions::Reaper;
use push0_runtime::host::{self, Function, Mapping};
use push0_runtime::port::{PortError, Queue as _};

use super::faulty::Faulty;
use super::scenario::{Bug, Healers};
use super::world::{Shared, context, faulty, pause};

pub(super) async fn consumer(shared: Shared) {
    let engine = &shared.engine;
    loop {
        let received = engine.receive(queue::FINALIZED, 10, Millis(20_000), Millis(30_000)).await;
        for message in received.unwrap_or_default() {
            shared.weather.note(&format!("consumer {}", message.id));
            if let Err(complaint) = shared.auditor.borrow_mut().consume(&message.body) {
                shared.complaint.borrow_mut().get_or_insert(complaint);
            }
            let _ = engine.ack(queue::FINALIZED, &message.receipt).await;
        }
    }
}

pub(super) async fn reaper(shared: Shared) {
    let context = context(&shared, "reaper");
    let reaper = match shared.scenario.healers {
        Healers::Timers => Reaper::that_finds_no_lost_timers(context),
        Healers::Both | Healers::Reaper if shared.scenario.uploads => Reaper::that_finds_uploads(context),
        Healers::Both | Healers::Reaper => Reaper::new(context),
    };
    loop {
        reaper.turn().await;
        pause(&shared, Millis(10_000)).await;
    }
}

pub(super) async fn poller(
    shared: Shared,
    who: String,
    function: Arc<dyn Function>,
    mapping: Mapping,
    bug: Option<Bug>,
) {
    let port = faulty(&shared, &who);
    loop {
        let polled = match bug {
            None => host::poll_once(&port, &*function, &mapping, Millis(20_000)).await.map(|_| ()),
            Some(Bug::AcknowledgeBeforeEffects) => acknowledge_first(&port, &*function, &mapping).await,
        };
        if polled.is_err() {
            pause(&shared, Millis(500)).await;
        }
    }
}

/// The bug: what fails or crashes after the acknowledgement is lost.
async fn acknowledge_first(port: &Faulty, function: &dyn Function, mapping: &Mapping) -> Result<(), PortError> {
    let batch = port.receive(&mapping.queue, mapping.batch, Millis(20_000), mapping.lease).await?;
    for message in &batch {
        port.ack(&mapping.queue, &message.receipt).await?;
    }
    host::handle_batch(function, &mapping.queue, &batch).await;
    Ok(())
}
