//! A queue that counts what is sent through it.

use std::sync::Arc;

use async_trait::async_trait;
use push0_core::Millis;

use super::{Metric, Metrics};
use crate::port::{Delivery, Outgoing, PortResult, Queue, QueueStats};

pub struct Metered {
    queue: Arc<dyn Queue>,
    metrics: Arc<Metrics>,
}

impl Metered {
    pub fn new(queue: Arc<dyn Queue>, metrics: Arc<Metrics>) -> Self {
        Self { queue, metrics }
    }
}

#[async_trait]
impl Queue for Metered {
    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> PortResult<()> {
        let count = messages.len() as u64;
        self.queue.send(queue, messages).await?;
        self.metrics.count(Metric::MessagesSent, &[queue], count);
        Ok(())
    }

    async fn receive(&self, queue: &str, max: usize, wait: Millis, lease: Millis) -> PortResult<Vec<Delivery>> {
        self.queue.receive(queue, max, wait, lease).await
    }

    async fn extend(&self, queue: &str, receipt: &str, lease: Millis) -> PortResult<()> {
        self.queue.extend(queue, receipt, lease).await
    }

    async fn release(&self, queue: &str, receipt: &str, delay: Millis) -> PortResult<()> {
        self.queue.release(queue, receipt, delay).await
    }

    async fn ack(&self, queue: &str, receipt: &str) -> PortResult<()> {
        self.queue.ack(queue, receipt).await
    }

    async fn ack_all(&self, queue: &str, receipts: &[&str]) -> Vec<PortResult<()>> {
        self.queue.ack_all(queue, receipts).await
    }

    async fn stats(&self, queue: &str) -> PortResult<QueueStats> {
        self.queue.stats(queue).await
    }

    fn ranks(&self) -> bool {
        self.queue.ranks()
    }
}
