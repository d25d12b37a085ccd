//! Taking the next task: realtime before standard before bulk, waiting on all at once, without polling.
//!
//! First each queue is asked for what is there, in the order of urgency; then all are waited on together, so that no class is behind the
//! wait for another. The receives that lose are dropped. An engine withdraws them. SQS cannot: the adapter lets the next receive of the same
//! queue adopt them and hands back what they get meanwhile; [`Limits::poll`](crate::task::Limits::poll) bounds how long they can get
//! anything.

use std::future::Future;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use push0_core::Millis;
use push0_runtime::port::{Delivery, PortResult};
use tracing::debug;

use crate::retry::{Backoff, LONGEST_PAUSE};
use crate::task::Env;

/// An empty answer sooner than this is no waiting: whoever answers so is not asked again at once.
const TOO_SOON: Millis = Millis(10);

/// A message and the queue it came from.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) queue: String,
    pub(crate) delivery: Delivery,
}

/// The next message of these queues, the most urgent first. Tries until there is one; dropping it loses nothing that a lease does not
/// bring back.
pub(crate) async fn next(env: &Env, queues: &[String]) -> Taken {
    if let Some(taken) = waiting(env, queues).await {
        return taken;
    }
    let mut polls: FuturesUnordered<_> = (0..queues.len()).map(|rank| poll(env, queues, rank, Millis(0))).collect();
    let mut backoff = Backoff::new();
    while let Some((rank, asked, answer)) = polls.next().await {
        let pause = match answer {
            Ok(deliveries) => {
                env.health.well();
                if let Some(delivery) = deliveries.into_iter().next() {
                    return choose(env, queues, (rank, delivery), polls).await;
                }
                let waited = env.clock.now().since(asked);
                if waited >= TOO_SOON {
                    backoff.reset();
                    Millis(0)
                } else {
                    backoff.step()
                }
            }
            Err(error) => {
                env.health.trouble(&error);
                backoff.step().min(LONGEST_PAUSE)
            }
        };
        polls.push(poll(env, queues, rank, pause));
    }
    // No queues: nothing will ever come.
    std::future::pending().await
}

/// What is there already, asked in the order of urgency. One queue needs no order.
async fn waiting(env: &Env, queues: &[String]) -> Option<Taken> {
    if queues.len() < 2 {
        return None;
    }
    for queue in queues {
        let answer = env.queue.receive(queue, 1, Millis(0), env.leases.lease()).await;
        // A failure is dealt with by the waiting receive that follows.
        if let Some(delivery) = answer.ok().and_then(|deliveries| deliveries.into_iter().next()) {
            return Some(Taken { queue: queue.clone(), delivery });
        }
    }
    None
}

type Poll = (usize, Millis, PortResult<Vec<Delivery>>);

async fn poll(env: &Env, queues: &[String], rank: usize, pause: Millis) -> Poll {
    if pause > Millis(0) {
        env.clock.sleep_until(env.clock.now().plus(pause)).await;
    }
    let asked = env.clock.now();
    let answer = env.queue.receive(&queues[rank], 1, env.limits.poll, env.leases.lease()).await;
    (rank, asked, answer)
}

/// Several receives may have been answered together: the most urgent is taken, the others go back.
async fn choose<F: Future<Output = Poll>>(
    env: &Env,
    queues: &[String],
    first: (usize, Delivery),
    mut polls: FuturesUnordered<F>,
) -> Taken {
    let mut answered = vec![first];
    while let Some(Some((rank, _, answer))) = polls.next().now_or_never() {
        answered.extend(answer.into_iter().flatten().map(|delivery| (rank, delivery)));
    }
    answered.sort_by_key(|(rank, _)| *rank);
    let mut answered = answered.into_iter();
    let (rank, delivery) = answered.next().expect("the first is among them");
    for (rank, surplus) in answered {
        if let Err(error) = env.queue.release(&queues[rank], &surplus.receipt, Millis(0)).await {
            debug!(queue = queues[rank], %error, "could not release");
        }
    }
    Taken { queue: queues[rank].clone(), delivery }
}
