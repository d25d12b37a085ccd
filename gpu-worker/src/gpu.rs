//! The GPUs of the machine: one slot each, whose provers see that device alone, and which is out of service while the device is not sound.
//!
//! [`Gpus`] finds them and has a thread of its own look at them ([`watching`]); a slot has its [`Gpu`]. What is known comes from NVML, the
//! library that comes with NVIDIA's driver: loaded when it is wanted, and only then. See `docs/gpu.md`.
//!
//! Invariants:
//! - A task whose device failed under it is reported as failed by the device ([`ErrorCode::DeviceFailed`]), whatever its prover said.
//! - A slot takes nothing between a failure of its device and the next test that the device passed ([`test`]).

mod figures;
#[cfg(target_os = "linux")]
mod nvml;
mod test;
mod watching;

use std::sync::Arc;

use push0_core::{ErrorCode, Millis};
use push0_runtime::port::Clock;
use tokio::sync::{oneshot, watch};
use tracing::info;

use crate::prover::{Failure, Outcome};
use crate::task::Proved;
use watching::Asks;

pub use figures::Figures;
pub(crate) use test::until_passed;

/// How the worker uses GPUs.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Without a GPU the worker does not start.
    pub demanded: bool,
    /// NVML, by path or name.
    pub library: String,
    /// What a device must be named in, where it is set: the worker's own `CUDA_VISIBLE_DEVICES`.
    pub visible: Option<String>,
    /// Between two looks at the devices.
    pub look_every: Millis,
    /// Between two lines of figures in the log.
    pub log_every: Millis,
    /// Program and arguments that must exit with 0 before a slot is brought back; empty: none.
    pub self_test: Vec<String>,
    /// Between two tries to bring a slot back, and to reach NVML again where it does not answer.
    pub again_every: Millis,
}

/// What CUDA can be told to use: a GPU, or where it is cut into MIG devices one of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As `CUDA_VISIBLE_DEVICES` takes it: `GPU-…` or `MIG-…`.
    pub uuid: String,
    pub name: String,
    /// Of the GPU that it is, or is a part of.
    pub gpu: String,
    /// Its memory, bytes; none: NVML does not say.
    pub memory: Option<u64>,
}

/// What is known of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sight {
    /// Whether NVML answered when it was last asked.
    pub answers: bool,
    /// Failures seen so far, and the last of them.
    pub failures: u64,
    pub last: String,
    pub figures: Figures,
}

/// The devices of the machine that this worker uses, and the thread that looks at them: it ends when the last slot and this are gone.
pub struct Gpus {
    devices: Vec<(Device, watch::Receiver<Sight>)>,
    asks: Asks,
}

impl Gpus {
    /// Finds them. `Err`: there are none that can be used, and why.
    pub fn find(rules: &Rules) -> Result<Self, String> {
        #[cfg(target_os = "linux")]
        let devices = nvml::find(&rules.library)?;
        #[cfg(not(target_os = "linux"))]
        let devices: Vec<Device> = Err("NVML is used on Linux only".to_owned())?;
        let devices = match &rules.visible {
            Some(names) => visible(devices, names),
            None => devices,
        };
        if devices.is_empty() {
            return Err("NVML names no device that this worker may use".to_owned());
        }
        for Device { uuid, name, memory, .. } in &devices {
            info!(device = uuid, name, memory_mib = memory.map(|bytes| bytes >> 20), "GPU found");
        }
        let (asks, seen) =
            watching::start(rules, &devices).map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { devices: devices.into_iter().zip(seen).collect(), asks })
    }

    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().map(|(device, _)| device)
    }

    /// A slot's own, for each device.
    pub(crate) fn slots(&self) -> Vec<Gpu> {
        let gpu = |(device, sight): &(Device, watch::Receiver<Sight>)| Gpu {
            device: Arc::new(device.clone()),
            sight: sight.clone(),
            asks: self.asks.clone(),
            forgiven: 0,
            doubt: None,
        };
        self.devices.iter().map(gpu).collect()
    }
}

/// Those that a list names, as CUDA reads it: numbers (in NVML's order), or beginnings of UUIDs.
fn visible(devices: Vec<Device>, names: &str) -> Vec<Device> {
    let is_named = |at: usize, device: &Device| {
        names.split(',').map(str::trim).any(|name| match name.parse::<usize>() {
            Ok(number) => number == at,
            Err(_) => !name.is_empty() && device.uuid.starts_with(name),
        })
    };
    devices.into_iter().enumerate().filter(|(at, device)| is_named(*at, device)).map(|(_, device)| device).collect()
}

/// A slot's device.
pub(crate) struct Gpu {
    pub(crate) device: Arc<Device>,
    sight: watch::Receiver<Sight>,
    asks: Asks,
    /// Failures before the slot was last in service.
    forgiven: u64,
    /// Why the device was given up although NVML has said nothing against it.
    doubt: Option<String>,
}

/// How long a look may take: NVML is known to hang on broken devices.
const LOOK: Millis = Millis(5_000);

impl Gpu {
    /// What has happened to the device since the slot was last in service.
    pub(crate) fn failure(&self) -> Option<String> {
        let sight = self.sight.borrow();
        let failure = (sight.failures > self.forgiven).then(|| sight.last.clone());
        failure.or_else(|| self.doubt.clone())
    }

    /// Completes when the device fails.
    pub(crate) async fn failed(&self) -> String {
        let mut sight = self.sight.clone();
        let failed = sight.wait_for(|sight| sight.failures > self.forgiven).await.map(|sight| sight.last.clone());
        match failed {
            Ok(what) => what,
            // The thread is gone: it has nothing to say any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Has the device looked at now.
    async fn look(&self, clock: &dyn Clock) -> Result<(), String> {
        let (looked, look) = oneshot::channel();
        let late = || format!("NVML did not answer within {} ms", LOOK.0);
        self.asks.send(looked).map_err(|_| late())?;
        tokio::select! {
            biased;
            looked = look => looked.map_err(|_| late()),
            () = clock.sleep_until(clock.now().plus(LOOK)) => Err(late()),
        }
    }

    /// What a run on this device comes to: where it failed and the device has, too, the device is to blame, and another worker should try.
    pub(crate) async fn judge(&mut self, proved: Proved, clock: &dyn Clock) -> Proved {
        let failure = match &proved {
            Proved::Outcome(Outcome::Failed(failure)) | Proved::Hung(failure) => failure,
            Proved::Outcome(Outcome::Done(_)) | Proved::Ended(_) => return proved,
        };
        let says_so = ErrorCode::split(&failure.message).0 == Some(ErrorCode::DeviceFailed);
        if says_so && self.failure().is_some() {
            return proved;
        }
        self.doubt = if says_so { Some("its prover says so".to_owned()) } else { self.look(clock).await.err() };
        match self.failure() {
            None => proved,
            Some(what) => self.blame(&what, ErrorCode::split(&failure.message).1),
        }
    }

    /// The failure of a run that ended because the device failed.
    pub(crate) fn blame(&self, what: &str, said: &str) -> Proved {
        let Device { uuid, name, .. } = &*self.device;
        let message = ErrorCode::DeviceFailed.says(format!("{uuid} ({name}): {what}\n{said}"));
        Proved::Outcome(Failure::retryable(message.trim_end()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_that_the_worker_was_given_are_used() {
        let device =
            |uuid: &str| Device { uuid: uuid.to_owned(), name: String::new(), gpu: uuid.to_owned(), memory: None };
        let used = |names: &str| -> Vec<String> {
            let devices = ["GPU-1a", "GPU-1b", "MIG-2"].map(device).to_vec();
            visible(devices, names).into_iter().map(|device| device.uuid).collect()
        };
        assert_eq!(used("1"), ["GPU-1b"]);
        assert_eq!(used("2, GPU-1a"), ["GPU-1a", "MIG-2"]);
        assert_eq!(used("GPU-1"), ["GPU-1a", "GPU-1b"]);
        for none in ["", "-1", "3", "GPU-2"] {
            assert!(used(none).is_empty(), "{none}");
        }
    }
}
