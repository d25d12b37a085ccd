//! The receipts handed out in this process, and when their leases end.
//!
//! Ends are counted from the arrival of the answer: late by its travelling time, in which SQS itself may have handed the message on.
//! That is the same for every reader of SQS: what is done with a message must bear being done twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use push0_core::Sha256;

use super::MAX_LEASE;
use crate::port::{PortError, PortResult};

/// Receipts remembered. Beyond, the oldest whose leases are over are forgotten; SQS decides about those alone.
const MOST: usize = 16_384;

#[derive(Default)]
pub(super) struct Receipts(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// By the receipt's digest: receipts are long.
    leases: BTreeMap<Sha256, Lease>,
    /// Oldest first.
    order: VecDeque<Sha256>,
}

struct Lease {
    received: Instant,
    /// None: released, deleted or refused by SQS.
    ends: Option<Instant>,
}

/// The lease is over, or the message was released or deleted.
pub(super) fn over() -> PortError {
    PortError::fenced("the lease of this receipt is over")
}

fn digest(receipt: &str) -> Sha256 {
    Sha256::of(receipt.as_bytes())
}

impl Receipts {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn received(&self, receipt: &str, at: Instant, lease: Duration) {
        let digest = digest(receipt);
        let mut known = self.lock();
        known.leases.insert(digest, Lease { received: at, ends: Some(at + lease) });
        known.order.push_back(digest);
        known.forget(at);
    }

    /// Refuses a receipt whose lease is known to be over. How long the lease may last from now on; none for a receipt not known here.
    pub(super) fn running(&self, receipt: &str, now: Instant) -> PortResult<Option<Duration>> {
        let known = self.lock();
        let Some(lease) = known.leases.get(&digest(receipt)) else { return Ok(None) };
        if lease.ends.is_none_or(|ends| ends <= now) {
            return Err(over());
        }
        let last = lease.received + Duration::from_millis(MAX_LEASE.0);
        Ok(Some(last.saturating_duration_since(now)))
    }

    /// It may have been voided meanwhile, and stays so.
    pub(super) fn extended(&self, receipt: &str, until: Instant) {
        if let Some(lease) = self.lock().leases.get_mut(&digest(receipt)) {
            lease.ends = lease.ends.map(|_| until);
        }
    }

    pub(super) fn void(&self, receipt: &str) {
        if let Some(lease) = self.lock().leases.get_mut(&digest(receipt)) {
            lease.ends = None;
        }
    }
}

impl Known {
    /// What still runs is kept, however many there are: it goes to the end of the line. Two looks for each receipt that comes, so that one
    /// that runs for long does not make the line longer each time it is met.
    fn forget(&mut self, now: Instant) {
        for _ in 0..2 {
            if self.order.len() <= MOST {
                return;
            }
            let Some(oldest) = self.order.pop_front() else { return };
            let runs = self.leases.get(&oldest).is_some_and(|lease| lease.ends.is_some_and(|ends| ends > now));
            if runs {
                self.order.push_back(oldest);
            } else {
                self.leases.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ErrorKind;

    const LEASE: Duration = Duration::from_secs(30);

    fn fenced(receipts: &Receipts, receipt: &str, now: Instant) -> bool {
        receipts.running(receipt, now).is_err_and(|error| error.kind() == ErrorKind::Fenced)
    }

    #[test]
    fn a_receipt_is_refused_from_the_end_of_its_lease_on() {
        let (receipts, start) = (Receipts::default(), Instant::now());
        receipts.received("a", start, LEASE);
        assert!(!fenced(&receipts, "a", start + LEASE - Duration::from_millis(1)));
        assert!(fenced(&receipts, "a", start + LEASE));
        receipts.extended("a", start + 2 * LEASE);
        assert!(!fenced(&receipts, "a", start + LEASE));
        receipts.void("a");
        receipts.extended("a", start + 3 * LEASE);
        assert!(fenced(&receipts, "a", start));
    }

    #[test]
    fn a_receipt_received_elsewhere_is_left_to_sqs() {
        assert_eq!(Receipts::default().running("lambda's", Instant::now()), Ok(None));
    }

    #[test]
    fn no_lease_outlasts_twelve_hours_from_the_receive() {
        let (receipts, start, hour) = (Receipts::default(), Instant::now(), Duration::from_secs(3_600));
        receipts.received("a", start, 12 * hour);
        assert_eq!(receipts.running("a", start + 11 * hour), Ok(Some(hour)));
    }

    #[test]
    fn what_is_over_is_forgotten_first_and_what_runs_never() {
        let (receipts, start) = (Receipts::default(), Instant::now());
        receipts.received("runs", start, 1_000 * LEASE);
        receipts.received("is over", start, LEASE);
        for other in 0..2 * MOST {
            receipts.received(&other.to_string(), start + 2 * LEASE, LEASE);
            receipts.void(&other.to_string());
        }
        assert!(receipts.running("runs", start + 2 * LEASE).unwrap().is_some());
        assert_eq!(receipts.running("is over", start + 2 * LEASE), Ok(None));
        let known = receipts.lock();
        assert!(known.leases.len() <= MOST + 1, "{}", known.leases.len());
        assert_eq!(known.leases.len(), known.order.len());
    }
}
