//! The reaper and the sweeper in one invocation on a timer: every chain in turn until the time is over. The next invocation goes on with the chain
//! that this one did not get to.

use std::sync::atomic::{AtomicUsize, Ordering};

use push0_core::retention::Retention;
use push0_core::{ChainId, Millis};
use push0_runtime::drive::Context;
use push0_runtime::metrics::{Metric, emf};
use push0_runtime::settings::AwsSettings;
use serde::Serialize;

use super::{ANSWER, within};
use crate::reaper::Soon;
use crate::{Reaper, Sweeper, Swept};

const NAME: &str = "reaper";

/// Deletions of a chain at a time: other chains shall have their turn.
const SWEEP: u64 = 500;

pub struct Reaping {
    reaper: Reaper,
    sweeper: Sweeper,
    context: Context,
    names: AwsSettings,
    /// The chain to begin with.
    next: AtomicUsize,
}

/// What one invocation came to: its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Chains looked after to the end.
    pub chains: usize,
    /// The time was over before all was done.
    pub cut_short: bool,
}

impl Reaping {
    pub fn new(context: Context, retention: Retention, names: AwsSettings) -> Self {
        let reaper = Reaper::that_finds_uploads(context.clone());
        let sweeper = Sweeper::new(context.clone(), retention);
        // A process that lives for one turn only shall not always begin with the same chain.
        let next = AtomicUsize::new(context.clock.now().0 as usize);
        Self { reaper, sweeper, context, names, next }
    }

    /// Looks after the chains until all are done or the deadline is near. Breaking off at any point is what a crash does.
    pub async fn turn(&self, deadline: Millis) -> Turn {
        let began = self.context.clock.now();
        self.context.metrics.count(Metric::Invocations, &[NAME], 1);
        let chains: Vec<&ChainId> = self.context.catalog.chains.keys().collect();
        let until = deadline.since(ANSWER);
        let first = self.next.load(Ordering::Relaxed);
        let mut turn = Turn { chains: 0, cut_short: false };
        let mut soon = Soon::default();
        for offset in 0..chains.len() {
            let position = first.wrapping_add(offset) % chains.len();
            let is_time = self.context.clock.now() < until;
            if !is_time
                || within(&*self.context.clock, until, self.look_after(chains[position], &mut soon)).await.is_none()
            {
                // Nor shall a chain that takes all the time keep the others from theirs.
                self.next.store((position + 1) % chains.len(), Ordering::Relaxed);
                turn.cut_short = true;
                tracing::info!(chain = %chains[position], "the time is over; the next turn goes on with the next chain");
                break;
            }
            turn.chains += 1;
        }
        self.reaper.tell(&soon);
        self.context.metrics.observe(Metric::InvocationTime, &[NAME], self.context.clock.now().since(began).0);
        turn
    }

    async fn look_after(&self, chain: &ChainId, soon: &mut Soon) {
        self.reaper.look_after(chain, soon).await;
        loop {
            match self.sweeper.sweep(chain, SWEEP).await {
                Ok(swept) => {
                    let Swept { blocks, blobs, bytes, rows, more } = swept;
                    if blobs + rows > 0 {
                        tracing::info!(%chain, blocks, blobs, bytes, rows, "deleted what finalized blocks no longer need");
                    }
                    if !more {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(code = %error.code(), %chain, %error, "sweeping failed; it is tried again");
                    return;
                }
            }
        }
    }

    /// What was measured since the last time, as lines for the log.
    pub fn measured(&self) -> Vec<String> {
        emf::lines(&self.names.prefix, self.context.clock.now(), &self.context.metrics.drain())
    }
}
