//! Takes many workers away at once, as a cloud does with its spare machines.

use push0_core::Millis;
use rand::RngExt as _;

use super::executor::Sentenced;
use super::faults::Fault;
use super::world::{Shared, pause};

/// How long before its end a worker is told, where it is.
const NOTICE: Millis = Millis(120_000);

/// While the storm lasts, ends a third of the workers or more at once, now and then; others come for them.
pub(super) async fn spot(shared: Shared, sentenced: Sentenced, workers: Vec<String>) {
    while *shared.storm.borrow() {
        let longest = if shared.scenario.large { 75_000 } else { 150_000 };
        let rest = shared.dice.borrow_mut().random_range(20_000..longest);
        pause(&shared, Millis(rest)).await;
        let (share, is_told) = {
            let mut dice = shared.dice.borrow_mut();
            (dice.random_range(3..=10), dice.random_range(0..2) == 1)
        };
        let is_taken = |_: &&String| shared.dice.borrow_mut().random_range(0..10) < share;
        let taken: Vec<String> = workers.iter().filter(is_taken).cloned().collect();
        if is_told {
            shared.noticed.send_modify(|noticed| noticed.extend(taken.iter().cloned()));
            pause(&shared, NOTICE).await;
        }
        let fault = if is_told { Fault::NoticedInterruption } else { Fault::Interruption };
        for worker in &taken {
            shared.weather.count(fault);
            let rest = shared.dice.borrow_mut().random_range(1_000..60_000);
            sentenced.borrow_mut().push((worker.clone(), Millis(rest)));
        }
        shared.weather.note(&format!("{} workers are taken away", taken.len()));
        shared.noticed.send_modify(|noticed| noticed.retain(|worker| !taken.contains(worker)));
    }
}
