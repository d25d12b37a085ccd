//! What is seen of the instance, and what it means for the worker.
//!
//! A look that fails says nothing: what was seen last stays. So trouble with the metadata never lets a worker begin, which has not seen
//! that it may; and never stops one that has.

use std::fmt;
use std::sync::Arc;

use push0_core::{ErrorCode, Millis};
use push0_runtime::port::{Clock, ErrorKind, Imds, PortError, PortResult, SpotAction, TargetState};
use tokio::sync::watch;
use tracing::info;

use super::Rules;
use crate::retry::Health;

/// A Spot instance is taken two minutes after it is told.
const NOTICE: Millis = Millis(120_000);

/// Of these two minutes, what is left for storing, reporting and handing back.
const RESERVE: Millis = Millis(10_000);

/// What the worker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not everything has been seen once: no work.
    Unknown,
    InService,
    Warmed,
    /// Not its turn: on standby, detached, not yet in the group it belongs to.
    Aside(String),
    /// It will be taken away: no new work; what is in hand may finish, until then where a time is known.
    Leaving {
        by: Option<Millis>,
    },
    /// Its group ends it.
    Terminated {
        by: Option<Millis>,
    },
}

impl Standing {
    /// When the instance is gone, less the reserve.
    pub(crate) fn by(&self) -> Option<Millis> {
        match self {
            Standing::Leaving { by } | Standing::Terminated { by } => *by,
            _ => None,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Unknown => f.write_str("not known yet: no work is taken"),
            Standing::InService => f.write_str("in service"),
            Standing::Warmed => f.write_str("in the warm pool: no work is taken"),
            Standing::Aside(state) => write!(f, "{state}: no work is taken"),
            Standing::Leaving { by: Some(_) } => f.write_str("Spot notice: no new work, two minutes left"),
            Standing::Leaving { by: None } => f.write_str("rebalance recommended: no new work"),
            Standing::Terminated { .. } => f.write_str("being terminated: draining"),
        }
    }
}

/// What the last good look at each document showed; the outer `None`: there was none yet.
#[derive(Debug, Default)]
pub(crate) struct Sighting {
    state: Option<Option<TargetState>>,
    /// With it, until when there is time.
    spot: Option<Option<(SpotAction, Millis)>>,
    rebalance: Option<bool>,
}

impl Sighting {
    pub(crate) async fn look(&mut self, imds: &dyn Imds, clock: &dyn Clock, health: &Health) {
        let (state, spot, rebalance) =
            futures::join!(imds.target_state(), imds.spot_action(), imds.rebalance_recommended());
        let now = clock.now();
        let trouble =
            [state.as_ref().err(), spot.as_ref().err(), rebalance.as_ref().err()].into_iter().flatten().next();
        match trouble {
            None => health.well(),
            Some(error) => {
                let message = ErrorCode::MetadataUnreadable.says(error.message());
                health.trouble(&PortError::new(error.kind(), error.may_have_happened(), message));
            }
        }
        self.sees(state, spot, rebalance, now);
    }

    fn sees(
        &mut self,
        state: PortResult<Option<TargetState>>,
        spot: PortResult<Option<SpotAction>>,
        rebalance: PortResult<bool>,
        now: Millis,
    ) {
        if let Ok(state) = state {
            self.state = Some(state);
        }
        let spot = match spot {
            // A notice that cannot be read is a notice.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Ok(Some(SpotAction { action: "unreadable".to_owned(), at: Millis(0) }))
            }
            spot => spot,
        };
        match (spot, &self.spot) {
            (Err(_), _) => {}
            (Ok(None), _) => self.spot = Some(None),
            // The time that there is does not grow by looking again.
            (Ok(Some(notice)), Some(Some((known, _)))) if notice == *known => {}
            (Ok(Some(notice)), _) => {
                let latest = now.plus(NOTICE);
                let at = if notice.action == "unreadable" { latest } else { notice.at.min(latest) };
                self.spot = Some(Some((notice, Millis(at.0.saturating_sub(RESERVE.0)))));
            }
        }
        if let Ok(rebalance) = rebalance {
            self.rebalance = Some(rebalance);
        }
    }

    pub(crate) fn standing(&self, rules: &Rules) -> Standing {
        let (Some(state), Some(spot), Some(rebalance)) = (&self.state, &self.spot, self.rebalance) else {
            return Standing::Unknown;
        };
        let by = spot.as_ref().map(|(_, by)| *by);
        let is_leaving = by.is_some() || (rebalance && rules.leaves_on_rebalance);
        match state {
            Some(TargetState::Terminated) => Standing::Terminated { by },
            Some(TargetState::Warmed) => Standing::Warmed,
            Some(TargetState::InService) | None if is_leaving => Standing::Leaving { by },
            Some(TargetState::InService) => Standing::InService,
            Some(TargetState::Other(_)) if by.is_some() => Standing::Leaving { by },
            Some(TargetState::Other(state)) => Standing::Aside(state.clone()),
            None if rules.has_group => Standing::Aside("not yet in its group".to_owned()),
            None => Standing::InService,
        }
    }
}

/// Looks for ever, and says what changes.
pub(crate) async fn watch(imds: Arc<dyn Imds>, clock: Arc<dyn Clock>, rules: Rules, standing: watch::Sender<Standing>) {
    let (health, mut sighting) = (Health::new("instance metadata"), Sighting::default());
    loop {
        sighting.look(&*imds, &*clock, &health).await;
        let now = sighting.standing(&rules);
        standing.send_if_modified(|known| {
            let changed = *known != now;
            if changed {
                info!("instance: {now}");
                *known = now;
            }
            changed
        });
        clock.sleep_until(clock.now().plus(rules.look_every)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);

    fn notice(at: u64) -> PortResult<Option<SpotAction>> {
        Ok(Some(SpotAction { action: "terminate".to_owned(), at: Millis(at) }))
    }

    fn trouble<T>() -> PortResult<T> {
        Err(PortError::transient("throttled"))
    }

    fn seen(state: Option<TargetState>, spot: PortResult<Option<SpotAction>>, rebalance: bool) -> Sighting {
        let mut sighting = Sighting::default();
        sighting.sees(Ok(state), spot, Ok(rebalance), NOW);
        sighting
    }

    #[test]
    fn work_is_taken_in_service_only() {
        let rules = Rules::default();
        let in_group = Rules { has_group: true, ..Rules::default() };
        let stays = Rules { leaves_on_rebalance: false, ..Rules::default() };
        let other = || Some(TargetState::Other("Standby".to_owned()));
        let by = Some(Millis(1_050_000));
        let cases = [
            (&rules, Some(TargetState::InService), Ok(None), false, Standing::InService),
            (&rules, None, Ok(None), false, Standing::InService),
            (&in_group, None, Ok(None), false, Standing::Aside("not yet in its group".to_owned())),
            (&rules, Some(TargetState::Warmed), Ok(None), false, Standing::Warmed),
            (&rules, Some(TargetState::Warmed), notice(1_060_000), true, Standing::Warmed),
            (&rules, other(), Ok(None), true, Standing::Aside("Standby".to_owned())),
            (&rules, other(), notice(1_060_000), false, Standing::Leaving { by }),
            (&rules, Some(TargetState::InService), notice(1_060_000), false, Standing::Leaving { by }),
            (&rules, None, notice(1_060_000), false, Standing::Leaving { by }),
            (&rules, Some(TargetState::InService), Ok(None), true, Standing::Leaving { by: None }),
            (&stays, Some(TargetState::InService), Ok(None), true, Standing::InService),
            (&rules, Some(TargetState::Terminated), Ok(None), true, Standing::Terminated { by: None }),
            (&rules, Some(TargetState::Terminated), notice(1_060_000), false, Standing::Terminated { by }),
        ];
        for (rules, state, spot, rebalance, wanted) in cases {
            let described = format!("{state:?} {spot:?} {rebalance}");
            assert_eq!(seen(state, spot, rebalance).standing(rules), wanted, "{described}");
        }
    }

    #[test]
    fn trouble_neither_begins_nor_ends_anything() {
        let rules = Rules::default();
        let mut sighting = Sighting::default();
        assert_eq!(sighting.standing(&rules), Standing::Unknown);
        sighting.sees(Ok(Some(TargetState::InService)), trouble(), Ok(false), NOW);
        assert_eq!(sighting.standing(&rules), Standing::Unknown, "there may be a notice");
        sighting.sees(trouble(), Ok(None), trouble(), NOW);
        assert_eq!(sighting.standing(&rules), Standing::InService);
        sighting.sees(trouble(), trouble(), trouble(), NOW);
        assert_eq!(sighting.standing(&rules), Standing::InService);
        sighting.sees(trouble(), notice(1_060_000), trouble(), NOW);
        let leaving = Standing::Leaving { by: Some(Millis(1_050_000)) };
        assert_eq!(sighting.standing(&rules), leaving);
        sighting.sees(trouble(), trouble(), trouble(), NOW.plus(Millis(60_000)));
        assert_eq!(sighting.standing(&rules), leaving);
        sighting.sees(trouble(), Ok(None), trouble(), NOW.plus(Millis(90_000)));
        assert_eq!(sighting.standing(&rules), Standing::InService, "taken back: hibernated, and woken");
    }

    #[test]
    fn a_notice_leaves_two_minutes_at_most_whatever_the_clock_says() {
        let rules = Rules::default();
        let within = Some(Millis(1_110_000));
        let mut sighting = seen(None, notice(99_000_000), false);
        assert_eq!(sighting.standing(&rules).by(), within);
        sighting.sees(trouble(), notice(99_000_000), trouble(), NOW.plus(Millis(60_000)));
        assert_eq!(sighting.standing(&rules).by(), within, "the time does not grow by looking again");
        let corrupt = Err(PortError::corrupt("no JSON"));
        assert_eq!(seen(None, corrupt, false).standing(&rules).by(), within);
        assert_eq!(seen(None, notice(5), false).standing(&rules).by(), Some(Millis(0)));
    }
}
