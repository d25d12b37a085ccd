//! The thread that looks at the devices: NVML blocks, and is known to hang on broken ones.
//!
//! A device has failed when the driver says so of its GPU (an event), when the count of its uncorrectable memory errors has risen, or when
//! NVML does not answer for it any more. While one does not answer, the library is opened anew from time to time: what it knew of a device
//! that was lost is no use once that is back.

use std::io;
use std::sync::mpsc;

use push0_core::Millis;
use tokio::sync::{oneshot, watch};

use super::{Device, Rules, Sight};

/// Asks for a look; what is sent along is answered after it.
pub(super) type Asks = mpsc::Sender<oneshot::Sender<()>>;

/// Begins to look at these devices. The thread ends when nobody can ask for a look any more.
pub(super) fn start(rules: &Rules, devices: &[Device]) -> io::Result<(Asks, Vec<watch::Receiver<Sight>>)> {
    let (asks, asked) = mpsc::channel();
    let healthy = Sight { answers: true, ..Sight::default() };
    let (tell, seen): (Vec<_>, Vec<_>) = devices.iter().map(|_| watch::channel(healthy.clone())).unzip();
    let (rules, devices) = (rules.clone(), devices.to_vec());
    std::thread::Builder::new().name("push0-gpus".to_owned()).spawn(move || attend(&rules, &devices, &tell, &asked))?;
    Ok((asks, seen))
}

#[cfg(not(target_os = "linux"))]
fn attend(_: &Rules, _: &[Device], _: &[watch::Sender<Sight>], _: &mpsc::Receiver<oneshot::Sender<()>>) {}

#[cfg(target_os = "linux")]
use self::thread::attend;

#[cfg(target_os = "linux")]
mod thread {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use nvml_wrapper::Nvml;
    use tracing::{info, warn};

    use super::*;
    use crate::gpu::{figures, nvml};

    /// Longest wait for an event before it is seen whether somebody asks for a look.
    const SLICE: Duration = Duration::from_millis(50);

    /// What ended the looking.
    #[derive(PartialEq)]
    enum Until {
        NobodyAsks,
        /// The library is to be opened anew.
        Anew,
    }

    pub(super) fn attend(
        rules: &Rules,
        devices: &[Device],
        tell: &[watch::Sender<Sight>],
        asked: &mpsc::Receiver<oneshot::Sender<()>>,
    ) {
        let mut watching = Watching { rules, devices, tell, asked, logged: Instant::now() };
        loop {
            let until = match nvml::open(&rules.library) {
                Ok(nvml) => watching.look_on(&nvml),
                Err(why) => watching.wait_without(&why),
            };
            if until == Until::NobodyAsks {
                return;
            }
        }
    }

    struct Watching<'a> {
        rules: &'a Rules,
        devices: &'a [Device],
        tell: &'a [watch::Sender<Sight>],
        asked: &'a mpsc::Receiver<oneshot::Sender<()>>,
        logged: Instant,
    }

    impl Watching<'_> {
        fn look_on(&mut self, nvml: &Nvml) -> Until {
            let gpus: BTreeSet<String> = self.devices.iter().map(|device| device.gpu.clone()).collect();
            let events = nvml::listen(nvml, &gpus);
            if let Err(error) = &events {
                warn!(%error, "NVML gives no events: failures of a GPU are seen by its figures alone");
            }
            let (opened, mut was_ill) = (Instant::now(), false);
            let mut next = opened;
            loop {
                if Instant::now() >= next {
                    self.look(nvml);
                    next = Instant::now() + duration(self.rules.look_every);
                }
                match events.as_ref().map(|events| nvml::next(events, slice(next))) {
                    Ok(Ok(Some(event))) => self.hear(&event),
                    Ok(Ok(None)) => {}
                    Ok(Err(_)) | Err(_) => std::thread::sleep(SLICE),
                }
                match self.asked.try_recv() {
                    Ok(answer) => {
                        self.look(nvml);
                        let _ = answer.send(());
                    }
                    Err(mpsc::TryRecvError::Empty) => {}
                    Err(mpsc::TryRecvError::Disconnected) => return Until::NobodyAsks,
                }
                let is_ill = self.tell.iter().any(|tell| !tell.borrow().answers);
                let is_time = opened.elapsed() >= duration(self.rules.again_every);
                // Of one that is back there are no events before they are asked for anew.
                if (is_ill && is_time) || (was_ill && !is_ill) {
                    return Until::Anew;
                }
                was_ill |= is_ill;
            }
        }

        /// NVML itself is not there: no device answers.
        fn wait_without(&mut self, why: &str) -> Until {
            (0..self.devices.len()).for_each(|at| self.lose(at, why));
            let next = Instant::now() + duration(self.rules.again_every);
            loop {
                match self.asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(answer) => {
                        let _ = answer.send(());
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => return Until::Anew,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return Until::NobodyAsks,
                }
            }
        }

        fn look(&mut self, nvml: &Nvml) {
            for (at, device) in self.devices.iter().enumerate() {
                match nvml::figures(nvml, device) {
                    Ok(new) => self.tell[at].send_modify(|sight| {
                        let before = std::mem::take(&mut sight.figures);
                        if !std::mem::replace(&mut sight.answers, true) {
                            info!(device = device.uuid, "GPU answers again");
                        } else if new.ecc_errors > before.ecc_errors && before.ecc_errors.is_some() {
                            fail(device, sight, "an uncorrectable ECC error");
                        }
                        sight.figures = figures::Figures { xids: before.xids, last_xid: before.last_xid, ..new };
                    }),
                    Err(error) => self.lose(at, &error.to_string()),
                }
            }
            if self.logged.elapsed() >= duration(self.rules.log_every) {
                self.logged = Instant::now();
                self.devices.iter().zip(self.tell).for_each(|(device, tell)| figures::log(device, &tell.borrow()));
            }
        }

        /// NVML does not answer for it: that is one failure, however long it lasts.
        fn lose(&self, at: usize, why: &str) {
            self.tell[at].send_if_modified(|sight| {
                let is_new = std::mem::replace(&mut sight.answers, false);
                if is_new {
                    fail(&self.devices[at], sight, &format!("NVML does not answer for it: {why}"));
                }
                is_new
            });
        }

        fn hear(&self, event: &nvml::Event) {
            let of_it = self.devices.iter().zip(self.tell).filter(|(device, _)| device.gpu == event.gpu);
            for (device, tell) in of_it {
                tell.send_modify(|sight| {
                    sight.figures.xids += u64::from(event.xid.is_some());
                    sight.figures.last_xid = event.xid.or(sight.figures.last_xid);
                    match &event.failure {
                        Some(what) => fail(device, sight, what),
                        None => info!(device = device.uuid, xid = event.xid, "XID of an application"),
                    }
                });
            }
        }
    }

    fn fail(device: &Device, sight: &mut Sight, what: &str) {
        warn!(code = %push0_core::ErrorCode::DeviceFailed, device = device.uuid, what, "device failed");
        sight.failures += 1;
        sight.last = what.to_owned();
    }

    fn duration(millis: Millis) -> Duration {
        Duration::from_millis(millis.0)
    }

    /// Milliseconds to wait for an event.
    fn slice(next: Instant) -> u32 {
        SLICE.min(next.saturating_duration_since(Instant::now())).as_millis() as u32
    }
}
