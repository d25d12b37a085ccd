//! What a device says of itself, for people: a line in the worker's log.

use tracing::info;

use super::{Device, Sight};

/// Each is absent where the device does not say: a MIG device has no utilisation of its own, temperature and power are its GPU's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Share of the time since the driver's last sample in which something ran on it, percent.
    pub utilisation: Option<u32>,
    /// Bytes in use, by whomever.
    pub memory_used: Option<u64>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts.
    pub power: Option<u32>,
    /// Uncorrectable memory errors since the driver was loaded.
    pub ecc_errors: Option<u64>,
    /// XIDs seen by this worker, those of applications included, and the last of them.
    pub xids: u64,
    pub last_xid: Option<u64>,
}

pub(super) fn log(device: &Device, sight: &Sight) {
    let Figures { utilisation, memory_used, temperature, power, ecc_errors, xids, last_xid } = &sight.figures;
    info!(
        device = device.uuid,
        utilisation_percent = utilisation,
        memory_used_mib = memory_used.map(|bytes| bytes >> 20),
        memory_mib = device.memory.map(|bytes| bytes >> 20),
        temperature_c = temperature,
        power_w = power.map(|milliwatts| f64::from(milliwatts) / 1e3),
        ecc_errors,
        xids,
        last_xid,
        failures = sight.failures,
        answers = sight.answers,
        "GPU"
    );
}
