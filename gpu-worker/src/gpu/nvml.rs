//! NVML, through `nvml-wrapper`, which loads the library at run time.
//!
//! A figure that a device does not have is absent; any other refusal means that the device does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};

use super::{Device, Figures};

/// Causes within an application, by their number; the device goes on. As NVIDIA's own device plugin for Kubernetes has it
/// (<https://github.com/NVIDIA/k8s-device-plugin>, `DP_DISABLE_HEALTHCHECKS`).
const OF_APPLICATIONS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// What is listened to. A corrected error is no failure.
const EVENTS: EventTypes = EventTypes::CRITICAL_XID_ERROR.union(EventTypes::DOUBLE_BIT_ECC_ERROR);

pub(super) fn open(library: &str) -> Result<Nvml, String> {
    Nvml::builder().lib_path(OsStr::new(library)).init().map_err(|error| format!("{library}: {error}"))
}

/// Every device of the machine, in NVML's order: that of the PCI bus. GPUs that do not answer are left out.
pub(super) fn find(library: &str) -> Result<Vec<Device>, String> {
    let nvml = open(library)?;
    let count = nvml.device_count().map_err(|error| error.to_string())?;
    let found = (0..count).filter_map(|index| devices_of(&nvml, index).ok());
    Ok(found.flatten().collect())
}

/// The GPU, or the MIG devices that it is cut into.
fn devices_of(nvml: &Nvml, index: u32) -> Result<Vec<Device>, NvmlError> {
    let gpu = nvml.device_by_index(index)?;
    let (uuid, name) = (gpu.uuid()?, gpu.name()?);
    let device = |device: &nvml_wrapper::Device<'_>| -> Result<Device, NvmlError> {
        let memory = said(device.memory_info())?.map(|memory| memory.total);
        Ok(Device { uuid: device.uuid()?, name: name.clone(), gpu: uuid.clone(), memory })
    };
    let is_cut = said(gpu.mig_mode())?.is_some_and(|mode| mode.current == 1);
    if !is_cut {
        return Ok(vec![device(&gpu)?]);
    }
    // Numbers of devices that there could be, but are not, are not found.
    let parts = 0..gpu.mig_device_count()?;
    Ok(parts.filter_map(|part| gpu.mig_device_by_index(part).ok()).filter_map(|part| device(&part).ok()).collect())
}

/// `None`: it has no such thing.
fn said<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::NoPermission | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the device says now; the XIDs are the caller's to count.
pub(super) fn figures(nvml: &Nvml, device: &Device) -> Result<Figures, NvmlError> {
    let gpu = nvml.device_by_uuid(device.gpu.clone())?;
    let is_part = device.uuid != device.gpu;
    let own =
        if is_part { nvml.device_by_uuid(device.uuid.clone())? } else { nvml.device_by_uuid(device.gpu.clone())? };
    Ok(Figures {
        utilisation: said(own.utilization_rates())?.map(|rates| rates.gpu),
        memory_used: said(own.memory_info())?.map(|memory| memory.used),
        temperature: said(gpu.temperature(TemperatureSensor::Gpu))?,
        power: said(gpu.power_usage())?,
        ecc_errors: said(gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
        xids: 0,
        last_xid: None,
    })
}

/// Something that the driver says has happened to a GPU.
pub(super) struct Event {
    pub(super) gpu: String,
    pub(super) xid: Option<u64>,
    /// What it means for the device; none: nothing.
    pub(super) failure: Option<String>,
}

/// Events of these GPUs; those of a GPU that has none to offer do not come.
pub(super) fn listen<'nvml>(nvml: &'nvml Nvml, gpus: &BTreeSet<String>) -> Result<EventSet<'nvml>, NvmlError> {
    let mut offers = BTreeMap::new();
    for uuid in gpus {
        if let Ok(gpu) = nvml.device_by_uuid(uuid.clone())
            && let Ok(offered) = gpu.supported_event_types()
            && offered.intersects(EVENTS)
        {
            offers.insert(uuid, (gpu, offered & EVENTS));
        }
    }
    loop {
        let mut refused = None;
        let mut set = Some(nvml.create_event_set()?);
        for (uuid, (gpu, events)) in &offers {
            // A set is gone with the registration that fails.
            match set.take().map(|set| gpu.register_events(*events, set)) {
                Some(Ok(registered)) => set = Some(registered),
                Some(Err(_)) => refused = Some((*uuid).clone()),
                None => break,
            }
        }
        match (set, refused) {
            (Some(set), _) => return Ok(set),
            (None, Some(uuid)) => offers.remove(&uuid).map_or((), drop),
            (None, None) => return Err(NvmlError::Unknown),
        }
    }
}

/// The next event, if one comes within so many milliseconds.
pub(super) fn next(set: &EventSet<'_>, within_ms: u32) -> Result<Option<Event>, NvmlError> {
    let event = match set.wait(within_ms) {
        Ok(event) => event,
        Err(NvmlError::Timeout) => return Ok(None),
        Err(error) => return Err(error),
    };
    let gpu = event.device.uuid()?;
    let (xid, failure) = match event.event_data {
        Some(XidError::Value(xid)) if OF_APPLICATIONS.contains(&xid) => (Some(xid), None),
        Some(XidError::Value(xid)) => (Some(xid), Some(format!("XID {xid}"))),
        Some(XidError::Unknown) => (None, Some("an XID whose number NVML does not say".to_owned())),
        None if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) => {
            (None, Some("an uncorrectable ECC error".to_owned()))
        }
        None => (None, None),
    };
    Ok(Some(Event { gpu, xid, failure }))
}
