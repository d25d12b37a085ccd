//! Workers: the real handling of a task, around a scripted prover.

use std::sync::Arc;

use futures::future::Either;
use push0_core::message::{Report, ReportEvent, TaskMessage, queue, work_queue};
use push0_core::record::Versioned as _;
use push0_core::{Class, Millis, Pool};
use push0_gpu_worker::Health;
use push0_gpu_worker::lease::Leases;
use push0_gpu_worker::task::{self, Env, Limits, Settled, Store};
use push0_runtime::port::{Blobs, Clock as _, Delivery, Outgoing, Queue};
use rand::RngExt as _;

use super::faults::Fault;
use super::faulty::Faulty;
use super::liar::{LIAR, Lying};
use super::prover::Scripted;
use super::world::{Shared, faulty, pause};

/// How long a task stays a worker's without a sign of life.
pub const LEASE: Millis = Millis(15_000);

/// A worker of one slot: leases are kept while tasks are handled, one after the other.
pub(super) async fn worker(shared: Shared, who: String, pool: &'static str) {
    let port: Arc<Faulty> = Arc::new(faulty(&shared, &who));
    let clock = shared.clock_of_its_own();
    let mut noticed = shared.noticed.subscribe();
    let leases = Leases::new(LEASE);
    let (starts, started) = task::starts();
    let (Ok(worker), Ok(pool)) = (who.parse(), pool.parse::<Pool>()) else {
        return;
    };
    let lying = shared.lie.clone().filter(|_| who == LIAR);
    let lying = lying.map(|(lie, told)| Arc::new(Lying::new(port.clone(), shared.clock.clone(), lie, told)));
    let (queue, blobs): (Arc<dyn Queue>, Arc<dyn Blobs>) = match lying {
        Some(lying) => (lying.clone(), lying),
        None => (port.clone(), port.clone()),
    };
    let env = Env {
        worker,
        pool: pool.clone(),
        queue: queue.clone(),
        blobs,
        clock: Arc::new(clock.clone()),
        leases: leases.clone(),
        store: Store::Memory,
        starts,
        limits: Limits::default(),
        health: Health::new("simulated"),
    };
    let mut prover = Scripted { worker: who.clone(), script: shared.script.clone() };
    let queues = Class::ALL.map(|class| work_queue(&pool, class));
    let handle = async {
        loop {
            // Of all three at once; who has waited longer has it, the others withdraw. Whoever is to be taken away takes nothing more.
            let receives = queues.iter().map(|work| queue.receive(work, 1, Millis(20_000), LEASE));
            let received = futures::future::select_all(receives);
            let is_told = std::pin::pin!(noticed.wait_for(|noticed| noticed.contains(&who)));
            let Either::Left(((answer, place, _), _)) = futures::future::select(received, is_told).await else {
                return std::future::pending().await;
            };
            let work = &queues[place];
            match answer {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        lies_where_it_should(&shared, work, &delivery);
                        if shared.scenario.silent_workers
                            && *shared.storm.borrow()
                            && shared.dice.borrow_mut().random_range(0..30) == 0
                        {
                            keep_silent(&shared, &port, &who, work, &delivery).await;
                            continue;
                        }
                        if task::handle(&env, work, delivery, &mut prover).await == Settled::LeftBehind {
                            shared.left_behind.set(shared.left_behind.get() + 1);
                        }
                    }
                }
                Err(_) => pause(&shared, Millis(500)).await,
            }
        }
    };
    let keep = leases.keep(&*queue, &*port, &clock);
    let announce = task::send_starts(started, &*queue, &clock);
    futures::join!(handle, keep, announce);
}

/// A task says which queue it lies in, which is its chain's or, where queues do not rank, a more urgent one.
fn lies_where_it_should(shared: &Shared, work: &str, delivery: &Delivery) {
    let Ok(task) = TaskMessage::from_json(&delivery.body) else { return };
    let class = shared.catalog.chains.get(&task.id.run.chain).map_or(task.class, |chain| chain.class);
    // What was demoted is exactly there.
    let class = if task.demoted { Class::Bulk } else { class };
    let is_promoted = task.class < class;
    shared.promoted.set(shared.promoted.get() + u64::from(is_promoted));
    let lies = work_queue(&task.pool, task.class);
    if lies != work || task.class > class || (is_promoted && shared.ranks) {
        let what = format!("{} of a {} chain lies in {work}", task.id, class.as_str());
        shared.complaint.borrow_mut().get_or_insert(what);
    }
}

/// Acknowledges a task, perhaps as if it had been started.
async fn keep_silent(shared: &Shared, port: &Faulty, who: &str, work: &str, delivery: &Delivery) {
    let starts = shared.dice.borrow_mut().random_range(0..2) == 1;
    if let (true, Ok(task), Ok(worker)) = (starts, TaskMessage::from_json(&delivery.body), who.parse()) {
        let reports = if task.is_trusted() { queue::VERDICTS } else { queue::RESULTS };
        let event = ReportEvent::Started;
        let report = Report { task: task.id, worker, by: None, at: shared.clock.now(), handout: None, event };
        let _ = port.send(reports, vec![Outgoing { body: report.to_json(), ..Outgoing::default() }]).await;
    }
    if port.ack(work, &delivery.receipt).await.is_ok() {
        shared.silenced.set(shared.silenced.get() + 1);
        shared.weather.count(Fault::Silence);
    }
}
