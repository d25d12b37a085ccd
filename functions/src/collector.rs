//! The collector: reports, ranges, timers and dead letters → the block loop.

use async_trait::async_trait;
use push0_core::ErrorCode;
use push0_core::message::{RangeMessage, Report, TaskMessage, TimerMessage, queue};
use push0_core::record::Versioned;
use push0_runtime::drive::block::Handled;
use push0_runtime::drive::{Context, block};
use push0_runtime::host::{Failure, Function};
use push0_runtime::metrics::Metric;
use push0_runtime::port::Delivery;

use crate::{from_decode, from_drive};

pub struct Collector {
    context: Context,
}

impl Collector {
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[async_trait]
impl Function for Collector {
    async fn handle(&self, source: &str, message: &Delivery) -> Result<(), Failure> {
        let body = &message.body;
        // What went to a function's own dead-letter queue is handled as if it had never been there.
        match queue::origin(source) {
            queue::RANGES => {
                let range = RangeMessage::from_json(body).map_err(from_decode)?;
                block::on_range(&self.context, &range).await.map_err(from_drive)
            }
            queue::TIMERS => {
                let timer = TimerMessage::from_json(body).map_err(from_decode)?;
                let looked = block::on_timer(&self.context, &timer).await.map_err(from_drive)?;
                tracing::debug!(run = %timer.run, piece = timer.piece, ?looked, "timer");
                Ok(())
            }
            origin @ (queue::RESULTS | queue::VERDICTS) => {
                let report = Report::from_json(body).map_err(from_decode)?;
                let handled = block::on_report(&self.context, origin, &report).await.map_err(from_drive)?;
                self.context.metrics.count(Metric::Reports, &[outcome(handled)], 1);
                tracing::debug!(task = %report.task, worker = %report.worker, ?handled, "report");
                Ok(())
            }
            // Every other source is the dead-letter queue of a work queue: a decision about the task is due.
            _ => {
                let task = TaskMessage::from_json(body).map_err(from_decode)?;
                let handled = block::on_dead_letter(&self.context, &task).await.map_err(from_drive)?;
                let code = ErrorCode::LostTask;
                tracing::warn!(%code, task = %task.id, queue = source, ?handled, "task came to its dead-letter queue");
                Ok(())
            }
        }
    }
}

fn outcome(handled: Handled) -> &'static str {
    match handled {
        Handled::Accepted => "accepted",
        Handled::Failed => "failed",
        Handled::Noted => "noted",
        Handled::Ignored(_) => "ignored",
        Handled::Over => "over",
    }
}

#[cfg(test)]
mod tests;
